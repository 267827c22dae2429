//! The processors of a worker, by name. Their types are erased here and nowhere else.

use std::{collections::BTreeMap, ops::Deref, panic::AssertUnwindSafe, sync::Arc, time::Duration};

use async_trait::async_trait;
use futures::FutureExt;

use crate::{
    base::{
        error::PageError,
        known_fields::{explain, ignored},
    },
    batch::{
        partition_spec::{InvalidPartitions, PartitionSpec, stored},
        redrive_args::RedriveArgs,
        spec::MAX_ARGS_BYTES,
    },
    page::{range::PageRange, size::Size, token::PageToken},
    processor::{
        PageProcessor,
        check_context::CheckContext,
        context::PageContext,
        reducer::{Plan, Reducer},
        settings::{InvalidSettings, ProcessorSettings},
        stop_signal::Interruption,
    },
    progress::{check::Check, report::BatchReport},
    protocol::{
        CheckOrder, CombineOrder, PrepareInput, Prepared, SplitOrder, StrideOrder, StrideReport,
        UNKNOWN_PROCESSOR,
    },
    stride::{
        StrideHost, prepared, read_args,
        redrive::{Redrive, letters_of},
        run_stride,
    },
};

/// Time limit for a processor to determine the size of its data.
const SIZE_HINT_TIMEOUT: Duration = Duration::from_secs(5);

/// Processors by name.
#[derive(Clone, Default)]
pub struct Registry {
    processors: BTreeMap<&'static str, Registered>,
}

#[derive(Clone)]
struct Registered {
    processor: Arc<dyn ErasedProcessor>,
    /// The processor of its dead letters.
    redriver: Arc<dyn ErasedProcessor>,
}

/// A processor that cannot be registered.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum RegisterError {
    /// Two processors have the same name.
    #[error("two processors are named \"{name}\"; histories could not tell them apart")]
    Duplicate {
        /// The name.
        name: &'static str,
    },
    /// The name cannot be used in commands and metrics.
    #[error("processor name \"{name}\" is not allowed; use 1 to 100 letters, digits and . _ / : -")]
    Name {
        /// The name.
        name: &'static str,
    },
    /// The settings of the processor are not allowed.
    #[error("the settings of processor \"{name}\" are not allowed: {source}")]
    Settings {
        /// The name.
        name: &'static str,
        /// The reason.
        source: InvalidSettings,
    },
}

/// A batch that the registered processors cannot run.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refused {
    /// The processor is not registered.
    #[error("processor \"{name}\" is not registered; registered are: {registered}")]
    UnknownProcessor {
        /// The name that was asked for.
        name: String,
        /// The names that are registered.
        registered: String,
    },
    /// The arguments do not fit the processor.
    #[error("the arguments do not fit processor \"{name}\": {message}")]
    Args {
        /// The processor.
        name: String,
        /// The message of the deserializer.
        message: String,
    },
    /// The first cursor is not a cursor of the processor.
    #[error("the first cursor does not fit processor \"{name}\": {message}")]
    FirstCursor {
        /// The processor.
        name: String,
        /// The message of the deserializer.
        message: String,
    },
    /// The processor itself refuses the batch; see [`PageProcessor::prepare`].
    #[error("processor \"{name}\" refuses the batch: {message} ({error_type})")]
    Processor {
        /// The processor.
        name: String,
        /// The type of the error.
        error_type: String,
        /// The message of the processor.
        message: String,
    },
    /// The reducer of the processor is not allowed.
    #[error("the reducer of processor \"{name}\" is not allowed: {message}")]
    Reducer {
        /// The processor.
        name: String,
        /// The reason, with the allowed values.
        message: String,
    },
    /// The batch was started without partitions, but its processor has them.
    #[error(
        "processor \"{name}\" has partitions, but the batch was started without them; start it with Batch::of, with \
         Batch::partitioned, or with --partitioned"
    )]
    Partitioned {
        /// The processor.
        name: String,
    },
    /// The batch was started with partitions, but its processor has none.
    #[error("processor \"{name}\" has no partitions; start the batch without them")]
    NotPartitioned {
        /// The processor.
        name: String,
    },
    /// The partitions that the processor named are not allowed.
    #[error("the partitions of processor \"{name}\" are not allowed: {source}")]
    Partitions {
        /// The processor.
        name: String,
        /// The reason.
        source: InvalidPartitions,
    },
    /// The processor has no store of dead letters to redrive.
    #[error(
        "processor \"{name}\" keeps no dead letters, so there is nothing to redrive; give it a ledger or a \
         dead-letter store"
    )]
    NoDeadLetters {
        /// The processor.
        name: String,
    },
}

