//! The body of a request: a template in JSON whose texts have placeholders.
//!
//! `"{age}"` alone is the value of the field with its own type: a text of a CSV file stays a text, a number of a JSON
//! file or a table stays a number, NULL is `null`. `"{age:number}"` makes a number of a text. In a longer text,
//! `"Dear {name}"`, the value becomes a part of the text.

use serde::de::IgnoredAny;

use super::{Datum, InvalidTemplate, NotSendable, Part, Values, parts};

/// The body of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct BodyTemplate(Vec<Piece>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Piece {
    /// JSON as it was written.
    Json(String),
    /// A placeholder alone, with its form.
    Value(String, Form),
    /// A text with placeholders.
    Text(Vec<Part>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    Own,
    Text,
    Number,
    Json,
}

impl BodyTemplate {
    pub fn parse(text: &str) -> Result<Self, InvalidTemplate> {
        serde_json::from_str::<IgnoredAny>(text).map_err(|error| InvalidTemplate::Body {
            line: error.line(),
            column: error.column(),
        })?;
        let mut pieces = Vec::new();
        let mut rest = text;
        while let Some(start) = rest.find('"') {
            let (before, from) = rest.split_at(start);
            pieces.push(Piece::Json(before.to_owned()));
            let (literal, after) = from.split_at(end_of_text(from));
            let is_key = after.trim_ascii_start().starts_with(':');
            pieces.push(piece(literal, is_key)?);
            rest = after;
        }
        pieces.push(Piece::Json(rest.to_owned()));
        Ok(Self(pieces))
    }

    /// Returns the names of the fields.
    pub fn fields(&self) -> impl Iterator<Item = &str> {
        self.0.iter().flat_map(|piece| match piece {
            Piece::Value(name, _) => vec![name.as_str()],
            Piece::Text(parts) => super::fields_of(parts).collect(),
            Piece::Json(_) => Vec::new(),
        })
    }

    /// Returns the names of the variables.
    pub fn secrets(&self) -> impl Iterator<Item = &str> {
        self.0.iter().flat_map(|piece| match piece {
            Piece::Text(parts) => super::secrets_of(parts).collect(),
            Piece::Json(_) | Piece::Value(..) => Vec::new(),
        })
    }

    /// Returns the body for a record.
    pub fn fill(&self, values: &Values<'_>) -> Result<String, NotSendable> {
        let mut body = String::new();
        for piece in &self.0 {
            match piece {
                Piece::Json(json) => body.push_str(json),
                Piece::Value(name, form) => {
                    let json = form.of(values.field(name));
                    let json = json.map_err(|why| NotSendable::Field {
                        place: "body",
                        field: name.clone(),
                        why,
                    })?;
                    body.push_str(&json);
                }
                Piece::Text(parts) => {
                    let text = values.fill(parts, "body", str::to_owned)?;
                    body.push_str(&serde_json::Value::from(text).to_string());
                }
            }
        }
        Ok(body)
    }
}

impl Form {
    fn of(self, datum: &Datum) -> Result<String, &'static str> {
        match (self, datum) {
            (_, Datum::Null) | (Self::Own, _) => Ok(datum.json()),
            (Self::Text, datum) => Ok(serde_json::Value::from(datum.text()?).to_string()),
            (Self::Number, datum) => {
                let text = datum.text()?.trim();
                let number: Result<serde_json::Number, _> = serde_json::from_str(text);
                match number {
                    Ok(_) => Ok(text.to_owned()),
                    Err(_) => Err("is not a number of JSON"),
                }
            }
            (Self::Json, Datum::Text(text)) => match serde_json::from_str::<IgnoredAny>(text) {
                Ok(_) => Ok(text.clone()),
                Err(_) => Err("is not JSON"),
            },
            (Self::Json, Datum::Json(json)) => Ok(json.clone()),
        }
    }
}

/// Returns the end of the text that begins with a quote.
fn end_of_text(from: &str) -> usize {
    let mut escaped = false;
    for (at, byte) in from.bytes().enumerate().skip(1) {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'"' => return at + 1,
            _ => {}
        }
    }
    from.len()
}

