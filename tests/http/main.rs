//! Calls of a real HTTP server: the client, a paged API as a source, the command `call`, and resuming inside a page.

mod calls;
mod command;
mod document;
mod list;
mod measure;
mod processor;
mod resume;
mod waits;

#[path = "../support/mod.rs"]
mod support;
