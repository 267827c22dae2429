//! CSV records with misplaced quotes, on every database.

use std::io::Write;

use flate2::{Compression, write::GzEncoder};
use temporal_batch::{Outcome, files::CsvSource, sql::ImportArgs};

use crate::{
    database::Home,
    sample_files::{everything, named, written},
    support::databases::on_each,
};

on_each! {
    an_unclosed_quote_is_a_dead_letter_with_its_lines,
    stray_quotes_are_dead_letters_unless_they_are_allowed,
}

impl Home {
    async fn letters(&self) -> Vec<(String, String)> {
        let query = "SELECT error_type, message FROM temporal_batch_dead_letter ORDER BY message";
        let letters = self.texts(query).await.into_iter();
        let letter = |row: Vec<Option<String>>| match &row[..] {
            [Some(error_type), Some(message)] => (error_type.clone(), message.clone()),
            _ => panic!("{row:?}"),
        };
        letters.map(letter).collect()
    }

    async fn bodies(&self) -> Vec<Option<String>> {
        let rows = self.texts("SELECT body FROM t ORDER BY id").await;
        rows.into_iter().flatten().collect()
    }

    async fn fresh_table(&self) {
        self.run("DROP TABLE IF EXISTS t").await;
        self.run("DELETE FROM temporal_batch_dead_letter").await;
        self.run("DELETE FROM temporal_batch_stride").await;
        let text = self.text();
        self.run(&format!(
            "CREATE TABLE t (id BIGINT NOT NULL PRIMARY KEY, body {text})"
        ))
        .await;
    }
}

async fn an_unclosed_quote_is_a_dead_letter_with_its_lines(home: Home) {
    let lf = "id,body\n1,a\n2,\"b\n3,c\n";
    let spool = tempfile::tempdir().unwrap();
    for form in [
        lf.to_owned(),
        lf.replace('\n', "\r\n"),
        format!("\u{feff}{lf}"),
    ] {
        for zipped in [false, true] {
            home.fresh_table().await;
            let file = match zipped {
                false => written(form.as_bytes()),
                true => {
                    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
                    encoder.write_all(form.as_bytes()).unwrap();
                    named("data.gz", &encoder.finish().unwrap())
                }
            };
            let source = CsvSource::new(&file.path).spool(spool.path());
            let run = home.imported(ImportArgs::new(source, "t")).await;
            assert_eq!(
                run.outcome,
                Outcome::CompletedWithFailures,
                "{:?}",
                run.reason
            );
            assert_eq!((run.items.processed, run.items.failed), (1, 1));
            assert_eq!(home.bodies().await, [Some("a".to_owned())]);
            let letters = home.letters().await;
            let [(error_type, message)] = &letters[..] else {
                panic!("{letters:?}");
            };
            assert_eq!(error_type, "UnclosedQuote");
            assert!(message.contains("lines 3 to 4, record 2: "), "{message}");
        }
    }
}

async fn stray_quotes_are_dead_letters_unless_they_are_allowed(home: Home) {
    let content = "id,body\n1,\"two\nlines\"\n2,5\" pipe\n3,\"a\"b\n4,\"q\"\"q\"\n5,plain\n";
    let file = written(content.as_bytes());
    let text = |text: &str| Some(text.to_owned());
    home.fresh_table().await;
    let strict = CsvSource::new(&file.path);
    let run = home.imported(ImportArgs::new(strict.clone(), "t")).await;
    assert_eq!((run.items.processed, run.items.failed), (3, 2));
    assert_eq!(
        home.bodies().await,
        [text("two\nlines"), text("q\"q"), text("plain")]
    );
    let letters = home.letters().await;
    assert!(
        letters
            .iter()
            .all(|(error_type, _)| error_type == "StrayQuote")
    );
    assert!(letters[0].1.contains("line 4, record 2: "), "{letters:?}");
    assert!(letters[1].1.contains("line 5, record 3: "), "{letters:?}");

    home.fresh_table().await;
    let mut lenient = strict;
    lenient.format.lenient_quotes = true;
    let run = home.imported(ImportArgs::new(lenient, "t")).await;
    assert_eq!((run.items.processed, run.items.failed), (5, 0));
    assert_eq!(home.bodies().await[1..3], [text("5\" pipe"), text("ab")]);
}

#[tokio::test]
async fn lines_are_counted_from_the_beginning_of_the_file() {
    let mut content = "id,body\r\n".to_owned();
    for id in 0..500 {
        match id % 5 {
            0 => content.push_str(&format!("{id},\"a\nb\r\nc\"\r")),
            1 => content.push_str(&format!("\n\n{id},x\"y\n")),
            _ => content.push_str(&format!("{id},plain\r\n")),
        }
    }
    let file = written(content.as_bytes());
    let source = CsvSource::new(&file.path);
    let line_of = |offset: u64| {
        let before = content[..usize::try_from(offset).unwrap()].replace("\r\n", "\n");
        1 + before.matches(['\n', '\r']).count() as u64
    };
    for pages in [1_usize, 7, 1000] {
        let records = crate::sample_files::all(&source, everything(), &[pages]).await;
        assert_eq!(records.len(), 500);
        let bad = records
            .iter()
            .filter_map(|record| Some((record, record.content().err()?)));
        let mut count = 0;
        for (record, bad) in bad {
            let line = line_of(record.bytes().start);
            assert_eq!(bad.lines(), Some(line..=line));
            count += 1;
        }
        assert_eq!(count, 100);
    }
}

#[tokio::test]
async fn a_header_with_an_odd_quote_is_refused() {
    let file = written(b"id,\"body\n1,a\n");
    let error = CsvSource::new(&file.path).prepare().await.unwrap_err();
    assert_eq!(error.error_type(), "BadHeader");
    assert!(error.message().contains("never closed"), "{error}");
}
