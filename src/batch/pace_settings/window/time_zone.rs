//! The openings of a window in its time zone.

use jiff::{
    civil::{Date, Weekday},
    tz::TimeZone,
};

use super::{DAY, HOUR, InvalidWindow, Opening, Window, shown};
use crate::base::time::Timestamp;

impl Window {
    /// Returns the window with its time zone as the time zone database spells it.
    pub(super) fn spelled(mut self) -> Result<Self, InvalidWindow> {
        let zone = time_zone(&self.zone)?;
        if let Some(name) = zone.iana_name() {
            name.clone_into(&mut self.zone);
        }
        Ok(self)
    }

    pub(crate) fn opens_on(&self, day: Weekday) -> bool {
        self.days & (1 << day.to_monday_zero_offset()) != 0
    }

    /// Returns the opening that begins on a date. `None` if the clock change leaves nothing of it.
    fn opening(&self, date: Date, zone: &TimeZone) -> Option<Opening> {
        let opens = instant(date, self.begin, zone)?;
        let closes = match self.end {
            end if end > self.begin && end < DAY => instant(date, end, zone)?,
            end => instant(date.tomorrow().ok()?, end % DAY, zone)?,
        };
        (opens < closes).then_some(Opening { opens, closes })
    }

    /// Returns the openings that begin from two days before `from` to `days` days after it.
    pub(crate) fn openings(&self, from: Timestamp, days: u32) -> Vec<Opening> {
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
