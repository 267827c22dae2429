//! The processor that writes the rows of a table into files.

use std::{
    collections::HashMap,
    path::{Component, Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use async_trait::async_trait;
use tokio::sync::OnceCell;

use super::args::{ExportArgs, ExportFormat};
use crate::{
    base::error::PageError,
    cell::Cell,
    files::PartSink,
    page::{Page, size::Size},
    processor::{
        PageProcessor, SkipAhead, check_context::CheckContext, context::PageContext,
        report::PageReport, settings::ProcessorSettings,
    },
    progress::check::Check,
    sql::{Column, Connections, HighWaterMark, Key, Table, TableError},
};

/// Writes the rows of a table into files, page by page. This is the processor of `temporal-batch export`, for your
/// own workers. [`PartSink`] describes the files and their guarantees.
///
/// ```no_run
/// # #[cfg(feature = "sqlite")]
/// # async fn example(client: temporal_batch::BatchClient) -> Result<(), Box<dyn std::error::Error>> {
/// use temporal_batch::{sql::{Connections, ExportArgs, SqlExport, TableSpec}, Batch, Worker};
///
/// let shop = sqlx::SqlitePool::connect("sqlite:shop.db").await?;
/// let connections = Connections::new().with("shop", shop);
/// let worker = Worker::new(&client, "shop").processor(SqlExport::new(connections));
///
/// let args = ExportArgs::new(TableSpec::new("users", ["id"]), "/srv/export/users").connection("shop");
/// let batch = Batch::of::<SqlExport>("export-users", args).task_queue("shop").check_at_end(true);
/// # let _ = (worker, batch);
/// # Ok(())
/// # }
/// ```
///
/// # Consistency
///
/// Each page is read by a statement of its own, so each part shows the table at the time of its page, and the export
/// as a whole shows no single point in time. A row that changes while the export runs is written once, in its old or
/// its new form, and related rows may come from different times. Every row that exists when the batch starts, and is
/// neither deleted nor moved to another key, is written exactly once. Later rows are written at most once, and only
/// up to the high-water mark. One snapshot for all pages would need a transaction of hours on one server, and would
/// be lost with its connection. If you need a snapshot, export from a paused standby, or from a copy.
///
/// # What is refused before anything starts
///
/// A table that cannot be paged through ([`TableError`]), a column that does not exist, two columns of one name, a
/// column whose values the database writes but cannot read, and a directory outside of [`within`](Self::within).
///
/// # Importing the files
///
/// [`SqlImport`](crate::sql::SqlImport) reads the manifest beside a file, which describes the encoding of each column, and
/// creates equal rows in a table with the same columns. Columns that the database computes are exported, and skipped
/// by the import.
#[derive(Debug)]
pub struct SqlExport {
    connections: Connections,
    within: Option<PathBuf>,
    /// The tables by connection and spec. Each is inspected again after a while, since it may be altered while a
    /// worker lives.
    tables: Mutex<HashMap<String, (Instant, KnownTable)>>,
}

/// A table that was inspected, or is being inspected.
type KnownTable = Arc<OnceCell<Table>>;

const LOOK_AGAIN_AFTER: Duration = Duration::from_secs(60);

/// # Construct
impl SqlExport {
    /// Creates a processor for these connections; each batch names one of them, and the directory to write into.
    pub fn new(connections: Connections) -> Self {
        Self {
            connections,
            within: None,
            tables: Mutex::default(),
        }
    }

    /// Restricts all batches to directories below this one, for workers whose batches are started by others.
    #[must_use]
    pub fn within(mut self, directory: impl Into<PathBuf>) -> Self {
        self.within = Some(directory.into());
        self
    }
}

/// A row to write.
#[derive(Clone, Debug, PartialEq)]
pub struct ExportRow {
    key: Key,
    cells: Vec<Cell>,
}

impl SqlExport {
    /// Checks everything that can be checked without writing anything.
    pub(crate) async fn check_args(&self, args: &ExportArgs) -> Result<Table, PageError> {
        self.check_paths(args)?;
        let table = self.look(args).await?;
        if !args.allow_slow_pages {
            let plan = table.check_plan().await;
            plan.map_err(TableError::into_page_error)?;
        }
        table.check_key_lengths().await?;
        for column in selected(&table, args)? {
            if WRITE_ONLY.contains(&column.type_name.as_str()) {
                return Err(PageError::non_retryable(
                    "InvalidExport",
                    format_args!(
                        "column \"{}\" is of type {}, which the database writes but cannot read; name the other \
                         columns to export",
                        column.name, column.type_name
                    ),
                ));
            }
        }
        for (at, name) in args.columns.iter().enumerate() {
            if args.columns[..at].contains(name) {
                return Err(PageError::non_retryable(
                    "InvalidExport",
                    format_args!("column \"{name}\" is named twice"),
                ));
            }
        }
        if args.format == ExportFormat::JsonL && !args.null.is_empty() {
            return Err(PageError::non_retryable(
                "InvalidExport",
                "a text for NULL is for CSV only; JSON has null",
            ));
        }
        Ok(table)
    }

    fn check_paths(&self, args: &ExportArgs) -> Result<(), PageError> {
        let Some(within) = &self.within else {
            return Ok(());
        };
        let base = std::path::absolute(within)?;
        let allowed = |path: &Path| {
            let climbs = path.components().any(|part| part == Component::ParentDir);
            let path = std::path::absolute(path).unwrap_or_default();
            !climbs && path.starts_with(&base) && path != base
        };
        let paths = || std::iter::once(&args.to).chain(&args.concatenate);
        if let Some(path) = paths().find(|path| !allowed(path)) {
            return Err(PageError::non_retryable(
                "PathNotAllowed",
                format_args!(
                    "this worker writes only below {}, and {} is not",
                    base.display(),
                    path.display()
                ),
            ));
        }
        match paths().find_map(|path| symbolic_link(&base, path)) {
            None => Ok(()),
            Some(link) => Err(PageError::non_retryable(
                "PathNotAllowed",
                format_args!(
                    "this worker writes only below {}, and {} is a symbolic link",
                    base.display(),
                    link.display()
                ),
            )),
        }
    }

    async fn look(&self, args: &ExportArgs) -> Result<Table, PageError> {
        let database = self.connections.get(&args.connection)?;
        let table = Table::inspect(database, &args.table).await;
        table.map_err(TableError::into_page_error)
    }

    async fn table(&self, args: &ExportArgs) -> Result<Table, PageError> {
        let name = serde_json::to_string(&(&args.connection, &args.table))?;
        let known = {
            let mut tables = self.tables.lock().unwrap_or_else(PoisonError::into_inner);
            tables.retain(|_, (since, _)| since.elapsed() < LOOK_AGAIN_AFTER);
            let known = tables.entry(name);
            let (_, known) = known.or_insert_with(|| (Instant::now(), Arc::default()));
            Arc::clone(known)
        };
        let table = known.get_or_try_init(|| self.look(args)).await;
        // The table was valid when the batch began.
        table.cloned().map_err(TableError::since_the_start)
    }

    fn sink(&self, args: &ExportArgs) -> Result<PartSink, PageError> {
        self.check_paths(args)?;
        if args.encodings.is_empty() {
            return Err(PageError::non_retryable(
                "NotPrepared",
                "the arguments of the export do not say how values are written: `PageProcessor::prepare` completes \
                 them. A batch that an earlier version started has to be started again",
            ));
        }
        Ok(args.sink())
    }
}

/// Types of PostgreSQL without an input function.
const WRITE_ONLY: [&str; 7] = [
    "pg_brin_bloom_summary",
    "pg_brin_minmax_multi_summary",
    "pg_ddl_command",
    "pg_dependencies",
    "pg_mcv_list",
    "pg_ndistinct",
    "pg_node_tree",
];

fn selected<'t>(table: &'t Table, args: &ExportArgs) -> Result<Vec<&'t Column>, PageError> {
    table.selected(Some(args.columns.as_slice()).filter(|names| !names.is_empty()))
}

