//! The processors that work on the named connections of a worker.

use super::{args::databases::SqlConnections, processors::Processors};
use crate::sql::SqlBackfill;

/// Adds all of them. A worker does this only with `--allow-sql`, since the SQL that they run comes with the
/// batch.
pub(crate) fn add_sql_processors(processors: &mut Processors, connections: &SqlConnections) {
    connections.add(processors, SqlBackfill::new);
    #[cfg(feature = "files")]
    connections.add(processors, crate::sql::SqlImport::new);
    // Whoever starts a batch says where it writes.
    #[cfg(feature = "files")]
    connections.add(processors, |connections| {
        crate::sql::SqlExport::new(connections).within(".")
    });
}
