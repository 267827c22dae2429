//! A watch from another connection over the lock waits of a session.

use std::{collections::BTreeSet, time::Duration};

use sqlx::{Pool, pool::PoolConnection};
use tokio::{
    sync::oneshot,
    task::JoinHandle,
    time::{Instant, sleep, timeout},
};

use crate::sql::backend::{dialect::Dialect, value::Value};

/// The time between two looks; shorter waits are not seen.
const INTERVAL: Duration = Duration::from_millis(20);
/// The longest wait for the second connection. Without it, the dry run continues unwatched.
const CONNECT: Duration = Duration::from_secs(5);

/// The lock wait of a page.
#[derive(Clone, Debug, Default)]
pub(super) struct LockWait {
    pub waited: Duration,
    /// The sessions that had the lock.
    pub blockers: BTreeSet<String>,
}

/// Returns a connection to watch with. It must be taken before the page's transaction, which could otherwise hold the
/// last one of the pool.
pub(super) async fn watcher<DB: Dialect>(pool: &Pool<DB>) -> Option<PoolConnection<DB>> {
    DB::WAITS?;
    timeout(CONNECT, pool.acquire()).await.ok()?.ok()
}

/// A session that is being watched.
pub(super) struct Watch {
    stop: oneshot::Sender<()>,
    watching: JoinHandle<Option<LockWait>>,
}

impl Watch {
    /// Begins to watch the session of a connection.
    pub async fn begin<DB: Dialect>(
        watcher: Option<PoolConnection<DB>>,
        session: &mut DB::Connection,
    ) -> Option<Self> {
        let (who, waits) = DB::WAITS?;
        let watcher = watcher?;
        let rows = DB::rows(session, who.to_owned(), Vec::new()).await.ok()?;
        let number = DB::number(rows.first()?, 0).ok()?;
        let (stop, stopped) = oneshot::channel();
        let watching = tokio::spawn(watch::<DB>(watcher, waits, number, stopped));
        Some(Self { stop, watching })
    }

    /// Ends the watch, and returns the wait. `None` if the database did not answer.
    pub async fn end(self) -> Option<LockWait> {
        drop(self.stop);
        self.watching.await.ok()?
    }
}

/// Watches until the sender of `stopped` is dropped, which also happens when the dry run is dropped.
async fn watch<DB: Dialect>(
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
