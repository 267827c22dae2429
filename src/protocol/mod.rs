//! Every name and payload that is stored in a history.
//!
//! Histories outlive deployments: from the first release on a name here never changes, a field never changes its
//! meaning, and a new field has a serde default. Histories recorded by every released version are replayed in
//! the tests.
//!
//! | file | content |
//! |---|---|
//! | `message` | reading messages |
//! | `names` | names of workflows, activities, signals, updates, queries and error types; the version |
//! | `stride` | orders and reports of strides |
//! | `steering`, `settings` | requests of operators; the builder of a `set` |
//! | `side` | orders and answers of the side activities |
//! | `memo` | fields of the memo |
//! | `partition` | messages between a batch and its partitions |
//! | `bridge` | names and messages of bridges |
//! | `large_args` | references that stand for large arguments |
//!
//! The state carried over a continue-as-new is [`Carry`](crate::decisions::carry::Carry), under the same rules.

#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

pub(crate) mod bridge;
pub(crate) mod large_args;
pub(crate) mod memo;
pub(crate) mod message;
pub(crate) mod names;
pub(crate) mod partition;
pub(crate) mod settings;
pub(crate) mod side;
pub(crate) mod steering;
pub(crate) mod stride;

pub(crate) use self::{
    bridge::*, memo::*, names::*, partition::*, side::*, steering::*, stride::*,
};
