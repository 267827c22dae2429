//! Assignments of the form `column = expression`.

use super::{args::Assignment, error::InvalidBackfill};
use crate::sql::syntax::{Kind, Syntax, Token, tokens};

/// Reads one or several assignments, separated by commas.
pub fn parse(text: &str, syntax: Syntax) -> Result<Vec<Assignment>, InvalidBackfill> {
    let tokens = tokens(text, syntax).map_err(|e| wrong(text, e))?;
    let assignments = split(&tokens, |kind| *kind == Kind::Symbol(','));
    assignments
        .into_iter()
        .map(|tokens| parse_one(text, tokens, syntax))
        .collect()
}

fn wrong(given: &str, why: impl ToString) -> InvalidBackfill {
    InvalidBackfill::Assignment {
        given: given.to_owned(),
        why: why.to_string(),
    }
}

/// Splits where a separator stands outside of parentheses and brackets.
fn split(tokens: &[Token], separates: impl Fn(&Kind) -> bool) -> Vec<&[Token]> {
    let mut depth = 0_i64;
    tokens
        .split(|token| {
            match token.kind {
                Kind::Symbol('(' | '[') => depth += 1,
                Kind::Symbol(')' | ']') => depth -= 1,
                _ => {}
            }
            depth == 0 && separates(&token.kind)
        })
        .collect()
}

fn parse_one(text: &str, tokens: &[Token], syntax: Syntax) -> Result<Assignment, InvalidBackfill> {
    let written = |tokens: &[Token]| match (tokens.first(), tokens.last()) {
        (Some(first), Some(last)) => text[first.at.start..last.at.end].trim(),
        _ => "",
    };
    let whole = written(tokens);
    let wrong = |why: &str| wrong(whole, why);
    let mut telling = tokens.iter().enumerate().filter(|(_, t)| !t.is_blank());
    let column = match telling.next() {
        Some((_, token)) => match &token.kind {
            Kind::Word => syntax.fold(&text[token.at.clone()]),
            Kind::Name(name) => name.clone(),
            Kind::Symbol('(') => {
                return Err(wrong(
                    "several columns at once are not supported; set each by itself",
                ));
            }
            _ => {
                let advice = syntax.on_quotes(whole);
                return Err(wrong(&format!(
                    "it does not begin with the name of a column{advice}"
                )));
            }
        },
        None => return Err(wrong("it is empty")),
    };
    if column.is_empty() {
        return Err(wrong("the name of the column is empty"));
    }
    let equals = match telling.next() {
        Some((at, token)) if token.kind == Kind::Symbol('=') => at,
        Some((_, token)) if token.kind == Kind::Symbol('.') => {
            return Err(wrong("the column is named without its table"));
        }
        _ => return Err(wrong("the name of the column is not followed by =")),
    };
    let expression = written(&tokens[equals + 1..]);
    let assignment = Assignment {
        column,
        expression: expression.to_owned(),
    };
    check_expression(&assignment, syntax)?;
    Ok(assignment)
}

/// Checks that an expression in parentheses is still one expression.
pub fn check_expression(assignment: &Assignment, syntax: Syntax) -> Result<(), InvalidBackfill> {
    let Assignment { column, expression } = assignment;
    let what = || format!("the expression of column \"{column}\"");
    let wrong = |why: &str| wrong(&format!("{column} = {expression}"), why);
    let tokens = tokens(expression, syntax).map_err(|source| InvalidBackfill::Syntax {
        what: what(),
        source,
    })?;
    if tokens.iter().all(Token::is_blank) {
        return Err(wrong("the expression is empty"));
    }
    let mut open = Vec::new();
    for token in &tokens {
        let given = expression[token.at.clone()].to_owned();
        match token.kind {
            Kind::Symbol(bracket @ ('(' | '[')) => open.push(bracket),
            Kind::Symbol(')') if open.pop() != Some('(') => {
                return Err(wrong("a ) closes nothing"));
            }
            Kind::Symbol(']') if open.pop() != Some('[') => {
                return Err(wrong("a ] closes nothing"));
            }
            Kind::Symbol(';') => return Err(wrong("a ; ends it")),
            Kind::Symbol(',') if open.is_empty() => return Err(wrong("a , ends it")),
            Kind::Comment { of_line: true } => {
                return Err(wrong(
                    "a comment runs to the end of the line; use /* and */",
                ));
            }
            Kind::Placeholder => {
                return Err(InvalidBackfill::Placeholder {
                    what: what(),
                    given,
                });
            }
            Kind::Range | Kind::Braces => {
                return Err(InvalidBackfill::Braces {
                    what: what(),
                    given,
                });
            }
            _ => {}
        }
    }
    match open.pop() {
        Some(bracket) => Err(wrong(&format!("a {bracket} is not closed"))),
        None => Ok(()),
    }
}

/// Returns whether an expression mentions a column.
pub fn mentions(expression: &str, column: &str, syntax: Syntax) -> bool {
    let tokens = tokens(expression, syntax).unwrap_or_default();
    tokens.iter().any(|token| match &token.kind {
        Kind::Word => syntax.same_column(&syntax.fold(&expression[token.at.clone()]), column),
        Kind::Name(name) => syntax.same_column(name, column),
        _ => false,
    })
}

