//! Commands as a person types them into a shell.

/// A word of a command line.
pub(super) fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=,@%+".contains(c);
    match !word.is_empty() && word.chars().all(plain) {
        true => word.to_owned(),
        false => format!("'{}'", word.replace('\'', r"'\''")),
    }
}

/// Starts a worker on a task queue. `connection`: that of the batch, where its processor runs the SQL that comes with it.
pub(super) fn worker(program: &str, task_queue: &str, connection: Option<&str>) -> String {
    let sql = match connection {
        // Without the name it is the database of the environment.
        Some(DEFAULT_CONNECTION) => " --allow-sql".to_owned(),
        Some(name) => format!(" --allow-sql --connection {}", quoted(name)),
        None => String::new(),
    };
    format!("{program} worker --task-queue {}{sql}", quoted(task_queue))
}

/// The connection of a batch that names none.
pub(super) const DEFAULT_CONNECTION: &str = "default";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_is_quoted_where_a_shell_would_read_it_otherwise() {
        assert_eq!(quoted("a-b.c"), "a-b.c");
        assert_eq!(quoted("it's mine"), r"'it'\''s mine'");
        assert_eq!(quoted(""), "''");
    }

    #[test]
    fn a_worker_for_sql_is_allowed_it() {
        let none = worker("shop", "q", None);
        assert_eq!(none, "shop worker --task-queue q");
        let default = worker("shop", "a b", Some(DEFAULT_CONNECTION));
        assert_eq!(default, "shop worker --task-queue 'a b' --allow-sql");
        let named = worker("shop", "q", Some("stock"));
        assert_eq!(
            named,
            "shop worker --task-queue q --allow-sql --connection stock"
        );
    }
}
