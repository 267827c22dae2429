//! The processor with the command line of `temporal-batch` around it; see the README.
#![allow(dead_code, reason = "`temporal-batch demo` uses the rest")]
mod inflate_prices;
mod products;

use std::{env, error::Error, path::Path, process::ExitCode};

use inflate_prices::InflatePrices;
use temporal_batch::cli::App;

fn main() -> ExitCode {
    App::new("inflate-prices").processor(processor).main()
}

/// Works on the database named by `PRODUCTS_DB`, or else on `products.db`, which is created if necessary.
async fn processor() -> Result<InflatePrices, Box<dyn Error + Send + Sync>> {
    let default = Path::new("products.db");
    let pool = match env::var_os("PRODUCTS_DB") {
        Some(path) => products::open(Path::new(&path)).await?,
        None if default.exists() => products::open(default).await?,
        None => products::create(default, 200_000, 1).await?,
    };
    Ok(InflatePrices::new(pool))
}
