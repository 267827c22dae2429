//! Decompressed copies of gzip files.
//!
//! A copy is in a directory of its own, which only the user of this process can enter and whose name cannot be
//! guessed, since other users may write to the spool folder.

use std::{
    collections::BTreeMap,
    fs::{self, File, Metadata},
    io::{self, BufReader, BufWriter, ErrorKind, Seek, SeekFrom},
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use flate2::read::MultiGzDecoder;
use tempfile::TempDir;

use crate::{
    base::private_files,
    files::{Fingerprint, error::FileError},
};

const PREFIX: &str = "temporal-batch-";

/// The copies that this process has made or found, by folder and name. The mutex is locked while a copy is made.
static COPIES: Mutex<BTreeMap<(PathBuf, PathBuf), PathBuf>> = Mutex::new(BTreeMap::new());

/// Returns the copy of exactly this gzip file in a folder, made if necessary.
pub(crate) fn copy_of(
    path: &Path,
    packed: &Fingerprint,
    folder: &Path,
) -> Result<PathBuf, FileError> {
    let failed = |source| FileError::NotSpooled {
        path: path.to_owned(),
        to: folder.to_owned(),
        source,
    };
    // Only the last directory of a path is created: with a mistake in the path, copies would end up where no reader
    // looks.
    let made = match fs::create_dir(folder) {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(()),
        made => made,
    };
    let folder = made
        .and_then(|()| fs::canonicalize(folder))
        .map_err(failed)?;
    let name = name(path, packed);
    let mut copies = COPIES.lock().unwrap_or_else(PoisonError::into_inner);
    let key = (folder, name);
    if let Some(known) = copies.get(&key).filter(|known| known.is_file()) {
        return Ok(known.clone());
    }
    let (folder, name) = &key;
    let new = private_directory(folder).map_err(failed)?;
    let copy = match find(folder, name, new.path()).map_err(failed)? {
        Some(copy) => copy,
        None => {
            let file = File::open(path).map_err(failed)?;
            // The copy has the time of the original, so that its fingerprint does not depend on when it is made.
            let same = packed.difference(path, &file, false).map_err(failed)?;
            if let Some(what) = same {
                let path = path.to_owned();
                return Err(FileError::Changed { path, what });
            }
            let part = new.path().join(".part");
            decompress(&file, &part)
                .and_then(|()| fs::rename(&part, new.path().join(name)))
                .map_err(failed)?;
            new.keep().join(name)
        }
    };
    copies.insert(key, copy.clone());
    Ok(copy)
}

/// Removes the copies that this process has made or found. They are made again when they are needed.
#[cfg(feature = "cli")]
pub(crate) fn remove_copies() {
    let mut copies = COPIES.lock().unwrap_or_else(PoisonError::into_inner);
    for copy in std::mem::take(&mut *copies).into_values() {
        // The directory may be gone already, and one that cannot be removed does no harm.
        let _ = fs::remove_file(&copy);
        let _ = copy.parent().map(fs::remove_dir);
    }
}

/// Returns a new directory with a name that cannot be guessed, for this user alone.
fn private_directory(folder: &Path) -> io::Result<TempDir> {
    let mut builder = tempfile::Builder::new();
    builder.prefix(PREFIX).rand_bytes(16);
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o700));
    builder.tempdir_in(folder)
}

/// Returns a complete copy in one of the private directories. `mine` is such a directory.
fn find(folder: &Path, name: &Path, mine: &Path) -> io::Result<Option<PathBuf>> {
    let mine = fs::symlink_metadata(mine)?;
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if !entry.file_name().to_string_lossy().starts_with(PREFIX) {
            continue;
        }
        let copy = entry.path().join(name);
        let is_ours = |path: &Path, is: fn(&Metadata) -> bool| {
            fs::symlink_metadata(path).is_ok_and(|found| is(&found) && is_private(&found, &mine))
        };
        if is_ours(&entry.path(), Metadata::is_dir) && is_ours(&copy, Metadata::is_file) {
            return Ok(Some(copy));
        }
    }
    Ok(None)
}

/// Returns whether only the user of `mine` can have put it there.
#[cfg(unix)]
fn is_private(found: &Metadata, mine: &Metadata) -> bool {
    use std::os::unix::fs::MetadataExt as _;
    found.uid() == mine.uid() && found.mode() & 0o077 == 0
}

#[cfg(not(unix))]
fn is_private(_: &Metadata, _: &Metadata) -> bool {
    true
}

fn decompress(mut file: &File, part: &Path) -> io::Result<()> {
    file.seek(SeekFrom::Start(0))?;
    let mut from = MultiGzDecoder::new(BufReader::with_capacity(256 * 1024, file));
    let to = private_files::file().create_new(true).open(part)?;
    let mut to = BufWriter::with_capacity(256 * 1024, to);
    io::copy(&mut from, &mut to)?;
    let to = to.into_inner().map_err(io::IntoInnerError::into_error)?;
    to.set_modified(file.metadata()?.modified()?)?;
    to.sync_all()
}

/// Returns the name of the copy: `users.csv.gz` becomes `users-1f3a5c7e9b2d.csv`.
fn name(path: &Path, fingerprint: &Fingerprint) -> PathBuf {
    let of = serde_json::json!([path, fingerprint]);
    let id = crate::processor::store::dead_letter::stable_id(&of);
    let id = &id.replace('-', "")[..12];
    let plain = path.with_extension("");
    let stem = plain.file_stem().unwrap_or_default().to_string_lossy();
    match plain.extension() {
        Some(extension) => format!("{stem}-{id}.{}", extension.to_string_lossy()).into(),
        None => format!("{stem}-{id}").into(),
    }
}

#[cfg(all(test, unix))]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    #[test]
    fn only_a_private_file_in_a_private_directory_is_taken_for_a_copy() {
        let folder = tempfile::tempdir().unwrap();
        let mine = private_directory(folder.path()).unwrap();
        let name = Path::new("copy.csv");
        let found = || find(folder.path(), name, mine.path()).unwrap();
        let planted = folder.path().join(format!("{PREFIX}planted"));
        fs::create_dir(&planted).unwrap();
        let copy = planted.join(name);
        let set = |path: &Path, mode| {
            fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        };
        fs::write(&copy, "x").unwrap();
        for (of_directory, of_file, is_taken) in [
            (0o755, 0o600, false),
            (0o700, 0o644, false),
            (0o700, 0o600, true),
        ] {
            set(&planted, of_directory);
            set(&copy, of_file);
            assert_eq!(found().is_some(), is_taken, "{of_directory:o} {of_file:o}");
        }
        let other = folder.path().join("other");
        fs::rename(&copy, &other).unwrap();
        symlink(&other, &copy).unwrap();
        assert_eq!(found(), None, "a symbolic link to a file");
        fs::remove_file(&copy).unwrap();
        fs::rename(&other, &copy).unwrap();
        let moved = folder.path().join("moved");
        fs::rename(&planted, &moved).unwrap();
        symlink(&moved, &planted).unwrap();
        assert_eq!(found(), None, "a symbolic link to a directory");
    }
}
