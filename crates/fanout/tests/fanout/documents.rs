//! What the documents say.

const GUIDE: &str = include_str!("../../../../docs/fanout.md");

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
