//! The number of rows that is shown while they are changed, and afterwards.

use serde_json::Value;

use crate::{
    command::{backfill, exits},
    database::postgres,
    support::command::run,
};

/// PostgreSQL estimates a quarter of the real number of rows, because its planner does not know that two columns have
/// the same values.
#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_estimate_is_never_shown_as_the_total() {
    let Some(home) = postgres("wrong_estimate").await else {
        return;
    };
    home.script(
        "CREATE TABLE t (id bigint PRIMARY KEY, a int, b int, x int DEFAULT 0);
         INSERT INTO t SELECT n, n % 4, n % 4 FROM generate_series(1, 12000) AS n;
         ANALYZE t",
    )
    .await;
    let ended = run(backfill(
        &home,
        &[
            "--set",
            "x = x + 1",
            "--where",
            "a = 1 AND b = 1",
            "--page-size",
            "100",
            "--page-pause",
            "100ms",
            "--max-parallelism",
            "1",
            "--stride",
            "1",
            "--json",
        ],
    ));
    exits(&ended, 0);
    assert!(ended.err.contains("rows       about 7"), "{}", ended.err);
    let looks: Vec<Value> = ended
        .out
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let (last, before) = looks.split_last().unwrap();
    assert_eq!(last["percent"], 100.0, "{last}");
    assert_eq!(last["progress"]["items_expected"], 3_000, "{last}");
    assert_eq!(last["progress"]["items_expected_is"], "exact", "{last}");
    let mut passed = false;
    for look in before {
        let progress = &look["progress"];
        let done = progress["items"]["processed"].as_u64().unwrap();
        match progress["items_expected"].as_u64() {
            Some(total) => {
                assert!(total >= done && !passed, "{look}");
                assert!(look["percent"].as_f64().unwrap() < 100.0, "{look}");
            }
            None => {
                assert_eq!(look["percent"], Value::Null, "{look}");
                passed |= done > 1_000;
            }
        }
    }
    assert!(passed, "{before:#?}");
}
