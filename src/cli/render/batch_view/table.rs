//! A batch view as a table for people.

use std::fmt::Write as _;

use super::{BatchView, age};
use crate::{
    base::time::Timestamp,
    cli::{
        output::{about, count, duration, number, one_line, time},
        render::{
            result_rows,
            sentences::{self, Fact},
        },
    },
    engine::client::ProgressSource,
    progress::{
        Progress, by_age,
        failures::{FailureState, PageFailure},
        phase::Phase,
    },
};

/// The number of failures in the table; JSON has all failures that the controller keeps.
const MAX_SHOWN: usize = 10;

impl BatchView {
    /// Returns the whole table.
    pub(super) fn table(&self) -> String {
        let mut table = Table::default();
        let state = match (self.outcome, &self.progress) {
            (Some(outcome), _) => outcome.to_string(),
            (None, Some(progress)) => sentences::phase(progress),
            (None, None) => self.state.to_string(),
        };
        table.row("state", state);
        let running = self.progress.as_ref().filter(|_| self.ended_at.is_none());
        if let Some(because) = running.and_then(sentences::because) {
            table.row("because", because);
        } else if let Some(since) = self.cancel_waits_since {
            let since = time(since);
            table.row(
                "cancelled",
                format_args!("requested at {since}, which waits for a worker"),
            );
        }
        if let Some(next) = &self.next {
            table.row("next", format_args!("`{next}`"));
        }
        for warning in running.into_iter().flat_map(|p| &p.warnings) {
            table.row("warning", warning);
        }
        if let Some(reason) = &self.reason {
            table.row("reason", reason);
        }
        table.row("batch", &self.batch_id);
        if let Some(url) = &self.ui_url {
            table.row("web UI", url);
        }
        if let Some(progress) = &self.progress {
            table.row("processor", &progress.processor);
            if let Some(redrive_of) = &progress.redrive_of {
                table.row("redrives", redrive_of);
            }
            self.rows(progress, &mut table);
        }
        table.text
    }

    /// Adds the rows about the progress.
    fn rows(&self, p: &Progress, table: &mut Table) {
        self.coverage(p, table);
        table.facts(result_rows::rows(p));
        table.facts(sentences::steering(p, self.now()));
        self.who(table);
        match self.pages() {
            Some(pages) => table.facts(pages),
            None => table.facts(sentences::in_flight(p, self.now())),
        }
        table.row(
            "finished to",
            match &p.low_water_mark {
                Some(token) => token.to_string(),
                None => "the beginning".to_owned(),
            },
        );
        self.troubles(p, table);
        self.life(p, table);
        self.failures(p, table);
        if let Some(repair) = &self.repair {
            table.row("repaired", repair.summary());
            for redrive in repair.redrives() {
                table.row("redrive", redrive);
            }
        }
    }

    /// Adds the rows about coverage and speed.
    fn coverage(&self, p: &Progress, table: &mut Table) {
        let mut items = format!("{} processed", number(p.items.processed));
        if p.items.changed > 0 {
            let _ = write!(items, " ({} changed)", number(p.items.changed));
        }
        for (n, what) in [(p.items.skipped, "skipped"), (p.items.failed, "failed")] {
            if n > 0 {
                let _ = write!(items, ", {} {what}", number(n));
            }
        }
        items.push_str(&sentences::share(p));
        table.row("items", items);
        if self.ended_at.is_none()
            && let Some(left) = p.time_left.and_then(sentences::time_left)
        {
            table.row("time left", left);
        }
        if let Some((per_second, over)) = self.throughput(p) {
            let per_second = sentences::items_per_second(per_second);
            table.row("throughput", format!("{per_second} {over}"));
        }
        for (reason, items) in &p.skip_reasons {
            table.row("skipped", format!("{}: {reason}", number(*items)));
        }
        let mut pages = format!("{} completed", number(p.pages_completed));
        if p.pages_failed > 0 {
            let _ = write!(pages, ", {} given up", number(p.pages_failed));
        }
        table.row("pages", pages);
    }

    /// Returns the throughput of the last minute while the batch runs, and the mean afterwards.
    fn throughput(&self, p: &Progress) -> Option<(f64, &'static str)> {
        match self.ended_at {
            None => Some((p.items_per_second?, "over the last minute")),
            Some(at) => {
                let seconds = at.since(p.started_at).as_secs_f64();
                let mean = p.items.total() as f64 / seconds;
                (p.items.total() > 0 && seconds > 0.0).then_some((mean, "on average"))
            }
        }
    }

