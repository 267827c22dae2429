//! Worker processes of tests.

use std::{
    ffi::OsStr,
    process::{Child, Command, Stdio},
};

/// The test binary itself, started again with one test alone, which works until the process is killed. Dropping it kills
/// the process as `kill -9` does.
pub struct WorkerProcess(Child);

impl WorkerProcess {
    /// Starts the process. The test finds these variables in its environment, and works if they are there.
    pub fn of_test(test: &str, variables: &[(&str, &OsStr)]) -> Self {
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", test, "--nocapture"])
            .envs(variables.iter().copied())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        Self(child.unwrap())
    }
}

impl Drop for WorkerProcess {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
