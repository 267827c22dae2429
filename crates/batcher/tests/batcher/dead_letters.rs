//! Requests that could not be written are listed and redriven like the dead letters of a batch.

use sqlx::Pool;
use temporal_batch::{Batch, store::LetterFilter};
use temporal_batch_batcher::{
    BatchWriter, DeadRequests, Outcome, RequestDatabase, SqlRequests, SqlWriter,
};

use crate::{
    database::{Home, Rows},
    support::{
        databases::{on_each, script, with_pool},
        report,
    },
    town::{Town, requests},
};

async fn redrive<DB>(town: &Town, pool: &Pool<DB>) -> (u64, u64)
where
    DB: RequestDatabase,
    Rows: SqlRequests<DB>,
{
    let queue = format!("{}-redrives", town.env.queue);
    let client = crate::support::connect(crate::support::server_address()).await;
    let _worker = temporal_batch::Worker::new(&client, &queue)
        .processor(DeadRequests::of(SqlWriter::new(pool.clone(), Rows)))
        .start()
        .unwrap();
    let filter = LetterFilter::of(town.batcher.name());
    let null = serde_json::Value::Null;
    let batch = Batch::redrive(town.env.new_id(), "rows", null, filter).task_queue(queue);
    let report = report(&town.env.start(&batch).await).await;
    let items = report.progress.items;
    (items.processed + items.skipped, items.failed)
}

async fn a_redrive_writes_the_requests_of_dead_letters_once(home: Home) {
    let town = Town::writing("redrive", "rows")
        .await
        .with(|b| b.max_batch(10));
    with_pool!(&home.pool, pool => {
        let writer = SqlWriter::new(pool.clone(), Rows);
        writer.apply_schema().await.unwrap();
        let _worker = town.worker(SqlWriter::new(pool.clone(), Rows)).await;
        let mut all = requests(0, 10);
        for poison in [2, 5, 6] {
            all[poison].payload = serde_json::json!({ "n": -1 });
        }
        town.submit(all).await;
        let outcome = town.outcome("r00002").await;
        assert!(matches!(outcome, Outcome::Failed { .. }), "{outcome}");
        town.shut_down().await;
        assert_eq!(home.rows().await.len(), 7);

        // Nothing has changed, so the letters stay.
        assert_eq!(redrive(&town, pool).await, (0, 3));

        // The rule is given up, and one of the requests has been written in another way.
        script(&home.pool, "ALTER TABLE written RENAME TO strict").await.unwrap();
        script(&home.pool, "CREATE TABLE written (id VARCHAR(255) NOT NULL, n BIGINT)").await.unwrap();
        assert_eq!(redrive(&town, pool).await, (3, 0));
        assert_eq!(home.rows().await, ["r00002", "r00005", "r00006"]);
        let filter = LetterFilter::of(town.batcher.name());
        assert!(writer.dead_letters().list(&filter, None, 10).await.unwrap().is_empty());

        // Submitted again, they are done.
        town.submit(requests(2, 3)).await;
        town.stats_show("it is held", |stats| stats.pending == 1).await;
        assert_eq!(town.shut_down().await.already_done, 1);
    });
}

on_each! {
    a_redrive_writes_the_requests_of_dead_letters_once,
}
