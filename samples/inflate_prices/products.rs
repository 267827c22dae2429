//! The database of products: filled with realistic rows, opened by the workers, and checked row by row afterwards.
//!
//! Every product is a pure function of the seed of its database and of its id. So [`verify`] knows the price that each
//! product had, and can tell a price that was raised twice from one that was raised once.

use std::{
    fmt,
    fs::File,
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use futures::TryStreamExt;
use temporal_batch::sqlx;
use temporal_batch::sqlx::{
    QueryBuilder, SqlitePool,
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous},
};

/// The schema. `id` is the key of pages. `price_version` says whether a price is the old one (1) or the new one (2).
/// `catalogue` has one row, from which every product can be computed again.
const SCHEMA: [&str; 2] = [
    "CREATE TABLE products (
        id            INTEGER PRIMARY KEY,
        sku           TEXT    NOT NULL UNIQUE,
        name          TEXT    NOT NULL,
        category      TEXT    NOT NULL,
        price_cents   INTEGER NOT NULL,
        price_version INTEGER NOT NULL DEFAULT 1
    )",
    "CREATE TABLE catalogue (seed INTEGER NOT NULL, rows INTEGER NOT NULL)",
];

/// The rows of an `INSERT`: with five values each they stay well under the 32,766 that SQLite binds in one statement.
const ROWS_PER_INSERT: usize = 1_000;

/// The connections of a pool. More would only wait for each other: SQLite has one writer at a time.
const CONNECTIONS: u32 = 4;

/// The time for which a writer waits for the others, including those of other processes. A page writes for a few
/// milliseconds, so this is many times more than a queue of five hundred pages needs.
const BUSY_TIMEOUT: Duration = Duration::from_secs(60);

/// The most rows that a [`Verification`] lists.
const MAX_EXAMPLES: usize = 5;

/// One row of the table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Product {
    pub id: i64,
    pub sku: String,
    pub name: String,
    pub category: String,
    /// The price. 0 is a free sample.
    pub price_cents: i64,
    /// 1 before the raise, 2 after it.
    pub price_version: i64,
}

/// The reason why a new database was not created.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CreateError {
    /// The file exists, and may have valuable data.
    #[error("{} exists already; delete it or name another file", path.display())]
    Exists { path: PathBuf },
    /// The file cannot be created, for example because its directory is missing or not writable.
    #[error("cannot create {}", path.display())]
    File { path: PathBuf, source: io::Error },
    /// The rows could not be written. The file is incomplete and should be deleted.
    #[error("cannot fill {}", path.display())]
    Fill { path: PathBuf, source: sqlx::Error },
}

/// The reason why a database cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The named database does not exist. It is not created: after a typing error, the batch would raise the prices of
    /// a new database and report success.
    #[error(
        "there is no products database at {}; where PRODUCTS_DB is not set, the worker of the sample \
         `inflate_prices` creates products.db", path.display()
    )]
    Missing { path: PathBuf },
    /// The file is another kind of database, or its creation did not finish.
    #[error("{} is not a complete products database", path.display())]
    NotProducts { path: PathBuf },
    /// SQLite reports an error.
    #[error("cannot open {}", path.display())]
    Database { path: PathBuf, source: sqlx::Error },
}

/// Creates a database of `rows` products. The same seed creates the same products.
///
/// # Errors
/// Fails when the file exists or cannot be written.
pub async fn create(path: &Path, rows: u64, seed: u64) -> Result<SqlitePool, CreateError> {
    // If two processes do this at once, one of them fails.
    File::create_new(path).map_err(|source| match source.kind() {
        io::ErrorKind::AlreadyExists => CreateError::Exists { path: path.into() },
        _ => CreateError::File {
            path: path.into(),
            source,
        },
    })?;
    let filled = async {
        let pool = connect(path).await?;
        fill(&pool, rows, seed).await?;
        Ok(pool)
    };
    filled.await.map_err(|source| CreateError::Fill {
        path: path.into(),
        source,
    })
}

/// Opens a database that [`create`] has made.
///
/// # Errors
/// Fails when there is no such database at `path`.
pub async fn open(path: &Path) -> Result<SqlitePool, OpenError> {
    let path_buf = || path.to_path_buf();
    if !path.exists() {
        return Err(OpenError::Missing { path: path_buf() });
    }
    let failed = |source| OpenError::Database {
        path: path_buf(),
        source,
    };
    let pool = connect(path).await.map_err(failed)?;
    // This row is committed together with the products, so it proves that they are complete.
    let complete = sqlx::query("SELECT 1 FROM sqlite_schema WHERE name = 'catalogue'");
    match complete.fetch_optional(&pool).await.map_err(failed)? {
        Some(_) => Ok(pool),
        None => Err(OpenError::NotProducts { path: path_buf() }),
    }
}

