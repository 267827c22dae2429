//! Tests of the file of dead letters.

use std::{fs, path::PathBuf};

use super::{lines::*, lock::Lock, *};
use crate::{base::time::Timestamp, page::token::PageToken, progress::ItemCounts};

/// Longer than any operation here takes.
const BOUND: Duration = Duration::from_secs(60);
/// Long enough for an unhindered `take`.
const HELD_UP: Duration = Duration::from_millis(300);

struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        let name = format!("dead-letters-{}", uuid::Uuid::new_v4());
        let path = std::env::temp_dir().join(name);
        fs::create_dir(&path).unwrap();
        Self(path)
    }

    fn file(&self) -> PathBuf {
        self.0.join("letters.jsonl")
    }

    fn store(&self) -> JsonlDeadLetters {
        JsonlDeadLetters::new(self.file())
    }

    fn text(&self) -> String {
        fs::read_to_string(self.file()).unwrap()
    }

    fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(&self.0).unwrap();
        let mut names: Vec<String> = entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn letter(id: &str) -> DeadLetter {
    DeadLetter {
        id: id.to_owned(),
        batch_id: "nightly".to_owned(),
        batch_run: "run".to_owned(),
        processor: "hash-emails".to_owned(),
        stride: 7,
        start: Some(PageToken::encode(&10).unwrap()),
        end: None,
        key: Some(format!("käse \n {id}")),
        error_type: "Poison".to_owned(),
        message: "cannot \"read\" it".to_owned(),
        attempts: 3,
        first_at: Timestamp(1_000),
        last_at: Timestamp(2_000),
        record: None,
    }
}

async fn all(store: &JsonlDeadLetters) -> Vec<DeadLetter> {
    let filter = LetterFilter::of("nightly");
    store.list(&filter, None, usize::MAX).await.unwrap()
}

async fn ids(store: &JsonlDeadLetters) -> Vec<String> {
    all(store).await.into_iter().map(|l| l.id).collect()
}

async fn take(store: &JsonlDeadLetters, id: &str) -> Option<Box<dyn PageTransaction>> {
    let letter = letter(id);
    let take = tokio::time::timeout(BOUND, store.take(&letter));
    take.await.expect("the lock came free").unwrap()
}

async fn record(transaction: &mut Box<dyn PageTransaction>, letters: &[DeadLetter]) {
    let counts = ItemCounts::default();
    transaction.record(&counts, letters).await.unwrap();
}

#[tokio::test]
async fn letters_come_back_as_they_were_put_in_the_order_of_their_ids() {
    let folder = Folder::new();
    let with_record = DeadLetter {
        record: Some("line 1\nline 2".to_owned()),
        key: None,
        end: Some(PageToken::encode(&"ü").unwrap()),
        ..letter("a")
    };
    let store = folder.store();
    store
        .put(&[letter("c"), with_record.clone()])
        .await
        .unwrap();
    store.put(&[letter("b")]).await.unwrap();
    let expected = [with_record, letter("b"), letter("c")];
    assert_eq!(all(&store).await, expected);
    assert_eq!(all(&folder.store()).await, expected);
    assert_eq!(folder.text().lines().count(), 3);
}

#[tokio::test]
async fn nothing_is_created_before_the_first_letter() {
    let folder = Folder::new();
    let store = folder.store();
    store.put(&[]).await.unwrap();
    assert_eq!(all(&store).await, []);
    assert!(take(&store, "a").await.is_none());
    assert_eq!(folder.names(), [""; 0]);
    store.put(&[letter("a")]).await.unwrap();
    assert_eq!(folder.names(), ["letters.jsonl", "letters.jsonl.lock"]);
}

