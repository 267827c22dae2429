//! The user's check of rows: a condition that each row must fulfil, or a query that finds the wrong rows.

use crate::sql::syntax::{Kind, Syntax, SyntaxError, tokens};

/// A `--verify` that is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidVerify {
    /// The text is not SQL.
    #[error("the query to verify cannot be read: {0}")]
    Syntax(#[from] SyntaxError),
    /// The text is empty.
    #[error("there is nothing to verify: the query is empty")]
    Empty,
    /// Brackets do not match.
    #[error("the query to verify has a {bracket} too many")]
    Bracket {
        /// The bracket.
        bracket: char,
    },
    /// The text has more than one statement.
    #[error("the query to verify has a semicolon; give one condition or SELECT without it")]
    Semicolon,
    /// A placeholder has no value.
    #[error("the query to verify has {given}, which stands for a value; only {{range}} is known")]
    Placeholder {
        /// The placeholder.
        given: String,
    },
    /// The statement does not only read.
    #[error(
        "the query to verify begins with {word}; it must be a condition that every row fulfils, or a SELECT that \
         counts the wrong rows"
    )]
    NoQuery {
        /// The first word of the statement.
        word: String,
    },
    /// A condition has a place for a range, which only a query can have.
    #[error("{{range}} is for a SELECT; a condition is checked range by range anyway")]
    RangeInCondition,
}

/// The parsed text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum VerifyQuery {
    /// A condition that every row must fulfil.
    Condition(String),
    /// A query for the wrong rows of one range. The condition for the range goes between each two pieces.
    Ranged { pieces: Vec<String>, answer: Answer },
    /// A query for the wrong rows of the whole table, without a place for a range.
    Whole { query: String, answer: Answer },
}

/// The meaning of the rows of a query.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// Each row has a number of wrong rows.
    Numbers,
    /// Each row stands for one wrong row.
    Rows,
}

/// The first words of statements, which cannot begin a condition.
const STATEMENTS: [&str; 17] = [
    "ALTER", "ANALYZE", "BEGIN", "CALL", "COMMIT", "COPY", "CREATE", "DELETE", "DO", "DROP",
    "EXPLAIN", "INSERT", "MERGE", "SET", "TRUNCATE", "UPDATE", "VACUUM",
];

/// The words after which, at the top of a query, `AND` would not be part of its `WHERE`.
const AFTER_WHERE: [&str; 14] = [
    "GROUP",
    "HAVING",
    "WINDOW",
    "ORDER",
    "LIMIT",
    "OFFSET",
    "FETCH",
    "FOR",
    "LOCK",
    "UNION",
    "INTERSECT",
    "EXCEPT",
    "MINUS",
    "INTO",
];

impl VerifyQuery {
    /// Parses the text. `table` is the table as the batch names it, with or without its schema.
    pub fn parse(sql: &str, table: &str, syntax: Syntax) -> Result<Self, InvalidVerify> {
        let text = Text {
            sql,
            tokens: nested(sql, syntax)?,
        };
        let ranges = text.tokens.iter().filter(|token| token.kind == Kind::Range);
        let ranges: Vec<_> = ranges.map(|token| token.at.clone()).collect();
        let first = text.word(0).unwrap_or_default();
        if STATEMENTS.contains(&first.as_str()) && !text.is_call(0) {
            return Err(InvalidVerify::NoQuery { word: first });
        }
        if first != "SELECT" && first != "WITH" {
            return match ranges.is_empty() {
                true => Ok(Self::Condition(sql.to_owned())),
                false => Err(InvalidVerify::RangeInCondition),
            };
        }
        let answer = text.answer();
        if !ranges.is_empty() {
            let mut pieces = Vec::new();
            let mut from = 0;
            for at in ranges {
                pieces.push(format!("{}(", &sql[from..at.start]));
                from = at.end;
            }
            pieces.push(sql[from..].to_owned());
            // Closes the bracket of the previous range.
            pieces[1..]
                .iter_mut()
                .for_each(|piece| piece.insert(0, ')'));
            return Ok(Self::Ranged { pieces, answer });
        }
        Ok(match text.place_for_range(table) {
            Some(pieces) => Self::Ranged { pieces, answer },
            None => Self::Whole {
                query: sql.to_owned(),
                answer,
            },
        })
    }
}

