//! As much of SQL's grammar as it takes to find where literals, comments and statements end.

use std::ops::Range;

use crate::sql::Database;

/// Whose rules a text follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Syntax {
    #[cfg(feature = "postgres")]
    Postgres,
    #[cfg(feature = "mysql")]
    MySql,
    #[cfg(feature = "sqlite")]
    Sqlite,
}

impl Syntax {
    pub fn of(database: &Database) -> Self {
        match database {
            #[cfg(feature = "postgres")]
            Database::Postgres(_) => Self::Postgres,
            #[cfg(feature = "mysql")]
            Database::MySql(_) => Self::MySql,
            #[cfg(feature = "sqlite")]
            Database::Sqlite(_) => Self::Sqlite,
        }
    }

    // A build has the systems of its features, so these cannot be written as comparisons.

    fn is_postgres(self) -> bool {
        match self {
            #[cfg(feature = "postgres")]
            Self::Postgres => true,
            #[allow(unreachable_patterns, reason = "with one feature alone")]
            _ => false,
        }
    }

    fn is_mysql(self) -> bool {
        match self {
            #[cfg(feature = "mysql")]
            Self::MySql => true,
            #[allow(unreachable_patterns, reason = "with one feature alone")]
            _ => false,
        }
    }

    fn is_sqlite(self) -> bool {
        match self {
            #[cfg(feature = "sqlite")]
            Self::Sqlite => true,
            #[allow(unreachable_patterns, reason = "with one feature alone")]
            _ => false,
        }
    }

    /// An identifier as the database knows it that was written without quotes.
    pub fn fold(self, identifier: &str) -> String {
        match self.is_postgres() {
            // Only ASCII: what else PostgreSQL folds depends on its locale.
            true => identifier.to_ascii_lowercase(),
            false => identifier.to_owned(),
        }
    }

    /// Whether two names of columns mean the same one.
    pub fn same_column(self, one: &str, other: &str) -> bool {
        match self.is_postgres() {
            true => one == other,
            false => one.eq_ignore_ascii_case(other),
        }
    }

    /// A name in the quotes of the database.
    #[cfg(test)]
    pub fn quote(self, identifier: &str) -> String {
        let quote = if self.is_mysql() { '`' } else { '"' };
        let doubled = identifier.replace(quote, &format!("{quote}{quote}"));
        format!("{quote}{doubled}{quote}")
    }
}

/// What a piece of a text is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Blanks.
    Space,
    /// A comment; one that ends with its line.
    Comment { of_line: bool },
    /// A keyword, a name or a number, as written.
    Word,
    /// A name in quotes, here without them.
    Name(String),
    /// A string.
    Literal,
    /// Where a value could be bound.
    Placeholder,
    /// `{range}`.
    Range,
    /// `{name}` that is not `{range}`.
    Braces,
    /// Any other character.
    Symbol(char),
}

/// A piece of a text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Token {
    pub kind: Kind,
    pub at: Range<usize>,
}

impl Token {
    /// Whether it says nothing.
    pub fn is_blank(&self) -> bool {
        matches!(self.kind, Kind::Space | Kind::Comment { .. })
    }
}

/// A text that cannot be taken apart.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SyntaxError {
    /// Something was opened and not closed.
    #[error("{what} has no end: {rest}")]
    NoEnd {
        /// What was opened.
        what: &'static str,
        /// The beginning of it.
        rest: String,
    },
    /// Some servers run what is in it, and others do not.
    #[error(
        "a comment that begins with {begin} is run by some servers; write its statement plainly"
    )]
    ExecutableComment {
        /// How it begins.
        begin: &'static str,
    },
}

/// The range of the page in a statement.
const RANGE: &str = "{range}";

/// Takes a text apart. The pieces follow each other without gaps.
pub fn tokens(text: &str, syntax: Syntax) -> Result<Vec<Token>, SyntaxError> {
    let mut tokens: Vec<Token> = Vec::new();
    let mut at = 0;
    while at < text.len() {
        let before = tokens.last();
        let (kind, length) = token(&text[at..], syntax, |word| {
            before.is_some_and(|t| {
                t.kind == Kind::Word && text[t.at.clone()].eq_ignore_ascii_case(word)
            })
        })?;
        debug_assert!(length > 0);
        tokens.push(Token {
            kind,
            at: at..at + length,
        });
        at += length;
    }
    Ok(tokens)
}

