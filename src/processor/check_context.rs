//! The context of a check.

use std::sync::Arc;

use crate::processor::{PageProcessor, stop_signal::Interruption};

/// The scope of a [`PageProcessor::check`].
pub struct CheckContext<P: PageProcessor> {
    pub(crate) args: Arc<P::Args>,
    pub(crate) batch_id: Arc<str>,
    pub(crate) batch_run: Arc<str>,
    /// The exclusive start. `None` is the beginning of the data.
    pub(crate) covered_from: Option<P::Cursor>,
    /// The inclusive end. `None` is the end of the data.
    pub(crate) covered_to: Option<P::Cursor>,
    pub(crate) cancelled: Interruption,
}

impl<P: PageProcessor> CheckContext<P> {
    /// Returns the arguments of the batch, as [`prepare`](PageProcessor::prepare) completed them.
    pub fn args(&self) -> &P::Args {
        &self.args
    }

    /// Returns the id of the batch.
    pub fn batch_id(&self) -> &str {
        &self.batch_id
    }

    /// Returns the id of this execution of the batch; see [`PageContext::batch_run`](crate::PageContext::batch_run).
    pub fn batch_run(&self) -> &str {
        &self.batch_run
    }

    /// Returns the cursor after which the batch began. Data before it must not be checked. `None` if the batch began at
    /// the beginning of the data.
    pub fn covered_from(&self) -> Option<&P::Cursor> {
        self.covered_from.as_ref()
    }

    /// Returns the inclusive end of the finished data. Data after this cursor may be unfinished. `None` once the last
    /// page is finished.
    pub fn covered_to(&self) -> Option<&P::Cursor> {
        self.covered_to.as_ref()
    }

    /// Resolves when the check should end early, because the batch is cancelled or the worker stops.
    pub async fn cancelled(&self) {
        self.cancelled.comes().await;
    }
}
