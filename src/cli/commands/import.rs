//! `import`: the records of a file into a table, with worker and batch in one process.

mod again;
mod delimiter;
mod rejected;

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use clap::{Args, ValueEnum};

use crate::{
    batch::IfRunning,
    cli::{
        args::{databases::DatabaseArgs, temporal_server::ConnectionArgs},
        commands::backfill::{
            identity::{named, target},
            refused_with_hint, with_ledger_tables,
        },
        exit::{CliError, CliResult},
        render::{output::note, sentences},
        session::args::AttendedArgs,
        shell::Program,
    },
    files::{CsvFormat, CsvSource, Header, JsonLinesSource, SourceFile},
    jsonl_store::JsonlDeadLetters,
    page::size::Size,
    processor::{
        PageProcessor as _, hooks::Hooks, store::dead_letter::DeadLetters, throttle::Throttles,
    },
    sql::{
        BytesForm, Connections, DEFAULT_CONNECTION, Database, DatabaseOptions, ImportArgs,
        ImportFile, ManifestChoice, OnConflict, SqlImport,
    },
    stride::redrive::letters_of,
};
use again::Changes;
use rejected::{RejectedFile, shown};

#[derive(Args, Debug)]
pub(crate) struct ImportCommand {
    /// The file of records
    #[arg(value_name = "FILE")]
    file: PathBuf,

    /// The table, also as schema.table
    #[arg(long, value_name = "TABLE")]
    table: String,

    #[command(flatten)]
    pub(crate) database: DatabaseArgs,

    #[command(flatten)]
    reading: ReadingArgs,

    /// The columns to fill; without a header, the columns of the file in their order [default: those of the file]
    #[arg(long, value_name = "COLUMN,..", value_delimiter = ',')]
    columns: Option<Vec<String>>,

    /// A field of the file that goes to a column of another name; can be given again
    #[arg(long, value_name = "FIELD=COLUMN", value_parser = pair)]
    map: Vec<(String, String)>,

    /// What stands for NULL in a CSV file [default: an empty field]
    #[arg(
        long,
        value_name = "TEXT",
        default_value = "",
        hide_default_value = true,
        allow_hyphen_values = true
    )]
    null: String,

    /// The manifest of an export, which says how the values of the file are written; none: the file is from elsewhere
    /// [default: FILE.manifest.json or manifest.json beside the file, if it lists the file]
    #[arg(long, value_name = "FILE|none")]
    manifest: Option<PathBuf>,

    /// How the file writes bytes, where no manifest says it
    #[arg(long, value_name = "FORM")]
    bytes: Option<Bytes>,

    /// What happens to a record whose key is in the table: fail (a dead letter), nothing, or update with the
    /// columns of the key
    #[arg(long, value_name = "fail|nothing|update:COLUMN,..", default_value = "fail", value_parser = on_conflict)]
    on_conflict: OnConflict,

    /// Do not keep which pages are applied: a page that is tried again doubles its rows, unless keys prevent it
    #[arg(long, conflicts_with = "create_ledger_tables")]
    no_once: bool,

    /// Make the tables of the page ledger, if they are missing
    #[arg(long)]
    create_ledger_tables: bool,

    /// Where records go that cannot be imported, for their correction; none: nowhere [default: NAME.rejected.EXTENSION
    /// beside the file, or else in the working directory]
    #[arg(long, value_name = "FILE|none")]
    rejected: Option<PathBuf>,

    /// Keep values of rejected records out of dead letters and of what is printed; the file of rejected records has them
    #[arg(long)]
    mask_values: bool,

    #[command(flatten)]
    attended: AttendedArgs,
}

/// How a file is read.
#[derive(Args, Debug)]
struct ReadingArgs {
    /// How the file is written [default: by its name: .jsonl, .ndjson or CSV]
    #[arg(long, value_name = "FORMAT")]
    format: Option<Format>,

    /// The first record is data; --columns says what the columns of the file are
    #[arg(long, requires = "columns")]
    no_header: bool,

    /// The delimiter of CSV fields: a character, or tab [default: tab in .tsv, else a comma; where the first
    /// record is one column with that, the ; tab or | in it]
    #[arg(long, value_name = "CHARACTER", value_parser = character)]
    delimiter: Option<char>,

    /// What may stand around a CSV field: a character, or none
    #[arg(long, value_name = "CHARACTER|none", default_value = "\"", value_parser = quote)]
    quote: Quote,

