//! The contents of records, and the passwords of databases, are in no history, memo, search attribute, metric or log
//! line, whether batches succeed or fail. Whole keys are in no log line and in no metric; histories contain them as
//! tokens.

use std::process::Command;

use futures::TryStreamExt as _;
use prost::Message as _;
use temporal_batch::{
    Batch, BatchReport, Outcome, RunningWorker, Worker,
    files::CsvSource,
    metrics::Metrics,
    sql::{
        BackfillArgs, Connections, DEFAULT_CONNECTION, Database, DatabaseOptions, ExportArgs,
        ImportArgs, SqlBackfill, SqlExport, SqlImport, SqlLedger, TableSpec,
    },
    store::LetterFilter,
};
use temporalio_client::{
    UntypedWorkflow, WorkflowDescribeOptions, WorkflowExecutionInfo, WorkflowFetchHistoryOptions,
    WorkflowHandle, WorkflowListOptions,
};

use crate::support::{
    TestEnv, connect,
    databases::with_pool,
    eventually, logged, progress_shows, report, server_address,
    servers::{MariaDb, Postgres},
};

const ROWS: u32 = 12;

/// Texts that exist nowhere else.
struct Planted {
    value: String,
    key: String,
    password: String,
}

/// A database with planted records, and expressions whose errors may reveal them.
struct Home {
    database: Database,
    url: String,
    planted: Planted,
    folder: tempfile::TempDir,
    /// An expression that fails. The database's message has the text of the column `secret`, unless the database never
    /// quotes values.
    fails: &'static str,
    /// A condition that fails in the same way.
    fails_to_read: &'static str,
    /// Whether the database's messages quote values of rows.
    quotes_values: bool,
}

impl Planted {
    fn new(database: &str) -> Self {
        let unique = uuid::Uuid::new_v4().simple().to_string();
        // The text is longer than the part of a token that is shown.
        let text = |what| format!("planted-{what}-of-{database}-{unique}");
        Self {
            value: text("value"),
            key: text("key"),
            password: text("password"),
        }
    }
}

impl Home {
    async fn on_postgres() -> Option<Self> {
        let server = Postgres::shared()?;
        let planted = Planted::new("postgres");
        let url = server.database("planted").await;
        let url = url.replace("postgres@", &format!("postgres:{}@", planted.password));
        let fails = "CASE WHEN secret LIKE '%-5' THEN CAST(secret AS integer) ELSE n + 1 END";
        let fails_to_read = "CAST(secret AS integer) > 0";
        Some(Self::new(url, planted, (fails, fails_to_read, true)).await)
    }

    async fn on_mariadb() -> Option<Self> {
        let server = MariaDb::shared()?;
        let planted = Planted::new("mariadb");
        let url = server.database("planted").await;
        let (user, password) = ("planted", &planted.password);
        let admin = sqlx::MySqlPool::connect(&url).await.unwrap();
        let grant = format!("GRANT ALL ON *.* TO {user}@'%' IDENTIFIED BY '{password}'");
        sqlx::raw_sql(sqlx::AssertSqlSafe(grant))
            .execute(&admin)
            .await
            .unwrap();
        let url = url.replace("root@", &format!("{user}:{password}@"));
        let fails = "CASE WHEN secret LIKE '%-5' THEN secret ELSE n + 1 END";
        let fails_to_read = "n * 9223372036854775807 * 9 > id";
        Some(Self::new(url, planted, (fails, fails_to_read, true)).await)
    }

    async fn on_sqlite() -> Option<Self> {
        let planted = Planted::new("sqlite");
        let fails = "CASE WHEN secret LIKE '%-5' THEN json_extract('{}', secret) ELSE n + 1 END";
        let fails_to_read = "json_extract('{}', secret) IS NULL";
        Some(Self::new(String::new(), planted, (fails, fails_to_read, true)).await)
    }

    async fn new(
        mut url: String,
        planted: Planted,
        (fails, fails_to_read, quotes_values): (&'static str, &'static str, bool),
    ) -> Self {
        let folder = tempfile::tempdir().unwrap();
        if url.is_empty() {
            let file = folder.path().join("planted.db");
            std::fs::write(&file, "").unwrap();
            url = format!("sqlite:{}", file.display());
        }
        let options = DatabaseOptions::from_url(&url).unwrap();
        let home = Self {
            database: Database::connect(&options).await.unwrap(),
            url,
            planted,
            folder,
            fails,
            fails_to_read,
            quotes_values,
        };
        with_pool!(&home.database, pool => {
            SqlLedger::new(pool.clone()).apply_schema().await.unwrap();
        });
        let Planted { value, key, .. } = &home.planted;
        let rows: Vec<_> = (1..=ROWS)
            .map(|row| format!("('{key}-{row:02}', '{value}-{row}', 1)"))
            .collect();
        home.script(&format!(
            "CREATE TABLE t (id VARCHAR(150) NOT NULL PRIMARY KEY, secret VARCHAR(150) NOT NULL UNIQUE, n INTEGER NOT NULL);
            CREATE TABLE u (id VARCHAR(150) NOT NULL PRIMARY KEY, secret VARCHAR(150) NOT NULL UNIQUE, n INTEGER NOT NULL);
            INSERT INTO t VALUES {};
            INSERT INTO u VALUES ('{key}-07', '{value}-in-the-way', 1)",
            rows.join(", ")
        ))
        .await;
        home
    }

