//! Operating windows: the times of the week in which a batch may run.

#[cfg(feature = "time-zones")]
mod time_zone;

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::base::{text::given, time::Timestamp};

const DAYS: [&str; 7] = ["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"];
const EVERY_DAY: u8 = 0b111_1111;
const HOUR: u16 = 60;
const DAY: u16 = 24 * HOUR;
const UTC: &str = "UTC";

const MAX_SHOWN: usize = 60;

/// Times of the week in which a batch may run, such as `Mon-Fri 22:00-06:00 Europe/Berlin`.
///
/// | part | meaning | if omitted |
/// |---|---|---|
/// | days | the days on which the window opens: `Mon-Fri`, `Sat,Sun`, `Mon,Wed-Fri`, `Fri-Mon` | every day |
/// | times | `HH:MM-HH:MM`; an end that is not after the start is on the next day; `00:00-24:00` is the whole day | not allowed |
/// | time zone | a name of the IANA database, such as `Europe/Berlin` | UTC |
///
/// The times are local times. On days when clocks change, a window is longer or shorter than usual. A time that
/// the clocks skip is moved forward by the length of the gap. If a time occurs twice, the first occurrence
/// counts. A window of which nothing remains does not open on that day.
///
/// A window is stored as its text. Reading the stored text does not look up the time zone, so a history can be
/// read whatever time zones the reader knows.
///
/// ```
/// use temporal_batch::settings::Window;
///
/// let window: Window = "mon-fri 22:00-06:00 europe/berlin".parse().unwrap();
/// assert_eq!(window.to_string(), "Mon-Fri 22:00-06:00 Europe/Berlin");
/// assert!("Mon-Fri".parse::<Window>().is_err());
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Window {
    /// One bit for each day, starting with Monday at the lowest bit.
    days: u8,
    /// Minutes of the day.
    pub(crate) begin: u16,
    /// Minutes of the same day, or of the next day if this is not after the beginning.
    pub(crate) end: u16,
    pub(crate) zone: String,
}

impl Window {
    /// Checks that the time zone is known. A parsed window is always valid, but a stored one need not be.
    pub(crate) fn validate(&self) -> Result<(), InvalidWindow> {
        self.clone().spelled().map(drop)
    }

    /// Refuses the window: a program without time zones cannot tell when it opens.
    #[cfg(not(feature = "time-zones"))]
    fn spelled(self) -> Result<Self, InvalidWindow> {
        Err(InvalidWindow::NoTimeZones)
    }

    /// Parses everything but the time zone, which is taken as written.
    fn read(text: &str) -> Result<Self, InvalidWindow> {
        let syntax = || InvalidWindow::Syntax {
            given: shown(text.trim()),
        };
        let words: Vec<&str> = text.split_whitespace().collect();
        let (days, times, zone) = match words[..] {
            [times] => (None, times, None),
            [times, zone] if times.contains(':') => (None, times, Some(zone)),
            [days, times] => (Some(days), times, None),
            [days, times, zone] => (Some(days), times, Some(zone)),
            _ => return Err(syntax()),
        };
        if !times.contains(':') {
            return Err(syntax());
        }
        let (begin, end) = times.split_once('-').ok_or_else(syntax)?;
        let begin = minutes(begin, DAY - 1)?;
        Ok(Self {
            days: days.map_or(Ok(EVERY_DAY), days_of)?,
            begin,
            end: minutes(end, DAY)?,
            zone: zone.unwrap_or(UTC).to_owned(),
        })
    }
}

impl fmt::Display for Window {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.days != EVERY_DAY {
            write!(f, "{} ", days_text(self.days))?;
        }
        let clock = |minutes: u16| format!("{:02}:{:02}", minutes / HOUR, minutes % HOUR);
        write!(f, "{}-{}", clock(self.begin), clock(self.end))?;
        if self.zone != UTC {
            write!(f, " {}", self.zone)?;
        }
        Ok(())
    }
}

impl FromStr for Window {
    type Err = InvalidWindow;

    fn from_str(text: &str) -> Result<Self, InvalidWindow> {
        Self::read(text)?.spelled()
    }
}

impl TryFrom<String> for Window {
    type Error = InvalidWindow;

    fn try_from(text: String) -> Result<Self, InvalidWindow> {
        Self::read(&text)
    }
}

impl From<Window> for String {
    fn from(window: Window) -> Self {
        window.to_string()
    }
}

fn days_of(text: &str) -> Result<u8, InvalidWindow> {
    let day = |name: &str| {
        let found = DAYS.iter().position(|day| day.eq_ignore_ascii_case(name));
        found.ok_or_else(|| InvalidWindow::Day { given: shown(name) })
    };
    let mut days = 0;
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last) = (day(first)?, day(last)?);
        let more = (last + 7 - first) % 7;
        for n in 0..=more {
            days |= 1 << ((first + n) % 7);
        }
    }
    Ok(days)
}

