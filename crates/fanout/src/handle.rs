//! The handle of one fan-out.

use temporal_batch::BatchClient;
use temporalio_client::{
    Client, UntypedWorkflow, WorkflowCancelOptions, WorkflowExecuteUpdateOptions,
    WorkflowFetchHistoryOptions, WorkflowGetResultOptions, WorkflowHandle, WorkflowQueryOptions,
    errors::{
        WorkflowGetResultError, WorkflowInteractionError, WorkflowQueryError, WorkflowUpdateError,
    },
};
use temporalio_common::error::IncomingError;

use crate::{
    progress::{FanoutReport, Progress},
    protocol::{FANOUT_FAILED, ItemStatus, child_id},
    workflow::{FanoutWorkflow, ItemWorkflow},
};

/// A handle to observe and cancel one fan-out. It follows the fan-out over a continue-as-new.
#[derive(Clone)]
pub struct FanoutHandle {
    client: Client,
    id: String,
}

/// The reason why a fan-out or a child did not answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AskError {
    /// The workflow does not exist.
    #[error("there is no workflow \"{id}\"")]
    NotFound {
        /// The workflow id.
        id: String,
    },
    /// The server or a worker did not answer. A query and an update need a worker.
    #[error("\"{id}\" did not answer; does a worker poll its task queue?")]
    NoAnswer {
        /// The workflow id.
        id: String,
        /// The error.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// The reason why a fan-out has no report.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ResultError {
    /// The fan-out does not exist.
    #[error("there is no fan-out \"{id}\"")]
    NotFound {
        /// The id.
        id: String,
    },
    /// The fan-out was terminated from outside. Its children have the fate of its close policy.
    #[error("\"{id}\" was terminated")]
    Terminated {
        /// The id.
        id: String,
    },
    /// The fan-out reached a time limit that was set outside this crate.
    #[error("\"{id}\" was timed out")]
    TimedOut {
        /// The id.
        id: String,
    },
    /// The workflow of this id is no fan-out, or the server does not answer.
    #[error("the result of \"{id}\" cannot be read")]
    Server {
        /// The id.
        id: String,
        /// The error.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl std::fmt::Debug for FanoutHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FanoutHandle")
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

impl FanoutHandle {
    /// Returns the handle of a fan-out, whether it exists or not.
    pub fn of(client: &BatchClient, id: impl Into<String>) -> Self {
        Self {
            client: client.temporal().clone(),
            id: id.into(),
        }
    }

    /// The id of the fan-out, which is its workflow id.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Returns the workflow id of the child of an item: `<fan-out>/item/<item>`.
    pub fn child_id(&self, item_id: &str) -> String {
        child_id(&self.id, item_id)
    }

    fn workflow(&self) -> WorkflowHandle<Client, FanoutWorkflow> {
        self.client.get_workflow_handle(self.id.clone())
    }

    /// Asks for the numbers by query. A query adds nothing to the history, so it is the way to poll.
    ///
    /// # Errors
    /// The fan-out does not exist, or no worker answers.
    pub async fn progress(&self) -> Result<Progress, AskError> {
        let workflow = self.workflow();
        let asked = workflow
            .query(
                FanoutWorkflow::progress,
                (),
                WorkflowQueryOptions::default(),
            )
            .await;
        asked.map_err(|error| not_queried(&self.id, error))
    }

    /// Asks for the numbers by update. An update adds two events to the history, and a run takes 2,000 updates at most: it
    /// is for callers that cannot query.
    ///
    /// # Errors
    /// The fan-out does not exist or has ended, or no worker answers.
    pub async fn progress_by_update(&self) -> Result<Progress, AskError> {
        let workflow = self.workflow();
        let options = WorkflowExecuteUpdateOptions::default();
        let asked = workflow.execute_update(FanoutWorkflow::get_progress, (), options);
        asked.await.map_err(|error| match error {
            WorkflowUpdateError::NotFound(_) => self.not_found(),
            error => self.no_answer(error.into()),
        })
    }

    /// Asks the child of an item for its status. It answers after its end too, for as long as Temporal keeps its history.
    ///
    /// # Errors
    /// The item has no child yet, the child is of another type, or no worker of its task queue answers.
    pub async fn item_status(&self, item_id: &str) -> Result<ItemStatus, AskError> {
        let id = self.child_id(item_id);
        let child = self.client.get_workflow_handle::<ItemWorkflow>(id.clone());
        let asked = child
            .query(ItemWorkflow::status, (), WorkflowQueryOptions::default())
            .await;
        asked.map_err(|error| not_queried(&id, error))
    }

    /// Waits for the end of the fan-out. One that failed or was cancelled also has a report, whose
    /// [`outcome`](FanoutReport::outcome) says so.
    ///
    /// # Errors
    /// The fan-out was terminated or timed out, does not exist, or the server does not answer.
    pub async fn result(&self) -> Result<FanoutReport, ResultError> {
        let workflow = self.workflow();
        let result = workflow.get_result(WorkflowGetResultOptions::default());
        let id = self.id.clone();
        match result.await {
            Ok(report) => Ok(report),
            Err(WorkflowGetResultError::Failed(error)) => report_of(&error).ok_or_else(|| {
                let source = error.into();
                ResultError::Server { id, source }
            }),
            Err(WorkflowGetResultError::Cancelled { details }) => {
                details.deserialize().map_err(|error| ResultError::Server {
                    id,
                    source: error.into(),
                })
            }
            Err(WorkflowGetResultError::Terminated { .. }) => Err(ResultError::Terminated { id }),
            Err(WorkflowGetResultError::TimedOut) => Err(ResultError::TimedOut { id }),
            Err(WorkflowGetResultError::NotFound(_)) => Err(ResultError::NotFound { id }),
            Err(error) => Err(ResultError::Server {
                id,
                source: error.into(),
            }),
        }
    }

    /// Cancels the fan-out: no further items are started. With [`ClosePolicy::Abandon`](crate::ClosePolicy::Abandon) the
    /// running children run on; otherwise they are cancelled, and the fan-out ends after them.
    ///
    /// # Errors
    /// The fan-out does not exist, or the server does not answer.
    pub async fn cancel(&self, reason: impl Into<String>) -> Result<(), AskError> {
        let options = WorkflowCancelOptions::builder()
            .reason(reason.into())
            .build();
        self.workflow()
            .cancel(options)
            .await
            .map_err(|error| match error {
                WorkflowInteractionError::NotFound(_) => self.not_found(),
                error => self.no_answer(error.into()),
            })
    }

    /// Cancels the child of one item, which then counts as failed.
    ///
    /// # Errors
    /// The child does not exist, or the server does not answer.
    pub async fn cancel_item(
        &self,
        item_id: &str,
        reason: impl Into<String>,
    ) -> Result<(), AskError> {
        let id = self.child_id(item_id);
        let child = Self {
            client: self.client.clone(),
            id,
        };
        child.cancel(reason).await
    }

    /// Fetches the history of the latest run, as JSON for [`replay_history`](crate::replay_history).
    ///
    /// # Errors
    /// The fan-out does not exist, or the server does not answer.
    pub async fn history(&self) -> Result<Vec<u8>, AskError> {
        self.history_of(&self.id).await
    }

    /// Fetches the history of the latest run of the child of an item.
    ///
    /// # Errors
    /// The child does not exist, or the server does not answer.
    pub async fn item_history(&self, item_id: &str) -> Result<Vec<u8>, AskError> {
        self.history_of(&self.child_id(item_id)).await
    }

    async fn history_of(&self, id: &str) -> Result<Vec<u8>, AskError> {
        let workflow = self.client.get_workflow_handle::<UntypedWorkflow>(id);
        let history = workflow.fetch_history(WorkflowFetchHistoryOptions::default());
        history.to_json().await.map_err(|error| AskError::NoAnswer {
            id: id.to_owned(),
            source: error.into(),
        })
    }

    fn not_found(&self) -> AskError {
        AskError::NotFound {
            id: self.id.clone(),
        }
    }

    fn no_answer(&self, source: Box<dyn std::error::Error + Send + Sync>) -> AskError {
        AskError::NoAnswer {
            id: self.id.clone(),
            source,
        }
    }
}

fn not_queried(id: &str, error: WorkflowQueryError) -> AskError {
    let id = id.to_owned();
    match error {
        WorkflowQueryError::NotFound(_) => AskError::NotFound { id },
        error => AskError::NoAnswer {
            id,
            source: error.into(),
        },
    }
}

/// Reads the report from a fan-out that has failed.
fn report_of(error: &IncomingError) -> Option<FanoutReport> {
    match error {
        IncomingError::Application(failure) if failure.type_name() == Some(FANOUT_FAILED) => {
            failure.details().ok().flatten()
        }
        _ => None,
    }
}
