//! The server as a child of a small shell script that ends it when its owner ends.
//!
//! ```text
//!   owner ──stdin (a pipe that only the owner holds)──▶ sh ──▶ temporal
//!         ◀─stdout: the server's process id, one line──
//!         ◀─stderr: all output of the server───────────────────
//! ```
//!
//! The pipe closes when its owner ends: the operating system closes it even for a killed process.

use std::{
    ffi::OsString,
    fs::File,
    io::{self, BufRead, BufReader, Read, Write},
    path::Path,
    process::{Child, ChildStdin, Command, ExitStatus, Stdio},
    sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc},
    thread,
    time::Duration,
};

use tokio::sync::watch;

use super::output::Output;

/// Runs its arguments as the server. A subshell waits for the end of standard input and then ends the
/// server, after 5 s by force; the script itself waits for the server and ends with its exit status.
///
/// The database that the server makes is for its user alone, because it contains every argument and every page token.
///
/// File descriptor 3 keeps the pipe readable in the subshell, as `&` replaces standard input.
const SCRIPT: &str = r#"
umask 077
exec 3<&0
"$@" 3<&- </dev/null >&2 &
server=$!
echo "$server"
exec >/dev/null
(
    exec 2>/dev/null
    while read -r line; do :; done <&3
    kill -TERM "$server"
    tenths=0
    while kill -0 "$server"; do
        [ "$tenths" -lt 50 ] || kill -KILL "$server"
        tenths=$((tenths + 1))
        sleep 0.1
    done
) &
watchdog=$!
exec 3<&-
wait "$server"
status=$?
kill "$watchdog" 2>/dev/null
exit "$status"
"#;

/// The longest wait for the last output after the server's end: a process that the server left behind may keep the pipe
/// open.
const LAST_OUTPUT: Duration = Duration::from_millis(500);

/// A running server. When the value is dropped, the server ends soon after; the drop does not wait for that.
///
/// Two plain threads follow the process, so it belongs to no async runtime and may be shared by tests that
/// have one runtime each.
#[derive(Debug)]
pub(super) struct Watchdog {
    /// The pipe that keeps the server alive.
    owner: Option<ChildStdin>,
    pid: u32,
    exit: watch::Receiver<Option<i32>>,
    output: Arc<Mutex<Output>>,
}

impl Watchdog {
    /// Starts the server. The call blocks for the few milliseconds that a shell needs to start.
    pub(super) fn launch(
        executable: &Path,
        args: &[OsString],
        output: Output,
        log: Option<File>,
    ) -> io::Result<Self> {
        let mut command = Command::new("sh");
        command
            .arg("-c")
            .arg(SCRIPT)
            .arg("temporal-batch-dev-server")
            .arg(executable)
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        // Ctrl-C goes to the process group of the terminal: the owner decides when the server stops.
        #[cfg(unix)]
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        let mut child = command.spawn()?;

        // From here on every early return closes standard input and so ends the server.
        let owner = child.stdin.take();
        let stdout = child.stdout.take().expect("standard output is piped");
        let stderr = child.stderr.take().expect("standard error is piped");
        let output = Arc::new(Mutex::new(output));

        let (output_ended, ended) = mpsc::channel();
        let shared = Arc::clone(&output);
        thread::Builder::new()
            .name("dev-server-output".to_owned())
            .spawn(move || {
                follow(stderr, &shared, log);
                let _ = output_ended.send(());
            })?;

        let mut first_line = String::new();
        BufReader::new(stdout).read_line(&mut first_line)?;
        let pid = first_line.trim().parse().map_err(|_| {
            io::Error::new(
                io::ErrorKind::InvalidData,
                format!(
                    "`sh` answered `{}` instead of a process id",
                    first_line.trim()
                ),
            )
        })?;

        let (exited, exit) = watch::channel(None);
        thread::Builder::new()
            .name("dev-server-exit".to_owned())
            .spawn(move || {
                let status = exit_status(&mut child);
                let _ = ended.recv_timeout(LAST_OUTPUT);
                exited.send_replace(Some(status));
            })?;

        Ok(Self {
            owner,
            pid,
            exit,
            output,
        })
    }

    pub(super) fn pid(&self) -> u32 {
        self.pid
    }

    pub(super) fn output(&self) -> MutexGuard<'_, Output> {
        self.output.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks the server to end; [`Watchdog::exit`] resolves when it has.
    pub(super) fn let_go(&mut self) {
        self.owner = None;
    }

    /// Returns the exit status, once the server has ended.
    pub(super) fn exit_status(&self) -> Option<i32> {
        *self.exit.borrow()
    }

    /// Resolves with the exit status when the server has ended. Cancel safe.
    pub(super) async fn exit(&mut self) -> i32 {
        match self.exit.wait_for(Option::is_some).await {
            Ok(status) => status.unwrap_or(UNKNOWN_STATUS),
            // Unreachable as long as the thread sends before it ends.
            Err(_) => UNKNOWN_STATUS,
        }
    }
}

/// The exit status if the operating system does not report one.
const UNKNOWN_STATUS: i32 = -1;

fn exit_status(child: &mut Child) -> i32 {
    child.wait().map_or(UNKNOWN_STATUS, shell_status)
}

fn shell_status(status: ExitStatus) -> i32 {
    #[cfg(unix)]
    if let Some(signal) = std::os::unix::process::ExitStatusExt::signal(&status) {
        return 128 + signal;
    }
    status.code().unwrap_or(UNKNOWN_STATUS)
}

/// Reads the output to its end, so that the server never blocks on a full pipe.
fn follow(from: impl Read, output: &Mutex<Output>, mut log: Option<File>) {
    let mut reader = BufReader::new(from);
    let mut line = Vec::new();
    loop {
        line.clear();
        match reader.read_until(b'\n', &mut line) {
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
        if let Some(file) = &mut log
            && let Err(error) = file.write_all(&line)
        {
            tracing::warn!(%error, "the dev server's log file cannot be written any more");
            log = None;
        }
        output
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .record(&String::from_utf8_lossy(&line));
    }
}
