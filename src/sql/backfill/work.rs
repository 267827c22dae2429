//! The work on the rows of a page.

use std::{collections::HashMap, time::Duration};

use super::{
    args::{Assignment, BackfillArgs},
    assignment::{check_expression, mentions},
    error::InvalidBackfill,
    passed_over::{self, Expected, affects_each_row},
    set_columns::{TypedColumn, counted, update},
    statement::Statement,
};
use crate::{
    base::error::{
        PageError,
        of_database::{Class, classify},
    },
    sql::{
        Database, Key, Table,
        backend::{
            dialect::Dialect,
            value::{Fields, Value},
        },
        connection::{
            lease::{LeasedTransaction, Limits},
            pool::on_pool,
        },
        syntax::Syntax,
    },
};

/// Statements for the pages of a table.
#[derive(Clone, Debug)]
pub struct Work {
    table: Table,
    /// Each statement with the rows that it must affect.
    statements: Vec<(Statement, Expected)>,
}

/// The rows of a page.
#[derive(Clone, Debug)]
pub enum Rows {
    /// The rows from one key to another, both included.
    Between(Key, Key),
    /// The rows after a key, if there is one, up to another.
    UpTo(Option<Key>, Key),
}

impl Rows {
    /// Returns the condition for the rows that match the filter. Its placeholders begin with number `at`.
    pub fn condition(&self, table: &Table, at: usize) -> (String, Vec<Value>) {
        match self {
            Self::Between(first, last) => table.condition_of(first, last, at),
            Self::UpTo(start, end) => table.condition(start.as_ref(), Some(end), at),
        }
    }
}

/// The extra silence after which a transaction ends by itself, beyond the time that its statements may take.
const SILENCE: Duration = Duration::from_secs(30);

/// The longest statement that an error shows, in characters.
const SHOWN_CHARS: usize = 300;

/// # Construct
impl Work {
    /// Checks everything that needs no database.
    pub fn check(args: &BackfillArgs, syntax: Syntax) -> Result<(), InvalidBackfill> {
        args.check_timeouts()?;
        match (args.set.is_empty(), args.statements.is_empty()) {
            (true, true) => return Err(InvalidBackfill::Nothing),
            (false, false) => return Err(InvalidBackfill::SetAndStatements),
            _ => {}
        }
        for assignment in &args.set {
            check_expression(assignment, syntax)?;
        }
        parse_all(&args.statements, syntax)?;
        Ok(())
    }

    /// Makes the statements for an inspected table.
    pub async fn new(args: &BackfillArgs, table: Table) -> Result<Self, PageError> {
        let syntax = Syntax::of(table.database());
        Self::check(args, syntax).map_err(InvalidBackfill::into_page_error)?;
        if args.set.is_empty() {
            let statements = parse_all(&args.statements, syntax);
            let statements = statements.map_err(InvalidBackfill::into_page_error)?;
            let expected =
                args.statements
                    .iter()
                    .map(|text| match affects_each_row(text, syntax) {
                        true => Expected::EachRow,
                        false => Expected::Unknown,
                    });
            let statements = statements.into_iter().zip(expected).collect();
            return Ok(Self { table, statements });
        }
        let set = resolve(&args.set, &table, syntax).map_err(InvalidBackfill::into_page_error)?;
        let types = match args.rewrite_unchanged {
            true => None,
            false => Some(column_types(&table).await?),
        };
        let name = table.quoted_name();
        let quote = |name: &str| table.quote(name);
        let statement = update(name, &set, quote, types.as_ref(), syntax);
        let expected = match table.passes_over() {
            true => {
                let untouched = untouched(table.database());
                let count = counted(name, &set, types.as_ref(), syntax, untouched);
                Expected::Counted(count)
            }
            false => Expected::Unknown,
        };
        Ok(Self {
            statements: vec![(statement, expected)],
            table,
        })
    }
}

fn untouched(database: &Database) -> Option<&'static str> {
    on_pool!(database, _pool: Db => Db::UNTOUCHED)
}

fn parse_all(statements: &[String], syntax: Syntax) -> Result<Vec<Statement>, InvalidBackfill> {
    let numbered = (1..).zip(statements);
    numbered
        .map(|(number, text)| Statement::parse(text, number, syntax))
        .collect()
}

