//! Every record of a file is read once, in order, as a plain reader finds it, whatever the file contains and however it
//! is divided.

use csv::{QuoteStyle, ReaderBuilder, Terminator, WriterBuilder};
use proptest::{collection::vec, prelude::*, sample::select};
use temporal_batch::{
    PageRange,
    files::{CsvFormat, CsvSource, FilePosition, Header, JsonLinesSource},
};

use crate::sample_files::{Found, Source, all, everything, found, written};

/// Runs a future to its end.
fn wait<F: Future>(future: F) -> F::Output {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    runtime.enable_all().build().unwrap().block_on(future)
}

/// The ends of parts and the sizes of pages, which are fitted to the size of the file.
#[derive(Clone, Debug)]
struct Cuts {
    limits: Vec<usize>,
    places: Vec<(usize, usize)>,
}

fn cuts() -> impl Strategy<Value = Cuts> {
    let limits = vec(1..7_usize, 1..4);
    let places = vec((0..1000_usize, 0..1000_usize), 1..4);
    (limits, places).prop_map(|(limits, places)| Cuts { limits, places })
}

/// Checks the claims that hold for every source: it is read page by page, in parts, and with skips.
async fn check<S: Source>(source: &S, expected: &[Found<S::Record>], cuts: &Cuts) {
    let records = all(source, everything(), &cuts.limits).await;
    assert_eq!(found(&records), expected);
    // The beginnings of the records, as cursors give them.
    let mut positions = vec![None];
    for (number, record) in records.iter().enumerate() {
        assert_eq!(record.number(), number as u64 + 1);
        assert!(record.bytes().start >= positions[number].map_or(0, |p: FilePosition| p.offset));
        positions.push(Some(record.position()));
    }
    for (first, second) in &cuts.places {
        let mut ends = [first % positions.len(), second % positions.len()];
        ends.sort_unstable();
        let [start, end] = ends;
        let range = PageRange::new(positions[start], positions[end]);
        let part = match end {
            // `None` is the end of the data.
            0 => Vec::new(),
            _ => all(source, range, &cuts.limits).await,
        };
        assert_eq!(found(&part), expected[start..end]);
        let open = PageRange::new(positions[start], None);
        let to = source.skip(&open, (end - start) as u64).await.unwrap();
        if end > start {
            assert_eq!(to, positions[end]);
        }
        let beyond = (records.len() - start + 1) as u64;
        assert_eq!(source.skip(&open, beyond).await.unwrap(), None);
    }
}

/// The records that the `csv` crate finds in one pass.
fn csv_records(content: &[u8], format: &CsvFormat) -> Vec<Found<Vec<String>>> {
    let mut reader = ReaderBuilder::new();
    reader
        .flexible(true)
        .has_headers(false)
        .delimiter(format.delimiter as u8)
        .quoting(format.quote.is_some())
        .quote(format.quote.unwrap_or('"') as u8)
        .escape(format.escape.map(|c| c as u8))
        .double_quote(format.escape.is_none());
    let mut records = reader.from_reader(content).into_byte_records();
    let mut columns = None;
    if format.header == Header::FirstRecord {
        columns = records.next().map(|header| header.unwrap().len());
    }
    records
        .map(|record| {
            let record = record.unwrap();
            let expected = *columns.get_or_insert(record.len());
            if record.len() != expected && !format.flexible {
                return Err("WrongColumnCount".to_owned());
            }
            let field = |field: &[u8]| String::from_utf8(field.to_owned());
            let fields: Result<_, _> = record.iter().map(field).collect();
            fields.map_err(|_| "InvalidUtf8".to_owned())
        })
        .collect()
}

fn format() -> impl Strategy<Value = CsvFormat> {
    let header = select(vec![Header::FirstRecord, Header::None]);
    let delimiter = select(vec![',', ';', '\t']);
    let quote = select(vec![Some('"'), Some('\''), None]);
    let escape = select(vec![None, None, Some('\\')]);
    (header, delimiter, quote, escape, any::<bool>()).prop_map(
        |(header, delimiter, quote, escape, flexible)| CsvFormat {
            header,
            delimiter,
            quote,
            escape,
            flexible,
            lenient_quotes: true,
            ..CsvFormat::default()
        },
    )
}

/// The formats that a careless program may have written.
fn quirks() -> impl Strategy<Value = Vec<u8>> {
    let pieces: Vec<&'static [u8]> = vec![
        b"a",
        b"b c",
        b",",
        b";",
        b"\t",
        b"\"",
        b"\"\"",
        b"'",
        b"\\",
        b"\n",
        b"\r\n",
        b"\r",
        b"\n\n",
        b" ",
        b"\xef\xbb\xbf",
        "ä€😀".as_bytes(),
        b"\xff",
        b"x,y\n",
        b"\"q\nr\",z\r\n",
        b"\0",
    ];
    let body = vec(select(pieces), 0..60).prop_map(|pieces| pieces.concat());
    (any::<bool>(), body).prop_map(|(mark, body)| match mark {
        true => [b"\xef\xbb\xbf".as_slice(), &body].concat(),
        false => body,
    })
}

