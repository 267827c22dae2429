//! The requests that a shard holds, with their number and bytes.

#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use std::ops::{AddAssign, SubAssign};

use serde::{Deserialize, Serialize};
use temporal_batch::Timestamp;

use crate::{
    protocol::FlushReason,
    request::{Confirmation, Request},
};

/// The part of a request's bytes that stands for its place in the state and for its outcome.
pub(crate) const BYTES_OF_ENTRY: u64 = 150;

/// Requests and their bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Amount {
    pub(super) count: u32,
    pub(super) bytes: u64,
}

impl Amount {
    pub(super) fn add(&mut self, bytes: u64) {
        *self += Self { count: 1, bytes };
    }

    pub(super) fn remove(&mut self, bytes: u64) {
        *self -= Self { count: 1, bytes };
    }
}

impl AddAssign for Amount {
    fn add_assign(&mut self, other: Self) {
        self.count += other.count;
        self.bytes += other.bytes;
    }
}

impl SubAssign for Amount {
    fn sub_assign(&mut self, other: Self) {
        self.count -= other.count;
        self.bytes -= other.bytes;
    }
}

/// A request that was taken.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Held {
    pub(super) request: Request,
    /// The workflows to tell, usually one, each with the number of its last submission.
    pub(super) reply_to: Vec<(String, u64)>,
    pub(super) received_at: Timestamp,
    /// The length of the request alone.
    pub(super) bytes: u64,
}

impl Held {
    /// Returns what counts towards the limits. The answers to its requesters count no more, so a shard that had room for
    /// the request has room for them.
    pub(super) fn amount(&self) -> Amount {
        let mut amount = Amount::default();
        amount.add(self.bytes + BYTES_OF_ENTRY);
        for (before, (to, _)) in self.reply_to.iter().enumerate() {
            amount += self.amount_of_requester(before, to);
        }
        amount
    }

    /// Returns what a requester adds, with so many before it. The entry of the request is that of the first one too.
    pub(super) fn amount_of_requester(&self, before: usize, to: &str) -> Amount {
        match before {
            0 => Amount {
                count: 0,
                bytes: json_bytes(to),
            },
            _ => Amount {
                count: 1,
                bytes: answer_bytes(to, &self.request.id),
            },
        }
    }
}

/// Returns what an answer counts towards the limit, without its error.
pub(super) fn answer_bytes(to: &str, request_id: &str) -> u64 {
    json_bytes(to) + json_bytes(request_id) + BYTES_OF_ENTRY
}

/// Returns the length of a text in the input of the next run.
pub(super) fn json_bytes(text: &str) -> u64 {
    serde_json::to_string(text).map_or(0, |json| json.len() as u64)
}

/// A batch that is being written.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Batch {
    pub(super) requests: Vec<Held>,
    pub(super) reason: FlushReason,
    /// The runs that ended while the batch was being written. Its failures in them are not known.
    #[serde(default, skip_serializing_if = "crate::request::is_zero")]
    pub(super) hand_overs: u64,
}

/// A confirmation for one requester.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Answer {
    pub(super) to: String,
    pub(super) confirmation: Confirmation,
    /// The bytes that count towards the limit until it is told. 0 for a refusal.
    pub(super) held_bytes: u64,
    /// Calls that could not tell it.
    #[serde(default, skip_serializing_if = "crate::request::is_zero")]
    pub(super) tries: u64,
}

impl Answer {
    pub(super) fn refusal_bytes(&self) -> u64 {
        answer_bytes(&self.to, &self.confirmation.request_id)
    }
}
