//! Connections to a Temporal server, with errors that say what to do.

mod address;
mod environment;
mod error;
mod options;
mod target;
#[cfg(test)]
mod tests;
mod tls;

pub use error::ConnectError;
pub use options::ConnectOptions;
#[cfg(feature = "cli")]
pub(crate) use target::address_of;
pub use target::connect;
