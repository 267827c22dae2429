//! A session whose batch is left to other workers.

use crate::{
    cli::{
        args::temporal_server::ConnectionArgs,
        exit::{CliError, CliResult, Exit},
        output::{self, note},
        render::{
            batch_view::BatchView, follow_to_end::followed_by, next_command::no_worker, web_ui,
        },
        session::{Session, limit_warnings},
    },
    engine::client::{AcceptError, ProgressError},
};

impl Session<'_> {
    /// Starts the batch and returns once a worker has accepted it.
    pub async fn detached(&self, connection: &ConnectionArgs) -> CliResult {
        let connected = connection.connect().await?;
        let client = &connected.client;
        let exit = async {
            if let Some(exit) = self.done_already(client).await? {
                return Ok(exit);
            }
            let handle = self.start(client).await?;
            match handle.accepted().await {
                Err(refused @ AcceptError::Refused { .. }) => return Err(refused.into()),
                Err(AcceptError::Unknown(ProgressError::NoWorker { .. })) => {
                    note(no_worker(&self.batch, self.program));
                }
                Err(waits @ AcceptError::NoProcessor { .. }) => note(waits),
                Err(AcceptError::Unknown(error)) => note(CliError::from(error)),
                Ok(()) => {}
            }
            let (id, program) = (handle.id(), self.program);
            limit_warnings::tell(&handle, self.pacing, None, program).await;
            if self.json {
                output::json(&BatchView::at(&handle, program).await?);
            } else {
                output::result(id);
                web_ui::tell(id);
            }
            note(followed_by(id, program));
            Ok(Exit::Done)
        };
        let exit = exit.await;
        connected.close().await?;
        exit
    }
}
