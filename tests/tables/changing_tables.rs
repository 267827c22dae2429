//! A table that changes while its pages are read.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use futures::future::join_all;
use temporal_batch::{
    SkipAhead,
    sql::{Key, Table},
};
use tokio::sync::watch;

use crate::{
    database::{Home, SOON, numbered},
    support::databases::{on_each, with_pool},
};

on_each! {
    old_rows_are_read_once_and_new_ones_at_most_once,
}

const GROUPS: [&str; 4] = ["a", "B", "b2", "Z"];
const ROWS: i64 = 400;

/// Inserts rows everywhere, most of them at the end, and deletes every third of the first rows.
async fn change_rows(home: &Home, stop: &AtomicBool, disturbed: &watch::Sender<i64>) {
    let mut n = ROWS;
    while !stop.load(Ordering::Relaxed) {
        n += 1;
        let group = GROUPS[n as usize % 4];
        // The new rows lie between the first rows, and after all of them.
        let (between, after) = (fastrand::i64(0..ROWS * 10) | 1, 1_000_000 + n);
        let ignore = if home.is_mariadb() { "IGNORE" } else { "" };
        let conflict = if home.is_mariadb() {
            ""
        } else {
            "ON CONFLICT DO NOTHING"
        };
        home.script(format!(
            "INSERT {ignore} INTO t VALUES ('{group}', {between}, {n}), ('zz', {after}, -{n}) {conflict}"
        ))
        .await;
        let deleted = fastrand::i64(0..ROWS) / 3 * 3;
        home.script(format!("DELETE FROM t WHERE n = {deleted}"))
            .await;
        disturbed.send_replace(n);
    }
}

/// Reads the table page by page. Rows are inserted and deleted after the first two pages.
async fn walk(
    table: Table,
    start: Option<Key>,
    end: Option<Key>,
    mut disturbed: watch::Receiver<i64>,
) -> Vec<(Key, i64)> {
    let mut all: Vec<(Key, i64)> = Vec::new();
    loop {
        let start = all
            .last()
            .map(|(key, _)| key.clone())
            .or_else(|| start.clone());
        let page = numbered(&table, "n", start.as_ref(), end.as_ref(), 7)
            .await
            .unwrap();
        if page.is_empty() {
            return all;
        }
        if all.is_empty() {
            disturbed.mark_unchanged();
            let happened = tokio::time::timeout(SOON, disturbed.changed()).await;
            happened.unwrap().unwrap();
        }
        all.extend(page);
    }
}

async fn old_rows_are_read_once_and_new_ones_at_most_once(home: Home) {
    let collation = if home.is_postgres() {
        "TEXT COLLATE \"und-x-icu\""
    } else if home.is_mariadb() {
        "VARCHAR(9) COLLATE utf8mb4_unicode_ci"
    } else {
        "TEXT COLLATE NOCASE"
    };
    home.script(format!(
        "CREATE TABLE t (g {collation} NOT NULL, id BIGINT NOT NULL, n BIGINT NOT NULL, PRIMARY KEY (g, id));
        CREATE INDEX t_n ON t (n)"
    ))
    .await;
    let rows: Vec<_> = (0..ROWS)
        .map(|n| format!("('{}', {}, {n})", GROUPS[n as usize * 7 % 4], n * 10))
        .collect();
    home.script(format!("INSERT INTO t VALUES {}", rows.join(", ")))
        .await;
    let table = home.inspect("t", &["g", "id"]).await.unwrap();

    let (home, stop) = (Arc::new(home), Arc::new(AtomicBool::new(false)));
    let (disturbed, happened) = watch::channel(0);
    let disturbing = {
        let (home, stop) = (home.clone(), stop.clone());
        tokio::spawn(async move { change_rows(&home, &stop, &disturbed).await })
    };
    for _ in 0..3 {
        let known: BTreeSet<i64> = home.numbers("SELECT n FROM t").await.into_iter().collect();
        let mark = table.high_water_mark().await.unwrap();
        // As in the engine, one reader finds the ends of strides while others read the strides.
        let mut walks = Vec::new();
        let mut start: Option<Key> = None;
        loop {
            let end = match table.skip(start.as_ref(), mark.as_ref(), 90).await.unwrap() {
                SkipAhead::To(end) => Some(end),
                _ => None,
            };
            let last = end.is_none();
            let range_end = end.clone().or_else(|| mark.clone());
            walks.push(tokio::spawn(walk(
                table.clone(),
                start.clone(),
                range_end,
                happened.clone(),
            )));
            start = end;
            if last {
                break;
            }
        }
        let met: Vec<(Key, i64)> = join_all(walks)
            .await
            .into_iter()
            .flat_map(Result::unwrap)
            .collect();
        let there: BTreeSet<i64> = home.numbers("SELECT n FROM t").await.into_iter().collect();

        let mut times: BTreeMap<String, u32> = BTreeMap::new();
        for (key, _) in &met {
            *times.entry(key.to_string()).or_default() += 1;
        }
        assert!(times.values().all(|times| *times == 1), "a repeated row");
        let met: BTreeSet<i64> = met.iter().map(|(_, n)| *n).collect();
        let lost: Vec<_> = known
            .intersection(&there)
            .filter(|n| !met.contains(n))
            .collect();
        assert!(lost.is_empty(), "lost: {lost:?}");
    }
    stop.store(true, Ordering::Relaxed);
    disturbing.await.unwrap();
    with_pool!(&home.database, pool => pool.close().await);
}