    async fn script(&self, statements: &str) {
        let statements = sqlx::AssertSqlSafe(statements.to_owned());
        with_pool!(&self.database, pool => {
            sqlx::raw_sql(statements).execute(pool).await.map(|_| ()).unwrap();
        });
    }

    /// The database's message about the failing expression.
    async fn message(&self) -> String {
        let statement = sqlx::AssertSqlSafe(format!("UPDATE t SET n = {}", self.fails));
        with_pool!(&self.database, pool => {
            sqlx::raw_sql(statement).execute(pool).await.map(|_| ()).unwrap_err().to_string()
        })
    }

    fn connections(&self) -> Connections {
        Connections::new().with(DEFAULT_CONNECTION, self.database.clone())
    }

    /// A file with the same columns, with a value that is no number, a duplicate key, and a record that is too short.
    fn csv(&self) -> std::path::PathBuf {
        let Planted { value, key, .. } = &self.planted;
        let mut text = "id,secret,n\n".to_owned();
        for row in 1..=ROWS {
            text += &match row {
                4 => format!("{key}-04,{value}-4,{value}\n"),
                9 => format!("{key}-09,{value}-9\n"),
                row => format!("{key}-{row:02},{value}-{row},1\n"),
            };
        }
        let file = self.folder.path().join("planted.csv");
        std::fs::write(&file, text).unwrap();
        file
    }
}

fn table() -> TableSpec {
    TableSpec::new("t", ["id"])
}

struct Plant {
    home: Home,
    env: TestEnv,
    metrics: Metrics,
    worker: RunningWorker,
}

impl Plant {
    async fn new(home: Home, name: &str) -> Self {
        let env = TestEnv::new(name).await;
        let metrics = Metrics::new();
        let client = connect(server_address()).await;
        let worker = Worker::new(&client, &env.queue)
            .processor(SqlBackfill::new(home.connections()))
            .processor(SqlImport::new(home.connections()))
            .processor(SqlExport::new(home.connections()))
            .metrics(metrics.clone())
            .start()
            .unwrap();
        Self {
            home,
            env,
            metrics,
            worker,
        }
    }

    async fn run(&self, batch: Batch) -> BatchReport {
        self.env.run(&batch.page_size(3)).await
    }

    async fn redrive(&self, of: &BatchReport) -> BatchReport {
        let filter = LetterFilter::of(&of.progress.batch_id);
        let redrive = self.env.client.redrive(filter).await.unwrap();
        report(&redrive).await
    }

    async fn backfills(&self) {
        let good = BackfillArgs::of(table()).set("n", "n + 1").once(true);
        let good = self.run(self.env.batch::<SqlBackfill>(good)).await;
        assert_eq!(good.outcome, Outcome::Completed, "{good:?}");

        let message = self.home.message().await;
        let quotes_values = message.contains(&self.home.planted.value);
        assert_eq!(quotes_values, self.home.quotes_values, "{message}");
        let bad = BackfillArgs::of(table())
            .set("n", self.home.fails)
            .once(true);
        let bad = self.run(self.env.batch::<SqlBackfill>(bad)).await;
        assert_eq!(bad.outcome, Outcome::CompletedWithFailures, "{bad:?}");
        let again = self.redrive(&bad).await;
        assert_eq!(again.outcome, Outcome::CompletedWithFailures, "{again:?}");
        let taken = "UPDATE t SET secret = 'repaired' WHERE secret LIKE '%-5'";
        self.home.script(taken).await;
        let repaired = self.redrive(&bad).await;
        assert_eq!(repaired.outcome, Outcome::Completed, "{repaired:?}");

        // The column is unique, and all rows get the same value.
        let twice = BackfillArgs::of(table())
            .set("secret", "(SELECT max(u.secret) FROM u)")
            .once(true);
        let twice = self.run(self.env.batch::<SqlBackfill>(twice)).await;
        assert_eq!(twice.outcome, Outcome::CompletedWithFailures, "{twice:?}");
    }

    async fn imports(&self) {
        let args = ImportArgs::new(CsvSource::new(self.home.csv()), "u");
        let bad = self.run(self.env.batch::<SqlImport>(args)).await;
        assert_eq!(bad.outcome, Outcome::CompletedWithFailures, "{bad:?}");
        // SQLite accepts a text as a number.
        assert!(bad.progress.items.failed >= 2, "{bad:?}");
        let again = self.redrive(&bad).await;
        assert_eq!(again.outcome, Outcome::CompletedWithFailures, "{again:?}");
    }