/// Returns the first symbolic link on the path from a directory to one below it.
fn symbolic_link(base: &Path, path: &Path) -> Option<PathBuf> {
    let path = std::path::absolute(path).ok()?;
    let mut at = base.to_path_buf();
    for part in path.strip_prefix(base).ok()?.components() {
        at.push(part);
        if at.is_symlink() {
            return Some(at);
        }
    }
    None
}

#[async_trait]
impl PageProcessor for SqlExport {
    const NAME: &'static str = "sql-export";
    type Args = ExportArgs;
    type Cursor = Key;
    type Item = ExportRow;

    async fn fetch(&self, ctx: &PageContext<Self>) -> Result<Page<Key, ExportRow>, PageError> {
        let (args, range) = (ctx.args(), ctx.range());
        let page = if args.high_water_mark == HighWaterMark::NoRows {
            Page::empty()
        } else {
            let table = self.table(args).await?;
            let columns = selected(&table, args)?;
            let read = columns.iter().map(|column| column.encoding);
            if !read.eq(args.encodings.iter().copied()) {
                return Err(TableError::since_the_start(PageError::non_retryable(
                    "TableAltered",
                    "the types of the columns are not those of the start",
                )));
            }
            let end = range.end().or(args.high_water_mark.key());
            let rows = table.cells(&columns, range.start(), end, ctx.page_size());
            let rows = rows.await?.into_iter();
            let rows = rows.map(|(key, cells)| ExportRow { key, cells });
            Page::sorted(rows.collect(), |row: &ExportRow| row.key.clone())?
        };
        self.sink(args)?.fetched(ctx, &page).await?;
        Ok(page)
    }

