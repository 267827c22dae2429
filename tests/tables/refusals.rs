//! Tables that cannot be paged through are refused before the batch starts, with a hint.

use temporal_batch::sql::{Database, Table, TableError, TableSpec};

use crate::{
    database::{Home, mariadb, postgres, sqlite},
    support::databases::on_each,
};

on_each! {
    unknown_names_are_refused,
    invalid_keys_are_refused,
    keys_that_are_not_unique,
    columns_that_may_be_null,
    types_that_cannot_be_cursors,
    invalid_filters_are_refused,
    views,
    a_cursor_of_another_key,
}

/// The error message, which has to contain all of these parts.
fn refused<'e>(
    result: Result<Table, TableError>,
    parts: impl IntoIterator<Item = &'e str>,
) -> TableError {
    let error = result.map(|_| ()).unwrap_err();
    let message = error.to_string();
    for part in parts {
        assert!(message.contains(part), "no `{part}` in: {message}");
    }
    assert!(!error.is_retryable());
    error
}

async fn unknown_names_are_refused(home: Home) {
    home.script("CREATE TABLE users (id INT NOT NULL PRIMARY KEY, name VARCHAR(9))")
        .await;
    let error = refused(home.inspect("user", &["id"]).await, ["no table `user`"]);
    assert_eq!(error.into_page_error().error_type(), "TableMissing");
    if home.is_postgres() {
        refused(
            home.inspect("Users", &["id"]).await,
            [
                "no table `Users`",
                "there is `public.users`",
                "upper and lower case count",
            ],
        );
    }
    refused(
        home.inspect("elsewhere.users", &["id"]).await,
        ["elsewhere"],
    );
    refused(
        home.inspect("users", &["ids"]).await,
        ["no column `ids`", "it has `id`, `name`"],
    );
    refused(
        home.inspect("a.b.c", &["id"]).await,
        ["is not the name of a table"],
    );
    let nothing = format!("{:?}", home.inspect("users", &["id"]).await.unwrap());
    assert!(!nothing.contains("127.0.0.1"), "{nothing}");
}

async fn invalid_keys_are_refused(home: Home) {
    home.script("CREATE TABLE t (id INT NOT NULL PRIMARY KEY, x INT)")
        .await;
    refused(home.inspect("t", &[]).await, ["0 columns", "1 to 8"]);
    refused(
        home.inspect("t", &["id", "id"]).await,
        ["`id` is in the key twice"],
    );
    for key in [["id desc"], ["id ASC"]] {
        refused(home.inspect("t", &key).await, ["has a direction", "mixed"]);
    }
    let table = home.inspect("t", &["id"]).await.unwrap();
    assert!(table.is_key_column("id") && !table.is_key_column("x"));
}

async fn keys_that_are_not_unique(home: Home) {
    home.script(
        "CREATE TABLE t (a INT NOT NULL, b INT NOT NULL, c INT NOT NULL);
        CREATE INDEX t_a ON t (a)",
    )
    .await;
    let error = refused(
        home.inspect("t", &["a"]).await,
        ["same (a)", "no unique index"],
    );
    assert_eq!(error.into_page_error().error_type(), "TableNotUnique");
    home.script("CREATE UNIQUE INDEX t_ab ON t (a, b)").await;
    for key in [vec!["a"], vec!["b"], vec!["a", "c"]] {
        refused(home.inspect("t", &key).await, ["t_ab (a, b)"]);
    }
    for key in [vec!["a", "b"], vec!["b", "a"], vec!["b", "c", "a"]] {
        home.inspect("t", &key).await.unwrap();
    }
    if !home.is_mariadb() {
        home.script(
            "CREATE UNIQUE INDEX t_c ON t (c) WHERE c > 0; CREATE UNIQUE INDEX t_e ON t (abs(c))",
        )
        .await;
        refused(
            home.inspect("t", &["c"]).await,
            ["t_c (c) which is partial", "t_e (an expression)"],
        );
    }
}

async fn columns_that_may_be_null(home: Home) {
    home.script(
        "CREATE TABLE t (a INT UNIQUE, b INT NOT NULL UNIQUE); INSERT INTO t VALUES (NULL, 1)",
    )
    .await;
    let error = home.inspect("t", &["a"]).await;
    let error = refused(error, ["column `a`", "NULL", "silently be left out"]);
    assert_eq!(error.into_page_error().error_type(), "TableKeyNull");
    home.inspect("t", &["b"]).await.unwrap();
    // Only `b` is unique.
    refused(home.inspect("t", &["b", "a"]).await, ["column `a`"]);
}

async fn types_that_cannot_be_cursors(home: Home) {
    let float = if home.is_postgres() {
        "double precision"
    } else {
        "DOUBLE"
    };
    home.script(format!("CREATE TABLE t (a {float} NOT NULL PRIMARY KEY)"))
        .await;
    let error = refused(home.inspect("t", &["a"]).await, ["`a`", "not exact enough"]);
    assert_eq!(error.into_page_error().error_type(), "TableKeyType");
}