/// Whether a header could name every column, which an invalid text cannot do.
fn has_readable_header(content: &[u8], format: &CsvFormat) -> bool {
    let none = CsvFormat {
        header: Header::None,
        flexible: true,
        ..format.clone()
    };
    format.header == Header::None
        || csv_records(content, &none)
            .first()
            .is_none_or(Result::is_ok)
}

/// The fault in the quotes of one record, found byte by byte.
fn odd_quotes(record: &[u8], format: &CsvFormat) -> Option<&'static str> {
    let quote = format.quote? as u8;
    let is_end = |byte: u8| matches!(byte, b'\n' | b'\r');
    let mut rest = record;
    let mut stray = false;
    loop {
        let quoted = rest.first() == Some(&quote);
        if quoted {
            rest = &rest[1..];
            loop {
                match rest {
                    [] => return Some("UnclosedQuote"),
                    [first, ..] if Some(*first as char) == format.escape => {
                        rest = rest.get(2..).unwrap_or(&[]);
                    }
                    [first, second, ..]
                        if *first == quote && *second == quote && format.escape.is_none() =>
                    {
                        rest = &rest[2..];
                    }
                    [first, ..] => {
                        rest = &rest[1..];
                        if *first == quote {
                            break;
                        }
                    }
                }
            }
        }
        let end = rest
            .iter()
            .position(|byte| *byte == format.delimiter as u8 || is_end(*byte));
        let field = &rest[..end.unwrap_or(rest.len())];
        stray |= field.contains(&quote) || (quoted && !field.is_empty());
        match end {
            Some(end) if rest[end] == format.delimiter as u8 => rest = &rest[end + 1..],
            _ => return stray.then_some("StrayQuote"),
        }
    }
}

/// Whether the line end at the end of a file is part of its last field, whose quotes are not closed.
fn ends_within_quotes(content: &[u8]) -> bool {
    let mut reader = ReaderBuilder::new();
    let reader = reader
        .flexible(true)
        .has_headers(false)
        .from_reader(content);
    let last = reader.into_byte_records().last();
    last.is_some_and(|record| record.unwrap().iter().next_back().unwrap().ends_with(b"\n"))
}

/// Whether the content is a text. A file that looks like another kind is refused.
fn is_text(content: &[u8]) -> bool {
    !content.starts_with(b"\xff\xfe") && !content.starts_with(b"\xfe\xff")
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn pages_of_any_csv_have_the_records_of_a_csv_reader(
        content in quirks(), format in format(), cuts in cuts(),
    ) {
        prop_assume!(has_readable_header(&content, &format) && is_text(&content));
        let file = written(&content);
        let expected = csv_records(&content, &format);
        let source = CsvSource::new(&file.path).format(format);
        wait(async {
            let prepared = source.clone().prepare().await.unwrap();
            check(&prepared, &expected, &cuts).await;
        });
    }

    #[test]
    fn pages_of_a_written_csv_have_its_records(
        rows in vec(vec("[ab,;\"'\n\r\\\\ äß😀\u{feff}]{0,8}", 3), 0..40),
        crlf: bool,
        always_quoted: bool,
        cuts in cuts(),
    ) {
        let mut writer = WriterBuilder::new();
        if crlf {
            writer.terminator(Terminator::CRLF);
        }
        if always_quoted {
            writer.quote_style(QuoteStyle::Always);
        }
        let mut writer = writer.from_writer(Vec::new());
        writer.write_record(["one", "two", "three"]).unwrap();
        for row in &rows {
            writer.write_record(row).unwrap();
        }
        let file = written(&writer.into_inner().unwrap());
        let expected: Vec<Found<Vec<String>>> = rows.into_iter().map(Ok).collect();
        wait(check(&CsvSource::new(&file.path), &expected, &cuts));
    }

    #[test]
    fn a_record_over_the_limit_is_given_up_alone(
        content in quirks(), most in 1..30_u64, cuts in cuts(),
    ) {
        prop_assume!(is_text(&content));
        let format = CsvFormat {
            header: Header::None,
            flexible: true,
            lenient_quotes: true,
            ..CsvFormat::default()
        };
        let file = written(&content);
        let unlimited = CsvSource::new(&file.path).format(format.clone());
        let limited = CsvFormat { max_record_bytes: most, ..format };
        let limited = CsvSource::new(&file.path).format(limited);
        wait(async {
            let records = all(&unlimited, everything(), &[5]).await;
            let mut expected = found(&records);
            let unclosed = ends_within_quotes(&content);
            for (number, (record, expected)) in records.iter().zip(&mut expected).enumerate() {
                let bytes = &content[record.bytes().start as usize..record.bytes().end as usize];
                let is_unclosed = unclosed && number + 1 == records.len();
                let ends_with_both = bytes.ends_with(b"\r\n") && !is_unclosed;
                // The first half of CR LF ends the record.
                if bytes.len() as u64 - u64::from(ends_with_both) > most {
                    *expected = Err("RecordTooLarge".to_owned());
                }
            }
            check(&limited, &expected, &cuts).await;
        });
    }

    #[test]
    fn exactly_the_records_with_odd_quotes_are_given_up(
        content in quirks(), format in format(), cuts in cuts(),
    ) {
        prop_assume!(is_text(&content));
        let format = CsvFormat { header: Header::None, flexible: true, ..format };
        let file = written(&content);
        let lenient = CsvSource::new(&file.path).format(format.clone());
        let strict = CsvFormat { lenient_quotes: false, ..format.clone() };
        let strict = CsvSource::new(&file.path).format(strict);
        wait(async {
            let records = all(&lenient, everything(), &[5]).await;
            let mut expected = found(&records);
            for (record, expected) in records.iter().zip(&mut expected) {
                let bytes = &content[record.bytes().start as usize..record.bytes().end as usize];
                if let Some(error_type) = odd_quotes(bytes, &format) {
                    *expected = Err(error_type.to_owned());
                }
            }
            check(&strict, &expected, &cuts).await;
        });
    }

    #[test]
    fn pages_of_json_lines_are_its_values(
        lines in vec(json_line(), 0..40),
        mark: bool,
        last_line_end: bool,
        cuts in cuts(),
    ) {
        let mut content = if mark { b"\xef\xbb\xbf".to_vec() } else { Vec::new() };
        for (line, end, _) in &lines {
            content.extend(line);
            content.extend(end.as_bytes());
        }
        if !last_line_end && content.ends_with(b"\n") {
            content.pop();
        }
        let expected: Vec<_> = lines.into_iter().filter_map(|(_, _, value)| value).collect();
        let file = written(&content);
        wait(check(&JsonLinesSource::new(&file.path), &expected, &cuts));
    }
}

