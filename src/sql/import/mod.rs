//! The records of a file into a table, page by page.

mod args;
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