    /// Adds the rows about the task queue and its workers.
    fn who(&self, table: &mut Table) {
        let now = self.now();
        if let Some(workers) = &self.workers {
            table.row("task queue", &workers.task_queue);
            for worker in workers.polling.iter().take(MAX_SHOWN) {
                let strides = self.strides.iter();
                let busy = strides.filter(|s| s.worker.as_ref() == Some(&worker.identity));
                let busy = count(busy.count() as u64, "stride");
                let ago = duration(now.since(worker.last_seen));
                let asked = format!("{}: {busy}, asked for work {ago} ago", worker.identity);
                table.row("worker", asked);
            }
            if workers.polling.len() > MAX_SHOWN {
                table.row(
                    "worker",
                    format!("and {} more", workers.polling.len() - MAX_SHOWN),
                );
            }
        }
        if self.source == Some(ProgressSource::Snapshot)
            && let Some(progress) = &self.progress
        {
            let age = duration(now.since(progress.as_of));
            table.row("as of", format!("{} ({age} ago)", time(progress.as_of)));
        }
    }

    /// Returns the strides in flight by the age of their pages, and the oldest page. `None` if the details of some
    /// strides are unknown.
    fn pages(&self) -> Option<Vec<Fact>> {
        let in_flight = self.progress.as_ref()?.pages_in_flight;
        if self.strides.is_empty() || self.strides.len() != in_flight as usize {
            return None;
        }
        let now = self.now();
        let ages = self.strides.iter().map(|stride| {
            let since = stride.at_work_since().unwrap_or(now);
            (now.since(since), stride)
        });
        let ages: Vec<_> = ages.collect();
        let groups = sentences::age_groups(by_age(ages.iter().map(|(age, _)| *age)))?;
        let (age, oldest) = ages.into_iter().max_by_key(|(age, _)| *age)?;
        let what = match (&oldest.page, oldest.started_at) {
            (Some(page), _) => match &page.start {
                Some(token) => format!("page after {token}, for {}", duration(age)),
                None => format!("first page, for {}", duration(age)),
            },
            (None, Some(_)) => format!("of stride {}, for {}", oldest.stride, duration(age)),
            (None, None) => {
                let stride = oldest.stride;
                format!(
                    "of stride {stride}, which waits for a worker for {}",
                    duration(age)
                )
            }
        };
        Some(vec![("in flight", groups), ("oldest page", what)])
    }

    /// Adds the rows about retries, stuck pages, dead letters and failed hooks.
    fn troubles(&self, p: &Progress, table: &mut Table) {
        for (name, n) in [
            ("retries", p.retries),
            ("stuck", u64::from(p.pages_stuck)),
            ("dead letters", p.dead_letters),
            ("hooks failed", p.hooks_failed),
        ] {
            if n > 0 {
                table.row(name, number(n));
            }
        }
        // A batch that ended without failures has nothing to keep.
        let may_fail = p.phase != Phase::Ended || p.pages_failed + p.items.failed > 0;
        if p.keeps_dead_letters == Some(false) && p.redrive_of.is_none() && may_fail {
            table.row(
                "dead letters",
                format_args!("none are kept: {}", sentences::NOT_KEPT),
            );
        }
    }

    /// Adds the rows about start, runs, deadline and pause.
    fn life(&self, p: &Progress, table: &mut Table) {
        table.row("runs", sentences::runs(p));
        let started = time(p.started_at);
        match self.ended_at {
            Some(at) => {
                table.row("started", started);
                table.row("time", duration(at.since(p.started_at)));
            }
            None => table.row("started", format!("{started} ({} ago)", duration(age(p)))),
        }
        if let Some(deadline) = p.deadline.filter(|_| self.ended_at.is_none()) {
            let left = about(deadline.since(self.now()));
            table.row("deadline", format!("{} (in {left})", time(deadline)));
        }
        if let Some(note) = p.pause.as_ref().filter(|_| self.ended_at.is_none()) {
            table.row("pause", sentences::pause(note, self.now()));
        }
    }

