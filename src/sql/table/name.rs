//! Names of tables and columns, in a spec and in a statement.

use std::fmt;

use super::error::TableError;

/// The name of a table, as it was given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::sql) struct TableName {
    pub schema: Option<String>,
    pub table: String,
}

impl TableName {
    /// Reads a name like [`read`](Self::read), with the error of a table.
    pub fn parse(given: &str) -> Result<Self, TableError> {
        Self::read(given).map_err(|reason| TableError::Name {
            given: given.to_owned(),
            reason,
        })
    }

    /// Reads `table` or `schema.table`. Either name is in double quotes or backticks if it has a dot or a quote in
    /// it. An error is the reason why the text is not such a name.
    pub fn read(given: &str) -> Result<Self, &'static str> {
        let mut names = Vec::new();
        let mut rest = given;
        loop {
            let (name, after) = first_name(rest)?;
            if name.is_empty() {
                return Err("a name is empty");
            }
            if name.chars().any(char::is_control) {
                return Err("a name has a control character in it");
            }
            names.push(name);
            match after.strip_prefix('.') {
                Some(after) => rest = after,
                None if after.is_empty() => break,
                None => return Err("there is something after the closing quote"),
            }
        }
        let mut names = names.into_iter();
        match (names.next(), names.next(), names.next()) {
            (Some(table), None, _) => Ok(Self {
                schema: None,
                table,
            }),
            (Some(schema), Some(table), None) => Ok(Self {
                schema: Some(schema),
                table,
            }),
            _ => Err(
                "only a table, or a schema and a table, can be named; a name with a dot in it goes in \
                 double quotes",
            ),
        }
    }
}

impl fmt::Display for TableName {
    /// Writes a text that [`read`](Self::read) reads back. Quotes are written only where they are needed.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(schema) = &self.schema {
            write!(f, "{}.", written(schema))?;
        }
        f.write_str(&written(&self.table))
    }
}

fn written(name: &str) -> String {
    match name.contains(['.', '"', '`']) {
        true => format!("\"{}\"", name.replace('"', "\"\"")),
        false => name.to_owned(),
    }
}

/// Returns the first of the names that dots separate, and the rest.
fn first_name(text: &str) -> Result<(String, &str), &'static str> {
    let Some(mark) = text.chars().next().filter(|c| matches!(c, '"' | '`')) else {
        let end = text.find('.').unwrap_or(text.len());
        let (name, rest) = text.split_at(end);
        if name.contains(['"', '`']) {
            return Err("a name with a quote in it goes in double quotes, with the quote doubled");
        }
        return Ok((name.to_owned(), rest));
    };
    let mut name = String::new();
    let mut rest = &text[1..];
    loop {
        let end = rest.find(mark).ok_or("a quote is not closed")?;
        name.push_str(&rest[..end]);
        rest = &rest[end + 1..];
        let Some(after) = rest.strip_prefix(mark) else {
            return Ok((name, rest));
        };
        name.push(mark);
        rest = after;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::sql::syntax::Syntax;

    fn parsed(given: &str) -> (Option<String>, String) {
        let name = TableName::parse(given).unwrap();
        (name.schema, name.table)
    }

    #[test]
    fn names_are_taken_as_they_are_written() {
        assert_eq!(parsed("Users"), (None, "Users".into()));
        assert_eq!(parsed("shop.users"), (Some("shop".into()), "users".into()));
        assert_eq!(
            parsed(r#"shop."a.""b""#),
            (Some("shop".into()), "a.\"b".into())
        );
        assert_eq!(parsed("`a``b`"), (None, "a`b".into()));
        assert_eq!(parsed("two words"), (None, "two words".into()));
    }

    #[test]
    fn what_is_no_name_is_refused() {
        for given in [
            "", ".t", "s.", "a.b.c", "\"a", "\"a\"b", "a\"b", "a\0b", "s.\"\"",
        ] {
            let refused = TableName::parse(given).unwrap_err().to_string();
            assert!(refused.contains("not the name of a table"), "{refused}");
        }
    }

    #[test]
    fn a_plain_name_is_written_without_quotes() {
        for given in ["users", "shop.users", "my shop.Users"] {
            assert_eq!(TableName::parse(given).unwrap().to_string(), given);
        }
        let quoted = TableName::parse("`s.x`.`t`").unwrap().to_string();
        assert_eq!(quoted, "\"s.x\".t");
    }

    proptest! {
        #[test]
        fn a_written_name_is_read_back(
            schema in prop::option::of("[^\\p{Cc}]{1,9}"), table in "[^\\p{Cc}]{1,9}"
        ) {
            let name = TableName { schema, table };
            prop_assert_eq!(TableName::parse(&name.to_string()).unwrap(), name);
        }

        #[test]
        fn a_quoted_name_is_read_back(schema in "[^\\p{Cc}]{1,9}", table in "[^\\p{Cc}]{1,9}") {
            for syntax in Syntax::ALL {
                let given = format!("{}.{}", syntax.quote(&schema), syntax.quote(&table));
                prop_assert_eq!(parsed(&given), (Some(schema.clone()), table.clone()));
            }
        }
    }
}
