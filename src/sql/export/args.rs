//! The arguments of an export, as they are stored with its batch.

use std::path::PathBuf;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::{
    base::known_fields,
    files::{EncodedColumn, Encoding, PartFormat, PartSink},
    sql::{DEFAULT_CONNECTION, HighWaterMark, TableSpec},
};

/// The arguments of a batch of [`SqlExport`](super::SqlExport): the rows to read, and the files to write.
///
/// In JSON every field but `table`, `key` and `to` is optional:
///
/// ```json
/// {"table": "users", "key": ["id"], "filter": "email IS NOT NULL", "to": "/srv/export/users",
///  "columns": ["id", "email"], "format": "csv", "gzip": true}
/// ```
///
/// | field | default |
/// |---|---|
/// | `connection` | `default` |
/// | `filter`, also `where` | every row |
/// | `columns` | all, in the order of the table when the batch starts |
/// | `format` | `jsonl` |
/// | `null` | in CSV, NULL is an empty field, and an empty text is `""` |
/// | `gzip` | `false` |
/// | `concatenate` | parts only |
/// | `high_water_mark` | `at_start` |
/// | `allow_slow_pages` | `false` |
///
/// Any other field is refused.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(remote = "Self", deny_unknown_fields)]
#[non_exhaustive]
pub struct ExportArgs {
    /// The name of a connection of the worker. A batch never carries a URL.
    #[serde(default = "default_connection")]
    pub connection: String,
    /// The rows.
    #[serde(flatten)]
    pub table: TableSpec,
    /// The columns, in this order; empty for all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub columns: Vec<String>,
    /// The directory of the parts, under the same path on every worker.
    pub to: PathBuf,
    /// The format of the files.
    #[serde(default)]
    pub format: ExportFormat,
    /// The text for NULL in CSV. If it is empty, NULL is an empty field.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub null: String,
    /// True if the files are compressed.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub gzip: bool,
    /// One file for all rows, beside the parts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub concatenate: Option<PathBuf>,
    /// The end of the batch in a growing table.
    #[serde(default)]
    pub high_water_mark: HighWaterMark,
    /// Allows pages to be read by a plan that scans or sorts the table.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub allow_slow_pages: bool,
    /// The encoding of each column, determined when the batch is prepared.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) encodings: Vec<Encoding>,
    /// The columns that the database computes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) generated: Vec<String>,
}

/// The names of all fields; the message that refuses any other field lists them.
const FIELDS: &[&str] = &[
    "connection",
    "table",
    "key",
    "filter",
    "where",
    "allow_row_security",
    "columns",
    "to",
    "format",
    "null",
    "gzip",
    "concatenate",
    "high_water_mark",
    "allow_slow_pages",
    "encodings",
    "generated",
];

impl<'de> Deserialize<'de> for ExportArgs {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        known_fields::of_flattened(from, FIELDS, Self::deserialize)
    }
}

impl Serialize for ExportArgs {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        Self::serialize(self, to)
    }
}

/// The format of the files of an export; see [`PartFormat`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum ExportFormat {
    /// One JSON object a line. See [`Table::records`](crate::sql::Table::records) for the forms of values.
    #[default]
    JsonL,
    /// Comma-separated values with a header.
    Csv,
}

fn default_connection() -> String {
    DEFAULT_CONNECTION.to_owned()
}

impl ExportArgs {
    /// Creates an export of these rows into a directory.
    pub fn new(table: TableSpec, to: impl Into<PathBuf>) -> Self {
        Self {
            connection: default_connection(),
            table,
            columns: Vec::new(),
            to: to.into(),
            format: ExportFormat::default(),
            null: String::new(),
            gzip: false,
            concatenate: None,
            high_water_mark: HighWaterMark::AtStart,
            allow_slow_pages: false,
            encodings: Vec::new(),
            generated: Vec::new(),
        }
    }

    /// Selects a connection of the worker.
    #[must_use]
    pub fn connection(mut self, name: impl Into<String>) -> Self {
        self.connection = name.into();
        self
    }

    /// Limits the export to these columns, in this order.
    #[must_use]
    pub fn columns(mut self, columns: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.columns = columns.into_iter().map(Into::into).collect();
        self
    }

    /// Writes in this format.
    #[must_use]
    pub fn format(mut self, format: ExportFormat) -> Self {
        self.format = format;
        self
    }

    /// Compresses the files.
    #[must_use]
    pub fn gzip(mut self, gzip: bool) -> Self {
        self.gzip = gzip;
        self
    }

    /// Writes all rows into one file as well.
    #[must_use]
    pub fn concatenate(mut self, file: impl Into<PathBuf>) -> Self {
        self.concatenate = Some(file.into());
        self
    }

    /// Returns the sink for the rows.
    pub(super) fn sink(&self) -> PartSink {
        let format = match self.format {
            ExportFormat::JsonL => PartFormat::json_lines_of(&self.columns),
            ExportFormat::Csv => PartFormat::csv(&self.columns).null(&self.null),
        };
        let encoded = self.columns.iter().zip(&self.encodings);
        let encoded = encoded.map(|(name, encoding)| {
            EncodedColumn::new(name, *encoding, self.generated.contains(name))
        });
        let sink = PartSink::new(&self.to, format)
            .gzip(self.gzip)
            .encodings(encoded.collect());
        match &self.concatenate {
            Some(file) => sink.concatenate(file),
            None => sink,
        }
    }
}
