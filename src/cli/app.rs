//! The program: its processors, its commands, and how it ends.

use std::{ffi::OsString, future::Future, process::ExitCode};

use clap::{ArgMatches, Args as _, Command, FromArgMatches, Parser, Subcommand};

#[cfg(all(
    feature = "files",
    feature = "http",
    any(feature = "sqlite", feature = "postgres", feature = "mysql")
))]
use crate::cli::commands::call::CallCommand;
#[cfg(all(
    feature = "files",
    any(feature = "sqlite", feature = "postgres", feature = "mysql")
))]
use crate::cli::commands::{export::ExportCommand, import::ImportCommand};
#[cfg(any(feature = "sqlite", feature = "postgres", feature = "mysql"))]
use crate::cli::{
    args::databases::{database::DatabaseArgs, sql_connections::SqlConnections},
    commands::{backfill::BackfillCommand, schema::SchemaArgs},
};
use crate::{
    cli::{
        args::temporal_server::ConnectionArgs,
        commands::{
            approve::ApproveArgs,
            cancel::CancelArgs,
            demo::{Demo, DemoArgs},
            dev_server::DevServerArgs,
            ensure_complete::EnsureCompleteArgs,
            failures::FailuresArgs,
            list::ListArgs,
            pause::PauseArgs,
            recover::RecoverArgs,
            redrive::RedriveArgs,
            resume::ResumeArgs,
            set::SetArgs,
            start::StartArgs,
            status::StatusArgs,
            verify::VerifyArgs,
            watch::WatchArgs,
            worker::WorkerArgs,
        },
        exit::{CliError, CliResult, Exit},
        logging::LogArgs,
        output::note,
        processors::Processors,
        session::CommandContext,
        shell::Program,
    },
    engine::worker::WorkerError,
    processor::{
        PageProcessor,
        hooks::{CompletionHook, FailureHandler, Hooks, RegisterHookError, Tracker},
        throttle::{RegisterThrottleError, Throttle, Throttles},
    },
};

/// A program with every command for its processors: worker, starter and operator in one binary.
///
/// See [the module](super) for an example, the commands and the exit status.
#[must_use = "nothing happens before `main` or `run_from`"]
pub struct App {
    name: String,
    about: String,
    version: Option<String>,
    processors: Processors,
    hooks: Result<Hooks, RegisterHookError>,
    throttles: Result<Throttles, RegisterThrottleError>,
    demo: Option<Box<dyn Demo>>,
}

#[derive(Parser, Debug)]
struct Cli {
    #[command(flatten)]
    connection: ConnectionArgs,
    #[command(flatten)]
    logging: LogArgs,
    #[command(subcommand)]
    command: Task,
}

#[derive(Subcommand, Debug)]
enum Task {
    /// Run a local Temporal server
    DevServer(DevServerArgs),
    /// Run a worker until SIGTERM or Ctrl-C, then drain
    Worker(WorkerArgs),
    /// Change the rows of a table, page by page, without writing Rust
    #[cfg(any(feature = "sqlite", feature = "postgres", feature = "mysql"))]
    Backfill(Box<BackfillCommand>),
    /// Write the rows of a table into files, page by page
    #[cfg(all(
        feature = "files",
        any(feature = "sqlite", feature = "postgres", feature = "mysql")
    ))]
    Export(Box<ExportCommand>),
    /// Put the records of a CSV or JSON Lines file into a table
    #[cfg(all(
        feature = "files",
        any(feature = "sqlite", feature = "postgres", feature = "mysql")
    ))]
    Import(Box<ImportCommand>),
    /// Call an API for each record of a file or a table, and write the answers into files
    #[cfg(all(
        feature = "files",
        feature = "http",
        any(feature = "sqlite", feature = "postgres", feature = "mysql")
    ))]
    Call(Box<CallCommand>),
    /// Start a batch of a processor, and follow it to its end
    Start(Box<StartArgs>),
    /// List batches
    List(ListArgs),
    /// Show the progress of a batch
    Status(StatusArgs),
    /// Follow a batch to its end
    Watch(WatchArgs),
    /// List the pages that fail or were given up, and the dead letters
    Failures(FailuresArgs),
    /// Try the dead letters of a batch again, as a batch of its own
    Redrive(Box<RedriveArgs>),
    /// Start no further pages of a batch; running ones are finished
    Pause(PauseArgs),
    /// Continue a paused batch
    Resume(ResumeArgs),
    /// Let a batch continue after a stage that waits for approval
    Approve(ApproveArgs),
    /// Change the limits of a running batch
    Set(SetArgs),
    /// End a batch; its running pages are asked to stop
    Cancel(CancelArgs),
    /// Have the processor of a batch check its finished pages, here and now
    Verify(VerifyArgs),
    /// Succeed only if a batch is completed, with nothing failed, and checked
    EnsureComplete(EnsureCompleteArgs),
    /// Restart the current run of a batch whose workflow task keeps failing
    Recover(RecoverArgs),
    /// Print, create or prune the tables of the page ledger in a database
    #[cfg(any(feature = "sqlite", feature = "postgres", feature = "mysql"))]
    Schema(SchemaArgs),
}

