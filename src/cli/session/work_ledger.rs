//! The ledger that knows whether the work of a command was done before.

use crate::{
    cli::exit::{CliError, CliResult},
    sql::{Database, applied_batches},
};

/// The ledger of a database, and the batches that it is asked for.
pub(crate) struct WorkLedger {
    pub database: Database,
    pub ids: Ids,
}

/// The ids of batches of the same work.
pub(crate) enum Ids {
    Is(String),
    BeginWith(String),
}

/// A batch of which the ledger has pages.
pub(super) struct Applied {
    pub batch_id: String,
    pub strides: u64,
}

impl WorkLedger {
    /// Returns a batch of the same work, if pages of one are applied.
    pub(super) async fn applied(&self) -> CliResult<Option<Applied>> {
        let unread = |error| CliError::failure(format_args!("the ledger cannot be read: {error}"));
        match &self.ids {
            Ids::Is(batch_id) => {
                let strides = self.database.ledger().strides_of(batch_id).await;
                let strides = strides.map_err(unread)?;
                Ok((strides > 0).then(|| Applied {
                    batch_id: batch_id.clone(),
                    strides,
                }))
            }
            Ids::BeginWith(prefix) => {
                let batches = applied_batches(&self.database, prefix).await;
                let mut batches = batches.map_err(unread)?.into_iter();
                Ok(batches.next().map(|batch| Applied {
                    batch_id: batch.batch_id,
                    strides: batch.strides,
                }))
            }
        }
    }
}
