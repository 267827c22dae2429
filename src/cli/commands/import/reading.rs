//! The format of the file: flags of `import`.

use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};

use crate::{
    cli::exit::{CliError, CliResult},
    files::{CsvFormat, CsvSource, Header, JsonLinesSource, SourceFile},
    sql::ImportFile,
};

#[derive(Args, Debug)]
pub(in crate::cli::commands) struct ReadingArgs {
    /// The format of the file [default: by its name: .jsonl, .ndjson or CSV]
    #[arg(long, value_name = "FORMAT")]
    format: Option<Format>,

    /// The first record is data; --columns names the columns of the file
    #[arg(long, requires = "columns")]
    no_header: bool,

    /// The delimiter of CSV fields: a character, or tab [default: tab in .tsv, else a comma; where the first
    /// record is one column with that, the ; tab or | in it]
    #[arg(long, value_name = "CHARACTER", value_parser = character)]
    delimiter: Option<char>,

    /// The quote around CSV fields: a character, or none
    #[arg(long, value_name = "CHARACTER|none", default_value = "\"", value_parser = quote)]
    quote: Quote,

    /// The character before a quote in a quoted CSV field [default: another quote]
    #[arg(long, value_name = "CHARACTER", value_parser = character)]
    escape: Option<char>,

    /// Accept CSV quotes in wrong places, instead of giving up their records
    #[arg(long)]
    csv_lenient_quotes: bool,

    /// The most bytes of a record; a longer record is given up
    #[arg(long, value_name = "BYTES")]
    max_record_bytes: Option<u64>,

    /// Allow records to be appended during the import; only records that are there at the start are imported
    #[arg(long)]
    may_grow: bool,

    /// Decompress a gzip file into this folder first
    #[arg(long, value_name = "FOLDER")]
    spool: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, ValueEnum)]
pub(in crate::cli::commands) enum Format {
    Csv,
    Jsonl,
}

/// A quote character, or no quotes.
#[derive(Clone, Copy, Debug)]
struct Quote(Option<char>);

fn character(text: &str) -> Result<char, String> {
    let mut chars = text.chars();
    match (text, chars.next(), chars.next()) {
        ("tab" | "\\t", _, _) => Ok('\t'),
        (_, Some(c), None) => Ok(c),
        _ => Err("write one character, or tab".to_owned()),
    }
}

fn quote(text: &str) -> Result<Quote, String> {
    match text {
        "none" => Ok(Quote(None)),
        text => character(text)
            .map(|c| Quote(Some(c)))
            .map_err(|_| "write one character, or none".to_owned()),
    }
}

impl ReadingArgs {
    /// Returns the delimiter that was given.
    pub(in crate::cli::commands) fn delimiter(&self) -> Option<char> {
        self.delimiter
    }

    /// Returns the format that was given.
    pub(in crate::cli::commands) fn format(&self) -> Option<Format> {
        self.format
    }

    pub(in crate::cli::commands) fn is_headless(&self) -> bool {
        self.no_header
    }

    pub(in crate::cli::commands) fn file(
        &self,
        path: &Path,
        columns: Option<&[String]>,
    ) -> CliResult<ImportFile> {
        let mut file = SourceFile::new(path);
        file.may_grow = self.may_grow;
        file.spool.clone_from(&self.spool);
        if self.format.unwrap_or_else(|| named_format(path)) == Format::Jsonl {
            let of_csv = [
                (self.no_header, "--no-header"),
                (self.delimiter.is_some(), "--delimiter"),
                (self.escape.is_some(), "--escape"),
                (self.csv_lenient_quotes, "--csv-lenient-quotes"),
            ];
            if let Some((_, flag)) = of_csv.iter().find(|(given, _)| *given) {
                return Err(CliError::usage(format_args!(
                    "{flag} applies only to CSV files, and this file is JSON Lines"
                )));
            }
            let mut source = JsonLinesSource::new(path);
            source.file = file;
            if let Some(bytes) = self.max_record_bytes {
                source.max_record_bytes = bytes;
            }
            return Ok(source.into());
        }
        let mut format = CsvFormat {
            delimiter: self.delimiter.unwrap_or_else(|| named_delimiter(path)),
            quote: self.quote.0,
            escape: self.escape,
            lenient_quotes: self.csv_lenient_quotes,
            ..CsvFormat::default()
        };
        if let Some(bytes) = self.max_record_bytes {
            format.max_record_bytes = bytes;
        }
        if let (true, Some(columns)) = (self.no_header, columns) {
            format.header = Header::Names(columns.to_vec());
        }
        format.validate().map_err(CliError::usage)?;
        Ok(CsvSource { file, format }.into())
    }
}

/// Returns the name of a file, without the `.gz` of one that is compressed.
pub(in crate::cli::commands) fn plain_name(path: &Path) -> String {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let stem = match name.len().checked_sub(3) {
        Some(at) if name.is_char_boundary(at) && name[at..].eq_ignore_ascii_case(".gz") => {
            &name[..at]
        }
        _ => &name,
    };
    stem.to_owned()
}

/// Returns the format of a file of this name.
pub(in crate::cli::commands) fn named_format(path: &Path) -> Format {
    let name = plain_name(path).to_ascii_lowercase();
    match Path::new(&name).extension().and_then(|e| e.to_str()) {
        Some("jsonl" | "ndjson") => Format::Jsonl,
        _ => Format::Csv,
    }
}

/// Returns the delimiter of a CSV file of this name.
pub(in crate::cli::commands) fn named_delimiter(path: &Path) -> char {
    match plain_name(path).to_ascii_lowercase().ends_with(".tsv") {
        true => '\t',
        false => ',',
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reading(format: Option<Format>) -> ReadingArgs {
        ReadingArgs {
            format,
            no_header: false,
            delimiter: None,
            quote: Quote(Some('"')),
            escape: None,
            csv_lenient_quotes: false,
            max_record_bytes: None,
            may_grow: false,
            spool: None,
        }
    }

    #[test]
    fn a_file_is_read_by_its_name_unless_told() {
        let delimiter = |name: &str| match reading(None).file(Path::new(name), None).ok()? {
            ImportFile::Csv(source) => Some(source.format.delimiter),
            ImportFile::JsonLines(_) => None,
        };
        assert_eq!(delimiter("a.csv"), Some(','));
        assert_eq!(delimiter("a.TSV.gz"), Some('\t'));
        assert_eq!(delimiter("a.b.ndjson"), None);
        assert_eq!(delimiter("a.jsonl.gz"), None);
        let told = reading(Some(Format::Csv)).file(Path::new("a.jsonl"), None);
        assert!(matches!(told, Ok(ImportFile::Csv(_))));
    }

    #[test]
    fn flags_of_other_formats_and_odd_values_are_refused() {
        let mut wrong = reading(None);
        wrong.delimiter = Some(';');
        assert!(wrong.file(Path::new("a.jsonl"), None).is_err());
        assert_eq!(character("tab"), Ok('\t'));
        assert!(character("ab").is_err());
    }
}
