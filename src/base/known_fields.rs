//! Field names that a type does not know: rejected with a suggestion while reading, or found afterwards.

use serde::{Deserialize, Deserializer, Serialize, de::DeserializeOwned, de::Error as _};
use serde_json::{Value, json};

use crate::base::error::truncate;

/// Maximum number of characters shown of an unknown name.
const MOST_SHOWN: usize = 80;
/// Maximum number of characters shown of any other error, because it may contain a value of any length.
const MOST_OF_ERROR: usize = 300;
/// Similarity from which a name is suggested. The command line uses the same threshold.
const ALIKE: f64 = 0.7;
/// Maximum number of fields that are tried in one value.
const MOST_TRIED: usize = 200;

/// Formats the error of a deserializer and suggests the known name closest to an unknown one.
pub(crate) fn explain(error: &dyn std::fmt::Display) -> String {
    let text = error.to_string();
    suggestion(&text).unwrap_or_else(|| truncate(&text, MOST_OF_ERROR))
}

/// Rewrites serde's message about an unknown field or variant.
fn suggestion(text: &str) -> Option<String> {
    let kind = ["field", "variant"]
        .into_iter()
        .find(|kind| text.starts_with(&format!("unknown {kind} `")))?;
    let rest = &text[format!("unknown {kind} `").len()..];
    // Splits at the last match, because the unknown name itself may contain this text.
    let (unknown, list) = rest.rsplit_once("`, expected ")?;
    let known: Vec<&str> = list.split('`').skip(1).step_by(2).collect();
    let all: Vec<String> = known.iter().map(|name| format!("`{name}`")).collect();
    let meant = meant(unknown, known)
        .map(|name| format!("; did you mean `{name}`?"))
        .unwrap_or_default();
    let unknown = truncate(unknown, MOST_SHOWN);
    Some(format!(
        "unknown {kind} `{unknown}`{meant} (known: {})",
        all.join(", ")
    ))
}

/// Returns the known name closest to an unknown one, if any is close enough.
pub(crate) fn meant<'a>(
    unknown: &str,
    known: impl IntoIterator<Item = &'a str>,
) -> Option<&'a str> {
    let alike = known
        .into_iter()
        .map(|name| (strsim::jaro(unknown, name), name))
        .filter(|(likeness, _)| *likeness > ALIKE);
    alike
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, name)| name)
}

/// Deserializes a type that rejects unknown fields and has flattened ones. Serde cannot list the names of such
/// a type.
#[allow(dead_code, reason = "for the arguments of SQL processors")]
pub(crate) fn of_flattened<'de, D: Deserializer<'de>, T>(
    from: D,
    names: &'static [&'static str],
    read: impl FnOnce(Value) -> Result<T, serde_json::Error>,
) -> Result<T, D::Error> {
    let value = Value::deserialize(from)?;
    let mut given = value
        .as_object()
        .into_iter()
        .flat_map(|fields| fields.keys());
    let unknown = given.find(|name| !names.contains(&name.as_str())).cloned();
    read(value).map_err(|error| match unknown {
        // The unknown name goes before any other error: it may be a misspelling of a field that is missing.
        Some(name) => D::Error::unknown_field(&name, names),
        None => D::Error::custom(error),
    })
}

/// Returns the fields of `given` that `T` ignores, each as its path with a suggested name. `given` must
/// deserialize to `T`.
///
/// A field counts as ignored if it is absent after the value is serialized again and any other value is
/// accepted in its place.
pub(crate) fn ignored<T: DeserializeOwned + Serialize>(given: &Value) -> Vec<String> {
    let kept = T::deserialize(given).ok();
    let kept = kept.and_then(|value| serde_json::to_value(value).ok());
    let mut search = Search {
        given,
        fits: |value| T::deserialize(value).is_ok(),
        tried: 0,
        found: Vec::new(),
    };
    search.look(given, kept.as_ref(), &mut Vec::new());
    search.found
}

struct Search<'a> {
    given: &'a Value,
    fits: fn(&Value) -> bool,
    tried: usize,
    found: Vec<String>,
}

