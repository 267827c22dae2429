//! A file of dead letters, for use without a database.

use std::{
    any::Any,
    collections::{BTreeMap, BTreeSet},
    ffi::OsString,
    fs::{self, File, OpenOptions, TryLockError},
    io::{self, BufRead, BufReader, BufWriter, ErrorKind, Read, Seek, SeekFrom, Write},
    ops::Bound,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use tokio::sync::{Mutex, OwnedMutexGuard};

use crate::{
    base::{
        disk::{directory_of, with_free_space},
        error::PageError,
        private_files,
    },
    batch::letter_filter::LetterFilter,
    processor::store::{
        dead_letter::{DeadLetter, DeadLetters},
        page_ledger::PageTransaction,
    },
    progress::ItemCounts,
};

/// The error type of a file system error.
const FILE_ERROR: &str = "DeadLetterFile";

/// The error type of a line that is not a dead letter.
const UNREADABLE: &str = "DeadLetterFileUnreadable";

/// Interval at which a redrive checks whether the previous one has finished.
const REDRIVE_POLL: Duration = Duration::from_millis(50);

/// Minimum number of superseded lines before the file is rewritten.
const MIN_USELESS_LINES: usize = 64;

/// Minimum size at which `put` checks whether the file should be rewritten.
const MIN_LOOK_THROUGH_BYTES: u64 = 64 * 1_024;

/// [`DeadLetters`] in a JSON Lines file.
///
/// ```no_run
/// use temporal_batch::store::{DeadLetters, JsonlDeadLetters, LetterFilter};
///
/// # async fn show() -> Result<(), temporal_batch::PageError> {
/// let letters = JsonlDeadLetters::new("letters.jsonl");
/// for letter in letters.list(&LetterFilter::of("hash-emails"), None, 100).await? {
///     println!("{} {}", letter.error_type, letter.message);
/// }
/// # Ok(())
/// # }
/// ```
///
/// # The file
///
/// The file has one JSON object in each line. Most lines are a [`DeadLetter`], with the fields in the order of
/// their declaration. If an id occurs more than once, the last line applies, with the `first_at` of the first.
/// A line with `removed` ends a redrive: that letter is gone, replaced by `letters` if there are any. A line
/// with `settled` adds to the number of letters of that batch run that redrives have settled.
///
/// ```text
/// {"id":"5d0c…","batch_id":"hash-emails","batch_run":"8f3a…","processor":"hash-emails","stride":7,…}
/// {"id":"93be…","batch_id":"hash-emails","batch_run":"8f3a…","processor":"hash-emails","stride":9,…}
/// {"removed":"5d0c…"}
/// {"settled":"8f3a…","letters":12}
/// ```
///
/// Once superseded and removed lines outweigh the letters, the file is rewritten without them and replaced
/// atomically. Its size therefore stays proportional to the remaining letters.
///
/// # Durability
///
/// [`put`](DeadLetters::put) and the commit of a redrive return after the file and its folder are synced to
/// disk. A last line truncated by a crash was never reported as stored: reading skips it, and the next write
/// removes it. Any other line that is not a letter is an error that names the file and the line when letters
/// are listed or taken. Nothing is deleted in that case.
///
/// The line that ends a redrive both removes the letter and adds its replacements, so a crash leaves either all
/// of it or nothing. A letter that was put again during its redrive is kept.
///
/// # Cost
///
/// `put` appends, whatever the size of the file, but waits for the disk, so pass many letters at once. `list`,
/// `take` and the commit of a redrive read the whole file and hold its letters in memory. This suits some ten
/// thousand letters; use a database for more.
///
/// # Locks
///
/// Two lock files are created beside `letters.jsonl`. `letters.jsonl.lock` is locked for each read or write.
/// `letters.jsonl.redrive.lock` is locked from `take` until the transaction is committed or dropped. At most
/// one letter of a file is therefore redriven at a time, across all processes, and other calls of
/// [`take`](DeadLetters::take) wait. A task that takes a second letter before it has finished its first waits
/// forever. Letters can be put and listed during a redrive. The locks end with their process, but their files
/// remain: do not delete them while the letters are in use.
///
/// The file may be shared by processes on one machine, or on several machines with a shared file system whose
/// file locks work. Several values of this type may use the same file, even in one process.
///
/// Reports of batch runs are not stored.
#[derive(Clone, Debug)]
pub struct JsonlDeadLetters {
    path: Arc<PathBuf>,
    /// A queue for the writers of this process, so that waiting does not block threads.
    write_turn: Arc<Mutex<()>>,
    /// A queue for the redrives of this process, which then need not poll.
    redrive_turn: Arc<Mutex<()>>,
    /// The file size at which `put` next checks whether the file should be rewritten.
    look_through_at: Arc<AtomicU64>,
}

impl JsonlDeadLetters {
    /// Creates a store in this file. The file is created when the first letter is put. Its folder must exist by then,
    /// or every call fails with a [`PageError`] that says so. Symbolic links are followed.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self {
            path: Arc::new(path.into()),
            write_turn: Arc::default(),
            redrive_turn: Arc::default(),
            look_through_at: Arc::new(AtomicU64::new(MIN_LOOK_THROUGH_BYTES)),
        }
    }

    /// Runs file I/O on a thread that may block. The work continues if the caller is dropped.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Place) -> Result<T, PageError> + Send + 'static,
    ) -> Result<T, PageError> {
        let path = Arc::clone(&self.path);
        tokio::task::spawn_blocking(move || work(&Place::resolve(&path)?)).await?
    }

    async fn lock_for_redrive(&self) -> Result<RedriveLock, PageError> {
        let turn = Arc::clone(&self.redrive_turn).lock_owned().await;
        loop {
            // Polling instead of a blocking lock: that could keep a thread, and the shutdown of the runtime,
            // waiting for as long as another process's redrive takes.
            let file = self
                .blocking(|place| Lock::try_exclusive(&place.redrive_lock))
                .await?;
            if let Some(file) = file {
                return Ok(RedriveLock {
                    _file: file,
                    _turn: turn,
                });
            }
            tokio::time::sleep(REDRIVE_POLL).await;
        }
    }
}