/// The first token of a text and its length. `follows` says whether a word stands right before it.
fn token(
    rest: &str,
    syntax: Syntax,
    follows: impl Fn(&str) -> bool,
) -> Result<(Kind, usize), SyntaxError> {
    let mut chars = rest.chars();
    let first = chars.next().expect("a text that is not empty");
    let second = chars.next();
    let of_line = || rest.find('\n').map_or(rest.len(), |end| end + 1);
    Ok(match first {
        c if c.is_whitespace() => (Kind::Space, span(rest, char::is_whitespace)),
        '\'' => {
            let escapes = syntax.is_mysql() || (syntax.is_postgres() && follows("e"));
            let (length, _) = quoted(rest, '\'', escapes, "a string")?;
            (Kind::Literal, length)
        }
        '"' if syntax.is_mysql() => (Kind::Literal, quoted(rest, '"', true, "a string")?.0),
        '"' => named(rest, '"')?,
        '`' if !syntax.is_postgres() => named(rest, '`')?,
        '[' if syntax.is_sqlite() => {
            let end = rest.find(']').ok_or_else(|| no_end("a name", rest))?;
            (Kind::Name(rest[1..end].to_owned()), end + 1)
        }
        '-' if rest.starts_with("--") && (!syntax.is_mysql() || ends_dashes(rest)) => {
            (Kind::Comment { of_line: true }, of_line())
        }
        '#' if syntax.is_mysql() => (Kind::Comment { of_line: true }, of_line()),
        '/' if second == Some('*') => {
            if syntax.is_mysql() {
                for begin in ["/*!", "/*M!"] {
                    if rest.starts_with(begin) {
                        return Err(SyntaxError::ExecutableComment { begin });
                    }
                }
            }
            let length = block_comment(rest, syntax.is_postgres())?;
            (Kind::Comment { of_line: false }, length)
        }
        '$' if syntax.is_postgres() => dollar(rest)?,
        '?' if !syntax.is_postgres() => (
            Kind::Placeholder,
            1 + span(&rest[1..], |c| syntax.is_sqlite() && c.is_ascii_digit()),
        ),
        ':' | '@' | '$' if syntax.is_sqlite() && second.is_some_and(is_word) => {
            (Kind::Placeholder, 1 + span(&rest[1..], is_word))
        }
        '{' => braces(rest),
        c if is_word(c) => (Kind::Word, span(rest, |c| is_word(c) || c == '$')),
        c => (Kind::Symbol(c), c.len_utf8()),
    })
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_' || (!c.is_ascii() && !c.is_whitespace())
}

/// Bytes at the beginning whose characters are all like that.
fn span(text: &str, like: impl Fn(char) -> bool) -> usize {
    text.find(|c| !like(c)).unwrap_or(text.len())
}

fn no_end(what: &'static str, rest: &str) -> SyntaxError {
    let rest = crate::base::error::truncate(rest, 30);
    SyntaxError::NoEnd { what, rest }
}

/// Something in quotes, where a doubled quote stands for itself: its length, and what is in it.
fn quoted(
    rest: &str,
    quote: char,
    backslash_escapes: bool,
    what: &'static str,
) -> Result<(usize, String), SyntaxError> {
    let mut inside = String::new();
    let mut chars = rest.char_indices().skip(1).peekable();
    while let Some((at, c)) = chars.next() {
        if c == '\\' && backslash_escapes {
            chars.next();
        } else if c != quote {
            inside.push(c);
        } else if chars.next_if(|(_, next)| *next == quote).is_some() {
            inside.push(quote);
        } else {
            return Ok((at + quote.len_utf8(), inside));
        }
    }
    Err(no_end(what, rest))
}

fn named(rest: &str, quote: char) -> Result<(Kind, usize), SyntaxError> {
    let (length, name) = quoted(rest, quote, false, "a name")?;
    Ok((Kind::Name(name), length))
}

/// MySQL takes two dashes for a comment only where a blank or the end follows.
fn ends_dashes(rest: &str) -> bool {
    rest[2..]
        .chars()
        .next()
        .is_none_or(|c| c.is_whitespace() || c.is_control())
}

fn block_comment(rest: &str, nested: bool) -> Result<usize, SyntaxError> {
    let bytes = rest.as_bytes();
    let (mut at, mut depth) = (2, 1);
    while at + 1 < bytes.len() {
        match &bytes[at..at + 2] {
            b"*/" => {
                depth -= 1;
                at += 2;
                if depth == 0 {
                    return Ok(at);
                }
            }
            b"/*" if nested => {
                depth += 1;
                at += 2;
            }
            _ => at += 1,
        }
    }
    Err(no_end("a comment", rest))
}

/// `$1`, or a string such as `$body$it's$body$`, or a dollar.
fn dollar(rest: &str) -> Result<(Kind, usize), SyntaxError> {
    let digits = span(&rest[1..], |c| c.is_ascii_digit());
    if digits > 0 {
        return Ok((Kind::Placeholder, 1 + digits));
    }
    let tag = 1 + span(&rest[1..], is_word);
    if !rest[tag..].starts_with('$') {
        return Ok((Kind::Symbol('$'), 1));
    }
    let delimiter = &rest[..=tag];
    let body = &rest[delimiter.len()..];
    let end = body
        .find(delimiter)
        .ok_or_else(|| no_end("a string", rest))?;
    Ok((Kind::Literal, end + 2 * delimiter.len()))
}

