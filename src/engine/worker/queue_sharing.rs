//! Who else works on the task queue of a worker, and how many strides therefore go past the queue.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU8, AtomicU32, Ordering},
    },
    time::Duration,
};

use temporalio_client::{Client, NamespacedClient as _};
use tokio::sync::watch;

use crate::engine::client::Workers;

const LOOK_EVERY: Duration = Duration::from_secs(5);

/// Most strides that go past the queue with one workflow task, where nobody else is there to take them.
pub(super) const EAGER_ALONE: u32 = 100;

/// What a worker knows of itself and the others.
#[derive(Debug)]
pub(crate) struct Company {
    /// As set.
    fixed: Option<u32>,
    slots: u32,
    busy: AtomicU32,
    /// As far as the server has seen.
    others: AtomicU8,
}

/// Nobody knows.
const UNKNOWN: u8 = 0;
const ALONE: u8 = 1;
const SHARED: u8 = 2;

impl Company {
    pub fn new(fixed: Option<u32>, slots: u32) -> Arc<Self> {
        Arc::new(Self {
            fixed,
            slots,
            busy: AtomicU32::new(0),
            others: AtomicU8::new(UNKNOWN),
        })
    }

    /// Strides that a workflow task may hand to this worker past the queue, if not as many as usual.
    pub fn eager_strides(&self) -> Option<u32> {
        if self.fixed.is_some() {
            return self.fixed;
        }
        match self.others.load(Ordering::Relaxed) {
            // With few free slots the queue decides whose stride is next.
            ALONE => (self.busy.load(Ordering::Relaxed) <= self.slots / 2).then_some(EAGER_ALONE),
            // Else this worker would have all strides in the end, since it is asked first for each.
            SHARED => Some(0),
            _ => None,
        }
    }

    /// A slot is taken until the guard is dropped.
    pub fn occupy(self: &Arc<Self>) -> Occupied {
        self.busy.fetch_add(1, Ordering::Relaxed);
        Occupied(Arc::clone(self))
    }
}

/// A slot that is taken.
pub(crate) struct Occupied(Arc<Company>);

impl Drop for Occupied {
    fn drop(&mut self) {
        self.0.busy.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Keeps it up to date until the worker drains.
pub(super) async fn watch(
    company: Arc<Company>,
    client: Client,
    task_queue: String,
    mut draining: watch::Receiver<bool>,
) {
    if company.fixed.is_some() {
        return;
    }
    let look = async {
        let mine = client.identity();
        loop {
            let seen = Workers::of(&client, &task_queue).await;
            let others = match seen {
                Ok(seen) if seen.polling.iter().all(|w| w.identity == mine) => ALONE,
                Ok(_) => SHARED,
                Err(_) => UNKNOWN,
            };
            company.others.store(others, Ordering::Relaxed);
            tokio::time::sleep(LOOK_EVERY).await;
        }
    };
    tokio::select! {
        () = look => {}
        // An error means that the worker is gone.
        _ = draining.wait_for(|draining| *draining) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_than_usual_go_past_the_queue_only_where_nobody_else_wants_them() {
        let company = Company::new(None, 4);
        assert_eq!(company.eager_strides(), None, "nobody has been asked");
        company.others.store(ALONE, Ordering::Relaxed);
        assert_eq!(company.eager_strides(), Some(EAGER_ALONE));
        let two = [company.occupy(), company.occupy()];
        assert_eq!(company.eager_strides(), Some(EAGER_ALONE));
        let third = company.occupy();
        assert_eq!(company.eager_strides(), None, "slots are short");
        drop((two, third));
        assert_eq!(company.eager_strides(), Some(EAGER_ALONE));
        company.others.store(SHARED, Ordering::Relaxed);
        assert_eq!(company.eager_strides(), Some(0));
    }

    #[test]
    fn what_is_set_counts() {
        let company = Company::new(Some(7), 1);
        let _busy = [company.occupy(), company.occupy()];
        assert_eq!(company.eager_strides(), Some(7));
    }
}
