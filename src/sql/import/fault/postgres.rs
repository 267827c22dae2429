//! The columns that PostgreSQL refuses: from the fields of its error, the context of `COPY`, and the catalog.

use super::Refusal;
use crate::sql::{connection::pgbouncer, import::write};

/// The savepoint before a record that is sent alone, after which the database can be asked about a refusal.
pub(in crate::sql::import) const BEFORE_ONE: &str = "SAVEPOINT temporal_batch_one_record";
const BACK_TO_IT: &str = "ROLLBACK TO SAVEPOINT temporal_batch_one_record";

/// Returns the columns that PostgreSQL refuses. This needs a transaction with [`BEFORE_ONE`]. Unknown columns are left
/// out: the error itself matters more.
pub(in crate::sql::import) async fn columns(
    connection: &mut sqlx::PgConnection,
    refusal: &Refusal<'_>,
) -> Vec<String> {
    let Some(error) = postgres_error(refusal.error) else {
        return Vec::new();
    };
    if let Some(column) = error.column() {
        return vec![column.to_owned()];
    }
    if let Some(column) = column_of_copy(refusal, refusal.error) {
        return vec![column];
    }
    if error.code() == "22021" {
        // The one character of UTF-8 that PostgreSQL lacks.
        return refusal.columns_where(|name| refusal.value(name).is_some_and(|v| v.contains('\0')));
    }
    let ask = async {
        sqlx::raw_sql(BACK_TO_IT).execute(&mut *connection).await?;
        if let (Some(name), Some(table)) = (error.constraint(), error.table()) {
            let schema = error.schema().unwrap_or_default();
            return columns_of_constraint(connection, name, schema, table).await;
        }
        // The error of an INSERT does not name the column whose value it cannot convert, and that of COPY does.
        let copied = write::postgres::copy(
            connection,
            refusal.filled,
            std::slice::from_ref(refusal.row),
        );
        let column = match copied.await {
            Ok(_) => None,
            Err(again) => column_of_copy(refusal, &again),
        };
        Ok::<_, sqlx::Error>(column.into_iter().collect())
    };
    let columns = ask.await.unwrap_or_default();
    refusal.in_order(columns)
}

fn postgres_error(error: &sqlx::Error) -> Option<&sqlx::postgres::PgDatabaseError> {
    let error = error.as_database_error()?;
    error.try_downcast_ref::<sqlx::postgres::PgDatabaseError>()
}

/// Returns the column in a context such as `COPY t, line 1, column age: "seven"`.
fn column_of_copy(refusal: &Refusal<'_>, error: &sqlx::Error) -> Option<String> {
    let context = postgres_error(error)?.r#where()?;
    let line = context.lines().find(|line| line.starts_with("COPY "))?;
    let (_, named) = line.split_once(", column ")?;
    let found = refusal.columns_where(|name| {
        let after = named.strip_prefix(name);
        after.is_some_and(|after| after.is_empty() || after.starts_with(':'))
    });
    found.into_iter().max_by_key(String::len)
}

/// Returns the columns of a constraint, or of a unique index.
async fn columns_of_constraint(
    connection: &mut sqlx::PgConnection,
    name: &str,
    schema: &str,
    table: &str,
) -> Result<Vec<String>, sqlx::Error> {
    let statement = "WITH refused (id) AS (
            SELECT c.oid FROM pg_catalog.pg_class AS c JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
            WHERE n.nspname = $2 AND c.relname = $3
        ), numbers (attnum) AS (
            SELECT unnest(conkey) FROM pg_catalog.pg_constraint JOIN refused ON conrelid = id WHERE conname = $1
            UNION
            SELECT unnest(indkey::int2[]) FROM pg_catalog.pg_index JOIN refused ON indrelid = id
                JOIN pg_catalog.pg_class AS i ON i.oid = indexrelid
            WHERE i.relname = $1
        )
        SELECT attname::text FROM pg_catalog.pg_attribute JOIN refused ON attrelid = id
            JOIN numbers USING (attnum) ORDER BY attnum";
    let query = sqlx::query_scalar(statement).persistent(pgbouncer::may_be_named());
    let query = query.bind(name).bind(schema).bind(table);
    query.fetch_all(connection).await
}
