//! The health endpoint for orchestrators.

use crate::worker::{Worker, get, products};

#[test]
fn a_worker_answers_beside_its_metrics() {
    let folder = tempfile::tempdir().unwrap();
    let database = products(folder.path(), 10);
    let worker = Worker::start("monitoring-health", &database, &[]);
    assert_eq!(get(&worker.metrics, "/healthz"), (200, "ok\n".to_owned()));
    let (status, told) = get(&worker.metrics, "/readyz");
    assert_eq!(status == 200, told == "ok\n", "{status} {told}");
    assert_eq!(told.lines().count(), 1, "{told}");
    assert_eq!(get(&worker.metrics, "/other").0, 404);
}
