//! The sink on real directories, with attempts that are lost, come late and cut freely.

use std::{collections::BTreeMap, fs, path::Path, sync::Arc};

use async_trait::async_trait;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::{
    files::{
        Manifest,
        sink::{concatenate::concatenate, finish::Step},
    },
    page::range::PageRange,
    processor::{
        context::PageTokens, item::ItemWork, report::PageReport, stop_signal::Interruption,
    },
};

/// A processor of numbers, of which only the contexts are used.
struct Numbers;

#[async_trait]
impl PageProcessor for Numbers {
    const NAME: &'static str = "numbers";
    type Args = ();
    type Cursor = u32;
    type Item = u32;

    async fn fetch(&self, _: &PageContext<Self>) -> Result<Page<u32, u32>, PageError> {
        Ok(Page::empty())
    }

    async fn process(&self, _: &PageContext<Self>, _: Vec<u32>) -> Result<PageReport, PageError> {
        Ok(PageReport::all_processed())
    }
}

fn token(n: u32) -> Option<PageToken> {
    (n > 0).then(|| PageToken::encode(&n).unwrap())
}

/// Returns the context of a page. A bound of 0 stands for no bound.
fn context(run: &str, stride: u64, (start, end): (u32, u32)) -> PageContext<Numbers> {
    PageContext {
        args: Arc::new(()),
        range: PageRange::new((start > 0).then_some(start), (end > 0).then_some(end)),
        page: Some(PageTokens {
            start: token(start),
            end: token(end),
        }),
        alone: false,
        with_keys: false,
        page_size: 10,
        attempt: 1,
        stride,
        batch_id: "batch".into(),
        batch_run: run.into(),
        cancelled: Interruption::never(),
        transaction: None,
        partition: None,
        bounds: None,
        items: ItemWork::none(),
    }
}

fn check_context(run: &str) -> CheckContext<Numbers> {
    CheckContext {
        args: Arc::new(()),
        batch_id: "batch".into(),
        batch_run: run.into(),
        covered_from: None,
        covered_to: None,
        cancelled: Interruption::never(),
    }
}

fn format() -> PartFormat {
    PartFormat::csv(["n", "attempt"])
}

/// Returns the records of a page: every third number is missing.
fn records((start, end): (u32, u32), attempt: usize) -> Vec<Value> {
    (start + 1..=end)
        .filter(|n| n % 3 != 0)
        .map(|n| json!({"n": n, "attempt": attempt}))
        .collect()
}

async fn page(sink: &PartSink, stride: u64, range: (u32, u32), attempt: usize) {
    let ctx = context("run", stride, range);
    let records = records(range, attempt);
    if records.is_empty() {
        sink.fetched(&ctx, &Page::empty()).await.unwrap();
    } else {
        sink.write(&ctx, &records).await.unwrap();
    }
}

async fn end(sink: &PartSink, stride: u64, at: u32) {
    let ctx = context("run", stride, (at, 0));
    sink.fetched(&ctx, &Page::empty()).await.unwrap();
}

