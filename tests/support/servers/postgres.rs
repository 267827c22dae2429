//! A throwaway PostgreSQL for tests: its own cluster in a temporary folder, on its own port, which ends with the test
//! process (see `throwaway.rs`). Running services are not touched.

use std::{
    ffi::OsStr,
    ops::Deref,
    path::{Path, PathBuf},
    sync::OnceLock,
};

use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection, PgPool, postgres::PgPoolOptions};

use super::throwaway::{self, Throwaway};

/// The script that runs the server. Its arguments are the folder of the cluster, the folder of the executables, `on` or
/// `off` for fsync, and for a replica the port of its primary.
///
/// Signals from the terminal are for the tests; a closed standard output must not end the cleanup.
const SCRIPT: &str = r#"
trap '' PIPE INT HUP
unset PGDATA
folder=$1 bin=$2 fsync=$3 primary=$4
cd "$folder" || exit 1
exec 2>"$folder/shell.log"
if [ -n "$primary" ]; then
    "$bin/pg_basebackup" -D data -h 127.0.0.1 -p "$primary" -U postgres --write-recovery-conf \
        --checkpoint=fast --no-sync </dev/null >&2
else
    "$bin/initdb" -D data -U postgres -A trust -E UTF8 --locale=C --no-sync </dev/null >&2 &&
        cat >>data/postgresql.conf <<END
listen_addresses = '127.0.0.1'
unix_socket_directories = ''
max_connections = 300
max_prepared_transactions = 10
shared_buffers = 32MB
fsync = $fsync
full_page_writes = $fsync
END
fi
echo "init $?"
while read -r command argument; do
    case "$command" in
        start) "$bin/pg_ctl" start -D data -w -t 30 -l server.log -o "-p $argument" </dev/null >&2 ;;
        stop) "$bin/pg_ctl" stop -D data -w -t 30 -m "$argument" </dev/null >&2 ;;
    esac
    echo "$command $?"
done
[ ! -e data/postmaster.pid ] || "$bin/pg_ctl" stop -D data -w -t 30 -m immediate </dev/null >&2
cd / && rm -rf "$folder"
"#;

/// A running cluster.
#[derive(Debug)]
pub struct Postgres {
    server: Throwaway,
}

impl Deref for Postgres {
    type Target = Throwaway;

    fn deref(&self) -> &Throwaway {
        &self.server
    }
}

impl Postgres {
    /// The cluster that all tests of this process share. `None` where PostgreSQL is not installed; standard error then
    /// has a line with `SKIPPED:`, which `.ci/run` counts.
    pub fn shared() -> Option<&'static Self> {
        static SHARED: OnceLock<Option<Postgres>> = OnceLock::new();
        let shared = SHARED.get_or_init(|| Self::launch(false)).as_ref();
        if shared.is_none() {
            Self::skip();
        }
        shared
    }

    /// Starts a separate cluster, for tests that stop it. `fsync` is needed only where the machine itself may crash, or
    /// where its time is measured.
    pub fn launch(fsync: bool) -> Option<Self> {
        Self::launch_as(fsync, None)
    }

    /// Starts a streaming replica of this cluster, without fsync. It is a readable copy that follows the cluster from
    /// now on.
    pub fn replica(&self) -> Self {
        Self::launch_as(false, Some(self.port())).expect("the primary was launched")
    }

    fn launch_as(fsync: bool, primary: Option<u16>) -> Option<Self> {
        let executables = executables()?;
        let fsync = if fsync { "on" } else { "off" };
        let primary = primary.map_or_else(String::new, |port| port.to_string());
        let arguments: [&OsStr; 3] = [executables.as_ref(), fsync.as_ref(), primary.as_ref()];
        let server = Throwaway::launch("postgres", "postgres", SCRIPT, &arguments);
        Some(Self { server })
    }

    /// The folder of `initdb`, `pg_ctl` and `postgres`; `None` where PostgreSQL is not installed.
    pub fn executables() -> Option<PathBuf> {
        executables()
    }

    /// Reports that a test did not run because the server is not installed.
    pub fn skip() {
        throwaway::skip("PostgreSQL", "postgresql");
    }

    /// Creates a database for one test and returns its URL.
    pub async fn database(&self, test: &str) -> String {
        let name = self.server.database_name(test);
        let mut admin = PgConnection::connect(&self.url("postgres")).await.unwrap();
        let create = format!("CREATE DATABASE \"{name}\"");
        admin.execute(AssertSqlSafe(create)).await.unwrap();
        admin.close().await.unwrap();
        self.url(&name)
    }

    /// Creates a database for one test and returns a pool of at most `connections` to it.
    pub async fn pool(&self, test: &str, connections: u32) -> PgPool {
        let url = self.database(test).await;
        PgPoolOptions::new()
            .max_connections(connections)
            .connect(&url)
            .await
            .unwrap()
    }

    /// The URL of an existing database: `postgres`, or a copied one.
    pub fn url(&self, database: &str) -> String {
        // Without TLS each connection saves a round trip.
        format!(
            "postgres://postgres@127.0.0.1:{}/{database}?sslmode=disable",
            self.port()
        )
    }
}

/// The folder with `initdb`, `pg_ctl` and `postgres`: the one on `PATH`, or the newest of the usual ones.
fn executables() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let on_path = std::env::split_paths(&path)
        .filter_map(|folder| std::fs::canonicalize(folder.join("initdb")).ok())
        .filter_map(|initdb| initdb.parent().map(Path::to_owned));
    let usual = [
        ("/usr/lib/postgresql", ""),
        ("/usr", "pgsql-"),
        ("/opt/homebrew/opt", "postgresql"),
        ("/usr/local/opt", "postgresql"),
        ("/Applications/Postgres.app/Contents/Versions", ""),
    ];
    let usual = usual.into_iter().flat_map(|(parent, prefix)| {
        let entries = std::fs::read_dir(parent).into_iter().flatten().flatten();
        let mut versions: Vec<_> = entries
            .filter(|e| e.file_name().to_string_lossy().starts_with(prefix))
            .map(|e| e.path())
            .collect();
        versions.sort_by_key(|version| {
            let name = version.file_name().unwrap_or_default().to_string_lossy();
            let number = name.trim_start_matches(|c: char| !c.is_ascii_digit());
            std::cmp::Reverse(number.parse::<u32>().unwrap_or_default())
        });
        versions.into_iter().map(|version| version.join("bin"))
    });
    let all_there = |folder: &PathBuf| {
        let there = |name| folder.join(name).is_file();
        ["initdb", "pg_ctl", "postgres", "pg_basebackup"]
            .into_iter()
            .all(there)
    };
    on_path.chain(usual).find(all_there)
}
