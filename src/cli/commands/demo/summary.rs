//! The summary that the demo prints.

use std::{path::PathBuf, time::Duration};

use serde::Serialize;

use super::{DemoArgs, data::DemoVerdict};
use crate::{
    cli::{
        output::{count, duration, number, per_second},
        render::batch_view::SCHEMA,
        shell::Program,
    },
    progress::{phase::Outcome, report::BatchReport},
};

/// The result, which is also the JSON of `demo --json`.
#[derive(Debug, Serialize)]
pub(super) struct Summary {
    schema: u32,
    outcome: Outcome,
    reason: Option<String>,
    rows: u64,
    rows_right: u64,
    rows_unmigrated: u64,
    rows_wrong: u64,
    pages: u64,
    page_size: u32,
    max_parallelism: u32,
    stride: u32,
    seconds: f64,
    rows_per_second: f64,
    retries: u64,
    continue_as_new: u32,
    batch_id: String,
    address: String,
    ui_url: Option<String>,
    database: Option<PathBuf>,
}

pub(super) fn summarize(
    args: &DemoArgs,
    report: &BatchReport,
    verdict: &DemoVerdict,
    address: String,
    ui_url: Option<String>,
) -> Summary {
    let p = &report.progress;
    let seconds = report.duration().as_secs_f64();
    Summary {
        schema: SCHEMA,
        outcome: report.outcome,
        reason: report.reason.clone(),
        rows: args.rows,
        rows_right: verdict.right,
        rows_unmigrated: verdict.unmigrated,
        rows_wrong: verdict.wrong,
        pages: p.pages_completed,
        page_size: args.page_size,
        max_parallelism: args.max_parallelism,
        stride: args.stride,
        seconds,
        rows_per_second: p.items.total() as f64 / seconds.max(0.001),
        retries: p.retries,
        continue_as_new: p.runs.saturating_sub(1),
        batch_id: p.batch_id.clone(),
        address,
        ui_url,
        database: args.database.clone(),
    }
}

impl Summary {
    pub(super) fn text(
        &self,
        verdict: &DemoVerdict,
        look: &str,
        args: &DemoArgs,
        program: &Program,
    ) -> String {
        let name = &program.name;
        let verified = match verdict.is_right() {
            true => "every row checked and right".to_owned(),
            false => format!("{} right", number(self.rows_right)),
        };
        let kept = if args.keep {
            ""
        } else {
            " (gone now; --keep leaves it up)"
        };
        let ui = self.ui_url.as_deref().unwrap_or("none");
        let look = match (&self.database, args.keep) {
            (None, false) => {
                format!("{name} demo --keep          # look at batch and rows yourself")
            }
            _ => format!("{look}  # look at the rows yourself"),
        };
        let elsewhere = match args.keep {
            true => format!(
                "\n  {}   # in another terminal",
                program.of_batch("status", &self.batch_id)
            ),
            false => String::new(),
        };
        let outcome = match &self.reason {
            Some(reason) => format!("{}: {reason}", self.outcome),
            None => self.outcome.to_string(),
        };
        format!(
            "batch {}\n\
             {:<9}{} migrated, {verified}\n\
             {:<9}{} of up to {}, {} at a time, {} in a row\n\
             {:<9}{}, {} rows/s\n\
             {:<9}{} after failures that were made on purpose\n\
             {:<9}{}\n\
             {:<9}{ui}{kept}\n\
             next:{elsewhere}\n  \
               {look}\n  \
               {name} demo --fail-rate 0.5 --max-parallelism 2   # make it harder\n  \
               {name} dev-server           # then: {name} worker, {name} start PROCESSOR",
            outcome,
            "rows",
            count(self.rows - self.rows_unmigrated, "row"),
            "pages",
            number(self.pages),
            count(u64::from(self.page_size), "row"),
            number(u64::from(self.max_parallelism)),
            number(u64::from(self.stride)),
            "time",
            duration(Duration::from_secs_f64(self.seconds)),
            per_second(self.rows_per_second),
            "retries",
            number(self.retries),
            "runs",
            format_args!(
                "{} continued as new",
                count(u64::from(self.continue_as_new), "time")
            ),
            "UI",
        )
    }
}