    fn failures(&self, p: &Progress, table: &mut Table) {
        table.failures("failing", &p.failing, |page| {
            let since = duration(self.now().since(page.first_at));
            let end = page.gives_up_at.map_or_else(String::new, gives_up);
            format!("{} for {since}, {end}", page.state)
        });
        table.failures("given up", &p.failed, |page| match page.state {
            FailureState::DeadLetter => "dead letter, ".to_owned(),
            _ => String::new(),
        });
        for item in p.failed_items.iter().take(MAX_SHOWN) {
            let text = format!("{}: {}: {}", item.key, item.error_type, item.message);
            table.row("item failed", text);
        }
    }
}

fn gives_up(at: Timestamp) -> String {
    format!("gives up at {}, ", time(at))
}

#[derive(Default)]
struct Table {
    text: String,
}

impl Table {
    fn row(&mut self, name: &str, value: impl std::fmt::Display) {
        if !self.text.is_empty() {
            self.text.push('\n');
        }
        // Reasons, keys and messages are foreign text.
        let value = one_line(&value.to_string());
        let _ = write!(self.text, "{name:<12} {value}");
    }

    fn facts(&mut self, facts: Vec<Fact>) {
        for (name, value) in facts {
            self.row(name, value);
        }
    }

    fn failures(
        &mut self,
        name: &str,
        failures: &[PageFailure],
        state: impl Fn(&PageFailure) -> String,
    ) {
        for failure in failures.iter().take(MAX_SHOWN) {
            let start = match &failure.start {
                Some(token) => format!("page after {token}"),
                None => "first page".to_owned(),
            };
            let attempts = count(u64::from(failure.attempts), "attempt");
            let PageFailure {
                error_type,
                message,
                ..
            } = failure;
            self.row(
                name,
                format!(
                    "{start}, {}{attempts}: {error_type}: {message}",
                    state(failure)
                ),
            );
        }
        if let Some(more @ 1..) = failures.len().checked_sub(MAX_SHOWN) {
            self.row(
                name,
                format!("and {} more (--json shows them)", number(more as u64)),
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use super::*;
    use crate::{
        cli::render::sentences::tests::progress,
        engine::client::{RunningPage, RunningStride},
        page::token::PageToken,
    };

    fn in_hand(stride: u64, worked_for: Option<u64>) -> RunningStride {
        let now = Timestamp::from(SystemTime::now());
        let ago = |seconds: u64| Timestamp(now.0 - seconds * 1_000);
        RunningStride {
            stride,
            attempt: 1,
            worker: Some("7@host".to_owned()),
            dispatched_at: Some(ago(500)),
            started_at: worked_for.map(|_| ago(500)),
            heartbeat_at: worked_for.map(|_| ago(1)),
            heartbeat_timeout: None,
            pages_finished: 9,
            page: worked_for.map(|seconds| RunningPage {
                start: Some(PageToken::encode(&stride).unwrap()),
                since: ago(seconds),
                said_for: Duration::ZERO,
                attempt: 1,
            }),
        }
    }

    /// The last decision of the controller was made when all strides had just been dispatched.
    #[test]
    fn the_ages_of_pages_and_the_oldest_of_them_are_one_fact() {
        let mut progress = progress();
        (progress.pages_in_flight, progress.in_flight_by_age) = (3, [3, 0, 0, 0]);
        let mut look = BatchView::running(progress, None);
        look.strides = vec![
            in_hand(4, Some(2)),
            in_hand(7, Some(53)),
            in_hand(9, Some(5)),
        ];
        let rows = look.table();
        let row = |name: &str| rows.lines().find(|row| row.starts_with(name)).unwrap();
        assert_eq!(row("in flight"), "in flight    2 under 10s, 1 under 1m");
        let oldest = row("oldest page");
        assert!(
            oldest.starts_with("oldest page  page after 7, for 53"),
            "{oldest}"
        );
        assert!(!rows.contains("longest"), "{rows}");
        // No worker has taken this stride yet.
        look.strides[1] = in_hand(8, None);
        let rows = look.table();
        assert!(
            rows.contains("oldest page  of stride 8, which waits for a worker for 8m"),
            "{rows}"
        );
        // The details of some strides are unknown: the controller's own counts are shown, under another name.
        look.strides.pop();
        let rows = look.table();
        assert!(
            rows.contains("in flight    3 under 10s since its dispatch"),
            "{rows}"
        );
        assert!(!rows.contains("oldest page"), "{rows}");
    }
}
