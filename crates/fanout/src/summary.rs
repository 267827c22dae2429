//! The result that a fan-out aggregates by default.

use std::time::SystemTime;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use temporal_batch::PageError;

use crate::outcome::ItemOutcome;

/// The most bytes of the entries of a [`Summary`]. The summary travels through the history with every aggregation.
pub const SUMMARY_BYTES: usize = 64 * 1024;

/// The surroundings of an aggregation.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct AggregateContext {
    /// The id of the fan-out.
    pub fanout_id: String,
    /// True for the last outcomes.
    pub last: bool,
}

/// The default result of a fan-out.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// The id of the fan-out.
    pub batch_id: String,
    /// The number of items.
    pub total_items: u64,
    /// The number of failed items.
    #[serde(default)]
    pub failed_items: u64,
    /// One entry for each item, in the order of the input, as far as they fit into [`SUMMARY_BYTES`].
    pub summary: Vec<SummaryEntry>,
    /// The number of items without an entry. All later items are among them.
    #[serde(default)]
    pub omitted: u64,
    /// The time of the last aggregation by the clock of its worker, such as `2026-12-01T05:00:00.000Z`. `None` until then.
    pub completed_at: Option<String>,
}

/// One item of a [`Summary`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum SummaryEntry {
    /// An item that failed.
    Failed {
        /// The id of the item.
        item_id: String,
        /// The type and the message of the failure.
        failed: String,
    },
    /// An item that is done.
    Done {
        /// The id of the item.
        item_id: String,
        /// The output of the processor.
        output: Value,
    },
}

impl Summary {
    fn new(fanout_id: &str) -> Self {
        Self {
            batch_id: fanout_id.to_owned(),
            total_items: 0,
            failed_items: 0,
            summary: Vec::new(),
            omitted: 0,
            completed_at: None,
        }
    }
}

/// Adds outcomes to a [`Summary`]: the default of [`ItemProcessor::aggregate`](crate::ItemProcessor::aggregate).
///
/// # Errors
/// `so_far` is not a summary, or an output does not serialize.
pub fn add_to_summary<T: Serialize>(
    ctx: &AggregateContext,
    so_far: Option<Value>,
    outcomes: &[ItemOutcome<T>],
) -> Result<Value, PageError> {
    let mut summary = match so_far {
        Some(so_far) => serde_json::from_value(so_far)?,
        None => Summary::new(&ctx.fanout_id),
    };
    let mut bytes = serde_json::to_string(&summary.summary)?.len();
    for outcome in outcomes {
        summary.total_items += 1;
        let item_id = outcome.item_id.clone();
        let entry = match &outcome.result {
            Ok(output) => SummaryEntry::Done {
                item_id,
                output: serde_json::to_value(output)?,
            },
            Err(failure) => {
                summary.failed_items += 1;
                let failed = format!("{}: {}", failure.error_type, failure.message);
                SummaryEntry::Failed { item_id, failed }
            }
        };
        bytes += serde_json::to_string(&entry)?.len() + 1;
        // A gap in the middle would be mistaken for a missing item.
        if summary.omitted > 0 || bytes > SUMMARY_BYTES {
            summary.omitted += 1;
        } else {
            summary.summary.push(entry);
        }
    }
    if ctx.last {
        let now = humantime::format_rfc3339_millis(SystemTime::now());
        summary.completed_at = Some(now.to_string());
    }
    Ok(serde_json::to_value(summary)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcomes(from: u64, to: u64, size: usize) -> Vec<ItemOutcome<String>> {
        let outcome = |position| ItemOutcome {
            position,
            item_id: format!("i{position}"),
            result: Ok("x".repeat(size)),
        };
        (from..to).map(outcome).collect()
    }

    fn ctx(last: bool) -> AggregateContext {
        AggregateContext {
            fanout_id: "b".to_owned(),
            last,
        }
    }

    #[test]
    fn a_large_summary_ends_early_and_says_so() {
        let mut so_far = None;
        for part in 0..10 {
            let part = outcomes(part * 100, part * 100 + 100, 1_000);
            so_far = Some(add_to_summary(&ctx(false), so_far, &part).unwrap());
        }
        let last = add_to_summary(&ctx(true), so_far, &outcomes(1_000, 1_001, 1)).unwrap();
        assert!(last.to_string().len() < SUMMARY_BYTES + 300);
        let summary: Summary = serde_json::from_value(last).unwrap();
        assert_eq!(summary.total_items, 1_001);
        assert_eq!(summary.summary.len() as u64 + summary.omitted, 1_001);
        assert!(summary.summary.len() > 50 && summary.completed_at.is_some());
    }

    #[test]
    fn failures_and_outputs_keep_their_places() {
        let mut both = outcomes(0, 2, 1);
        both[0].result = Err(crate::ItemFailure::new("CardDeclined", "no funds"));
        let summary = add_to_summary(&ctx(false), None, &both).unwrap();
        assert_eq!(
            summary["summary"],
            serde_json::json!([
                { "item_id": "i0", "failed": "CardDeclined: no funds" },
                { "item_id": "i1", "output": "x" },
            ])
        );
        let summary: Summary = serde_json::from_value(summary).unwrap();
        assert_eq!(summary.failed_items, 1);
        assert_eq!(summary.completed_at, None);
    }
}
