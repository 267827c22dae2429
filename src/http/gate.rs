//! The gate that all calls of one API in this process pass.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use super::pace::{Advice, Pace};

/// The shared pace, on the clock of this process.
#[derive(Debug)]
pub(super) struct Gate {
    pace: Mutex<Pace>,
    began: Instant,
}

/// A call in flight. Dropping it without an answer counts it as lost.
pub(super) struct Passed {
    gate: Arc<Gate>,
    started: Duration,
    answered: bool,
}

impl Gate {
    pub fn new() -> Self {
        Self {
            pace: Mutex::default(),
            began: Instant::now(),
        }
    }

    fn pace(&self) -> MutexGuard<'_, Pace> {
        self.pace.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> Duration {
        self.began.elapsed()
    }

    /// Returns how long all calls have to wait.
    pub fn held(&self) -> Duration {
        self.pace().held(self.now())
    }

    /// Waits until a call may start.
    pub async fn opens(&self) {
        loop {
            let wait = self.pace().wait(self.now());
            if wait.is_zero() {
                return;
            }
            tokio::time::sleep(wait).await;
        }
    }

    /// Lets a call pass. `None` if the API asked to wait in the meantime.
    pub fn pass(self: &Arc<Self>) -> Option<Passed> {
        let started = self.now();
        let mut pace = self.pace();
        if !pace.held(started).is_zero() {
            return None;
        }
        pace.starts();
        drop(pace);
        Some(Passed {
            gate: Arc::clone(self),
            started,
            answered: false,
        })
    }
}

impl Passed {
    /// Takes note of the answer.
    pub fn answered(mut self, refused: bool, advice: Advice) {
        self.answered = true;
        let now = self.gate.now();
        self.gate
            .pace()
            .answered(self.started, now, refused, advice);
    }
}

impl Drop for Passed {
    fn drop(&mut self) {
        if !self.answered {
            self.gate.pace().lost();
        }
    }
}
