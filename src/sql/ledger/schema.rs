//! The tables of the ledger in a database of any kind, for the command line.

use sqlx::Row as _;

use crate::{
    base::{error::PageError, time::Timestamp},
    sql::{Database, DatabaseOptions, SqlLedger},
};

/// The tables of a ledger.
pub(crate) const TABLES: [&str; 5] = [
    "temporal_batch_stride",
    "temporal_batch_dead_letter",
    "temporal_batch_report",
    "temporal_batch_output",
    "temporal_batch_settled",
];

/// The ledger in a database of any kind, and the schema of its tables.
pub(crate) struct LedgerSchema {
    ledger: Ledger,
    #[cfg(feature = "postgres")]
    schema: Option<String>,
}

enum Ledger {
    #[cfg(feature = "postgres")]
    Postgres(SqlLedger<sqlx::Postgres>, sqlx::PgPool),
    #[cfg(feature = "mysql")]
    MySql(SqlLedger<sqlx::MySql>, sqlx::MySqlPool),
    #[cfg(feature = "sqlite")]
    Sqlite(SqlLedger<sqlx::Sqlite>, sqlx::SqlitePool),
}

/// Runs the same code with the ledger of each database.
macro_rules! on_ledger {
    ($of:expr, $ledger:ident => $do:expr) => {
        match $of {
            #[cfg(feature = "postgres")]
            Ledger::Postgres($ledger, _) => $do,
            #[cfg(feature = "mysql")]
            Ledger::MySql($ledger, _) => $do,
            #[cfg(feature = "sqlite")]
            Ledger::Sqlite($ledger, _) => $do,
        }
    };
}

/// The database cannot have the ledger where it was asked for.
#[derive(Clone, Debug, thiserror::Error)]
pub(crate) enum NoLedgerSchema {
    #[error("{system} has no schemas like PostgreSQL; leave --schema out")]
    NoSchemas { system: &'static str },
    #[cfg(feature = "postgres")]
    #[error(transparent)]
    Invalid(#[from] crate::sql::InvalidSchema),
}

impl LedgerSchema {
    /// Returns the ledger in a database. `schema` is a schema of PostgreSQL, spelled exactly.
    pub(crate) fn of(database: &Database, schema: Option<&str>) -> Result<Self, NoLedgerSchema> {
        if schema.is_some() && database.system() != "PostgreSQL" {
            let system = database.system();
            return Err(NoLedgerSchema::NoSchemas { system });
        }
        let ledger = match database {
            #[cfg(feature = "postgres")]
            Database::Postgres(pool) => {
                let ledger = SqlLedger::<sqlx::Postgres>::new(pool.clone());
                let ledger = match schema {
                    Some(schema) => ledger.schema(schema)?,
                    None => ledger,
                };
                Ledger::Postgres(ledger, pool.clone())
            }
            #[cfg(feature = "mysql")]
            Database::MySql(pool) => Ledger::MySql(SqlLedger::new(pool.clone()), pool.clone()),
            #[cfg(feature = "sqlite")]
            Database::Sqlite(pool) => Ledger::Sqlite(SqlLedger::new(pool.clone()), pool.clone()),
        };
        Ok(Self {
            ledger,
            #[cfg(feature = "postgres")]
            schema: schema.map(|schema| schema.replace('"', "\"\"")),
        })
    }

    /// Returns the ledger without a connection, for its statements.
    pub(crate) fn unconnected(
        options: &DatabaseOptions,
        schema: Option<&str>,
    ) -> Result<Self, NoLedgerSchema> {
        Self::of(&Database::unconnected(options, None), schema)
    }

    /// Returns the statements that create the tables.
    pub(crate) fn statements(&self) -> String {
        on_ledger!(&self.ledger, ledger => ledger.schema_sql())
    }

    /// Creates the tables that are missing.
    pub(crate) async fn apply(&self) -> Result<(), PageError> {
        on_ledger!(&self.ledger, ledger => ledger.apply_schema().await)
    }

    /// See [`SqlLedger::prune`].
    pub(crate) async fn prune(&self, ended_before: Timestamp) -> Result<u64, PageError> {
        on_ledger!(&self.ledger, ledger => ledger.prune(ended_before).await)
    }

    /// See [`SqlLedger::prune_unfinished`].
    pub(crate) async fn prune_unfinished(&self, ended_before: Timestamp) -> Result<u64, PageError> {
        on_ledger!(&self.ledger, ledger => ledger.prune_unfinished(ended_before).await)
    }

    /// Returns for each of [`TABLES`] whether it exists.
    pub(crate) async fn there(&self) -> Result<[bool; 5], sqlx::Error> {
        let mut there = [false; 5];
        for (table, there) in TABLES.iter().zip(&mut there) {
            *there = match &self.ledger {
                #[cfg(feature = "postgres")]
                Ledger::Postgres(_, pool) => {
                    let name = match &self.schema {
                        Some(schema) => format!("\"{schema}\".{table}"),
                        None => (*table).to_owned(),
                    };
                    let there = "SELECT to_regclass($1) IS NOT NULL";
                    let rows = crate::sql::connection::pgbouncer::rows_of(
                        pool,
                        there,
                        vec![name.as_str().into()],
                    );
                    let rows = rows.await?;
                    rows.first().ok_or(sqlx::Error::RowNotFound)?.try_get(0)?
                }
                #[cfg(feature = "mysql")]
                Ledger::MySql(_, pool) => {
                    let query = sqlx::query(
                        "SELECT count(*) > 0 FROM information_schema.tables
                        WHERE table_schema = database() AND table_name = ?",
                    );
                    query.bind(table).fetch_one(pool).await?.try_get(0)?
                }
                #[cfg(feature = "sqlite")]
                Ledger::Sqlite(_, pool) => {
                    let query = sqlx::query(
                        "SELECT count(*) > 0 FROM sqlite_master WHERE type = 'table' AND name = ?",
                    );
                    query.bind(table).fetch_one(pool).await?.try_get(0)?
                }
            };
        }
        Ok(there)
    }
}