impl Registry {
    /// An empty registry.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a processor.
    ///
    /// # Errors
    /// The name is already registered or not allowed, or the settings are not allowed.
    pub fn register<P: PageProcessor>(&mut self, processor: P) -> Result<(), RegisterError> {
        self.register_shared(Arc::new(processor))
    }

    pub(crate) fn register_shared<P: PageProcessor>(
        &mut self,
        processor: Arc<P>,
    ) -> Result<(), RegisterError> {
        let name = P::NAME;
        let allowed = |c: char| c.is_ascii_alphanumeric() || "._/:-".contains(c);
        if name.is_empty() || name.len() > 100 || !name.chars().all(allowed) {
            return Err(RegisterError::Name { name });
        }
        if self.processors.contains_key(name) {
            return Err(RegisterError::Duplicate { name });
        }
        processor
            .settings()
            .validate()
            .map_err(|source| RegisterError::Settings { name, source })?;
        let redrive = Redrive(Arc::clone(&processor));
        let redriver = Arc::new(Typed(Arc::new(redrive)));
        let processor = Arc::new(Typed(processor));
        let registered = Registered {
            processor,
            redriver,
        };
        self.processors.insert(name, registered);
        Ok(())
    }

    /// The names of the processors, sorted.
    pub fn names(&self) -> Vec<&'static str> {
        self.processors.keys().copied().collect()
    }

    /// The shortest heartbeat timeout of all processors. Signs of life must be frequent enough for it.
    pub(crate) fn shortest_heartbeat_timeout(&self) -> Duration {
        let timeouts = self
            .processors
            .values()
            .map(|p| p.processor.settings().heartbeat_timeout);
        timeouts
            .min()
            .unwrap_or_else(|| ProcessorSettings::default().heartbeat_timeout)
    }

    /// Returns the processor of a batch, or with `redrive` the processor of its dead letters.
    pub(crate) fn of_batch(
        &self,
        name: &str,
        redrive: bool,
    ) -> Result<Arc<dyn ErasedProcessor>, Refused> {
        let found = self.find(name)?;
        Ok(Arc::clone(match redrive {
            true => &found.redriver,
            false => &found.processor,
        }))
    }

    /// Describes the processor of a batch and completes the arguments.
    pub(crate) async fn prepare(&self, input: &PrepareInput) -> Result<Prepared, NotPrepared> {
        let processor = self.of_batch(&input.processor, input.redrive)?;
        let prepared = processor.prepare(input).await?;
        if input.redrive {
            let args = prepared.args.as_ref().unwrap_or(&input.args);
            let args: RedriveArgs = read_args(args).map_err(NotPrepared::Retry)?;
            let redriven = self.of_batch(&input.processor, false)?;
            if !redriven.keeps_letters(&args.args)? {
                let name = input.processor.clone();
                return Err(Refused::NoDeadLetters { name }.into());
            }
        }
        Ok(prepared)
    }

    /// The error for a batch whose processor this worker does not have. Another worker may have it.
    pub(crate) fn lacks(&self, name: &str, task_queue: &str) -> Option<PageError> {
        let registered = match self.find(name) {
            Err(Refused::UnknownProcessor { registered, .. }) => registered,
            Ok(_) | Err(_) => return None,
        };
        // Names come first, because a page failure shortens the end of its message.
        let message = format_args!(
            "no worker with processor \"{name}\" was found on task queue \"{task_queue}\", only one with {registered}; start \
             one that has it"
        );
        Some(PageError::retryable(message).with_type(UNKNOWN_PROCESSOR))
    }

    fn find(&self, name: &str) -> Result<&Registered, Refused> {
        self.processors.get(name).ok_or_else(|| {
            let names = self.names();
            Refused::UnknownProcessor {
                name: name.to_owned(),
                registered: if names.is_empty() {
                    "none".to_owned()
                } else {
                    names.join(", ")
                },
            }
        })
    }
}

impl std::fmt::Debug for Registry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Registry").field(&self.names()).finish()
    }
}

