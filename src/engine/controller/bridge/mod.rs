//! Bridges: workflows that keep running strides over a continue-as-new of their controller.
//!
//! The main loop gives a stride that has to outlive the run to [`order`], drives [`Deliveries`], and begins
//! [`watch_owners`]. Its results come as the signal `stride_results`.
//!
//! | file | content |
//! |---|---|
//! | `workflow` | the workflow of a bridge |
//! | `outbox` | the calls of a controller with which orders go to bridges |
//! | `watch` | the watch over the bridges of earlier runs |

mod outbox;
mod watch;
mod workflow;

pub(super) use outbox::{Deliveries, order};
pub(super) use watch::watch_owners;
pub(crate) use workflow::Bridge;
