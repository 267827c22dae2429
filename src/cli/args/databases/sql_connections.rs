//! The connections of the processors that run SQL, opened once a processor needs them.

use std::{collections::BTreeMap, sync::Arc};

use tokio::sync::OnceCell;

use super::{
    connections::{connections, open},
    database::DatabaseArgs,
    environment::{VARIABLES, add_default, of_variables, variables},
};
use crate::{
    cli::{
        exit::{CliError, CliResult},
        output::note,
        processors::Processors,
    },
    processor::PageProcessor,
    sql::{Connections, DEFAULT_CONNECTION, DatabaseOptions, SqlBackfill},
};

/// The connections of the processors: the ones of a worker, or the ones of a command, opened when they are needed.
#[derive(Clone)]
pub(crate) struct SqlConnections {
    opened: Arc<OnceCell<Connections>>,
    default: DatabaseArgs,
}

/// The number of pages that a command other than `worker` runs at once.
const PAGES: u32 = 16;

impl SqlConnections {
    pub(crate) fn opened(connections: Connections) -> Self {
        Self {
            opened: Arc::new(OnceCell::new_with(Some(connections))),
            default: DatabaseArgs::default(),
        }
    }

    /// Returns the connections that variables define, and the database of the flag as `default`.
    pub(crate) fn of_command(default: DatabaseArgs) -> Self {
        Self {
            opened: Arc::default(),
            default,
        }
    }

    async fn get(&self) -> Result<Connections, String> {
        let opened = self.opened.get_or_try_init(async || {
            let all = self.options().map_err(|e| e.text().to_owned())?;
            let (mut found, mut missing) = (Vec::new(), Vec::new());
            for opened in open(all).await {
                match opened {
                    Ok(opened) => found.push(opened),
                    Err(error) => missing.push(error),
                }
            }
            if found.is_empty() && !missing.is_empty() {
                let missing: Vec<_> = missing.iter().map(CliError::text).collect();
                return Err(missing.join("; "));
            }
            // The batch works on one connection, which need not be a missing one.
            for error in missing {
                note(format_args!("left out: {}", error.text()));
            }
            Ok(connections(found))
        });
        opened.await.cloned()
    }

    fn options(&self) -> CliResult<BTreeMap<String, DatabaseOptions>> {
        let variables = variables();
        let mut all = of_variables(&variables)?;
        if let Some(given) = self.default.given()? {
            all.insert(DEFAULT_CONNECTION.to_owned(), given);
        }
        add_default(&mut all, &variables)?;
        if all.is_empty() {
            let variable = format!("{VARIABLES}NAME");
            return Err(CliError::usage(format_args!(
                "no database is known here; give --database-url or set DATABASE_URL, or {variable} for a batch that \
                 names its connection"
            )));
        }
        for options in all.values_mut() {
            *options = options.clone().pages(PAGES);
        }
        Ok(all)
    }

    /// Adds every processor that runs SQL. A worker does this only with `--allow-sql`, since the SQL comes with the
    /// batch.
    pub(crate) fn add_processors(&self, processors: &mut Processors) {
        self.add(processors, SqlBackfill::new);
        #[cfg(feature = "files")]
        self.add(processors, crate::sql::SqlImport::new);
        // A batch names the directory that it writes to.
        #[cfg(feature = "files")]
        self.add(processors, |connections| {
            crate::sql::SqlExport::new(connections).within(".")
        });
    }

    /// Adds the processor of `call`, which uses the variables of this process. A worker does not have it, since a batch
    /// says where they are sent.
    #[cfg(all(feature = "files", feature = "http"))]
    pub(crate) fn add_call(&self, processors: &mut Processors) {
        let connections = self.clone();
        processors.add_of_sql(move || {
            let connections = connections.clone();
            async move {
                let call = crate::http::HttpCall::new()?.with_environment();
                // Most calls need no database.
                let connections = connections.get().await.unwrap_or_default();
                Ok::<_, crate::http::InvalidApi>(call.connections(connections))
            }
        });
    }

    fn add<P: PageProcessor>(&self, processors: &mut Processors, make: fn(Connections) -> P) {
        let connections = self.clone();
        processors.add_of_sql(move || {
            let connections = connections.clone();
            async move { connections.get().await.map(make) }
        });
    }
}
