//! Backfills: what the processor does to the rows of real databases, and the command as its users meet it.

mod again;
mod apart;
mod archive;
mod because;
mod checked;
mod command;
mod database;
mod database_url;
mod engines;
mod killed;
mod outages;
mod pace;
mod passed_over;
mod printed;
mod process;
mod refusals;
mod repaired;
mod rows;
mod sessions;
mod totals;

#[path = "../fixtures/mariadb.rs"]
mod mariadb;
#[path = "../fixtures/postgres.rs"]
mod postgres;
#[path = "../fixtures/proxy.rs"]
mod proxy;

/// Makes a test on SQLite, one on PostgreSQL and one on MariaDB of each function `async fn(Home)`.
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
