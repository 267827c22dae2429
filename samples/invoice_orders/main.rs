//! The processor with the command line of `temporal-batch` around it; see the README.
mod invoice_orders;
mod orders;

use std::{env, path::Path, process::ExitCode};

use invoice_orders::InvoiceOrders;
use temporal_batch::{PageError, cli::App};

fn main() -> ExitCode {
    App::new("invoice-orders")
        .about("Invoices the orders of a table and adds them up")
        .processor(processor)
        .main()
}

/// Works on the database named by `ORDERS_DB`, or else on `orders.db`, which is created if necessary.
async fn processor() -> Result<InvoiceOrders, PageError> {
    let path = env::var_os("ORDERS_DB").unwrap_or_else(|| "orders.db".into());
    InvoiceOrders::new(orders::open(Path::new(&path)).await?).await
}
