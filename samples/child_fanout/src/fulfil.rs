//! Fulfilling one order: a payment, and a shipment that is written into a file.

use std::{
    io::Write as _,
    path::{Path, PathBuf},
    time::Duration,
};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use temporal_batch::{PageError, async_trait};
use temporal_batch_fanout::{
    AggregateContext, ItemContext, ItemOutcome, ItemProcessor, add_to_summary,
};

use crate::orders::Order;

/// A shipment of an order.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Shipment {
    pub order: String,
    pub cents: u32,
}

/// Fulfils orders.
pub struct Fulfil {
    folder: PathBuf,
}

impl Fulfil {
    /// Writes shipments into a folder, which is created.
    pub fn into_folder(folder: &Path) -> std::io::Result<Self> {
        std::fs::create_dir_all(folder)?;
        Ok(Self {
            folder: folder.to_owned(),
        })
    }
}

/// The file of the shipment of an order.
pub fn shipment_file(folder: &Path, batch: &str, order: &str) -> PathBuf {
    folder.join(batch).join(format!("{order}.json"))
}

#[async_trait]
impl ItemProcessor for Fulfil {
    const NAME: &'static str = "fulfil";
    type Item = Order;
    type Output = Shipment;

    fn id(order: &Order) -> String {
        order.id.clone()
    }

    async fn process(&self, ctx: &ItemContext, order: Order) -> Result<Shipment, PageError> {
        println!("Processing item {} (takes {} ms)", order.id, order.millis);
        tokio::time::sleep(Duration::from_millis(order.millis)).await;
        if order.card_is_declined {
            let message = format!("the card of order {} was declined", order.id);
            return Err(PageError::non_retryable("CardDeclined", message));
        }
        let shipment = Shipment {
            order: order.id,
            cents: order.cents,
        };
        let file = shipment_file(&self.folder, ctx.fanout_id(), &shipment.order);
        write_whole(&file, &serde_json::to_vec(&shipment)?)?;
        Ok(shipment)
    }

    async fn aggregate(
        &self,
        ctx: &AggregateContext,
        so_far: Option<Value>,
        outcomes: Vec<ItemOutcome<Shipment>>,
    ) -> Result<Value, PageError> {
        println!(
            "Aggregating {} results for batch: {}",
            outcomes.len(),
            ctx.fanout_id
        );
        add_to_summary(ctx, so_far, &outcomes)
    }
}

/// Writes a file that is either whole or absent. An attempt that is repeated writes the same file.
fn write_whole(file: &Path, content: &[u8]) -> std::io::Result<()> {
    let folder = file.parent().expect("a shipment is in a folder");
    std::fs::create_dir_all(folder)?;
    let new = file.with_extension("new");
    let mut writer = std::fs::File::create(&new)?;
    writer.write_all(content)?;
    writer.sync_all()?;
    std::fs::rename(new, file)
}
