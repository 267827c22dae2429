//! Files as sources of batches, and `import`.

mod checks;
mod commands;
mod conflicts;
mod database;
mod error_places;
mod imports;
mod large_arguments;
mod pages;
mod quotes;
mod refusals;
mod rejected_records;
mod sample_files;
mod whole_batches;

#[path = "../support/mod.rs"]
mod support;