    /// What stands before a quote in a quoted CSV field [default: another quote]
    #[arg(long, value_name = "CHARACTER", value_parser = character)]
    escape: Option<char>,

    /// Take CSV quotes in any place for what they might mean, instead of giving up their records
    #[arg(long)]
    csv_lenient_quotes: bool,

    /// Most bytes of a record; a longer one is given up
    #[arg(long, value_name = "BYTES")]
    max_record_bytes: Option<u64>,

    /// Records may be appended meanwhile; those that are there at the start are imported
    #[arg(long)]
    may_grow: bool,

    /// Decompress a gzip file into this folder first
    #[arg(long, value_name = "FOLDER")]
    spool: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, ValueEnum)]
enum Format {
    Csv,
    Jsonl,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Bytes {
    /// Hexadecimal digits, with or without \x before them
    Hex,
    /// Base64, padded
    Base64,
    /// The text itself, in UTF-8
    Text,
}

/// A quote, or that there is none.
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

fn pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((field, column)) if !field.is_empty() && !column.is_empty() => {
            Ok((field.to_owned(), column.to_owned()))
        }
        _ => Err("write FIELD=COLUMN".to_owned()),
    }
}

fn on_conflict(text: &str) -> Result<OnConflict, String> {
    match text.split_once(':') {
        None if text == "fail" => Ok(OnConflict::Fail),
        None if text == "nothing" => Ok(OnConflict::Nothing),
        Some(("update", key)) if !key.is_empty() => {
            let key = key.split(',').map(str::to_owned).collect();
            Ok(OnConflict::Update(key))
        }
        _ => Err("write fail, nothing, or update: and the columns of a unique key".to_owned()),
    }
}

