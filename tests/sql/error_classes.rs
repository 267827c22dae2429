//! The classification of errors of real databases: which are the fault of records, and which pass with time.

use std::time::Duration;

use sqlx::{
    Connection, Executor, MySqlConnection, PgConnection, Postgres, mysql::MySqlPoolOptions,
    postgres::PgPoolOptions,
};
use temporal_batch::PageError;

use crate::{
    database::{Home, SOON, TestDatabase, mariadb, postgres, sqlite},
    support::{databases::on_each, servers},
};

on_each! {
    constraint_violations_are_the_fault_of_records,
    a_wrong_statement_is_not_the_fault_of_records,
    a_lock_timeout_is_tried_again,
}

/// A value that stands for the secrets of a record.
const SECRET: &str = "s3cret";

const THINGS: &str = "CREATE TABLE parents (id BIGINT PRIMARY KEY);
    CREATE TABLE things (id BIGINT PRIMARY KEY, email VARCHAR(10) NOT NULL, n SMALLINT, parent BIGINT,
        CONSTRAINT one_email UNIQUE (email), CONSTRAINT n_counts CHECK (n > 0),
        CONSTRAINT has_parent FOREIGN KEY (parent) REFERENCES parents (id));
    INSERT INTO things VALUES (1, 's3cret', 1, NULL), (2, 'other', 1, NULL)";

/// The page error that `?` makes of a failed result.
#[track_caller]
fn failure<T>(result: Result<T, sqlx::Error>) -> PageError {
    let error = PageError::from(result.err().expect("the statement fails"));
    assert!(!error.message().contains(SECRET), "{error}");
    error
}

#[track_caller]
fn assert_retryable<T>(result: Result<T, sqlx::Error>, error_type: &str) {
    let error = failure(result);
    assert_eq!(error.error_type(), error_type, "{error}");
    assert!(error.is_retryable(), "{error}");
}

async fn assert_fault_of_records<D: TestDatabase>(
    home: &Home<D>,
    cases: &[(&'static str, &'static str)],
) {
    for (statement, error_type) in cases {
        let mut connection = home.pool.acquire().await.unwrap();
        let error = failure(D::run_script(&mut connection, statement).await);
        assert_eq!(error.error_type(), *error_type, "{statement}: {error}");
        assert!(!error.is_retryable(), "{error}");
    }
}

async fn constraint_violations_are_the_fault_of_records<D: TestDatabase>(home: Home<D>) {
    home.script(THINGS).await;
    let cases = [
        (
            "INSERT INTO things VALUES (1, 'a', 1, NULL)",
            "UniqueViolation",
        ),
        (
            "INSERT INTO things VALUES (3, 's3cret', 1, NULL)",
            "UniqueViolation",
        ),
        ("UPDATE things SET email = 's3cret'", "UniqueViolation"),
        ("UPDATE things SET n = -1 WHERE id = 1", "CheckViolation"),
        (
            "UPDATE things SET email = NULL WHERE id = 1",
            "NotNullViolation",
        ),
        (
            "UPDATE things SET parent = 17 WHERE id = 1",
            "ForeignKeyViolation",
        ),
    ];
    assert_fault_of_records(&home, &cases).await;
    let unchanged = "SELECT count(*) FROM things WHERE n = 1 AND parent IS NULL";
    assert_eq!(home.number(unchanged).await, 2);
}

#[tokio::test]
async fn values_that_do_not_fit_are_the_fault_of_records_in_postgresql() {
    let Some(home) = postgres("data").await else {
        return;
    };
    home.script(THINGS).await;
    let cases = [
        ("UPDATE things SET n = n / (n - n)", "InvalidData"),
        ("UPDATE things SET n = 32767 + id WHERE id = 1", "InvalidData"),
        ("UPDATE things SET n = email::smallint", "InvalidData"),
        ("UPDATE things SET email = email || email WHERE id = 1", "InvalidData"),
        ("SELECT to_timestamp(email, 'YYYY') FROM things", "InvalidData"),
        ("SELECT (SELECT id FROM things)", "InvalidData"),
        (
            "CREATE ROLE clerk; GRANT ALL ON things TO clerk; GRANT USAGE ON SCHEMA public TO clerk;
            ALTER TABLE things ENABLE ROW LEVEL SECURITY;
            CREATE POLICY own ON things USING (true) WITH CHECK (id < 10);
            SET ROLE clerk; INSERT INTO things VALUES (11, 's3cret2', 1, NULL)",
            "CheckViolation",
        ),
    ];
    assert_fault_of_records(&home, &cases).await;
}

