//! The processors of a binary: known by name and type at once, built only where they are needed.

use std::{fmt, future::Future, pin::Pin, sync::Arc, time::Duration};

use serde_json::Value;

use super::{
    exit::{CliError, CliResult},
    output::note,
};
use crate::{
    base::{
        error::text::{with_causes, words},
        known_fields::ignored,
        text::exactly,
    },
    page::token::PageToken,
    processor::{PageProcessor, store::dead_letter::DeadLetters},
    stride::{
        redrive::letters_of,
        registry::{Refused, RegisterError, Registry, check},
    },
};

type BoxError = Box<dyn std::error::Error + Send + Sync>;
type Register = Box<dyn FnOnce(&mut Registry) -> Result<(), RegisterError> + Send>;
/// Opens the store of the dead letters of a batch with the given arguments.
type Letters = Box<dyn FnOnce(&Value) -> Result<Option<Arc<dyn DeadLetters>>, Refused> + Send>;
type Building = Pin<Box<dyn Future<Output = Result<Built, BoxError>> + Send>>;

/// The longest wait for a processor that is built only for its dead letters, and for an answer of their store.
pub(crate) const STORE_TIMEOUT: Duration = Duration::from_secs(30);

/// A processor that has been built.
struct Built {
    register: Register,
    letters: Letters,
}

/// The reason why this program cannot read the dead letters of a processor.
#[derive(Debug)]
pub(crate) enum NoStore {
    /// The program does not have the processor.
    NotHere { name: String, names: String },
    /// The processor could not be built.
    NotBuilt(String),
    /// The processor keeps no dead letters.
    KeepsNone { name: String },
}

impl fmt::Display for NoStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotHere { name, names } if names.is_empty() => {
                write!(f, "this program has no processor \"{name}\"")
            }
            Self::NotHere { name, names } => {
                write!(f, "this program has no processor \"{name}\", only: {names}")
            }
            Self::NotBuilt(error) => f.write_str(error),
            Self::KeepsNone { name } => write!(f, "processor \"{name}\" keeps none"),
        }
    }
}

/// The processors of the program, in the order in which they were added.
#[derive(Default)]
pub(crate) struct Processors(Vec<Entry>);

struct Entry {
    name: &'static str,
    kind: Kind,
    partitioned: bool,
    check: fn(&Value, Option<&PageToken>) -> Result<Fit, Refused>,
    rewrite: fn(&PageToken) -> Result<PageToken, String>,
    build: Box<dyn Fn() -> Building + Send + Sync>,
}

/// The result of a check: the processor accepts the arguments and the first cursor.
struct Fit {
    /// The first cursor as the processor itself would write it.
    first_cursor: Option<PageToken>,
    /// Fields that the types of the processor ignore.
    ignored: Vec<String>,
}

/// The origin of a processor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// Added by the program.
    Own,
    /// A sample of the program. A worker that also runs SQL starts without a sample that cannot be built.
    Sample,
    /// A processor of this crate that works on named connections.
    Sql,
}

impl Processors {
    pub(crate) fn add<F, Fut, P, E>(&mut self, factory: F)
    where
        F: Fn() -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<P, E>> + Send + 'static,
        P: PageProcessor,
        E: Into<BoxError>,
    {
        self.add_as(Kind::Own, factory);
    }

    /// Adds a sample. A worker that also runs SQL starts without it if it cannot be built.
    pub(crate) fn add_sample<F, Fut, P, E>(&mut self, factory: F)
    where
        F: Fn() -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<P, E>> + Send + 'static,
        P: PageProcessor,
        E: Into<BoxError>,
    {
        self.add_as(Kind::Sample, factory);
    }

    /// Adds a processor of this crate. It does not count as a processor of the program.
    #[cfg(any(feature = "sqlite", feature = "postgres", feature = "mysql"))]
    pub(crate) fn add_of_sql<F, Fut, P, E>(&mut self, factory: F)
    where
        F: Fn() -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<P, E>> + Send + 'static,
        P: PageProcessor,
        E: Into<BoxError>,
    {
        self.add_as(Kind::Sql, factory);
    }

