//! Dead letters in a table.

use temporal_batch::{
    Timestamp,
    progress::ItemCounts,
    store::{DeadLetter, DeadLetters, LetterFilter, PageLedger},
};

use crate::{
    database::{A_WHILE, Home, SOON, TestDatabase, stride, token, touch},
    pages::claim,
    support::databases::on_each,
};

on_each! {
    a_letter_is_read_as_it_was_written,
    a_letter_written_again_keeps_its_first_failure,
    letters_are_listed_in_pages_by_their_ids,
    every_filter_excludes_the_letters_it_names,
    a_letter_is_taken_by_one_redrive_at_a_time,
    a_letter_that_was_not_redriven_is_left_for_the_next,
    a_redrive_that_fails_puts_its_letter_back_changed,
    letters_and_effects_of_a_page_are_committed_together,
    a_message_with_a_nul_can_be_kept,
    a_redrive_can_be_committed_without_recording_counts,
    letters_settled_by_redrives_are_counted_and_deleted_ones_are_not,
}

fn letter(id: &str) -> DeadLetter {
    DeadLetter {
        id: id.to_owned(),
        batch_id: "batch".to_owned(),
        batch_run: "run-1".to_owned(),
        processor: "hash-emails".to_owned(),
        stride: 3,
        start: Some(token(10)),
        end: None,
        key: Some("user 17".to_owned()),
        error_type: "BadEmail".to_owned(),
        message: "no @ in it; \"quoted\", 'too'".to_owned(),
        attempts: 10,
        first_at: Timestamp(1_000),
        last_at: Timestamp(2_000),
        record: Some("{\"id\":17}".to_owned()),
    }
}

async fn all<D: TestDatabase>(home: &Home<D>) -> Vec<DeadLetter> {
    let filter = LetterFilter::of("batch");
    home.ledger.list(&filter, None, usize::MAX).await.unwrap()
}

async fn a_letter_is_read_as_it_was_written<D: TestDatabase>(home: Home<D>) {
    let full = letter("a");
    let mut bare = letter("b");
    (bare.start, bare.end) = (None, Some(token(99)));
    (bare.key, bare.record) = (None, None);
    let letters = [full, bare];
    home.ledger.put(&letters).await.unwrap();
    home.ledger.put(&[]).await.unwrap();
    assert_eq!(all(&home).await, letters);
}

async fn a_letter_written_again_keeps_its_first_failure<D: TestDatabase>(home: Home<D>) {
    home.ledger.put(&[letter("a")]).await.unwrap();
    let mut again = letter("a");
    again.first_at = Timestamp(5_000);
    again.last_at = Timestamp(6_000);
    again.attempts = 12;
    again.error_type = "Timeout".to_owned();
    again.message = "another".to_owned();
    again.record = None;
    again.key = None;
    home.ledger.put(&[again.clone()]).await.unwrap();
    again.first_at = Timestamp(1_000);
    assert_eq!(all(&home).await, [again]);
}

async fn letters_are_listed_in_pages_by_their_ids<D: TestDatabase>(home: Home<D>) {
    // The ids are sorted by their bytes, while a collation would sort them otherwise.
    let ids = ["B", "a", "a-1", "a0", "b"];
    let letters: Vec<_> = ids.iter().rev().map(|id| letter(id)).collect();
    home.ledger.put(&letters).await.unwrap();
    let filter = LetterFilter::of("batch");
    let mut found = Vec::new();
    let mut after: Option<String> = None;
    loop {
        let page = home
            .ledger
            .list(&filter, after.as_deref(), 2)
            .await
            .unwrap();
        assert!(page.len() <= 2);
        let Some(last) = page.last() else { break };
        after = Some(last.id.clone());
        found.extend(page.into_iter().map(|l| l.id));
    }
    assert_eq!(found, ids);
}

