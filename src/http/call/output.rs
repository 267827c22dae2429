//! The line that is written for a record. Pure.

use serde_json::value::RawValue;

use super::plan::object;
use crate::http::template::{Datum, Fields, InvalidTemplate, Part, at_path, parts};

/// The fields to write, and their values.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Output {
    set: Vec<(String, Source)>,
    fallback: Vec<(String, Datum)>,
}

/// The source of a value.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Source {
    Status,
    /// A path into the body; empty for the whole.
    Body(String),
    Fixed(Datum),
}

/// An answer that does not have what is to be written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum AnswerLacks {
    #[error("the answer is not JSON, which --set needs")]
    Json,
    #[error("the answer has nothing at {0}")]
    Path(String),
}

impl Output {
    /// Parses the values of `--set` and `--fallback`.
    ///
    /// # Errors
    /// The reason, which names the flag.
    pub fn of(set: &[(String, String)], fallback: &[(String, String)]) -> Result<Self, String> {
        let mut parsed: Vec<(String, Source)> = Vec::new();
        for (name, value) in set {
            if parsed.iter().any(|(known, _)| known == name) {
                return Err(format!("--set {name:?} is given twice"));
            }
            let source = source(value).map_err(|why| format!("--set {name:?}: {why}"))?;
            parsed.push((name.clone(), source));
        }
        let mut values: Vec<(String, Datum)> = Vec::new();
        for (name, value) in fallback {
            if values.iter().any(|(known, _)| known == name) {
                return Err(format!("--fallback {name:?} is given twice"));
            }
            let datum = fixed(value).map_err(|why| format!("--fallback {name:?}: {why}"))?;
            values.push((name.clone(), datum));
        }
        let missing =
            |a: &[&String], b: &[&String]| a.iter().find(|n| !b.contains(n)).map(|n| (*n).clone());
        let of_set: Vec<_> = parsed.iter().map(|(name, _)| name).collect();
        let of_fallback: Vec<_> = values.iter().map(|(name, _)| name).collect();
        if !of_fallback.is_empty()
            && let Some(name) =
                missing(&of_set, &of_fallback).or_else(|| missing(&of_fallback, &of_set))
        {
            return Err(format!(
                "field {name:?} has a value of --set or of --fallback, but not of both"
            ));
        }
        Ok(Self {
            set: parsed,
            fallback: values,
        })
    }

    /// Returns the line for an answer.
    pub fn line(&self, fields: &Fields, status: u16, body: &[u8]) -> Result<String, AnswerLacks> {
        let text = std::str::from_utf8(body).ok().map(str::trim_ascii);
        let json = text.filter(|text| serde_json::from_str::<&RawValue>(text).is_ok());
        if self.set.is_empty() {
            let body = match (json, text) {
                (Some(json), _) => one_line(json),
                (None, Some("")) => "null".to_owned(),
                (None, Some(text)) => serde_json::Value::from(text).to_string(),
                (None, None) => return Err(AnswerLacks::Json),
            };
            let record = object(fields);
            return Ok(format!(
                "{{\"record\":{record},\"status\":{status},\"body\":{body}}}"
            ));
        }
        let mut all = fields.clone();
        for (name, datum) in self.values(status, body)? {
            set(&mut all, &name, datum);
        }
        Ok(object(&all))
    }

    /// Returns the fields of `--set` for an answer, in their order.
    pub fn values(&self, status: u16, body: &[u8]) -> Result<Fields, AnswerLacks> {
        let json = std::str::from_utf8(body).ok().map(str::trim_ascii);
        let json = json.filter(|text| serde_json::from_str::<&RawValue>(text).is_ok());
        let value = |(name, source): &(String, Source)| {
            let datum = match source {
                Source::Status => Datum::Json(status.to_string()),
                Source::Fixed(datum) => datum.clone(),
                Source::Body(path) => {
                    let json = json.ok_or(AnswerLacks::Json)?;
                    let found = at_path(json, path);
                    let found = found.ok_or_else(|| AnswerLacks::Path(format!("body.{path}")))?;
                    Datum::Json(one_line(found))
                }
            };
            Ok::<_, AnswerLacks>((name.clone(), datum))
        };
        self.set.iter().map(value).collect()
    }

    /// Returns the line for a record whose call was given up; `None` without fallback values.
    pub fn fallback(&self, fields: &Fields) -> Option<String> {
        let values = self.fallback_values()?;
        let mut all = fields.clone();
        for (name, datum) in values {
            set(&mut all, &name, datum);
        }
        Some(object(&all))
    }

