//! `import`: puts the records of a file into a table, with worker and batch in one process.

pub(super) mod delimiter;
pub(super) mod reading;
mod rejected;
mod repeat_command;

use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};

use crate::{
    batch::Batch,
    cli::{
        args::{databases::database::DatabaseArgs, table::full_name, values::absolute},
        exit::{CliResult, Exit},
        output::note,
        render::sentences,
        session::{
            CommandContext,
            args::SessionArgs,
            batch_id::{WorkId, named},
            database::SessionDatabase,
            ledger_tables::{refused, with_ledger_tables},
        },
        shell::Program,
    },
    jsonl_store::JsonlDeadLetters,
    page::size::Size,
    processor::PageProcessor as _,
    sql::{
        BytesForm, DEFAULT_CONNECTION, DatabaseOptions, ImportArgs, ImportFile, ManifestChoice,
        OnConflict, SqlImport,
    },
    stride::redrive::letters_of,
};
use reading::{Format, ReadingArgs, named_delimiter, named_format};
use rejected::{Corrected, Import, RejectedFile, shown};
use repeat_command::Changes;

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

    /// A field of the file for a column with another name; can be given again
    #[arg(long, value_name = "FIELD=COLUMN", value_parser = pair)]
    map: Vec<(String, String)>,

    /// The text that stands for NULL in a CSV file [default: an empty field]
    #[arg(
        long,
        value_name = "TEXT",
        default_value = "",
        hide_default_value = true,
        allow_hyphen_values = true
    )]
    null: String,

    /// The manifest of an export, which describes the values of the file; none: the file is not from an export
    /// [default: FILE.manifest.json or manifest.json beside the file, if it lists the file]
    #[arg(long, value_name = "FILE|none")]
    manifest: Option<PathBuf>,

    /// The form of bytes in the file, if no manifest defines it
    #[arg(long, value_name = "FORM")]
    bytes: Option<Bytes>,

    /// The fate of a record whose key is already in the table: fail (a dead letter), nothing, or update with the
    /// columns of the key
    #[arg(long, value_name = "fail|nothing|update:COLUMN,..", default_value = "fail", value_parser = on_conflict)]
    on_conflict: OnConflict,

    /// Do not record which pages are applied: a page that is retried inserts its rows twice, unless keys prevent it
    #[arg(long, conflicts_with = "create_ledger_tables")]
    no_once: bool,

    /// Make the tables of the page ledger, if they are missing
    #[arg(long)]
    create_ledger_tables: bool,

    /// The file for records that cannot be imported, so that they can be corrected; none: no file [default:
    /// NAME.rejected.EXTENSION beside the file, or else in the working directory]
    #[arg(long, value_name = "FILE|none")]
    rejected: Option<PathBuf>,

    /// Keep values of rejected records out of dead letters and of the output; the file of rejected records has them
    #[arg(long)]
    mask_values: bool,

    /// Settle the dead letters of the batch whose rejected records FILE holds, although FILE has fewer records than that
    /// batch rejected: those that are missing were left out on purpose
    #[arg(long)]
    settle_rejected: bool,

    #[command(flatten)]
    session: SessionArgs,
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

impl ImportCommand {
    pub(crate) async fn run(&self, context: &CommandContext<'_>) -> CliResult {
        // Wrong flags are refused before the database is asked.
        let limits = self.session.limits(SqlImport::NAME)?;
        let args = self.args()?;
        let rejected = self.rejected()?;
        let database = SessionDatabase::connect(&self.database, &limits).await?;
        let exit = self.import(limits, args, rejected.as_ref(), &database, context);
        let exit = exit.await;
        database.close().await;
        exit
    }

