//! Items from files and tables.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use temporal_batch::{
    Page, PageContext, PageError, PageProcessor, PageReport, async_trait,
    files::{CsvSource, FilePosition},
    sql::{Key, Table, TableSpec},
    sqlx::Sqlite,
};
use temporal_batch_fanout::{
    Duplicates, Fanout, FanoutOutcome, FanoutWorker, ItemContext, ItemProcessor, failure_types,
};

use temporalio_client::{UntypedWorkflow, WorkflowStartOptions, WorkflowTerminateOptions};
use temporalio_common::data_converters::{PayloadConverter, RawValue};

use crate::{
    jobs::report,
    support::{TestEnv, connect, server_address},
};

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Order {
    number: i64,
    customer: String,
}

struct Fulfil;

#[async_trait]
impl ItemProcessor for Fulfil {
    const NAME: &'static str = "fulfil";
    type Item = Order;
    type Output = String;

    fn id(order: &Order) -> String {
        format!("ORDER-{}", order.number)
    }

    async fn process(&self, _ctx: &ItemContext, order: Order) -> Result<String, PageError> {
        Ok(format!("{} for {}", order.number, order.customer))
    }
}

/// The orders of a CSV file.
struct OrdersOfFile;

#[async_trait]
impl PageProcessor for OrdersOfFile {
    const NAME: &'static str = "orders-of-file";
    type Args = CsvSource;
    type Cursor = FilePosition;
    type Item = Order;

    async fn prepare(&self, source: CsvSource) -> Result<CsvSource, PageError> {
        source.prepare().await
    }

    async fn fetch(&self, ctx: &PageContext<Self>) -> Result<Page<FilePosition, Order>, PageError> {
        let page = ctx
            .args()
            .page::<Order>(ctx.range(), ctx.page_size())
            .await?;
        let next = match page.next() {
            temporal_batch::Next::At(position) => Some(*position),
            temporal_batch::Next::End => None,
        };
        let orders = page.items().iter().map(|record| match record.content() {
            Ok(order) => Ok(order.clone()),
            Err(bad) => Err(PageError::non_retryable("BadRecord", bad)),
        });
        Ok(Page::opaque(orders.collect::<Result<_, _>>()?, next))
    }

    async fn process(&self, _: &PageContext<Self>, _: Vec<Order>) -> Result<PageReport, PageError> {
        Ok(PageReport::all_processed())
    }
}

/// The orders of a table.
struct OrdersOfTable(Table);

#[async_trait]
impl PageProcessor for OrdersOfTable {
    const NAME: &'static str = "orders-of-table";
    type Args = Option<Key>;
    type Cursor = Key;
    type Item = Order;

    async fn prepare(&self, _: Option<Key>) -> Result<Option<Key>, PageError> {
        self.0.high_water_mark().await
    }

    async fn fetch(&self, ctx: &PageContext<Self>) -> Result<Page<Key, Order>, PageError> {
        let last = ctx.args().as_ref();
        let columns = ["number", "customer"];
        let page = self
            .0
            .page::<Sqlite, (i64, String), _>(ctx, &columns, last)
            .await?;
        let next = match page.next() {
            temporal_batch::Next::At(key) => Some(key.clone()),
            temporal_batch::Next::End => None,
        };
        let order = |(_, (number, customer)): &(Key, (i64, String))| Order {
            number: *number,
            customer: customer.clone(),
        };
        Ok(Page::opaque(page.items().iter().map(order).collect(), next))
    }

    async fn process(&self, _: &PageContext<Self>, _: Vec<Order>) -> Result<PageReport, PageError> {
        Ok(PageReport::all_processed())
    }
}

fn file(lines: impl IntoIterator<Item = String>) -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().unwrap();
    let lines: Vec<_> = lines.into_iter().collect();
    std::fs::write(
        file.path(),
        format!("number,customer\n{}\n", lines.join("\n")),
    )
    .unwrap();
    file
}

fn over_file(env: &TestEnv, file: &tempfile::NamedTempFile) -> Fanout {
    let source = CsvSource::new(file.path());
    Fanout::over_pages::<Fulfil, OrdersOfFile>(env.new_id(), &source)
        .task_queue(&env.queue)
        .window(10)
        .page_size(5)
}

async fn worker(env: &TestEnv) -> FanoutWorker {
    let client = connect(server_address()).await;
    FanoutWorker::new(&client, &env.queue).processor(Fulfil)
}

#[tokio::test]
async fn a_file_is_read_page_by_page_in_order() {
    let env = TestEnv::new("sources").await;
    let _worker = worker(&env).await.source(OrdersOfFile).start().unwrap();
    // The numbers repeat after 40, near and far.
    let lines = (0..44).map(|n| format!("{},customer {n}", n % 40));
    let file = file(lines.chain(["43,last".to_owned(), "43,near".to_owned()]));
    let handle = over_file(&env, &file).start(&env.client).await.unwrap();
    let report = report(&handle).await;
    assert_eq!(report.outcome, FanoutOutcome::Completed, "{report:#?}");
    let progress = report.progress;
    assert!(progress.all_read);
    assert_eq!(
        (progress.completed, progress.failed, progress.duplicates),
        (41, 0, 5),
        "{report:#?}"
    );
    let summary = report.result.unwrap();
    assert_eq!(summary["summary"][39]["output"], "39 for customer 39");
}

/// Items whose ids come again long after the first, when the fan-out has forgotten it and has continued as new.
fn with_far_duplicates() -> tempfile::NamedTempFile {
    let lines = (0..115).map(|n| format!("{n},customer {n}"));
    file(lines.chain([
        "0,again".to_owned(),
        "3,again".to_owned(),
        "0,thrice".to_owned(),
    ]))
}

