//! The result of a reducer in words. Pure.

use serde_json::Value;

use crate::{base::text::grouped, cli::render::sentences::Fact, progress::Progress};

/// The number of entries of a list, or keys of an object, that are shown.
const MAX_SHOWN: usize = 10;

/// Returns one row for each result. A list of records has one row for each record.
pub(crate) fn rows(p: &Progress) -> Vec<Fact> {
    if let Some(error) = &p.output_error {
        return vec![("result", format!("there is none: {error}"))];
    }
    let mut lines = Vec::new();
    match &p.output {
        None | Some(Value::Null) => {}
        Some(Value::Object(results)) => {
            for (name, result) in results.iter().take(MAX_SHOWN) {
                named(name, result, &mut lines);
            }
            lines.extend(left_out(results.len()));
        }
        Some(result) => named("", result, &mut lines),
    }
    let names = std::iter::once("result").chain(std::iter::repeat(""));
    names.zip(lines).collect()
}

fn left_out(all: usize) -> Option<String> {
    let more = all.checked_sub(MAX_SHOWN).filter(|more| *more > 0)?;
    Some(format!("and {more} more; --json shows all"))
}

fn named(name: &str, result: &Value, lines: &mut Vec<String>) {
    let prefix = match name {
        "" => String::new(),
        name => format!("{name}: "),
    };
    match result {
        Value::Array(entries) if entries.iter().any(Value::is_object) => {
            lines.push(format!("{prefix}{}", entries.len()));
            lines.extend(
                entries
                    .iter()
                    .take(MAX_SHOWN)
                    .map(|entry| format!("  {}", short(entry))),
            );
            lines.extend(left_out(entries.len()).map(|more| format!("  {more}")));
        }
        result => lines.push(format!("{prefix}{}", short(result))),
    }
}

/// Returns a value on one line.
fn short(value: &Value) -> String {
    match value {
        Value::Null => "none".to_owned(),
        Value::String(text) => text.clone(),
        Value::Number(number) if number.is_f64() => number.to_string(),
        Value::Number(number) => {
            let text = number.to_string();
            match text.strip_prefix('-') {
                Some(digits) => format!("-{}", grouped(digits)),
                None => grouped(&text),
            }
        }
        Value::Bool(flag) => flag.to_string(),
        Value::Array(entries) => {
            let entries_shown = entries.iter().take(MAX_SHOWN).map(short);
            joined(entries_shown, entries.len())
        }
        Value::Object(fields) => {
            let fields_shown = fields.iter().take(MAX_SHOWN);
            let fields_shown = fields_shown.map(|(name, value)| match value {
                Value::Object(_) | Value::Array(_) => format!("{name} ({})", short(value)),
                value => format!("{name} {}", short(value)),
            });
            joined(fields_shown, fields.len())
        }
    }
}

fn joined(parts: impl Iterator<Item = String>, all: usize) -> String {
    let parts: Vec<_> = parts.chain(left_out(all)).collect();
    match parts.is_empty() {
        true => "none".to_owned(),
        false => parts.join(", "),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::cli::render::sentences::tests::progress;

    fn said(output: Value) -> Vec<String> {
        let p = Progress {
            output: Some(output),
            ..progress()
        };
        let rows = rows(&p).into_iter();
        rows.map(|(name, text)| format!("{name}|{text}")).collect()
    }

    #[test]
    fn results_are_said_in_words() {
        assert_eq!(rows(&progress()), []);
        assert_eq!(said(json!(-1_234_567)), ["result|-1,234,567"]);
        assert_eq!(said(json!([3, 0.5, "x", null])), ["result|3, 0.5, x, none"]);
        let result = json!({
            "by": {"CH": 1_000, "DE": {"n": 2}},
            "largest": [{"id": 7, "cents": 9_999}],
            "n": 20_000,
            "none": [],
        });
        assert_eq!(
            said(result),
            [
                "result|by: CH 1,000, DE (n 2)",
                "|largest: 1",
                "|  cents 9,999, id 7",
                "|n: 20,000",
                "|none: none",
            ]
        );
        let many: Vec<_> = (0..12).map(|id| json!({"id": id})).collect();
        let many = said(json!(many));
        assert_eq!(many.len(), 12);
        assert_eq!(many.last().unwrap(), "|  and 2 more; --json shows all");
        assert!(said(json!(vec![1; 12]))[0].ends_with("1, and 2 more; --json shows all"));
    }

    #[test]
    fn why_there_is_no_result_is_said() {
        let p = Progress {
            output_error: Some("OutputTooLarge: so large".to_owned()),
            ..progress()
        };
        assert_eq!(
            rows(&p),
            [(
                "result",
                "there is none: OutputTooLarge: so large".to_owned()
            )]
        );
    }
}
