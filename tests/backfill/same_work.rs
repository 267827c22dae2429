//! The same work on the same rows is one batch, whatever the spelling of the table and the way to the database.

use sqlx::AssertSqlSafe;
use temporal_batch::sql::{Database, DatabaseOptions};

use crate::{
    command::{exits, id},
    database::{self, Home},
    support::{
        command::{Ended, online, run},
        databases::{on_each, with_pool},
        servers::Proxy,
    },
};

on_each!(
    every_spelling_of_a_table_names_the_same_batch,
    every_spelling_of_this_machine_names_the_same_batch,
    work_that_the_ledger_has_is_not_done_by_another_way_to_the_database,
);

fn typed(url: &str, table: &str, more: &[&str]) -> Ended {
    let work = ["backfill", "--table", table, "--set", "x = x + 1"];
    let mut command = online(&[&work[..], more].concat());
    command.env("DATABASE_URL", url);
    run(command)
}

#[track_caller]
fn is_done_already(ended: &Ended) {
    exits(ended, 0);
    assert!(ended.err.contains("nothing was changed now"), "{ended:#?}");
}

async fn changed_once(home: &Home) {
    let changed = home.number("SELECT count(*) FROM t WHERE x = 1").await;
    assert_eq!(changed, 50);
}

/// The name of the database in a URL of a server.
fn name_of(url: &str) -> &str {
    let path = url.rsplit_once('/').unwrap().1;
    path.split('?').next().unwrap()
}

async fn every_spelling_of_a_table_names_the_same_batch(home: Home) {
    home.numbers(50).await;
    exits(&typed(&home.url, "t", &[]), 0);
    let spellings = if home.is_sqlite() {
        ["\"t\"", "main.t", "MAIN.T", "`main`.\"T\""].map(str::to_owned)
    } else if home.is_mysql() {
        let database = name_of(&home.url);
        [
            "\"t\"".to_owned(),
            "`t`".to_owned(),
            format!("{database}.t"),
            format!("`{database}`.`t`"),
        ]
    } else {
        ["\"t\"", "public.t", "\"public\".t", "`t`"].map(str::to_owned)
    };
    for table in spellings {
        is_done_already(&typed(&home.url, &table, &[]));
    }
    changed_once(&home).await;
    // On these servers a table may differ from another in capitals alone.
    if !home.is_sqlite() {
        let name = if home.is_mysql() { "`T`" } else { "\"T\"" };
        home.script(&format!("CREATE TABLE {name} AS SELECT * FROM t"))
            .await;
        home.script(&format!("ALTER TABLE {name} ADD PRIMARY KEY (id)"))
            .await;
        exits(&typed(&home.url, "T", &[]), 0);
        changed_once(&home).await;
        let changed = format!("SELECT count(*) FROM {name} WHERE x = 2");
        assert_eq!(home.number(&changed).await, 50);
    }
}

async fn every_spelling_of_this_machine_names_the_same_batch(home: Home) {
    home.numbers(50).await;
    exits(&typed(&home.url, "t", &[]), 0);
    for url in ways(&home).await {
        is_done_already(&typed(&url, "t", &[]));
    }
    changed_once(&home).await;
    // Another database of the same server is another place.
    let Some(other) = other_database(&home).await else {
        return;
    };
    other.numbers(50).await;
    exits(&typed(&other.url, "t", &[]), 0);
    changed_once(&other).await;
}

/// Other URLs of the same database.
async fn ways(home: &Home) -> Vec<String> {
    if home.is_sqlite() {
        let path = home.url.trim_start_matches("sqlite:");
        let (folder, name) = path.rsplit_once('/').unwrap();
        let link = format!("{folder}/link.db");
        #[cfg(unix)]
        std::os::unix::fs::symlink(path, &link).unwrap();
        return vec![
            format!("sqlite://{path}"),
            format!("sqlite:{folder}/./{name}?mode=rw"),
            format!("sqlite:{link}"),
        ];
    }
    let at = |host: &str| home.url.replace("127.0.0.1", host);
    let mut ways = vec![at("localhost"), at("LOCALHOST")];
    let user = format!("u_{}", &id()[5..]);
    if home.is_mysql() {
        home.script(&format!(
            "CREATE USER '{user}'; GRANT ALL ON *.* TO '{user}'"
        ))
        .await;
        ways.push(home.url.replace("root@", &format!("{user}@")));
        ways.push(home.url.replace("mysql:", "mariadb:"));
    } else {
        let user = user.to_lowercase();
        home.script(&format!(
            "CREATE ROLE {user} LOGIN; GRANT ALL ON t TO {user}"
        ))
        .await;
        ways.push(home.url.replace("postgres@", &format!("{user}@")));
        ways.push(home.url.replace("postgres:", "postgresql:"));
    }
    ways
}

async fn other_database(home: &Home) -> Option<Home> {
    match (home.is_sqlite(), home.is_mysql()) {
        (true, _) => Some(database::sqlite().await),
        (_, true) => database::mariadb("other").await,
        (_, false) => database::postgres("other").await,
    }
}

/// The ledger is in the database, so it recognises the work where the address of the database does not.
async fn work_that_the_ledger_has_is_not_done_by_another_way_to_the_database(home: Home) {
    home.numbers(50).await;
    home.ledger_tables().await;
    let first = typed(&home.url, "t", &["--once"]);
    exits(&first, 0);
    let (_proxy, url) = another_way(&home).await;
    let changed = async |times: u8| {
        let options = DatabaseOptions::from_url(&url).unwrap();
        let database = Database::connect(&options).await.unwrap();
        let query = format!("SELECT count(*) FROM t WHERE x = {times}");
        with_pool!(&database, pool => {
            sqlx::query_scalar::<_, i64>(AssertSqlSafe(query)).fetch_one(pool).await.unwrap()
        })
    };
    let refused = typed(&url, "t", &["--once"]);
    exits(&refused, 1);
    let known = first
        .err
        .split('"')
        .find(|part| part.starts_with("backfill-"));
    let known = known.unwrap_or_else(|| panic!("no id: {first:#?}"));
    for part in [
        &*format!("batch \"{known}\" has done this work before"),
        &*format!("`temporal-batch status {known}"),
        "--rerun changes rows a second time: the new value of x is computed from columns that are set",
    ] {
        assert!(refused.err.contains(part), "{part}: {refused:#?}");
    }
    assert_eq!(changed(1).await, 50);
    // Other work is new, and so is a batch with an id of its own.
    exits(&typed(&url, "t", &["--once", "--where", "id < 0"]), 0);
    exits(&typed(&url, "t", &["--once", "--batch-id", &id()]), 0);
    assert_eq!(changed(2).await, 50);
    exits(&typed(&url, "t", &["--once", "--rerun"]), 0);
    assert_eq!(changed(3).await, 50);
}

/// A URL that does not show that it leads to the same rows: the port of a proxy, or a copy of the file.
async fn another_way(home: &Home) -> (Option<Proxy>, String) {
    if home.is_sqlite() {
        let copy = format!("{}.copy", home.url.trim_start_matches("sqlite:"));
        home.script(&format!("VACUUM INTO '{copy}'")).await;
        return (None, format!("sqlite:{copy}"));
    }
    let address = home.url.split('@').nth(1).unwrap().split('/').next();
    let proxy = Proxy::before(address.unwrap());
    let url = home.url.replace(address.unwrap(), &proxy.address());
    (Some(proxy), url)
}
