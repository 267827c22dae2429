//! The signal by which running work learns that it should stop.

use tokio::sync::watch;

/// The signal to a running stride, or to a check.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct StopSignal {
    /// The stride ends at the next page boundary and waits for nothing.
    pub stop: bool,
    /// Unfinished pages are dropped too, where that is safe.
    pub stop_now: bool,
    /// The batch is cancelled, or the worker must end.
    pub cancelled: bool,
    /// The batch run has ended, or another run has its id. Pages must no longer be processed.
    pub gone: bool,
}

impl StopSignal {
    /// Returns whether no further page may begin.
    pub fn must_stop(self) -> bool {
        self.stop || self.stop_now || self.cancelled || self.gone
    }
}

/// Resolves when the signal is as asked for.
pub(crate) async fn until(
    mut signal: watch::Receiver<StopSignal>,
    is_meant: impl Fn(StopSignal) -> bool,
) {
    if signal.wait_for(|signal| is_meant(*signal)).await.is_err() {
        // The sender is gone, so the signal never comes.
        std::future::pending::<()>().await;
    }
}

/// The view that a page or a check has of the signal.
#[derive(Clone)]
pub(crate) struct Interruption {
    signal: watch::Receiver<StopSignal>,
    may_repeat: bool,
}

impl Interruption {
    /// Creates the view of a page. With `may_repeat`, a page that a pause ends early will run again.
    pub fn new(signal: watch::Receiver<StopSignal>, may_repeat: bool) -> Self {
        Self { signal, may_repeat }
    }

    /// Returns the view of a page that is never interrupted.
    pub fn never() -> Self {
        Self::new(watch::channel(StopSignal::default()).1, false)
    }

    /// Returns whether a page that ends early will run again.
    pub fn may_repeat(&self) -> bool {
        self.may_repeat
    }

    pub fn has_come(&self) -> bool {
        self.is_meant(*self.signal.borrow())
    }

    fn is_meant(&self, signal: StopSignal) -> bool {
        signal.cancelled || signal.gone || (self.may_repeat && signal.stop_now)
    }

    /// Resolves when the page should end early.
    pub async fn comes(&self) {
        until(self.signal.clone(), |signal| self.is_meant(signal)).await;
    }
}
