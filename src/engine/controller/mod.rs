//! The workflows of a batch, which only translate.
//!
//! A Temporal event becomes a call of [`BatchState`](crate::decisions::state::BatchState), which makes a decision, and
//! the decision becomes a Temporal command. No code here may look at a clock, at random numbers, at the order of a hash
//! map, or do I/O: a worker replays this code from the history.
//!
//! ```text
//!   signal next_page ─┐                            ┌─> schedule a stride activity
//!   activity result ──┼─> BatchState ──> decide ───┼─> start a timer
//!   update, cancel ───┘                            ├─> continue as new
//!                                                  └─> complete, fail, cancel
//! ```
//!
//! | file | content |
//! |---|---|
//! | `handlers` | the workflows with their signals, queries and updates |
//! | `workflow` | the course that every workflow of a batch takes |
//! | `activity_defs` | the activities that are called |
//! | `prepare` | asking a worker about the processor |
//! | `stride_loop` | the loop of a controller: decide, act, wait |
//! | `wait` | waiting for the next event |
//! | `dispatch` | from a decision to the activity of a stride, and from its result to a report |
//! | `side_calls` | running calls of side activities |
//! | `stages` | checks between stages and at the end |
//! | `reduce` | combining outputs, where only the processor can |
//! | `lock` | taking the named lock and giving it back |
//! | `ending` | the end: hooks, the report, how the workflow closes |
//! | `publish` | writing the memo |
//! | `timer` | the one timer of the batch |
//! | `partition_parent`, `partition_child` | the loop of the parent of partitions, and the differences of the controller of one |
//! | `bridge` | strides that keep running over a continue-as-new |

#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

mod activity_defs;
mod bridge;
mod dispatch;
mod ending;
mod handlers;
mod lock;
mod partition_child;
mod partition_parent;
mod prepare;
mod publish;
mod reduce;
mod side_calls;
mod stages;
mod stride_loop;
pub(crate) mod timer;
mod wait;
mod workflow;

pub(crate) use activity_defs::{
    ActivityDefs, CheckActivity, CombineActivity, HookActivity, KeepReportActivity, LockActivity,
    PartitionsActivity, PrepareActivity, SplitActivity, StrideActivity, ThrottleActivity,
    UnlockActivity, WatchWorkflowsActivity, WindowsActivity,
};
pub(crate) use bridge::Bridge;
pub(crate) use handlers::{Controller, PartitionParent};
