//! Progress in words, the same for `status` and for the screen of `watch`.
//!
//! Pure. Each function returns `None` if there is nothing to say.

use std::time::Duration;

use crate::{
    base::{text::exactly, time::Timestamp},
    cli::output::{about, count, duration, number, per_second, time},
    page::size::{Size, percent_text},
    progress::{
        PauseNote, Progress, TimeLeft,
        parts::{PartitionProgress, StageState},
        phase::Phase,
    },
};

/// The number of partitions that are shown.
const MAX_PARTITIONS: usize = 8;

/// The name of a row and its text.
pub(crate) type Fact = (&'static str, String);

/// The fate of failures without a store for dead letters.
pub(crate) const NOT_KEPT: &str = "the batch lists the first 20 items and the first 50 pages that fail; further ones \
                                   are only in the logs of its workers, and none can be redriven";

/// Returns the phase, with the reason if one was given.
pub(crate) fn phase(progress: &Progress) -> String {
    match (progress.phase, &progress.pause_reason) {
        (phase @ (Phase::Pausing | Phase::Paused), Some(reason)) => format!("{phase} ({reason})"),
        (phase @ (Phase::Pausing | Phase::Paused), None) if progress.max_parallelism == 0 => {
            format!("{phase} (max parallelism is 0)")
        }
        (phase, _) => phase.to_string(),
    }
}

/// Returns the phase with the reason for it. Some reasons begin with the phase, since they are also shown by themselves.
pub(crate) fn phase_because(progress: &Progress, why: &str) -> String {
    let phase = phase(progress);
    let rest = why.strip_prefix(&phase);
    match rest.is_some_and(|rest| rest.starts_with([':', ' '])) {
        true => why.to_owned(),
        false => format!("{phase}: {why}"),
    }
}

/// Returns the reason why the batch is not faster or cannot continue.
pub(crate) fn because(p: &Progress) -> Option<String> {
    let blocked = p.blocked_reason.as_deref().unwrap_or_default();
    [p.explanation.as_str(), blocked]
        .into_iter()
        .find(|text| !text.trim().is_empty())
        .map(str::to_owned)
}

/// Formats the time left: `between 12m and 18m`.
pub(crate) fn time_left(left: TimeLeft) -> Option<String> {
    let length = |seconds| Duration::try_from_secs_f64(seconds).ok().map(about);
    let at_least = length(left.at_least)?;
    Some(match length(left.at_most) {
        Some(at_most) if at_most == at_least => format!("about {at_least}"),
        Some(at_most) => format!("between {at_least} and {at_most}"),
        None => format!("more than {at_least}"),
    })
}

/// Returns the pages in flight and their limits: maximum, ramp, tuning.
pub(crate) fn parallelism(p: &Progress) -> String {
    let mut parts = vec![match p.phase {
        Phase::Ended => p.max_parallelism.to_string(),
        _ => format!("{} of {} in flight", p.pages_in_flight, p.max_parallelism),
    }];
    // An older worker leaves the field 0 and does not say what holds the batch.
    let told = p.parallelism_now > 0 || p.held_by.is_some();
    if told && p.parallelism_now < p.max_parallelism && p.phase != Phase::Ended {
        parts.push(format!("{} allowed now", p.parallelism_now));
    }
    if let Some(ramp) = &p.ramp {
        let left = p.ramp_seconds_left.unwrap_or_default();
        let left = Duration::try_from_secs_f64(left).unwrap_or_default();
        parts.push(match left.is_zero() {
            true => format!("ramp {ramp}"),
            false => format!("ramp {ramp}, {} left", about(left)),
        });
    }
    if let Some(bounds) = &p.auto_parallelism {
        parts.push(format!("tuned between {bounds}"));
    }
    parts.push(format!("at most {} so far", p.max_parallelism_achieved));
    parts.join("; ")
}

/// Returns the current stage, and the event that it waits for.
pub(crate) fn stage(p: &Progress) -> Option<String> {
    let stage = p.stage.as_ref()?;
    let mut text = format!("{} of {} ({})", stage.number, stage.of, stage.stage);
    if let Some(items) = stage.items {
        text.push_str(&format!(": {} in all", count(items, "item")));
    }
    if p.phase != Phase::Ended {
        text.push_str(&format!("; {}", stage.state));
    }
    if let Some(reason) = stage
        .reason
        .as_ref()
        .filter(|_| stage.state == StageState::Failed)
    {
        text.push_str(&format!(": {reason}"));
    }
    Some(text)
}

/// Returns the number of partitions, and the largest running ones.
fn partitions(p: &Progress) -> Vec<Fact> {
    let Some(counts) = &p.partition_counts else {
        return Vec::new();
    };
    let mut facts = vec![(
        "partitions",
        format!(
            "{} of {} finished, {} running",
            number(u64::from(counts.finished)),
            number(u64::from(counts.total)),
            number(u64::from(counts.running)),
        ),
    )];
    let shown = p.partitions.iter().take(MAX_PARTITIONS);
    facts.extend(shown.map(|partition| ("partition", of_partition(partition))));
    facts
}

fn of_partition(p: &PartitionProgress) -> String {
    let share = p.percent().map(percent_text);
    let share = share.map_or_else(String::new, |share| format!(" ({share})"));
    let in_flight = match p.max_parallelism {
        0 => String::new(),
        most => format!(", {} of {most} in flight", p.pages_in_flight),
    };
    let failed = match p.items.failed + p.pages_failed {
        0 => String::new(),
        _ => format!(
            ", {} and {} failed",
            count(p.pages_failed, "page"),
            count(p.items.failed, "item")
        ),
    };
    let items = count(p.items.total(), "item");
    format!("{}: {}, {items}{share}{in_flight}{failed}", p.name, p.state)
}

/// Returns the result of the latest check.
pub(crate) fn check(p: &Progress) -> Option<String> {
    let check = p.check.as_ref()?;
    let found = match (&check.found, &check.error) {
        (_, Some(error)) => format!("could not be made: {error}"),
        (Some(found), None) => found.summary(),
        (None, None) => "the processor checks nothing".to_owned(),
    };
    Some(match &check.covered_to {
        Some(to) => format!("{found} (up to {to})"),
        None => found,
    })
}

/// Returns the notes of the latest check, which are not failures.
fn check_notes(p: &Progress) -> impl Iterator<Item = Fact> {
    let found = p.check.as_ref().and_then(|check| check.found.as_ref());
    let notes = found.into_iter().flat_map(|found| &found.notes);
    notes.map(|note| ("check note", note.clone()))
}

pub(crate) fn page_size(p: &Progress) -> Option<String> {
    // An older worker leaves the field 0.
    (p.page_size > 0).then(|| {
        let size = count(u64::from(p.page_size), "item");
        match &p.auto_page_size {
            Some(bounds) => format!("{size}; tuned between {bounds}"),
            None => size,
        }
    })
}

pub(crate) fn stride(p: &Progress) -> Option<String> {
    // An older worker leaves the field 0.
    (p.stride > 0).then(|| {
        let length = count(u64::from(p.stride), "page");
        match (&p.auto_stride, &p.stride_because) {
            (Some(target), Some(why)) => format!("{length}; tuned to {target}: {why}"),
            _ => length,
        }
    })
}

/// Returns the limits on items and pages per second, and the pause before a page.
pub(crate) fn limits(p: &Progress) -> Option<String> {
    let limits = [
        p.rate
            .map(|rate| format!("{} items/s at most", per_second(rate))),
        p.page_rate
            .map(|rate| format!("{} pages/s at most", per_second(rate))),
        p.page_pause
            .map(|pause| format!("a pause of {} before each page", exactly(pause))),
    ];
    let limits: Vec<_> = limits.into_iter().flatten().collect();
    (!limits.is_empty()).then(|| limits.join(", "))
}

pub(crate) fn throttle(p: &Progress, now: Timestamp) -> Option<String> {
    match &p.throttled {
        Some(told) => {
            let what = if told.factor <= 0.0 {
                "holds the batch".to_owned()
            } else {
                format!("leaves {:.0} % of the limits", told.factor * 100.0)
            };
            let since = duration(now.since(told.since));
            Some(format!("{} {what} for {since}: {}", told.by, told.reason))
        }
        None if p.throttles.is_empty() || p.phase == Phase::Ended => None,
        None => Some(format!("{}: nothing is in the way", p.throttles.join(", "))),
    }
}

pub(crate) fn windows(p: &Progress, now: Timestamp) -> Option<String> {
    if p.windows.is_empty() {
        return None;
    }
    let windows = p.windows.join(", ");
    Some(match p.window_opens_at {
        Some(at) => {
            let wait = about(at.since(now));
            format!("{windows}; closed, opens at {} (in {wait})", time(at))
        }
        None if p.phase == Phase::Ended => windows,
        None => format!("{windows}; open"),
    })
}

pub(crate) fn lock(p: &Progress) -> Option<String> {
    let lock = p.lock.as_ref().filter(|_| p.phase != Phase::Ended)?;
    Some(match &p.lock_held_by {
        Some(other) => format!("waits for {lock}, which {other} holds"),
        None => format!("holds {lock}"),
    })
}

/// Formats pages in flight by age: `3 under 10s, 1 under 1m`.
pub(crate) fn age_groups(groups: [u32; 4]) -> Option<String> {
    let ages = ["under 10s", "under 1m", "under 10m", "longer"];
    let known: Vec<_> = groups
        .iter()
        .zip(ages)
        .filter(|(pages, _)| **pages > 0)
        .map(|(pages, age)| format!("{pages} {age}"))
        .collect();
    (!known.is_empty()).then(|| known.join(", "))
}

/// Returns the time since the dispatch of the oldest stride in flight.
fn longest(p: &Progress, now: Timestamp) -> Option<String> {
    p.oldest_in_flight
        .map(|since| duration(now.since(since)))
        .filter(|_| p.phase != Phase::Ended)
}

/// Formats the number of runs: `3 (2 continue-as-new)`.
pub(crate) fn runs(p: &Progress) -> String {
    match p.runs.saturating_sub(1) {
        0 => p.runs.to_string(),
        more => format!("{} ({} continue-as-new)", p.runs, number(u64::from(more))),
    }
}

/// Returns the author, time, reason and end of a pause.
pub(crate) fn pause(note: &PauseNote, now: Timestamp) -> String {
    let who = note.who.as_deref().unwrap_or("an unknown user");
    let ago = duration(now.since(note.at));
    let mut text = format!("by {who} at {} ({ago} ago)", time(note.at));
    if let Some(why) = &note.why {
        text.push_str(": ");
        text.push_str(why);
    }
    if let Some(until) = note.until {
        let left = about(until.since(now));
        text.push_str(&format!("; until {} (in {left})", time(until)));
    }
    text
}

/// Returns the settings and limits that determine the speed of the batch.
pub(crate) fn steering(p: &Progress, now: Timestamp) -> Vec<Fact> {
    let mut facts = said([("stage", stage(p)), ("check", check(p))]);
    facts.extend(check_notes(p));
    facts.extend(partitions(p));
    facts.extend(said([
        ("parallelism", Some(parallelism(p))),
        ("page size", page_size(p)),
        ("stride", stride(p)),
        ("rate", limits(p)),
        ("throttle", throttle(p, now)),
        ("window", windows(p, now)),
        ("lock", lock(p)),
    ]));
    facts
}

/// Returns the strides in flight by the time since their dispatch. A stride may have finished many pages since.
pub(crate) fn in_flight(p: &Progress, now: Timestamp) -> Vec<Fact> {
    let since = |text: String| format!("{text} since its dispatch");
    said([
        ("in flight", age_groups(p.in_flight_by_age).map(since)),
        ("longest", longest(p, now).map(since)),
    ])
}

fn said<const N: usize>(facts: [(&'static str, Option<String>); N]) -> Vec<Fact> {
    let facts = facts.into_iter();
    facts
        .filter_map(|(name, value)| Some((name, value?)))
        .collect()
}

/// Returns the number of items, if known: `10,000`, or `about 10,000` for an estimate.
pub(crate) fn total(p: &Progress) -> Option<String> {
    (p.size() != Size::Unknown).then(|| size(p.size()))
}

/// Returns the number of items with its noun, if known.
pub(crate) fn total_items(p: &Progress) -> Option<String> {
    let items = if p.size() == Size::Exact(1) {
        "item"
    } else {
        "items"
    };
    total(p).map(|total| format!("{total} {items}"))
}

/// Returns what has gone wrong so far: `2 retries`, `1 page given up`.
pub(crate) fn troubles(p: &Progress) -> Vec<String> {
    [
        (p.retries, "retry", ""),
        (u64::from(p.pages_stuck), "page", " stuck"),
        (p.pages_failed, "page", " given up"),
        (p.items.failed, "item", " failed"),
    ]
    .into_iter()
    .filter(|(n, _, _)| *n > 0)
    .map(|(n, one, what)| format!("{}{what}", count(n, one)))
    .collect()
}

/// Formats a number of items: `10,000`, `about 10,000` or `unknown`.
pub(crate) fn size(size: Size) -> String {
    match size {
        Size::Unknown => "unknown".to_owned(),
        Size::Estimate(items) => format!("about {}", number(items)),
        Size::Exact(items) => number(items),
    }
}

/// Returns the items that are counted again after a recovery.
pub(crate) fn again(items: u64) -> String {
    format!("{} done again after a recovery", count(items, "item"))
}

/// Returns the share of items done: ` of about 10,000 (46.0 %)`, ` (100.0 %)`, or an empty text.
pub(crate) fn share(p: &Progress) -> String {
    match (p.percent(), total(p)) {
        (Some(percent), Some(total)) if percent < 100.0 => {
            format!(" of {total} ({})", percent_text(percent))
        }
        (Some(percent), _) => format!(" ({})", percent_text(percent)),
        (None, _) => String::new(),
    }
}

/// Formats a rate: `4,980 items/s`.
pub(crate) fn items_per_second(rate: f64) -> String {
    format!("{} items/s", per_second(rate.max(0.0)))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::progress::{Throttled, phase::HeldBy};

    const START: u64 = 1_700_000_000_000;

    pub(crate) fn at(seconds: u64) -> Timestamp {
        Timestamp(START + seconds * 1_000)
    }

    /// Returns a batch that has been running for a minute, in the words of a worker that knows no newer field.
    pub(crate) fn progress() -> Progress {
        serde_json::from_value(serde_json::json!({
            "batch_id": "prices-2026", "batch_run": "r", "processor": "inflate-prices",
            "phase": "running", "pages_completed": 60, "pages_failed": 0, "pages_in_flight": 12,
            "pages_stuck": 0, "strides_waiting": 0,
            "items": {"processed": 50_000, "skipped": 0, "failed": 0},
            "items_expected": 200_000, "retries": 0, "max_parallelism": 32,
            "max_parallelism_achieved": 16, "end_of_data": false, "started_at": START,
            "as_of": START + 60_000, "runs": 1, "announcements_dropped": 0,
        }))
        .unwrap()
    }

    #[test]
    fn a_reason_that_begins_with_the_phase_does_not_repeat_it() {
        let mut p = progress();
        p.phase = Phase::Held;
        let api = "held: API crm asks to wait for 12s more";
        assert_eq!(phase_because(&p, api), api);
        let stage = "stage 1 of 3 is done: waiting for approval";
        assert_eq!(phase_because(&p, stage), format!("held: {stage}"));
        assert_eq!(phase_because(&p, "heldback"), "held: heldback");
        p.phase = Phase::Blocked;
        let known = "blocked at 7: no route to host";
        assert_eq!(phase_because(&p, known), known);
    }

    #[test]
    fn facts_that_are_not_known_are_not_claimed() {
        let p = progress();
        let names: Vec<_> = steering(&p, at(60)).into_iter().map(|(n, _)| n).collect();
        assert_eq!(names, ["parallelism"]);
        assert_eq!(parallelism(&p), "12 of 32 in flight; at most 16 so far");
        assert_eq!(in_flight(&p, at(60)), []);
        assert_eq!(because(&p), None);
    }

    #[test]
    fn partitions_are_counted_and_the_first_ones_shown() {
        let partition = |n: u64| PartitionProgress {
            name: format!("tenant-{n}"),
            state: crate::progress::parts::PartitionState::Running,
            pages_completed: 3,
            pages_failed: 0,
            pages_in_flight: 2,
            max_parallelism: 4,
            items: crate::progress::ItemCounts {
                processed: 1_000 * n,
                ..crate::progress::ItemCounts::default()
            },
            items_expected: Some(10_000),
            low_water_mark: None,
        };
        let p = Progress {
            partition_counts: Some(crate::progress::parts::PartitionCounts {
                total: 40,
                running: 12,
                finished: 3,
            }),
            partitions: (1..=12).map(partition).collect(),
            ..progress()
        };
        let facts = partitions(&p);
        assert_eq!(facts[0].1, "3 of 40 finished, 12 running");
        assert_eq!(
            facts[1].1,
            "tenant-1: running, 1,000 items (10.0 %), 2 of 4 in flight"
        );
        assert_eq!(facts.len(), 1 + MAX_PARTITIONS);
    }

    #[test]
    fn everything_that_sets_the_pace_is_said() {
        let p = Progress {
            parallelism_now: 12,
            held_by: Some(HeldBy::Ramp),
            ramp: Some("1..32/10m".to_owned()),
            ramp_seconds_left: Some(242.0),
            page_size: 2_500,
            auto_page_size: Some("100..10000 at 1s".to_owned()),
            stride: 104,
            auto_stride: Some("5s".to_owned()),
            stride_because: Some("a page takes about 48ms".to_owned()),
            rate: Some(5_000.0),
            page_rate: Some(2.5),
            page_pause: Some(Duration::from_millis(250)),
            throttled: Some(Throttled {
                by: "replica".to_owned(),
                factor: 0.0,
                reason: "replica lag 3.2s > 2s".to_owned(),
                since: at(30),
            }),
            windows: vec!["22:00..06:00".to_owned()],
            window_opens_at: Some(at(60 + 7_200)),
            lock: Some("products".to_owned()),
            lock_held_by: Some("emails-2026".to_owned()),
            oldest_in_flight: Some(at(0)),
            in_flight_by_age: [3, 0, 1, 0],
            ..progress()
        };
        let said: Vec<_> = steering(&p, at(60))
            .into_iter()
            .chain(in_flight(&p, at(60)))
            .map(|(name, value)| format!("{name}: {value}"))
            .collect();
        assert_eq!(
            said,
            [
                "parallelism: 12 of 32 in flight; 12 allowed now; ramp 1..32/10m, 4m 2s left; at most 16 so far",
                "page size: 2,500 items; tuned between 100..10000 at 1s",
                "stride: 104 pages; tuned to 5s: a page takes about 48ms",
                "rate: 5,000 items/s at most, 2.5 pages/s at most, a pause of 250ms before each page",
                "throttle: replica holds the batch for 30s: replica lag 3.2s > 2s",
                "window: 22:00..06:00; closed, opens at 2023-11-15T00:14:20Z (in 2h)",
                "lock: waits for products, which emails-2026 holds",
                "in flight: 3 under 10s, 1 under 10m since its dispatch",
                "longest: 1m since its dispatch",
            ]
        );
    }

    #[test]
    fn the_time_left_is_as_precise_as_it_is_known() {
        let left = |at_least, at_most| time_left(TimeLeft { at_least, at_most }).unwrap();
        assert_eq!(left(731.0, 1_075.0), "between 12m and 18m");
        assert_eq!(left(731.0, 732.0), "about 12m");
        assert_eq!(left(5_400.0, 90_000.0), "between 1h 30m and 1 day 1h");
        assert_eq!(left(40.0, f64::INFINITY), "more than 40s");
        let unknown = TimeLeft {
            at_least: f64::NAN,
            at_most: 1.0,
        };
        assert_eq!(time_left(unknown), None);
    }

    #[test]
    fn a_pause_says_who_when_why_and_until_when() {
        let mut note = PauseNote {
            who: Some("ann@db1".to_owned()),
            why: Some("lunch".to_owned()),
            at: at(0),
            until: Some(at(3_600)),
        };
        assert_eq!(
            pause(&note, at(1_800)),
            "by ann@db1 at 2023-11-14T22:13:20Z (30m ago): lunch; until 2023-11-14T23:13:20Z (in 30m)"
        );
        (note.who, note.why, note.until) = (None, None, None);
        assert_eq!(
            pause(&note, at(1)),
            "by an unknown user at 2023-11-14T22:13:20Z (1.0s ago)"
        );
    }
}
