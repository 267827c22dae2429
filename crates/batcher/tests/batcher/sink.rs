//! A sink in memory, which counts the calls of the writer.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use temporal_batch::{
    PageError, async_trait,
    store::{DeadLetters, JsonlDeadLetters},
};
use temporal_batch_batcher::{BatchWriter, Request, WriteContext, Written};
use tokio::sync::Semaphore;

type Answer = dyn Fn(&WriteContext, &[Request]) -> Result<(), PageError> + Send + Sync;

/// Remembers what it was called with. Clones are the same sink.
#[derive(Clone)]
pub struct Sink {
    inner: Arc<Inner>,
}

struct Inner {
    calls: Mutex<Vec<Call>>,
    answer: Box<Answer>,
    gate: Semaphore,
    folder: tempfile::TempDir,
}

#[derive(Clone, Debug)]
pub struct Call {
    /// The key of the batch, and the attempt.
    pub key: (String, u32),
    pub ids: Vec<String>,
    pub bytes: usize,
    pub ok: bool,
}

impl Sink {
    pub const NAME: &'static str = "sink";

    pub fn new() -> Self {
        Self::answering(|_, _| Ok(()))
    }

    /// A sink whose calls end as the function says.
    pub fn answering(
        answer: impl Fn(&WriteContext, &[Request]) -> Result<(), PageError> + Send + Sync + 'static,
    ) -> Self {
        Self::gated(answer, Semaphore::MAX_PERMITS)
    }

    /// A sink whose writes wait until they are let through.
    pub fn closed() -> Self {
        Self::gated(|_, _| Ok(()), 0)
    }

    fn gated(
        answer: impl Fn(&WriteContext, &[Request]) -> Result<(), PageError> + Send + Sync + 'static,
        permits: usize,
    ) -> Self {
        let inner = Inner {
            calls: Mutex::default(),
            answer: Box::new(answer),
            gate: Semaphore::new(permits),
            folder: tempfile::tempdir().unwrap(),
        };
        Self {
            inner: Arc::new(inner),
        }
    }

    pub fn let_through(&self, writes: usize) {
        self.inner.gate.add_permits(writes);
    }

    pub fn calls(&self) -> Vec<Call> {
        self.inner.calls.lock().unwrap().clone()
    }

    /// The numbers of requests of the writes that succeeded, in their order.
    pub fn sizes(&self) -> Vec<usize> {
        let calls = self.calls().into_iter().filter(|call| call.ok);
        calls.map(|call| call.ids.len()).collect()
    }

    /// How often each request was written.
    pub fn written(&self) -> BTreeMap<String, usize> {
        let mut written = BTreeMap::new();
        for call in self.calls().into_iter().filter(|call| call.ok) {
            for id in call.ids {
                *written.entry(id).or_default() += 1;
            }
        }
        written
    }
}

#[async_trait]
impl BatchWriter for Sink {
    const NAME: &'static str = Self::NAME;

    async fn write(
        &self,
        ctx: &WriteContext,
        requests: &[Request],
    ) -> Result<Vec<Written>, PageError> {
        self.inner.gate.acquire().await.unwrap().forget();
        let answer = (self.inner.answer)(ctx, requests);
        self.inner.calls.lock().unwrap().push(Call {
            key: (ctx.batch_key.clone(), ctx.attempt),
            ids: requests.iter().map(|request| request.id.clone()).collect(),
            bytes: serde_json::to_string(requests).unwrap().len(),
            ok: answer.is_ok(),
        });
        answer.map(|()| vec![Written::Now; requests.len()])
    }

    fn dead_letters(&self) -> Arc<dyn DeadLetters> {
        let path = self.inner.folder.path().join("letters.jsonl");
        Arc::new(JsonlDeadLetters::new(path))
    }
}
