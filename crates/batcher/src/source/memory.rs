//! A queue in memory.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use async_trait::async_trait;
use temporal_batch::PageError;

use super::{RequestSource, Settlement, Taken};
use crate::request::Request;

/// A queue in memory, which ends with its process. Clones are the same queue.
#[derive(Clone, Debug, Default)]
pub struct MemorySource(Arc<Mutex<Queue>>);

#[derive(Debug, Default)]
struct Queue {
    waiting: VecDeque<Request>,
    rejected: Vec<(Request, String)>,
}

impl MemorySource {
    /// Creates an empty queue.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a request at the end.
    pub fn push(&self, request: Request) {
        self.queue().waiting.push_back(request);
    }

    /// Returns the number of requests that are not taken.
    pub fn len(&self) -> usize {
        self.queue().waiting.len()
    }

    /// Returns true if no request waits.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Takes the requests that no batcher can write, each with the reason. They are in the queue no longer.
    pub fn take_rejected(&self) -> Vec<(Request, String)> {
        std::mem::take(&mut self.queue().rejected)
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        // No code that holds the lock can panic in the middle of a change.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl RequestSource for MemorySource {
    async fn take(&mut self, limit: usize) -> Result<Box<dyn Taken>, PageError> {
        let mut queue = self.queue();
        let some = limit.min(queue.waiting.len());
        let requests = queue.waiting.drain(..some).collect();
        Ok(Box::new(TakenFromMemory {
            source: self.clone(),
            requests,
        }))
    }
}

struct TakenFromMemory {
    source: MemorySource,
    requests: Vec<Request>,
}

#[async_trait]
impl Taken for TakenFromMemory {
    fn requests(&self) -> &[Request] {
        &self.requests
    }

    async fn settle(mut self: Box<Self>, settlements: &[Settlement]) -> Result<(), PageError> {
        let requests = std::mem::take(&mut self.requests);
        for (at, request) in requests.into_iter().enumerate() {
            match settlements.get(at) {
                Some(Settlement::Remove) => {}
                Some(Settlement::Reject(reason)) => {
                    let rejected = (request, reason.clone());
                    self.source.queue().rejected.push(rejected);
                }
                // What is left goes back when `self` is dropped.
                Some(Settlement::GiveBack) | None => self.requests.push(request),
            }
        }
        Ok(())
    }
}

impl Drop for TakenFromMemory {
    fn drop(&mut self) {
        let mut queue = self.source.queue();
        for request in self.requests.drain(..).rev() {
            queue.waiting.push_front(request);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_not_settled_goes_back_in_order() {
        let mut source = MemorySource::new();
        for i in 0..5 {
            source.push(Request::new(format!("r{i}"), i));
        }
        let taken = source.take(4).await.unwrap();
        use Settlement::{GiveBack, Reject, Remove};
        let settlements = [Remove, GiveBack, Reject("too large".to_owned()), GiveBack];
        taken.settle(&settlements).await.unwrap();
        drop(source.take(1).await.unwrap());
        let left = source.take(10).await.unwrap();
        let left: Vec<_> = left.requests().iter().map(|r| r.id.as_str()).collect();
        assert_eq!(left, ["r1", "r3", "r4"]);
        let rejected = source.take_rejected().into_iter();
        let rejected: Vec<_> = rejected
            .map(|(request, reason)| (request.id, reason))
            .collect();
        assert_eq!(rejected, [("r2".to_owned(), "too large".to_owned())]);
    }
}
