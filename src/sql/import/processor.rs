//! The processor behind `import`.

use std::{collections::HashSet, fmt, sync::Arc, time::Duration};

use async_trait::async_trait;

use super::{
    InvalidImport,
    args::{Assigned, ColumnKind, ImportArgs, ImportFile, ManifestChoice, OnConflict},
    check,
    mapping::{self, Column},
    rejected::{Alone, Rejecting},
    row::{self, ImportRow, Reading},
    target::Target,
    write::{self, Filled},
};
use crate::{
    base::error::PageError,
    files::{
        BadRecord, EncodedColumn, FilePosition, FileRecord, JsonLinesSource, Manifest, SinkError,
    },
    page::{Next, Page, range::PageRange, size::Size},
    processor::{
        PageProcessor, SkipAhead,
        check_context::CheckContext,
        context::PageContext,
        report::PageReport,
        store::{dead_letter::DeadLetters, page_ledger::PageLedger},
    },
    progress::check::Check,
    sql::{
        Connections, Database,
        backend::{
            blockers,
            dialect::Dialect,
            table_engine::{Untransactional, untransactional},
        },
        connection::{lease::LeasedTransaction, session::LOCK_TIMEOUT},
        ledger::no_ledger::NoLedger,
    },
};

/// The silence after which a transaction ends by itself.
const SILENCE: Duration = Duration::from_secs(60);

/// Puts the records of a file into a table: by `COPY` in PostgreSQL, by `INSERT` with many rows elsewhere.
///
/// Values are sent as texts that the database converts by its own rules, as in `COPY`. A record that the database
/// refuses (a wrong type, a constraint) becomes a dead letter by itself: its page is split until the record is found.
///
/// The files of a [`SqlExport`](crate::sql::SqlExport) become rows equal to those that were exported, with the help of the
/// [manifest](ManifestChoice) beside them.
///
/// ```no_run
/// # #[cfg(feature = "sqlite")]
/// # async fn example(client: temporal_batch::BatchClient) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
/// use temporal_batch::{
///     files::CsvSource,
///     sql::{Connections, Database, DatabaseOptions, ImportArgs, SqlImport, DEFAULT_CONNECTION},
///     Batch, Worker,
/// };
///
/// let shop = DatabaseOptions::from_url("sqlite:shop.db")?;
/// let connections = Connections::new().with(DEFAULT_CONNECTION, Database::connect(&shop).await?);
/// let worker = Worker::new(&client, "imports").processor(SqlImport::new(connections));
///
/// let users = ImportArgs::new(CsvSource::new("users.csv"), "users");
/// let batch = Batch::of::<SqlImport>("import-users", users).task_queue("imports");
/// # Ok(())
/// # }
/// ```
pub struct SqlImport {
    connections: Connections,
    letters: Option<Arc<dyn DeadLetters>>,
    masked: bool,
}

/// The number of JSON objects that are searched for field names if the columns are named.
const LOOK_AT: usize = 100;
const LINES_AT_ONCE: usize = 10_000;

impl SqlImport {
    /// Creates an import into the databases of a worker.
    pub fn new(connections: Connections) -> Self {
        Self {
            connections,
            letters: None,
            masked: false,
        }
    }

    /// Keeps values out of dead letters. These then name the file, the line and the column of a refused record, and
    /// hold no part of it. Messages, which are stored in histories and logged, never hold values.
    #[must_use]
    pub fn mask_values(mut self, masked: bool) -> Self {
        self.masked = masked;
        self
    }

    /// Keeps the refused records in a store, for batches without [`once`](ImportArgs::once). Without a store, a page
    /// with a record that the database refuses is given up as a whole.
    #[must_use]
    pub fn dead_letters(mut self, store: impl DeadLetters) -> Self {
        self.letters = Some(Arc::new(store));
        self
    }

    pub(super) fn database(&self, args: &ImportArgs) -> Result<&Database, PageError> {
        self.connections.get(&args.connection)
    }