fn braces(rest: &str) -> (Kind, usize) {
    if rest.starts_with(RANGE) {
        return (Kind::Range, RANGE.len());
    }
    let inside = span(&rest[1..], |c| is_word(c) || c == ' ');
    match rest[1 + inside..].starts_with('}') {
        true => (Kind::Braces, inside + 2),
        false => (Kind::Symbol('{'), 1),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn all() -> Vec<Syntax> {
        vec![
            #[cfg(feature = "postgres")]
            Syntax::Postgres,
            #[cfg(feature = "mysql")]
            Syntax::MySql,
            #[cfg(feature = "sqlite")]
            Syntax::Sqlite,
        ]
    }

    /// The texts of the tokens of a kind.
    fn found(text: &str, syntax: Syntax, kind: impl Fn(&Kind) -> bool) -> Vec<&str> {
        let tokens = tokens(text, syntax).unwrap();
        let found = tokens.into_iter().filter(|t| kind(&t.kind));
        found.map(|t| &text[t.at]).collect()
    }

    #[test]
    fn a_semicolon_in_a_string_a_name_or_a_comment_ends_nothing() {
        let text = "a ';''' ; \"x;\" /* ; */ -- ;\n ;";
        for syntax in all() {
            let ends = found(text, syntax, |k| *k == Kind::Symbol(';'));
            assert_eq!(ends.len(), 2, "{syntax:?}");
        }
    }

    #[test]
    #[cfg(feature = "postgres")]
    fn postgresql_has_dollar_strings_escape_strings_and_nested_comments() {
        let literals = |text| found(text, Syntax::Postgres, |k| *k == Kind::Literal).len();
        assert_eq!(literals("$$a;'b$$ || $x$ $$ $x$"), 2);
        assert_eq!(literals(r"E'it\'s'"), 1);
        assert!(tokens(r"'it\'s'", Syntax::Postgres).is_err());
        let blanks = found("/* a /* b */ c */x", Syntax::Postgres, |k| *k == Kind::Word);
        assert_eq!(blanks, ["x"]);
        let placeholders = found(
            "a ? 'k' AND b = $12::int AND f$1 = 1",
            Syntax::Postgres,
            |k| *k == Kind::Placeholder,
        );
        assert_eq!(placeholders, ["$12"]);
    }

    #[test]
    #[cfg(feature = "mysql")]
    fn mysql_has_backslashes_double_quoted_strings_and_hashes() {
        let literals = |text| found(text, Syntax::MySql, |k| *k == Kind::Literal).len();
        assert_eq!(literals(r#"'it\'s' "a;\"b" # ';"#), 2);
        assert_eq!(literals("5--1 'x'"), 1);
        let refused = tokens("/*!40000 DROP TABLE t */", Syntax::MySql);
        assert_eq!(
            refused,
            Err(SyntaxError::ExecutableComment { begin: "/*!" })
        );
        let name = tokens("`a``b`", Syntax::MySql).unwrap();
        assert_eq!(name[0].kind, Kind::Name("a`b".to_owned()));
    }

    #[test]
    #[cfg(feature = "sqlite")]
    fn sqlite_has_names_in_brackets_and_many_placeholders() {
        let names = found("[a;b] `c` \"d\"", Syntax::Sqlite, |k| {
            matches!(k, Kind::Name(_))
        });
        assert_eq!(names, ["[a;b]", "`c`", "\"d\""]);
        let placeholders = found("? ?12 :a @b $c 'x?'", Syntax::Sqlite, |k| {
            *k == Kind::Placeholder
        });
        assert_eq!(placeholders, ["?", "?12", ":a", "@b", "$c"]);
    }

    #[test]
    fn a_range_in_a_string_is_a_string() {
        for syntax in all() {
            let ranges = found("{range} '{range}' {ranges} {x", syntax, |k| {
                matches!(k, Kind::Range | Kind::Braces)
            });
            assert_eq!(ranges, ["{range}", "{ranges}"], "{syntax:?}");
        }
    }

    proptest! {
        #[test]
        fn the_tokens_of_a_text_are_the_text(text in r#"([-a-zE '"`$?:@#/*;\[\]{}\\\n]|é|\{range\}|\$\$){0,40}"#) {
            for syntax in all() {
                let Ok(tokens) = tokens(&text, syntax) else { continue };
                let together: String = tokens.iter().map(|t| &text[t.at.clone()]).collect();
                prop_assert_eq!(&together, &text);
            }
        }

        #[test]
        fn a_quoted_name_is_one_name_again(name in r#"[^\]]{1,20}"#) {
            for syntax in all() {
                let quoted = syntax.quote(&name);
                let tokens = tokens(&quoted, syntax).unwrap();
                prop_assert_eq!(tokens.len(), 1);
                prop_assert_eq!(&tokens[0].kind, &Kind::Name(name.clone()));
            }
        }
    }
}
