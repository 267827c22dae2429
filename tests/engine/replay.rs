//! Recorded histories are replayed with the current code: a change that would break a running batch fails here.
//!
//! Tests of the engine end with [`replays`]. `tests/histories/list.txt` lists the histories that are kept.
//! `RECORD_HISTORIES=v1 cargo test --test engine` records those of the folder `v1` again: the first, the second and the
//! last run of each batch, since the runs between are like them.

use std::{
    collections::BTreeSet,
    io::{Read as _, Write as _},
    path::PathBuf,
    time::Duration,
};

use flate2::{Compression, read::GzDecoder, write::GzEncoder};
use temporal_batch::{PageError, PageReport, settings::ExtendedRetries, testing::replay_history};

use crate::{
    numbers_processor::{NumbersProcessor, UpTo, quick_retries},
    support::{TestEnv, report},
};

/// The histories that are kept, one for each line. Without the list a deleted history would go unnoticed.
const KEPT: &str = include_str!("../histories/list.txt");

fn folder() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/histories"))
}

/// The folder whose histories are being recorded, if any.
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
    let mut failed = Vec::new();
    for version in std::fs::read_dir(folder()).unwrap() {
        let version = version.unwrap().path();
        if !version.is_dir() {
            continue;
        }
        for file in std::fs::read_dir(version).unwrap() {
            let path = file.unwrap().path();
            let mut history = Vec::new();
            let file = std::fs::File::open(&path).unwrap();
            GzDecoder::new(file).read_to_end(&mut history).unwrap();
            let name = path.strip_prefix(folder()).unwrap();
            let name = name.to_str().unwrap().replace('\\', "/");
            if let Err(error) = replay_history(&history).await {
                failed.push(format!("{name}: {error}"));
            }
            let (name, _run) = name.rsplit_once('-').unwrap();
            found.insert(name.to_owned());
        }
    }
    assert!(failed.is_empty(), "these do not replay: {failed:#?}");
    let kept: BTreeSet<_> = KEPT.lines().map(str::to_owned).collect();
    assert!(!kept.is_empty(), "there are no histories");
    let lost: Vec<_> = kept.difference(&found).collect();
    assert!(lost.is_empty(), "these histories are gone: {lost:#?}");
    let unlisted: Vec<_> = found.difference(&kept).collect();
    assert!(
        unlisted.is_empty(),
        "add these to tests/histories/list.txt: {unlisted:#?}"
    );
}

/// A history recorded just now replays too.
#[tokio::test]
async fn a_fresh_history_of_an_eventful_batch_replays() {
    let env = TestEnv::new("replay").await;
    let numbers = NumbersProcessor::new()
        .skipping_ahead()
        .settings(|s| {
            s.retry = quick_retries()
                .max_attempts(2)
                .extended(Some(ExtendedRetries {
                    interval: Duration::from_secs(1),
                    max_attempts: Some(1),
                }));
        })
        .on_process(|seen| async move {
            match seen.start {
                30 if seen.times <= 2 => Err(PageError::retryable("slow lane")),
                60 => Err(PageError::non_retryable("Poison", "given up")),
                _ => Ok(PageReport::all_processed()),
            }
        });
    let _worker = env.worker(numbers).await;
    let batch = env
        .batch::<NumbersProcessor>(UpTo { n: 200 })
        .page_size(10)
        .stride(2)
        .pages_per_run(6)
        .max_parallelism(0)
        .rate(10_000.0);
    let handle = env.start(&batch).await;
    handle.accepted().await.unwrap();
    handle.set_max_parallelism(4).await.unwrap();
    handle.pause("for the record").await.unwrap();
    handle.resume().await.unwrap();
    let report = report(&handle).await;
    assert_eq!(report.progress.pages_completed, 19, "{report:#?}");
    assert!(report.progress.runs > 1);

    assert_eq!(
        replays(&env, batch.id(), "eventful").await,
        report.progress.runs as usize
    );
}

/// Replays the history of a test's batch, and returns the number of its runs. While histories are recorded, those whose
/// names are listed are kept.
pub async fn replays(env: &TestEnv, batch_id: &str, name: &str) -> usize {
    let histories = env.histories(batch_id).await;
    for (i, history) in histories.iter().enumerate() {
        if let Err(error) = replay_history(history).await {
            panic!("run {i} of {name} does not replay: {error:?}");
        }
    }
    if let Some(version) = recorded() {
        let name = format!("{version}/{name}");
        if KEPT.lines().any(|kept| kept == name) {
            keep(&histories, &name);
        }
    }
    histories.len()
}

fn keep(histories: &[Vec<u8>], name: &str) {
    for i in 0..1_000 {
        let path = folder().join(format!("{name}-{i}.json.gz"));
        // An earlier recording may have had more runs.
        let _ = std::fs::remove_file(&path);
        if i < histories.len() && (i < 2 || i + 1 == histories.len()) {
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            let file = std::fs::File::create(path).unwrap();
            let mut gzip = GzEncoder::new(file, Compression::best());
            gzip.write_all(&histories[i]).unwrap();
            gzip.finish().unwrap();
        }
    }
}

#[tokio::test]
async fn a_history_of_other_decisions_does_not_replay() {
    let env = TestEnv::new("replay-not").await;
    let _worker = env.worker(NumbersProcessor::new()).await;
    let batch = env.batch::<NumbersProcessor>(UpTo { n: 3 });
    env.run(&batch).await;
    let history = env.histories(batch.id()).await.remove(0);
    // The events are the same, except for an activity that the controller never schedules at this point.
    let text = String::from_utf8(history).unwrap();
    let changed = text.replace("temporal-batch.stride", "temporal-batch.prepare");
    assert_ne!(text, changed);
    assert!(replay_history(changed.as_bytes()).await.is_err());
}
