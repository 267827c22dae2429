//! A check finds exactly the rows that are wrong.

use temporal_batch::{
    PageToken,
    progress::Check,
    sql::{Key, KeyPart, RangeCheck, Table, TableSpec},
};

use crate::{database::Home, support::databases::on_each};

on_each! {
    a_correct_table_passes,
    exactly_the_ranges_with_wrong_rows_are_named,
    a_condition_that_is_null_fails,
    the_filter_does_not_limit_a_condition,
    a_counting_query_runs_for_each_range,
    a_placeholder_takes_the_range,
    a_query_without_a_placeholder_runs_once,
    two_key_columns_are_read_in_their_order,
    only_the_requested_part_of_the_table_is_read,
    descriptions_of_failed_ranges_are_bounded,
}

async fn checked(home: &Home, spec: TableSpec, verify: &str) -> Check {
    ranges(home, spec, verify)
        .await
        .run(None, None)
        .await
        .unwrap()
}

async fn ranges(home: &Home, spec: TableSpec, verify: &str) -> RangeCheck {
    let table = Table::inspect(&home.database, &spec).await.unwrap();
    let check = RangeCheck::new(&table, verify).await.unwrap();
    check.rows_per_range(1_000).narrow_to(10).rest(0.0)
}

fn users() -> TableSpec {
    TableSpec::new("users", ["id"])
}

fn parts(token: &Option<PageToken>) -> Vec<KeyPart> {
    let key: Option<Key> = token.as_ref().map(|token| token.decode().unwrap());
    key.map_or_else(Vec::new, |key| key.parts().to_vec())
}

/// The ranges that fail, for a key of one integer; 0 for the beginning, -1 for the end.
fn failed(check: &Check) -> Vec<(i64, i64, u64)> {
    let number = |token: &Option<PageToken>, missing| match parts(token).as_slice() {
        [] => missing,
        [KeyPart::Int(number)] => *number,
        other => panic!("{other:?}"),
    };
    let failed = check.failed.iter();
    failed
        .map(|range| (number(&range.start, 0), number(&range.end, -1), range.items))
        .collect()
}

async fn a_correct_table_passes(home: Home) {
    home.users(2_500).await;
    let check = checked(&home, users(), "name IS NOT NULL").await;
    assert!(check.holds());
    assert_eq!((check.ranges, check.items), (3, Some(2_500)));
    assert_eq!(check.notes, [""; 0]);
}

async fn exactly_the_ranges_with_wrong_rows_are_named(home: Home) {
    home.users(5_000).await;
    home.run(&["UPDATE users SET name = 'wrong' WHERE id IN (7, 1234, 5000)"])
        .await;
    let check = checked(&home, users(), "name <> 'wrong'").await;
    assert!(!check.holds());
    assert_eq!(
        (check.failed_ranges, check.failed_items, check.items),
        (3, 3, Some(5_000))
    );
    let failed = failed(&check);
    assert_eq!(failed.len(), 3);
    for ((start, end, items), (low, high, wrong)) in
        failed
            .into_iter()
            .zip([(7, 7, 1), (1_234, 1_234, 1), (5_000, 5_000, 1)])
    {
        let end = if end == -1 { 5_000 } else { end };
        assert!(
            start < low && high <= end && items == wrong,
            "{start} {end} {items}"
        );
        assert!(end - start <= 10, "{start} {end}");
    }
    let message = &check.failed[0].message;
    assert!(
        message.contains("1 of ") && message.ends_with("do not fulfil name <> 'wrong'"),
        "{message}"
    );
}

async fn a_condition_that_is_null_fails(home: Home) {
    home.users(100).await;
    home.run(&["UPDATE users SET name = NULL WHERE id = 50"])
        .await;
    let check = checked(&home, users(), "name LIKE 'User%' -- every one").await;
    assert_eq!(check.failed_items, 1);
}

async fn the_filter_does_not_limit_a_condition(home: Home) {
    home.users(100).await;
    // No row matches the filter any more, which must not look like a passed check.
    let spec = users().filter("name IS NULL");
    let check = checked(&home, spec, "name = 'done'").await;
    assert_eq!(check.failed_items, 100);
}

async fn a_counting_query_runs_for_each_range(home: Home) {
    home.users(3_000).await;
    home.run(&["UPDATE users SET name = 'wrong' WHERE id = 2500"])
        .await;
    for query in [
        "SELECT count(*) FROM users WHERE name = 'wrong' OR name IS NULL",
        "SELECT id, name FROM users u WHERE name = 'wrong' -- and the like",
    ] {
        let check = checked(&home, users(), query).await;
        assert_eq!((check.failed_ranges, check.failed_items), (1, 1), "{query}");
        let (start, end, _) = failed(&check)[0];
        assert!(
            start < 2_500 && 2_500 <= end && end - start <= 10,
            "{start} {end}"
        );
        assert_eq!(check.notes, [""; 0]);
    }
}

