//! What the ledger costs a page. For figures that mean something, on an idle machine:
//!
//! ```console
//! $ OVERHEAD_PAGES=1000 cargo test --release --test sql overhead -- --nocapture --test-threads 1
//! ```

use std::time::{Duration, Instant};

use temporal_batch::{ItemCounts, PageLedger};

use crate::{
    database::{Home, TestDatabase, stride, token, touch},
    on_each,
    pages::claim,
};

const ROWS_OF_A_PAGE: i64 = 1_000;

on_each! {
    a_page_with_the_ledger_does_what_a_page_without_it_does,
}

async fn a_page_with_the_ledger_does_what_a_page_without_it_does<D: TestDatabase>(home: Home<D>) {
    let pages = std::env::var("OVERHEAD_PAGES").map_or(10, |pages| pages.parse().unwrap());
    let rows = ROWS_OF_A_PAGE * 10;
    home.script("DELETE FROM data").await;
    for page in 0..10 {
        let fill = "INSERT INTO data
            WITH RECURSIVE n (id) AS (SELECT $1 UNION ALL SELECT id + 1 FROM n WHERE id < $2)
            SELECT id, 0 FROM n";
        let first = page * ROWS_OF_A_PAGE;
        home.run(fill, [first + 1, first + ROWS_OF_A_PAGE]).await;
    }
    let (mut plain, mut kept) = (Vec::new(), Vec::new());
    let id = stride(0);
    let fence = home.ledger.open(&id, None, None).await.unwrap().fence;
    for page in 0..pages {
        // The same rows again and again, as another page each time.
        let from = page * ROWS_OF_A_PAGE % rows;
        let to = from + ROWS_OF_A_PAGE;
        let began = Instant::now();
        let mut transaction = home.pool.begin().await.unwrap();
        let update = "UPDATE data SET x = x + 1 WHERE id > $1 AND id <= $2";
        D::run(&mut transaction, update, [from, to]).await.unwrap();
        transaction.commit().await.unwrap();
        plain.push(began.elapsed());

        let began = Instant::now();
        let (before, after) = (token(page), token(page + 1));
        let before = (page > 0).then_some(&before);
        let claimed = home.ledger.begin(claim(&id, fence, before, &after)).await;
        let mut transaction = claimed.unwrap().unwrap();
        touch::<D>(transaction.as_mut(), from, to).await.unwrap();
        let items = ItemCounts {
            processed: ROWS_OF_A_PAGE as u64,
            ..ItemCounts::default()
        };
        transaction.record(&items, &[]).await.unwrap();
        transaction.commit().await.unwrap();
        kept.push(began.elapsed());
    }
    let median = |mut times: Vec<Duration>| {
        times.sort();
        times[times.len() / 2]
    };
    println!(
        "{}: {ROWS_OF_A_PAGE} rows a page, median of {pages}: {:?} without, {:?} with the ledger",
        D::NAME,
        median(plain),
        median(kept)
    );
    let found = home.ledger.open(&id, None, None).await.unwrap();
    assert_eq!(found.applied_to, Some(token(pages)));
    let touched = home.number("SELECT count(*) FROM data WHERE x > 0").await;
    assert_eq!(touched, rows.min(pages * ROWS_OF_A_PAGE));
}
