//! Ids made from the work of a batch, so that the same command means the same batch.

use crate::{processor::store::dead_letter::stable_id, sql::BackfillArgs};

/// Returns a short name for a database. It reveals nothing about the database and does not depend on the user who
/// connects.
pub fn target(redacted_url: &str) -> String {
    let (scheme, rest) = redacted_url.split_once(':').unwrap_or(("", redacted_url));
    let place = match rest.split_once('@') {
        Some((_user, place)) => place.to_owned(),
        None => rest.trim_start_matches('/').to_owned(),
    };
    let place = match scheme.starts_with("sqlite") {
        // The same file has the same name in every working directory.
        true => std::fs::canonicalize(rest.trim_start_matches("//"))
            .map_or(place, |path| path.display().to_string()),
        false => place,
    };
    short(&serde_json::json!([scheme, place]))
}

/// Returns the id of a backfill, made from the database, the table, the rows and the work. A command that is repeated
/// with another limit or another check is about the same batch, and must not do the work a second time.
pub fn batch_id(target: &str, args: &BackfillArgs) -> String {
    let set = args.set.iter();
    let set: Vec<_> = set
        .map(|set| {
            (
                &set.column,
                set.expression.split_whitespace().collect::<String>(),
            )
        })
        .collect();
    let (table, filter) = (&args.table.table, &args.table.filter);
    let work = serde_json::json!([target, table, filter, set, args.statements]);
    named("backfill", table, &work)
}

/// Returns the id for a command, a table and a value that distinguishes one batch from another.
pub fn named(command: &str, table: &str, work: &serde_json::Value) -> String {
    let plain = |c: &char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
    let table: String = table.chars().filter(plain).take(60).collect();
    format!("{command}-{table}-{}", short(work))
}

/// Returns ten letters that stand for a value.
fn short(value: &serde_json::Value) -> String {
    let id = stable_id(value);
    id.chars().filter(|c| *c != '-').take(10).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sql::TableSpec;

    #[test]
    fn the_same_work_on_the_same_database_has_the_same_id() {
        let args = |expression: &str| {
            BackfillArgs::of(TableSpec::new("\"my shop\".users", ["id"])).set("a", expression)
        };
        let here = target("postgres://me@db:5432/shop");
        assert_eq!(here, target("postgres://you@db:5432/shop"));
        assert_eq!(here, target("postgres://db:5432/shop"));
        assert_ne!(here, target("postgres://me@db:5432/other"));
        let id = batch_id(&here, &args("1"));
        assert!(id.starts_with("backfill-myshop.users-"), "{id}");
        assert_eq!(id, batch_id(&here, &args("1")));
        assert_ne!(id, batch_id(&here, &args("2")));
        let checked = args("1").verify("a = 1").once(true);
        assert_eq!(id, batch_id(&here, &checked));
        assert_eq!(
            batch_id(&here, &args("a + 1")),
            batch_id(&here, &args("a+1"))
        );
        assert_ne!(id, batch_id(&target("sqlite:a.db"), &args("1")));
    }
}
