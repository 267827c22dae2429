//! Whole batches over a file, without a server.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use async_trait::async_trait;
use temporal_batch::{
    Batch, Outcome, Page, PageContext, PageError, PageProcessor, PageReport, SkipAhead,
    files::{CsvSource, FilePosition, FileRecord},
    store::{DeadLetters, JsonlDeadLetters, LetterFilter},
    testing::Simulator,
};

use crate::sample_files::written;

#[derive(serde::Deserialize)]
struct Row {
    id: u64,
}

/// A processor that counts how often it has seen each id.
struct Count {
    seen: Mutex<BTreeMap<u64, u32>>,
    letters: Arc<JsonlDeadLetters>,
}

#[async_trait]
impl PageProcessor for Count {
    const NAME: &'static str = "count";
    type Args = CsvSource;
    type Cursor = FilePosition;
    type Item = FileRecord<Row>;

    async fn fetch(
        &self,
        ctx: &PageContext<Self>,
    ) -> Result<Page<FilePosition, FileRecord<Row>>, PageError> {
        ctx.args().fetch(ctx).await
    }

    async fn process(
        &self,
        _: &PageContext<Self>,
        rows: Vec<FileRecord<Row>>,
    ) -> Result<PageReport, PageError> {
        // The record cannot be processed: its page is split until the record is alone.
        if rows
            .iter()
            .any(|row| row.content().is_ok_and(|row| row.id == 77))
        {
            return Err(PageError::non_retryable("Unlucky", "77"));
        }
        let mut report = PageReport::all_processed();
        for (position, row) in rows.into_iter().enumerate() {
            if let Some(row) = row.or_fail(position, &mut report) {
                *self.seen.lock().unwrap().entry(row.id).or_default() += 1;
            }
        }
        Ok(report)
    }

    async fn skip_ahead(
        &self,
        ctx: &PageContext<Self>,
        pages: u32,
    ) -> Result<SkipAhead<FilePosition>, PageError> {
        ctx.args().skip_ahead(ctx, pages).await
    }

    fn dead_letters(&self, _: &CsvSource) -> Option<Arc<dyn DeadLetters>> {
        Some(self.letters.clone())
    }
}

#[tokio::test]
async fn every_record_of_a_file_is_processed_once_and_bad_ones_are_dead_letters() {
    let mut content = "id,text\n".to_owned();
    for id in 0..1000 {
        content.push_str(&format!("{id},\"line 1\nline {id}, \"\"quoted\"\"\"\n"));
    }
    content = content.replace("\n500,", "\nfive hundred,");
    let file = written(content.as_bytes());
    for (page_size, stride) in [(7, 1), (10, 8)] {
        let folder = tempfile::tempdir().unwrap();
        let letters = JsonlDeadLetters::new(folder.path().join("letters.jsonl"));
        let count = Count {
            seen: Mutex::default(),
            letters: Arc::new(letters),
        };
        let batch = Batch::of::<Count>("count-all", CsvSource::new(&file.path))
            .page_size(page_size)
            .stride(stride);
        let run = Simulator::new().run(&count, &batch).await.unwrap();
        assert_eq!(run.outcome, Outcome::CompletedWithFailures);
        assert_eq!((run.items.processed, run.items.failed), (998, 2));
        let seen = count.seen.into_inner().unwrap();
        let expected = (0..1000).filter(|id| *id != 77 && *id != 500);
        assert_eq!(seen, expected.map(|id| (id, 1)).collect());

        let filter = LetterFilter::of("count-all");
        let mut letters = count.letters.list(&filter, None, 10).await.unwrap();
        letters.sort_by_key(|letter| letter.error_type.clone());
        let [bad, unlucky] = &letters[..] else {
            panic!("{letters:?}");
        };
        assert_eq!(unlucky.error_type, "Unlucky");
        assert_eq!(bad.error_type, "RecordNotReadable");
        let record: serde_json::Value = serde_json::from_str(bad.record.as_ref().unwrap()).unwrap();
        assert_eq!(record["record"], 501);
        assert!(
            record["text"]
                .as_str()
                .unwrap()
                .starts_with("five hundred,\"line 1\n")
        );
        assert!(!bad.message.contains("five hundred"));
    }
}

#[tokio::test]
async fn lost_workers_lose_no_record_of_a_file() {
    let content: String = std::iter::once("id\n".to_owned())
        .chain((1000..3000).map(|id| format!("{id}\r\n")))
        .collect();
    let file = written(content.as_bytes());
    let folder = tempfile::tempdir().unwrap();
    let letters = JsonlDeadLetters::new(folder.path().join("letters.jsonl"));
    let count = Count {
        seen: Mutex::default(),
        letters: Arc::new(letters),
    };
    let batch = Batch::of::<Count>("count-lost", CsvSource::new(&file.path))
        .page_size(50)
        .stride(4);
    let simulator = Simulator::new().lose_worker_every(3).stop_before_every(5);
    let run = simulator.run(&count, &batch).await.unwrap();
    assert_eq!(
        (run.outcome, run.items.processed),
        (Outcome::Completed, 2000)
    );
    assert!(run.lost_workers > 0 && run.told_to_stop > 0);
    let seen = count.seen.into_inner().unwrap();
    assert!(seen.keys().copied().eq(1000..3000));
}
