//! The report of all measurements, as Markdown.

use std::fmt::Write as _;

use super::{NEXT_CHECKPOINT, Record, Sample, arm::Arm, quantile};

/// The target for latency: at most this many times the p99 of an undisturbed foreground.
const P99_RATIO: f64 = 2.0;
/// The target for speed: at least this part of the best rate of any fixed setting.
const PART_OF_BEST: f64 = 0.7;

/// A measure of one arm, one number for each repetition.
#[derive(Clone, Debug)]
struct Numbers(Vec<f64>);

impl Numbers {
    fn of(mut numbers: Vec<f64>) -> Option<Self> {
        numbers.sort_by(f64::total_cmp);
        (!numbers.is_empty()).then_some(Self(numbers))
    }

    /// The median. Of an even number of values it is the mean of the two in the middle.
    fn median(&self) -> f64 {
        let Self(numbers) = self;
        let middle = numbers.len() / 2;
        f64::midpoint(numbers[(numbers.len() - 1) / 2], numbers[middle])
    }

    fn text(&self, decimals: usize) -> String {
        let Self(numbers) = self;
        format!(
            "{:.decimals$} ({:.decimals$}..{:.decimals$})",
            self.median(),
            quantile(numbers, 0.0),
            quantile(numbers, 1.0)
        )
    }
}

/// All arms that were measured.
pub struct Report<'a> {
    records: &'a [Record],
}

impl<'a> Report<'a> {
    pub fn of(records: &'a [Record]) -> Self {
        Self { records }
    }

    fn each(&self, arm: Arm, number: impl Fn(&Record) -> Option<f64>) -> Option<Numbers> {
        let records = self.records.iter().filter(|record| record.arm == arm);
        Numbers::of(records.filter_map(number).collect())
    }

    /// A number of one arm as a part of the same number of another arm in the same repetition.
    fn paired(
        &self,
        arm: Arm,
        other: Arm,
        number: impl Fn(&Record) -> Option<f64>,
    ) -> Option<Numbers> {
        self.each(arm, |record| {
            let same_repetition =
                |other_record: &&Record| other_record.repetition == record.repetition;
            let mut of_other = self.records.iter().filter(|record| record.arm == other);
            let other = number(of_other.find(same_repetition)?)?;
            Some(number(record)? / other)
        })
    }

    fn p99_ratio(&self, arm: Arm) -> Option<Numbers> {
        self.paired(arm, Arm::Undisturbed, |r| Some(r.foreground.p99_ms))
    }

    fn rate(&self, arm: Arm) -> Option<Numbers> {
        self.each(arm, |r| r.rows_per_second)
    }

    fn is_gentle(&self, arm: Arm) -> bool {
        self.p99_ratio(arm)
            .is_some_and(|ratio| ratio.median() <= P99_RATIO)
    }

    /// The fixed setting with the highest median rate, among the selected ones.
    fn best_fixed(&self, arms: &[Arm], wanted: impl Fn(Arm) -> bool) -> Option<Arm> {
        let fixed = arms.iter().filter(|arm| arm.is_fixed() && wanted(**arm));
        let rated = fixed.filter_map(|arm| Some((*arm, self.rate(*arm)?.median())));
        rated.max_by(|a, b| a.1.total_cmp(&b.1)).map(|(arm, _)| arm)
    }

    pub fn text(&self, arms: &[Arm]) -> String {
        let best = self.best_fixed(arms, |_| true);
        let best_gentle = self.best_fixed(arms, |arm| self.is_gentle(arm));
        let mut text = self.table(arms, best);
        text.push('\n');
        text += &self.judgement(arms, best, best_gentle);
        text += &self.doubts(arms);
        text += "\nWhat was found while it ran:\n\n";
        for record in self.records {
            if record.arm.is_adaptive() {
                let _ = writeln!(text, "- {}", found(record));
            }
        }
        text
    }

    fn table(&self, arms: &[Arm], best: Option<Arm>) -> String {
        let mut text = String::from(
            "Median (lowest..highest) of the repetitions. Ratios are of arms in the same repetition.\n\n\
             | arm | p50 ms | p99 ms | p99 / undisturbed | tps | rows/s | of best fixed | pages in flight \
             | page p50 ms | page p90 ms |\n|---|---|---|---|---|---|---|---|---|---|\n",
        );
        for &arm in arms {
            let cell = |numbers: Option<Numbers>, decimals| {
                numbers.map_or_else(|| "-".to_owned(), |n| n.text(decimals))
            };
            let of_best = best.and_then(|best| self.paired(arm, best, |r| r.rows_per_second));
            let _ = writeln!(
                text,
                "| {arm} | {} | {} | {} | {} | {} | {} | {} | {} | {} |",
                cell(self.each(arm, |r| Some(r.foreground.p50_ms)), 2),
                cell(self.each(arm, |r| Some(r.foreground.p99_ms)), 1),
                cell(self.p99_ratio(arm), 2),
                cell(self.each(arm, |r| Some(r.foreground.tps)), 0),
                cell(self.rate(arm), 0),
                cell(of_best, 2),
                cell(self.each(arm, |r| r.pages_in_flight), 1),
                cell(self.each(arm, |r| r.page_p50_ms), 0),
                cell(self.each(arm, |r| r.page_p90_ms), 0),
            );
        }
        text
    }

