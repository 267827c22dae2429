//! One batch from its start to the verification of its shipments.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use temporal_batch::{BatchClient, settings::IfRunning};
use temporal_batch_fanout::{AskError, Fanout, FanoutHandle, FanoutReport, Mode, OnFailure};

use crate::{
    Failure, Policy, QUEUE, Settings,
    fulfil::Fulfil,
    orders::{Order, orders},
    verify::verify,
};

/// The interval between looks at the progress.
const LOOK_AGAIN: Duration = Duration::from_millis(50);
/// The most items that are listed one by one.
const LISTED: usize = 20;

/// Starts a batch, shows its progress and result, and verifies its shipments.
pub async fn batch(
    client: &BatchClient,
    id: &str,
    mode: Mode,
    settings: &Settings,
) -> Result<(), Failure> {
    let how = match mode {
        Mode::JoinAll => "joins all children",
        Mode::Signals => "children report by signal",
    };
    println!("\n=== {id}: {how} ===");
    let orders = orders(settings.items, settings.seed, &settings.fail);
    if let Some(unknown) = settings
        .fail
        .iter()
        .find(|f| !orders.iter().any(|o| o.id == **f))
    {
        return Err(format!(
            "there is no item {unknown}; items are ITEM-001 to {}",
            orders.last().map_or("", |o| &o.id)
        )
        .into());
    }
    check_folder(id)?;
    // The shipments of a fan-out that runs are needed: this start attaches to it.
    match FanoutHandle::of(client, id).progress().await {
        Ok(seen) if seen.all_read && seen.completed == seen.total => {
            remove_earlier(&settings.folder.out, id)?;
        }
        Err(AskError::NotFound { .. }) => remove_earlier(&settings.folder.out, id)?,
        _ => {}
    }
    let fanout = Fanout::over::<Fulfil>(id, orders.clone())
        .task_queue(QUEUE)
        .mode(mode)
        .window(settings.window)
        .if_running(IfRunning::Attach)
        .rerun(true)
        .on_failure(match settings.policy {
            Policy::CollectAll => OnFailure::default(),
            Policy::FailFast => OnFailure::FailFast,
        });
    println!("Starting child workflows...");
    let began = Instant::now();
    let handle = fanout.start(client).await?;
    for order in orders.iter().take(LISTED) {
        println!("Started child workflow {}", handle.child_id(&order.id));
    }
    if orders.len() > LISTED {
        println!("... and {} more", orders.len() - LISTED);
    }
    let report = tokio::select! {
        report = handle.result() => report?,
        never = show_progress(&handle) => match never {},
    };
    show_end(&report, &orders, began.elapsed());
    let shipped = verify(&report, &orders, &settings.folder.out, settings.policy)?;
    println!("verify: {shipped} shipments as ordered, in order, none twice  OK");
    Ok(())
}

/// Refuses an id that does not name a folder in another.
fn check_folder(id: &str) -> Result<(), String> {
    let mut parts = Path::new(id).components();
    match (parts.next(), parts.next()) {
        (Some(std::path::Component::Normal(name)), None) if name == id => Ok(()),
        _ => Err(format!("the id \"{id}\" must be the name of a folder")),
    }
}

fn remove_earlier(folder: &Path, id: &str) -> std::io::Result<()> {
    match std::fs::remove_dir_all(folder.join(id)) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn done(report: &FanoutReport) -> u64 {
    report.progress.completed - report.progress.failed
}

/// Shows the progress each time that it changes. Update and query are asked one after the other, so a line is shown only
/// when nothing has happened between them.
async fn show_progress(handle: &FanoutHandle) -> std::convert::Infallible {
    let mut shown = None;
    loop {
        if let Ok(seen) = handle.progress().await
            && shown != Some(seen.completed)
            && let Ok(by_update) = handle.progress_by_update().await
            && let Ok(by_query) = handle.progress().await
            && by_update == by_query
        {
            let (done, total) = (by_query.completed, by_query.total);
            println!("Current progress: {done}/{total} (update) = {done}/{total} (query)");
            shown = Some(done);
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

fn show_end(report: &FanoutReport, orders: &[Order], took: Duration) {
    let failed = report.progress.failed;
    let failures = report.failures.iter();
    let failures = failures.map(|f| format!("{} ({})", f.item_id, f.failure.error_type));
    let named = failures.collect::<Vec<_>>().join(", ");
    match failed {
        0 => println!("{} ok, 0 failed", done(report)),
        _ => println!("{} ok, {failed} failed: {named}", done(report)),
    }
    if let Some(reason) = &report.reason {
        println!("Batch failed: {reason}");
    }
    let result = report.result.clone().unwrap_or_default();
    println!("Batch result: {result}");
    let one_by_one: u64 = orders.iter().map(|order| order.millis).sum();
    let one_by_one = Duration::from_millis(one_by_one);
    println!("wall time {took:.1?}; one after the other the items take {one_by_one:.1?}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_names_a_folder_in_the_output_folder() {
        for id in ["", ".", "..", "/", "/home/me", "a/b", "a/", "../a", "./a"] {
            assert!(check_folder(id).is_err(), "{id}");
        }
        assert!(check_folder("BATCH-001").is_ok());
    }
}
