//! Attempts and the pages that they apply.

use temporal_batch::{
    PageToken,
    progress::ItemCounts,
    store::{OpenStride, PageClaim, PageLedger, StrideId, StrideTotals},
};

use crate::{
    database::{Home, SOON, TestDatabase, connection, stride, token, touch},
    support::databases::on_each,
};

on_each! {
    opening_a_stride_raises_its_fence_and_keeps_the_rest,
    an_end_that_is_kept_cannot_change,
    a_fenced_off_attempt_gets_no_transaction,
    a_page_from_another_position_gets_no_transaction,
    an_applied_page_is_not_applied_again,
    a_dropped_transaction_leaves_no_changes,
    a_later_attempt_continues_with_other_pages,
    tokens_are_compared_by_their_bytes,
    tokens_of_the_maximum_length_are_kept,
    no_page_is_applied_after_the_end_of_the_data,
    a_page_without_an_end_is_refused,
    a_failed_statement_that_is_swallowed_loses_no_part_of_its_page,
    a_transaction_that_was_ended_by_hand_is_noticed,
    opening_waits_for_the_page_that_is_being_applied,
}

const HUNDRED: i64 = 100;

pub fn claim<'a>(
    stride: &'a StrideId,
    fence: i64,
    from: Option<&'a PageToken>,
    to: &'a PageToken,
) -> PageClaim<'a> {
    PageClaim {
        stride,
        fence,
        from,
        to: Some(to),
        ends_data: false,
        pages: 1,
        pages_failed: 0,
    }
}

async fn opened<D: TestDatabase>(home: &Home<D>) -> OpenStride {
    let end = token(HUNDRED);
    home.ledger
        .open(&stride(0), None, Some(&end), false)
        .await
        .unwrap()
}

async fn opening_a_stride_raises_its_fence_and_keeps_the_rest<D: TestDatabase>(home: Home<D>) {
    let id = stride(7);
    let first = home
        .ledger
        .open(&id, Some(&token(3)), None, false)
        .await
        .unwrap();
    let unknown = OpenStride {
        fence: 1,
        applied_to: Some(token(3)),
        end: None,
        ends_data: false,
        totals: StrideTotals::default(),
    };
    assert_eq!(first, unknown);
    let second = home
        .ledger
        .open(&id, Some(&token(4)), Some(&token(9)), false)
        .await;
    let second = second.unwrap();
    assert_eq!(second.fence, 2);
    assert_eq!(second.applied_to, Some(token(3)), "the start is unchanged");
    assert_eq!(second.end, Some(token(9)), "the first known end");
    let third = home.ledger.open(&id, None, None, false).await.unwrap();
    assert_eq!((third.fence, third.end), (3, Some(token(9))));
}

async fn an_end_that_is_kept_cannot_change<D: TestDatabase>(home: Home<D>) {
    opened(&home).await;
    let other = home
        .ledger
        .open(&stride(0), None, Some(&token(99)), false)
        .await;
    let error = other.unwrap_err();
    assert_eq!(error.error_type(), "LedgerConflict");
    assert!(!error.is_retryable());
    assert!(error.message().contains("at 100 in"), "{error}");
    assert!(error.message().contains("at 99 in"), "{error}");
}

async fn a_fenced_off_attempt_gets_no_transaction<D: TestDatabase>(home: Home<D>) {
    let late = opened(&home).await;
    let current = opened(&home).await;
    let (id, to) = (stride(0), token(10));
    let none = home.ledger.begin(claim(&id, late.fence, None, &to)).await;
    assert!(none.unwrap().is_none());
    let some = home
        .ledger
        .begin(claim(&id, current.fence, None, &to))
        .await;
    assert!(some.unwrap().is_some());
}

async fn a_page_from_another_position_gets_no_transaction<D: TestDatabase>(home: Home<D>) {
    let fence = opened(&home).await.fence;
    let (id, from, to) = (stride(0), token(5), token(10));
    let none = home.ledger.begin(claim(&id, fence, Some(&from), &to)).await;
    assert!(none.unwrap().is_none());
    let unknown = stride(1);
    let none = home.ledger.begin(claim(&unknown, fence, None, &to)).await;
    assert!(none.unwrap().is_none());
}

async fn an_applied_page_is_not_applied_again<D: TestDatabase>(home: Home<D>) {
    let fence = opened(&home).await.fence;
    let (id, to) = (stride(0), token(10));
    let page = home.ledger.begin(claim(&id, fence, None, &to)).await;
    page.unwrap().unwrap().commit().await.unwrap();
    let again = home.ledger.begin(claim(&id, fence, None, &to)).await;
    assert!(again.unwrap().is_none());
}

