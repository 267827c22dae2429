//! `export`: the rows of a table in files, with the real server and real databases.

mod interrupted;
mod program;
mod refused;
mod rows;
mod source;

#[path = "../fixtures/mariadb.rs"]
mod mariadb;
#[path = "../fixtures/postgres.rs"]
mod postgres;
