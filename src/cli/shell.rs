//! Commands in the form in which a person types them into a shell.

/// The connection of a batch that does not name one.
pub(super) const DEFAULT_CONNECTION: &str = "default";
/// The commands that take `--database-url`.
const OF_DATABASE: [&str; 6] = [
    "ensure-complete",
    "failures",
    "redrive",
    "schema",
    "status",
    "verify",
];

/// The program, with the flags that let its other commands reach the same server and database. Settings from the
/// environment and secrets are left to the environment.
#[derive(Clone, Debug, Default)]
pub(crate) struct Program {
    pub name: String,
    /// The flags of the connection to Temporal, each with a space before it.
    pub server: String,
    /// The URL of the database.
    pub database: Option<String>,
}

impl Program {
    /// Returns a command line for the environment of this command. `command` begins with the name of the subcommand.
    pub fn command(&self, command: &str) -> String {
        let (name, server) = (&self.name, &self.server);
        let of_database = command
            .split(' ')
            .next()
            .is_some_and(|first| OF_DATABASE.contains(&first));
        let database = self.database.as_ref().filter(|_| of_database);
        let database = database.map_or_else(String::new, |url| {
            format!(" --database-url {}", quoted(url))
        });
        format!("{name} {command}{database}{server}")
    }

    /// Returns a command line about a batch.
    pub fn of_batch(&self, command: &str, batch_id: &str) -> String {
        self.command(&format!("{command} {}", quoted(batch_id)))
    }

    /// Returns the command that starts a worker on a task queue. `connection` is the connection of a batch that brings
    /// its own SQL.
    pub fn worker(&self, task_queue: &str, connection: Option<&str>) -> String {
        let sql = match (connection, &self.database) {
            (None, _) => String::new(),
            (Some(name @ DEFAULT_CONNECTION), Some(url)) => {
                let source = format!("{name}=url:{url}");
                format!(" --allow-sql --connection {}", quoted(&source))
            }
            // Without a name, the worker takes the database of the environment.
            (Some(DEFAULT_CONNECTION), None) => " --allow-sql".to_owned(),
            (Some(name), _) => format!(" --allow-sql --connection {}", quoted(name)),
        };
        self.command(&format!("worker --task-queue {}{sql}", quoted(task_queue)))
    }
}

/// Returns a word of a command line, quoted if the shell needs it.
pub(super) fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=,@%+".contains(c);
    match !word.is_empty() && word.chars().all(plain) {
        true => word.to_owned(),
        false => format!("'{}'", word.replace('\'', r"'\''")),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub fn program(name: &str) -> Program {
        Program {
            name: name.to_owned(),
            ..Program::default()
        }
    }

    #[test]
    fn a_word_is_quoted_where_a_shell_would_read_it_otherwise() {
        assert_eq!(quoted("a-b.c"), "a-b.c");
        assert_eq!(quoted("it's mine"), r"'it'\''s mine'");
        assert_eq!(quoted(""), "''");
    }

    #[test]
    fn a_command_reaches_the_server_and_the_database_of_this_one() {
        let shop = Program {
            name: "shop".to_owned(),
            server: " --address h:1".to_owned(),
            database: Some("sqlite:a b.db".to_owned()),
        };
        assert_eq!(
            shop.of_batch("watch", "b$1"),
            "shop watch 'b$1' --address h:1"
        );
        assert_eq!(
            shop.of_batch("failures", "b"),
            "shop failures b --database-url 'sqlite:a b.db' --address h:1"
        );
        assert_eq!(
            shop.worker("q", Some(DEFAULT_CONNECTION)),
            "shop worker --task-queue q --allow-sql --connection 'default=url:sqlite:a b.db' --address h:1"
        );
    }

    #[test]
    fn a_worker_for_sql_is_allowed_it() {
        let shop = program("shop");
        assert_eq!(shop.worker("q", None), "shop worker --task-queue q");
        let default = shop.worker("a b", Some(DEFAULT_CONNECTION));
        assert_eq!(default, "shop worker --task-queue 'a b' --allow-sql");
        assert_eq!(
            shop.worker("q", Some("stock")),
            "shop worker --task-queue q --allow-sql --connection stock"
        );
    }
}
