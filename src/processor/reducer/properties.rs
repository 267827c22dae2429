//! Property tests of the fold: random values, cut, grouped, repeated and handed over in every way.

use std::collections::BTreeMap;

use proptest::prelude::*;
use serde_json::json;

use super::*;

/// An output of an item in the tests.
#[derive(Clone, Debug)]
struct Sale {
    country: &'static str,
    cents: i64,
    id: u64,
}

impl Sale {
    fn value(&self) -> Value {
        json!({"country": self.country, "cents": self.cents, "id": self.id})
    }
}

fn sales() -> impl Strategy<Value = Vec<Sale>> {
    let country = prop::sample::select(vec!["CH", "DE", "FR", "IT"]);
    // Few different amounts, so that ties occur, and some that only an exact sum can add.
    let cents = prop_oneof![-5i64..5, Just(i64::MAX), Just(i64::MIN), any::<i64>()];
    let sale =
        (country, cents, 0u64..20).prop_map(|(country, cents, id)| Sale { country, cents, id });
    prop::collection::vec(sale, 0..80)
}

struct Distinct;

impl Reduce for Distinct {
    type Value = std::collections::BTreeSet<u64>;

    fn combine(mut a: Self::Value, b: Self::Value) -> Self::Value {
        a.extend(b);
        a
    }
}

fn reducers() -> impl Strategy<Value = Reducer> {
    let all = vec![
        Reducer::count(),
        Reducer::sum("cents"),
        Reducer::min("cents"),
        Reducer::max("country"),
        Reducer::top(3, "cents"),
        Reducer::bottom(5, "country"),
        Reducer::histogram("cents", [-1.5, 0.0, 3.0, 1e18]),
        Reducer::by_key(
            "country",
            Reducer::record([
                ("cents", Reducer::sum("cents")),
                ("most", Reducer::max("cents")),
            ]),
        ),
        Reducer::record([
            ("n", Reducer::count()),
            ("by", Reducer::by_key("country", Reducer::top(2, "id"))),
        ]),
    ];
    prop::sample::select(all)
}

fn fold_of(reducer: &Reducer, values: &[Value]) -> Fold {
    let mut output = Output::default();
    reducer.add(&mut output, reducer.page(values).unwrap());
    let mut fold = Fold::new(reducer.plan().clone());
    fold.merge(output);
    fold
}

fn stored_and_read(fold: &Fold) -> Fold {
    serde_json::from_str(&serde_json::to_string(fold).unwrap()).unwrap()
}

/// Folds values as a batch does: pages in strides, some of which are reported in two parts, in arbitrary order,
/// with an occasional continue-as-new. Failed attempts also fold, and their result is lost.
fn as_a_batch(reducer: &Reducer, values: &[Value], cuts: &[(usize, u8)]) -> Fold {
    let mut fold = Fold::new(reducer.plan().clone());
    let mut reports = Vec::new();
    let mut rest = values;
    for (cut, detail) in cuts {
        let (stride, after) = rest.split_at((*cut).min(rest.len()));
        rest = after;
        let mut output = Output::default();
        for page in stride.chunks(usize::from(detail % 3) + 1) {
            let put_out = reducer.page(page).unwrap();
            if detail.is_multiple_of(4) {
                // An attempt that is lost after its work, together with its checkpoint.
                reducer.add(&mut output.clone(), put_out.clone());
            }
            reducer.add(&mut output, put_out);
            if detail.is_multiple_of(5) {
                reports.push((*detail, std::mem::take(&mut output)));
            }
        }
        reports.push((*detail, output));
    }
    reports.push((0, {
        let mut output = Output::default();
        reducer.add(&mut output, reducer.page(rest).unwrap());
        output
    }));
    reports.sort_by_key(|(detail, _)| detail.wrapping_mul(37));
    for (detail, output) in reports {
        let output = serde_json::from_str(&serde_json::to_string(&output).unwrap()).unwrap();
        fold.merge(output);
        if detail.is_multiple_of(3) {
            fold = stored_and_read(&fold);
        }
        combine(&mut fold, reducer, false);
    }
    combine(&mut fold, reducer, true);
    fold
}

fn combine(fold: &mut Fold, reducer: &Reducer, all: bool) {
    while let Some(parts) = fold.to_combine(all) {
        let parts = parts.to_vec();
        fold.combined(parts.len(), reducer.all(parts).unwrap());
    }
}

