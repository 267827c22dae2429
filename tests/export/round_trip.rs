//! A table that is exported and imported with the default flags comes back equal.
//!
//! `ROUND_TRIP_CASES` says how many tables are generated for each database, 2 unless told.

use proptest::{
    prelude::*,
    sample::select,
    test_runner::{Config, TestCaseError, TestRunner},
};

use crate::{commands::run, database, database::Source, support::settings::setting};

/// A type, values of it as SQL, and the expression by which two of its values are compared.
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
    /// Every value of every type at least once.
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

    /// The values of each row that are compared.
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
    /// Of the import.
    pub flags: &'static [&'static str],
    /// Who exports and who imports, where others than the source do.
    pub urls: Option<[String; 2]>,
}

async fn comes_back(source: &Source, dialect: &Dialect, generated: &Generated) {
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

async fn every_type_comes_back(source: &Source, dialect: &Dialect) {
    comes_back(source, dialect, &Generated::all(dialect.types.clone())).await;
}

async fn generated_tables_come_back(source: &Source, dialect: &Dialect) {
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
            runtime.block_on(comes_back(source, dialect, &generated));
            Ok::<_, TestCaseError>(())
        });
        outcome.unwrap();
    });
}

fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

/// Texts that mean something in some format or other.
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

/// JSON whose text is kept.
const JSON_TEXTS: [&str; 6] = [
    " 1 ",
    "[\n 1,\r\n\t2 ]",
    "\n null",
    "\"\\ud83d\"",
    "\"\\u0000\"",
    "{ \"$json\" : \"\\n\" }",
];

mod on_postgres {
    use super::*;

    fn of(declared: &str, literals: impl IntoIterator<Item = impl AsRef<str>>) -> Type {
        let literal = |text: &str| format!("{}::text::{declared}", quoted(text));
        Type {
            declared: declared.to_owned(),
            literals: literals
                .into_iter()
                .map(|text| literal(text.as_ref()))
                .collect(),
            compared: "#",
        }
    }

    /// Types of its own.
    const TYPES: [&str; 16] = [
        "CREATE TYPE mood AS ENUM ('glad', 'a b', 'it''s, \"fine\"', '')",
        "CREATE TYPE pair AS (n int, \"a text\" text)",
        "CREATE TYPE nested AS (p pair, ps pair[], at timestamptz, b bytea)",
        "CREATE DOMAIN small AS int CHECK (VALUE < 100)",
        "CREATE DOMAIN smaller AS small CHECK (VALUE < 50)",
        "CREATE DOMAIN bytes AS bytea",
        "CREATE DOMAIN doc AS jsonb",
        "CREATE DOMAIN inner_doc AS doc",
        "CREATE DOMAIN numbers AS int[]",
        "CREATE TYPE float_range AS RANGE (subtype = float8)",
        "CREATE EXTENSION hstore",
        "CREATE EXTENSION citext",
        // Not what a cast to text says.
        "CREATE FUNCTION lossy(pair) RETURNS text LANGUAGE sql IMMUTABLE RETURN 'a pair'",
        "CREATE CAST (pair AS text) WITH FUNCTION lossy",
        "CREATE SCHEMA other",
        "CREATE TYPE other.\"Odd Type\" AS ENUM ('x')",
    ];

