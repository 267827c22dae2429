//! Numbered placeholders for a database that counts them itself.

use crate::sql::backend::dialect::{Statement, Value};

/// Puts `?` where a statement has `$1`, `$2` and so on, and the values into the order in which they are
/// used. What stands in quotes, in a comment or inside of a word stays; so does a statement without numbers, whose `?` are
/// placeholders already.
pub(crate) fn positional(statement: String, values: Vec<Value>) -> Statement {
    let mut written = String::with_capacity(statement.len());
    let mut used = Vec::with_capacity(values.len());
    let mut rest = statement.as_str();
    while let Some(at) = rest.find(['$', '\'', '"', '`', '#', '-', '/']) {
        written.push_str(&rest[..at]);
        rest = &rest[at..];
        // Names may have a `$`: `price$1`.
        let is_in_word = written
            .ends_with(|c: char| c.is_alphanumeric() || matches!(c, '_' | '$') || !c.is_ascii());
        let placeholder = placeholder(rest).filter(|_| !is_in_word);
        let value = placeholder.and_then(|(number, length)| {
            let value = values.get(number.checked_sub(1)?)?;
            Some((value, length))
        });
        if let Some((value, length)) = value {
            written.push('?');
            used.push(value.clone());
            rest = &rest[length..];
        } else {
            let (opaque, after) = rest.split_at(opaque_length(rest));
            written.push_str(opaque);
            rest = after;
        }
    }
    if used.is_empty() {
        return (statement, values);
    }
    written.push_str(rest);
    (written, used)
}

/// The number of the placeholder that a text begins with, and its length.
fn placeholder(text: &str) -> Option<(usize, usize)> {
    let digits = text.strip_prefix('$')?;
    let length = digits
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(digits.len());
    Some((digits[..length].parse().ok()?, length + 1))
}

/// How much of a text is none of our business: a quoted part, a comment, or one character.
fn opaque_length(text: &str) -> usize {
    let to_end_of = |end: &str| text.find(end).map_or(text.len(), |at| at + end.len());
    match text.as_bytes() {
        [quote @ (b'\'' | b'"' | b'`'), rest @ ..] => {
            let mut escaped = false;
            let end = rest.iter().position(|byte| {
                let ends = byte == quote && !escaped;
                escaped = *byte == b'\\' && !escaped && *quote != b'`';
                ends
            });
            // A doubled quote is one quoted part after the other.
            end.map_or(text.len(), |at| at + 2)
        }
        [b'#', ..] => to_end_of("\n"),
        [b'-', b'-', rest @ ..] if rest.first().is_none_or(u8::is_ascii_whitespace) => {
            to_end_of("\n")
        }
        [b'/', b'*', ..] => to_end_of("*/"),
        _ => 1,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn numbers(values: &[Value]) -> Vec<i64> {
        let number = |value: &Value| match value {
            Value::Int(Some(number)) => *number,
            _ => panic!("no number"),
        };
        values.iter().map(number).collect()
    }

    fn placed(statement: &str, values: impl IntoIterator<Item = i64>) -> (String, Vec<i64>) {
        let values = values.into_iter().map(Value::from).collect();
        let (statement, values) = positional(statement.to_owned(), values);
        (statement, numbers(&values))
    }

    #[test]
    fn values_follow_their_use() {
        let (statement, values) = placed("$2 IS NULL OR a > $2 AND b = $1 LIMIT $10", 1..=10);
        assert_eq!(statement, "? IS NULL OR a > ? AND b = ? LIMIT ?");
        assert_eq!(values, [2, 2, 1, 10]);
    }

    #[test]
    fn what_is_quoted_or_commented_on_stays() {
        let kept = [
            "'$1'",
            "'it''s $1'",
            r"'it\'s $1'",
            r"'\\' '$1'",
            "\"$1\"",
            "`$1`",
            r"`\` `$1`",
            "-- $1\n",
            "# it's $1\n",
            "/* ' $1 */",
        ];
        for kept in kept {
            let (statement, values) = placed(&format!("{kept} $1"), [7]);
            assert_eq!(statement, format!("{kept} ?"));
            assert_eq!(values, [7]);
        }
        for read in ["a-$1", "a--$1", "a/$1", "$1'$1'"] {
            assert_eq!(placed(read, [7]).1, [7], "{read}");
        }
    }

    #[test]
    fn a_word_with_a_dollar_sign_is_a_name() {
        for name in ["price$1", "_$1", "a$b$1", "né$1", "t1.x$$1"] {
            let (statement, values) = placed(&format!("{name} > $1 AND $2={name}"), [7, 8]);
            assert_eq!(statement, format!("{name} > ? AND ?={name}"));
            assert_eq!(values, [7, 8]);
        }
    }

    #[test]
    fn a_statement_without_numbers_stays_with_its_values() {
        for statement in ["a = ? AND b = ?", "a = '$1' AND b = ? AND c = ?", "$0", "$"] {
            let (kept, values) = placed(statement, [1, 2]);
            assert_eq!((kept.as_str(), values.as_slice()), (statement, &[1, 2][..]));
        }
    }

    proptest! {
        #[test]
        fn placeholders_and_values_are_equally_many(
            parts in prop::collection::vec((any::<u8>(), "[a-z =,'\"`]{0,8}"), 0..20),
        ) {
            let mut statement = String::from("$1 ");
            for (number, text) in &parts {
                let number = number % 9 + 1;
                // Only whole quotes.
                let text = text.replace(['\'', '"', '`'], "' $5'");
                statement.push_str(&format!("{text} ${number}"));
            }
            let (placed, values) = placed(&statement, 1..=9);
            prop_assert_eq!(placed.matches('?').count(), values.len());
            prop_assert_eq!(values.len(), parts.len() + 1);
        }

        #[test]
        fn no_statement_makes_it_panic(statement in ".*") {
            placed(&statement, [1, 2, 3]);
        }
    }
}
