//! The demo prints what the README shows.

use std::process::Command;

/// Lines without numbers that differ from run to run.
fn settled(text: &str) -> Vec<String> {
    let lines = text.lines().filter(|line| {
        // Every look at a running batch may see another page.
        !is_progress(line) || line.ends_with("at the end")
    });
    lines.map(without_rough_numbers).collect()
}

fn is_progress(line: &str) -> bool {
    line.starts_with("Processed ")
}

/// Replaces each number after a `~`, which has to be one, by `N`.
fn without_rough_numbers(line: &str) -> String {
    let mut parts = line.split('~');
    let mut settled = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let number = |c: char| c.is_ascii_digit() || c == '.';
        let rest = part.trim_start_matches(number);
        let value = part[..part.len() - rest.len()].parse::<f64>();
        let value = value.unwrap_or_else(|_| panic!("no number after `~`: {line}"));
        assert!(value.is_finite(), "{line}");
        settled.push_str(&format!("~N{rest}"));
    }
    settled
}

/// Checks that the lines of a progress go forward, with the percentage of what is done.
fn goes_forward(printed: &str) {
    let lines: Vec<_> = printed.lines().filter(|line| is_progress(line)).collect();
    let mut last = 0;
    for line in &lines {
        let done = line.strip_prefix("Processed ").unwrap().split('/').next();
        let done: u64 = done.unwrap().parse().unwrap();
        let shown = format!("Processed {done}/1000 items ({}%)", done / 10);
        assert!(line.starts_with(&shown), "{line} is not {shown}");
        assert!(done > last || line.ends_with("at the end"), "{lines:?}");
        last = done;
    }
    assert!(lines.len() > 2 && last == 1_000, "{lines:?}");
}

#[test]
fn the_demo_prints_what_the_readme_shows() {
    let readme = include_str!("../README.md");
    let shown = readme.split("```text\n").nth(1).unwrap();
    let shown = shown.split("```").next().unwrap();
    let ran = Command::new(env!("CARGO_BIN_EXE_page-pipeline"))
        .args(["demo", "--memory-orders", "20000"])
        .env_remove("TEMPORAL_ADDRESS")
        .output()
        .unwrap();
    let printed = String::from_utf8(ran.stdout).unwrap();
    let errors = String::from_utf8_lossy(&ran.stderr);
    assert!(ran.status.success(), "{printed}\n{errors}");
    let memory = |line: String| line.replace(" 100000 items", " 20000 items");
    let shown: Vec<String> = settled(shown).into_iter().map(memory).collect();
    assert_eq!(settled(&printed), shown, "{printed}");
    goes_forward(&printed);
}

#[test]
fn each_recipe_is_a_command_that_the_readme_names() {
    let readme = include_str!("../README.md");
    let listed = readme.lines().filter_map(|line| line.strip_prefix("| `"));
    let listed: Vec<_> = listed.filter_map(|line| line.split('`').next()).collect();
    let ran = Command::new(env!("CARGO_BIN_EXE_page-pipeline"))
        .arg("--help")
        .output()
        .unwrap();
    let help = String::from_utf8(ran.stdout).unwrap();
    let commands = help.lines().skip_while(|line| *line != "Commands:").skip(1);
    let commands = commands.map_while(|line| line.split_whitespace().next());
    let recipes: Vec<_> = commands
        .filter(|name| !["demo", "worker", "start", "help"].contains(name))
        .collect();
    assert_eq!(recipes, listed);
}

#[test]
fn another_seed_is_verified_too() {
    let ran = Command::new(env!("CARGO_BIN_EXE_page-pipeline"))
        .args(["foreach-conditional", "--seed", "11"])
        .env_remove("TEMPORAL_ADDRESS")
        .output()
        .unwrap();
    let printed = String::from_utf8(ran.stdout).unwrap();
    assert!(
        ran.status.success() && printed.ends_with("verified\n"),
        "{printed}"
    );
}
