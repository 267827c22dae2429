//! The command line as its users meet it: the stock binary, its output and its exit status.

mod batches;
mod dead_letters;
mod help;
mod looks;
mod metrics;
mod products;
mod refusals;
mod servers;
mod steering;

#[path = "../support/mod.rs"]
mod support;