    /// Returns the fields of `--set` for a record whose call was given up, in their order; `None` without fallback
    /// values.
    pub fn fallback_values(&self) -> Option<Fields> {
        let value = |(name, _): &(String, Source)| {
            let found = self.fallback.iter().find(|(known, _)| known == name)?;
            Some(found.clone())
        };
        match self.fallback.is_empty() {
            true => None,
            false => self.set.iter().map(value).collect(),
        }
    }

    /// Returns the values of `--set` that are the same for every answer, with their positions.
    pub fn fixed(&self) -> impl Iterator<Item = (usize, &Datum)> {
        let each = self.set.iter().enumerate();
        each.filter_map(|(at, (_, source))| match source {
            Source::Fixed(datum) => Some((at, datum)),
            Source::Status | Source::Body(_) => None,
        })
    }
}

fn set(fields: &mut Fields, name: &str, datum: Datum) {
    match fields.iter_mut().find(|(known, _)| known == name) {
        Some((_, known)) => *known = datum,
        None => fields.push((name.to_owned(), datum)),
    }
}

fn source(value: &str) -> Result<Source, String> {
    let parts = parts(value).map_err(|error: InvalidTemplate| error.to_string())?;
    match parts.as_slice() {
        [Part::Field(name)] if name == "status" => Ok(Source::Status),
        [Part::Field(name)] if name == "body" => Ok(Source::Body(String::new())),
        [Part::Field(name)] => match name.strip_prefix("body.") {
            Some(path) if !path.is_empty() => Ok(Source::Body(path.to_owned())),
            _ => Err("write {body.NAME}, {body}, {status} or JSON".to_owned()),
        },
        _ => fixed(value).map(Source::Fixed),
    }
}

/// Reads a value in JSON; one that is not JSON is refused, because a missing quote would change its type.
fn fixed(value: &str) -> Result<Datum, String> {
    let value = value.trim_ascii();
    if serde_json::from_str::<&RawValue>(value).is_err() {
        return Err("the value is not JSON; a text has quotes, as in \"UNKNOWN\"".to_owned());
    }
    Datum::of_json(value).map_err(str::to_owned)
}

/// Returns JSON without line ends, which would end the line of the record.
fn one_line(json: &str) -> String {
    json.replace(['\n', '\r'], " ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::template::tests::{record, text};

    fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        let own = |(a, b): &(&str, &str)| ((*a).to_owned(), (*b).to_owned());
        pairs.iter().map(own).collect()
    }

    #[test]
    fn the_line_holds_the_record_and_the_answer() {
        let output = Output::of(&[], &[]).unwrap();
        let fields = record(&[("id", text("7"))]);
        let line = |body: &[u8]| output.line(&fields, 201, body).unwrap();
        assert_eq!(
            line(b"{\"a\":\n 1.50}"),
            r#"{"record":{"id":"7"},"status":201,"body":{"a":  1.50}}"#
        );
        assert_eq!(
            line(b""),
            r#"{"record":{"id":"7"},"status":201,"body":null}"#
        );
        assert!(line(b"plain \"text\"").ends_with(r#""body":"plain \"text\""}"#));
        assert_eq!(output.line(&fields, 200, b"\xff"), Err(AnswerLacks::Json));
    }

    #[test]
    fn fields_come_from_the_answer_or_the_fallback() {
        let set = pairs(&[("region", "{body.geo.region}"), ("enriched", "true")]);
        let fallback = pairs(&[("region", "\"UNKNOWN\""), ("enriched", "false")]);
        let output = Output::of(&set, &fallback).unwrap();
        let fields = record(&[("id", text("7")), ("region", Datum::Null)]);
        let line = output.line(&fields, 200, br#"{"geo":{"region":"EU"}}"#);
        assert_eq!(line.unwrap(), r#"{"id":"7","region":"EU","enriched":true}"#);
        let fallback = output.fallback(&fields).unwrap();
        assert_eq!(
            fallback,
            r#"{"id":"7","region":"UNKNOWN","enriched":false}"#
        );
        let lacks = output.line(&fields, 200, b"{}").unwrap_err();
        assert_eq!(lacks, AnswerLacks::Path("body.geo.region".to_owned()));
    }

    #[test]
    fn values_that_mean_nothing_are_refused() {
        let set = |value: &str| Output::of(&pairs(&[("a", value)]), &[]).unwrap_err();
        for value in [
            "{region}",
            "{body.}",
            "UNKNOWN",
            "{body.a} {body.b}",
            "{body",
        ] {
            assert!(set(value).contains("--set \"a\""), "{value}");
        }
        let both = Output::of(&pairs(&[("a", "1")]), &pairs(&[("b", "1")])).unwrap_err();
        assert!(both.contains("not of both"), "{both}");
        let twice = Output::of(&pairs(&[("a", "1"), ("a", "2")]), &[]).unwrap_err();
        assert!(twice.contains("twice"), "{twice}");
    }
}
