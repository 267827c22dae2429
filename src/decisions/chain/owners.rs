//! The strides whose activities another workflow owns, so that they outlive the run of the controller that dispatched
//! them.

#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::{Impossible, Recorded, State, StrideChain};

/// The ids of workflows that own the activities of strides. Each has a number, which is shorter to store with a stride.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub(super) struct Owners(BTreeMap<u32, String>);

impl Owners {
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
    pub(super) fn owned(&mut self, number: u64, id: &str) -> Result<Recorded, Impossible> {
        let by = self.owners.number(id);
        match &mut self.stride_mut(number)?.state {
            State::Running { owner, .. } if owner.is_none() => {
                *owner = Some(by);
                Ok(Recorded::Applied)
            }
            _ => Err(Impossible(format!(
                "stride {number} got an owner without being dispatched"
            ))),
        }
    }

    /// Forgets owners whose last stride has come back.
    pub(super) fn forget_idle_owners(&mut self) {
        if self.owners.is_empty() {
            return;
        }
        let busy: BTreeSet<u32> = self.runs().filter_map(|(_, run)| run.owner).collect();
        self.owners.0.retain(|number, _| busy.contains(number));
    }

    /// The workflows other than the controller that own strides.
    pub fn owners(&self) -> impl Iterator<Item = &str> {
        self.owners.0.values().map(String::as_str)
    }

    /// The strides that a workflow owns.
    pub fn owned_by(&self, id: &str) -> Vec<u64> {
        let Some(owner) = self.owners.find(id) else {
            return Vec::new();
        };
        self.runs()
            .filter(|(_, run)| run.owner == Some(owner))
            .map(|(stride, _)| stride)
            .collect()
    }

    /// Returns whether this workflow owns this dispatch of the stride.
    pub fn is_owned_by(&self, id: &str, stride: u64, dispatch: u64) -> bool {
        let run = self.stride(stride).and_then(super::Stride::run);
        let run = run.filter(|run| run.dispatch == dispatch && run.owner.is_some());
        run.is_some_and(|run| run.owner == self.owners.find(id))
    }
}
