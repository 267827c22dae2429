//! Tables that are paged through by a key, in SQLite, PostgreSQL and MariaDB: every claim is tested on each.

mod home;
mod horizon;
mod live;
mod order;
mod plans;
mod processor;
mod records;
mod refusals;
mod sizes;

#[path = "../fixtures/mariadb.rs"]
mod mariadb;
#[path = "../fixtures/postgres.rs"]
mod postgres;

/// Makes a test on each database of each function `async fn(Home)`.
macro_rules! on_each {
    ($($claim:ident,)*) => {
        mod on_sqlite {
            $(
                #[tokio::test]
                async fn $claim() {
                    super::$claim(crate::home::sqlite().await).await;
                }
            )*
        }

        mod on_postgres {
            $(
                #[tokio::test]
                async fn $claim() {
                    if let Some(home) = crate::home::postgres(stringify!($claim)).await {
                        super::$claim(home).await;
                    }
                }
            )*
        }

        mod on_mariadb {
            $(
                #[tokio::test]
                async fn $claim() {
                    if let Some(home) = crate::home::mariadb(stringify!($claim)).await {
                        super::$claim(home).await;
                    }
                }
            )*
        }
    };
}
pub(crate) use on_each;
