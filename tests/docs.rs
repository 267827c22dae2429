//! The tests, paths and headings that the documentation names exist.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

/// The names of the tests of each module.
type Tests = BTreeMap<String, BTreeSet<String>>;

fn files(folder: &Path, extension: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path, extension));
        } else if path.extension().is_some_and(|e| e == extension) {
            found.push(path);
        }
    }
    found
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The module of a file. For the main file of a folder that is the folder.
fn module_of(file: &Path) -> String {
    let stem = |path: &Path| path.file_stem().unwrap().to_str().unwrap().to_owned();
    match &*stem(file) {
        "main" | "mod" | "tests" => stem(file.parent().unwrap()),
        name => name.to_owned(),
    }
}

fn all_tests() -> Tests {
    let mut tests = Tests::new();
    let code =
        ["tests", "src", "samples", "crates"].map(|folder| files(&root().join(folder), "rs"));
    for file in code.into_iter().flatten() {
        let names = tests.entry(module_of(&file)).or_default();
        let (mut is_test, mut on_each) = (false, false);
        for line in fs::read_to_string(file).unwrap().lines().map(str::trim) {
            is_test |= line == "#[test]" || line.starts_with("#[tokio::test");
            // A macro makes one test on each database of the listed functions.
            on_each = match on_each {
                true => !line.starts_with(['}', ')']),
                false => line.starts_with("on_each!"),
            };
            if on_each && let Some(name) = line.strip_suffix(',') {
                names.insert(name.to_owned());
            }
            let line = line.strip_prefix("async ").unwrap_or(line);
            if let Some(function) = line.strip_prefix("fn ") {
                let name = function.split(['(', '<']).next().unwrap();
                if is_test {
                    names.insert(name.to_owned());
                }
                is_test = false;
            }
        }
    }
    tests
}

/// The code spans of a text, except those that run over several lines.
fn spans(text: &str) -> impl Iterator<Item = &str> {
    text.lines()
        .flat_map(|line| line.split('`').skip(1).step_by(2))
}

/// The module and the name of a cited test, or the beginning of a name before a `*`. Names of tests are sentences,
/// which tells them from paths of the API.
fn cited(span: &str) -> Option<(&str, &str)> {
    let plain = |text: &str| {
        let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "_*".contains(c);
        !text.is_empty() && text.chars().all(allowed)
    };
    let (module, name) = span.split_once("::")?;
    let is_sentence = name.ends_with('*') || name.matches('_').count() >= 3;
    (plain(module) && plain(name) && is_sentence).then_some((module, name))
}

fn is_there(tests: &Tests, (module, name): (&str, &str)) -> bool {
    tests
        .get(module)
        .is_some_and(|names| match name.strip_suffix('*') {
            Some(beginning) => names.iter().any(|name| name.starts_with(beginning)),
            None => names.contains(name),
        })
}

fn documents() -> Vec<PathBuf> {
    let mut documents = files(&root().join("docs"), "md");
    documents.extend(files(&root().join("samples"), "md"));
    documents.extend(["README.md", "CONTRIBUTING.md"].map(|name| root().join(name)));
    documents
}

#[test]
fn every_test_that_the_documentation_cites_is_there() {
    let tests = all_tests();
    let (mut citations, mut missing) = (0, Vec::new());
    for document in documents() {
        for citation in spans(&fs::read_to_string(&document).unwrap()).filter_map(cited) {
            citations += 1;
            if !is_there(&tests, citation) {
                missing.push((
                    document.clone(),
                    citation.0.to_owned(),
                    citation.1.to_owned(),
                ));
            }
        }
    }
    assert!(missing.is_empty(), "{missing:#?}");
    assert!(citations >= 80, "only {citations} citations were found");
}

/// Returns whether a span names a place in this repository: a path from its root, or the name of a Rust file.
fn names_a_place(span: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_-./".contains(c);
    let from_the_root = ["src/", "tests/", "docs/", "samples/", "benches/"];
    let rust_file = Path::new(span).extension().is_some_and(|e| e == "rs");
    span.chars().all(plain) && (rust_file || from_the_root.iter().any(|top| span.starts_with(top)))
}

