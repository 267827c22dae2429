//! Once per page, and nothing lost, under faults: on a real PostgreSQL, a real MariaDB and a real Temporal
//! server.

mod asleep;
mod chaos;
mod comebacks;
mod crew;
mod ids;
mod increment;
mod late;
mod limits;
#[path = "../fixtures/mariadb.rs"]
mod mariadb;
mod on_mariadb;
mod planted;
mod poison;
#[path = "../fixtures/postgres.rs"]
mod postgres;
#[path = "../fixtures/proxy.rs"]
mod proxy;
mod ranges;
mod reduce;
mod reset;
mod restarts;
mod setting;
mod sink;
mod slow_rows;
#[path = "../engine/support.rs"]
mod support;
mod unfenced;
mod visitor;
mod worker_process;
mod zombies;