impl ReadingArgs {
    fn file(&self, path: &Path, columns: Option<&[String]>) -> CliResult<ImportFile> {
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
                    "{flag} is about CSV files, and this one is JSON Lines"
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

impl ImportCommand {
    pub(crate) async fn run(
        &self,
        connection: &ConnectionArgs,
        hooks: &Hooks,
        throttles: &Throttles,
        program: &Program,
    ) -> CliResult {
        // What is wrong with the flags is told before anybody is asked.
        let batch = self.attended.nameless(SqlImport::NAME)?;
        let args = self.args()?;
        let rejected = self.rejected()?;
        let options = self.database.options()?;
        let slots = batch.spec.max_parallelism;
        let database = Database::connect(&options.clone().pages(slots)).await?;
        let batch = self.attended.fitted(batch, &database);
        let shown = options.redacted();
        let done = async {
            let target = target(&shown);
            let id = self.attended.batch_id.clone();
            let id = id.unwrap_or_else(|| batch_id(&target, &args));
            if let Some(rejected) = &rejected {
                rejected.check(&self.file, &id, self.attended.rerun)?;
            }
            let queue = self.attended.task_queue.clone();
            let mut batch = batch
                .task_queue(queue.unwrap_or_else(|| format!("import-{target}-{id}")))
                .rerun(self.attended.rerun)
                .continues(self.attended.continues)
                .if_running(IfRunning::Attach);
            batch.spec.batch_id.clone_from(&id);
            batch.spec.args = json(&args)?;
            batch.validate()?;
            let connections = Connections::new().with(DEFAULT_CONNECTION, database.clone());
            let mut processor = SqlImport::new(connections).mask_values(self.mask_values);
            if let (Some(rejected), false) = (&rejected, args.once) {
                processor = processor.dead_letters(JsonlDeadLetters::new(rejected.letters()));
            }
            let refused = |error| refused_with_hint(&error, program);
            let prepare = async || processor.prepare(args.clone()).await;
            let make = self.create_ledger_tables;
            let prepared = with_ledger_tables(&database, make, program, prepare).await?;
            let records = processor.size(&prepared).await.map_err(refused)?;
            self.tell(&shown, &database, &prepared, records, rejected.as_ref());
            let letters = letters_of(&processor, &prepared);
            let source = prepared.file.clone();
            // With the file as it is now: another one is not what the batch of this id began with.
            let args = ImportArgs {
                file: without_copy(prepared.file),
                manifest: prepared.manifest,
                fields: prepared.fields,
                ..args
            };
            batch.spec.args = json(&args)?;
            batch.validate()?;
            let ledger = args.once.then(|| database.ledger());
            let of_ledger = letters.clone().filter(|_| args.once);
            let run = self.attended.run(batch, program, ledger, of_ledger);
            let throttles = throttles.clone();
            let crew = self.attended.crew(processor, hooks, throttles, &database)?;
            let exit = run.attended(connection, crew).await?;
            let kept = rejected.zip(letters).zip(run.ended_run.get());
            if let Some(((rejected, letters), batch_run)) = kept {
                let next = || self.next(program, &rejected, &options, &args);
                put_out(&rejected, letters, &source, (&id, batch_run), next).await?;
            }
            Ok(exit)
        };
        let exit = done.await;
        database.close().await;
        exit
    }

    fn args(&self) -> CliResult<ImportArgs> {
        let path = absolute(&self.file)?;
        let mut file = self.reading.file(&path, self.columns.as_deref())?;
        if let (ImportFile::Csv(source), None) = (&mut file, self.reading.delimiter)
            && let Some(found) = delimiter::recognise(&path, &source.format)?
        {
            source.format.delimiter = found;
        }
        let mut args = ImportArgs::new(file, &self.table)
            .null(&self.null)
            .on_conflict(self.on_conflict.clone())
            .once(!self.no_once);
        if let (Some(columns), false) = (&self.columns, self.reading.no_header) {
            args = args.columns(columns);
        }
        args.manifest = match &self.manifest {
            None => ManifestChoice::Beside,
            Some(none) if none == Path::new("none") => ManifestChoice::Ignored,
            Some(file) => {
                let file = std::path::absolute(file);
                ManifestChoice::At(file.map_err(|e| CliError::caused("this is no path", &e))?)
            }
        };
        args.bytes = self.bytes.map(|form| match form {
            Bytes::Hex => BytesForm::Hex,
            Bytes::Base64 => BytesForm::Base64,
            Bytes::Text => BytesForm::Text,
        });
        for (field, column) in &self.map {
            args = args.map(field, column);
        }
        Ok(args)
    }

    /// The file for records that cannot be imported; `None`: they go to no file.
    fn rejected(&self) -> CliResult<Option<RejectedFile>> {
        let masked = self.mask_values;
        match &self.rejected {
            None => Ok(Some(RejectedFile::beside(&absolute(&self.file)?, masked))),
            Some(none) if none == Path::new("none") => Ok(None),
            Some(path) => Ok(Some(RejectedFile {
                path: absolute(path)?,
                masked,
            })),
        }
    }

    /// The command that imports the rejected records.
    fn next(
        &self,
        program: &Program,
        rejected: &RejectedFile,
        options: &DatabaseOptions,
        args: &ImportArgs,
    ) -> String {
        let mut added = Vec::new();
        if self.reading.format.is_none() && named_format(&rejected.path) != format_of(args) {
            let format = match format_of(args) {
                Format::Csv => "csv",
                Format::Jsonl => "jsonl",
            };
            added.push(("--format", format.to_owned()));
        }
        if let (ImportFile::Csv(source), None) = (&args.file, self.reading.delimiter)
            && source.format.delimiter != named_delimiter(&rejected.path)
        {
            added.push(("--delimiter", delimiter::value(source.format.delimiter)));
        }
        // A manifest beside the file that was imported lists that file.
        if let (ManifestChoice::At(manifest), None) = (&args.manifest, &self.manifest) {
            added.push(("--manifest", shown(manifest)));
        }
        let changes = Changes {
            file: &self.file,
            rejected: &shown(&rejected.path),
            hides_url: options.has_password(),
            added,
        };
        let given = std::env::args_os().skip(1);
        let given: Vec<_> = given
            .map(|arg| arg.to_string_lossy().into_owned())
            .collect();
        again::command(&program.name, &given, &changes)
    }

    /// What is about to happen, for the person who starts it.
    fn tell(
        &self,
        shown: &str,
        database: &Database,
        args: &ImportArgs,
        records: Size,
        rejected: Option<&RejectedFile>,
    ) {
        let line = |what: &str, text: &str| note(format_args!("{what:<11}{text}"));
        line("database", shown);
        line("file", &self.file.display().to_string());
        if let (ImportFile::Csv(source), None) = (&args.file, self.reading.delimiter)
            && source.format.delimiter != named_delimiter(&self.file)
        {
            let delimiter = delimiter::flag(source.format.delimiter);
            let text = format!("{delimiter} as the first record shows; --delimiter says otherwise");
            line("delimiter", &text);
        }
        line("records", &sentences::size(records));
        let table = format!("{} in {}", self.table, database.system());
        line("table", &table);
        line("columns", &args.assignments().join(", "));
        if !args.computed().is_empty() {
            let left_out = format!("{}: the table computes them", args.computed().join(", "));
            line("left out", &left_out);
        }
        if args.has_manifest() {
            line("values", "as the manifest of the export says");
        }
        let once = match args.once {
            true => "each page exactly once, recorded in the page ledger",
            false => "each page at least once; one whose worker is lost is done again",
        };
        line("commits", once);
        let rejects = match rejected {
            Some(rejected) => {
                let path = self::shown(&rejected.path);
                format!("records that cannot be imported go to {path}")
            }
            None => "records that cannot be imported go to no file".to_owned(),
        };
        line("rejected", &rejects);
    }
}

/// Writes the file of the rejected records, once the batch is over, and tells what to do with it.
async fn put_out(
    rejected: &RejectedFile,
    letters: Arc<dyn DeadLetters>,
    source: &ImportFile,
    (batch_id, batch_run): (&str, &str),
    next: impl FnOnce() -> String,
) -> CliResult<()> {
    let written = rejected.write(&*letters, source, batch_id, batch_run);
    if let Some(written) = written.await? {
        rejected.tell(&written, &next());
    }
    Ok(())
}

fn format_of(args: &ImportArgs) -> Format {
    match &args.file {
        ImportFile::Csv(_) => Format::Csv,
        ImportFile::JsonLines(_) => Format::Jsonl,
    }
}

fn absolute(path: &Path) -> CliResult<PathBuf> {
    std::path::absolute(path).map_err(|e| CliError::caused("this is no path", &e))
}

/// The name of a file, without the `.gz` of one that is compressed.
fn plain_name(path: &Path) -> String {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let stem = match name.len().checked_sub(3) {
        Some(at) if name.is_char_boundary(at) && name[at..].eq_ignore_ascii_case(".gz") => {
            &name[..at]
        }
        _ => &name,
    };
    stem.to_owned()
}

/// How a file of this name is written.
fn named_format(path: &Path) -> Format {
    let name = plain_name(path).to_ascii_lowercase();
    match Path::new(&name).extension().and_then(|e| e.to_str()) {
        Some("jsonl" | "ndjson") => Format::Jsonl,
        _ => Format::Csv,
    }
}

/// The delimiter of a CSV file of this name.
fn named_delimiter(path: &Path) -> char {
    match plain_name(path).to_ascii_lowercase().ends_with(".tsv") {
        true => '\t',
        false => ',',
    }
}

fn json(args: &ImportArgs) -> CliResult<serde_json::Value> {
    serde_json::to_value(args)
        .map_err(|e| CliError::failure(format_args!("the arguments have no JSON: {e}")))
}

/// A copy of a gzip file is another one each time, and the batch is the same.
fn without_copy(mut file: ImportFile) -> ImportFile {
    let source = match &mut file {
        ImportFile::Csv(source) => &mut source.file,
        ImportFile::JsonLines(source) => &mut source.file,
    };
    *source = source.clone().without_copy();
    file
}

/// The id of the batch that puts this file into that table, however its records are read.
fn batch_id(target: &str, args: &ImportArgs) -> String {
    let file = match &args.file {
        ImportFile::Csv(source) => &source.file,
        ImportFile::JsonLines(source) => &source.file,
    };
    let work = serde_json::json!([target, args.table, file.path]);
    named("import", &args.table, &work)
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
        for bad in ["", "update", "update:", "replace"] {
            assert!(on_conflict(bad).is_err(), "{bad}");
        }
        let key = OnConflict::Update(vec!["a".to_owned(), "b".to_owned()]);
        assert_eq!(on_conflict("update:a,b"), Ok(key));
        assert_eq!(character("tab"), Ok('\t'));
        assert!(character("ab").is_err() && pair("a").is_err() && pair("=b").is_err());
    }

    #[test]
    fn the_same_file_into_the_same_table_has_the_same_id() {
        let args = |path: &str| ImportArgs::new(CsvSource::new(path), "shop.users");
        let id = batch_id("db", &args("/a.csv"));
        assert!(id.starts_with("import-shop.users-"), "{id}");
        assert_eq!(id, batch_id("db", &args("/a.csv")));
        assert_ne!(id, batch_id("db", &args("/b.csv")));
        assert_ne!(id, batch_id("other", &args("/a.csv")));
    }
}
