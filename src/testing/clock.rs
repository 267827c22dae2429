//! The virtual clock of a simulation.

use std::{
    collections::BTreeMap,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard},
    task::{Context, Poll, Waker},
    time::Duration,
};

use governor::clock::Clock;

use super::world::lock;
use crate::base::time::Timestamp;

/// A clock that stands still until it is advanced, and that wakes the waits which are then over. Clones show the same
/// time.
#[derive(Clone, Default)]
pub(super) struct VirtualClock(Arc<Mutex<Times>>);

#[derive(Default)]
struct Times {
    /// The time since the Unix epoch.
    now: Duration,
    waits: u64,
    /// The waits in progress, by the time at which they are over and their number.
    waiting: BTreeMap<(Duration, u64), Waiting>,
}

struct Waiting {
    /// The dispatch that waits.
    owner: u64,
    waker: Waker,
}

impl VirtualClock {
    pub fn at(start: Timestamp) -> Self {
        let clock = Self::default();
        clock.times().now = since_epoch(start);
        clock
    }

    pub fn timestamp(&self) -> Timestamp {
        let millis = self.now().as_millis();
        Timestamp(u64::try_from(millis).unwrap_or(u64::MAX))
    }

    /// Waits for this long, and at least until the next advance of the clock.
    pub fn sleep(&self, owner: u64, wait: Duration) -> Sleep {
        Sleep {
            clock: self.clone(),
            owner,
            until: self.now().saturating_add(wait),
            number: None,
        }
    }

    /// Returns whether a dispatch waits for the clock.
    pub fn is_awaited_by(&self, owner: u64) -> bool {
        let times = self.times();
        times.waiting.values().any(|waiting| waiting.owner == owner)
    }

    /// Advances to the end of the first wait, but not beyond `limit`. Returns false if nothing waits and there is no
    /// limit.
    pub fn advance(&self, limit: Option<Timestamp>) -> bool {
        let mut times = self.times();
        let first = times.waiting.keys().next().map(|(until, _)| *until);
        let limit = limit.map(since_epoch);
        let Some(next) = first.into_iter().chain(limit).min() else {
            return false;
        };
        times.now = times.now.max(next);
        for waiting in times.waiting.values() {
            waiting.waker.wake_by_ref();
        }
        true
    }

    /// Runs work that is alone, so that each of its waits is over at once.
    pub async fn alone<T>(&self, work: impl Future<Output = T>) -> T {
        let mut work = std::pin::pin!(work);
        std::future::poll_fn(|cx| {
            loop {
                if let Poll::Ready(done) = work.as_mut().poll(cx) {
                    return Poll::Ready(done);
                }
                if !self.advance(None) {
                    return Poll::Pending;
                }
            }
        })
        .await
    }

    fn times(&self) -> MutexGuard<'_, Times> {
        lock(&self.0)
    }
}

impl Clock for VirtualClock {
    type Instant = Duration;

    fn now(&self) -> Duration {
        self.times().now
    }
}

fn since_epoch(time: Timestamp) -> Duration {
    Duration::from_millis(time.0)
}

/// A wait for the virtual clock.
pub(super) struct Sleep {
    clock: VirtualClock,
    owner: u64,
    until: Duration,
    /// The number of the wait, once it has begun.
    number: Option<u64>,
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let sleep = &mut *self;
        let mut times = sleep.clock.times();
        if sleep.number.is_some() && times.now >= sleep.until {
            return Poll::Ready(());
        }
        let number = *sleep.number.get_or_insert_with(|| {
            times.waits += 1;
            times.waits
        });
        let (owner, waker) = (sleep.owner, cx.waker().clone());
        let waiting = Waiting { owner, waker };
        times.waiting.insert((sleep.until, number), waiting);
        Poll::Pending
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        if let Some(number) = self.number {
            self.clock.times().waiting.remove(&(self.until, number));
        }
    }
}
