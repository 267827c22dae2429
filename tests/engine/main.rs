//! The engine against a real Temporal dev server: one server for this binary, and for every test its own
//! task queue, workers and batch ids.

mod abandon;
mod absent;
mod aside;
mod basics;
mod because;
mod blocking;
mod bridge;
mod control;
mod deploys;
mod eager;
mod ends;
mod fairness;
mod gone;
mod hand_over;
mod hooks;
mod item_pace;
mod kill;
mod life_cycle;
mod locks;
mod looks;
mod numbers;
mod outages;
mod pace;
mod partitions;
mod prepare;
mod redrive;
mod reduce;
mod refusals;
mod replay;
mod retries;
mod sizes;
mod stages;
mod standstill;
mod steering;
mod stride_length;
mod support;
mod tolerance;
mod totals;
mod unknown;

#[path = "../fixtures/proxy.rs"]
mod proxy;