    async fn exports(&self) {
        let to = |folder: &str| self.home.folder.path().join(folder);
        let good = ExportArgs::new(table(), to("good"));
        let good = self.run(self.env.batch::<SqlExport>(good)).await;
        assert_eq!(good.outcome, Outcome::Completed, "{good:?}");

        let unreadable = table().filter(self.home.fails_to_read);
        let bad = ExportArgs::new(unreadable, to("bad"));
        let batch = self.env.batch::<SqlExport>(bad).page_size(3);
        let handle = self.env.start(&batch).await;
        let refused = async {
            let _ = handle.result().await;
        };
        let fails = progress_shows(&handle, "a page cannot be read", |p| {
            !p.failing.is_empty() || p.explanation.contains("tried again after")
        });
        tokio::select! {
            () = refused => return,
            _ = fails => {}
        }
        handle.cancel("for the test").await.unwrap();
        report(&handle).await;
    }

    /// All data that Temporal keeps of the batches on this task queue.
    async fn kept(&self) -> Vec<u8> {
        let client = self.env.client.temporal();
        let query = format!("TaskQueue = '{}'", self.env.queue);
        let listed = || async {
            let runs: Vec<_> = client
                .list_workflows(&query, WorkflowListOptions::default())
                .try_collect()
                .await
                .unwrap();
            let over = runs.iter().all(|run| run.close_time().is_some());
            (over && runs.len() >= 8).then_some(runs)
        };
        let mut kept = Vec::new();
        for run in eventually("all batches are listed as closed", listed).await {
            let info = WorkflowExecutionInfo::builder()
                .namespace("default")
                .workflow_id(run.id())
                .run_id(run.run_id())
                .build();
            let handle: WorkflowHandle<_, UntypedWorkflow> = info.bind_untyped(client.clone());
            let description = handle.describe(WorkflowDescribeOptions::default()).await;
            kept.extend(description.unwrap().raw().encode_to_vec());
            let history = handle.fetch_history(WorkflowFetchHistoryOptions::default());
            for event in history.into_events().await.unwrap() {
                kept.extend(event.encode_to_vec());
            }
        }
        kept
    }
}

fn holds(bytes: &[u8], text: &str) -> bool {
    bytes
        .windows(text.len())
        .any(|part| part == text.as_bytes())
}

/// Runs the command at the log level `debug`, at which the libraries below it log too.
fn commands(home: &Home) {
    let fails = format!("n = {}", home.fails);
    for (set, status) in [("n = n + 1", 0), (&*fails, 3)] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_temporal-batch"));
        command
            .args(["--address", server_address(), "--log-level", "debug"])
            .args([
                "backfill",
                "--table",
                "t",
                "--once",
                "--page-size",
                "3",
                "--set",
                set,
            ])
            .env("DATABASE_URL", &home.url)
            .env_remove("RUST_LOG")
            .stdin(std::process::Stdio::null());
        let output = command.output().unwrap();
        let said = [output.stdout, output.stderr].concat();
        let text = String::from_utf8_lossy(&said);
        assert_eq!(output.status.code(), Some(status), "{text}");
        assert!(text.contains("DEBUG"), "{text}");
        for planted in [&home.planted.value, &home.planted.password] {
            let line = text.lines().find(|line| line.contains(&**planted));
            assert_eq!(line, None, "the command printed a planted value");
        }
    }
}

async fn contents_of_records_are_not_revealed(home: Option<Home>, name: &str) {
    let Some(home) = home else {
        return;
    };
    tokio::task::block_in_place(|| commands(&home));
    let plant = Plant::new(home, name).await;
    plant.backfills().await;
    plant.imports().await;
    plant.exports().await;
    let (kept, log, metrics) = (plant.kept().await, logged(), plant.metrics.render());
    let Planted {
        value,
        key,
        password,
    } = &plant.home.planted;
    // The search finds values that do exist.
    assert!(holds(&kept, key), "no key was found in the histories");
    assert!(log.contains(&plant.env.queue), "the log is incomplete");
    assert!(
        metrics.contains("temporal_batch_dead_letters_total"),
        "{metrics}"
    );
    for planted in [value, password] {
        let place = kept
            .windows(planted.len())
            .position(|part| part == planted.as_bytes());
        let around = place.map(|at| {
            let around = at.saturating_sub(300)..(at + 200).min(kept.len());
            String::from_utf8_lossy(&kept[around]).into_owned()
        });
        assert_eq!(around, None, "a planted value is in a history");
    }
    for planted in [value, password, key] {
        let line = log.lines().find(|line| line.contains(planted));
        assert_eq!(line, None, "a planted value is in the log");
        assert!(!metrics.contains(planted), "{metrics}");
    }
    plant.worker.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn contents_of_records_are_not_revealed_with_postgresql() {
    contents_of_records_are_not_revealed(Home::on_postgres().await, "planted-postgres").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn contents_of_records_are_not_revealed_with_mariadb() {
    contents_of_records_are_not_revealed(Home::on_mariadb().await, "planted-mariadb").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn contents_of_records_are_not_revealed_with_sqlite() {
    contents_of_records_are_not_revealed(Home::on_sqlite().await, "planted-sqlite").await;
}
