//! The statements on a table: text and values, no database.

use super::{
    column::KeyColumn,
    key::{Key, KeyPart},
};
use crate::sql::{
    backend::value::{Statement, Value},
    syntax::Syntax,
};

/// The parts of the statements on a table. Every name is quoted, every type comes from the catalog, and the filter
/// was checked.
#[derive(Clone, Debug)]
pub(super) struct Statements {
    pub syntax: Syntax,
    /// The quoted table, with its schema.
    pub table: String,
    pub key: Vec<KeyColumn>,
    pub filter: Option<String>,
}

/// A statement and the values of its placeholders.
pub(super) struct Bound {
    pub sql: String,
    pub values: Vec<Value>,
}

impl From<Bound> for Statement {
    fn from(Bound { sql, values }: Bound) -> Self {
        (sql, values)
    }
}

/// A side of a key, with or without the key's own row.
#[derive(Clone, Copy)]
enum Side {
    After,
    From,
    UpTo,
}

impl Side {
    fn operator(self) -> &'static str {
        match self {
            Self::After => ">",
            Self::From => ">=",
            Self::UpTo => "<=",
        }
    }

    /// Returns the operator without equality, and the one with it.
    fn strict_and_loose(self) -> (&'static str, &'static str) {
        match self {
            Self::After | Self::From => (">", ">="),
            Self::UpTo => ("<", "<="),
        }
    }
}

/// A condition under construction.
struct Condition<'s> {
    statements: &'s Statements,
    terms: Vec<String>,
    values: Vec<Value>,
    /// The number of the next placeholder.
    next: usize,
}

impl Condition<'_> {
    fn placeholder(&mut self, column: Option<&KeyColumn>, value: Value) -> String {
        self.values.push(value);
        let placeholder = match self.statements.syntax {
            Syntax::MySql => "?".to_owned(),
            Syntax::Postgres | Syntax::Sqlite => format!("${}", self.next),
        };
        self.next += 1;
        match column {
            Some(KeyColumn {
                bind: (before, after),
                ..
            }) => format!("{before}{placeholder}{after}"),
            None => placeholder,
        }
    }

    fn compare(&mut self, key: &Key, side: Side) {
        let columns = &self.statements.key;
        let expand = columns.len() > 1
            && columns.len() == key.parts().len()
            && self.statements.syntax == Syntax::MySql;
        let term = if expand {
            self.expanded(key, side)
        } else {
            self.row_value(key, side)
        };
        self.terms.push(term);
    }

    /// Makes `("a", "b") > ($1, $2)`. A key with more or fewer parts than columns makes a statement that every
    /// database refuses, rather than one with another meaning.
    fn row_value(&mut self, key: &Key, side: Side) -> String {
        let columns = &self.statements.key;
        let names: Vec<_> = columns.iter().map(|c| c.quoted.as_str()).collect();
        let parts = key.parts().iter().enumerate();
        let values: Vec<_> = parts
            .map(|(at, part)| self.placeholder(columns.get(at), value(part)))
            .collect();
        let operator = side.operator();
        match (names.as_slice(), values.as_slice()) {
            ([name], [value]) => format!("{name} {operator} {value}"),
            (names, values) => {
                format!("({}) {operator} ({})", names.join(", "), values.join(", "))
            }
        }
    }

    /// Makes `a >= ? AND (a > ? OR (a = ? AND b > ?))`, since MySQL does not look up row values in an index. The
    /// first comparison follows from the rest, and bounds the scan.
    fn expanded(&mut self, key: &Key, side: Side) -> String {
        let (strict, loose) = side.strict_and_loose();
        let columns: Vec<_> = self.statements.key.iter().zip(key.parts()).collect();
        let (first, part) = columns[0];
        let bound = self.placeholder(Some(first), value(part));
        let bound = format!("{} {loose} {bound}", first.quoted);
        let mut alternatives = Vec::new();
        for last in 0..columns.len() {
            let mut terms = Vec::new();
            for (at, (column, part)) in columns.iter().enumerate().take(last + 1) {
                let operator = match (at == last, last + 1 == columns.len()) {
                    (false, _) => "=",
                    (true, true) => side.operator(),
                    (true, false) => strict,
                };
                let placeholder = self.placeholder(Some(column), value(part));
                terms.push(format!("{} {operator} {placeholder}", column.quoted));
            }
            alternatives.push(format!("({})", terms.join(" AND ")));
        }
        format!("{bound} AND ({})", alternatives.join(" OR "))
    }

    fn filter(&mut self) {
        if let Some(filter) = &self.statements.filter {
            // A comment at the end of the filter must not swallow the parenthesis.
            self.terms.push(format!("(\n{filter}\n)"));
        }
    }

    fn finish(self) -> Bound {
        let sql = if self.terms.is_empty() {
            "TRUE".to_owned()
        } else {
            self.terms.join(" AND ")
        };
        Bound {
            sql,
            values: self.values,
        }
    }
}

