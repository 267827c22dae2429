//! A batch and a worker for it in one process, from its start to its end, or until it is interrupted.

use std::{
    future::Future,
    net::SocketAddr,
    pin::pin,
    sync::{Arc, OnceLock},
    time::Duration,
};

use crate::{
    batch::Batch,
    cli::{
        args::{pacing::PacingArgs, temporal_server::ConnectionArgs},
        commands::worker::serve,
        exit::{CliError, CliResult, Exit},
        render::{
            batch_view::Look,
            follow::{Followed, Style, follow},
            next::SQL_PROCESSORS,
            output::{self, count, note},
            repair::Repair,
            web_ui,
        },
        session::joined,
        shell::{DEFAULT_CONNECTION, Program},
    },
    engine::{
        client::{AcceptError, BatchClient, BatchHandle, BatchState, ProgressError, StartError},
        worker::{RunningWorker, Worker, WorkerError, shutdown_signal},
    },
    metrics::Metrics,
    processor::{
        hooks::Hooks,
        store::{dead_letter::DeadLetters, page_ledger::PageLedger},
        throttle::Throttles,
    },
    progress::report::BatchReport,
    stride::registry::Registry,
};

/// This worker is usually the only one, so nothing is lost when it takes all strides without a way through the
/// task queue.
const EAGER_STRIDES: u32 = 100;

/// The batch, and how it is told of.
pub struct Run<'a> {
    pub batch: Batch,
    pub program: &'a Program,
    /// The limits that were given.
    pub pacing: &'a PacingArgs,
    pub json: bool,
    pub drain_timeout: Duration,
    /// The batch run, once it has been told how it ended.
    pub ended_run: OnceLock<String>,
    /// This program has started the batch before, and no other worker works for it.
    pub joins: bool,
    /// The ledger of a batch that is applied once per page.
    pub ledger: Option<Arc<dyn PageLedger>>,
    /// The dead letters of the batch, where it keeps them.
    pub letters: Option<Arc<dyn DeadLetters>>,
}

/// The parts of the worker that runs in this process.
pub struct Crew {
    /// With the processor of the batch.
    pub registry: Registry,
    pub hooks: Hooks,
    pub throttles: Throttles,
    pub metrics_address: Option<SocketAddr>,
    pub max_pages: u32,
}

/// The advice for a batch that no worker works for.
pub fn no_worker(batch: &Batch, program: &Program) -> String {
    let queue = &batch.task_queue;
    let worker = program.worker(queue, of_sql(batch));
    format!("no worker answers on task queue \"{queue}\"; start one with `{worker}`")
}

/// The commands for a batch that is left to workers.
pub fn followed_by(batch_id: &str, program: &Program) -> String {
    format!(
        "`{}` follows it, `{}` ends it",
        program.of_batch("watch", batch_id),
        program.of_batch("cancel", batch_id)
    )
}

/// The connection of a batch whose processor runs SQL that comes with it.
fn of_sql(batch: &Batch) -> Option<&str> {
    let name = batch.spec.processor.as_str();
    if !SQL_PROCESSORS.contains(&name) {
        return None;
    }
    let args = &batch.spec.args;
    // A redrive has the arguments of the batch in its own.
    let args = match batch.spec.redrive_of {
        Some(_) => args.get("args")?,
        None => args,
    };
    let connection = args.get("connection").and_then(|name| name.as_str());
    Some(connection.unwrap_or(DEFAULT_CONNECTION))
}

