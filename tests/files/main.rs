//! Files as sources, and `import`.

mod commands;
mod conflicts;
mod door;
mod imports;
mod pages;
mod quotes;
mod refusals;
mod runs;
mod written;

#[path = "../fixtures/mariadb.rs"]
mod mariadb;
#[path = "../fixtures/postgres.rs"]
mod postgres;
