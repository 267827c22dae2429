//! A file of dead letters, for use without a database.

mod lines;
mod lock;
mod place;
mod redrive;
#[cfg(test)]
mod tests;

use std::{
    ops::Bound,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use tokio::sync::Mutex;

use self::{
    lines::push_line,
    lock::Lock,
    place::Place,
    redrive::{Redrive, RedriveLock},
};
use crate::{
    base::error::PageError,
    batch::letter_filter::LetterFilter,
    processor::store::{
        dead_letter::{DeadLetter, DeadLetters},
        page_ledger::PageTransaction,
    },
};

/// Interval at which a redrive checks whether the previous one has finished.
const REDRIVE_POLL: Duration = Duration::from_millis(50);

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