    pub(super) async fn rows(
        &self,
        args: &ImportArgs,
        range: &PageRange<FilePosition>,
        limit: usize,
    ) -> Result<Page<FilePosition, FileRecord<ImportRow>>, PageError> {
        let reading = Reading {
            plan: plan_of(args)?.to_vec(),
            bytes: args.bytes,
            null: args.null.clone(),
            quoted_is_text: args.quoted_is_text,
            any_text: match self.database(args)? {
                #[cfg(feature = "sqlite")]
                Database::Sqlite(_) => true,
                #[allow(unreachable_patterns, reason = "where SQLite is the only database")]
                _ => false,
            },
        };
        match &args.file {
            ImportFile::Csv(source) => {
                let mut places: Option<Vec<usize>> = None;
                let read = move |names: Option<&csv::StringRecord>,
                                 fields: crate::files::Fields<'_>| {
                    if places.is_none() {
                        let names = names.cloned().unwrap_or_default();
                        let found = row::places(&reading.plan, &names).map_err(|field| {
                            BadRecord::new(
                                "UnknownField",
                                format!("the file has no field \"{field}\""),
                            )
                        })?;
                        places = Some(found);
                    }
                    let none = csv::StringRecord::new();
                    let names = names.unwrap_or(&none);
                    reading.of_csv(fields, names, places.as_deref().unwrap_or_default())
                };
                source.page_with(range, limit, read).await
            }
            ImportFile::JsonLines(source) => {
                let (only, computed) = (args.columns.is_some(), args.computed.clone());
                let dropped = move |field: &str| only || computed.iter().any(|name| name == field);
                let read = move |line: &[u8]| reading.of_json(line, &dropped);
                source.page_with(range, limit, read).await
            }
        }
    }
}

fn plan_of(args: &ImportArgs) -> Result<&[Assigned], PageError> {
    args.plan.as_deref().ok_or_else(|| {
        PageError::non_retryable(
            "NotPrepared",
            "the arguments of the import are not complete; `PageProcessor::prepare` completes them",
        )
    })
}

/// Returns the fields of the first lines.
async fn fields_of_first(source: &JsonLinesSource) -> Result<Vec<String>, PageError> {
    let first = PageRange::new(None, None);
    let (fields, _) = new_fields(source, &first, LOOK_AT, &[]).await?;
    Ok(fields)
}

/// Returns the fields of all lines. The whole file is read, since a field that first occurs late would be lost.
async fn fields_of_all(source: &JsonLinesSource) -> Result<Vec<String>, PageError> {
    let mut fields = Vec::new();
    let mut start = None;
    loop {
        let range = PageRange::new(start, None);
        let (new, next) = new_fields(source, &range, LINES_AT_ONCE, &fields).await?;
        fields.extend(new);
        match next {
            Next::At(next) => start = Some(next),
            Next::End => return Ok(fields),
        }
    }
}

/// Returns the new fields of some lines, and the position of the next line.
async fn new_fields(
    source: &JsonLinesSource,
    range: &PageRange<FilePosition>,
    lines: usize,
    known: &[String],
) -> Result<(Vec<String>, Next<FilePosition>), PageError> {
    let mut seen: HashSet<String> = known.iter().cloned().collect();
    let names = move |line: &[u8]| {
        let line = String::from_utf8_lossy(line);
        let fields = row::fields_of(&line)?;
        let mut new: Vec<_> = fields.into_iter().map(|(name, _)| name).collect();
        new.retain(|name| !seen.contains(name));
        seen.extend(new.iter().cloned());
        Ok(new)
    };
    let page = source.page_with(range, lines, names).await?;
    let found = page.items().iter();
    let new = found.flat_map(|r| r.content().into_iter().flatten());
    Ok((new.cloned().collect(), page.next().clone()))
}

