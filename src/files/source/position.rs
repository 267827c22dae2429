//! The position of a record in a file.

use serde::{Deserialize, Serialize};

/// A position in a file, after a record.
///
/// The cursor of [`CsvSource`](crate::files::CsvSource) and [`JsonLinesSource`](crate::files::JsonLinesSource). Its JSON is
/// `{"offset": 1024, "record": 7}`.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(deny_unknown_fields)]
pub struct FilePosition {
    /// The first byte after the record and its line end, from the beginning of the file.
    pub offset: u64,
    /// The number of the record, from 1; a header and empty lines are not counted.
    pub record: u64,
}
