//! The request of a record, from templates. Pure.

use std::collections::BTreeSet;

use super::{args::CallArgs, output::Output};
use crate::http::{
    ApiRequest,
    request::{header_name, header_value},
    template::{
        Datum, Fields, InvalidTemplate, NotSendable, Part, Values, body::BodyTemplate, fields_of,
        parts, secrets_of, url::UrlTemplate,
    },
};

/// A way to look up a variable of the environment.
pub(crate) type Secret<'s> = &'s (dyn Fn(&str) -> Option<String> + Sync);

/// The checked templates of a batch.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    method: String,
    url: UrlTemplate,
    headers: Vec<(String, Vec<Part>)>,
    body: Option<BodyTemplate>,
    pub output: Output,
}

/// Arguments that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum InvalidCall {
    #[error("--url: {0}")]
    Url(InvalidTemplate),
    #[error("--header {name}: {why}")]
    Header { name: String, why: String },
    #[error("--header {0} is given twice")]
    HeaderTwice(String),
    #[error(
        "--header {0} looks like a secret, and would be stored in the history of the batch; write its value as ${{NAME}} \
         and set the variable NAME"
    )]
    Secret(String),
    #[error(
        "--url: parameter {0} looks like a secret, and would be stored in the history of the batch; write its value as \
         ${{NAME}} and set the variable NAME"
    )]
    SecretParameter(String),
    #[error("--body-template: {0}")]
    Body(InvalidTemplate),
    #[error("--method {0:?} is not a method of HTTP")]
    Method(String),
    #[error("--method {0} has no body")]
    BodyOfGet(String),
    #[error("{0}")]
    Output(String),
    #[error("no field {unknown} in the records; they have: {known}")]
    UnknownField { unknown: String, known: String },
    #[error("variable {0} is not set")]
    NoVariable(String),
    #[error("--concurrency is {0}; allowed is 1 to 1000")]
    Concurrency(u32),
    #[error(
        "the answers have no place: give --out DIR for files, or with --table and without --out, --set \"COLUMN = \
         {{body.NAME}}\" for the rows of the table"
    )]
    NoPlace,
    #[error(
        "--set without --out writes into the rows of a --table, and the records of --from are in a file: give --out DIR"
    )]
    SetInFile,
    #[error("--concatenate puts the files of --out together, so it needs --out DIR")]
    ConcatenateNothing,
}

/// Parts of the names of headers whose values are secrets.
const SECRET_NAMES: [&str; 8] = [
    "auth",
    "cookie",
    "key",
    "pass",
    "secret",
    "session",
    "signature",
    "token",
];

/// Parts of the names of query parameters whose values are secrets.
const SECRET_PARAMETERS: [&str; 6] = ["api_key", "apikey", "passw", "secret", "signature", "token"];

/// Returns the name of a parameter with a secret that is written out.
fn secret_parameter(pair: &str) -> Option<&str> {
    let (name, value) = pair.split_once('=')?;
    let lower = name.to_ascii_lowercase();
    let secret = SECRET_PARAMETERS.iter().any(|part| lower.contains(part));
    (secret && !value.is_empty() && !value.contains('{')).then_some(name)
}

/// The header of the idempotency key.
pub(crate) const KEY_HEADER: &str = "idempotency-key";

impl Plan {
    pub fn of(args: &CallArgs) -> Result<Self, InvalidCall> {
        if !(1..=1_000).contains(&args.concurrency) {
            return Err(InvalidCall::Concurrency(args.concurrency));
        }
        let of_method = |b: u8| b.is_ascii_uppercase();
        if args.method.is_empty() || !args.method.bytes().all(of_method) {
            return Err(InvalidCall::Method(args.method.clone()));
        }
        let body = args.body.as_deref().map(BodyTemplate::parse);
        let body = body.transpose().map_err(InvalidCall::Body)?;
        if body.is_some() && matches!(args.method.as_str(), "GET" | "HEAD" | "TRACE") {
            return Err(InvalidCall::BodyOfGet(args.method.clone()));
        }
        let query = args.url.split_once('?').map_or("", |(_, query)| query);
        if let Some(name) = query.split('&').find_map(secret_parameter) {
            return Err(InvalidCall::SecretParameter(
                name.escape_debug().to_string(),
            ));
        }
        Ok(Self {
            method: args.method.clone(),
            url: UrlTemplate::parse(&args.url).map_err(InvalidCall::Url)?,
            headers: headers(&args.headers)?,
            body,
            output: Output::of(&args.set, &args.fallback).map_err(InvalidCall::Output)?,
        })
    }

    fn all_parts(&self) -> impl Iterator<Item = &[Part]> {
        let of_headers = self.headers.iter().map(|(_, parts)| parts.as_slice());
        let of_url = self.url.parts().map(std::slice::from_ref);
        of_url.chain(of_headers)
    }

    /// Returns the fields of a record that its request depends on.
    pub fn used(&self, fields: &Fields) -> Fields {
        let used: BTreeSet<_> = self.names().collect();
        let of_request = fields
            .iter()
            .filter(|(name, _)| used.contains(name.as_str()));
        of_request.cloned().collect()
    }

