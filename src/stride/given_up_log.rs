//! The log of items that were given up: at most one line a second, with a count of the others.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

/// The minimum time between two lines of this process.
const EVERY: Duration = Duration::from_secs(1);

static LOG: GivenUpLog = GivenUpLog::new();

/// Logs an item that was given up, or counts it.
pub(super) fn item_given_up(key: &str, error_type: &str, message: &str) {
    match LOG.add(Instant::now()) {
        Next::Line => tracing::warn!(key, error_type, message, "item given up"),
        Next::Counted => {}
        // The timer makes sure that the last items of a batch are reported too.
        Next::FirstCounted => {
            if let Ok(runtime) = tokio::runtime::Handle::try_current() {
                runtime.spawn(async {
                    tokio::time::sleep(EVERY).await;
                    let items = LOG.take();
                    if items > 0 {
                        tracing::warn!(items, "more items given up; `failures` lists them");
                    }
                });
            }
        }
    }
}

struct GivenUpLog(Mutex<Counted>);

struct Counted {
    last: Option<Instant>,
    others: u64,
}

#[derive(Debug, PartialEq, Eq)]
enum Next {
    Line,
    /// The item is reported together with those that follow.
    FirstCounted,
    Counted,
}

impl GivenUpLog {
    const fn new() -> Self {
        Self(Mutex::new(Counted {
            last: None,
            others: 0,
        }))
    }

    fn add(&self, now: Instant) -> Next {
        let mut counted = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let due = counted
            .last
            .is_none_or(|last| now.duration_since(last) >= EVERY);
        if due && counted.others == 0 {
            counted.last = Some(now);
            return Next::Line;
        }
        counted.others += 1;
        match counted.others {
            1 => Next::FirstCounted,
            _ => Next::Counted,
        }
    }

    /// Returns and resets the number of items not yet reported.
    fn take(&self) -> u64 {
        let mut counted = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        counted.last = Some(Instant::now());
        std::mem::take(&mut counted.others)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_many_items_one_is_a_line_and_the_others_are_counted() {
        let log = GivenUpLog::new();
        let start = Instant::now();
        assert_eq!(log.add(start), Next::Line);
        assert_eq!(log.add(start), Next::FirstCounted);
        for _ in 0..370 {
            assert_eq!(log.add(start + EVERY / 2), Next::Counted);
        }
        assert_eq!(log.take(), 371);
        assert_eq!(log.take(), 0);
        // The line with the count restarts the interval, too.
        assert_eq!(log.add(Instant::now()), Next::FirstCounted);
        assert_eq!(log.take(), 1);
        let later = Instant::now() + EVERY;
        assert_eq!(log.add(later), Next::Line);
    }
}
