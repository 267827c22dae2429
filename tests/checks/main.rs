//! Before and after a backfill: dry runs, and checks of what was done, on every database.

mod database;
mod dry_run;
#[path = "../fixtures/mariadb.rs"]
mod mariadb;
#[path = "../fixtures/postgres.rs"]
mod postgres;
mod verify;

/// Makes a test on each database of each function `async fn(Home)`.
macro_rules! on_each {
    ($($claim:ident,)*) => {
        mod on_sqlite {
            $(
                #[tokio::test(flavor = "multi_thread")]
                async fn $claim() {
                    super::$claim(crate::database::sqlite().await).await;
                }
            )*
        }

        mod on_postgres {
            $(
                #[tokio::test(flavor = "multi_thread")]
                async fn $claim() {
                    if let Some(home) = crate::database::postgres(stringify!($claim)).await {
                        super::$claim(home).await;
                    }
                }
            )*
        }

        mod on_mariadb {
            $(
                #[tokio::test(flavor = "multi_thread")]
                async fn $claim() {
                    if let Some(home) = crate::database::mariadb(stringify!($claim)).await {
                        super::$claim(home).await;
                    }
                }
            )*
        }
    };
}
pub(crate) use on_each;
