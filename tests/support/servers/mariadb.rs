//! A throwaway MariaDB for tests: its own data in a temporary folder, on its own port, which ends with the test process
//! (see `throwaway.rs`). Running services are not touched.

use std::{ffi::OsStr, ops::Deref, path::PathBuf, sync::OnceLock};

use sqlx::{
    AssertSqlSafe, Connection, Executor, MySqlConnection, MySqlPool, mysql::MySqlPoolOptions,
};

use super::throwaway::{self, Throwaway};

/// The script that runs the server. Its arguments are the folder of the server, its executables (the one that creates
/// the data, the server, and the one that checks that it is running), and `on` or `off` for fsync.
///
/// The socket is in the data folder, and is named by a relative path: a whole path may be at most 107 bytes long.
/// Signals from the terminal are for the tests; a closed standard output must not end the cleanup.
const SCRIPT: &str = r#"
trap '' PIPE INT HUP
folder=$1 install=$2 server=$3 admin=$4 fsync=$5
pid=
cd "$folder" || exit 1
exec 2>"$folder/shell.log"
# Servers that start at the same time take each other's temporary tables away where they share a folder.
mkdir tmp && export TMPDIR="$folder/tmp" || exit 1
if [ "$fsync" = on ]; then
    sync='--innodb-flush-log-at-trx-commit=1'
else
    sync='--innodb-flush-log-at-trx-commit=2 --innodb-flush-method=nosync --innodb-doublewrite=0'
fi
"$install" --no-defaults --datadir="$folder/data" --auth-root-authentication-method=normal \
    --skip-test-db --skip-name-resolve --innodb-log-file-size=16M --innodb-flush-method=nosync \
    </dev/null >&2
echo "init $?"
start() {
    "$server" --no-defaults --datadir="$folder/data" --socket=socket --pid-file=pid --port="$1" \
        --bind-address=127.0.0.1 --skip-name-resolve --max-connections=300 \
        --character-set-server=utf8mb4 --innodb-buffer-pool-size=32M --innodb-log-file-size=16M \
        $sync </dev/null >>server.log 2>&1 &
    pid=$!
    tries=300
    until (cd data && "$admin" --no-defaults --socket=socket -u root ping </dev/null >/dev/null 2>&1); do
        kill -0 "$pid" && tries=$((tries - 1)) && [ "$tries" -gt 0 ] || return 1
        sleep 0.1
    done
}
stop() {
    [ -n "$pid" ] || return 0
    kill "-$1" "$pid"
    wait "$pid"
    pid=
}
while read -r command argument; do
    case "$command $argument" in
        start*) start "$argument" || { stop KILL; false; } ;;
        *fast) stop TERM ;;
        *immediate) stop KILL ;;
    esac
    echo "$command $?"
done
stop KILL
cd / && rm -rf "$folder"
"#;

/// A running server. Its only account is `root`, without a password.
#[derive(Debug)]
pub struct MariaDb {
    server: Throwaway,
}

impl Deref for MariaDb {
    type Target = Throwaway;

    fn deref(&self) -> &Throwaway {
        &self.server
    }
}

impl MariaDb {
    /// The server that all tests of this process share. `None` where MariaDB is not installed; standard error then has
    /// a line with `SKIPPED:`, which `.ci/run` counts.
    pub fn shared() -> Option<&'static Self> {
        static SHARED: OnceLock<Option<MariaDb>> = OnceLock::new();
        let shared = SHARED.get_or_init(|| Self::launch(false)).as_ref();
        if shared.is_none() {
            Self::skip();
        }
        shared
    }

    /// Starts a separate server, for tests that stop it. `fsync` is needed only where the machine itself may crash, or
    /// where its time is measured.
    pub fn launch(fsync: bool) -> Option<Self> {
        let [install, server, admin] = executables()?;
        let fsync = if fsync { "on" } else { "off" };
        let arguments: [&OsStr; 4] = [
            install.as_ref(),
            server.as_ref(),
            admin.as_ref(),
            fsync.as_ref(),
        ];
        let server = Throwaway::launch("mariadb", "mysql", SCRIPT, &arguments);
        Some(Self { server })
    }

    /// Reports that a test did not run because the server is not installed.
    pub fn skip() {
        throwaway::skip("MariaDB", "mariadb-server");
    }

    /// Creates a database for one test and returns its URL.
    pub async fn database(&self, test: &str) -> String {
        let name = self.server.database_name(test);
        let mut admin = MySqlConnection::connect(&self.url("mysql")).await.unwrap();
        let create = format!("CREATE DATABASE `{name}`");
        admin.execute(AssertSqlSafe(create)).await.unwrap();
        admin.close().await.unwrap();
        self.url(&name)
    }

    /// Creates a database for one test and returns a pool of at most `connections` to it.
    pub async fn pool(&self, test: &str, connections: u32) -> MySqlPool {
        let url = self.database(test).await;
        MySqlPoolOptions::new()
            .max_connections(connections)
            .connect(&url)
            .await
            .unwrap()
    }

    /// The URL of an existing database; `mysql` always exists.
    pub fn url(&self, database: &str) -> String {
        // Without TLS each connection saves a round trip.
        format!(
            "mysql://root@127.0.0.1:{}/{database}?ssl-mode=DISABLED",
            self.port()
        )
    }
}

/// The executables that create the data, run the server, and check that it is running.
fn executables() -> Option<[PathBuf; 3]> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    // Debian's folder of the server, which is not on the path of every user.
    let usual = ["/usr/sbin", "/usr/libexec", "/usr/local/sbin"].map(PathBuf::from);
    let folders: Vec<PathBuf> = std::env::split_paths(&path).chain(usual).collect();
    let find = |name: &str| folders.iter().map(|f| f.join(name)).find(|p| p.is_file());
    Some([
        find("mariadb-install-db")?,
        find("mariadbd")?,
        find("mariadb-admin")?,
    ])
}
