//! A throwaway PgBouncer that gives each transaction another connection of a server, and ends with the test process
//! (see `throwaway.rs`).

use std::{ffi::OsStr, path::Path};

use super::throwaway::{self, Throwaway};

/// Arguments: the folder, the program, and the port of PostgreSQL.
const SCRIPT: &str = r#"
trap '' PIPE INT HUP
folder=$1 program=$2 server=$3
pid=
cd "$folder" || exit 1
exec 2>"$folder/shell.log"
echo "init 0"
start() {
    cat >pgbouncer.ini <<END
[databases]
* = host=127.0.0.1 port=$server user=postgres
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = $1
unix_socket_dir =
auth_type = any
pool_mode = transaction
default_pool_size = 5
max_client_conn = 200
END
    "$program" pgbouncer.ini </dev/null >>server.log 2>&1 &
    pid=$!
    tries=300
    until grep -q 'process up' server.log; do
        kill -0 "$pid" && tries=$((tries - 1)) && [ "$tries" -gt 0 ] || return 1
        sleep 0.1
    done
}
while read -r command argument; do
    [ "$command" != start ] || start "$argument"
    echo "$command $?"
done
[ -z "$pid" ] || kill -KILL "$pid"
cd / && rm -rf "$folder"
"#;

/// A running PgBouncer with five connections to the server for each database.
#[derive(Debug)]
pub struct PgBouncer {
    bouncer: Throwaway,
}

impl PgBouncer {
    /// Starts a PgBouncer in front of the PostgreSQL server on that port. `None` where it is not installed; standard
    /// error then has a line with `SKIPPED:`, which `.ci/run` counts.
    pub fn launch(server: u16) -> Option<Self> {
        let programs = [
            "/usr/sbin/pgbouncer",
            "/usr/bin/pgbouncer",
            "/usr/local/bin/pgbouncer",
        ];
        let Some(program) = programs.into_iter().find(|path| Path::new(path).exists()) else {
            throwaway::skip("PgBouncer", "pgbouncer");
            return None;
        };
        let server = server.to_string();
        let arguments: [&OsStr; 2] = [program.as_ref(), server.as_ref()];
        let bouncer = Throwaway::launch("pgbouncer", "postgres", SCRIPT, &arguments);
        Some(Self { bouncer })
    }

    /// The URL of a database of the server, through the proxy.
    pub fn url(&self, direct: &str) -> String {
        let mut url = url::Url::parse(direct).unwrap();
        url.set_port(Some(self.bouncer.port())).unwrap();
        url.query_pairs_mut()
            .append_pair("statement-cache-capacity", "0");
        url.into()
    }
}