/// Formats days, with three or more in a row as `Mon-Fri`, also across the end of the week.
fn days_text(days: u8) -> String {
    let has = |day: usize| days & (1 << (day % 7)) != 0;
    let mut parts = Vec::new();
    for first in (0..7).filter(|day| has(*day) && !has(day + 6)) {
        let length = (1..7).take_while(|n| has(first + n)).count() + 1;
        let last = DAYS[(first + length - 1) % 7];
        match length {
            1 => parts.push(last.to_owned()),
            2 => parts.push(format!("{},{last}", DAYS[first])),
            _ => parts.push(format!("{}-{last}", DAYS[first])),
        }
    }
    parts.join(",")
}

fn minutes(text: &str, latest: u16) -> Result<u16, InvalidWindow> {
    let number = |digits: &str| {
        let two = digits.len() == 2 && digits.bytes().all(|b| b.is_ascii_digit());
        two.then(|| digits.parse::<u16>().ok()).flatten()
    };
    let read = || {
        let (hours, minutes) = text.split_once(':')?;
        let (hours, minutes) = (number(hours)?, number(minutes)?);
        let all = hours * HOUR + minutes;
        (minutes < HOUR && all <= latest).then_some(all)
    };
    read().ok_or_else(|| InvalidWindow::Time { given: shown(text) })
}

fn shown(text: &str) -> String {
    given(text, MAX_SHOWN)
}

/// A window that is not allowed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidWindow {
    /// The program was built without time zones.
    #[error(
        "this program is built without operating windows; build it with the feature `time-zones`"
    )]
    NoTimeZones,
    /// The text is not a window.
    #[error(
        "\"{given}\" is not an operating window; write [DAYS] HH:MM-HH:MM [TIME ZONE], such as \
         Mon-Fri 22:00-06:00 Europe/Berlin"
    )]
    Syntax {
        /// The text, shortened.
        given: String,
    },
    /// A day is not a day of the week.
    #[error(
        "\"{given}\" is not a day of the week; days are Mon, Tue, Wed, Thu, Fri, Sat and Sun, as in Mon-Fri or \
         Sat,Sun"
    )]
    Day {
        /// The day, shortened.
        given: String,
    },
    /// A time is not a time of day.
    #[error("\"{given}\" is not a time of day; times are 00:00 to 23:59, and an end may be 24:00")]
    Time {
        /// The time, shortened.
        given: String,
    },
    /// The time zone is unknown.
    #[error(
        "time zone \"{given}\" is not known; use a name of the IANA database such as Europe/Berlin, or leave it \
         out for UTC"
    )]
    TimeZone {
        /// The name, shortened.
        given: String,
    },
}

/// A period in which a batch may run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Opening {
    /// The start, inclusive.
    pub opens: Timestamp,
    /// The end, exclusive.
    pub closes: Timestamp,
}

#[cfg(all(test, not(feature = "time-zones")))]
mod without_time_zones {
    use super::*;

    #[test]
    fn a_window_is_refused_at_the_door_and_a_stored_one_is_read() {
        let refused = "Mon-Fri 22:00-06:00".parse::<Window>().unwrap_err();
        assert_eq!(refused, InvalidWindow::NoTimeZones);
        let stored: Window = serde_json::from_str("\"Mon 08:00-09:00 UTC\"").unwrap();
        assert_eq!(stored.validate(), Err(InvalidWindow::NoTimeZones));
    }
}

#[cfg(all(test, feature = "time-zones"))]
pub(crate) mod tests {

    use proptest::prelude::*;

    use super::*;

    pub(crate) fn window(text: &str) -> Window {
        text.parse().unwrap_or_else(|e| panic!("{text}: {e}"))
    }

    #[test]
    fn texts_have_one_way_to_be_written() {
        for (text, written) in [
            ("22:00-06:00", "22:00-06:00"),
            ("Mon-Sun 22:00-06:00 UTC", "22:00-06:00"),
            ("  MON-fri   08:00-18:00\tutc ", "Mon-Fri 08:00-18:00"),
            ("Sat,Sun 00:00-24:00", "Sat,Sun 00:00-24:00"),
            ("Sun,Sat 00:00-24:00", "Sat,Sun 00:00-24:00"),
            (
                "Fri-Mon 22:00-22:00 Asia/Tokyo",
                "Fri-Mon 22:00-22:00 Asia/Tokyo",
            ),
            ("Mon,Wed-Fri 01:02-03:04", "Mon,Wed-Fri 01:02-03:04"),
            ("Sun-Mon 01:02-03:04", "Sun,Mon 01:02-03:04"),
            (
                "Tue,Tue-Wed 01:02-03:04 america/new_york",
                "Tue,Wed 01:02-03:04 America/New_York",
            ),
            ("Tue-Mon 00:00-00:00", "00:00-00:00"),
        ] {
            assert_eq!(window(text).to_string(), written);
        }
    }

