//! A repeated command must not do the work twice, whichever flags differ and whatever Temporal has forgotten.

use crate::{
    command::{exits, id},
    database::{self, Home},
    support::{
        command::{Ended, online, run},
        databases::on_each,
    },
};

on_each!(
    another_check_or_limit_names_the_same_batch,
    a_batch_that_only_the_ledger_knows_is_not_begun,
    the_batch_of_another_database_is_not_mistaken_for_this_one,
);

const WORK: [&str; 6] = ["backfill", "--table", "t", "--set", "x = x + 1", "--once"];

fn typed(home: &Home, more: &[&str]) -> Ended {
    let mut command = online(&[&WORK[..], more].concat());
    command.env("DATABASE_URL", &home.url);
    run(command)
}

async fn rows_changed_once(home: &Home) -> i64 {
    home.number("SELECT count(*) FROM t WHERE x = 1").await
}

async fn another_check_or_limit_names_the_same_batch(home: Home) {
    home.numbers(50).await;
    home.ledger_tables().await;
    exits(&typed(&home, &[]), 0);
    for more in [
        ["--verify", "x = 1"],
        ["--lock-timeout", "3s"],
        ["--statement-timeout", "20s"],
    ] {
        let again = typed(&home, &more);
        exits(&again, 1);
        let field = more[0].trim_start_matches("--").replace('-', "_");
        for part in ["is not the same", field.as_str(), "--rerun"] {
            assert!(again.err.contains(part), "{part}: {again:#?}");
        }
    }
    let again = typed(&home, &["--rate", "500"]);
    exits(&again, 0);
    assert!(again.err.contains("nothing was changed now"), "{again:#?}");
    assert_eq!(rows_changed_once(&home).await, 50);
}

async fn a_batch_that_only_the_ledger_knows_is_not_begun(home: Home) {
    home.numbers(50).await;
    home.ledger_tables().await;
    let (known, lost) = (id(), id());
    exits(&typed(&home, &["--batch-id", &known]), 0);
    home.script(&format!(
        "UPDATE temporal_batch_stride SET batch_id = '{lost}'"
    ))
    .await;
    let refused = typed(&home, &["--batch-id", &lost]);
    exits(&refused, 1);
    for part in ["Temporal does not know batch", "--rerun"] {
        assert!(refused.err.contains(part), "{part}: {refused:#?}");
    }
    assert_eq!(rows_changed_once(&home).await, 50);
    // The flag begins the batch again.
    exits(&typed(&home, &["--batch-id", &lost, "--rerun"]), 0);
    assert_eq!(rows_changed_once(&home).await, 0);
}

async fn the_batch_of_another_database_is_not_mistaken_for_this_one(home: Home) {
    home.numbers(50).await;
    home.ledger_tables().await;
    let id = id();
    exits(&typed(&home, &["--batch-id", &id]), 0);
    let other = database::sqlite().await;
    other.numbers(50).await;
    other.ledger_tables().await;
    let refused = typed(&other, &["--batch-id", &id]);
    exits(&refused, 1);
    let differs = match home.is_sqlite() {
        true => "its task queue is",
        false => "its arguments are different (table)",
    };
    for part in ["is not the same", differs, "--batch-id names another batch"] {
        assert!(refused.err.contains(part), "{part}: {refused:#?}");
    }
    exits(&typed(&home, &["--batch-id", &id]), 0);
}