#[tokio::test]
async fn a_duplicate_far_away_counts_once_whatever_run_the_first_was_in() {
    let env = TestEnv::new("sources").await;
    let _worker = worker(&env).await.source(OrdersOfFile).start().unwrap();
    let file = with_far_duplicates();
    let fanout = over_file(&env, &file).events_per_run(100);
    // In a rerun the ids of the first start are used too, and its children are no duplicates.
    for fanout in [fanout.clone(), fanout.rerun(true)] {
        let handle = fanout.start(&env.client).await.unwrap();
        let report = report(&handle).await;
        let progress = &report.progress;
        assert_eq!(
            (progress.completed, progress.failed, progress.duplicates),
            (115, 0, 3),
            "{report:#?}"
        );
        assert_eq!(progress.total, 115);
        assert!(report.runs > 2, "{report:#?}");
        let summary = report.result.unwrap();
        assert_eq!(summary["total_items"], 115);
        assert_eq!(summary["summary"][0]["output"], "0 for customer 0");
    }
}

#[tokio::test]
async fn a_refused_duplicate_far_away_is_a_failed_item() {
    let env = TestEnv::new("sources").await;
    let _worker = worker(&env).await.source(OrdersOfFile).start().unwrap();
    let file = with_far_duplicates();
    let fanout = over_file(&env, &file).duplicates(Duplicates::Refuse);
    let handle = fanout.start(&env.client).await.unwrap();
    let report = report(&handle).await;
    assert_eq!(
        (report.progress.completed, report.progress.failed),
        (118, 3)
    );
    assert!(
        report
            .failures
            .iter()
            .all(|failed| failed.failure.error_type == failure_types::DUPLICATE),
        "{report:#?}"
    );
}

/// A workflow that is no child of the fan-out is no duplicate, whether it runs or has ended.
#[tokio::test]
async fn an_id_that_another_workflow_has_is_a_failed_item() {
    let env = TestEnv::new("sources").await;
    let _worker = worker(&env).await.source(OrdersOfFile).start().unwrap();
    let file = file((0..3).map(|n| format!("{n},customer {n}")));
    let fanout = over_file(&env, &file);
    let client = env.client.temporal();
    for (order, ends) in [(0, false), (1, true)] {
        let id = format!("{}/item/ORDER-{order}", fanout.id());
        let options = WorkflowStartOptions::new(format!("{}-other", env.queue), id).build();
        let other = UntypedWorkflow::new("another");
        let input = RawValue::from_value(&(), &PayloadConverter::default());
        let other = client.start_workflow(other, input, options).await.unwrap();
        if ends {
            let options = WorkflowTerminateOptions::default();
            other.terminate(options).await.unwrap();
        }
    }
    let handle = fanout.start(&env.client).await.unwrap();
    let report = report(&handle).await;
    assert_eq!((report.progress.completed, report.progress.failed), (3, 2));
    assert_eq!(report.progress.duplicates, 0);
    assert!(
        report
            .failures
            .iter()
            .all(|failed| failed.failure.error_type == failure_types::CHILD_ID_TAKEN),
        "{report:#?}"
    );
}

#[tokio::test]
async fn a_table_is_read_page_by_page_in_the_order_of_its_key() {
    let env = TestEnv::new("sources").await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("orders.db");
    std::fs::write(&file, "").unwrap();
    let url = format!("sqlite:{}", file.display());
    let pool = temporal_batch::sqlx::SqlitePool::connect(&url)
        .await
        .unwrap();
    temporal_batch::sqlx::raw_sql(
        "CREATE TABLE orders (number INTEGER PRIMARY KEY, customer TEXT NOT NULL);
         WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 33)
         INSERT INTO orders SELECT i, 'customer ' || i FROM n;",
    )
    .execute(&pool)
    .await
    .unwrap();
    let table = Table::inspect(&pool.into(), &TableSpec::new("orders", ["number"]))
        .await
        .unwrap();
    let worker = worker(&env).await.source(OrdersOfTable(table));
    let _worker = worker.start().unwrap();
    let fanout = Fanout::over_pages::<Fulfil, OrdersOfTable>(env.new_id(), &None)
        .task_queue(&env.queue)
        .window(10)
        .page_size(5)
        .duplicates(Duplicates::Refuse);
    let handle = fanout.start(&env.client).await.unwrap();
    let report = report(&handle).await;
    assert_eq!((report.progress.completed, report.progress.failed), (33, 0));
    let summary = report.result.unwrap();
    let ids: Vec<_> = summary["summary"]
        .as_array()
        .unwrap()
        .iter()
        .map(|e| e["item_id"].clone())
        .collect();
    let expected: Vec<_> = (1..=33)
        .map(|n| Value::from(format!("ORDER-{n}")))
        .collect();
    assert_eq!(ids, expected);
}

#[tokio::test]
async fn a_file_that_cannot_be_read_fails_the_fan_out_and_names_the_record() {
    let env = TestEnv::new("sources").await;
    let _worker = worker(&env).await.source(OrdersOfFile).start().unwrap();
    let mut lines: Vec<_> = (0..12).map(|n| format!("{n},customer {n}")).collect();
    lines.push("twelve,x".to_owned());
    let file = file(lines);
    let handle = over_file(&env, &file).start(&env.client).await.unwrap();
    let report = report(&handle).await;
    assert_eq!(report.outcome, FanoutOutcome::Failed);
    let reason = report.reason.unwrap();
    assert!(reason.contains("could not be read"), "{reason}");
    assert!(reason.contains("BadRecord"), "{reason}");
    assert_eq!((report.progress.completed, report.progress.failed), (10, 0));
    assert_eq!(report.result.unwrap()["total_items"], 10);
}
