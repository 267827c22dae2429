//! The delimiter of a CSV file, recognised from its first records.

use std::path::Path;

use crate::{
    cli::{
        exit::{CliError, CliResult},
        output::one_line,
        shell::quoted,
    },
    files::{CsvFormat, Header, text_from},
};

/// The number of bytes that are read.
const LOOK_AT: u64 = 64 * 1024;
/// The number of records that are compared. Three quarters of them must agree.
const RECORDS: usize = 100;
const CANDIDATES: [char; 3] = [';', '\t', '|'];

/// Returns another delimiter for a file whose first record is a single column with the delimiter of the format. `None`
/// if no other delimiter fits better than that of the format.
///
/// # Errors
/// Several delimiters are possible, or the records do not agree.
pub(in crate::cli::commands) fn recognise(
    path: &Path,
    format: &CsvFormat,
) -> CliResult<Option<char>> {
    // An unreadable file is reported when its records are read.
    let Ok((text, whole)) = text_from(path, LOOK_AT) else {
        return Ok(None);
    };
    let expected = match &format.header {
        Header::Names(names) if names.len() == 1 => return Ok(None),
        Header::Names(names) => Some(names.len()),
        _ => None,
    };
    let as_it_is = records(&text, whole, format, format.delimiter);
    let Some([column]) = as_it_is.first().map(Vec::as_slice) else {
        return Ok(None);
    };
    let taken = [format.quote, format.escape, Some(format.delimiter)];
    let possible = CANDIDATES
        .into_iter()
        .filter(|c| !taken.contains(&Some(*c)));
    let possible: Vec<char> = possible.filter(|c| column.contains(*c)).collect();
    let fits = |delimiter: &char| {
        let records = records(&text, whole, format, *delimiter);
        let Some(first) = records.first() else {
            return false;
        };
        let named = format.header != Header::FirstRecord || !first.iter().any(String::is_empty);
        let columns = expected.unwrap_or(first.len());
        let agree = records.iter().filter(|record| record.len() == columns);
        // A few records may be malformed.
        named && columns > 1 && agree.count() * 4 >= records.len() * 3
    };
    let fitting: Vec<char> = possible.iter().copied().filter(fits).collect();
    match (possible.as_slice(), fitting.as_slice()) {
        ([], _) => Ok(None),
        (_, [one]) => Ok(Some(*one)),
        _ => Err(ambiguous(path, format, column, &possible)),
    }
}

fn ambiguous(path: &Path, format: &CsvFormat, column: &str, possible: &[char]) -> CliError {
    let flags: Vec<_> = possible
        .iter()
        .map(|c| format!("--delimiter {}", flag(*c)))
        .collect();
    let name = path
        .file_name()
        .unwrap_or(path.as_os_str())
        .to_string_lossy();
    // A header may be printed, a record may not: it is data.
    let what = match format.header {
        Header::FirstRecord => format!(
            "the header of {name} is one column, \"{}\"",
            one_line(column)
        ),
        _ => format!("the first record of {name} is one column"),
    };
    CliError::usage(format_args!(
        "{what}, and its records do not show which delimiter is right; give it with {}. {} takes each line as one column",
        flags.join(" or "),
        format_args!("--delimiter {}", flag(format.delimiter)),
    ))
}

/// Returns a delimiter in the form that the flag takes.
pub(in crate::cli::commands) fn value(delimiter: char) -> String {
    match delimiter {
        '\t' => "tab".to_owned(),
        other => other.to_string(),
    }
}

/// Returns the delimiter in the form that the flag takes, quoted for a shell.
pub(in crate::cli::commands) fn flag(delimiter: char) -> String {
    quoted(&value(delimiter))
}

/// Returns the fields of the first records. A record that is cut off is left out.
fn records(text: &[u8], whole: bool, format: &CsvFormat, delimiter: char) -> Vec<Vec<String>> {
    let byte = |c: char| u8::try_from(c).unwrap_or(b',');
    let mut builder = csv::ReaderBuilder::new();
    builder
        .has_headers(false)
        .flexible(true)
        .delimiter(byte(delimiter));
    builder.quoting(format.quote.is_some());
    builder.quote(format.quote.map_or(b'"', byte));
    builder
        .escape(format.escape.map(byte))
        .double_quote(format.escape.is_none());
    let mut reader = builder.from_reader(text);
    let mut records: Vec<Vec<String>> = Vec::new();
    for record in reader.byte_records().take(RECORDS + 1).flatten() {
        let fields = record
            .iter()
            .map(|field| String::from_utf8_lossy(field).into_owned());
        records.push(fields.collect());
    }
    if !whole && records.len() <= RECORDS && records.len() > 1 {
        records.pop();
    }
    records.truncate(RECORDS);
    records
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    fn found(text: &[u8], format: &CsvFormat) -> Result<Option<char>, String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file.csv");
        std::fs::write(&path, text).unwrap();
        let plain = recognise(&path, format).map_err(|e| e.text().to_owned());
        let mut zipped = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        zipped.write_all(text).unwrap();
        std::fs::write(&path, zipped.finish().unwrap()).unwrap();
        let unzipped = recognise(&path, format).map_err(|e| e.text().to_owned());
        assert_eq!(plain, unzipped);
        plain
    }

    #[test]
    fn a_header_of_one_column_tells_what_stands_between_its_fields() {
        let format = CsvFormat::default();
        let expected: [(&[u8], Option<char>); 9] = [
            (b"id,name\n1,a;b\n", None),
            (b"id\n1\n", None),
            (b"", None),
            (b"id;name\n1;a\n2;\"b;c\"\n", Some(';')),
            (b"\xef\xbb\xbfid;name\r\n1;a\r\n", Some(';')),
            (b"id\tname\n1\ta\n", Some('\t')),
            (b"id|name\n", Some('|')),
            // With a record that is wrong.
            (b"id;name\n1;a\n2;b;c\n3;c\n", Some(';')),
            // The other character is in the header only by the way.
            (b"id;a|b\n1;x\n2;y\n", Some(';')),
        ];
        for (text, delimiter) in expected {
            let shown = String::from_utf8_lossy(text).into_owned();
            assert_eq!(found(text, &format), Ok(delimiter), "{shown:?}");
        }
        let named = CsvFormat {
            header: Header::Names(vec!["id".to_owned(), "name".to_owned()]),
            ..CsvFormat::default()
        };
        assert_eq!(found(b"1;a\n2;b\n", &named), Ok(Some(';')));
        assert!(found(b"1;a;c\n2;b;c\n", &named).is_err());
    }

    #[test]
    fn what_is_ambiguous_is_refused_with_the_flag() {
        let format = CsvFormat::default();
        let both = found(b"id;a|b\n1;x|y\n", &format).unwrap_err();
        assert!(
            both.contains("--delimiter ';' or --delimiter '|'"),
            "{both}"
        );
        assert!(both.contains("\"id;a|b\""), "{both}");
        let uneven = found(b"id;a\n1;x;y\n", &format).unwrap_err();
        assert!(
            uneven.contains("--delimiter ';'. --delimiter , takes"),
            "{uneven}"
        );
        // One column, whose name holds the character.
        assert!(found(b"\"a;b\"\n1\n", &format).is_err());
    }
}
