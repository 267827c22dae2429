//! The processor behind the command `call`.
//!
//! | file | contents |
//! |---|---|
//! | `args.rs` | the arguments of a batch |
//! | `plan.rs` | the request of a record, from templates |
//! | `output.rs` | the line that is written for a record |
//! | `source.rs` | the records: of a file, or of a table |
//! | `journal.rs` | the answers of a page that is not finished |
//! | `records.rs` | reading the records |
//! | `into_table.rs` | answers that go back into the rows of their table |
//! | `calling.rs` | the calls of a page |
//! | `outcome.rs` | the outcomes of a page, and their way into files |
//! | `processor.rs` | [`HttpCall`] |

pub(crate) mod args;
mod calling;
#[cfg(any(feature = "sqlite", feature = "postgres", feature = "mysql"))]
mod into_table;
mod journal;
mod outcome;
pub(crate) mod output;
pub(crate) mod plan;
pub(crate) mod processor;
mod records;
pub(crate) mod source;
