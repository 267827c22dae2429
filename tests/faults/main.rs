//! Once per page, and nothing lost, under faults: on a real PostgreSQL and a real Temporal server.

mod chaos;
mod ids;
mod increment;
mod poison;
#[path = "../fixtures/postgres.rs"]
mod postgres;
mod ranges;
mod reset;
#[path = "../engine/support.rs"]
mod support;
mod worker_process;
mod zombies;