fn files(directory: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

fn numbers(text: &str) -> Vec<u32> {
    let mut lines = text.lines();
    assert_eq!(lines.next(), Some("n,attempt"));
    lines
        .map(|line| line.split(',').next().unwrap().parse().unwrap())
        .collect()
}

/// Returns the result of the sink without records that were given up.
fn finishing(sink: &PartSink, missing: Vec<Link>) -> Finishing {
    Finishing {
        directory: sink.directory.clone(),
        format: sink.format.clone(),
        gzip: sink.gzip,
        concatenate: None,
        start: None,
        encodings: Vec::new(),
        owner: Owner {
            batch_id: "batch".to_owned(),
            batch_run: "run".to_owned(),
        },
        missing,
    }
}

#[tokio::test]
async fn records_so_far_are_one_file_until_it_no_longer_says_what_is_there() {
    let root = tempfile::tempdir().unwrap();
    let directory = root.path().join("squares");
    let sink = PartSink::new(&directory, format());
    page(&sink, 1, (0, 10), 1).await;
    page(&sink, 2, (20, 30), 1).await;
    end(&sink, 3, 30).await;
    let given_up = Link {
        start: token(10),
        end: token(20),
        stride: 1,
        written: 0,
        alone: true,
    };
    let finishing = finishing(&sink, vec![given_up]);
    let stop = AtomicBool::new(false);
    let not_finished = || match finishing.run(&stop) {
        Ok(check) => assert!(!check.holds()),
        Err(_) => panic!("the result was not looked at"),
    };
    not_finished();
    let so_far = directory.join("so-far.csv");
    let expected: Vec<_> = (1..=10).chain(21..=30).filter(|n| n % 3 != 0).collect();
    assert_eq!(numbers(&fs::read_to_string(&so_far).unwrap()), expected);
    // A part is lost, which no dead letter explains.
    let working = directory.join(".temporal-batch");
    let parts = files(&working)
        .into_iter()
        .filter(|file| file.ends_with(".csv"));
    for part in parts.take(1) {
        fs::remove_file(working.join(part)).unwrap();
    }
    not_finished();
    assert!(!so_far.exists());
}

#[tokio::test]
async fn a_finished_result_has_its_parts_in_order_and_says_so() {
    let root = tempfile::tempdir().unwrap();
    let directory = root.path().join("squares");
    let one_file = root.path().join("all.csv");
    let sink = PartSink::new(&directory, format()).concatenate(&one_file);
    page(&sink, 2, (20, 40), 1).await;
    page(&sink, 1, (0, 10), 1).await;
    page(&sink, 1, (10, 20), 1).await;
    // The same page makes the same file.
    page(&sink, 1, (10, 20), 2).await;
    assert_eq!(files(&directory), [".temporal-batch"]);
    let working = directory.join(".temporal-batch");
    assert_eq!(
        files(&working)
            .iter()
            .filter(|f| f.ends_with(".csv"))
            .count(),
        3
    );

    let check = sink.finish(&check_context("run")).await.unwrap().unwrap();
    assert!(!check.holds());
    assert!(
        check.failed[0].message.contains("PartSink::fetched"),
        "{check:?}"
    );
    end(&sink, 3, 40).await;
    let check = sink.finish(&check_context("run")).await.unwrap().unwrap();
    assert!(check.holds());
    assert_eq!((check.ranges, check.items), (3, Some(27)));
    assert_eq!(
        files(&directory),
        [
            "manifest.json",
            "part-00000001.csv",
            "part-00000002.csv",
            "part-00000003.csv"
        ]
    );
    let manifest = Manifest::read(&directory).unwrap().unwrap();
    assert_eq!((manifest.records, manifest.orphans), (27, 0));
    assert_eq!(manifest.parts[0].start, None);
    assert_eq!(manifest.parts[1].start, token(10));
    assert_eq!(manifest.parts[2].end, None);
    let second = fs::read_to_string(directory.join("part-00000002.csv")).unwrap();
    assert!(second.starts_with("n,attempt\n11,2\n"), "{second}");
    let all = fs::read_to_string(&one_file).unwrap();
    let expected: Vec<u32> = (1..=40).filter(|n| n % 3 != 0).collect();
    assert_eq!(numbers(&all), expected);
    let concatenated = manifest.concatenated.as_ref().unwrap();
    assert_eq!(
        (concatenated.records, concatenated.bytes),
        (27, all.len() as u64)
    );
    let again = concatenate(&directory, root.path().join("again.csv")).unwrap();
    assert_eq!(again.sha256, concatenated.sha256);

    // Nothing can be added, and changes are noticed.
    let ctx = context("run", 3, (40, 50));
    let late = sink.write(&ctx, &records((40, 50), 1)).await.unwrap_err();
    assert_eq!(
        (late.error_type(), late.is_retryable()),
        ("DirectoryFinished", false)
    );
    assert!(
        sink.finish(&check_context("run"))
            .await
            .unwrap()
            .unwrap()
            .holds()
    );
    fs::write(directory.join("part-00000001.csv"), second).unwrap();
    fs::remove_file(directory.join("part-00000003.csv")).unwrap();
    let check = sink.finish(&check_context("run")).await.unwrap().unwrap();
    assert_eq!(check.failed_ranges, 2);
    assert!(
        check.failed[1]
            .message
            .contains("part-00000003.csv is missing")
    );
    assert!(
        concatenate(&directory, &one_file)
            .unwrap_err()
            .to_string()
            .contains("part-00000001")
    );
    assert_eq!(fs::read_to_string(&one_file).unwrap(), all);
}

#[tokio::test]
async fn nothing_half_written_is_left_beside_a_finished_result() {
    let root = tempfile::tempdir().unwrap();
    let directory = root.path().join("squares");
    let sink = PartSink::new(&directory, format());
    page(&sink, 1, (0, 10), 1).await;
    end(&sink, 1, 10).await;
    // Leftovers of processes that were lost while they claimed the directory, or wrote the manifest.
    fs::create_dir(directory.join(".temporal-batch-abc")).unwrap();
    fs::write(directory.join(".temporal-batch-abc/owner.json"), "{").unwrap();
    fs::write(directory.join(".tmp-abc"), "{").unwrap();
    let check = sink.finish(&check_context("run")).await.unwrap().unwrap();
    assert!(check.holds());
    assert_eq!(files(&directory), ["manifest.json", "part-00000001.csv"]);
}

#[cfg(unix)]
#[tokio::test]
async fn a_directory_with_a_link_in_place_of_its_own_is_refused() {
    let root = tempfile::tempdir().unwrap();
    let (directory, elsewhere) = (root.path().join("squares"), root.path().join("elsewhere"));
    fs::create_dir(&directory).unwrap();
    fs::create_dir(&elsewhere).unwrap();
    let owner = r#"{"batch_id": "batch", "batch_run": "run"}"#;
    fs::write(elsewhere.join("owner.json"), owner).unwrap();
    std::os::unix::fs::symlink(&elsewhere, directory.join(".temporal-batch")).unwrap();
    let sink = PartSink::new(&directory, format());
    let ctx = context("run", 1, (0, 10));
    let refused = sink.write(&ctx, &records((0, 10), 1)).await.unwrap_err();
    assert_eq!(refused.error_type(), "DirectoryNotEmpty");
    assert_eq!(files(&elsewhere), ["owner.json"]);
}

#[tokio::test]
async fn compressed_parts_are_the_same_bytes_every_time() {
    let root = tempfile::tempdir().unwrap();
    let mut sums = Vec::new();
    for name in ["a", "b"] {
        let directory = root.path().join(name);
        let file = root.path().join(format!("{name}.gz"));
        let sink = PartSink::new(&directory, format())
            .gzip(true)
            .concatenate(&file);
        page(&sink, 1, (0, 10), 1).await;
        page(&sink, 1, (10, 20), 1).await;
        end(&sink, 1, 20).await;
        assert!(
            sink.finish(&check_context("run"))
                .await
                .unwrap()
                .unwrap()
                .holds()
        );
        let manifest = Manifest::read(&directory).unwrap().unwrap();
        assert_eq!(manifest.parts[1].file.file, "part-00000002.csv.gz");
        assert!(manifest.verify(&directory).unwrap().is_empty());
        let mut text = String::new();
        let read = fs::File::open(&file).unwrap();
        let mut read = flate2::read::GzDecoder::new(read);
        std::io::Read::read_to_string(&mut read, &mut text).unwrap();
        assert_eq!(numbers(&text).len(), 14);
        sums.push(
            manifest
                .parts
                .into_iter()
                .map(|p| p.file.sha256)
                .collect::<Vec<_>>(),
        );
        // A half-written manifest does not count.
        let part = directory.join("part-00000001.csv.gz");
        let bytes = fs::read(&part).unwrap();
        fs::write(&part, &bytes[..bytes.len() - 9]).unwrap();
        assert!(
            !sink
                .finish(&check_context("run"))
                .await
                .unwrap()
                .unwrap()
                .holds()
        );
    }
    assert_eq!(sums[0], sums[1]);
}

#[tokio::test]
async fn a_directory_belongs_to_one_batch_run() {
    let root = tempfile::tempdir().unwrap();
    let taken = root.path().join("taken");
    let sink = PartSink::new(&taken, format());
    page(&sink, 1, (0, 10), 1).await;
    let other = context("other", 1, (0, 10));
    let refused = sink.write(&other, &records((0, 10), 1)).await.unwrap_err();
    assert_eq!(
        (refused.error_type(), refused.is_retryable()),
        ("DirectoryTaken", false)
    );
    assert!(refused.message().contains("\"batch\""));
    let check = sink.finish(&check_context("other")).await.unwrap().unwrap();
    assert!(!check.holds() && check.failed[0].message.contains("batch run run"));

    let full = root.path().join("full");
    fs::create_dir(&full).unwrap();
    fs::write(full.join("notes.txt"), "mine").unwrap();
    let sink = PartSink::new(&full, format());
    let refused = sink.fetched(&other, &Page::empty()).await.unwrap_err();
    assert_eq!(refused.error_type(), "DirectoryNotEmpty");
    assert!(refused.message().contains("notes.txt"));
    assert_eq!(files(&full), ["notes.txt"]);

    // Of two simultaneous claims, one succeeds.
    let raced = root.path().join("raced");
    let sink = PartSink::new(&raced, format());
    let runs: Vec<String> = (0..8).map(|n| format!("run-{n}")).collect();
    let writes = runs.iter().map(|run| {
        let sink = sink.clone();
        async move {
            sink.write(&context(run, 1, (0, 10)), &records((0, 10), 1))
                .await
        }
    });
    let outcomes = futures::future::join_all(writes).await;
    assert_eq!(outcomes.iter().filter(|o| o.is_ok()).count(), 1);
    for refused in outcomes.iter().filter_map(|o| o.as_ref().err()) {
        assert_eq!(refused.error_type(), "DirectoryTaken", "{refused}");
    }
    assert_eq!(files(&raced), [".temporal-batch"]);
}

#[tokio::test]
async fn what_the_file_system_refuses_can_be_tried_again() {
    let root = tempfile::tempdir().unwrap();
    let file = root.path().join("file");
    fs::write(&file, "").unwrap();
    let sink = PartSink::new(file.join("below"), format());
    let ctx = context("run", 1, (0, 10));
    let refused = sink.write(&ctx, &records((0, 10), 1)).await.unwrap_err();
    assert!(refused.is_retryable());
    assert!(
        refused.message().contains("/file: not a directory"),
        "{refused}"
    );
    for (kind, error_type) in [
        (io::ErrorKind::StorageFull, "DiskFull"),
        (io::ErrorKind::QuotaExceeded, "DiskFull"),
        (io::ErrorKind::PermissionDenied, "PermissionDenied"),
        (io::ErrorKind::ReadOnlyFilesystem, "PermissionDenied"),
        (io::ErrorKind::Other, "FileError"),
    ] {
        let error = SinkError::io("write", &file)(kind.into()).into_page_error();
        assert_eq!(
            (error.error_type(), error.is_retryable()),
            (error_type, true)
        );
    }
    // `fetch` has no page to write.
    let mut ctx = context("run", 1, (0, 10));
    ctx.page = None;
    let refused = sink.write(&ctx, &records((0, 10), 1)).await.unwrap_err();
    assert_eq!(refused.error_type(), "NotInProcess");
}

#[tokio::test]
async fn a_record_that_comes_after_the_part_of_its_page_is_not_lost_silently() {
    let root = tempfile::tempdir().unwrap();
    let sink = PartSink::new(root.path().join("parts"), format());
    page(&sink, 1, (0, 10), 1).await;
    end(&sink, 1, 10).await;
    // The page was written without this record, which is now redriven.
    for range in [(0, 10), (3, 4)] {
        let mut ctx = context("run", 1, range);
        ctx.alone = true;
        sink.write(&ctx, &[json!({"n": 4, "attempt": 2})])
            .await
            .unwrap();
    }
    let check = sink.finish(&check_context("run")).await.unwrap().unwrap();
    assert_eq!(check.failed_ranges, 2);
    assert!(check.failed[0].message.contains("redriven"));

    // A record that was split off has a place of its own.
    let sink = PartSink::new(root.path().join("split"), format());
    page(&sink, 1, (0, 3), 1).await;
    page(&sink, 1, (4, 10), 1).await;
    end(&sink, 1, 10).await;
    let check = sink.finish(&check_context("run")).await.unwrap().unwrap();
    assert!(
        check.failed[0]
            .message
            .contains("from cursor 3 to cursor 4"),
        "{check:?}"
    );
    let mut ctx = context("run", 1, (3, 4));
    ctx.alone = true;
    sink.write(&ctx, &[json!({"n": 4, "attempt": 2})])
        .await
        .unwrap();
    assert!(
        sink.finish(&check_context("run"))
            .await
            .unwrap()
            .unwrap()
            .holds()
    );
}

#[tokio::test]
async fn an_empty_result_is_a_result() {
    let root = tempfile::tempdir().unwrap();
    let one_file = root.path().join("all.csv");
    let sink = PartSink::new(root.path().join("none"), format()).concatenate(&one_file);
    end(&sink, 1, 0).await;
    let check = sink.finish(&check_context("run")).await.unwrap().unwrap();
    assert!(check.holds());
    assert_eq!(fs::read_to_string(one_file).unwrap(), "n,attempt\n");
    // A batch that never ran has no parts.
    let sink = PartSink::new(root.path().join("never"), format());
    assert!(
        !sink
            .finish(&check_context("run"))
            .await
            .unwrap()
            .unwrap()
            .holds()
    );
}

/// An attempt at a stride: the sizes of its finished pages, and the number of them that the next attempt does not
/// know.
#[derive(Clone, Debug)]
struct Attempt {
    cuts: Vec<u32>,
    pages: usize,
    lost: usize,
}

fn attempt() -> impl Strategy<Value = Attempt> {
    (prop::collection::vec(1..9u32, 1..6), 0..5usize, 0..3usize)
        .prop_map(|(cuts, pages, lost)| Attempt { cuts, pages, lost })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    /// Attempts are lost, with temporary files left behind. Late attempts write their pages between any two steps of
    /// finishing. Finishing itself is lost, again and again.
    #[test]
    fn every_record_is_there_once_whatever_happened(
        strides in prop::collection::vec((1..30u32, prop::collection::vec(attempt(), 1..4)), 1..4),
        crashes in prop::collection::vec(0..9usize, 0..5),
        late in prop::collection::vec((any::<prop::sample::Index>(), 1..20u32), 0..6),
        gzip in any::<bool>(),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let root = tempfile::tempdir().unwrap();
        let directory = root.path().join("parts");
        let one_file = root.path().join("all");
        let sink = PartSink::new(&directory, format()).gzip(gzip).concatenate(&one_file);
        let mut last: BTreeMap<u32, usize> = BTreeMap::new();
        let mut begun = vec![0];
        let mut at = 0;
        let mut writes = 0;
        for (number, (length, attempts)) in strides.iter().enumerate() {
            let (stride, end_of_stride) = (number as u64 + 1, at + length);
            let mut done = vec![at];
            for (n, attempt) in attempts.iter().enumerate() {
                done.truncate(done.len().saturating_sub(attempt.lost).max(1));
                let is_last = n + 1 == attempts.len();
                for (pages, cut) in attempt.cuts.iter().cycle().enumerate() {
                    let from = done[done.len() - 1];
                    if from == end_of_stride || (!is_last && pages >= attempt.pages) {
                        break;
                    }
                    let to = (from + cut).min(end_of_stride);
                    writes += 1;
                    runtime.block_on(page(&sink, stride, (from, to), writes));
                    for n in from + 1..=to {
                        last.insert(n, writes);
                    }
                    begun.push(from);
                    done.push(to);
                }
                let working = directory.join(".temporal-batch");
                if working.exists() {
                    fs::write(working.join(format!(".tmp-{stride}-{n}")), "half a rec").unwrap();
                }
            }
            at = end_of_stride;
        }
        runtime.block_on(end(&sink, 9, at));

        let finishing = Finishing {
            concatenate: Some(one_file.clone()),
            ..finishing(&sink, Vec::new())
        };
        let stop = AtomicBool::new(false);
        let mut crashes = crashes.into_iter();
        let mut late_writes = late.iter().cycle();
        let mut clean = late.is_empty();
        let check = loop {
            let mut left = crashes.next();
            let finished = finishing.run_observed(&stop, &mut |step| {
                if step == Step::Plan {
                    // The plan is made of the parts of attempts that were not late.
                    clean = late.is_empty();
                }
                if let Some((index, length)) = late_writes.next() {
                    // A part that was begun long ago may end where no page ended.
                    let from = begun[index.index(begun.len())];
                    let range = (from, (from + length).min(at));
                    let ctx = context("run", 1, range);
                    let records = records(range, 1_000);
                    if !records.is_empty() {
                        // Once there is a manifest, the part is refused.
                        let _ = runtime.block_on(sink.write(&ctx, &records));
                    }
                }
                match &mut left {
                    Some(0) => Err(NotFinished::Crashed),
                    Some(left) => {
                        *left -= 1;
                        Ok(())
                    }
                    None => Ok(()),
                }
            });
            match finished {
                Ok(check) => break check,
                Err(NotFinished::Crashed) => {}
                Err(NotFinished::Error(error)) => panic!("{error}"),
                Err(NotFinished::Stopped) => panic!("nobody stops it"),
            }
        };
        prop_assert!(check.holds());
        let manifest = Manifest::read(&directory).unwrap().unwrap();
        let expected: Vec<u32> = (1..=at).filter(|n| n % 3 != 0).collect();
        prop_assert_eq!(manifest.records, expected.len() as u64);
        prop_assert!(manifest.verify(&directory).unwrap().is_empty());
        let plain = root.path().join("plain");
        concatenate(&directory, &plain).unwrap();
        prop_assert_eq!(fs::read(&plain).unwrap(), fs::read(&one_file).unwrap());
        let text = if gzip {
            let mut text = String::new();
            let file = fs::File::open(&plain).unwrap();
            let mut file = flate2::read::GzDecoder::new(file);
            std::io::Read::read_to_string(&mut file, &mut text).unwrap();
            text
        } else {
            fs::read_to_string(&plain).unwrap()
        };
        prop_assert_eq!(numbers(&text), expected);
        if clean {
            for line in text.lines().skip(1) {
                let (n, attempt) = line.split_once(',').unwrap();
                prop_assert_eq!(last[&n.parse().unwrap()], attempt.parse::<usize>().unwrap());
            }
        }
        // Ranges without records belong to the previous part, so nothing is left out.
        for pair in manifest.parts.windows(2) {
            prop_assert_eq!(&pair[0].end, &pair[1].start);
        }
        if let (Some(first), Some(last)) = (manifest.parts.first(), manifest.parts.last()) {
            prop_assert_eq!((&first.start, &last.end), (&None, &None));
        }
        let mut names: Vec<_> = manifest.parts.iter().map(|p| p.file.file.clone()).collect();
        names.insert(0, "manifest.json".to_owned());
        prop_assert_eq!(files(&directory), names);
    }
}
