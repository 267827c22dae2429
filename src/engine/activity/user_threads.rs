//! Threads for user code, which may block them: pages, hooks, and all other methods of a processor.
//!
//! The work of the worker itself (polls, signs of life, time limits, signals) runs on the runtime on which it
//! was started, and never waits for these threads. They belong to the process, so that no runtime waits for
//! them when it ends. A blocked thread cannot be ended. It is left behind, and more threads are created when
//! too many are blocked.

use std::{
    collections::BTreeMap,
    future::Future,
    io,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    thread::available_parallelism,
    time::{Duration, Instant},
};

use futures::{FutureExt as _, future::BoxFuture};
use tokio::{
    runtime::{Builder, EnterGuard, Runtime},
    sync::oneshot,
    task::JoinHandle,
};
use tracing::Instrument as _;

use crate::base::error::{PageError, text::words};

/// Time without yielding after which a thread counts as blocked.
const BLOCKED_AFTER: Duration = Duration::from_secs(5);
const LOOK_EVERY: Duration = Duration::from_secs(1);
const FEWEST_THREADS: usize = 4;
const MAX_POOLS: usize = 16;
/// Maximum number of calls of one name that were abandoned and still occupy their threads.
const MAX_LEFT_BEHIND: usize = 4;
/// Threads for tasks that side calls spawn. The calls themselves have their own threads.
const THREADS_BESIDE: usize = 2;

/// The threads of this process for user code. Clones share them.
#[derive(Clone, Copy)]
pub(crate) struct UserThreads(&'static Threads);

struct Threads {
    per_pool: usize,
    pools: Mutex<Vec<&'static Pool>>,
    beside: Runtime,
    left_behind: Mutex<BTreeMap<String, usize>>,
}

/// Threads that share a set of strides.
struct Pool {
    runtime: Runtime,
    threads: usize,
    blocked: AtomicUsize,
}

impl Pool {
    fn new(threads: usize) -> io::Result<&'static Self> {
        Ok(Box::leak(Box::new(Self {
            runtime: runtime("temporal-batch-pages", threads)?,
            threads,
            blocked: AtomicUsize::new(0),
        })))
    }

    fn has_room(&self) -> bool {
        self.blocked.load(Ordering::Relaxed) * 2 < self.threads
    }

    fn is_blocked(&self) -> bool {
        self.blocked.load(Ordering::Relaxed) >= self.threads
    }
}