async fn connect(path: &Path) -> Result<SqlitePool, sqlx::Error> {
    let options = SqliteConnectOptions::new()
        .filename(path)
        // Readers and the writer do not wait for each other, and a commit does not wait for the disk. A power cut may
        // lose the last commits, but never half of one.
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Normal)
        .busy_timeout(BUSY_TIMEOUT);
    SqlitePoolOptions::new()
        .max_connections(CONNECTIONS)
        .connect_with(options)
        .await
}

async fn fill(pool: &SqlitePool, rows: u64, seed: u64) -> Result<(), sqlx::Error> {
    let mut transaction = pool.begin().await?;
    for table in SCHEMA {
        sqlx::query(table).execute(&mut *transaction).await?;
    }
    let mut products = products(rows, seed).peekable();
    while products.peek().is_some() {
        let mut insert =
            QueryBuilder::new("INSERT INTO products (id, sku, name, category, price_cents) ");
        insert.push_values(
            products.by_ref().take(ROWS_PER_INSERT),
            |mut row, product| {
                row.push_bind(product.id)
                    .push_bind(product.sku)
                    .push_bind(product.name)
                    .push_bind(product.category)
                    .push_bind(product.price_cents);
            },
        );
        insert.build().execute(&mut *transaction).await?;
    }
    sqlx::query("INSERT INTO catalogue (seed, rows) VALUES (?, ?)")
        .bind(seed.cast_signed())
        .bind(rows.cast_signed())
        .execute(&mut *transaction)
        .await?;
    transaction.commit().await
}

/// The result of [`verify`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verification {
    /// The number of correct rows, including free samples.
    pub right: u64,
    /// The number of rows that are unchanged, though their price should have been raised.
    pub unmigrated: u64,
    /// The number of all other rows: raised twice, changed otherwise, missing, or unexpected.
    pub wrong: u64,
    /// The first rows that are not correct.
    pub examples: Vec<Difference>,
}

/// A row that is not correct.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// The row that should exist; `None` for an unexpected row.
    pub expected: Option<Product>,
    /// The row that exists; `None` for a missing row.
    pub found: Option<Product>,
}

impl Verification {
    /// Returns whether every row is correct.
    pub fn is_right(&self) -> bool {
        self.unmigrated == 0 && self.wrong == 0
    }

    fn count(&mut self, original: Option<Product>, found: Option<Product>, percent: u32) {
        let expected = original.clone().map(|product| raised(product, percent));
        if expected == found {
            self.right += 1;
            return;
        }
        if found == original {
            self.unmigrated += 1;
        } else {
            self.wrong += 1;
        }
        if self.examples.len() < MAX_EXAMPLES {
            self.examples.push(Difference { expected, found });
        }
    }
}

/// Compares every row with its expected value after one raise by `percent`, and finds rows that are missing or
/// unexpected.
///
/// # Errors
/// Fails when the database cannot be read. Rows that are not correct are no error.
pub async fn verify(pool: &SqlitePool, percent: u32) -> Result<Verification, sqlx::Error> {
    let catalogue = sqlx::query_as("SELECT seed, rows FROM catalogue");
    let (seed, rows): (i64, i64) = catalogue.fetch_one(pool).await?;
    let mut originals = products(rows.cast_unsigned(), seed.cast_unsigned()).peekable();
    let mut verification = Verification::default();
    let found = sqlx::query_as::<_, ProductRow>(
        "SELECT id, sku, name, category, price_cents, price_version FROM products ORDER BY id",
    );
    let mut found = found.fetch(pool);
    while let Some(row) = found.try_next().await? {
        let product = read(row);
        // Both sides ascend by id, so rows before this one are missing.
        while let Some(gone) = originals.next_if(|original| original.id < product.id) {
            verification.count(Some(gone), None, percent);
        }
        let original = originals.next_if(|original| original.id == product.id);
        verification.count(original, Some(product), percent);
    }
    for gone in originals {
        verification.count(Some(gone), None, percent);
    }
    Ok(verification)
}

/// The columns of `products`, in the order of the table.
type ProductRow = (i64, String, String, String, i64, i64);

