//! Tests of a processor without a server, and replays of recorded histories.
//!
//! [`run_page`] runs one page. [`Simulator`] runs a whole batch, with the faults and the requests of an operator that it
//! is asked for.
//!
//! ```text
//!   Simulator ──> Simulation: the main loop ──> BatchState, which decides for real batches too
//!                     │  VirtualClock
//!                     └──> Strides: one controller, or one for each partition
//!                              └──> strides, one at a time ──> SimulatedHost: announcements, rates, orders to stop
//! ```

mod clock;
mod faults;
mod host;
mod operator;
mod partitions;
mod run_page;
mod side_calls;
mod simulation;
mod simulator;
mod strides;
mod throttles;
mod world;

pub use crate::processor::hooks::HookCall;
pub use faults::lose_worker;
pub use operator::Request;
pub use run_page::{PageRun, run_page};
pub use simulator::{SimulatedCall, SimulatedRun, Simulator};

#[cfg(feature = "temporal")]
pub use crate::engine::replay::{ReplayError, replay_history};