/// Returns the fields of a file without a single record: those of the export that wrote it, or else columns of the table.
/// An export of no rows is such a file, and its import adds no rows.
fn fields_of_none(
    args: &ImportArgs,
    exported: &[EncodedColumn],
    columns: &[Column],
) -> Vec<String> {
    if !exported.is_empty() {
        return exported.iter().map(|column| column.name.clone()).collect();
    }
    let fed = |column: &&Column| {
        let encoded = column.kind != ColumnKind::Bytes || args.bytes.is_some();
        encoded && !column.generated && !args.map.values().any(|name| *name == column.name)
    };
    let named = columns.iter().filter(fed).map(|column| column.name.clone());
    named.chain(args.map.keys().cloned()).collect()
}

/// Returns the reason why no field was found, if the file has any record.
async fn nothing_in(source: &JsonLinesSource) -> Result<Option<InvalidImport>, PageError> {
    let read = |line: &[u8]| row::fields_of(&String::from_utf8_lossy(line)).map(drop);
    let page = source
        .page_with(&PageRange::new(None, None), 1, read)
        .await?;
    Ok(match page.items().first().map(|record| record.content()) {
        None => None,
        Some(Ok(())) => Some(InvalidImport::NoFields),
        Some(Err(bad)) => Some(InvalidImport::NothingReadable {
            message: bad.message().to_owned(),
        }),
    })
}

/// Returns the fields of the file.
async fn fields(
    args: &ImportArgs,
    exported: &[EncodedColumn],
    columns: &[Column],
) -> Result<Vec<String>, PageError> {
    match &args.file {
        ImportFile::Csv(source) => {
            let columns = source.columns().await?;
            columns.ok_or_else(|| {
                let none = match source.format.header {
                    crate::files::Header::FirstRecord => InvalidImport::Empty,
                    _ => InvalidImport::NoNames,
                };
                none.into_page_error()
            })
        }
        ImportFile::JsonLines(source) => {
            let mut fields = match args.columns {
                Some(_) => fields_of_first(source).await?,
                None => fields_of_all(source).await?,
            };
            if let Some(columns) = &args.columns {
                // A field may occur late in the file.
                let fed = |field: &String| args.map.get(field).unwrap_or(field).clone();
                let known: Vec<_> = fields.iter().map(fed).collect();
                let late = |column: &&String| {
                    !known.contains(column) && !args.map.values().any(|v| v == *column)
                };
                fields.extend(columns.iter().filter(late).cloned());
                fields.extend(
                    args.map
                        .keys()
                        .filter(|f| !fields.contains(f))
                        .cloned()
                        .collect::<Vec<_>>(),
                );
            }
            if !fields.is_empty() {
                return Ok(fields);
            }
            match nothing_in(source).await? {
                Some(reason) => Err(reason.into_page_error()),
                None => Ok(fields_of_none(args, exported, columns)),
            }
        }
    }
}

#[async_trait]
impl PageProcessor for SqlImport {
    const NAME: &'static str = "sql-import";
    type Args = ImportArgs;
    type Cursor = FilePosition;
    type Item = FileRecord<ImportRow>;