fn runtime(name: &str, threads: usize) -> io::Result<Runtime> {
    Builder::new_multi_thread()
        .worker_threads(threads)
        .thread_name(name)
        .enable_all()
        .build()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl UserThreads {
    /// Returns the threads of this process, creating them on first use.
    pub fn of_process() -> io::Result<Self> {
        static THREADS: Mutex<Option<UserThreads>> = Mutex::new(None);
        let mut threads = lock(&THREADS);
        if let Some(threads) = *threads {
            return Ok(threads);
        }
        let cores = available_parallelism().map_or(1, usize::from);
        Ok(*threads.insert(Self::new(cores.max(FEWEST_THREADS))?))
    }

    fn new(per_pool: usize) -> io::Result<Self> {
        Ok(Self(Box::leak(Box::new(Threads {
            per_pool,
            pools: Mutex::new(vec![Pool::new(per_pool)?]),
            beside: runtime("temporal-batch-hooks", THREADS_BESIDE)?,
            left_behind: Mutex::default(),
        }))))
    }

    /// Runs a stride, which shares its thread with others.
    pub fn run<T: Send + 'static>(
        self,
        stride: impl Future<Output = T> + Send + 'static,
    ) -> Job<T> {
        let pool = self.pool();
        let turn = Arc::new(Turn {
            pool,
            state: Mutex::default(),
        });
        let work: Work<T> = Arc::new(Mutex::new(Some(stride.in_current_span().boxed())));
        let watched = Watched {
            work: Arc::clone(&work),
            turn: Arc::clone(&turn),
        };
        Job {
            task: pool.runtime.spawn(watched),
            work,
            turn,
            threads: self,
        }
    }

    /// Runs a side call on a thread of its own. If the caller stops waiting, the call is dropped as soon as its
    /// code yields. Further calls of a name are refused while several abandoned calls have not yielded.
    pub async fn beside<T: Send + 'static>(
        self,
        name: &str,
        call: impl Future<Output = T> + Send + 'static,
    ) -> Result<T, PageError> {
        let left_behind = lock(&self.0.left_behind).get(name).copied();
        if left_behind.is_some_and(|calls| calls >= MAX_LEFT_BEHIND) {
            let message = format_args!("{MAX_LEFT_BEHIND} earlier calls still block their threads");
            return Err(PageError::retryable(message).with_type("ThreadsBlocked"));
        }
        let (_waits, nobody_waits) = oneshot::channel::<()>();
        let state = Arc::new(Call {
            threads: self.0,
            name: name.to_owned(),
            stands: Mutex::new(CallStands::Awaited),
        });
        let _awaited = Awaited(Arc::clone(&state));
        let has_thread = HasThread(state);
        let (handle, call) = (self.0.beside.handle().clone(), call.in_current_span());
        let task = self.0.beside.spawn_blocking(move || {
            let _has_thread = has_thread;
            handle.block_on(async {
                tokio::select! {
                    biased;
                    done = call => Some(done),
                    _ = nobody_waits => None,
                }
            })
        });
        match task.await {
            Ok(Some(done)) => Ok(done),
            Ok(None) => std::future::pending().await,
            Err(ended) => match ended.try_into_panic() {
                Ok(panic) => Err(PageError::panicked(&*panic)),
                Err(_) => std::future::pending().await,
            },
        }
    }

    /// Makes tasks that are spawned while the guard exists run on the threads of side calls.
    pub fn enter(self) -> EnterGuard<'static> {
        self.0.beside.enter()
    }

    /// Returns the first pool with enough free threads, creating one if necessary.
    fn pool(self) -> &'static Pool {
        let mut pools = lock(&self.0.pools);
        if let Some(pool) = pools.iter().find(|pool| pool.has_room()) {
            return pool;
        }
        if pools.len() < MAX_POOLS {
            match Pool::new(self.0.per_pool) {
                Ok(pool) => {
                    let pools_now = pools.len() + 1;
                    tracing::warn!(
                        pools = pools_now,
                        "user code blocks too many threads; creating more"
                    );
                    pools.push(pool);
                    return pool;
                }
                Err(error) => {
                    tracing::warn!(
                        error = words(&error),
                        "cannot create more threads for user code"
                    );
                }
            }
        }
        let least = pools
            .iter()
            .min_by_key(|pool| pool.blocked.load(Ordering::Relaxed));
        least.expect("the first pool is never taken away")
    }

    fn has_room(self) -> bool {
        let pools = lock(&self.0.pools);
        pools.len() < MAX_POOLS || pools.iter().any(|pool| pool.has_room())
    }
}

/// A side call.
struct Call {
    threads: &'static Threads,
    name: String,
    stands: Mutex<CallStands>,
}

#[derive(Clone, Copy, PartialEq)]
enum CallStands {
    Awaited,
    LeftBehind,
    Ended,
}

impl Call {
    fn left_behind(&self, change: impl FnOnce(&mut usize)) {
        let mut left_behind = lock(&self.threads.left_behind);
        let calls = left_behind.entry(self.name.clone()).or_default();
        change(calls);
        if *calls == 0 {
            left_behind.remove(&self.name);
        }
    }
}

/// A guard of a caller that waits for the call.
struct Awaited(Arc<Call>);

impl Drop for Awaited {
    fn drop(&mut self) {
        let mut stands = lock(&self.0.stands);
        if *stands == CallStands::Awaited {
            *stands = CallStands::LeftBehind;
            self.0.left_behind(|calls| *calls += 1);
        }
    }
}

/// A guard of a call that has a thread or waits for one.
struct HasThread(Arc<Call>);

impl Drop for HasThread {
    fn drop(&mut self) {
        let mut stands = lock(&self.0.stands);
        if *stands == CallStands::LeftBehind {
            self.0.left_behind(|calls| *calls -= 1);
        }
        *stands = CallStands::Ended;
    }
}

/// A running stride. When this is dropped, the stride is dropped as soon as its code yields.
pub(crate) struct Job<T> {
    task: JoinHandle<T>,
    work: Work<T>,
    turn: Arc<Turn>,
    threads: UserThreads,
}

