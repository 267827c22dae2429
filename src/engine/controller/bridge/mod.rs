//! Bridges: workflows that keep running strides over a continue-as-new of their controller.

pub(crate) mod outbox;
pub(crate) mod workflow;
