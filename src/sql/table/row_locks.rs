//! Rows that stay unchanged while several statements work on them.

#[cfg(all(feature = "files", feature = "http"))]
use std::collections::HashMap;

#[cfg(all(feature = "files", feature = "http"))]
use serde_json::value::RawValue;

#[cfg(all(feature = "files", feature = "http"))]
use super::walk::record_of;
use super::{
    Table,
    key::{Key, KeyPart},
};
use crate::{
    base::error::PageError,
    sql::{
        backend::{dialect::Dialect, value::Value},
        syntax::Syntax,
    },
};

/// The number of rows that one statement locks by their keys. MySQL takes at most 65,535 key values in a statement.
#[cfg(all(feature = "files", feature = "http"))]
const KEYS_AT_ONCE: usize = 1_000;

/// # Lock rows
impl Table {
    /// Locks the rows that match a condition until the transaction of the connection ends, and returns their keys.
    /// The placeholders of the condition begin with number 1. The call waits for sessions that hold the rows.
    ///
    /// In SQLite nothing is locked: a writing transaction is alone there.
    pub(crate) async fn lock<DB: Dialect>(
        &self,
        connection: &mut DB::Connection,
        (condition, values): (String, Vec<Value>),
    ) -> Result<Vec<Key>, PageError> {
        let statements = &self.inner.statements;
        let locked = statements.locked(&condition);
        let rows = DB::rows(connection, locked, values).await?;
        rows.iter()
            .map(|row| DB::key(row, 0, &statements.key))
            .collect()
    }

    /// Locks the rows with these keys that match the filter until the transaction of the connection ends, and returns
    /// each row with some of its columns, as [`records`](Self::records) shows them.
    #[cfg(all(feature = "files", feature = "http"))]
    pub(crate) async fn lock_records<DB: Dialect>(
        &self,
        connection: &mut DB::Connection,
        columns: &[String],
        keys: &[Key],
    ) -> Result<HashMap<Key, Box<RawValue>>, PageError> {
        let statements = &self.inner.statements;
        let columns = self.selected(Some(columns))?;
        if let Some(forms) = DB::TEXT_FORMS {
            DB::script(connection, forms.to_owned()).await?;
        }
        let mut records = HashMap::new();
        for keys in keys.chunks(KEYS_AT_ONCE) {
            let selected = columns.iter().map(|column| column.read.clone()).collect();
            let (among, values) = self.condition_among(keys, 1);
            let locked = statements.locked_rows(selected, &among);
            for row in DB::rows(connection, locked, values).await? {
                let cells = columns.iter().enumerate();
                let cells = cells.map(|(at, column)| DB::cell(&row, at, column.encoding));
                let cells: Vec<_> = cells.collect::<Result<_, _>>()?;
                let key = DB::key(&row, columns.len(), &statements.key)?;
                records.insert(key, record_of(&columns, &cells));
            }
        }
        Ok(records)
    }

    /// Returns the rows with these keys, whether they match the filter or not, as a condition for `WHERE`. See
    /// [`condition`](Self::condition) for the placeholders. There must be at least one key.
    pub(crate) fn condition_among(&self, keys: &[Key], first: usize) -> (String, Vec<Value>) {
        let statements = &self.inner.statements;
        let columns = &statements.key;
        let names: Vec<_> = columns.iter().map(|c| c.quoted.as_str()).collect();
        let names = match names.as_slice() {
            [name] => (*name).to_owned(),
            names => format!("({})", names.join(", ")),
        };
        // One value for any number of rows, so that the statement is the same for every page.
        let as_json = || {
            let json = serde_json::json!(keys).to_string();
            vec![Value::from(json.as_str())]
        };
        let parts = |read: &dyn Fn(usize) -> String| {
            let parts = columns.iter().enumerate();
            let parts: Vec<_> = parts
                .map(|(at, column)| format!("{}{}{}", column.bind.0, read(at), column.bind.1))
                .collect();
            parts.join(", ")
        };
        match statements.syntax {
            Syntax::Postgres => {
                let parts = parts(&|at| format!("(page.key ->> {at})"));
                let sql = format!(
                    "{names} IN (SELECT {parts} FROM json_array_elements(${first}::text::json) AS page (key))"
                );
                (sql, as_json())
            }
            Syntax::Sqlite => {
                let parts = parts(&|at| format!("json_extract(page.value, '$[{at}]')"));
                let sql = format!("{names} IN (SELECT {parts} FROM json_each(${first}) AS page)");
                (sql, as_json())
            }
            Syntax::MySql => {
                let values: Vec<_> = keys.iter().flat_map(Key::parts).map(value).collect();
                let row = parts(&|_| "?".to_owned());
                let row = if columns.len() == 1 {
                    row
                } else {
                    format!("({row})")
                };
                let rows = vec![row; keys.len()].join(", ");
                (format!("{names} IN ({rows})"), values)
            }
        }
    }
}

fn value(part: &KeyPart) -> Value {
    match part {
        KeyPart::Int(number) => Value::from(*number),
        KeyPart::Text(text) => Value::from(text.as_str()),
    }
}
