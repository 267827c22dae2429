//! The polling of one throttle while it has listeners.

use std::{
    pin::pin,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak},
    time::Duration,
};

use tokio::{
    runtime::Handle,
    sync::{oneshot, watch},
    task::{JoinHandle, spawn_blocking},
    time::{Instant, sleep_until},
};

use super::{
    Throttle, Verdict,
    state::{Event, Said, ThrottleState},
};
use crate::base::{
    error::{PageError, text::words},
    text::exactly,
};
#[cfg(feature = "temporal")]
use crate::metrics::Metrics;

/// A registered throttle and its state in this process.
pub(super) struct Asked {
    pub name: String,
    throttle: Box<dyn Throttle>,
    interval: Duration,
    timeout: Duration,
    /// The reference point of all times.
    began: Instant,
    standing: Mutex<ThrottleState>,
    said: watch::Sender<Said>,
    asking: Mutex<Weak<Asking>>,
    #[cfg(feature = "temporal")]
    metrics: OnceLock<Metrics>,
    /// A lock for calls of the throttle. Code that blocks its thread continues after its timeout, and no second
    /// call must run beside it.
    one_at_a_time: tokio::sync::Mutex<()>,
}

/// A handle that keeps the polling alive.
pub(super) struct Asking(JoinHandle<()>);

impl Drop for Asking {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Asked {
    pub fn new<T: Throttle>(name: &str, throttle: T) -> Self {
        let interval = throttle.interval();
        let standing = ThrottleState::new(name, interval, throttle.hold_on_failure());
        Self {
            name: name.to_owned(),
            interval,
            timeout: throttle.timeout(),
            throttle: Box::new(throttle),
            began: Instant::now(),
            said: watch::Sender::new(standing.said(Duration::ZERO)),
            standing: Mutex::new(standing),
            asking: Mutex::default(),
            #[cfg(feature = "temporal")]
            metrics: OnceLock::new(),
            one_at_a_time: tokio::sync::Mutex::default(),
        }
    }

    /// Records the verdicts in these metrics. Only the first call has an effect.
    #[cfg(feature = "temporal")]
    pub fn measure(&self, metrics: &Metrics) {
        metrics.throttle_registered(&self.name);
        let _ = self.metrics.set(metrics.clone());
    }

    /// Joins the polling, or starts it.
    pub fn listen(self: &Arc<Self>) -> (watch::Receiver<Said>, Arc<Asking>) {
        let mut asking = self.asking.lock().unwrap_or_else(PoisonError::into_inner);
        // A task that has finished lost its runtime.
        let under_way = asking.upgrade().filter(|asking| !asking.0.is_finished());
        let asking = under_way.unwrap_or_else(|| {
            let due = self.standing().starts(self.now());
            self.publish();
            let task = tokio::spawn(keep_asking(Arc::clone(self), due));
            let started = Arc::new(Asking(task));
            *asking = Arc::downgrade(&started);
            started
        });
        (self.said.subscribe(), asking)
    }

    fn now(&self) -> Duration {
        self.began.elapsed()
    }

    fn standing(&self) -> MutexGuard<'_, ThrottleState> {
        self.standing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Calls the throttle. An error, a panic and a timeout are all returned as an error message.
    async fn ask(self: &Arc<Self>) -> Result<Verdict, String> {
        let asked = Arc::clone(self);
        let (_listens, nobody_listens) = oneshot::channel::<()>();
        let runtime = Handle::current();
        // The call runs on a thread for blocking code, because a blocked worker thread of the runtime may stop
        // its timers.
        let ask = spawn_blocking(move || {
            runtime.block_on(async {
                let ask = async {
                    let _only = asked.one_at_a_time.lock().await;
                    let answer = asked.throttle.ask().await;
                    answer.map_err(|error| words(&*error))
                };
                tokio::select! {
                    biased;
                    _ = nobody_listens => Err("no listener is left".to_owned()),
                    answer = ask => answer,
                }
            })
        });
        match tokio::time::timeout(self.timeout, ask).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(ended)) => Err(match ended.try_into_panic() {
                Ok(panic) => PageError::panicked(&*panic).message().to_owned(),
                Err(_) => "the runtime is shutting down".to_owned(),
            }),
            Err(_) => Err(format!("no answer within {}", exactly(self.timeout))),
        }
    }

    /// Waits for `work`, and lets go of a failing throttle when it is due.
    async fn meanwhile<F: Future>(&self, work: F) -> F::Output {
        let mut work = pin!(work);
        loop {
            let wakes_at = self.standing().wakes_at();
            let wakes_at = wakes_at.and_then(|at| self.began.checked_add(at));
            let wakes = async {
                match wakes_at {
                    Some(at) => sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                done = &mut work => return done,
                () = wakes => self.publish(),
            }
        }
    }

    fn take(&self, answer: Result<Verdict, String>) {
        #[cfg(feature = "temporal")]
        if let Some(metrics) = self.metrics.get() {
            match &answer {
                Ok(verdict) => metrics.throttle_reading(&self.name, verdict.factor()),
                Err(_) => metrics.throttle_failed(&self.name),
            }
        }
        let event = self.standing().answered(answer, self.now());
        self.log(event);
        self.publish();
    }

    fn publish(&self) {
        let mut standing = self.standing();
        let now = self.now();
        let event = standing.wakes(now);
        let said = standing.said(now);
        self.said.send_if_modified(|last| {
            let differs = *last != said;
            *last = said;
            differs
        });
        drop(standing);
        self.log(event);
    }

    fn log(&self, event: Option<Event>) {
        let throttle = &self.name;
        match event {
            None => {}
            Some(Event::Fails { error }) => {
                tracing::warn!(
                    throttle,
                    error,
                    "a throttle fails; its batches are held for a while"
                );
            }
            Some(Event::LetsGo { failures, error }) => {
                tracing::warn!(
                    throttle,
                    failures,
                    error,
                    "a throttle keeps failing; its batches continue without it"
                );
            }
            Some(Event::Recovered { failures }) => {
                tracing::info!(throttle, failures, "a throttle answers again");
            }
        }
    }
}

async fn keep_asking(asked: Arc<Asked>, due: Duration) {
    let mut due = asked.began + due;
    loop {
        asked.meanwhile(sleep_until(due)).await;
        let answer = asked.meanwhile(asked.ask()).await;
        asked.take(answer);
        due = Instant::now() + asked.interval;
    }
}
