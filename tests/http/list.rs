//! An API that gives out its list page by page, as the source of a batch.

use std::{collections::BTreeMap, sync::Mutex};

use async_trait::async_trait;
use serde::Deserialize;
use temporal_batch::{
    Batch, Outcome, Page, PageContext, PageError, PageProcessor, PageReport,
    http::{ApiClient, ApiCursor, PagedApi, Paging},
    testing::Simulator,
};

use crate::{
    processor::options,
    support::{
        TestEnv,
        mock_api::{Call, MockApi, Reply},
    },
};

const ITEMS: u64 = 95;

/// Counts how often each item of a list was processed.
struct Count {
    client: ApiClient,
    counted: Mutex<BTreeMap<u64, u64>>,
}

#[derive(Deserialize)]
struct Listed {
    id: u64,
}

impl Count {
    fn new() -> Self {
        Self {
            client: ApiClient::with("list", options()).unwrap(),
            counted: Mutex::default(),
        }
    }

    #[track_caller]
    fn has_each_once(&self) {
        let counted = self.counted.lock().unwrap();
        let expected: BTreeMap<_, _> = (1..=ITEMS).map(|id| (id, 1)).collect();
        assert_eq!(*counted, expected);
    }
}

#[async_trait]
impl PageProcessor for Count {
    const NAME: &'static str = "count-list";
    type Args = PagedApi;
    type Cursor = ApiCursor;
    type Item = Listed;

    async fn prepare(&self, list: PagedApi) -> Result<PagedApi, PageError> {
        list.prepare()
    }

    async fn fetch(&self, ctx: &PageContext<Self>) -> Result<Page<ApiCursor, Listed>, PageError> {
        let complete = |request: temporal_batch::http::ApiRequest| request.header("x-token", "t");
        ctx.args().fetch(&self.client, ctx, complete).await
    }

    async fn process(
        &self,
        _: &PageContext<Self>,
        items: Vec<Listed>,
    ) -> Result<PageReport, PageError> {
        let mut counted = self.counted.lock().unwrap();
        for item in items {
            *counted.entry(item.id).or_default() += 1;
        }
        Ok(PageReport::all_processed())
    }
}

fn parameter(call: &Call, name: &str) -> Option<String> {
    let (_, query) = call.path.split_once('?')?;
    let pair = query
        .split('&')
        .find_map(|pair| pair.strip_prefix(&format!("{name}=")));
    pair.map(str::to_owned)
}

fn items(from: u64, size: u64) -> serde_json::Value {
    let ids = from + 1..=(from + size).min(ITEMS);
    ids.map(|id| serde_json::json!({ "id": id })).collect()
}

/// An API with opaque tokens that cannot be guessed, some pages without items, and no more than 10 items a page.
async fn with_cursor() -> (MockApi, PagedApi) {
    let token = |from: u64, empty: bool| format!("t/+&={from}#{}é", u8::from(empty));
    let api = MockApi::start(move |call| {
        assert_eq!(call.header("x-token"), "t");
        let after = parameter(call, "after").map(|text| {
            url::form_urlencoded::parse(format!("a={text}").as_bytes())
                .next()
                .unwrap()
                .1
                .into_owned()
        });
        let known = |token_of: &dyn Fn(u64, bool) -> String| {
            let given = after.clone()?;
            (0..=ITEMS)
                .flat_map(|from| [(from, false), (from, true)])
                .find(|(from, empty)| token_of(*from, *empty) == given)
        };
        let (from, empty) = match after {
            None => (0, false),
            Some(_) => match known(&token) {
                Some(found) => found,
                None => return Reply::of(400, "unknown token"),
            },
        };
        if empty {
            let next = token(from, false);
            return Reply::of(
                200,
                serde_json::json!({"data": [], "next": next}).to_string(),
            );
        }
        let next = from + 10;
        let next = (next < ITEMS).then(|| token(next, next == 30));
        Reply::of(
            200,
            serde_json::json!({"data": items(from, 10), "next": next}).to_string(),
        )
    })
    .await;
    let paging = Paging::Cursor {
        field: "/next".to_owned(),
        parameter: "after".to_owned(),
    };
    let list = PagedApi::new(format!("{}/users", api.url), paging)
        .items("/data")
        .names("/id");
    (api, list)
}

async fn with_links() -> (MockApi, PagedApi) {
    let api = MockApi::start(|call| {
        let from: u64 = parameter(call, "from").map_or(0, |from| from.parse().unwrap());
        let reply = Reply::of(200, items(from, 10).to_string());
        match from + 10 < ITEMS {
            true => reply.header("link", format!("</users?from={}>; rel=\"next\"", from + 10)),
            false => reply.header("link", "</users>; rel=\"first\""),
        }
    })
    .await;
    let list = PagedApi::new(format!("{}/users", api.url), Paging::Link);
    (api, list)
}

