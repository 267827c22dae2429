//! The peers: workflows that only schedule no-op activities, with the SDK and without this crate.

use std::time::Duration;

use temporalio_client::{
    Client, WorkflowGetResultOptions, WorkflowSignalOptions, WorkflowStartOptions,
};
use temporalio_sdk::{
    ActivityOptions, Runtime, SyncWorkflowContext, WorkerOptions, WorkflowContext, WorkflowResult,
    activities::{ActivityContext, ActivityError},
};

use super::Error;

pub struct Bare;

#[temporalio_macros::activities]
impl Bare {
    #[activity(name = "bare.page")]
    async fn page(_ctx: ActivityContext, _page: u64) -> Result<(), ActivityError> {
        Ok(())
    }

    /// An activity that announces the next page, and does nothing else.
    #[activity(name = "bare.link")]
    async fn link(ctx: ActivityContext, page: u64) -> Result<(), ActivityError> {
        let id = ctx.info().workflow_id.clone();
        let chain = ctx
            .client()
            .get_workflow_handle::<BareChain>(id.unwrap_or_default());
        let options = WorkflowSignalOptions::default();
        let sent = chain.signal(BareChain::next, page + 1, options).await;
        sent.map_err(ActivityError::from)
    }
}

fn options() -> ActivityOptions {
    ActivityOptions::start_to_close_timeout(Duration::from_secs(60))
}

/// A workflow with a fixed number of activities in flight, whose pages are all known.
#[temporalio_macros::workflow]
#[derive(Default)]
struct BareKnown;

#[temporalio_macros::workflow_methods]
impl BareKnown {
    #[run(name = "bare.known")]
    async fn run(
        ctx: &mut WorkflowContext<Self>,
        (pages, parallel): (u64, u64),
    ) -> WorkflowResult<()> {
        let lane = |first| {
            let ctx = &*ctx;
            async move {
                let mut page = first;
                while page < pages {
                    ctx.execute_activity(Bare::page, page, options()).await?;
                    page += parallel;
                }
                Ok::<_, temporalio_sdk::ActivityExecutionError>(())
            }
        };
        for done in temporalio_sdk::workflows::join_all((0..parallel).map(lane)).await {
            done?;
        }
        Ok(())
    }
}

/// A workflow with a fixed number of activities in flight, each of which announces the next page.
#[temporalio_macros::workflow]
#[derive(Default)]
struct BareChain {
    known: u64,
}

#[temporalio_macros::workflow_methods]
impl BareChain {
    #[run(name = "bare.chain")]
    async fn run(
        ctx: &mut WorkflowContext<Self>,
        (pages, parallel): (u64, u64),
    ) -> WorkflowResult<()> {
        let lane = |first| {
            let ctx = &*ctx;
            async move {
                let mut page = first;
                while page < pages {
                    ctx.wait_condition(move |s| s.known >= page).await?;
                    ctx.execute_activity(Bare::link, page, options()).await?;
                    page += parallel;
                }
                Ok::<_, temporalio_sdk::WorkflowTermination>(())
            }
        };
        for done in temporalio_sdk::workflows::join_all((0..parallel).map(lane)).await {
            done?;
        }
        Ok(())
    }

    #[signal(name = "next")]
    fn next(&mut self, _ctx: &mut SyncWorkflowContext<Self>, page: u64) {
        self.known = self.known.max(page);
    }
}

/// The workflow of a peer.
#[derive(Clone, Copy, Debug)]
pub enum Peer {
    Known,
    /// Independent pages, with the most eager activities that a worker may take.
    KnownEager,
    Chain,
}

impl Peer {
    /// The most activities that may be returned with a workflow task.
    pub fn eager(self) -> usize {
        match self {
            Self::Known | Self::Chain => 3,
            Self::KnownEager => 100,
        }
    }

    pub async fn complete(
        self,
        client: &Client,
        queue: &str,
        id: String,
        pages: u64,
        parallel: u32,
    ) -> Result<(), Error> {
        let options = WorkflowStartOptions::new(queue, id).build();
        let (input, get) = (
            (pages, u64::from(parallel)),
            WorkflowGetResultOptions::default(),
        );
        match self {
            Self::Known | Self::KnownEager => {
                let handle = client
                    .start_workflow(BareKnown::run, input, options)
                    .await?;
                handle.get_result(get).await?;
            }
            Self::Chain => {
                let handle = client
                    .start_workflow(BareChain::run, input, options)
                    .await?;
                handle.get_result(get).await?;
            }
        }
        Ok(())
    }
}

/// Runs a worker for both workflows, with the SDK's defaults except for eager activities, of which 3 are the default.
pub async fn serve(
    client: Client,
    queue: &str,
    eager: usize,
    stop: impl Future<Output = ()>,
) -> Result<(), Error> {
    let options = WorkerOptions::new(queue)
        .register_workflow::<BareKnown>()?
        .register_workflow::<BareChain>()?
        .register_activities(Bare)
        .max_eager_activity_reservations_per_workflow_task(eager)
        .build();
    let runtime = Runtime::from_current_tokio(Default::default())?;
    let mut worker = temporalio_sdk::Worker::new(&runtime, client, options)?;
    let shut_down = worker.shutdown_handle();
    let (ran, ()) = tokio::join!(worker.run(), async {
        stop.await;
        shut_down();
    });
    Ok(ran?)
}
