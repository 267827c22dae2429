//! Operating windows: the times of the week in which a batch may run.

use std::{fmt, str::FromStr, time::Duration};

use jiff::{
    civil::{Date, Weekday},
    tz::TimeZone,
};
use serde::{Deserialize, Serialize};

use crate::{base::error::truncate, progress::Timestamp};

const DAYS: [&str; 7] = ["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"];
const EVERY_DAY: u8 = 0b111_1111;
const HOUR: u16 = 60;
const DAY: u16 = 24 * HOUR;
const UTC: &str = "UTC";
/// How many days ahead openings are looked for. The shorter ones are enough for most windows.
const AHEAD: [u32; 3] = [10, 60, 366];
const DAY_LENGTH: Duration = Duration::from_secs(86_400);
const MAX_SHOWN: usize = 60;

/// Times of the week in which a batch may run, such as `Mon-Fri 22:00-06:00 Europe/Berlin`.
///
/// | part | what it says | left out |
/// |---|---|---|
/// | days | the days on which the window opens: `Mon-Fri`, `Sat,Sun`, `Mon,Wed-Fri`, `Fri-Mon` | every day |
/// | times | `HH:MM-HH:MM`; an end that is not after the beginning is one of the next day; `00:00-24:00` is the whole day | not allowed |
/// | time zone | a name of the IANA database, such as `Europe/Berlin` | UTC |
///
/// The times are those of the clocks on the wall. Where these are changed, a window is longer or shorter
/// than on other days. A time that the clocks skip is taken as far behind the change as it would have
/// been without it; of a time that comes twice, the first one counts. A window of which nothing is left
/// then does not open on that day.
///
/// It is stored as its text. Reading it back does not ask for the time zone, so a history can be read
/// whatever time zones the reader knows.
///
/// ```
/// use temporal_batch::Window;
///
/// let window: Window = "mon-fri 22:00-06:00 europe/berlin".parse().unwrap();
/// assert_eq!(window.to_string(), "Mon-Fri 22:00-06:00 Europe/Berlin");
/// assert!("Mon-Fri".parse::<Window>().is_err());
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Window {
    /// A bit for each day, the lowest is Monday.
    days: u8,
    /// Minutes of the day.
    begin: u16,
    /// Minutes of the same day, or of the next one where this is not after the beginning.
    end: u16,
    zone: String,
}

impl Window {
    /// Whether its time zone is known here. What was parsed is valid; what was stored need not be.
    pub(crate) fn validate(&self) -> Result<(), InvalidWindow> {
        time_zone(&self.zone).map(drop)
    }

    /// Everything but the time zone, which is taken as it is written.
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

    fn opens_on(&self, day: Weekday) -> bool {
        self.days & (1 << day.to_monday_zero_offset()) != 0
    }

    /// The opening that begins on a date; `None` where the clocks leave nothing of it.
    fn opening(&self, date: Date, zone: &TimeZone) -> Option<Opening> {
        let opens = instant(date, self.begin, zone)?;
        let closes = match self.end {
            end if end > self.begin && end < DAY => instant(date, end, zone)?,
            end => instant(date.tomorrow().ok()?, end % DAY, zone)?,
        };
        (opens < closes).then_some(Opening { opens, closes })
    }

