//! The public surface of the crate, with all features, is the one listed in `public_api.txt` beside this file.
//!
//! After an intended change, write the file again with `UPDATE_PUBLIC_API=1 cargo test --test public_api` and review
//! its difference.

mod listing;
mod source_tree;

use std::{collections::BTreeSet, env, fs, path::Path};

use source_tree::SourceTree;

/// The most names at the root of the crate, modules included.
const MOST_NAMES_AT_THE_ROOT: usize = 45;

#[test]
fn the_public_surface_is_the_one_that_was_reviewed() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"));
    let golden = folder.join("tests/public_api/public_api.txt");
    let lines = listing::of(&SourceTree::read(&folder.join("src/lib.rs")));
    let now: BTreeSet<&str> = lines.iter().map(String::as_str).collect();
    assert!(now.len() > 1_000, "only {} lines were found", now.len());
    if env::var_os("UPDATE_PUBLIC_API").is_some() {
        let text: Vec<&str> = now.iter().copied().collect();
        fs::write(&golden, text.join("\n") + "\n").expect("the file can be written");
    }
    let reviewed = fs::read_to_string(&golden).expect("the file can be read");
    let reviewed: BTreeSet<&str> = reviewed.lines().collect();
    let gone = reviewed.difference(&now).map(|line| format!("- {line}"));
    let new = now.difference(&reviewed).map(|line| format!("+ {line}"));
    let changes: Vec<String> = gone.chain(new).collect();
    assert!(
        changes.is_empty(),
        "the public surface has changed; if that is intended, run\n\
         UPDATE_PUBLIC_API=1 cargo test --test public_api\n{}",
        changes.join("\n")
    );
}

#[test]
fn the_root_has_few_names() {
    let lib = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/lib.rs");
    let names = listing::root_names(&SourceTree::read(&lib));
    assert!(names.len() > 20, "only {names:?} were found");
    assert!(
        names.len() <= MOST_NAMES_AT_THE_ROOT,
        "{} names are at the root: {names:?}",
        names.len()
    );
}
