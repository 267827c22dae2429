//! Records of a file in a table, each once, on every database.

use temporal_batch::{
    Batch, Outcome,
    files::{CsvSource, JsonLinesSource},
    sql::{BytesForm, Database, ImportArgs, OnConflict, SqlImport},
    testing::Simulator,
};

use crate::{
    database::{self, Home},
    sample_files::{Written, written},
    support::databases::on_each,
};

on_each! {
    awkward_text_of_a_csv_file_arrives_unchanged,
    awkward_text_of_json_lines_arrives_unchanged,
    refused_records_are_dead_letters_and_the_others_arrive,
    an_existing_key_is_refused_skipped_or_updated,
    a_table_whose_name_has_a_dot_and_a_quote_is_named_in_quotes,
    columns_are_chosen_and_renamed,
    an_import_that_cannot_work_is_refused_before_it_starts,
    json_keeps_every_digit_and_nested_values,
    a_column_of_json_gets_the_unchanged_value,
    bytes_are_read_in_the_named_encoding,
    a_field_that_first_appears_late_in_json_lines_arrives,
    without_once_an_update_makes_a_repeat_harmless,
}

/// Texts that break careless programs, the same ones in every test.
pub fn awkward(count: usize) -> Vec<(i64, String)> {
    let pieces = [
        "plain",
        ",",
        "\"",
        "\"\"",
        "'",
        "\n",
        "\r\n",
        "\r",
        "\t",
        "\\",
        "\\N",
        "\\.",
        "NULL",
        "ä€😀",
        "\u{feff}",
        " ",
        ";",
        "$1",
        "?",
        "--",
        "/*",
        "%s",
        "{}",
        "\u{202e}",
        "a\u{301}",
    ];
    let mut random = fastrand::Rng::with_seed(7);
    let mut text = |i: usize| -> String {
        let most = if i.is_multiple_of(97) { 400 } else { 6 };
        let length = 1 + random.usize(..most);
        // The text is never empty: that is NULL in a CSV file.
        (0..length)
            .map(|_| pieces[random.usize(..pieces.len())])
            .collect()
    };
    (0..count).map(|i| (i as i64 + 1, text(i))).collect()
}

pub fn csv(rows: &[(i64, String)]) -> Vec<u8> {
    let mut writer = csv::Writer::from_writer(Vec::new());
    writer.write_record(["id", "body"]).unwrap();
    for (id, body) in rows {
        writer.write_record([&id.to_string(), body]).unwrap();
    }
    writer.into_inner().unwrap()
}

pub fn expected(rows: &[(i64, String)]) -> Vec<Vec<Option<String>>> {
    let row = |(id, body): &(i64, String)| vec![Some(id.to_string()), Some(body.clone())];
    rows.iter().map(row).collect()
}

impl Home {
    async fn table(&self) {
        let create = format!("CREATE TABLE t (id BIGINT NOT NULL, body {})", self.text());
        self.run(&create).await;
    }

    pub async fn rows(&self) -> Vec<Vec<Option<String>>> {
        let id = if self.is_mysql() { "CHAR" } else { "TEXT" };
        let query = format!("SELECT CAST(id AS {id}), body FROM t ORDER BY t.id");
        self.texts(&query).await
    }
}

async fn awkward_text_of_a_csv_file_arrives_unchanged(home: Home) {
    home.table().await;
    let rows = awkward(400);
    let file = written(&csv(&rows));
    let args = ImportArgs::new(CsvSource::new(&file.path), "t");
    let run = home.imported(args).await;
    assert_eq!(run.outcome, Outcome::Completed, "{:?}", run.reason);
    assert_eq!((run.items.processed, run.items.changed), (400, 400));
    assert!(run.lost_workers > 0);
    assert_eq!(home.rows().await, expected(&rows));
}

async fn awkward_text_of_json_lines_arrives_unchanged(home: Home) {
    home.table().await;
    let rows = awkward(400);
    let line =
        |(id, body): &(i64, String)| serde_json::json!({"body": body, "id": id}).to_string() + "\n";
    let lines: String = rows.iter().map(line).collect();
    let file = written(lines.as_bytes());
    let args = ImportArgs::new(JsonLinesSource::new(&file.path), "t");
    let run = home.imported(args).await;
    assert_eq!(run.outcome, Outcome::Completed, "{:?}", run.reason);
    assert_eq!(home.rows().await, expected(&rows));
}

