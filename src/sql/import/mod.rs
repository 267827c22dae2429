//! A processor that puts the records of a file into a table.
//!
//! | file | contents |
//! |---|---|
//! | `args.rs`, `error.rs` | the arguments, and the reasons to refuse them |
//! | `processor.rs` | [`SqlImport`] |
//! | `target.rs`, `mapping.rs` | the table, and the assignment of fields to its columns |
//! | `row.rs` | a record as a row |
//! | `write/` | rows into the table, a file for each database |
//! | `fault/` | the columns that a database refuses, a file for each database |
//! | `check.rs` | the check of what was imported |
//! | `rejected.rs` | the dead letter of a refused record |

mod args;
mod check;
mod error;
mod fault;
mod mapping;
mod processor;
mod rejected;
mod row;
mod target;
mod write;

pub use args::{BytesForm, ImportArgs, ImportFile, ManifestChoice, OnConflict};
pub use error::InvalidImport;
pub use processor::SqlImport;
#[cfg(feature = "http")]
pub(in crate::sql) use {args::ColumnKind, target::Target};