#[tokio::test]
async fn a_missing_folder_is_named() {
    let folder = Folder::new();
    let store = JsonlDeadLetters::new(folder.0.join("gone").join("letters.jsonl"));
    let error = store.put(&[letter("a")]).await.unwrap_err();
    assert!(error.message().contains("does not exist"), "{error}");
    assert!(error.message().ends_with("gone"), "{error}");
    let filter = LetterFilter::of("nightly");
    assert!(store.list(&filter, None, 1).await.is_err());
    assert!(store.take(&letter("a")).await.is_err());
    assert_eq!(folder.names(), [""; 0]);
}

#[tokio::test]
async fn a_letter_put_again_keeps_only_its_first_time() {
    let folder = Folder::new();
    let store = folder.store();
    let again = DeadLetter {
        first_at: Timestamp(5_000),
        last_at: Timestamp(6_000),
        message: "still".to_owned(),
        attempts: 9,
        ..letter("a")
    };
    store.put(&[letter("a"), letter("b")]).await.unwrap();
    store.put(std::slice::from_ref(&again)).await.unwrap();
    let kept = DeadLetter {
        first_at: Timestamp(1_000),
        ..again
    };
    assert_eq!(all(&store).await, [kept, letter("b")]);
}

#[tokio::test]
async fn each_part_of_a_filter_excludes() {
    let folder = Folder::new();
    let store = folder.store();
    let other_batch = DeadLetter {
        batch_id: "weekly".to_owned(),
        ..letter("batch")
    };
    let other_type = DeadLetter {
        error_type: "Timeout".to_owned(),
        ..letter("type")
    };
    let other_page = DeadLetter {
        start: None,
        ..letter("page")
    };
    let later = DeadLetter {
        last_at: Timestamp(3_000),
        ..letter("time")
    };
    let letters = [letter("a"), other_batch, other_type, other_page, later];
    store.put(&letters).await.unwrap();

    let nightly = LetterFilter::of("nightly");
    let cases = [
        (LetterFilter::of("weekly"), vec!["batch"]),
        (nightly.clone(), vec!["a", "page", "time", "type"]),
        (
            LetterFilter {
                error_type: Some("Poison".to_owned()),
                ..nightly.clone()
            },
            vec!["a", "page", "time"],
        ),
        (
            LetterFilter {
                page_start: Some(PageToken::encode(&10).unwrap()),
                ..nightly.clone()
            },
            vec!["a", "time", "type"],
        ),
        (
            LetterFilter {
                since: Some(Timestamp(3_000)),
                ..nightly.clone()
            },
            vec!["time"],
        ),
        (
            LetterFilter {
                until: Some(Timestamp(3_000)),
                ..nightly
            },
            vec!["a", "page", "type"],
        ),
    ];
    for (filter, expected) in cases {
        let found = store.list(&filter, None, 10).await.unwrap();
        let found: Vec<&str> = found.iter().map(|l| l.id.as_str()).collect();
        assert_eq!(found, expected, "{filter:?}");
    }
}

#[tokio::test]
async fn pages_of_a_listing_join_without_gap_or_overlap() {
    let folder = Folder::new();
    let store = folder.store();
    let letters: Vec<DeadLetter> = (0..25).map(|n| letter(&format!("{n:02}"))).collect();
    store.put(&letters).await.unwrap();
    let other = DeadLetter {
        error_type: "Timeout".to_owned(),
        ..letter("11")
    };
    store.put(&[other]).await.unwrap();

    let filter = LetterFilter {
        error_type: Some("Poison".to_owned()),
        ..LetterFilter::of("nightly")
    };
    let mut found: Vec<DeadLetter> = Vec::new();
    let mut sizes = Vec::new();
    loop {
        let after = found.last().map(|l| l.id.clone());
        let page = store.list(&filter, after.as_deref(), 10).await.unwrap();
        if page.is_empty() {
            break;
        }
        sizes.push(page.len());
        found.extend(page);
    }
    assert_eq!(sizes, [10, 10, 4]);
    let expected: Vec<DeadLetter> = letters.into_iter().filter(|l| l.id != "11").collect();
    assert_eq!(found, expected);
    assert_eq!(store.list(&filter, None, 0).await.unwrap(), []);
}

