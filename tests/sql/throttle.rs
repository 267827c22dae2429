//! The throttle on PostgreSQL: each check, against the state that it measures.

use std::{
    future::Future,
    str::FromStr as _,
    sync::OnceLock,
    time::{Duration, Instant},
};

use sqlx::{
    Connection as _, Executor as _, PgConnection, PgPool,
    postgres::{PgConnectOptions, PgPoolOptions},
};
use temporal_batch::{
    sql::{PostgresThrottle, PostgresThrottleBuilder},
    throttle::{Throttle, Verdict},
};
use tokio::sync::{Mutex, MutexGuard};

use crate::support::servers::{Postgres, Stop};

/// A server with no other client, since the checks count clients of the whole server.
async fn exclusive_server() -> Option<(&'static Postgres, MutexGuard<'static, ()>)> {
    static SERVER: OnceLock<Option<Postgres>> = OnceLock::new();
    static TURN: Mutex<()> = Mutex::const_new(());
    let turn = TURN.lock().await;
    let server = SERVER.get_or_init(|| Postgres::launch(false)).as_ref();
    if server.is_none() {
        Postgres::skip();
    }
    Some((server?, turn))
}

fn throttle(
    pool: &PgPool,
    checks: impl FnOnce(PostgresThrottleBuilder) -> PostgresThrottleBuilder,
) -> PostgresThrottle {
    checks(PostgresThrottle::builder(pool.clone()))
        .build()
        .unwrap()
}

/// The verdict, or the error with its causes.
async fn ask(throttle: &PostgresThrottle) -> Result<Verdict, String> {
    throttle.ask().await.map_err(|error| {
        let mut text = error.to_string();
        let mut cause = error.source();
        while let Some(error) = cause {
            text = format!("{text}: {error}");
            cause = error.source();
        }
        text
    })
}