    fn types() -> Vec<Type> {
        let floats = [
            "NaN",
            "Infinity",
            "-Infinity",
            "0.1",
            "-0",
            "0",
            "1",
            "16777217",
            "1e-7",
            "123456789.125",
        ];
        let points = ["(1.5,-2)", "(1e300,NaN)", "(0.1,0.30000000000000004)"];
        let json_texts = || JSON.iter().chain(&JSON_TEXTS);
        vec![
            of("smallint", ["-32768", "32767"]),
            of("integer", ["-2147483648", "2147483647"]),
            of(
                "bigint",
                [
                    "-9223372036854775808",
                    "9223372036854775807",
                    "9007199254740993",
                ],
            ),
            of(
                "numeric",
                [
                    "NaN",
                    "Infinity",
                    "-Infinity",
                    "12345678901234567890.123456789",
                    "0.00",
                    "-1e-30",
                    "1e100",
                ],
            ),
            of("numeric(12,3)", ["123456789.123", "-0.001", "NaN"]),
            of("real", floats.iter().chain(&["3.4028235e38", "1e-45"])),
            of(
                "double precision",
                floats.iter().chain(&["1.7976931348623157e308", "5e-324"]),
            ),
            of(
                "money",
                ["-92233720368547758.08", "1234567.89", "0", "0.05"],
            ),
            of("boolean", ["true", "false"]),
            of("text", TEXTS),
            of("varchar(40)", TEXTS),
            of("char(5)", ["ab", "", " a", "abcde"]),
            of("\"char\"", ["x", "", "\\001"]),
            of("name", ["a name"]),
            of("citext", ["Ab", ""]),
            of(
                "bytea",
                ["\\xdeadbeef", "", "\\x00", "abc", "\\x5c78", "\\x27220a0d"],
            ),
            of("bytes", ["\\xdeadbeef", "", "abc"]),
            of(
                "date",
                [
                    "infinity",
                    "-infinity",
                    "0044-03-15 BC",
                    "5874897-12-31",
                    "4714-11-24 BC",
                    "2024-02-29",
                ],
            ),
            of(
                "timestamp",
                [
                    "infinity",
                    "-infinity",
                    "0044-03-15 12:00:00.5 BC",
                    "294276-12-31 23:59:59.999999",
                    "2024-01-31 12:00:00",
                ],
            ),
            of(
                "timestamptz",
                [
                    "infinity",
                    "-infinity",
                    "0044-03-15 12:00:00.5+00 BC",
                    "294276-12-31 23:59:59.999999+00",
                    "2024-10-27 02:30:00+02",
                    "2024-10-27 02:30:00+01",
                    "1850-01-01 00:00:00+00:53:28",
                ],
            ),
            of("timestamp(0)", ["2024-01-31 12:00:00.6"]),
            of("time", ["24:00:00", "00:00:00.000001"]),
            of("timetz", ["24:00:00-15:59", "12:00:00.000001+00:53:28"]),
            of(
                "interval",
                [
                    "0",
                    "-1 mons +2 days -03:04:05.678",
                    "1 year -2 days",
                    "-1 days +02:03:00",
                    "-1 days",
                    "-1 days -02:00:00",
                    "178000000 years",
                    "-00:00:00.000001",
                    "1 mons -1 days",
                ],
            ),
            of("uuid", ["00000000-0000-0000-0000-0000000000ff"]),
            of("inet", ["10.0.0.1", "10.0.0.1/8", "::1", "fe80::/10"]),
            of("cidr", ["10.0.0.0/8"]),
            of("macaddr", ["08:00:2b:01:02:03"]),
            of("macaddr8", ["08:00:2b:01:02:03:04:05"]),
            of("bit(9)", ["101010101"]),
            of("bit varying", ["", "0", "1010"]),
            of("point", points),
            of("line", ["{1,-0.1,2}"]),
            of("lseg", ["[(0,0),(1,0.1)]"]),
            of("box", ["(1,1),(0,0.1)"]),
            of("path", ["[(0,0),(1,1)]", "((0,0),(1,1))"]),
            of("polygon", ["((0,0),(1,1),(2,0))"]),
            of("circle", ["<(0,0.1),2>"]),
            of("json", json_texts()),
            of("jsonb", JSON),
            of("doc", JSON),
            of("inner_doc", JSON),
            of("jsonpath", ["$.\"a\"[*]?(@ > 1)"]),
            of(
                "xml",
                ["<a b=\"c\">d</a>", "only text &amp; more", "<a/><b/>", ""],
            ),
            of("tsvector", ["'a b':1A 'it''s':2,3B", ""]),
            of("tsquery", ["'a' & !'b c'", ""]),
            of("hstore", ["a=>1, \"b c\"=>NULL, d=>\"NULL\"", ""]),
            of("int4range", ["[1,5)", "empty", "(,)", "(,3)"]),
            of("numrange", ["(1.10,2.5]"]),
            of(
                "tstzrange",
                ["[2024-01-01 00:00:00+00,infinity)", "(-infinity,)"],
            ),
            of("daterange", ["[0044-03-15 BC,2024-01-01)"]),
            of("float_range", ["[0.1,Infinity)"]),
            of("int4multirange", ["{}", "{[1,3),[5,7)}"]),
            of(
                "tstzmultirange",
                ["{[2024-01-01 00:00:00+00,2024-02-01 00:00:00+00)}"],
            ),
            of("oid", ["0", "4294967295"]),
            of("regclass", ["pg_class"]),
            of("xid", ["7"]),
            of("tid", ["(1,2)"]),
            of("pg_lsn", ["16/B374D848"]),
            of(
                "int[]",
                ["{}", "{1,NULL,-3}", "{{1,2},{3,4}}", "[0:1]={7,8}"],
            ),
            of(
                "text[]",
                [
                    "{a,\"b,c\",NULL,\"NULL\",\"\"}",
                    "{\"\\\"\",\"\\\\\",\"{}\",\"two\nlines\"}",
                ],
            ),
            of("bytea[]", ["{\"\\\\xdead\",NULL}"]),
            of("jsonb[]", ["{\"1e400\",\"{\\\"a\\\": null}\"}"]),
            of(
                "timestamptz[]",
                ["{infinity,\"0044-03-15 12:00:00+00 BC\"}"],
            ),
            of("interval[]", ["{\"-1 days +02:03:00\"}"]),
            of("double precision[]", ["{NaN,0.1,-Infinity}"]),
            of("money[]", ["{\"1,234.56\"}"]),
            of("box[]", ["{(1,1),(0,0);(2,2),(1,1)}"]),
            of("numbers", ["{1,2}"]),
            of("mood", ["glad", "a b", "it's, \"fine\"", ""]),
            of("mood[]", ["{glad,\"\",NULL}"]),
            of("other.\"Odd Type\"", ["x"]),
            of(
                "pair",
                ["(1,\"a,b\")", "(,)", "(7,\"\")", "(1,\"\"\"q\"\"\")"],
            ),
            of("pair[]", ["{\"(1,a)\",NULL,\"(,\\\"x y\\\")\"}"]),
            of(
                "nested",
                [
                    "(\"(1,x)\",\"{\"\"(2,y)\"\"}\",\"2024-01-01 00:00:00+00\",\"\\\\xff\")",
                    "(,,,)",
                ],
            ),
            of("small", ["99"]),
            of("smaller", ["-1"]),
        ]
    }

