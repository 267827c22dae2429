//! The ends of strides.

use temporal_batch::{PageToken, store::PageLedger};

use crate::{
    database::{Home, TestDatabase, stride, token},
    support::databases::on_each,
};

on_each! {
    the_first_recorded_end_counts,
    ends_of_following_strides_are_kept_too,
    a_gap_ends_the_chain,
    a_fenced_off_attempt_cannot_cut,
    two_cuts_at_once_agree_on_the_first,
    a_chain_has_at_most_a_hundred_strides,
}

fn tokens(cursors: impl IntoIterator<Item = i64>) -> Vec<PageToken> {
    cursors.into_iter().map(token).collect()
}

async fn fence_of<D: TestDatabase>(home: &Home<D>, number: u64) -> i64 {
    home.ledger
        .open(&stride(number), None, None, false)
        .await
        .unwrap()
        .fence
}

async fn the_first_recorded_end_counts<D: TestDatabase>(home: Home<D>) {
    let id = stride(0);
    let fence = fence_of(&home, 0).await;
    let cut = home.ledger.cut(&id, fence, &tokens([10])).await.unwrap();
    assert_eq!(cut, tokens([10]));
    let fence = fence_of(&home, 0).await;
    let again = home
        .ledger
        .cut(&id, fence, &tokens([12, 24]))
        .await
        .unwrap();
    assert_eq!(again, tokens([10]));
    let found = home.ledger.open(&id, None, None, false).await.unwrap();
    assert_eq!(found.end, Some(token(10)));
}

async fn ends_of_following_strides_are_kept_too<D: TestDatabase>(home: Home<D>) {
    let fence = fence_of(&home, 4).await;
    let ends = tokens([10, 20, 30]);
    let cut = home.ledger.cut(&stride(4), fence, &ends).await.unwrap();
    assert_eq!(cut, ends);
    let again = home.ledger.cut(&stride(4), fence, &tokens([11])).await;
    assert_eq!(again.unwrap(), ends);
    // The strides are opened with the ends of the cut, and cannot be cut again.
    let fifth = home
        .ledger
        .open(&stride(5), Some(&token(10)), None, false)
        .await
        .unwrap();
    assert_eq!(
        (fifth.fence, fifth.applied_to, fifth.end),
        (1, Some(token(10)), Some(token(20)))
    );
    let sixth = home
        .ledger
        .open(&stride(6), Some(&token(20)), Some(&token(30)), false)
        .await
        .unwrap();
    assert_eq!(sixth.applied_to, Some(token(20)));
    let kept = home
        .ledger
        .cut(&stride(6), sixth.fence, &tokens([31]))
        .await;
    assert_eq!(kept.unwrap(), tokens([30]));
    // The seventh stride starts at 30, and its end is unknown.
    let seventh = home
        .ledger
        .open(&stride(7), Some(&token(30)), None, false)
        .await
        .unwrap();
    assert_eq!((seventh.applied_to, seventh.end), (Some(token(30)), None));
}

async fn a_gap_ends_the_chain<D: TestDatabase>(home: Home<D>) {
    for number in [0, 1, 3] {
        let fence = fence_of(&home, number).await;
        let ends = tokens([number as i64 * 10 + 10]);
        home.ledger
            .cut(&stride(number), fence, &ends)
            .await
            .unwrap();
    }
    let fence = fence_of(&home, 0).await;
    let kept = home
        .ledger
        .cut(&stride(0), fence, &tokens([5]))
        .await
        .unwrap();
    assert_eq!(kept, tokens([10, 20]));
    fence_of(&home, 2).await;
    let kept = home
        .ledger
        .cut(&stride(0), fence, &tokens([5]))
        .await
        .unwrap();
    assert_eq!(
        kept,
        tokens([10, 20]),
        "the end of the third stride should stay unknown"
    );
}

async fn a_fenced_off_attempt_cannot_cut<D: TestDatabase>(home: Home<D>) {
    let late = fence_of(&home, 0).await;
    let current = fence_of(&home, 0).await;
    for ends in [tokens([10]), tokens([10, 20])] {
        let error = home.ledger.cut(&stride(0), late, &ends).await.unwrap_err();
        assert_eq!(error.error_type(), "FencedOff");
        assert!(error.is_retryable());
    }
    let ends = tokens([11]);
    assert_eq!(
        home.ledger.cut(&stride(0), current, &ends).await.unwrap(),
        ends
    );
    let error = home.ledger.cut(&stride(0), late, &ends).await.unwrap_err();
    assert_eq!(error.error_type(), "FencedOff", "even with a kept end");
    let strides = home
        .number("SELECT count(*) FROM temporal_batch_stride")
        .await;
    assert_eq!(strides, 1);
}

async fn two_cuts_at_once_agree_on_the_first<D: TestDatabase>(home: Home<D>) {
    for number in 0..10 {
        let id = stride(number * 10);
        let fence = fence_of(&home, id.stride).await;
        let (one, two) = (tokens([10, 20, 30]), tokens([15, 35]));
        let (first, second) = tokio::join!(
            home.ledger.cut(&id, fence, &one),
            home.ledger.cut(&id, fence, &two)
        );
        let (first, second) = (first.unwrap(), second.unwrap());
        assert_eq!(first, second);
        assert!(first == one || first == two);
    }
}

async fn a_chain_has_at_most_a_hundred_strides<D: TestDatabase>(home: Home<D>) {
    let fence = fence_of(&home, 0).await;
    let ends = tokens(1..=150);
    assert_eq!(
        home.ledger.cut(&stride(0), fence, &ends).await.unwrap(),
        ends
    );
    let kept = home.ledger.cut(&stride(0), fence, &ends).await.unwrap();
    assert_eq!(kept, tokens(1..=100));
}
