//! The rows of a table into files.

mod args;
mod processor;

pub use args::{ExportArgs, ExportFormat};
pub use processor::{ExportRow, SqlExport};