async fn invalid_filters_are_refused(home: Home) {
    home.fill("t", 10).await;
    let mut filters = vec![
        ("x = 1) OR (x = 2", "closes a parenthesis"),
        ("x = 1; DELETE FROM t", "semicolon"),
        ("x = 'open", "not closed"),
        ("nothing_like_it = 1", "the database says"),
        ("x = ", "the database says"),
        ("x = 0 ORDER BY x", "the database says"),
        ("", "empty"),
    ];
    filters.push(if home.is_postgres() {
        ("x = $1", "placeholder")
    } else {
        ("x = ?", "placeholder")
    });
    if home.is_postgres() {
        filters.push(("x", "boolean"));
    }
    for (filter, part) in filters {
        let spec = TableSpec::new("t", ["id"]).filter(filter);
        let error = Table::inspect(&home.database, &spec).await;
        let error = refused(error, ["filter cannot be used", part]);
        assert_eq!(error.into_page_error().error_type(), "TableFilter");
    }
    assert_eq!(home.number("SELECT count(*) FROM t").await, 10);
}

async fn views(home: Home) {
    home.fill("t", 1).await;
    home.script("CREATE VIEW v AS SELECT * FROM t").await;
    let error = refused(
        home.inspect("v", &["id"]).await,
        ["a view", "table below it"],
    );
    assert_eq!(error.into_page_error().error_type(), "NotATable");
}

async fn a_cursor_of_another_key(home: Home) {
    home.fill("t", 3).await;
    let table = home.inspect("t", &["id"]).await.unwrap();
    let other = temporal_batch::sql::Key::new([1, 2]);
    let errors = [
        table.keys(Some(&other), None, 1).await.unwrap_err(),
        table.skip(None, Some(&other), 1).await.unwrap_err(),
        table.count(Some(&other), None).await.unwrap_err(),
        table
            .records(None, Some(&other), None, 1)
            .await
            .unwrap_err(),
    ];
    for error in errors {
        assert_eq!(error.error_type(), "CursorNotOfThisKey");
        assert!(!error.is_retryable());
    }
    // Within another statement this is no condition that can be true or false.
    let (condition, _) = table.condition(Some(&other), None, 1);
    let select = format!(
        "SELECT id FROM t WHERE {}",
        condition.replace(['$', '?'], "")
    );
    home.try_script(select).await.unwrap_err();
}

#[tokio::test]
async fn tables_of_postgresql_without_rows_of_their_own() {
    let Some(home) = postgres("kinds").await else {
        return;
    };
    home.script(
        "CREATE TABLE parent (id int PRIMARY KEY); CREATE TABLE child () INHERITS (parent);
        CREATE MATERIALIZED VIEW m AS SELECT * FROM parent;
        CREATE EXTENSION IF NOT EXISTS file_fdw; CREATE SERVER files FOREIGN DATA WRAPPER file_fdw;
        CREATE FOREIGN TABLE f (id int) SERVER files OPTIONS (filename '/dev/null');
        CREATE TABLE parts (id int NOT NULL, at date NOT NULL, PRIMARY KEY (at, id)) PARTITION BY RANGE (at);
        CREATE TABLE part1 PARTITION OF parts FOR VALUES FROM (MINVALUE) TO ('2020-01-01');
        CREATE TABLE part2 PARTITION OF parts FOR VALUES FROM ('2020-01-01') TO (MAXVALUE);
        INSERT INTO parts SELECT n, '2019-12-01'::date + n FROM generate_series(1, 100) n",
    )
    .await;
    refused(home.inspect("parent", &["id"]).await, ["inherit"]);
    refused(home.inspect("m", &["id"]).await, ["materialized view"]);
    refused(home.inspect("f", &["id"]).await, ["foreign table"]);
    home.inspect("child", &["id"])
        .await
        .map(|_| ())
        .unwrap_err();
    // Partitions are one table.
    let parts = home.inspect("parts", &["at", "id"]).await.unwrap();
    parts.check_plan().await.unwrap();
    assert_eq!(parts.keys(None, None, 1_000).await.unwrap().len(), 100);
}

#[tokio::test]
async fn columns_of_postgresql_that_cannot_be_cursors() {
    let Some(home) = postgres("types").await else {
        return;
    };
    home.script(
        "CREATE COLLATION ignoring (provider = icu, locale = 'und-u-ks-level2', deterministic = false);
        CREATE TABLE t (a text COLLATE ignoring NOT NULL UNIQUE, b timetz NOT NULL UNIQUE,
            c interval NOT NULL UNIQUE, d jsonb NOT NULL UNIQUE, e int[] NOT NULL UNIQUE)",
    )
    .await;
    refused(home.inspect("t", &["a"]).await, ["nondeterministic"]);
    refused(
        home.inspect("t", &["b"]).await,
        ["`b`", "time with time zone"],
    );
    refused(home.inspect("t", &["c"]).await, ["`c`", "interval"]);
    refused(home.inspect("t", &["d"]).await, ["`d`", "jsonb"]);
    refused(home.inspect("t", &["e"]).await, ["`e`", "integer[]"]);
}

