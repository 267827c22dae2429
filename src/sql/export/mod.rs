//! A processor that writes the rows of a table into files.
//!
//! | file | contents |
//! |---|---|
//! | `args.rs` | the arguments |
//! | `processor.rs` | [`SqlExport`] |

mod args;
mod processor;

pub use args::{ExportArgs, ExportFormat};
pub use processor::{ExportRow, SqlExport};