#[cfg(any(feature = "sqlite", feature = "postgres", feature = "mysql"))]
impl Task {
    /// Returns the database of the flag, for batches that do not name a connection.
    fn database(&self) -> DatabaseArgs {
        match self {
            Self::Failures(args) => args.database.clone(),
            Self::Redrive(args) => args.database.clone(),
            Self::Status(args) => args.database.clone(),
            Self::Verify(args) => args.database.clone(),
            Self::EnsureComplete(args) => args.database.clone(),
            Self::Backfill(args) => args.database.clone(),
            #[cfg(feature = "files")]
            Self::Export(args) => args.database.clone(),
            #[cfg(feature = "files")]
            Self::Import(args) => args.database.clone(),
            #[cfg(all(feature = "files", feature = "http"))]
            Self::Call(args) => args.database.clone(),
            _ => DatabaseArgs::default(),
        }
    }
}

/// The log filter of most commands. They report an outage themselves, so the log lines of the client about it are left
/// out.
const QUIET: &str =
    "warn,temporalio_sdk_core=error,temporalio_client=error,temporalio_client::retry=off";
/// The log filter of the demo. Its failures are made on purpose and counted in the summary.
const QUIETER: &str = "error";

/// # Construct
impl App {
    /// Creates a program without processors of its own: it can start, watch and steer batches, but not work on them.
    /// `name` is the name that users type.
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            about: "Paginated batches on Temporal".to_owned(),
            version: None,
            processors: Processors::default(),
            hooks: Ok(Hooks::default()),
            throttles: Ok(Throttles::default()),
            demo: None,
        }
    }

    /// Sets the line that describes the program in its help.
    pub fn about(mut self, about: impl Into<String>) -> Self {
        self.about = about.into();
        self
    }

    /// Sets the text of `--version`. Without it there is no such flag.
    pub fn version(mut self, version: impl Into<String>) -> Self {
        self.version = Some(version.into());
        self
    }

    /// Adds a processor. `factory` builds it, with its database connections and the like. The factory runs when a
    /// worker starts, when `failures` and `redrive` read the dead letters of the processor, and when `verify` has it
    /// check. The other commands need only the types of the processor.
    pub fn processor<F, Fut, P, E>(mut self, factory: F) -> Self
    where
        F: Fn() -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<P, E>> + Send + 'static,
        P: PageProcessor,
        E: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        self.processors.add(factory);
        self
    }

    /// Adds a sample: a processor without which a worker with `--allow-sql` starts, too.
    #[doc(hidden)]
    pub fn sample<F, Fut, P, E>(mut self, factory: F) -> Self
    where
        F: Fn() -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<P, E>> + Send + 'static,
        P: PageProcessor,
        E: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        self.processors.add_sample(factory);
        self
    }

    /// Adds a failure handler to the program's workers; `start --on-failure` names it. An invalid name is reported when
    /// a worker or a batch is started.
    pub fn failure_handler<H: FailureHandler>(self, handler: H) -> Self {
        self.hook(|hooks| hooks.failure_handler(handler))
    }

    /// Adds a tracker to the program's workers; `start --track` names it.
    pub fn tracker<T: Tracker>(self, tracker: T) -> Self {
        self.hook(|hooks| hooks.tracker(tracker))
    }

    /// Adds a completion hook to the program's workers; `start --on-completion` names it.
    pub fn completion_hook<C: CompletionHook>(self, hook: C) -> Self {
        self.hook(|hooks| hooks.completion_hook(hook))
    }

    /// Adds a throttle to the program's workers; `start --throttle` names it.
    pub fn throttle<T: Throttle>(mut self, throttle: T) -> Self {
        self.throttles = self.throttles.and_then(|mut throttles| {
            throttles.add(throttle)?;
            Ok(throttles)
        });
        self
    }

    fn hook(mut self, add: impl FnOnce(&mut Hooks) -> Result<(), RegisterHookError>) -> Self {
        self.hooks = self.hooks.and_then(|mut hooks| {
            add(&mut hooks)?;
            Ok(hooks)
        });
        self
    }

    /// Adds the command `demo`.
    #[doc(hidden)]
    pub fn demo(mut self, demo: impl Demo) -> Self {
        self.demo = Some(Box::new(demo));
        self
    }
}

