//! The readiness of a worker: it has started, is not draining, and its server answers.

use std::time::Duration;

use temporalio_client::{
    Client, NamespacedClient as _,
    tonic::{IntoRequest as _, Status},
};
use temporalio_common::protos::temporal::api::workflowservice::v1::DescribeNamespaceRequest;
use tokio::sync::watch;

use crate::metrics::Health;

const LOOK_EVERY: Duration = Duration::from_secs(5);
const PATIENCE: Duration = Duration::from_secs(5);
/// Number of missed answers in a row before the worker is not ready. A single one is not significant.
const FAILURES: u32 = 2;

/// Keeps `health` up to date until the worker drains.
pub(crate) async fn watch(client: Client, health: Health, mut draining: watch::Receiver<bool>) {
    let look = async {
        let mut failures = 0;
        loop {
            match answers(&client).await {
                Ok(()) => {
                    failures = 0;
                    health.set_ready();
                }
                Err(status) => {
                    let why = status.message();
                    failures += 1;
                    if failures == FAILURES {
                        tracing::warn!(why, "the Temporal server does not answer");
                    }
                    if failures >= FAILURES || health.not_ready().is_some() {
                        health.set_not_ready(format!("the Temporal server does not answer: {why}"));
                    }
                }
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    };
    tokio::select! {
        () = look => {}
        // An error means that the worker is gone.
        _ = draining.wait_for(|draining| *draining) => {}
    }
    health.set_not_ready("draining");
}

/// Makes a small request to the server.
pub(crate) async fn answers(client: &Client) -> Result<(), Status> {
    let request = DescribeNamespaceRequest {
        namespace: client.namespace(),
        ..Default::default()
    };
    let mut service = client.connection().workflow_service();
    let described = service.describe_namespace(request.into_request());
    match tokio::time::timeout(PATIENCE, described).await {
        Ok(described) => described.map(|_| ()),
        Err(_) => Err(Status::deadline_exceeded(format!(
            "no answer within {PATIENCE:?}"
        ))),
    }
}
