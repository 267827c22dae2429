//! The fate of a request that steers a batch.

use crate::{
    cli::{output, render::batch_view::BatchView, shell::Program},
    engine::client::{BatchHandle, Steered},
};

/// Prints the fate of a request that has not been applied yet. Returns `true` if the request is in force; then nothing
/// is printed.
pub(crate) async fn tell_unless_applied(
    handle: &BatchHandle,
    steered: &Steered,
    program: &Program,
) -> bool {
    if !steered.is_applied() {
        output::result(format_args!("batch \"{}\": {steered}", handle.id()));
        // The request is kept, even if the server cannot be asked now.
        if let Ok(look) = BatchView::at(handle, program).await {
            look.tell_next();
        }
    }
    steered.is_applied()
}
