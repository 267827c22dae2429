//! A worker in a process of its own, which is the test binary itself.

use std::{
    process::{Child, Command, Stdio},
    time::Duration,
};

use sqlx::postgres::PgPoolOptions;
use temporal_batch::Worker;

use crate::{
    increment::{Hold, Increment, PartitionedIncrement},
    recorded_pages::RecordedPages,
    slow_rows::SlowRows,
    support::connect,
    unfenced::{AtLeastOnce, AtMostOnce},
};

/// The server, task queue and database of a worker.
#[derive(Clone, Debug)]
pub struct Place {
    pub address: String,
    pub queue: String,
    pub database: String,
    pub hold: Option<Hold>,
    /// The number of pages that each worker runs at once; `None` for the default.
    pub slots: Option<u32>,
}

const VARIABLES: [&str; 3] = ["FAULTS_ADDRESS", "FAULTS_QUEUE", "FAULTS_DATABASE"];

/// Returns whether this process was started as a worker. If so, it has worked until it was told to stop.
pub async fn was_one() -> bool {
    let [Ok(address), Ok(queue), Ok(database)] = VARIABLES.map(std::env::var) else {
        return false;
    };
    if database.starts_with("mysql:") {
        crate::on_mariadb::work(&address, &queue, &database).await;
        return true;
    }
    let hold = std::env::var_os("FAULTS_HOLD").map(|folder| Hold {
        folder: folder.into(),
        row: std::env::var("FAULTS_HOLD_ROW").unwrap().parse().unwrap(),
    });
    let pool = PgPoolOptions::new()
        .max_connections(20)
        .acquire_timeout(Duration::from_secs(10))
        .connect_lazy(&database)
        .unwrap();
    let client = connect(&address).await;
    let mut worker = Worker::new(&client, queue);
    if let Ok(slots) = std::env::var("FAULTS_SLOTS") {
        worker = worker.max_pages(slots.parse().unwrap());
    }
    worker
        .processor(Increment::new(pool.clone(), hold))
        .processor(PartitionedIncrement::new(pool.clone(), None))
        .processor(AtMostOnce::new(pool.clone()))
        .processor(AtLeastOnce::new(pool.clone()))
        .processor(RecordedPages::new(pool.clone()))
        .processor(SlowRows::new(pool))
        .run()
        .await
        .unwrap();
    true
}

/// A worker process that is killed when its value is dropped.
pub struct WorkerProcess {
    child: Child,
    place: Place,
    /// The test that the process runs, which has to begin with [`was_one`].
    test: &'static str,
}

impl WorkerProcess {
    pub fn start(place: &Place, test: &'static str) -> Self {
        Self {
            child: spawn(place, test),
            place: place.clone(),
            test,
        }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Kills the process as `kill -9` or the end of a machine does. Another process takes its place.
    pub fn kill_and_replace(&mut self) {
        let _ = self.child.kill();
        self.child.wait().unwrap();
        self.child = spawn(&self.place, self.test);
    }

    /// Restarts the process as a deploy does: it is told to stop, ends when its pages have, and another process takes
    /// its place.
    pub async fn restart(&mut self) {
        self.drain().await;
        self.child = spawn(&self.place, self.test);
    }

    /// Tells the process to stop, and waits until its pages have ended.
    pub async fn drain(&mut self) {
        signal(self.pid(), "TERM");
        while self.child.try_wait().unwrap().is_none() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Starts a worker again that ended by itself, as a service manager does. Returns whether it had ended.
    pub fn replace_if_ended(&mut self) -> bool {
        let ended = self.child.try_wait().unwrap().is_some();
        if ended {
            self.child = spawn(&self.place, self.test);
        }
        ended
    }
}

/// Sends a signal to a process that may be gone: `STOP` suspends it, `CONT` resumes it.
pub fn signal(pid: u32, name: &str) {
    let _ = Command::new("kill")
        .args(["-s", name, &pid.to_string()])
        .stderr(Stdio::null())
        .status();
}

fn spawn(place: &Place, test: &str) -> Child {
    let values = [&place.address, &place.queue, &place.database];
    let mut command = Command::new(std::env::current_exe().unwrap());
    if let Some(hold) = &place.hold {
        command
            .env("FAULTS_HOLD", &hold.folder)
            .env("FAULTS_HOLD_ROW", hold.row.to_string());
    }
    if let Some(slots) = place.slots {
        command.env("FAULTS_SLOTS", slots.to_string());
    }
    command
        .args(["--exact", test])
        .envs(VARIABLES.into_iter().zip(values))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

impl Drop for WorkerProcess {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
