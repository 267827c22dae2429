//! The changes of a page to its rows: their values before and after.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

use crate::base::error::truncate;

/// The longest value that is shown, in characters.
const MAX_VALUE_CHARS: usize = 60;
/// The number of characters that are shown before the first difference.
const CONTEXT: usize = 12;

/// A row that a page changes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct RowChange {
    /// The key, one value for each key column.
    pub key: Vec<String>,
    /// The kind of change.
    pub kind: ChangeKind,
    /// The columns whose values differ; empty for a row that is removed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub columns: Vec<ColumnChange>,
}

/// The kind of change to a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ChangeKind {
    /// The row has other values.
    Changed,
    /// The row is removed, or has another key.
    Deleted,
}

/// A column of a row before and after. Long values are shortened around their difference.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ColumnChange {
    /// The name of the column.
    pub column: String,
    /// The value before, as text; `None` is NULL.
    pub before: Option<String>,
    /// The value after, as text; `None` is NULL.
    pub after: Option<String>,
}

/// Rows in order: their keys and values, as texts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Snapshot {
    rows: Vec<(Vec<String>, Vec<Option<String>>)>,
}

impl Snapshot {
    pub fn add(&mut self, key: Vec<String>, values: Vec<Option<String>>) {
        self.rows.push((key, values));
    }

    /// Returns the first rows that have other values in `after`, or are missing there.
    pub fn changes(&self, after: &Self, columns: &[String], most: usize) -> Vec<RowChange> {
        let after: HashMap<_, _> = after.rows.iter().map(|(key, row)| (key, row)).collect();
        let mut shown = Vec::new();
        for (key, before) in &self.rows {
            let after = after.get(key).copied();
            if after == Some(before) {
                continue;
            }
            if shown.len() == most {
                break;
            }
            shown.push(RowChange {
                key: key
                    .iter()
                    .map(|part| truncate(part, MAX_VALUE_CHARS))
                    .collect(),
                kind: match after {
                    Some(_) => ChangeKind::Changed,
                    None => ChangeKind::Deleted,
                },
                columns: after.map_or_else(Vec::new, |after| differing(columns, before, after)),
            });
        }
        shown
    }
}

fn differing(
    columns: &[String],
    before: &[Option<String>],
    after: &[Option<String>],
) -> Vec<ColumnChange> {
    let values = before.iter().zip(after);
    let all = columns.iter().zip(values);
    all.filter(|(_, (before, after))| before != after)
        .map(|(column, (before, after))| {
            let (before, after) = shortened(before.as_deref(), after.as_deref());
            ColumnChange {
                column: column.clone(),
                before,
                after,
            }
        })
        .collect()
}

/// Cuts two values to the same window, which begins shortly before their difference.
fn shortened(before: Option<&str>, after: Option<&str>) -> (Option<String>, Option<String>) {
    let (Some(b), Some(a)) = (before, after) else {
        let cut = |value: Option<&str>| value.map(|v| truncate(v, MAX_VALUE_CHARS));
        return (cut(before), cut(after));
    };
    let same = b.chars().zip(a.chars()).take_while(|(b, a)| b == a).count();
    let long = b.chars().count().max(a.chars().count()) > MAX_VALUE_CHARS;
    let from = if long {
        same.saturating_sub(CONTEXT)
    } else {
        0
    };
    let window = |value: &str| {
        if from == 0 {
            return truncate(value, MAX_VALUE_CHARS);
        }
        let tail: String = value.chars().skip(from).collect();
        truncate(&format!("…{tail}"), MAX_VALUE_CHARS)
    };
    (Some(window(b)), Some(window(a)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn snapshot(rows: &[(&str, [Option<&str>; 2])]) -> Snapshot {
        let mut snapshot = Snapshot::default();
        for (key, values) in rows {
            let values = values.iter().map(|v| v.map(str::to_owned)).collect();
            snapshot.add(vec![(*key).to_owned()], values);
        }
        snapshot
    }

    #[test]
    fn only_columns_that_differ_are_shown() {
        let columns = ["a".to_owned(), "b".to_owned()];
        let before = snapshot(&[
            ("1", [Some("x"), None]),
            ("2", [Some("y"), Some("z")]),
            ("3", [None, None]),
        ]);
        let after = snapshot(&[
            ("1", [Some("x"), Some("new")]),
            ("2", [Some("y"), Some("z")]),
        ]);
        let shown = before.changes(&after, &columns, 10);
        assert_eq!(shown.len(), 2);
        assert_eq!(shown[0].kind, ChangeKind::Changed);
        assert_eq!(
            shown[0].columns,
            [ColumnChange {
                column: "b".to_owned(),
                before: None,
                after: Some("new".to_owned()),
            }]
        );
        assert_eq!(
            (&*shown[1].key, shown[1].kind),
            (&["3".to_owned()][..], ChangeKind::Deleted)
        );
        assert_eq!(before.changes(&after, &columns, 1).len(), 1);
    }

    #[test]
    fn long_values_are_cut_around_where_they_differ() {
        let text = |end: &str| format!("{}{end}", "ä".repeat(100));
        let (before, after) = shortened(Some(&text("old")), Some(&text("new")));
        let same = "ä".repeat(CONTEXT);
        assert_eq!(before.unwrap(), format!("…{same}old"));
        assert_eq!(after.unwrap(), format!("…{same}new"));
    }

    proptest! {
        #[test]
        fn values_that_differ_still_do_once_they_are_cut(a in ".{0,90}", b in ".{0,90}") {
            prop_assume!(a != b);
            let (before, after) = shortened(Some(&b), Some(&a));
            let (before, after) = (before.unwrap(), after.unwrap());
            prop_assert!(before.chars().count() <= MAX_VALUE_CHARS);
            prop_assert!(after.chars().count() <= MAX_VALUE_CHARS);
            prop_assert_ne!(before, after);
        }
    }
}
