//! The workflows of a fan-out, which only translate: an event becomes a call of
//! [`FanoutState`](crate::state::FanoutState), and its decision becomes a command. Nothing here may look at a clock, at
//! random numbers, at the order of a hash map, or do I/O.
//!
//! | file | content |
//! |---|---|
//! | `parent` | the fan-out itself |
//! | `children` | starting, awaiting and cancelling children |
//! | `calls` | the calls of a run that are in progress |
//! | `woken` | polling only what was woken |
//! | `item` | the child of one item |
//! | `activity_defs` | the activities that are called |

#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

mod activity_defs;
mod calls;
mod children;
mod item;
mod parent;
mod woken;

pub(crate) use activity_defs::{
    AggregateActivity, AskActivity, LookUpActivity, ProcessActivity, ReadActivity, WatchActivity,
};
pub(crate) use children::{end_of_result, failure_of_cause};
pub(crate) use item::ItemWorkflow;
pub(crate) use parent::FanoutWorkflow;
