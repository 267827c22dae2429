//! The service of the batcher: its own queue, its own worker, the only one that knows the database.

use std::{path::Path, sync::Arc};

use sqlx::Sqlite;
use temporal_batch::{BatchClient, PageError, async_trait, store::DeadLetters};
use temporal_batch_batcher::{
    BatchWriter, BatcherWorker, Request, RunningBatcherWorker, SqlWriter, WriteContext, Written,
};

use crate::{Fallible, shop};

pub(crate) const QUEUE: &str = "batcher-queue";

/// A writer that prints what it has written.
struct Printing(SqlWriter<Sqlite, shop::OrderRows>);

#[async_trait]
impl BatchWriter for Printing {
    const NAME: &'static str = shop::WRITER;

    async fn write(
        &self,
        ctx: &WriteContext,
        requests: &[Request],
    ) -> Result<Vec<Written>, PageError> {
        let written = self.0.write(ctx, requests).await?;
        print(requests, &written);
        Ok(written)
    }

    fn dead_letters(&self) -> Arc<dyn DeadLetters> {
        self.0.dead_letters()
    }
}

fn print(requests: &[Request], written: &[Written]) {
    let new = requests.iter().zip(written);
    let mut new: Vec<_> = new
        .filter(|(_, written)| **written == Written::Now)
        .collect();
    new.sort_by(|(a, _), (b, _)| a.id.cmp(&b.id));
    let mut block = String::from("BATCH WRITE\n");
    for (number, (request, _)) in new.iter().enumerate() {
        block += &format!("{:>5}. {} {}\n", number + 1, request.id, request.payload);
    }
    println!("{block}  total {}", new.len());
}

pub(crate) async fn start(client: &BatchClient, db: &Path) -> Fallible<RunningBatcherWorker> {
    let writer = Printing(shop::writer(db).await?);
    Ok(BatcherWorker::new(client, QUEUE).writer(writer).start()?)
}
