//! The tables of the ledger: created only on request, and reported clearly when they are missing.

use sqlx::Postgres;
use temporal_batch::{
    PageError, PageToken, Timestamp,
    sql::SqlLedger,
    store::{DeadLetter, DeadLetters, LetterFilter, PageClaim, PageLedger},
};

use crate::{
    database::{Home, TestDatabase, postgres, stride, token},
    support::databases::on_each,
};

on_each! {
    every_call_says_that_the_tables_are_missing,
    the_schema_can_be_applied_by_several_clients_at_once,
    the_schema_is_what_schema_sql_says,
}

async fn drop_tables<D: TestDatabase>(home: &Home<D>) {
    home.script(
        "DROP TABLE temporal_batch_stride; DROP TABLE temporal_batch_dead_letter;
        DROP TABLE temporal_batch_report; DROP TABLE temporal_batch_output;
        DROP TABLE temporal_batch_settled",
    )
    .await;
}

async fn every_call_says_that_the_tables_are_missing<D: TestDatabase>(home: Home<D>) {
    drop_tables(&home).await;
    let (ledger, id, to) = (&home.ledger, stride(0), token(1));
    let claim = PageClaim {
        stride: &id,
        fence: 1,
        from: None,
        to: Some(&to),
        ends_data: false,
        pages: 1,
        pages_failed: 0,
    };
    let letter: DeadLetter = serde_json::from_value(serde_json::json!({
        "id": "a", "batch_id": "b", "batch_run": "r", "processor": "p", "stride": 0, "start": null,
        "end": null, "key": null, "error_type": "E", "message": "m", "attempts": 1, "first_at": 0,
        "last_at": 0,
    }))
    .unwrap();
    let both = [to.clone(), token(2)];
    let errors: [Option<PageError>; 10] = [
        ledger.open(&id, None, None, false).await.err(),
        ledger.cut(&id, 1, &both[..1]).await.err(),
        ledger.cut(&id, 1, &both).await.err(),
        ledger.begin(claim).await.err(),
        ledger.put(std::slice::from_ref(&letter)).await.err(),
        ledger.list(&LetterFilter::of("b"), None, 1).await.err(),
        ledger.take(&letter).await.err(),
        ledger.prune(Timestamp(1)).await.err(),
        ledger.outputs(&id, 0).await.err(),
        ledger.settled("r").await.err(),
    ];
    for (number, error) in errors.into_iter().enumerate() {
        let error = error.unwrap_or_else(|| panic!("number {number} succeeded"));
        assert_eq!(
            error.error_type(),
            "LedgerTablesMissing",
            "{number}: {error}"
        );
        assert!(error.is_retryable());
        assert!(error.message().contains("apply_schema"), "{error}");
    }
    let error = ledger.reports("b").await.unwrap_err();
    assert_eq!(error.error_type(), "LedgerTablesMissing");
    ledger.apply_schema().await.unwrap();
    ledger.open(&id, None, None, false).await.unwrap();
}

async fn the_schema_can_be_applied_by_several_clients_at_once<D: TestDatabase>(home: Home<D>) {
    for _ in 0..5 {
        drop_tables(&home).await;
        let all = futures::future::join_all((0..8).map(|_| home.ledger.apply_schema()));
        for applied in all.await {
            applied.unwrap();
        }
    }
}

async fn the_schema_is_what_schema_sql_says<D: TestDatabase>(home: Home<D>) {
    drop_tables(&home).await;
    let statements: &'static str = home.ledger.schema_sql().leak();
    home.script(statements).await;
    home.script(statements).await;
    home.ledger
        .open(&stride(0), None, None, false)
        .await
        .unwrap();
}

#[tokio::test]
async fn the_tables_can_be_in_a_schema_of_postgresql() {
    let Some(home) = postgres("a_schema").await else {
        return;
    };
    home.script("CREATE SCHEMA \"Ops \"\"2\"\"\"").await;
    let ledger = SqlLedger::<Postgres>::new(home.pool.clone());
    let ledger = ledger.schema("Ops \"2\"").unwrap();
    let missing = ledger
        .open(&stride(0), None, None, false)
        .await
        .unwrap_err();
    assert_eq!(missing.error_type(), "LedgerTablesMissing");
    ledger.apply_schema().await.unwrap();
    ledger.open(&stride(0), None, None, false).await.unwrap();
    let there = "SELECT count(*) FROM \"Ops \"\"2\"\"\".temporal_batch_stride";
    assert_eq!(home.number(there).await, 1);
    let elsewhere = "SELECT count(*) FROM temporal_batch_stride";
    assert_eq!(home.number(elsewhere).await, 0);
}

#[tokio::test]
async fn an_invalid_schema_name_is_refused() {
    let pool = sqlx::PgPool::connect_lazy("postgres://127.0.0.1:1/none").unwrap();
    for name in ["", "a\0b", "line\nbreak", &"x".repeat(64)] {
        let refused = SqlLedger::new(pool.clone()).schema(name).unwrap_err();
        assert!(refused.to_string().contains("1 to 63 bytes"), "{refused}");
    }
}

#[tokio::test]
async fn an_error_shows_no_connection_string() {
    let Some(server) = crate::support::servers::Postgres::shared() else {
        return;
    };
    let port = server.port();
    let url = format!("postgres://postgres:s3cret@127.0.0.1:{port}/shop?sslmode=disable");
    let pool = sqlx::PgPool::connect_lazy(&url).unwrap();
    let ledger = SqlLedger::new(pool);
    let shown = [
        format!("{ledger:?}"),
        ledger
            .open(&stride(0), None, None, false)
            .await
            .unwrap_err()
            .to_string(),
        ledger.apply_schema().await.unwrap_err().to_string(),
    ];
    for text in shown {
        for part in ["s3cret", "postgres:", "127.0.0.1"] {
            assert!(!text.contains(part), "{text}");
        }
    }
}

#[tokio::test]
async fn the_defaults_of_a_mysql_database_do_not_matter() {
    let Some(server) = crate::support::servers::MariaDb::shared() else {
        return;
    };
    let pool = server.pool("defaults", 1).await;
    let defaults = "SET SESSION default_storage_engine = MyISAM; SET SESSION sql_mode = 'ANSI';
        SET @database = database();
        EXECUTE IMMEDIATE CONCAT('ALTER DATABASE `', @database, '` CHARACTER SET latin1')";
    sqlx::raw_sql(defaults).execute(&pool).await.unwrap();
    let ledger = SqlLedger::new(pool.clone());
    ledger.apply_schema().await.unwrap();
    let of_innodb: i64 = sqlx::query_scalar(
        "SELECT count(*) FROM information_schema.tables WHERE table_schema = database()
            AND engine = 'InnoDB' AND table_name LIKE 'temporal\\_batch\\_%'",
    )
    .fetch_one(&pool)
    .await
    .unwrap();
    assert_eq!(of_innodb, 5);
    let awkward = PageToken::encode(&"東京 \u{1f680} ß").unwrap();
    let found = ledger
        .open(&stride(0), Some(&awkward), None, false)
        .await
        .unwrap();
    assert_eq!(found.applied_to, Some(awkward));
}
