//! Corrects addresses to the form that mail servers expect; addresses that it cannot correct become dead letters.

use std::sync::Arc;

use temporal_batch::sqlx::{Sqlite, SqlitePool};
use temporal_batch::{
    Page, PageContext, PageError, PageProcessor, PageReport, Size, async_trait, sql::SqlLedger,
    sqlx, store::PageLedger,
};

/// A processor that corrects the addresses of the table `users`, each exactly once.
pub struct FixEmails {
    pool: SqlitePool,
    ledger: Arc<SqlLedger<Sqlite>>,
    lenient: bool,
}

/// A user's id and address.
pub type User = (i64, String);

impl FixEmails {
    /// Creates the tables of the ledger where they are missing. `lenient` also understands addresses that are spelled
    /// out: `user at example dot org`.
    pub async fn new(pool: SqlitePool, lenient: bool) -> Result<Self, PageError> {
        let ledger = Arc::new(SqlLedger::new(pool.clone()));
        ledger.apply_schema().await?;
        Ok(Self {
            pool,
            ledger,
            lenient,
        })
    }

    fn fixed(&self, email: &str) -> Option<String> {
        let mut email = email.trim().to_lowercase();
        if self.lenient {
            email = email.replace(" at ", "@").replace(" dot ", ".");
        }
        let (name, domain) = email.split_once('@')?;
        let address = !name.is_empty() && domain.contains('.') && !email.contains(' ');
        address.then_some(email)
    }
}

#[async_trait]
impl PageProcessor for FixEmails {
    const NAME: &'static str = "fix-emails";
    type Args = ();
    type Cursor = i64;
    type Item = User;

    async fn fetch(&self, ctx: &PageContext<Self>) -> Result<Page<i64, User>, PageError> {
        let users = sqlx::query_as(
            "SELECT id, email FROM users WHERE id > ? AND id <= ? ORDER BY id LIMIT ?",
        );
        let users = users.bind(ctx.range().start().copied().unwrap_or(i64::MIN));
        let users = users.bind(ctx.range().end().copied().unwrap_or(i64::MAX));
        let users = users.bind(ctx.page_size() as i64);
        Page::keyset(users.fetch_all(&self.pool).await?, |(id, _)| *id)
    }

    async fn process(
        &self,
        ctx: &PageContext<Self>,
        users: Vec<User>,
    ) -> Result<PageReport, PageError> {
        let mut report = PageReport::all_processed();
        let mut changed = 0;
        // Committed together with the row of the ledger and the dead letters of the page.
        let mut tx = ctx.transaction::<Sqlite>().await?;
        for (position, (id, email)) in users.iter().enumerate() {
            let Some(fixed) = self.fixed(email) else {
                let message = "no address in it that mail can be sent to";
                report.fail_with_record(position, "NotAnAddress", message, email);
                continue;
            };
            changed += u64::from(fixed != *email);
            let update = "UPDATE users SET email = ?, fixes = fixes + 1 WHERE id = ?";
            let update = sqlx::query(update).bind(fixed).bind(id);
            update.execute(&mut *tx).await?;
        }
        Ok(report.changed(changed))
    }

    async fn size(&self, _args: &()) -> Result<Size, PageError> {
        let users = sqlx::query_scalar("SELECT count(*) FROM users");
        let users: i64 = users.fetch_one(&self.pool).await?;
        Ok(Size::Exact(users.cast_unsigned()))
    }

    fn ledger(&self, _: &Self::Args) -> Option<Arc<dyn PageLedger>> {
        Some(self.ledger.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::{super::users, *};

    #[tokio::test]
    async fn only_the_lenient_code_understands_addresses_that_are_spelled_out() {
        let folder = tempfile::tempdir().unwrap();
        let pool = users::open(&folder.path().join("users.db")).await.unwrap();
        let strict = FixEmails::new(pool.clone(), false).await.unwrap();
        let lenient = FixEmails::new(pool, true).await.unwrap();
        let spelled_out = users::typed_in(250);
        assert_eq!(strict.fixed(&spelled_out), None);
        let fixed = lenient.fixed(&spelled_out);
        assert_eq!(fixed.as_deref(), Some("user250@example.org"));
        let untidy = strict.fixed(&users::typed_in(7));
        assert_eq!(untidy.as_deref(), Some("user7@example.org"));
        for hopeless in ["", "@example.org", "user@example", "a b@example.org"] {
            assert_eq!(lenient.fixed(hopeless), None, "{hopeless}");
        }
    }
}
