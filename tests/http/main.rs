//! Calls of a real HTTP server: the client, a paged API as a source, the command `call`, answers in rows, and resuming
//! inside a page.

mod calls;
mod command;
mod database;
mod document;
mod list;
mod measure;
mod processor;
mod resume;
mod rows;
mod waits;

#[path = "../support/mod.rs"]
mod support;
