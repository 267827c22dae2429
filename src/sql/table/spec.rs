//! The rows of a batch.

use serde::{Deserialize, Serialize};

/// The rows that a batch goes through, and their order: a table, the columns of a unique key, and a filter. The spec
/// is part of a batch's arguments, so it is stored in histories and must hold no secrets.
///
/// Names are taken exactly as written, including case. A name with a dot or a quote in it is written in double
/// quotes, as in SQL: `shop."odd.name"`.
///
/// ```
/// use temporal_batch::sql::TableSpec;
///
/// let users = TableSpec::new("shop.users", ["country", "id"]).filter("email IS NOT NULL");
/// assert_eq!(users.key, ["country", "id"]);
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TableSpec {
    /// The table, with its schema (MySQL: database) where that is not the default one.
    pub table: String,
    /// The columns that divide the table into pages, the most significant first. No two rows may have the same values
    /// in them.
    pub key: Vec<String>,
    /// A condition in SQL; only rows for which it is true are processed. It runs with the rights of the connection,
    /// so its author must be allowed to do everything that the connection may do. In JSON it may also be called
    /// `where`, as on the command line.
    #[serde(default, skip_serializing_if = "Option::is_none", alias = "where")]
    pub filter: Option<String>,
    /// Allows row security on the table that is active for the role of the connection (PostgreSQL). Rows that a
    /// policy hides are then neither processed nor counted, and rows that a policy protects from changes fail.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub allow_row_security: bool,
}

impl TableSpec {
    /// Selects all rows of a table, in the order of a key.
    pub fn new(table: impl Into<String>, key: impl IntoIterator<Item = impl Into<String>>) -> Self {
        Self {
            table: table.into(),
            key: key.into_iter().map(Into::into).collect(),
            filter: None,
            allow_row_security: false,
        }
    }

    /// Sets [`allow_row_security`](Self::allow_row_security).
    #[must_use]
    pub fn allow_row_security(mut self, allow: bool) -> Self {
        self.allow_row_security = allow;
        self
    }

    /// Selects only rows for which this condition is true.
    #[must_use]
    pub fn filter(mut self, sql: impl Into<String>) -> Self {
        self.filter = Some(sql.into());
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_has_two_names_and_others_are_refused() {
        let read = serde_json::from_str::<TableSpec>;
        let spec = read(r#"{"table":"t","key":["id"],"where":"id < 3"}"#).unwrap();
        assert_eq!(spec, TableSpec::new("t", ["id"]).filter("id < 3"));
        let error = read(r#"{"table":"t","key":["id"],"were":"id < 3"}"#).unwrap_err();
        let text = crate::base::known_fields::explain(&error);
        assert!(text.contains("did you mean `where`?"), "{text}");
    }

    #[test]
    fn a_spec_without_a_filter_can_be_read_and_written() {
        let spec: TableSpec = serde_json::from_str(r#"{"table":"t","key":["id"]}"#).unwrap();
        assert_eq!(spec, TableSpec::new("t", ["id"]));
        let text = serde_json::to_string(&spec).unwrap();
        assert_eq!(text, r#"{"table":"t","key":["id"]}"#);
    }
}