#[async_trait]
pub(crate) trait ErasedProcessor: Send + Sync {
    fn settings(&self) -> ProcessorSettings;
    /// Checks the arguments and the first cursor, completes the arguments, and asks for the size.
    async fn prepare(&self, input: &PrepareInput) -> Result<Prepared, NotPrepared>;
    /// Returns whether dead letters of a batch with these arguments are stored.
    fn keeps_letters(&self, args: &serde_json::Value) -> Result<bool, Refused>;
    async fn run(
        &self,
        order: &StrideOrder,
        resume: StrideReport,
        host: &dyn StrideHost,
    ) -> Option<StrideReport>;
    /// Checks the work done.
    async fn check(
        &self,
        order: &CheckOrder,
        cancelled: Interruption,
    ) -> Result<Option<Check>, PageError>;
    /// Combines outputs of pages with the processor's custom reducer.
    fn combine(&self, order: CombineOrder) -> Result<serde_json::Value, PageError>;
    /// Stores the final report with the dead letters.
    async fn keep_report(
        &self,
        args: &serde_json::Value,
        report: &BatchReport,
    ) -> Result<(), PageError>;
    /// Finds a position within a range.
    async fn split(&self, order: &SplitOrder) -> Result<Option<PageToken>, PageError>;
}

/// The reason why a batch is not prepared.
#[derive(Debug)]
pub(crate) enum NotPrepared {
    /// The batch cannot be run.
    Refused(Refused),
    /// Another attempt may succeed.
    Retry(PageError),
}

impl From<Refused> for NotPrepared {
    fn from(refused: Refused) -> Self {
        Self::Refused(refused)
    }
}

/// Completes the arguments of a batch. Also returns them in stored form, if completion changed them.
pub(crate) async fn complete<P: PageProcessor>(
    processor: &P,
    args: P::Args,
) -> Result<(P::Args, Option<serde_json::Value>), PageError> {
    let stored = |args: &P::Args| {
        serde_json::to_value(args).map_err(|e| {
            let message = format_args!("the arguments do not serialize to JSON: {e}");
            PageError::non_retryable("ArgsNotStorable", message)
        })
    };
    let given = stored(&args)?;
    let completing = AssertUnwindSafe(processor.prepare(args)).catch_unwind();
    let completing = completing
        .await
        .unwrap_or_else(|panic| Err(PageError::panicked(&*panic)));
    let args = completing.map_err(|error| error.redacted(|message| processor.redact(message)))?;
    let completed = stored(&args)?;
    let bytes = completed.to_string().len();
    if completed != given && bytes > MAX_ARGS_BYTES {
        return Err(PageError::non_retryable(
            "ArgsTooLarge",
            format_args!(
                "the completed arguments are {bytes} bytes of JSON; at most {MAX_ARGS_BYTES} \
                 are allowed"
            ),
        ));
    }
    let changed = completed != given;
    Ok((args, changed.then_some(completed)))
}

/// A processor behind a pointer.
pub(crate) struct Typed<R>(pub R);

#[async_trait]
impl<P: PageProcessor, R: Deref<Target = P> + Send + Sync> ErasedProcessor for Typed<R> {
    fn settings(&self) -> ProcessorSettings {
        self.0.settings()
    }

    async fn prepare(&self, input: &PrepareInput) -> Result<Prepared, NotPrepared> {
        let args = check::<P>(&input.args, input.first_cursor.as_ref())?;
        for field in ignored::<P::Args>(&input.args) {
            tracing::warn!(processor = P::NAME, %field, "the processor ignores a field of its arguments");
        }
        let name = || P::NAME.to_owned();
        match (P::PARTITIONED, input.partitioned) {
            (true, false) => return Err(Refused::Partitioned { name: name() }.into()),
            (false, true) => return Err(Refused::NotPartitioned { name: name() }.into()),
            (true, true) | (false, false) => {}
        }
        let completed = complete(&*self.0, args).await;
        let (args, completed) = completed.map_err(|error| self.not_prepared(error))?;
        let partitions = match P::PARTITIONED {
            true => self.partitions(&args).await?,
            false => Vec::new(),
        };
        if let Some(reducer) = self.0.reducer(&args) {
            reducer.validate().map_err(|invalid| Refused::Reducer {
                name: P::NAME.to_owned(),
                message: invalid.to_string(),
            })?;
        }
        let size = AssertUnwindSafe(self.0.size(&args)).catch_unwind();
        let size = match tokio::time::timeout(SIZE_HINT_TIMEOUT, size).await {
            Ok(Ok(size)) => size,
            Ok(Err(panic)) => Err(PageError::panicked(&*panic)),
            Err(_) => Err(PageError::retryable("it took too long")),
        };
        // A batch can run without a size; only its percentage is missing.
        let size = size.unwrap_or_else(|error| {
            let error = self.redacted(error);
            tracing::warn!(processor = P::NAME, %error, "no size hint");
            Size::Unknown
        });
        Ok(Prepared {
            args: completed,
            partitions,
            ..prepared(&*self.0, &args, size)
        })
    }

