//! Every type of PostgreSQL, including user-defined ones.

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

/// User-defined types.
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
    // The values of these types differ from their cast to text.
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

survives!(home);

/// Rows whose keys may conflict are inserted one by one and not with COPY.
#[tokio::test(flavor = "multi_thread")]
async fn inserted_rows_survive() {
    if let Some((source, mut dialect)) = home("inserted").await {
        dialect.id = "bigint";
        dialect.overriding = "";
        dialect.flags = &["--on-conflict", "update:id"];
        super::values_of_every_type_survive(&source, &dialect).await;
    }
}

/// The session writes and reads dates, intervals and money differently.
#[tokio::test(flavor = "multi_thread")]
async fn session_settings_change_nothing() {
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
        super::values_of_every_type_survive(&source, &dialect).await;
    }
}
