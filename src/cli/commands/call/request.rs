//! The request: flags of `call`.

use std::{path::PathBuf, time::Duration};

use clap::Args;

use crate::{
    cli::{
        args::values::length,
        exit::{CliError, CliResult},
    },
    http::CallArgs,
};

#[derive(Args, Debug)]
pub(super) struct RequestArgs {
    /// The URL, with {FIELD} in its path and query for a field of the record, and ${NAME} for a variable of the
    /// environment
    #[arg(long, value_name = "URL")]
    url: String,

    /// The method [default: GET, or POST with a body]
    #[arg(long, value_name = "METHOD")]
    method: Option<String>,

    /// The body: a file of JSON whose texts may have {FIELD}; "{FIELD}" alone keeps the type of the value,
    /// "{FIELD:number}" makes a number of a text
    #[arg(long, value_name = "FILE")]
    body_template: Option<PathBuf>,

    /// A header; can be given again. A secret is written as ${NAME}, from the environment
    #[arg(long = "header", value_name = "NAME: VALUE", value_parser = header)]
    headers: Vec<(String, String)>,

    /// A field to add to the record, from the answer: {body.NAME}, {status}, or JSON; can be given again [default: the
    /// record, the status and the whole body]
    #[arg(long, value_name = "FIELD = VALUE", value_parser = assignment)]
    set: Vec<(String, String)>,

    /// The value of a field of --set for a record whose call is given up, as JSON; can be given again [default: such a
    /// record fails]
    #[arg(long, value_name = "FIELD = JSON", value_parser = assignment, requires = "set")]
    fallback: Vec<(String, String)>,

    /// Calls of one page in flight, from 1 to 1000
    #[arg(long, value_name = "CALLS", default_value = "10")]
    concurrency: u32,

    /// The time limit of a call, from 10ms to 1h
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = length)]
    call_timeout: Duration,

    /// Attempts at a record, from 1 to 100
    #[arg(long, value_name = "ATTEMPTS", default_value = "5")]
    attempts: u32,
}

fn header(text: &str) -> Result<(String, String), String> {
    match text.split_once(':') {
        Some((name, value)) if !name.trim().is_empty() => {
            Ok((name.trim().to_owned(), value.trim().to_owned()))
        }
        _ => Err("write NAME: VALUE".to_owned()),
    }
}

fn assignment(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((field, value)) if !field.trim().is_empty() && !value.trim().is_empty() => {
            Ok((field.trim().to_owned(), value.trim().to_owned()))
        }
        _ => Err("write FIELD = VALUE".to_owned()),
    }
}

/// The largest file of a body.
const MOST_BYTES: u64 = 1024 * 1024;

impl RequestArgs {
    pub(super) fn url(&self) -> &str {
        &self.url
    }

    /// Completes the arguments of a batch.
    pub(super) fn apply(&self, mut args: CallArgs) -> CliResult<CallArgs> {
        args.body = self.body()?;
        let default = if args.body.is_some() { "POST" } else { "GET" };
        let method = self.method.as_deref().unwrap_or(default);
        args.method = method.to_owned();
        args.headers.clone_from(&self.headers);
        args.set.clone_from(&self.set);
        args.fallback.clone_from(&self.fallback);
        args.concurrency = self.concurrency;
        args.timeout_ms = u64::try_from(self.call_timeout.as_millis()).unwrap_or(u64::MAX);
        args.attempts = self.attempts;
        Ok(args)
    }

    fn body(&self) -> CliResult<Option<String>> {
        let Some(path) = &self.body_template else {
            return Ok(None);
        };
        let shown = path.display();
        let unreadable = |error| CliError::caused(format_args!("cannot read {shown}"), &error);
        let length = std::fs::metadata(path).map_err(unreadable)?.len();
        if length > MOST_BYTES {
            return Err(CliError::usage(format_args!(
                "{shown} has {length} bytes; a body template has at most {MOST_BYTES}"
            )));
        }
        let bytes = std::fs::read(path).map_err(unreadable)?;
        let text = String::from_utf8(bytes);
        let text = text.map_err(|_| CliError::usage(format_args!("{shown} is not UTF-8")))?;
        Ok(Some(text))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_and_fields_are_split_once() {
        let own = |a: &str, b: &str| Ok((a.to_owned(), b.to_owned()));
        assert_eq!(header("X-A:  a: b "), own("X-A", "a: b"));
        assert!(header("X-A").is_err() && header(": x").is_err());
        assert_eq!(assignment("a = {body.b}"), own("a", "{body.b}"));
        assert_eq!(assignment("a=\"x=y\""), own("a", "\"x=y\""));
        assert!(assignment("a").is_err() && assignment("a=").is_err());
    }
}
