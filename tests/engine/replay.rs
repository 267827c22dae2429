//! Recorded histories are replayed with the code as it is now: a change that would confuse a running
//! batch fails here.
//!
//! Tests of the engine end with [`replays`]. `tests/histories/list.txt` says which of these histories are kept, and
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
    numbers_processor::{NumbersProcessor as Numbers, UpTo, quick_retries},
    support::{TestEnv as Bed, report},
};

/// The histories that are kept, one a line. A history that is lost would be a promise that nothing tests any more.
const KEPT: &str = include_str!("../histories/list.txt");

fn folder() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/histories"))
}

/// The folder whose histories are recorded, if any are.
fn recorded() -> Option<String> {
    std::env::var("RECORD_HISTORIES").ok()
}

#[tokio::test]
async fn recorded_histories_replay() {
    if recorded().is_some() {
        // They are being written.
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

/// A history of this very moment replays too.
#[tokio::test]
async fn a_fresh_history_of_an_eventful_batch_replays() {
    let bed = Bed::new("replay").await;
    let numbers = Numbers::new()
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
    let _worker = bed.worker(numbers).await;
    let batch = bed
        .batch::<Numbers>(UpTo { n: 200 })
        .page_size(10)
        .stride(2)
        .pages_per_run(6)
        .max_parallelism(0)
        .rate(10_000.0);
    let handle = bed.start(&batch).await;
    handle.accepted().await.unwrap();
    handle.set_max_parallelism(4).await.unwrap();
    handle.pause("for the record").await.unwrap();
    handle.resume().await.unwrap();
    let report = report(&handle).await;
    assert_eq!(report.progress.pages_completed, 19, "{report:#?}");
    assert!(report.progress.runs > 1);

    assert_eq!(
        replays(&bed, batch.id(), "eventful").await,
        report.progress.runs as usize
    );
}

/// Replays what a test's batch has just left behind, and counts its runs. While histories are recorded, those with a name
/// that is listed are kept.
pub async fn replays(bed: &Bed, batch_id: &str, name: &str) -> usize {
    let histories = bed.histories(batch_id).await;
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
        // From the last time, when there may have been more runs.
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
    let bed = Bed::new("replay-not").await;
    let _worker = bed.worker(Numbers::new()).await;
    let batch = bed.batch::<Numbers>(UpTo { n: 3 });
    bed.run(&batch).await;
    let history = bed.histories(batch.id()).await.remove(0);
    // The same events, but with a stride that no controller would have asked for.
    let text = String::from_utf8(history).unwrap();
    let changed = text.replace("temporal-batch.stride", "temporal-batch.prepare");
    assert_ne!(text, changed);
    assert!(replay_history(changed.as_bytes()).await.is_err());
}