#[tokio::test]
async fn values_that_do_not_fit_are_the_fault_of_records_in_mariadb() {
    let Some(home) = mariadb("data").await else {
        return;
    };
    home.script(THINGS).await;
    let cases = [
        ("UPDATE things SET n = n / (n - n)", "InvalidData"),
        (
            "UPDATE things SET n = 32767 + id WHERE id = 1",
            "InvalidData",
        ),
        ("UPDATE things SET n = email", "InvalidData"),
        (
            "UPDATE things SET n = 1 WHERE email = 7 AND sleep(0) = 0",
            "InvalidData",
        ),
        (
            "UPDATE things SET email = concat(email, email) WHERE id = 1",
            "InvalidData",
        ),
        ("SELECT (SELECT id FROM things)", "InvalidData"),
        (
            "SELECT CAST(1 AS UNSIGNED) - CAST(2 AS UNSIGNED)",
            "InvalidData",
        ),
    ];
    assert_fault_of_records(&home, &cases).await;
}

#[tokio::test]
async fn values_that_do_not_fit_are_the_fault_of_records_in_sqlite() {
    let home = sqlite().await;
    home.script(THINGS).await;
    home.script("CREATE TABLE strict (id INTEGER PRIMARY KEY, n INT) STRICT")
        .await;
    let cases = [
        ("INSERT INTO strict VALUES ('s3cret', 1)", "InvalidData"),
        ("INSERT INTO strict VALUES (1, 's3cret')", "InvalidData"),
        ("SELECT sum(9223372036854775807) FROM things", "InvalidData"),
        ("SELECT json_extract('{s3cret', '$.a')", "InvalidData"),
        ("SELECT zeroblob(9000000000)", "InvalidData"),
    ];
    assert_fault_of_records(&home, &cases).await;
}

async fn a_wrong_statement_is_not_the_fault_of_records<D: TestDatabase>(home: Home<D>) {
    let wrong = [
        "SELEC 1",
        "SELECT nothing FROM data",
        "SELECT * FROM nowhere",
        "UPDATE data SET nothing = 1",
        "INSERT INTO data VALUES (1, 2, 3)",
        "INSERT INTO data (nothing) VALUES (1)",
        "SELECT no_function(id) FROM data",
    ];
    for statement in wrong {
        let mut connection = home.pool.acquire().await.unwrap();
        let result = D::run_script(&mut connection, statement).await;
        assert_retryable(result, "SqlStatement");
    }
}

async fn a_lock_timeout_is_tried_again<D: TestDatabase>(home: Home<D>) {
    home.fill(2).await;
    let impatient = D::impatient(&home).await;
    let update = "UPDATE data SET x = 1 WHERE id = 1";
    let mut holder = home.pool.begin().await.unwrap();
    D::run_script(&mut holder, update).await.unwrap();
    let mut other = impatient.acquire().await.unwrap();
    let waited = D::run_script(&mut other, update).await;
    assert_retryable(waited, "LockTimeout");
}

/// Runs two transactions that wait for each other's row.
async fn deadlock<D: TestDatabase>(home: &Home<D>) {
    home.fill(2).await;
    let (first, second) = (
        "UPDATE data SET x = 1 WHERE id = 1",
        "UPDATE data SET x = 1 WHERE id = 2",
    );
    let mut one = home.pool.begin().await.unwrap();
    let mut two = home.pool.begin().await.unwrap();
    D::run_script(&mut one, first).await.unwrap();
    D::run_script(&mut two, second).await.unwrap();
    let one = async {
        let result = D::run_script(&mut one, second).await;
        drop(one);
        result
    };
    let two = async {
        let result = D::run_script(&mut two, first).await;
        drop(two);
        result
    };
    let both = async { futures::join!(one, two) };
    let (one, two) = tokio::time::timeout(SOON, both).await.unwrap();
    assert!(one.is_ok() != two.is_ok(), "{one:?}, {two:?}");
    assert_retryable(one.and(two), "Deadlock");
}

#[tokio::test]
async fn the_victim_of_a_deadlock_is_tried_again_in_postgresql() {
    if let Some(home) = postgres("deadlock").await {
        deadlock(&home).await;
    }
}

