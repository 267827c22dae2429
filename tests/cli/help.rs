//! The help and the documentation of the commands.

use crate::support::command::{offline, online, run, start_unread};

#[test]
fn every_command_that_is_documented_has_help() {
    let documented = include_str!("../../docs/cli.md");
    let examples = documented
        .lines()
        .filter_map(|line| line.trim().strip_prefix("temporal-batch "));
    let mut commands: Vec<_> = examples
        .filter_map(|rest| rest.split(' ').next())
        .map(str::to_owned)
        .collect();
    commands.sort();
    commands.dedup();
    assert!(commands.len() >= 13, "{commands:?}");
    for name in commands.iter() {
        let output = run(offline(&[name, "--help"]));
        assert_eq!(output.status, Some(0), "{name}");
        let help = &output.out;
        for flag in help
            .split_whitespace()
            .filter(|word| word.starts_with("--"))
        {
            let flag = flag.trim_matches(|c: char| !c.is_ascii_alphanumeric() && c != '-');
            let flag = flag.split(['[', '=']).next().unwrap();
            let known = documented.contains(&format!("`{flag}")) || flag == "--help";
            assert!(known, "{flag} of {name} is not documented");
        }
    }
}

/// The words that begin the lines of a list in a help text, or the links in the first column of a table.
fn commands_of_help(help: &str) -> Vec<String> {
    let list = help.split("\nCommands:\n").nth(1).unwrap();
    let list = list.split("\n\n").next().unwrap();
    let mut commands: Vec<_> = list
        .lines()
        .filter(|line| line.starts_with("  ") && !line.starts_with("   "))
        .filter_map(|line| line.split_whitespace().next())
        .filter(|name| *name != "help")
        .map(str::to_owned)
        .collect();
    commands.sort();
    commands
}

#[test]
fn the_table_of_commands_is_complete() {
    let documented = include_str!("../../docs/cli.md");
    let table = documented.split("| command | does |").nth(1).unwrap();
    let table = table.split("\n\n").next().unwrap();
    let names = table.split("[`").skip(1);
    let mut names: Vec<_> = names
        .filter_map(|rest| rest.split('`').next())
        .map(str::to_owned)
        .collect();
    names.sort();
    let help = run(offline(&["--help"])).out;
    assert_eq!(names, commands_of_help(&help));
    for name in &names {
        let anchors = [
            format!("\n## `{name}`"),
            format!("\n### `{name}`"),
            format!("`{name}`"),
        ];
        assert!(
            anchors.iter().any(|anchor| documented.contains(anchor)),
            "{name}"
        );
    }
}

#[test]
fn a_closed_output_is_no_error() {
    let help = start_unread(offline(&["--help"]));
    assert_eq!(help.ended().status, Some(0));
    let list = start_unread(online(&["list", "--json"])).ended();
    assert_eq!(list.status, Some(0));
    assert_eq!(list.err, "");
}