fn cuts() -> impl Strategy<Value = Vec<(usize, u8)>> {
    prop::collection::vec((0usize..9, any::<u8>()), 0..30)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn any_way_to_cut_a_batch_folds_to_the_same_result(
        sales in sales(), reducer in reducers(), cuts in cuts()
    ) {
        let values: Vec<_> = sales.iter().map(Sale::value).collect();
        let once = fold_of(&reducer, &values);
        let batch = as_a_batch(&reducer, &values, &cuts);
        prop_assert_eq!(batch.error(), None);
        prop_assert_eq!(batch.so_far(), once.so_far());
    }

    #[test]
    fn a_custom_reducer_folds_to_the_same_result(sales in sales(), cuts in cuts()) {
        let reducer = Reducer::custom::<Distinct>();
        let values: Vec<_> = sales.iter().map(|sale| json!([sale.id])).collect();
        let batch = as_a_batch(&reducer, &values, &cuts);
        let ids: std::collections::BTreeSet<_> = sales.iter().map(|sale| sale.id).collect();
        let wanted = (!ids.is_empty()).then(|| json!(ids));
        prop_assert_eq!(batch.so_far(), wanted.as_ref());
    }

    #[test]
    fn partitions_fold_to_the_same_result(sales in sales(), reducer in reducers(), at in 0usize..80) {
        let values: Vec<_> = sales.iter().map(Sale::value).collect();
        let (one, other) = values.split_at(at.min(values.len()));
        let (one, other) = (fold_of(&reducer, one), fold_of(&reducer, other));
        let mut parent = Fold::new(reducer.plan().clone());
        parent.merge(Output::of_part(other.so_far(), other.error()));
        parent.merge(Output::of_part(one.so_far(), one.error()));
        let once = fold_of(&reducer, &values);
        prop_assert_eq!(parent.so_far(), once.so_far());
    }

    #[test]
    fn the_results_are_those_of_plain_code(sales in sales()) {
        let values: Vec<_> = sales.iter().map(Sale::value).collect();
        let result = |reducer: Reducer| fold_of(&reducer, &values).so_far().cloned().unwrap_or_default();
        prop_assert_eq!(result(Reducer::count()), json!(sales.len()));
        let sum: i128 = sales.iter().map(|sale| i128::from(sale.cents)).sum();
        let found = result(Reducer::sum("cents"));
        let found = found.as_str().map_or_else(|| found.to_string(), str::to_owned);
        prop_assert_eq!(found, sum.to_string());
        let least = sales.iter().map(|sale| sale.cents).min();
        prop_assert_eq!(result(Reducer::min("cents")), json!(least));

        let mut sorted = values.clone();
        sorted.sort_by_key(|sale| {
            let cents = sale["cents"].as_i64().unwrap();
            (std::cmp::Reverse(cents), sale.to_string())
        });
        sorted.truncate(7);
        prop_assert_eq!(result(Reducer::top(7, "cents")), json!(sorted));

        let mut counts = BTreeMap::new();
        let mut buckets = [0u64; 3];
        for sale in &sales {
            *counts.entry(sale.country).or_insert(0u64) += 1;
            buckets[usize::from(sale.cents >= 0) + usize::from(sale.cents >= 3)] += 1;
        }
        prop_assert_eq!(result(Reducer::by_key("country", Reducer::count())), json!(counts));
        prop_assert_eq!(result(Reducer::histogram("cents", [0.0, 3.0])), json!(buckets));
    }

    #[test]
    fn the_order_of_numbers_is_exact_and_total(a in numbers(), b in numbers(), c in numbers()) {
        let order = |a, b| compare::compare(a, b).unwrap();
        prop_assert_eq!(order(&a, &b), order(&b, &a).reverse());
        if order(&a, &b).is_le() && order(&b, &c).is_le() {
            prop_assert!(order(&a, &c).is_le(), "{} <= {} <= {}", a, b, c);
        }
    }

}

proptest! {
    #![proptest_config(ProptestConfig { cases: 20, ..ProptestConfig::default() })]

    /// Random outputs: the stored result is bounded, or there is no result.
    #[test]
    fn what_is_kept_is_bounded(keys in prop::collection::vec("[a-z]{1,40}", 0..400)) {
        let reducer = Reducer::by_key("key", Reducer::count());
        let mut fold = Fold::new(reducer.plan().clone());
        for key in &keys {
            let mut output = Output::default();
            reducer.add(&mut output, reducer.page(&[json!({"key": key})]).unwrap());
            fold.merge(output);
            let bytes = serde_json::to_string(&fold).unwrap().len();
            prop_assert!(bytes <= MAX_OUTPUT_BYTES + 200, "{}", bytes);
        }
        let distinct: std::collections::BTreeSet<_> = keys.iter().collect();
        let bytes = json!(distinct.iter().map(|key| (key, 1)).collect::<BTreeMap<_, _>>());
        match fold.error() {
            Some(error) => {
                prop_assert!(error.contains("OutputTooLarge") && error.contains("6144"), "{}", error);
                prop_assert_eq!(fold.so_far(), None);
            }
            None => prop_assert!(bytes.to_string().len() < MAX_OUTPUT_BYTES + keys.len() * 3),
        }
    }
}

