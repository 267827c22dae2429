//! The engine against a real Temporal dev server: one server for this binary, and for every test its own
//! task queue, workers and batch ids.

mod basics;
mod control;
mod ends;
mod hand_over;
mod kill;
mod numbers;
mod refusals;
mod replay;
mod retries;
mod support;
