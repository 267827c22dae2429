//! The users of the database: pgbench, with transactions at random times.
//!
//! ```text
//!   scheduled ---- waits for a free connection ---- begins ---- ends
//!       |<------------------------ latency --------------------->|
//! ```
//!
//! The schedule does not wait for answers, so a transaction that has to wait for slow ones before it counts with its
//! whole wait.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use sqlx::PgPool;
use tokio::process::{Child, Command};

use super::{Error, servers::Postgres};

/// The longest wait for pgbench to end after its connections were closed.
const END: Duration = Duration::from_secs(30);

pub struct Pgbench {
    program: PathBuf,
    /// The folder for logs. It is that of the cluster, and deleted with it.
    folder: PathBuf,
    port: u16,
    database: String,
    clients: u32,
}

/// A running foreground, which ends when it is dropped.
pub struct Load {
    child: Child,
    log: PathBuf,
    clients: u32,
}

/// One transaction, in seconds of the clock.
#[derive(Clone, Copy, Debug)]
pub struct Transaction {
    pub scheduled: f64,
    pub ended: f64,
}

/// The latencies of the users over some time.
#[derive(Clone, Copy, Debug, serde::Serialize)]
pub struct Seen {
    pub transactions: usize,
    pub tps: f64,
    pub p50_ms: f64,
    pub p99_ms: f64,
    pub max_ms: f64,
}

impl Pgbench {
    pub fn new(executables: &Path, cluster: &Postgres, database: &str, clients: u32) -> Self {
        Self {
            program: executables.join("pgbench"),
            folder: cluster.folder().to_owned(),
            port: cluster.port(),
            database: database.to_owned(),
            clients,
        }
    }

    fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command
            .args(["-h", "127.0.0.1", "-U", "postgres", "-p"])
            .arg(self.port.to_string())
            .stdin(Stdio::null())
            .kill_on_drop(true);
        command
    }

    /// Creates the tables of pgbench.
    pub async fn fill(&self, scale: u32) -> Result<(), Error> {
        let mut command = self.command();
        command.args(["-i", "-q", "-s"]).arg(scale.to_string());
        ended_well(command.arg(&self.database).output().await?)
    }

    /// Measures the transactions per second without any pause between them.
    pub async fn most(&self, lasting: Duration) -> Result<f64, Error> {
        let seconds = lasting.as_secs().max(1);
        let log = self.folder.join("calibration");
        let mut command = self.bench(&log);
        command.arg("-T").arg(seconds.to_string());
        let child = command.arg(&self.database).spawn()?;
        let log = log_of(&log, &child)?;
        ended_well(child.wait_with_output().await?)?;
        Ok(transactions(&log)?.len() as f64 / seconds as f64)
    }

    /// Starts this many transactions per second, at random times.
    pub fn start(&self, tps: f64) -> Result<Load, Error> {
        let log = self.folder.join("foreground");
        let mut command = self.bench(&log);
        // pgbench is ended from outside, because the duration of the warm-up is unknown.
        command.args(["-T", "36000", "-R"]).arg(format!("{tps:.3}"));
        let child = command.arg(&self.database).spawn()?;
        Ok(Load {
            log: log_of(&log, &child)?,
            child,
            clients: self.clients,
        })
    }

    fn bench(&self, log: &Path) -> Command {
        let mut prefix = std::ffi::OsString::from("--log-prefix=");
        prefix.push(log);
        let mut command = self.command();
        command
            .args(["-n", "-M", "prepared", "-j", "1", "-l", "-c"])
            .arg(self.clients.to_string())
            .arg(prefix)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }
}

impl Load {
    /// Ends pgbench and reads its log. The server closes its connections: on a signal, pgbench would lose the end of
    /// its log.
    pub async fn stop(mut self, pool: &PgPool) -> Result<Vec<Transaction>, Error> {
        if self.child.try_wait()?.is_some() {
            return Err(failed(self.child.wait_with_output().await?));
        }
        let end = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
            WHERE application_name = 'pgbench'";
        let ended: i64 = sqlx::query_scalar(end).fetch_one(pool).await?;
        let output = tokio::time::timeout(END, self.child.wait_with_output());
        let output = output.await.map_err(|_| "pgbench does not end")??;
        if ended != i64::from(self.clients) {
            return Err(failed(output));
        }
        transactions(&self.log)
    }
}

fn log_of(prefix: &Path, child: &Child) -> Result<PathBuf, Error> {
    let id = child.id().ok_or("pgbench has ended")?;
    Ok(prefix.with_extension(id.to_string()))
}

fn failed(output: std::process::Output) -> Error {
    let said = String::from_utf8_lossy(&output.stderr);
    format!("pgbench: {}: {said}", output.status).into()
}

fn ended_well(output: std::process::Output) -> Result<(), Error> {
    match output.status.success() {
        true => Ok(()),
        false => Err(failed(output)),
    }
}

/// Reads a log and removes it.
fn transactions(log: &Path) -> Result<Vec<Transaction>, Error> {
    let text = std::fs::read_to_string(log)?;
    std::fs::remove_file(log)?;
    let transactions = text.lines().map(|line| {
        // client, number, microseconds since the scheduled time, script, seconds and microseconds of the end
        let columns: Vec<&str> = line.split(' ').collect();
        let number = |at: usize| columns.get(at).and_then(|n| n.parse::<f64>().ok());
        let ended = number(4).zip(number(5)).map(|(s, us)| s + us / 1e6);
        match (ended, number(2)) {
            (Some(ended), Some(latency)) => Ok(Transaction {
                scheduled: ended - latency / 1e6,
                ended,
            }),
            _ => Err(format!("pgbench logged {line:?}").into()),
        }
    });
    transactions.collect()
}

/// The latencies of the transactions that were scheduled between the two times.
pub fn seen(transactions: &[Transaction], from: SystemTime, to: SystemTime) -> Result<Seen, Error> {
    let (from, to) = (seconds(from)?, seconds(to)?);
    let scheduled = transactions
        .iter()
        .filter(|t| (from..to).contains(&t.scheduled));
    let mut latencies: Vec<f64> = scheduled.map(|t| (t.ended - t.scheduled) * 1e3).collect();
    if latencies.is_empty() {
        return Err("no transaction of the foreground in the measured time".into());
    }
    latencies.sort_by(f64::total_cmp);
    let ended = transactions
        .iter()
        .filter(|t| (from..to).contains(&t.ended));
    Ok(Seen {
        transactions: latencies.len(),
        tps: ended.count() as f64 / (to - from),
        p50_ms: super::quantile(&latencies, 0.5),
        p99_ms: super::quantile(&latencies, 0.99),
        max_ms: super::quantile(&latencies, 1.0),
    })
}

fn seconds(time: SystemTime) -> Result<f64, Error> {
    Ok(time.duration_since(UNIX_EPOCH)?.as_secs_f64())
}
