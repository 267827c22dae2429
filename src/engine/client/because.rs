//! Causes of a slow batch that only a client can know: the workers that poll, and the latest signs of life of
//! pages in flight.
//!
//! Pure. The controller's own explanation remains unless one of these causes applies.

use std::{
    collections::BTreeSet,
    time::{Duration, UNIX_EPOCH},
};

use super::{RunningStride, Workers};
use crate::{
    base::{
        text::{about, per_second},
        time::Timestamp,
    },
    decisions::scheduler::{Because, page_after},
    page::token::PageToken,
    progress::{Progress, phase::HeldBy},
};

/// Time without a sign of life after which the pages of a worker are at risk. A worker sends five in a
/// heartbeat timeout.
const SILENT: Duration = Duration::from_secs(8);
/// The same limit as a fraction of the heartbeat timeout, for timeouts longer than usual.
const SILENT_PART: f64 = 0.55;
/// Time after which a dispatched stride is taken to wait for a slot. A worker with room takes a stride at once.
const NOT_TAKEN: Duration = Duration::from_secs(5);
/// Age from which a page may be stuck.
const LONG: Duration = Duration::from_secs(10);
/// Age at the last sign of life from which a page may be stuck. It is less than [`LONG`], because a sign of
/// life is a few seconds old.
const SAID_LONG: Duration = Duration::from_secs(7);
/// Multiple of the usual time from which a page may be stuck.
const UNUSUAL: f64 = 3.0;

/// The facts that one look at the server found.
pub(super) struct Facts<'a> {
    pub progress: &'a Progress,
    pub workers: Option<&'a Workers>,
    pub strides: &'a [RunningStride],
    /// True if a worker has just written the progress.
    pub answered: bool,
    /// The time for which no worker has taken a workflow task of the batch.
    pub untaken: Option<Duration>,
    /// The time of the look, by the server's clock.
    pub now: Timestamp,
}

/// Returns the cause, if it is one that the controller cannot know.
pub(super) fn because(f: &Facts<'_>) -> Option<Because> {
    let no_worker = no_worker_polls(f)
        .or_else(|| silent(f))
        .or_else(|| no_worker_answers(f));
    let no_worker = no_worker.map(Because::from);
    no_worker
        .or_else(|| waits_for_slots(f))
        .or_else(|| takes_long(f).map(Because::from))
}

/// Explains that no worker polls a task queue.
pub(super) fn no_worker(task_queue: &str) -> String {
    format!("no worker is polling task queue \"{task_queue}\"")
}

/// Explains that no worker has taken a cancellation yet.
pub(super) fn cancellation_waits(since: Timestamp) -> String {
    let since = UNIX_EPOCH + Duration::from_millis(since.0);
    let since = humantime::format_rfc3339_seconds(since);
    format!("a cancellation was requested at {since} and waits for a worker")
}

fn no_worker_polls(f: &Facts<'_>) -> Option<(HeldBy, String)> {
    let workers = f.workers.filter(|workers| !workers.any())?;
    let mut text = no_worker(&workers.task_queue);
    let started = started(f.strides);
    if !started.is_empty() {
        let (who, pages) = (names(&started), pages(started.len()));
        text.push_str(&match silence(&started, f.now) {
            Some(silence) => format!(
                "; {pages} in flight at {who}, without a sign of life for {}",
                about(silence)
            ),
            None => format!("; {pages} still in flight at {who}, which takes no more"),
        });
    }
    Some((HeldBy::NoWorker, text))
}

/// Checks whether the pages in flight have stopped sending signs of life.
fn silent(f: &Facts<'_>) -> Option<(HeldBy, String)> {
    let started = started(f.strides);
    let silence = about(silence(&started, f.now)?);
    let (who, pages) = (names(&started), pages(started.len()));
    let then = match f.answered {
        true => "other workers get them once it counts as lost",
        false => "no other worker answers",
    };
    let text = format!("no sign of life for {silence} from {who}, where {pages} in flight; {then}");
    Some((HeldBy::NoWorker, text))
}

/// Checks whether workers are listed but none takes a task.
fn no_worker_answers(f: &Facts<'_>) -> Option<(HeldBy, String)> {
    let (untaken, workers) = (about(f.untaken?), f.workers?);
    let mut text = format!(
        "no worker has answered on task queue \"{}\" for {untaken}",
        workers.task_queue
    );
    let started = started(f.strides);
    if !started.is_empty() {
        let (who, pages) = (names(&started), pages(started.len()));
        text.push_str(&format!("; {pages} still in flight at {who}"));
    }
    Some((HeldBy::NoWorker, text))
}

