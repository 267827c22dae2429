//! Looks at a batch that is followed.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use serde::Serialize;
use temporal_batch::{
    BatchHandle, PageError, PageToken,
    progress::Progress,
    store::{DeadLetters, LetterFilter},
};

use super::coverage::{Coverage, Letters, MAX_LETTERS};

/// The time between two looks at a running batch.
const LOOK_AGAIN: Duration = Duration::from_millis(100);
/// A look is at most this part of the time that the batch runs behind. So the batches in a row take little longer than
/// the slowest of them, and a long batch is not asked often.
const LAG: u32 = 50;
/// The age to which a batch keeps its progress by itself while it is looked at.
const KEPT_FRESH: Duration = Duration::from_secs(1);

/// A batch with the latest that is known about it.
#[derive(Clone)]
pub(super) struct Watch {
    pub batch: BatchHandle,
    pub letters: Option<Arc<dyn DeadLetters>>,
    seen: Arc<Mutex<Seen>>,
}

/// The latest look, which counts for one run of the follower: another run may follow another run.
#[derive(Default)]
struct Seen {
    follower: String,
    coverage: Option<Arc<Coverage>>,
    /// The last start of a stride that was found.
    found: Option<PageToken>,
    /// The time that the batch ran until the latest look.
    ran: Duration,
    /// The reason why the latest look found nothing.
    trouble: Option<String>,
}

impl Watch {
    pub fn new(batch: BatchHandle) -> Self {
        Self {
            batch,
            letters: None,
            seen: Arc::default(),
        }
    }

    fn seen(&self, follower: &str) -> MutexGuard<'_, Seen> {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if seen.follower != follower {
            *seen = Seen {
                follower: follower.to_owned(),
                ..Seen::default()
            };
        }
        seen
    }

    /// Returns what the latest look has found. Finished ranges stay finished.
    pub fn known(&self, follower: &str) -> Option<Arc<Coverage>> {
        self.seen(follower).coverage.clone()
    }

    /// Records the start of a stride that was found.
    pub fn has_found<C: Serialize>(&self, follower: &str, start: &C) {
        self.seen(follower).found = PageToken::encode(start).ok();
    }

    /// Returns whether a search begins where the last one ended, so that its result is not waited for.
    pub fn goes_on<C: Serialize>(&self, follower: &str, start: Option<&C>) -> bool {
        let start = start.and_then(|start| PageToken::encode(start).ok());
        start.is_some() && self.seen(follower).found == start
    }

    /// Returns why nothing new is known of the batch.
    pub fn nothing_new(&self, follower: &str) -> String {
        match &self.seen(follower).trouble {
            Some(trouble) => format!("has not begun, or cannot be asked: {trouble}"),
            None => "has finished nothing new".to_owned(),
        }
    }

    pub async fn rest(&self) {
        tokio::time::sleep(LOOK_AGAIN).await;
    }

    /// Looks at the batch. `None` if it has not begun or cannot be asked.
    ///
    /// # Errors
    /// The progress of the batch does not tell which ranges are finished.
    pub async fn look(&self, follower: &str) -> Result<Option<Arc<Coverage>>, PageError> {
        let age = self.seen(follower).ran / LAG;
        let looked = match age < KEPT_FRESH {
            true => self.batch.progress_within(age.max(LOOK_AGAIN)).await,
            false => self.batch.progress().await,
        };
        let progress = match looked {
            Ok(progress) => progress,
            Err(error) => {
                self.seen(follower).trouble = Some(error.to_string());
                return Ok(None);
            }
        };
        // The letters are read after the progress, so that none is missing for a range that is finished in it.
        let letters = self.letters_of(&progress).await?;
        let coverage = Arc::new(Coverage::of(&progress, letters.as_ref())?);
        let mut seen = self.seen(follower);
        seen.ran = progress.as_of.since(progress.started_at);
        seen.coverage = Some(Arc::clone(&coverage));
        seen.trouble = None;
        Ok(Some(coverage))
    }

    async fn letters_of(&self, progress: &Progress) -> Result<Option<Letters>, PageError> {
        let failures = progress.pages_failed + progress.items.failed;
        let Some(store) = self.letters.as_ref().filter(|_| failures > 0) else {
            return Ok(None);
        };
        let filter = LetterFilter::of(self.batch.id());
        let (mut open, mut after) = (Vec::new(), None::<String>);
        while open.len() <= MAX_LETTERS {
            let listed = store.list(&filter, after.as_deref(), MAX_LETTERS).await?;
            let more = listed.len() == MAX_LETTERS;
            after = listed.last().map(|letter| letter.id.clone());
            // Other letters are those of earlier runs of the batch.
            let own = listed
                .into_iter()
                .filter(|letter| letter.batch_run == progress.batch_run);
            open.extend(own);
            if !more {
                break;
            }
        }
        let settled = store.settled(&progress.batch_run).await?;
        Ok(Some(Letters { open, settled }))
    }
}
