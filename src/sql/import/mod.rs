//! The records of a file into a table, page by page.

mod args;
mod error;
mod json_object;
mod mapping;
mod processor;
mod row;
mod target;
mod write;

pub use args::{ImportArgs, ImportFile, OnConflict};
pub use error::InvalidImport;
pub use processor::SqlImport;