/// A token that is neither a comment nor white space.
struct Token {
    kind: Kind,
    at: std::ops::Range<usize>,
    /// The number of brackets around the token; a bracket itself is outside.
    depth: usize,
}

/// Returns the tokens of a single expression or query whose brackets match.
fn nested(sql: &str, syntax: Syntax) -> Result<Vec<Token>, InvalidVerify> {
    let mut depth = 0_usize;
    let mut nested = Vec::new();
    for token in tokens(sql, syntax)? {
        let given = || sql[token.at.clone()].to_owned();
        match &token.kind {
            Kind::Space | Kind::Comment { .. } => continue,
            Kind::Placeholder | Kind::Braces => {
                return Err(InvalidVerify::Placeholder { given: given() });
            }
            Kind::Symbol(';') => return Err(InvalidVerify::Semicolon),
            Kind::Symbol(')') => {
                let outside = depth.checked_sub(1);
                depth = outside.ok_or(InvalidVerify::Bracket { bracket: ')' })?;
            }
            _ => {}
        }
        let opens = token.kind == Kind::Symbol('(');
        nested.push(Token {
            kind: token.kind,
            at: token.at,
            depth,
        });
        depth += usize::from(opens);
    }
    match (depth, nested.is_empty()) {
        (0, false) => Ok(nested),
        (0, true) => Err(InvalidVerify::Empty),
        _ => Err(InvalidVerify::Bracket { bracket: '(' }),
    }
}

struct Text<'a> {
    sql: &'a str,
    tokens: Vec<Token>,
}

impl Text<'_> {
    fn raw(&self, n: usize) -> &str {
        &self.sql[self.tokens[n].at.clone()]
    }

    /// Returns an unquoted word, in capitals.
    fn word(&self, n: usize) -> Option<String> {
        let token = self.tokens.get(n)?;
        (token.kind == Kind::Word).then(|| self.raw(n).to_ascii_uppercase())
    }

    fn is_symbol(&self, n: usize, symbol: char) -> bool {
        let token = self.tokens.get(n);
        token.is_some_and(|token| token.kind == Kind::Symbol(symbol))
    }

    /// Returns whether a word is directly before a bracket.
    fn is_call(&self, n: usize) -> bool {
        self.is_symbol(n + 1, '(')
    }

    /// Returns the first of some words outside of all brackets, from a position on.
    fn find(&self, from: usize, words: &[&str]) -> Option<usize> {
        (from..self.tokens.len()).find(|n| {
            self.tokens[*n].depth == 0
                && self
                    .word(*n)
                    .is_some_and(|word| words.contains(&word.as_str()))
        })
    }

    /// Returns the meaning of a query: one that selects a single `count(..)` or `sum(..)` returns numbers, every other
    /// returns rows.
    fn answer(&self) -> Answer {
        let Some(select) = self.find(0, &["SELECT"]) else {
            return Answer::Rows;
        };
        let end = self.find(select, &["FROM"]).unwrap_or(self.tokens.len());
        let aggregate = self
            .word(select + 1)
            .is_some_and(|word| ["COUNT", "SUM"].contains(&word.as_str()))
            && self.is_call(select + 1);
        let several = (select..end).any(|n| self.tokens[n].depth == 0 && self.is_symbol(n, ','));
        match aggregate && !several {
            true => Answer::Numbers,
            false => Answer::Rows,
        }
    }

    /// Returns the query in two pieces, if it reads only the table of the batch, and its `WHERE` extends to its end.
    fn place_for_range(&self, table: &str) -> Option<Vec<String>> {
        if self.word(0)? != "SELECT" {
            return None;
        }
        let from = self.find(0, &["FROM"])?;
        if self.find(from, &AFTER_WHERE).is_some() {
            return None;
        }
        let condition = self.find(from, &["WHERE"]);
        let source = from + 1..condition.unwrap_or(self.tokens.len());
        if !self.is_table(source, table) {
            return None;
        }
        // The line breaks keep a comment at the end of the query from swallowing the rest.
        let pieces = match condition {
            Some(condition) => {
                let after = self.tokens.get(condition + 1)?.at.start;
                [
                    format!("{}(", &self.sql[..after]),
                    format!("{}\n) AND (", &self.sql[after..]),
                ]
                .concat()
            }
            None => format!("{}\nWHERE (", self.sql),
        };
        Some(vec![pieces, ")".to_owned()])
    }

    /// Returns whether the tokens are the table, with or without its schema and an alias.
    fn is_table(&self, source: std::ops::Range<usize>, table: &str) -> bool {
        let mut names = vec![unquoted(self.raw_or_empty(source.start))];
        let mut next = source.start + 1;
        while next + 1 < source.end && self.is_symbol(next, '.') {
            names.push(unquoted(self.raw(next + 1)));
            next += 2;
        }
        if next < source.end && self.word(next).is_some_and(|word| word == "AS") {
            next += 1;
        }
        let is_name = |n: usize| matches!(self.tokens[n].kind, Kind::Word | Kind::Name(_));
        let left = source.end.saturating_sub(next);
        if left > 1 || (left == 1 && !is_name(next)) {
            return false;
        }
        let known: Vec<_> = table.split('.').map(unquoted).collect();
        // A schema is compared only if both names have one.
        let mut both = names.iter().rev().zip(known.iter().rev());
        !names.is_empty() && both.all(|(a, b)| a.eq_ignore_ascii_case(b))
    }

    fn raw_or_empty(&self, n: usize) -> &str {
        self.tokens.get(n).map_or("", |_| self.raw(n))
    }
}

