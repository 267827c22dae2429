//! The file beside the rejected records, with the reason for each record.

use std::{
    fs::File,
    io::{self, BufRead as _, BufReader, ErrorKind},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

/// The first line of the file: the batch run that rejected the records.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Owner {
    pub(super) batch_id: String,
    pub(super) batch_run: String,
    pub(super) file: PathBuf,
    pub(super) records: u64,
    /// The full name of the table.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) table: Option<String>,
    /// The number of records in `file`.
    #[serde(default)]
    pub(super) file_records: u64,
    /// The hash of the file of records, in the format of `sha256sum`.
    pub(super) sha256: String,
    /// The hash of the replaced file of records, in case only one of the two files could be written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) replaces: Option<String>,
}

/// The suffix of the file with the reasons.
const ERRORS: &str = ".errors.jsonl";

/// Returns the path of a file with a suffix behind its whole name.
pub(super) fn beside(file: &Path, suffix: &str) -> PathBuf {
    let mut name = file.to_owned().into_os_string();
    name.push(suffix);
    name.into()
}

/// Every other line: the reason why a record was rejected.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Reason<'a> {
    /// The line of the rejected file on which the record begins.
    pub(super) line: u64,
    /// The file that the record comes from.
    pub(super) file: &'a Path,
    pub(super) source_lines: (u64, u64),
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) column: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) value: Option<&'a str>,
    pub(super) error_type: &'a str,
    pub(super) message: &'a str,
}

impl Owner {
    /// Returns the path of the file of reasons beside a file of records.
    pub(super) fn path_beside(records: &Path) -> PathBuf {
        beside(records, ERRORS)
    }

    /// Reads the owner from the file; `None` if the file does not exist.
    pub(super) fn of(errors: &Path) -> io::Result<Option<Self>> {
        let file = match File::open(errors) {
            Ok(file) => file,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let mut line = String::new();
        BufReader::new(io::Read::take(file, 64 * 1024)).read_line(&mut line)?;
        serde_json::from_str(&line).map(Some).map_err(Into::into)
    }
}