/// Returns whether the expression is the keyword for the default of a column.
pub fn is_default(expression: &str) -> bool {
    expression.trim().eq_ignore_ascii_case("default")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parsed(text: &str, syntax: Syntax) -> Vec<(String, String)> {
        let assignments = parse(text, syntax).unwrap();
        let pair = |a: Assignment| (a.column, a.expression);
        assignments.into_iter().map(pair).collect()
    }

    #[test]
    fn an_assignment_is_a_column_and_an_expression() {
        for syntax in Syntax::ALL {
            for (text, expected) in [
                ("a = 1", vec![("a", "1")]),
                (" a=b = 'x = y, z' ", vec![("a", "b = 'x = y, z'")]),
                (
                    "a = coalesce(b, c), d = (1, 2) IS NULL",
                    vec![("a", "coalesce(b, c)"), ("d", "(1, 2) IS NULL")],
                ),
                ("a /* = */ = /* , */ 2", vec![("a", "/* , */ 2")]),
                ("a = DEFAULT", vec![("a", "DEFAULT")]),
            ] {
                let expected: Vec<_> = expected
                    .iter()
                    .map(|(c, e)| ((*c).to_owned(), (*e).to_owned()))
                    .collect();
                assert_eq!(parsed(text, syntax), expected, "{syntax:?} {text}");
            }
        }
    }

    #[test]
    fn postgresql_folds_names_without_quotes() {
        let folded = parsed(
            "Name = 1, \"Name\" = ARRAY[1, 2], \"a,b=\" = $$,$$",
            Syntax::Postgres,
        );
        let columns: Vec<_> = folded.iter().map(|(column, _)| column.as_str()).collect();
        assert_eq!(columns, ["name", "Name", "a,b="]);
        assert_eq!(folded[1].1, "ARRAY[1, 2]");
    }

    #[test]
    fn what_is_no_assignment_is_refused_with_a_reason() {
        for syntax in Syntax::ALL {
            for (text, why) in [
                ("", "is empty"),
                ("a", "not followed by ="),
                ("a =", "expression is empty"),
                ("a = /* nothing */", "expression is empty"),
                ("a = 1,", "is empty"),
                ("= 1", "does not begin with the name"),
                ("t.a = 1", "without its table"),
                ("(a, b) = (1, 2)", "set each by itself"),
                ("a = 1) WHERE (1 = 1", "a ) closes nothing"),
                ("a = (1", "a ( is not closed"),
                ("a = 1; DROP TABLE t", "a ; ends it"),
                ("a = 1 -- more", "end of the line"),
                ("a = 'x", "not closed"),
                ("a = {range}", "{range}"),
            ] {
                let error = parse(text, syntax).unwrap_err().to_string();
                assert!(error.contains(why), "{syntax:?} {text}: {error}");
            }
        }
    }

    #[test]
    fn a_name_that_is_quoted_as_in_another_database_is_refused_with_advice() {
        for (syntax, text, advice) in [
            (Syntax::MySql, r#""full name" = 1"#, "backticks quote names"),
            (Syntax::Postgres, "`full name` = 1", "not with backticks"),
        ] {
            let error = parse(text, syntax).unwrap_err().to_string();
            assert!(error.contains(advice), "{error}");
            let plain = parse("= 1", syntax).unwrap_err().to_string();
            assert!(!plain.contains("quote"), "{plain}");
        }
        assert_eq!(Syntax::Sqlite.on_quotes(r#""a" = `b`"#), "");
    }

    #[test]
    fn a_placeholder_has_no_value() {
        for syntax in Syntax::ALL {
            let text = match syntax {
                Syntax::Postgres => "a = $1",
                Syntax::MySql | Syntax::Sqlite => "a = ?",
            };
            let error = parse(text, syntax).unwrap_err();
            assert!(
                matches!(error, InvalidBackfill::Placeholder { .. }),
                "{error}"
            );
        }
    }

    #[test]
    fn an_expression_that_reads_a_column_is_recognized() {
        for syntax in Syntax::ALL {
            assert!(mentions("price * 2", "price", syntax));
            assert!(mentions("\"price\" * 2", "price", syntax) || syntax.quote("a") == "`a`");
            assert!(!mentions("'price' || prices", "price", syntax));
        }
    }

    proptest! {
        #[test]
        fn what_is_accepted_is_one_expression_in_parentheses(text in r"[a-b ='(),;\[\]x/*-]{0,24}") {
            for syntax in Syntax::ALL {
                let Ok(assignments) = parse(&text, syntax) else { continue };
                for assignment in assignments {
                    let alone = format!("c = ({})", assignment.expression);
                    let again = parse(&alone, syntax).unwrap();
                    prop_assert_eq!(again.len(), 1);
                    prop_assert!(!assignment.expression.trim().is_empty());
                }
            }
        }
    }
}
