//! Every behaviour in `docs/behaviours` has its row, and every test or document that holds one exists.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

/// The files, and the number of their last row. Rows are numbered from 01.
const FILES: [(&str, u32); 5] = [
    ("000-fanout.md", 24),
    ("001-batcher.md", 28),
    ("002-api.md", 22),
    ("003-pages.md", 22),
    ("004-pipeline.md", 27),
];

/// The word with which a row says, with a reason, that its behaviour is missing.
const NOT_HELD: &str = "not held: ";

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

struct Row {
    number: String,
    behaviour: String,
    holders: String,
}

fn rows(text: &str) -> Vec<Row> {
    let lines = text.lines().filter_map(|line| {
        let mut cells = line.strip_prefix('|')?.strip_suffix('|')?.split(" | ");
        let mut cell = || cells.next().map(|cell| cell.trim().to_owned());
        let row = Row {
            number: cell()?,
            behaviour: cell()?,
            holders: cell()?,
        };
        let is_row = row.number.starts_with(|c: char| c.is_ascii_digit());
        is_row.then_some(row)
    });
    lines.collect()
}

#[test]
fn every_behaviour_has_its_row_and_what_holds_it_is_there() {
    let sources = Sources::read();
    let mut wrong = Vec::new();
    for (file, last) in FILES {
        let path = Path::new("docs/behaviours").join(file);
        let Ok(text) = fs::read_to_string(root().join(&path)) else {
            wrong.push(format!("{} is missing", path.display()));
            continue;
        };
        let rows = rows(&text);
        let numbers: Vec<&str> = rows.iter().map(|row| row.number.as_str()).collect();
        let expected: Vec<String> = (1..=last)
            .map(|n| format!("{}-{n:02}", &file[..3]))
            .collect();
        if numbers != expected {
            wrong.push(format!("{file} has the rows {numbers:?}"));
        }
        for row in rows {
            let problem = fault(&row, path.parent().unwrap(), &sources);
            wrong.extend(problem.map(|problem| format!("{}: {problem}", row.number)));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// Returns the first thing that is wrong with a row.
fn fault(row: &Row, folder: &Path, sources: &Sources) -> Option<String> {
    if row.behaviour.is_empty() {
        return Some("says nothing".to_owned());
    }
    if let Some((_, reason)) = row.holders.split_once(NOT_HELD) {
        return (reason.trim().len() < 10).then(|| "gives no reason".to_owned());
    }
    let mut holders = 0;
    let spans = row.holders.split('`').skip(1).step_by(2);
    for span in spans {
        let there = if let Some((place, name)) = span.split_once("::") {
            sources.have(place, name)
        } else if let Some((document, heading)) = span.split_once('#') {
            has_heading(&root().join(document), |found| found == heading)
        } else {
            continue;
        };
        holders += 1;
        if !there {
            return Some(format!("{span} is not there"));
        }
    }
    for link in row.holders.split("](").skip(1) {
        let target = link.split(')').next().unwrap_or_default();
        let (document, anchor) = target.split_once('#').unwrap_or((target, ""));
        let document = root().join(folder).join(document);
        let there = match anchor {
            "" => document.exists(),
            anchor => has_heading(&document, |heading| anchor_of(heading) == anchor),
        };
        holders += 1;
        if !there {
            return Some(format!("{target} is not there"));
        }
    }
    (holders == 0)
        .then(|| format!("names no test and no document, and does not say \"{NOT_HELD}\""))
}

fn has_heading(document: &Path, is_it: impl Fn(&str) -> bool) -> bool {
    let text = fs::read_to_string(document).unwrap_or_default();
    let headings = text.lines().filter(|line| line.starts_with('#'));
    let mut headings = headings.map(|line| line.trim_start_matches('#').trim());
    headings.any(is_it)
}

/// The anchor that GitHub generates for a heading.
fn anchor_of(heading: &str) -> String {
    let kept = |c: &char| c.is_alphanumeric() || " -_".contains(*c);
    let text: String = heading.to_lowercase().chars().filter(kept).collect();
    text.replace(' ', "-")
}

/// The names of the functions of each Rust file.
struct Sources(Vec<(PathBuf, BTreeSet<String>)>);

impl Sources {
    fn read() -> Self {
        let mut files = Vec::new();
        for folder in ["benches", "crates", "samples", "src", "tests"] {
            collect(&root().join(folder), &mut files);
        }
        let read = |path: PathBuf| {
            let text = fs::read_to_string(&path).unwrap();
            let path = path.strip_prefix(root()).unwrap().to_owned();
            (path, functions(&text))
        };
        Self(files.into_iter().map(read).collect())
    }

    /// Returns whether a file, named by its path or as a module, has a function of this name, or one that begins with it
    /// if the name ends with `*`.
    fn have(&self, place: &str, name: &str) -> bool {
        let is_place = |path: &Path| match place.contains('/') {
            true => path == Path::new(place),
            false => module_of(path) == place,
        };
        let mut files = self.0.iter().filter(|(path, _)| is_place(path));
        files.any(|(_, names)| match name.strip_suffix('*') {
            Some(beginning) => names.iter().any(|name| name.starts_with(beginning)),
            None => names.contains(name),
        })
    }
}

/// The module of a file. For the main file of a folder that is the folder.
fn module_of(file: &Path) -> String {
    let stem = |path: &Path| {
        path.file_stem()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned()
    };
    match &*stem(file) {
        "main" | "mod" | "tests" => file.parent().map(stem).unwrap_or_default(),
        name => name.to_owned(),
    }
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
}

/// The functions of a file, and those that a macro makes for each database of a list of names.
fn functions(text: &str) -> BTreeSet<String> {
    let (mut names, mut on_each) = (BTreeSet::new(), false);
    for line in text.lines().map(str::trim) {
        on_each = match on_each {
            true => !line.starts_with(['}', ')']),
            false => line.starts_with("on_each!"),
        };
        if on_each && let Some(name) = line.strip_suffix(',') {
            names.insert(name.to_owned());
        }
        let line = line.strip_prefix("pub ").unwrap_or(line);
        let line = line.strip_prefix("async ").unwrap_or(line);
        if let Some(function) = line.strip_prefix("fn ") {
            names.insert(function.split(['(', '<']).next().unwrap().to_owned());
        }
    }
    names
}

#[test]
fn a_holder_that_is_not_there_is_noticed() {
    let names = functions("#[test]\nfn pages_are_even() {\n    async fn inner() {}\n}\n");
    let sources = Sources(vec![(PathBuf::from("tests/engine/basics.rs"), names)]);
    let problem = |holders: &str| {
        let row = Row {
            number: "009-01".to_owned(),
            behaviour: "Pages are even".to_owned(),
            holders: holders.to_owned(),
        };
        fault(&row, Path::new("docs/behaviours"), &sources)
    };
    for there in [
        "`tests/engine/basics.rs::pages_are_even`",
        "`basics::pages_*`",
        "`docs/failures.md#When things fail`",
        "[x](../failures.md#once-per-page)",
        "not held: no server of this kind exists",
    ] {
        assert_eq!(problem(there), None, "{there}");
    }
    for nowhere in [
        "`tests/engine/basics.rs::pages_are_odd`",
        "`tests/engine/other.rs::pages_are_even`",
        "`basics::no_*`",
        "`docs/failures.md#When nothing fails`",
        "[x](../failures.md#twice-per-page)",
        "`--flag`",
        "the compiler",
        "not held: ",
    ] {
        assert!(problem(nowhere).is_some(), "{nowhere}");
    }
}
