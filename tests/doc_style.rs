//! Doc comments begin with the thing they describe, and the prose of `src` names its subjects.
//!
//! A doc comment begins with a noun phrase or with a verb in the third person ("Returns whether …"), so that a reader
//! who sees its first line alone, in a list or in an editor, knows what the item is.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

/// Words that no doc comment begins with: pronouns, conjunctions, prepositions and other words that leave the subject
/// open. `Whether` is among them because predicates say "Returns whether", and fields "True if".
const FIRST_WORDS: &str = "\
    Already Also And As At Because But By Everything For From Here How If In Into It Its Just Less Many \
    More Most Neither Never No Nobody None Nor Not Nothing Of On Once Only Or Out Same Since So Some \
    Somebody Something Still Such That Their Them Then There These They Things This Those To Too Until \
    Up What Whatever When Where Whether Which While Who Whoever Whom With Without";

/// Words that hide who or what is meant. Comments and messages use none of them.
const VAGUE_WORDS: [&str; 4] = ["anew", "nobody", "somebody", "whoever"];

/// The number of doc comments in each folder that still begin with one of [`FIRST_WORDS`]. It may only fall.
const FIRST_WORD_CEILINGS: [(&str, usize); 2] = [("cli", 9), ("decisions", 6)];

/// The number of lines in each folder that still have one of [`VAGUE_WORDS`]. It may only fall.
const VAGUE_WORD_CEILINGS: [(&str, usize); 2] = [("files", 1), ("sql", 1)];

#[test]
fn doc_comments_begin_with_their_subject() {
    hold(
        &FIRST_WORD_CEILINGS,
        "begins with a word that leaves its subject open",
        |text| {
            let blocks = doc_blocks(text).into_iter();
            let found = blocks.filter(|(_, text)| is_vague_beginning(text));
            found.collect()
        },
    );
}

#[test]
fn comments_and_messages_name_who_is_meant() {
    hold(&VAGUE_WORD_CEILINGS, "has a vague word", |text| {
        let lines = prose(text).into_iter();
        lines.filter(|(_, text)| has_vague_word(text)).collect()
    });
}