    /// Openings that begin on the dates from two days before `from` to so many days after it.
    fn openings(&self, from: Timestamp, days: u32) -> Vec<Opening> {
        let begin = i64::try_from(from.0).ok();
        let begin = begin.and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok());
        let (Some(begin), Ok(zone)) = (begin, time_zone(&self.zone)) else {
            return Vec::new();
        };
        let today = zone.to_datetime(begin).date();
        (-2..=i64::from(days))
            .filter_map(|day| today.checked_add(jiff::Span::new().days(day)).ok())
            .filter(|date| self.opens_on(date.weekday()))
            .filter_map(|date| self.opening(date, &zone))
            .collect()
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
        let mut window = Self::read(text)?;
        let zone = time_zone(&window.zone)?;
        // The name as its database spells it.
        if let Some(name) = zone.iana_name() {
            name.clone_into(&mut window.zone);
        }
        Ok(window)
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

/// Runs of three and more as `Mon-Fri`, over the end of the week as well.
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

fn time_zone(name: &str) -> Result<TimeZone, InvalidWindow> {
    match TimeZone::get(name) {
        Ok(zone) if !zone.is_unknown() => Ok(zone),
        _ => Err(InvalidWindow::TimeZone { given: shown(name) }),
    }
}

fn instant(date: Date, minutes: u16, zone: &TimeZone) -> Option<Timestamp> {
    let hours = i8::try_from(minutes / HOUR).ok()?;
    let minutes = i8::try_from(minutes % HOUR).ok()?;
    let instant = zone.to_timestamp(date.at(hours, minutes, 0, 0)).ok()?;
    u64::try_from(instant.as_millisecond()).ok().map(Timestamp)
}

fn shown(text: &str) -> String {
    truncate(&text.escape_debug().to_string(), MAX_SHOWN)
}

/// A window that is not allowed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidWindow {
    /// The text is not one of a window.
    #[error(
        "\"{given}\" is not an operating window; write [DAYS] HH:MM-HH:MM [TIME ZONE], such as \
         Mon-Fri 22:00-06:00 Europe/Berlin"
    )]
    Syntax {
        /// The text, shortened.
        given: String,
    },
    /// A day is none.
    #[error(
        "\"{given}\" is not a day of the week; days are Mon, Tue, Wed, Thu, Fri, Sat and Sun, as in Mon-Fri or \
         Sat,Sun"
    )]
    Day {
        /// The day, shortened.
        given: String,
    },
    /// A time is none.
    #[error("\"{given}\" is not a time of day; times are 00:00 to 23:59, and an end may be 24:00")]
    Time {
        /// The time, shortened.
        given: String,
    },
    /// Nobody knows the time zone.
    #[error(
        "time zone \"{given}\" is not known; use a name of the IANA database such as Europe/Berlin, or leave it \
         out for UTC"
    )]
    TimeZone {
        /// The name, shortened.
        given: String,
    },
}

/// A time in which a batch may run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Opening {
    /// From here on, this moment included.
    pub opens: Timestamp,
    /// Up to here, this moment excluded.
    pub closes: Timestamp,
}

/// The next openings of several windows taken together, in order and apart from each other: the first
/// `count` that close after `from`. The first one may be open already, and then it says when it opened,
/// as far as two days back. About a year ahead is looked at: an opening that lasts longer is said to close
/// then.
///
/// Only an activity may call this. The rules of time zones change from one deployment to the next, so
/// workflow code would not find on a replay what it found before; it keeps [`Openings`] instead.
///
/// A window whose time zone is not known here adds nothing; [`Window::validate`] finds it.
pub(crate) fn openings(windows: &[Window], from: Timestamp, count: usize) -> Vec<Opening> {
    let mut found = Vec::new();
    for days in AHEAD {
        let all = windows.iter().flat_map(|w| w.openings(from, days));
        found = merged(all.collect());
        // Days begin at other times elsewhere: what opens before this was found for every window.
        let seen = from.plus(DAY_LENGTH * (days - 1));
        found.retain(|opening| opening.closes > from && opening.opens < seen);
        // The last one may go on behind it.
        if found.len() > count {
            break;
        }
    }
    found.truncate(count);
    found
}

fn merged(mut all: Vec<Opening>) -> Vec<Opening> {
    all.sort_by_key(|opening| opening.opens);
    let mut merged: Vec<Opening> = Vec::new();
    for opening in all {
        match merged.last_mut() {
            Some(last) if opening.opens <= last.closes => {
                last.closes = last.closes.max(opening.closes);
            }
            _ => merged.push(opening),
        }
    }
    merged
}

/// Openings that were worked out, in order. Without time zones, so the workflow can keep it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct Openings(Vec<Opening>);

impl Openings {
    /// Takes what [`openings`] gave.
    pub fn new(openings: Vec<Opening>) -> Self {
        Self(openings)
    }

    pub fn is_open(&self, now: Timestamp) -> bool {
        self.closes_at(now).is_some()
    }

    /// When the window that is open now closes.
    pub fn closes_at(&self, now: Timestamp) -> Option<Timestamp> {
        let open = self.0.iter().find(|o| o.opens <= now && now < o.closes)?;
        Some(open.closes)
    }

    /// When the next window opens that is not open yet.
    pub fn opens_at(&self, now: Timestamp) -> Option<Timestamp> {
        let next = self.0.iter().find(|opening| opening.opens > now)?;
        Some(next.opens)
    }

