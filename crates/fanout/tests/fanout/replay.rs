//! Recorded histories are replayed with the current code: a change that would break a running fan-out fails here.
//!
//! `RECORD_HISTORIES=v1 cargo test --workspace --test fanout` records those of the folder `v1` again: the first, the second
//! and the last run.

use std::{
    collections::BTreeSet,
    io::{Read as _, Write as _},
    path::PathBuf,
};

use flate2::{Compression, read::GzDecoder, write::GzEncoder};
use temporal_batch_fanout::{Mode, OnFailure, replay_history};

use crate::{
    jobs::{Act, Work, fanout, job, jobs, report, run, start, worker_on},
    support::TestEnv,
};

/// The histories that are kept. Without the list a deleted history would go unnoticed.
const KEPT: [&str; 8] = [
    "over-runs-join-all",
    "over-runs-join-all-child",
    "over-runs-signals",
    "over-runs-signals-child",
    "retries",
    "retries-child",
    "fail-fast",
    "fail-fast-child",
];

fn folder() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/histories"))
}

fn recorded() -> Option<String> {
    std::env::var("RECORD_HISTORIES").ok()
}

#[tokio::test]
async fn recorded_histories_replay() {
    if recorded().is_some() {
        // The histories are being recorded.
        return;
    }
    let mut found = BTreeSet::new();
    for version in std::fs::read_dir(folder()).unwrap() {
        for file in std::fs::read_dir(version.unwrap().path()).unwrap() {
            let path = file.unwrap().path();
            let mut history = Vec::new();
            let file = std::fs::File::open(&path).unwrap();
            GzDecoder::new(file).read_to_end(&mut history).unwrap();
            if let Err(error) = replay_history(&history).await {
                panic!("{} does not replay: {error:?}", path.display());
            }
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            let (name, _run) = name.rsplit_once('-').unwrap();
            found.insert(name.to_owned());
        }
    }
    let kept: BTreeSet<_> = KEPT.into_iter().map(str::to_owned).collect();
    assert_eq!(found, kept);
}

/// Replays the histories of a workflow, and returns the number of its runs. While histories are recorded, those that are
/// listed are kept.
pub async fn replays(env: &TestEnv, workflow: &str, name: &str) -> usize {
    let histories = env.histories(workflow).await;
    for (i, history) in histories.iter().enumerate() {
        if let Err(error) = replay_history(history).await {
            panic!("run {i} of {name} does not replay: {error:?}");
        }
    }
    if let Some(version) = recorded().filter(|_| KEPT.contains(&name)) {
        let folder = folder().join(version);
        std::fs::create_dir_all(&folder).unwrap();
        for (i, history) in histories.iter().enumerate() {
            if i < 2 || i + 1 == histories.len() {
                let file =
                    std::fs::File::create(folder.join(format!("{name}-{i}.json.gz"))).unwrap();
                let mut gzip = GzEncoder::new(file, Compression::best());
                gzip.write_all(history).unwrap();
                gzip.finish().unwrap();
            }
        }
    }
    histories.len()
}

#[tokio::test]
async fn a_fan_out_with_retries_and_failures_replays() {
    let env = TestEnv::new("replay").await;
    let _worker = worker_on(&env.queue, &Work::new()).await;
    let mut items = jobs(3);
    items.push(job("RETRIED", Act::FailFirst(2)));
    items.push(job("BAD", Act::Decline));
    let fanout = fanout(&env, items).mode(Mode::Signals);
    let handle = start(&env, &fanout).await;
    handle.progress_by_update().await.unwrap();
    report(&handle).await;
    replays(&env, handle.id(), "retries").await;
    replays(&env, &handle.child_id("RETRIED"), "retries-child").await;
}

#[tokio::test]
async fn a_fan_out_that_fails_fast_replays() {
    let env = TestEnv::new("replay").await;
    let work = Work::new();
    let _worker = worker_on(&env.queue, &work).await;
    let items = vec![
        job("A", Act::WaitFor("never".to_owned())),
        job("BAD", Act::Decline),
    ];
    let fanout = fanout(&env, items).on_failure(OnFailure::FailFast);
    let handle = start(&env, &fanout).await;
    report(&handle).await;
    replays(&env, handle.id(), "fail-fast").await;
    replays(&env, &handle.child_id("A"), "fail-fast-child").await;
}

#[tokio::test]
async fn a_history_of_other_decisions_does_not_replay() {
    let env = TestEnv::new("replay").await;
    let _worker = worker_on(&env.queue, &Work::new()).await;
    let fanout = fanout(&env, jobs(1));
    run(&env, &fanout).await;
    let history = env.histories(fanout.id()).await.remove(0);
    let text = String::from_utf8(history).unwrap();
    let changed = text.replace("/item/ITEM-001", "/item/ITEM-002");
    assert_ne!(text, changed);
    assert!(replay_history(changed.as_bytes()).await.is_err());
}
