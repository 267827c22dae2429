//! The start of a session: starts its batch, or finds that the batch runs or has ended.

use std::sync::Arc;

use crate::{
    cli::{
        dead_letters::repair::Repair,
        exit::{CliError, CliResult, Exit},
        output::note,
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
                    "--batch-id names another batch".to_owned()
                }
                StartError::RunsDifferently { .. } => {
                    "the database, the table or the work is another one; --batch-id names another batch".to_owned()
                }
                StartError::AlreadyEnded {
                    state: BatchStatus::Failed | BatchStatus::Cancelled,
                    ..
                } => format!("--continue picks up where it stood; {}", self.rerun),
                StartError::AlreadyEnded { .. } => self.rerun.clone(),
                _ => return error.into(),
            };
            CliError::from(error).hint(hint)
        })
    }

    /// Refuses a batch that Temporal has forgotten but the ledger has not: a new batch would apply its pages a second
    /// time. The same holds for a batch of the same work that was started by another way to the database.
    #[cfg(any(feature = "sqlite", feature = "postgres", feature = "mysql"))]
    async fn is_new(&self) -> CliResult<()> {
        let Some(ledger) = &self.ledger else {
            return Ok(());
        };
        let Some(applied) = ledger.applied().await? else {
            return Ok(());
        };
        let (id, rerun) = (self.batch.id(), &self.rerun);
        let strides = crate::cli::output::count(applied.strides, "stride");
        if applied.batch_id == id {
            return Err(CliError::failure(format_args!(
                "Temporal does not know batch \"{id}\", but the ledger of the database has pages that it has applied, \
                 in {strides}: Temporal has forgotten the batch, or is another server"
            ))
            .hint(format!(
                "a new batch with this id processes all rows, including the finished ones; {rerun}"
            )));
        }
        let other = &applied.batch_id;
        let status = self.program.of_batch("status", other);
        Err(CliError::failure(format_args!(
            "batch \"{other}\" has done this work before: the ledger of the database has its pages, in {strides}. Its \
             database was given in another way, or is a copy of this one"
        ))
        .hint(format!("`{status}` shows it; {rerun}")))
    }

    #[cfg(not(any(feature = "sqlite", feature = "postgres", feature = "mysql")))]
    async fn is_new(&self) -> CliResult<()> {
        Ok(())
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
            .hint(format!("--batch-id names another batch; {}", self.rerun)));
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
            "batch \"{id}\" is done already, and nothing was changed now; {}",
            self.rerun
        ));
        self.tell(report, repair).map(Some)
    }

    pub(super) fn tell(&self, report: BatchReport, repair: Option<Repair>) -> CliResult {
        let exit = Exit::of(&report);
        let progress = &report.progress;
        let _ = self
            .ended_run
            .set((progress.batch_run.clone(), progress.items));
        let look = BatchView::ended(report).with_repair(repair);
        look.print(self.json, self.program);
        Ok(exit)
    }
}