fn unquoted(name: &str) -> String {
    let name = name.trim();
    for (open, close) in [('"', '"'), ('`', '`'), ('[', ']')] {
        let inner = name.strip_prefix(open).and_then(|n| n.strip_suffix(close));
        if let Some(inner) = inner {
            let doubled = format!("{close}{close}");
            return inner.replace(&doubled, &close.to_string());
        }
    }
    name.to_owned()
}

#[cfg(test)]
#[cfg(feature = "postgres")]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parsed(sql: &str) -> Result<VerifyQuery, InvalidVerify> {
        VerifyQuery::parse(sql, "shop.users", Syntax::Postgres)
    }

    /// Returns the query with `R` for the range, or `None` for a query of the whole table.
    fn ranged(sql: &str) -> Option<(String, Answer)> {
        match parsed(sql).unwrap() {
            VerifyQuery::Ranged { pieces, answer } => Some((pieces.join("R"), answer)),
            VerifyQuery::Whole { .. } => None,
            VerifyQuery::Condition(_) => panic!("{sql} is no query"),
        }
    }

    #[test]
    fn what_is_no_select_is_a_condition() {
        for sql in [
            "email_hash IS NOT NULL",
            "(SELECT 1) = 1",
            "EXISTS (SELECT 1)",
            "set(a)",
        ] {
            assert_eq!(parsed(sql), Ok(VerifyQuery::Condition(sql.to_owned())));
        }
    }

    #[test]
    fn the_range_joins_the_condition_of_a_plain_query() {
        let (sql, answer) = ranged("SELECT count(*) FROM users WHERE a OR b").unwrap();
        assert_eq!(sql, "SELECT count(*) FROM users WHERE (a OR b\n) AND (R)");
        assert_eq!(answer, Answer::Numbers);
        let (sql, answer) = ranged("select id from \"shop\".\"users\" as u").unwrap();
        assert_eq!(sql, "select id from \"shop\".\"users\" as u\nWHERE (R)");
        assert_eq!(answer, Answer::Rows);
        let (sql, _) = ranged("SELECT count(*) FROM users u WHERE a -- or not").unwrap();
        assert!(sql.ends_with("(a -- or not\n) AND (R)"), "{sql}");
        let nested = "SELECT count(*) FROM users WHERE id IN (SELECT u FROM x GROUP BY u LIMIT 1)";
        assert!(ranged(nested).is_some());
    }

    #[test]
    fn a_query_without_a_place_for_the_range_is_asked_once() {
        for sql in [
            "SELECT count(*) FROM users JOIN x ON true WHERE a",
            "SELECT count(*) FROM users, x WHERE a",
            "SELECT count(*) FROM orders WHERE a",
            "SELECT count(*) FROM audit.users WHERE a",
            "SELECT count(*) FROM users WHERE a GROUP BY b",
            "SELECT id FROM users WHERE a LIMIT 5",
            "SELECT id FROM users WHERE a UNION SELECT 1",
            "SELECT count(*) FROM (SELECT * FROM users) u WHERE a",
            "WITH w AS (SELECT 1) SELECT count(*) FROM users",
            "SELECT 1",
        ] {
            assert_eq!(ranged(sql), None, "{sql}");
        }
    }

    #[test]
    fn a_placeholder_says_where_the_range_goes() {
        let sql = "SELECT count(*) FROM (SELECT * FROM users WHERE {range}) u JOIN x USING (id)";
        let (sql, _) = ranged(sql).unwrap();
        assert_eq!(
            sql,
            "SELECT count(*) FROM (SELECT * FROM users WHERE (R)) u JOIN x USING (id)"
        );
        // Outside of a string.
        assert_eq!(ranged("SELECT count(*) FROM x WHERE a = '{range}'"), None);
        assert_eq!(
            parsed("a AND {range}"),
            Err(InvalidVerify::RangeInCondition)
        );
    }

    #[test]
    fn one_number_and_rows_are_told_apart() {
        let answer = |sql: &str| match parsed(sql).unwrap() {
            VerifyQuery::Whole { answer, .. } | VerifyQuery::Ranged { answer, .. } => answer,
            VerifyQuery::Condition(_) => panic!("{sql} is no query"),
        };
        assert_eq!(
            answer("WITH w AS (SELECT 1) SELECT sum(n) FROM w"),
            Answer::Numbers
        );
        assert_eq!(answer("SELECT count(*), b FROM w GROUP BY b"), Answer::Rows);
        assert_eq!(answer("SELECT countries FROM w"), Answer::Rows);
        assert_eq!(answer("SELECT count(*) FROM w GROUP BY b"), Answer::Numbers);
    }

    #[test]
    fn what_does_not_read_is_refused() {
        let error = parsed("DELETE FROM users").unwrap_err().to_string();
        assert!(error.contains("begins with DELETE"), "{error}");
        let error = parsed("a) OR (b").unwrap_err().to_string();
        assert!(error.contains("a ) too many"), "{error}");
        assert_eq!(parsed("a; b"), Err(InvalidVerify::Semicolon));
        assert_eq!(parsed(" -- nothing"), Err(InvalidVerify::Empty));
        assert_eq!(
            parsed("a AND (b"),
            Err(InvalidVerify::Bracket { bracket: '(' })
        );
        let error = parsed("a = $1").unwrap_err().to_string();
        assert!(error.contains("has $1"), "{error}");
    }

    proptest! {
        /// A condition always stays within its brackets.
        #[test]
        fn what_is_accepted_has_brackets_that_match(sql in "[a()'\"$;/*\\-# \né]{0,20}") {
            if parsed(&sql).is_ok() {
                let around = format!("(\n{sql}\n) AND (b)");
                let tokens = nested(&around, Syntax::Postgres).unwrap();
                let top: Vec<_> = tokens.iter().filter(|t| t.depth == 0).map(|t| &around[t.at.clone()]).collect();
                prop_assert_eq!(top, ["(", ")", "AND", "(", ")"]);
            }
        }
    }
}