    #[test]
    fn a_text_that_is_no_window_says_what_is_allowed() {
        for text in [
            "",
            "Mon-Fri",
            "Mon-Fri Europe/Berlin",
            "Mon 08:00",
            "08:00",
            "Mon Tue 08:00-09:00 UTC",
            "08:00-09:00 UTC please now",
            "Mon 08:00-09:00 Europe / Berlin",
        ] {
            let error = text.parse::<Window>().unwrap_err();
            assert!(
                matches!(error, InvalidWindow::Syntax { .. }),
                "{text}: {error}"
            );
            assert!(
                error
                    .to_string()
                    .contains("Mon-Fri 22:00-06:00 Europe/Berlin"),
                "{error}"
            );
        }
        for text in [
            "Monday 08:00-09:00",
            "Mo-Fr 08:00-09:00",
            "Mon, 08:00-09:00",
            "Mon-Wed-Fri 08:00-09:00",
            "- 08:00-09:00",
        ] {
            let error = text.parse::<Window>().unwrap_err();
            assert!(
                matches!(error, InvalidWindow::Day { .. }),
                "{text}: {error}"
            );
            assert!(error.to_string().contains("Mon, Tue"), "{error}");
        }
        for text in [
            "8:00-09:00",
            "08:00-24:01",
            "24:00-08:00",
            "08:60-09:00",
            "08:00-9",
            "08:00:00-09:00",
            "+8:00-09:00",
            "08:00-09:00-10:00",
            "08:00-",
        ] {
            let error = text.parse::<Window>().unwrap_err();
            assert!(
                matches!(error, InvalidWindow::Time { .. }),
                "{text}: {error}"
            );
            assert!(error.to_string().contains("00:00 to 23:59"), "{error}");
        }
        for text in [
            "08:00-09:00 Berlin",
            "08:00-09:00 CEST",
            "08:00-09:00 +02:00",
            "08:00-09:00 Etc/Unknown",
        ] {
            let error = text.parse::<Window>().unwrap_err();
            assert!(
                matches!(error, InvalidWindow::TimeZone { .. }),
                "{text}: {error}"
            );
            assert!(error.to_string().contains("Europe/Berlin"), "{error}");
        }
        let long = format!("08:00-09:00 {}", "x".repeat(10_000));
        assert!(long.parse::<Window>().unwrap_err().to_string().len() < 250);
    }

    #[test]
    fn a_stored_window_is_read_even_where_its_time_zone_is_unknown() {
        let json = "\"Mon 08:00-09:00 Mars/Olympus\"";
        let stored: Window = serde_json::from_str(json).unwrap();
        assert_eq!(serde_json::to_string(&stored).unwrap(), json);
        assert!(matches!(
            stored.validate(),
            Err(InvalidWindow::TimeZone { .. })
        ));
        assert!(serde_json::from_str::<Window>("\"Mon 08:00\"").is_err());
    }

    const ZONES: [&str; 9] = [
        "UTC",
        "Europe/Berlin",
        "America/New_York",
        "Asia/Kolkata",
        "Asia/Tokyo",
        "Australia/Lord_Howe",
        "Pacific/Chatham",
        "America/Sao_Paulo",
        "Africa/Casablanca",
    ];

    pub(crate) fn windows() -> impl Strategy<Value = Window> {
        let end = prop_oneof![0..=DAY, Just(DAY), Just(0)];
        (1..=EVERY_DAY, 0..DAY, end, prop::sample::select(&ZONES[..])).prop_map(
            |(days, begin, end, zone)| Window {
                days,
                begin,
                end,
                zone: zone.to_owned(),
            },
        )
    }

    proptest! {
        #[test]
        fn every_window_is_read_as_it_is_written(window in windows()) {
            let text = window.to_string();
            prop_assert_eq!(text.parse(), Ok(window.clone()));
            let json = serde_json::to_string(&window).unwrap();
            prop_assert_eq!(&json, &format!("\"{text}\""));
            prop_assert_eq!(serde_json::from_str::<Window>(&json).unwrap(), window);
        }

        #[test]
        fn no_text_makes_it_panic(text in "[MonFri0-9:, /A-Z-]{0,24}") {
            let _ = text.parse::<Window>();
        }

    }
}
