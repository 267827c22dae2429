//! Once per page, and nothing lost, under faults: on a real PostgreSQL and a real Temporal server.

mod chaos;
mod comebacks;
mod crew;
mod ids;
mod increment;
mod limits;
mod poison;
#[path = "../fixtures/postgres.rs"]
mod postgres;
mod ranges;
mod reset;
mod setting;
mod sink;
mod slow_rows;
#[path = "../engine/support.rs"]
mod support;
mod visitor;
mod worker_process;
mod zombies;
