//! What an import does, as it is stored with its batch.

use std::{collections::BTreeMap, path::PathBuf};

use serde::{Deserialize, Serialize};

use crate::{
    files::{CsvSource, Encoding, JsonLinesSource},
    sql::DEFAULT_CONNECTION,
};

/// Which records go into which table. The arguments of a batch of [`SqlImport`](super::SqlImport), so they are
/// stored in histories: no secrets.
///
/// ```
/// use temporal_batch::{ImportArgs, files::CsvSource};
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
/// | `manifest` | the one beside the file, if there is one |
/// | `bytes` | as the manifest says; without one, columns of bytes are refused |
/// | `on_conflict` | [`OnConflict::Fail`] |
/// | `once` | yes |
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct ImportArgs {
    /// The connection of the worker, by its name. A batch never carries a URL.
    #[serde(default = "default_connection")]
    pub connection: String,
    /// The file, and how it is written.
    pub file: ImportFile,
    /// The table, with its schema where it needs one: `table` or `schema.table`, spelled exactly as in the
    /// database.
    pub table: String,
    /// Fields of the file that go to columns of another name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub map: BTreeMap<String, String>,
    /// The columns that are filled; others get their default, and other fields of the file are left out.
    /// Without it every field of the file, for which a JSON Lines file is read once from beginning to end; each
    /// must then have its column.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub columns: Option<Vec<String>>,
    /// What stands for NULL in a CSV field: nothing at all, unless told.
    #[serde(default)]
    pub null: String,
    /// Which manifest says how the values of the file are written.
    #[serde(default, skip_serializing_if = "ManifestChoice::is_default")]
    pub manifest: ManifestChoice,
    /// How the file writes bytes, where no manifest says it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<BytesForm>,
    /// What happens to a record whose key is in the table.
    #[serde(default)]
    pub on_conflict: OnConflict,
    /// Whether a page's rows and the record that it was applied commit together, so that a page that is tried
    /// again never doubles them. Needs the tables of the [ledger](crate::SqlLedger) in the database. Without
    /// it rows are doubled by a retry, unless a unique key and `on_conflict` prevent that, and records that
    /// the database refuses fail their page.
    #[serde(default = "yes")]
    pub once: bool,
    /// The fields of a JSON Lines file, once somebody has looked for them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) fields: Option<Vec<String>>,
    /// What goes where, from the first to the last column: found out when the batch is prepared.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) plan: Option<Vec<Assigned>>,
    /// Fields that are left out, since the database computes their columns.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) computed: Vec<String>,
    /// Whether a CSV field in quotes is never NULL.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) quoted_is_text: bool,
}

/// Which manifest of an export says how the values of a file are written. With one, an import makes rows that are
/// equal to those that were exported.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ManifestChoice {
    /// `FILE.manifest.json`, or the `manifest.json` in the directory of the file that lists the file.
    #[default]
    Beside,
    /// None.
    Ignored,
    /// This one.
    At(PathBuf),
}

impl ManifestChoice {
    fn is_default(&self) -> bool {
        *self == Self::Beside
    }
}

/// How a file writes bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum BytesForm {
    /// Hexadecimal digits, with or without `\x` before them.
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
    /// CSV, with names of the columns.
    Csv(CsvSource),
    /// JSON Lines with an object on each line. Numbers keep every digit; arrays and objects become JSON
    /// texts; a column of JSON gets the value as it is; a field that a line does not have is NULL.
    JsonLines(JsonLinesSource),
}

/// What happens to a record whose unique key is in the table already.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum OnConflict {
    /// It is given up, as a dead letter.
    #[default]
    Fail,
    /// It is skipped, and counted as skipped.
    Nothing,
    /// The row gets the values of the record. These columns are the unique key. A record that collides with a row
    /// on another unique key is given up, as a dead letter.
    Update(Vec<String>),
}

/// A field of the file and where it goes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Assigned {
    pub field: String,
    pub column: String,
    /// As the database writes it, without a length.
    pub type_name: String,
    /// The kind of its values.
    #[serde(default, skip_serializing_if = "ColumnKind::is_plain")]
    pub kind: ColumnKind,
    /// How the values are written, where a manifest says it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub encoding: Option<Encoding>,
}

/// The kind of values of a column, as far as they are read or bound in another way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum ColumnKind {
    #[default]
    Plain,
    Json,
    Bytes,
    /// The BIT of MySQL, for which a text is its bytes.
    Bits,
    /// The YEAR of MySQL, for which the text `0` is 2000.
    Year,
}

impl ColumnKind {
    fn is_plain(&self) -> bool {
        *self == Self::Plain
    }
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
    /// Every record of the file as a row of the table.
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

    /// Into the database of this connection of the worker.
    #[must_use]
    pub fn connection(mut self, name: impl Into<String>) -> Self {
        self.connection = name.into();
        self
    }

    /// Puts a field of the file into a column of another name; can be called again for other fields.
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

    /// What stands for NULL in a CSV field.
    #[must_use]
    pub fn null(mut self, text: impl Into<String>) -> Self {
        self.null = text.into();
        self
    }

    /// Which manifest says how the values of the file are written.
    #[must_use]
    pub fn manifest(mut self, manifest: ManifestChoice) -> Self {
        self.manifest = manifest;
        self
    }

    /// How the file writes bytes, where no manifest says it.
    #[must_use]
    pub fn bytes(mut self, form: BytesForm) -> Self {
        self.bytes = Some(form);
        self
    }

    /// What happens to a record whose key is in the table.
    #[must_use]
    pub fn on_conflict(mut self, on_conflict: OnConflict) -> Self {
        self.on_conflict = on_conflict;
        self
    }

    /// Whether a page's rows and the record that it was applied commit together.
    #[must_use]
    pub fn once(mut self, once: bool) -> Self {
        self.once = once;
        self
    }
}

impl ImportArgs {
    /// Which field goes where, for people; nothing before the arguments are prepared.
    #[cfg_attr(not(feature = "cli"), allow(dead_code, reason = "for `import`"))]
    pub(crate) fn assignments(&self) -> Vec<String> {
        let assigned = |assigned: &Assigned| match assigned.field == assigned.column {
            true => assigned.column.clone(),
            false => format!("{} -> {}", assigned.field, assigned.column),
        };
        self.plan.iter().flatten().map(assigned).collect()
    }

    /// Fields that are left out, since the database computes their columns.
    #[cfg_attr(not(feature = "cli"), allow(dead_code, reason = "for `import`"))]
    pub(crate) fn computed(&self) -> &[String] {
        &self.computed
    }

    /// Whether a manifest says how values are written.
    #[cfg_attr(not(feature = "cli"), allow(dead_code, reason = "for `import`"))]
    pub(crate) fn has_manifest(&self) -> bool {
        self.plan
            .iter()
            .flatten()
            .any(|assigned| assigned.encoding.is_some())
    }
}
