//! The processors of a binary: known by name and type at once, built only where a worker starts.

use std::{future::Future, pin::Pin};

use serde_json::Value;

use super::exit::{CliError, CliResult};
use crate::{
    page::PageToken,
    processor::PageProcessor,
    registry::{Refused, RegisterError, Registry, check},
};

type BoxError = Box<dyn std::error::Error + Send + Sync>;
type Register = Box<dyn FnOnce(&mut Registry) -> Result<(), RegisterError> + Send>;
type Building = Pin<Box<dyn Future<Output = Result<Register, BoxError>> + Send>>;

/// The processors in the order in which they were named.
#[derive(Default)]
pub(crate) struct Processors(Vec<Entry>);

struct Entry {
    name: &'static str,
    check: fn(&Value, Option<&PageToken>) -> Result<Option<PageToken>, Refused>,
    build: Box<dyn Fn() -> Building + Send + Sync>,
}

impl Processors {
    pub(crate) fn add<F, Fut, P, E>(&mut self, factory: F)
    where
        F: Fn() -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<P, E>> + Send + 'static,
        P: PageProcessor,
        E: Into<BoxError>,
    {
        self.0.push(Entry {
            name: P::NAME,
            check: fit::<P>,
            build: Box::new(move || {
                let building = factory();
                Box::pin(async move {
                    let processor = building.await.map_err(Into::into)?;
                    let register = |registry: &mut Registry| registry.register(processor);
                    Ok(Box::new(register) as Register)
                })
            }),
        });
    }

    pub(crate) fn names(&self) -> String {
        let names: Vec<_> = self.0.iter().map(|entry| entry.name).collect();
        names.join(", ")
    }

    /// Builds all of them.
    pub(crate) async fn build(&self) -> CliResult<Registry> {
        if self.0.is_empty() {
            return Err(CliError::usage(
                "this program has no processor, so its worker had nothing to do; add one with \
                 `App::processor`",
            ));
        }
        let mut registry = Registry::new();
        for entry in &self.0 {
            let what = format_args!("processor \"{}\" cannot start", entry.name);
            let register = (entry.build)()
                .await
                .map_err(|e| CliError::caused(what, &*e))?;
            register(&mut registry).map_err(|e| CliError::caused(what, &e))?;
        }
        Ok(registry)
    }

    /// Refuses what the worker would refuse. A program without processors can only leave it to the worker.
    ///
    /// Where no arguments were given, both of JSON's ways to say "nothing" are tried. Gives back the
    /// arguments, and the first cursor as the processor itself would write it.
    pub(crate) fn check(
        &self,
        name: &str,
        args: Option<Value>,
        first_cursor: Option<&PageToken>,
    ) -> Result<(Value, Option<PageToken>), Refused> {
        if self.0.is_empty() {
            return Ok((args.unwrap_or_default(), first_cursor.cloned()));
        }
        let Some(entry) = self.0.iter().find(|entry| entry.name == name) else {
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
                Ok(first_cursor) => return Ok((args, first_cursor)),
                Err(error) => refused = Some(error),
            }
        }
        Err(refused.expect("there is at least one attempt"))
    }
}

/// Two tokens are one position only where their texts are the same, so the cursor is written anew: the
/// order of its fields and its spaces were the user's.
fn fit<P: PageProcessor>(
    args: &Value,
    first_cursor: Option<&PageToken>,
) -> Result<Option<PageToken>, Refused> {
    check::<P>(args, first_cursor)?;
    let rewrite = |token: &PageToken| PageToken::encode(&token.decode::<P::Cursor>()?);
    first_cursor
        .map(rewrite)
        .transpose()
        .map_err(|e| Refused::FirstCursor {
            name: P::NAME.to_owned(),
            message: e.message().to_owned(),
        })
}

#[cfg(test)]
mod tests {
    use async_trait::async_trait;
    use serde::{Deserialize, Serialize};
    use serde_json::json;

    use super::*;
    use crate::{Page, PageContext, PageError, PageReport};

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
    fn a_program_without_processors_leaves_it_to_the_worker() {
        let checked = Processors::default().check("any", Some(json!(1)), None);
        assert_eq!(checked.unwrap().0, json!(1));
    }

    #[tokio::test]
    async fn a_factory_that_fails_is_named() {
        let error = processors().build().await.unwrap_err().to_string();
        assert_eq!(error, "error: processor \"two\" cannot start: no database");
    }
}
