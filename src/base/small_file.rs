//! Files that are read as a whole: settings, certificates, statements, arguments.

use std::{
    fs::File,
    io::{self, ErrorKind, Read as _},
    path::Path,
};

/// Maximum size of a file: more than any of them needs.
const MOST_BYTES: u64 = 4 * 1024 * 1024;

/// Opens a file after checking that it is a regular file or a device and is not too large.
fn open(path: &Path) -> io::Result<File> {
    let check = |metadata: std::fs::Metadata| {
        if !metadata.is_file() && !is_device(&metadata) {
            return Err(io::Error::new(
                ErrorKind::InvalidInput,
                "it is not a regular file",
            ));
        }
        if metadata.len() > MOST_BYTES {
            return Err(too_large());
        }
        Ok(())
    };
    // The check comes before opening: opening a pipe blocks until it has a writer.
    check(std::fs::metadata(path)?)?;
    let file = File::open(path)?;
    check(file.metadata()?)?;
    Ok(file)
}

/// Returns whether this is a character device. `/dev/null` stands for an empty file; an endless device fails
/// the size limit.
#[cfg(unix)]
fn is_device(metadata: &std::fs::Metadata) -> bool {
    std::os::unix::fs::FileTypeExt::is_char_device(&metadata.file_type())
}

#[cfg(not(unix))]
fn is_device(_: &std::fs::Metadata) -> bool {
    false
}

fn too_large() -> io::Error {
    let text = format!("it is larger than {} MiB", MOST_BYTES / 1024 / 1024);
    io::Error::new(ErrorKind::FileTooLarge, text)
}

/// Checks that the file can be read.
pub(crate) fn check(path: impl AsRef<Path>) -> io::Result<()> {
    open(path.as_ref()).map(drop)
}

/// Reads a file of at most 4 MiB.
pub(crate) fn read(path: impl AsRef<Path>) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    // The size is limited again here: the file may grow, and some file systems report a size of zero.
    let read = open(path.as_ref())?
        .take(MOST_BYTES + 1)
        .read_to_end(&mut bytes)?;
    match read as u64 > MOST_BYTES {
        true => Err(too_large()),
        false => Ok(bytes),
    }
}

/// Reads a UTF-8 file of at most 4 MiB.
pub(crate) fn read_text(path: impl AsRef<Path>) -> io::Result<String> {
    let text = String::from_utf8(read(path)?);
    text.map_err(|_| io::Error::new(ErrorKind::InvalidData, "it is not UTF-8"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_files_of_some_size_are_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        std::fs::write(&path, "text").unwrap();
        assert_eq!(read_text(&path).unwrap(), "text");
        std::fs::write(&path, b"\xff").unwrap();
        assert_eq!(read_text(&path).unwrap_err().kind(), ErrorKind::InvalidData);
        File::create(&path)
            .unwrap()
            .set_len(MOST_BYTES + 1)
            .unwrap();
        assert_eq!(read(&path).unwrap_err().kind(), ErrorKind::FileTooLarge);
        assert!(check(&path).is_err());
        let error = read(folder.path()).unwrap_err();
        assert_eq!(error.to_string(), "it is not a regular file");
        #[cfg(unix)]
        {
            let endless = read("/dev/zero").unwrap_err();
            assert_eq!(endless.kind(), ErrorKind::FileTooLarge);
            assert_eq!(read("/dev/null").unwrap(), b"");
            let pipe = folder.path().join("pipe");
            let made = std::process::Command::new("mkfifo").arg(&pipe).status();
            assert!(made.unwrap().success());
            assert!(read(&pipe).is_err());
        }
    }
}
