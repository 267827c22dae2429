//! The command line with the sample processor `inflate-prices`, and the demo that runs it.

#[path = "../../samples/inflate_prices/inflate_prices.rs"]
mod inflate_prices;
#[allow(dead_code, reason = "the tests of the sample use the rest")]
#[path = "../../samples/inflate_prices/products.rs"]
mod products;

use std::{env, error::Error, path::Path, process::ExitCode};

use async_trait::async_trait;
use inflate_prices::{Args, InflatePrices};
use sqlx::SqlitePool;
use temporal_batch::{
    Batch, Registry,
    cli::{App, Demo, DemoData, DemoVerdict},
    errors::RegisterError,
};

type BoxError = Box<dyn Error + Send + Sync>;

fn main() -> ExitCode {
    App::new("temporal-batch")
        .about("Paginated batch work and data migrations on Temporal")
        .version(env!("CARGO_PKG_VERSION"))
        .sample(sample)
        .demo(PricesDemo)
        .main()
}

/// Returns the sample processor, on the database that `PRODUCTS_DB` names, or else on `products.db`.
async fn sample() -> Result<InflatePrices, BoxError> {
    let path = env::var_os("PRODUCTS_DB").unwrap_or_else(|| "products.db".into());
    let path = Path::new(&path);
    if !path.exists() {
        let path = path.display();
        return Err(format!(
            "there is no products database at {path}; name one in PRODUCTS_DB, or make one with \
             `temporal-batch demo --database {path}`"
        )
        .into());
    }
    Ok(InflatePrices::new(products::open(path).await?))
}

const PERCENT: u32 = 10;

struct PricesDemo;

struct Prices {
    pool: SqlitePool,
    fail_rate: f64,
}

#[async_trait]
impl Demo for PricesDemo {
    async fn create(
        &self,
        database: &Path,
        rows: u64,
        fail_rate: f64,
    ) -> Result<Box<dyn DemoData>, BoxError> {
        let pool = products::create(database, rows, 1).await?;
        Ok(Box::new(Prices { pool, fail_rate }))
    }
}

#[async_trait]
impl DemoData for Prices {
    fn register(&self, registry: &mut Registry) -> Result<(), RegisterError> {
        registry.register(InflatePrices::new(self.pool.clone()).fail_rate(self.fail_rate))
    }

    fn batch(&self) -> Batch {
        Batch::of::<InflatePrices>("inflate-prices-demo", Args { percent: PERCENT })
    }

    async fn verify(&self) -> Result<DemoVerdict, BoxError> {
        let found = products::verify(&self.pool, PERCENT).await?;
        Ok(DemoVerdict {
            right: found.right,
            unmigrated: found.unmigrated,
            wrong: found.wrong,
            examples: found.examples.iter().map(ToString::to_string).collect(),
        })
    }

    async fn close(&self) {
        self.pool.close().await;
    }

    fn how_to_look(&self, path: &Path) -> String {
        format!(
            "sqlite3 {} 'SELECT * FROM products LIMIT 5'",
            path.display()
        )
    }
}
