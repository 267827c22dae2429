//! Tables of MySQL and MariaDB whose engine has no transactions, such as MyISAM and Aria. Rows that a page wrote
//! there remain when the page is rolled back, and the next attempt writes them again.

use crate::{base::error::PageError, sql::Database};

/// A table whose changes cannot be rolled back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Untransactional {
    pub table: String,
    pub engine: String,
}

/// Returns the first table without transactions that one of the statements may write to, directly or through a trigger
/// of a table that it names; with `ledger`, also a table of the page ledger.
pub(crate) async fn untransactional(
    database: &Database,
    statements: &[String],
    ledger: bool,
) -> Result<Option<Untransactional>, PageError> {
    match database {
        #[cfg(feature = "mysql")]
        Database::MySql(pool) => mysql::untransactional(pool, statements, ledger).await,
        #[allow(unreachable_patterns, reason = "other databases have one engine")]
        _ => {
            let _ = (statements, ledger);
            Ok(None)
        }
    }
}

#[cfg(feature = "mysql")]
mod mysql {
    use sqlx::{MySql, MySqlPool, mysql::MySqlRow};

    use super::Untransactional;
    use crate::{
        base::error::PageError,
        sql::{
            backend::dialect::Dialect as _,
            syntax::{Kind, Syntax, Token, tokens},
        },
    };

    /// See [`untransactional`](super::untransactional).
    pub async fn untransactional(
        pool: &MySqlPool,
        statements: &[String],
        ledger: bool,
    ) -> Result<Option<Untransactional>, PageError> {
        let candidates = candidates(pool).await?;
        if candidates.is_empty() {
            return Ok(None);
        }
        let written: Vec<_> = statements.iter().flat_map(|s| written(s)).collect();
        let mut named = written.clone();
        for trigger in triggers(pool).await? {
            if written.iter().any(|name| name.is(&trigger.on)) {
                named.extend(names(&trigger.does, Some(&trigger.on.schema)));
            }
        }
        let found = candidates.into_iter().find(|Candidate { place, .. }| {
            let of_ledger = ledger && place.current && place.table.starts_with("temporal_batch_");
            of_ledger || named.iter().any(|name| name.is(place))
        });
        Ok(found.map(|found| Untransactional {
            table: found.place.table,
            engine: found.engine,
        }))
    }

    /// The schema and the name of a table.
    struct Place {
        schema: String,
        table: String,
        /// True if the schema is the database of the connection.
        current: bool,
    }

    struct Candidate {
        place: Place,
        engine: String,
    }

    struct Trigger {
        on: Place,
        does: String,
    }

    async fn candidates(pool: &MySqlPool) -> Result<Vec<Candidate>, PageError> {
        let sql = "SELECT CAST(t.table_schema AS CHAR), CAST(t.table_name AS CHAR), CAST(t.engine AS CHAR),
                CAST(coalesce(t.table_schema = DATABASE(), FALSE) AS SIGNED)
            FROM information_schema.tables t
            JOIN information_schema.engines e ON e.engine = t.engine
            WHERE t.table_type = 'BASE TABLE' AND coalesce(e.transactions, 'NO') <> 'YES'
                AND t.table_schema NOT IN ('mysql', 'information_schema', 'performance_schema', 'sys')
            ORDER BY t.table_schema, t.table_name";
        let mut connection = pool.acquire().await?;
        let rows = MySql::rows(&mut connection, sql.to_owned(), Vec::new()).await?;
        let candidate = |row| {
            Ok(Candidate {
                place: place(row, 3)?,
                engine: MySql::text(row, 2)?.unwrap_or_default(),
            })
        };
        Ok(rows
            .iter()
            .map(candidate)
            .collect::<Result<_, sqlx::Error>>()?)
    }

    /// Returns the triggers that the account may see.
    async fn triggers(pool: &MySqlPool) -> Result<Vec<Trigger>, PageError> {
        let sql = "SELECT CAST(event_object_schema AS CHAR), CAST(event_object_table AS CHAR),
                CAST(action_statement AS CHAR),
                CAST(coalesce(event_object_schema = DATABASE(), FALSE) AS SIGNED)
            FROM information_schema.triggers";
        let mut connection = pool.acquire().await?;
        let rows = MySql::rows(&mut connection, sql.to_owned(), Vec::new()).await?;
        let trigger = |row| {
            Ok(Trigger {
                on: place(row, 3)?,
                does: MySql::text(row, 2)?.unwrap_or_default(),
            })
        };
        Ok(rows
            .iter()
            .map(trigger)
            .collect::<Result<_, sqlx::Error>>()?)
    }

