//! Every row is read once, in the order of the database, whatever the types of the key and the ends of the ranges.

use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering},
};

use proptest::{
    prelude::*,
    test_runner::{Config, TestCaseError, TestRunner},
};
use temporal_batch::{
    SkipAhead,
    sql::{Key, Table, TableSpec},
};
use tokio::{runtime::Handle, task::JoinSet};

use crate::database::{Home, mariadb_alone, numbered, postgres, sqlite};

/// A type of a key column: its declaration, and literals of its values.
#[derive(Clone, Debug)]
struct KeyType {
    declared: &'static str,
    values: BoxedStrategy<String>,
}

fn key_type<S: Strategy<Value = String> + 'static>(declared: &'static str, values: S) -> KeyType {
    KeyType {
        declared,
        values: values.boxed(),
    }
}

fn int<T: Arbitrary + std::fmt::Display + 'static>(declared: &'static str) -> KeyType {
    // Small values too, so that keys of several columns begin alike.
    let values = prop_oneof![
        any::<T>().prop_map(|n| n.to_string()),
        (0..5_u8).prop_map(|n| n.to_string())
    ];
    // `-9223372036854775808` is parsed as minus a number that does not fit.
    let values = values.prop_filter("too low", |n| n != "-9223372036854775808");
    key_type(declared, values)
}

fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

fn one_of(values: &'static [&'static str]) -> BoxedStrategy<String> {
    prop::sample::select(values).prop_map(str::to_owned).boxed()
}

/// Texts that sort differently by bytes, by alphabet and without case, with quotes, spaces and characters that have a
/// meaning in SQL.
fn text(declared: &'static str) -> KeyType {
    let texts = prop_oneof![
        "[a-cA-C ]{0,3}",
        "[a-zA-Z0-9äÖßéλЖ字'\"`$?:;%_.-]{0,8}",
        Just("O'Brien; --".to_owned()),
    ];
    key_type(declared, texts.prop_map(|text| quoted(&text)))
}

fn ascii(declared: &'static str, longest: usize) -> KeyType {
    let texts = prop::collection::vec("[a-dA-D '_-]", 0..=longest);
    key_type(declared, texts.prop_map(|text| quoted(&text.concat())))
}

fn day() -> impl Strategy<Value = String> {
    (1..=9999_u32, 1..=12_u32, 1..=28_u32).prop_map(|(y, m, d)| format!("{y:04}-{m:02}-{d:02}"))
}

fn time(digits: usize) -> impl Strategy<Value = String> {
    (0..24_u32, 0..60_u32, 0..60_u32, 0..1_000_000_u32).prop_map(move |(h, m, s, micros)| {
        let fraction = &format!("{micros:06}")[..digits];
        let dot = if digits > 0 { "." } else { "" };
        format!("{h:02}:{m:02}:{s:02}{dot}{fraction}")
    })
}

fn moment(digits: usize) -> impl Strategy<Value = String> {
    (day(), time(digits)).prop_map(|(day, time)| format!("{day} {time}"))
}

fn decimals() -> BoxedStrategy<String> {
    let number = (any::<i32>(), 0..1_000_u32);
    number
        .prop_map(|(whole, part)| format!("{whole}.{part:03}"))
        .boxed()
}