/// The reason why a stride makes no progress.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Obstruction {
    /// The code of the stride has not yielded for this long.
    Blocks(Duration),
    /// Other strides block all its threads, and there are free ones elsewhere.
    Starves,
}

impl<T> Job<T> {
    /// Waits for the end of the stride, or for a replacement that `instead` returns for its trouble.
    pub async fn ended(mut self, mut instead: impl FnMut(Obstruction) -> Option<T>) -> T {
        loop {
            match tokio::time::timeout(LOOK_EVERY, &mut self.task).await {
                Ok(Ok(done)) => return done,
                Ok(Err(ended)) => match ended.try_into_panic() {
                    Ok(panic) => std::panic::resume_unwind(panic),
                    // The task was cancelled together with its runtime.
                    Err(_) => return std::future::pending().await,
                },
                Err(_) => {
                    if let Some(end) = self.trouble().and_then(&mut instead) {
                        return end;
                    }
                }
            }
        }
    }

    fn trouble(&self) -> Option<Obstruction> {
        match self.turn.lasts() {
            Some(lasts) => Some(Obstruction::Blocks(lasts)),
            None if self.turn.pool.is_blocked() && self.threads.has_room() => {
                Some(Obstruction::Starves)
            }
            None => None,
        }
    }
}

impl<T> Drop for Job<T> {
    fn drop(&mut self) {
        self.task.abort();
        // A waiting stride is dropped here: its pool may have no free thread to do so, and the stride may hold
        // locks.
        let waits = match self.work.try_lock() {
            Ok(mut work) => work.take(),
            Err(_) => None,
        };
        drop(waits);
        self.turn.left_behind();
    }
}

/// The time for which a stride occupies its thread, until it next waits.
struct Turn {
    pool: &'static Pool,
    state: Mutex<TurnState>,
}

#[derive(Default)]
struct TurnState {
    since: Option<Instant>,
    blocks: bool,
}

impl Turn {
    fn begin(&self) -> InTurn<'_> {
        lock(&self.state).since = Some(Instant::now());
        InTurn(self)
    }

    /// Returns how long the stride has occupied its thread.
    fn lasts(&self) -> Option<Duration> {
        let mut state = lock(&self.state);
        let lasts = state.since?.elapsed();
        if lasts >= BLOCKED_AFTER && !state.blocks {
            self.blocks(&mut state);
            tracing::warn!(
                "a page blocks its thread; code that blocks belongs on tokio::task::spawn_blocking"
            );
        }
        Some(lasts)
    }

    /// Counts a turn as blocked that is no longer observed.
    fn left_behind(&self) {
        let mut state = lock(&self.state);
        if state.since.is_some() && !state.blocks {
            self.blocks(&mut state);
        }
    }

    fn blocks(&self, state: &mut TurnState) {
        state.blocks = true;
        self.pool.blocked.fetch_add(1, Ordering::Relaxed);
    }
}

struct InTurn<'a>(&'a Turn);

