//! Thousands of items.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use temporal_batch::{PageError, async_trait};
use temporal_batch_fanout::{Fanout, FanoutWorker, ItemContext, ItemProcessor};

use crate::{
    actions,
    jobs::lengths,
    support::{TestEnv, connect, settings::setting},
};

/// Counts how many items are processed at once.
#[derive(Clone, Default)]
struct Count {
    now: Arc<AtomicUsize>,
    most: Arc<AtomicUsize>,
    all: Arc<AtomicUsize>,
}

#[async_trait]
impl ItemProcessor for Count {
    const NAME: &'static str = "count";
    type Item = usize;
    type Output = usize;

    fn id(item: &usize) -> String {
        format!("{item:05}")
    }

    async fn process(&self, _ctx: &ItemContext, item: usize) -> Result<usize, PageError> {
        let now = self.now.fetch_add(1, Ordering::SeqCst) + 1;
        self.most.fetch_max(now, Ordering::SeqCst);
        self.all.fetch_add(1, Ordering::SeqCst);
        tokio::task::yield_now().await;
        self.now.fetch_sub(1, Ordering::SeqCst);
        Ok(item)
    }
}

/// The long form is `FANOUT_ITEMS=5000 FANOUT_WINDOW=500 FANOUT_EVENTS=6000`, which takes some minutes on an idle machine.
#[tokio::test]
async fn many_items_keep_to_the_window_and_to_bounded_histories() {
    let server = actions::server().await;
    let env = TestEnv::at(&server.address(), "many").await;
    let items: usize = setting("FANOUT_ITEMS", 400);
    let window: u32 = setting("FANOUT_WINDOW", 100);
    let count = Count::default();
    let client = connect(&env.address).await;
    let worker = FanoutWorker::new(&client, &env.queue).processor(count.clone());
    let _worker = worker.start().unwrap();
    let fanout = Fanout::over::<Count>(env.new_id(), 0..items)
        .task_queue(&env.queue)
        .window(window)
        .events_per_run(setting("FANOUT_EVENTS", 1_000));
    let began = Instant::now();
    let handle = fanout.start(&env.client).await.unwrap();
    let most_open = Arc::new(AtomicUsize::new(0));
    let watching = {
        let (handle, most_open) = (handle.clone(), Arc::clone(&most_open));
        tokio::spawn(async move {
            loop {
                if let Ok(progress) = handle.progress().await {
                    let open = usize::try_from(progress.in_flight).unwrap();
                    most_open.fetch_max(open, Ordering::SeqCst);
                }
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        })
    };
    let limit = Duration::from_secs(180 + items as u64);
    let report = tokio::time::timeout(limit, handle.result()).await;
    let report = report.expect("the fan-out ends in time").unwrap();
    let took = began.elapsed();
    watching.abort();
    assert_eq!(report.progress.completed, items as u64);
    assert_eq!(report.progress.failed, 0);
    assert_eq!(count.all.load(Ordering::SeqCst), items);
    let lengths = lengths(&env, handle.id()).await;
    let events: usize = lengths.iter().sum();
    println!(
        "{items} items in {took:?}: {} runs with {lengths:?} events, {:.1} events an item; at most {} open, {} at once",
        report.runs,
        events as f64 / items as f64,
        most_open.load(Ordering::SeqCst),
        count.most.load(Ordering::SeqCst),
    );
    let mut actions = actions::actions(&server).await;
    actions.retain(|of_type, _| !of_type.contains("query"));
    let all: f64 = actions.values().sum();
    let per_item = all / items as f64;
    println!("{per_item:.2} actions an item: {actions:?}");
    assert!(lengths.len() > 1, "{lengths:?}");
    assert!(lengths.iter().all(|events| *events < 10_000), "{lengths:?}");
    assert!(most_open.load(Ordering::SeqCst) <= window as usize);
    assert!(count.most.load(Ordering::SeqCst) <= window as usize);
    assert!(
        most_open.load(Ordering::SeqCst) > 0,
        "the fan-out was never seen at work"
    );
}
