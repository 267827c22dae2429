//! Connections to databases: options, pools, named connections, leases.

pub(crate) mod error;
pub(crate) mod lease;
pub(crate) mod named;
pub(crate) mod options;
pub(crate) mod page_connection;
pub(crate) mod pool;
pub(crate) mod pool_size;
#[cfg(feature = "postgres")]
pub(crate) mod proxied;
pub(crate) mod read_only;
