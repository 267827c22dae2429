//! Names of tables and columns: how they are written in a spec and in a statement.

use super::error::TableError;

/// Which quotes a database puts around a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Quotes {
    Double,
    #[cfg_attr(
        not(feature = "mysql"),
        allow(dead_code, reason = "only MySQL uses them")
    )]
    Back,
}

impl Quotes {
    /// The name as one identifier of a statement.
    pub fn quote(self, name: &str) -> String {
        let mark = match self {
            Self::Double => '"',
            Self::Back => '`',
        };
        let mut quoted = String::with_capacity(name.len() + 2);
        quoted.push(mark);
        for c in name.chars() {
            if c == mark {
                quoted.push(mark);
            }
            quoted.push(c);
        }
        quoted.push(mark);
        quoted
    }
}

/// A table as it was named.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct TableName {
    pub schema: Option<String>,
    pub table: String,
}

impl TableName {
    /// Reads `table` or `schema.table`, either of them in double quotes or backticks where it has a dot or a
    /// quote in it.
    pub fn parse(given: &str) -> Result<Self, TableError> {
        let invalid = |reason| TableError::Name {
            given: given.to_owned(),
            reason,
        };
        let mut names = Vec::new();
        let mut rest = given;
        loop {
            let (name, after) = first_name(rest).map_err(invalid)?;
            if name.is_empty() {
                return Err(invalid("a name is empty"));
            }
            if name.chars().any(char::is_control) {
                return Err(invalid("a name has a control character in it"));
            }
            names.push(name);
            match after.strip_prefix('.') {
                Some(after) => rest = after,
                None if after.is_empty() => break,
                None => return Err(invalid("there is something after the closing quote")),
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
            _ => Err(invalid(
                "only a table, or a schema and a table, can be named; a name with a dot in it goes in \
                 double quotes",
            )),
        }
    }
}

/// The first of the names that are separated by dots, and what follows it.
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
            assert!(refused.contains("no name of a table"), "{refused}");
        }
    }

    proptest! {
        #[test]
        fn a_quoted_name_is_read_back(schema in "[^\\p{Cc}]{1,9}", table in "[^\\p{Cc}]{1,9}") {
            for quotes in [Quotes::Double, Quotes::Back] {
                let given = format!("{}.{}", quotes.quote(&schema), quotes.quote(&table));
                prop_assert_eq!(parsed(&given), (Some(schema.clone()), table.clone()));
            }
        }
    }
}