async fn refused_records_are_dead_letters_and_the_others_arrive(home: Home) {
    let create = "CREATE TABLE t (id BIGINT NOT NULL PRIMARY KEY, body VARCHAR(20) NOT NULL, \
        n INTEGER CHECK (n < 1000))";
    home.run(create).await;
    let mut content = "id,body,n\n".to_owned();
    for id in 1..=200 {
        match id {
            50 => content.push_str("50,fifty,5000\n"),
            51 => content.push_str("51,,1\n"),
            120 => content.push_str("1,again,1\n"),
            121 => content.push_str("121,too few\n"),
            _ => content.push_str(&format!("{id},row {id},{id}\n")),
        }
    }
    let file = written(content.as_bytes());
    let run = home
        .imported(ImportArgs::new(CsvSource::new(&file.path), "t"))
        .await;
    assert_eq!(
        run.outcome,
        Outcome::CompletedWithFailures,
        "{:?}",
        run.reason
    );
    assert_eq!((run.items.processed, run.items.failed), (196, 4));
    let letters = home.letter_types().await;
    assert_eq!(letters.values().sum::<u32>(), 4, "{letters:?}");
    assert_eq!(letters["WrongColumnCount"], 1);
    let there = home.texts("SELECT body FROM t").await;
    assert_eq!(there.len(), 196);
}

async fn an_existing_key_is_refused_skipped_or_updated(home: Home) {
    let create = format!(
        "CREATE TABLE t (id BIGINT NOT NULL PRIMARY KEY, body {})",
        home.text()
    );
    home.run(&create).await;
    home.run("INSERT INTO t VALUES (3, 'old'), (40, 'old')")
        .await;
    let content: String = std::iter::once("id,body\n".to_owned())
        .chain((1..=50).map(|id| format!("{id},new {id}\n")))
        .collect();
    let file = written(content.as_bytes());
    let args = || ImportArgs::new(CsvSource::new(&file.path), "t");
    let old = async || {
        home.texts("SELECT body FROM t WHERE body = 'old'")
            .await
            .len()
    };

    let run = home.imported(args().on_conflict(OnConflict::Nothing)).await;
    assert_eq!(run.outcome, Outcome::Completed, "{:?}", run.reason);
    if !home.is_mysql() {
        assert_eq!((run.items.processed, run.items.skipped), (48, 2));
    }
    assert_eq!((home.rows().await.len(), old().await), (50, 2));

    home.run("DELETE FROM t WHERE id NOT IN (3, 40)").await;
    let run = home.imported(args()).await;
    assert_eq!((run.items.processed, run.items.failed), (48, 2));
    assert_eq!((home.rows().await.len(), old().await), (50, 2));

    let update = OnConflict::Update(vec!["id".to_owned()]);
    let run = home.imported(args().on_conflict(update)).await;
    assert_eq!(run.outcome, Outcome::Completed, "{:?}", run.reason);
    assert_eq!((home.rows().await.len(), old().await), (50, 0));
}

async fn columns_are_chosen_and_renamed(home: Home) {
    let create = "CREATE TABLE t (id BIGINT NOT NULL, body VARCHAR(50), other VARCHAR(50) DEFAULT 'default')";
    home.run(create).await;
    let file = written(b"Number;Text;Junk\n1;-;x\n2;b;y\n");
    let source = CsvSource::new(&file.path).delimiter(';');
    let args = ImportArgs::new(source, "t")
        .map("Number", "id")
        .map("Text", "body")
        .columns(["body", "id"])
        .null("-");
    let run = home.imported(args).await;
    assert_eq!(run.outcome, Outcome::Completed, "{:?}", run.reason);
    let found = home.texts("SELECT body, other FROM t ORDER BY id").await;
    let text = |text: &str| Some(text.to_owned());
    assert_eq!(
        found,
        [[None, text("default")], [text("b"), text("default")]]
    );
}

async fn a_table_whose_name_has_a_dot_and_a_quote_is_named_in_quotes(home: Home) {
    let mark = if home.is_mysql() { '`' } else { '"' };
    let table = format!("{mark}my.t{mark}{mark}s{mark}");
    home.run(&format!("CREATE TABLE {table} (id BIGINT NOT NULL)"))
        .await;
    let file = written(b"id\n1\n2\n");
    let args = ImportArgs::new(CsvSource::new(&file.path), table.clone());
    let run = home.imported(args).await;
    assert_eq!(run.outcome, Outcome::Completed, "{:?}", run.reason);
    let count = format!("SELECT CAST(count(*) AS CHAR(1)) FROM {table}");
    assert_eq!(home.texts(&count).await, [[Some("2".to_owned())]]);
}