fn read((id, sku, name, category, price_cents, price_version): ProductRow) -> Product {
    Product {
        id,
        sku,
        name,
        category,
        price_cents,
        price_version,
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.expected, &self.found) {
            (Some(expected), Some(found)) => write!(f, "{found}, but should be {expected}"),
            (Some(expected), None) => write!(f, "missing: {expected}"),
            (None, Some(found)) => write!(f, "should not be there: {found}"),
            (None, None) => Ok(()),
        }
    }
}

impl fmt::Display for Product {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (units, cents) = (self.price_cents / 100, self.price_cents % 100);
        let Self {
            id,
            sku,
            name,
            category,
            price_version,
            ..
        } = self;
        write!(
            f,
            "{id} {sku} \"{name}\" ({category}) at {units}.{cents:02}, version {price_version}"
        )
    }
}

/// The rule of the raise, written down again: it must not share code with the statement that it checks. Half a cent is
/// rounded up, and free samples stay free.
fn raised(product: Product, percent: u32) -> Product {
    if product.price_cents == 0 {
        return product;
    }
    let hundredths = product.price_cents * (100 + i64::from(percent));
    Product {
        price_cents: (hundredths + 50).div_euclid(100),
        price_version: 2,
        ..product
    }
}

/// The products of a database, by id.
fn products(rows: u64, seed: u64) -> impl Iterator<Item = Product> + Send {
    let rows = usize::try_from(rows).unwrap_or(usize::MAX);
    (1..)
        .filter(move |id| is_listed(seed, *id))
        .take(rows)
        .map(move |id| product(seed, id))
}

/// Whether an id exists. Ids have gaps, as in a shop that has deleted products for years: single ones here and there,
/// and now and then a whole range of 64.
fn is_listed(seed: u64, id: u64) -> bool {
    let line_kept = !hash([seed, 0, id / 64]).is_multiple_of(12);
    line_kept && !hash([seed, 1, id]).is_multiple_of(9)
}

fn product(seed: u64, id: u64) -> Product {
    let choice = |what: u64, of: usize| (hash([seed, what, id]) % of as u64) as usize;
    let (category, code, kind, lowest, highest) = KINDS[choice(2, KINDS.len())];
    let style = STYLES[choice(3, STYLES.len())];
    let model = 100 + 10 * choice(4, 90);
    let colour = COLOURS[choice(5, COLOURS.len())];
    let units = lowest + choice(6, (highest - lowest) as usize) as i64;
    let cents = ENDINGS[choice(7, ENDINGS.len())];
    let is_free_sample = choice(8, 200) == 0;
    Product {
        id: id.cast_signed(),
        sku: format!("{code}-{id:07}"),
        name: format!("{style} {kind} {model}, {colour}"),
        category: category.to_owned(),
        price_cents: if is_free_sample {
            0
        } else {
            units * 100 + cents
        },
        price_version: 1,
    }
}

/// Turns numbers into an even, repeatable choice.
pub fn hash<const N: usize>(numbers: [u64; N]) -> u64 {
    numbers.into_iter().fold(0, |hash, n| mix(hash ^ n))
}

