//! Statements for a page, with the place for its rows.

use super::error::InvalidBackfill;
use crate::sql::{
    backend::value::Value,
    syntax::{Kind, Syntax, Token, tokens},
};

/// The allowed first words of a statement. Statements that end the page's transaction, or change tables, are not
/// among them.
const ALLOWED: [&str; 7] = [
    "UPDATE", "DELETE", "INSERT", "REPLACE", "MERGE", "WITH", "SELECT",
];

/// Splits the text of a file into its statements.
///
/// Statements end with a semicolon, by the rules of the database: a semicolon in a string, a quoted name or a comment
/// does not count. Parts with only white space and comments are left out.
pub fn split(text: &str, syntax: Syntax) -> Result<Vec<String>, InvalidBackfill> {
    let all = tokens(text, syntax).map_err(|source| InvalidBackfill::Syntax {
        what: "the file".to_owned(),
        source,
    })?;
    let statements = all.split(|token| token.kind == Kind::Symbol(';'));
    Ok(statements
        .filter(|tokens| !tokens.iter().all(Token::is_blank))
        .map(|tokens| {
            let (first, last) = (tokens.first(), tokens.last());
            let (first, last) = first.zip(last).expect("there are tokens");
            text[first.at.start..last.at.end].trim().to_owned()
        })
        .collect())
}

/// A statement whose rows are still open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Statement {
    /// The parts around each `{range}`; their number is one more than that of the ranges.
    parts: Vec<String>,
}

impl Statement {
    /// Reads a statement. `number`, from 1, identifies it in errors.
    pub fn parse(text: &str, number: usize, syntax: Syntax) -> Result<Self, InvalidBackfill> {
        let what = || format!("statement {number}");
        let all = tokens(text, syntax).map_err(|source| InvalidBackfill::Syntax {
            what: what(),
            source,
        })?;
        let first = all.iter().find(|token| !token.is_blank());
        let first = first.map_or("nothing", |token| &text[token.at.clone()]);
        if !ALLOWED.iter().any(|word| word.eq_ignore_ascii_case(first)) {
            return Err(InvalidBackfill::NotAllowed {
                number,
                given: first.to_owned(),
                allowed: ALLOWED.join(", "),
            });
        }
        let mut parts = vec![String::new()];
        for token in &all {
            let written = &text[token.at.clone()];
            match token.kind {
                Kind::Range => parts.push(String::new()),
                Kind::Symbol(';') => return Err(InvalidBackfill::Semicolon { number }),
                Kind::Placeholder => {
                    return Err(InvalidBackfill::Placeholder {
                        what: what(),
                        given: written.to_owned(),
                    });
                }
                Kind::Braces => {
                    return Err(InvalidBackfill::Braces {
                        what: what(),
                        given: written.to_owned(),
                    });
                }
                _ => parts
                    .last_mut()
                    .expect("there is always one")
                    .push_str(written),
            }
        }
        match parts.len() {
            1 => Err(InvalidBackfill::NoRange { number }),
            _ => Ok(Self { parts }),
        }
    }

    /// Creates a statement of the parts around each range.
    pub fn of(parts: impl IntoIterator<Item = String>) -> Self {
        let parts: Vec<_> = parts.into_iter().collect();
        debug_assert!(parts.len() > 1);
        Self { parts }
    }

    /// Returns the number of ranges in the statement.
    pub fn ranges(&self) -> usize {
        self.parts.len() - 1
    }

    /// Returns the statement for some rows. `condition` gets the number of its first placeholder, from 1, and returns
    /// the condition with its values.
    pub fn render(
        &self,
        mut condition: impl FnMut(usize) -> (String, Vec<Value>),
    ) -> (String, Vec<Value>) {
        let (first, rest) = self.parts.split_first().expect("there is always one");
        let mut text = first.clone();
        let mut values = Vec::new();
        for part in rest {
            let (rows, its_values) = condition(values.len() + 1);
            text.push('(');
            text.push_str(&rows);
            text.push(')');
            text.push_str(part);
            values.extend(its_values);
        }
        (text, values)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_file_is_cut_at_its_semicolons() {
        let file = "-- archive\nINSERT INTO a SELECT * FROM t WHERE {range} AND x <> ';';\n\n\
                    DELETE FROM t WHERE {range};\n-- that is all;\n";
        for syntax in Syntax::ALL {
            let statements = split(file, syntax).unwrap();
            assert_eq!(statements.len(), 2, "{syntax:?}");
            assert_eq!(statements[1], "DELETE FROM t WHERE {range}");
            let statement = Statement::parse(&statements[0], 1, syntax).unwrap();
            assert_eq!(statement.ranges(), 1);
        }
    }

    #[test]
    fn every_range_gets_the_condition_and_its_values() {
        for syntax in Syntax::ALL {
            let text = "UPDATE t SET a = 1 WHERE {range} AND b IN (SELECT c FROM t WHERE {range})";
            let statement = Statement::parse(text, 1, syntax).unwrap();
            let (text, values) = statement.render(|first| {
                let condition = format!("id BETWEEN ${first} AND ${}", first + 1);
                (condition, vec![Value::from(1_i64), Value::from(9_i64)])
            });
            assert_eq!(
                text,
                "UPDATE t SET a = 1 WHERE (id BETWEEN $1 AND $2) \
                 AND b IN (SELECT c FROM t WHERE (id BETWEEN $3 AND $4))"
            );
            assert_eq!(values.len(), 4);
        }
    }

    #[test]
    fn what_could_harm_is_refused() {
        for syntax in Syntax::ALL {
            for (text, why) in [
                ("UPDATE t SET a = 1", "needs {range}"),
                ("UPDATE t SET a = '{range}'", "needs {range}"),
                ("UPDATE t SET a = 1 -- {range}", "needs {range}"),
                ("UPDATE t SET a = 1 WHERE {Range}", "{Range}"),
                ("COMMIT", "begins with COMMIT"),
                ("DROP TABLE t", "begins with DROP"),
                ("DELETE FROM t WHERE {range}; COMMIT", "semicolon"),
                ("", "begins with nothing"),
                ("DELETE FROM t WHERE {range} AND a = 'x", "not closed"),
            ] {
                let error = Statement::parse(text, 1, syntax).unwrap_err().to_string();
                assert!(error.contains(why), "{syntax:?} {text}: {error}");
            }
        }
    }

    proptest! {
        #[test]
        fn statements_joined_and_cut_are_the_same(
            statements in prop::collection::vec(r"DELETE FROM t WHERE [a-z' ]{0,8}x", 1..5)
        ) {
            for syntax in Syntax::ALL {
                let whole = statements.iter().all(|s| tokens(s, syntax).is_ok());
                if whole {
                    let file = statements.join(";\n");
                    prop_assert_eq!(&split(&file, syntax).unwrap(), &statements);
                }
            }
        }
    }
}
