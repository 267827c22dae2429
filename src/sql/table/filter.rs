//! What a filter may look like, before the database is asked whether it understands it.

/// How a database reads SQL, as far as it matters for where a text or a comment ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Syntax {
    #[cfg_attr(not(feature = "postgres"), allow(dead_code, reason = "of PostgreSQL"))]
    Postgres,
    #[cfg_attr(not(feature = "mysql"), allow(dead_code, reason = "of MySQL"))]
    MySql,
    #[cfg_attr(not(feature = "sqlite"), allow(dead_code, reason = "of SQLite"))]
    Sqlite,
}

/// Checks that a filter is one expression that stays inside of the parentheses around it: nothing is left
/// open, nothing closes what it has not opened, and there is no second statement and no placeholder.
///
/// Not against malice, since whoever gives a filter may run SQL anyway, but against what would change the
/// meaning of the statement around it: `a) OR (b` would make every page the whole table.
pub(super) fn check(filter: &str, syntax: Syntax) -> Result<(), &'static str> {
    let mut depth = 0_u32;
    let mut empty = true;
    let mut rest = filter;
    let mut before = None;
    while let Some(c) = rest.chars().next() {
        let after = &rest[c.len_utf8()..];
        let next = after.chars().next();
        let mut comment = false;
        let end = match c {
            '\'' => {
                let escapes = match syntax {
                    Syntax::MySql => true,
                    Syntax::Postgres => is_escape_prefix(filter, filter.len() - rest.len()),
                    Syntax::Sqlite => false,
                };
                Some(quoted_end(rest, '\'', escapes))
            }
            '"' => Some(quoted_end(rest, '"', syntax == Syntax::MySql)),
            '`' if syntax != Syntax::Postgres => Some(quoted_end(rest, '`', false)),
            '[' if syntax == Syntax::Sqlite => Some(after.find(']').map(|at| at + 2)),
            '$' if syntax == Syntax::Postgres && !before.is_some_and(is_word) => {
                match dollar_quote(rest) {
                    Some(mark) => Some(rest[mark.len()..].find(mark).map(|at| at + 2 * mark.len())),
                    None => return Err(PLACEHOLDER),
                }
            }
            '-' if next == Some('-') && starts_comment(after, syntax) => {
                comment = true;
                Some(Some(line_end(rest)))
            }
            '#' if syntax == Syntax::MySql => {
                comment = true;
                Some(Some(line_end(rest)))
            }
            '/' if next == Some('*') => {
                comment = true;
                Some(comment_end(rest, syntax == Syntax::Postgres))
            }
            '(' => {
                depth += 1;
                None
            }
            ')' => {
                depth = depth
                    .checked_sub(1)
                    .ok_or("it closes a parenthesis that it has not opened")?;
                None
            }
            ';' => return Err("it has a semicolon in it; it must be a single expression"),
            '?' if syntax != Syntax::Postgres => return Err(PLACEHOLDER),
            '$' | '@' | ':' if syntax == Syntax::Sqlite && !before.is_some_and(is_word) => {
                return Err(PLACEHOLDER);
            }
            _ => None,
        };
        let length = match end {
            None => c.len_utf8(),
            Some(Some(end)) => end,
            Some(None) => return Err("a quote or a comment in it is not closed"),
        };
        empty &= comment || c.is_whitespace();
        before = rest[..length].chars().next_back();
        rest = &rest[length..];
    }
    if depth > 0 {
        return Err("a parenthesis in it is not closed");
    }
    if empty {
        return Err("it is empty");
    }
    Ok(())
}

const PLACEHOLDER: &str = "it has a placeholder in it; write the value";

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// Whether the quote at this place begins a text with backslashes, such as `E'it\'s'`.
fn is_escape_prefix(filter: &str, quote: usize) -> bool {
    let mut before = filter[..quote].chars().rev();
    matches!(before.next(), Some('e' | 'E')) && !before.next().is_some_and(is_word)
}

/// How long a text that begins with its quote is. A doubled quote reads as the end of one text and the
/// beginning of the next, which comes to the same.
fn quoted_end(text: &str, mark: char, escapes: bool) -> Option<usize> {
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        if escaped {
            escaped = false;
        } else if escapes && c == '\\' {
            escaped = true;
        } else if c == mark {
            return Some(at + 1);
        }
    }
    None
}

/// `$$` or `$tag$`, if the text begins with one.
fn dollar_quote(text: &str) -> Option<&str> {
    let end = text[1..].find('$')? + 2;
    let tag = &text[1..end - 1];
    let begins_well = !tag.starts_with(|c: char| c.is_ascii_digit());
    (begins_well && tag.chars().all(is_word)).then(|| &text[..end])
}

/// In MySQL `--` begins a comment only before a space.
fn starts_comment(second_dash: &str, syntax: Syntax) -> bool {
    syntax != Syntax::MySql
        || second_dash[1..]
            .chars()
            .next()
            .is_none_or(|c| c.is_whitespace() || c.is_control())
}

fn line_end(text: &str) -> usize {
    text.find('\n').map_or(text.len(), |at| at + 1)
}

fn comment_end(text: &str, nested: bool) -> Option<usize> {
    let mut depth = 1;
    let mut at = 2;
    loop {
        let close = text[at..].find("*/")? + at;
        match text[at..close].find("/*") {
            Some(open) if nested => {
                depth += 1;
                at += open + 2;
            }
            _ => {
                depth -= 1;
                at = close + 2;
                if depth == 0 {
                    return Some(at);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [Syntax; 3] = [Syntax::Postgres, Syntax::MySql, Syntax::Sqlite];

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
            for syntax in ALL {
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
            for syntax in ALL {
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
}
