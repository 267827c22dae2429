//! Bridges: workflows that own strides over a continue-as-new of their controller. Pure.
//!
//! An activity does not outlive the run that scheduled it. While a continue-as-new is due, new strides are therefore
//! given to a bridge. The scheduler says when, with [`Dispatch::outlives_run`](crate::decisions::scheduler::Dispatch),
//! and the chain knows the owner of each stride. Everything else about bridges is here:
//!
//! | file | content |
//! |---|---|
//! | here | the effects of bridges on the state of a batch |
//! | `outbox` | the bridges of a run, and the orders for them |

#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

pub(crate) mod outbox;

use std::time::Duration;

use crate::{
    base::time::{Timestamp, earliest},
    decisions::{
        chain::Event,
        scheduler::Dispatch,
        state::{BatchState, dispatching::worker_lost},
    },
    protocol::{StrideReport, StrideResults, WatchOrder},
};
use outbox::Sent;

/// The time after which strides of an earlier run that are still on a bridge are watched.
const WATCH_AFTER: Duration = Duration::from_secs(10);

/// # Before each decision
impl BatchState {
    /// Asks strides to end, while a continue-as-new is due.
    pub(crate) fn refresh_outbox(&mut self) {
        let limits = self.limits();
        let work = &mut self.work;
        work.outbox.wave.tick(&work.chain, &limits, self.now);
    }

    /// Returns when the next strides are asked to end, or the watch over bridges begins.
    pub(crate) fn outbox_due(&self) -> Option<Timestamp> {
        let wave = &self.work.outbox.wave;
        let asked = wave.next_change(&self.work.chain, &self.limits(), self.now);
        let watch = self.watch_due().filter(|at| *at > self.now);
        earliest(asked, watch)
    }
}

/// # Strides on bridges
impl BatchState {
    /// Records a dispatch over this bridge. Its order waits in the outbox. Returns false if the stride cannot be
    /// dispatched.
    pub(crate) fn order_from(&mut self, bridge: String, dispatch: &Dispatch) -> bool {
        let Some(mut order) = self.dispatched(dispatch) else {
            return false;
        };
        self.record(Event::Owned {
            stride: dispatch.stride,
            owner: &bridge,
        });
        order.owner = Some(bridge.clone());
        self.work.outbox.put(bridge, order);
        true
    }

    /// Records the results of strides on a bridge. A result changes nothing if it is a duplicate, or if a reset has
    /// forgotten its bridge.
    pub(crate) fn hear_results(&mut self, at: Timestamp, news: StrideResults) {
        if !self.is_meant(&news.batch_run) {
            return;
        }
        self.now = at;
        for result in news.results {
            let (stride, dispatch) = (result.stride, result.dispatch);
            if self.work.chain.is_owned_by(&news.owner, stride, dispatch) {
                self.reported(stride, result.report);
            }
        }
    }

    /// Records whether a bridge was started with these orders.
    pub(crate) fn started(&mut self, bridge: &str, orders: &[Sent], started: bool) {
        if started {
            self.work.outbox.open_up(bridge);
            return;
        }
        // No more strides begin in this run, and the next run receives the rest.
        self.work.outbox.on = false;
        self.take_back(bridge, orders);
    }

    /// Takes back orders that did not reach their bridge, so that no work was done.
    pub(crate) fn take_back(&mut self, bridge: &str, orders: &[Sent]) {
        self.work.outbox.close(bridge);
        for (stride, dispatch) in orders {
            if self.work.chain.is_owned_by(bridge, *stride, *dispatch) {
                self.reported(*stride, StrideReport::default());
            }
        }
    }

    /// The strides of a bridge that is gone are lost, like those of a worker.
    pub(crate) fn bridge_is_gone(&mut self, bridge: &str) {
        self.work.outbox.close(bridge);
        for stride in self.work.chain.owned_by(bridge) {
            self.reported(stride, worker_lost("the workflow that had it was ended"));
        }
    }

    pub(crate) fn bridges_are_gone(&mut self, bridges: &[String]) {
        self.version += 1;
        for bridge in bridges {
            self.bridge_is_gone(bridge);
        }
    }
}

/// # Bridges of earlier runs
impl BatchState {
    /// Returns the bridges of earlier runs that still have strides. Bridges of this run report their own end.
    pub(crate) fn bridges_to_watch(&self) -> Option<WatchOrder> {
        if self.watch_due()? > self.now {
            return None;
        }
        let workflows = self.adopted().map(ToOwned::to_owned).collect();
        Some(WatchOrder { workflows })
    }

    /// Returns when the watch over bridges begins, if any must be watched.
    fn watch_due(&self) -> Option<Timestamp> {
        self.adopted().next()?;
        Some(self.work.outbox.run_began.plus(WATCH_AFTER))
    }

    fn adopted(&self) -> impl Iterator<Item = &str> {
        let owners = self.work.chain.owners();
        owners.filter(|id| !self.work.outbox.has(id))
    }

    /// The owners whose strides are waited for, as strides read it.
    pub(crate) fn owners_in_use(&self) -> Vec<String> {
        // Strides may be on the current bridge before the chain knows.
        let current = self.work.outbox.current.as_deref();
        let mut ids: Vec<_> = self.work.chain.owners().chain(current).collect();
        ids.sort_unstable();
        ids.dedup();
        ids.into_iter().map(ToOwned::to_owned).collect()
    }
}