#[tokio::test]
async fn an_invalid_index_of_postgresql_does_not_prove_uniqueness() {
    let Some(home) = postgres("invalid").await else {
        return;
    };
    home.script("CREATE TABLE t (id int NOT NULL); INSERT INTO t VALUES (1), (1)")
        .await;
    home.try_script("CREATE UNIQUE INDEX CONCURRENTLY t_id ON t (id)")
        .await
        .unwrap_err();
    refused(
        home.inspect("t", &["id"]).await,
        ["t_id (id) which is invalid"],
    );
}

#[tokio::test]
async fn schemas_of_postgresql_are_followed() {
    let Some(home) = postgres("schemas").await else {
        return;
    };
    home.script(
        "CREATE SCHEMA \"Ops.2\"; CREATE TABLE \"Ops.2\".\"T\" (id int PRIMARY KEY);
        INSERT INTO \"Ops.2\".\"T\" VALUES (7)",
    )
    .await;
    home.inspect("T", &["id"]).await.map(|_| ()).unwrap_err();
    let table = home.inspect("\"Ops.2\".T", &["id"]).await.unwrap();
    assert_eq!(table.quoted_name(), "\"Ops.2\".\"T\"");
    assert_eq!(
        table.keys(None, None, 9).await.unwrap(),
        [temporal_batch::sql::Key::new([7])]
    );
}

#[tokio::test]
async fn values_of_sqlite_that_are_of_another_type_than_their_column() {
    let home = sqlite().await;
    home.script(
        "CREATE TABLE t (id INT NOT NULL UNIQUE); INSERT INTO t VALUES (1), ('two'), (x'03');
        CREATE TABLE r (id NUMERIC NOT NULL UNIQUE); INSERT INTO r VALUES (1), (1.5)",
    )
    .await;
    for (name, part) in [("t", "TEXT where it should hold integers"), ("r", "REAL")] {
        let table = home.inspect(name, &["id"]).await.unwrap();
        assert_eq!(table.keys(None, None, 1).await.unwrap().len(), 1);
        let error = table.keys(None, None, 10).await.unwrap_err();
        assert_eq!(error.error_type(), "KeyTypeMixed");
        assert!(!error.is_retryable());
        assert!(error.message().contains(part), "{error}");
    }
}

#[tokio::test]
async fn an_index_of_sqlite_with_another_collation_does_not_prove_uniqueness() {
    let home = sqlite().await;
    home.script(
        "CREATE TABLE t (name TEXT NOT NULL COLLATE NOCASE, n INT);
        CREATE UNIQUE INDEX t_name ON t (name COLLATE BINARY);
        INSERT INTO t VALUES ('a', 1), ('A', 2)",
    )
    .await;
    refused(
        home.inspect("t", &["name"]).await,
        ["t_name (name)", "compares texts in another way"],
    );
    home.script("CREATE TABLE u (name TEXT NOT NULL COLLATE NOCASE PRIMARY KEY) WITHOUT ROWID")
        .await;
    home.inspect("u", &["NAME"])
        .await
        .unwrap()
        .check_plan()
        .await
        .unwrap();
}

#[tokio::test]
async fn a_primary_key_of_sqlite_may_lack_not_null() {
    let home = sqlite().await;
    home.script("CREATE TABLE t (id TEXT PRIMARY KEY); INSERT INTO t VALUES ('a')")
        .await;
    let table = home.inspect("t", &["id"]).await.unwrap();
    home.script("INSERT INTO t VALUES (NULL)").await;
    // A NULL that appears while the batch runs is an error, as it would sort first.
    let error = table.keys(None, None, 10).await.unwrap_err();
    assert_eq!(error.error_type(), "KeyIsNull");
    refused(home.inspect("t", &["id"]).await, ["is NULL in some rows"]);
}

#[tokio::test]
async fn columns_of_mariadb_that_cannot_be_cursors() {
    let Some(home) = mariadb("types").await else {
        return;
    };
    home.script(
        "CREATE TABLE t (a ENUM('b', 'a') NOT NULL UNIQUE, at TIMESTAMP NOT NULL UNIQUE);
        CREATE TABLE p (name VARCHAR(99) NOT NULL, UNIQUE (name(3)))",
    )
    .await;
    refused(
        home.inspect("t", &["a"]).await,
        ["`a`", "enum", "by its number"],
    );
    home.inspect("t", &["at"]).await.unwrap();
    let Database::MySql(pool) = &home.database else {
        unreachable!()
    };
    let options = pool
        .connect_options()
        .as_ref()
        .clone()
        .timezone(Some("+02:00".to_owned()));
    let elsewhere = sqlx::MySqlPool::connect_with(options).await.unwrap();
    let spec = TableSpec::new("t", ["at"]);
    refused(
        Table::inspect(&elsewhere.into(), &spec).await,
        ["time_zone = '+00:00'"],
    );
    // Texts that differ in their beginning are different, but are not sorted by it.
    let prefix = home.inspect("p", &["name"]).await.unwrap();
    let slow = prefix.check_plan().await.unwrap_err().to_string();
    assert!(slow.contains("CREATE INDEX `p_name_page`"), "{slow}");
}
