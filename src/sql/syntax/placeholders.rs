//! Numbered placeholders for MySQL, which has only `?`.

use super::{Kind, Syntax, tokens};
use crate::sql::backend::value::{Statement, Value};

/// Replaces each `$1`, `$2` and so on with `?`, and puts the values into the order of their use. A statement without
/// numbers stays as it is, since its `?` are placeholders already. A statement that the lexer cannot read stays as it
/// is, too: the database refuses it with a better message.
pub(crate) fn positional(statement: String, values: Vec<Value>) -> Statement {
    if !statement.contains('$') {
        return (statement, values);
    }
    let Ok(tokens) = tokens(&statement, Syntax::MySql) else {
        return (statement, values);
    };
    let mut written = String::with_capacity(statement.len());
    let mut used = Vec::with_capacity(values.len());
    for token in tokens {
        let text = &statement[token.at];
        let number = text.strip_prefix('$');
        let number = number.filter(|_| token.kind == Kind::Placeholder);
        let value = number.and_then(|number| {
            let number: usize = number.parse().ok()?;
            values.get(number.checked_sub(1)?)
        });
        match value {
            Some(value) => {
                written.push('?');
                used.push(value.clone());
            }
            None => written.push_str(text),
        }
    }
    match used.is_empty() {
        true => (statement, values),
        false => (written, used),
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
                // Whole quotes only.
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