#[tokio::test]
async fn a_line_torn_anywhere_is_passed_over_and_cut_away_by_the_next_write() {
    let folder = Folder::new();
    let store = folder.store();
    store.put(&[letter("a")]).await.unwrap();
    let whole = folder.text();
    store.put(&[letter("b")]).await.unwrap();
    let both = folder.text();
    // Lengths up to the closing brace, with which the letter would be complete.
    for length in whole.len() + 1..both.len() - 1 {
        fs::write(folder.file(), &both.as_bytes()[..length]).unwrap();
        assert_eq!(ids(&store).await, ["a"], "{length}");
        store.put(&[letter("c")]).await.unwrap();
        assert_eq!(ids(&store).await, ["a", "c"], "{length}");
    }
    fs::write(folder.file(), &both.as_bytes()[..both.len() - 1]).unwrap();
    assert_eq!(ids(&store).await, ["a", "b"]);
    store.put(&[letter("c")]).await.unwrap();
    assert_eq!(ids(&store).await, ["a", "b", "c"]);
    assert_eq!(folder.text().lines().count(), 3);
}

#[tokio::test]
async fn zeros_that_a_crash_left_at_the_end_are_a_torn_line() {
    let folder = Folder::new();
    let store = folder.store();
    store.put(&[letter("a")]).await.unwrap();
    fs::write(folder.file(), folder.text() + "\0\0\0").unwrap();
    assert_eq!(ids(&store).await, ["a"]);
    store.put(&[letter("b")]).await.unwrap();
    assert_eq!(ids(&store).await, ["a", "b"]);
}

#[tokio::test]
async fn a_file_of_something_else_is_left_as_it_is() {
    let folder = Folder::new();
    let store = folder.store();
    fs::write(folder.file(), "Dear diary,\nnothing happened").unwrap();
    let error = store.put(&[letter("a")]).await.unwrap_err();
    assert!(error.message().contains("last line"), "{error}");
    assert_eq!(folder.text(), "Dear diary,\nnothing happened");
}

