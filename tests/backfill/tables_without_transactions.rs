//! Tables of MariaDB whose engine has no transactions.

use temporal_batch::{
    PageProcessor as _,
    sql::{BackfillArgs, TableSpec},
};

use crate::database::{Home, mariadb};

fn t() -> TableSpec {
    TableSpec::new("t", ["id"])
}

async fn refused(home: &Home, args: BackfillArgs, table: &str, engine: &str) {
    let error = home.processor().prepare(args).await.unwrap_err();
    assert!(!error.is_retryable(), "{error}");
    let message = error.message();
    for part in [format!("{table:?}"), engine.to_owned()] {
        assert!(message.contains(&part), "{part}: {message}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_without_transactions_is_refused() {
    let Some(home) = mariadb("engines").await else {
        return;
    };
    home.ledger_tables().await;
    for engine in ["MyISAM", "Aria", "MEMORY"] {
        home.script(&format!(
            "CREATE TABLE t (id INT PRIMARY KEY, v INT) ENGINE = {engine}; INSERT INTO t VALUES (1, 1)"
        ))
        .await;
        let once = BackfillArgs::of(t()).set("v", "2").once(true);
        refused(&home, once, "t", engine).await;
        let by_itself = BackfillArgs::of(t()).set("v", "v + 1");
        refused(&home, by_itself, "t", engine).await;
        let statement = BackfillArgs::of(t()).statement("DELETE FROM t WHERE {range}");
        refused(&home, statement, "t", engine).await;
        // The next attempt sets the same values, whatever an earlier one has left.
        let repeatable = BackfillArgs::of(t()).set("v", "2");
        home.processor().prepare(repeatable).await.unwrap();
        home.script("DROP TABLE t").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_without_transactions_behind_another_one_is_refused() {
    let Some(home) = mariadb("engines_behind").await else {
        return;
    };
    home.numbers(5).await;
    home.ledger_tables().await;
    home.script(
        "CREATE TABLE archive (id INT) ENGINE = MyISAM; CREATE TABLE log (id INT) ENGINE = Aria;
         CREATE TABLE rates (id INT, x INT) ENGINE = MyISAM",
    )
    .await;
    let archive = BackfillArgs::of(t())
        .statement("INSERT INTO archive SELECT id FROM t WHERE {range}")
        .once(true);
    refused(&home, archive, "archive", "MyISAM").await;
    // A table that is only read may have any engine.
    let reads = || {
        BackfillArgs::of(t())
            .set("x", "(SELECT count(*) FROM rates)")
            .once(true)
    };
    home.processor().prepare(reads()).await.unwrap();
    home.script(
        "CREATE TRIGGER logs AFTER UPDATE ON t FOR EACH ROW INSERT INTO log VALUES (new.id)",
    )
    .await;
    refused(&home, reads(), "log", "Aria").await;
    home.script(
        "DROP TRIGGER logs; ALTER TABLE temporal_batch_stride DROP PRIMARY KEY, ENGINE = MyISAM",
    )
    .await;
    refused(&home, reads(), "temporal_batch_stride", "MyISAM").await;
}
