//! A queue in memory.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use async_trait::async_trait;
use temporal_batch::PageError;

use super::{RequestSource, Taken};
use crate::request::Request;

/// A queue in memory, which ends with its process. Clones are the same queue.
#[derive(Clone, Debug, Default)]
pub struct MemorySource(Arc<Mutex<VecDeque<Request>>>);

impl MemorySource {
    /// Creates an empty queue.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a request at the end.
    pub fn push(&self, request: Request) {
        self.queue().push_back(request);
    }

    /// Returns the number of requests that are not taken.
    pub fn len(&self) -> usize {
        self.queue().len()
    }

    /// Returns true if no request waits.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn queue(&self) -> MutexGuard<'_, VecDeque<Request>> {
        // No code that holds the lock can panic in the middle of a change.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl RequestSource for MemorySource {
    async fn take(&mut self, limit: usize) -> Result<Box<dyn Taken>, PageError> {
        let mut queue = self.queue();
        let some = limit.min(queue.len());
        let requests = queue.drain(..some).collect();
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

    async fn settle(mut self: Box<Self>, settled: &[bool]) -> Result<(), PageError> {
        let mut settled = settled.iter();
        // What is left goes back when `self` is dropped.
        self.requests.retain(|_| settled.next() != Some(&true));
        Ok(())
    }
}

impl Drop for TakenFromMemory {
    fn drop(&mut self) {
        let mut queue = self.source.queue();
        for request in self.requests.drain(..).rev() {
            queue.push_front(request);
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
        taken.settle(&[true, false, true, false]).await.unwrap();
        drop(source.take(1).await.unwrap());
        let left = source.take(10).await.unwrap();
        let left: Vec<_> = left.requests().iter().map(|r| r.id.as_str()).collect();
        assert_eq!(left, ["r1", "r3", "r4"]);
    }
}