/// SplitMix64 (Steele, Lea and Flood 2014).
fn mix(number: u64) -> u64 {
    let mut z = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Category, prefix of the SKUs, kind of product, and its lowest and highest price in whole units of the currency.
const KINDS: [(&str, &str, &str, i64, i64); 32] = [
    ("Kitchen", "KIT", "Chef's Knife", 14, 129),
    ("Kitchen", "KIT", "Saucepan", 19, 149),
    ("Kitchen", "KIT", "Pepper Mill", 9, 59),
    ("Kitchen", "KIT", "Teapot", 12, 79),
    ("Garden", "GAR", "Watering Can", 8, 49),
    ("Garden", "GAR", "Hand Trowel", 4, 29),
    ("Garden", "GAR", "Hose Reel", 29, 189),
    ("Garden", "GAR", "Bird Feeder", 6, 69),
    ("Office", "OFF", "Notebook", 1, 24),
    ("Office", "OFF", "Fountain Pen", 7, 219),
    ("Office", "OFF", "Stapler", 4, 39),
    ("Office", "OFF", "Desk Tray", 5, 45),
    ("Outdoor", "OUT", "Tent", 49, 699),
    ("Outdoor", "OUT", "Sleeping Bag", 29, 349),
    ("Outdoor", "OUT", "Backpack", 24, 249),
    ("Outdoor", "OUT", "Flask", 9, 45),
    ("Lighting", "LIG", "Desk Lamp", 17, 189),
    ("Lighting", "LIG", "Floor Lamp", 39, 399),
    ("Lighting", "LIG", "Lantern", 9, 89),
    ("Lighting", "LIG", "Night Light", 5, 35),
    ("Textiles", "TEX", "Bath Towel", 6, 49),
    ("Textiles", "TEX", "Blanket", 19, 179),
    ("Textiles", "TEX", "Cushion", 8, 69),
    ("Textiles", "TEX", "Door Mat", 9, 59),
    ("Toys", "TOY", "Jigsaw", 6, 49),
    ("Toys", "TOY", "Kite", 7, 89),
    ("Toys", "TOY", "Building Set", 12, 199),
    ("Toys", "TOY", "Marble Run", 15, 129),
    ("Tools", "TOO", "Hammer", 8, 69),
    ("Tools", "TOO", "Spirit Level", 9, 119),
    ("Tools", "TOO", "Hand Saw", 11, 79),
    ("Tools", "TOO", "Tape Measure", 3, 29),
];

const STYLES: [&str; 10] = [
    "Classic", "Compact", "Everyday", "Folding", "Handmade", "Heritage", "Junior", "Large", "Slim",
    "Sturdy",
];

const COLOURS: [&str; 10] = [
    "Anthracite",
    "Birch",
    "Blue",
    "Copper",
    "Cream",
    "Green",
    "Red",
    "Slate",
    "White",
    "Yellow",
];

/// The last digits of the prices of a shop, in cents.
const ENDINGS: [i64; 6] = [99, 95, 90, 49, 50, 0];

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    const ROWS: u64 = 3_000;

    async fn database() -> (tempfile::TempDir, SqlitePool) {
        let dir = tempfile::tempdir().unwrap();
        let pool = create(&dir.path().join("products.db"), ROWS, 7).await;
        (dir, pool.unwrap())
    }

    /// Raises without checking `price_version`, as a careless migration would.
    async fn raise_carelessly(pool: &SqlitePool, filter: &'static str) {
        let raise = "UPDATE products SET price_cents = (price_cents * 110 + 50) / 100, \
                     price_version = 2 WHERE price_cents > 0 AND ";
        let mut update = QueryBuilder::new(raise);
        update.push(filter).build().execute(pool).await.unwrap();
    }

    async fn first_paid(pool: &SqlitePool) -> i64 {
        let query = "SELECT id FROM products WHERE price_cents > 0 ORDER BY id LIMIT 1";
        sqlx::query_scalar(query).fetch_one(pool).await.unwrap()
    }

    #[test]
    fn the_same_seed_makes_the_same_products() {
        let all = |seed| products(ROWS, seed).collect::<Vec<_>>();
        assert_eq!(all(7), all(7));
        assert_ne!(all(7), all(8));
    }

    #[test]
    fn products_look_like_those_of_a_shop() {
        let products: Vec<_> = products(ROWS, 7).collect();
        let skus: HashSet<_> = products.iter().map(|p| &p.sku).collect();
        assert_eq!(skus.len(), products.len());
        let names: HashSet<_> = products.iter().map(|p| &p.name).collect();
        assert!(names.len() > 2_900, "{}", names.len());
        let free = products.iter().filter(|p| p.price_cents == 0).count();
        assert!((5..=30).contains(&free), "{free} free samples");
        assert!(
            products
                .iter()
                .all(|p| (0..70_000).contains(&p.price_cents))
        );
        let longest_gap = products.windows(2).map(|p| p[1].id - p[0].id).max();
        assert!(longest_gap > Some(64), "{longest_gap:?}");
    }

    #[tokio::test]
    async fn a_new_database_has_all_rows_and_none_of_them_migrated() {
        let (_dir, pool) = database().await;
        let found = verify(&pool, 10).await.unwrap();
        assert!(!found.is_right());
        assert_eq!((found.unmigrated, found.wrong), (ROWS - found.right, 0));
        let free = products(ROWS, 7).filter(|p| p.price_cents == 0).count();
        assert_eq!(found.right, free as u64);
        assert_eq!(found.examples.len(), MAX_EXAMPLES);
    }

    #[tokio::test]
    async fn one_raise_is_correct() {
        let (_dir, pool) = database().await;
        raise_carelessly(&pool, "TRUE").await;
        let found = verify(&pool, 10).await.unwrap();
        assert!(found.is_right(), "{found:?}");
        assert_eq!(found.right, ROWS);
        let free = products(ROWS, 7).filter(|p| p.price_cents == 0).count();
        let found = verify(&pool, 11).await.unwrap();
        assert_eq!(
            (found.right, found.wrong),
            (free as u64, ROWS - free as u64)
        );
    }

    #[tokio::test]
    async fn one_wrong_row_is_noticed() {
        let (_dir, pool) = database().await;
        raise_carelessly(&pool, "TRUE").await;
        let id = first_paid(&pool).await;
        for (change, expected) in [
            (
                "UPDATE products SET price_cents = price_cents + 1 WHERE id = ?",
                "but should be",
            ),
            (
                "UPDATE products SET price_version = 1 WHERE id = ?",
                "version 1, but should be",
            ),
            (
                "UPDATE products SET name = 'Teapot' WHERE id = ?",
                "\"Teapot\"",
            ),
            ("DELETE FROM products WHERE id = ?", "missing: "),
        ] {
            sqlx::query(change).bind(id).execute(&pool).await.unwrap();
            let found = verify(&pool, 10).await.unwrap();
            assert_eq!((found.right, found.wrong), (ROWS - 1, 1), "{change}");
            let example = found.examples[0].to_string();
            assert!(example.contains(expected), "{example}");
        }
    }

    #[tokio::test]
    async fn rows_missing_at_the_end_are_noticed() {
        let (_dir, pool) = database().await;
        raise_carelessly(&pool, "TRUE").await;
        let last = products(ROWS, 7).nth(2_990).unwrap().id;
        let delete = sqlx::query("DELETE FROM products WHERE id > ?").bind(last);
        delete.execute(&pool).await.unwrap();
        let found = verify(&pool, 10).await.unwrap();
        assert_eq!((found.right, found.wrong), (2_991, ROWS - 2_991));
    }

    #[tokio::test]
    async fn a_row_that_was_not_raised_is_noticed() {
        let (_dir, pool) = database().await;
        raise_carelessly(
            &pool,
            "id <> (SELECT min(id) FROM products WHERE price_cents > 0)",
        )
        .await;
        let found = verify(&pool, 10).await.unwrap();
        assert_eq!(
            (found.right, found.unmigrated, found.wrong),
            (ROWS - 1, 1, 0)
        );
    }

    #[tokio::test]
    async fn a_row_that_was_raised_twice_is_noticed() {
        let (_dir, pool) = database().await;
        raise_carelessly(&pool, "TRUE").await;
        raise_carelessly(&pool, "id % 100 = 1").await;
        let query = "SELECT count(*) FROM products WHERE price_cents > 0 AND id % 100 = 1";
        let twice: i64 = sqlx::query_scalar(query).fetch_one(&pool).await.unwrap();
        assert!(twice > 20);
        let found = verify(&pool, 10).await.unwrap();
        assert_eq!((found.wrong, found.unmigrated), (twice.cast_unsigned(), 0));
    }

    #[tokio::test]
    async fn an_unexpected_row_is_noticed() {
        let (_dir, pool) = database().await;
        raise_carelessly(&pool, "TRUE").await;
        let insert = "INSERT INTO products VALUES (-1, 'X-1', 'Saw', 'Tools', 100, 2)";
        sqlx::query(insert).execute(&pool).await.unwrap();
        let found = verify(&pool, 10).await.unwrap();
        assert_eq!((found.right, found.wrong), (ROWS, 1));
        let example = found.examples[0].to_string();
        assert!(
            example.starts_with("should not be there: -1 X-1"),
            "{example}"
        );
    }

    #[tokio::test]
    async fn an_existing_file_is_not_overwritten() {
        let (dir, pool) = database().await;
        let error = create(&dir.path().join("products.db"), 1, 7)
            .await
            .unwrap_err();
        assert!(matches!(error, CreateError::Exists { .. }), "{error:?}");
        assert!(error.to_string().contains("delete it or name another"));
        assert_eq!(verify(&pool, 10).await.unwrap().wrong, 0);
    }

    #[tokio::test]
    async fn a_database_without_rows_is_correct() {
        let dir = tempfile::tempdir().unwrap();
        let pool = create(&dir.path().join("empty.db"), 0, 7).await.unwrap();
        assert!(verify(&pool, 10).await.unwrap().is_right());
    }

    #[tokio::test]
    async fn only_complete_databases_are_opened() {
        let (dir, _pool) = database().await;
        open(&dir.path().join("products.db")).await.unwrap();

        let missing = dir.path().join("other.db");
        let error = open(&missing).await.unwrap_err();
        assert!(
            error.to_string().contains(missing.to_str().unwrap()),
            "{error}"
        );
        assert!(!missing.exists());

        File::create_new(&missing).unwrap();
        let error = open(&missing).await.unwrap_err();
        assert!(matches!(error, OpenError::NotProducts { .. }), "{error:?}");
    }
}
