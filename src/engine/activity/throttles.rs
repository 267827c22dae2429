//! Reporting the verdicts of throttles to a batch.

use std::{convert::Infallible, time::Duration};

use temporalio_client::{
    Client, WorkflowDescribeOptions, WorkflowHandle, WorkflowSignalOptions,
    errors::WorkflowInteractionError,
};
use temporalio_sdk::activities::ActivityError;

use super::{memo_watch::progress_in, side::retry};
use crate::{
    engine::controller::Controller,
    metrics::Metrics,
    processor::throttle::{Reading, ThrottleMonitor, UnknownThrottle, Verdict},
    protocol::{ThrottleNews, ThrottleOrder},
};

/// Time for which a worker without the throttle holds the batch, and time after which another worker is tried.
const HOLD_FOR_UNKNOWN: Duration = Duration::from_secs(60);
const LOOK_FOR_OTHERS: Duration = Duration::from_secs(600);
const OBSERVE_EVERY: Duration = Duration::from_secs(10);

/// Reports the first reading and every change, until the batch has ended.
pub(super) async fn relay(
    client: &Client,
    order: &ThrottleOrder,
    mut monitor: ThrottleMonitor,
) -> Result<(), ActivityError> {
    // The activity's own handle is bound to one run, and the batch may continue as new at any time.
    let controller: WorkflowHandle<_, Controller> =
        client.get_workflow_handle(order.batch_id.clone());
    let mut reading = monitor.first().await;
    loop {
        log(&reading);
        if tell(&controller, order, reading).await? == Delivery::Gone {
            return Ok(());
        }
        reading = monitor.changed().await;
    }
}

/// Treats a throttle that this worker does not have as failing: it holds the batch for a while and then lets
/// go. Another worker may have the throttle, so the activity is retried later.
pub(super) async fn relay_unknown(
    client: &Client,
    order: &ThrottleOrder,
    unknown: &UnknownThrottle,
) -> Result<(), ActivityError> {
    let controller: WorkflowHandle<_, Controller> =
        client.get_workflow_handle(order.batch_id.clone());
    let reason = format!("a throttle fails: {unknown}");
    for (verdict, lasts) in [
        (Verdict::Hold { reason }, HOLD_FOR_UNKNOWN),
        (Verdict::Go, LOOK_FOR_OTHERS),
    ] {
        let reading = Reading {
            verdict,
            by: order.throttles.first().cloned().unwrap_or_default(),
            failing: true,
        };
        log(&reading);
        if tell(&controller, order, reading).await? == Delivery::Gone {
            return Ok(());
        }
        tokio::time::sleep(lasts).await;
    }
    Err(retry(unknown.clone(), "UnknownThrottle"))
}

#[derive(PartialEq)]
enum Delivery {
    Yes,
    /// The batch has ended.
    Gone,
}

async fn tell(
    controller: &WorkflowHandle<Client, Controller>,
    order: &ThrottleOrder,
    reading: Reading,
) -> Result<Delivery, ActivityError> {
    let news = ThrottleNews {
        batch_run: order.batch_run.clone(),
        verdict: reading.verdict,
        by: reading.by,
    };
    let options = WorkflowSignalOptions::default();
    match controller
        .signal(Controller::throttled, news, options)
        .await
    {
        Ok(()) => Ok(Delivery::Yes),
        Err(WorkflowInteractionError::NotFound(_)) => Ok(Delivery::Gone),
        Err(error) => Err(retry(error, "ThrottleNewsNotSent")),
    }
}

/// Keeps the metrics of a batch up to date. A held batch has no strides whose workers would do so.
pub(super) async fn observe(
    client: &Client,
    order: &ThrottleOrder,
    metrics: &Metrics,
) -> Infallible {
    let controller: WorkflowHandle<_, Controller> =
        client.get_workflow_handle(order.batch_id.clone());
    loop {
        tokio::time::sleep(OBSERVE_EVERY).await;
        let options = WorkflowDescribeOptions::default();
        if let Ok(description) = controller.describe(options).await
            && let Some(progress) = progress_in(&description)
        {
            metrics.batch_seen(&progress);
        }
    }
}

fn log(together: &Reading) {
    let throttle = together.by.as_str();
    let factor = together.verdict.factor();
    match together.verdict.reason() {
        None if together.failing => {
            tracing::warn!(throttle, "the batch continues although a throttle fails");
        }
        None => tracing::debug!("the throttles are open"),
        Some(reason) => tracing::warn!(throttle, factor, reason, "the batch is throttled"),
    }
}
