//! The folders of `src` are layers: a file imports only from its own folder and from those before it.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// The layers, lowest first. A folder that is missing here fails the test.
const LAYERS: [&str; 18] = [
    "base",
    "page",
    "batch",
    "progress",
    "metrics",
    "processor",
    "protocol",
    "decisions",
    "stride",
    "jsonl_store",
    "cell",
    "files",
    "sql",
    "http",
    "engine",
    "testing",
    "dev_server",
    "cli",
];

/// Crates that a folder never names, whatever its place in the order.
const NEVER: [(&str, &[&str]); 5] = [
    ("protocol", &["temporalio", "tokio", "sqlx"]),
    ("decisions", &["temporalio", "tokio", "sqlx"]),
    ("stride", &["temporalio", "sqlx"]),
    ("files", &["temporalio", "sqlx"]),
    ("http", &["temporalio", "sqlx"]),
];

/// Folders from which a folder never imports, although it comes later in the order.
const APART: [(&str, &[&str]); 4] = [
    ("files", &["protocol", "decisions", "stride"]),
    ("sql", &["protocol", "decisions", "stride", "jsonl_store"]),
    ("http", &["protocol", "decisions", "stride"]),
    ("engine", &["cell", "files", "sql", "http", "jsonl_store"]),
];

#[test]
fn no_file_imports_from_a_later_layer() {
    let mut wrong = Vec::new();
    for (file, text) in sources() {
        let Some((layer, _)) = file.split_once('/') else {
            continue;
        };
        let own = place(layer).unwrap_or_else(|| panic!("folder src/{layer} is not in LAYERS"));
        let apart = APART.iter().filter(|(folder, _)| *folder == layer);
        let apart: Vec<&str> = apart
            .flat_map(|(_, others)| others.iter().copied())
            .collect();
        for path in paths_from_the_root(&text) {
            let head = path.split("::").next().unwrap_or_default();
            let allowed = place(head).is_some_and(|place| place <= own) && !apart.contains(&head);
            if !allowed {
                wrong.push(format!("src/{file}: crate::{path}"));
            }
        }
    }
    assert!(
        wrong.is_empty(),
        "imports against the order of the layers:\n{}",
        wrong.join("\n")
    );
}

#[test]
fn pure_layers_name_no_crate_that_does_things() {
    for (file, text) in sources() {
        for (layer, crates) in NEVER {
            if !file.starts_with(&format!("{layer}/")) {
                continue;
            }
            for name in crates {
                let named =
                    text.contains(&format!("{name}::")) || text.contains(&format!("{name}_"));
                assert!(!named, "src/{file} names {name}");
            }
        }
    }
}

#[test]
fn a_path_is_found_however_it_is_written() {
    let text = "use crate::{a::{B, c::D}, e};\nfn f() -> crate::g::H { super::i() }\nuse std::fmt;";
    assert_eq!(paths_from_the_root(text), ["a::B", "a::c::D", "e", "g::H"]);
}

fn place(layer: &str) -> Option<usize> {
    LAYERS.iter().position(|name| *name == layer)
}

/// Every file of `src` as its path and its code, without comments and tests.
fn sources() -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut folders = vec![root.clone()];
    let mut sources = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("the sources can be listed") {
            let path: PathBuf = entry.expect("the sources can be listed").path();
            let name = path
                .strip_prefix(&root)
                .expect("the file is in src")
                .to_string_lossy()
                .replace('\\', "/");
            if path.is_dir() {
                folders.push(path);
            } else if !name.ends_with("tests.rs")
                && !name.ends_with("properties.rs")
                && !name.starts_with("bin/")
            {
                let text = fs::read_to_string(&path).expect("the sources can be read");
                sources.push((name, code_of(&text)));
            }
        }
    }
    assert!(
        sources.len() > 100,
        "only {} files were found",
        sources.len()
    );
    sources
}

/// The lines that are compiled into the crate, without comments and the tests at the end of the file.
fn code_of(text: &str) -> String {
    let text = text.split("\nmod tests {").next().unwrap_or_default();
    let text = text
        .split("\npub(crate) mod tests {")
        .next()
        .unwrap_or_default();
    let lines = text
        .lines()
        .filter(|line| !line.trim_start().starts_with("//"));
    lines.collect::<Vec<_>>().join("\n")
}

/// All paths from the root of the crate, with the groups of `use` expanded.
fn paths_from_the_root(text: &str) -> Vec<String> {
    let mut paths = Vec::new();
    for (at, _) in text.match_indices("crate::") {
        let before = text[..at].chars().next_back();
        if before.is_some_and(|c| c.is_alphanumeric() || "_:$".contains(c)) {
            continue;
        }
        read(&text[at + "crate::".len()..], "", &mut paths);
    }
    paths
}

/// Reads one path, or a group of them, and returns the rest of the text.
fn read<'a>(text: &'a str, prefix: &str, paths: &mut Vec<String>) -> &'a str {
    let mut rest = text.trim_start();
    if let Some(group) = rest.strip_prefix('{') {
        rest = group;
        loop {
            rest = read(rest, prefix, paths).trim_start();
            match rest.strip_prefix(',') {
                Some(more) if !more.trim_start().starts_with('}') => rest = more,
                Some(more) => rest = more.trim_start(),
                None => {}
            }
            if let Some(end) = rest.strip_prefix('}') {
                return end;
            }
            if rest.is_empty() {
                return rest;
            }
        }
    }
    let end = rest
        .find(|c: char| !(c.is_alphanumeric() || c == '_' || c == '*'))
        .unwrap_or(rest.len());
    let path = format!("{prefix}{}", &rest[..end]);
    rest = &rest[end..];
    if let Some(more) = rest.strip_prefix("::")
        && !more.starts_with('<')
    {
        return read(more, &format!("{path}::"), paths);
    }
    paths.push(path.trim_end_matches("::self").to_owned());
    match rest.trim_start().strip_prefix("as ") {
        Some(alias) => alias.trim_start_matches(|c: char| c.is_alphanumeric() || c == '_'),
        None => rest,
    }
}
