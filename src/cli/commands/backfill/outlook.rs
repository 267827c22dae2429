//! What a backfill is about to do, for the person who starts it.

use std::time::Duration;

use super::refused;
use crate::{
    cli::{
        exit::CliResult,
        render::{output::note, sentences},
    },
    processor::PageProcessor as _,
    sql::{BackfillArgs, HighWaterMark, SqlBackfill, backfill::Work},
};

/// The mark of the batch is fixed when it starts; what is shown before must not keep anybody waiting for old
/// transactions.
const LONGEST_WAIT: Duration = Duration::from_secs(2);

pub struct Outlook {
    lines: Vec<(&'static str, String)>,
}

impl Outlook {
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
        let rows = rows.map_err(|e| refused(&e))?;
        lines.push(("rows", sentences::size(rows)));
        let keys = table.keys(None, None, page_size as usize).await;
        let keys = keys.map_err(|e| refused(&e))?;
        let range = match (keys.first(), keys.last()) {
            (Some(first), Some(last)) => Some((first, last)),
            _ => None,
        };
        let plans = match range {
            Some((first, last)) => work
                .plans(args, first, last)
                .await
                .map_err(|e| refused(&e))?,
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
            false => "each page at least once; one whose worker is lost is done again",
        };
        lines.push(("commits", once.to_owned()));
        if !args.once {
            for column in work.read_by_themselves(args) {
                lines.push((
                    "warning",
                    format!(
                        "the new value of {column} is made from columns that are set; a page that is done \
                         again would do it twice, unless twice is the same as once; --once rules that out"
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
        return "no key; it goes on while it finds rows".to_owned();
    }
    let now = tokio::time::timeout(LONGEST_WAIT, HighWaterMark::of(work.table())).await;
    match now {
        Ok(Ok(HighWaterMark::At(key))) => {
            format!("the highest key when it starts, which is now {key}")
        }
        Ok(Ok(_)) => "the highest key when it starts; now there are no rows".to_owned(),
        Ok(Err(_)) | Err(_) => {
            "the highest key when it starts; transactions that are open now are waited for"
                .to_owned()
        }
    }
}

/// The line of a plan that tells how rows are found.
fn access_of(plan: &[String]) -> Option<String> {
    let found = plan.iter().find(|line| {
        ["Scan", "SEARCH", "SCAN", " using "]
            .iter()
            .any(|word| line.contains(word))
    });
    let line = found.or(plan.first())?;
    Some(line.trim_start_matches([' ', '-', '>']).to_owned())
}