    fn judgement(&self, arms: &[Arm], best: Option<Arm>, best_gentle: Option<Arm>) -> String {
        let mut text = String::new();
        let Some(best) = best else {
            return "No fixed setting was measured.\n".to_owned();
        };
        let of = |arm: Arm| {
            let part = self.paired(arm, best, |r| r.rows_per_second);
            let ratio = self.p99_ratio(arm);
            (
                ratio.as_ref().map_or(f64::NAN, Numbers::median),
                part.as_ref().map_or(f64::NAN, Numbers::median),
                self.rate(arm).as_ref().map_or(f64::NAN, Numbers::median),
            )
        };
        let (ratio, _, rate) = of(best);
        let _ = writeln!(
            text,
            "- Best fixed setting: {best}, {rate:.0} rows/s at {ratio:.2} times the undisturbed p99."
        );
        match best_gentle {
            Some(gentle) => {
                let (ratio, part, rate) = of(gentle);
                let _ = writeln!(
                    text,
                    "- Best fixed setting within {P99_RATIO} times the undisturbed p99: {gentle}, {rate:.0} \
                     rows/s ({part:.2} of the best), at {ratio:.2} times.",
                );
            }
            None => {
                let _ = writeln!(
                    text,
                    "- No fixed setting is within {P99_RATIO} times the undisturbed p99."
                );
            }
        }
        for &arm in arms.iter().filter(|arm| arm.is_adaptive()) {
            let (ratio, part, rate) = of(arm);
            let met = match (ratio <= P99_RATIO, part >= PART_OF_BEST) {
                (true, true) => "met",
                (true, false) => "missed, too slow",
                (false, true) => "missed, too hard on the foreground",
                (false, false) => "missed, too slow and too hard on the foreground",
            };
            let beside_gentle = best_gentle
                .and_then(|gentle| self.paired(arm, gentle, |r| r.rows_per_second))
                .map_or_else(String::new, |part| {
                    format!(" and {:.2} of the best one within it", part.median())
                });
            let _ = writeln!(
                text,
                "- {arm}: {rate:.0} rows/s, {part:.2} of the best fixed setting{beside_gentle}, at \
                 {ratio:.2} times the undisturbed p99. Aim (p99 at most {P99_RATIO} times, rate at least \
                 {PART_OF_BEST} of the best fixed): {met}.",
            );
        }
        text
    }
}

impl Report<'_> {
    /// Arms with easier or harder conditions than others.
    fn doubts(&self, arms: &[Arm]) -> String {
        let mut text = String::new();
        let mut tell = |of: &dyn Fn(&Record) -> Option<f64>, most: f64, what: &str| {
            let highest = |arm| self.each(arm, of).map(|n| quantile(&n.0, 1.0));
            let found: Vec<String> = arms
                .iter()
                .filter_map(|arm| Some((arm, highest(*arm).filter(|n| *n > most)?)))
                .map(|(arm, highest)| format!("{arm} ({highest:.1})"))
                .collect();
            if !found.is_empty() {
                let _ = writeln!(text, "- {what}: {}.", found.join(", "));
            }
        };
        // Pages that are changed again after a checkpoint write less WAL.
        let around =
            "Went around the whole table after the checkpoint, so use more `--rows` (times)";
        tell(&|r| r.laps, 1.0, around);
        let gigabytes = |r: &Record| Some(r.wal_bytes / 1e9);
        let another =
            "So much WAL that another checkpoint may have begun, so use fewer `--seconds` (GB)";
        tell(&gigabytes, NEXT_CHECKPOINT / 1e9, another);
        text
    }
}

/// The settings that an arm found. Seconds are counted from its first page; the measured ones come last.
pub fn found(record: &Record) -> String {
    let samples = &record.samples;
    let measured: Vec<&Sample> = samples.iter().filter(|s| s.measured).collect();
    let mean = |number: fn(&Sample) -> f64| {
        let sum: f64 = measured.iter().map(|s| number(s)).sum();
        sum / measured.len() as f64
    };
    let number = |number: Option<f64>| number.unwrap_or(f64::NAN);
    format!(
        "{}, repetition {}: page size {}; parallelism {}; measured: page size {:.0}, parallelism {:.1}, pages \
         in flight {:.1}, page p50 {:.0} ms, p90 {:.0} ms; throttled {:.0} % of the time to {:.2} of the \
         limits{}",
        record.arm,
        record.repetition,
        changes(samples, |s| s.page_size),
        changes(samples, |s| s.parallelism),
        mean(|s| f64::from(s.page_size)),
        mean(|s| f64::from(s.parallelism)),
        number(record.pages_in_flight),
        number(record.page_p50_ms),
        number(record.page_p90_ms),
        mean(|s| if s.factor < 1.0 { 100.0 } else { 0.0 }),
        mean(|s| s.factor),
        match record.retries {
            0 => String::new(),
            retries => format!("; {retries} retries"),
        },
    )
}

fn changes(samples: &[Sample], number: impl Fn(&Sample) -> u32) -> String {
    let mut text = String::new();
    let mut last = None;
    for sample in samples {
        let now = number(sample);
        if last != Some(now) {
            let arrow = if last.is_some() { " > " } else { "" };
            let _ = write!(text, "{arrow}{now} ({:.0} s)", sample.at);
            last = Some(now);
        }
    }
    text
}