/// # Run
impl App {
    /// Runs the command that the process was started with.
    #[must_use = "this is the exit status of the process"]
    pub fn main(self) -> ExitCode {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .build();
        match runtime {
            Ok(runtime) => {
                let code = runtime.block_on(self.run_from(std::env::args_os()));
                // The tasks that still run were asked to stop, and must not keep the process alive.
                runtime.shutdown_background();
                code
            }
            Err(error) => {
                note(CliError::caused("cannot start", &error));
                Exit::Error.into()
            }
        }
    }

    /// Runs one command. The first of `args` is the name of the program.
    ///
    /// Needs a multi-threaded tokio runtime.
    pub async fn run_from<I, T>(self, args: I) -> ExitCode
    where
        I: IntoIterator<Item = T>,
        T: Into<OsString> + Clone,
    {
        let matches = match self.command().try_get_matches_from(args) {
            Ok(matches) => matches,
            Err(error) => return refused(&error),
        };
        let exit = match Box::pin(self.run(&matches)).await {
            Ok(exit) => exit,
            Err(error) => {
                note(&error);
                error.exit()
            }
        };
        #[cfg(feature = "files")]
        crate::files::remove_copies();
        exit.into()
    }

    fn command(&self) -> Command {
        let mut command = <Cli as clap::CommandFactory>::command()
            .name(self.name.clone())
            .about(self.about.clone())
            .subcommand_required(true)
            .arg_required_else_help(true);
        if let Some(version) = &self.version {
            command = command.version(version.clone());
        }
        if self.demo.is_some() {
            let demo = Command::new("demo")
                .about("Migrate a made-up database on a server of its own, and check every row")
                .display_order(0);
            command = command.subcommand(without_connection(DemoArgs::augment_args(demo)));
        }
        command.mut_subcommand("dev-server", without_connection)
    }

