//! The start of a session: starts its batch, or finds that the batch runs or has ended.

use std::sync::Arc;

use crate::{
    cli::{
        dead_letters::repair::Repair,
        exit::{CliError, CliResult, Exit},
        output::{count, note},
        render::batch_view::BatchView,
        session::Session,
    },
    engine::client::{BatchClient, BatchHandle, BatchStatus, ProgressError, StartError},
    progress::report::BatchReport,
};

impl Session<'_> {
    pub(super) async fn start(&self, client: &BatchClient) -> CliResult<BatchHandle> {
        if self.joins {
            return Ok(client.handle(self.batch.id())?);
        }
        client.start(&self.batch).await.map_err(|error| {
            let hint = match &error {
                StartError::AlreadyRunning { .. } | StartError::AlreadyEnded { .. }
                    if self.batch.spec.redrive_of.is_some() =>
                {
                    "--batch-id names another batch"
                }
                StartError::RunsDifferently { .. } => {
                    "the database, the table or the work is another one; --batch-id names another batch"
                }
                StartError::AlreadyEnded {
                    state: BatchStatus::Failed | BatchStatus::Cancelled,
                    ..
                } => "--continue picks up where it stood, --rerun does everything again",
                StartError::AlreadyEnded { .. } => "--rerun does everything again",
                _ => return error.into(),
            };
            CliError::from(error).hint(hint)
        })
    }

    /// Refuses a batch that Temporal has forgotten but the ledger has not: a new batch would apply its pages a second
    /// time.
    async fn is_new(&self) -> CliResult<()> {
        let Some(ledger) = &self.ledger else {
            return Ok(());
        };
        let id = self.batch.id();
        let strides = ledger.strides_of(id).await;
        let strides = strides.map_err(|error| {
            CliError::failure(format_args!("the ledger cannot be read: {error}"))
        })?;
        if strides == 0 {
            return Ok(());
        }
        Err(CliError::failure(format_args!(
            "Temporal does not know batch \"{id}\", but the ledger of the database has pages that it has applied, in \
             {}: Temporal has forgotten the batch, or is another server",
            count(strides, "stride")
        ))
        .hint("a new batch with this id processes all rows again, including the finished ones; --rerun starts it"))
    }

    /// Reports a batch that has completed already, instead of running it again. `None` if the batch has still work to
    /// do.
    pub(super) async fn done_already(&self, client: &BatchClient) -> CliResult<Option<Exit>> {
        let batch = &self.batch;
        if batch.rerun || batch.continues || self.joins {
            return Ok(None);
        }
        let handle = client.handle(batch.id())?;
        match handle.state().await {
            Ok(BatchStatus::Completed) => {}
            Ok(_) => return Ok(None),
            Err(ProgressError::NotFound { .. }) => return self.is_new().await.map(|()| None),
            Err(error) => return Err(error.into()),
        }
        let id = batch.id();
        if let Some(differs) = client.differs(batch).await? {
            return Err(CliError::failure(format_args!(
                "a batch \"{id}\" has ended already and is not the same: {differs}"
            ))
            .hint("--batch-id names another batch, --rerun uses the id again"));
        }
        let report = handle.result().await?;
        let repair = match &self.letters {
            Some(letters) => {
                let store = async || Ok(Arc::clone(letters));
                Repair::in_store(client, &report.progress, store).await?
            }
            None => None,
        };
        note(format_args!(
            "batch \"{id}\" is done already, and nothing was changed now; --rerun runs it once more"
        ));
        self.tell(report, repair).map(Some)
    }

    pub(super) fn tell(&self, report: BatchReport, repair: Option<Repair>) -> CliResult {
        let exit = Exit::of(&report);
        let _ = self.ended_run.set(report.progress.batch_run.clone());
        let look = BatchView::ended(report).with_repair(repair);
        look.print(self.json, self.program);
        Ok(exit)
    }
}
