//! The arguments of an import, as they are stored with its batch.

use std::{collections::BTreeMap, path::PathBuf};

use serde::{Deserialize, Serialize};

use crate::{
    base::stored::is_default,
    files::{CsvSource, Encoding, JsonLinesSource},
    sql::DEFAULT_CONNECTION,
};

/// The arguments of a batch of [`SqlImport`](super::SqlImport): the records, and the table. They are stored in
/// histories, so they must hold no secrets.
///
/// ```
/// use temporal_batch::{files::CsvSource, sql::ImportArgs};
///
/// let users = ImportArgs::new(CsvSource::new("users.csv"), "users").map("e-mail", "email");
/// assert!(users.once);
/// ```
///
/// | field | default |
/// |---|---|
/// | `connection` | `default` |
/// | `map` | a field goes to the column of its name |
/// | `columns` | those that the file has |
/// | `null` | an empty field is NULL |
/// | `manifest` | the manifest beside the file, if there is one |
/// | `bytes` | as the manifest says; without one, columns of bytes are refused |
/// | `on_conflict` | [`OnConflict::Fail`] |
/// | `once` | yes |
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct ImportArgs {
    /// The name of a connection of the worker. A batch never carries a URL.
    #[serde(default = "default_connection")]
    pub connection: String,
    /// The file, and its format.
    pub file: ImportFile,
    /// The table, with its schema if necessary: `table` or `schema.table`, spelled exactly as in the database.
    pub table: String,
    /// The fields of the file that go to columns of another name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub map: BTreeMap<String, String>,
    /// The columns to fill. Other columns get their default, and other fields of the file are skipped. By default
    /// every field of the file has a column; the fields of a JSON Lines file are found by reading the whole file
    /// once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub columns: Option<Vec<String>>,
    /// The text for NULL in a CSV field; by default an empty field.
    #[serde(default)]
    pub null: String,
    /// The manifest that describes the encoding of the values.
    #[serde(default, skip_serializing_if = "is_default")]
    pub manifest: ManifestChoice,
    /// The encoding of bytes, where no manifest describes it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<BytesForm>,
    /// The treatment of a record whose key is in the table.
    #[serde(default)]
    pub on_conflict: OnConflict,
    /// Tells whether a page's rows and the record that it was applied commit together, so that a retried page never
    /// duplicates rows. This needs the tables of the [ledger](crate::sql::SqlLedger) in the database. Without it, a
    /// retry duplicates rows unless a unique key and `on_conflict` prevent that, and a record that the database refuses
    /// fails its page.
    #[serde(default = "yes")]
    pub once: bool,
    /// The fields of a JSON Lines file, once they are known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) fields: Option<Vec<String>>,
    /// The assignment of fields to columns, in the order of the columns; determined when the batch is prepared.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) plan: Option<Vec<Assigned>>,
    /// The fields that are skipped, since the database computes their columns.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) computed: Vec<String>,
    /// True if a quoted CSV field is never NULL.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) quoted_is_text: bool,
}

/// The manifest of an export that describes the encoding of a file's values. With one, an import creates rows equal
/// to those that were exported.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ManifestChoice {
    /// `FILE.manifest.json`, or the `manifest.json` in the directory of the file that lists the file.
    #[default]
    Beside,
    /// Ignores manifests.
    Ignored,
    /// The manifest at this path.
    At(PathBuf),
}

/// The encoding of bytes in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum BytesForm {
    /// Hexadecimal digits, with or without a leading `\x`.
    Hex,
    /// Base64 with the characters `+` and `/`, padded.
    Base64,
    /// The bytes of the text, in UTF-8.
    Text,
}

/// A file of records.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ImportFile {
    /// CSV with column names.
    Csv(CsvSource),
    /// JSON Lines with an object on each line. Numbers keep every digit; arrays and objects become JSON texts; a
    /// column of JSON gets the value unchanged; a missing field is NULL.
    JsonLines(JsonLinesSource),
}

/// The treatment of a record whose unique key is in the table already.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum OnConflict {
    /// The record is given up, as a dead letter.
    #[default]
    Fail,
    /// The record is skipped, and counted as skipped.
    Nothing,
    /// The row gets the values of the record. These columns are the unique key. A record that collides with a row on
    /// another unique key is given up, as a dead letter.
    Update(Vec<String>),
}

