//! Tables with texts that are hard to write, and the rows that a plain `SELECT` returns.

use std::path::PathBuf;

use futures::TryStreamExt;
use serde_json::{Value, json};
use tempfile::TempDir;
use temporal_batch::sql::{Database, DatabaseOptions};

use crate::support::databases::{self, TestDatabase, on_test_databases};

/// Texts that have a meaning of their own in one format or another.
const AWKWARD: [&str; 16] = [
    "",
    "plain",
    "comma, \"quoted\", and \"\"doubled\"\"",
    "two\nlines",
    "two\r\nlines",
    " around ",
    "NULL",
    "\\N",
    "\\.",
    "\"",
    "tab\tand \\ backslash",
    "Grüße, 世界 🦀",
    "{\"json\": [1, null]}",
    "'; DROP TABLE users; --",
    "=1+1",
    "\u{feff}mark",
];

/// A database, and a folder for its exported files.
pub struct Source {
    pub url: String,
    pub database: Database,
    pub folder: TempDir,
    _place: TestDatabase,
}

async fn source(place: TestDatabase) -> Source {
    let options = DatabaseOptions::from_url(&place.url).unwrap();
    Source {
        database: Database::connect(&options).await.unwrap(),
        url: place.url.clone(),
        folder: tempfile::tempdir().unwrap(),
        _place: place,
    }
}

on_test_databases! { Source: source }

impl Source {
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn text(&self, name: &str) -> String {
        self.path(name).to_str().unwrap().to_owned()
    }

    pub async fn run(&self, statements: &str) {
        databases::script(&self.database, statements).await.unwrap();
    }

    /// Creates a table `users` with this many rows, with ids from 1 in steps of 3.
    pub async fn make_users(&self, rows: i64) {
        let (text, numeric) = match &self.database {
            Database::MySql(_) => ("varchar(200) CHARACTER SET utf8mb4", "decimal(30, 4)"),
            Database::Sqlite(_) => ("text", "text"),
            _ => ("text", "numeric(30, 4)"),
        };
        self.run(&format!(
            "CREATE TABLE users (id bigint PRIMARY KEY, name {text}, note {text}, amount {numeric}, big bigint)"
        ))
        .await;
        macro_rules! insert {
            ($pool:expr, $sql:expr) => {{
                let mut transaction = $pool.begin().await.unwrap();
                for n in 0..rows {
                    let (name, note, amount, big) = values(n);
                    sqlx::query($sql)
                        .bind(n * 3 + 1)
                        .bind(name)
                        .bind(note)
                        .bind(amount)
                        .bind(big)
                        .execute(&mut *transaction)
                        .await
                        .unwrap();
                }
                transaction.commit().await.unwrap();
            }};
        }
        match &self.database {
            Database::Postgres(pool) => {
                insert!(
                    pool,
                    "INSERT INTO users VALUES ($1, $2, $3, $4::numeric, $5)"
                );
                self.run("ANALYZE users").await;
            }
            Database::MySql(pool) => insert!(pool, "INSERT INTO users VALUES (?, ?, ?, ?, ?)"),
            Database::Sqlite(pool) => insert!(pool, "INSERT INTO users VALUES (?, ?, ?, ?, ?)"),
            _ => unreachable!("no other database is tested"),
        }
    }

    /// The rows in their order, with all columns as texts.
    pub async fn texts(&self, query: &str) -> Vec<Vec<Option<String>>> {
        databases::texts(&self.database, query).await
    }

    async fn users(&self) -> Vec<Vec<Option<String>>> {
        let text = match &self.database {
            Database::MySql(_) => "char",
            _ => "text",
        };
        let columns = ["id", "name", "note", "amount", "big"];
        let columns = columns
            .map(|name| format!("CAST({name} AS {text})"))
            .join(", ");
        self.texts(&format!("SELECT {columns} FROM users ORDER BY users.id"))
            .await
    }

    /// The export of PostgreSQL itself. For the other databases, the same rules are written down here.
    pub async fn dump_csv(&self) -> String {
        if let Database::Postgres(pool) = &self.database {
            let mut connection = pool.acquire().await.unwrap();
            let copy = "COPY (SELECT id, name, note, amount, big FROM users ORDER BY id) \
                        TO STDOUT WITH (FORMAT csv, HEADER)";
            let copied = connection.copy_out_raw(copy).await.unwrap();
            let bytes: Vec<_> = copied.try_collect().await.unwrap();
            return String::from_utf8(bytes.concat())
                .unwrap()
                .replace("\n\\.,", "\n\"\\.\",")
                .replace(",\\.,", ",\"\\.\",");
        }
        let mut csv = "id,name,note,amount,big\n".to_owned();
        for row in self.users().await {
            let fields = row.iter().map(|field| match field.as_deref() {
                None => String::new(),
                Some("") => "\"\"".to_owned(),
                Some(text) if text.contains(['"', ',', '\n', '\r']) || text == "\\." => {
                    format!("\"{}\"", text.replace('"', "\"\""))
                }
                Some(text) => text.to_owned(),
            });
            csv += &fields.collect::<Vec<_>>().join(",");
            csv.push('\n');
        }
        csv
    }

    pub async fn dump_json_lines(&self) -> String {
        let mut lines = String::new();
        for row in self.users().await {
            let number = |at: usize| row[at].as_ref().map(|n| n.parse::<i64>().unwrap());
            let [id, name, note, amount, big]: [Value; 5] = [
                json!(number(0)),
                json!(row[1]),
                json!(row[2]),
                json!(row[3]),
                json!(number(4)),
            ];
            lines += &format!(
                "{{\"id\":{id},\"name\":{name},\"note\":{note},\"amount\":{amount},\"big\":{big}}}\n"
            );
        }
        lines
    }
}

type Values = (
    Option<&'static str>,
    Option<String>,
    Option<String>,
    Option<i64>,
);

fn values(n: i64) -> Values {
    let at = |n: i64| AWKWARD[usize::try_from(n).unwrap() % AWKWARD.len()];
    let name = (n % 7 != 3).then(|| at(n));
    let note = (n % 5 != 2).then(|| format!("{}{n}", at(n / 3)));
    let amount = (n % 11 != 5).then(|| format!("{}.{:04}", n * 123_456_789_012_345, n % 10_000));
    // The number is more precise than a floating point number.
    let big = (n % 13 != 6).then_some(9_007_199_254_740_993 + n);
    (name, note, amount, big)
}