    async fn import(
        &self,
        limits: Batch,
        args: ImportArgs,
        rejected: Option<&RejectedFile>,
        database: &SessionDatabase,
        context: &CommandContext<'_>,
    ) -> CliResult {
        let limits = self.session.fitted(limits, database);
        let args = ImportArgs {
            table: full_name(&database.database, &args.table).await?,
            ..args
        };
        let made = work_id(&database.target, &args);
        let id = self.session.batch_id(&made);
        if let Some(rejected) = rejected {
            rejected.check(&self.file, &id, self.session.rerun)?;
        }
        let batch = |args: &ImportArgs| {
            let limits = limits.clone();
            let batch = self
                .session
                .batch(limits, &id, args, ("import", &database.target))?;
            let batch = batch.check_at_end(args.once);
            batch.validate()?;
            CliResult::Ok(batch)
        };
        batch(&args)?;
        let connections = database.connections(DEFAULT_CONNECTION);
        let mut processor = SqlImport::new(connections).mask_values(self.mask_values);
        if let (Some(rejected), false) = (rejected, args.once) {
            processor = processor.dead_letters(JsonlDeadLetters::new(rejected.letters()));
        }
        let prepare = async || processor.prepare(args.clone()).await;
        let (make, program) = (self.create_ledger_tables, context.program);
        let prepared = with_ledger_tables(&database.database, make, program, prepare).await?;
        let records = processor.size(&prepared).await;
        let records = records.map_err(|error| refused(&error, program))?;
        self.tell(database, &prepared, records, rejected);
        let letters = letters_of(&processor, &prepared);
        let source = prepared.file.clone();
        // The arguments describe the file as it is now: a batch of this id that began with another content is refused.
        let args = ImportArgs {
            file: without_copy(prepared.file),
            manifest: prepared.manifest,
            fields: prepared.fields,
            ..args
        };
        let ledger = args.once.then(|| self.session.work_ledger(database, &made));
        let of_ledger = letters.clone().filter(|_| args.once);
        let session = self.session.session(
            batch(&args)?,
            context,
            ledger,
            of_ledger,
            rerun_hint(&args, rejected),
        );
        let worker = self.session.worker(processor, database.slots(), context)?;
        let exit = session.attended(context.connection, worker).await?;
        let Some((batch_run, items)) = session.ended_run.get() else {
            return Ok(exit);
        };
        if let Some((rejected, letters)) = rejected.zip(letters) {
            let import = Import {
                batch_id: &id,
                batch_run,
                table: &args.table,
                records: items.total(),
            };
            let written = rejected.write(&*letters, &source, &import).await?;
            if let Some(written) = written {
                let next = self.next(program, &rejected.path, &database.options, &args);
                rejected.tell(&written, &next);
            }
        }
        if exit == Exit::Done {
            let corrected = Corrected {
                file: source.source().original(),
                table: &args.table,
                records: items.total(),
                fewer_are_all: self.settle_rejected,
            };
            if let Some(open) = corrected.settle(&database.database).await? {
                let again = self.next(program, &self.file, &database.options, &args);
                open.tell(&format!("{again} --settle-rejected"));
            }
        }
        Ok(exit)
    }

