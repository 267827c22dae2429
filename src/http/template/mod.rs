//! Templates of requests, with placeholders for the fields of a record.
//!
//! | placeholder | stands for |
//! |---|---|
//! | `{name}` | a field of the record |
//! | `${NAME}` | a variable of the environment of the process that calls, for secrets |
//! | `{{`, `}}` | a brace |
//!
//! | file | contents |
//! |---|---|
//! | here | parts of a text, and the values that replace them |
//! | `url` | the URL: its host is fixed, and values are encoded |
//! | `body` | the body in JSON: values are escaped |
//! | `json_path` | a value in an answer |

pub(crate) mod body;
mod json_path;
pub(crate) mod url;

pub(crate) use json_path::{at_path, at_pointer};

/// A value of a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Datum {
    Null,
    Text(String),
    /// A number, a boolean, a list or an object, as JSON.
    Json(String),
}

impl Datum {
    /// Returns the text of a single value.
    fn text(&self) -> Result<&str, &'static str> {
        match self {
            Self::Null => Err("is NULL"),
            Self::Text(text) => Ok(text),
            Self::Json(json) if json.starts_with(['{', '[']) => Err("is a list or an object"),
            Self::Json(json) => Ok(json),
        }
    }

    /// Returns the value as JSON.
    pub fn json(&self) -> String {
        match self {
            Self::Null => "null".to_owned(),
            Self::Text(text) => serde_json::Value::from(text.as_str()).to_string(),
            Self::Json(json) => json.clone(),
        }
    }

    /// Reads a JSON value.
    pub fn of_json(json: &str) -> Result<Self, &'static str> {
        match json.as_bytes().first() {
            Some(b'n') => Ok(Self::Null),
            Some(b'"') => {
                let text = serde_json::from_str(json);
                text.map(Self::Text)
                    .map_err(|_| "is not valid Unicode text")
            }
            _ => Ok(Self::Json(json.to_owned())),
        }
    }
}

/// The fields of a record, in their order.
pub(crate) type Fields = Vec<(String, Datum)>;

/// The values for the placeholders of one request.
pub(crate) struct Values<'v> {
    pub fields: &'v [(String, Datum)],
    /// Returns a variable of the environment.
    pub secret: &'v (dyn Fn(&str) -> Option<String> + Sync),
}

/// A record that cannot be put into the request. Values are not shown.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NotSendable {
    #[error("{place}: field \"{field}\" {why}")]
    Field {
        place: &'static str,
        field: String,
        why: &'static str,
    },
    #[error("variable {0} is not set in this process")]
    NoVariable(String),
}

/// A template that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum InvalidTemplate {
    #[error("a brace is not closed; write {{{{ for a brace")]
    Open,
    #[error("a brace was not opened; write }}}} for a brace")]
    Closed,
    #[error("a placeholder has no name")]
    Nameless,
    #[error("\"{0}\" is not the name of a variable; use letters, digits and _")]
    Variable(String),
    #[error("the host has a placeholder; only the path and the query may have one")]
    Host,
    #[error("{0}")]
    Url(String),
    #[error("the body template is not JSON: line {line}, column {column}")]
    Body { line: usize, column: usize },
}

/// A part of a template.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    Literal(String),
    Field(String),
    Secret(String),
}

/// Splits a text into its parts.
pub(crate) fn parts(text: &str) -> Result<Vec<Part>, InvalidTemplate> {
    let (mut parts, mut literal) = (Vec::new(), String::new());
    let mut rest = text;
    while let Some(at) = rest.find(['{', '}']) {
        let (before, from) = rest.split_at(at);
        let doubled = from.as_bytes().get(1) == Some(&from.as_bytes()[0]);
        literal.push_str(before);
        if doubled {
            literal.push_str(&from[..1]);
            rest = &from[2..];
            continue;
        }
        if from.starts_with('}') {
            return Err(InvalidTemplate::Closed);
        }
        let (name, after) = from[1..].split_once('}').ok_or(InvalidTemplate::Open)?;
        if name.is_empty() || name.contains('{') {
            return Err(match name.is_empty() {
                true => InvalidTemplate::Nameless,
                false => InvalidTemplate::Open,
            });
        }
        let part = match literal.strip_suffix('$') {
            Some(before) => {
                let of_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
                if !name.chars().all(of_name) {
                    return Err(InvalidTemplate::Variable(name.to_owned()));
                }
                literal.truncate(before.len());
                Part::Secret(name.to_owned())
            }
            None => Part::Field(name.to_owned()),
        };
        if !literal.is_empty() {
            parts.push(Part::Literal(std::mem::take(&mut literal)));
        }
        parts.push(part);
        rest = after;
    }
    literal.push_str(rest);
    if !literal.is_empty() {
        parts.push(Part::Literal(literal));
    }
    Ok(parts)
}

