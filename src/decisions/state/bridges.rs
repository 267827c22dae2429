//! Strides that are on bridges.

#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use std::{collections::BTreeMap, time::Duration};

use crate::{
    base::time::Timestamp,
    decisions::{
        scheduler::YieldWave,
        state::{BatchState, strides::worker_lost},
    },
    protocol::{BridgeResults, BridgeWatch, StrideOrder, StrideReport},
};

/// The number of strides that a bridge is given, which keeps its history small.
pub(crate) const MOST_ORDERS: usize = 1_000;

/// The time after which strides of an earlier run that are still on a bridge are watched.
pub(crate) const WATCH_AFTER: Duration = Duration::from_secs(10);

/// The bridges of this run.
pub(crate) struct BridgeOutbox {
    /// False after a failure to start a bridge.
    pub on: bool,
    pub wave: YieldWave,
    /// The bridge that the next stride goes to.
    pub(crate) current: Option<String>,
    pub(crate) bridges: BTreeMap<String, BridgeState>,
    /// Orders that have not been sent.
    pub(crate) waiting: Vec<StrideOrder>,
    /// Bridges that get no more orders but have not been told yet.
    pub(crate) retired: Vec<String>,
    /// The number of calls with orders that are in progress.
    pub(crate) sending: usize,
    pub(crate) run_began: Timestamp,
}

/// A bridge that this run has begun.
#[derive(Default)]
pub(crate) struct BridgeState {
    pub(crate) state: State,
    pub(crate) orders: usize,
}

#[derive(Default, PartialEq)]
pub(crate) enum State {
    #[default]
    Planned,
    Starting,
    Open,
    Closed,
}

impl Default for BridgeOutbox {
    fn default() -> Self {
        Self {
            on: true,
            wave: YieldWave::default(),
            current: None,
            bridges: BTreeMap::new(),
            waiting: Vec::new(),
            retired: Vec::new(),
            sending: 0,
            run_began: Timestamp::default(),
        }
    }
}

impl BridgeOutbox {
    /// Begins a run. The bridges of earlier runs get no more orders.
    pub fn begin(&mut self, now: Timestamp, earlier: &[String]) {
        self.run_began = now;
        self.retired = earlier.to_vec();
    }

    /// Orders whose fate only this run is told.
    pub fn is_delivering(&self) -> bool {
        self.sending > 0 || !self.waiting.is_empty()
    }

    /// The bridge for the next stride, if there is one.
    pub(crate) fn open(&self) -> Option<&str> {
        let current = self.current.as_deref()?;
        let standing = self.bridges.get(current)?;
        let open = standing.state != State::Closed && standing.orders < MOST_ORDERS;
        open.then_some(current)
    }

    /// The bridge that strides may be on before the chain knows.
    pub fn current(&self) -> Option<&str> {
        self.current.as_deref()
    }

    pub(crate) fn close(&mut self, bridge: &str) {
        if let Some(standing) = self.bridges.get_mut(bridge) {
            standing.state = State::Closed;
        }
    }
}

impl BatchState {
    /// Records the results of strides on a bridge. A result changes nothing if it is a duplicate, or if a reset has
    /// forgotten its bridge.
    pub(crate) fn take_results(&mut self, news: BridgeResults) {
        for result in news.results {
            let (stride, dispatch) = (result.stride, result.dispatch);
            if self.chain.is_on_bridge(&news.bridge, stride, dispatch) {
                self.reported(stride, result.report);
            }
        }
    }

    /// The strides of a bridge that is gone are lost, like those of a worker.
    pub(crate) fn bridge_is_gone(&mut self, bridge: &str) {
        self.bridging.close(bridge);
        for stride in self.chain.on_bridge(bridge) {
            self.reported(stride, worker_lost("the workflow that had it was ended"));
        }
    }

    pub(crate) fn bridges_are_gone(&mut self, bridges: &[String]) {
        self.version += 1;
        for bridge in bridges {
            self.bridge_is_gone(bridge);
        }
    }

    /// Takes back orders that did not reach their bridge, so that no work was done.
    pub(crate) fn take_back(&mut self, bridge: &str, orders: &[Sent]) {
        for (stride, dispatch) in orders {
            if self.chain.is_on_bridge(bridge, *stride, *dispatch) {
                self.reported(*stride, StrideReport::default());
            }
        }
    }

    /// Returns the bridges of earlier runs that still have strides. Bridges of this run report their own end.
    pub(crate) fn bridges_to_watch(&self) -> Option<BridgeWatch> {
        if self.watch_due()? > self.now {
            return None;
        }
        let bridges = self.adopted().map(ToOwned::to_owned).collect();
        Some(BridgeWatch { bridges })
    }

    /// Returns when the watch over bridges begins, if any must be watched.
    pub(crate) fn watch_due(&self) -> Option<Timestamp> {
        self.adopted().next()?;
        Some(self.bridging.run_began.plus(WATCH_AFTER))
    }

    pub(crate) fn adopted(&self) -> impl Iterator<Item = &str> {
        let mine = &self.bridging.bridges;
        self.chain.bridges().filter(|id| !mine.contains_key(*id))
    }

    /// The bridges whose strides are waited for, as strides read it.
    pub(crate) fn bridges_in_use(&self) -> Vec<String> {
        let current = self.bridging.current();
        let mut ids: Vec<_> = self.chain.bridges().chain(current).collect();
        ids.sort_unstable();
        ids.dedup();
        ids.into_iter().map(ToOwned::to_owned).collect()
    }
}

impl BatchState {
    pub(crate) fn started(&mut self, bridge: &str, orders: &[Sent], started: bool) {
        if started {
            if let Some(standing) = self.bridging.bridges.get_mut(bridge) {
                standing.state = State::Open;
            }
            return;
        }
        self.bridging.close(bridge);
        // No more strides begin in this run, and the next run receives the rest.
        self.bridging.on = false;
        self.take_back(bridge, orders);
    }
}

/// Takes the next orders for one bridge that can have them now.
pub(crate) fn next_orders(s: &mut BatchState) -> Option<(String, Vec<StrideOrder>)> {
    let bridging = &mut s.bridging;
    let bridges = &bridging.bridges;
    let ready = |order: &&StrideOrder| {
        let bridge = order.bridge.as_ref().and_then(|id| bridges.get(id));
        bridge.is_none_or(|bridge| bridge.state != State::Starting)
    };
    let bridge = bridging.waiting.iter().find(ready)?.bridge.clone()?;
    let mut orders = Vec::new();
    bridging.waiting.retain(|order| {
        let take = order.bridge.as_ref() == Some(&bridge) && orders.len() < ORDERS_AT_ONCE;
        if take {
            orders.push(order.clone());
        }
        !take
    });
    Some((bridge, orders))
}

/// Orders in one signal. With the largest arguments and tokens each has some kilobytes.
pub(crate) const ORDERS_AT_ONCE: usize = 50;

/// A dispatch of a stride.
pub(crate) type Sent = (u64, u64);
