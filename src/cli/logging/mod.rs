//! Log lines on standard error, few by default.

mod json_lines;

use std::io::IsTerminal as _;

use clap::{Args, ValueEnum};
use tracing::level_filters::LevelFilter;
use tracing_subscriber::{
    EnvFilter, Layer as _,
    filter::{FilterExt as _, filter_fn},
    fmt::format::JsonFields,
    layer::SubscriberExt as _,
    util::SubscriberInitExt as _,
};

use crate::cli::{
    exit::{CliError, CliResult},
    output::{LogWriter, note, wants_color},
};
use json_lines::JsonLines;

#[derive(Args, Debug)]
#[command(next_help_heading = "Logging")]
pub(crate) struct LogArgs {
    /// Log this level or filter: error, warn, info, debug, trace, or a filter such as temporal_batch=debug,warn
    /// [default: RUST_LOG, else warnings]
    #[arg(long, global = true, value_name = "LEVEL", value_parser = filter)]
    log_level: Option<String>,

    /// The format of log lines
    #[arg(long, global = true, value_name = "FORMAT", default_value = "text")]
    log_format: LogFormat,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum LogFormat {
    Text,
    Json,
}

const ALLOWED: &str = "write a level (error, warn, info, debug, trace, off) or a filter such as \
                       temporal_batch=debug,warn";

fn filter(text: &str) -> Result<String, String> {
    if let Some(word) = bare_name(text) {
        return Err(format!("`{word}` is not a level; {ALLOWED}"));
    }
    match EnvFilter::builder().parse(text) {
        Ok(_) if !text.trim().is_empty() => Ok(text.to_owned()),
        _ => Err(ALLOWED.to_owned()),
    }
}

/// Returns a word that is not a level. The filter would take it for the name of a module and drop the logs of all
/// others, so an operator who misspells a level would see no log at all.
fn bare_name(text: &str) -> Option<&str> {
    let words = text.split(',').map(str::trim);
    words
        .filter(|word| !word.is_empty() && !word.contains(['=', '[', ':']))
        .find(|word| word.parse::<LevelFilter>().is_err())
}

impl LogArgs {
    /// Starts logging. `default` applies if neither the flag nor the variable is set.
    pub(crate) fn start(&self, default: &str) -> CliResult<()> {
        let from_env = std::env::var("RUST_LOG").ok();
        let from_env = from_env.filter(|text| !text.trim().is_empty());
        if let (None, Some(word)) = (&self.log_level, from_env.as_deref().and_then(bare_name)) {
            // Other programs read the variable too, so the word may be intended as a module.
            note(format_args!(
                "warning: `{word}` in RUST_LOG is not a level, so it is taken for the name of a module; {ALLOWED}"
            ));
        }
        let text = self.log_level.clone().or(from_env);
        let text = text.as_deref().unwrap_or(default);
        let filter = EnvFilter::builder()
            .parse(text)
            .map_err(|e| CliError::usage(format_args!("RUST_LOG is not a log filter: {e}")))?;
        // A filter for warnings would also drop the spans, and without them a warning does not say which batch and page
        // it is about.
        let spans = filter_fn(|metadata| {
            metadata.is_span() && metadata.target().starts_with("temporal_batch")
        });
        let filter = filter.or(spans.with_max_level_hint(LevelFilter::INFO));
        let lines = tracing_subscriber::fmt::layer()
            .with_writer(LogWriter)
            .with_ansi(std::io::stderr().is_terminal() && wants_color());
        // A subscriber that the program has set up itself takes precedence.
        let registry = tracing_subscriber::registry();
        let _ = match self.log_format {
            LogFormat::Text => {
                let lines = lines.compact().with_filter(filter);
                registry.with(lines).try_init()
            }
            LogFormat::Json => {
                let lines = lines.fmt_fields(JsonFields::new()).event_format(JsonLines);
                registry.with(lines.with_filter(filter)).try_init()
            }
        };
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_level_is_one_of_those_that_there_are() {
        for text in [
            "error",
            "WARN",
            "off",
            "temporal_batch=debug,warn",
            "warn,temporal_batch::cli=trace",
            "temporal_batch[page]=debug",
            "3",
        ] {
            assert_eq!(filter(text).as_deref(), Ok(text));
        }
        for text in [
            "lots",
            "verbose",
            "debg",
            "warn,lots",
            "",
            " ",
            "temporal_batch=lots",
        ] {
            let refused = filter(text).unwrap_err();
            assert!(
                refused.contains("error, warn, info, debug, trace"),
                "{text}: {refused}"
            );
        }
    }
}
