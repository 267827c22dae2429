//! Batch runs that are terminated or deleted while one of their pages is read: the page is not processed.

use std::time::Duration;

use async_trait::async_trait;
use temporal_batch::{
    Batch, BatchHandle, Outcome, Page, PageContext, PageError, PageProcessor, PageReport,
    ProcessorSettings, SkipAhead,
};
use temporalio_client::{UntypedWorkflow, WorkflowDescribeOptions, tonic::IntoRequest as _};
use temporalio_common::protos::temporal::api::{
    common::v1::WorkflowExecution, workflowservice::v1::DeleteWorkflowExecutionRequest,
};

use crate::{
    numbers_processor::Shared,
    support::{TestEnv, eventually, report, within},
};

const PAGES: u32 = 4;

/// A processor with two pages a stride. In the first batch run, the second page is read until it is cancelled: its end
/// is known by then, so that it has nothing to announce.
#[derive(Clone, Default)]
struct LongRead {
    /// The id of the first batch run.
    first: Shared<Option<String>>,
    read: Shared<Vec<(String, u32)>>,
    told: Shared<bool>,
    processed: Shared<Vec<(String, u32)>>,
}

#[async_trait]
impl PageProcessor for LongRead {
    const NAME: &'static str = "long-read";
    type Args = ();
    type Cursor = u32;
    type Item = u32;

    async fn fetch(&self, ctx: &PageContext<Self>) -> Result<Page<u32, u32>, PageError> {
        let page = ctx.range().start().map_or(1, |last| last + 1);
        let run = ctx.batch_run().to_owned();
        let first = self.first.lock().get_or_insert(run.clone()).clone();
        self.read.lock().push((run.clone(), page));
        if page == 2 && run == first {
            ctx.cancelled().await;
            *self.told.lock() = true;
        }
        Page::keyset((page <= PAGES).then_some(page).into_iter().collect(), |n| {
            *n
        })
    }

    async fn process(
        &self,
        ctx: &PageContext<Self>,
        items: Vec<u32>,
    ) -> Result<PageReport, PageError> {
        let mut processed = self.processed.lock();
        processed.extend(items.iter().map(|page| (ctx.batch_run().to_owned(), *page)));
        Ok(PageReport::all_processed())
    }

    async fn skip_ahead(
        &self,
        ctx: &PageContext<Self>,
        pages: u32,
    ) -> Result<SkipAhead<u32>, PageError> {
        let to = ctx.range().start().unwrap_or(&0) + pages;
        Ok(match to <= PAGES {
            true => SkipAhead::To(to),
            false => SkipAhead::PastEnd,
        })
    }

    fn settings(&self) -> ProcessorSettings {
        ProcessorSettings {
            // There is one heartbeat at the start, and none that could report the end of the run.
            heartbeat_timeout: Duration::from_secs(3_600),
            ..ProcessorSettings::default()
        }
    }
}

impl LongRead {
    fn pages_of_first(&self, of: &Shared<Vec<(String, u32)>>) -> Vec<u32> {
        let first = self.first.lock().clone();
        let all = of.lock();
        let pages = all.iter().filter(|(run, _)| Some(run) == first.as_ref());
        pages.map(|(_, page)| *page).collect()
    }
}

/// Waits until the second page is being read and has sent its only heartbeat.
async fn reads_for_long(env: &TestEnv, long: &LongRead, batch: &Batch) -> BatchHandle {
    let handle = env.start(batch).await;
    let temporal = env.client.temporal();
    let workflow = temporal.get_workflow_handle::<UntypedWorkflow>(batch.id());
    eventually(
        "the second page is being read, and its stride has sent a heartbeat",
        || async {
            let read = long.pages_of_first(&long.read);
            let description = workflow.describe(WorkflowDescribeOptions::default()).await;
            let description = description.unwrap();
            let pending = &description.raw().pending_activities;
            let alive = pending.iter().any(|p| p.last_heartbeat_time.is_some());
            (read == [1, 2] && alive).then_some(())
        },
    )
    .await;
    handle
}

async fn terminate(env: &TestEnv, batch: &Batch) {
    let temporal = env.client.temporal();
    let workflow = temporal.get_workflow_handle::<UntypedWorkflow>(batch.id());
    workflow.terminate(Default::default()).await.unwrap();
}

async fn delete(env: &TestEnv, batch: &Batch) {
    let request = DeleteWorkflowExecutionRequest {
        namespace: "default".to_owned(),
        workflow_execution: Some(WorkflowExecution {
            workflow_id: batch.id().to_owned(),
            run_id: String::new(),
        }),
    };
    let mut service = env.client.temporal().connection().workflow_service();
    let deleted = service.delete_workflow_execution(request.into_request());
    deleted.await.unwrap();
}

/// The strides of a worker are over once it has stopped.
#[tokio::test]
async fn a_page_being_read_while_its_batch_run_is_terminated_or_deleted_is_not_processed() {
    for deletes in [false, true] {
        let env = TestEnv::new("gone").await;
        let long = LongRead::default();
        let worker = env.worker(long.clone()).await;
        let batch = env.batch::<LongRead>(()).stride(2).max_parallelism(1);
        reads_for_long(&env, &long, &batch).await;
        match deletes {
            true => delete(&env, &batch).await,
            false => terminate(&env, &batch).await,
        }
        eventually("the page is cancelled", || async {
            (*long.told.lock()).then_some(())
        })
        .await;
        within("the worker stops", worker.stop()).await.unwrap();
        assert_eq!(
            long.pages_of_first(&long.processed),
            [1],
            "deleted: {deletes}"
        );
    }
}

/// Signals go to the id of the batch, so they reach the other batch run, which ignores them.
#[tokio::test]
async fn a_page_being_read_while_its_batch_is_rerun_is_not_processed_for_the_old_run() {
    let env = TestEnv::new("gone-rerun").await;
    let long = LongRead::default();
    let worker = env.worker(long.clone()).await;
    let batch = env.batch::<LongRead>(()).stride(2).max_parallelism(1);
    let first = reads_for_long(&env, &long, &batch).await;
    terminate(&env, &batch).await;
    drop(first);
    let again = env.start(&batch.rerun(true)).await;
    eventually("the page is cancelled", || async {
        (*long.told.lock()).then_some(())
    })
    .await;
    let report = report(&again).await;
    assert_eq!(report.outcome, Outcome::Completed);
    assert_eq!(report.progress.items.processed, u64::from(PAGES));
    within("the worker stops", worker.stop()).await.unwrap();
    assert_eq!(long.pages_of_first(&long.processed), [1]);
}