fn numbers() -> impl Strategy<Value = Value> {
    let near = (1u64 << 53) - 2..(1u64 << 53) + 3;
    prop_oneof![
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        near.clone().prop_map(Value::from),
        near.prop_map(|n| Value::from(n as f64)),
        (-3i32..3).prop_map(|n| Value::from(f64::from(n) / 2.0)),
        (-3i32..3).prop_map(Value::from),
        any::<f64>()
            .prop_filter("JSON has no others", |f| f.is_finite())
            .prop_map(Value::from),
    ]
}

#[test]
fn what_does_not_fit_fails_the_page_and_says_so() {
    let message = |reducer: Reducer, value: Value| {
        let error = reducer.page(&[value]).unwrap_err().of_page();
        assert!(!error.is_retryable());
        assert_eq!(error.error_type(), "OutputMismatch");
        error.message().to_owned()
    };
    let sum = || Reducer::sum("cents");
    assert_eq!(
        message(sum(), json!({"cent": 1})),
        "a value has no field \"cents\""
    );
    let text = message(sum(), json!({"cents": "a secret"}));
    assert_eq!(
        text,
        "field \"cents\" of a value has to be an integer, not a text"
    );
    let fraction = message(sum(), json!({"cents": 0.5}));
    assert!(
        fraction.ends_with("not a number with a fraction"),
        "{fraction}"
    );
    let mixed = Reducer::max("").page(&[json!(1), json!("x")]).unwrap_err();
    assert_eq!(mixed.error_type(), "OutputMismatch");
    let large = Reducer::max("")
        .page(&[json!("x".repeat(9_000))])
        .unwrap_err();
    assert_eq!(large, ReduceError::TooLarge { bytes: 9_002 });
    let null = Reducer::sum("cents").page(&[json!({"cents": null}), json!({"cents": 2})]);
    assert_eq!(null.unwrap(), json!(2));
}

#[test]
fn a_sum_beyond_its_range_is_no_result_rather_than_a_wrong_one() {
    let reducer = Reducer::sum("");
    let most = json!(i128::MAX.to_string());
    assert_eq!(reducer.page(std::slice::from_ref(&most)).unwrap(), most);
    let over = reducer.page(&[most.clone(), json!(1)]).unwrap_err();
    assert_eq!(over, ReduceError::Overflow);
    let mut fold = fold_of(&reducer, &[most]);
    fold.merge(Output::of_part(Some(&json!(1)), None));
    assert_eq!(fold.so_far(), None);
    assert!(fold.error().unwrap().contains("OutputOverflow"));
    fold.merge(Output::default());
    assert!(stored_and_read(&fold).error().is_some(), "it stays so");
    let floats = Reducer::sum_of_floats("").page(&[json!(1e308), json!(1e308)]);
    assert_eq!(floats.unwrap_err(), ReduceError::Overflow);
}

struct Panics;

impl Reduce for Panics {
    type Value = u64;

    fn combine(_: u64, _: u64) -> u64 {
        panic!("made to panic")
    }
}

#[test]
fn a_custom_reducer_that_panics_is_an_error() {
    let reducer = Reducer::custom::<Panics>();
    let error = reducer.page(&[json!(1), json!(2)]).unwrap_err();
    assert!(matches!(&error, ReduceError::Panic { message } if message.contains("made to panic")));
    let changed = Reducer::stored(&Plan::Custom, Some(Reducer::count())).unwrap_err();
    assert_eq!(
        (changed.error_type(), changed.is_retryable()),
        ("ReducerChanged", true)
    );
}

#[test]
fn reducers_that_cannot_work_are_refused_with_what_is_allowed() {
    let deep = (0..4).fold(Reducer::count(), |inside, _| Reducer::by_key("k", inside));
    let long = Reducer::record([("n".repeat(5_000), Reducer::count())]);
    let many = (0..21).map(|n| (n.to_string(), Reducer::count()));
    for (reducer, says) in [
        (Reducer::top(0, "x"), "1 to 100"),
        (Reducer::bottom(101, "x"), "1 to 100"),
        (Reducer::histogram("x", []), "1 to 100"),
        (
            Reducer::histogram("x", [1.0, 1.0]),
            "greater than the one before",
        ),
        (Reducer::histogram("x", [f64::INFINITY]), "1 to 100"),
        (
            Reducer::record([("a", Reducer::count()), ("a", Reducer::count())]),
            "a name of its own",
        ),
        (Reducer::record(many), "1 to 20"),
        (
            Reducer::by_key("k", Reducer::custom::<Panics>()),
            "must stand alone",
        ),
        (deep, "at most 4 levels"),
        (long, "at most 1024 are allowed"),
    ] {
        let error = reducer.validate().unwrap_err().to_string();
        assert!(error.contains(says), "{error}");
    }
}