async fn an_import_that_cannot_work_is_refused_before_it_starts(home: Home) {
    home.table().await;
    let file = written(b"id,body,more\n1,a,b\n");
    let args = |table: &str| ImportArgs::new(CsvSource::new(&file.path), table);
    let refused = async |args: ImportArgs, words: &str| {
        let error = home.prepare(args).await.unwrap_err();
        assert_eq!(error.error_type(), "InvalidImport");
        assert!(!error.is_retryable());
        assert!(error.message().contains(words), "{error}");
    };
    refused(args("no_such_table"), "no table").await;
    refused(args("t"), "these fields of the file: more").await;
    refused(args("t").columns(["id", "nothing"]), "no field for column").await;
    refused(args("a.b.c"), "is not the name of a table").await;
    let update = OnConflict::Update(vec!["body".to_owned()]);
    let no_key = args("t").columns(["id", "body"]).on_conflict(update);
    refused(no_key, "this treatment of conflicts").await;
    let elsewhere = args("t").columns(["id"]).connection("elsewhere");
    let error = home.prepare(elsewhere).await.unwrap_err();
    assert_eq!(error.error_type(), "UnknownConnection");
    home.run("DROP TABLE temporal_batch_dead_letter").await;
    let without = home.prepare(args("t").columns(["id"])).await.unwrap_err();
    assert_eq!(without.error_type(), "LedgerTablesMissing");
    assert!(!without.is_retryable());
    assert!(without.message().contains("page ledger"), "{without}");
    let good = args("t").columns(["id"]).once(false);
    let prepared = home.prepare(good).await.unwrap();
    // The stored JSON is read back, by this and by later versions.
    let stored = serde_json::to_value(&prepared).unwrap();
    assert_eq!(
        serde_json::from_value::<ImportArgs>(stored).unwrap(),
        prepared
    );
}

async fn json_keeps_every_digit_and_nested_values(home: Home) {
    let create = format!(
        "CREATE TABLE t (id BIGINT NOT NULL, amount {}, body {}, flag {})",
        if home.is_sqlite() {
            "TEXT"
        } else {
            "DECIMAL(38, 20)"
        },
        home.text(),
        if home.is_mysql() {
            "TINYINT"
        } else {
            "BOOLEAN"
        },
    );
    home.run(&create).await;
    let lines = b"{\"id\":1,\"amount\":123456789012345678.12345678901234567890,\"body\":{\"a\":[1.10,null]},\"flag\":true}\n\
        {\"id\":9223372036854775807,\"flag\":false}\n{\"id\":3,\"late\":1}\n[]\n";
    let file = written(lines);
    let args = ImportArgs::new(JsonLinesSource::new(&file.path), "t")
        .columns(["id", "amount", "body", "flag"]);
    let run = home.imported(args).await;
    assert_eq!(
        (run.items.processed, run.items.failed),
        (3, 1),
        "{:?}",
        run.reason
    );
    let text = if home.is_mysql() { "CHAR" } else { "TEXT" };
    let query =
        format!("SELECT CAST(amount AS {text}), body, CAST(flag AS {text}) FROM t ORDER BY id");
    let found = home.texts(&query).await;
    let amount = found[0][0].as_deref();
    assert_eq!(amount, Some("123456789012345678.12345678901234567890"));
    assert_eq!(found[0][1].as_deref(), Some("{\"a\":[1.10,null]}"));
    assert!(matches!(found[0][2].as_deref(), Some("true" | "1")));
    assert_eq!(found[1], [None, None, None]);
}

/// SQLite has no such columns.
async fn a_column_of_json_gets_the_unchanged_value(home: Home) {
    if home.is_sqlite() {
        return;
    }
    home.run("CREATE TABLE t (id INT NOT NULL PRIMARY KEY, j JSON)")
        .await;
    let values = [
        "\"null\"",
        "\"true\"",
        "\"{}\"",
        "\" 1\"",
        "true",
        "12345678901234567890.123456789",
        "{\"b\": 1, \"a\": [null, 1e400]}",
    ];
    let numbered = values.iter().enumerate();
    let lines = numbered.map(|(id, value)| format!("{{\"id\": {id}, \"j\": {value}}}\n"));
    let lines = lines.collect::<String>() + "{\"id\": 99, \"j\": null}\n";
    let file = written(lines.as_bytes());
    let args = ImportArgs::new(JsonLinesSource::new(&file.path), "t");
    let run = home.imported(args).await;
    assert_eq!(run.outcome, Outcome::Completed, "{:?}", run.reason);
    let text = if home.is_mysql() { "CHAR" } else { "TEXT" };
    let found = home
        .texts(&format!("SELECT CAST(j AS {text}) FROM t ORDER BY id"))
        .await;
    let expected = values.iter().map(|value| vec![Some((*value).to_owned())]);
    let expected: Vec<_> = expected.chain([vec![None]]).collect();
    assert_eq!(found, expected);
}

