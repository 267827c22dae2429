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

/// The file of the shipments of an order: a line for each, so that a second one would be seen.
pub fn shipment_file(folder: &Path, batch: &str, order: &str) -> PathBuf {
    folder.join(batch).join(format!("{order}.jsonl"))
}

/// Reads the shipments of an order.
pub fn shipments(file: &Path) -> std::io::Result<Vec<Shipment>> {
    let lines = match std::fs::read_to_string(file) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        lines => lines?,
    };
    let shipments = lines.lines().map(serde_json::from_str);
    Ok(shipments.collect::<Result<_, _>>()?)
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
        ship(&file, &shipment)?;
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

/// Ships an order. An attempt that is repeated finds the shipment of the one before it.
fn ship(file: &Path, shipment: &Shipment) -> std::io::Result<()> {
    if shipments(file)?.contains(shipment) {
        return Ok(());
    }
    let folder = file.parent().expect("a shipment is in a folder");
    std::fs::create_dir_all(folder)?;
    let mut line = serde_json::to_vec(shipment)?;
    line.push(b'\n');
    let mut writer = std::fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(file)?;
    writer.write_all(&line)?;
    writer.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_repeated_attempt_ships_once() {
        let folder = tempfile::tempdir().unwrap();
        let file = shipment_file(folder.path(), "B", "A");
        let shipment = Shipment {
            order: "A".to_owned(),
            cents: 1,
        };
        for _attempt in 0..2 {
            ship(&file, &shipment).unwrap();
        }
        assert_eq!(shipments(&file).unwrap(), [shipment]);
    }
}
