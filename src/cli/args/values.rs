//! Parsers for the values of flags that several commands take.

#[cfg(any(feature = "sqlite", feature = "postgres", feature = "mysql"))]
use std::path::{Path, PathBuf};
use std::{net::SocketAddr, time::Duration};

use jiff::{Timestamp as Instant, civil::DateTime, tz::TimeZone};
use serde_json::Value;

use crate::base::{error::text::words, small_file, time::Timestamp};
#[cfg(any(feature = "sqlite", feature = "postgres", feature = "mysql"))]
use crate::cli::exit::{CliError, CliResult};

pub(crate) fn json(text: &str) -> Result<Value, String> {
    serde_json::from_str(text).map_err(|e| format!("this is not JSON: {e}"))
}

/// Parses JSON, or reads the JSON file whose path follows an `@`.
pub(crate) fn json_or_file(text: &str) -> Result<Value, String> {
    match text.strip_prefix('@') {
        None => json(text),
        Some(path) => {
            let text = small_file::read_text(path);
            json(&text.map_err(|e| format!("cannot read {path}: {}", words(&e)))?)
        }
    }
}

pub(crate) fn task_queue(text: &str) -> Result<String, String> {
    match text.trim() {
        "" => Err("the task queue is empty".to_owned()),
        _ => Ok(text.to_owned()),
    }
}

pub(crate) fn listen_address(text: &str) -> Result<SocketAddr, String> {
    let wanted = "write an IP address and a port, such as 127.0.0.1:9464";
    text.parse().map_err(|_| wanted.to_owned())
}

pub(crate) fn length(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text)
        .map_err(|e| format!("{e}; write numbers with units, such as 90s or 1h30m"))
}

/// Parses a point in time: with an offset (`2026-11-22T06:00:00+01:00`), with a named zone (`2026-11-22 06:00
/// Europe/Berlin`), or without either, which means UTC, as everywhere else in this program.
pub(crate) fn moment(text: &str) -> Result<Timestamp, String> {
    let at = instant(text.trim()).ok_or_else(|| {
        "write a time such as 2026-11-22T06:00:00Z, \"2026-11-22 06:00\" (UTC), or \"2026-11-22 06:00 \
         Europe/Berlin\""
            .to_owned()
    })?;
    u64::try_from(at.as_millisecond())
        .map(Timestamp)
        .map_err(|_| "the time is before 1970".to_owned())
}

fn instant(text: &str) -> Option<Instant> {
    if let Ok(at) = text.parse::<Instant>() {
        return Some(at);
    }
    if let Ok(zoned) = text.parse::<jiff::Zoned>() {
        return Some(zoned.timestamp());
    }
    let (civil, zone) = match text.rsplit_once(' ') {
        Some((civil, zone)) if zone.starts_with(|c: char| c.is_ascii_alphabetic()) => {
            (civil.trim_end(), TimeZone::get(zone).ok()?)
        }
        _ => (text, TimeZone::UTC),
    };
    // A lone date is more likely to be a slip than midnight.
    let has_time = civil.contains(':');
    let civil: DateTime = has_time.then(|| civil.parse().ok())??;
    Some(civil.to_zoned(zone).ok()?.timestamp())
}

/// Returns a path that means the same in another directory, where a repeated command may run.
#[cfg(any(feature = "sqlite", feature = "postgres", feature = "mysql"))]
pub(crate) fn absolute(path: &Path) -> CliResult<PathBuf> {
    std::path::absolute(path).map_err(|e| {
        CliError::usage(format_args!(
            "\"{}\" is not a path: {}",
            path.display(),
            words(&e)
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_has_an_offset_or_a_zone_or_is_utc() {
        let six_utc = moment("2026-11-22T06:00:00Z").unwrap();
        assert_eq!(six_utc, Timestamp(1_795_327_200_000));
        for same in [
            "2026-11-22 06:00",
            "2026-11-22T06:00",
            "2026-11-22 06:00:00",
            "2026-11-22 06:00 UTC",
            "2026-11-22T07:00:00+01:00",
            "2026-11-22 07:00 Europe/Berlin",
            "2026-11-22T07:00[Europe/Berlin]",
            " 2026-11-22 01:00 America/New_York ",
        ] {
            assert_eq!(moment(same), Ok(six_utc), "{same}");
        }
    }

    #[test]
    fn what_is_no_time_is_refused_with_what_is() {
        for text in [
            "",
            "tomorrow",
            "06:00",
            "2026-11-22",
            "2026-11-22 06:00 Nowhere/Else",
            "2026-13-01 06:00",
        ] {
            assert!(
                moment(text).unwrap_err().contains("Europe/Berlin"),
                "{text}"
            );
        }
        assert!(moment("1969-12-31T23:59:59Z").unwrap_err().contains("1970"));
    }
}