/// Returns the assignments with the columns as the table spells them.
fn resolve(
    set: &[Assignment],
    table: &Table,
    syntax: Syntax,
) -> Result<Vec<Assignment>, InvalidBackfill> {
    let mut resolved: Vec<Assignment> = Vec::new();
    for Assignment { column, expression } in set {
        let mut columns = table.columns().iter();
        let Some(found) = columns.find(|c| syntax.same_column(&c.name, column)) else {
            let columns: Vec<_> = table.columns().iter().map(|c| c.name.as_str()).collect();
            return Err(InvalidBackfill::NoColumn {
                table: table.quoted_name().to_owned(),
                column: column.clone(),
                columns: columns.join(", "),
            });
        };
        let column = found.name.clone();
        if table.is_key_column(&column) {
            let key = format!("({})", table.spec().key.join(", "));
            return Err(InvalidBackfill::KeyColumn { column, key });
        }
        if found.generated {
            return Err(InvalidBackfill::Generated { column });
        }
        if let Some(key) = generated_key(table) {
            return Err(InvalidBackfill::GeneratedKey { key });
        }
        if resolved.iter().any(|a| a.column == column) {
            return Err(InvalidBackfill::SetTwice { column });
        }
        resolved.push(Assignment {
            column,
            expression: expression.clone(),
        });
    }
    Ok(resolved)
}

/// Returns a key column that the database computes. The catalog shows the source columns only as an expression.
fn generated_key(table: &Table) -> Option<String> {
    let mut columns = table.columns().iter();
    let generated = columns.find(|c| c.generated && table.is_key_column(&c.name));
    generated.map(|column| column.name.clone())
}

/// Returns the types of the columns, by their names.
pub(in crate::sql) async fn column_types(
    table: &Table,
) -> Result<HashMap<String, TypedColumn>, PageError> {
    #[cfg(feature = "postgres")]
    #[allow(
        irrefutable_let_patterns,
        reason = "with the features of other databases it is not"
    )]
    if let Database::Postgres(pool) = table.database() {
        // -1: without the length, and with an unambiguous name for every type.
        let types = "SELECT attname, format_type(atttypid, -1) FROM pg_attribute \
                     WHERE attrelid = $1::text::regclass AND attnum > 0 AND NOT attisdropped";
        let mut connection = pool.acquire().await?;
        let name = vec![Value::from(table.quoted_name())];
        let rows = sqlx::Postgres::rows(&mut connection, types.to_owned(), name);
        let rows = rows.await?;
        let named = rows.iter().map(|row| {
            let mut fields = Fields::<sqlx::Postgres>::of(row);
            let (name, type_name) = (fields.text()?, fields.text()?);
            let typed = TypedColumn {
                name: table.quote(&name),
                type_name,
            };
            Ok((name, typed))
        });
        return named.collect();
    }
    let columns = table.columns().iter().map(|column| {
        let typed = TypedColumn {
            name: table.quote(&column.name),
            type_name: column.type_name.clone(),
        };
        (column.name.clone(), typed)
    });
    Ok(columns.collect())
}

/// # Inspect
impl Work {
    /// Returns the table.
    pub fn table(&self) -> &Table {
        &self.table
    }

    /// Returns the columns that are set and whose own or other new values are computed from columns that are set.
    pub fn read_by_themselves<'a>(&self, args: &'a BackfillArgs) -> Vec<&'a str> {
        let syntax = Syntax::of(self.table.database());
        let reads = |assignment: &&Assignment| {
            let mut columns = args.set.iter().map(|a| &a.column);
            columns.any(|column| mentions(&assignment.expression, column, syntax))
        };
        let columns = args.set.iter().filter(reads);
        columns.map(|a| a.column.as_str()).collect()
    }

    /// Returns whether the rows of a page must stay unchanged between two statements.
    fn locks(&self) -> bool {
        let ranges = self
            .statements
            .iter()
            .map(|(statement, _)| statement.ranges());
        ranges.sum::<usize>() > 1
    }

    /// Returns the statements with `rows` as the condition, for people.
    pub fn shown(&self, rows: &str) -> Vec<String> {
        let shown =
            |(statement, _): &(Statement, _)| statement.render(|_| (rows.to_owned(), Vec::new())).0;
        self.statements.iter().map(shown).collect()
    }

    /// Makes the database plan each statement for no rows, so that it can refuse statements that are wrong or not
    /// permitted.
    pub async fn try_out(&self, args: &BackfillArgs) -> Result<(), PageError> {
        for (statement, _) in &self.statements {
            let statement = statement.render(|_| ("FALSE".to_owned(), Vec::new()));
            let shown = crate::base::error::truncate(&statement.0, SHOWN_CHARS);
            self.explain(args, statement).await.map_err(|error| {
                match error.as_database_error() {
                    // The session that holds the lock of the table will release it.
                    _ if matches!(classify(&error).class, Class::Conflict | Class::Limit) => {
                        error.into()
                    }
                    Some(refusal) => {
                        let database = self.table.database();
                        let advice = Syntax::of(database).on_quotes(&shown);
                        let refused = InvalidBackfill::Refused {
                            system: database.system(),
                            message: format!("{}{advice}", refusal.message()),
                            statement: shown,
                        };
                        refused.into_page_error()
                    }
                    None => error.into(),
                }
            })?;
        }
        Ok(())
    }

    /// Returns the plan of each statement for the rows from one key to another, in the words of the database.
    pub async fn plans(
        &self,
        args: &BackfillArgs,
        first: &Key,
        last: &Key,
    ) -> Result<Vec<Vec<String>>, PageError> {
        let mut plans = Vec::new();
        for (statement, _) in &self.statements {
            let statement = statement.render(|at| self.table.condition_of(first, last, at));
            plans.push(self.explain(args, statement).await?);
        }
        Ok(plans)
    }

    async fn explain(
        &self,
        args: &BackfillArgs,
        statement: (String, Vec<Value>),
    ) -> Result<Vec<String>, sqlx::Error> {
        match self.table.database() {
            #[cfg(feature = "postgres")]
            Database::Postgres(pool) => explain::<sqlx::Postgres>(pool, args, statement).await,
            #[cfg(feature = "mysql")]
            Database::MySql(pool) => explain::<sqlx::MySql>(pool, args, statement).await,
            #[cfg(feature = "sqlite")]
            Database::Sqlite(pool) => explain::<sqlx::Sqlite>(pool, args, statement).await,
        }
    }
}

