//! The place of a record that the reader or the database refuses: file, line, column and value.

use temporal_batch::{
    Outcome,
    files::{CsvSource, JsonLinesSource},
    sql::{BytesForm, ImportArgs, OnConflict},
};

use crate::{
    database,
    database::Home,
    sample_files::{Written, named},
    support::databases::on_each,
};

on_each! {
    each_refused_record_is_traced_to_file_line_column_and_value,
}

/// A record that is given up, and the expected contents of its dead letter.
struct Bad {
    csv: &'static [u8],
    json: &'static str,
    error_type: &'static str,
    column: Option<&'static str>,
    value: Option<&'static str>,
}

/// The fields of the columns `id,age,name,owner,mail,born`.
const BAD: [Bad; 8] = [
    Bad {
        csv: b"2,seven,bob,1,b@x,2000-01-01",
        json: r#"{"id":2,"age":"seven","name":"bob","owner":1,"mail":"b@x","born":"2000-01-01"}"#,
        error_type: "InvalidData",
        column: Some("age"),
        value: Some("seven"),
    },
    Bad {
        csv: b"3,40,robert,1,c@x,2000-01-01",
        json: r#"{"id":3,"age":40,"name":"robert","owner":1,"mail":"c@x","born":"2000-01-01"}"#,
        error_type: "InvalidData",
        column: Some("name"),
        value: Some("robert"),
    },
    Bad {
        csv: b"4,,eve,1,d@x,2000-01-01",
        json: r#"{"id":4,"name":"eve","owner":1,"mail":"d@x","born":"2000-01-01"}"#,
        error_type: "NotNullViolation",
        column: Some("age"),
        value: None,
    },
    Bad {
        csv: b"1,41,dup,1,e@x,2000-01-01",
        json: r#"{"id":1,"age":41,"name":"dup","owner":1,"mail":"e@x","born":"2000-01-01"}"#,
        error_type: "UniqueViolation",
        column: Some("id"),
        value: Some("1"),
    },
    Bad {
        csv: b"6,42,dan,909,f@x,2000-01-01",
        json: r#"{"id":6,"age":42,"name":"dan","owner":909,"mail":"f@x","born":"2000-01-01"}"#,
        error_type: "ForeignKeyViolation",
        column: Some("owner"),
        value: Some("909"),
    },
    Bad {
        csv: b"7,3,kid,1,g@x,2000-01-01",
        json: r#"{"id":7,"age":3,"name":"kid","owner":1,"mail":"g@x","born":"2000-01-01"}"#,
        error_type: "CheckViolation",
        column: Some("age"),
        value: Some("3"),
    },
    Bad {
        csv: b"8,43,amy,1,ann@example.org,2000-01-01",
        json: r#"{"id":8,"age":43,"name":"amy","owner":1,"mail":"ann@example.org","born":"2000-01-01"}"#,
        error_type: "UniqueViolation",
        column: Some("mail"),
        value: Some("ann@example.org"),
    },
    Bad {
        csv: b"9,44,zoe,1,h@x,2000-13-45",
        json: r#"{"id":9,"age":44,"name":"zoe","owner":1,"mail":"h@x","born":"2000-13-45"}"#,
        error_type: "InvalidData",
        column: Some("born"),
        value: Some("2000-13-45"),
    },
];

/// Bad records that never reach a database.
const UNREADABLE_CSV: [Bad; 2] = [
    Bad {
        csv: b"10,20",
        json: "",
        error_type: "WrongColumnCount",
        column: None,
        value: None,
    },
    Bad {
        csv: b"11,45,\xffbob,1,i@x,2000-01-01",
        json: "",
        error_type: "InvalidUtf8",
        column: Some("name"),
        value: Some("\u{fffd}bob"),
    },
];

const UNREADABLE_JSON: [Bad; 2] = [
    Bad {
        csv: b"",
        json: r#"{"id":10,"age":45,"#,
        error_type: "InvalidJson",
        column: None,
        value: None,
    },
    Bad {
        csv: b"",
        json: r#"["no object"]"#,
        error_type: "NoObject",
        column: None,
        value: None,
    },
];

/// The contents of a dead letter.
#[derive(Debug)]
struct Letter {
    error_type: String,
    message: String,
    kept: serde_json::Value,
}

async fn letters(home: &Home) -> Vec<Letter> {
    let rows = home
        .texts("SELECT error_type, message, record FROM temporal_batch_dead_letter")
        .await;
    let letter = |row: Vec<Option<String>>| {
        let [error_type, message, record] = row.try_into().unwrap();
        Letter {
            error_type: error_type.unwrap(),
            message: message.unwrap(),
            kept: serde_json::from_str(&record.expect("the record is kept")).unwrap(),
        }
    };
    let mut letters: Vec<_> = rows.into_iter().map(letter).collect();
    letters.sort_by_key(|letter| letter.kept["record"].as_u64());
    letters
}