    fn args(&self) -> CliResult<ImportArgs> {
        let path = absolute(&self.file)?;
        let mut file = self.reading.file(&path, self.columns.as_deref())?;
        if let (ImportFile::Csv(source), None) = (&mut file, self.reading.delimiter())
            && let Some(found) = delimiter::recognise(&path, &source.format)?
        {
            source.format.delimiter = found;
        }
        let mut args = ImportArgs::new(file, &self.table)
            .null(&self.null)
            .on_conflict(self.on_conflict.clone())
            .once(!self.no_once);
        if let (Some(columns), false) = (&self.columns, self.reading.is_headless()) {
            args = args.columns(columns);
        }
        args.manifest = match &self.manifest {
            None => ManifestChoice::Beside,
            Some(none) if none == Path::new("none") => ManifestChoice::Ignored,
            Some(file) => ManifestChoice::At(absolute(file)?),
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

    /// Returns the file for records that cannot be imported, if there is to be one.
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

    /// Returns the command that imports the file of rejected records, or that repeats this import.
    fn next(
        &self,
        program: &Program,
        file: &Path,
        options: &DatabaseOptions,
        args: &ImportArgs,
    ) -> String {
        let mut added = Vec::new();
        if self.reading.format().is_none() && named_format(file) != format_of(args) {
            let format = match format_of(args) {
                Format::Csv => "csv",
                Format::Jsonl => "jsonl",
            };
            added.push(("--format", format.to_owned()));
        }
        if let (ImportFile::Csv(source), None) = (&args.file, self.reading.delimiter())
            && source.format.delimiter != named_delimiter(file)
        {
            added.push(("--delimiter", delimiter::value(source.format.delimiter)));
        }
        // The manifest beside the imported file does not list the rejected file.
        if let (ManifestChoice::At(manifest), None) = (&args.manifest, &self.manifest) {
            added.push(("--manifest", shown(manifest)));
        }
        let changes = Changes {
            file: &self.file,
            next: &shown(file),
            hides_url: options.has_password(),
            added,
        };
        let given = std::env::args_os().skip(1);
        let given: Vec<_> = given
            .map(|arg| arg.to_string_lossy().into_owned())
            .collect();
        repeat_command::command(&program.name, &given, &changes)
    }

    /// Prints a summary of the import before it starts.
    fn tell(
        &self,
        database: &SessionDatabase,
        args: &ImportArgs,
        records: Size,
        rejected: Option<&RejectedFile>,
    ) {
        let line = |what: &str, text: &str| note(format_args!("{what:<11}{text}"));
        line("database", &database.shown);
        line("file", &self.file.display().to_string());
        if let (ImportFile::Csv(source), None) = (&args.file, self.reading.delimiter())
            && source.format.delimiter != named_delimiter(&self.file)
        {
            let delimiter = delimiter::flag(source.format.delimiter);
            let text = format!("{delimiter}, as the first record shows; --delimiter overrides it");
            line("delimiter", &text);
        }
        line("records", &sentences::size(records));
        let table = format!("{} in {}", self.table, database.database.system());
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
            false => "each page at least once; a page whose worker is lost is done again",
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

fn format_of(args: &ImportArgs) -> Format {
    match &args.file {
        ImportFile::Csv(_) => Format::Csv,
        ImportFile::JsonLines(_) => Format::Jsonl,
    }
}

/// Removes the unpacked copy of a gzip file: its path differs each time, while the batch is the same.
fn without_copy(mut file: ImportFile) -> ImportFile {
    let source = match &mut file {
        ImportFile::Csv(source) => &mut source.file,
        ImportFile::JsonLines(source) => &mut source.file,
    };
    *source = source.clone().without_copy();
    file
}

/// Returns the id of the batch that imports this file into that table. It does not depend on the format of the records,
/// nor on the path by which the file is reached.
fn work_id(target: &str, args: &ImportArgs) -> WorkId {
    let path = &args.file.source().path;
    let path = std::fs::canonicalize(path).unwrap_or_else(|_| path.clone());
    let work = serde_json::json!([args.table, path]);
    named("import", target, &args.table, &work)
}

/// Returns the hint at `--rerun`, with what it does to records that are in the table already.
fn rerun_hint(args: &ImportArgs, rejected: Option<&RejectedFile>) -> String {
    let twice = match &args.on_conflict {
        OnConflict::Fail => {
            "inserts the records a second time, and gives up those that a key of the table forbids"
        }
        OnConflict::Nothing => {
            "inserts the records a second time, except those that a key of the table forbids"
        }
        OnConflict::Update(_) => "updates the rows with the records of the file once more",
    };
    match rejected.filter(|rejected| rejected.path.exists()) {
        Some(rejected) => format!(
            "--rerun {twice}; it needs --rejected and the name of another file, since {} is taken",
            shown(&rejected.path)
        ),
        None => format!("--rerun {twice}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files::CsvSource;

    #[test]
    fn odd_values_are_refused() {
        for bad in ["", "update", "update:", "replace"] {
            assert!(on_conflict(bad).is_err(), "{bad}");
        }
        let key = OnConflict::Update(vec!["a".to_owned(), "b".to_owned()]);
        assert_eq!(on_conflict("update:a,b"), Ok(key));
        assert!(pair("a").is_err() && pair("=b").is_err());
    }

    #[test]
    fn the_same_file_into_the_same_table_has_the_same_id() {
        let args = |path: &str| ImportArgs::new(CsvSource::new(path), "shop.users");
        let id = work_id("db", &args("/a.csv"));
        assert!(id.work.starts_with("import-shop.users-"), "{id:?}");
        assert_eq!(id, work_id("db", &args("/a.csv")));
        assert_ne!(id, work_id("db", &args("/b.csv")));
        assert_ne!(id, work_id("other", &args("/a.csv")));
    }

    #[cfg(unix)]
    #[test]
    fn a_file_has_one_id_whatever_the_path_to_it() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a.csv");
        std::fs::write(&file, "").unwrap();
        let link = folder.path().join("link.csv");
        std::os::unix::fs::symlink(&file, &link).unwrap();
        std::fs::create_dir(folder.path().join("sub")).unwrap();
        let id = |path: &Path| work_id("db", &ImportArgs::new(CsvSource::new(path), "t"));
        for path in [link, folder.path().join("sub/../a.csv")] {
            assert_eq!(id(&path), id(&file), "{}", path.display());
        }
    }
}
