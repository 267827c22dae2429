//! A table that is exported and imported with the default flags is equal afterwards.
//!
//! `ROUND_TRIP_CASES` is the number of generated tables for each database, 2 by default.

/// The tests of every database. `home` returns an empty database of its own for a test, if there is a server.
macro_rules! survives {
    ($home:ident) => {
        #[tokio::test(flavor = "multi_thread")]
        async fn values_of_every_type_survive() {
            if let Some((source, dialect)) = $home("every_type").await {
                super::values_of_every_type_survive(&source, &dialect).await;
            }
        }

        #[tokio::test(flavor = "multi_thread")]
        async fn generated_tables_survive() {
            if let Some((source, dialect)) = $home("generated").await {
                super::generated_tables_survive(&source, &dialect).await;
            }
        }
    };
}

mod on_mariadb;
mod on_postgres;
mod on_sqlite;

use proptest::{
    prelude::*,
    sample::select,
    test_runner::{Config, TestCaseError, TestRunner},
};

use crate::{commands::run, database, database::Source, support::settings::setting};

/// A type, literals of its values, and the expression by which two values are compared.
#[derive(Clone, Debug)]
pub struct Type {
    pub declared: String,
    pub literals: Vec<String>,
    pub compared: &'static str,
}

/// Columns `c0`, `c1` and so on of these types, and rows.
#[derive(Clone, Debug)]
struct Generated {
    types: Vec<Type>,
    rows: Vec<Vec<String>>,
}

impl Generated {
    /// A table with every value of every type at least once.
    fn all(types: Vec<Type>) -> Self {
        let most = types.iter().map(|t| t.literals.len()).max().unwrap_or(0);
        let value = |t: &Type, row: usize| t.literals[row % t.literals.len()].clone();
        let rows = (0..most).map(|row| types.iter().map(|t| value(t, row)).collect());
        let mut rows: Vec<Vec<_>> = rows.collect();
        rows.push(vec!["NULL".to_owned(); types.len()]);
        Self { types, rows }
    }

    fn some(types: Vec<Type>) -> impl Strategy<Value = Self> {
        let columns = proptest::collection::vec(select(types), 1..12);
        columns.prop_flat_map(|types| {
            let value = |t: &Type| {
                prop_oneof![1 => Just("NULL".to_owned()), 6 => select(t.literals.clone())]
            };
            let row: Vec<_> = types.iter().map(value).collect();
            let rows = proptest::collection::vec(row, 1..40);
            (Just(types), rows).prop_map(|(types, rows)| Self { types, rows })
        })
    }

    fn create(&self, name: &str, id: &str, computed: &str, end: &str) -> String {
        let columns = self.types.iter().enumerate();
        let columns: Vec<_> = columns
            .map(|(n, t)| format!("c{n} {}", t.declared))
            .collect();
        let columns = columns.join(", ");
        format!("CREATE TABLE {name} (id {id} PRIMARY KEY, {columns}, twice {computed}){end}")
    }

    fn insert(&self, overriding: &str) -> String {
        let names: Vec<_> = (0..self.types.len()).map(|n| format!("c{n}")).collect();
        let rows = self.rows.iter().enumerate();
        let rows: Vec<_> = rows
            .map(|(id, row)| format!("({}, {})", id * 3 + 1, row.join(", ")))
            .collect();
        let (names, rows) = (names.join(", "), rows.join(", "));
        format!("INSERT INTO original (id, {names}) {overriding} VALUES {rows}")
    }

    /// The query for the compared values of each row.
    fn query(&self, table: &str, source: &Source) -> String {
        let compared = self.types.iter().enumerate();
        let compared = compared.map(|(n, t)| t.compared.replace('#', &format!("c{n}")));
        let (text, compared) = match source.database.system() {
            "PostgreSQL" => ("text", vec!["t::text".to_owned()]),
            "SQLite" => ("text", compared.collect()),
            _ => ("char", compared.collect::<Vec<_>>()),
        };
        let compared = compared.join(", ");
        format!("SELECT CAST(id AS {text}), {compared} FROM {table} AS t ORDER BY t.id")
    }
}

pub struct Dialect {
    pub types: Vec<Type>,
    pub id: &'static str,
    pub computed: &'static str,
    /// The end of `CREATE TABLE`, after the columns.
    pub end: &'static str,
    pub overriding: &'static str,
    /// The flags of the import.
    pub flags: &'static [&'static str],
    /// The users that export and import, where they differ from that of the source.
    pub urls: Option<[String; 2]>,
}

