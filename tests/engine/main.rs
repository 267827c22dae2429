//! The engine against a real Temporal dev server: one server for this binary, and for every test its own
//! task queue, workers and batch ids.

mod abandoned_pages;
mod absent_workers;
mod basics;
mod bridge;
mod control;
mod deploys;
mod eager_strides;
mod ends_from_outside;
mod explanations;
mod fairness;
mod hand_over;
mod hooks;
mod item_pace;
mod killed_workers;
mod life_cycle;
mod locks;
mod numbers_processor;
mod observing;
mod outages;
mod pace;
mod partitions;
mod prepare;
mod redrive;
mod reduce;
mod refusals;
mod replay;
mod retries;
mod server_requests;
mod side_activities;
mod sizes;
mod stages;
mod standstill;
mod steering;
mod stride_length;
mod terminated_runs;
mod tolerance;
mod totals;
mod unknown_processors;
mod what_histories_hold;

#[path = "../support/mod.rs"]
mod support;