    fn keeps_letters(&self, args: &serde_json::Value) -> Result<bool, Refused> {
        Ok(letters_of(&*self.0, &check::<P>(args, None)?).is_some())
    }

    async fn run(
        &self,
        order: &StrideOrder,
        resume: StrideReport,
        host: &dyn StrideHost,
    ) -> Option<StrideReport> {
        run_stride(&*self.0, order, resume, host).await
    }

    async fn check(
        &self,
        order: &CheckOrder,
        cancelled: Interruption,
    ) -> Result<Option<Check>, PageError> {
        let cursor = |token: &Option<PageToken>| token.as_ref().map(PageToken::decode).transpose();
        let ctx = CheckContext {
            args: Arc::new(read_args(&order.args)?),
            batch_id: order.batch_id.as_str().into(),
            batch_run: order.batch_run.as_str().into(),
            covered_from: cursor(&order.covered_from)?,
            covered_to: cursor(&order.covered_to)?,
            cancelled,
        };
        let checking = AssertUnwindSafe(self.0.check(&ctx)).catch_unwind();
        let found = checking
            .await
            .unwrap_or_else(|panic| Err(PageError::panicked(&*panic)));
        let types = self.0.settings().non_retryable_types;
        found.map_err(|error| {
            let error = self.redacted(error);
            match error.is_final(&types) {
                true => PageError::non_retryable(error.error_type(), error.message()),
                false => error,
            }
        })
    }

    fn combine(&self, order: CombineOrder) -> Result<serde_json::Value, PageError> {
        let reducer = self.0.reducer(&read_args(&order.args)?);
        let reducer = Reducer::stored(&Plan::Custom, reducer)?;
        reducer.all(order.parts).map_err(|e| e.of_page())
    }

    async fn keep_report(
        &self,
        args: &serde_json::Value,
        report: &BatchReport,
    ) -> Result<(), PageError> {
        match letters_of(&*self.0, &read_args(args)?) {
            Some(letters) => letters.keep_report(report).await,
            None => Ok(()),
        }
    }

    async fn split(&self, order: &SplitOrder) -> Result<Option<PageToken>, PageError> {
        let cursor = |token: &Option<PageToken>| token.as_ref().map(PageToken::decode).transpose();
        let range = PageRange::new(cursor(&order.start)?, cursor(&order.end)?);
        let ctx = PageContext::<P>::of_partition(read_args(&order.args)?, range, &order.partition);
        let splitting = AssertUnwindSafe(self.0.split(&ctx)).catch_unwind();
        let at = splitting
            .await
            .unwrap_or_else(|panic| Err(PageError::panicked(&*panic)))
            .map_err(|error| self.redacted(error))?;
        at.as_ref().map(PageToken::encode).transpose()
    }
}

impl<P: PageProcessor, R: Deref<Target = P>> Typed<R> {
    fn redacted(&self, error: PageError) -> PageError {
        error.redacted(|message| self.0.redact(message))
    }

    /// Classifies an error that occurred before the first page.
    fn not_prepared(&self, error: PageError) -> NotPrepared {
        let types = self.0.settings().non_retryable_types;
        if !error.is_final(&types) {
            return NotPrepared::Retry(error);
        }
        NotPrepared::Refused(Refused::Processor {
            name: P::NAME.to_owned(),
            error_type: error.error_type().to_owned(),
            message: error.message().to_owned(),
        })
    }

    async fn partitions(&self, args: &P::Args) -> Result<Vec<PartitionSpec>, NotPrepared> {
        let naming = AssertUnwindSafe(self.0.partitions(args)).catch_unwind();
        let named = naming
            .await
            .unwrap_or_else(|panic| Err(PageError::panicked(&*panic)));
        let named = named.map_err(|error| self.not_prepared(self.redacted(error)))?;
        let stored = stored(named);
        stored.map_err(|source| {
            let name = P::NAME.to_owned();
            Refused::Partitions { name, source }.into()
        })
    }
}

/// Checks that the arguments and the first cursor fit `P`.
pub(crate) fn check<P: PageProcessor>(
    args: &serde_json::Value,
    first_cursor: Option<&PageToken>,
) -> Result<P::Args, Refused> {
    let name = || P::NAME.to_owned();
    if let Some(token) = first_cursor {
        token
            .decode::<P::Cursor>()
            .map_err(|e| Refused::FirstCursor {
                name: name(),
                message: e.message().to_owned(),
            })?;
    }
    serde_json::from_value(args.clone()).map_err(|e| Refused::Args {
        name: name(),
        message: explain(&e),
    })
}