async fn a_dropped_transaction_leaves_no_changes<D: TestDatabase>(home: Home<D>) {
    home.fill(HUNDRED).await;
    let fence = opened(&home).await.fence;
    let (id, to) = (stride(0), token(10));
    let page = home.ledger.begin(claim(&id, fence, None, &to)).await;
    let mut page = page.unwrap().unwrap();
    assert_eq!(touch::<D>(page.as_mut(), 0, 10).await.unwrap(), 10);
    let items = ItemCounts {
        processed: 10,
        ..ItemCounts::default()
    };
    page.record(&items, &[]).await.unwrap();
    drop(page);
    let found = opened(&home).await;
    assert_eq!(found.applied_to, None);
    assert_eq!(found.totals, StrideTotals::default());
    assert_eq!(
        home.number("SELECT count(*) FROM data WHERE x <> 0").await,
        0
    );
}

async fn a_later_attempt_continues_with_other_pages<D: TestDatabase>(home: Home<D>) {
    home.fill(HUNDRED).await;
    let id = stride(0);
    for (size, pages) in [(10, 3), (25, 1), (45, 1)] {
        let found = opened(&home).await;
        let mut at: i64 = found.applied_to.map_or(0, |t| t.decode().unwrap());
        for _ in 0..pages {
            let (from, to) = (token(at), token(at + size));
            let from = (at > 0).then_some(&from);
            let page = home.ledger.begin(claim(&id, found.fence, from, &to)).await;
            let mut page = page.unwrap().unwrap();
            touch::<D>(page.as_mut(), at, at + size).await.unwrap();
            let items = ItemCounts {
                processed: size as u64 - 1,
                changed: 2,
                skipped: 1,
                failed: 0,
            };
            page.record(&items, &[]).await.unwrap();
            page.commit().await.unwrap();
            at += size;
        }
    }
    let found = opened(&home).await;
    assert_eq!(found.applied_to, Some(token(HUNDRED)));
    assert_eq!(found.fence, 4);
    let items = ItemCounts {
        processed: 95,
        changed: 10,
        skipped: 5,
        failed: 0,
    };
    assert_eq!(
        found.totals,
        StrideTotals {
            pages: 5,
            pages_failed: 0,
            items
        }
    );
    assert_eq!(
        home.number("SELECT count(*) FROM data WHERE x = 1").await,
        HUNDRED
    );
}

async fn tokens_are_compared_by_their_bytes<D: TestDatabase>(home: Home<D>) {
    // Each pair is equal in one collation or another.
    let alike = [
        "e", "E", "\u{e9}", "e\u{301}", "e ", "e\u{0}", "\u{fb00}", "ff",
    ];
    let alike = alike.map(|text| PageToken::encode(&text).unwrap());
    let to = token(HUNDRED);
    for (number, at) in (0..).zip(&alike) {
        let id = stride(number);
        let fence = home
            .ledger
            .open(&id, Some(at), None, false)
            .await
            .unwrap()
            .fence;
        for from in alike.iter().filter(|from| *from != at) {
            let none = home.ledger.begin(claim(&id, fence, Some(from), &to)).await;
            assert!(none.unwrap().is_none(), "{from} is not {at}");
        }
        let some = home.ledger.begin(claim(&id, fence, Some(at), &to)).await;
        some.unwrap().unwrap().commit().await.unwrap();
    }
}

async fn tokens_of_the_maximum_length_are_kept<D: TestDatabase>(home: Home<D>) {
    let long = |last: &str| {
        let text = format!("{}{last}", "\u{1f680}".repeat(255));
        PageToken::encode(&text).unwrap()
    };
    let (from, to) = (long("a"), long("b"));
    assert_eq!(from.as_str().len(), 1_023);
    let id = stride(0);
    let fence = home
        .ledger
        .open(&id, Some(&from), None, false)
        .await
        .unwrap()
        .fence;
    let cut = home.ledger.cut(&id, fence, &[to.clone(), token(1)]).await;
    assert_eq!(cut.unwrap(), [to.clone(), token(1)]);
    let page = home.ledger.begin(claim(&id, fence, Some(&from), &to)).await;
    page.unwrap().unwrap().commit().await.unwrap();
    let found = home.ledger.open(&id, None, None, false).await.unwrap();
    assert_eq!((found.applied_to, found.end), (Some(to.clone()), Some(to)));
}