    /// Whether nothing is known of the time from `margin` after `now` on, so more should be asked for.
    pub fn runs_out(&self, now: Timestamp, margin: Duration) -> bool {
        let then = now.plus(margin);
        self.0.last().is_none_or(|last| last.closes <= then)
    }
}

#[cfg(test)]
mod tests {
    use jiff::Zoned;
    use proptest::prelude::*;

    use super::*;

    const HOUR_MS: u64 = 3_600_000;

    fn window(text: &str) -> Window {
        text.parse().unwrap_or_else(|e| panic!("{text}: {e}"))
    }

    /// An instant such as `2025-03-28T22:00+01:00`.
    fn at(text: &str) -> Timestamp {
        let instant: jiff::Timestamp = text.parse().unwrap();
        Timestamp(u64::try_from(instant.as_millisecond()).unwrap())
    }

    fn opening(opens: &str, closes: &str) -> Opening {
        Opening {
            opens: at(opens),
            closes: at(closes),
        }
    }

    fn hours(opening: &Opening) -> u64 {
        let millis = opening.closes.0 - opening.opens.0;
        assert_eq!(millis % HOUR_MS, 0);
        millis / HOUR_MS
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
        assert_eq!(openings(&[stored], at("2025-01-01T00:00Z"), 3), []);
        assert!(serde_json::from_str::<Window>("\"Mon 08:00\"").is_err());
    }

    #[test]
    fn a_night_belongs_to_the_day_on_which_it_begins() {
        let windows = [window("Mon-Fri 22:00-06:00 Europe/Berlin")];
        // A Friday.
        let found = openings(&windows, at("2025-01-10T12:00+01:00"), 3);
        let expected = [
            opening("2025-01-10T22:00+01:00", "2025-01-11T06:00+01:00"),
            opening("2025-01-13T22:00+01:00", "2025-01-14T06:00+01:00"),
            opening("2025-01-14T22:00+01:00", "2025-01-15T06:00+01:00"),
        ];
        assert_eq!(found, expected);
        // Saturday morning is still Friday's night.
        assert_eq!(
            openings(&windows, at("2025-01-11T05:59+01:00"), 3),
            expected
        );
        assert_eq!(
            openings(&windows, at("2025-01-11T06:00+01:00"), 2),
            expected[1..]
        );
    }

    #[test]
    fn a_night_is_shorter_in_spring_and_longer_in_autumn() {
        let windows = [window("22:00-06:00 Europe/Berlin")];
        let spring = openings(&windows, at("2025-03-29T12:00+01:00"), 2);
        assert_eq!(
            spring[0],
            opening("2025-03-29T22:00+01:00", "2025-03-30T06:00+02:00")
        );
        assert_eq!(spring.iter().map(hours).collect::<Vec<_>>(), [7, 8]);
        let autumn = openings(&windows, at("2025-10-25T12:00+02:00"), 2);
        assert_eq!(
            autumn[0],
            opening("2025-10-25T22:00+02:00", "2025-10-26T06:00+01:00")
        );
        assert_eq!(autumn.iter().map(hours).collect::<Vec<_>>(), [9, 8]);
    }

    #[test]
    fn times_that_do_not_exist_or_come_twice_are_settled() {
        let first = |text: &str, from: &str| openings(&[window(text)], at(from), 1)[0];
        let spring = "2025-03-30T00:30+01:00";
        // From 02:00 the clocks go to 03:00.
        assert_eq!(
            first("02:30-05:00 Europe/Berlin", spring),
            opening("2025-03-30T03:30+02:00", "2025-03-30T05:00+02:00")
        );
        assert_eq!(
            first("01:00-02:30 Europe/Berlin", spring),
            opening("2025-03-30T01:00+01:00", "2025-03-30T03:30+02:00")
        );
        assert_eq!(
            first("02:30-03:00 Europe/Berlin", spring),
            opening("2025-03-31T02:30+02:00", "2025-03-31T03:00+02:00"),
            "nothing is left of it on the day of the change"
        );
        let autumn = "2025-10-26T00:30+02:00";
        // From 03:00 the clocks go to 02:00.
        assert_eq!(
            first("02:30-04:00 Europe/Berlin", autumn),
            opening("2025-10-26T02:30+02:00", "2025-10-26T04:00+01:00")
        );
        assert_eq!(
            first("01:00-02:30 Europe/Berlin", autumn),
            opening("2025-10-26T01:00+02:00", "2025-10-26T02:30+02:00")
        );
    }