#[test]
fn every_form_of_prose_is_read() {
    let text = r##"//! Head.

/// One
/// block.
///
/// Still the same.
#[derive(Debug)]
struct A; // Behind code.

    /// `Other` block.
    fn b() { c("a // literal", '"', r#"a "raw" one"#); /* and
    a block */ }
"##;
    let blocks = doc_blocks(text);
    let starts: Vec<_> = blocks
        .iter()
        .map(|(line, text)| (*line, first_word(text)))
        .collect();
    assert_eq!(starts, [(1, "Head"), (3, "One"), (10, "Other")]);
    let prose: Vec<String> = prose(text).into_iter().map(|(_, text)| text).collect();
    let prose = prose.join("|");
    for part in [
        "Head.",
        "Still the same.",
        "Behind code.",
        "a // literal",
        "a \"raw\" one",
        "a block",
    ] {
        assert!(prose.contains(part), "{part} is missing in {prose}");
    }
    for code in ["struct", "derive", "fn b"] {
        assert!(!prose.contains(code), "{code} is no prose: {prose}");
    }
    assert!(has_vague_word("Nobody knows.") && !has_vague_word("renewal"));
}

/// Compares what `find` reports with the ceilings, folder by folder.
fn hold(ceilings: &[(&str, usize)], problem: &str, find: impl Fn(&str) -> Vec<(usize, String)>) {
    let ceilings: BTreeMap<&str, usize> = ceilings.iter().copied().collect();
    let mut found: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for folder in ceilings.keys() {
        found.insert((*folder).to_owned(), Vec::new());
    }
    for (file, text) in sources() {
        let folder = file.split_once('/').map_or(&*file, |(folder, _)| folder);
        let lines = found.entry(folder.to_owned()).or_default();
        let problems = find(&text).into_iter();
        lines.extend(problems.map(|(line, text)| format!("  src/{file}:{line}: {text}")));
    }
    let mut wrong = Vec::new();
    for (folder, lines) in found {
        let ceiling = ceilings.get(&*folder).copied().unwrap_or(0);
        if lines.len() > ceiling {
            let lines = lines.join("\n");
            wrong.push(format!(
                "{folder}: more than {ceiling}, each {problem}:\n{lines}"
            ));
        }
        if lines.len() < ceiling {
            let now = lines.len();
            wrong.push(format!(
                "{folder}: lower the ceiling from {ceiling} to {now}"
            ));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Every file of `src` as its path and its text.
fn sources() -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut folders = vec![root.clone()];
    let mut sources = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("the sources can be listed") {
            let path: PathBuf = entry.expect("the sources can be listed").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let name = path.strip_prefix(&root).expect("the file is in src");
                let name = name.to_string_lossy().replace('\\', "/");
                let text = fs::read_to_string(&path).expect("the sources can be read");
                sources.push((name, text));
            }
        }
    }
    assert!(
        sources.len() > 100,
        "only {} files were found",
        sources.len()
    );
    sources.sort();
    sources
}

/// The first line of every doc comment, with its number.
fn doc_blocks(text: &str) -> Vec<(usize, String)> {
    let mut blocks = Vec::new();
    let mut is_inside = false;
    for (index, line) in text.lines().enumerate() {
        let line = line.trim_start();
        let doc = line.strip_prefix("///").or(line.strip_prefix("//!"));
        match doc.map(str::trim) {
            None => is_inside = false,
            Some("") => {}
            Some(doc) => {
                if !is_inside {
                    blocks.push((index + 1, doc.to_owned()));
                }
                is_inside = true;
            }
        }
    }
    blocks
}

fn is_vague_beginning(text: &str) -> bool {
    let first = first_word(text);
    FIRST_WORDS.split_whitespace().any(|word| word == first)
}

fn first_word(text: &str) -> &str {
    let text = text.trim_start_matches(|c: char| !c.is_alphanumeric());
    let end = text.find(|c: char| !c.is_alphanumeric());
    &text[..end.unwrap_or(text.len())]
}

fn has_vague_word(text: &str) -> bool {
    let mut words = text.split(|c: char| !c.is_alphanumeric());
    words.any(|word| VAGUE_WORDS.contains(&&*word.to_lowercase()))
}

/// The lines of all comments and string literals, with their numbers.
fn prose(text: &str) -> Vec<(usize, String)> {
    let mut prose = Vec::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let (length, is_prose) = match first {
            '/' if rest.starts_with("//") => (rest.find('\n').unwrap_or(rest.len()), true),
            '/' if rest.starts_with("/*") => {
                (rest.find("*/").map_or(rest.len(), |at| at + 2), true)
            }
            '"' => (literal(rest), true),
            'r' if rest.starts_with("r\"") || rest.starts_with("r#") => match raw_literal(rest) {
                Some(length) => (length, true),
                None => (1, false),
            },
            '\'' => (character(rest), false),
            _ => (first.len_utf8(), false),
        };
        if is_prose {
            let line = text[..text.len() - rest.len()].matches('\n').count() + 1;
            let lines = rest[..length].lines().enumerate();
            prose.extend(lines.map(|(index, part)| (line + index, part.trim().to_owned())));
        }
        rest = &rest[length..];
    }
    prose
}

/// The length of a string literal with its quotes.
fn literal(text: &str) -> usize {
    let mut is_escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        match c {
            _ if is_escaped => is_escaped = false,
            '\\' => is_escaped = true,
            '"' => return at + 1,
            _ => {}
        }
    }
    text.len()
}

/// The length of a raw string literal. `None` for an identifier such as `r#type`.
fn raw_literal(text: &str) -> Option<usize> {
    let hashes = text[1..].chars().take_while(|c| *c == '#').count();
    let inner = text[1 + hashes..].strip_prefix('"')?;
    let close = format!("\"{}", "#".repeat(hashes));
    Some(text.len() - inner.len() + inner.find(&close)? + close.len())
}

/// The length of a character literal, or of the quote of a lifetime.
fn character(text: &str) -> usize {
    let mut chars = text.char_indices().skip(1);
    match chars.next() {
        Some((_, '\\')) => {
            let inner = &text[3..];
            inner.find('\'').map_or(1, |at| 3 + at + 1)
        }
        Some(_) => match chars.next() {
            Some((at, '\'')) => at + 1,
            _ => 1,
        },
        None => 1,
    }
}
