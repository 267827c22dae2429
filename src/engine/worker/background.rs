//! Workers of the SDK that run in the background.

use std::{
    error::Error,
    io,
    sync::{Arc, Once},
};

use temporalio_sdk::{Runtime, Worker};
use tokio::{runtime::Handle, sync::oneshot, task::JoinHandle};

type Cause = Box<dyn Error + Send + Sync>;

/// Workers on a thread of their own, because the future of [`Worker::run`] is not `Send`. Their activities run on the
/// tokio runtime of the caller. Dropping it stops polling without waiting for activities.
pub struct Background<E> {
    begin_stop: Arc<dyn Fn() + Send + Sync>,
    /// The running task. `None` once its result was returned.
    ended: Option<JoinHandle<Result<(), E>>>,
    failed: fn(Cause) -> E,
}

impl<E: Send + 'static> Background<E> {
    /// Runs workers that end together. `failed` makes the error of a worker that stops by itself.
    ///
    /// # Errors
    /// The system starts no further thread.
    ///
    /// # Panics
    /// Panics outside a tokio runtime.
    pub fn of_workers(
        name: &str,
        runtime: Runtime,
        workers: Vec<Worker>,
        failed: fn(Cause) -> E,
    ) -> io::Result<Self> {
        let stops: Vec<_> = workers.iter().map(Worker::shutdown_handle).collect();
        // A second shutdown of the SDK's core may not be safe.
        let once = Once::new();
        let begin_stop: Arc<dyn Fn() + Send + Sync> =
            Arc::new(move || once.call_once(|| stops.iter().for_each(|stop| stop())));
        let stop = Arc::clone(&begin_stop);
        let run = async move |(workers, _): &mut (Vec<Worker>, Runtime)| {
            let stop = &stop;
            let runs = workers.iter_mut().map(|worker| async move {
                let ended = worker.run().await;
                stop();
                ended
            });
            let ended = futures::future::join_all(runs).await;
            let ended: Result<(), _> = ended.into_iter().collect();
            ended.map_err(|e| failed(e.into()))
        };
        Self::spawn(name, begin_stop, (workers, runtime), run, failed)
    }

    /// Runs `run` on a thread, then drops `state` there, in the order of its fields.
    pub(crate) fn spawn<S: Send + 'static>(
        name: &str,
        begin_stop: Arc<dyn Fn() + Send + Sync>,
        mut state: S,
        run: impl AsyncFnOnce(&mut S) -> Result<(), E> + Send + 'static,
        failed: fn(Cause) -> E,
    ) -> io::Result<Self> {
        let (sender, receiver) = oneshot::channel();
        let tokio = Handle::current();
        std::thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || {
                let result = tokio.block_on(run(&mut state));
                let _tokio = tokio.enter();
                drop(state);
                // The receiver is gone if the owner was dropped.
                let _ = sender.send(result);
            })?;
        let ended = tokio::spawn(async move {
            let ended = receiver.await;
            ended.unwrap_or_else(|_| Err(failed("its thread panicked".into())))
        });
        Ok(Self {
            begin_stop,
            ended: Some(ended),
            failed,
        })
    }

    /// Drains and stops: running activities finish within the graceful shutdown period, and no new ones start.
    ///
    /// # Errors
    /// The workers had already stopped with an error that [`ended`](Self::ended) has not returned.
    pub async fn stop(mut self) -> Result<(), E> {
        (self.begin_stop)();
        self.ended().await
    }

    /// Resolves when the workers have ended. Unless they are told to stop, they only end with an error.
    ///
    /// # Errors
    /// The error that ended them. Only the first call returns it; later calls return `Ok` at once.
    pub async fn ended(&mut self) -> Result<(), E> {
        let Some(ended) = &mut self.ended else {
            return Ok(());
        };
        let result = ended.await;
        self.ended = None;
        result.map_err(|e| (self.failed)(e.into()))?
    }
}

impl<E> Drop for Background<E> {
    fn drop(&mut self) {
        (self.begin_stop)();
    }
}
