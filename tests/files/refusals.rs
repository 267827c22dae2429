//! Files that cannot be read, and files that have changed.

use std::{fs::File, io::Write, time::Duration};

use flate2::{Compression, write::GzEncoder};
use temporal_batch::{
    PageError, PageRange,
    files::{CsvFormat, CsvSource, FilePosition, Header, JsonLinesSource},
};

use crate::sample_files::{Written, all, everything, found, named, written};

fn refused(result: Result<CsvSource, PageError>, error_type: &str, retryable: bool) -> String {
    let error = result.unwrap_err();
    assert_eq!(error.error_type(), error_type);
    assert_eq!(error.is_retryable(), retryable, "{error}");
    error.message().to_owned()
}

fn gzip(content: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(content).unwrap();
    encoder.finish().unwrap()
}

fn rows() -> Written {
    written(b"id,name\n1,ann\n2,bob\n3,cat\n")
}

/// Appends to a file, and makes sure that its modification time changes.
fn append(file: &Written, more: &[u8]) {
    let mut handle = File::options().append(true).open(&file.path).unwrap();
    handle.write_all(more).unwrap();
    let later = handle.metadata().unwrap().modified().unwrap() + Duration::from_secs(2);
    handle.set_modified(later).unwrap();
}

#[tokio::test]
async fn a_missing_file_or_a_folder_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let missing = CsvSource::new(folder.path().join("none.csv"));
    refused(missing.prepare().await, "FileNotHere", true);
    let not_a_file = CsvSource::new(folder.path());
    refused(not_a_file.prepare().await, "NotAFile", false);
}

#[tokio::test]
async fn compressed_files_and_utf_16_are_refused_with_advice() {
    let zipped = written(&gzip(b"id\n1\n"));
    let message = refused(
        CsvSource::new(&zipped.path).prepare().await,
        "CompressedFile",
        false,
    );
    assert!(
        message.contains("gzip") && message.contains("spool"),
        "{message}"
    );
    let zstd = written(b"\x28\xb5\x2f\xfd....");
    let message = refused(
        CsvSource::new(&zstd.path).prepare().await,
        "CompressedFile",
        false,
    );
    assert!(
        message.contains("zstd") && !message.contains("spool"),
        "{message}"
    );
    let utf16 = written(b"\xff\xfei\0d\0");
    let message = refused(
        CsvSource::new(&utf16.path).prepare().await,
        "Utf16File",
        false,
    );
    assert!(message.contains("iconv"), "{message}");
    // The files are refused even without `prepare`.
    let page = CsvSource::new(&zipped.path)
        .page::<Vec<String>>(&everything(), 10)
        .await;
    assert_eq!(page.unwrap_err().error_type(), "CompressedFile");
}

#[tokio::test]
async fn a_gzip_file_with_a_spool_is_read_from_one_copy() {
    let content = b"id\n1\n2\n3\n";
    // The file has two members, as `cat a.gz b.gz` makes them.
    let zipped = named(
        "ids.csv.gz",
        &[gzip(&content[..5]), gzip(&content[5..])].concat(),
    );
    let folder = tempfile::tempdir().unwrap();
    let spool = folder.path().join("spool");
    let source = || CsvSource::new(&zipped.path).spool(&spool);
    let first = source().prepare().await.unwrap();
    let again = source().prepare().await.unwrap();
    assert_eq!(first, again);
    assert_eq!(first.file.path.extension().unwrap(), "csv");
    assert_eq!(std::fs::read(&first.file.path).unwrap(), content);
    assert_eq!(std::fs::read_dir(&spool).unwrap().count(), 1);
    assert_eq!(all(&first, everything(), &[2]).await.len(), 3);
    // A source that is already prepared is not copied again.
    assert_eq!(first.clone().prepare().await.unwrap(), first);
}

