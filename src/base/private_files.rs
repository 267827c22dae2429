//! Files and directories that only the user of this process can access.

use std::fs::OpenOptions;
#[cfg(feature = "cli")]
use std::{
    fs,
    io::{self, ErrorKind},
    path::Path,
};

/// Returns options for writing a file. If the file is created, only its user can read it.
pub(crate) fn file() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.write(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options
}

/// Creates a directory and its parents so that only the user can enter them. An existing directory must belong
/// to the user; access by others is removed.
#[cfg(feature = "cli")]
pub(crate) fn directory(path: &Path) -> io::Result<()> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(path)?;
    let found = fs::symlink_metadata(path)?;
    if !found.is_dir() {
        return Err(io::Error::new(
            ErrorKind::NotADirectory,
            "it is a symbolic link",
        ));
    }
    #[cfg(unix)]
    {
        use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
        let mine = tempfile::tempfile_in(path)?.metadata()?;
        if mine.uid() != found.uid() {
            return Err(io::Error::new(
                ErrorKind::PermissionDenied,
                "it belongs to another user",
            ));
        }
        if found.mode() & 0o077 != 0 {
            fs::set_permissions(path, fs::Permissions::from_mode(0o700))?;
        }
    }
    Ok(())
}

#[cfg(all(test, unix, feature = "cli"))]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn what_is_made_here_is_closed_to_others() {
        let folder = tempfile::tempdir().unwrap();
        let new = folder.path().join("a/b");
        directory(&new).unwrap();
        assert_eq!(mode(&new), 0o700);
        let file_in_it = new.join("file");
        file().create_new(true).open(&file_in_it).unwrap();
        assert_eq!(mode(&file_in_it), 0o600);

        let open = folder.path().join("open");
        fs::create_dir(&open).unwrap();
        fs::set_permissions(&open, fs::Permissions::from_mode(0o777)).unwrap();
        directory(&open).unwrap();
        assert_eq!(mode(&open), 0o700);

        let link = folder.path().join("link");
        symlink(&open, &link).unwrap();
        let error = directory(&link).unwrap_err();
        assert_eq!(error.to_string(), "it is a symbolic link");
    }
}
