//! Ids made from the work of a batch, so that the same command means the same batch.

use crate::{
    processor::store::dead_letter::stable_id,
    sql::{BackfillArgs, connection::place::Place},
};

/// The number of letters that stand for the database in an id.
const LETTERS_OF_PLACE: usize = 6;

/// An id that the same work on the same database always has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct WorkId {
    /// The part that does not depend on the way to the database. A ledger, which is in the database, finds the batches of
    /// the same work by it.
    pub work: String,
    place: String,
}

impl WorkId {
    pub fn batch_id(&self) -> String {
        format!("{}{}", self.prefix(), self.place)
    }

    /// Returns the text with which the ids of the same work begin.
    pub fn prefix(&self) -> String {
        format!("{}-", self.work)
    }
}

/// Returns a short name for a database, which reveals nothing about the database.
pub(crate) fn target(place: &Place) -> String {
    short(&serde_json::json!(place))
}

/// Returns the id of a backfill, made from the database, the table, the rows and the work. A command that is repeated
/// with another limit or another check is about the same batch, and must not do the work a second time. The name of the
/// table is its [full name](crate::sql::Table::full_name). `meant_by` is the database in which the work finds other tables.
pub(crate) fn of_backfill(target: &str, args: &BackfillArgs, meant_by: Option<&str>) -> WorkId {
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
    let work = serde_json::json!([table, filter, set, args.statements, meant_by]);
    named("backfill", target, table, &work)
}

/// Returns the id for a command, a database, a table and a value that distinguishes one batch from another.
pub(crate) fn named(command: &str, target: &str, table: &str, work: &serde_json::Value) -> WorkId {
    let plain = |c: &char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
    let table: String = table.chars().filter(plain).take(60).collect();
    WorkId {
        work: format!("{command}-{table}-{}", short(work)),
        place: target.chars().take(LETTERS_OF_PLACE).collect(),
    }
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
        let of = |args: &BackfillArgs| of_backfill("0123456789", args, None);
        let id = of(&args("1"));
        assert!(id.work.starts_with("backfill-myshop.users-"), "{id:?}");
        assert!(id.batch_id().ends_with("-012345"), "{id:?}");
        assert!(id.batch_id().starts_with(&id.prefix()), "{id:?}");
        assert_eq!(id, of(&args("1")));
        assert_ne!(id, of(&args("2")));
        assert_eq!(id, of(&args("1").verify("a = 1").once(true)));
        assert_eq!(of(&args("a + 1")), of(&args("a+1")));
        // The way to the database is not part of the work.
        let elsewhere = of_backfill("abcdefghij", &args("1"), None);
        assert_eq!(elsewhere.work, id.work);
        assert_ne!(elsewhere.batch_id(), id.batch_id());
        let meant = of_backfill("0123456789", &args("1"), Some("shop"));
        assert_ne!(meant, id);
    }
}
