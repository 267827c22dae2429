//! A session whose worker runs in this process, until the batch ends or the command is interrupted.

use std::{future::Future, pin::pin};

use crate::{
    cli::{
        args::temporal_server::ConnectionArgs,
        exit::{CliError, CliResult, Exit},
        output::{exactly, note},
        render::{
            follow::{Followed, Style, follow},
            web_ui,
        },
        session::{Session, SessionWorker, limit_warnings},
    },
    engine::{
        client::{AcceptError, BatchClient, ProgressError},
        worker::{RunningWorker, Worker, WorkerError, shutdown_signal},
    },
    metrics::Metrics,
    progress::report::BatchReport,
};

/// The number of strides that bypass the task queue. The worker of a session is usually the only one, so there is no
/// other worker to share the queue with.
const EAGER_STRIDES: u32 = 100;

impl Session<'_> {
    /// Works on the batch until it ends. Another process may have started the batch and may work on it too.
    pub async fn attended(&self, connection: &ConnectionArgs, worker: SessionWorker) -> CliResult {
        let stop = shutdown_signal().map_err(WorkerError::Signals)?;
        let mut stop = pin!(stop);
        let metrics = Metrics::new();
        let _serving = worker.metrics.serve(&metrics).await?;
        let connected = tokio::select! {
            connected = connection.connect_with(&metrics) => connected?,
            () = &mut stop => return Ok(Exit::Interrupted),
        };
        let exit = self.work(&connected.client, worker, metrics, stop).await;
        let closed = connected.close().await;
        let exit = exit?;
        closed?;
        Ok(exit)
    }

    async fn work(
        &self,
        client: &BatchClient,
        worker: SessionWorker,
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
        let slots = worker.max_pages;
        let mut worker = Worker::new(client, &self.batch.task_queue)
            .registry(worker.registry)
            .hooks(worker.hooks)
            .throttles(worker.throttles)
            .metrics(metrics)
            .max_pages(worker.max_pages)
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
                // The error matters more than the way in which the worker ends.
                let _ = worker.stop().await;
                // Another process may have completed the batch in the meantime.
                match self.done_already(client).await {
                    Ok(Some(exit)) => Ok(exit),
                    Ok(None) | Err(_) => Err(error),
                }
            }
        }
    }

    /// Starts the batch and follows it to its end. `None` if the command was interrupted.
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
                    "the batch is being prepared; it waits for transactions that are older than it",
                );
            }
            Err(waits @ AcceptError::NoProcessor { .. }) => note(waits),
            Err(AcceptError::Unknown(error)) => note(CliError::from(error)),
            Ok(()) => {}
        }
        tokio::select! {
            () = limit_warnings::tell(&handle, self.pacing, Some(slots), self.program) => {}
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

    /// Leaves an interrupted batch where it is, after its running pages have finished.
    async fn leave(&self, worker: RunningWorker) -> CliResult {
        note(format_args!(
            "interrupted: waiting up to {} for running pages; a second Ctrl-C stops at once",
            exactly(self.drain_timeout)
        ));
        let again = shutdown_signal().map_err(WorkerError::Signals)?;
        tokio::select! {
            drained = worker.stop() => drained?,
            () = again => note("stopped without waiting; interrupted pages are run again"),
        }
        let (id, program) = (self.batch.id(), self.program);
        note(format_args!(
            "batch \"{id}\" stays where it is: the same command continues it, `{}` ends it",
            program.of_batch("cancel", id)
        ));
        Ok(Exit::Interrupted)
    }
}
