//! The throttle that `worker` and `backfill` make from flags: it looks at a PostgreSQL server.

#[cfg(feature = "postgres")]
mod postgres;

#[cfg(feature = "postgres")]
pub(crate) use postgres::ThrottleArgs;

use crate::{cli::exit::CliResult, processor::throttle::Throttles};

// A doc comment would become the help of the command. Without PostgreSQL there are no flags.
#[cfg(not(feature = "postgres"))]
#[derive(clap::Args, Debug, Default)]
pub(crate) struct ThrottleArgs {}

impl ThrottleArgs {
    /// Returns the throttles of the program, and the one of these flags.
    #[cfg(feature = "postgres")]
    pub(crate) async fn added_to(&self, of_the_program: &Throttles) -> CliResult<Throttles> {
        let mut throttles = of_the_program.clone();
        if let Some(database) = self.build().await? {
            let added = throttles.add(database);
            added.map_err(crate::engine::worker::WorkerError::from)?;
        }
        Ok(throttles)
    }

    #[cfg(not(feature = "postgres"))]
    #[allow(clippy::unused_async, reason = "with PostgreSQL it asks a server")]
    pub(crate) async fn added_to(&self, of_the_program: &Throttles) -> CliResult<Throttles> {
        Ok(of_the_program.clone())
    }
}
