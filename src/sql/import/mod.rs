//! The records of a file into a table, page by page.

mod args;
mod error;
mod mapping;
mod processor;
mod row;
mod target;
mod write;

pub use args::{BytesForm, ImportArgs, ImportFile, ManifestChoice, OnConflict};
pub use error::InvalidImport;
pub use processor::SqlImport;
