//! Invoices every order once, and adds up the amounts.

use std::sync::Arc;

use serde_json::json;
use temporal_batch::sqlx::{Sqlite, SqlitePool};
use temporal_batch::{
    Page, PageContext, PageError, PageProcessor, PageReport, Reducer, Size, SkipAhead, async_trait,
    sql::SqlLedger, sqlx, store::PageLedger,
};

/// A processor that invoices the orders of the table `orders`.
pub struct InvoiceOrders {
    pool: SqlitePool,
    ledger: Arc<SqlLedger<Sqlite>>,
}

/// An order's id, country and amount.
pub type Order = (i64, String, i64);

impl InvoiceOrders {
    /// Creates the tables of the ledger where they are missing.
    pub async fn new(pool: SqlitePool) -> Result<Self, PageError> {
        let ledger = Arc::new(SqlLedger::new(pool.clone()));
        ledger.apply_schema().await?;
        Ok(Self { pool, ledger })
    }
}

#[async_trait]
impl PageProcessor for InvoiceOrders {
    const NAME: &'static str = "invoice-orders";
    type Args = ();
    type Cursor = i64;
    type Item = Order;

    async fn fetch(&self, ctx: &PageContext<Self>) -> Result<Page<i64, Order>, PageError> {
        let orders = sqlx::query_as(
            "SELECT id, country, cents FROM orders WHERE id > ? AND id <= ? ORDER BY id LIMIT ?",
        );
        let orders = orders.bind(ctx.range().start().copied().unwrap_or(i64::MIN));
        let orders = orders.bind(ctx.range().end().copied().unwrap_or(i64::MAX));
        let orders = orders.bind(ctx.page_size() as i64);
        Page::keyset(orders.fetch_all(&self.pool).await?, |(id, ..)| *id)
    }

    async fn process(
        &self,
        ctx: &PageContext<Self>,
        orders: Vec<Order>,
    ) -> Result<PageReport, PageError> {
        let mut report = PageReport::all_processed();
        // Committed together with the row of the ledger and the output of the page.
        let mut tx = ctx.transaction::<Sqlite>().await?;
        for (id, country, cents) in &orders {
            let update = "UPDATE orders SET invoices = invoices + 1 WHERE id = ?";
            sqlx::query(update).bind(id).execute(&mut *tx).await?;
            report.output(json!({"order": id, "country": country, "cents": cents}));
        }
        Ok(report.changed(orders.len() as u64))
    }

    async fn skip_ahead(
        &self,
        ctx: &PageContext<Self>,
        pages: u32,
    ) -> Result<SkipAhead<i64>, PageError> {
        let orders = i64::from(pages) * ctx.page_size() as i64;
        let id =
            sqlx::query_scalar("SELECT id FROM orders WHERE id > ? ORDER BY id LIMIT 1 OFFSET ?")
                .bind(ctx.range().start().copied().unwrap_or(i64::MIN))
                .bind(orders - 1)
                .fetch_optional(&self.pool)
                .await?;
        Ok(id.map_or(SkipAhead::PastEnd, SkipAhead::To))
    }

    /// The result of the batch, in which each order counts once, whatever was retried.
    fn reducer(&self, _: &()) -> Option<Reducer> {
        Some(Reducer::record([
            ("orders", Reducer::count()),
            ("cents", Reducer::sum("cents")),
            (
                "cents_by_country",
                Reducer::by_key("country", Reducer::sum("cents")),
            ),
            (
                "by_size",
                Reducer::histogram("cents", [5_000.0, 20_000.0, 50_000.0]),
            ),
            ("largest", Reducer::top(10, "cents")),
        ]))
    }

    async fn size(&self, _: &()) -> Result<Size, PageError> {
        let orders = sqlx::query_scalar("SELECT count(*) FROM orders");
        let orders: i64 = orders.fetch_one(&self.pool).await?;
        Ok(Size::Exact(orders.cast_unsigned()))
    }

    fn ledger(&self, _: &()) -> Option<Arc<dyn PageLedger>> {
        Some(self.ledger.clone())
    }
}

#[cfg(test)]
mod tests {
    use temporal_batch::{Batch, Outcome, testing::Simulator};

    use super::{super::orders, *};

    #[tokio::test]
    async fn the_result_equals_the_table_although_every_third_worker_is_lost() {
        let folder = tempfile::tempdir().unwrap();
        let pool = orders::open(&folder.path().join("orders.db"))
            .await
            .unwrap();
        let processor = InvoiceOrders::new(pool.clone()).await.unwrap();
        let batch = Batch::of::<InvoiceOrders>("test", ())
            .page_size(200)
            .stride(5);
        let simulator = Simulator::new().lose_worker_every(3);
        let run = simulator.run(&processor, &batch).await.unwrap();
        assert_eq!(run.outcome, Outcome::Completed);
        assert!(run.lost_workers > 0);
        let wrong: i64 = sqlx::query_scalar("SELECT count(*) FROM orders WHERE invoices <> 1")
            .fetch_one(&pool)
            .await
            .unwrap();
        assert_eq!(wrong, 0);
        let result = run.output.unwrap();
        assert_eq!(result["orders"], orders::ORDERS);
        let by_country: Vec<(String, i64)> =
            sqlx::query_as("SELECT country, sum(cents) FROM orders GROUP BY country")
                .fetch_all(&pool)
                .await
                .unwrap();
        assert_eq!(
            result["cents_by_country"],
            json!(
                by_country
                    .into_iter()
                    .collect::<std::collections::BTreeMap<_, _>>()
            )
        );
        let largest: Vec<i64> =
            sqlx::query_scalar("SELECT cents FROM orders ORDER BY cents DESC LIMIT 10")
                .fetch_all(&pool)
                .await
                .unwrap();
        let found = result["largest"].as_array().unwrap().iter();
        assert_eq!(
            found
                .map(|order| order["cents"].as_i64().unwrap())
                .collect::<Vec<_>>(),
            largest
        );
    }
}