    async fn run(mut self, matches: &ArgMatches) -> CliResult {
        if let (Some(demo), Some(("demo", given))) = (&self.demo, matches.subcommand()) {
            let args = parsed::<DemoArgs>(given)?;
            parsed::<LogArgs>(given)?.start(QUIETER)?;
            let connection = parsed::<ConnectionArgs>(given)?;
            if let Some(flag) = connection.first_given() {
                return Err(CliError::usage(format_args!(
                    "{flag} describes a server to connect to, but demo has one of its own; leave it out"
                )));
            }
            return args.run(demo.as_ref(), &self.name).await;
        }
        let Cli {
            connection,
            logging,
            command,
        } = parsed(matches)?;
        let connection = connection.of(&self.name);
        logging.start(QUIET)?;
        #[cfg(any(feature = "sqlite", feature = "postgres", feature = "mysql"))]
        let program = connection.program(command.database().printable());
        #[cfg(not(any(feature = "sqlite", feature = "postgres", feature = "mysql")))]
        let program = connection.program(None);
        let program = &program;
        #[cfg(any(feature = "sqlite", feature = "postgres", feature = "mysql"))]
        match &command {
            // A worker adds them itself if --allow-sql is given.
            Task::Worker(_) => {}
            task => {
                let connections = SqlConnections::of_command(task.database());
                connections.add_processors(&mut self.processors);
                #[cfg(all(feature = "files", feature = "http"))]
                connections.add_call(&mut self.processors);
            }
        }
        let processors = std::mem::take(&mut self.processors);
        // Each command has a box: all of them in one future would take half of a thread's stack.
        match command {
            Task::DevServer(args) => Box::pin(args.run(&connection)).await,
            Task::Worker(args) => {
                let (hooks, throttles) = (self.hooks()?, self.throttles()?);
                Box::pin(args.run(&connection, processors, hooks, throttles)).await
            }
            #[cfg(any(feature = "sqlite", feature = "postgres", feature = "mysql"))]
            Task::Backfill(args) => Box::pin(args.run(&self.context(&connection, program)?)).await,
            #[cfg(all(
                feature = "files",
                any(feature = "sqlite", feature = "postgres", feature = "mysql")
            ))]
            Task::Import(args) => Box::pin(args.run(&self.context(&connection, program)?)).await,
            #[cfg(all(
                feature = "files",
                any(feature = "sqlite", feature = "postgres", feature = "mysql")
            ))]
            Task::Export(args) => Box::pin(args.run(&self.context(&connection, program)?)).await,
            #[cfg(all(
                feature = "files",
                feature = "http",
                any(feature = "sqlite", feature = "postgres", feature = "mysql")
            ))]
            Task::Call(args) => Box::pin(args.run(&self.context(&connection, program)?)).await,
            Task::Start(args) => {
                let hooks = self.hooks()?;
                Box::pin(args.run(&connection, &processors, hooks, program)).await
            }
            Task::List(args) => Box::pin(args.run(&connection)).await,
            Task::Status(args) => Box::pin(args.run(&connection, &processors, program)).await,
            Task::Watch(args) => Box::pin(args.run(&connection, program)).await,
            Task::Failures(args) => Box::pin(args.run(&connection, &processors, program)).await,
            Task::Redrive(args) => {
                let context = self.context(&connection, program)?;
                Box::pin(args.run(&context, &processors)).await
            }
            Task::Pause(args) => Box::pin(args.run(&connection, program)).await,
            Task::Resume(args) => Box::pin(args.run(&connection, program)).await,
            Task::Approve(args) => Box::pin(args.run(&connection, program)).await,
            Task::Set(args) => Box::pin(args.run(&connection, program)).await,
            Task::Cancel(args) => Box::pin(args.run(&connection, program)).await,
            Task::Recover(args) => Box::pin(args.run(&connection)).await,
            #[cfg(any(feature = "sqlite", feature = "postgres", feature = "mysql"))]
            Task::Schema(args) => Box::pin(args.run()).await,
            Task::Verify(args) => Box::pin(args.run(&connection, &processors)).await,
            Task::EnsureComplete(args) => Box::pin(args.run(&connection, &processors)).await,
        }
    }
}

impl App {
    fn context<'a>(
        &'a self,
        connection: &'a ConnectionArgs,
        program: &'a Program,
    ) -> CliResult<CommandContext<'a>> {
        Ok(CommandContext {
            connection,
            hooks: self.hooks()?,
            throttles: self.throttles()?,
            program,
        })
    }

    fn throttles(&self) -> CliResult<&Throttles> {
        let throttles = self.throttles.as_ref();
        Ok(throttles.map_err(|error| WorkerError::RegisterThrottle(error.clone()))?)
    }

    fn hooks(&self) -> CliResult<&Hooks> {
        let hooks = self.hooks.as_ref();
        Ok(hooks.map_err(|error| WorkerError::RegisterHook(error.clone()))?)
    }
}

/// Adds the connection flags, hidden, to a command with a server of its own, so that it can explain why it refuses
/// them.
fn without_connection(command: Command) -> Command {
    let own: Vec<_> = command
        .get_arguments()
        .map(|arg| arg.get_id().clone())
        .collect();
    ConnectionArgs::augment_args(command).mut_args(|arg| match own.contains(arg.get_id()) {
        true => arg,
        false => arg.hide(true),
    })
}

fn parsed<A: FromArgMatches>(matches: &ArgMatches) -> CliResult<A> {
    A::from_arg_matches(matches).map_err(|e| CliError::usage(e.render()))
}

/// Prints an answer of clap. Help and version are results, everything else is bad usage.
fn refused(error: &clap::Error) -> ExitCode {
    if error.use_stderr() {
        // The message may repeat arguments, so it is escaped.
        note(error.render().to_string().trim_end());
        return Exit::Usage.into();
    }
    // A closed pipe is no reason to fail.
    let _ = error.print();
    Exit::Done.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        App::new("program").version("1").command().debug_assert();
    }

    #[test]
    fn a_program_has_the_name_that_it_was_given() {
        let mut command = App::new("shop-batches")
            .about("Batches of the shop")
            .command();
        let help = command.render_help().to_string();
        assert!(help.contains("Batches of the shop"), "{help}");
        assert!(help.contains("Usage: shop-batches"), "{help}");
        assert!(!help.contains("demo"), "{help}");
    }
}