impl Run<'_> {
    /// Starts the batch and leaves it to other workers.
    #[cfg(any(feature = "sqlite", feature = "postgres", feature = "mysql"))]
    pub async fn detached(&self, connection: &ConnectionArgs) -> CliResult {
        let connected = connection.connect().await?;
        let client = &connected.client;
        let exit = async {
            if let Some(exit) = self.done_already(client).await? {
                return Ok(exit);
            }
            let handle = self.start(client).await?;
            match handle.accepted().await {
                Err(refused @ AcceptError::Refused { .. }) => return Err(refused.into()),
                Err(AcceptError::Unknown(ProgressError::NoWorker { .. })) => {
                    note(no_worker(&self.batch, self.program));
                }
                Err(waits @ AcceptError::NoProcessor { .. }) => note(waits),
                Err(AcceptError::Unknown(error)) => note(CliError::from(error)),
                Ok(()) => {}
            }
            let (id, program) = (handle.id(), self.program);
            joined::tell(&handle, self.pacing, None, program).await;
            match self.json {
                true => {
                    output::json(&Look::at(&handle, program).await?);
                }
                false => {
                    output::result(id);
                    web_ui::tell(id);
                }
            }
            note(followed_by(id, program));
            Ok(Exit::Done)
        };
        let exit = exit.await;
        connected.close().await?;
        exit
    }

    /// Works for the batch until it ends, which somebody else may have started and may work for too.
    pub async fn attended(&self, connection: &ConnectionArgs, crew: Crew) -> CliResult {
        let stop = shutdown_signal().map_err(WorkerError::Signals)?;
        let mut stop = pin!(stop);
        let metrics = Metrics::new();
        let _serving = serve(crew.metrics_address, &metrics).await?;
        let connected = tokio::select! {
            connected = connection.connect_with(&metrics) => connected?,
            () = &mut stop => return Ok(Exit::Interrupted),
        };
        let exit = self.work(&connected.client, crew, metrics, stop).await;
        let closed = connected.close().await;
        let exit = exit?;
        closed?;
        Ok(exit)
    }

    async fn work(
        &self,
        client: &BatchClient,
        crew: Crew,
        metrics: Metrics,
        stop: impl Future<Output = ()>,
    ) -> CliResult {
        let mut stop = pin!(stop);
        let done = tokio::select! {
            done = self.done_already(client) => done?,
            () = &mut stop => return Ok(Exit::Interrupted),
        };
        if let Some(exit) = done {
            return Ok(exit);
        }
        let slots = crew.max_pages;
        let mut worker = Worker::new(client.temporal().clone(), &self.batch.task_queue)
            .registry(crew.registry)
            .hooks(crew.hooks)
            .throttles(crew.throttles)
            .metrics(metrics)
            .max_pages(crew.max_pages)
            .eager_strides(EAGER_STRIDES)
            .drain_timeout(self.drain_timeout)
            .start()?;
        let followed = self.see_through(client, (&mut worker, slots), stop).await;
        match followed {
            Ok(Some(report)) => {
                worker.stop().await?;
                self.tell(*report, None)
            }
            Ok(None) => self.leave(worker).await,
            Err(error) => {
                // What is wrong matters more than how the worker ends.
                let _ = worker.stop().await;
                // Another process may have brought the batch to its end in between.
                match self.done_already(client).await {
                    Ok(Some(exit)) => Ok(exit),
                    Ok(None) | Err(_) => Err(error),
                }
            }
        }
    }

    /// `None`: interrupted.
    async fn see_through(
        &self,
        client: &BatchClient,
        (worker, slots): (&mut RunningWorker, u32),
        stop: impl Future<Output = ()>,
    ) -> CliResult<Option<Box<BatchReport>>> {
        let mut stop = pin!(stop);
        let handle = tokio::select! {
            started = self.start(client) => started?,
            () = &mut stop => return Ok(None),
        };
        note(format_args!("batch \"{}\" runs", handle.id()));
        if !self.json {
            web_ui::tell(handle.id());
        }
        let accepted = tokio::select! {
            accepted = handle.accepted() => accepted,
            () = &mut stop => return Ok(None),
        };
        match accepted {
            Err(refused @ AcceptError::Refused { .. }) => return Err(refused.into()),
            Err(AcceptError::Unknown(ProgressError::NoWorker { .. })) => {
                note(
                    "the batch is being prepared; transactions that are older than it are waited for",
                );
            }
            Err(waits @ AcceptError::NoProcessor { .. }) => note(waits),
            Err(AcceptError::Unknown(error)) => note(CliError::from(error)),
            Ok(()) => {}
        }
        tokio::select! {
            () = joined::tell(&handle, self.pacing, Some(slots), self.program) => {}
            () = &mut stop => return Ok(None),
        }
        let mut broken = None;
        let until = async {
            tokio::select! {
                ended = worker.ended() => broken = Some(ended),
                () = stop => {}
            }
        };
        let busy = "the worker is busy";
        let style = Style::new(self.json);
        let followed = follow(&handle, style, busy, self.program, until).await;
        match (followed, broken) {
            (Followed::Ended(report), _) => Ok(Some(report)),
            (Followed::Lost(error), _) => Err(error.into()),
            (Followed::Detached, None) => Ok(None),
            (Followed::Detached, Some(Err(error))) => Err(error.into()),
            (Followed::Detached, Some(Ok(()))) => {
                Err(CliError::failure("the worker ended by itself"))
            }
        }
    }

    fn tell(&self, report: BatchReport, repair: Option<Repair>) -> CliResult {
        let exit = Exit::of(&report);
        let _ = self.ended_run.set(report.progress.batch_run.clone());
        let look = Look::ended(report).with_repair(repair);
        if self.json {
            output::json(&look);
        } else {
            output::result(look.table());
            look.hint(self.program);
        }
        Ok(exit)
    }

    /// Interrupted: the pages that run are finished, the batch stays.
    async fn leave(&self, worker: RunningWorker) -> CliResult {
        note(format_args!(
            "interrupted: running pages are finished, for at most {}; a second Ctrl-C stops at once",
            humantime::format_duration(self.drain_timeout)
        ));
        let again = shutdown_signal().map_err(WorkerError::Signals)?;
        tokio::select! {
            drained = worker.stop() => drained?,
            () = again => note("stopped without waiting; pages that ran are run again"),
        }
        let (id, program) = (self.batch.id(), self.program);
        note(format_args!(
            "batch \"{id}\" stays where it is: the same command goes on with it, `{}` ends it",
            program.of_batch("cancel", id)
        ));
        Ok(Exit::Interrupted)
    }

    async fn start(&self, client: &BatchClient) -> CliResult<BatchHandle> {
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
                    state: BatchState::Failed | BatchState::Cancelled,
                    ..
                } => "--continue goes on where it stood, --rerun does everything again",
                StartError::AlreadyEnded { .. } => "--rerun does everything again",
                _ => return error.into(),
            };
            CliError::from(error).hint(hint)
        })
    }

    /// Temporal does not know the batch, but the database may: a new one would apply the pages once more.
    async fn is_new(&self) -> CliResult<()> {
        let Some(ledger) = &self.ledger else {
            return Ok(());
        };
        let id = self.batch.id();
        let strides = ledger.strides_of(id).await;
        let strides = strides.map_err(|error| {
            CliError::failure(format_args!("the ledger cannot be looked at: {error}"))
        })?;
        if strides == 0 {
            return Ok(());
        }
        Err(CliError::failure(format_args!(
            "Temporal does not know batch \"{id}\", and the ledger of the database has pages that it has applied, in \
             {}: Temporal has forgotten it, or is another server",
            count(strides, "stride")
        ))
        .hint("a new batch of this id does all rows again, also those that are done: --rerun starts it"))
    }

    /// A batch that has come to its end is told of, and not run again.
    async fn done_already(&self, client: &BatchClient) -> CliResult<Option<Exit>> {
        let batch = &self.batch;
        if batch.rerun || batch.continues || self.joins {
            return Ok(None);
        }
        let handle = client.handle(batch.id())?;
        match handle.state().await {
            Ok(BatchState::Completed) => {}
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
}
