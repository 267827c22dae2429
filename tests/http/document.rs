//! The table of behaviours is complete.

use std::{fs, path::Path};

#[test]
fn every_row_of_the_behaviours_is_there_once_and_says_what_holds_it() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/behaviours/002-api.md");
    let text = fs::read_to_string(path).unwrap();
    let rows: Vec<_> = text
        .lines()
        .filter(|line| line.starts_with("| 002-"))
        .collect();
    assert_eq!(rows.len(), 22);
    for number in 1..=22 {
        let name = format!("| 002-{number:02} | ");
        let mut found = rows.iter().filter(|row| row.starts_with(&name));
        let row = found.next().unwrap_or_else(|| panic!("no row {number}"));
        assert!(found.next().is_none(), "two rows {number}");
        let held_by = row.trim_end_matches(" |").rsplit(" | ").next().unwrap();
        assert!(!held_by.trim().is_empty(), "{row}");
    }
}