    fn add_as<F, Fut, P, E>(&mut self, kind: Kind, factory: F)
    where
        F: Fn() -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<P, E>> + Send + 'static,
        P: PageProcessor,
        E: Into<BoxError>,
    {
        self.0.push(Entry {
            name: P::NAME,
            kind,
            partitioned: P::PARTITIONED,
            check: fit::<P>,
            rewrite: rewrite::<P>,
            build: Box::new(move || {
                let building = factory();
                Box::pin(async move {
                    let processor = building.await.map_err(Into::into)?;
                    let processor = Arc::new(processor);
                    let looked_into = Arc::clone(&processor);
                    let letters: Letters = Box::new(move |args| {
                        Ok(letters_of(&*looked_into, &check::<P>(args, None)?))
                    });
                    let register = |registry: &mut Registry| registry.register_shared(processor);
                    let register: Register = Box::new(register);
                    Ok(Built { register, letters })
                })
            }),
        });
    }

    /// Returns whether this program knows the processor and the processor has partitions.
    pub(crate) fn has_partitions(&self, name: &str) -> bool {
        self.entry(name).is_some_and(|entry| entry.partitioned)
    }

    /// Returns whether the processor runs SQL that comes with its batches.
    pub(crate) fn runs_sql(&self, name: &str) -> bool {
        self.entry(name)
            .is_some_and(|entry| entry.kind == Kind::Sql)
    }

    /// Returns whether the program has no processor of its own.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.iter().all(|entry| entry.kind == Kind::Sql)
    }

    pub(crate) fn names(&self) -> String {
        let names: Vec<_> = self.0.iter().map(|entry| entry.name).collect();
        names.join(", ")
    }

    /// Builds all processors. Returns them with their names.
    pub(crate) async fn build(&self) -> CliResult<(Registry, String)> {
        if self.0.is_empty() {
            return Err(CliError::usage(
                "this program has no processor, so its worker would have nothing to do; add one with \
                 `App::processor`, or let it run SQL with --allow-sql",
            ));
        }
        let has_sql = self.0.iter().any(|entry| entry.kind == Kind::Sql);
        let mut registry = Registry::new();
        let mut names = Vec::new();
        for entry in &self.0 {
            let what = format_args!("processor \"{}\" cannot start", entry.name);
            let built = (entry.build)().await;
            let built = match built {
                Err(error) if entry.kind == Kind::Sample && has_sql => {
                    note(format_args!("left out: {what}: {}", words(&*error)));
                    continue;
                }
                built => built.map_err(|e| CliError::caused(what, &*e))?,
            };
            (built.register)(&mut registry).map_err(|e| CliError::caused(what, &e))?;
            names.push(entry.name);
        }
        Ok((registry, names.join(", ")))
    }

    /// Builds one processor, as a worker would.
    pub(crate) async fn one(&self, name: &str) -> Result<Registry, NoStore> {
        let built = self.built(name).await?;
        let mut registry = Registry::new();
        (built.register)(&mut registry).map_err(|e| NoStore::NotBuilt(e.to_string()))?;
        Ok(registry)
    }

    /// Builds one processor, as a worker would, and opens the store of its dead letters.
    pub(crate) async fn letters(
        &self,
        name: &str,
        args: &Value,
    ) -> Result<Arc<dyn DeadLetters>, NoStore> {
        let built = self.built(name).await?;
        let letters = (built.letters)(args).map_err(|e| NoStore::NotBuilt(e.to_string()))?;
        let name = name.to_owned();
        letters.ok_or(NoStore::KeepsNone { name })
    }

    async fn built(&self, name: &str) -> Result<Built, NoStore> {
        let entry = self.entry(name).ok_or_else(|| NoStore::NotHere {
            name: name.to_owned(),
            names: self.names(),
        })?;
        let what = format!("processor \"{}\" cannot start", entry.name);
        let building = tokio::time::timeout(STORE_TIMEOUT, (entry.build)());
        match building.await {
            Ok(Ok(built)) => Ok(built),
            Ok(Err(error)) => Err(NoStore::NotBuilt(with_causes(what, Some(&*error)))),
            Err(_) => {
                let late = format!("{what}: it took longer than {}", exactly(STORE_TIMEOUT));
                Err(NoStore::NotBuilt(late))
            }
        }
    }

    /// Returns the cursor as its processor would write it, if this program has the processor.
    pub(crate) fn rewrite(&self, name: &str, cursor: PageToken) -> CliResult<PageToken> {
        let Some(entry) = self.entry(name) else {
            return Ok(cursor);
        };
        (entry.rewrite)(&cursor).map_err(|message| {
            CliError::usage(format_args!(
                "the cursor does not fit processor \"{name}\": {message}"
            ))
        })
    }

    fn entry(&self, name: &str) -> Option<&Entry> {
        self.0.iter().find(|entry| entry.name == name)
    }

    /// Refuses what the worker would refuse, and warns about fields that the processor ignores. A program without
    /// processors leaves the check to the worker.
    ///
    /// Tries `null` and `{}` if no arguments are given. Returns the arguments, and the first cursor as the processor
    /// itself would write it.
    pub(crate) fn check(
        &self,
        name: &str,
        args: Option<Value>,
        first_cursor: Option<&PageToken>,
    ) -> Result<(Value, Option<PageToken>), Refused> {
        let Some(entry) = self.entry(name) else {
            if self.is_empty() {
                return Ok((args.unwrap_or_default(), first_cursor.cloned()));
            }
            return Err(Refused::UnknownProcessor {
                name: name.to_owned(),
                registered: self.names(),
            });
        };
        let attempts = match args {
            Some(args) => vec![args],
            None => vec![Value::Null, Value::Object(serde_json::Map::new())],
        };
        let mut refused = None;
        for args in attempts {
            match (entry.check)(&args, first_cursor) {
                Ok(fit) => {
                    for field in fit.ignored {
                        note(format_args!(
                            "warning: processor \"{name}\" ignores the field {field}: its type does not have it, and \
                             does not refuse it (`#[serde(deny_unknown_fields)]` would)"
                        ));
                    }
                    return Ok((args, fit.first_cursor));
                }
                Err(error) => refused = Some(error),
            }
        }
        Err(refused.expect("there is at least one attempt"))
    }
}

