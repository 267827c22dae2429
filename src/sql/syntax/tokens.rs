//! The lexer.

use std::ops::Range;

use super::Syntax;

/// The kind of a token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// White space.
    Space,
    /// A comment. `of_line` is true if the comment ends with its line.
    Comment { of_line: bool },
    /// A keyword, a name or a number, as written.
    Word,
    /// A quoted name, here without its quotes.
    Name(String),
    /// A string.
    Literal,
    /// A placeholder for a value.
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
    /// Returns whether the token is a comment or white space.
    pub fn is_blank(&self) -> bool {
        matches!(self.kind, Kind::Space | Kind::Comment { .. })
    }
}

/// A text that the lexer cannot read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SyntaxError {
    /// A quote or a comment is not closed.
    #[error("{what} is not closed: {rest}")]
    NoEnd {
        /// The kind of the unclosed part.
        what: &'static str,
        /// The beginning of the unclosed part.
        rest: String,
    },
    /// A comment that some servers execute, and others do not.
    #[error(
        "a comment that begins with {begin} is executed by some servers; write its content without the comment"
    )]
    ExecutableComment {
        /// The beginning of the comment.
        begin: &'static str,
    },
}

/// The place for the rows of a page in a statement.
const RANGE: &str = "{range}";

/// Splits a text into tokens, which together are the whole text.
pub fn tokens(text: &str, syntax: Syntax) -> Result<Vec<Token>, SyntaxError> {
    let mut tokens: Vec<Token> = Vec::new();
    let mut at = 0;
    while at < text.len() {
        let before = tokens.last();
        let before = before.map_or("", |token| &text[token.at.clone()]);
        let (kind, length) = token(&text[at..], syntax, before)?;
        debug_assert!(length > 0);
        tokens.push(Token {
            kind,
            at: at..at + length,
        });
        at += length;
    }
    Ok(tokens)
}