#[async_trait]
impl DeadLetters for JsonlDeadLetters {
    async fn put(&self, letters: &[DeadLetter]) -> Result<(), PageError> {
        if letters.is_empty() {
            return Ok(());
        }
        let mut lines = Vec::new();
        for letter in letters {
            push_line(&mut lines, letter)?;
        }
        let look_through_at = Arc::clone(&self.look_through_at);
        let turn = Arc::clone(&self.write_turn).lock_owned().await;
        self.blocking(move |place| {
            let _turn = turn;
            let _lock = Lock::exclusive(&place.lock)?;
            let size = place.append(&lines)?;
            if size >= look_through_at.load(Ordering::Relaxed) {
                let size = place.look_through().unwrap_or(size);
                // The next check is at twice the size, so that checking costs no more than writing.
                let next = size.saturating_mul(2).max(MIN_LOOK_THROUGH_BYTES);
                look_through_at.store(next, Ordering::Relaxed);
            }
            Ok(())
        })
        .await
    }

    async fn list(
        &self,
        filter: &LetterFilter,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<DeadLetter>, PageError> {
        let filter = filter.clone();
        let after = after.map_or(Bound::Unbounded, |id| Bound::Excluded(id.to_owned()));
        self.blocking(move |place| {
            let mut letters = place.read_locked()?.letters;
            letters.retain(|_, letter| filter.matches(letter));
            Ok(letters
                .range((after, Bound::Unbounded))
                .take(limit)
                .map(|(_, letter)| letter.clone())
                .collect())
        })
        .await
    }

    async fn settled(&self, batch_run: &str) -> Result<Option<u64>, PageError> {
        let batch_run = batch_run.to_owned();
        self.blocking(move |place| {
            let settled = place.read_locked()?.settled;
            let settled = settled.get(&batch_run).copied().unwrap_or_default();
            Ok(Some(u64::try_from(settled).unwrap_or_default()))
        })
        .await
    }

    async fn take(
        &self,
        letter: &DeadLetter,
    ) -> Result<Option<Box<dyn PageTransaction>>, PageError> {
        // Nothing needs a lock before the first letter was put.
        if !self.blocking(|place| Ok(place.file.exists())).await? {
            return Ok(None);
        }
        let lock = self.lock_for_redrive().await?;
        let id = letter.id.clone();
        let taken = self
            .blocking(move |place| Ok(place.read_locked()?.letters.remove(&id)))
            .await?;
        Ok(taken.map(|taken| {
            Box::new(Redrive {
                store: self.clone(),
                taken,
                letters: Vec::new(),
                lock,
            }) as Box<dyn PageTransaction>
        }))
    }
}

/// A letter that is being redriven. Nothing is written before the commit.
struct Redrive {
    store: JsonlDeadLetters,
    taken: DeadLetter,
    letters: Vec<DeadLetter>,
    lock: RedriveLock,
}

#[async_trait]
impl PageTransaction for Redrive {
    fn connection(&mut self) -> Option<&mut (dyn Any + Send)> {
        None
    }

    async fn record(
        &mut self,
        _items: &ItemCounts,
        letters: &[DeadLetter],
    ) -> Result<(), PageError> {
        self.letters.extend_from_slice(letters);
        Ok(())
    }

    async fn commit(self: Box<Self>) -> Result<(), PageError> {
        let Self {
            store,
            taken,
            letters,
            lock,
        } = *self;
        let turn = Arc::clone(&store.write_turn).lock_owned().await;
        store
            .blocking(move |place| {
                // Both are held until the write is done, even if the caller was dropped.
                let (_redrive, _turn) = (lock, turn);
                let _lock = Lock::exclusive(&place.lock)?;
                let mut contents = place.read()?;
                let mut lines = Vec::new();
                if contents.letters.get(&taken.id) == Some(&taken) {
                    // A single line is either present or not. Rewriting the file for every letter would cost
                    // far more.
                    let removal = Removal {
                        removed: taken.id,
                        letters,
                    };
                    push_line(&mut lines, &removal)?;
                    contents.apply(Line::Removal(removal));
                } else {
                    // The letter was put again in the meantime, and the redrive did not see the new one.
                    let added = Settled {
                        settled: taken.batch_run,
                        letters: -contents.missing(&letters),
                    };
                    if added.letters != 0 {
                        push_line(&mut lines, &added)?;
                        contents.apply(Line::Settled(added));
                    }
                    for letter in letters {
                        push_line(&mut lines, &letter)?;
                        contents.apply(Line::Letter(Box::new(letter)));
                    }
                }
                if !lines.is_empty() {
                    place.append(&lines)?;
                }
                if contents.is_wasteful() {
                    place.try_rewrite(&contents);
                }
                Ok(())
            })
            .await
    }
}

/// The content of a line.
enum Line {
    Letter(Box<DeadLetter>),
    Removal(Removal),
    Settled(Settled),
}

/// A number of letters of a batch run that redrives settled and whose lines are gone.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Settled {
    /// The batch run.
    settled: String,
    /// The number to add. It is negative if a letter was split into several that are not settled yet.
    letters: i64,
}