    async fn home(test: &str) -> Option<(Source, Dialect)> {
        let source = database::postgres(test).await?;
        for statement in TYPES {
            source.run(statement).await;
        }
        let dialect = Dialect {
            types: types(),
            id: "bigint GENERATED ALWAYS AS IDENTITY",
            computed: "bigint GENERATED ALWAYS AS (id * 2) STORED",
            end: "",
            overriding: "OVERRIDING SYSTEM VALUE",
            flags: &[],
            urls: None,
        };
        Some((source, dialect))
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn every_type_comes_back() {
        if let Some((source, dialect)) = home("every_type").await {
            super::every_type_comes_back(&source, &dialect).await;
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn generated_tables_come_back() {
        if let Some((source, dialect)) = home("generated").await {
            super::generated_tables_come_back(&source, &dialect).await;
        }
    }

    /// Where keys may conflict, rows are not copied.
    #[tokio::test(flavor = "multi_thread")]
    async fn rows_that_are_inserted_come_back() {
        if let Some((source, mut dialect)) = home("inserted").await {
            dialect.id = "bigint";
            dialect.overriding = "";
            dialect.flags = &["--on-conflict", "update:id"];
            super::every_type_comes_back(&source, &dialect).await;
        }
    }

    /// In a session that writes and reads dates, intervals and money in another way.
    #[tokio::test(flavor = "multi_thread")]
    async fn settings_of_the_session_change_nothing() {
        let Some((source, mut dialect)) = home("settings").await else {
            return;
        };
        source.run("DROP ROLE IF EXISTS odd_settings").await;
        source.run("CREATE ROLE odd_settings SUPERUSER LOGIN").await;
        for setting in [
            "IntervalStyle = 'sql_standard'",
            "bytea_output = 'escape'",
            "xmloption = 'document'",
            "extra_float_digits = -15",
            "DateStyle = 'German'",
            "TimeZone = 'Asia/Kathmandu'",
        ] {
            source
                .run(&format!("ALTER ROLE odd_settings SET {setting}"))
                .await;
        }
        let (_, place) = source.url.split_once('@').unwrap();
        let odd = format!("postgres://odd_settings@{place}");
        for urls in [[&odd, &source.url], [&source.url, &odd]] {
            dialect.urls = Some(urls.map(Clone::clone));
            super::every_type_comes_back(&source, &dialect).await;
        }
    }
}

mod on_mariadb {
    use super::*;

    fn of(declared: &str, literals: impl IntoIterator<Item = impl Into<String>>) -> Type {
        Type {
            declared: format!("{declared} NULL"),
            literals: literals.into_iter().map(Into::into).collect(),
            compared: "CAST(# AS CHAR)",
        }
    }

    fn bytes(declared: &str, literals: impl IntoIterator<Item = impl Into<String>>) -> Type {
        Type {
            compared: "HEX(#)",
            ..of(declared, literals)
        }
    }

    fn floats(declared: &str, literals: impl IntoIterator<Item = impl Into<String>>) -> Type {
        Type {
            compared: "CAST(# + 0e0 AS CHAR)",
            ..of(declared, literals)
        }
    }

    fn text(text: &&str) -> String {
        quoted(&text.replace('\\', "\\\\"))
    }

    fn types() -> Vec<Type> {
        let texts = || TEXTS.iter().map(text);
        let short: Vec<_> = TEXTS.iter().filter(|t| t.is_ascii()).map(text).collect();
        let json = JSON.iter().chain(&JSON_TEXTS[..3]).map(text);
        let binary = ["x''", "x'00'", "x'deadbeef'", "'abc'", "x'5c78'", "'\"\n'"];
        let shapes = |shapes: &[&str]| -> Vec<String> {
            let shape = |shape: &&str| format!("ST_GeomFromText('{shape}', 4326)");
            shapes.iter().map(shape).collect()
        };
        vec![
            of("tinyint", ["-128", "127"]),
            of("tinyint(1)", ["0", "1", "5"]),
            of("smallint unsigned", ["65535"]),
            of("mediumint", ["-8388608"]),
            of("int", ["-2147483648", "2147483647"]),
            of("int(5) zerofill", ["42", "0", "4294967295"]),
            of("bigint", ["-9223372036854775808", "9223372036854775807"]),
            of("bigint unsigned", ["18446744073709551615"]),
            of("bigint(20) zerofill", ["18446744073709551615", "1"]),
            of(
                "decimal(65,30)",
                [
                    "12345678901234567890123456789012345.123456789012345678901234567890",
                    "-0.1",
                ],
            ),
            of("decimal(10,2) zerofill", ["42.5"]),
            floats(
                "float",
                [
                    "16777216",
                    "8388609",
                    "0.1",
                    "1e-45",
                    "3.4028234e38",
                    "-0e0",
                    "123456789",
                    "1.17549e-38",
                    "0.333333333",
                ],
            ),
            floats("float unsigned", ["0.1"]),
            floats("float(7,4)", ["123.4567"]),
            floats(
                "double",
                [
                    "0.1",
                    "1.7976931348623157e308",
                    "-1.7976931348623157e308",
                    "5e-324",
                    "9007199254740993",
                    "0.30000000000000004",
                    "-2.2250738585072014e-308",
                ],
            ),
            floats("double(20,3)", ["12345678901234.567"]),
            bytes("bit(1)", ["b'0'", "b'1'"]),
            bytes("bit(9)", ["b'101010101'", "b'110101'"]),
            bytes(
                "bit(64)",
                [
                    "b'1111111111111111111111111111111111111111111111111111111111111111'",
                    "53",
                ],
            ),
            of("year", ["'0000'", "1901", "2155"]),
            of(
                "date",
                [
                    "'0000-00-00'",
                    "'2024-00-15'",
                    "'2024-02-00'",
                    "'9999-12-31'",
                ],
            ),
            of(
                "datetime(6)",
                [
                    "'0000-00-00 00:00:00'",
                    "'9999-12-31 23:59:59.999999'",
                    "'2024-03-31 02:30:00'",
                ],
            ),
            of("datetime", ["'2024-00-00 00:00:00'"]),
            of(
                "timestamp(6)",
                [
                    "'0000-00-00 00:00:00'",
                    "'1970-01-01 00:00:01'",
                    "'2038-01-19 03:14:07.999999'",
                    "'2024-10-27 01:30:00'",
                ],
            ),
            of(
                "time(6)",
                ["'-838:59:59.999999'", "'838:59:59'", "'00:00:00.000001'"],
            ),
            bytes("char(5)", ["'ab'", "''", "' a'"]),
            bytes("varchar(40) CHARACTER SET utf8mb4", texts()),
            bytes(
                "varchar(40) CHARACTER SET latin1",
                short.iter().cloned().chain(["'ä'".to_owned()]),
            ),
            bytes("varchar(40) CHARACTER SET utf16", texts()),
            bytes("tinytext", texts()),
            bytes("longtext", texts()),
            bytes("binary(4)", ["x'00'", "x'deadbeef'", "'ab'"]),
            bytes("varbinary(9)", binary),
            bytes("tinyblob", binary),
            bytes("blob", binary),
            bytes("longblob", binary),
            of("enum('a','b,c','','\"')", ["'a'", "'b,c'", "''", "'\"'"]),
            of("enum('1','0','2')", ["'1'", "'0'", "'2'"]),
            of("set('a','b c','1')", ["''", "'a,b c'", "'1'"]),
            bytes("json", json),
            bytes(
                "geometry",
                shapes(&[
                    "POINT(1 2)",
                    "LINESTRING(0 0,1 1)",
                    "GEOMETRYCOLLECTION(POINT(0.1 2))",
                ]),
            ),
            bytes("point", shapes(&["POINT(0.1 -2)"])),
            bytes("polygon", shapes(&["POLYGON((0 0,1 0,1 1,0 0))"])),
            bytes("multipoint", shapes(&["MULTIPOINT(0 0,1 0.1)"])),
            of("uuid", ["'00000000-0000-0000-0000-0000000000ff'"]),
            of("inet4", ["'10.0.0.1'"]),
            of("inet6", ["'::1'", "'fe80::1'"]),
        ]
    }

    async fn home(test: &str) -> Option<(Source, Dialect)> {
        let source = database::mariadb(test).await?;
        let dialect = Dialect {
            types: types(),
            id: "bigint NOT NULL",
            computed: "bigint AS (id * 2) STORED",
            end: "",
            overriding: "",
            flags: &[],
            urls: None,
        };
        Some((source, dialect))
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn every_type_comes_back() {
        if let Some((source, dialect)) = home("every_type").await {
            super::every_type_comes_back(&source, &dialect).await;
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn generated_tables_come_back() {
        if let Some((source, dialect)) = home("generated").await {
            super::generated_tables_come_back(&source, &dialect).await;
        }
    }
}

mod on_sqlite {
    use super::*;

    const STORED: &str = "typeof(#) || CASE typeof(#) WHEN 'text' THEN hex(#) ELSE quote(#) END";

    /// Every column can hold any value.
    const VALUES: [&str; 22] = [
        "0",
        "-1",
        "9223372036854775807",
        "-9223372036854775808",
        "1.0",
        "1.5",
        "0.1",
        "1e300",
        "5e-324",
        "9e999",
        "-9e999",
        "1e15",
        "12345678901234567.0",
        "x''",
        "x'00ff'",
        "x'616263'",
        "CAST(x'ff41' AS TEXT)",
        "CAST(x'41c3' AS TEXT)",
        "'a' || char(0) || 'b'",
        "'0x10'",
        "'12345678901234567890'",
        "' 5'",
    ];

    fn types() -> Vec<Type> {
        let values = TEXTS.iter().map(|text| quoted(text));
        let values: Vec<_> = values.chain(VALUES.map(str::to_owned)).collect();
        let of = |declared: &str| Type {
            declared: declared.to_owned(),
            literals: values.clone(),
            compared: STORED,
        };
        [
            "",
            "INTEGER",
            "INT",
            "BIGINT",
            "TEXT",
            "VARCHAR(9)",
            "CLOB",
            "REAL",
            "DOUBLE",
            "FLOAT",
            "NUMERIC",
            "DECIMAL(9,2)",
            "BOOLEAN",
            "DATETIME",
            "BLOB",
            "JSON",
        ]
        .map(of)
        .to_vec()
    }

    async fn home() -> (Source, Dialect) {
        let dialect = Dialect {
            types: types(),
            id: "INTEGER",
            computed: "INTEGER AS (id * 2) STORED",
            end: "",
            overriding: "",
            flags: &[],
            urls: None,
        };
        (database::sqlite().await, dialect)
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn every_type_comes_back() {
        let (source, dialect) = home().await;
        super::every_type_comes_back(&source, &dialect).await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn generated_tables_come_back() {
        let (source, dialect) = home().await;
        super::generated_tables_come_back(&source, &dialect).await;
    }

    /// A part, compressed, is read by the manifest in its directory; a copy elsewhere by one that is named.
    #[tokio::test(flavor = "multi_thread")]
    async fn a_part_is_read_by_its_manifest() {
        let source = database::sqlite().await;
        let create = "(id INTEGER PRIMARY KEY, b BLOB, note TEXT)";
        source.run(&format!("CREATE TABLE t {create}")).await;
        source
            .run("INSERT INTO t VALUES (1, x'00ff', ''), (2, 'text', '-'), (3, NULL, NULL)")
            .await;
        let rows =
            |table: &str| format!("SELECT typeof(b) || quote(b) || quote(note) FROM {table}");
        let before = source.texts(&rows("t")).await;
        let to = source.text("parts");
        let export = [
            "export", "--table", "t", "--to", &to, "--format", "csv", "--gzip", "--null", "-",
        ];
        run(&source.url, &export).exits_with(0);
        let (part, spool) = (format!("{to}/part-00000001.csv.gz"), source.text(""));
        let (copy, manifest) = (source.text("copy.csv.gz"), format!("{to}/manifest.json"));
        std::fs::copy(&part, &copy).unwrap();
        for (file, flags) in [
            (&part, [].as_slice()),
            (&part, &["--null", "-"]),
            (&copy, &["--manifest", &manifest]),
        ] {
            source.run("DROP TABLE IF EXISTS again").await;
            source.run(&format!("CREATE TABLE again {create}")).await;
            let import = [
                "import",
                file,
                "--table",
                "again",
                "--spool",
                &spool,
                "--create-ledger-tables",
                // The same file and table, however it is read, are the same batch.
                "--rerun",
            ];
            let said = run(&source.url, &[&import, flags].concat()).exits_with(0);
            assert!(
                said.err.contains("as the manifest of the export says"),
                "{}",
                said.err
            );
            assert_eq!(source.texts(&rows("again")).await, before, "{flags:?}");
        }
        for (file, flags) in [(&copy, [].as_slice()), (&part, &["--manifest", "none"])] {
            let import = ["import", file, "--table", "again", "--spool", &spool];
            let said = run(&source.url, &[&import, flags].concat()).exits_with(2);
            assert!(
                said.err.contains("use --bytes hex, base64 or text"),
                "{}",
                said.err
            );
        }
        let missing = [
            "import",
            &copy,
            "--table",
            "again",
            "--spool",
            &spool,
            "--manifest",
            "/no",
        ];
        let said = run(&source.url, &missing);
        assert!(
            said.status != Some(0) && said.err.contains("there is no such file"),
            "{}",
            said.err
        );
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn strict_tables_come_back() {
        let (source, mut dialect) = home().await;
        let of = |declared: &str, literals: &[&str]| Type {
            declared: declared.to_owned(),
            literals: literals
                .iter()
                .map(|literal| (*literal).to_owned())
                .collect(),
            compared: STORED,
        };
        dialect.types = vec![
            of("ANY", &VALUES),
            of("TEXT", &["'5'", "''", "CAST(x'ff' AS TEXT)"]),
            of("REAL", &["5", "9e999", "0.1"]),
            of("INTEGER", &["9223372036854775807"]),
            of("BLOB", &["x''", "x'00'"]),
        ];
        dialect.end = " STRICT";
        super::every_type_comes_back(&source, &dialect).await;
    }
}
