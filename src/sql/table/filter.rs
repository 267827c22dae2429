//! The form of a filter, checked before the database is asked whether it understands it.

use crate::sql::syntax::{Kind, Syntax, SyntaxError, Token, tokens};

/// Checks that a filter is one expression that stays inside of the parentheses around it: nothing is left
/// open, nothing closes what it has not opened, and there is no second statement and no placeholder.
///
/// The check is no defence against malice, since the author of a filter may run SQL anyway. It keeps a filter from
/// changing the meaning of the statement around it: `a) OR (b` would make every page the whole table.
pub(super) fn check(filter: &str, syntax: Syntax) -> Result<(), String> {
    let tokens = tokens(filter, syntax).map_err(|error| match error {
        SyntaxError::NoEnd { .. } => "a quote or a comment in it is not closed".to_owned(),
        SyntaxError::ExecutableComment { .. } => error.to_string(),
    })?;
    let mut depth = 0_u32;
    for token in &tokens {
        depth = match token.kind {
            Kind::Symbol('(') => depth + 1,
            Kind::Symbol(')') => depth
                .checked_sub(1)
                .ok_or("it closes a parenthesis that it has not opened")?,
            Kind::Symbol(';') => {
                return Err("it has a semicolon in it; it must be a single expression".to_owned());
            }
            Kind::Placeholder => return Err(PLACEHOLDER.to_owned()),
            Kind::Symbol(mark) if begins_placeholder(mark, syntax) => {
                return Err(PLACEHOLDER.to_owned());
            }
            _ => depth,
        };
    }
    if depth > 0 {
        return Err("a parenthesis in it is not closed".to_owned());
    }
    if tokens.iter().all(Token::is_blank) {
        return Err("it is empty".to_owned());
    }
    Ok(())
}

const PLACEHOLDER: &str = "it has a placeholder in it; write the value";

/// Returns whether a character means nothing in the database except as the beginning of a placeholder.
fn begins_placeholder(mark: char, syntax: Syntax) -> bool {
    match syntax {
        Syntax::Postgres => mark == '$',
        Syntax::Sqlite => matches!(mark, '$' | '@' | ':'),
        Syntax::MySql => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expressions_are_let_through() {
        for filter in [
            "email IS NULL",
            "(a = 1) OR (b = ';')",
            "name = 'it''s ) (' AND x -1 > 2",
            "a = 1 -- not ) closed\n AND b = 2",
            "a = 1 /* ; ( */ AND b",
            "\"odd ) name\" = ''",
        ] {
            for syntax in Syntax::ALL {
                assert_eq!(check(filter, syntax), Ok(()), "{filter} {syntax:?}");
            }
        }
        for filter in [
            "data ? 'key' AND x::int > 1",
            "x = $$;)$$ OR x = $t$ $$ ; $t$",
            "x = E'it\\'s;' /* a /* nested ; */ ) */",
            "costume'a' ",
        ] {
            assert_eq!(check(filter, Syntax::Postgres), Ok(()), "{filter}");
        }
        for filter in [
            "x = 'it\\'s;'",
            "`odd ; name` = 1 # ; (",
            "x = \"a\\\";\"",
            "1--1",
        ] {
            assert_eq!(check(filter, Syntax::MySql), Ok(()), "{filter}");
        }
        for filter in ["[odd ; name] = 'a\\'", "`odd ( name` = 1"] {
            assert_eq!(check(filter, Syntax::Sqlite), Ok(()), "{filter}");
        }
    }

    #[test]
    fn what_would_change_the_statement_around_it_is_refused() {
        for filter in [
            "",
            " \n",
            "-- nothing\n",
            "/* nothing */",
            "a) OR (b",
            "(a",
            "a)",
            "a; DROP TABLE t",
            "a = 'open",
            "a = \"open",
            "a /* open",
        ] {
            for syntax in Syntax::ALL {
                assert!(check(filter, syntax).is_err(), "{filter} {syntax:?}");
            }
        }
        for (filter, syntax) in [
            ("a = $1", Syntax::Postgres),
            ("a = $1", Syntax::Sqlite),
            ("a = ?", Syntax::Sqlite),
            ("a = ?1", Syntax::Sqlite),
            ("a = :a", Syntax::Sqlite),
            ("a = @a", Syntax::Sqlite),
            ("a = ?", Syntax::MySql),
            ("a = $x", Syntax::Postgres),
            ("a = $$ open", Syntax::Postgres),
            ("a /* /* */", Syntax::Postgres),
            ("a = 'x\\'; b", Syntax::Sqlite),
            ("a = 'x\\'; b", Syntax::Postgres),
            ("a = 'x\\'", Syntax::MySql),
            ("a = E'x\\'", Syntax::Postgres),
        ] {
            assert!(check(filter, syntax).is_err(), "{filter} {syntax:?}");
        }
    }

    #[test]
    fn where_the_rules_of_a_filter_and_of_a_statement_differed_the_stricter_one_holds() {
        for (filter, syntax) in [
            // Some servers execute the comment.
            ("a = 1 /*! OR TRUE */", Syntax::MySql),
            ("a = 1 /*M! OR TRUE */", Syntax::MySql),
            // The placeholder would take the value of a key of the page.
            ("a = $1", Syntax::MySql),
            // SQLite reads a name and a placeholder.
            ("a:b", Syntax::Sqlite),
            ("a@b", Syntax::Sqlite),
        ] {
            assert!(check(filter, syntax).is_err(), "{filter} {syntax:?}");
        }
        for filter in ["a$1 = 1", "$x = 1", "$$1 = 1"] {
            assert_eq!(check(filter, Syntax::MySql), Ok(()), "{filter}");
        }
    }
}