async fn bytes_are_read_in_the_named_encoding(home: Home) {
    let bytes = match home.database {
        Database::Postgres(_) => "BYTEA",
        _ => "BLOB",
    };
    home.run(&format!(
        "CREATE TABLE t (id INT NOT NULL PRIMARY KEY, b {bytes})"
    ))
    .await;
    let file = written(b"id,b\n1,deadbeef\n2,\n3,abc\n");
    let args = || ImportArgs::new(CsvSource::new(&file.path), "t");
    let error = home.prepare(args()).await.unwrap_err();
    assert_eq!(error.error_type(), "InvalidImport");
    assert!(error.message().contains("\"b\" holds bytes"), "{error}");
    assert!(error.message().contains("hex, base64 or text"), "{error}");
    let mut letters = 0;
    for (form, expected) in [
        (
            BytesForm::Text,
            [Some("6465616462656566"), None, Some("616263")].as_slice(),
        ),
        (BytesForm::Hex, &[Some("deadbeef"), None]),
        (BytesForm::Base64, &[Some("75e69d6de79f"), None]),
    ] {
        home.run("DELETE FROM t").await;
        let run = home.imported(args().bytes(form)).await;
        letters += 3 - expected.len() as u64;
        assert_eq!(run.items.failed, 3 - expected.len() as u64, "{form:?}");
        let digits = match home.database {
            Database::Postgres(_) => "encode(b, 'hex')",
            _ => "LOWER(HEX(b))",
        };
        // SQLite has no hexadecimal digits for NULL.
        let query = format!("SELECT CASE WHEN b IS NOT NULL THEN {digits} END FROM t ORDER BY id");
        let found = home.texts(&query).await;
        let expected: Vec<_> = expected
            .iter()
            .map(|b| vec![b.map(str::to_owned)])
            .collect();
        assert_eq!(found, expected, "{form:?}");
    }
    assert_eq!(
        home.letter_types().await["RecordNotReadable"],
        u32::try_from(letters).unwrap()
    );
}

async fn a_field_that_first_appears_late_in_json_lines_arrives(home: Home) {
    home.table().await;
    let mut lines = "{\"id\":1}\n".repeat(12_000);
    lines.push_str("{\"id\":2,\"body\":\"late\"}\n");
    let file = written(lines.as_bytes());
    let args = ImportArgs::new(JsonLinesSource::new(&file.path), "t");
    let prepared = home.prepare(args).await.unwrap();
    // The known names of fields are not looked up again.
    let again = home.prepare(prepared.clone()).await.unwrap();
    assert_eq!(prepared, again);
    let batch = Batch::of::<SqlImport>("import", prepared).page_size(5_000);
    let run = Simulator::new().run(&home.import(), &batch).await.unwrap();
    assert_eq!(run.items.processed, 12_001, "{:?}", run.reason);
    let late = home.texts("SELECT body FROM t WHERE id = 2").await;
    assert_eq!(late, [[Some("late".to_owned())]]);
}

async fn without_once_an_update_makes_a_repeat_harmless(home: Home) {
    let create = "CREATE TABLE t (id BIGINT NOT NULL PRIMARY KEY, body VARCHAR(50))";
    home.run(create).await;
    let file = numbered(60);
    let args = ImportArgs::new(CsvSource::new(&file.path), "t")
        .once(false)
        .on_conflict(OnConflict::Update(vec!["id".to_owned()]));
    let run = home.imported(args).await;
    assert_eq!(run.outcome, Outcome::Completed, "{:?}", run.reason);
    assert!(run.lost_workers > 0);
    assert_eq!(home.rows().await.len(), 60);
}

fn numbered(rows: usize) -> Written {
    let content: String = std::iter::once("id,body\n".to_owned())
        .chain((1..=rows).map(|id| format!("{id},row {id}\n")))
        .collect();
    written(content.as_bytes())
}

#[tokio::test]
async fn numbers_are_numbers_for_bits_and_years_of_mariadb() {
    let Some(home) = database::mariadb("bits").await else {
        return;
    };
    home.run("CREATE TABLE t (id INT NOT NULL PRIMARY KEY, b BIT(9), y YEAR)")
        .await;
    let lines = b"{\"id\":1,\"b\":5,\"y\":0}\n{\"id\":2,\"b\":53,\"y\":2024}\n{\"id\":3}\n";
    let file = written(lines);
    let run = home
        .imported(ImportArgs::new(JsonLinesSource::new(&file.path), "t"))
        .await;
    assert_eq!(run.outcome, Outcome::Completed, "{:?}", run.reason);
    let query = "SELECT CAST(b + 0 AS CHAR), CAST(y AS CHAR) FROM t ORDER BY id";
    let text = |text: &str| Some(text.to_owned());
    let expected = [
        [text("5"), text("0000")],
        [text("53"), text("2024")],
        [None, None],
    ];
    assert_eq!(home.texts(query).await, expected);
}
