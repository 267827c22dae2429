//! The store of dead letters, asked with a time limit.

use std::future::Future;

use crate::{
    base::error::PageError,
    cli::{exit::CliError, processors::STORE_TIMEOUT},
};

/// The error of a store of dead letters that failed or did not answer.
#[derive(Debug)]
pub(crate) struct StoreError(String);

impl From<StoreError> for CliError {
    fn from(error: StoreError) -> Self {
        Self::failure(format_args!("the dead letters cannot be read: {}", error.0))
    }
}

/// Waits for a store, but no longer than [`STORE_TIMEOUT`].
pub(crate) async fn in_time<T>(
    answer: impl Future<Output = Result<T, PageError>>,
) -> Result<T, StoreError> {
    match tokio::time::timeout(STORE_TIMEOUT, answer).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(error)) => Err(StoreError(format!(
            "{}: {}",
            error.error_type(),
            error.message()
        ))),
        Err(_) => Err(StoreError(format!("no answer within {STORE_TIMEOUT:?}"))),
    }
}
