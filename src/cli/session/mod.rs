//! Commands that start a batch and work for it in the same process: `backfill`, `import`, `export`.

#[cfg(any(feature = "sqlite", feature = "postgres", feature = "mysql"))]
pub(crate) mod args;
pub(crate) mod joined;
pub(crate) mod run;