async fn a_placeholder_takes_the_range(home: Home) {
    home.users(3_000).await;
    home.run(&[
        "CREATE TABLE hashes (user_id BIGINT PRIMARY KEY, hash VARCHAR(80))",
        "INSERT INTO hashes SELECT id, 'h' FROM users WHERE id <> 1700",
    ])
    .await;
    let query = "SELECT count(*) FROM (SELECT id FROM users WHERE {range}) u \
                 LEFT JOIN (SELECT user_id AS id FROM hashes) h ON h.id = u.id WHERE h.id IS NULL";
    let check = checked(&home, users(), query).await;
    assert_eq!(check.failed_items, 1);
    let (start, end, _) = failed(&check)[0];
    assert!(
        start < 1_700 && 1_700 <= end && end - start <= 10,
        "{start} {end}"
    );
    // The placeholder occurs twice in the query.
    let query = "SELECT id FROM users WHERE {range} AND name = 'User 9' AND id IN (SELECT id FROM users WHERE {range})";
    assert_eq!(checked(&home, users(), query).await.failed_items, 1);
}

async fn a_query_without_a_placeholder_runs_once(home: Home) {
    home.users(300).await;
    let check = ranges(
        &home,
        users(),
        "SELECT count(*) FROM users WHERE id > 290 GROUP BY country",
    )
    .await;
    assert!(!check.is_ranged());
    let check = check.run(None, None).await.unwrap();
    assert_eq!((check.ranges, check.failed_items), (1, 10));
    assert!(check.notes[0].contains("ran once"), "{:?}", check.notes);
}

async fn two_key_columns_are_read_in_their_order(home: Home) {
    home.run(&["CREATE TABLE prices (country VARCHAR(2), item BIGINT, cents BIGINT, PRIMARY KEY (country, item))"])
        .await;
    for country in ["at", "de", "fr"] {
        let values: Vec<_> = (1..=900)
            .map(|item| format!("('{country}', {item}, 1)"))
            .collect();
        let insert = format!("INSERT INTO prices VALUES {}", values.join(", "));
        home.run(&[&insert]).await;
    }
    home.run(&["UPDATE prices SET cents = 0 WHERE country = 'de' AND item = 450"])
        .await;
    let spec = TableSpec::new("prices", ["country", "item"]).filter("cents > 0");
    let check = checked(&home, spec, "cents > 0").await;
    assert_eq!((check.failed_items, check.items), (1, Some(2_700)));
    let range = &check.failed[0];
    let (start, end) = (parts(&range.start), parts(&range.end));
    let de = KeyPart::from("de");
    assert_eq!((&start[0], &end[0]), (&de, &de));
    let (KeyPart::Int(start), KeyPart::Int(end)) = (&start[1], &end[1]) else {
        panic!("{range:?}");
    };
    assert!(
        *start < 450 && 450 <= *end && end - start <= 10,
        "{range:?}"
    );
}

async fn only_the_requested_part_of_the_table_is_read(home: Home) {
    home.users(1_000).await;
    home.run(&["UPDATE users SET name = 'wrong' WHERE id IN (100, 101, 900)"])
        .await;
    let check = ranges(&home, users(), "name <> 'wrong'").await;
    let (start, end) = (Key::new([100_i64]), Key::new([899_i64]));
    let found = check.run(Some(&start), Some(&end)).await.unwrap();
    assert_eq!((found.failed_items, found.items), (1, Some(799)));
}

async fn descriptions_of_failed_ranges_are_bounded(home: Home) {
    home.users(10_000).await;
    // SQLite and PostgreSQL have the same `%`; it selects every hundredth row.
    home.run(&["UPDATE users SET name = 'wrong' WHERE id % 100 = 0"])
        .await;
    let check = checked(&home, users(), "name <> 'wrong'").await;
    assert_eq!(check.failed_items, 100);
    assert_eq!(check.failed.len(), 20);
    // The remaining rows were counted in whole ranges.
    assert!(
        check.failed_ranges >= 20 + 8 && check.failed_ranges < 40,
        "{}",
        check.failed_ranges
    );
    let all_small = failed(&check)
        .iter()
        .all(|(start, end, _)| end - start <= 10);
    assert!(all_small, "{:?}", failed(&check));
    // All rows are wrong, so no range can be narrowed.
    let check = checked(&home, users(), "name = 'never'").await;
    assert_eq!((check.failed_ranges, check.failed_items), (10, 10_000));
}
