//! The bridges of a run, and the orders that wait for them.

#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use std::collections::BTreeMap;

use crate::{
    base::time::Timestamp,
    decisions::{chain::StrideChain, scheduler::YieldWave},
    protocol::StrideOrder,
};

/// The number of strides that a bridge is given, which keeps its history small.
const MOST_ORDERS: usize = 1_000;

/// Orders in one signal. With the largest arguments and tokens each has some kilobytes.
pub(crate) const ORDERS_AT_ONCE: usize = 50;

/// A dispatch of a stride.
pub(crate) type Sent = (u64, u64);

/// The bridges of a run, and the orders that wait for them.
#[derive(Clone, Debug)]
pub(crate) struct Outbox {
    /// False after a failure to start a bridge.
    pub on: bool,
    pub wave: YieldWave,
    /// The bridge that the next stride goes to.
    pub(super) current: Option<String>,
    bridges: BTreeMap<String, Bridge>,
    /// Orders that have not been sent.
    waiting: Vec<StrideOrder>,
    /// Bridges that get no more orders but have not been told yet.
    retired: Vec<String>,
    /// The number of calls with orders that are in progress.
    pub sending: usize,
    pub(super) run_began: Timestamp,
}

/// A bridge that this run has begun.
#[derive(Clone, Debug, Default)]
struct Bridge {
    state: State,
    orders: usize,
}

#[derive(Clone, Debug, Default, PartialEq)]
enum State {
    #[default]
    Planned,
    Starting,
    Open,
    Closed,
}

/// The next orders for one bridge.
pub(crate) struct Delivery {
    pub bridge: String,
    pub orders: Vec<StrideOrder>,
    /// True if the bridge has to be started with them.
    pub starts: bool,
}

impl Default for Outbox {
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

impl Outbox {
    /// Begins a run. The bridges of earlier runs get no more orders, and those without strides no longer need to be
    /// `published`.
    pub fn begin(&mut self, now: Timestamp, chain: &StrideChain, published: &mut Vec<String>) {
        self.run_began = now;
        self.retired.clone_from(published);
        published.retain(|id| chain.owners().any(|busy| busy == id));
    }

    /// Orders whose fate only this run is told.
    pub fn is_delivering(&self) -> bool {
        self.sending > 0 || !self.waiting.is_empty()
    }

    /// Returns whether nothing has to be sent.
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty() && self.retired.is_empty()
    }

    /// Returns whether this run has begun a bridge.
    pub(super) fn has(&self, bridge: &str) -> bool {
        self.bridges.contains_key(bridge)
    }

    /// The bridge for the next stride, if there is one.
    pub fn open(&self) -> Option<&str> {
        let current = self.current.as_deref()?;
        let bridge = self.bridges.get(current)?;
        let open = bridge.state != State::Closed && bridge.orders < MOST_ORDERS;
        open.then_some(current)
    }

    pub(super) fn put(&mut self, bridge: String, order: StrideOrder) {
        self.bridges.entry(bridge.clone()).or_default().orders += 1;
        self.waiting.push(order);
        let before = self.current.replace(bridge);
        let before = before.filter(|id| Some(id) != self.current.as_ref());
        self.retired.extend(before);
    }

    /// Takes the next orders for one bridge that can have them now.
    pub fn take(&mut self) -> Option<Delivery> {
        let bridges = &self.bridges;
        let state = |id: &str| bridges.get(id).map(|bridge| &bridge.state);
        let mut owners = self.waiting.iter().filter_map(|order| order.owner.as_ref());
        let bridge = owners
            .find(|id| state(id) != Some(&State::Starting))?
            .clone();
        let starts = state(&bridge).is_none_or(|state| *state == State::Planned);
        let mut orders = Vec::new();
        self.waiting.retain(|order| {
            let take = order.owner.as_ref() == Some(&bridge) && orders.len() < ORDERS_AT_ONCE;
            if take {
                orders.push(order.clone());
            }
            !take
        });
        if starts && let Some(bridge) = self.bridges.get_mut(&bridge) {
            bridge.state = State::Starting;
        }
        Some(Delivery {
            bridge,
            orders,
            starts,
        })
    }

    pub(super) fn open_up(&mut self, bridge: &str) {
        if let Some(bridge) = self.bridges.get_mut(bridge) {
            bridge.state = State::Open;
        }
    }

    /// Gives a bridge no more orders.
    pub fn close(&mut self, bridge: &str) {
        if let Some(bridge) = self.bridges.get_mut(bridge) {
            bridge.state = State::Closed;
        }
    }

    /// Takes the bridges that have to be told that they get no more orders.
    pub fn take_retired(&mut self) -> Vec<String> {
        std::mem::take(&mut self.retired)
    }

    /// Retires all bridges of this run, at the end of the batch.
    pub fn retire_all(&mut self) {
        let mine = self.bridges.iter();
        let open = mine.filter(|(_, bridge)| bridge.state == State::Open);
        self.retired.extend(open.map(|(id, _)| id.clone()));
    }
}