async fn tables(home: &Home) {
    home.run("CREATE TABLE p (id INT PRIMARY KEY)").await;
    home.run("INSERT INTO p VALUES (1)").await;
    let strict = home.url.starts_with("sqlite");
    let (int, name, mail, born) = match strict {
        true => (
            "INTEGER",
            "TEXT CONSTRAINT \"short name\" CHECK (length(name) <= 5)",
            "TEXT",
            "TEXT CONSTRAINT a_date CHECK (date(born) IS NOT NULL)",
        ),
        false => ("INT", "VARCHAR(5)", "VARCHAR(40)", "DATE"),
    };
    home.run(&format!(
        "CREATE TABLE t (
            id {int} PRIMARY KEY, age {int} NOT NULL, name {name}, owner {int}, mail {mail}, born {born},
            CONSTRAINT adult CHECK (age > 17), CONSTRAINT one_mail UNIQUE (mail),
            CONSTRAINT of_owner FOREIGN KEY (owner) REFERENCES p (id)
        ){}",
        if strict { " STRICT" } else { "" }
    ))
    .await;
}

const GOOD_CSV: &[u8] = b"1,30,ann,1,ann@example.org,2000-01-01";
const GOOD_JSON: &str =
    r#"{"id":1,"age":30,"name":"ann","owner":1,"mail":"ann@example.org","born":"2000-01-01"}"#;

/// A header, a good record, and the bad ones, the first of which is on line 3 after an empty line.
fn csv(bad: &[&Bad]) -> Written {
    let mut file = b"id,age,name,owner,mail,born\n".to_vec();
    for line in std::iter::once(GOOD_CSV).chain(bad.iter().map(|bad| bad.csv)) {
        file.extend_from_slice(line);
        file.push(b'\n');
    }
    named("people.csv", &file)
}

fn json_lines(bad: &[&Bad]) -> Written {
    let lines = std::iter::once(GOOD_JSON).chain(bad.iter().map(|bad| bad.json));
    let file: String = lines.flat_map(|line| [line, "\n"]).collect();
    named("people.jsonl", file.as_bytes())
}

/// Checks the dead letters. `first_line` is that of the first bad record.
fn check(letters: &[Letter], bad: &[&Bad], file: &str, first_line: usize, sqlite: bool) {
    assert_eq!(letters.len(), bad.len(), "{letters:#?}");
    for (position, (letter, bad)) in letters.iter().zip(bad).enumerate() {
        let line = first_line + position;
        let place = match bad.column {
            Some(column) => format!("column `{column}`"),
            None => String::new(),
        };
        let told = format!("{file}, line {line}, record {}", position + 2);
        assert!(letter.message.starts_with(&told), "{letter:#?}");
        assert!(letter.message.contains(&place), "{letter:#?}");
        // In SQLite, a length or a date is checked by a constraint.
        let by_check = sqlite && ["name", "born"].contains(&bad.column.unwrap_or_default());
        if !(by_check && bad.error_type == "InvalidData") {
            assert_eq!(letter.error_type, bad.error_type, "{letter:#?}");
        }
        let kept = &letter.kept;
        assert_eq!(kept["file"], file);
        assert_eq!(kept["lines"]["start"], line, "{letter:#?}");
        assert_eq!(kept["column"].as_str(), bad.column, "{letter:#?}");
        assert_eq!(kept["value"].as_str(), bad.value, "{letter:#?}");
        // The message is in histories and logs.
        if let Some(value) = bad.value.filter(|value| value.len() > 4) {
            assert!(!letter.message.contains(value), "{letter:#?}");
        }
    }
}

/// Every kind of bad record that the database can have. `born` is typed only where there is a type for dates.
fn of_database() -> Vec<&'static Bad> {
    BAD.iter().collect()
}

async fn imported(home: &Home, args: ImportArgs, failed: usize) -> Vec<Letter> {
    home.run("DELETE FROM temporal_batch_dead_letter").await;
    home.run("DELETE FROM t").await;
    let run = home.imported(args).await;
    assert_eq!(
        run.outcome,
        Outcome::CompletedWithFailures,
        "{:?}",
        run.reason
    );
    assert_eq!(run.items.failed, failed as u64, "{:?}", run.items);
    letters(home).await
}