    async fn process(
        &self,
        ctx: &PageContext<Self>,
        items: Vec<ExportRow>,
    ) -> Result<PageReport, PageError> {
        let rows: Vec<_> = items.into_iter().map(|row| row.cells).collect();
        self.sink(ctx.args())?.write_cells(ctx, &rows).await?;
        Ok(PageReport::all_processed())
    }

    async fn skip_ahead(
        &self,
        ctx: &PageContext<Self>,
        pages: u32,
    ) -> Result<SkipAhead<Key>, PageError> {
        if ctx.args().high_water_mark == HighWaterMark::NoRows {
            return Ok(SkipAhead::PastEnd);
        }
        let mark = ctx.args().high_water_mark.key();
        let table = self.table(ctx.args()).await?;
        table.skip_ahead(ctx, pages, mark).await
    }

    async fn prepare(&self, mut args: ExportArgs) -> Result<ExportArgs, PageError> {
        let table = self.check_args(&args).await?;
        let columns = selected(&table, &args)?;
        args.encodings = columns.iter().map(|column| column.encoding).collect();
        let generated = columns.iter().filter(|column| column.generated);
        args.generated = generated.map(|column| column.name.clone()).collect();
        args.columns = columns.iter().map(|column| column.name.clone()).collect();
        if args.high_water_mark == HighWaterMark::AtStart {
            args.high_water_mark = HighWaterMark::of(&table).await?;
        }
        Ok(args)
    }

    async fn check(&self, ctx: &CheckContext<Self>) -> Result<Option<Check>, PageError> {
        self.sink(ctx.args())?.finish(ctx).await
    }

    async fn size(&self, args: &ExportArgs) -> Result<Size, PageError> {
        if args.high_water_mark == HighWaterMark::NoRows {
            return Ok(Size::Exact(0));
        }
        self.table(args).await?.size().await
    }

    fn settings(&self) -> ProcessorSettings {
        ProcessorSettings {
            page_timeout: Duration::from_secs(900),
            ..ProcessorSettings::default()
        }
    }
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    #[test]
    fn a_worker_writes_through_no_symbolic_link_below_its_directory() {
        let folder = tempfile::tempdir().unwrap();
        let (base, outside) = (folder.path().join("base"), folder.path().join("outside"));
        std::fs::create_dir_all(base.join("real")).unwrap();
        std::fs::create_dir(&outside).unwrap();
        std::os::unix::fs::symlink(&outside, base.join("link")).unwrap();
        std::os::unix::fs::symlink(&base, folder.path().join("way")).unwrap();
        let refused = |base: &Path, to: PathBuf, concatenate: Option<PathBuf>| {
            let export = SqlExport::new(Connections::new()).within(base);
            let mut args = ExportArgs::new(crate::sql::TableSpec::new("t", ["id"]), to);
            args.concatenate = concatenate;
            let refused = export.check_paths(&args).err();
            refused.map(|error| error.message().to_owned())
        };
        assert_eq!(refused(&base, base.join("real/new"), None), None);
        assert_eq!(refused(&base, base.join("new/new"), None), None);
        // The path to the directory itself is the worker's own choice.
        let way = folder.path().join("way");
        assert_eq!(refused(&way, way.join("new"), None), None);
        for (to, concatenate) in [
            (base.join("link"), None),
            (base.join("link/new"), None),
            (base.join("real"), Some(base.join("link/all.csv"))),
        ] {
            let message = refused(&base, to, concatenate).unwrap();
            assert!(message.contains("is a symbolic link"), "{message}");
        }
        let message = refused(&base, outside, None).unwrap();
        assert!(message.contains("writes only below"), "{message}");
    }
}