#[tokio::test]
async fn the_victim_of_a_deadlock_is_tried_again_in_mariadb() {
    if let Some(home) = mariadb("deadlock").await {
        deadlock(&home).await;
    }
}

/// Runs statements one after the other, and asserts that the last one fails with this type.
async fn assert_last_fails<D: TestDatabase>(
    connection: &mut D::Connection,
    statements: &[&'static str],
    error_type: &str,
) {
    let (last, before) = statements.split_last().unwrap();
    for statement in before {
        D::run_script(connection, statement).await.unwrap();
    }
    let result = tokio::time::timeout(SOON, D::run_script(connection, last)).await;
    assert_retryable(result.unwrap(), error_type);
}

#[tokio::test]
async fn conflicts_and_limits_of_postgresql_are_tried_again() {
    let Some(home) = postgres("conflicts").await else {
        return;
    };
    home.fill(2).await;
    let cases: [(&[&str], &str); 3] = [
        (
            &["SET statement_timeout = 50", "SELECT pg_sleep(60)"],
            "StatementTimeout",
        ),
        (
            &[
                "SET default_transaction_read_only = on",
                "UPDATE data SET x = 1",
            ],
            "ReadOnlyDatabase",
        ),
        (
            &[
                "CREATE ROLE visitor",
                "SET ROLE visitor",
                "SELECT * FROM data",
            ],
            "SqlStatement",
        ),
    ];
    for (statements, error_type) in cases {
        let mut connection = home.pool.acquire().await.unwrap().detach();
        assert_last_fails::<Postgres>(&mut connection, statements, error_type).await;
    }
    let mut late = home.pool.acquire().await.unwrap().detach();
    let begin = "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT * FROM data";
    late.execute(sqlx::raw_sql(begin)).await.unwrap();
    home.script("UPDATE data SET x = 1").await;
    let update = ["UPDATE data SET x = 2"];
    assert_last_fails::<Postgres>(&mut late, &update, "SerializationFailure").await;
}

#[tokio::test]
async fn conflicts_and_limits_of_mariadb_are_tried_again() {
    let Some(home) = mariadb("conflicts").await else {
        return;
    };
    home.fill(2).await;
    let cases: [(&[&str], &str); 2] = [
        (
            &[
                "SET max_statement_time = 0.05",
                "SELECT sleep(60) FROM data",
            ],
            "StatementTimeout",
        ),
        (
            &["SET SESSION TRANSACTION READ ONLY", "UPDATE data SET x = 1"],
            "ReadOnlyDatabase",
        ),
    ];
    for (statements, error_type) in cases {
        let mut connection = home.pool.acquire().await.unwrap().detach();
        assert_last_fails::<sqlx::MySql>(&mut connection, statements, error_type).await;
    }
    let mut late = home.pool.acquire().await.unwrap().detach();
    let begin = "SET innodb_snapshot_isolation = ON; START TRANSACTION; SELECT * FROM data";
    late.execute(sqlx::raw_sql(begin)).await.unwrap();
    home.script("UPDATE data SET x = 1").await;
    let update = ["UPDATE data SET x = 2"];
    assert_last_fails::<sqlx::MySql>(&mut late, &update, "SerializationFailure").await;
}

#[tokio::test]
async fn conflicts_and_limits_of_sqlite_are_tried_again() {
    let home = sqlite().await;
    home.fill(2).await;
    let mut reader = home.pool.acquire().await.unwrap();
    let read_only = ["PRAGMA query_only = ON", "UPDATE data SET x = 1"];
    assert_last_fails::<sqlx::Sqlite>(&mut reader, &read_only, "ReadOnlyDatabase").await;
    reader.close().await.unwrap();

    let mut late = home.pool.acquire().await.unwrap();
    let begin = "BEGIN; SELECT * FROM data";
    late.execute(sqlx::raw_sql(begin)).await.unwrap();
    home.script("UPDATE data SET x = 1").await;
    assert_last_fails::<sqlx::Sqlite>(&mut late, &["UPDATE data SET x = 2"], "LockTimeout").await;
}

#[tokio::test]
async fn a_killed_connection_is_lost_in_postgresql() {
    let Some(home) = postgres("killed").await else {
        return;
    };
    let mut victim = home.pool.acquire().await.unwrap().detach();
    let id: i32 = sqlx::query_scalar("SELECT pg_backend_pid()")
        .fetch_one(&mut victim)
        .await
        .unwrap();
    let kill = sqlx::query("SELECT pg_terminate_backend($1, 10000)").bind(id);
    kill.execute(&home.pool).await.unwrap();
    assert_retryable(victim.execute("SELECT 1").await, "ConnectionLost");
}

#[tokio::test]
async fn a_killed_connection_is_lost_in_mariadb() {
    let Some(home) = mariadb("killed").await else {
        return;
    };
    let mut victim = home.pool.acquire().await.unwrap().detach();
    let id: i64 = sqlx::query_scalar("SELECT CAST(connection_id() AS SIGNED)")
        .fetch_one(&mut victim)
        .await
        .unwrap();
    let kill = sqlx::query("KILL ?").bind(id);
    kill.execute(&home.pool).await.unwrap();
    assert_retryable(victim.execute("SELECT 1").await, "ConnectionLost");
}

const SHORT: Duration = Duration::from_millis(500);

#[tokio::test(flavor = "multi_thread")]
async fn a_stopping_postgresql_server_is_unreachable() {
    let Some(server) = servers::Postgres::launch(false) else {
        return;
    };
    let url = server.database("stops").await;
    let mut held = PgConnection::connect(&url).await.unwrap();
    let pool = PgPoolOptions::new()
        .acquire_timeout(SHORT)
        .max_connections(1);
    let pool = pool.connect(&url).await.unwrap();
    let busy = pool.acquire().await.unwrap();
    assert_retryable(pool.acquire().await, "PoolTimedOut");
    drop(busy);
    server.stop(servers::Stop::Fast);
    assert_retryable(held.execute("SELECT 1").await, "ConnectionLost");
    assert_retryable(PgConnection::connect(&url).await, "ConnectionLost");
    let error = failure(pool.execute("SELECT 1").await);
    assert!(error.is_retryable());
    assert!(
        ["ConnectionLost", "PoolTimedOut"].contains(&error.error_type()),
        "{error}"
    );
    let nobody = url.replace("postgres@", "nobody:s3cret@");
    server.start();
    assert_retryable(PgConnection::connect(&nobody).await, "SqlStatement");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_full_or_read_only_mariadb_server_is_tried_again() {
    let Some(server) = servers::MariaDb::launch(false) else {
        return;
    };
    let url = server.database("stops").await;
    let mut root = MySqlConnection::connect(&url).await.unwrap();
    let prepare = "CREATE TABLE things (id BIGINT PRIMARY KEY); CREATE TABLE others (id BIGINT);
        CREATE USER clerk IDENTIFIED BY 's3cret'; GRANT SELECT, INSERT ON things TO clerk;
        SET GLOBAL read_only = ON; SET GLOBAL max_connections = 10";
    root.execute(sqlx::raw_sql(prepare)).await.unwrap();

    let of_clerk = url.replace("root@", "clerk:s3cret@");
    let mut clerk = MySqlConnection::connect(&of_clerk).await.unwrap();
    assert_retryable(clerk.execute("SELECT * FROM others").await, "SqlStatement");
    let insert = clerk.execute("INSERT INTO things VALUES (1)").await;
    assert_retryable(insert, "ReadOnlyDatabase");
    let wrong = url.replace("root@", "clerk:wrong@");
    assert_retryable(MySqlConnection::connect(&wrong).await, "SqlStatement");

    let mut connections = Vec::new();
    let full = loop {
        assert!(connections.len() < 20);
        match MySqlConnection::connect(&of_clerk).await {
            Ok(connection) => connections.push(connection),
            Err(error) => break error,
        }
    };
    assert_retryable(Err::<(), _>(full), "ConnectionLost");
    drop(connections);

    let pool = MySqlPoolOptions::new().acquire_timeout(SHORT);
    let pool = pool.connect_lazy(&url).unwrap();
    server.stop(servers::Stop::Fast);
    assert_retryable(clerk.execute("SELECT 1").await, "ConnectionLost");
    assert_retryable(MySqlConnection::connect(&url).await, "ConnectionLost");
    let error = failure(pool.execute("SELECT 1").await);
    assert!(error.is_retryable());
    assert!(
        ["ConnectionLost", "PoolTimedOut"].contains(&error.error_type()),
        "{error}"
    );
}
