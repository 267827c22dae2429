//! The report of all measurements: as Markdown, and as JSON in the schema of `docs/performance.md`.

use std::{
    fmt::Write as _,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use serde::Serialize;
use temporal_batch::dev_server::find_or_fetch_cli;

use super::{
    Error,
    machine::Machine,
    options::{Arm, Options},
};

/// The version of the schema, which is raised when a field changes its meaning or disappears.
const SCHEMA: u32 = 1;

#[derive(Debug, Serialize)]
pub struct Report {
    schema: u32,
    started_at_unix_seconds: u64,
    quick: bool,
    pairs: u32,
    /// The settings of the server that differ from its defaults.
    dynamic_config: Vec<String>,
    machine: Machine,
    pub arms: Vec<ArmReport>,
}

#[derive(Debug, Serialize)]
pub struct ArmReport {
    arm: &'static str,
    about: &'static str,
    seconds: f64,
    /// The reason why the arm was not measured to its end.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    rows: Vec<Row>,
}

/// One measured value, once for each repetition.
#[derive(Debug, Serialize)]
struct Row {
    case: String,
    measure: &'static str,
    unit: &'static str,
    median: f64,
    lowest: f64,
    highest: f64,
    /// The values in the order of the repetitions.
    values: Vec<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    target: Option<Target>,
    #[serde(skip_serializing_if = "Option::is_none")]
    met: Option<bool>,
}

/// The bound that the median should meet.
#[derive(Clone, Copy, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Target {
    AtLeast(f64),
    AtMost(f64),
}

impl Target {
    fn met(self, median: f64) -> bool {
        match self {
            Self::AtLeast(bound) => median >= bound,
            Self::AtMost(bound) => median <= bound,
        }
    }
}

/// The rows of one arm while it runs.
#[derive(Debug, Default)]
pub struct Table(Vec<Row>);

impl Table {
    /// Adds the value of one repetition.
    pub fn add(&mut self, case: &str, measure: &'static str, unit: &'static str, value: f64) {
        let same = |row: &&mut Row| row.case == case && row.measure == measure;
        match self.0.iter_mut().find(same) {
            Some(row) => row.values.push(value),
            None => self.0.push(Row {
                case: case.to_owned(),
                measure,
                unit,
                median: 0.0,
                lowest: 0.0,
                highest: 0.0,
                values: vec![value],
                target: None,
                met: None,
            }),
        }
    }

    /// Sets the bound that the median of a row should meet.
    pub fn aim(&mut self, case: &str, measure: &str, target: Target) {
        let mut rows = self.0.iter_mut();
        if let Some(row) = rows.find(|row| row.case == case && row.measure == measure) {
            row.target = Some(target);
        }
    }

    /// The median so far.
    pub fn median(&self, case: &str, measure: &str) -> Option<f64> {
        let mut rows = self.0.iter();
        let row = rows.find(|row| row.case == case && row.measure == measure)?;
        Some(median(&row.values))
    }

    fn finish(mut self) -> Vec<Row> {
        for row in &mut self.0 {
            row.median = median(&row.values);
            row.lowest = row.values.iter().copied().fold(f64::INFINITY, f64::min);
            row.highest = row.values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            row.met = row.target.map(|target| target.met(row.median));
        }
        self.0
    }
}

pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => f64::NAN,
        n => f64::midpoint(sorted[(n - 1) / 2], sorted[n / 2]),
    }
}

impl ArmReport {
    pub fn new(arm: Arm, took: Duration, table: Table, error: Option<String>) -> Self {
        Self {
            arm: arm.name(),
            about: arm.about(),
            seconds: took.as_secs_f64(),
            error,
            rows: table.finish(),
        }
    }

    pub fn markdown(&self) -> String {
        let mut text = format!("\n## {}: {}\n", self.arm, self.about);
        text.push_str(
            "\n| case | measure | median (lowest..highest) | target |\n|---|---|---|---|\n",
        );
        for row in &self.rows {
            let target = match (row.target, row.met) {
                (Some(Target::AtLeast(bound)), Some(true)) => format!("at least {bound}: met"),
                (Some(Target::AtLeast(bound)), _) => format!("at least {bound}: missed"),
                (Some(Target::AtMost(bound)), Some(true)) => format!("at most {bound}: met"),
                (Some(Target::AtMost(bound)), _) => format!("at most {bound}: missed"),
                (None, _) => String::new(),
            };
            let spread = match row.values.len() {
                1 => figure(row.median),
                _ => format!(
                    "{} ({}..{})",
                    figure(row.median),
                    figure(row.lowest),
                    figure(row.highest)
                ),
            };
            let unit = match row.unit {
                "" => String::new(),
                unit => format!(" {unit}"),
            };
            let (case, measure) = (&row.case, row.measure);
            // Writing into a string cannot fail.
            let _ = writeln!(text, "| {case} | {measure} | {spread}{unit} | {target} |");
        }
        if let Some(error) = &self.error {
            let _ = writeln!(text, "\nnot measured to its end: {error}");
        }
        let _ = write!(text, "\n{:.0} s", self.seconds);
        text
    }
}

/// A number with about three digits.
fn figure(value: f64) -> String {
    let digits = match value.abs() {
        v if v >= 100.0 => 0,
        v if v >= 10.0 => 1,
        v if v >= 1.0 => 2,
        _ => 3,
    };
    format!("{value:.digits$}")
}

impl Report {
    pub async fn begin(options: &Options) -> Result<Self, Error> {
        let cli = find_or_fetch_cli().await?;
        let started = SystemTime::now().duration_since(UNIX_EPOCH)?;
        Ok(Self {
            schema: SCHEMA,
            started_at_unix_seconds: started.as_secs(),
            quick: options.quick,
            pairs: options.pairs,
            dynamic_config: options.dynamic_config.clone(),
            machine: Machine::look(&cli).await,
            arms: Vec::new(),
        })
    }

    pub fn heading(&self) -> String {
        let m = &self.machine;
        let settings = match self.dynamic_config.as_slice() {
            [] => String::new(),
            settings => format!("; the server with {}", settings.join(" and ")),
        };
        format!(
            "{} cores of {}, {} MiB, {}, kernel {}\ntemporal-batch {}, SDK {}, {}{settings}\nload before: {}; repetitions: {}{}",
            m.cores,
            m.cpu,
            m.memory_mib,
            m.os,
            m.kernel,
            m.temporal_batch,
            m.temporal_sdk,
            m.temporal_cli,
            m.load_before,
            self.pairs,
            if self.quick { ", quick" } else { "" },
        )
    }

    /// Returns whether an arm could not be measured. A missed target is no failure of the program.
    pub fn failed(&self) -> bool {
        self.arms.iter().any(|arm| arm.error.is_some())
    }
}
