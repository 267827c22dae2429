//! Submitting requests.

use std::collections::BTreeMap;

use temporalio_client::{WorkflowSignalOptions, errors::WorkflowInteractionError};

use super::{BatcherClient, BatcherError, running::Running, server};
use crate::{
    protocol::Submission,
    request::{Refusal, Request},
    workflow::BatcherWorkflow,
};

/// Maximum length of one signal, in bytes. Temporal warns about payloads above 256 KB.
const SIGNAL_BYTES: usize = 200 * 1024;
/// Limits on the history of a shard that gets one more signal. A shard with a worker continues as new earlier. Temporal takes
/// 10,000 signals for a run, and ends a workflow, with what it holds, at 50 MB. A worker has to read the history within 10 s,
/// and each of many clients may send a signal after its look.
const MAX_EVENTS: u64 = 9_000;
const MAX_BYTES: u64 = 16 * 1024 * 1024;
/// How often a shard is started that ends before it has the submission.
const STARTS: u32 = 10;

impl BatcherClient {
    /// Submits a request, and starts its shard if it does not run. Returns when the server has stored it.
    ///
    /// The shard may still refuse it, because it holds too many: [`wait`](Self::wait) tells.
    ///
    /// # Errors
    /// No shard could write the request, its shard has a [backlog](Refusal::Backlog), the batcher runs with another number
    /// of shards, or the server did not accept the request.
    pub async fn submit(&self, request: Request) -> Result<(), BatcherError> {
        self.submit_all(vec![request]).await
    }

    /// Submits requests, as few signals as possible. After an error, some of them may have been submitted: submit them
    /// again.
    ///
    /// # Errors
    /// Those of [`submit`](Self::submit). If no shard could write one of the requests, none was submitted.
    pub async fn submit_all(&self, requests: Vec<Request>) -> Result<(), BatcherError> {
        self.submit_for(requests, None, 0).await
    }

    pub(crate) async fn submit_for(
        &self,
        requests: Vec<Request>,
        reply_to: Option<String>,
        number: u64,
    ) -> Result<(), BatcherError> {
        let mut of_shards: BTreeMap<u32, Vec<Request>> = BTreeMap::new();
        for request in requests {
            if let Err(reason) = self.batcher.check_request(&request) {
                let request_id = request.id;
                return Err(BatcherError::Refused { request_id, reason });
            }
            let shard = self.batcher.shard_of(&request.routing_key);
            of_shards.entry(shard).or_default().push(request);
        }
        for (shard, requests) in of_shards {
            for requests in signals(requests) {
                let submission = Submission {
                    shards: self.batcher.shards,
                    reply_to: reply_to.clone(),
                    number,
                    requests,
                };
                self.send(shard, submission).await?;
            }
        }
        Ok(())
    }

    /// Sends one signal.
    async fn send(&self, shard: u32, submission: Submission) -> Result<(), BatcherError> {
        for _ in 0..STARTS {
            match self.running(shard).await? {
                Some(running) => has_room(&running, &submission)?,
                None => {
                    self.start_shard(shard).await?;
                }
            }
            let handle = self.shard(shard);
            let options = WorkflowSignalOptions::default();
            let sent = handle.signal(BatcherWorkflow::submit, submission.clone(), options);
            match sent.await {
                Ok(()) => return Ok(()),
                // It has ended since.
                Err(WorkflowInteractionError::NotFound(_)) => {}
                // Other clients may have filled the history since the look.
                Err(WorkflowInteractionError::Rpc(status))
                    if status.message().contains("limit for signal events") =>
                {
                    if let Some(running) = self.running(shard).await? {
                        return Err(backlog(&running, &submission));
                    }
                }
                Err(error) => return Err(server(error)),
            }
        }
        Err(server(format!(
            "shard {shard} ended {STARTS} times before it had the submission"
        )))
    }
}

/// Refuses a submission to a shard whose history no worker has read for long.
fn has_room(running: &Running, submission: &Submission) -> Result<(), BatcherError> {
    if running.events <= MAX_EVENTS && running.bytes <= MAX_BYTES {
        return Ok(());
    }
    Err(backlog(running, submission))
}

fn backlog(running: &Running, submission: &Submission) -> BatcherError {
    let first = submission.requests.first();
    BatcherError::Refused {
        request_id: first.map_or_else(String::new, |request| request.id.clone()),
        reason: Refusal::Backlog {
            events: running.events,
            bytes: running.bytes,
            max_events: MAX_EVENTS,
            max_bytes: MAX_BYTES,
        },
    }
}

/// Divides requests into signals.
fn signals(requests: Vec<Request>) -> Vec<Vec<Request>> {
    let mut signals: Vec<Vec<Request>> = Vec::new();
    let mut bytes = usize::MAX;
    for request in requests {
        let length = request.bytes();
        if bytes.saturating_add(length) > SIGNAL_BYTES {
            signals.push(Vec::new());
            bytes = 0;
        }
        bytes += length;
        if let Some(last) = signals.last_mut() {
            last.push(request);
        }
    }
    signals
}
