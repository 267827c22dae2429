//! Numbers, rates and durations as text for people.

use std::time::Duration;

/// Formats `1234567` as `1,234,567`.
pub(crate) fn number(n: u64) -> String {
    grouped(&n.to_string())
}

/// Formats a count with its noun: `1 page`, `2 pages`.
pub(crate) fn count(n: u64, one: &str) -> String {
    let s = if n == 1 { "" } else { "s" };
    format!("{} {one}{s}", number(n))
}

/// Formats a duration that a person chose, to the millisecond: `1m 30s`.
pub(crate) fn exactly(time: Duration) -> String {
    let millis = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    humantime::format_duration(Duration::from_millis(millis)).to_string()
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
        600..86_400 => 60,
        _ => 3_600,
    };
    let units = (time.as_secs_f64() / unit as f64).round() as u64;
    humantime::format_duration(Duration::from_secs((units * unit).max(1))).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

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
            (200_000, "2days 8h"),
        ] {
            assert_eq!(about(Duration::from_secs(seconds)), text);
        }
        assert_eq!(about(Duration::from_millis(1_700)), "2s");
    }
}