/// Returns the names of the fields in some parts.
pub(crate) fn fields_of(parts: &[Part]) -> impl Iterator<Item = &str> {
    parts.iter().filter_map(|part| match part {
        Part::Field(name) => Some(name.as_str()),
        Part::Literal(_) | Part::Secret(_) => None,
    })
}

/// Returns the names of the variables in some parts.
pub(crate) fn secrets_of(parts: &[Part]) -> impl Iterator<Item = &str> {
    parts.iter().filter_map(|part| match part {
        Part::Secret(name) => Some(name.as_str()),
        Part::Literal(_) | Part::Field(_) => None,
    })
}

impl Values<'_> {
    /// Returns the field of a record; one that is missing is NULL.
    pub fn field(&self, name: &str) -> &Datum {
        let found = self.fields.iter().find(|(field, _)| field == name);
        found.map_or(&Datum::Null, |(_, datum)| datum)
    }

    /// Puts the values into parts. `encode` is applied to values only.
    pub fn fill(
        &self,
        parts: &[Part],
        place: &'static str,
        encode: impl Fn(&str) -> String,
    ) -> Result<String, NotSendable> {
        let mut text = String::new();
        for part in parts {
            match part {
                Part::Literal(literal) => text.push_str(literal),
                Part::Field(name) => {
                    let value = self.field(name).text();
                    let value = value.map_err(|why| NotSendable::Field {
                        place,
                        field: name.clone(),
                        why,
                    })?;
                    text.push_str(&encode(value));
                }
                Part::Secret(name) => {
                    let value = (self.secret)(name);
                    let value = value.ok_or_else(|| NotSendable::NoVariable(name.clone()))?;
                    text.push_str(&encode(&value));
                }
            }
        }
        Ok(text)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;

    pub fn no_secret(_: &str) -> Option<String> {
        None
    }

    pub fn record(fields: &[(&str, Datum)]) -> Fields {
        let own = |(name, datum): &(&str, Datum)| ((*name).to_owned(), datum.clone());
        fields.iter().map(own).collect()
    }

    pub fn text(text: &str) -> Datum {
        Datum::Text(text.to_owned())
    }

    #[test]
    fn placeholders_and_braces_are_told_apart() {
        let field = |name: &str| Part::Field(name.to_owned());
        let literal = |text: &str| Part::Literal(text.to_owned());
        assert_eq!(
            parts("a{b}c").unwrap(),
            [literal("a"), field("b"), literal("c")]
        );
        assert_eq!(
            parts("{{{b}}}").unwrap(),
            [literal("{"), field("b"), literal("}")]
        );
        let secret = Part::Secret("KEY".to_owned());
        assert_eq!(
            parts("Bearer ${KEY}").unwrap(),
            [literal("Bearer "), secret]
        );
        assert_eq!(parts("").unwrap(), []);
        for (wrong, error) in [
            ("{a", InvalidTemplate::Open),
            ("{a{b}", InvalidTemplate::Open),
            ("a}", InvalidTemplate::Closed),
            ("{}", InvalidTemplate::Nameless),
            ("${a b}", InvalidTemplate::Variable("a b".to_owned())),
        ] {
            assert_eq!(parts(wrong), Err(error), "{wrong}");
        }
    }

    #[test]
    fn a_value_that_is_no_text_is_refused() {
        let fields = record(&[
            ("null", Datum::Null),
            ("list", Datum::Json("[1]".to_owned())),
            ("number", Datum::Json("1.50".to_owned())),
        ]);
        let values = Values {
            fields: &fields,
            secret: &no_secret,
        };
        let fill = |text: &str| values.fill(&parts(text).unwrap(), "header x", str::to_owned);
        assert_eq!(fill("n={number}").unwrap(), "n=1.50");
        assert!(fill("{null}").unwrap_err().to_string().contains("NULL"));
        assert!(fill("{missing}").unwrap_err().to_string().contains("NULL"));
        assert!(fill("{list}").unwrap_err().to_string().contains("list"));
        assert!(fill("${KEY}").unwrap_err().to_string().contains("KEY"));
    }

    proptest! {
        #[test]
        fn a_text_without_placeholders_stays_as_it_is(text in ".{0,40}") {
            let doubled = text.replace('{', "{{").replace('}', "}}");
            let values = Values { fields: &[], secret: &no_secret };
            let filled = values.fill(&parts(&doubled).unwrap(), "", str::to_owned);
            prop_assert_eq!(filled.unwrap(), text);
        }
    }
}