async fn each_refused_record_is_traced_to_file_line_column_and_value(home: Home) {
    tables(&home).await;
    let sqlite = home.url.starts_with("sqlite");

    let bad: Vec<_> = of_database().into_iter().chain(&UNREADABLE_CSV).collect();
    let file = csv(&bad);
    let args = ImportArgs::new(CsvSource::new(&file.path), "t");
    let found = imported(&home, args, bad.len()).await;
    check(&found, &bad, "people.csv", 3, sqlite);

    let bad: Vec<_> = of_database().into_iter().chain(&UNREADABLE_JSON).collect();
    let file = json_lines(&bad);
    let args = ImportArgs::new(JsonLinesSource::new(&file.path), "t");
    let found = imported(&home, args, bad.len()).await;
    check(&found, &bad, "people.jsonl", 2, sqlite);

    // This uses INSERT in PostgreSQL, where an existing key is updated.
    let bad = of_database().into_iter();
    let bad: Vec<_> = bad.filter(|bad| bad.column != Some("id")).collect();
    let file = csv(&bad);
    let update = OnConflict::Update(vec!["id".to_owned()]);
    let args = ImportArgs::new(CsvSource::new(&file.path), "t").on_conflict(update);
    let found = imported(&home, args, bad.len()).await;
    check(&found, &bad, "people.csv", 3, sqlite);
}

/// The errors of some constraints name no single column: those over several columns, of an index, and checked at the
/// end of the transaction.
#[tokio::test(flavor = "multi_thread")]
async fn constraints_of_several_columns_and_deferred_ones_are_traced_on_postgres() {
    let Some(home) = database::postgres("errors_of_constraints").await else {
        return;
    };
    home.run("CREATE TABLE p (id INT PRIMARY KEY)").await;
    home.run("CREATE DOMAIN percent AS INT CHECK (VALUE BETWEEN 0 AND 100)")
        .await;
    home.run(
        "CREATE TABLE t (a INT, b INT, c INT REFERENCES p (id) DEFERRABLE INITIALLY DEFERRED, d percent)",
    )
    .await;
    home.run("CREATE UNIQUE INDEX pairs ON t (a, b)").await;
    let file = named(
        "pairs.csv",
        b"a,b,c,d\n1,2,,1\n1,2,,1\n3,3,404,1\n4,4,,101\n",
    );
    let args = ImportArgs::new(CsvSource::new(&file.path), "t");
    let found = imported(&home, args, 3).await;
    let told: Vec<_> = found
        .iter()
        .map(|letter| {
            (
                letter.kept["column"].as_str(),
                letter.kept["value"].as_str(),
            )
        })
        .collect();
    let expected = [
        (Some("a, b"), Some("1, 2")),
        (Some("c"), Some("404")),
        (Some("d"), Some("101")),
    ];
    assert_eq!(told, expected, "{found:#?}");
    assert!(found[0].message.contains("columns `a`, `b`"), "{found:#?}");
}

/// The reader refuses these values before the database sees them.
#[tokio::test(flavor = "multi_thread")]
async fn unreadable_bytes_are_traced_too() {
    let home = database::sqlite().await;
    home.run("CREATE TABLE t (id INT, photo BLOB)").await;
    let file = named("photos.csv", b"id,photo\n1,c0ffee\n2,secret\n");
    let args = ImportArgs::new(CsvSource::new(&file.path), "t").bytes(BytesForm::Hex);
    let found = imported(&home, args, 1).await;
    assert_eq!(found[0].kept["column"], "photo");
    assert_eq!(found[0].kept["value"], "secret");
    let place = "photos.csv, line 3, record 2: column `photo`";
    assert!(found[0].message.starts_with(place), "{found:#?}");
    assert!(!found[0].message.contains("secret"), "{found:#?}");
}

/// The texts are UTF-8, but cannot be stored in the column.
async fn a_character_that_a_column_cannot_hold_is_traced(home: Home, table: &str, bad: &str) {
    home.run(table).await;
    let text = format!("id,t,name\n1,a,b\n2,c,{bad}\n3,d,e\n");
    let file = named("texts.csv", text.as_bytes());
    for on_conflict in [OnConflict::Fail, OnConflict::Update(vec!["id".to_owned()])] {
        let args = ImportArgs::new(CsvSource::new(&file.path), "t").on_conflict(on_conflict);
        let found = imported(&home, args, 1).await;
        assert_eq!(found[0].error_type, "InvalidData", "{found:#?}");
        assert_eq!(found[0].kept["column"], "name", "{found:#?}");
        assert_eq!(found[0].kept["value"], bad, "{found:#?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_character_that_a_column_cannot_hold_is_traced_on_postgres() {
    if let Some(home) = database::postgres("errors_of_encoding").await {
        let table = "CREATE TABLE t (id INT PRIMARY KEY, t TEXT, name TEXT)";
        a_character_that_a_column_cannot_hold_is_traced(home, table, "nu\0ll").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_character_that_a_column_cannot_hold_is_traced_on_mariadb() {
    if let Some(home) = database::mariadb("errors_of_encoding").await {
        let table = "CREATE TABLE t (id INT PRIMARY KEY, t VARCHAR(9), name VARCHAR(9) CHARACTER SET latin1)";
        a_character_that_a_column_cannot_hold_is_traced(home, table, "\u{1f600}").await;
    }
}
