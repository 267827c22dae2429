//! Files that are read as a whole: settings, certificates, statements, arguments.

use std::{
    fs::File,
    io::{self, ErrorKind, Read as _},
    path::Path,
};

/// More than any of them needs.
const MOST_BYTES: u64 = 4 * 1024 * 1024;

/// Opens a file that is not too large. A pipe may have no writer, and a folder is none.
fn open(path: &Path) -> io::Result<File> {
    let check = |metadata: std::fs::Metadata| {
        if !metadata.is_file() && !is_device(&metadata) {
            return Err(io::Error::new(
                ErrorKind::InvalidInput,
                "it is no regular file",
            ));
        }
        if metadata.len() > MOST_BYTES {
            return Err(too_large());
        }
        Ok(())
    };
    // Before it is opened, which would wait for the writer of a pipe.
    check(std::fs::metadata(path)?)?;
    let file = File::open(path)?;
    check(file.metadata()?)?;
    Ok(file)
}

/// `/dev/null` stands for an empty file; one without an end is too large.
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

/// Whether the file can be read.
pub(crate) fn check(path: impl AsRef<Path>) -> io::Result<()> {
    open(path.as_ref()).map(drop)
}

/// Reads a file of at most 4 MiB.
pub(crate) fn read(path: impl AsRef<Path>) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    // It may grow, and the files of some file systems do not know their size.
    let read = open(path.as_ref())?
        .take(MOST_BYTES + 1)
        .read_to_end(&mut bytes)?;
    match read as u64 > MOST_BYTES {
        true => Err(too_large()),
        false => Ok(bytes),
    }
}

/// The same for text.
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
        assert_eq!(error.to_string(), "it is no regular file");
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
