//! The part of the crate that talks to Temporal: the controller workflow, the activities, the worker, the client.

pub(crate) mod activity;
pub(crate) mod client;
pub mod connect;
pub(crate) mod controller;
pub(crate) mod query_safety;
pub(crate) mod replay;
pub(crate) mod worker;