    #[test]
    fn a_day_that_a_zone_left_out_is_no_day() {
        // Samoa went from the 29th to the 31st.
        let found = openings(
            &[window("12:00-13:00 Pacific/Apia")],
            at("2011-12-29T00:00-10:00"),
            2,
        );
        let expected = [
            opening("2011-12-29T12:00-10:00", "2011-12-29T13:00-10:00"),
            opening("2011-12-31T12:00+14:00", "2011-12-31T13:00+14:00"),
        ];
        assert_eq!(found, expected);
        // The night of the 29th ends on the 31st.
        let from = at("2011-12-31T03:00+14:00");
        let night = openings(&[window("22:00-06:00 Pacific/Apia")], from, 1);
        let expected = opening("2011-12-29T22:00-10:00", "2011-12-31T06:00+14:00");
        assert_eq!(night, [expected]);
        assert_eq!(hours(&expected), 8);
    }

    #[test]
    fn windows_that_overlap_or_touch_are_one_opening() {
        let windows = [
            window("Mon-Fri 22:00-24:00 Europe/Berlin"),
            window("Tue-Sat 00:00-06:00 Europe/Berlin"),
            window("Mon 20:00-22:30 UTC"),
        ];
        // A Monday.
        let found = openings(&windows, at("2025-01-13T12:00Z"), 2);
        let expected = [
            opening("2025-01-13T20:00Z", "2025-01-14T06:00+01:00"),
            opening("2025-01-14T22:00+01:00", "2025-01-15T06:00+01:00"),
        ];
        assert_eq!(found, expected);
    }

    #[test]
    fn an_opening_is_whole_where_the_days_that_were_looked_at_end() {
        let windows = [
            window("Thu,Fri 00:00-24:00"),
            // Friday already, in UTC.
            window("Thu 20:01-23:00 America/New_York"),
        ];
        // A Monday; on the second Thursday the first look ahead ends.
        let found = openings(&windows, at("2025-06-02T12:00Z"), 2);
        let expected = [
            opening("2025-06-05T00:00Z", "2025-06-07T00:00Z"),
            opening("2025-06-12T00:00Z", "2025-06-14T00:00Z"),
        ];
        assert_eq!(found, expected);
    }

    #[test]
    fn a_whole_week_is_one_opening_of_a_year() {
        for text in [
            "00:00-24:00",
            "00:00-00:00 Europe/Berlin",
            "09:00-09:00 America/New_York",
        ] {
            let from = at("2025-01-13T12:00Z");
            let found = openings(&[window(text)], from, 5);
            assert_eq!(found.len(), 1, "{text}");
            assert_eq!(openings(&[window(text)], from, 1), found, "{text}");
            assert!(found[0].opens <= from);
            let days = found[0].closes.since(from).as_secs() / 86_400;
            assert!((364..=368).contains(&days), "{text}: {days}");
            assert!(!Openings::new(found).runs_out(from, Duration::from_secs(86_400)));
        }
    }

    #[test]
    fn a_weekend_is_one_opening() {
        let windows = [window("Sat,Sun 00:00-24:00 Europe/Berlin")];
        let found = openings(&windows, at("2025-01-13T12:00Z"), 60);
        assert!(found.len() >= 51, "{}", found.len());
        assert_eq!(
            found[0],
            opening("2025-01-18T00:00+01:00", "2025-01-20T00:00+01:00")
        );
        assert_eq!(hours(&found[10]), 47, "30 March is an hour shorter");
    }

    #[test]
    fn nothing_opens_where_there_is_nothing_to_open() {
        assert_eq!(openings(&[], at("2025-01-13T12:00Z"), 5), []);
        assert_eq!(
            openings(&[window("08:00-09:00")], at("2025-01-13T12:00Z"), 0),
            []
        );
        assert_eq!(
            openings(&[window("08:00-09:00")], Timestamp(u64::MAX), 5),
            []
        );
        assert!(!openings(&[window("08:00-09:00 Asia/Tokyo")], Timestamp(0), 5).is_empty());
    }

