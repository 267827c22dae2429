//! How a running page hears that it should not go on.

use tokio::sync::watch;

/// What a running stride is told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Told {
    /// End at the next page boundary, and wait for nothing any more.
    pub stop: bool,
    /// Finish no page either, where that is safe.
    pub stop_now: bool,
    /// The batch is cancelled, or the worker must end.
    pub cancelled: bool,
    /// The batch run is over, or another one has its id: no page may be processed any more.
    pub gone: bool,
}

impl Told {
    /// Whether no further page may begin.
    pub fn must_stop(self) -> bool {
        self.stop || self.stop_now || self.cancelled || self.gone
    }
}

/// What a page sees of it.
#[derive(Clone)]
pub(crate) struct Interruption {
    told: watch::Receiver<Told>,
    heeds_stop_now: bool,
}

impl Interruption {
    /// Whether a page that ends early will be run again.
    pub fn may_repeat(&self) -> bool {
        self.heeds_stop_now
    }

    /// `heeds_stop_now`: a page that ends early because of a pause will be run again.
    pub fn new(told: watch::Receiver<Told>, heeds_stop_now: bool) -> Self {
        Self {
            told,
            heeds_stop_now,
        }
    }

    /// Of a page that nobody can interrupt.
    pub fn never() -> Self {
        Self::new(watch::channel(Told::default()).1, false)
    }

    pub fn has_come(&self) -> bool {
        self.means(*self.told.borrow())
    }

    fn means(&self, told: Told) -> bool {
        told.cancelled || told.gone || (self.heeds_stop_now && told.stop_now)
    }

    /// Resolves when it has come.
    pub async fn comes(&self) {
        let mut told = self.told.clone();
        if told.wait_for(|told| self.means(*told)).await.is_err() {
            // Nobody is left who could tell.
            std::future::pending::<()>().await;
        }
    }
}