impl Drop for InTurn<'_> {
    fn drop(&mut self) {
        let mut state = lock(&self.0.state);
        if std::mem::take(&mut *state).blocks {
            self.0.pool.blocked.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

/// A stride, until it is dropped.
type Work<T> = Arc<Mutex<Option<BoxFuture<'static, T>>>>;

/// A stride whose turns are timed.
struct Watched<T> {
    work: Work<T>,
    turn: Arc<Turn>,
}

impl<T> Future for Watched<T> {
    type Output = T;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<T> {
        let mut work = lock(&self.work);
        let _turn = self.turn.begin();
        match &mut *work {
            Some(work) => work.as_mut().poll(cx),
            None => Poll::Pending,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    /// Blocks its thread until the sender is dropped or sends.
    fn blocker() -> (mpsc::Sender<()>, impl Future<Output = &'static str> + Send) {
        let (let_go, blocks) = mpsc::channel::<()>();
        let work = async move {
            let _ = blocks.recv();
            "by itself"
        };
        (let_go, work)
    }

    #[tokio::test]
    async fn a_stride_that_blocks_its_thread_is_left_behind_and_others_go_on() {
        let threads = UserThreads::new(1).unwrap();
        let (let_go, blocks) = blocker();
        let blocked = threads.run(blocks);
        let starved = threads.run(async { "by itself" });
        let starved = tokio::spawn(starved.ended(|trouble| {
            assert_eq!(trouble, Obstruction::Starves);
            Some("elsewhere")
        }));
        let mut lasted = Duration::ZERO;
        let end = blocked.ended(|trouble| match trouble {
            Obstruction::Blocks(lasts) => {
                lasted = lasts;
                (lasts >= BLOCKED_AFTER).then_some("left behind")
            }
            Obstruction::Starves => None,
        });
        assert_eq!(end.await, "left behind");
        assert!(lasted >= BLOCKED_AFTER, "{lasted:?}");
        assert_eq!(starved.await.unwrap(), "elsewhere");
        let other = threads.run(async { "by itself" });
        assert_eq!(other.ended(|_| None).await, "by itself");
        assert_eq!(lock(&threads.0.pools).len(), 2);

        drop(let_go);
        while lock(&threads.0.pools)[0].is_blocked() {
            tokio::task::yield_now().await;
        }
        let first = lock(&threads.0.pools)[0];
        assert!(std::ptr::eq(threads.pool(), first), "it has room again");
    }

    #[tokio::test]
    async fn a_stride_that_is_left_behind_counts_at_once_and_others_are_dropped_without_a_thread() {
        let threads = UserThreads::new(1).unwrap();
        let held = Arc::new(());
        let holds = Arc::clone(&held);
        let (begins, begun) = oneshot::channel();
        let waits = threads.run(async move {
            let _holds = holds;
            let _ = begins.send(());
            std::future::pending::<()>().await;
        });
        begun.await.unwrap();
        let (begins, begun) = oneshot::channel();
        let (_let_go, blocks) = blocker();
        let blocked = threads.run(async move {
            let _ = begins.send(());
            blocks.await
        });
        begun.await.unwrap();
        drop(blocked);
        assert!(lock(&threads.0.pools)[0].is_blocked());
        while lock(&waits.turn.state).since.is_some() {
            tokio::task::yield_now().await;
        }
        drop(waits);
        assert_eq!(Arc::strong_count(&held), 1);
    }

    #[tokio::test]
    async fn a_stride_that_nobody_waits_for_is_dropped() {
        let threads = UserThreads::new(1).unwrap();
        let held = Arc::new(());
        let holds = Arc::clone(&held);
        drop(threads.run(async move {
            let _holds = holds;
            std::future::pending::<()>().await;
        }));
        while Arc::strong_count(&held) > 1 {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn calls_that_block_are_refused_when_several_are_left_behind() {
        let threads = UserThreads::new(1).unwrap();
        let mut blocked = Vec::new();
        for _ in 0..MAX_LEFT_BEHIND {
            let (let_go, blocks) = blocker();
            let called = threads.beside("tracker", blocks);
            let called = tokio::time::timeout(Duration::from_millis(20), called).await;
            assert!(called.is_err(), "it blocks");
            blocked.push(let_go);
        }
        let refused = threads.beside("tracker", async {}).await.unwrap_err();
        assert_eq!(refused.error_type(), "ThreadsBlocked");
        threads.beside("another", async {}).await.unwrap();
        drop(blocked);
        while threads.beside("tracker", async {}).await.is_err() {
            tokio::task::yield_now().await;
        }
        // The first call that ends makes room; the others end by themselves.
        while !lock(&threads.0.left_behind).is_empty() {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn a_call_that_waits_for_ever_is_dropped_and_no_reason_to_refuse_others() {
        let threads = UserThreads::new(1).unwrap();
        for _ in 0..2 * MAX_LEFT_BEHIND {
            let waits = threads.beside("tracker", std::future::pending::<()>());
            let waited = tokio::time::timeout(Duration::from_millis(5), waits).await;
            assert!(waited.is_err());
            while !lock(&threads.0.left_behind).is_empty() {
                tokio::task::yield_now().await;
            }
        }
        let panics = threads.beside("tracker", async { panic!("as asked") });
        let error: Result<(), _> = panics.await;
        assert!(error.unwrap_err().message().contains("as asked"));
    }
}
