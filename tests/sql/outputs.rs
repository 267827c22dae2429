//! Outputs of pages, kept with their pages.

use serde_json::{Value, json};
use temporal_batch::{
    Timestamp,
    progress::ItemCounts,
    store::{PageLedger, StrideTotals},
};

use crate::{
    database::{Home, TestDatabase, stride, token},
    pages::claim,
    support::databases::on_each,
};

on_each! {
    outputs_are_kept_with_their_page_and_found_by_its_position,
    outputs_are_rolled_back_with_their_page,
    a_ledger_without_the_table_of_outputs_works_for_everything_else,
}

fn items(processed: u64) -> ItemCounts {
    ItemCounts {
        processed,
        ..ItemCounts::default()
    }
}

/// Applies the rows up to `to`, ten at a time, with one output for each page.
async fn apply<D: TestDatabase>(home: &Home<D>, from: i64, to: i64) {
    let id = stride(0);
    let fence = home
        .ledger
        .open(&id, None, None, false)
        .await
        .unwrap()
        .fence;
    for at in (from..to).step_by(10) {
        let (start, end) = (token(at), token(at + 10));
        let start = (at > 0).then_some(&start);
        let page = home.ledger.begin(claim(&id, fence, start, &end)).await;
        let mut page = page.unwrap().unwrap();
        page.record(&items(10), &[]).await.unwrap();
        page.keep_output(&json!({"after": at, "text": "ß \u{1f680} '"}))
            .await
            .unwrap();
        page.commit().await.unwrap();
    }
}

fn after(outputs: &[Value]) -> Vec<i64> {
    outputs
        .iter()
        .map(|output| output["after"].as_i64().unwrap())
        .collect()
}

async fn outputs_are_kept_with_their_page_and_found_by_its_position<D: TestDatabase>(
    home: Home<D>,
) {
    apply(&home, 0, 120).await;
    let all = home.ledger.outputs(&stride(0), 0).await.unwrap();
    let expected: Vec<i64> = (0..120).step_by(10).collect();
    assert_eq!(after(&all), expected, "in order");
    assert_eq!(all[0]["text"], "ß \u{1f680} '");
    // Outputs that the controller has counted are not returned again, however many there are.
    for pages in 0..=12u64 {
        let counted = StrideTotals {
            pages,
            items: items(pages * 10),
            ..StrideTotals::default()
        };
        let rest = home
            .ledger
            .outputs(&stride(0), counted.progress_counter())
            .await
            .unwrap();
        assert_eq!(after(&rest), expected[pages as usize..]);
    }
    assert_eq!(
        home.ledger.outputs(&stride(1), 0).await.unwrap(),
        [] as [Value; 0]
    );
}

async fn outputs_are_rolled_back_with_their_page<D: TestDatabase>(home: Home<D>) {
    let id = stride(0);
    let fence = home
        .ledger
        .open(&id, None, None, false)
        .await
        .unwrap()
        .fence;
    let to = token(10);
    let page = home.ledger.begin(claim(&id, fence, None, &to)).await;
    let mut page = page.unwrap().unwrap();
    page.record(&items(10), &[]).await.unwrap();
    page.keep_output(&json!(1)).await.unwrap();
    drop(page);
    assert_eq!(home.ledger.outputs(&id, 0).await.unwrap(), [] as [Value; 0]);
    apply(&home, 0, 20).await;
    assert_eq!(home.ledger.outputs(&id, 0).await.unwrap().len(), 2);
}

async fn a_ledger_without_the_table_of_outputs_works_for_everything_else<D: TestDatabase>(
    home: Home<D>,
) {
    home.script("DROP TABLE temporal_batch_output").await;
    let id = stride(0);
    let fence = home
        .ledger
        .open(&id, None, None, false)
        .await
        .unwrap()
        .fence;
    let to = token(10);
    let page = home.ledger.begin(claim(&id, fence, None, &to)).await;
    let mut page = page.unwrap().unwrap();
    page.record(&items(10), &[]).await.unwrap();
    page.commit().await.unwrap();
    home.ledger.prune(Timestamp(u64::MAX / 2)).await.unwrap();
    let missing = home.ledger.outputs(&id, 0).await.unwrap_err();
    assert_eq!(missing.error_type(), "LedgerTablesMissing");
    home.ledger.apply_schema().await.unwrap();
    assert_eq!(home.ledger.outputs(&id, 0).await.unwrap(), [] as [Value; 0]);
}