/// Returns the first token of a text and its length. `before` is the token right in front of it.
fn token(rest: &str, syntax: Syntax, before: &str) -> Result<(Kind, usize), SyntaxError> {
    use Syntax::{MySql, Postgres, Sqlite};

    let mut chars = rest.chars();
    let first = chars.next().expect("a text that is not empty");
    let second = chars.next();
    let of_line = || rest.find('\n').map_or(rest.len(), |end| end + 1);
    Ok(match first {
        c if c.is_whitespace() => (Kind::Space, span(rest, char::is_whitespace)),
        '\'' => {
            let escapes = match syntax {
                MySql => true,
                Postgres => before.eq_ignore_ascii_case("e"),
                Sqlite => false,
            };
            let (length, _) = quoted(rest, '\'', escapes, "a string")?;
            (Kind::Literal, length)
        }
        '"' if syntax == MySql => (Kind::Literal, quoted(rest, '"', true, "a string")?.0),
        '"' => named(rest, '"')?,
        '`' if syntax != Postgres => named(rest, '`')?,
        '[' if syntax == Sqlite => {
            let end = rest.find(']').ok_or_else(|| no_end("a name", rest))?;
            (Kind::Name(rest[1..end].to_owned()), end + 1)
        }
        '-' if rest.starts_with("--") && (syntax != MySql || ends_dashes(rest)) => {
            (Kind::Comment { of_line: true }, of_line())
        }
        '#' if syntax == MySql => (Kind::Comment { of_line: true }, of_line()),
        '/' if second == Some('*') => {
            if syntax == MySql {
                for begin in ["/*!", "/*M!"] {
                    if rest.starts_with(begin) {
                        return Err(SyntaxError::ExecutableComment { begin });
                    }
                }
            }
            let length = block_comment(rest, syntax == Postgres)?;
            (Kind::Comment { of_line: false }, length)
        }
        '$' if syntax == Postgres => dollar(rest)?,
        // MySQL itself reads `$1` as a name. The statements of this crate have numbered placeholders for every
        // database, and `placeholders` turns them into `?`. `$$1` is a name.
        '$' if syntax == MySql && before != "$" && second.is_some_and(|c| c.is_ascii_digit()) => {
            let digits = span(&rest[1..], |c| c.is_ascii_digit());
            (Kind::Placeholder, 1 + digits)
        }
        '?' if syntax != Postgres => (
            Kind::Placeholder,
            1 + span(&rest[1..], |c| syntax == Sqlite && c.is_ascii_digit()),
        ),
        ':' | '@' | '$' if syntax == Sqlite && second.is_some_and(is_word) => {
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

/// Returns the length of the longest prefix whose characters all match.
fn span(text: &str, like: impl Fn(char) -> bool) -> usize {
    text.find(|c| !like(c)).unwrap_or(text.len())
}

fn no_end(what: &'static str, rest: &str) -> SyntaxError {
    let rest = crate::base::error::truncate(rest, 30);
    SyntaxError::NoEnd { what, rest }
}

/// Returns a quoted part, in which a doubled quote stands for itself: its length, and its content.
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

/// Returns whether two dashes begin a comment in MySQL: white space or the end must follow.
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

/// Reads `$1`, a string such as `$body$it's$body$`, or a dollar sign.
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

    /// Returns the texts of the tokens of a kind.
    fn found(text: &str, syntax: Syntax, kind: impl Fn(&Kind) -> bool) -> Vec<&str> {
        let tokens = tokens(text, syntax).unwrap();
        let found = tokens.into_iter().filter(|t| kind(&t.kind));
        found.map(|t| &text[t.at]).collect()
    }

    #[test]
    fn a_semicolon_in_a_string_a_name_or_a_comment_ends_nothing() {
        let text = "a ';''' ; \"x;\" /* ; */ -- ;\n ;";
        for syntax in Syntax::ALL {
            let ends = found(text, syntax, |k| *k == Kind::Symbol(';'));
            assert_eq!(ends.len(), 2, "{syntax:?}");
        }
    }

    #[test]
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
    fn mysql_has_backslashes_double_quoted_strings_and_hashes() {
        let literals = |text| found(text, Syntax::MySql, |k| *k == Kind::Literal).len();
        assert_eq!(literals(r#"'it\'s' "a;\"b" # ';"#), 2);
        assert_eq!(literals("5--1 'x'"), 1);
        let refused = tokens("/*!40000 DROP TABLE t */", Syntax::MySql);
        assert_eq!(
            refused,
            Err(SyntaxError::ExecutableComment { begin: "/*!" })
        );
        let placeholders = found(
            "a = ? AND b = $12 AND c$1 = '$2' AND $$3",
            Syntax::MySql,
            |k| *k == Kind::Placeholder,
        );
        assert_eq!(placeholders, ["?", "$12"]);
        let name = tokens("`a``b`", Syntax::MySql).unwrap();
        assert_eq!(name[0].kind, Kind::Name("a`b".to_owned()));
    }

    #[test]
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
        for syntax in Syntax::ALL {
            let ranges = found("{range} '{range}' {ranges} {x", syntax, |k| {
                matches!(k, Kind::Range | Kind::Braces)
            });
            assert_eq!(ranges, ["{range}", "{ranges}"], "{syntax:?}");
        }
    }

    proptest! {
        #[test]
        fn the_tokens_of_a_text_are_the_text(text in r#"([-a-zE '"`$?:@#/*;\[\]{}\\\n]|é|\{range\}|\$\$){0,40}"#) {
            for syntax in Syntax::ALL {
                let Ok(tokens) = tokens(&text, syntax) else { continue };
                let together: String = tokens.iter().map(|t| &text[t.at.clone()]).collect();
                prop_assert_eq!(&together, &text);
            }
        }

        #[test]
        fn a_quoted_name_is_one_name_again(name in r#"[^\]]{1,20}"#) {
            for syntax in Syntax::ALL {
                let quoted = syntax.quote(&name);
                let tokens = tokens(&quoted, syntax).unwrap();
                prop_assert_eq!(tokens.len(), 1);
                prop_assert_eq!(&tokens[0].kind, &Kind::Name(name.clone()));
            }
        }
    }
}
