//! Values of every kind in SQLite, and the manifest of a part.

use super::*;

const STORED: &str = "typeof(#) || CASE typeof(#) WHEN 'text' THEN hex(#) ELSE quote(#) END";

/// Every column of SQLite can hold any value.
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

async fn home(_: &str) -> Option<(Source, Dialect)> {
    let dialect = Dialect {
        types: types(),
        id: "INTEGER",
        computed: "INTEGER AS (id * 2) STORED",
        end: "",
        overriding: "",
        flags: &[],
        urls: None,
    };
    Some((database::sqlite().await, dialect))
}

survives!(home);

/// A compressed part is read by the manifest in its directory; a copy elsewhere by a manifest that is named.
#[tokio::test(flavor = "multi_thread")]
async fn a_part_is_read_by_its_manifest() {
    let source = database::sqlite().await;
    let create = "(id INTEGER PRIMARY KEY, b BLOB, note TEXT)";
    source.run(&format!("CREATE TABLE t {create}")).await;
    source
        .run("INSERT INTO t VALUES (1, x'00ff', ''), (2, 'text', '-'), (3, NULL, NULL)")
        .await;
    let rows = |table: &str| format!("SELECT typeof(b) || quote(b) || quote(note) FROM {table}");
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
            // The batch is the same, since the file and the table are, however the file is read.
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
    let said = run(&source.url, &missing).exits_with(2);
    assert!(said.err.contains("there is no such file"), "{}", said.err);
}

#[tokio::test(flavor = "multi_thread")]
async fn strict_tables_survive() {
    let (source, mut dialect) = home("strict").await.unwrap();
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
    super::values_of_every_type_survive(&source, &dialect).await;
}