#[tokio::test]
async fn an_unreadable_line_is_an_error_with_its_place() {
    let folder = Folder::new();
    let store = folder.store();
    store.put(&[letter("a"), letter("b")]).await.unwrap();
    let (first, second) = {
        let text = folder.text();
        let (first, second) = text.split_once('\n').unwrap();
        (first.to_owned(), second.to_owned())
    };
    let odd = first.replace(r#""stride":7"#, r#""stride":"secret""#);
    for (bad, what) in [("{\"id\":\"x", "not JSON"), (&odd, "not a dead letter")] {
        fs::write(folder.file(), format!("{first}\n{bad}\n{second}")).unwrap();
        let filter = LetterFilter::of("nightly");
        let listed = store.list(&filter, None, 10).await.unwrap_err();
        let taken = store.take(&letter("a")).await.err().unwrap();
        for error in [listed, taken] {
            assert_eq!(error.error_type(), UNREADABLE);
            let message = error.message();
            assert!(message.contains("line 2 of"), "{message}");
            assert!(message.contains("letters.jsonl is "), "{message}");
            assert!(message.contains(what), "{message}");
            assert!(!message.contains("secret"), "{message}");
        }
        // Letters are still stored, and nothing is dropped.
        store.put(&[letter("c")]).await.unwrap();
        assert!(folder.text().contains(bad));
        assert!(folder.text().ends_with("}\n"));
    }
}

#[tokio::test]
async fn a_commit_removes_the_letter_and_puts_those_in_its_place() {
    let folder = Folder::new();
    let store = folder.store();
    store.put(&[letter("a"), letter("b")]).await.unwrap();
    let mut transaction = take(&store, "a").await.unwrap();
    assert!(transaction.connection().is_none());
    record(&mut transaction, &[letter("a1")]).await;
    record(&mut transaction, &[letter("a2")]).await;
    assert_eq!(ids(&store).await, ["a", "b"]);
    transaction.commit().await.unwrap();
    assert_eq!(ids(&store).await, ["a1", "a2", "b"]);
    assert!(take(&store, "a").await.is_none());
    assert!(take(&store, "a2").await.is_some());
}

#[tokio::test]
async fn a_letter_that_fails_its_redrive_stays_with_its_first_time() {
    let folder = Folder::new();
    let store = folder.store();
    store.put(&[letter("a")]).await.unwrap();
    let again = DeadLetter {
        first_at: Timestamp(8_000),
        last_at: Timestamp(9_000),
        ..letter("a")
    };
    let mut transaction = take(&store, "a").await.unwrap();
    record(&mut transaction, &[again]).await;
    transaction.commit().await.unwrap();
    let [kept] = all(&store).await.try_into().unwrap();
    assert_eq!(kept.first_at, Timestamp(1_000));
    assert_eq!(kept.last_at, Timestamp(9_000));
}

#[tokio::test]
async fn a_dropped_transaction_leaves_the_letter() {
    let folder = Folder::new();
    let store = folder.store();
    store.put(&[letter("a")]).await.unwrap();
    let before = folder.text();
    let mut transaction = take(&store, "a").await.unwrap();
    record(&mut transaction, &[letter("b")]).await;
    drop(transaction);
    assert_eq!(folder.text(), before);
    assert!(take(&store, "a").await.is_some());
}

#[tokio::test]
async fn a_crash_anywhere_in_a_commit_leaves_all_of_it_or_nothing() {
    let folder = Folder::new();
    let store = folder.store();
    store.put(&[letter("a")]).await.unwrap();
    let before = folder.text();
    let mut transaction = take(&store, "a").await.unwrap();
    record(&mut transaction, &[letter("b"), letter("c")]).await;
    transaction.commit().await.unwrap();
    let after = folder.text();
    for length in before.len()..=after.len() {
        fs::write(folder.file(), &after.as_bytes()[..length]).unwrap();
        let whole = length >= after.len() - 1;
        let expected: &[&str] = if whole { &["b", "c"] } else { &["a"] };
        assert_eq!(ids(&store).await, expected, "{length}");
    }
}

// Two stores stand for two processes. Each opens the lock files itself, and an operating system lock
// belongs to the open file, not to the process. They share nothing else.
#[tokio::test]
async fn a_letter_is_out_once_whichever_store_takes_it() {
    let folder = Folder::new();
    let (one, other) = (folder.store(), folder.store());
    one.put(&[letter("a"), letter("b")]).await.unwrap();
    for waiting in [&other, &one] {
        for commits in [false, true] {
            one.put(&[letter("a")]).await.unwrap();
            let held = take(&one, "a").await.unwrap();
            let mut next = Box::pin(take(waiting, "a"));
            let early = tokio::time::timeout(HELD_UP, &mut next).await;
            assert!(early.is_err(), "the letter was out twice");
            if commits {
                held.commit().await.unwrap();
            } else {
                drop(held);
            }
            assert_eq!(next.await.is_none(), commits);
        }
    }
    assert_eq!(ids(&other).await, ["b"]);
}

#[tokio::test]
async fn who_gives_up_waiting_leaves_no_lock_behind() {
    let folder = Folder::new();
    let (one, other) = (folder.store(), folder.store());
    one.put(&[letter("a")]).await.unwrap();
    let held = take(&one, "a").await.unwrap();
    for waiting in [&other, &one] {
        let waiting = tokio::time::timeout(HELD_UP, take(waiting, "a"));
        assert!(waiting.await.is_err());
    }
    drop(held);
    assert!(take(&other, "a").await.is_some());
    assert!(take(&one, "a").await.is_some());
}

#[tokio::test]
async fn letters_are_put_and_listed_while_one_is_out() {
    let folder = Folder::new();
    let (one, other) = (folder.store(), folder.store());
    one.put(&[letter("a")]).await.unwrap();
    let held = take(&one, "a").await.unwrap();
    for (store, id) in [(&one, "b"), (&other, "c")] {
        let letters = [letter(id)];
        let put = tokio::time::timeout(BOUND, store.put(&letters));
        put.await.expect("a redrive does not hold it up").unwrap();
    }
    assert_eq!(ids(&other).await, ["a", "b", "c"]);
    held.commit().await.unwrap();
    assert_eq!(ids(&other).await, ["b", "c"]);
}

#[tokio::test]
async fn a_letter_put_again_while_it_is_out_survives_the_commit() {
    let folder = Folder::new();
    let store = folder.store();
    store.put(&[letter("a")]).await.unwrap();
    let mut held = take(&store, "a").await.unwrap();
    record(&mut held, &[letter("b")]).await;
    let again = DeadLetter {
        attempts: 4,
        ..letter("a")
    };
    store.put(std::slice::from_ref(&again)).await.unwrap();
    held.commit().await.unwrap();
    assert_eq!(all(&store).await, [again, letter("b")]);
}

// Stands for the lock of another process that is writing.
#[tokio::test]
async fn putting_listing_and_committing_wait_for_a_write_of_somebody_else() {
    let folder = Folder::new();
    let store = folder.store();
    store.put(&[letter("a"), letter("b")]).await.unwrap();
    let lock = folder.0.join("letters.jsonl.lock");
    let held = take(&store, "a").await.unwrap();

    let writing = Lock::exclusive(&lock).unwrap();
    let mut list = Box::pin(ids(&store));
    let early = tokio::time::timeout(HELD_UP, &mut list).await;
    assert!(early.is_err(), "it read what was being written");
    drop(writing);
    assert_eq!(list.await, ["a", "b"]);

    let writing = Lock::exclusive(&lock).unwrap();
    let mut commit = held.commit();
    let early = tokio::time::timeout(HELD_UP, &mut commit).await;
    assert!(early.is_err(), "two wrote at once");
    drop(writing);
    commit.await.unwrap();

    let writing = Lock::exclusive(&lock).unwrap();
    let letters = [letter("c")];
    let mut put = store.put(&letters);
    let early = tokio::time::timeout(HELD_UP, &mut put).await;
    assert!(early.is_err(), "two wrote at once");
    drop(writing);
    put.await.unwrap();
    assert_eq!(ids(&store).await, ["b", "c"]);
}

#[tokio::test]
async fn redrives_make_the_file_smaller_and_keep_exactly_what_is_left() {
    let folder = Folder::new();
    let store = folder.store();
    let letters: Vec<DeadLetter> = (0..100).map(|n| letter(&format!("{n:03}"))).collect();
    store.put(&letters).await.unwrap();
    let full = folder.text().len();
    let kept = DeadLetter {
        last_at: Timestamp(7_000),
        ..letter("099")
    };
    let again = DeadLetter {
        first_at: Timestamp(6_000),
        ..kept.clone()
    };
    store.put(&[again]).await.unwrap();
    for n in 0..97 {
        let transaction = take(&store, &format!("{n:03}")).await.unwrap();
        transaction.commit().await.unwrap();
    }
    assert_eq!(all(&store).await, [letter("097"), letter("098"), kept]);
    assert!(folder.text().len() < full / 2);
    assert!(!folder.names().contains(&"letters.jsonl.new".to_owned()));
}

#[tokio::test]
async fn what_redrives_settle_is_counted_and_the_count_outlives_its_lines() {
    let folder = Folder::new();
    let store = folder.store();
    let settled = async || store.settled("run").await.unwrap();
    assert_eq!(settled().await, Some(0));
    let run = |id: &str| DeadLetter {
        batch_run: "run".to_owned(),
        ..letter(id)
    };
    let letters: Vec<_> = (0..100).map(|n| run(&format!("{n:03}"))).collect();
    store.put(&letters).await.unwrap();
    let mut split = take(&store, "000").await.unwrap();
    record(&mut split, &[run("000a"), run("000b"), run("001")]).await;
    split.commit().await.unwrap();
    assert_eq!(settled().await, Some(0));
    let mut again = take(&store, "000a").await.unwrap();
    record(&mut again, &[run("000a")]).await;
    again.commit().await.unwrap();
    for id in ["000a", "000b", "001"] {
        take(&store, id).await.unwrap().commit().await.unwrap();
    }
    assert_eq!(settled().await, Some(2));
    for n in 2..100 {
        let letter = take(&store, &format!("{n:03}")).await.unwrap();
        letter.commit().await.unwrap();
    }
    assert_eq!(settled().await, Some(100));
    assert!(all(&store).await.is_empty());
    assert!(folder.text().contains(r#"{"settled":"run","letters":"#));
    // The file contains no letter that would be rewritten.
    let other = DeadLetter {
        batch_run: "other".to_owned(),
        ..letter("z")
    };
    store.put(std::slice::from_ref(&other)).await.unwrap();
    assert_eq!(settled().await, Some(100));
    assert_eq!(store.settled("other").await.unwrap(), Some(0));
}

#[tokio::test]
async fn puts_of_the_same_letters_make_the_file_smaller() {
    let folder = Folder::new();
    let store = folder.store();
    let once: Vec<DeadLetter> = (0..20).map(|n| letter(&format!("{n:02}"))).collect();
    for _ in 0..50 {
        store.put(&once).await.unwrap();
    }
    assert_eq!(all(&store).await, once);
    let size = folder.text().len() as u64;
    assert!(size < 2 * MIN_LOOK_THROUGH_BYTES, "{size}");
}

#[cfg(unix)]
#[tokio::test]
async fn a_file_written_anew_keeps_its_permissions_and_its_link() {
    use std::os::unix::fs::PermissionsExt;
    let folder = Folder::new();
    folder.store().put(&[letter("a")]).await.unwrap();
    fs::set_permissions(folder.file(), fs::Permissions::from_mode(0o600)).unwrap();
    let link = folder.0.join("link");
    std::os::unix::fs::symlink(folder.file(), &link).unwrap();
    let store = JsonlDeadLetters::new(&link);
    store.put(&vec![letter("a"); 1_000]).await.unwrap();
    assert_eq!(folder.text().lines().count(), 1, "it was rewritten");
    let mode = fs::metadata(folder.file()).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    assert!(link.is_symlink());
    assert!(!folder.names().contains(&"link.lock".to_owned()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn letters_that_many_put_at_once_are_all_there() {
    let folder = Folder::new();
    let stores = [folder.store(), folder.store()];
    let tasks = (0..8).map(|task| {
        let store = stores[task % 2].clone();
        tokio::spawn(async move {
            for put in 0..25 {
                let letters: Vec<DeadLetter> = (0..10)
                    .map(|n| letter(&format!("{task}-{put:02}-{n}")))
                    .collect();
                store.put(&letters).await.unwrap();
                // Letters put before are listed, whatever other writers are doing.
                let filter = LetterFilter::of("nightly");
                let after = format!("{task}-{put:02}-");
                let listed = store.list(&filter, Some(&after), 10).await.unwrap();
                assert_eq!(listed, letters);
            }
        })
    });
    for task in tasks.collect::<Vec<_>>() {
        task.await.unwrap();
    }
    let expected: Vec<String> = (0..8)
        .flat_map(|task| (0..250).map(move |n| format!("{task}-{:02}-{}", n / 10, n % 10)))
        .collect();
    assert_eq!(ids(&stores[0]).await, expected);
    assert_eq!(folder.text().lines().count(), 2_000);
}
