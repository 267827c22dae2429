//! HTTP APIs: a call for each record of a batch, and an API that answers page by page as a source.
//!
//! | task | type |
//! |---|---|
//! | call an API for each item of a page | [`ApiClient`], [`ApiRequest`], [`at_once`] |
//! | hold the whole batch while the API asks to wait | [`ApiThrottle`] |
//! | read a list that an API gives out page by page | [`PagedApi`] |
//! | call an API for each record of a file without writing Rust | the command `call` |
//!
//! `docs/http.md` explains rates, waits and keys, and has a table of statuses.

mod answer;
#[cfg(feature = "files")]
pub(crate) mod call;
mod client;
mod error;
mod gate;
mod link;
mod options;
mod pace;
mod paged;
mod request;
pub(crate) mod template;
mod throttle;
mod wait_header;

pub use answer::{ApiAnswer, ApiFailure};
#[cfg(feature = "files")]
pub use call::{
    args::CallArgs,
    processor::HttpCall,
    source::{CallCursor, CallItem, CallSource},
};
pub use client::{ApiClient, at_once};
pub use error::{InvalidApi, InvalidRequest};
pub use options::ApiOptions;
pub use paged::{ApiCursor, PagedApi, Paging};
pub use request::ApiRequest;
pub use throttle::ApiThrottle;
