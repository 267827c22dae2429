//! The signal by which a running page learns that it should stop.

use tokio::sync::watch;

/// The orders given to a running stride.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Told {
    /// The stride ends at the next page boundary and waits for nothing.
    pub stop: bool,
    /// Unfinished pages are dropped too, where that is safe.
    pub stop_now: bool,
    /// The batch is cancelled, or the worker must end.
    pub cancelled: bool,
    /// The batch run has ended, or another run has its id. Pages must no longer be processed.
    pub gone: bool,
}

impl Told {
    /// Returns whether no further page may begin.
    pub fn must_stop(self) -> bool {
        self.stop || self.stop_now || self.cancelled || self.gone
    }
}

/// The part of the orders that a page sees.
#[derive(Clone)]
pub(crate) struct Interruption {
    told: watch::Receiver<Told>,
    heeds_stop_now: bool,
}

impl Interruption {
    /// Returns whether a page that ends early will run again.
    pub fn may_repeat(&self) -> bool {
        self.heeds_stop_now
    }

    /// Creates the view of a page. `heeds_stop_now` means that a page ended early by a pause will run again.
    pub fn new(told: watch::Receiver<Told>, heeds_stop_now: bool) -> Self {
        Self {
            told,
            heeds_stop_now,
        }
    }

    /// Returns the view of a page that is never interrupted.
    pub fn never() -> Self {
        Self::new(watch::channel(Told::default()).1, false)
    }

    pub fn has_come(&self) -> bool {
        self.means(*self.told.borrow())
    }

    fn means(&self, told: Told) -> bool {
        told.cancelled || told.gone || (self.heeds_stop_now && told.stop_now)
    }

    /// Resolves when the page should end early.
    pub async fn comes(&self) {
        let mut told = self.told.clone();
        if told.wait_for(|told| self.means(*told)).await.is_err() {
            // The sender is gone, so the signal never comes.
            std::future::pending::<()>().await;
        }
    }
}
