//! The details of heartbeats, by which an attempt at an activity tells the next attempt how far it came.

use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Serialize};
use temporalio_sdk::activities::ActivityContext;

/// The details of a heartbeat.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Progress {
    /// Failures of a batch that were its own. An attempt that the database or a worker was away for is no failure of its
    /// requests.
    pub failures: u32,
    /// The requesters that were told.
    pub told: Told,
}

/// The positions in the order of the requesters that were told, and of those that are gone.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Told {
    pub confirmed: Vec<u32>,
    pub gone: Vec<u32>,
}

impl Told {
    /// Returns the positions of the others.
    pub fn left(&self, all: usize) -> Vec<usize> {
        let mut is_left = vec![true; all];
        for at in self.confirmed.iter().chain(&self.gone) {
            if let Some(is_left) = is_left.get_mut(*at as usize) {
                *is_left = false;
            }
        }
        (0..all).filter(|at| is_left[*at]).collect()
    }
}

impl Progress {
    /// Returns what the attempt before has left.
    pub fn of(ctx: &ActivityContext) -> Self {
        let left = ctx.heartbeat_details().deserialize::<Self>();
        left.unwrap_or_else(|error| {
            tracing::warn!(%error, "the progress of the attempt before cannot be read");
            None
        })
        .unwrap_or_default()
    }

    pub fn failed(failures: u32) -> Self {
        Self {
            failures,
            ..Self::default()
        }
    }

    pub fn told(told: &Mutex<Told>) -> Self {
        let told = told.lock().unwrap_or_else(PoisonError::into_inner);
        Self {
            told: told.clone(),
            ..Self::default()
        }
    }
}