    /// Returns the names of the fields in placeholders.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        let of_body = self.body.iter().flat_map(BodyTemplate::fields);
        self.all_parts().flat_map(fields_of).chain(of_body)
    }

    /// Checks that the records have the fields of all placeholders.
    pub fn check_fields(&self, known: &[String]) -> Result<(), InvalidCall> {
        let unknown: BTreeSet<_> = self
            .names()
            .filter(|name| !known.iter().any(|field| field == name))
            .map(|name| format!("{name:?}"))
            .collect();
        if unknown.is_empty() {
            return Ok(());
        }
        let unknown: Vec<_> = unknown.into_iter().collect();
        Err(InvalidCall::UnknownField {
            unknown: unknown.join(", "),
            known: known.join(", "),
        })
    }

    /// Checks that the environment has every secret.
    pub fn check_secrets(&self, secret: Secret<'_>) -> Result<(), InvalidCall> {
        let missing = self
            .secrets()
            .into_iter()
            .find(|name| secret(name).is_none());
        if let Some(name) = missing {
            return Err(InvalidCall::NoVariable(name.to_owned()));
        }
        for (header, parts) in &self.headers {
            for name in secrets_of(parts) {
                let value = secret(name).unwrap_or_default();
                if header_value(header, &value).is_err() {
                    return Err(InvalidCall::Header {
                        name: header.clone(),
                        why: format!("variable {name} has other characters than printable ASCII"),
                    });
                }
            }
        }
        Ok(())
    }

    /// Returns the names of the variables.
    pub fn secrets(&self) -> BTreeSet<&str> {
        let of_parts = self.all_parts().flat_map(secrets_of);
        let of_body = self.body.iter().flat_map(BodyTemplate::secrets);
        of_parts.chain(of_body).collect()
    }

    /// Returns whether secrets would travel where others can read them.
    pub fn exposes_secrets(&self) -> bool {
        !self.secrets().is_empty() && self.url.is_open_to_listeners()
    }

    /// Returns the request for a record.
    pub fn request(&self, fields: &Fields, secret: Secret<'_>) -> Result<ApiRequest, NotSendable> {
        let values = Values { fields, secret };
        let url = self.url.fill(&values)?;
        let unsendable = |place, why| NotSendable::Field {
            place,
            field: "*".to_owned(),
            why,
        };
        let request = ApiRequest::new(&self.method, &url);
        let mut request =
            request.map_err(|_| unsendable("URL", "makes a URL that cannot be called"))?;
        for (name, parts) in &self.headers {
            let value = values.fill(parts, "header", str::to_owned)?;
            let set = request.header(name, &value);
            request = set.map_err(|_| NotSendable::Field {
                place: "header",
                field: fields_of(parts).next().unwrap_or(name).to_owned(),
                why: "has other characters than printable ASCII",
            })?;
        }
        if let Some(body) = &self.body {
            request = request.body(body.fill(&values)?);
            if !self.headers.iter().any(|(name, _)| name == "content-type") {
                let typed = request.header("content-type", "application/json");
                request = typed.map_err(|_| unsendable("header", "has no type"))?;
            }
        }
        Ok(request)
    }

    /// Returns the request for a record as text for people, with the names of secrets in place of their values.
    pub fn shown(&self, fields: &Fields, key: &str) -> Result<String, NotSendable> {
        let hidden = |name: &str| Some(format!("<{name}>"));
        let values = Values {
            fields,
            secret: &hidden,
        };
        let mut text = format!("{} {}\n", self.method, self.url.fill(&values)?);
        for (name, parts) in &self.headers {
            let value = values.fill(parts, "header", str::to_owned)?;
            text.push_str(&format!("{name}: {value}\n"));
        }
        text.push_str(&format!("{KEY_HEADER}: {key}\n"));
        if let Some(body) = &self.body {
            text.push_str(&format!("\n{}\n", body.fill(&values)?.trim()));
        }
        Ok(text)
    }
}

fn headers(given: &[(String, String)]) -> Result<Vec<(String, Vec<Part>)>, InvalidCall> {
    let mut headers: Vec<(String, Vec<Part>)> = Vec::new();
    for (name, value) in given {
        let refused = |why: String| InvalidCall::Header {
            name: name.escape_debug().to_string(),
            why,
        };
        let parsed = header_name(name).map_err(|e| refused(e.to_string()))?;
        let parsed = parsed.as_str().to_owned();
        if parsed == KEY_HEADER {
            return Err(refused("every record has a key of its own".to_owned()));
        }
        if headers.iter().any(|(known, _)| *known == parsed) {
            return Err(InvalidCall::HeaderTwice(parsed));
        }
        let parts = parts(value).map_err(|e| refused(e.to_string()))?;
        let secret = SECRET_NAMES.iter().any(|part| parsed.contains(part));
        if secret && secrets_of(&parts).next().is_none() {
            return Err(InvalidCall::Secret(parsed));
        }
        let literal = |part: &&Part| matches!(part, Part::Literal(_));
        for part in parts.iter().filter(literal) {
            if let Part::Literal(text) = part
                && header_value(name, text).is_err()
            {
                return Err(refused(
                    "the value has other characters than printable ASCII".to_owned(),
                ));
            }
        }
        headers.push((parsed, parts));
    }
    Ok(headers)
}