    async fn prepare(&self, mut args: ImportArgs) -> Result<ImportArgs, PageError> {
        let database = self.database(&args)?;
        // A decompressed copy is another file then.
        let (choice, manifest) = manifest(&args).await?;
        args.manifest = choice;
        args.file = match args.file {
            ImportFile::Csv(source) => ImportFile::Csv(source.prepare().await?),
            ImportFile::JsonLines(source) => ImportFile::JsonLines(source.prepare().await?),
        };
        let target =
            Target::parse(&args.table, database).map_err(InvalidImport::into_page_error)?;
        let columns = target.columns(database).await?;
        if columns.is_empty() {
            let table = args.table.clone();
            return Err(InvalidImport::NoTable { table }.into_page_error());
        }
        let exported = match manifest {
            // Written by an export of a table.
            Some(manifest) if !manifest.encodings.is_empty() => {
                let null = manifest.format.null_text();
                if let Some(null) = null.filter(|null| args.null.is_empty() || args.null == *null) {
                    null.clone_into(&mut args.null);
                    args.quoted_is_text = true;
                }
                manifest.encodings
            }
            _ => Vec::new(),
        };
        let fields = match args.fields.take() {
            Some(fields) => fields,
            None => fields(&args, &exported, &columns).await?,
        };
        args.computed = mapping::computed(&args, &exported, &columns);
        let filling = fields.iter().filter(|field| !args.computed.contains(field));
        let filling: Vec<_> = filling.cloned().collect();
        let plan = mapping::plan(&args, &filling, &exported, &columns);
        let plan = plan.map_err(InvalidImport::into_page_error)?;
        let filled = Filled::new(&target, &plan, &args.on_conflict);
        write::try_out(database, &target, &filled).await?;
        // An update by a key can be repeated.
        if args.once || !matches!(args.on_conflict, OnConflict::Update(_)) {
            let insert = format!("INSERT INTO {}", target.quoted());
            let found = untransactional(database, &[insert], args.once).await?;
            if let Some(Untransactional { table, engine }) = found {
                return Err(InvalidImport::NoTransactions { table, engine }.into_page_error());
            }
        }
        args.plan = Some(plan);
        if args.once && !database.has_ledger_tables().await? {
            return Err(InvalidImport::LedgerTablesMissing.into_page_error());
        }
        if let ImportFile::JsonLines(_) = &args.file {
            args.fields = Some(fields);
        }
        Ok(args)
    }

    async fn fetch(
        &self,
        ctx: &PageContext<Self>,
    ) -> Result<Page<FilePosition, FileRecord<ImportRow>>, PageError> {
        self.rows(ctx.args(), ctx.range(), ctx.page_size()).await
    }

    async fn process(
        &self,
        ctx: &PageContext<Self>,
        records: Vec<FileRecord<ImportRow>>,
    ) -> Result<PageReport, PageError> {
        let args = ctx.args();
        let mut report = PageReport::all_processed();
        let rejecting = Rejecting {
            file: args.file.source(),
            masked: self.masked,
        };
        let alone = Alone::of(&records);
        let readable = |(position, record): (usize, FileRecord<ImportRow>)| {
            rejecting.row(position, record, &mut report)
        };
        let rows: Vec<_> = records
            .into_iter()
            .enumerate()
            .filter_map(readable)
            .collect();
        let database = self.database(args)?;
        let target =
            Target::parse(&args.table, database).map_err(InvalidImport::into_page_error)?;
        let plan = plan_of(args)?;
        let filled = Filled::new(&target, plan, &args.on_conflict);
        let count = rows.len() as u64;
        // Even without rows, the transaction has to be taken, since it is the page's.
        macro_rules! written {
            ($transaction:expr, $write:path) => {{
                let written = $write($transaction, &filled, rows).await;
                match written.and_then(|written| filled.all(count, written)) {
                    Ok(written) => written,
                    Err(refused) => return Err(rejecting.refused(refused, plan, alone).await),
                }
            }};
        }
        macro_rules! in_transaction {
            ($database:ty, $pool:expr, $write:path) => {{
                let writing = async {
                    if args.once {
                        let mut transaction = ctx.transaction::<$database>().await?;
                        return match rows.is_empty() {
                            true => Ok(0),
                            false => Ok(written!(&mut transaction, $write)),
                        };
                    }
                    if rows.is_empty() {
                        return Ok(0);
                    }
                    let begin = <$database as Dialect>::begin(SILENCE);
                    let mut transaction = LeasedTransaction::on($pool, begin).await?;
                    let written = written!(&mut transaction, $write);
                    transaction.commit().await?;
                    Ok(written)
                };
                blockers::named($pool, &target.quoted(), LOCK_TIMEOUT, writing).await?
            }};
        }
        let written = match database {
            #[cfg(feature = "postgres")]
            Database::Postgres(pool) => {
                in_transaction!(sqlx::Postgres, pool, write::postgres::write)
            }
            #[cfg(feature = "mysql")]
            Database::MySql(pool) => in_transaction!(sqlx::MySql, pool, write::mysql::write),
            #[cfg(feature = "sqlite")]
            Database::Sqlite(pool) => in_transaction!(sqlx::Sqlite, pool, write::sqlite::write),
        };
        if args.on_conflict == OnConflict::Nothing {
            for _ in written..count {
                report.skip("its key is in the table");
            }
        }
        Ok(report.changed(written.min(count)))
    }

