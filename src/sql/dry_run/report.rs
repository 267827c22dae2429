//! The report of a dry run.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::{
    diff::{ChangeKind, RowChange},
    estimate::Estimate,
    plan::Plan,
};
use crate::{
    base::text::{count, grouped},
    sql::Key,
};

/// The result of a [`DryRun`](crate::sql::DryRun). Its `Display` is a report for people; its JSON is that of `dry-run
/// --json`.
///
/// The report holds values of the table.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct DryRunReport {
    /// The table, as statements name it.
    pub table: String,
    /// The database system.
    pub system: String,
    /// The number of matching rows, if it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rows: Option<u64>,
    /// True if the rows were counted, and not estimated from statistics.
    pub rows_are_exact: bool,
    /// The number of rows in a page.
    pub page_size: u64,
    /// The statement that finds a page.
    pub page_query: Plan,
    /// The statements that change a page, in order.
    pub statements: Vec<Plan>,
    /// The choice of the pages.
    pub sample: String,
    /// The pages, in the order of the table.
    pub pages: Vec<PageTrial>,
    /// Changes to a few rows.
    pub changes: Vec<RowChange>,
    /// The estimated duration of the batch. Absent if the number of rows is unknown, or a page failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub estimate: Option<Estimate>,
    /// Further notes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
}

/// A page that was tried and rolled back.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct PageTrial {
    /// The key of the first row.
    pub first: Key,
    /// The key of the last row.
    pub last: Key,
    /// The number of rows.
    pub matched: u64,
    /// The number of rows that the statement with the most affected rows has affected.
    pub changed: u64,
    /// The number of rows that stayed unchanged.
    pub unchanged: u64,
    /// The time to find the page and to run its statements, in seconds.
    pub seconds: f64,
    /// The part of that time spent on waits for locks, if the database shows it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lock_wait_seconds: Option<f64>,
    /// The sessions that had these locks.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub blocked_by: Vec<String>,
    /// The reason why the page failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

impl DryRunReport {
    /// Returns whether all pages succeeded.
    pub fn succeeded(&self) -> bool {
        self.pages.iter().all(|page| page.error.is_none())
    }
}

impl fmt::Display for DryRunReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let pages = self.pages.len() as u64;
        let were = if pages == 1 { "was" } else { "were" };
        writeln!(
            f,
            "Dry run of {} in {}: {} {were} tried and rolled back; nothing was changed.",
            self.table,
            self.system,
            count(pages, "page"),
        )?;
        match self.rows {
            Some(rows) => {
                let about = if self.rows_are_exact { "" } else { "about " };
                let rows = grouped(&rows.to_string());
                writeln!(f, "Rows: {about}{rows}, {} a page", self.page_size)?;
            }
            None => writeln!(f, "Rows: unknown, {} a page", self.page_size)?,
        }
        let many = self.statements.len() > 1;
        for (number, plan) in (1..).zip(&self.statements) {
            match many {
                true => writeln!(f, "\nStatement {number} of a page")?,
                false => writeln!(f, "\nStatement of a page")?,
            }
            show(f, plan)?;
        }
        writeln!(f, "\nHow a page is found")?;
        show(f, &self.page_query)?;
        writeln!(f, "\nPages ({})", self.sample)?;
        self.show_pages(f)?;
        self.show_changes(f)?;
        if let Some(estimate) = &self.estimate {
            writeln!(f, "\nDuration: {estimate}")?;
        }
        if !self.notes.is_empty() {
            writeln!(f)?;
        }
        for note in &self.notes {
            writeln!(f, "Note: {note}")?;
        }
        Ok(())
    }
}

fn show(f: &mut fmt::Formatter<'_>, plan: &Plan) -> fmt::Result {
    writeln!(f, "  {}", one_line(&plan.statement))?;
    for line in &plan.lines {
        writeln!(f, "    {}", printable(line))?;
    }
    for warning in &plan.warnings {
        writeln!(f, "  Warning: {warning}")?;
    }
    Ok(())
}

fn one_line(text: &str) -> String {
    printable(&text.split_whitespace().collect::<Vec<_>>().join(" "))
}

/// Replaces control characters, since a value must not control the terminal.
fn printable(text: &str) -> String {
    let plain = |c: char| if c.is_control() { '\u{fffd}' } else { c };
    text.chars().map(plain).collect()
}

impl DryRunReport {
    fn show_pages(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.pages.is_empty() {
            return writeln!(f, "  no row matches");
        }
        let heads = ["rows", "changed", "unchanged", "time", "lock wait", "keys"];
        let mut rows = vec![heads.map(str::to_owned)];
        for page in &self.pages {
            let ms = |seconds: f64| format!("{:.1} ms", seconds * 1_000.0);
            rows.push([
                page.matched.to_string(),
                page.changed.to_string(),
                page.unchanged.to_string(),
                ms(page.seconds),
                page.lock_wait_seconds.map_or_else(|| "?".to_owned(), ms),
                printable(&format!("{} .. {}", page.first, page.last)),
            ]);
        }
        table(f, &rows, 5)?;
        for page in self.pages.iter().filter(|page| !page.blocked_by.is_empty()) {
            let blockers = printable(&page.blocked_by.join(", "));
            writeln!(f, "  Page {} waited for a lock of {blockers}", page.first)?;
        }
        for page in &self.pages {
            if let Some(error) = &page.error {
                writeln!(f, "  Page {} failed: {}", page.first, one_line(error))?;
            }
        }
        Ok(())
    }

    fn show_changes(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.changes.is_empty() {
            return Ok(());
        }
        writeln!(f, "\nChanges to a few rows")?;
        let mut rows = vec![["key", "column", "before", "after"].map(str::to_owned)];
        for change in &self.changes {
            let key = printable(&change.key.join(", "));
            if change.kind == ChangeKind::Deleted {
                rows.push([key, "(row)".into(), String::new(), "deleted".into()]);
                continue;
            }
            for column in &change.columns {
                let value = |value: &Option<String>| match value {
                    Some(value) => printable(&format!("'{value}'")),
                    None => "NULL".to_owned(),
                };
                rows.push([
                    key.clone(),
                    printable(&column.column),
                    value(&column.before),
                    value(&column.after),
                ]);
            }
        }
        table(f, &rows, 0)
    }
}

/// Aligns columns, of which the first `right` hold numbers.
fn table<const N: usize>(
    f: &mut fmt::Formatter<'_>,
    rows: &[[String; N]],
    right: usize,
) -> fmt::Result {
    let width = |at: usize| rows.iter().map(|row| row[at].chars().count()).max();
    let widths: Vec<_> = (0..N).map(|at| width(at).unwrap_or_default()).collect();
    for row in rows {
        let mut line = String::from(" ");
        for (at, (cell, width)) in row.iter().zip(&widths).enumerate() {
            let cell = match at < right {
                true => format!(" {cell:>width$} "),
                false => format!(" {cell:<width$} "),
            };
            line.push_str(&cell);
        }
        writeln!(f, "{}", line.trim_end())?;
    }
    Ok(())
}
