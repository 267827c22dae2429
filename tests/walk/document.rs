//! The commands of a Markdown document in their order, each with the output that the document shows for it.
//!
//! ```text
//! $ command      a command, and below it its output
//! command        a block in which no line begins with `$`: commands, if the first word is that of a program
//! ...            omitted output, within a line or between lines
//! ```

use std::path::Path;

/// The first words of commands in the project's documents.
const PROGRAMS: [&str; 8] = [
    "temporal-batch",
    "hash-emails",
    "fix-emails",
    "cargo",
    "sqlite3",
    "export",
    "printf",
    "FIX_EMAILS_LENIENT=1",
];

#[derive(Debug)]
pub struct Step {
    /// The command as a reader copies it.
    pub command: String,
    /// The output lines below it.
    pub shown: Vec<String>,
}

/// The steps of the document at `path`, which is relative to the repository.
pub fn steps(path: &str) -> Vec<Step> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    let text = std::fs::read_to_string(&path).unwrap();
    let steps = steps_of(&text);
    assert!(!steps.is_empty(), "no command in {}", path.display());
    steps
}

fn steps_of(text: &str) -> Vec<Step> {
    let mut steps = Vec::new();
    for block in blocks(text) {
        let prompted = block.iter().any(|line| line.starts_with("$ "));
        let mut lines = block.into_iter().peekable();
        while let Some(line) = lines.next() {
            let command = match prompted {
                true => line.strip_prefix("$ ").map(str::to_owned),
                false => is_command(&line).then(|| line.clone()),
            };
            let Some(mut command) = command else {
                let last: Option<&mut Step> = steps.last_mut();
                last.expect("output comes after a command").shown.push(line);
                continue;
            };
            while is_open(&command) {
                command.push('\n');
                command.push_str(&lines.next().expect("the command ends in the same block"));
            }
            steps.push(Step {
                command,
                shown: Vec::new(),
            });
        }
    }
    steps
}

fn is_command(line: &str) -> bool {
    let first = line.split(' ').next();
    first.is_some_and(|word| PROGRAMS.contains(&word))
}

/// Whether a shell would wait for another line.
fn is_open(command: &str) -> bool {
    let mut quote = None;
    for c in command.chars() {
        match quote {
            None if c == '\'' || c == '"' => quote = Some(c),
            Some(open) if open == c => quote = None,
            _ => {}
        }
    }
    quote.is_some() || command.ends_with('\\')
}

/// Indented blocks, and fenced blocks marked `console`.
fn blocks(text: &str) -> Vec<Vec<String>> {
    let mut blocks = vec![Vec::new()];
    let mut fence = None;
    for line in text.lines() {
        if let Some(language) = line.trim_start().strip_prefix("```") {
            fence = match fence {
                None => Some(language.to_owned()),
                Some(_) => None,
            };
            blocks.push(Vec::new());
            continue;
        }
        let code = match fence.as_deref() {
            Some("console") => Some(line),
            Some(_) => None,
            None => line.strip_prefix("    "),
        };
        match code {
            Some(code) => blocks.last_mut().unwrap().push(code.to_owned()),
            // An empty line ends an indented block.
            None => blocks.push(Vec::new()),
        }
    }
    blocks.retain(|block| !block.is_empty());
    blocks
}

/// The first shown line that is not in the output.
pub fn missing<'a>(output: &str, shown: &'a [String]) -> Option<&'a String> {
    let mut shown = shown.iter().filter(|line| line.trim() != "...");
    shown.find(|line| !output.lines().any(|said| fits(said, line)))
}

/// Whether the parts of a line between `...` are in another line, in this order. Times may differ.
fn fits(said: &str, shown: &str) -> bool {
    let mut rest = said.trim();
    let mut shown = shown.trim().to_owned();
    if let Some(at) = shown.find("T0").filter(|at| *at >= 10)
        && shown[at - 10..]
            .chars()
            .next()
            .is_some_and(|c| c.is_ascii_digit())
        && let Some(end) = shown[at..].find('Z')
    {
        shown.replace_range(at - 10..=at + end, "...");
    }
    shown.split("...").map(str::trim).all(|part| {
        let at = rest.find(part);
        if let Some(at) = at {
            rest = &rest[at + part.len()..];
        }
        at.is_some()
    })
}

#[test]
fn a_document_is_split_into_commands_and_output() {
    let text = "Text\n\n    cargo run \\\n        -- x\n\n```console\n$ printf 'a\nb'\na\n...\nb c\n$ export X=1\n```\n\n\
                ```rust\nexport\n```\n\n    b, which printf said too\n";
    let steps = steps_of(text);
    let commands: Vec<_> = steps.iter().map(|step| step.command.as_str()).collect();
    assert_eq!(
        commands,
        ["cargo run \\\n    -- x", "printf 'a\nb'", "export X=1"]
    );
    assert_eq!(steps[1].shown, ["a", "...", "b c"]);
    assert_eq!(steps[2].shown, ["b, which printf said too"]);
}

#[test]
fn output_has_to_have_every_line_that_is_shown() {
    let missing = |shown: &str| {
        let shown: Vec<_> = shown.lines().map(str::to_owned).collect();
        missing("state  completed\nitems  12 of 13\n", &shown).cloned()
    };
    assert_eq!(missing("state  completed\n...\nitems ... of 13"), None);
    for wrong in ["items  13", "of 13 ... items", "completed with"] {
        assert_eq!(missing(wrong), Some(wrong.to_owned()));
    }
}