/// A line, its end, and its value.
type JsonLine = (Vec<u8>, &'static str, Option<Found<serde_json::Value>>);

fn json_line() -> impl Strategy<Value = JsonLine> {
    let leaf = prop_oneof![
        Just(serde_json::Value::Null),
        any::<bool>().prop_map(Into::into),
        any::<i64>().prop_map(Into::into),
        "[a\"\\\\\n\r, äß😀\u{feff}]{0,10}".prop_map(Into::into),
    ];
    let value = leaf.prop_recursive(3, 12, 4, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..4).prop_map(Into::into),
            proptest::collection::btree_map("[a-z]{1,3}", inner, 0..4)
                .prop_map(|map| map.into_iter().collect::<serde_json::Map<_, _>>().into()),
        ]
    });
    let good = value.prop_map(|value| (value.to_string().into_bytes(), Some(Ok(value))));
    let blank = select(vec!["", " ", "\t \r"]).prop_map(|line| (line.as_bytes().to_vec(), None));
    let invalid = || Some(Err("InvalidJson".to_owned()));
    let bad = select(vec!["{", "nul", "{} {}", "'a'"])
        .prop_map(move |line| (line.as_bytes().to_vec(), invalid()));
    let not_text = Just((b"\"\xff\"".to_vec(), Some(Err("InvalidUtf8".to_owned()))));
    let line = prop_oneof![8 => good, 2 => blank, 1 => bad, 1 => not_text];
    (line, select(vec!["\n", "\r\n"])).prop_map(|((line, value), end)| (line, end, value))
}

#[tokio::test]
async fn a_page_ends_early_when_it_has_many_bytes() {
    let row = format!("{}\n", "x".repeat(5_000_000));
    let file = written(row.repeat(14).as_bytes());
    let source = CsvSource::new(&file.path).header(Header::None);
    let page = source
        .page::<Vec<String>>(&everything(), 1000)
        .await
        .unwrap();
    assert_eq!(page.items().len(), 4);
    assert_eq!(all(&source, everything(), &[1000]).await.len(), 14);
}

#[tokio::test]
async fn an_unclosed_quote_needs_the_memory_of_one_record_and_is_named() {
    let mut content = b"a,b\n1,2\n3,\"4\n".to_vec();
    content.extend(b"5,6\n".repeat(100_000));
    let file = written(&content);
    let format = CsvFormat {
        max_record_bytes: 1_000,
        ..CsvFormat::default()
    };
    let source = CsvSource::new(&file.path).format(format);
    let records = all(&source, everything(), &[10]).await;
    assert_eq!(records.len(), 2);
    let bad = records[1].content().unwrap_err();
    assert_eq!(bad.error_type(), "UnclosedQuote");
    assert_eq!(bad.lines(), Some(3..=100_003));
    assert_eq!(records[1].bytes(), 8..content.len() as u64);
    assert!(bad.text().starts_with("3,\"4\n5,6\n") && bad.text().len() <= 4096);
}
