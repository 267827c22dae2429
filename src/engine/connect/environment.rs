//! The settings of the machine: variables, the configuration file, an identity.

use std::collections::HashMap;
use std::path::PathBuf;
use std::{env, fs, process};

/// Returns the variables that configure a client. Empty ones are left out, because container files that pass
/// variables through set them to nothing. An empty header variable is kept: it means that the header is not
/// sent.
pub(super) fn temporal_variables() -> HashMap<String, String> {
    env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value)))
        .filter(|(name, value)| {
            name.starts_with("TEMPORAL_")
                && (!value.is_empty() || name.starts_with("TEMPORAL_GRPC_META_"))
        })
        .map(|(name, value)| (name, value.to_string_lossy().into_owned()))
        .collect()
}

/// Returns the default path of the configuration file. `None` for a user without a home directory: a file in
/// the working directory might belong to another user.
pub(super) fn default_config_file() -> Option<PathBuf> {
    Some(dirs::config_dir()?.join("temporalio").join("temporal.toml"))
}

pub(super) fn default_identity() -> String {
    // The standard library has no function for the host name; these are the places where systems keep it.
    let host = fs::read_to_string("/proc/sys/kernel/hostname")
        .ok()
        .or_else(|| env::var("HOSTNAME").ok())
        .or_else(|| env::var("COMPUTERNAME").ok())
        .unwrap_or_default();
    match host.trim() {
        "" => format!("{}@unknown-host", process::id()),
        host => format!("{}@{host}", process::id()),
    }
}
