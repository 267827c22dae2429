//! How many strides a controller hands to its own worker past the task queue.
//!
//! A stride that comes back with the answer to a workflow task needs no way through the queue, which is most of
//! what a short stride takes. But all of them go to the worker that has the controller: other workers would get
//! none, and with few free slots other batches would not get their share. So a worker says how many it is for.

use serde::{Deserialize, Serialize};

use crate::base::time::Timestamp;

/// As many as the SDK asks for unless told otherwise: what counts until a worker has said something.
const EAGER_STRIDES: u32 = 3;

/// The strides of a workflow task that may go past the queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "u32", into = "u32")]
pub(crate) struct EagerStrides {
    allowed: u32,
    given: u32,
    /// Which task it was, by its time.
    task: Option<Timestamp>,
}

impl Default for EagerStrides {
    fn default() -> Self {
        Self::from(EAGER_STRIDES)
    }
}

impl From<u32> for EagerStrides {
    fn from(allowed: u32) -> Self {
        Self {
            allowed,
            given: 0,
            task: None,
        }
    }
}

impl From<EagerStrides> for u32 {
    fn from(strides: EagerStrides) -> Self {
        strides.allowed
    }
}

impl EagerStrides {
    /// What the worker of the latest stride said.
    pub fn allow(&mut self, strides: Option<u32>) {
        self.allowed = strides.unwrap_or(EAGER_STRIDES);
    }

    /// Whether one more may, in the workflow task of this time.
    pub fn take(&mut self, task: Timestamp) -> bool {
        if self.task != Some(task) {
            (self.task, self.given) = (Some(task), 0);
        }
        let may = self.given < self.allowed;
        self.given += u32::from(may);
        may
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_old_worker_says_nothing() {
        let mut strides = EagerStrides::from(100);
        strides.allow(None);
        assert_eq!(u32::from(strides), EAGER_STRIDES);
        assert_eq!(strides, EagerStrides::default());
    }

    proptest! {
        #[test]
        fn a_task_hands_out_as_many_as_are_allowed(
            allowed in 0..20_u32, tasks in prop::collection::vec(0..30_u32, 1..10),
        ) {
            let mut strides = EagerStrides::from(allowed);
            for (at, asked) in (0..).zip(tasks) {
                let handed = (0..asked).filter(|_| strides.take(Timestamp(at))).count();
                prop_assert_eq!(handed, asked.min(allowed) as usize);
            }
        }
    }
}
