//! A listener for some throttles.

use std::{sync::Arc, time::Duration};

use futures::future::select_all;
use tokio::{
    sync::watch,
    time::{Instant, sleep_until},
};

use super::{
    Reading,
    change_filter::{LastTold, News},
    poller::{Asked, Asking},
    state::Said,
};

/// A listener for some throttles of this process. Throttles are polled while a listener exists.
pub(crate) struct ThrottleMonitor {
    /// The throttles, sorted by name.
    parts: Vec<Source>,
    /// The reference point of all times.
    began: Instant,
    told: LastTold,
}

struct Source {
    throttle: Arc<Asked>,
    said: watch::Receiver<Said>,
    _asking: Arc<Asking>,
}

impl ThrottleMonitor {
    pub(super) fn new(throttles: impl Iterator<Item = Arc<Asked>>) -> Self {
        let parts: Vec<_> = throttles
            .map(|throttle| {
                let (said, _asking) = throttle.listen();
                Source {
                    throttle,
                    said,
                    _asking,
                }
            })
            .collect();
        Self {
            told: LastTold::new(reading(&parts), Duration::ZERO),
            parts,
            began: Instant::now(),
        }
    }

    /// Returns the current reading. A throttle that has not answered yet holds.
    pub fn current(&self) -> Reading {
        reading(&self.parts)
    }

    /// Waits until each throttle has answered or failed. The returned reading counts as reported.
    pub async fn first(&mut self) -> Reading {
        for part in &mut self.parts {
            // The sender lives as long as the throttle, which `part` holds.
            let _ = part.said.wait_for(|said| said.settled).await;
        }
        self.tell(self.current())
    }

    /// Waits until the reading differs from the last one reported by this method, by `first`, or at creation.
    /// Changes of verdict, throttle, factor or failure are reported at once. A change of the reason alone is
    /// reported 10 s after the last report. Without throttles it waits forever. It is cancel safe.
    pub async fn changed(&mut self) -> Reading {
        loop {
            for part in &mut self.parts {
                part.said.mark_unchanged();
            }
            let reading = self.current();
            let due = match self.told.news(&reading, self.began.elapsed()) {
                News::Now => return self.tell(reading),
                News::At(at) => Some(self.began + at),
                News::Nothing => None,
            };
            let due = async {
                match due {
                    Some(at) => sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            let parts = &mut self.parts;
            let any = async {
                if parts.is_empty() {
                    std::future::pending::<()>().await;
                }
                let changes = parts.iter_mut().map(|part| Box::pin(part.said.changed()));
                // The sender lives as long as the throttle, which `parts` holds.
                let _ = select_all(changes).await;
            };
            tokio::select! {
                () = any => {}
                () = due => {}
            }
        }
    }

    fn tell(&mut self, reading: Reading) -> Reading {
        self.told = LastTold::new(reading.clone(), self.began.elapsed());
        reading
    }
}

fn reading(parts: &[Source]) -> Reading {
    let said: Vec<_> = parts
        .iter()
        .map(|part| (part.throttle.name.as_str(), part.said.borrow()))
        .collect();
    Reading::of(said.iter().map(|(name, said)| (*name, &**said)))
}