async fn every_filter_excludes_the_letters_it_names<D: TestDatabase>(home: Home<D>) {
    let mut letters: Vec<_> = ["a", "b", "c", "d", "e"].map(letter).into();
    letters[0].batch_id = "another".to_owned();
    letters[1].error_type = "Timeout".to_owned();
    letters[2].start = None;
    letters[3].last_at = Timestamp(3_000);
    home.ledger.put(&letters).await.unwrap();
    let of = LetterFilter::of;
    let filters = [
        of("batch"),
        of("another"),
        of("nobody's"),
        LetterFilter {
            error_type: Some("Timeout".to_owned()),
            ..of("batch")
        },
        LetterFilter {
            page_start: Some(token(10)),
            ..of("batch")
        },
        LetterFilter {
            since: Some(Timestamp(2_001)),
            ..of("batch")
        },
        LetterFilter {
            since: Some(Timestamp(2_000)),
            until: Some(Timestamp(3_000)),
            ..of("batch")
        },
        LetterFilter {
            until: Some(Timestamp(2_000)),
            ..of("batch")
        },
        LetterFilter {
            error_type: Some("BadEmail".to_owned()),
            page_start: Some(token(10)),
            until: Some(Timestamp(3_000)),
            ..of("batch")
        },
    ];
    let expected = ["bcde", "a", "", "b", "bde", "d", "bce", "", "e"];
    for (filter, expected) in filters.iter().zip(expected) {
        let found = home.ledger.list(filter, None, 100).await.unwrap();
        let ids: String = found.iter().map(|l| l.id.as_str()).collect();
        assert_eq!(ids, expected, "{filter:?}");
        let matching = letters.iter().filter(|l| filter.matches(l)).cloned();
        assert_eq!(found, matching.collect::<Vec<_>>(), "{filter:?}");
    }
}

async fn a_letter_is_taken_by_one_redrive_at_a_time<D: TestDatabase>(home: Home<D>) {
    let letter = letter("a");
    home.ledger
        .put(std::slice::from_ref(&letter))
        .await
        .unwrap();
    let first = home.ledger.take(&letter).await.unwrap().unwrap();
    let mut second = home.ledger.take(&letter);
    let early = tokio::time::timeout(A_WHILE, &mut second).await;
    assert!(early.is_err(), "the second redrive did not wait");
    first.commit().await.unwrap();
    let second = tokio::time::timeout(SOON, second).await.unwrap().unwrap();
    assert!(second.is_none());
    assert_eq!(all(&home).await, []);
}

async fn a_letter_that_was_not_redriven_is_left_for_the_next<D: TestDatabase>(home: Home<D>) {
    let letter = letter("a");
    home.ledger
        .put(std::slice::from_ref(&letter))
        .await
        .unwrap();
    let first = home.ledger.take(&letter).await.unwrap().unwrap();
    let mut second = home.ledger.take(&letter);
    let early = tokio::time::timeout(A_WHILE, &mut second).await;
    assert!(early.is_err(), "the second redrive did not wait");
    drop(first);
    let second = tokio::time::timeout(SOON, second).await.unwrap().unwrap();
    second.unwrap().commit().await.unwrap();
    assert_eq!(all(&home).await, []);
}

async fn a_redrive_that_fails_puts_its_letter_back_changed<D: TestDatabase>(home: Home<D>) {
    let mut letter = letter("a");
    home.ledger
        .put(std::slice::from_ref(&letter))
        .await
        .unwrap();
    let mut redrive = home.ledger.take(&letter).await.unwrap().unwrap();
    letter.attempts += 1;
    letter.last_at = Timestamp(9_000);
    let items = ItemCounts::default();
    redrive
        .record(&items, std::slice::from_ref(&letter))
        .await
        .unwrap();
    redrive.commit().await.unwrap();
    assert_eq!(all(&home).await, [letter]);
    let strides = home
        .number("SELECT count(*) FROM temporal_batch_stride")
        .await;
    assert_eq!(strides, 0, "a redrive should have no stride");
}

