//! The ends of strides that were dispatched before an update, read from the history.

use serde_json::Value;

/// An update of a batch, and the end of the last stride that was dispatched before it, in seconds since 1970.
#[derive(Clone, Copy, Debug)]
pub struct StrideReturn {
    pub update: f64,
    pub last: f64,
}

/// Reads a history with one update. `None` if there is no update, or if a stride never ended.
pub fn stride_return(history: &[u8]) -> Option<StrideReturn> {
    let history: Value = serde_json::from_slice(history).unwrap();
    let events = history["events"].as_array().unwrap();
    let update = events
        .iter()
        .position(|e| of(e, "WorkflowExecutionUpdateAccepted").is_some())?;
    let (before, after) = events.split_at(update);
    let begun = before.iter().filter(|e| {
        let scheduled = of(e, "ActivityTaskScheduled");
        scheduled.is_some_and(|s| s["activity_type"]["name"] == "temporal-batch.stride")
    });
    let update = time(&after[0]);
    let mut last = update;
    for stride in begun {
        let ends = |e: &&Value| {
            let end = ["Completed", "Failed", "TimedOut", "Canceled"]
                .iter()
                .find_map(|how| of(e, &format!("ActivityTask{how}")));
            end.is_some_and(|end| end["scheduled_event_id"] == stride["event_id"])
        };
        last = last.max(time(events.iter().find(ends)?));
    }
    Some(StrideReturn { update, last })
}

fn of<'a>(event: &'a Value, kind: &str) -> Option<&'a Value> {
    event["attributes"].get(format!("{kind}EventAttributes"))
}

fn time(event: &Value) -> f64 {
    let time = humantime::parse_rfc3339(event["event_time"].as_str().unwrap()).unwrap();
    time.duration_since(std::time::UNIX_EPOCH)
        .unwrap()
        .as_secs_f64()
}