/// A field of the file, and its column.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Assigned {
    pub field: String,
    pub column: String,
    /// The type as the database writes it, without a length.
    pub type_name: String,
    /// The kind of the values.
    #[serde(default, skip_serializing_if = "is_default")]
    pub kind: ColumnKind,
    /// The encoding of the values, if a manifest describes it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub encoding: Option<Encoding>,
}

/// The kinds of values that are read or bound in different ways.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum ColumnKind {
    #[default]
    Plain,
    Json,
    Bytes,
    /// BIT of MySQL, where a text means its bytes.
    Bits,
    /// YEAR of MySQL, where the text `0` means 2000.
    Year,
}

fn default_connection() -> String {
    DEFAULT_CONNECTION.to_owned()
}

fn yes() -> bool {
    true
}

impl From<CsvSource> for ImportFile {
    fn from(source: CsvSource) -> Self {
        Self::Csv(source)
    }
}

impl From<JsonLinesSource> for ImportFile {
    fn from(source: JsonLinesSource) -> Self {
        Self::JsonLines(source)
    }
}

/// # Construct
impl ImportArgs {
    /// Creates an import of every record of the file as a row of the table.
    pub fn new(file: impl Into<ImportFile>, table: impl Into<String>) -> Self {
        Self {
            connection: default_connection(),
            file: file.into(),
            table: table.into(),
            map: BTreeMap::new(),
            columns: None,
            null: String::new(),
            manifest: ManifestChoice::default(),
            bytes: None,
            on_conflict: OnConflict::default(),
            once: true,
            fields: None,
            plan: None,
            computed: Vec::new(),
            quoted_is_text: false,
        }
    }

    /// Selects a connection of the worker.
    #[must_use]
    pub fn connection(mut self, name: impl Into<String>) -> Self {
        self.connection = name.into();
        self
    }

    /// Puts a field of the file into a column of another name. Repeated calls do so for further fields.
    #[must_use]
    pub fn map(mut self, field: impl Into<String>, column: impl Into<String>) -> Self {
        self.map.insert(field.into(), column.into());
        self
    }

    /// Fills only these columns.
    #[must_use]
    pub fn columns(mut self, columns: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.columns = Some(columns.into_iter().map(Into::into).collect());
        self
    }

    /// Sets the text for NULL in a CSV field.
    #[must_use]
    pub fn null(mut self, text: impl Into<String>) -> Self {
        self.null = text.into();
        self
    }

    /// Selects the manifest that describes the encoding of the values.
    #[must_use]
    pub fn manifest(mut self, manifest: ManifestChoice) -> Self {
        self.manifest = manifest;
        self
    }

    /// Sets the encoding of bytes, where no manifest describes it.
    #[must_use]
    pub fn bytes(mut self, form: BytesForm) -> Self {
        self.bytes = Some(form);
        self
    }

    /// Sets the treatment of a record whose key is in the table.
    #[must_use]
    pub fn on_conflict(mut self, on_conflict: OnConflict) -> Self {
        self.on_conflict = on_conflict;
        self
    }

    /// Commits a page's rows together with the record that the page was applied.
    #[must_use]
    pub fn once(mut self, once: bool) -> Self {
        self.once = once;
        self
    }
}

impl ImportArgs {
    /// Returns the assignment of fields to columns, for people; empty before the arguments are prepared.
    #[cfg_attr(not(feature = "cli"), allow(dead_code, reason = "for `import`"))]
    pub(crate) fn assignments(&self) -> Vec<String> {
        let assigned = |assigned: &Assigned| match assigned.field == assigned.column {
            true => assigned.column.clone(),
            false => format!("{} -> {}", assigned.field, assigned.column),
        };
        self.plan.iter().flatten().map(assigned).collect()
    }

    /// Returns the fields that are skipped, since the database computes their columns.
    #[cfg_attr(not(feature = "cli"), allow(dead_code, reason = "for `import`"))]
    pub(crate) fn computed(&self) -> &[String] {
        &self.computed
    }

    /// Returns whether a manifest describes the encoding of the values.
    #[cfg_attr(not(feature = "cli"), allow(dead_code, reason = "for `import`"))]
    pub(crate) fn has_manifest(&self) -> bool {
        self.plan
            .iter()
            .flatten()
            .any(|assigned| assigned.encoding.is_some())
    }
}
