//! The verification of a batch: its report and its shipments are compared with the orders.

use std::path::Path;

use serde_json::Value;
use temporal_batch_fanout::{FanoutOutcome, FanoutReport, failure_types};

use crate::{
    Failure, Policy,
    fulfil::{Shipment, shipment_file, shipments},
    orders::Order,
};

/// Returns the number of shipments, or what is wrong.
pub fn verify(
    report: &FanoutReport,
    orders: &[Order],
    folder: &Path,
    policy: Policy,
) -> Result<u64, Failure> {
    let declined = orders.iter().filter(|order| order.card_is_declined).count() as u64;
    let fails = policy == Policy::FailFast && declined > 0;
    let expected = match fails {
        true => FanoutOutcome::Failed,
        false => FanoutOutcome::Completed,
    };
    check(report.outcome == expected, || {
        format!("the outcome is {:?}", report.outcome)
    })?;
    let mut shipped = 0;
    for order in orders {
        shipped += shipped_as_ordered(report, order, folder, fails)?;
    }
    let progress = &report.progress;
    let done = progress.completed - progress.failed;
    let of_type = |failure: &str| {
        let failed = report.failures.iter();
        failed.filter(|f| f.failure.error_type == failure).count() as u64
    };
    if fails {
        check(of_type("CardDeclined") >= 1, || {
            "no card was declined".to_owned()
        })?;
        // A child can be cancelled between its shipment and its end.
        let cancelled = of_type(failure_types::CANCELLED);
        check((done..=done + cancelled).contains(&shipped), || {
            format!("{shipped} shipments, {done} of them reported")
        })?;
    } else {
        check(shipped == done, || {
            format!("{shipped} shipments, {done} of them reported")
        })?;
        check(progress.failed == declined, || {
            format!(
                "{declined} cards were declined, and {} orders failed",
                progress.failed
            )
        })?;
    }
    in_order(report, orders, fails)?;
    Ok(shipped)
}

/// Returns the number of shipments of an order: one, or none if its card was declined or the batch failed.
fn shipped_as_ordered(
    report: &FanoutReport,
    order: &Order,
    folder: &Path,
    fails: bool,
) -> Result<u64, Failure> {
    let shipments = shipments(&shipment_file(folder, &report.id, &order.id))?;
    let wanted = Shipment {
        order: order.id.clone(),
        cents: order.cents,
    };
    let right = match &shipments[..] {
        [] => fails || order.card_is_declined,
        [shipment] => *shipment == wanted && !order.card_is_declined,
        _ => false,
    };
    check(right, || {
        format!("the shipments of {} are {shipments:?}", order.id)
    })?;
    Ok(shipments.len() as u64)
}

/// Checks that the summary has each order once, in the order of the input, as far as its size allows.
fn in_order(report: &FanoutReport, orders: &[Order], fails: bool) -> Result<(), Failure> {
    let result = report.result.as_ref().ok_or("verify: there is no result")?;
    let entries = result["summary"].as_array().map_or(&[][..], Vec::as_slice);
    let listed: Vec<_> = entries.iter().map(|entry| &entry["item_id"]).collect();
    let all = listed.len() as u64 + result["omitted"].as_u64().unwrap_or_default();
    check(all == report.progress.completed, || {
        format!(
            "the summary has {all} of {} orders",
            report.progress.completed
        )
    })?;
    let mut ids = orders.iter().map(|order| Value::from(order.id.as_str()));
    let right = match fails {
        // Orders that were not started are missing.
        true => listed.iter().all(|id| ids.any(|wanted| wanted == **id)),
        false => listed.iter().all(|id| ids.next().as_ref() == Some(*id)),
    };
    check(right && (fails || all == orders.len() as u64), || {
        format!("the summary lists {listed:?}")
    })
}

fn check(holds: bool, otherwise: impl FnOnce() -> String) -> Result<(), Failure> {
    match holds {
        true => Ok(()),
        false => Err(format!("verify: {}", otherwise()).into()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::orders::orders;

    /// A batch of three orders that went well, with what a test changes.
    fn verified(change: impl Fn(&mut Value, &Path), policy: Policy) -> Result<u64, String> {
        let folder = tempfile::tempdir().unwrap();
        let orders = orders(3, 1, &[]);
        let batch = folder.path().join("B");
        std::fs::create_dir(&batch).unwrap();
        for order in &orders {
            let shipment = json!({ "order": order.id, "cents": order.cents });
            let file = shipment_file(folder.path(), "B", &order.id);
            std::fs::write(file, format!("{shipment}\n")).unwrap();
        }
        let entry = |order: &Order| json!({ "item_id": order.id, "output": {} });
        let summary: Vec<_> = orders.iter().map(entry).collect();
        let mut report = json!({
            "id": "B",
            "outcome": "completed",
            "reason": null,
            "progress": {
                "completed": 3, "total": 3, "failed": 0, "in_flight": 0, "duplicates": 0, "all_read": true,
            },
            "not_started": 0,
            "stray_reports": 0,
            "failures": [],
            "result": { "summary": summary, "omitted": 0 },
            "runs": 1,
        });
        change(&mut report, &batch);
        let report = serde_json::from_value(report).unwrap();
        verify(&report, &orders, folder.path(), policy).map_err(|error| error.to_string())
    }

    #[test]
    fn a_batch_that_went_well_is_verified() {
        assert_eq!(verified(|_, _| {}, Policy::CollectAll), Ok(3));
    }

    #[test]
    fn each_defect_is_found() {
        type Change = fn(&mut Value, &Path);
        let changes: [(&str, Change); 9] = [
            ("an empty summary", |report, _| {
                report["result"]["summary"] = json!([]);
            }),
            ("no summary", |report, _| report["result"] = json!({})),
            ("no result", |report, _| report["result"] = json!(null)),
            ("a summary in another order", |report, _| {
                report["result"]["summary"]
                    .as_array_mut()
                    .unwrap()
                    .swap(0, 1);
            }),
            ("an order twice in the summary", |report, _| {
                let entries = report["result"]["summary"].as_array_mut().unwrap();
                entries[2] = entries[1].clone();
            }),
            ("two shipments", |_, batch| {
                let file = batch.join("ITEM-002.jsonl");
                let line = std::fs::read_to_string(&file).unwrap();
                std::fs::write(&file, line.repeat(2)).unwrap();
            }),
            ("a wrong shipment", |_, batch| {
                std::fs::copy(batch.join("ITEM-001.jsonl"), batch.join("ITEM-002.jsonl")).unwrap();
            }),
            ("a missing shipment", |_, batch| {
                std::fs::remove_file(batch.join("ITEM-003.jsonl")).unwrap();
            }),
            ("a failed batch", |report, _| {
                report["outcome"] = json!("failed");
            }),
        ];
        for (what, change) in changes {
            let found = verified(change, Policy::CollectAll);
            assert!(
                found
                    .as_ref()
                    .is_err_and(|error| error.starts_with("verify: ")),
                "{what}: {found:?}"
            );
        }
    }
}