async fn assert_survives(source: &Source, dialect: &Dialect, generated: &Generated) {
    let Dialect {
        flags,
        urls,
        id,
        computed,
        end,
        overriding,
        ..
    } = dialect;
    let urls = urls.clone();
    let [exporter, importer] = urls.unwrap_or_else(|| [source.url.clone(), source.url.clone()]);
    source.run("DROP TABLE IF EXISTS original").await;
    source
        .run(&generated.create("original", id, computed, end))
        .await;
    source.run(&generated.insert(overriding)).await;
    let before = source.texts(&generated.query("original", source)).await;
    assert_eq!(before.len(), generated.rows.len());
    for format in ["csv", "jsonl"] {
        source.run("DROP TABLE IF EXISTS again").await;
        source
            .run(&generated.create("again", id, computed, end))
            .await;
        let folder = tempfile::tempdir_in(source.folder.path()).unwrap();
        let folder = folder.path().to_str().unwrap();
        let (to, all) = (format!("{folder}/parts"), format!("{folder}/all.{format}"));
        let export = [
            "export",
            "--table",
            "original",
            "--to",
            &to,
            "--format",
            format,
            "--page-size",
            "7",
            "--concatenate",
            &all,
        ];
        run(&exporter, &export).exits_with(0);
        let import = ["import", &all, "--table", "again", "--create-ledger-tables"];
        run(&importer, &[&import, *flags].concat()).exits_with(0);
        let after = source.texts(&generated.query("again", source)).await;
        for (before, after) in before.iter().zip(&after) {
            assert_eq!(before, after, "{format}");
        }
        assert_eq!(before.len(), after.len(), "{format}");
    }
}

async fn values_of_every_type_survive(source: &Source, dialect: &Dialect) {
    assert_survives(source, dialect, &Generated::all(dialect.types.clone())).await;
}

async fn generated_tables_survive(source: &Source, dialect: &Dialect) {
    let cases = setting("ROUND_TRIP_CASES", 2);
    let config = Config {
        cases,
        // A case takes seconds.
        max_shrink_iters: 20,
        failure_persistence: None,
        ..Config::default()
    };
    let tables = Generated::some(dialect.types.clone());
    let runtime = tokio::runtime::Handle::current();
    tokio::task::block_in_place(|| {
        let outcome = TestRunner::new(config).run(&tables, |generated| {
            runtime.block_on(assert_survives(source, dialect, &generated));
            Ok::<_, TestCaseError>(())
        });
        outcome.unwrap();
    });
}

fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

/// Texts that have a meaning in one format or another.
const TEXTS: [&str; 24] = [
    "",
    " ",
    "plain",
    "NULL",
    "null",
    "\\N",
    "\\.",
    "\\x00",
    "a,b",
    "\"",
    "\"\"",
    "two\nlines",
    "two\r\nlines",
    "\t",
    "'; --",
    "5",
    "1.50",
    "true",
    "{\"$text\":\"x\"}",
    "{\"$blob\":\"00\"}",
    "{a,b}",
    "Infinity",
    "\u{feff}mark",
    "Grüße 🦀",
];

const JSON: [&str; 22] = [
    "null",
    "true",
    "\"\"",
    "\"null\"",
    "\"true\"",
    "\"{}\"",
    "\" 1\"",
    "\"123\"",
    "\"a\\nb\\u0001\"",
    "{}",
    "[]",
    "1.10",
    "-0",
    "12345678901234567890.123456789",
    "1e400",
    "1E-400",
    "{\"b\": 1, \"a\": 2, \"a\": 3}",
    "{\"a\": 1e400, \"c\": [1, {\"d\": null}]}",
    "{\"$json\": \"1\"}",
    "{\"$json\": \"1\", \"b\": 2}",
    "[1, \"two, three\", \"\\\"\"]",
    "\"🦀\"",
];

/// JSON values whose text is kept.
const JSON_TEXTS: [&str; 6] = [
    " 1 ",
    "[\n 1,\r\n\t2 ]",
    "\n null",
    "\"\\ud83d\"",
    "\"\\u0000\"",
    "{ \"$json\" : \"\\n\" }",
];
