//! The page ledger in SQLite and in PostgreSQL: every claim is tested on both. And the throttle on PostgreSQL.

mod cuts;
mod database;
mod exactly_once;
mod faults;
mod fixture;
mod letters;
mod pages;
mod reports;
mod schema;
mod throttle;

#[path = "../fixtures/postgres.rs"]
mod postgres;

/// Makes a test on SQLite and one on PostgreSQL of each function `async fn(Home<D>)`.
macro_rules! on_both {
    ($($claim:ident,)*) => {
        mod on_sqlite {
            $(
                #[tokio::test]
                async fn $claim() {
                    super::$claim(crate::database::sqlite().await).await;
                }
            )*
        }

        mod on_postgres {
            $(
                #[tokio::test]
                async fn $claim() {
                    if let Some(home) = crate::database::postgres(stringify!($claim)).await {
                        super::$claim(home).await;
                    }
                }
            )*
        }
    };
}
pub(crate) use on_both;
