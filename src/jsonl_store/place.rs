//! The files of a store: reading, appending, rewriting.

use std::{
    ffi::OsString,
    fs::{self, File},
    io::{self, BufRead, BufReader, BufWriter, ErrorKind, Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
};

use super::{
    lines::{Contents, Line, Settled, UNREADABLE},
    lock::Lock,
};
use crate::base::{
    disk::{directory_of, with_free_space},
    error::PageError,
    private_files,
};

/// The error type of a file system error.
pub(super) const FILE_ERROR: &str = "DeadLetterFile";

/// The files of a store.
///
/// The locks are separate files, because a rewrite replaces the file of the letters. A process waiting for a
/// lock on the old file would get it while another holds a lock on the new one.
pub(super) struct Place {
    pub(super) folder: PathBuf,
    pub(super) file: PathBuf,
    /// The replacement while it is written.
    pub(super) new_file: PathBuf,
    pub(super) lock: PathBuf,
    pub(super) redrive_lock: PathBuf,
}

impl Place {
    /// Resolves links, so that every path to the same file uses the same locks.
    pub(super) fn resolve(path: &Path) -> Result<Self, PageError> {
        let shown = path.display();
        let Some(name) = path.file_name() else {
            return Err(file_error(format_args!(
                "\"{shown}\" does not name a file for dead letters"
            )));
        };
        let parent = directory_of(path);
        let named = match fs::canonicalize(parent) {
            Ok(folder) => folder.join(name),
            Err(error) if error.kind() == ErrorKind::NotFound => {
                return Err(file_error(format_args!(
                    "the folder of the dead letter file {shown} does not exist: {}",
                    parent.display()
                )));
            }
            Err(error) => return Err(cannot("find the folder of", path)(error)),
        };
        let file = match fs::canonicalize(&named) {
            Ok(file) => file,
            Err(error) if error.kind() == ErrorKind::NotFound && !named.is_symlink() => named,
            Err(error) => return Err(cannot("find", path)(error)),
        };
        let beside = |ending: &str| {
            let mut name = OsString::from(&file);
            name.push(ending);
            PathBuf::from(name)
        };
        Ok(Self {
            folder: file.parent().unwrap_or(Path::new(".")).to_owned(),
            new_file: beside(".new"),
            lock: beside(".lock"),
            redrive_lock: beside(".redrive.lock"),
            file,
        })
    }

    /// Reads the file with a lock that excludes writers.
    pub(super) fn read_locked(&self) -> Result<Contents, PageError> {
        let _lock = Lock::shared(&self.lock)?;
        self.read()
    }

    /// Reads the file. The caller holds the lock.
    pub(super) fn read(&self) -> Result<Contents, PageError> {
        let mut contents = Contents::default();
        let file = match File::open(&self.file) {
            Ok(file) => file,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(contents),
            Err(error) => return Err(cannot("open", &self.file)(error)),
        };
        let mut reader = BufReader::new(file);
        let mut text = Vec::new();
        for number in 1_u64.. {
            text.clear();
            let read = reader.read_until(b'\n', &mut text);
            if read.map_err(cannot("read", &self.file))? == 0 {
                break;
            }
            if text.trim_ascii().is_empty() {
                continue;
            }
            match Line::parse(&text) {
                Ok(line) => contents.apply(line),
                Err(_) if !text.ends_with(b"\n") && Line::is_torn(&text) => {}
                Err(error) => return Err(self.unreadable(number, &error)),
            }
        }
        Ok(contents)
    }

    pub(super) fn unreadable(&self, number: u64, error: &serde_json::Error) -> PageError {
        // The error's own text quotes the line, which may contain a record.
        let what = if error.is_data() {
            "JSON, but not a dead letter, a removal or a count"
        } else {
            "not JSON"
        };
        PageError::non_retryable(
            UNREADABLE,
            format_args!(
                "line {number} of the dead letter file {} is {what} (column {}); correct or remove the line",
                self.file.display(),
                error.column()
            ),
        )
    }

    /// Appends whole lines, syncs them and returns the size of the file. The caller holds the lock.
    pub(super) fn append(&self, lines: &[u8]) -> Result<u64, PageError> {
        // The mode is private, because the file contains records.
        let mut file = private_files::file()
            .read(true)
            .create(true)
            .truncate(false)
            .open(&self.file)
            .map_err(cannot("open", &self.file))?;
        self.finish_last_line(&mut file)?;
        let mut append = || {
            file.seek(SeekFrom::End(0))?;
            file.write_all(lines)?;
            file.sync_all()?;
            file.stream_position()
        };
        let size = append().map_err(cannot("write", &self.file))?;
        // Every writer syncs the folder, not just the one that created the file. Another process may have died
        // after creating or replacing the file, and these lines would be lost with its unsynced entry.
        self.sync_folder()?;
        Ok(size)
    }

    /// Makes the file end with a newline. A line truncated by a crash is removed.
    pub(super) fn finish_last_line(&self, file: &mut File) -> Result<(), PageError> {
        let (start, last) = last_line(file).map_err(cannot("read", &self.file))?;
        if last.is_empty() {
            return Ok(());
        }
        let finished = match Line::parse(&last) {
            Ok(_) => file
                .seek(SeekFrom::End(0))
                .and_then(|_| file.write_all(b"\n")),
            Err(_) if Line::is_torn(&last) => {
                tracing::warn!(
                    file = %self.file.display(),
                    bytes = last.len(),
                    "removing the last dead letter, which a crash left incomplete"
                );
                file.set_len(start)
            }
            Err(_) => {
                return Err(file_error(format_args!(
                    "the last line of {} ends without a newline and is not a dead letter; correct or remove it",
                    self.file.display()
                )));
            }
        };
        finished.map_err(cannot("write", &self.file))
    }

    /// Rewrites the file if that is worthwhile, and returns its new size. The caller holds the lock.
    pub(super) fn look_through(&self) -> Option<u64> {
        let contents = match self.read() {
            Ok(contents) => contents,
            Err(error) => {
                // The letters that were put are safe, and listing them will report this error.
                tracing::warn!(%error, "the dead letter file cannot be compacted");
                return None;
            }
        };
        if contents.is_wasteful() {
            self.try_rewrite(&contents)
        } else {
            None
        }
    }

    /// Replaces the file and returns its new size. The caller holds the lock. If it fails, the old file remains
    /// valid.
    pub(super) fn try_rewrite(&self, contents: &Contents) -> Option<u64> {
        match self.rewrite(contents) {
            Ok(size) => Some(size),
            Err(error) => {
                tracing::warn!(%error, "the dead letter file cannot be compacted");
                None
            }
        }
    }

    pub(super) fn rewrite(&self, contents: &Contents) -> Result<u64, PageError> {
        let write = || {
            // Such a file was left by a process that died, or created by another user.
            let _ = fs::remove_file(&self.new_file);
            let file = private_files::file()
                .create_new(true)
                .open(&self.new_file)?;
            // The permissions are set before the file has any content.
            file.set_permissions(fs::metadata(&self.file)?.permissions())?;
            let mut writer = BufWriter::new(file);
            for letter in contents.letters.values() {
                serde_json::to_writer(&mut writer, letter)?;
                writer.write_all(b"\n")?;
            }
            for (batch_run, letters) in &contents.settled {
                let settled = Settled {
                    settled: batch_run.clone(),
                    letters: *letters,
                };
                serde_json::to_writer(&mut writer, &settled)?;
                writer.write_all(b"\n")?;
            }
            let mut file = writer
                .into_inner()
                .map_err(io::IntoInnerError::into_error)?;
            file.sync_all()?;
            file.stream_position()
        };
        let size = write().map_err(cannot("write", &self.new_file))?;
        fs::rename(&self.new_file, &self.file).map_err(cannot("replace", &self.file))?;
        self.sync_folder()?;
        Ok(size)
    }

    /// Syncs the folder, so that its entries are as durable as the contents. Only Unix can open a folder as a
    /// file.
    pub(super) fn sync_folder(&self) -> Result<(), PageError> {
        if cfg!(unix) {
            let synced = File::open(&self.folder).and_then(|folder| folder.sync_all());
            synced.map_err(cannot("sync", &self.folder))?;
        }
        Ok(())
    }
}

/// Returns the position and content of the last line, which is empty after a newline.
pub(super) fn last_line(file: &mut File) -> io::Result<(u64, Vec<u8>)> {
    let mut start = file.seek(SeekFrom::End(0))?;
    let mut last = Vec::new();
    while start > 0 {
        // One byte is enough in nearly every case. After that, twice as many are read each time.
        let length = (last.len() as u64).clamp(1, start);
        start -= length;
        file.seek(SeekFrom::Start(start))?;
        let mut chunk = Vec::new();
        Read::by_ref(file).take(length).read_to_end(&mut chunk)?;
        chunk.append(&mut last);
        last = chunk;
        if let Some(newline) = last.iter().rposition(|byte| *byte == b'\n') {
            last.drain(..=newline);
            start += newline as u64 + 1;
            break;
        }
    }
    Ok((start, last))
}

pub(super) fn file_error(message: impl std::fmt::Display) -> PageError {
    PageError::retryable(message).with_type(FILE_ERROR)
}

pub(super) fn cannot(what: &str, path: &Path) -> impl FnOnce(io::Error) -> PageError {
    move |error| {
        let why = with_free_space(&error, path);
        file_error(format_args!("cannot {what} {}: {why}", path.display()))
    }
}
