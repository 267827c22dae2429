//! The headers with which an API tells how many calls it takes. Pure.

#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use std::time::{Duration, SystemTime};

use super::pace::Advice;

/// A `*-Reset` of at least this many seconds is a time since 1970 and not a wait.
const A_DATE: f64 = 1e9;

/// Reads the advice in the headers of an answer. `header` returns the value of a header by its lower-case name.
///
/// `Retry-After` counts only if the answer has one of the statuses that mean it (`asks`). A header that cannot be read
/// is no advice.
pub(super) fn advice<'h>(
    header: impl Fn(&str) -> Option<&'h str>,
    asks: bool,
    now: SystemTime,
) -> Advice {
    let wait = asks
        .then(|| header("retry-after").and_then(|text| retry_after(text, now)))
        .flatten();
    let left = ["ratelimit", "x-ratelimit", "x-rate-limit"]
        .into_iter()
        .find_map(|family| {
            let number = |name: &str| header(&format!("{family}-{name}")).and_then(number);
            let reset = number("reset")?;
            Some((number("remaining")? as u64, until(reset, now)))
        });
    let left = left.or_else(|| header("ratelimit").and_then(|text| structured(text, now)));
    Advice { wait, left }
}

/// Reads a number of seconds or a date.
fn retry_after(text: &str, now: SystemTime) -> Option<Duration> {
    if let Some(seconds) = number(text) {
        return Some(seconds_of(seconds));
    }
    let date = httpdate::parse_http_date(text.trim()).ok()?;
    // A date in the past means now.
    Some(date.duration_since(now).unwrap_or_default())
}

/// Reads `limit=100, remaining=50, reset=5`, or `"default";r=50;t=5`.
fn structured(text: &str, now: SystemTime) -> Option<(u64, Duration)> {
    let named = |names: [&str; 2]| {
        let mut fields = text
            .split([',', ';'])
            .filter_map(|part| part.split_once('='));
        let found = fields.find(|(name, _)| names.contains(&name.trim()));
        found.and_then(|(_, value)| number(value))
    };
    let remaining = named(["remaining", "r"])?;
    Some((remaining as u64, until(named(["reset", "t"])?, now)))
}

fn until(reset: f64, now: SystemTime) -> Duration {
    if reset < A_DATE {
        return seconds_of(reset);
    }
    let date = SystemTime::UNIX_EPOCH.checked_add(seconds_of(reset));
    date.and_then(|date| date.duration_since(now).ok())
        .unwrap_or_default()
}

fn number(text: &str) -> Option<f64> {
    let number: f64 = text.trim().parse().ok()?;
    (number.is_finite() && number >= 0.0).then_some(number)
}

fn seconds_of(seconds: f64) -> Duration {
    Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX / 4)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn now() -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000)
    }

    fn read(headers: &[(&str, &str)], asks: bool) -> Advice {
        let find = |name: &str| {
            let found = headers.iter().find(|(given, _)| *given == name);
            found.map(|(_, value)| *value)
        };
        advice(find, asks, now())
    }

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let wait = |text| read(&[("retry-after", text)], true).wait;
        assert_eq!(wait("120"), Some(Duration::from_secs(120)));
        assert_eq!(wait(" 0 "), Some(Duration::ZERO));
        let date = httpdate::fmt_http_date(now() + Duration::from_secs(7));
        assert_eq!(wait(&date), Some(Duration::from_secs(7)));
        assert_eq!(wait("Wed, 21 Oct 2015 07:28:00 GMT"), Some(Duration::ZERO));
        assert_eq!((wait("soon"), wait("-1"), wait("NaN")), (None, None, None));
        assert_eq!(read(&[("retry-after", "5")], false).wait, None);
    }

    #[test]
    fn the_rest_of_a_quota_is_read_in_every_spelling() {
        let expected = Some((3, Duration::from_secs(20)));
        let at = (1_800_000_020u64).to_string();
        for headers in [
            vec![("ratelimit-remaining", "3"), ("ratelimit-reset", "20")],
            vec![("x-ratelimit-remaining", "3"), ("x-ratelimit-reset", &at)],
            vec![
                ("x-rate-limit-remaining", "3"),
                ("x-rate-limit-reset", "20"),
            ],
            vec![("ratelimit", "limit=100, remaining=3, reset=20")],
            vec![("ratelimit", "\"default\";r=3;t=20")],
        ] {
            assert_eq!(read(&headers, false).left, expected, "{headers:?}");
        }
        assert_eq!(read(&[("ratelimit-remaining", "3")], false).left, None);
    }

    proptest! {
        #[test]
        fn no_header_makes_it_fail(text in ".{0,60}") {
            let names = ["retry-after", "ratelimit", "x-ratelimit-reset", "x-ratelimit-remaining"];
            for name in names {
                read(&[(name, &text), ("x-ratelimit-remaining", "1")], true);
            }
        }
    }
}
