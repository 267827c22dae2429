//! The page ledger in SQLite, PostgreSQL and MariaDB: every claim is tested on each. And the throttle on
//! PostgreSQL.

mod classify;
mod cuts;
mod database;
mod elsewhere;
mod exactly_once;
mod faults;
mod fixture;
mod letters;
mod outputs;
mod pages;
mod reports;
mod schema;
mod throttle;

#[path = "../fixtures/mariadb.rs"]
mod mariadb;
#[path = "../fixtures/postgres.rs"]
mod postgres;

/// Makes a test on SQLite, one on PostgreSQL and one on MariaDB of each function `async fn(Home<D>)`.
macro_rules! on_each {
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

        mod on_mariadb {
            $(
                #[tokio::test]
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
