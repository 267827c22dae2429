//! The summary of a backfill that is about to start.

use std::time::Duration;

use crate::{
    cli::{
        exit::{CliError, CliResult},
        output::note,
        render::sentences,
    },
    processor::PageProcessor as _,
    sql::{BackfillArgs, HighWaterMark, SqlBackfill, backfill::Work},
};

/// The longest wait for the high-water mark in the summary. The mark of the batch is fixed later, when the batch
/// starts, so the summary need not wait for old transactions.
const LONGEST_WAIT: Duration = Duration::from_secs(2);

pub struct StartSummary {
    lines: Vec<(&'static str, String)>,
}

impl StartSummary {
    /// Asks the database, and changes nothing.
    pub async fn of(
        processor: &SqlBackfill,
        args: &BackfillArgs,
        work: &Work,
        page_size: u32,
    ) -> CliResult<Self> {
        let table = work.table();
        let mut lines = Vec::new();
        lines.push((
            "table",
            format!("{} in {}", table.quoted_name(), table.database().system()),
        ));
        lines.push(("key", table.spec().key.join(", ")));
        if let Some(filter) = &table.spec().filter {
            lines.push(("where", filter.clone()));
        }
        let rows = processor.size(args).await;
        let rows = rows.map_err(|e| CliError::refused(&e))?;
        lines.push(("rows", sentences::size(rows)));
        let keys = table.keys(None, None, page_size as usize).await;
        let keys = keys.map_err(|e| CliError::refused(&e))?;
        let range = match (keys.first(), keys.last()) {
            (Some(first), Some(last)) => Some((first, last)),
            _ => None,
        };
        let plans = match range {
            Some((first, last)) => work
                .plans(args, first, last)
                .await
                .map_err(|e| CliError::refused(&e))?,
            None => Vec::new(),
        };
        for (at, statement) in work.shown("the rows of the page").into_iter().enumerate() {
            lines.push(("statement", statement));
            if let Some(access) = plans.get(at).and_then(|plan| access_of(plan)) {
                lines.push(("plan", access));
            }
        }
        lines.push(("ends at", until(args, work).await));
        let once = match args.once {
            true => "each page exactly once, recorded in the page ledger",
            false => "each page at least once; a page whose worker is lost is done again",
        };
        lines.push(("commits", once.to_owned()));
        if !args.once {
            for column in work.read_by_themselves(args) {
                lines.push((
                    "warning",
                    format!(
                        "the new value of {column} is computed from columns that are set; a page that is run \
                         again would apply it twice, unless twice has the same effect as once; --once rules that out"
                    ),
                ));
            }
        }
        Ok(Self { lines })
    }

    pub fn tell(&self, database: &str) {
        note(format_args!("{:<11}{database}", "database"));
        for (what, text) in &self.lines {
            let text = text.split('\n').collect::<Vec<_>>().join("\n           ");
            note(format_args!("{what:<11}{text}"));
        }
    }
}

async fn until(args: &BackfillArgs, work: &Work) -> String {
    if args.high_water_mark == HighWaterMark::Off {
        return "no key; it continues while it finds rows".to_owned();
    }
    let now = tokio::time::timeout(LONGEST_WAIT, HighWaterMark::of(work.table())).await;
    match now {
        Ok(Ok(HighWaterMark::At(key))) => {
            format!("the highest key when it starts, which is now {key}")
        }
        Ok(Ok(_)) => "the highest key when it starts; now there are no rows".to_owned(),
        Ok(Err(_)) | Err(_) => {
            "the highest key when it starts; it first waits for transactions that are open now"
                .to_owned()
        }
    }
}

/// Returns the line of a plan that shows how rows are found.
fn access_of(plan: &[String]) -> Option<String> {
    let found = plan.iter().find(|line| {
        ["Scan", "SEARCH", "SCAN", " using "]
            .iter()
            .any(|word| line.contains(word))
    });
    let line = found.or(plan.first())?;
    Some(line.trim_start_matches([' ', '-', '>']).to_owned())
}