#[test]
fn every_path_that_the_documentation_names_is_there() {
    // Files of a reader's own program, and of the SDK.
    let elsewhere = ["history_update.rs"];
    let (mut named, mut missing) = (0, Vec::new());
    for document in documents() {
        let text = fs::read_to_string(&document).unwrap();
        let places = spans(&text).filter(|span| names_a_place(span));
        for span in places.filter(|span| !elsewhere.contains(span)) {
            named += 1;
            if !root().join(span).exists() {
                missing.push(format!("{} names {span}", document.display()));
            }
        }
    }
    assert!(missing.is_empty(), "{missing:#?}");
    assert!(named >= 100, "only {named} were found");
}

/// The targets of the links in a text.
fn links(text: &str) -> impl Iterator<Item = &str> {
    text.split("](").skip(1).filter_map(|rest| {
        let (target, _) = rest.split_once(')')?;
        (!target.contains([' ', '\n', ':'])).then_some(target)
    })
}

/// The anchor that GitHub generates for a heading.
fn anchor(heading: &str) -> String {
    let kept = |c: &char| c.is_alphanumeric() || " -_".contains(*c);
    let lower = heading.trim().to_lowercase();
    lower
        .chars()
        .filter(kept)
        .collect::<String>()
        .replace(' ', "-")
}

#[test]
fn every_link_of_the_documentation_leads_somewhere() {
    let (mut found, mut missing) = (0, Vec::new());
    for document in documents() {
        let text = fs::read_to_string(&document).unwrap();
        for link in links(&text) {
            found += 1;
            let (file, heading) = link.split_once('#').unwrap_or((link, ""));
            let target = match file {
                "" => document.clone(),
                file => document.parent().unwrap().join(file),
            };
            let is_there = target.exists()
                && (heading.is_empty()
                    || fs::read_to_string(&target).unwrap().lines().any(|line| {
                        line.starts_with('#') && anchor(line.trim_start_matches('#')) == heading
                    }));
            if !is_there {
                missing.push(format!("{} links {link}", document.display()));
            }
        }
    }
    assert!(missing.is_empty(), "{missing:#?}");
    assert!(found >= 100, "only {found} were found");
}

/// A guide for new maintainers has to be short enough for one sitting.
#[test]
fn the_architecture_is_short() {
    let text = fs::read_to_string(root().join("docs/architecture.md")).unwrap();
    let words = text.split_whitespace().count();
    assert!(words <= 1_500, "docs/architecture.md has {words} words");
}

#[test]
fn a_citation_that_leads_nowhere_is_noticed() {
    let names = ["a_page_is_done", "a_page_is_lost"].map(str::to_owned);
    let tests = Tests::from([("pages".to_owned(), names.into())]);
    for there in ["pages::*", "pages::a_page_is_*", "pages::a_page_is_done"] {
        assert!(is_there(&tests, cited(there).unwrap()), "{there}");
    }
    for nowhere in ["page::*", "pages::no_*", "pages::a_page_is_don"] {
        assert!(!is_there(&tests, cited(nowhere).unwrap()), "{nowhere}");
    }
    for other in ["Page::keyset", "testing::run_page", "file::name"] {
        assert_eq!(cited(other), None);
    }
}

#[test]
fn a_path_or_a_link_that_leads_nowhere_is_noticed() {
    for place in ["src/page/token.rs", "tests/engine", "token.rs"] {
        assert!(names_a_place(place), "{place}");
    }
    for other in ["--max-parallelism", "temporal-batch.lock/NAME", "users/17"] {
        assert!(!names_a_place(other), "{other}");
    }
    let text = "See [one](a.md#b) and\n[another](#c), not [the web](https://example.org).";
    assert_eq!(links(text).collect::<Vec<_>>(), ["a.md#b", "#c"]);
    assert_eq!(anchor(" Why bridges are safe"), "why-bridges-are-safe");
}
