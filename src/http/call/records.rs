//! Reading the records of a call.

#[cfg(any(feature = "sqlite", feature = "postgres", feature = "mysql"))]
use std::sync::{Arc, PoisonError};

#[cfg(any(feature = "sqlite", feature = "postgres", feature = "mysql"))]
use super::source::{Unreadable, of_object};
use super::{
    args::CallArgs,
    processor::HttpCall,
    source::{CallCursor, CallItem, CallSource},
};
#[cfg(any(feature = "sqlite", feature = "postgres", feature = "mysql"))]
use crate::sql::{HighWaterMark, RowUpdate, Table, TableError};
use crate::{
    base::error::PageError,
    page::{Page, range::PageRange},
};

impl HttpCall {
    /// Returns the names of the fields: all of a CSV file or a table, those of the first lines of a JSON Lines file.
    pub(super) async fn fields(&self, args: &CallArgs) -> Result<Vec<String>, PageError> {
        if let CallSource::Csv(source) = &args.source {
            let names = source.columns().await?;
            return names.ok_or_else(|| {
                PageError::non_retryable(
                    "InvalidCall",
                    "the file is empty, or has no names of columns",
                )
            });
        }
        #[cfg(any(feature = "sqlite", feature = "postgres", feature = "mysql"))]
        if let CallSource::Table {
            connection, table, ..
        } = &args.source
        {
            let table = self.table(connection, table).await?;
            return Ok(table.columns().iter().map(|c| c.name.clone()).collect());
        }
        const LOOK_AT: usize = 100;
        let first = self
            .page(args, &PageRange::new(None, None), LOOK_AT)
            .await?;
        let mut names: Vec<String> = Vec::new();
        for item in first.items() {
            for (name, _) in item.content.iter().flatten() {
                if !names.contains(name) {
                    names.push(name.clone());
                }
            }
        }
        Ok(names)
    }

    #[cfg(any(feature = "sqlite", feature = "postgres", feature = "mysql"))]
    pub(super) async fn table(
        &self,
        connection: &str,
        spec: &crate::sql::TableSpec,
    ) -> Result<Table, PageError> {
        let name = serde_json::to_string(&(connection, spec))?;
        let known = self
            .tables
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(&name)
            .cloned();
        if let Some(table) = known {
            return Ok(table);
        }
        let database = self.connections.get(connection)?;
        let table = Table::inspect(database, spec).await;
        let table = table.map_err(TableError::into_page_error)?;
        table
            .check_plan()
            .await
            .map_err(TableError::into_page_error)?;
        let mut tables = self.tables.lock().unwrap_or_else(PoisonError::into_inner);
        tables.insert(name, table.clone());
        Ok(table)
    }

    /// Returns the columns that the answers are written into; `None` if they go into files.
    #[cfg(any(feature = "sqlite", feature = "postgres", feature = "mysql"))]
    pub(crate) async fn update(
        &self,
        args: &CallArgs,
    ) -> Result<Option<Arc<RowUpdate>>, PageError> {
        let (
            None,
            CallSource::Table {
                connection, table, ..
            },
        ) = (&args.to, &args.source)
        else {
            return Ok(None);
        };
        let names: Vec<_> = args.set.iter().map(|(name, _)| name.clone()).collect();
        let name = serde_json::to_string(&(connection, table, &names))?;
        let updates = || self.updates.lock().unwrap_or_else(PoisonError::into_inner);
        let known = updates().get(&name).cloned();
        if known.is_some() {
            return Ok(known);
        }
        let table = self.table(connection, table).await?;
        let update = Arc::new(RowUpdate::new(&table, &names).await?);
        updates().insert(name, Arc::clone(&update));
        Ok(Some(update))
    }

    /// Reads at most `limit` records.
    pub(crate) async fn page(
        &self,
        args: &CallArgs,
        range: &PageRange<CallCursor>,
        limit: usize,
    ) -> Result<Page<CallCursor, CallItem>, PageError> {
        #[cfg(any(feature = "sqlite", feature = "postgres", feature = "mysql"))]
        if let CallSource::Table {
            connection,
            table,
            high_water_mark,
        } = &args.source
        {
            if *high_water_mark == HighWaterMark::NoRows {
                return Ok(Page::empty());
            }
            let table = self.table(connection, table).await?;
            let end = key(range.end())?.or(high_water_mark.key());
            let rows = table.records(None, key(range.start())?, end, limit).await?;
            let item = |(key, row): (crate::sql::Key, Box<serde_json::value::RawValue>)| {
                let content = of_object(row.get());
                CallItem {
                    cursor: CallCursor::Row(key),
                    content: content.map_err(|bad| {
                        Box::new(Unreadable {
                            error_type: bad.error_type.to_string(),
                            message: bad.message.to_string(),
                            kept: String::new(),
                        })
                    }),
                }
            };
            let items = rows.into_iter().map(item).collect();
            return Page::sorted(items, |item: &CallItem| item.cursor.clone());
        }
        let page = args.source.file_page(&args.null, range, limit).await?;
        Ok(page.unwrap_or_else(Page::empty))
    }
}

#[cfg(any(feature = "sqlite", feature = "postgres", feature = "mysql"))]
pub(super) fn key(cursor: Option<&CallCursor>) -> Result<Option<&crate::sql::Key>, PageError> {
    match cursor {
        None => Ok(None),
        Some(CallCursor::Row(key)) => Ok(Some(key)),
        Some(CallCursor::File(_)) => {
            Err(PageError::environment("the cursor is not a key").with_type("CursorNotReadable"))
        }
    }
}
