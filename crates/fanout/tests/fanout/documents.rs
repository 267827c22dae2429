//! What the documents say.

use std::{collections::BTreeSet, path::Path};

const GUIDE: &str = include_str!("../../../../docs/fanout.md");
const BEHAVIOURS: &str = include_str!("../../../../docs/behaviours/000-fanout.md");

#[test]
fn the_guide_says_to_poll_by_query() {
    assert!(GUIDE.contains("Poll by query"), "docs/fanout.md");
}

#[test]
fn the_guide_names_the_primitive_for_each_use_case() {
    for case in [
        "Data processing",
        "Order fulfilment",
        "Report generation",
        "Batch ETL and migration",
    ] {
        let line = GUIDE
            .lines()
            .find(|line| line.starts_with(&format!("| {case}")));
        let line = line.unwrap_or_else(|| panic!("docs/fanout.md has no line of {case}"));
        assert!(line.contains("pages") || line.contains("child"), "{line}");
    }
}

/// The lines of the table: the row, the behaviour, and what holds it.
fn rows() -> Vec<[&'static str; 3]> {
    let lines = BEHAVIOURS.lines().filter(|line| line.starts_with("| 000-"));
    let cells = lines.map(|line| {
        let cells: Vec<_> = line.trim_matches('|').split(" | ").map(str::trim).collect();
        cells
            .try_into()
            .unwrap_or_else(|cells| panic!("not three cells: {cells:?}"))
    });
    cells.collect()
}

#[test]
fn every_row_is_held_by_a_test_or_a_document() {
    let rows = rows();
    let numbers: BTreeSet<_> = rows.iter().map(|[row, ..]| (*row).to_owned()).collect();
    let expected: BTreeSet<_> = (1..=22).map(|n| format!("000-{n:02}")).collect();
    assert_eq!(numbers, expected);
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    for [row, _, held_by] in rows {
        let holders: Vec<_> = held_by.split('`').skip(1).step_by(2).collect();
        assert!(!holders.is_empty(), "{row} is held by nothing");
        for holder in holders {
            let (file, what) = holder
                .split_once("::")
                .or_else(|| holder.split_once('#'))
                .unwrap_or_else(|| panic!("{row}: {holder} names no test and no heading"));
            let text = std::fs::read_to_string(root.join(file));
            let text = text.unwrap_or_else(|error| panic!("{row}: {file}: {error}"));
            let exists = match file.ends_with(".rs") {
                true => text.contains(&format!("fn {what}(")),
                false => text
                    .lines()
                    .any(|line| line.trim_start_matches('#').trim() == what),
            };
            assert!(exists, "{row}: {file} has no {what}");
        }
    }
}
