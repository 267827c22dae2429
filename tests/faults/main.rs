//! Exactly one effect for each page, and no lost pages, under faults: on a real PostgreSQL, a real MariaDB and a real
//! Temporal server.

mod chaos;
mod confidential_values;
mod cut_off_workers;
mod held_pages;
mod id_pages;
mod increment;
mod limits;
mod on_mariadb;
mod page_log;
mod poison_records;
mod recorded_pages;
mod reduce;
mod reset;
mod restarts;
mod shifting_rows;
mod slow_rows;
mod stopped_workers;
mod stride_returns;
mod unfenced;
mod worker_group;
mod worker_process;

#[path = "../support/mod.rs"]
mod support;