fn fit<P: PageProcessor>(args: &Value, first_cursor: Option<&PageToken>) -> Result<Fit, Refused> {
    check::<P>(args, first_cursor)?;
    let mut ignores = ignored::<P::Args>(args);
    if let Some(cursor) = first_cursor.and_then(|token| serde_json::from_str(token.as_str()).ok()) {
        ignores.extend(ignored::<P::Cursor>(&cursor));
    }
    let first_cursor = first_cursor.map(rewrite::<P>).transpose();
    let first_cursor = first_cursor.map_err(|message| Refused::FirstCursor {
        name: P::NAME.to_owned(),
        message,
    })?;
    Ok(Fit {
        first_cursor,
        ignored: ignores,
    })
}

/// Rewrites a cursor as the processor would write it. Tokens are compared as text, and the user chose the order of the
/// fields and the spaces.
fn rewrite<P: PageProcessor>(cursor: &PageToken) -> Result<PageToken, String> {
    let cursor = cursor.decode::<P::Cursor>();
    let rewritten = cursor.and_then(|cursor| PageToken::encode(&cursor));
    rewritten.map_err(|e| e.message().to_owned())
}

#[cfg(test)]
mod tests {
    use async_trait::async_trait;
    use serde::{Deserialize, Serialize};
    use serde_json::json;

    use super::*;
    use crate::{
        base::error::PageError,
        page::Page,
        processor::{context::PageContext, report::PageReport},
    };

    #[derive(Serialize, Deserialize, Clone, PartialEq)]
    struct Key {
        tenant: u32,
        id: u32,
    }

    #[derive(Serialize, Deserialize)]
    struct Args {
        #[serde(default)]
        percent: u32,
    }

    struct Two;

