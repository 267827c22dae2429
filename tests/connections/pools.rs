//! The number of connections, and waiting for one of them.

use std::{sync::Arc, time::Duration};

use sqlx::{AssertSqlSafe, Connection as _, Executor as _, PgConnection};
use temporal_batch::sql::{Database, DatabaseOptions};

use crate::{
    SOON, pg,
    support::servers::{MariaDb, Postgres, Stop},
};

async fn size(options: DatabaseOptions) -> u32 {
    let database = Database::connect(&options).await.unwrap();
    let size = database.max_connections();
    database.close().await;
    size
}

#[tokio::test]
async fn a_pool_follows_the_pages_and_leaves_a_quarter_of_the_servers_connections() {
    let Some(server) = Postgres::shared() else {
        return;
    };
    let url = server.database("pool_size").await;
    let options = || DatabaseOptions::from_url(&url).unwrap();
    assert_eq!(size(options().pages(10)).await, 12);
    assert_eq!(size(options().pages(500)).await, 64);
    assert_eq!(size(options().pages(10).max_connections(3)).await, 3);
    let mut admin = PgConnection::connect(&server.url("postgres"))
        .await
        .unwrap();
    let role = "CREATE ROLE pool_of_eight LOGIN CONNECTION LIMIT 8";
    admin.execute(role).await.unwrap();
    let of_role = url.replace("postgres@", "pool_of_eight@");
    let of_role = DatabaseOptions::from_url(&of_role).unwrap();
    assert_eq!(size(of_role.pages(500)).await, 6);
    let name = url.rsplit('/').next().unwrap().split('?').next().unwrap();
    let limit = format!("ALTER DATABASE {name} CONNECTION LIMIT 4");
    admin.execute(AssertSqlSafe(limit)).await.unwrap();
    assert_eq!(size(options().pages(500)).await, 3);
}

#[tokio::test]
async fn mariadb_is_asked_too_and_sqlite_has_few_connections() {
    let folder = tempfile::tempdir().unwrap();
    let url = format!("sqlite:{}?mode=rwc", folder.path().join("a.db").display());
    let sqlite = || DatabaseOptions::from_url(&url).unwrap();
    assert_eq!(size(sqlite().pages(1)).await, 3);
    assert_eq!(size(sqlite().pages(100)).await, 4);
    let Some(server) = MariaDb::shared() else {
        return;
    };
    let url = server.database("pool_size").await;
    let options = DatabaseOptions::from_url(&url).unwrap();
    assert_eq!(size(options.clone().pages(10)).await, 12);
    assert_eq!(size(options.pages(500)).await, 64);
}

#[tokio::test]
async fn a_query_waits_for_a_free_connection_and_connections_in_use_are_counted() {
    let Some(server) = Postgres::shared() else {
        return;
    };
    let url = server.database("pool_wait").await;
    let options = DatabaseOptions::from_url(&url).unwrap().max_connections(1);
    let database = Database::connect(&options).await.unwrap();
    assert_eq!(database.connections_in_use(), 0);
    let held = pg(&database).acquire().await.unwrap();
    assert_eq!(database.connections_in_use(), 1);
    let waiting = tokio::spawn({
        let pool = pg(&database).clone();
        async move { sqlx::query("SELECT 1").execute(&pool).await }
    });
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(!waiting.is_finished(), "the query did not wait");
    drop(held);
    let done = tokio::time::timeout(SOON, waiting)
        .await
        .expect("the query gets the connection");
    done.unwrap().unwrap();
}

#[tokio::test]
async fn connections_are_restored_after_an_outage_of_the_server() {
    let Some(server) = Postgres::launch(false) else {
        return;
    };
    let server = Arc::new(server);
    let on_server = |what: fn(&Postgres)| {
        let server = Arc::clone(&server);
        async move {
            tokio::task::spawn_blocking(move || what(&server))
                .await
                .unwrap();
        }
    };
    let options = DatabaseOptions::from_url(&server.url("postgres")).unwrap();
    let database = Database::connect(&options).await.unwrap();
    let pool = pg(&database).clone();
    let mut inside = pool.begin().await.unwrap();
    on_server(|server| server.stop(Stop::Immediate)).await;
    sqlx::query("SELECT 1")
        .execute(&mut *inside)
        .await
        .unwrap_err();
    drop(inside);
    // The query waits while the server is down, and is answered once it is up.
    let asking = tokio::spawn(async move {
        let query = sqlx::query_scalar::<_, i32>("SELECT 1");
        query.fetch_one(&pool).await
    });
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(!asking.is_finished(), "the query did not wait");
    on_server(|server| server.start()).await;
    let answer = tokio::time::timeout(SOON, asking).await;
    assert_eq!(answer.expect("the query is answered").unwrap().unwrap(), 1);
}