#[tokio::test]
async fn a_broken_gzip_file_leaves_nothing_in_the_spool() {
    let mut bytes = gzip(&b"id\n1\n2\n3\n".repeat(1000));
    bytes.truncate(bytes.len() / 2);
    let zipped = named("ids.csv.gz", &bytes);
    let folder = tempfile::tempdir().unwrap();
    let source = CsvSource::new(&zipped.path).spool(folder.path());
    refused(source.prepare().await, "FileNotSpooled", true);
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[tokio::test]
async fn a_file_that_changed_is_not_read_further() {
    let file = rows();
    let source = CsvSource::new(&file.path).prepare().await.unwrap();
    append(&file, b"4,dan\n");
    let page = source.page::<Vec<String>>(&everything(), 10).await;
    let error = page.unwrap_err();
    assert_eq!(error.error_type(), "FileChanged");
    assert!(error.is_retryable());
    let skip = source.skip(&everything(), 1).await;
    assert_eq!(skip.unwrap_err().error_type(), "FileChanged");
}

#[tokio::test]
async fn a_file_that_may_grow_is_read_up_to_its_last_complete_record_at_the_start() {
    let file = written(b"id,name\n1,ann\n2,bob\n3,ca");
    let source = CsvSource::new(&file.path)
        .may_grow()
        .prepare()
        .await
        .unwrap();
    append(&file, b"t\n4,dan\n");
    let records = all(&source, everything(), &[10]).await;
    assert_eq!(records.len(), 2);
    assert_eq!(source.skip(&everything(), 3).await.unwrap(), None);

    let lines = written(b"1\n2\n3");
    let source = JsonLinesSource::new(&lines.path).may_grow();
    let source = source.prepare().await.unwrap();
    append(&lines, b"4\n5\n");
    assert_eq!(all(&source, everything(), &[10]).await.len(), 2);

    // The file may only grow.
    std::fs::write(&file.path, b"id,name\n1,eve\n2,bob\n3,cat\n4,dan\n").unwrap();
    let page = CsvSource::new(&file.path).may_grow();
    let page = page.prepare().await.unwrap();
    std::fs::write(&file.path, b"id,name\n").unwrap();
    let cut = page.page::<Vec<String>>(&everything(), 10).await;
    assert_eq!(cut.unwrap_err().error_type(), "FileChanged");
}

#[tokio::test]
async fn errors_of_bad_records_name_the_fault_and_no_contents() {
    #[derive(Clone, Debug, PartialEq, serde::Deserialize)]
    struct Row {
        id: u32,
        name: String,
    }
    let file = written(b"id,name\n1,ann\nsecret,bob\n2\n\xff,x\n3,dan,more\n4,eve\n");
    let source = CsvSource::new(&file.path);
    let page = source.page::<Row>(&everything(), 10).await.unwrap();
    let found = found(page.items());
    let good = |id, name: &str| {
        Ok(Row {
            id,
            name: name.to_owned(),
        })
    };
    let bad = |error_type: &str| Err(error_type.to_owned());
    let expected = [
        good(1, "ann"),
        bad("RecordNotReadable"),
        bad("WrongColumnCount"),
        bad("InvalidUtf8"),
        bad("WrongColumnCount"),
        good(4, "eve"),
    ];
    assert_eq!(found, expected);
    let bad = page.items()[1].content().unwrap_err();
    assert_eq!(
        bad.message(),
        "column `id`: a value is not what is expected"
    );
    assert_eq!(bad.text(), "secret,bob");
    assert_eq!(page.items()[1].bytes(), 14..25);

    let lines = written(b"{\"id\":1}\n{\"id\":\"secret\",\"name\":\"x\"}\n");
    let source = JsonLinesSource::new(&lines.path);
    let page = source.page::<Row>(&everything(), 10).await.unwrap();
    let messages: Vec<_> = page
        .items()
        .iter()
        .map(|r| r.content().unwrap_err().message())
        .collect();
    assert!(
        messages[0].ends_with("missing field `name`"),
        "{messages:?}"
    );
    assert!(!messages[1].contains("secret"), "{messages:?}");
}

#[tokio::test]
async fn headers_give_names_in_every_page() {
    #[derive(Clone, Debug, PartialEq, serde::Deserialize)]
    struct Row {
        name: String,
        id: u32,
    }
    let file = rows();
    let source = CsvSource::new(&file.path);
    let after = source.skip(&everything(), 1).await.unwrap();
    let page = source
        .page::<Row>(&PageRange::new(after, None), 1)
        .await
        .unwrap();
    let bob = Row {
        name: "bob".to_owned(),
        id: 2,
    };
    assert_eq!(page.items()[0].content().unwrap(), &bob);

    let names = Header::Names(vec!["id".to_owned(), "name".to_owned()]);
    let page = source
        .clone()
        .header(names)
        .page::<Row>(&everything(), 9)
        .await
        .unwrap();
    assert_eq!(page.items().len(), 4);
    assert_eq!(
        page.items()[0].content().unwrap_err().error_type(),
        "RecordNotReadable"
    );
    assert_eq!(page.items()[2].content().unwrap(), &bob);
    assert_eq!(source.columns().await.unwrap().unwrap(), ["id", "name"]);
}

#[tokio::test]
async fn a_format_or_a_header_that_cannot_work_is_refused() {
    let file = rows();
    let format = CsvFormat {
        quote: Some(','),
        ..CsvFormat::default()
    };
    let source = CsvSource::new(&file.path).format(format);
    refused(source.prepare().await, "InvalidCsvFormat", false);
    let header = written(b"id,\xff\n1,2\n");
    refused(
        CsvSource::new(&header.path).prepare().await,
        "BadHeader",
        false,
    );
}

#[tokio::test]
async fn the_number_of_records_is_exact_for_small_files_and_estimated_for_large_ones() {
    let file = rows();
    assert_eq!(
        CsvSource::new(&file.path).size_hint().await.unwrap(),
        Some(3)
    );
    let lines = written(&b"{\"a\":1}\n".repeat(300_000));
    let hint = JsonLinesSource::new(&lines.path)
        .size_hint()
        .await
        .unwrap()
        .unwrap();
    assert!((299_000..=301_000).contains(&hint), "{hint}");
}

#[tokio::test]
async fn a_first_cursor_before_the_data_begins_with_the_data() {
    let file = rows();
    let range = PageRange::new(Some(FilePosition::default()), None);
    let records = all(&CsvSource::new(&file.path), range, &[2]).await;
    assert_eq!(records.len(), 3);
}
