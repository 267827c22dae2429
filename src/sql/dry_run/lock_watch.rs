//! Watches from another connection whether a session waits for a lock, and for whom.

use std::{collections::BTreeSet, time::Duration};

use sqlx::{Pool, pool::PoolConnection};
use tokio::{
    sync::oneshot,
    task::JoinHandle,
    time::{Instant, sleep, timeout},
};

use crate::sql::{backend::dialect::Value, backfill::Session};

/// Between two looks; shorter waits are not seen.
const INTERVAL: Duration = Duration::from_millis(20);
/// For the second connection. Without it the dry run goes on unwatched.
const CONNECT: Duration = Duration::from_secs(5);

/// What a page waited for.
#[derive(Clone, Debug, Default)]
pub(super) struct LockWait {
    pub waited: Duration,
    /// Who had the lock.
    pub blockers: BTreeSet<String>,
}

/// A database that can say of a session that it waits.
pub(super) trait Watched: Session {
    /// The number of the session, and what is asked of it: a text if it waits, with who is waited for.
    const QUESTIONS: Option<(&'static str, &'static str)>;
}

#[cfg(feature = "postgres")]
impl Watched for sqlx::Postgres {
    const QUESTIONS: Option<(&'static str, &'static str)> = Some((
        "SELECT pg_backend_pid()::bigint",
        "SELECT coalesce(string_agg(
                format('process %s (%s)', blocker.pid,
                    concat_ws(', ', nullif(blocker.application_name, ''), blocker.state)), '; '),
                'an unknown process')
            FROM pg_stat_activity waiting
            LEFT JOIN pg_stat_activity blocker ON blocker.pid = ANY (pg_blocking_pids(waiting.pid))
            WHERE waiting.pid = $1::bigint::int AND waiting.wait_event_type = 'Lock'
            HAVING count(waiting.pid) > 0",
    ));
}

#[cfg(feature = "mysql")]
impl Watched for sqlx::MySql {
    const QUESTIONS: Option<(&'static str, &'static str)> = Some((
        "SELECT CAST(connection_id() AS SIGNED)",
        "SELECT 'another transaction' FROM information_schema.innodb_trx
            WHERE trx_mysql_thread_id = $1 AND trx_state = 'LOCK WAIT'",
    ));
}

#[cfg(feature = "sqlite")]
impl Watched for sqlx::Sqlite {
    /// It has one writer, who waits when the transaction begins.
    const QUESTIONS: Option<(&'static str, &'static str)> = None;
}

/// A connection to watch with. It must be had before the page's transaction, which could otherwise hold the
/// last one of the pool.
pub(super) async fn watcher<DB: Watched>(pool: &Pool<DB>) -> Option<PoolConnection<DB>> {
    DB::QUESTIONS?;
    timeout(CONNECT, pool.acquire()).await.ok()?.ok()
}

/// A session that is being watched.
pub(super) struct Watch {
    stop: oneshot::Sender<()>,
    watching: JoinHandle<Option<LockWait>>,
}

impl Watch {
    /// Begins to watch the session of a connection.
    pub async fn begin<DB: Watched>(
        watcher: Option<PoolConnection<DB>>,
        session: &mut DB::Connection,
    ) -> Option<Self> {
        let (who, waits) = DB::QUESTIONS?;
        let watcher = watcher?;
        let rows = DB::rows(session, who.to_owned(), Vec::new()).await.ok()?;
        let number = DB::number(rows.first()?, 0).ok()?;
        let (stop, stopped) = oneshot::channel();
        let watching = tokio::spawn(watch::<DB>(watcher, waits, number, stopped));
        Some(Self { stop, watching })
    }

    /// `None`: the database would not say.
    pub async fn end(self) -> Option<LockWait> {
        drop(self.stop);
        self.watching.await.ok()?
    }
}

/// Ends once the other half of `stopped` is gone, which it also is when the dry run is dropped.
async fn watch<DB: Watched>(
    mut connection: PoolConnection<DB>,
    waits: &'static str,
    session: i64,
    mut stopped: oneshot::Receiver<()>,
) -> Option<LockWait> {
    let mut wait = LockWait::default();
    let mut last = Instant::now();
    loop {
        tokio::select! {
            _ = &mut stopped => return Some(wait),
            () = sleep(INTERVAL) => {}
        }
        let question = (waits.to_owned(), vec![Value::from(session)]);
        let rows = DB::rows(&mut connection, question.0, question.1)
            .await
            .ok()?;
        let now = Instant::now();
        if let Some(row) = rows.first() {
            wait.waited += now - last;
            wait.blockers.extend(DB::text(row, 0).ok()?);
        }
        last = now;
    }
}
