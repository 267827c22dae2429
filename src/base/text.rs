//! Numbers, rates, durations and foreign text as text for people.

use std::time::Duration;

use crate::base::error::truncate;

/// Seconds of a day.
const DAY: u64 = 86_400;

/// Formats `1234567` as `1,234,567`.
pub(crate) fn number(n: u64) -> String {
    grouped(&n.to_string())
}

/// Formats a count with its noun: `1 page`, `2 pages`, `2 retries`.
pub(crate) fn count(n: u64, one: &str) -> String {
    let stem = one.strip_suffix('y');
    let many = match stem.filter(|stem| !stem.ends_with(['a', 'e', 'o', 'u'])) {
        Some(stem) => format!("{stem}ies"),
        None if one.ends_with("ch") => format!("{one}es"),
        None => format!("{one}s"),
    };
    format!("{} {}", number(n), if n == 1 { one } else { &many })
}

/// Formats a duration that a person chose, to the millisecond: `1m 30s`.
pub(crate) fn exactly(time: Duration) -> String {
    let millis = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    in_units(Duration::from_millis(millis))
}

/// Formats a duration in days and smaller units: `366 days`, `2 days 8h`, `1m 30s`. Months and years have no fixed length,
/// so there are none. Every text for people is made here, and `humantime` reads it back.
pub(crate) fn in_units(time: Duration) -> String {
    let (days, seconds) = (time.as_secs() / DAY, time.as_secs() % DAY);
    let rest = Duration::new(seconds, time.subsec_nanos());
    let of_day = humantime::format_duration(rest);
    let s = if days == 1 { "" } else { "s" };
    match (days, rest.is_zero()) {
        (0, _) => of_day.to_string(),
        (_, true) => format!("{days} day{s}"),
        (_, false) => format!("{days} day{s} {of_day}"),
    }
}

/// Groups a string of digits: `1234567` becomes `1,234,567`.
pub(crate) fn grouped(digits: &str) -> String {
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Formats a rate to three digits, without decimals from 100 on: `1,235`, `12.5`, `0.05`.
pub(crate) fn per_second(rate: f64) -> String {
    let decimals = (2.0 - rate.log10().floor()).clamp(0.0, 9.0) as usize;
    let text = format!("{rate:.decimals$}");
    match text.split_once('.') {
        Some(_) => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
        None => grouped(&text),
    }
}

/// Formats a duration rounded to seconds, minutes from ten minutes on, or hours from a day on.
pub(crate) fn about(time: Duration) -> String {
    let unit = match time.as_secs() {
        0..600 => 1,
        600..DAY => 60,
        _ => 3_600,
    };
    let units = (time.as_secs_f64() / unit as f64).round() as u64;
    in_units(Duration::from_secs((units * unit).max(1)))
}

/// Returns a duration for people: tenths of a second below 10 s, whole seconds above.
#[cfg(any(
    feature = "cli",
    feature = "sqlite",
    feature = "postgres",
    feature = "mysql",
    test
))]
pub(crate) fn duration(d: Duration) -> String {
    if d < Duration::from_millis(9_950) {
        format!("{:.1}s", d.as_secs_f64())
    } else {
        let seconds = (d.as_secs_f64()).round() as u64;
        in_units(Duration::from_secs(seconds))
    }
}

/// Returns foreign text on one line, with everything escaped that would break the line or control the terminal.
pub(crate) fn one_line(text: &str) -> String {
    escaped(text, |c| !steers(c), |c, to| to.extend(c.escape_default()))
}

/// Returns the beginning of a text that a user gave, for a message that refuses it.
pub(crate) fn given(text: &str, max_chars: usize) -> String {
    truncate(&one_line(text), max_chars)
}

/// Escapes the characters of a text that are not `plain`.
pub(crate) fn escaped(
    text: &str,
    plain: impl Fn(char) -> bool,
    escape: impl Fn(char, &mut String),
) -> String {
    let mut line = String::with_capacity(text.len());
    for c in text.chars() {
        match plain(c) {
            true => line.push(c),
            false => escape(c, &mut line),
        }
    }
    line
}

/// Matches control characters and the characters that change the direction of text.
pub(crate) fn steers(c: char) -> bool {
    c.is_control() || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// A text that is shown can be typed as a flag.
        #[test]
        fn a_duration_reads_back_as_it_was_written(millis in 0u64..100_000 * DAY * 1_000) {
            let time = Duration::from_millis(millis);
            prop_assert_eq!(humantime::parse_duration(&exactly(time)), Ok(time));
        }
    }

    #[test]
    fn rates_and_times_are_written_as_people_write_them() {
        for (rate, text) in [
            (0.0, "0"),
            (0.001, "0.001"),
            (0.5, "0.5"),
            (2.0, "2"),
            (1.234, "1.23"),
            (12.5, "12.5"),
            (100.0, "100"),
            (1_234_567.0, "1,234,567"),
        ] {
            assert_eq!(per_second(rate), text);
        }
        for (seconds, text) in [
            (0, "1s"),
            (59, "59s"),
            (290, "4m 50s"),
            (3_725, "1h 2m"),
            (200_000, "2 days 8h"),
            (366 * DAY, "366 days"),
            (DAY, "1 day"),
        ] {
            assert_eq!(about(Duration::from_secs(seconds)), text);
        }
        assert_eq!(about(Duration::from_millis(1_700)), "2s");
    }

    #[test]
    fn one_of_a_kind_is_not_many() {
        for (n, one, text) in [
            (0, "page", "0 pages"),
            (1, "item", "1 item"),
            (2, "retry", "2 retries"),
            (2, "key", "2 keys"),
            (2, "batch", "2 batches"),
            (1_000, "dead letter", "1,000 dead letters"),
        ] {
            assert_eq!(count(n, one), text);
        }
    }

    #[test]
    fn a_refused_text_is_shown_as_it_was_given_on_one_line() {
        assert_eq!(given(r#"C:\new "1""#, 60), r#"C:\new "1""#);
        assert_eq!(given("a\nb\u{1b}c", 60), r"a\nb\u{1b}c");
    }
}