/// An API with offsets that gives out at most 7 items, however many are requested.
async fn with_offsets() -> (MockApi, PagedApi) {
    let api = MockApi::start(|call| {
        let from: u64 = parameter(call, "skip").unwrap().parse().unwrap();
        let size: u64 = parameter(call, "limit").unwrap().parse().unwrap();
        Reply::of(200, items(from, size.min(7)).to_string())
    })
    .await;
    let paging = Paging::Offset {
        parameter: "skip".to_owned(),
    };
    let list = PagedApi::new(format!("{}/users", api.url), paging).size_parameter("limit");
    (api, list)
}

/// Runs a batch over a list on a simulated server that moves every page to another worker at times.
async fn walks((_api, list): (MockApi, PagedApi)) {
    let count = Count::new();
    let batch = Batch::of::<Count>("list", list).page_size(10);
    let run = Simulator::new()
        .stop_before_every(3)
        .run(&count, &batch)
        .await
        .unwrap();
    assert_eq!(run.outcome, Outcome::Completed);
    assert_eq!(run.items.processed, ITEMS);
    count.has_each_once();
}

#[tokio::test]
async fn every_item_of_a_list_with_cursors_is_processed_once() {
    walks(with_cursor().await).await;
}

#[tokio::test]
async fn every_item_of_a_list_with_links_is_processed_once() {
    walks(with_links().await).await;
}

#[tokio::test]
async fn every_item_of_a_list_with_offsets_and_short_pages_is_processed_once() {
    walks(with_offsets().await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn opaque_tokens_pass_through_a_real_batch_with_several_pages_at_once() {
    let env = TestEnv::new("http-list").await;
    let (_api, list) = with_cursor().await;
    let count = std::sync::Arc::new(Count::new());
    let worker = env.worker(Shared(std::sync::Arc::clone(&count))).await;
    let batch = Batch::of::<Shared>(env.new_id(), list)
        .task_queue(&env.queue)
        .max_parallelism(4);
    let ended = env.run(&batch).await;
    assert_eq!(ended.outcome, Outcome::Completed);
    count.has_each_once();
    worker.stop().await.unwrap();
}

/// A processor that the test keeps a reference to.
struct Shared(std::sync::Arc<Count>);

#[async_trait]
impl PageProcessor for Shared {
    const NAME: &'static str = "count-list-shared";
    type Args = PagedApi;
    type Cursor = ApiCursor;
    type Item = Listed;

    async fn fetch(&self, ctx: &PageContext<Self>) -> Result<Page<ApiCursor, Listed>, PageError> {
        let complete = |request: temporal_batch::http::ApiRequest| request.header("x-token", "t");
        ctx.args().fetch(&self.0.client, ctx, complete).await
    }

    async fn process(
        &self,
        _: &PageContext<Self>,
        items: Vec<Listed>,
    ) -> Result<PageReport, PageError> {
        let mut counted = self.0.counted.lock().unwrap();
        for item in items {
            *counted.entry(item.id).or_default() += 1;
        }
        Ok(PageReport::all_processed())
    }
}

/// The error of the first failed page of a list.
async fn fails_with(
    paging: Paging,
    handler: impl Fn(&Call) -> Reply + Send + Sync + 'static,
) -> String {
    let api = MockApi::start(handler).await;
    let list = PagedApi::new(format!("{}/users", api.url), paging).items("/data");
    let batch = Batch::of::<Count>("list", list).page_size(10);
    match Simulator::new().run(&Count::new(), &batch).await {
        Ok(run) => {
            assert_ne!(run.outcome, Outcome::Completed);
            format!("{run:?}")
        }
        Err(error) => error.to_string(),
    }
}

#[tokio::test]
async fn a_list_that_does_not_move_on_is_an_error() {
    let cursor = || Paging::Cursor {
        field: "/next".to_owned(),
        parameter: "after".to_owned(),
    };
    let same = r#"{"data": [{"id": 1}], "next": "again"}"#;
    let error = fails_with(cursor(), move |_| Reply::of(200, same)).await;
    assert!(error.contains("CursorDidNotAdvance"), "{error}");
    let empty = r#"{"data": [], "next": "again"}"#;
    let error = fails_with(cursor(), move |_| Reply::of(200, empty)).await;
    assert!(error.contains("CursorDidNotAdvance"), "{error}");
    let offset = Paging::Offset {
        parameter: "skip".to_owned(),
    };
    let error = fails_with(offset, move |_| Reply::of(200, same)).await;
    assert!(error.contains("PageRepeated"), "{error}");
    let long = format!(
        r#"{{"data": [{{"id": 1}}], "next": "{}"}}"#,
        "x".repeat(2_000)
    );
    let error = fails_with(cursor(), move |_| Reply::of(200, long.clone())).await;
    assert!(error.contains("CursorTooLarge"), "{error}");
}
