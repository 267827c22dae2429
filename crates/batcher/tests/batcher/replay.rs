//! Recorded histories are replayed with the current code: a change that would break a running batcher, or a workflow
//! that submits to one, fails here.
//!
//! `RECORD_HISTORIES=v1 cargo test --workspace --test batcher` records the histories of the folder `v1` again.

use std::{
    io::{Read as _, Write as _},
    path::PathBuf,
    time::Duration,
};

use flate2::{Compression, read::GzDecoder, write::GzEncoder};
use temporal_batch_batcher::replay_history;
use temporalio_client::WorkflowHistory;
use temporalio_sdk::workflow_replayer::{WorkflowReplayer, WorkflowReplayerOptions};

use crate::{
    requesters::{PlaceOrder, answer},
    sink::Sink,
    support::TestEnv,
    town::{Town, request},
};

/// The histories that are kept. Without the list a deleted one would go unnoticed.
const KEPT: [&str; 4] = ["fifty-0", "requester-0", "runs-0", "runs-1"];

fn folder() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/histories"))
}

fn recorded() -> Option<String> {
    std::env::var("RECORD_HISTORIES").ok()
}

async fn replay_requester(history: &[u8]) -> Result<(), Box<dyn std::error::Error>> {
    let options = WorkflowReplayerOptions::new()
        .register_workflow::<PlaceOrder>()?
        .build();
    let history = WorkflowHistory::from_json(history)?;
    Ok(WorkflowReplayer::new(options)?
        .replay_workflow(history)
        .await?)
}

#[tokio::test]
async fn recorded_histories_of_batchers_and_requesters_replay() {
    if recorded().is_some() {
        return;
    }
    for version in std::fs::read_dir(folder()).unwrap() {
        for name in KEPT {
            let path = version
                .as_ref()
                .unwrap()
                .path()
                .join(format!("{name}.json.gz"));
            let file = std::fs::File::open(&path).unwrap_or_else(|e| panic!("{path:?}: {e}"));
            let mut history = Vec::new();
            GzDecoder::new(file).read_to_end(&mut history).unwrap();
            if name.starts_with("requester") {
                replay_requester(&history).await.unwrap();
            } else {
                replay_history(&history).await.unwrap();
            }
        }
    }
}

/// Replays the histories of a shard, and returns the number of its runs. While histories are recorded, those that are
/// listed are kept.
pub async fn replays(env: &TestEnv, id: &str, name: &str) -> usize {
    let histories = env.histories(id).await;
    for (run, history) in histories.iter().enumerate() {
        if let Err(error) = replay_history(history).await {
            panic!("run {run} of {name} does not replay: {error:?}");
        }
        keep(&format!("{name}-{run}"), history);
    }
    histories.len()
}

fn keep(name: &str, history: &[u8]) {
    let Some(version) = recorded().filter(|_| KEPT.contains(&name)) else {
        return;
    };
    let path = folder().join(version).join(format!("{name}.json.gz"));
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    let file = std::fs::File::create(path).unwrap();
    let mut gzip = GzEncoder::new(file, Compression::best());
    gzip.write_all(history).unwrap();
    gzip.finish().unwrap();
}

#[tokio::test]
async fn a_fresh_history_of_a_requester_replays() {
    let town = Town::new("requester").await.with(|b| b.max_batch(1));
    let _worker = town.worker(Sink::new()).await;
    let requesters = town.requesters().await;
    let long = Duration::from_secs(150);
    let requesting = requesters.request(&town.batcher, request(0), long).await;
    assert_eq!(answer(&requesting).await, "prepared, written, finished");
    let id = format!("{}-main-r00000", town.env.queue);
    let histories = town.env.histories(&id).await;
    replay_requester(&histories[0]).await.unwrap();
    keep("requester-0", &histories[0]);
    town.shut_down().await;
}