impl Search<'_> {
    fn look(&mut self, given: &Value, kept: Option<&Value>, path: &mut Vec<String>) {
        match given {
            Value::Object(fields) => {
                let kept = kept.and_then(Value::as_object);
                for (name, value) in fields {
                    path.push(name.clone());
                    let of_kept = kept.and_then(|kept| kept.get(name));
                    if of_kept.is_none() && self.is_ignored(path) {
                        let others = kept.into_iter().flat_map(|kept| kept.keys());
                        let others = others.filter(|name| !fields.contains_key(*name));
                        let meant = meant(name, others.map(String::as_str));
                        self.found.push(shown(path, meant));
                    } else {
                        self.look(value, of_kept, path);
                    }
                    path.pop();
                }
            }
            Value::Array(values) => {
                let kept = kept.and_then(Value::as_array);
                let kept = kept.filter(|kept| kept.len() == values.len());
                for (position, value) in values.iter().enumerate() {
                    path.push(position.to_string());
                    self.look(value, kept.map(|kept| &kept[position]), path);
                    path.pop();
                }
            }
            _ => {}
        }
    }

    /// Returns whether `T` accepts any value at this path.
    fn is_ignored(&mut self, path: &[String]) -> bool {
        let anything = [
            json!([true, [true], "?", 1.5, {"?": [], "": 1}]),
            json!({"?": [], "": 1}),
            json!("?"),
        ];
        self.tried += 1;
        self.tried <= MOST_TRIED
            && anything.into_iter().all(|value| {
                let mut other = self.given.clone();
                let place = path.iter().try_fold(&mut other, |at, step| match at {
                    Value::Object(fields) => fields.get_mut(step),
                    Value::Array(values) => values.get_mut(step.parse::<usize>().ok()?),
                    _ => None,
                });
                place.is_some_and(|place| {
                    *place = value;
                    true
                }) && (self.fits)(&other)
            })
    }
}

fn shown(path: &[String], meant: Option<&str>) -> String {
    let path = truncate(&path.join("."), MOST_SHOWN);
    match meant {
        Some(name) => format!("`{path}` (did you mean `{name}`?)"),
        None => format!("`{path}`"),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[derive(Debug, Serialize, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[allow(dead_code)]
    struct Strict {
        #[serde(default)]
        percent: u32,
        #[serde(default, alias = "where")]
        filter: Option<String>,
    }

    #[test]
    fn the_name_that_is_most_like_an_unknown_one_is_suggested() {
        let explained = |json: &str| explain(&serde_json::from_str::<Strict>(json).unwrap_err());
        let text = explained(r#"{"percnt": 1}"#);
        assert!(
            text.starts_with("unknown field `percnt`; did you mean `percent`? (known: "),
            "{text}"
        );
        assert!(explained(r#"{"were": "x"}"#).contains("did you mean `where`?"));
        let text = explained(r#"{"`, expected `": 1}"#);
        assert!(text.starts_with("unknown field `"), "{text}");
        let nothing_alike = explained(r#"{"zzz": 1}"#);
        assert!(!nothing_alike.contains("did you mean"), "{nothing_alike}");
        let long = format!(r#"{{"{}": 1}}"#, "x".repeat(100_000));
        assert!(explained(&long).len() < 300);
        assert!(explained("7").contains("invalid type"));
        let long = format!(r#"{{"percent": "{}"}}"#, "x".repeat(100_000));
        assert!(explained(&long).len() < 400);
    }

    #[derive(Serialize, Deserialize)]
    #[allow(dead_code)]
    struct Loose {
        #[serde(default, skip_serializing_if = "Option::is_none")]
        note: Option<String>,
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        once: bool,
        #[serde(default, rename = "limit", alias = "most", skip_serializing)]
        most: u32,
        #[serde(default)]
        nested: Vec<Nested>,
        #[serde(default)]
        labels: BTreeMap<String, u32>,
        #[serde(default)]
        free: Value,
    }

    #[derive(Serialize, Deserialize)]
    #[allow(dead_code)]
    struct Nested {
        column: String,
        #[serde(default, skip_serializing)]
        secret: Option<String>,
    }

    #[test]
    fn fields_that_fall_are_found_and_no_others() {
        let all_known = json!({
            "note": null, "once": false, "most": 3, "labels": {"a": 1}, "free": {"b": 2},
            "nested": [{"column": "c", "secret": "s"}],
        });
        assert_eq!(ignored::<Loose>(&all_known), Vec::<String>::new());
        let some = json!({
            "notes": "x", "limit": 3, "nest": [],
            "nested": [{"column": "c"}, {"column": "c", "colum": 1, "sekret": {"a": 1}}],
        });
        assert_eq!(
            ignored::<Loose>(&some),
            ["`nest`", "`nested.1.colum`", "`nested.1.sekret`", "`notes`"]
        );
        let meant = ignored::<Loose>(&json!({"label": {}}));
        assert_eq!(meant, ["`label` (did you mean `labels`?)"]);
        assert_eq!(ignored::<Value>(&json!({"a": 1})), Vec::<String>::new());
        assert_eq!(ignored::<()>(&Value::Null), Vec::<String>::new());
    }
}