/// Explains a statement. Planning takes the same lock of the table as the statement itself, so it has the same
/// limits.
async fn explain<DB: Dialect>(
    pool: &sqlx::Pool<DB>,
    args: &BackfillArgs,
    (statement, values): (String, Vec<Value>),
) -> Result<Vec<String>, sqlx::Error> {
    let statement = format!("{} {statement}", DB::EXPLAIN);
    let rows = match DB::limit(args.timeouts()) {
        None => {
            let mut connection = pool.acquire().await?;
            DB::rows(&mut connection, statement, values).await?
        }
        Some(limit) => {
            let mut transaction = LeasedTransaction::on(pool, Work::begin::<DB>(args)).await?;
            if !DB::LIMIT_AT_BEGIN {
                DB::script(&mut transaction, limit).await?;
            }
            let rows = DB::rows(&mut transaction, statement, values).await?;
            if let Some(unlimit) = DB::unlimit() {
                DB::script(&mut transaction, unlimit).await?;
            }
            transaction.rollback().await?;
            rows
        }
    };
    Ok(rows.iter().filter_map(DB::plan_line).collect())
}

/// # Apply
impl Work {
    /// Begins a transaction for [`apply`](Self::apply).
    pub fn begin<DB: Dialect>(args: &BackfillArgs) -> String {
        // Statements and waits for locks end within this time.
        let silent = args.statement_timeout.saturating_add(args.lock_timeout);
        Self::limits::<DB>(args).begin(DB::begin(silent.saturating_add(SILENCE)))
    }

    /// Returns the limits of a transaction for [`apply`](Self::apply) that are part of its beginning.
    pub(in crate::sql) fn limits<DB: Dialect>(args: &BackfillArgs) -> Limits {
        Limits {
            before: DB::limit_beginning(args.timeouts()),
            within: DB::limit(args.timeouts()).filter(|_| DB::LIMIT_AT_BEGIN),
        }
    }

    /// Runs the statements for those of the rows that match the filter, in a transaction that [began](Self::begin)
    /// for it. Returns the number of rows of the statement that affected most.
    pub async fn apply<DB: Dialect>(
        &self,
        connection: &mut DB::Connection,
        args: &BackfillArgs,
        rows: &Rows,
    ) -> Result<u64, PageError> {
        if DB::LIMIT_AT_BEGIN {
            return self.run::<DB>(connection, rows).await;
        }
        if let Some(limit) = DB::limit(args.timeouts()) {
            DB::script(connection, limit).await?;
        }
        let applied = self.run::<DB>(connection, rows).await;
        if let Some(unlimit) = DB::unlimit() {
            let undone = DB::script(connection, unlimit).await;
            if applied.is_ok() {
                undone?;
            }
        }
        applied
    }

    async fn run<DB: Dialect>(
        &self,
        connection: &mut DB::Connection,
        rows: &Rows,
    ) -> Result<u64, PageError> {
        let mut most = 0;
        if !self.locks() {
            for (statement, expected) in &self.statements {
                let must = expected.before::<DB>(connection, &self.table, rows).await?;
                let (text, values) = statement.render(|at| rows.condition(&self.table, at));
                let affected = DB::execute(connection, text, values).await?;
                let left = expected.after::<DB>(connection, &self.table, rows, must, affected);
                left.await?;
                most = most.max(affected);
            }
            return Ok(most);
        }
        // All statements must see the same rows: neither rows that were added nor changes that were made meanwhile.
        let condition = rows.condition(&self.table, 1);
        let keys = self.table.lock::<DB>(connection, condition).await?;
        if keys.is_empty() {
            return Ok(0);
        }
        for (statement, expected) in &self.statements {
            let (text, values) = statement.render(|at| self.table.condition_among(&keys, at));
            let affected = DB::execute(connection, text, values).await?;
            if let Expected::EachRow = expected {
                let left = (keys.len() as u64).saturating_sub(affected);
                passed_over::check(&self.table, left)?;
            }
            most = most.max(affected);
        }
        Ok(most)
    }
}
