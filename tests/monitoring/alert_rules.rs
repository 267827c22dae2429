//! The file of alerts, as `promtool` reads it.

use crate::{
    file,
    prometheus::{is_installed, promtool},
    read,
};

#[track_caller]
fn accepted(folder: &std::path::Path, args: &[&str]) -> String {
    let output = promtool(folder, args, "");
    let told = [output.stdout, output.stderr].concat();
    let told = String::from_utf8(told).unwrap();
    assert!(output.status.success(), "{told}");
    told
}

#[test]
fn the_rules_are_valid() {
    if is_installed("promtool") {
        let told = accepted(&file("docs"), &["check", "rules", "alerts.yml"]);
        let alerts = read("docs/alerts.yml").matches("- alert: ").count();
        assert!(told.contains(&format!("{alerts} rules found")), "{told}");
    }
}

#[test]
fn each_alert_fires_in_time_and_not_before() {
    let tests = read("tests/monitoring/alerts.test.yml");
    for alert in alerts() {
        let tested = tests.matches(&format!("alertname: {alert}\n")).count();
        assert!(tested > 0, "no test of {alert}");
    }
    if is_installed("promtool") {
        // The tests name the rules by a relative path.
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("alerts.yml"), read("docs/alerts.yml")).unwrap();
        std::fs::write(folder.path().join("alerts.test.yml"), &tests).unwrap();
        accepted(folder.path(), &["test", "rules", "alerts.test.yml"]);
    }
}

#[test]
fn each_alert_is_documented_with_its_remedy() {
    let explained = read("docs/monitoring.md");
    for alert in alerts() {
        assert!(
            explained.contains(&format!("| `{alert}` |")),
            "{alert} is not in docs/monitoring.md"
        );
    }
}

fn alerts() -> Vec<String> {
    let rules = read("docs/alerts.yml");
    let names = rules
        .lines()
        .filter_map(|line| line.trim().strip_prefix("- alert: "));
    names.map(str::to_owned).collect()
}
