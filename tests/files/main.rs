//! Files as sources, and `import`.

mod commands;
mod conflicts;
mod door;
mod errors;
mod imports;
mod pages;
mod quotes;
mod refusals;
mod rejected;
mod runs;
mod written;

#[path = "../fixtures/disk.rs"]
mod disk;
#[path = "../fixtures/mariadb.rs"]
mod mariadb;
#[path = "../fixtures/postgres.rs"]
mod postgres;
