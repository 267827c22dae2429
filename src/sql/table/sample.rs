//! Keys from all parts of a table, for a sample of its pages.

use super::{Table, key::Key, statements::Bound};
use crate::{
    base::error::PageError,
    processor::SkipAhead,
    sql::{
        Database,
        backend::dialect::Dialect as _,
        connection::{pool::on_pool, read_only},
    },
};

/// The number of sampled rows for each key. The rows of a block lie together, so more blocks give a better spread.
#[cfg(feature = "postgres")]
const ROWS_PER_KEY: u64 = 200;
/// The largest number of index entries that are stepped over.
const MAX_STEPPED: u64 = 2_000_000;

/// Keys in order, and the method that found them.
pub(crate) struct KeySample {
    pub keys: Vec<Key>,
    /// The method, for people.
    pub method: &'static str,
}

/// # Sample
impl Table {
    /// Returns about `count` positions, spread evenly over the rows of the table, of which there are about `rows`. At
    /// most a part of the table is read. `None` if that needs the number of rows.
    pub(crate) async fn spread(
        &self,
        count: u64,
        rows: Option<u64>,
    ) -> Result<Option<KeySample>, PageError> {
        #[cfg(feature = "postgres")]
        if let Database::Postgres(_) = self.database()
            && let Some(rows) = rows
            && let Ok(keys) = self.sampled(count, rows).await
            && !keys.is_empty()
        {
            let method = "quantiles of a random sample of blocks";
            return Ok(Some(KeySample { keys, method }));
        }
        if let Some(keys) = self.interpolated(count).await? {
            let method = "key values at equal distances from the lowest to the highest";
            return Ok(Some(KeySample { keys, method }));
        }
        let Some(rows) = rows else {
            return Ok(None);
        };
        let step = (rows.min(MAX_STEPPED) / count.max(1)).max(1);
        let mut keys: Vec<Key> = Vec::new();
        for _ in 0..count.saturating_sub(1) {
            match self.skip(keys.last(), None, step).await? {
                SkipAhead::To(key) => keys.push(key),
                SkipAhead::PastEnd | SkipAhead::Unsupported => break,
            }
        }
        let method = match rows <= MAX_STEPPED {
            true => "equal numbers of rows apart",
            false => "equal numbers of rows apart, in the first 2,000,000 rows only",
        };
        Ok(Some(KeySample { keys, method }))
    }

    /// Samples random blocks. Views have no blocks, and the database refuses them.
    #[cfg(feature = "postgres")]
    async fn sampled(&self, count: u64, rows: u64) -> Result<Vec<Key>, PageError> {
        let wanted = count.saturating_mul(ROWS_PER_KEY);
        let percent = (100.0 * wanted as f64 / rows.max(1) as f64).min(100.0);
        let statements = &self.inner.statements;
        let sample = statements.sample(percent, 4 * wanted);
        let mut keys: Vec<Key> = on_pool!(&self.inner.database, pool: Db => {
            let rows = Db::fetch(pool, sample).await?;
            let keys = rows.iter().map(|row| Db::key(row, 0, &statements.key));
            keys.collect::<Result<_, PageError>>()?
        });
        if let Some(every) = keys
            .len()
            .checked_div(usize::try_from(count).unwrap_or(usize::MAX))
            && every > 1
        {
            keys = keys.into_iter().skip(every).step_by(every).collect();
        }
        Ok(keys)
    }

    /// Interpolates a key of a single integer. Where values are missing, a page begins after the gap.
    async fn interpolated(&self, count: u64) -> Result<Option<Vec<Key>>, PageError> {
        let ends = (self.keys(None, None, 1).await?.pop()).zip(self.highest().await?);
        let Some((lowest, highest)) = ends else {
            return Ok(Some(Vec::new()));
        };
        let ([super::KeyPart::Int(lowest)], [super::KeyPart::Int(highest)]) =
            (lowest.parts(), highest.parts())
        else {
            return Ok(None);
        };
        let (lowest, distance) = (
            i128::from(*lowest),
            i128::from(*highest) - i128::from(*lowest),
        );
        let count = i128::from(count.max(1));
        let mut keys: Vec<Key> = (1..count)
            .map(|n| lowest + distance * n / count)
            .filter_map(|key| i64::try_from(key).ok())
            .map(|key| Key::new([key]))
            .collect();
        keys.dedup();
        Ok(Some(keys))
    }

    /// Returns the highest key now, without a wait for other transactions.
    async fn highest(&self) -> Result<Option<Key>, PageError> {
        let statements = &self.inner.statements;
        on_pool!(&self.inner.database, pool: Db => {
            let rows = Db::fetch(pool, statements.highest()).await?;
            rows.first().map(|row| Db::key(row, 0, &statements.key)).transpose()
        })
    }

    /// Returns the statement that finds the keys of a page, and its plan.
    pub(crate) async fn page_plan(
        &self,
        start: Option<&Key>,
        limit: u64,
    ) -> Result<(String, Vec<String>), PageError> {
        let statements = &self.inner.statements;
        let Bound { sql, values } = statements.page(Vec::new(), start, None, limit, 0);
        let plan = read_only::plan(&self.inner.database, (sql.clone(), values)).await?;
        Ok((sql, plan))
    }
}
