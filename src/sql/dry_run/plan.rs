//! The plan of a statement, with warnings about slow parts.

use serde::{Deserialize, Serialize};

use crate::sql::Database;

/// A statement with its plan in the database.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Plan {
    /// The statement, with placeholders for the values of the page.
    pub statement: String,
    /// The plan, in the words of the database.
    pub lines: Vec<String>,
    /// The parts that make a page slow in a large table.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
}

impl Plan {
    pub(super) fn new(statement: String, lines: Vec<String>, database: &Database) -> Self {
        let warnings = match database {
            #[cfg(feature = "postgres")]
            Database::Postgres(_) => postgres(&lines),
            #[cfg(feature = "mysql")]
            Database::MySql(_) => mysql(&lines),
            #[cfg(feature = "sqlite")]
            Database::Sqlite(_) => sqlite(&lines),
        };
        Self {
            statement,
            lines,
            warnings,
        }
    }
}

/// Returns warnings about a plan as PostgreSQL prints it.
#[cfg(feature = "postgres")]
fn postgres(lines: &[String]) -> Vec<String> {
    let mut warnings = Vec::new();
    for line in lines {
        let node = line.trim_start().trim_start_matches("->").trim_start();
        let node = node.split("  (").next().unwrap_or(node);
        let scan = node.strip_prefix("Parallel ").unwrap_or(node);
        if let Some(table) = scan.strip_prefix("Seq Scan on ") {
            warnings.push(format!("reads the whole table {table}"));
        } else if node == "Sort" || node == "Incremental Sort" {
            warnings.push("sorts rows".to_owned());
        }
    }
    warnings
}

/// Returns warnings about a result of `EXPLAIN QUERY PLAN`.
#[cfg(feature = "sqlite")]
fn sqlite(lines: &[String]) -> Vec<String> {
    let mut warnings = Vec::new();
    for line in lines {
        if let Some(scan) = line.strip_prefix("SCAN ") {
            let (table, how) = scan.split_once(' ').unwrap_or((scan, ""));
            let internal = table.starts_with('(') || scan == "CONSTANT ROW";
            match how.strip_prefix("USING ") {
                // The list of the page's keys.
                _ if internal || how.starts_with("VIRTUAL TABLE") => {}
                Some(index) => warnings.push(format!("reads all of {table} by {index}")),
                None => warnings.push(format!("reads the whole table {table}")),
            }
        } else if line.starts_with("USE TEMP B-TREE FOR ORDER BY") {
            warnings.push("sorts rows".to_owned());
        }
    }
    warnings
}

/// Returns warnings about a result of `EXPLAIN`, as `access on table using key`.
#[cfg(feature = "mysql")]
fn mysql(lines: &[String]) -> Vec<String> {
    let mut warnings = Vec::new();
    for line in lines {
        if let Some(table) = line.strip_prefix("ALL on ") {
            warnings.push(format!("reads the whole table {table}"));
        } else if let Some(table) = line.strip_prefix("index on ") {
            warnings.push(format!("reads all of an index: {table}"));
        }
    }
    warnings
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(text: &str) -> Vec<String> {
        text.lines().map(str::to_owned).collect()
    }

    #[test]
    #[cfg(feature = "postgres")]
    fn a_scan_of_the_table_is_worth_a_warning_in_postgres() {
        let plan = "Update on users  (cost=0.00..1.00 rows=0 width=0)
  ->  Sort
        ->  Parallel Seq Scan on users u  (cost=0.00..1.00 rows=1 width=6)
              Filter: (id > 5)
  ->  Index Scan using users_pkey on users";
        let warnings = postgres(&lines(plan));
        assert_eq!(warnings, ["sorts rows", "reads the whole table users u"]);
    }

    #[test]
    #[cfg(feature = "sqlite")]
    fn a_scan_of_the_table_is_worth_a_warning_in_sqlite() {
        let plan = "SEARCH users USING INTEGER PRIMARY KEY (rowid>? AND rowid<?)
SCAN orders
SCAN items USING COVERING INDEX items_pkey
SCAN page VIRTUAL TABLE INDEX 1:
USE TEMP B-TREE FOR ORDER BY
SCAN CONSTANT ROW";
        assert_eq!(
            sqlite(&lines(plan)),
            [
                "reads the whole table orders",
                "reads all of items by COVERING INDEX items_pkey",
                "sorts rows"
            ]
        );
    }

    #[test]
    #[cfg(feature = "mysql")]
    fn a_scan_of_the_table_is_worth_a_warning_in_mysql() {
        let plan = "ALL on orders\nrange on users using PRIMARY\nindex on items using by_name";
        assert_eq!(
            mysql(&lines(plan)),
            [
                "reads the whole table orders",
                "reads all of an index: items using by_name"
            ]
        );
    }
}
