//! The sample without a Temporal server: the file, the API, and a whole batch.

use std::path::Path;

use temporal_batch::{
    Batch, Outcome, PageRange,
    files::CsvSource,
    testing::{Simulator, run_page},
};

use super::{
    demo,
    enrich::{Enrich, EnrichArgs},
    mock_api::{self, MockApi},
    result::{self, Counts},
    users::{self, User},
};

fn api(fail_rate: f64) -> MockApi {
    MockApi {
        fail_rate,
        latency_ms: 0..=2,
        seed: 42,
    }
}

/// Serves the API, and makes the arguments for a file with this content.
async fn args(dir: &Path, content: &str, fail_rate: f64) -> EnrichArgs {
    let (listener, address) = mock_api::listen(0).await.unwrap();
    tokio::spawn(api(fail_rate).serve(listener));
    let file = dir.join("users.csv");
    std::fs::write(&file, content).unwrap();
    EnrichArgs {
        users: CsvSource::new(&file),
        api: format!("http://{address}"),
        out: dir.join("out"),
        failed: dir.join("failed.jsonl"),
    }
}

#[test]
fn the_api_answers_the_same_for_the_same_seed_and_fails_for_a_tenth() {
    let fails = |api: &MockApi| (1..=1_000).filter(|id| api.fails_for(*id)).count();
    assert_eq!(fails(&api(0.1)), FAILED);
    assert_eq!(
        fails(&MockApi {
            seed: 43,
            ..api(0.1)
        }),
        106
    );
    assert_eq!((fails(&api(0.0)), fails(&api(1.0))), (0, 1_000));
    let slow = MockApi {
        latency_ms: 200..=500,
        ..api(0.1)
    };
    for id in 1..=1_000 {
        let (_, _, latency) = slow.answer(&format!("/users/{id}/DE"));
        assert!((200..=500).contains(&latency.as_millis()), "{latency:?}");
        assert_eq!(slow.answer(&format!("/users/{id}/DE")).2, latency);
    }
}

/// The number of users from 1 to 1,000 for which the API fails with seed 42.
const FAILED: usize = 103;

#[tokio::test]
async fn all_users_are_in_the_result_and_the_counts_add_up() {
    let dir = tempfile::tempdir().unwrap();
    let args = args(dir.path(), &users::csv(1_000, 42), 0.1).await;
    let enrich = Enrich::new().unwrap();
    let batch = Batch::of::<Enrich>("golden", args.clone()).page_size(100);
    let batch = batch.check_at_end(true);
    let run = Simulator::new().run(&enrich, &batch).await.unwrap();
    assert_eq!(run.outcome, Outcome::CompletedWithFailures);
    assert_eq!(run.items.failed, FAILED as u64);
    let Counts {
        enriched,
        unenriched,
        pages,
    } = result::read(&args.out).unwrap();
    assert_eq!((enriched, unenriched), (1_000 - FAILED, FAILED));
    let rows: Vec<_> = pages.iter().map(|(yes, no)| yes + no).collect();
    assert_eq!(rows, [100; 10]);
    let unknown = pages.iter().map(|(_, no)| no).sum::<usize>();
    assert_eq!(unknown, FAILED);
    let failed = std::fs::read_to_string(&args.failed).unwrap();
    assert_eq!(failed.lines().count(), FAILED);
    assert!(failed.contains("Http500") && failed.contains("the region service failed"));
}

/// The demo and the README stop at 20 % of failed users.
#[tokio::test]
async fn the_batch_stops_when_the_api_is_down() {
    let dir = tempfile::tempdir().unwrap();
    let args = args(dir.path(), &users::csv(1_000, 42), 1.0).await;
    let enrich = Enrich::new().unwrap();
    let batch = Batch::of::<Enrich>("down", args.clone())
        .page_size(100)
        .stride(1)
        .max_parallelism(2)
        .tolerate(demo::tolerance(20.0));
    let run = Simulator::new().run(&enrich, &batch).await.unwrap();
    assert_eq!(run.outcome, Outcome::Stopped);
    assert!(run.items.failed > 0, "{:?}", run.items);
    // The pages that were in flight end, and nothing else begins.
    assert!(run.items.total() <= 200, "{:?}", run.items);
    let unfinished = result::read(&args.out).unwrap_err().to_string();
    assert!(unfinished.contains("not complete"), "{unfinished}");
}

#[tokio::test]
async fn a_user_gets_the_region_or_unknown() {
    let content = "id,name,country\n1,Ann,DE\n";
    for (fail_rate, region, enriched) in [(0.0, "EU", true), (1.0, "UNKNOWN", false)] {
        let dir = tempfile::tempdir().unwrap();
        let args = args(dir.path(), content, fail_rate).await;
        let page = run_page(&Enrich::new().unwrap(), args.clone(), None)
            .await
            .unwrap();
        assert_eq!(page.counts.failed, u64::from(!enriched));
        let line = format!(
            "{{\"id\":1,\"name\":\"Ann\",\"country\":\"DE\",\"region\":\"{region}\",\"enriched\":{enriched}}}"
        );
        assert!(parts(&args.out).contains(&line), "{}", parts(&args.out));
    }
}

/// The content of all files below a directory.
fn parts(dir: &Path) -> String {
    let mut text = String::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => text.push_str(&parts(&path)),
            false => text.push_str(&String::from_utf8_lossy(&std::fs::read(path).unwrap())),
        }
    }
    text
}

/// The users of a file, read in pages of this size.
async fn read(content: &str, size: usize) -> (Vec<User>, Vec<usize>) {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("users.csv");
    std::fs::write(&file, content).unwrap();
    let source = CsvSource::new(&file).prepare().await.unwrap();
    let (mut users, mut sizes, mut start) = (Vec::new(), Vec::new(), None);
    loop {
        let range = PageRange::new(start, None);
        let page = source.page::<User>(&range, size).await.unwrap();
        let records = page.items().iter();
        users.extend(records.map(|record| record.content().unwrap().clone()));
        if !page.items().is_empty() {
            sizes.push(page.items().len());
        }
        match page.next() {
            temporal_batch::Next::At(next) => start = Some(*next),
            temporal_batch::Next::End => return (users, sizes),
        }
    }
}

#[tokio::test]
async fn pages_of_every_size_have_all_users() {
    let content = users::csv(25, 42);
    let (all, _) = read(&content, 1_000).await;
    assert_eq!(all.len(), 25);
    for (size, last) in [(1, 1), (10, 5), (25, 25), (100, 25)] {
        let (users, sizes) = read(&content, size).await;
        assert_eq!(users, all, "pages of {size}");
        assert_eq!(sizes.last(), Some(&last), "pages of {size}");
    }
    assert_eq!(read("id,name,country\n", 10).await.0, []);
    assert_eq!(read("", 10).await.0, []);
    let crlf = content.replace('\n', "\r\n");
    assert_eq!(read(&crlf, 10).await.0, all);
    let names: Vec<_> = all.iter().map(|user| user.name.as_str()).collect();
    assert!(
        names.contains(&"Bo, jr.") && names.contains(&"\"Dee\""),
        "{names:?}"
    );
}