async fn letters_and_effects_of_a_page_are_committed_together<D: TestDatabase>(home: Home<D>) {
    home.fill(10).await;
    let (id, to) = (stride(0), token(10));
    let fence = home
        .ledger
        .open(&id, None, Some(&to), false)
        .await
        .unwrap()
        .fence;
    let items = ItemCounts {
        processed: 9,
        changed: 9,
        skipped: 0,
        failed: 1,
    };
    for commit in [false, true] {
        let page = home.ledger.begin(claim(&id, fence, None, &to)).await;
        let mut page = page.unwrap().unwrap();
        touch::<D>(page.as_mut(), 0, 9).await.unwrap();
        page.record(&items, &[letter("a")]).await.unwrap();
        if commit {
            page.commit().await.unwrap();
        } else {
            drop(page);
        }
        let done = i64::from(commit);
        assert_eq!(all(&home).await.len() as i64, done);
        assert_eq!(
            home.number("SELECT count(*) FROM data WHERE x = 1").await,
            9 * done
        );
    }
    let totals = home
        .ledger
        .open(&id, None, None, false)
        .await
        .unwrap()
        .totals;
    assert_eq!((totals.pages, totals.items), (1, items));
}

async fn a_message_with_a_nul_can_be_kept<D: TestDatabase>(home: Home<D>) {
    let mut letter = letter("a");
    letter.message = "unexpected \0 in \0".to_owned();
    letter.key = Some("\0".to_owned());
    letter.record = Some("a\0b".to_owned());
    letter.start = Some(token(1));
    home.ledger.put(&[letter]).await.unwrap();
    let kept = all(&home).await.remove(0);
    assert_eq!(kept.message, "unexpected \u{fffd} in \u{fffd}");
    assert_eq!(kept.key.as_deref(), Some("\u{fffd}"));
    assert_eq!(kept.record.as_deref(), Some("a\u{fffd}b"));
}

async fn a_redrive_can_be_committed_without_recording_counts<D: TestDatabase>(home: Home<D>) {
    home.fill(10).await;
    let letter = letter("a");
    home.ledger
        .put(std::slice::from_ref(&letter))
        .await
        .unwrap();
    let mut redrive = home.ledger.take(&letter).await.unwrap().unwrap();
    touch::<D>(redrive.as_mut(), 0, 1).await.unwrap();
    redrive.commit().await.unwrap();
    assert_eq!(home.number("SELECT x FROM data WHERE id = 1").await, 1);
    assert!(home.ledger.take(&letter).await.unwrap().is_none());
}

async fn letters_settled_by_redrives_are_counted_and_deleted_ones_are_not<D: TestDatabase>(
    home: Home<D>,
) {
    let ledger = &home.ledger;
    let settled = async || ledger.settled("run-1").await.unwrap();
    assert_eq!(settled().await, Some(0));
    let all = ["a", "b", "c", "d"].map(letter);
    ledger.put(&all).await.unwrap();
    let other = DeadLetter {
        batch_run: "run-2".to_owned(),
        ..letter("e")
    };
    ledger.put(std::slice::from_ref(&other)).await.unwrap();
    let redrive = async |id: &str, left: &[DeadLetter]| {
        let mut redrive = ledger.take(&letter(id)).await.unwrap().unwrap();
        let items = ItemCounts::default();
        redrive.record(&items, left).await.unwrap();
        redrive.commit().await.unwrap();
        settled().await.unwrap()
    };
    assert_eq!(redrive("a", &[]).await, 1);
    // The record failed again.
    assert_eq!(redrive("b", &[letter("b")]).await, 1);
    // The letter stands for a page: one of its records has a letter already, two get new ones.
    let left = ["b", "c1", "c2"].map(letter);
    assert_eq!(redrive("c", &left).await, 0);
    assert_eq!(redrive("c1", &[]).await, 1);
    assert_eq!(redrive("c2", &[]).await, 2);
    assert_eq!(redrive("b", &[]).await, 3);
    let dropped = ledger.take(&letter("d")).await.unwrap().unwrap();
    drop(dropped);
    assert_eq!(settled().await, Some(3));
    home.script("DELETE FROM temporal_batch_dead_letter WHERE id = 'd'")
        .await;
    assert_eq!(settled().await, Some(3));
    assert_eq!(ledger.settled("run-2").await.unwrap(), Some(0));
    ledger
        .take(&other)
        .await
        .unwrap()
        .unwrap()
        .commit()
        .await
        .unwrap();
    assert_eq!(ledger.settled("run-2").await.unwrap(), Some(1));
}