fn value(part: &KeyPart) -> Value {
    match part {
        KeyPart::Int(number) => Value::from(*number),
        KeyPart::Text(text) => Value::from(text.as_str()),
    }
}

impl Statements {
    fn begin(&self, first: usize) -> Condition<'_> {
        Condition {
            statements: self,
            terms: Vec::new(),
            values: Vec::new(),
            next: first,
        }
    }

    fn within(&self, start: Option<&Key>, end: Option<&Key>, first: usize) -> Condition<'_> {
        let mut condition = self.begin(first);
        if let Some(start) = start {
            condition.compare(start, Side::After);
        }
        if let Some(end) = end {
            condition.compare(end, Side::UpTo);
        }
        condition.filter();
        condition
    }

    /// Returns the range `(start, end]`, with the filter.
    pub fn range(&self, start: Option<&Key>, end: Option<&Key>, first: usize) -> Bound {
        self.within(start, end, first).finish()
    }

    /// Returns the range from one key to another, both included, with the filter.
    pub fn between(&self, from: &Key, to: &Key, first: usize) -> Bound {
        let mut condition = self.begin(first);
        condition.compare(from, Side::From);
        condition.compare(to, Side::UpTo);
        condition.filter();
        condition.finish()
    }

    /// Returns the expressions that select the key of a row.
    fn reads(&self) -> Vec<String> {
        let reads = self.key.iter().enumerate();
        reads
            .map(|(number, column)| format!("{} AS temporal_batch_key_{number}", column.read))
            .collect()
    }

    /// Returns the order of the key. The columns carry the table, since a bare name would mean a column of the result.
    fn order(&self, direction: &str) -> String {
        let columns = self.key.iter();
        let columns: Vec<_> = columns
            .map(|c| format!("{}.{}{direction}", self.table, c.quoted))
            .collect();
        columns.join(", ")
    }

    /// Selects `columns` (expressions) and the key of the rows in `(start, end]`, in order.
    pub fn page(
        &self,
        columns: Vec<String>,
        start: Option<&Key>,
        end: Option<&Key>,
        limit: u64,
        offset: u64,
    ) -> Bound {
        let mut selected = columns;
        selected.extend(self.reads());
        let mut condition = self.within(start, end, 1);
        let filtered = !condition.terms.is_empty();
        let limit = condition.placeholder(None, limit.into());
        let offset = (offset > 0).then(|| condition.placeholder(None, offset.into()));
        let offset = offset.map_or_else(String::new, |offset| format!(" OFFSET {offset}"));
        let Bound { sql, values } = condition.finish();
        let condition = if filtered {
            format!(" WHERE {sql}")
        } else {
            String::new()
        };
        let sql = format!(
            "SELECT {} FROM {}{condition} ORDER BY {} LIMIT {limit}{offset}",
            selected.join(", "),
            self.table,
            self.order("")
        );
        Bound { sql, values }
    }

    /// Returns the keys of the matching rows in a random sample of blocks (PostgreSQL), in order, at most `limit`.
    #[cfg(feature = "postgres")]
    pub fn sample(&self, percent: f64, limit: u64) -> Bound {
        let mut condition = self.within(None, None, 1);
        let limit = condition.placeholder(None, limit.into());
        let Bound { sql, values } = condition.finish();
        let sql = format!(
            "SELECT {} FROM {} TABLESAMPLE SYSTEM ({percent}) WHERE {sql} ORDER BY {} LIMIT {limit}",
            self.reads().join(", "),
            self.table,
            self.order("")
        );
        Bound { sql, values }
    }

    /// Returns the keys of the rows that match a condition, in order, locked until the transaction ends.
    pub fn locked(&self, condition: &str) -> String {
        let lock = match self.syntax {
            Syntax::Postgres | Syntax::MySql => " FOR UPDATE",
            // A writing transaction is alone.
            Syntax::Sqlite => "",
        };
        format!(
            "SELECT {} FROM {} WHERE {condition} ORDER BY {}{lock}",
            self.reads().join(", "),
            self.table,
            self.order("")
        )
    }

    /// Returns `columns` (expressions) and the key of the rows that match a condition and the filter, locked until the
    /// transaction ends.
    #[cfg(all(feature = "files", feature = "http"))]
    pub fn locked_rows(&self, columns: Vec<String>, condition: &str) -> String {
        let lock = match self.syntax {
            Syntax::Postgres | Syntax::MySql => " FOR UPDATE",
            // A writing transaction is alone.
            Syntax::Sqlite => "",
        };
        let mut selected = columns;
        selected.extend(self.reads());
        let mut filter = self.begin(1);
        filter.filter();
        format!(
            "SELECT {} FROM {} WHERE ({condition}) AND {} ORDER BY {}{lock}",
            selected.join(", "),
            self.table,
            filter.finish().sql,
            self.order("")
        )
    }

    /// Returns the highest key of the whole table. A filter could make the database read the table to its beginning.
    pub fn highest(&self) -> Bound {
        let sql = format!(
            "SELECT {} FROM {} ORDER BY {} LIMIT 1",
            self.reads().join(", "),
            self.table,
            self.order(" DESC")
        );
        Bound {
            sql,
            values: Vec::new(),
        }
    }

    pub fn count(&self, start: Option<&Key>, end: Option<&Key>) -> Bound {
        let Bound { sql, values } = self.range(start, end, 1);
        let sql = format!("SELECT count(*) FROM {} WHERE {sql}", self.table);
        Bound { sql, values }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn statements(syntax: Syntax, columns: &[&str]) -> Statements {
        let column = |name: &&str| KeyColumn {
            name: (*name).to_owned(),
            quoted: format!("\"{name}\""),
            read: format!("\"{name}\""),
            bind: match syntax {
                Syntax::Postgres => (String::new(), "::bigint".to_owned()),
                Syntax::MySql | Syntax::Sqlite => (String::new(), String::new()),
            },
            form: super::super::column::KeyForm::Int,
        };
        Statements {
            syntax,
            table: "\"t\"".to_owned(),
            key: columns.iter().map(column).collect(),
            filter: None,
        }
    }

    fn key(parts: &[i64]) -> Key {
        Key::new(parts.iter().copied())
    }

    #[test]
    fn a_single_column_is_compared_plainly() {
        let t = statements(Syntax::Postgres, &["id"]);
        let bound = t.range(Some(&key(&[1])), Some(&key(&[9])), 4);
        assert_eq!(bound.sql, "\"id\" > $4::bigint AND \"id\" <= $5::bigint");
        assert_eq!(bound.values.len(), 2);
        assert_eq!(t.range(None, None, 1).sql, "TRUE");
    }

    #[test]
    fn several_columns_are_compared_as_a_row() {
        let t = statements(Syntax::Sqlite, &["a", "b"]);
        let bound = t.between(&key(&[1, 2]), &key(&[3, 4]), 1);
        let expected = "(\"a\", \"b\") >= ($1, $2) AND (\"a\", \"b\") <= ($3, $4)";
        assert_eq!(bound.sql, expected);
    }

    #[test]
    fn mysql_gets_comparisons_of_single_columns() {
        let t = statements(Syntax::MySql, &["a", "b"]);
        let bound = t.between(&key(&[1, 2]), &key(&[3, 4]), 1);
        assert_eq!(
            bound.sql,
            "\"a\" >= ? AND ((\"a\" > ?) OR (\"a\" = ? AND \"b\" >= ?)) AND \
             \"a\" <= ? AND ((\"a\" < ?) OR (\"a\" = ? AND \"b\" <= ?))"
        );
        assert_eq!(bound.values.len(), 8);
    }

    #[test]
    fn a_key_with_other_parts_than_columns_makes_no_valid_comparison() {
        for syntax in [Syntax::Postgres, Syntax::Sqlite, Syntax::MySql] {
            let t = statements(syntax, &["a", "b"]);
            let bound = t.range(Some(&key(&[1])), None, 1);
            assert!(bound.sql.starts_with("(\"a\", \"b\") > ("), "{}", bound.sql);
            let t = statements(syntax, &["a"]);
            let bound = t.range(Some(&key(&[1, 2])), None, 1);
            assert!(bound.sql.starts_with("(\"a\") > ("), "{}", bound.sql);
        }
    }

    #[test]
    fn a_filter_that_ends_in_a_comment_ends_there() {
        let mut t = statements(Syntax::Sqlite, &["id"]);
        t.filter = Some("x = 1 -- why".to_owned());
        let page = t.page(vec!["\"x\"".to_owned()], None, None, 10, 0);
        assert_eq!(
            page.sql,
            "SELECT \"x\", \"id\" AS temporal_batch_key_0 FROM \"t\" WHERE (\nx = 1 -- why\n) \
             ORDER BY \"t\".\"id\" LIMIT $1"
        );
    }
}
