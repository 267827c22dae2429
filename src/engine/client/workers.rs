//! The workers of a task queue, as far as the server has seen them.

use std::time::{Duration, SystemTime};

use futures::future::BoxFuture;
use temporalio_client::{
    Client, NamespacedClient as _,
    tonic::{IntoRequest as _, Status},
};
use temporalio_common::protos::temporal::api::{
    enums::v1::{TaskQueueKind, TaskQueueType},
    taskqueue::v1::TaskQueue,
    workflowservice::v1::{DescribeTaskQueueRequest, DescribeTaskQueueResponse},
};

use crate::base::time::Timestamp;

/// Time since its last poll after which a worker counts as gone. A poll lasts up to 60 s, and the server lists
/// a worker for minutes after the last one.
const POLLS_WITHIN: Duration = Duration::from_secs(75);
/// Time limit for the server to list the workers.
const PATIENCE: Duration = Duration::from_secs(5);

/// The workers of a task queue, as far as the server has seen them.
///
/// Workers poll the server in calls of up to 60 s. Workers that have polled within the last 75 s, by the clock
/// of this machine, count as polling. A worker that was killed is therefore listed for up to 75 s more, and
/// clocks should agree to within 15 s.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
#[non_exhaustive]
pub struct Workers {
    /// The name of the task queue.
    pub task_queue: String,
    /// The workers that poll it, by name.
    pub polling: Vec<WorkerSeen>,
    /// The approximate number of workflow tasks that wait for a worker, if the server reports it.
    pub workflow_backlog: Option<u64>,
    /// The approximate number of activities that wait for a worker, over all batches on the queue, if the
    /// server reports it.
    pub page_backlog: Option<u64>,
}

/// A worker that polls a task queue.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
#[non_exhaustive]
pub struct WorkerSeen {
    /// The identity of the worker: `process@host` by default. Workers with the same identity appear as one.
    pub identity: String,
    /// The time of its last poll.
    pub last_seen: Timestamp,
    /// True if it polls for workflow tasks, so that it can answer for controllers.
    pub workflows: bool,
    /// True if it polls for activities, so that it can take pages. A worker without free slots does not.
    pub pages: bool,
}

impl Workers {
    /// Returns whether a worker polls that can answer for the controllers of batches.
    pub fn any(&self) -> bool {
        self.polling.iter().any(|worker| worker.workflows)
    }

    /// Asks the server for the workers of a task queue.
    pub(crate) async fn of(client: &Client, task_queue: &str) -> Result<Self, Status> {
        let asked = futures::future::try_join(
            describe(client, task_queue, TaskQueueType::Workflow),
            describe(client, task_queue, TaskQueueType::Activity),
        );
        let asked = tokio::time::timeout(PATIENCE, asked).await;
        let (workflows, pages) = asked.unwrap_or_else(|_| {
            Err(Status::deadline_exceeded(
                "the task queue was not described",
            ))
        })?;
        let mut workers = Self {
            task_queue: task_queue.to_owned(),
            polling: Vec::new(),
            workflow_backlog: backlog(&workflows),
            page_backlog: backlog(&pages),
        };
        let now = SystemTime::now().into();
        for (identity, at) in polls(&workflows) {
            workers.saw(now, identity, at, |worker| worker.workflows = true);
        }
        for (identity, at) in polls(&pages) {
            workers.saw(now, identity, at, |worker| worker.pages = true);
        }
        workers.polling.sort_by(|a, b| a.identity.cmp(&b.identity));
        Ok(workers)
    }

    fn saw(
        &mut self,
        now: Timestamp,
        identity: String,
        at: Timestamp,
        note: impl FnOnce(&mut WorkerSeen),
    ) {
        if now.since(at) > POLLS_WITHIN {
            return;
        }
        let known = self.polling.iter().position(|w| w.identity == identity);
        let index = known.unwrap_or_else(|| {
            self.polling.push(WorkerSeen {
                identity,
                last_seen: at,
                workflows: false,
                pages: false,
            });
            self.polling.len() - 1
        });
        let worker = &mut self.polling[index];
        worker.last_seen = worker.last_seen.max(at);
        note(worker);
    }
}

fn describe<'a>(
    client: &'a Client,
    task_queue: &'a str,
    kind: TaskQueueType,
) -> BoxFuture<'a, Result<DescribeTaskQueueResponse, Status>> {
    Box::pin(async move {
        let request = DescribeTaskQueueRequest {
            namespace: client.namespace(),
            task_queue: Some(TaskQueue {
                name: task_queue.to_owned(),
                kind: TaskQueueKind::Normal.into(),
                normal_name: String::new(),
            }),
            task_queue_type: kind.into(),
            report_stats: true,
            ..Default::default()
        };
        let mut service = client.connection().workflow_service();
        let described = service.describe_task_queue(request.into_request()).await;
        described.map(|response| response.into_inner())
    })
}

/// Returns the workers that polled, with the time of their last poll.
fn polls(queue: &DescribeTaskQueueResponse) -> impl Iterator<Item = (String, Timestamp)> {
    queue.pollers.iter().filter_map(|poller| {
        let at = SystemTime::try_from(poller.last_access_time?).ok()?;
        Some((poller.identity.clone(), at.into()))
    })
}

fn backlog(queue: &DescribeTaskQueueResponse) -> Option<u64> {
    let stats = queue.stats.as_ref()?;
    u64::try_from(stats.approximate_backlog_count).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_has_not_polled_for_long_is_gone_and_one_name_is_one_worker() {
        let mut workers = Workers {
            task_queue: "q".to_owned(),
            polling: Vec::new(),
            workflow_backlog: None,
            page_backlog: None,
        };
        let now = Timestamp(1_000_000);
        let ago = |seconds: u64| Timestamp(now.0 - seconds * 1_000);
        workers.saw(now, "dead".to_owned(), ago(76), |w| w.workflows = true);
        workers.saw(now, "busy".to_owned(), ago(75), |w| w.pages = true);
        assert!(!workers.any(), "only pages are polled for");
        workers.saw(now, "busy".to_owned(), ago(2), |w| w.workflows = true);
        // The clock of this worker is ahead.
        workers.saw(now, "ahead".to_owned(), Timestamp(now.0 + 9_000), |w| {
            w.workflows = true;
        });
        assert!(workers.any());
        let seen = |identity: &str| workers.polling.iter().find(|w| w.identity == identity);
        assert_eq!(seen("dead"), None);
        let busy = seen("busy").unwrap();
        assert_eq!(
            (busy.last_seen, busy.workflows, busy.pages),
            (ago(2), true, true)
        );
        assert!(seen("ahead").is_some());
    }
}