    async fn skip_ahead(
        &self,
        ctx: &PageContext<Self>,
        pages: u32,
    ) -> Result<SkipAhead<FilePosition>, PageError> {
        match &ctx.args().file {
            ImportFile::Csv(source) => source.skip_ahead(ctx, pages).await,
            ImportFile::JsonLines(source) => source.skip_ahead(ctx, pages).await,
        }
    }

    async fn check(&self, ctx: &CheckContext<Self>) -> Result<Option<Check>, PageError> {
        tokio::select! {
            check = check::check(self, ctx) => check,
            () = ctx.cancelled() => {
                Err(PageError::retryable("the check was cancelled").with_type("Cancelled"))
            }
        }
    }

    async fn size(&self, args: &ImportArgs) -> Result<Size, PageError> {
        if let Some(records) = written_by_an_export(args).await? {
            return Ok(Size::Exact(records));
        }
        match &args.file {
            ImportFile::Csv(source) => source.size().await,
            ImportFile::JsonLines(source) => source.size().await,
        }
    }

    fn ledger(&self, args: &ImportArgs) -> Option<Arc<dyn PageLedger>> {
        args.once
            .then(|| match self.connections.get(&args.connection) {
                Ok(database) => database.ledger(),
                // Without a ledger its rows could be duplicated.
                Err(_) => Arc::new(NoLedger::of(self.connections.clone(), &args.connection)),
            })
    }

    fn dead_letters(&self, _: &ImportArgs) -> Option<Arc<dyn DeadLetters>> {
        self.letters.clone()
    }
}

/// Returns the number of records according to the manifest, unless the size of the file has changed since.
async fn written_by_an_export(args: &ImportArgs) -> Result<Option<u64>, PageError> {
    let (_, Some(manifest)) = manifest(args).await? else {
        return Ok(None);
    };
    let path = match &args.file {
        ImportFile::Csv(source) => source.file.path.clone(),
        ImportFile::JsonLines(source) => source.file.path.clone(),
    };
    let bytes = tokio::fs::metadata(&path).await.map(|file| file.len()).ok();
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let parts = || manifest.parts.iter().map(|part| &part.file);
    let written = parts().find(|file| file.file == name && Some(file.bytes) == bytes);
    Ok(written.map(|file| file.records))
}

/// Returns the manifest that describes the encoding of the file's values, fixed from now on, and its content.
async fn manifest(args: &ImportArgs) -> Result<(ManifestChoice, Option<Manifest>), PageError> {
    let file = match &args.file {
        ImportFile::Csv(source) => source.file.path.clone(),
        ImportFile::JsonLines(source) => source.file.path.clone(),
    };
    let choice = args.manifest.clone();
    let read = tokio::task::spawn_blocking(move || {
        let path = match choice {
            ManifestChoice::Beside => Manifest::beside(file),
            ManifestChoice::Ignored => None,
            ManifestChoice::At(path) => Some(path),
        };
        match path {
            None => Ok((ManifestChoice::Ignored, None)),
            Some(path) => {
                let manifest = Manifest::at(&path)?;
                Ok((ManifestChoice::At(path), Some(manifest)))
            }
        }
    });
    read.await?.map_err(SinkError::into_page_error)
}

impl fmt::Debug for SqlImport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SqlImport")
            .field("connections", &self.connections)
            .finish_non_exhaustive()
    }
}