/// Returns the fields of a record as one JSON object.
pub(crate) fn object(fields: &[(String, Datum)]) -> String {
    let field = |(name, datum): &(String, Datum)| {
        format!(
            "{}:{}",
            serde_json::Value::from(name.as_str()),
            datum.json()
        )
    };
    let fields: Vec<_> = fields.iter().map(field).collect();
    format!("{{{}}}", fields.join(","))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        files::CsvSource,
        http::template::tests::{record, text},
    };

    fn args() -> CallArgs {
        let mut args = CallArgs::new(CsvSource::new("u.csv"), "https://h/u/{id}", "out", "work");
        args.method = "POST".to_owned();
        args.body = Some(r#"{"email": "{email}"}"#.to_owned());
        args
    }

    fn refused(change: impl FnOnce(&mut CallArgs)) -> String {
        let mut args = args();
        change(&mut args);
        Plan::of(&args).unwrap_err().to_string()
    }

    fn header(name: &str, value: &str) -> (String, String) {
        (name.to_owned(), value.to_owned())
    }

    #[test]
    fn what_cannot_be_sent_is_refused_before_anything_starts() {
        assert!(Plan::of(&args()).is_ok());
        assert!(refused(|a| a.url = "https://{id}/x".to_owned()).contains("host"));
        assert!(refused(|a| a.body = Some("{email}".to_owned())).contains("not JSON"));
        assert!(refused(|a| a.method = "GET".to_owned()).contains("no body"));
        assert!(refused(|a| a.method = "post".to_owned()).contains("method"));
        assert!(refused(|a| a.concurrency = 0).contains("1 to 1000"));
        assert!(refused(|a| a.headers = vec![header("x-a", "a\r\nb: c")]).contains("ASCII"));
        assert!(refused(|a| a.headers = vec![header("host", "x")]).contains("client sets it"));
        let twice = vec![header("X-A", "1"), header("x-a", "2")];
        assert!(refused(|a| a.headers = twice).contains("twice"));
        assert!(refused(|a| a.headers = vec![header("Idempotency-Key", "1")]).contains("key"));
        assert!(refused(|a| a.set = vec![header("a", "{body")]).contains("--set"));
    }

    #[test]
    fn a_secret_is_named_and_never_written() {
        for name in ["Authorization", "X-Api-Key", "Cookie", "x-auth-token"] {
            let message = refused(|a| a.headers = vec![header(name, "Bearer s3cret")]);
            assert!(
                message.contains("${NAME}") && !message.contains("s3cret"),
                "{message}"
            );
        }
        let url = refused(|a| a.url = "https://h/{id}?access_token=s3cret".to_owned());
        assert!(
            url.contains("access_token") && !url.contains("s3cret"),
            "{url}"
        );
        let mut args = args();
        args.headers = vec![header("Authorization", "Bearer ${TOKEN}")];
        let plan = Plan::of(&args).unwrap();
        let secret = |name: &str| (name == "TOKEN").then(|| "s3cret".to_owned());
        plan.check_secrets(&secret).unwrap();
        let two_lines = |_: &str| Some("a\nb".to_owned());
        assert!(plan.check_secrets(&two_lines).is_err());
        let missing = plan.check_secrets(&|_| None).unwrap_err();
        assert!(missing.to_string().contains("TOKEN"), "{missing}");
        let fields = record(&[("id", text("7")), ("email", text("a@b"))]);
        let request = plan.request(&fields, &secret).unwrap();
        assert_eq!(request.headers["authorization"], "Bearer s3cret");
        let shown = plan.shown(&fields, "k").unwrap();
        assert!(shown.contains("authorization: Bearer <TOKEN>"), "{shown}");
        assert!(!shown.contains("s3cret"), "{shown}");
        assert!(!plan.exposes_secrets());
        args.url = "http://example.org/{id}".to_owned();
        assert!(Plan::of(&args).unwrap().exposes_secrets());
    }

    #[test]
    fn a_placeholder_without_a_field_is_refused_with_the_fields_that_there_are() {
        let plan = Plan::of(&args()).unwrap();
        let known = ["id".to_owned(), "mail".to_owned()];
        let error = plan.check_fields(&known).unwrap_err().to_string();
        assert_eq!(
            error,
            "no field \"email\" in the records; they have: id, mail"
        );
    }

    #[test]
    fn a_value_that_would_add_a_header_fails_its_record() {
        let mut args = args();
        args.headers = vec![header("x-name", "{email}")];
        let plan = Plan::of(&args).unwrap();
        let fields = record(&[("id", text("7")), ("email", text("a\r\nx-admin: 1"))]);
        let error = plan.request(&fields, &|_| None).err().unwrap().to_string();
        assert!(
            error.contains("email") && !error.contains("admin"),
            "{error}"
        );
    }
}
