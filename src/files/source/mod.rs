//! Files as sources of a batch: CSV and JSON Lines.
//!
//! | file | contents |
//! |---|---|
//! | `csv_source.rs`, `csv_format.rs`, `csv_scanner.rs`, `quotes.rs` | CSV |
//! | `json_lines_source.rs` | JSON Lines |
//! | `paging.rs`, `scan.rs` | pages, jumps and sizes, for both |
//! | `source_file.rs`, `fingerprint.rs`, `spool.rs` | the file, its identity, and the decompressed copy of a gzip
//! file |
//! | `position.rs`, `record.rs`, `bad_record.rs` | the cursor and the item of a page |
//! | `line_number.rs`, `excerpt.rs` | line numbers, and copies of some records |

pub(crate) mod bad_record;
pub(crate) mod csv_format;
pub(crate) mod csv_scanner;
pub(crate) mod csv_source;
pub(crate) mod excerpt;
pub(crate) mod fingerprint;
pub(crate) mod json_lines_source;
pub(crate) mod line_number;
pub(crate) mod paging;
pub(crate) mod position;
pub(crate) mod quotes;
pub(crate) mod record;
pub(crate) mod scan;
pub(crate) mod source_file;
pub(crate) mod spool;