/// The end of a redrive.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Removal {
    /// The id of the removed letter.
    removed: String,
    /// The letters that replace it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    letters: Vec<DeadLetter>,
}

impl Line {
    fn parse(text: &[u8]) -> Result<Self, serde_json::Error> {
        serde_json::from_slice(text)
            .map(Self::Letter)
            .or_else(|not_a_letter| {
                serde_json::from_slice(text)
                    .map(Self::Removal)
                    .or_else(|_| serde_json::from_slice(text).map(Self::Settled))
                    .map_err(|_| not_a_letter)
            })
    }

    /// Returns whether an invalid text without a newline may be the beginning of a line. Such a text is
    /// removed, so content of another kind must not match.
    fn is_torn(text: &[u8]) -> bool {
        let begins = |start: &[u8]| text.starts_with(start) || start.starts_with(text);
        // Some file systems show zeros if a crash prevented the write.
        let known = [&br#"{"id":"#[..], br#"{"removed":"#, br#"{"settled":"#];
        known.into_iter().any(begins) || text.iter().all(|byte| *byte == 0)
    }
}

fn push_line(lines: &mut Vec<u8>, line: &impl Serialize) -> Result<(), PageError> {
    serde_json::to_writer(&mut *lines, line)?;
    lines.push(b'\n');
    Ok(())
}

/// The content of a file.
#[derive(Default)]
struct Contents {
    letters: BTreeMap<String, DeadLetter>,
    /// The number of letters that redrives removed, minus their replacements, by batch run.
    settled: BTreeMap<String, i64>,
    lines: usize,
}

impl Contents {
    /// Returns how many of these letters it does not contain.
    fn missing(&self, letters: &[DeadLetter]) -> i64 {
        let ids: BTreeSet<_> = letters.iter().map(|letter| &letter.id).collect();
        let missing = ids.into_iter().filter(|id| !self.letters.contains_key(*id));
        i64::try_from(missing.count()).unwrap_or(i64::MAX)
    }

    fn apply(&mut self, line: Line) {
        self.lines += 1;
        match line {
            Line::Letter(letter) => self.keep(*letter),
            Line::Removal(Removal { removed, letters }) => {
                let comes_back = letters.iter().any(|letter| letter.id == removed);
                if let Some(taken) = self.letters.get(&removed) {
                    let batch_run = taken.batch_run.clone();
                    let settled = i64::from(!comes_back) - self.missing(&letters);
                    *self.settled.entry(batch_run).or_default() += settled;
                }
                for letter in letters {
                    self.keep(letter);
                }
                if !comes_back {
                    self.letters.remove(&removed);
                }
            }
            Line::Settled(Settled { settled, letters }) => {
                *self.settled.entry(settled).or_default() += letters;
            }
        }
    }

    fn keep(&mut self, mut letter: DeadLetter) {
        if let Some(earlier) = self.letters.get(&letter.id) {
            letter.first_at = earlier.first_at;
        }
        self.letters.insert(letter.id.clone(), letter);
    }