fn piece(literal: &str, is_key: bool) -> Result<Piece, InvalidTemplate> {
    let text: String = serde_json::from_str(literal).map_err(|error| InvalidTemplate::Body {
        line: error.line(),
        column: error.column(),
    })?;
    let parts = parts(&text)?;
    Ok(match parts.as_slice() {
        [] => Piece::Json(literal.to_owned()),
        [Part::Literal(same)] if *same == text => Piece::Json(literal.to_owned()),
        [Part::Field(name)] if !is_key => {
            let (name, form) = form_of(name);
            Piece::Value(name.to_owned(), form)
        }
        _ => Piece::Text(parts),
    })
}

fn form_of(name: &str) -> (&str, Form) {
    match name.rsplit_once(':') {
        Some((name, "number")) => (name, Form::Number),
        Some((name, "text")) => (name, Form::Text),
        Some((name, "json")) => (name, Form::Json),
        _ => (name, Form::Own),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::http::template::tests::{no_secret, record, text};

    fn fill(template: &str, fields: &[(&str, Datum)]) -> Result<String, NotSendable> {
        let fields = record(fields);
        BodyTemplate::parse(template).unwrap().fill(&Values {
            fields: &fields,
            secret: &no_secret,
        })
    }

    fn json(json: &str) -> Datum {
        Datum::Json(json.to_owned())
    }

    #[test]
    fn a_placeholder_alone_keeps_the_type_of_its_value() {
        let template = r#"{"a": "{a}", "b": "{b}", "c": "{c}", "n": 1.10, "d": ["{d}"]}"#;
        let fields = [
            ("a", text("x\"y\n{z}")),
            ("b", json("12345678901234567890.10")),
            ("c", Datum::Null),
            ("d", json(r#"{"k": [1]}"#)),
        ];
        let expected = r#"{"a": "x\"y\n{z}", "b": 12345678901234567890.10, "c": null, "n": 1.10, "d": [{"k": [1]}]}"#;
        assert_eq!(fill(template, &fields).unwrap(), expected);
    }

    #[test]
    fn forms_convert_or_refuse() {
        let fields = [
            ("t", text(" 27 ")),
            ("n", json("5")),
            ("j", text("[1, 2]")),
            ("o", Datum::Null),
        ];
        let template = r#"["{t:number}", "{n:text}", "{j:json}", "{o:number}"]"#;
        assert_eq!(
            fill(template, &fields).unwrap(),
            r#"[27, "5", [1, 2], null]"#
        );
        for (template, why) in [
            (r#""{j:number}""#, "not a number"),
            (r#""{t:json} {o}""#, "NULL"),
            (r#""a {o}""#, "NULL"),
        ] {
            let error = fill(template, &fields).unwrap_err().to_string();
            assert!(error.contains(why), "{error}");
        }
        let not_json = fill(r#""{t:json}""#, &[("t", text("{"))]).unwrap_err();
        assert!(not_json.to_string().contains("not JSON"), "{not_json}");
    }

    #[test]
    fn a_key_is_always_a_text_and_braces_are_doubled() {
        let fields = [("k", json("5"))];
        assert_eq!(
            fill(r#"{"{k}" : "{{{k}}}"}"#, &fields).unwrap(),
            r#"{"5" : "{5}"}"#
        );
        assert_eq!(fill(r#"{"{{": 1}"#, &[]).unwrap(), r#"{"{": 1}"#);
    }

    #[test]
    fn what_is_not_json_is_refused_with_its_place() {
        let error = BodyTemplate::parse("{\"a\": {age}}").unwrap_err();
        assert_eq!(error, InvalidTemplate::Body { line: 1, column: 8 });
    }

    proptest! {
        #[test]
        fn any_value_makes_a_body_that_reads_back(value in ".{0,40}", name in "[a-z]{1,5}") {
            let template = format!(r#"{{"a":"{{{name}}}","b":["x {{{name}}} y"]}}"#);
            let body = fill(&template, &[(&name, text(&value))]).unwrap();
            let read: serde_json::Value = serde_json::from_str(&body).unwrap();
            prop_assert_eq!(read["a"].as_str(), Some(value.as_str()));
            let longer = format!("x {value} y");
            prop_assert_eq!(read["b"][0].as_str(), Some(longer.as_str()));
        }
    }
}