/// Checks whether pages wait for a free slot. If there is a rate, each waiting page holds a part of it, so even
/// one matters.
fn waits_for_slots(f: &Facts<'_>) -> Option<Because> {
    let waits = |stride: &&RunningStride| {
        let since = stride.dispatched_at.unwrap_or(f.now);
        stride.started_at.is_none() && f.now.since(since) >= NOT_TAKEN
    };
    let waiting = f.strides.iter().filter(waits).count();
    let (all, rate) = (f.strides.len(), rate(f.progress));
    let few = waiting * 2 < all && rate.is_none();
    if waiting == 0 || few || !is_limited(f.progress) {
        return None;
    }
    let fitting_parallelism = u32::try_from(all - waiting).ok();
    let fitting_parallelism = fitting_parallelism.filter(|slots| *slots > 0 && rate.is_some());
    let text = match (all - waiting, rate) {
        (0, _) => "all pages wait for a worker that has a free slot".to_owned(),
        (_, None) => format!("{waiting} of {all} pages wait for a worker that has a free slot"),
        (slots, Some(rate)) => format!(
            "{waiting} of {all} pages wait for a worker that has a free slot, and hold part of the rate of {rate} \
             meanwhile; --max-parallelism {slots} leaves it to those that run"
        ),
    };
    Some(Because {
        fitting_parallelism,
        ..(HeldBy::Workers, text).into()
    })
}

/// Formats the rate that the pages in flight share.
fn rate(p: &Progress) -> Option<String> {
    let of = |rate: Option<f64>, what| Some(format!("{} {what}/s", per_second(rate?)));
    of(p.rate, "items").or_else(|| of(p.page_rate, "pages"))
}

/// Checks whether the pages in flight take long and none of them finishes.
fn takes_long(f: &Facts<'_>) -> Option<(HeldBy, String)> {
    let p = f.progress;
    let all_known = f.strides.len() == p.pages_in_flight as usize;
    if f.strides.is_empty() || !all_known || !is_limited(p) || p.held_by == Some(HeldBy::Rate) {
        return None;
    }
    let mut oldest: Option<(Duration, &RunningStride, Option<&PageToken>)> = None;
    let started = started(f.strides);
    for stride in &started {
        let page = stride.page.as_ref()?;
        let age = page.said_for + f.now.since(stride.heartbeat_at?);
        if page.said_for < SAID_LONG || age < LONG {
            return None;
        }
        if oldest.as_ref().is_none_or(|(known, ..)| age > *known) {
            oldest = Some((age, stride, page.start.as_ref()));
        }
    }
    let (age, stride, start) = oldest?;
    let per_second = p.items_per_second.unwrap_or_default();
    let usual = f64::from(p.page_size) * f64::from(p.pages_in_flight) / per_second;
    if usual.is_finite() && age.as_secs_f64() < usual * UNUSUAL {
        return None;
    }
    let page = page_after(start);
    let who = names(&[stride]);
    let mut text = format!("{page} has been worked on for {} at {who}", about(age));
    match started.len() - 1 {
        0 => {}
        1 => text.push_str(", and the other one takes long too"),
        others => text.push_str(&format!(", and the other {others} take long too")),
    }
    Some((HeldBy::Pages, text))
}

/// Returns whether the cause named by the controller is a limit on the pages that it dispatches, or none.
fn is_limited(p: &Progress) -> bool {
    use HeldBy::{Discovery, Parallelism, Ramp, Rate, Tuning};
    let limits = [Discovery, Parallelism, Ramp, Rate, Tuning];
    match p.held_by {
        Some(by) => limits.contains(&by) && p.parallelism_now > 0,
        None => p.explanation.is_empty(),
    }
}

/// Returns the strides that a worker has taken.
fn started(strides: &[RunningStride]) -> Vec<&RunningStride> {
    let started = strides.iter().filter(|stride| stride.started_at.is_some());
    started.collect()
}

/// Returns the time since the latest sign of life of any of them, if all have been silent for too long.
fn silence(strides: &[&RunningStride], now: Timestamp) -> Option<Duration> {
    let mut shortest: Option<Duration> = None;
    for stride in strides {
        let silence = now.since(stride.heartbeat_at.max(stride.started_at)?);
        let timeout = stride.heartbeat_timeout.unwrap_or_default();
        if silence < SILENT.max(timeout.mul_f64(SILENT_PART)) {
            return None;
        }
        shortest = Some(shortest.map_or(silence, |known| known.min(silence)));
    }
    shortest
}

fn names(strides: &[&RunningStride]) -> String {
    let names: BTreeSet<_> = strides.iter().filter_map(|s| s.worker.as_deref()).collect();
    let mut names = names.into_iter();
    let first = names.next().map_or_else(
        || "an unknown worker".to_owned(),
        |name| format!("worker {name}"),
    );
    match names.count() {
        0 => first,
        others => format!("{first} and {others} more"),
    }
}