    fn place(row: &MySqlRow, current: usize) -> Result<Place, sqlx::Error> {
        Ok(Place {
            schema: MySql::text(row, 0)?.unwrap_or_default(),
            table: MySql::text(row, 1)?.unwrap_or_default(),
            current: MySql::number(row, current)? != 0,
        })
    }

    /// A name in a statement that may be a table.
    #[derive(Clone, Debug, PartialEq, Eq)]
    struct Named {
        /// The schema; `None` stands for the database of the connection.
        schema: Option<String>,
        table: String,
    }

    impl Named {
        /// Compares without case, which matters on some systems only.
        fn is(&self, place: &Place) -> bool {
            let here = match &self.schema {
                Some(schema) => schema.eq_ignore_ascii_case(&place.schema),
                None => place.current,
            };
            here && self.table.eq_ignore_ascii_case(&place.table)
        }
    }

    /// Returns the names in the part of a statement that says what it writes to, before the rows or values.
    fn written(statement: &str) -> Vec<Named> {
        let all = tokens(statement, Syntax::MySql).unwrap_or_default();
        let word = |token: &Token| match token.kind {
            Kind::Word => statement[token.at.clone()].to_ascii_uppercase(),
            _ => String::new(),
        };
        let first = all.iter().find(|token| !token.is_blank()).map(word);
        let end: &[&str] = match first.as_deref() {
            Some("INSERT" | "REPLACE") => &["SELECT", "VALUES", "VALUE", "SET", "WITH"],
            Some("UPDATE") => &["SET"],
            Some("DELETE") => &["WHERE", "ORDER", "LIMIT"],
            // Every part after a common table expression may write.
            _ => &[],
        };
        let head = all.iter().take_while(|t| !end.contains(&word(t).as_str()));
        names_of(statement, head, None)
    }

    /// Returns all names of a text.
    fn names(text: &str, schema: Option<&str>) -> Vec<Named> {
        let all = tokens(text, Syntax::MySql).unwrap_or_default();
        names_of(text, all.iter(), schema)
    }

    fn names_of<'t>(
        text: &str,
        tokens: impl Iterator<Item = &'t Token>,
        default: Option<&str>,
    ) -> Vec<Named> {
        let mut named = Vec::new();
        // The name and the dot that may come before the next name.
        let (mut before, mut dot) = (None::<String>, false);
        for token in tokens.filter(|token| !token.is_blank()) {
            let name = match &token.kind {
                Kind::Word => text[token.at.clone()].to_owned(),
                Kind::Name(name) => name.clone(),
                kind => {
                    dot = *kind == Kind::Symbol('.') && before.is_some();
                    if !dot {
                        before = None;
                    }
                    continue;
                }
            };
            let schema = before
                .take()
                .filter(|_| dot)
                .or_else(|| default.map(str::to_owned));
            named.push(Named {
                schema,
                table: name.clone(),
            });
            (before, dot) = (Some(name), false);
        }
        named
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        fn tables(statement: &str) -> Vec<String> {
            let named = written(statement).into_iter();
            named
                .map(|name| match name.schema {
                    Some(schema) => format!("{schema}.{}", name.table),
                    None => name.table,
                })
                .collect()
        }

        #[test]
        fn what_is_written_stands_before_what_is_read() {
            let archive = tables("INSERT INTO ops.archive (id) SELECT id FROM t WHERE {range}");
            assert!(archive.contains(&"ops.archive".to_owned()), "{archive:?}");
            assert!(!archive.contains(&"t".to_owned()), "{archive:?}");
            let update = tables("UPDATE `shop`.`t` SET a = (SELECT b FROM c)");
            assert!(update.contains(&"shop.t".to_owned()), "{update:?}");
            assert!(!update.contains(&"c".to_owned()), "{update:?}");
            let delete = tables("DELETE FROM t WHERE {range} AND x IN (SELECT y FROM c)");
            assert!(delete.contains(&"t".to_owned()) && !delete.contains(&"c".to_owned()));
        }
    }
}