async fn until<T, Fut: Future<Output = T>>(
    what: &str,
    mut look: impl FnMut() -> Fut,
    wanted: impl Fn(&T) -> bool,
) -> T
where
    T: std::fmt::Debug,
{
    let limit = Duration::from_secs(60);
    let began = Instant::now();
    loop {
        let seen = look().await;
        if wanted(&seen) {
            return seen;
        }
        assert!(
            began.elapsed() < limit,
            "waited {limit:?} for {what}: {seen:?}"
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn until_go(throttle: &PostgresThrottle, what: &str) {
    let said = until(what, || ask(throttle), |said| *said == Ok(Verdict::Go)).await;
    said.unwrap();
}

/// Waits for a hold and gives its reason.
async fn until_held(throttle: &PostgresThrottle, what: &str) -> String {
    let held = until(
        what,
        || ask(throttle),
        |said| matches!(said, Ok(Verdict::Hold { .. })),
    );
    match held.await {
        Ok(Verdict::Hold { reason }) => reason,
        other => panic!("{other:?}"),
    }
}

/// `3.2` of `replica lag 3.2s > 2s`.
fn figure(reason: &str, before: &str, after: &str) -> f64 {
    let figure = reason
        .strip_prefix(before)
        .and_then(|rest| rest.strip_suffix(after));
    let figure = figure.and_then(|figure| figure.parse().ok());
    figure.unwrap_or_else(|| panic!("not `{before}..{after}`: {reason}"))
}

async fn connect_as(application: &str, url: &str) -> PgConnection {
    let options = PgConnectOptions::from_str(url).unwrap();
    let options = options.application_name(application);
    PgConnection::connect_with(&options).await.unwrap()
}

async fn pool_of(url: &str) -> PgPool {
    let pool = PgPoolOptions::new().max_connections(2);
    pool.connect(url).await.unwrap()
}

#[tokio::test]
async fn an_old_transaction_holds_unless_it_belongs_to_a_batch() {
    let Some((server, _turn)) = exclusive_server().await else {
        return;
    };
    let url = server.database("transaction_age").await;
    let pool = pool_of(&url).await;
    let old = throttle(&pool, |t| t.max_transaction_age(Duration::from_millis(300)));
    assert_eq!(ask(&old).await, Ok(Verdict::Go));

    let begin = "BEGIN; SELECT 1";
    let mut of_batch = connect_as("temporal-batch-worker", &url).await;
    of_batch.execute(sqlx::raw_sql(begin)).await.unwrap();
    let is_old = "SELECT count(*) FROM pg_stat_activity WHERE xact_start < now() - interval '0.5 s'
        AND application_name = 'temporal-batch-worker'";
    let count = || async {
        sqlx::query_scalar::<_, i64>(is_old)
            .fetch_one(&pool)
            .await
            .unwrap()
    };
    until("an old transaction", count, |old| *old == 1).await;
    assert_eq!(
        ask(&old).await,
        Ok(Verdict::Go),
        "the batch waits for itself"
    );

    let mut report = connect_as("report", &url).await;
    report.execute(sqlx::raw_sql(begin)).await.unwrap();
    let reason = until_held(&old, "an old transaction").await;
    let age = figure(&reason, "oldest transaction ", "s > 0.3s");
    assert!((0.3..60.0).contains(&age), "{reason}");
    let slows = throttle(&pool, |t| {
        t.max_transaction_age(Duration::from_millis(300)..Duration::from_secs(3600))
    });
    match ask(&slows).await {
        Ok(Verdict::Slow { factor, reason }) => {
            assert_eq!(factor, 0.99);
            figure(&reason, "oldest transaction ", "s > 0.3s");
        }
        other => panic!("{other:?}"),
    }
    report.execute("ROLLBACK").await.unwrap();
    until_go(&old, "the end of the transaction").await;
}

#[tokio::test]
async fn sessions_waiting_for_locks_hold() {
    let Some((server, _turn)) = exclusive_server().await else {
        return;
    };
    let url = server.database("locks").await;
    let pool = pool_of(&url).await;
    pool.execute("CREATE TABLE t ()").await.unwrap();
    let waiting = throttle(&pool, |t| t.max_waiting(1));
    let lock = "BEGIN; LOCK TABLE t";
    let mut owner = connect_as("owner", &url).await;
    owner.execute(sqlx::raw_sql(lock)).await.unwrap();
    assert_eq!(ask(&waiting).await, Ok(Verdict::Go));
    let mut blocked = Vec::new();
    for _ in 0..2 {
        let mut session = connect_as("blocked", &url).await;
        blocked.push(tokio::spawn(async move {
            session
                .execute(sqlx::raw_sql("BEGIN; LOCK TABLE t; ROLLBACK"))
                .await
                .unwrap();
        }));
    }
    let reason = until_held(&waiting, "two waiting sessions").await;
    assert_eq!(reason, "2 transactions wait for locks > 1");
    owner.execute("ROLLBACK").await.unwrap();
    for session in blocked {
        session.await.unwrap();
    }
    until_go(&waiting, "no waiting session").await;
}

#[tokio::test]
async fn active_sessions_hold_except_the_throttle_itself() {
    let Some((server, _turn)) = exclusive_server().await else {
        return;
    };
    let url = server.database("active").await;
    let pool = pool_of(&url).await;
    let active = throttle(&pool, |t| t.max_active_connections(0));
    until_go(&active, "no other session").await;
    let mut session = connect_as("sleeper", &url).await;
    let sleeps = tokio::spawn(async move { session.execute("SELECT pg_sleep(600)").await });
    let reason = until_held(&active, "an active session").await;
    assert_eq!(reason, "1 active connection > 0");
    let end =
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'sleeper'";
    pool.execute(end).await.unwrap();
    sleeps.await.unwrap().unwrap_err();
    until_go(&active, "the end of the session").await;
}

#[tokio::test]
async fn heavy_writing_holds_until_it_is_over() {
    let Some((server, _turn)) = exclusive_server().await else {
        return;
    };
    let url = server.database("wal").await;
    let pool = pool_of(&url).await;
    pool.execute("CREATE TABLE t (x text)").await.unwrap();
    let writing = throttle(&pool, |t| t.max_wal_rate(1_000_000));
    assert_eq!(
        ask(&writing).await,
        Ok(Verdict::Go),
        "one look should not know a rate"
    );
    let write = || async {
        let write = "INSERT INTO t SELECT repeat('x', 1000) FROM generate_series(1, 10000)";
        pool.execute(write).await.unwrap();
        ask(&writing).await
    };
    let held = until("a high rate", write, |said| *said != Ok(Verdict::Go)).await;
    match held {
        Ok(Verdict::Hold { reason }) => {
            let rate = figure(&reason, "WAL ", " MB/s > 1 MB/s");
            assert!((1.0..100_000.0).contains(&rate), "{reason}");
        }
        other => panic!("{other:?}"),
    }
    until_go(&writing, "a low rate").await;
}

#[tokio::test]
async fn a_query_holds_above_its_limit() {
    let Some(server) = Postgres::shared() else {
        return;
    };
    let pool = server.pool("query", 1).await;
    for (sql, above, reason) in [
        ("SELECT 12", 10.0, Some("query is 12 > 10")),
        ("SELECT 10", 10.0, None),
        ("SELECT 12::int2", 10.0, Some("query is 12 > 10")),
        (
            "SELECT count(*) FROM generate_series(1, 12)",
            10.0,
            Some("query is 12 > 10"),
        ),
        ("SELECT 0.5::float4", 0.25, Some("query is 0.5 > 0.25")),
        ("SELECT 1.5::float8", 1.0, Some("query is 1.5 > 1")),
        ("SELECT 'Infinity'::float8", 1.0, Some("query is inf > 1")),
        (
            "SELECT 120345678.25",
            1.0,
            Some("query is 120345678.25 > 1"),
        ),
        ("SELECT 0.00012", 0.0001, Some("query is 0.00012 > 0.0001")),
        (
            "SELECT -10001.5",
            -20000.0,
            Some("query is -10001.5 > -20000"),
        ),
        ("SELECT 0::numeric", -1.0, Some("query is 0 > -1")),
        (
            "SELECT 100000000::numeric",
            99_999_999.5,
            Some("query is 100000000 > 99999999.5"),
        ),
        (
            "SELECT avg(n) FROM generate_series(1, 3) AS n",
            1.0,
            Some("query is 2 > 1"),
        ),
        ("SELECT NULL::int", 10.0, None),
        ("SELECT NULL::numeric", 10.0, None),
    ] {
        let throttle = throttle(&pool, |t| t.query(sql, above));
        let expected = reason.map_or(Verdict::Go, |reason| Verdict::Hold {
            reason: reason.to_owned(),
        });
        // The second time, the statement is already prepared on the server.
        for _ in 0..2 {
            assert_eq!(ask(&throttle).await, Ok(expected.clone()), "{sql}");
        }
    }
    let slows = throttle(&pool, |t| t.query("SELECT 15", 10.0..20.0));
    let reason = "query is 15 > 10".to_owned();
    assert_eq!(
        ask(&slows).await,
        Ok(Verdict::Slow {
            factor: 0.55,
            reason
        })
    );
}

#[tokio::test]
async fn an_invalid_query_fails_and_says_why() {
    let Some(server) = Postgres::shared() else {
        return;
    };
    let pool = server.pool("bad_query", 1).await;
    for (sql, why) in [
        (
            "SELECT 1, 2",
            "the query returned 2 columns; it must return one number",
        ),
        (
            "SELECT 1 UNION ALL SELECT 2",
            "the query returned more than one row",
        ),
        ("SELECT 1 WHERE false", "the query returned no row"),
        (
            "SELECT 'x'",
            "the query returned a value of type TEXT; it must return a number",
        ),
        ("SELECT 'NaN'::float8", "the query returned NaN"),
        ("SELECT 'NaN'::numeric", "the query returned NaN"),
        ("SELEC 1", "syntax error at or near \"SELEC\""),
        ("SELECT 1; SELECT 2", "cannot insert multiple commands"),
        ("CREATE TABLE evil ()", "read-only transaction"),
        ("SELECT pg_sleep(60)", "statement timeout"),
    ] {
        let bad = throttle(&pool, |t| {
            t.max_waiting(9999)
                .query(sql, 1.0)
                .timeout(Duration::from_millis(900))
        });
        let error = ask(&bad).await.unwrap_err();
        assert!(error.contains(why), "{sql}: {error}");
    }
    let good = throttle(&pool, |t| {
        t.query("SELECT count(*) FROM pg_class WHERE relname = 'evil'", 0.0)
    });
    assert_eq!(
        ask(&good).await,
        Ok(Verdict::Go),
        "the only connection should work again"
    );
}

#[tokio::test]
async fn a_dropped_question_leaves_no_session_behind() {
    let Some(server) = Postgres::shared() else {
        return;
    };
    let pool = server.pool("dropped", 1).await;
    let slow = throttle(&pool, |t| t.query("SELECT pg_sleep(600), 1", 0.0));
    let sleeps = "SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND datname = current_database()
        AND query LIKE 'SELECT pg_sleep(600)%'";
    let mut other = PgConnection::connect_with(&pool.connect_options())
        .await
        .unwrap();
    let asking = tokio::spawn(async move { slow.ask().await.map_err(|e| e.to_string()) });
    loop {
        let sleeping: i64 = sqlx::query_scalar(sleeps)
            .fetch_one(&mut other)
            .await
            .unwrap();
        if sleeping == 1 {
            break;
        }
        assert!(!asking.is_finished(), "it sleeps");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    asking.abort();
    let next = throttle(&pool, |t| t.max_waiting(9999).query("SELECT 1", 0.0));
    let reason = "query is 1 > 0".to_owned();
    assert_eq!(ask(&next).await, Ok(Verdict::Hold { reason }));
}

#[tokio::test]
async fn a_missing_role_is_named() {
    let Some(server) = Postgres::shared() else {
        return;
    };
    let pool = server.pool("rights", 1).await;
    let run = |sql: &'static str| pool.execute(sql);
    run("DROP ROLE IF EXISTS \"Plain user\"").await.unwrap();
    run("CREATE ROLE \"Plain user\" LOGIN").await.unwrap();
    let options = PgConnectOptions::clone(&pool.connect_options()).username("Plain user");
    let plain = PgPoolOptions::new()
        .max_connections(1)
        .connect_lazy_with(options);
    for checks in [
        throttle(&plain, |t| t.max_waiting(9999)),
        throttle(&plain, |t| t.max_active_connections(9999)),
        throttle(&plain, |t| t.max_replica_lag(Duration::from_secs(1))),
        throttle(&plain, |t| {
            t.max_transaction_age(Duration::from_secs(99_999))
        }),
        throttle(&plain, |t| t.expected_replicas(1)),
    ] {
        let error = ask(&checks).await.unwrap_err();
        assert!(
            error.contains("GRANT pg_monitor TO \"Plain user\""),
            "{error}"
        );
    }
    let needs_none = throttle(&plain, |t| t.max_wal_rate(u64::MAX).query("SELECT 0", 0.0));
    assert_eq!(ask(&needs_none).await, Ok(Verdict::Go));
    run("GRANT pg_monitor TO \"Plain user\"").await.unwrap();
    let allowed = throttle(&plain, |t| t.max_waiting(9999));
    assert_eq!(ask(&allowed).await, Ok(Verdict::Go));
}

#[tokio::test]
async fn the_strictest_verdict_counts() {
    let Some(server) = Postgres::shared() else {
        return;
    };
    let pool = server.pool("hardest", 1).await;
    let both = throttle(&pool, |t| {
        t.expected_replicas(3).query("SELECT 15", 10.0..20.0)
    });
    let reason = "0 of 3 replicas stream".to_owned();
    assert_eq!(ask(&both).await, Ok(Verdict::Hold { reason }));
    let query = throttle(&pool, |t| {
        t.expected_replicas(3).query("SELECT 25", 10.0..20.0)
    });
    let reason = "0 of 3 replicas stream".to_owned();
    assert_eq!(ask(&query).await, Ok(Verdict::Hold { reason }));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lagging_or_missing_replica_holds() {
    let Some(primary) = Postgres::launch(false) else {
        return Postgres::skip();
    };
    let replica = primary.replica();
    let pool = pool_of(&primary.url("postgres")).await;
    let there = pool_of(&replica.url("postgres")).await;
    pool.execute("CREATE TABLE t (x int)").await.unwrap();
    let second = Duration::from_secs(1);
    let from_primary = throttle(&pool, |t| t.max_replica_lag(second).expected_replicas(1));
    let only_lag = throttle(&pool, |t| t.max_replica_lag(second));
    let slows = throttle(&pool, |t| t.max_replica_lag(second..second * 3600));
    let from_replica = throttle(&there, |t| t.max_replica_lag(second));
    let write = || pool.execute("INSERT INTO t VALUES (1)");
    for throttle in [&from_primary, &from_replica] {
        until_go(throttle, "a replica that follows").await;
    }

    there.execute("SELECT pg_wal_replay_pause()").await.unwrap();
    for (throttle, whose) in [
        (&from_primary, "of the primary"),
        (&from_replica, "of the replica"),
    ] {
        let look = || async {
            write().await.unwrap();
            ask(throttle).await
        };
        let held = until(whose, look, |said| *said != Ok(Verdict::Go)).await;
        let Ok(Verdict::Hold { reason }) = held else {
            panic!("{whose}: {held:?}");
        };
        let lag = figure(&reason, "replica lag ", "s > 1s");
        assert!((1.0..60.0).contains(&lag), "{whose}: {reason}");
    }
    match ask(&slows).await {
        Ok(Verdict::Slow { factor, .. }) => assert_eq!(factor, 0.99),
        other => panic!("{other:?}"),
    }
    // A server that is idle looks the same as one that is busy: without new writes the lag stays visible.
    assert!(matches!(ask(&from_primary).await, Ok(Verdict::Hold { .. })));
    there
        .execute("SELECT pg_wal_replay_resume()")
        .await
        .unwrap();
    for throttle in [&from_primary, &from_replica, &slows] {
        until_go(throttle, "a replica that has caught up").await;
    }

    replica.stop(Stop::Fast);
    let reason = until_held(&from_primary, "a missing replica").await;
    assert_eq!(reason, "0 of 1 replicas stream");
    assert_eq!(ask(&only_lag).await, Ok(Verdict::Go), "no replica lags");
    replica.start();
    until_go(&from_primary, "the replica").await;
    until_go(&from_replica, "the replica, which answers again").await;

    primary.stop(Stop::Fast);
    let reason = until_held(&from_replica, "a replica that is cut off").await;
    figure(&reason, "replica lag ", "s > 1s");
    primary.start();
    until_go(&from_replica, "the primary").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unreachable_server_is_an_error_within_the_timeout_until_it_is_back() {
    let Some(server) = Postgres::launch(false) else {
        return Postgres::skip();
    };
    let pool = server.pool("gone", 2).await;
    let all = throttle(&pool, |t| {
        t.max_waiting(9)
            .query("SELECT 0", 1.0)
            .timeout(Duration::from_secs(2))
    });
    assert_eq!(ask(&all).await, Ok(Verdict::Go));
    server.stop(Stop::Immediate);
    for _ in 0..3 {
        let error = ask(&all).await.unwrap_err();
        assert!(error.contains("no connection to the database"), "{error}");
    }
    server.start();
    until_go(&all, "the server").await;
}
