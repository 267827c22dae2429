//! Openings of operating windows: their computation and storage.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{
    base::time::Timestamp,
    batch::pace_settings::window::{Opening, Window},
};

/// Number of openings that are worked out at a time.
#[cfg(feature = "time-zones")]
const COUNT: usize = 50;

/// The numbers of days ahead within which openings are searched. The shorter searches are enough for most windows.
#[cfg(feature = "time-zones")]
const AHEAD: [u32; 3] = [10, 60, 366];

#[cfg(feature = "time-zones")]
const DAY_LENGTH: Duration = Duration::from_secs(86_400);

/// Returns the next openings of several windows combined, in order and without overlap: the first `count` that close
/// after `from`. The first opening may have begun already. Its beginning is then given as far as two days back. The
/// search covers about a year: an opening that lasts longer is reported to close then.
///
/// A window with an unknown time zone adds no openings. [`Window::validate`] reports it.
#[cfg(feature = "time-zones")]
fn openings(windows: &[Window], from: Timestamp, count: usize) -> Vec<Opening> {
    let mut found = Vec::new();
    for days in AHEAD {
        let all = windows.iter().flat_map(|w| w.openings(from, days));
        found = merged(all.collect());
        // Days begin at different times in different zones. All openings before this time were found for every
        // window.
        let seen = from.plus(DAY_LENGTH * (days - 1));
        found.retain(|opening| opening.closes > from && opening.opens < seen);
        // The last opening may continue past this time.
        if found.len() > count {
            break;
        }
    }
    found.truncate(count);
    found
}

#[cfg(feature = "time-zones")]
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

/// Computed openings, in order. They contain no time zones, so workflow code can keep them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct Openings(Vec<Opening>);

impl Openings {
    /// Works out the next 50 openings of several windows that close after `from`.
    ///
    /// Only an activity may call this function. Time zone rules change from one deployment to the next, so workflow code
    /// could get a different result in a replay. Workflow code keeps the result instead.
    #[cfg(feature = "time-zones")]
    pub fn of(windows: &[Window], from: Timestamp) -> Self {
        Self(openings(windows, from, COUNT))
    }

    /// Returns no openings: in a build without time zones, windows are refused before a batch begins.
    #[cfg(not(feature = "time-zones"))]
    pub fn of(_: &[Window], _: Timestamp) -> Self {
        Self::default()
    }

    #[cfg(test)]
    pub fn new(openings: Vec<Opening>) -> Self {
        Self(openings)
    }

    pub fn is_open(&self, now: Timestamp) -> bool {
        self.closes_at(now).is_some()
    }

    /// Returns when the currently open window closes.
    pub fn closes_at(&self, now: Timestamp) -> Option<Timestamp> {
        let open = self.0.iter().find(|o| o.opens <= now && now < o.closes)?;
        Some(open.closes)
    }

    /// Returns when the next window opens, other than one that is open already.
    pub fn opens_at(&self, now: Timestamp) -> Option<Timestamp> {
        let next = self.0.iter().find(|opening| opening.opens > now)?;
        Some(next.opens)
    }

    /// Returns whether the known openings end within `margin` after `now`, so that more must be requested.
    pub fn runs_out(&self, now: Timestamp, margin: Duration) -> bool {
        let then = now.plus(margin);
        self.0.last().is_none_or(|last| last.closes <= then)
    }
}

#[cfg(all(test, feature = "time-zones"))]
mod tests {
    use super::*;
    use crate::batch::pace_settings::window::tests::{window, windows};
    use jiff::Zoned;
    use proptest::prelude::*;

    const HOUR_MS: u64 = 3_600_000;

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
    fn a_window_whose_time_zone_is_unknown_never_opens() {
        let stored = serde_json::from_str("\"Mon 08:00-09:00 Mars/Olympus\"").unwrap();
        assert_eq!(openings(&[stored], at("2025-01-01T00:00Z"), 3), []);
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
    pub(crate) fn openings_tell_what_is_open_and_what_comes_next() {
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

    /// Whole minutes from 2000 to 2060.
    fn moments() -> impl Strategy<Value = Timestamp> {
        (15_778_080u64..47_335_680).prop_map(|minute| Timestamp(minute * 60_000))
    }

    fn civil(now: Timestamp, zone: &str) -> Zoned {
        let now = jiff::Timestamp::from_millisecond(i64::try_from(now.0).unwrap()).unwrap();
        now.in_tz(zone).unwrap()
    }

    /// Returns whether the window is open by the local wall clock. Returns `None` near a change of that clock, which
    /// the examples cover.
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
