//! Files as sources of a batch: CSV and JSON Lines.

pub(crate) mod bad_record;
pub(crate) mod csv_format;
pub(crate) mod csv_scanner;
pub(crate) mod csv_source;
pub(crate) mod excerpt;
pub(crate) mod fingerprint;
pub(crate) mod json_lines;
pub(crate) mod line_number;
pub(crate) mod position;
pub(crate) mod quotes;
pub(crate) mod reading;
pub(crate) mod record;
pub(crate) mod source_file;
