//! The part of the crate that talks to Temporal: the controller workflow, the activities, the worker, the client.
//!
//! Functions that call the SDK are not `async` but return boxed futures. The body of an `async fn` is compiled in the
//! crate that polls it, so that each program of a user would compile the whole gRPC client once more.

pub(crate) mod activity;
pub(crate) mod client;
pub mod connect;
pub(crate) mod controller;
pub(crate) mod query_safety;
pub(crate) mod replay;
pub(crate) mod worker;