    #[test]
    fn openings_tell_what_is_open_and_what_comes_next() {
        let known = Openings::new(vec![
            Opening {
                opens: Timestamp(10),
                closes: Timestamp(20),
            },
            Opening {
                opens: Timestamp(30),
                closes: Timestamp(40),
            },
        ]);
        let (t, ms) = (Timestamp, Duration::from_millis);
        for (now, closes, opens) in [
            (9, None, Some(t(10))),
            (10, Some(t(20)), Some(t(30))),
            (19, Some(t(20)), Some(t(30))),
            (20, None, Some(t(30))),
            (30, Some(t(40)), None),
            (40, None, None),
        ] {
            assert_eq!(known.closes_at(t(now)), closes, "{now}");
            assert_eq!(known.opens_at(t(now)), opens, "{now}");
            assert_eq!(known.is_open(t(now)), closes.is_some(), "{now}");
        }
        assert!(!known.runs_out(t(34), ms(5)));
        assert!(known.runs_out(t(35), ms(5)));
        assert!(known.runs_out(t(50), ms(0)));
        assert!(Openings::default().runs_out(t(0), ms(0)));
        let json = serde_json::to_string(&known).unwrap();
        assert_eq!(serde_json::from_str::<Openings>(&json).unwrap(), known);
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

    fn windows() -> impl Strategy<Value = Window> {
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

    /// Whole minutes from 2000 to 2060.
    fn moments() -> impl Strategy<Value = Timestamp> {
        (15_778_080u64..47_335_680).prop_map(|minute| Timestamp(minute * 60_000))
    }

    fn civil(now: Timestamp, zone: &str) -> Zoned {
        let now = jiff::Timestamp::from_millisecond(i64::try_from(now.0).unwrap()).unwrap();
        now.in_tz(zone).unwrap()
    }

    /// What the clock on the wall says. Clocks that are changed nearby do not count: see the examples.
    fn open_by_the_clock(window: &Window, now: Timestamp) -> Option<bool> {
        let day = Duration::from_secs(26 * 3_600);
        let clock = civil(now, &window.zone);
        let before = civil(Timestamp(now.0 - 26 * HOUR_MS), &window.zone);
        let after = civil(now.plus(day), &window.zone);
        if clock.offset() != before.offset() || clock.offset() != after.offset() {
            return None;
        }
        let minute =
            u16::try_from(clock.hour()).unwrap() * 60 + u16::try_from(clock.minute()).unwrap();
        let (today, yesterday) = (clock.weekday(), clock.weekday().previous());
        Some(if window.begin < window.end {
            window.opens_on(today) && (window.begin..window.end).contains(&minute)
        } else {
            window.opens_on(today) && minute >= window.begin
                || window.opens_on(yesterday) && minute < window.end
        })
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

        #[test]
        fn openings_are_what_the_clocks_on_the_wall_say(
            windows in prop::collection::vec(windows(), 1..4), from in moments(),
            minutes in prop::collection::vec(0u64..14 * 1_440, 30),
        ) {
            let known = openings(&windows, from, 60);
            let known_until = known.last().unwrap().closes;
            let known = Openings::new(known);
            for minute in minutes {
                let now = Timestamp(from.0 + minute * 60_000);
                if now >= known_until {
                    continue;
                }
                let by_clock: Option<Vec<bool>> = windows.iter().map(|w| open_by_the_clock(w, now)).collect();
                if let Some(by_clock) = by_clock {
                    let expected = by_clock.contains(&true);
                    prop_assert_eq!(known.is_open(now), expected, "{}", now.0);
                    let last = Timestamp(now.0 + 59_999);
                    prop_assert_eq!(known.is_open(last), expected, "{}", last.0);
                }
            }
        }

        #[test]
        fn openings_are_in_order_apart_and_as_many_as_asked_for(
            windows in prop::collection::vec(windows(), 0..4), from in moments(), count in 0usize..12,
        ) {
            let found = openings(&windows, from, count);
            prop_assert!(found.len() <= count);
            for opening in &found {
                prop_assert!(opening.opens < opening.closes);
                prop_assert!(opening.closes > from);
            }
            for pair in found.windows(2) {
                prop_assert!(pair[0].closes < pair[1].opens);
            }
            let more = openings(&windows, from, count + 7);
            prop_assert!(more.starts_with(&found));
            if more.len() > count {
                prop_assert_eq!(found.len(), count);
            }
        }

        #[test]
        fn asking_later_continues_where_it_was_left(
            windows in prop::collection::vec(windows(), 1..4), from in moments(), taken in 0usize..8,
        ) {
            let found = openings(&windows, from, 9);
            if let Some(next) = found.get(taken + 1) {
                let later = openings(&windows, found[taken].closes, 1);
                prop_assert_eq!(later, vec![*next]);
            }
        }
    }
}