fn pages(pages: usize) -> String {
    match pages {
        1 => "1 page is".to_owned(),
        _ => format!("{pages} pages are"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::client::{RunningPage, WorkerSeen};

    const NOW: Timestamp = Timestamp(1_700_000_060_000);

    fn ago(seconds: u64) -> Timestamp {
        Timestamp(NOW.0 - seconds * 1_000)
    }

    fn progress(held_by: Option<HeldBy>, in_flight: u32) -> Progress {
        let json = serde_json::json!({
            "batch_id": "b", "batch_run": "r", "processor": "p", "phase": "running",
            "pages_completed": 9, "pages_failed": 0, "pages_in_flight": in_flight, "pages_stuck": 0,
            "strides_waiting": 0, "items": {"processed": 90, "skipped": 0, "failed": 0},
            "retries": 0, "max_parallelism": 4, "max_parallelism_achieved": 4,
            "end_of_data": false, "started_at": 1, "as_of": 1_234, "runs": 1, "page_size": 10,
            "announcements_dropped": 0, "explanation": "", "parallelism_now": 4,
        });
        let mut progress: Progress = serde_json::from_value(json).unwrap();
        progress.held_by = held_by;
        progress
    }

    /// A stride taken `started` seconds ago, last heard of `heard` seconds ago, when its page had taken
    /// `worked` seconds.
    fn stride(number: u64, started: u64, heard: u64, worked: u64) -> RunningStride {
        RunningStride {
            stride: number,
            attempt: 1,
            worker: Some("7@host".to_owned()),
            dispatched_at: Some(ago(started)),
            started_at: Some(ago(started)),
            heartbeat_at: Some(ago(heard)),
            heartbeat_timeout: Some(Duration::from_secs(15)),
            pages_finished: 0,
            page: Some(RunningPage {
                start: Some(PageToken::encode(&number).unwrap()),
                since: ago(heard + worked),
                said_for: Duration::from_secs(worked),
                attempt: 1,
            }),
        }
    }

    fn waiting(number: u64, dispatched: u64) -> RunningStride {
        RunningStride {
            started_at: None,
            heartbeat_at: None,
            page: None,
            ..stride(number, dispatched, 0, 0)
        }
    }

    fn workers(polled: Option<u64>) -> Workers {
        let seen = |seconds| WorkerSeen {
            identity: "7@host".to_owned(),
            last_seen: ago(seconds),
            workflows: true,
            pages: true,
        };
        Workers {
            task_queue: "q".to_owned(),
            polling: polled.map(seen).into_iter().collect(),
            workflow_backlog: None,
            page_backlog: None,
        }
    }

    #[track_caller]
    fn says(
        progress: &Progress,
        workers: &Workers,
        strides: &[RunningStride],
        answered: bool,
        expected: Option<(HeldBy, &str)>,
    ) {
        let facts = Facts {
            progress,
            workers: Some(workers),
            strides,
            answered,
            untaken: None,
            now: NOW,
        };
        let said = because(&facts);
        let said = said
            .as_ref()
            .map(|said| (said.held_by, said.explanation.as_str()));
        assert_eq!(said, expected);
    }

    #[test]
    fn a_worker_that_is_gone_is_missed_before_it_leaves_the_list() {
        let limited = progress(Some(HeldBy::Rate), 2);
        let dead = [stride(1, 20, 9, 4), stride(2, 20, 11, 4)];
        let text = "no sign of life for 9s from worker 7@host, where 2 pages are in flight; no other worker answers";
        let polled = workers(Some(40));
        says(
            &limited,
            &polled,
            &dead,
            false,
            Some((HeldBy::NoWorker, text)),
        );
        let text = "no sign of life for 9s from worker 7@host, where 2 pages are in flight; other workers get them \
                    once it counts as lost";
        says(
            &limited,
            &polled,
            &dead,
            true,
            Some((HeldBy::NoWorker, text)),
        );
        // One of the workers sends signs of life.
        let one = [stride(1, 20, 3, 4), stride(2, 20, 11, 4)];
        says(&limited, &polled, &one, true, None);
        // Heartbeats of this stride are that rare.
        let rare = RunningStride {
            heartbeat_timeout: Some(Duration::from_secs(60)),
            ..stride(1, 20, 20, 4)
        };
        says(&limited, &polled, &[rare], true, None);
    }

    #[test]
    fn a_queue_that_no_worker_polls_says_what_becomes_of_its_pages() {
        let limited = progress(Some(HeldBy::Parallelism), 1);
        let absent = workers(None);
        let text = "no worker is polling task queue \"q\"";
        says(
            &limited,
            &absent,
            &[],
            false,
            Some((HeldBy::NoWorker, text)),
        );
        let text = "no worker is polling task queue \"q\"; 1 page is in flight at worker 7@host, without a sign of \
                    life for 30s";
        let dead = [stride(1, 80, 30, 4)];
        says(
            &limited,
            &absent,
            &dead,
            false,
            Some((HeldBy::NoWorker, text)),
        );
        let text = "no worker is polling task queue \"q\"; 1 page is still in flight at worker 7@host, which takes no \
                    more";
        let drains = [stride(1, 80, 2, 4)];
        says(
            &limited,
            &absent,
            &drains,
            false,
            Some((HeldBy::NoWorker, text)),
        );
    }

    #[test]
    fn a_batch_that_no_worker_takes_up_says_so_while_its_pages_still_run() {
        let (progress, workers) = (progress(None, 1), workers(Some(40)));
        let said = |strides: &[RunningStride]| {
            because(&Facts {
                progress: &progress,
                workers: Some(&workers),
                strides,
                answered: false,
                untaken: Some(Duration::from_millis(6_400)),
                now: NOW,
            })
            .map(|said| (said.held_by, said.explanation))
        };
        let text = "no worker has answered on task queue \"q\" for 6s";
        assert_eq!(said(&[]), Some((HeldBy::NoWorker, text.to_owned())));
        let text = format!("{text}; 1 page is still in flight at worker 7@host");
        assert_eq!(said(&[stride(1, 80, 2, 4)]), Some((HeldBy::NoWorker, text)));
    }

    #[test]
    fn strides_that_no_worker_takes_wait_for_slots() {
        let limited = progress(Some(HeldBy::Parallelism), 4);
        let polled = workers(Some(1));
        let strides = [
            stride(1, 20, 1, 1),
            waiting(2, 6),
            waiting(3, 7),
            waiting(4, 5),
        ];
        let text = "3 of 4 pages wait for a worker that has a free slot";
        says(
            &limited,
            &polled,
            &strides,
            true,
            Some((HeldBy::Workers, text)),
        );
        let soon = [
            stride(1, 20, 1, 1),
            waiting(2, 1),
            waiting(3, 1),
            waiting(4, 1),
        ];
        says(&limited, &polled, &soon, true, None);
        says(
            &progress(Some(HeldBy::Pause), 4),
            &polled,
            &strides,
            true,
            None,
        );
    }

    #[test]
    fn a_page_that_takes_long_is_named_unless_pages_always_do() {
        let polled = workers(Some(1));
        let limited = progress(Some(HeldBy::Parallelism), 2);
        let long = [stride(1, 70, 2, 9), stride(2, 70, 1, 52)];
        let text = "the page after 2 has been worked on for 53s at worker 7@host, and the other one takes long too";
        says(&limited, &polled, &long, true, Some((HeldBy::Pages, text)));
        // At 0.4 items a second a page of 10 takes 50 s when two are in flight.
        let mut slow = limited.clone();
        slow.items_per_second = Some(0.4);
        says(&slow, &polled, &long, true, None);
        // Another page finishes every now and then.
        let moving = [stride(1, 70, 2, 1), stride(2, 70, 1, 52)];
        says(&limited, &polled, &moving, true, None);
        says(&progress(Some(HeldBy::Rate), 2), &polled, &long, true, None);
        says(
            &progress(Some(HeldBy::Retries), 2),
            &polled,
            &long,
            true,
            None,
        );
        // A page without a slot makes no difference.
        let waits = [long[0].clone(), long[1].clone(), waiting(3, 70)];
        let three = Progress {
            pages_in_flight: 3,
            ..limited.clone()
        };
        says(&three, &polled, &waits, true, Some((HeldBy::Pages, text)));
        // Some pages in flight are not visible.
        says(&progress(None, 3), &polled, &long, true, None);
    }

    #[test]
    fn a_batch_that_simply_runs_is_told_nothing() {
        let polled = workers(Some(50));
        for held_by in [
            None,
            Some(HeldBy::Parallelism),
            Some(HeldBy::Rate),
            Some(HeldBy::Ramp),
            Some(HeldBy::Discovery),
        ] {
            for heard in 0..6 {
                let strides = [stride(1, heard, heard, 0), stride(2, heard + 30, heard, 3)];
                says(&progress(held_by, 2), &polled, &strides, true, None);
                says(&progress(held_by, 2), &polled, &strides[..1], false, None);
                says(&progress(held_by, 0), &polled, &[], true, None);
            }
        }
    }
}
