//! The processor with the command line of `temporal-batch` around it; see the README.
mod api;
mod call_api;

use std::process::ExitCode;

use call_api::CallApi;
use temporal_batch::{PageError, cli::App};

fn main() -> ExitCode {
    App::new("call-api")
        .about("Calls an API for each of 2,000 orders")
        .processor(|| async { Ok::<_, PageError>(CallApi::new()) })
        .main()
}
