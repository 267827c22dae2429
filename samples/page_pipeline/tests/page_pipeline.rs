//! The demo prints what the README shows.

use std::process::Command;

/// Lines without numbers that differ from run to run.
fn settled(text: &str) -> Vec<String> {
    let lines = text.lines().filter(|line| {
        // Every look at a running batch may see another page.
        !line.starts_with("Processed ") || line.ends_with("at the end")
    });
    lines.map(without_rough_numbers).collect()
}

fn without_rough_numbers(line: &str) -> String {
    let mut parts = line.split('~');
    let mut settled = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        settled.push('~');
        let number = |c: char| c.is_ascii_digit() || c == '.';
        settled.push_str(part.trim_start_matches(number));
    }
    settled
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
