//! The directory in which commands keep the state of dev servers.

use std::path::PathBuf;

/// Returns the directory, or `None` for a user without a home directory.
pub(crate) fn state_directory() -> Option<PathBuf> {
    let directory = dirs::state_dir().or_else(dirs::data_local_dir)?;
    Some(directory.join("temporal-batch"))
}