fn hexadecimal(bytes: std::ops::RangeInclusive<usize>) -> impl Strategy<Value = String> {
    prop::collection::vec(any::<u8>(), bytes)
        .prop_map(|bytes| bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

fn uuid() -> impl Strategy<Value = String> {
    any::<u128>().prop_map(|n| {
        let n = format!("{n:032x}");
        let (a, b, c, d, e) = (&n[..8], &n[8..12], &n[12..16], &n[16..20], &n[20..]);
        format!("'{a}-{b}-{c}-{d}-{e}'")
    })
}

fn types_of_postgres() -> Vec<KeyType> {
    let quoted = |s: BoxedStrategy<String>| s.prop_map(|value| quoted(&value));
    let special = |s: BoxedStrategy<String>, extra: &'static [&'static str]| {
        quoted(prop_oneof![6 => s, 1 => one_of(extra)].boxed())
    };
    vec![
        int::<i16>("smallint"),
        int::<i32>("integer"),
        int::<i64>("bigint"),
        int::<i32>("whole_number"),
        key_type("numeric(14,3)", decimals()),
        key_type(
            "numeric",
            special(
                decimals(),
                &["NaN", "Infinity", "-Infinity", "1e-20", "1.10", "1e40"],
            ),
        ),
        key_type("uuid", uuid()),
        text("text"),
        text("text COLLATE \"und-x-icu\""),
        text("text COLLATE \"C\""),
        text("varchar(20)"),
        text("label"),
        ascii("char(5)", 5),
        ascii("name", 8),
        key_type("boolean", one_of(&["true", "false"])),
        key_type("mood", one_of(&["'glad'", "'calm'", "'angry'"])),
        key_type(
            "date",
            special(
                day().boxed(),
                &["infinity", "-infinity", "0044-03-15 BC", "20000-01-02"],
            ),
        ),
        key_type(
            "timestamp",
            special(
                moment(6).boxed(),
                &["infinity", "-infinity", "0044-03-15 1:2:3.000004 BC"],
            ),
        ),
        key_type("timestamp(0)", quoted(moment(0).boxed())),
        key_type(
            "timestamptz",
            special(
                moment(6).boxed(),
                &[
                    "infinity",
                    "-infinity",
                    "0044-03-15 1:2:3.000004+00 BC",
                    // These moments are one hour apart, and have the same time of day in New York.
                    "2023-11-05 05:30:00+00",
                    "2023-11-05 06:30:00+00",
                    "20000-01-02 3:4:5.6+00",
                ],
            ),
        ),
        key_type("time", quoted(time(6).boxed())),
        key_type(
            "bytea",
            hexadecimal(0..=6).prop_map(|h| format!("'\\x{h}'")),
        ),
        key_type(
            "inet",
            any::<u32>().prop_map(|n| {
                let ip = std::net::Ipv4Addr::from(n);
                format!("'{ip}/{}'", n % 33)
            }),
        ),
    ]
}

fn types_of_sqlite() -> Vec<KeyType> {
    let quoted = |s: BoxedStrategy<String>| s.prop_map(|value| quoted(&value));
    vec![
        int::<i64>("INTEGER"),
        int::<i64>("BIGINT"),
        text("TEXT"),
        text("TEXT COLLATE NOCASE"),
        text("VARCHAR(9) COLLATE RTRIM"),
        key_type("BLOB", hexadecimal(0..=6).prop_map(|h| format!("x'{h}'"))),
        key_type("DATETIME", quoted(moment(3).boxed())),
        key_type(
            "DATE",
            prop_oneof![
                quoted(day().boxed()),
                (0..9_i32).prop_map(|n| n.to_string())
            ],
        ),
        key_type(
            "",
            prop_oneof![
                quoted("[0-9a-c]{0,3}".boxed()),
                any::<i64>().prop_map(|n| n.saturating_add(1).to_string())
            ],
        ),
    ]
}

fn types_of_mariadb() -> Vec<KeyType> {
    let quoted = |s: BoxedStrategy<String>| s.prop_map(|value| quoted(&value));
    vec![
        int::<i8>("TINYINT"),
        int::<u16>("SMALLINT UNSIGNED"),
        int::<i32>("INT"),
        int::<u32>("INT UNSIGNED"),
        int::<i64>("BIGINT"),
        int::<u64>("BIGINT UNSIGNED"),
        key_type("YEAR", (1901..2155_u32).prop_map(|n| n.to_string())),
        key_type("DECIMAL(14,3)", decimals()),
        key_type(
            "DECIMAL(20,0) UNSIGNED",
            any::<u64>().prop_map(|n| n.to_string()),
        ),
        text("VARCHAR(20) COLLATE utf8mb4_unicode_ci"),
        text("VARCHAR(20) COLLATE utf8mb4_bin"),
        text("VARCHAR(20) COLLATE utf8mb4_unicode_nopad_ci"),
        ascii("VARCHAR(20) CHARACTER SET latin1", 8),
        ascii("CHAR(5)", 5),
        key_type("DATE", quoted(day().boxed())),
        key_type("DATETIME", quoted(moment(0).boxed())),
        key_type("DATETIME(6)", quoted(moment(6).boxed())),
        key_type(
            "TIMESTAMP(6)",
            (86_400..2_000_000_000_u32, 0..1_000_000_u32)
                .prop_map(|(s, micros)| format!("FROM_UNIXTIME({s}.{micros:06})")),
        ),
        key_type("TIME(6)", quoted(time(6).boxed())),
        key_type(
            "BINARY(4)",
            hexadecimal(4..=4).prop_map(|h| format!("x'{h}'")),
        ),
        key_type(
            "VARBINARY(8)",
            hexadecimal(0..=8).prop_map(|h| format!("x'{h}'")),
        ),
        key_type("UUID", uuid()),
        key_type(
            "INET6",
            any::<u128>().prop_map(|n| format!("'{}'", std::net::Ipv6Addr::from(n))),
        ),
    ]
}

/// A table, and the pages and ranges in which it is read.
#[derive(Clone, Debug)]
struct Case {
    declared: Vec<&'static str>,
    rows: Vec<Vec<String>>,
    as_primary_key: bool,
    filter: Option<&'static str>,
    page_size: usize,
    /// The ends of the ranges, in thousandths of the rows.
    cuts: Vec<usize>,
    /// Rows that are deleted after the ends were found.
    deleted: u32,
    skip: u64,
}

fn case(types: Vec<KeyType>) -> impl Strategy<Value = Case> {
    let declared: Vec<_> = types.iter().map(|t| t.declared).collect();
    let row: Vec<_> = types.into_iter().map(|t| t.values).collect();
    let rows = prop::collection::vec(row, 0..50);
    (
        rows,
        any::<bool>(),
        prop::option::of(prop::sample::select(vec![
            "n % 3 <> 1",
            "n < 5 OR n > 9 -- both ends",
            "n = 7",
            "note = 'a;b'",
        ])),
        1_usize..12,
        prop::collection::vec(0_usize..1_000, 0..6),
        2_u32..9,
        1_u64..20,
    )
        .prop_map(
            move |(rows, as_primary_key, filter, page_size, cuts, deleted, skip)| Case {
                declared: declared.clone(),
                rows,
                as_primary_key,
                filter,
                page_size,
                cuts,
                deleted,
                skip,
            },
        )
}

/// Creates the table, without rows whose key is already there.
async fn create(home: &Home, case: &Case) -> (String, Vec<String>) {
    static TABLES: AtomicU32 = AtomicU32::new(0);
    let number = TABLES.fetch_add(1, Ordering::Relaxed);
    let table = format!("Odd \"na.me\" {number}");
    let quote = |name: &str| {
        if home.is_mariadb() {
            format!("`{name}`")
        } else {
            format!("\"{}\"", name.replace('"', "\"\""))
        }
    };
    let key: Vec<_> = (0..case.declared.len())
        .map(|n| format!("Key {n}"))
        .collect();
    let columns: Vec<_> = key
        .iter()
        .zip(&case.declared)
        .map(|(name, declared)| format!("{} {declared} NOT NULL", quote(name)))
        .collect();
    let constraint = if case.as_primary_key {
        "PRIMARY KEY"
    } else {
        "UNIQUE"
    };
    let names: Vec<_> = key.iter().map(|name| quote(name)).collect();
    let name = quote(&table);
    home.script(format!(
        "CREATE TABLE {name} (n BIGINT NOT NULL, {}, note VARCHAR(9) DEFAULT 'a;b', {constraint} ({}))",
        columns.join(", "),
        names.join(", ")
    ))
    .await;
    let values: Vec<_> = case
        .rows
        .iter()
        .enumerate()
        .map(|(n, row)| format!("({n}, {})", row.join(", ")))
        .collect();
    if !values.is_empty() {
        let (insert, conflict) = if home.is_postgres() {
            ("INSERT", " ON CONFLICT DO NOTHING")
        } else if home.is_mariadb() {
            ("INSERT IGNORE", "")
        } else {
            ("INSERT OR IGNORE", "")
        };
        home.script(format!(
            "{insert} INTO {name} (n, {}) VALUES {}{conflict}",
            names.join(", "),
            values.join(", ")
        ))
        .await;
    }
    (table, key)
}

async fn walk(
    table: &Table,
    start: Option<&Key>,
    end: Option<&Key>,
    page_size: usize,
) -> Vec<(Key, i64)> {
    let mut all: Vec<(Key, i64)> = Vec::new();
    loop {
        let start = all.last().map(|(key, _)| key).or(start).cloned();
        let page = numbered(table, "n", start.as_ref(), end, page_size)
            .await
            .unwrap();
        let keys = table.keys(start.as_ref(), end, page_size).await.unwrap();
        let of_page: Vec<_> = page.iter().map(|(key, _)| key.clone()).collect();
        assert_eq!(keys, of_page);
        if page.is_empty() {
            return all;
        }
        all.extend(page);
    }
}

fn numbers(rows: &[(Key, i64)]) -> Vec<i64> {
    rows.iter().map(|(_, n)| *n).collect()
}

async fn check(home: &Home, case: &Case) -> Result<(), TestCaseError> {
    let (name, key) = create(home, case).await;
    let given = format!("\"{}\"", name.replace('"', "\"\""));
    let mut spec = TableSpec::new(given, key);
    spec.filter = case.filter.map(str::to_owned);
    let table = Table::inspect(&home.database, &spec).await.unwrap();
    let elsewhere = Table::inspect(&home.elsewhere, &spec).await.unwrap();
    table.check_plan().await.unwrap();

    let quoted: Vec<_> = spec.key.iter().map(|k| table.quote(k)).collect();
    let expected = format!(
        "SELECT n FROM {} WHERE (\n{}\n) ORDER BY {}",
        table.quoted_name(),
        case.filter.unwrap_or("TRUE"),
        quoted.join(", ")
    );
    let all = home.numbers(expected.clone()).await;
    let whole = walk(&table, None, None, case.page_size).await;
    prop_assert_eq!(
        &numbers(&whole),
        &all,
        "every row should be read once and in order"
    );
    let odd = walk(&elsewhere, None, None, case.page_size).await;
    prop_assert_eq!(&odd, &whole, "session settings should not change the keys");
    prop_assert_eq!(table.count(None, None).await.unwrap(), all.len() as u64);

    // A mark is the highest key of all rows.
    let unfiltered = TableSpec {
        filter: None,
        ..spec.clone()
    };
    let unfiltered = Table::inspect(&home.database, &unfiltered).await.unwrap();
    let last = unfiltered.keys(None, None, 1_000).await.unwrap().pop();
    prop_assert_eq!(&table.high_water_mark().await.unwrap(), &last);

    // Some rows at the ends of ranges are deleted before the ranges are read.
    let mut cuts: Vec<usize> = case
        .cuts
        .iter()
        .map(|cut| cut * whole.len() / 1_000)
        .collect();
    cuts.sort_unstable();
    cuts.dedup();
    let cuts: Vec<Key> = cuts
        .iter()
        .filter_map(|at| whole.get(*at))
        .map(|(k, _)| k.clone())
        .collect();
    let skipped = table.skip(None, None, case.skip).await.unwrap();
    let there = whole
        .get(case.skip as usize - 1)
        .map(|(key, _)| key.clone());
    prop_assert_eq!(skipped, there.map_or(SkipAhead::PastEnd, SkipAhead::To));

    home.script(format!(
        "DELETE FROM {} WHERE n % {} = 0",
        table.quoted_name(),
        case.deleted
    ))
    .await;
    let left = home.numbers(expected).await;
    let mut met = Vec::new();
    let mut starts = vec![None];
    starts.extend(cuts.iter().map(Some));
    let ends = cuts.iter().map(Some).chain([None]);
    for (start, end) in starts.into_iter().zip(ends) {
        let range = walk(&elsewhere, start, end, case.page_size).await;
        let keys = table.keys(start, end, 1_000).await.unwrap();
        prop_assert_eq!(keys.len(), range.len());

        let beyond = table.skip(start, end, case.skip).await.unwrap();
        let there = keys.get(case.skip as usize - 1).cloned();
        prop_assert_eq!(beyond, there.map_or(SkipAhead::PastEnd, SkipAhead::To));

        let count = format!("SELECT count(*) FROM {} WHERE ", table.quoted_name());
        let (condition, values) = table.condition(start, end, 1);
        let counted = home
            .numbers_with(format!("{count}{condition}"), values)
            .await;
        prop_assert_eq!(counted, [range.len() as i64]);
        prop_assert_eq!(table.count(start, end).await.unwrap(), range.len() as u64);
        if let (Some((first, _)), Some((last, _))) = (range.first(), range.last()) {
            let (condition, values) = table.condition_of(first, last, 1);
            let counted = home
                .numbers_with(format!("{count}{condition}"), values)
                .await;
            prop_assert_eq!(counted, [range.len() as i64]);
            let (condition, values) = table.condition_of(first, first, 1);
            let counted = home
                .numbers_with(format!("{count}{condition}"), values)
                .await;
            prop_assert_eq!(counted, [1]);
        }
        met.extend(numbers(&range));
    }
    prop_assert_eq!(met, left, "the ranges should have all rows");
    home.script(format!("DROP TABLE {}", table.quoted_name()))
        .await;
    Ok(())
}

/// Every type by itself, and together with one or two others.
fn keys(types: &[KeyType], case: u32) -> Vec<KeyType> {
    let at = |n: usize| types[n % types.len()].clone();
    let case = case as usize;
    let columns = 1 + case / types.len() % 3;
    let step = 1 + case / types.len();
    (0..columns).map(|n| at(case + n * step)).collect()
}

/// Runs as many cases as each type needs to occur `rounds` times at each length of a key. Several cases run at a time,
/// since a mark mostly waits.
async fn check_cases_of_every_type(home: Home, types: fn() -> Vec<KeyType>, rounds: u32) {
    const AT_ONCE: usize = 4;
    let home = Arc::new(home);
    let mut lanes = JoinSet::new();
    for lane in 0..AT_ONCE {
        let (home, handle) = (Arc::clone(&home), Handle::current());
        lanes.spawn_blocking(move || {
            let types = types();
            for number in (0..types.len() as u32 * 3 * rounds)
                .skip(lane)
                .step_by(AT_ONCE)
            {
                let config = Config {
                    cases: 1,
                    failure_persistence: None,
                    max_shrink_iters: 50,
                    ..Config::default()
                };
                TestRunner::new(config)
                    .run(&case(keys(&types, number)), |case| {
                        handle.block_on(check(&home, &case))
                    })
                    .unwrap();
            }
        });
    }
    lanes.join_all().await;
}

const TYPES: &str = "
    CREATE DOMAIN whole_number AS integer CHECK (VALUE IS NOT NULL);
    CREATE DOMAIN label AS text COLLATE \"und-x-icu\";
    CREATE TYPE mood AS ENUM ('glad', 'calm', 'angry')";

#[tokio::test]
async fn every_row_once_in_the_order_of_postgresql() {
    if let Some(home) = postgres("order").await {
        home.script(TYPES).await;
        check_cases_of_every_type(home, types_of_postgres, 2).await;
    }
}

#[tokio::test]
async fn every_row_once_in_the_order_of_sqlite() {
    check_cases_of_every_type(sqlite().await, types_of_sqlite, 5).await;
}

#[tokio::test]
async fn every_row_once_in_the_order_of_mariadb() {
    if let Some(home) = mariadb_alone("order").await {
        check_cases_of_every_type(home, types_of_mariadb, 1).await;
    }
}
