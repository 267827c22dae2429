//! Abandoning strides that do not end when their worker does.

use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering},
};

use tokio::sync::watch;

/// Counts running strides, and ends those that would outlive their worker. Clones share their state.
#[derive(Clone, Default)]
pub(crate) struct Abandonment {
    running: Arc<AtomicU32>,
    given_up: Arc<watch::Sender<bool>>,
}

impl Abandonment {
    /// Runs a stride unless it is abandoned. An abandoned stride is dropped together with its heartbeats and
    /// reports nothing, so the server considers its worker lost.
    pub(super) async fn unless_abandoned<T>(&self, stride: impl Future<Output = T>) -> T {
        let _running = Running::new(&self.running);
        let mut given_up = self.given_up.subscribe();
        let given_up = async {
            // The sender lives as long as `self`.
            let _ = given_up.wait_for(|given_up| *given_up).await;
        };
        tokio::select! {
            done = stride => return done,
            () = given_up => {}
        }
        // Any result would be reported.
        std::future::pending().await
    }

    /// Abandons all running strides and returns their number. Each of them is at one page.
    pub(crate) fn abandon(&self) -> u32 {
        let running = self.running.load(Ordering::Acquire);
        self.given_up.send_replace(true);
        running
    }
}

/// Counts a stride while it runs.
struct Running<'a>(&'a AtomicU32);

impl<'a> Running<'a> {
    fn new(count: &'a AtomicU32) -> Self {
        count.fetch_add(1, Ordering::AcqRel);
        Self(count)
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;

    #[tokio::test]
    async fn what_ends_is_not_abandoned() {
        let abandonment = Abandonment::default();
        assert_eq!(abandonment.unless_abandoned(async { 1 }).await, 1);
        assert_eq!(abandonment.abandon(), 0);
    }

    #[tokio::test]
    async fn what_does_not_end_is_dropped_and_never_answers() {
        let abandonment = Abandonment::default();
        let dropped = Arc::new(());
        let held = Arc::clone(&dropped);
        let endless = async move {
            let _held = held;
            std::future::pending::<()>().await;
        };
        let running = abandonment.clone();
        let stride = tokio::spawn(async move { running.unless_abandoned(endless).await });
        while abandonment.running.load(Ordering::Acquire) == 0 {
            tokio::task::yield_now().await;
        }
        assert_eq!(abandonment.abandon(), 1);
        while Arc::strong_count(&dropped) > 1 {
            tokio::task::yield_now().await;
        }
        assert!(stride.now_or_never().is_none());
    }
}
