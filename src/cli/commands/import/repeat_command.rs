//! The command that imports the rejected records: the current command line with another file. With the same file, the
//! command is about the same batch.

use std::path::Path;

use crate::cli::shell::quoted;

/// Flags with a value that concern only this import.
const ITS_OWN: [&str; 2] = ["--batch-id", "--rejected"];
/// Flags without a value that concern only this import.
const ITS_OWN_ALONE: [&str; 4] = [
    "--rerun",
    "--continue",
    "--create-ledger-tables",
    "--settle-rejected",
];

/// The differences from the current command line.
pub(super) struct Changes<'a> {
    /// The imported file, as typed.
    pub file: &'a Path,
    /// The file that takes its place, which may be the same one.
    pub next: &'a str,
    /// True if the URL of the database contains a password, which must not be printed.
    pub hides_url: bool,
    /// Flags that the import found out by itself, with their values.
    pub added: Vec<(&'static str, String)>,
}

/// Returns the command for a shell. `args` are the arguments of this process without its name.
pub(super) fn command(program: &str, args: &[String], changes: &Changes<'_>) -> String {
    let mut words = vec![program.to_owned()];
    let mut args = args.iter();
    let mut replaced = false;
    let is_same = Path::new(changes.next) == changes.file;
    while let Some(arg) = args.next() {
        let name = arg.split_once('=').map_or(arg.as_str(), |(name, _)| name);
        let has_value = name.len() < arg.len();
        let hidden = name == "--api-key" || (changes.hides_url && name == "--database-url");
        let alone = ITS_OWN_ALONE.contains(&arg.as_str());
        if hidden || alone || (!is_same && ITS_OWN.contains(&name)) {
            if !alone && !has_value {
                args.next();
            }
        } else if !replaced && Path::new(arg) == changes.file {
            replaced = true;
            words.push(quoted(changes.next));
        } else {
            words.push(quoted(arg));
        }
    }
    for (flag, value) in &changes.added {
        words.extend([(*flag).to_owned(), quoted(value)]);
    }
    words.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(args: &[&str], hides_url: bool, added: Vec<(&'static str, String)>) -> String {
        let args: Vec<_> = args.iter().map(|arg| (*arg).to_owned()).collect();
        let changes = Changes {
            file: Path::new("users.csv"),
            next: "users.rejected.csv",
            hides_url,
            added,
        };
        command("temporal-batch", &args, &changes)
    }

    #[test]
    fn the_command_is_repeated_with_the_other_file() {
        let args = [
            "--address",
            "h:1",
            "import",
            "users.csv",
            "--table",
            "users.csv",
            "--batch-id",
            "b",
            "--rejected=x",
            "--rerun",
            "--null",
            "it's \\N",
            "--create-ledger-tables",
        ];
        assert_eq!(
            said(&args, false, vec![("--delimiter", ";".to_owned())]),
            "temporal-batch --address h:1 import users.rejected.csv --table users.csv --null 'it'\\''s \\N' --delimiter ';'"
        );
    }

    #[test]
    fn the_same_file_keeps_the_id_of_its_batch() {
        let args = ["import", "a.csv", "--batch-id", "b", "--rerun"].map(str::to_owned);
        let changes = Changes {
            file: Path::new("a.csv"),
            next: "a.csv",
            hides_url: false,
            added: Vec::new(),
        };
        let said = command("temporal-batch", &args, &changes);
        assert_eq!(said, "temporal-batch import a.csv --batch-id b");
    }

    #[test]
    fn a_password_and_an_api_key_are_not_printed() {
        let args = [
            "import",
            "--database-url",
            "postgres://u:p@h/d",
            "users.csv",
            "--table",
            "t",
        ];
        assert_eq!(
            said(&args, true, Vec::new()),
            "temporal-batch import users.rejected.csv --table t"
        );
        assert!(said(&args, false, Vec::new()).contains("u:p@h"));
        let joined = ["import", "--database-url=postgres://u:p@h/d", "users.csv"];
        assert_eq!(
            said(&joined, true, Vec::new()),
            "temporal-batch import users.rejected.csv"
        );
        let keys = ["--api-key", "k", "import", "users.csv", "--api-key=k"];
        assert_eq!(
            said(&keys, false, Vec::new()),
            "temporal-batch import users.rejected.csv"
        );
    }
}
