//! The strides that are on a bridge. A bridge is a workflow that owns their activities, so that they outlive the run of
//! the controller that dispatched them.

#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::{Impossible, Recorded, State, StrideChain};

/// The workflow ids of bridges that have strides. Each has a number, which is shorter to store with a stride.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub(super) struct Bridges(BTreeMap<u32, String>);

impl Bridges {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn number(&mut self, id: &str) -> u32 {
        if let Some(known) = self.find(id) {
            return known;
        }
        let number = self.0.last_key_value().map_or(0, |(last, _)| last + 1);
        self.0.insert(number, id.to_owned());
        number
    }

    fn find(&self, id: &str) -> Option<u32> {
        let mut known = self.0.iter();
        known.find(|(_, known)| *known == id).map(|(n, _)| *n)
    }
}

impl StrideChain {
    pub(super) fn bridged(&mut self, number: u64, id: &str) -> Result<Recorded, Impossible> {
        let on_bridge = self.bridges.number(id);
        match &mut self.stride_mut(number)?.state {
            State::Running { bridge, .. } if bridge.is_none() => {
                *bridge = Some(on_bridge);
                Ok(Recorded::Applied)
            }
            _ => Err(Impossible(format!(
                "stride {number} went to a bridge without being dispatched"
            ))),
        }
    }

    /// Forgets bridges whose last stride has come back.
    pub(super) fn forget_empty_bridges(&mut self) {
        if self.bridges.is_empty() {
            return;
        }
        let busy: BTreeSet<u32> = self.runs().filter_map(|(_, run)| run.bridge).collect();
        self.bridges.0.retain(|number, _| busy.contains(number));
    }

    /// The bridges that have strides.
    pub fn bridges(&self) -> impl Iterator<Item = &str> {
        self.bridges.0.values().map(String::as_str)
    }

    /// The strides that a bridge has.
    pub fn on_bridge(&self, id: &str) -> Vec<u64> {
        let Some(bridge) = self.bridges.find(id) else {
            return Vec::new();
        };
        self.runs()
            .filter(|(_, run)| run.bridge == Some(bridge))
            .map(|(stride, _)| stride)
            .collect()
    }

    /// Returns whether this dispatch of the stride is on this bridge.
    pub fn is_on_bridge(&self, id: &str, stride: u64, dispatch: u64) -> bool {
        let run = self.stride(stride).and_then(super::Stride::run);
        let run = run.filter(|run| run.dispatch == dispatch && run.bridge.is_some());
        run.is_some_and(|run| run.bridge == self.bridges.find(id))
    }
}