    fn is_wasteful(&self) -> bool {
        let useful = self.letters.len() + self.settled.len();
        let useless = self.lines.saturating_sub(useful);
        useless >= MIN_USELESS_LINES && useless > self.letters.len()
    }
}

/// The files of a store.
///
/// The locks are separate files, because a rewrite replaces the file of the letters. A process waiting for a
/// lock on the old file would get it while another holds a lock on the new one.
struct Place {
    folder: PathBuf,
    file: PathBuf,
    /// The replacement while it is written.
    new_file: PathBuf,
    lock: PathBuf,
    redrive_lock: PathBuf,
}

impl Place {
    /// Resolves links, so that every path to the same file uses the same locks.
    fn resolve(path: &Path) -> Result<Self, PageError> {
        let shown = path.display();
        let Some(name) = path.file_name() else {
            return Err(file_error(format_args!(
                "{shown:?} does not name a file for dead letters"
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
    fn read_locked(&self) -> Result<Contents, PageError> {
        let _lock = Lock::shared(&self.lock)?;
        self.read()
    }

    /// Reads the file. The caller holds the lock.
    fn read(&self) -> Result<Contents, PageError> {
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

    fn unreadable(&self, number: u64, error: &serde_json::Error) -> PageError {
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
    fn append(&self, lines: &[u8]) -> Result<u64, PageError> {
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
    fn finish_last_line(&self, file: &mut File) -> Result<(), PageError> {
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
    fn look_through(&self) -> Option<u64> {
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
    fn try_rewrite(&self, contents: &Contents) -> Option<u64> {
        match self.rewrite(contents) {
            Ok(size) => Some(size),
            Err(error) => {
                tracing::warn!(%error, "the dead letter file cannot be compacted");
                None
            }
        }
    }

    fn rewrite(&self, contents: &Contents) -> Result<u64, PageError> {
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
    fn sync_folder(&self) -> Result<(), PageError> {
        if cfg!(unix) {
            let synced = File::open(&self.folder).and_then(|folder| folder.sync_all());
            synced.map_err(cannot("sync", &self.folder))?;
        }
        Ok(())
    }
}

/// Returns the position and content of the last line, which is empty after a newline.
fn last_line(file: &mut File) -> io::Result<(u64, Vec<u8>)> {
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

/// A file lock, held until it is dropped or the process ends.
struct Lock(File);

impl Lock {
    fn exclusive(path: &Path) -> Result<Self, PageError> {
        let file = Self::create(path)?;
        file.lock().map_err(cannot("lock", path))?;
        Ok(Self(file))
    }

    /// Tries to lock the file. `None` if it is already locked.
    fn try_exclusive(path: &Path) -> Result<Option<Self>, PageError> {
        let file = Self::create(path)?;
        match file.try_lock() {
            Ok(()) => Ok(Some(Self(file))),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(cannot("lock", path)(error)),
        }
    }

    /// Excludes writers, if the lock file exists. Reading creates nothing.
    fn shared(path: &Path) -> Result<Option<Self>, PageError> {
        match File::open(path) {
            Ok(file) => {
                file.lock_shared().map_err(cannot("lock", path))?;
                Ok(Some(Self(file)))
            }
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(cannot("open", path)(error)),
        }
    }

    fn create(path: &Path) -> Result<File, PageError> {
        OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)
            .map_err(cannot("open", path))
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // Closing the file is not enough while a starting child process has a copy of the handle. After an
        // error, closing has to do.
        let _ = self.0.unlock();
    }
}

/// The file lock and the turn of a redrive. The file is unlocked first, so that the next redrive of this
/// process need not poll.
struct RedriveLock {
    _file: Lock,
    _turn: OwnedMutexGuard<()>,
}

fn file_error(message: impl std::fmt::Display) -> PageError {
    PageError::retryable(message).with_type(FILE_ERROR)
}

fn cannot(what: &str, path: &Path) -> impl FnOnce(io::Error) -> PageError {
    move |error| {
        let why = with_free_space(&error, path);
        file_error(format_args!("cannot {what} {}: {why}", path.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{base::time::Timestamp, page::token::PageToken};

    /// Longer than any operation here takes.
    const BOUND: Duration = Duration::from_secs(60);
    /// Long enough for an unhindered `take`.
    const HELD_UP: Duration = Duration::from_millis(300);

    struct Folder(PathBuf);

    impl Folder {
        fn new() -> Self {
            let name = format!("dead-letters-{}", uuid::Uuid::new_v4());
            let path = std::env::temp_dir().join(name);
            fs::create_dir(&path).unwrap();
            Self(path)
        }

        fn file(&self) -> PathBuf {
            self.0.join("letters.jsonl")
        }

        fn store(&self) -> JsonlDeadLetters {
            JsonlDeadLetters::new(self.file())
        }

        fn text(&self) -> String {
            fs::read_to_string(self.file()).unwrap()
        }

        fn names(&self) -> Vec<String> {
            let entries = fs::read_dir(&self.0).unwrap();
            let mut names: Vec<String> = entries
                .map(|entry| entry.unwrap().file_name().into_string().unwrap())
                .collect();
            names.sort();
            names
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn letter(id: &str) -> DeadLetter {
        DeadLetter {
            id: id.to_owned(),
            batch_id: "nightly".to_owned(),
            batch_run: "run".to_owned(),
            processor: "hash-emails".to_owned(),
            stride: 7,
            start: Some(PageToken::encode(&10).unwrap()),
            end: None,
            key: Some(format!("käse \n {id}")),
            error_type: "Poison".to_owned(),
            message: "cannot \"read\" it".to_owned(),
            attempts: 3,
            first_at: Timestamp(1_000),
            last_at: Timestamp(2_000),
            record: None,
        }
    }

    async fn all(store: &JsonlDeadLetters) -> Vec<DeadLetter> {
        let filter = LetterFilter::of("nightly");
        store.list(&filter, None, usize::MAX).await.unwrap()
    }

    async fn ids(store: &JsonlDeadLetters) -> Vec<String> {
        all(store).await.into_iter().map(|l| l.id).collect()
    }

    async fn take(store: &JsonlDeadLetters, id: &str) -> Option<Box<dyn PageTransaction>> {
        let letter = letter(id);
        let take = tokio::time::timeout(BOUND, store.take(&letter));
        take.await.expect("the lock came free").unwrap()
    }

    async fn record(transaction: &mut Box<dyn PageTransaction>, letters: &[DeadLetter]) {
        let counts = ItemCounts::default();
        transaction.record(&counts, letters).await.unwrap();
    }

    #[tokio::test]
    async fn letters_come_back_as_they_were_put_in_the_order_of_their_ids() {
        let folder = Folder::new();
        let with_record = DeadLetter {
            record: Some("line 1\nline 2".to_owned()),
            key: None,
            end: Some(PageToken::encode(&"ü").unwrap()),
            ..letter("a")
        };
        let store = folder.store();
        store
            .put(&[letter("c"), with_record.clone()])
            .await
            .unwrap();
        store.put(&[letter("b")]).await.unwrap();
        let expected = [with_record, letter("b"), letter("c")];
        assert_eq!(all(&store).await, expected);
        assert_eq!(all(&folder.store()).await, expected);
        assert_eq!(folder.text().lines().count(), 3);
    }

    #[tokio::test]
    async fn nothing_is_created_before_the_first_letter() {
        let folder = Folder::new();
        let store = folder.store();
        store.put(&[]).await.unwrap();
        assert_eq!(all(&store).await, []);
        assert!(take(&store, "a").await.is_none());
        assert_eq!(folder.names(), [""; 0]);
        store.put(&[letter("a")]).await.unwrap();
        assert_eq!(folder.names(), ["letters.jsonl", "letters.jsonl.lock"]);
    }

    #[tokio::test]
    async fn a_missing_folder_is_named() {
        let folder = Folder::new();
        let store = JsonlDeadLetters::new(folder.0.join("gone").join("letters.jsonl"));
        let error = store.put(&[letter("a")]).await.unwrap_err();
        assert!(error.message().contains("does not exist"), "{error}");
        assert!(error.message().ends_with("gone"), "{error}");
        let filter = LetterFilter::of("nightly");
        assert!(store.list(&filter, None, 1).await.is_err());
        assert!(store.take(&letter("a")).await.is_err());
        assert_eq!(folder.names(), [""; 0]);
    }

    #[tokio::test]
    async fn a_letter_put_again_keeps_only_its_first_time() {
        let folder = Folder::new();
        let store = folder.store();
        let again = DeadLetter {
            first_at: Timestamp(5_000),
            last_at: Timestamp(6_000),
            message: "still".to_owned(),
            attempts: 9,
            ..letter("a")
        };
        store.put(&[letter("a"), letter("b")]).await.unwrap();
        store.put(std::slice::from_ref(&again)).await.unwrap();
        let kept = DeadLetter {
            first_at: Timestamp(1_000),
            ..again
        };
        assert_eq!(all(&store).await, [kept, letter("b")]);
    }

    #[tokio::test]
    async fn each_part_of_a_filter_excludes() {
        let folder = Folder::new();
        let store = folder.store();
        let other_batch = DeadLetter {
            batch_id: "weekly".to_owned(),
            ..letter("batch")
        };
        let other_type = DeadLetter {
            error_type: "Timeout".to_owned(),
            ..letter("type")
        };
        let other_page = DeadLetter {
            start: None,
            ..letter("page")
        };
        let later = DeadLetter {
            last_at: Timestamp(3_000),
            ..letter("time")
        };
        let letters = [letter("a"), other_batch, other_type, other_page, later];
        store.put(&letters).await.unwrap();

        let nightly = LetterFilter::of("nightly");
        let cases = [
            (LetterFilter::of("weekly"), vec!["batch"]),
            (nightly.clone(), vec!["a", "page", "time", "type"]),
            (
                LetterFilter {
                    error_type: Some("Poison".to_owned()),
                    ..nightly.clone()
                },
                vec!["a", "page", "time"],
            ),
            (
                LetterFilter {
                    page_start: Some(PageToken::encode(&10).unwrap()),
                    ..nightly.clone()
                },
                vec!["a", "time", "type"],
            ),
            (
                LetterFilter {
                    since: Some(Timestamp(3_000)),
                    ..nightly.clone()
                },
                vec!["time"],
            ),
            (
                LetterFilter {
                    until: Some(Timestamp(3_000)),
                    ..nightly
                },
                vec!["a", "page", "type"],
            ),
        ];
        for (filter, expected) in cases {
            let found = store.list(&filter, None, 10).await.unwrap();
            let found: Vec<&str> = found.iter().map(|l| l.id.as_str()).collect();
            assert_eq!(found, expected, "{filter:?}");
        }
    }

    #[tokio::test]
    async fn pages_of_a_listing_join_without_gap_or_overlap() {
        let folder = Folder::new();
        let store = folder.store();
        let letters: Vec<DeadLetter> = (0..25).map(|n| letter(&format!("{n:02}"))).collect();
        store.put(&letters).await.unwrap();
        let other = DeadLetter {
            error_type: "Timeout".to_owned(),
            ..letter("11")
        };
        store.put(&[other]).await.unwrap();

        let filter = LetterFilter {
            error_type: Some("Poison".to_owned()),
            ..LetterFilter::of("nightly")
        };
        let mut found: Vec<DeadLetter> = Vec::new();
        let mut sizes = Vec::new();
        loop {
            let after = found.last().map(|l| l.id.clone());
            let page = store.list(&filter, after.as_deref(), 10).await.unwrap();
            if page.is_empty() {
                break;
            }
            sizes.push(page.len());
            found.extend(page);
        }
        assert_eq!(sizes, [10, 10, 4]);
        let expected: Vec<DeadLetter> = letters.into_iter().filter(|l| l.id != "11").collect();
        assert_eq!(found, expected);
        assert_eq!(store.list(&filter, None, 0).await.unwrap(), []);
    }

    #[tokio::test]
    async fn a_line_torn_anywhere_is_passed_over_and_cut_away_by_the_next_write() {
        let folder = Folder::new();
        let store = folder.store();
        store.put(&[letter("a")]).await.unwrap();
        let whole = folder.text();
        store.put(&[letter("b")]).await.unwrap();
        let both = folder.text();
        // Lengths up to the closing brace, with which the letter would be complete.
        for length in whole.len() + 1..both.len() - 1 {
            fs::write(folder.file(), &both.as_bytes()[..length]).unwrap();
            assert_eq!(ids(&store).await, ["a"], "{length}");
            store.put(&[letter("c")]).await.unwrap();
            assert_eq!(ids(&store).await, ["a", "c"], "{length}");
        }
        fs::write(folder.file(), &both.as_bytes()[..both.len() - 1]).unwrap();
        assert_eq!(ids(&store).await, ["a", "b"]);
        store.put(&[letter("c")]).await.unwrap();
        assert_eq!(ids(&store).await, ["a", "b", "c"]);
        assert_eq!(folder.text().lines().count(), 3);
    }

    #[tokio::test]
    async fn zeros_that_a_crash_left_at_the_end_are_a_torn_line() {
        let folder = Folder::new();
        let store = folder.store();
        store.put(&[letter("a")]).await.unwrap();
        fs::write(folder.file(), folder.text() + "\0\0\0").unwrap();
        assert_eq!(ids(&store).await, ["a"]);
        store.put(&[letter("b")]).await.unwrap();
        assert_eq!(ids(&store).await, ["a", "b"]);
    }

    #[tokio::test]
    async fn a_file_of_something_else_is_left_as_it_is() {
        let folder = Folder::new();
        let store = folder.store();
        fs::write(folder.file(), "Dear diary,\nnothing happened").unwrap();
        let error = store.put(&[letter("a")]).await.unwrap_err();
        assert!(error.message().contains("last line"), "{error}");
        assert_eq!(folder.text(), "Dear diary,\nnothing happened");
    }

    #[tokio::test]
    async fn an_unreadable_line_is_an_error_with_its_place() {
        let folder = Folder::new();
        let store = folder.store();
        store.put(&[letter("a"), letter("b")]).await.unwrap();
        let (first, second) = {
            let text = folder.text();
            let (first, second) = text.split_once('\n').unwrap();
            (first.to_owned(), second.to_owned())
        };
        let odd = first.replace(r#""stride":7"#, r#""stride":"secret""#);
        for (bad, what) in [("{\"id\":\"x", "not JSON"), (&odd, "not a dead letter")] {
            fs::write(folder.file(), format!("{first}\n{bad}\n{second}")).unwrap();
            let filter = LetterFilter::of("nightly");
            let listed = store.list(&filter, None, 10).await.unwrap_err();
            let taken = store.take(&letter("a")).await.err().unwrap();
            for error in [listed, taken] {
                assert_eq!(error.error_type(), UNREADABLE);
                let message = error.message();
                assert!(message.contains("line 2 of"), "{message}");
                assert!(message.contains("letters.jsonl is "), "{message}");
                assert!(message.contains(what), "{message}");
                assert!(!message.contains("secret"), "{message}");
            }
            // Letters are still stored, and nothing is dropped.
            store.put(&[letter("c")]).await.unwrap();
            assert!(folder.text().contains(bad));
            assert!(folder.text().ends_with("}\n"));
        }
    }

    #[tokio::test]
    async fn a_commit_removes_the_letter_and_puts_those_in_its_place() {
        let folder = Folder::new();
        let store = folder.store();
        store.put(&[letter("a"), letter("b")]).await.unwrap();
        let mut transaction = take(&store, "a").await.unwrap();
        assert!(transaction.connection().is_none());
        record(&mut transaction, &[letter("a1")]).await;
        record(&mut transaction, &[letter("a2")]).await;
        assert_eq!(ids(&store).await, ["a", "b"]);
        transaction.commit().await.unwrap();
        assert_eq!(ids(&store).await, ["a1", "a2", "b"]);
        assert!(take(&store, "a").await.is_none());
        assert!(take(&store, "a2").await.is_some());
    }

    #[tokio::test]
    async fn a_letter_that_fails_its_redrive_stays_with_its_first_time() {
        let folder = Folder::new();
        let store = folder.store();
        store.put(&[letter("a")]).await.unwrap();
        let again = DeadLetter {
            first_at: Timestamp(8_000),
            last_at: Timestamp(9_000),
            ..letter("a")
        };
        let mut transaction = take(&store, "a").await.unwrap();
        record(&mut transaction, &[again]).await;
        transaction.commit().await.unwrap();
        let [kept] = all(&store).await.try_into().unwrap();
        assert_eq!(kept.first_at, Timestamp(1_000));
        assert_eq!(kept.last_at, Timestamp(9_000));
    }

    #[tokio::test]
    async fn a_dropped_transaction_leaves_the_letter() {
        let folder = Folder::new();
        let store = folder.store();
        store.put(&[letter("a")]).await.unwrap();
        let before = folder.text();
        let mut transaction = take(&store, "a").await.unwrap();
        record(&mut transaction, &[letter("b")]).await;
        drop(transaction);
        assert_eq!(folder.text(), before);
        assert!(take(&store, "a").await.is_some());
    }

    #[tokio::test]
    async fn a_crash_anywhere_in_a_commit_leaves_all_of_it_or_nothing() {
        let folder = Folder::new();
        let store = folder.store();
        store.put(&[letter("a")]).await.unwrap();
        let before = folder.text();
        let mut transaction = take(&store, "a").await.unwrap();
        record(&mut transaction, &[letter("b"), letter("c")]).await;
        transaction.commit().await.unwrap();
        let after = folder.text();
        for length in before.len()..=after.len() {
            fs::write(folder.file(), &after.as_bytes()[..length]).unwrap();
            let whole = length >= after.len() - 1;
            let expected: &[&str] = if whole { &["b", "c"] } else { &["a"] };
            assert_eq!(ids(&store).await, expected, "{length}");
        }
    }

    // Two stores stand for two processes. Each opens the lock files itself, and an operating system lock
    // belongs to the open file, not to the process. They share nothing else.
    #[tokio::test]
    async fn a_letter_is_out_once_whichever_store_takes_it() {
        let folder = Folder::new();
        let (one, other) = (folder.store(), folder.store());
        one.put(&[letter("a"), letter("b")]).await.unwrap();
        for waiting in [&other, &one] {
            for commits in [false, true] {
                one.put(&[letter("a")]).await.unwrap();
                let held = take(&one, "a").await.unwrap();
                let mut next = Box::pin(take(waiting, "a"));
                let early = tokio::time::timeout(HELD_UP, &mut next).await;
                assert!(early.is_err(), "the letter was out twice");
                if commits {
                    held.commit().await.unwrap();
                } else {
                    drop(held);
                }
                assert_eq!(next.await.is_none(), commits);
            }
        }
        assert_eq!(ids(&other).await, ["b"]);
    }

    #[tokio::test]
    async fn who_gives_up_waiting_leaves_no_lock_behind() {
        let folder = Folder::new();
        let (one, other) = (folder.store(), folder.store());
        one.put(&[letter("a")]).await.unwrap();
        let held = take(&one, "a").await.unwrap();
        for waiting in [&other, &one] {
            let waiting = tokio::time::timeout(HELD_UP, take(waiting, "a"));
            assert!(waiting.await.is_err());
        }
        drop(held);
        assert!(take(&other, "a").await.is_some());
        assert!(take(&one, "a").await.is_some());
    }

    #[tokio::test]
    async fn letters_are_put_and_listed_while_one_is_out() {
        let folder = Folder::new();
        let (one, other) = (folder.store(), folder.store());
        one.put(&[letter("a")]).await.unwrap();
        let held = take(&one, "a").await.unwrap();
        for (store, id) in [(&one, "b"), (&other, "c")] {
            let letters = [letter(id)];
            let put = tokio::time::timeout(BOUND, store.put(&letters));
            put.await.expect("a redrive does not hold it up").unwrap();
        }
        assert_eq!(ids(&other).await, ["a", "b", "c"]);
        held.commit().await.unwrap();
        assert_eq!(ids(&other).await, ["b", "c"]);
    }

    #[tokio::test]
    async fn a_letter_put_again_while_it_is_out_survives_the_commit() {
        let folder = Folder::new();
        let store = folder.store();
        store.put(&[letter("a")]).await.unwrap();
        let mut held = take(&store, "a").await.unwrap();
        record(&mut held, &[letter("b")]).await;
        let again = DeadLetter {
            attempts: 4,
            ..letter("a")
        };
        store.put(std::slice::from_ref(&again)).await.unwrap();
        held.commit().await.unwrap();
        assert_eq!(all(&store).await, [again, letter("b")]);
    }

    // Stands for the lock of another process that is writing.
    #[tokio::test]
    async fn putting_listing_and_committing_wait_for_a_write_of_somebody_else() {
        let folder = Folder::new();
        let store = folder.store();
        store.put(&[letter("a"), letter("b")]).await.unwrap();
        let lock = folder.0.join("letters.jsonl.lock");
        let held = take(&store, "a").await.unwrap();

        let writing = Lock::exclusive(&lock).unwrap();
        let mut list = Box::pin(ids(&store));
        let early = tokio::time::timeout(HELD_UP, &mut list).await;
        assert!(early.is_err(), "it read what was being written");
        drop(writing);
        assert_eq!(list.await, ["a", "b"]);

        let writing = Lock::exclusive(&lock).unwrap();
        let mut commit = held.commit();
        let early = tokio::time::timeout(HELD_UP, &mut commit).await;
        assert!(early.is_err(), "two wrote at once");
        drop(writing);
        commit.await.unwrap();

        let writing = Lock::exclusive(&lock).unwrap();
        let letters = [letter("c")];
        let mut put = store.put(&letters);
        let early = tokio::time::timeout(HELD_UP, &mut put).await;
        assert!(early.is_err(), "two wrote at once");
        drop(writing);
        put.await.unwrap();
        assert_eq!(ids(&store).await, ["b", "c"]);
    }

    #[tokio::test]
    async fn redrives_make_the_file_smaller_and_keep_exactly_what_is_left() {
        let folder = Folder::new();
        let store = folder.store();
        let letters: Vec<DeadLetter> = (0..100).map(|n| letter(&format!("{n:03}"))).collect();
        store.put(&letters).await.unwrap();
        let full = folder.text().len();
        let kept = DeadLetter {
            last_at: Timestamp(7_000),
            ..letter("099")
        };
        let again = DeadLetter {
            first_at: Timestamp(6_000),
            ..kept.clone()
        };
        store.put(&[again]).await.unwrap();
        for n in 0..97 {
            let transaction = take(&store, &format!("{n:03}")).await.unwrap();
            transaction.commit().await.unwrap();
        }
        assert_eq!(all(&store).await, [letter("097"), letter("098"), kept]);
        assert!(folder.text().len() < full / 2);
        assert!(!folder.names().contains(&"letters.jsonl.new".to_owned()));
    }

    #[tokio::test]
    async fn what_redrives_settle_is_counted_and_the_count_outlives_its_lines() {
        let folder = Folder::new();
        let store = folder.store();
        let settled = async || store.settled("run").await.unwrap();
        assert_eq!(settled().await, Some(0));
        let run = |id: &str| DeadLetter {
            batch_run: "run".to_owned(),
            ..letter(id)
        };
        let letters: Vec<_> = (0..100).map(|n| run(&format!("{n:03}"))).collect();
        store.put(&letters).await.unwrap();
        let mut split = take(&store, "000").await.unwrap();
        record(&mut split, &[run("000a"), run("000b"), run("001")]).await;
        split.commit().await.unwrap();
        assert_eq!(settled().await, Some(0));
        let mut again = take(&store, "000a").await.unwrap();
        record(&mut again, &[run("000a")]).await;
        again.commit().await.unwrap();
        for id in ["000a", "000b", "001"] {
            take(&store, id).await.unwrap().commit().await.unwrap();
        }
        assert_eq!(settled().await, Some(2));
        for n in 2..100 {
            let letter = take(&store, &format!("{n:03}")).await.unwrap();
            letter.commit().await.unwrap();
        }
        assert_eq!(settled().await, Some(100));
        assert!(all(&store).await.is_empty());
        assert!(folder.text().contains(r#"{"settled":"run","letters":"#));
        // The file contains no letter that would be rewritten.
        let other = DeadLetter {
            batch_run: "other".to_owned(),
            ..letter("z")
        };
        store.put(std::slice::from_ref(&other)).await.unwrap();
        assert_eq!(settled().await, Some(100));
        assert_eq!(store.settled("other").await.unwrap(), Some(0));
    }

    #[tokio::test]
    async fn puts_of_the_same_letters_make_the_file_smaller() {
        let folder = Folder::new();
        let store = folder.store();
        let once: Vec<DeadLetter> = (0..20).map(|n| letter(&format!("{n:02}"))).collect();
        for _ in 0..50 {
            store.put(&once).await.unwrap();
        }
        assert_eq!(all(&store).await, once);
        let size = folder.text().len() as u64;
        assert!(size < 2 * MIN_LOOK_THROUGH_BYTES, "{size}");
    }

    #[cfg(unix)]
    #[tokio::test]
    async fn a_file_written_anew_keeps_its_permissions_and_its_link() {
        use std::os::unix::fs::PermissionsExt;
        let folder = Folder::new();
        folder.store().put(&[letter("a")]).await.unwrap();
        fs::set_permissions(folder.file(), fs::Permissions::from_mode(0o600)).unwrap();
        let link = folder.0.join("link");
        std::os::unix::fs::symlink(folder.file(), &link).unwrap();
        let store = JsonlDeadLetters::new(&link);
        store.put(&vec![letter("a"); 1_000]).await.unwrap();
        assert_eq!(folder.text().lines().count(), 1, "it was rewritten");
        let mode = fs::metadata(folder.file()).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert!(link.is_symlink());
        assert!(!folder.names().contains(&"link.lock".to_owned()));
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn letters_that_many_put_at_once_are_all_there() {
        let folder = Folder::new();
        let stores = [folder.store(), folder.store()];
        let tasks = (0..8).map(|task| {
            let store = stores[task % 2].clone();
            tokio::spawn(async move {
                for put in 0..25 {
                    let letters: Vec<DeadLetter> = (0..10)
                        .map(|n| letter(&format!("{task}-{put:02}-{n}")))
                        .collect();
                    store.put(&letters).await.unwrap();
                    // Letters put before are listed, whatever other writers are doing.
                    let filter = LetterFilter::of("nightly");
                    let after = format!("{task}-{put:02}-");
                    let listed = store.list(&filter, Some(&after), 10).await.unwrap();
                    assert_eq!(listed, letters);
                }
            })
        });
        for task in tasks.collect::<Vec<_>>() {
            task.await.unwrap();
        }
        let expected: Vec<String> = (0..8)
            .flat_map(|task| (0..250).map(move |n| format!("{task}-{:02}-{}", n / 10, n % 10)))
            .collect();
        assert_eq!(ids(&stores[0]).await, expected);
        assert_eq!(folder.text().lines().count(), 2_000);
    }
}
