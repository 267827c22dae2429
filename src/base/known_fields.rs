//! Names that a type does not know: refused with the one that was probably meant, or found out afterwards.

use serde::{Deserialize, Deserializer, Serialize, de::DeserializeOwned, de::Error as _};
use serde_json::{Value, json};

use crate::base::error::truncate;

/// Characters of an unknown name that are shown.
const MOST_SHOWN: usize = 80;
/// Characters that are shown of any other error: it may hold a value of any length.
const MOST_OF_ERROR: usize = 300;
/// A name is suggested from this likeness on, as in the command line.
const ALIKE: f64 = 0.7;
/// Fields of one value that are tried.
const MOST_TRIED: usize = 200;

/// The error of a deserializer, with the known name that is most like an unknown one.
pub(crate) fn explain(error: &dyn std::fmt::Display) -> String {
    let text = error.to_string();
    suggestion(&text).unwrap_or_else(|| truncate(&text, MOST_OF_ERROR))
}

/// Rewrites what serde says of an unknown field or variant.
fn suggestion(text: &str) -> Option<String> {
    let kind = ["field", "variant"]
        .into_iter()
        .find(|kind| text.starts_with(&format!("unknown {kind} `")))?;
    let rest = &text[format!("unknown {kind} `").len()..];
    // The last one: the name itself may hold anything.
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

/// The name that is most like an unknown one, if one is.
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

/// Reads a type that refuses unknown fields and has flattened ones, so that serde cannot list their names.
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
        // Also where something is missing, which it may have been meant for.
        Some(name) => D::Error::unknown_field(&name, names),
        None => D::Error::custom(error),
    })
}

/// The fields of `given` that `T` lets fall, each with its path and the name that was probably meant. `given` must be
/// a `T`.
///
/// A field is let fall where it is missing when the value is written again, and anything can stand in its place.
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

    /// Whether anything can stand at a path.
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
