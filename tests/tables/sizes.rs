//! How many rows there are, about.

use temporal_batch::{Table, TableSpec};

use crate::{home::Home, on_each};

on_each! {
    statistics_tell_the_size,
}

async fn statistics_tell_the_size(home: Home) {
    home.fill("t", 20_000).await;
    home.script("UPDATE t SET x = id % 10").await;
    let analyze = if home.is_mariadb() {
        "ANALYZE TABLE t PERSISTENT FOR ALL"
    } else {
        "ANALYZE t"
    };
    home.script(analyze).await;
    let table = home.inspect("t", &["id"]).await.unwrap();
    let hint = table.size_hint().await.unwrap().unwrap();
    assert!((15_000..25_000).contains(&hint), "{hint}");

    let spec = TableSpec::new("t", ["id"]).filter("x = 3");
    let tenth = Table::inspect(&home.database, &spec).await.unwrap();
    let hint = tenth.size_hint().await.unwrap();
    if home.is_sqlite() {
        assert_eq!(hint, None);
    } else {
        // By the optimizer's idea of it.
        assert!((500..20_000).contains(&hint.unwrap()), "{hint:?}");
    }
    assert_eq!(tenth.count(None, None).await.unwrap(), 2_000);
}

#[tokio::test]
async fn without_statistics_sqlite_tells_the_distance_of_its_ids() {
    let home = crate::home::sqlite().await;
    home.script(
        "CREATE TABLE t (id INTEGER PRIMARY KEY); INSERT INTO t VALUES (-5), (4);
        CREATE TABLE u (name TEXT PRIMARY KEY) WITHOUT ROWID; CREATE TABLE e (id INTEGER PRIMARY KEY)",
    )
    .await;
    for (name, key, size) in [
        ("t", "id", Some(10)),
        ("u", "name", None),
        ("e", "id", Some(0)),
    ] {
        let table = home.inspect(name, &[key]).await.unwrap();
        assert_eq!(table.size_hint().await.unwrap(), size, "{name}");
    }
}
