//! The surroundings of a test: a batcher with a queue of its own, its worker, and requesting workflows.

use std::time::Duration;

use temporal_batch_batcher::{
    BatchWriter, Batcher, BatcherClient, BatcherWorker, Outcome, Request, RunningBatcherWorker,
    Stats,
};

use crate::{
    requesters::Requesters,
    sink::Sink,
    support::{PATIENCE, TestEnv, connect, eventually, server_address, within},
};

pub struct Town {
    pub env: TestEnv,
    pub batcher: Batcher,
}

impl Town {
    /// A batcher whose batches wait for longer than any test.
    pub async fn new(name: &str) -> Self {
        Self::writing(name, Sink::NAME).await
    }

    pub async fn writing(name: &str, writer: &str) -> Self {
        let env = TestEnv::new(name).await;
        let batcher = Batcher::new(&env.queue, writer, &env.queue);
        let batcher = batcher.max_wait(Duration::from_secs(3_600));
        Self { env, batcher }
    }

    pub fn with(mut self, settings: impl FnOnce(Batcher) -> Batcher) -> Self {
        self.batcher = settings(self.batcher);
        self
    }

    pub fn client(&self) -> BatcherClient {
        BatcherClient::new(&self.env.client, self.batcher.clone()).unwrap()
    }

    pub async fn worker<W: BatchWriter>(&self, writer: W) -> RunningBatcherWorker {
        let client = connect(server_address()).await;
        BatcherWorker::new(&client, &self.env.queue)
            .writer(writer)
            .drain_timeout(Duration::from_secs(5))
            .start()
            .unwrap()
    }

    pub async fn requesters(&self) -> Requesters {
        Requesters::start(&format!("{}-main", self.env.queue)).await
    }

    pub async fn submit(&self, requests: Vec<Request>) {
        self.client().submit_all(requests).await.unwrap();
    }

    pub async fn outcome(&self, id: &str) -> Outcome {
        let client = self.client();
        let waiting = client.wait(id, id, Duration::from_secs(150));
        within("the request has an outcome", waiting).await.unwrap()
    }

    pub async fn stats_show(&self, what: &str, shows: impl Fn(&Stats) -> bool) -> Stats {
        let client = self.client();
        eventually(what, || async {
            client.stats().await.ok().filter(|stats| shows(stats))
        })
        .await
    }

    pub async fn shut_down(&self) -> Stats {
        self.client().shut_down(PATIENCE).await.unwrap()
    }
}

pub fn requests(from: usize, to: usize) -> Vec<Request> {
    (from..to).map(request).collect()
}

pub fn request(i: usize) -> Request {
    Request::new(format!("r{i:05}"), serde_json::json!({ "n": i }))
}
