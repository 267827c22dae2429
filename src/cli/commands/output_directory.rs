//! The directory, and the single file, that a command writes its result into.

use std::path::Path;

use crate::{
    base::error::text::words,
    cli::exit::{CliError, CliResult},
    files::{SinkError, SinkState, check_writable, check_writable_file, sink_state},
};

/// Refuses at the start what the first page would be refused for: a directory of another batch, a file that exists, and
/// both if they cannot be written.
pub(super) fn check(
    directory: &Path,
    single: Option<&Path>,
    id: &str,
    rerun: bool,
) -> CliResult<()> {
    let refused = |error: SinkError| CliError::usage(words(&error));
    let to_path_buf = || directory.to_path_buf();
    match sink_state(directory).map_err(refused)? {
        SinkState::Free => {
            // A batch that is continued may have written the file itself.
            if let Some(file) = single.filter(|file| file.exists()) {
                return Err(CliError::usage(format_args!(
                    "{} exists already, and no file is overwritten; name another one with --concatenate, or remove it",
                    file.display()
                )));
            }
        }
        SinkState::Unfinished(owner) if owner.batch_id == id && !rerun => {}
        SinkState::Finished(manifest) if manifest.batch_id == id && !rerun => return Ok(()),
        SinkState::Unfinished(owner) => {
            return Err(refused(SinkError::Taken {
                directory: to_path_buf(),
                batch_id: owner.batch_id,
                batch_run: owner.batch_run,
            }));
        }
        SinkState::Finished(manifest) => {
            return Err(refused(SinkError::Finished {
                directory: to_path_buf(),
                batch_id: manifest.batch_id,
                batch_run: manifest.batch_run,
            }));
        }
    }
    check_writable(directory).map_err(refused)?;
    single.map_or(Ok(()), |file| check_writable_file(file).map_err(refused))
}