    #[async_trait]
    impl PageProcessor for Two {
        const NAME: &'static str = "two";
        type Args = Args;
        type Cursor = Key;
        type Item = ();

        async fn fetch(&self, _: &PageContext<Self>) -> Result<Page<Key, ()>, PageError> {
            Ok(Page::empty())
        }

        async fn process(
            &self,
            _: &PageContext<Self>,
            _: Vec<()>,
        ) -> Result<PageReport, PageError> {
            Ok(PageReport::all_processed())
        }
    }

    fn processors() -> Processors {
        let mut processors = Processors::default();
        processors.add(|| async { Err::<Two, _>("no database") });
        processors
    }

    #[test]
    fn a_batch_is_checked_without_building_its_processor() {
        let check = |name, args, cursor: Option<Value>| {
            let cursor = cursor.map(|cursor| PageToken::encode(&cursor).unwrap());
            processors().check(name, args, cursor.as_ref())
        };
        assert_eq!(
            check("three", None, None).unwrap_err().to_string(),
            "processor \"three\" is not registered; registered are: two"
        );
        assert_eq!(check("two", None, None).unwrap().0, json!({}));
        let bad = check("two", Some(json!({"percent": "ten"})), None);
        assert!(matches!(bad, Err(Refused::Args { .. })));
        let bad = check("two", None, Some(json!(7)));
        assert!(matches!(bad, Err(Refused::FirstCursor { .. })));
        let (_, cursor) = check("two", None, Some(json!({"id": 7, "tenant": 1}))).unwrap();
        assert_eq!(cursor.unwrap().as_str(), r#"{"tenant":1,"id":7}"#);
    }

    #[test]
    fn fields_that_a_processor_ignores_are_found() {
        let ignored = |args, cursor: Option<Value>| {
            let cursor = cursor.map(|cursor| PageToken::encode(&cursor).unwrap());
            fit::<Two>(&args, cursor.as_ref()).unwrap().ignored
        };
        assert!(ignored(json!({"percent": 1}), None).is_empty());
        let found = ignored(
            json!({"percnt": 1}),
            Some(json!({"id": 7, "tenant": 1, "x": 2})),
        );
        assert_eq!(found, ["`percnt` (did you mean `percent`?)", "`x`"]);
    }

    #[test]
    fn a_program_without_processors_leaves_it_to_the_worker() {
        let checked = Processors::default().check("any", Some(json!(1)), None);
        assert_eq!(checked.unwrap().0, json!(1));
    }

    #[tokio::test]
    async fn why_there_are_no_dead_letters_to_look_at_is_told() {
        let why = |processors: Processors, name| async move {
            processors
                .letters(name, &json!({}))
                .await
                .unwrap_err()
                .to_string()
        };
        assert_eq!(
            why(processors(), "three").await,
            "this program has no processor \"three\", only: two"
        );
        assert_eq!(
            why(processors(), "two").await,
            "processor \"two\" cannot start: no database"
        );
        let mut works = Processors::default();
        works.add(|| async { Ok::<_, BoxError>(Two) });
        assert_eq!(why(works, "two").await, "processor \"two\" keeps none");
    }

    #[test]
    fn a_cursor_is_written_as_its_processor_would() {
        let rewrite = |name, cursor: Value| {
            let token = PageToken::encode(&cursor).unwrap();
            processors().rewrite(name, token)
        };
        let key = json!({"id": 7, "tenant": 1});
        let token = rewrite("two", key.clone()).unwrap();
        assert_eq!(token.as_str(), r#"{"tenant":1,"id":7}"#);
        let elsewhere = rewrite("three", key.clone()).unwrap();
        assert_eq!(elsewhere.as_str(), key.to_string());
        let bad = rewrite("two", json!(7)).unwrap_err();
        assert!(bad.to_string().contains("does not fit"), "{bad}");
    }

    #[tokio::test]
    async fn a_factory_that_fails_is_named() {
        let error = processors().build().await.unwrap_err().to_string();
        assert_eq!(error, "error: processor \"two\" cannot start: no database");
    }
}
