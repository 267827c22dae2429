//! `export`: the rows of a table in files, with the real server and real databases.

mod interrupted;
mod program;
mod proxied;
mod refused;
mod round_trip;
mod rows;
mod source;

#[path = "../fixtures/disk.rs"]
mod disk;
#[path = "../fixtures/mariadb.rs"]
mod mariadb;
#[path = "../fixtures/pgbouncer.rs"]
mod pgbouncer;
#[path = "../fixtures/postgres.rs"]
mod postgres;
