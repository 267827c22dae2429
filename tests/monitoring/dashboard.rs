//! The file of the dashboard.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::read;

pub fn dashboard() -> Value {
    serde_json::from_str(&read("docs/grafana-dashboard.json")).unwrap()
}

fn panels(dashboard: &Value) -> &Vec<Value> {
    dashboard["panels"].as_array().unwrap()
}

/// All expressions that the panels send to Prometheus.
pub fn expressions() -> Vec<String> {
    let dashboard = dashboard();
    let targets = panels(&dashboard)
        .iter()
        .filter_map(|panel| panel["targets"].as_array());
    let expressions = targets.flatten().map(|target| target["expr"].as_str());
    expressions.map(|e| e.unwrap().to_owned()).collect()
}

/// The variables that are filled by a query: name, metric and label.
pub fn variables() -> Vec<(String, String, String)> {
    let dashboard = dashboard();
    let list = dashboard["templating"]["list"].as_array().unwrap();
    let queries = list.iter().filter(|variable| variable["type"] == "query");
    let parsed = queries.map(|variable| {
        let query = variable["query"]["query"].as_str().unwrap();
        let arguments = query
            .strip_prefix("label_values(")
            .and_then(|rest| rest.strip_suffix(')')?.split_once(", "));
        let (metric, label) = arguments.unwrap_or_else(|| panic!("not understood: {query}"));
        let name = variable["name"].as_str().unwrap();
        (name.to_owned(), metric.to_owned(), label.to_owned())
    });
    parsed.collect()
}

#[test]
fn panels_have_the_fields_that_grafana_needs_and_do_not_overlap() {
    let dashboard = dashboard();
    assert!(dashboard["schemaVersion"].as_u64().unwrap() >= 36);
    assert!(dashboard["uid"].is_string() && dashboard["title"].is_string());
    let (mut ids, mut cells) = (BTreeSet::new(), BTreeSet::new());
    for panel in panels(&dashboard) {
        let title = panel["title"].as_str().unwrap();
        assert!(ids.insert(panel["id"].as_u64().unwrap()), "{title}: id");
        let at = |side: &str| panel["gridPos"][side].as_u64().unwrap();
        assert!(at("x") + at("w") <= 24, "{title}: too wide");
        for x in at("x")..at("x") + at("w") {
            for y in at("y")..at("y") + at("h") {
                assert!(cells.insert((x, y)), "{title} overlaps another panel");
            }
        }
        if panel["type"] == "row" {
            continue;
        }
        let source = &panel["datasource"];
        assert_eq!(source["uid"], "${datasource}", "{title}");
        assert!(
            !panel["description"].as_str().unwrap().is_empty(),
            "{title}"
        );
        let targets = panel["targets"].as_array().unwrap();
        assert!(!targets.is_empty(), "{title}");
        let letters: BTreeSet<_> = targets
            .iter()
            .map(|t| t["refId"].as_str().unwrap())
            .collect();
        assert_eq!(letters.len(), targets.len(), "{title}: refId");
    }
}

#[test]
fn every_used_variable_is_defined() {
    let known: BTreeSet<String> = variables().into_iter().map(|(name, ..)| name).collect();
    for expression in expressions() {
        for rest in expression.split('$').skip(1) {
            let name: String = rest
                .chars()
                .take_while(|c| c.is_ascii_alphanumeric() || *c == '_')
                .collect();
            assert!(
                known.contains(&name) || name == "__rate_interval",
                "{name} in {expression}"
            );
        }
    }
}