async fn no_page_is_applied_after_the_end_of_the_data<D: TestDatabase>(home: Home<D>) {
    let id = stride(0);
    let fence = home
        .ledger
        .open(&id, Some(&token(5)), None, false)
        .await
        .unwrap()
        .fence;
    let from = token(5);
    let last = PageClaim {
        stride: &id,
        fence,
        from: Some(&from),
        to: None,
        ends_data: true,
        pages: 1,
        pages_failed: 0,
    };
    let mut page = home.ledger.begin(last.clone()).await.unwrap().unwrap();
    page.record(&ItemCounts::default(), &[]).await.unwrap();
    page.commit().await.unwrap();
    assert!(home.ledger.begin(last).await.unwrap().is_none());
    let to = token(9);
    let more = home.ledger.begin(claim(&id, fence, Some(&from), &to)).await;
    assert!(more.unwrap().is_none());
    let found = home
        .ledger
        .open(&id, Some(&from), None, false)
        .await
        .unwrap();
    assert!(found.ends_data);
    assert_eq!(
        found.applied_to,
        Some(from),
        "the last known cursor should be kept"
    );
}

async fn a_page_without_an_end_is_refused<D: TestDatabase>(home: Home<D>) {
    let id = stride(0);
    let fence = opened(&home).await.fence;
    let endless = PageClaim {
        stride: &id,
        fence,
        from: None,
        to: None,
        ends_data: false,
        pages: 1,
        pages_failed: 0,
    };
    let error = home.ledger.begin(endless).await.err().unwrap();
    assert_eq!(error.error_type(), "LedgerConflict");
    assert!(!error.is_retryable());
}

/// After a failed statement PostgreSQL rolls the transaction back, which is noticed. MariaDB and SQLite undo only the
/// statement, and the page continues: its other changes are committed, once and with its claim.
async fn a_failed_statement_that_is_swallowed_loses_no_part_of_its_page<D: TestDatabase>(
    home: Home<D>,
) {
    home.fill(HUNDRED).await;
    let fence = opened(&home).await.fence;
    let (id, to) = (stride(0), token(10));
    let page = home.ledger.begin(claim(&id, fence, None, &to)).await;
    let mut page = page.unwrap().unwrap();
    touch::<D>(page.as_mut(), 0, 10).await.unwrap();
    let twice = "INSERT INTO data VALUES ($1, $2)";
    let refused = D::run(connection::<D>(page.as_mut()), twice, [1, 1]).await;
    assert!(refused.is_err());
    let committed = page.commit().await;
    let touched = home.number("SELECT count(*) FROM data WHERE x = 1").await;
    let applied_to = opened(&home).await.applied_to;
    if D::NAME == "PostgreSQL" {
        let error = committed.unwrap_err();
        assert_eq!(error.error_type(), "TransactionEnded", "{error}");
        assert!(error.is_retryable());
        assert_eq!((touched, applied_to), (0, None));
    } else {
        committed.unwrap();
        assert_eq!((touched, applied_to), (10, Some(to)));
    }
}

async fn a_transaction_that_was_ended_by_hand_is_noticed<D: TestDatabase>(home: Home<D>) {
    let fence = opened(&home).await.fence;
    let (id, to) = (stride(0), token(10));
    let page = home.ledger.begin(claim(&id, fence, None, &to)).await;
    let mut page = page.unwrap().unwrap();
    let ended = D::run_script(connection::<D>(page.as_mut()), "ROLLBACK").await;
    ended.unwrap();
    let error = page.record(&ItemCounts::default(), &[]).await.unwrap_err();
    assert_eq!(error.error_type(), "TransactionEnded");
    assert!(error.is_retryable());
}

async fn opening_waits_for_the_page_that_is_being_applied<D: TestDatabase>(home: Home<D>) {
    let fence = opened(&home).await.fence;
    let (id, to) = (stride(0), token(10));
    let page = home.ledger.begin(claim(&id, fence, None, &to)).await;
    let page = page.unwrap().unwrap();
    let mut later = Box::pin(opened(&home));
    let early = tokio::time::timeout(crate::database::A_WHILE, &mut later).await;
    assert!(early.is_err(), "{early:?}");
    page.commit().await.unwrap();
    let found = tokio::time::timeout(SOON, later).await.unwrap();
    assert_eq!(found.applied_to, Some(to));
}
