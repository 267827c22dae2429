//! Workers in processes of their own: this program again, with its task in its environment.

use std::{io::Read as _, path::PathBuf, process::Stdio, time::Duration};

use serde::{Deserialize, Serialize};
use temporal_batch::{
    Worker,
    sql::{Connections, Database, DatabaseOptions, SqlBackfill},
};
use tokio::process::{Child, Command};

use super::{
    Error,
    arm_server::{ArmServer, connect, unique},
    bare,
    pages::Pages,
    tenants::SendMails,
};

const ROLE: &str = "TEMPORAL_BATCH_BENCH_ROLE";
const STOPS_WITHIN: Duration = Duration::from_secs(20);

/// The task of the worker of an arm.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Work {
    /// The workflows of the peers.
    Bare { eager: usize },
    /// The pages of the arms.
    Pages {
        heartbeat_timeout: Option<Duration>,
        settings: Vec<(Setting, u32)>,
    },
    /// Backfills of a SQLite database.
    Sqlite { file: PathBuf },
}

impl Work {
    pub fn pages() -> Self {
        Self::Pages {
            heartbeat_timeout: None,
            settings: Vec::new(),
        }
    }
}

/// A setting of a worker that differs from its default.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub enum Setting {
    WorkflowPollers,
    StridePollers,
    EagerStrides,
    CachedBatches,
}

impl Setting {
    fn apply(self, worker: Worker, value: u32) -> Worker {
        match self {
            Self::WorkflowPollers => worker.workflow_pollers(value),
            Self::StridePollers => worker.stride_pollers(value),
            Self::EagerStrides => worker.eager_strides(value),
            Self::CachedBatches => worker.cached_batches(value),
        }
    }
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Role {
    address: String,
    queue: String,
    work: Work,
}

impl Role {
    /// The task of this process, if it is a worker.
    pub fn of_this_process() -> Result<Option<Self>, Error> {
        match std::env::var(ROLE) {
            Ok(role) => Ok(Some(serde_json::from_str(&role)?)),
            Err(_) => Ok(None),
        }
    }

    /// Works until the process that started this one has closed the pipe, or has ended.
    pub async fn play(self) -> Result<(), Error> {
        let client = connect(&self.address).await?;
        let owner_gone = async {
            let (tell, told) = tokio::sync::oneshot::channel();
            std::thread::spawn(move || {
                let _ = std::io::stdin().read_to_end(&mut Vec::new());
                let _ = tell.send(());
            });
            let _ = told.await;
        };
        let worker = Worker::new(&client, &self.queue).drain_timeout(Duration::from_secs(5));
        let worker = match self.work {
            Work::Bare { eager } => {
                return bare::serve(client.temporal().clone(), &self.queue, eager, owner_gone)
                    .await;
            }
            Work::Pages {
                heartbeat_timeout,
                settings,
            } => {
                let worker = worker
                    .processor(Pages { heartbeat_timeout })
                    .processor(SendMails);
                let settings = settings.into_iter();
                settings.fold(worker, |worker, (setting, value)| {
                    setting.apply(worker, value)
                })
            }
            Work::Sqlite { file } => {
                let options = DatabaseOptions::from_url(&format!("sqlite:{}", file.display()))?;
                let database = Database::connect(&options).await?;
                worker.processor(SqlBackfill::new(
                    Connections::new().with("default", database),
                ))
            }
        };
        Ok(worker.run_until(owner_gone).await?)
    }
}

/// A worker process that ends when its value is dropped.
pub struct WorkerProcess {
    child: Child,
    role: Role,
}

impl WorkerProcess {
    pub fn start(server: &ArmServer, work: Work) -> Result<Self, Error> {
        Self::spawn(Role {
            address: server.address(),
            queue: unique("queue"),
            work,
        })
    }

    fn spawn(role: Role) -> Result<Self, Error> {
        let child = Command::new(std::env::current_exe()?)
            .env(ROLE, serde_json::to_string(&role)?)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .kill_on_drop(true)
            .spawn()?;
        Ok(Self { child, role })
    }

    pub fn queue(&self) -> &str {
        &self.role.queue
    }

    /// The process id. 0 once the process has ended.
    pub fn pid(&self) -> u32 {
        self.child.id().unwrap_or(0)
    }

    /// Kills the process with `kill -9`, and starts the same worker at once.
    pub async fn kill_and_restart(&mut self) -> Result<(), Error> {
        self.child.start_kill()?;
        let next = Self::spawn(self.role.clone())?;
        self.child.wait().await?;
        *self = next;
        Ok(())
    }

    pub async fn stop(mut self) -> Result<(), Error> {
        drop(self.child.stdin.take());
        match tokio::time::timeout(STOPS_WITHIN, self.child.wait()).await {
            Ok(status) if status.as_ref().is_ok_and(|status| status.success()) => Ok(()),
            Ok(status) => Err(format!("a worker ended with {status:?}").into()),
            Err(_) => {
                self.child.kill().await?;
                Err(format!("a worker had to be killed after {STOPS_WITHIN:?}").into())
            }
        }
    }
}
