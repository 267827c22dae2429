//! The engine against a real Temporal dev server: one server for this binary, and for every test its own
//! task queue, workers and batch ids.

mod basics;
mod control;
mod deploys;
mod ends;
mod hand_over;
mod hooks;
mod kill;
mod life_cycle;
mod numbers;
mod redrive;
mod refusals;
mod replay;
mod retries;
mod support;
mod tolerance;
