//! Listens to some throttles.

use std::{sync::Arc, time::Duration};

use futures::future::select_all;
use tokio::{
    sync::watch,
    time::{Instant, sleep_until},
};

use super::{
    Reading,
    change_filter::{News, Told},
    poller::{Asked, Asking},
    state::Said,
};

/// Listens to some throttles of this process. As long as it lives, they are asked.
pub(crate) struct ThrottleMonitor {
    /// In the order of their names.
    parts: Vec<Part>,
    /// Where the times are counted from.
    began: Instant,
    told: Told,
}

struct Part {
    throttle: Arc<Asked>,
    said: watch::Receiver<Said>,
    _asking: Arc<Asking>,
}

impl ThrottleMonitor {
    pub(super) fn new(throttles: impl Iterator<Item = Arc<Asked>>) -> Self {
        let parts: Vec<_> = throttles
            .map(|throttle| {
                let (said, _asking) = throttle.listen();
                Part {
                    throttle,
                    said,
                    _asking,
                }
            })
            .collect();
        Self {
            told: Told::new(reading(&parts), Duration::ZERO),
            parts,
            began: Instant::now(),
        }
    }

    /// What they say right now. One that has not answered yet holds.
    pub fn current(&self) -> Reading {
        reading(&self.parts)
    }

    /// Waits until each of them has answered or failed. What it returns counts as told.
    pub async fn first(&mut self) -> Reading {
        for part in &mut self.parts {
            // The sender lives as long as the throttle, which is here.
            let _ = part.said.wait_for(|said| said.settled).await;
        }
        self.tell(self.current())
    }

    /// Waits until the reading is another than the one that was told last, by this, by `first`, or when the
    /// monitor was made. Kind, name, factor and whether one fails are told at once; a change of the
    /// reason alone 10 s after the last telling. Without throttles it waits for ever. Nothing is lost when it is
    /// dropped.
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
                // The sender lives as long as the throttle, which is here.
                let _ = select_all(changes).await;
            };
            tokio::select! {
                () = any => {}
                () = due => {}
            }
        }
    }

    fn tell(&mut self, reading: Reading) -> Reading {
        self.told = Told::new(reading.clone(), self.began.elapsed());
        reading
    }
}

fn reading(parts: &[Part]) -> Reading {
    let said: Vec<_> = parts
        .iter()
        .map(|part| (part.throttle.name.as_str(), part.said.borrow()))
        .collect();
    Reading::of(said.iter().map(|(name, said)| (*name, &**said)))
}
