//! The command line as users run it: the stock binary, its output and its exit status.

mod batches;
mod dead_letters;
mod help;
mod metrics;
mod products;
mod refusals;
mod servers;
mod status_and_list;
mod steering;

#[path = "../support/mod.rs"]
mod support;
