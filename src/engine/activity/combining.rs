//! Combining outputs of pages, on separate threads. Code that hangs does not affect other batches, and the
//! number of its threads is limited.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{sync::oneshot, time::Instant};

use crate::{
    base::{
        error::{PageError, text::words},
        text::exactly,
    },
    protocol::COMBINE_TIMED_OUT,
};

/// Time limit of one attempt.
const PATIENCE: Duration = Duration::from_secs(10);
/// Interval between checks whether a thread has ended.
const LOOK_AGAIN: Duration = Duration::from_millis(100);
/// Maximum number of threads of one processor, including those that hang.
const MOST_OF_A_PROCESSOR: usize = 32;

/// Runs a user's combining code.
pub(super) struct Combining {
    patience: Duration,
    places: Arc<Places>,
}

/// The current calls, as processor and workflow.
type Places = Mutex<Vec<(String, String)>>;

impl Default for Combining {
    fn default() -> Self {
        Self {
            patience: PATIENCE,
            places: Arc::default(),
        }
    }
}

impl Combining {
    /// Runs the code on a thread. A thread cannot be ended from outside, so a workflow whose last attempt hangs
    /// gets no other thread.
    pub async fn run<T: Send + 'static>(
        &self,
        (processor, workflow): (&str, &str),
        work: impl FnOnce() -> Result<T, PageError> + Send + 'static,
    ) -> Result<T, PageError> {
        let until = Instant::now() + self.patience;
        let place = loop {
            match self.take(processor, workflow) {
                Err(_) if Instant::now() < until => tokio::time::sleep(LOOK_AGAIN).await,
                taken => break taken?,
            }
        };
        let (sender, done) = oneshot::channel();
        let body = move || {
            let combined = catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| {
                let panic = PageError::panicked(&*panic);
                Err(PageError::non_retryable(
                    panic.error_type(),
                    panic.message(),
                ))
            });
            // The place is released before the answer, because another attempt may follow it.
            drop(place);
            let _ = sender.send(combined);
        };
        let thread = std::thread::Builder::new().name("combine".to_owned());
        thread
            .spawn(body)
            .map_err(|e| busy(format!("cannot start a thread: {}", words(&e))))?;
        match tokio::time::timeout_at(until, done).await {
            Ok(Ok(combined)) => combined,
            Ok(Err(_)) | Err(_) => Err(timed_out(format!(
                "no result within {}",
                exactly(self.patience)
            ))),
        }
    }

    fn take(&self, processor: &str, workflow: &str) -> Result<Place, PageError> {
        let mut places = locked(&self.places);
        let mut of_processor = 0;
        for (of, by) in &*places {
            if by == workflow {
                let why = "an earlier attempt is still running";
                return Err(timed_out(why.to_owned()));
            }
            of_processor += usize::from(of == processor);
        }
        if of_processor >= MOST_OF_A_PROCESSOR {
            let why = format!("{of_processor} other calls of its processor are still running");
            return Err(busy(why));
        }
        let entry = (processor.to_owned(), workflow.to_owned());
        places.push(entry.clone());
        Ok(Place(Arc::clone(&self.places), entry))
    }
}

fn locked(places: &Places) -> MutexGuard<'_, Vec<(String, String)>> {
    places.lock().unwrap_or_else(PoisonError::into_inner)
}

fn timed_out(why: String) -> PageError {
    PageError::retryable(why).with_type(COMBINE_TIMED_OUT)
}

fn busy(why: String) -> PageError {
    PageError::retryable(why).with_type("CombineBusy")
}

/// A place for a call, released when its thread ends.
struct Place(Arc<Places>, (String, String));

impl Drop for Place {
    fn drop(&mut self) {
        locked(&self.0).retain(|place| *place != self.1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn code_that_hangs_has_one_thread_for_each_workflow_and_leaves_others_alone() {
        let combining = Combining {
            patience: Duration::from_secs(2),
            ..Combining::default()
        };
        let (release, held) = std::sync::mpsc::channel::<()>();
        let hangs = combining.run(("sums", "a"), move || {
            let _ = held.recv();
            Ok(1)
        });
        let late = hangs.await.unwrap_err();
        assert_eq!(late.error_type(), COMBINE_TIMED_OUT);
        let again = combining.run(("sums", "a"), || -> Result<u8, _> {
            unreachable!("it has a second thread")
        });
        let again = again.await.unwrap_err();
        assert_eq!(again.error_type(), COMBINE_TIMED_OUT);
        assert_eq!(combining.run(("sums", "b"), || Ok(3)).await.unwrap(), 3);
        drop(release);
        assert_eq!(combining.run(("sums", "a"), || Ok(4)).await.unwrap(), 4);
    }

    #[test]
    fn the_threads_of_one_processor_are_bounded() {
        let combining = Combining::default();
        let take = |processor, n: usize| combining.take(processor, &n.to_string());
        let mut places: Vec<_> = (0..MOST_OF_A_PROCESSOR)
            .map(|n| take("sums", n).unwrap_or_else(|e| panic!("{e:?}")))
            .collect();
        let Err(refused) = take("sums", 100) else {
            panic!("it was not refused");
        };
        assert_eq!(refused.error_type(), "CombineBusy");
        assert!(take("others", 200).is_ok());
        places.pop();
        assert!(take("sums", 100).is_ok());
    }

    #[tokio::test]
    async fn a_panic_is_an_error_that_no_attempt_cures() {
        let combining = Combining::default();
        let panics = combining.run(("sums", "a"), || -> Result<(), _> { panic!("made to") });
        let panicked = panics.await.unwrap_err();
        assert_eq!(panicked.error_type(), "Panic");
        assert!(!panicked.is_retryable());
        assert!(locked(&combining.places).is_empty());
    }
}
