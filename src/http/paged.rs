//! An API that answers page by page, as a source.

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::{Value, value::RawValue};
use url::Url;

use super::{ApiAnswer, ApiClient, ApiRequest, InvalidRequest, link, request::checked};
use crate::{
    base::error::PageError,
    page::{Page, did_not_advance},
    processor::{PageProcessor, context::PageContext, store::dead_letter::stable_id},
};

/// The number of pages without items that are passed over to find one with items.
const MOST_EMPTY: usize = 1_000;

/// A list that an API gives out page by page: the source of a batch, and part of its arguments.
///
/// ```
/// use temporal_batch::http::{PagedApi, Paging};
///
/// let users = PagedApi::new("https://api.example.org/users", Paging::Cursor {
///     field: "/meta/next".to_owned(),
///     parameter: "after".to_owned(),
/// })
/// .items("/data")
/// .names("/id")
/// .size_parameter("limit");
/// ```
///
/// Use it like a file: `prepare` returns [`prepare`](Self::prepare), `fetch` returns [`fetch`](Self::fetch), and the
/// cursor of the processor is [`ApiCursor`].
///
/// # Guarantees
///
/// The tokens of the API are kept as they are, and go through the same guarantees as keys: the start of the next page is
/// known before the items of a page are processed, and a page that runs again begins at the same token. The list must be
/// stable while the batch runs, as far as the API can promise that. A page begins where the page before it says, so
/// pages are found one after the other, while any number of them is processed at once.
///
/// | what the API does | result |
/// |---|---|
/// | a page without items, with a next one | it is passed over, up to 1,000 times in a row |
/// | the next page is the same page | the error `CursorDidNotAdvance` |
/// | the next page is an earlier one | the batch notices the circle, and fails |
/// | with offsets: the same items as on the page before | the error `PageRepeated` |
/// | with offsets: fewer items than requested | the next page begins after those that came |
/// | a next link to another host | the error `NextElsewhere`, because the headers would go there |
/// | a token of more than 1,024 bytes | the error `CursorTooLarge` |
/// | an answer without the list | the error `AnswerNotReadable` |
/// | an answer without the field of the cursor | the list ends |
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct PagedApi {
    /// The URL of the first page. It is stored in histories, so it must hold no secrets.
    pub url: String,
    /// The way to the next page.
    pub paging: Paging,
    /// The JSON Pointer of the list in the answer; empty if the answer is the list.
    #[serde(default)]
    pub items: String,
    /// The JSON Pointer of a unique name in each item, for dead letters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub names: Option<String>,
    /// The query parameter for the page size.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size_parameter: Option<String>,
}

/// The way from a page to the next one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Paging {
    /// The header `Link` with `rel="next"`. The list ends with a page without one.
    Link,
    /// A field of the answer. The list ends when it is null, missing or an empty text.
    Cursor {
        /// The JSON Pointer of the field.
        field: String,
        /// The query parameter with which the cursor is sent.
        parameter: String,
    },
    /// The number of items before the page. The list ends with a page without items. Items that are deleted meanwhile
    /// make the list skip others; prefer one of the other ways.
    Offset {
        /// The query parameter of that number.
        parameter: String,
    },
}

/// The position between two pages of a [`PagedApi`]: a token of the API.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ApiCursor(String);

/// # Construct
impl PagedApi {
    /// Creates a source whose answers are lists.
    pub fn new(url: impl Into<String>, paging: Paging) -> Self {
        Self {
            url: url.into(),
            paging,
            items: String::new(),
            names: None,
            size_parameter: None,
        }
    }

    /// Sets the JSON Pointer of the list in the answer.
    #[must_use]
    pub fn items(mut self, pointer: impl Into<String>) -> Self {
        self.items = pointer.into();
        self
    }

    /// Sets the JSON Pointer of a unique name in each item. Dead letters need it.
    #[must_use]
    pub fn names(mut self, pointer: impl Into<String>) -> Self {
        self.names = Some(pointer.into());
        self
    }

    /// Sets the query parameter for the page size.
    #[must_use]
    pub fn size_parameter(mut self, name: impl Into<String>) -> Self {
        self.size_parameter = Some(name.into());
        self
    }
}

/// # Read
impl PagedApi {
    /// Checks the URL and the pointers.
    ///
    /// # Errors
    /// A non-retryable [`PageError`] of type `InvalidPagedApi`.
    pub fn prepare(self) -> Result<Self, PageError> {
        let refused = |why: String| PageError::non_retryable("InvalidPagedApi", why);
        checked(&self.url).map_err(|e| refused(e.to_string()))?;
        let field = match &self.paging {
            Paging::Cursor { field, .. } => Some(field),
            Paging::Link | Paging::Offset { .. } => None,
        };
        for pointer in [Some(&self.items), self.names.as_ref(), field]
            .into_iter()
            .flatten()
        {
            if !pointer.is_empty() && !pointer.starts_with('/') {
                return Err(refused(format!(
                    "\"{pointer}\" is not a JSON Pointer; write /{}",
                    pointer.replace('.', "/")
                )));
            }
        }
        Ok(self)
    }

    /// Returns the page in the range of `ctx`. `complete` adds headers to each request, such as one with a secret of the
    /// worker.
    ///
    /// # Errors
    /// See [the type](Self). A call that was given up is its [failure](super::ApiFailure::error).
    pub async fn fetch<P, T>(
        &self,
        api: &ApiClient,
        ctx: &PageContext<P>,
        complete: impl Fn(ApiRequest) -> Result<ApiRequest, InvalidRequest> + Send + Sync,
    ) -> Result<Page<ApiCursor, T>, PageError>
    where
        P: PageProcessor<Cursor = ApiCursor>,
        T: DeserializeOwned + Send + 'static,
    {
        let end = ctx.range().end();
        let mut at = ctx.range().start().cloned();
        for _ in 0..MOST_EMPTY {
            if at.is_some() && at.as_ref() == end {
                return Ok(Page::empty());
            }
            let url = self.page_url(at.as_ref(), end, ctx.page_size())?;
            let request = ApiRequest::get(url.as_str()).and_then(&complete);
            let answer = api.call(ctx, &request?).await?;
            let answer = answer.map_err(super::ApiFailure::into_error)?;
            let mut read = self.read::<T>(&answer, at.as_ref(), &url)?;
            if let (Paging::Offset { .. }, Some(next), Some(end)) = (&self.paging, &read.next, end)
                && offset_of(next)? == offset_of(end)?
            {
                // The items may have changed since the end was accepted, and with them their fingerprint.
                read.next = Some(end.clone());
            }
            if !read.items.is_empty() || read.next.is_none() {
                return Ok(read.into_page());
            }
            if read.next == at {
                let token = at.unwrap_or_else(|| ApiCursor(String::new()));
                return Err(did_not_advance(&token, &token));
            }
            at = read.next;
        }
        Err(PageError::retryable(format_args!(
            "the API gave out {MOST_EMPTY} pages without items in a row"
        ))
        .with_type("OnlyEmptyPages"))
    }

    /// Returns the URL of a page.
    fn page_url(
        &self,
        at: Option<&ApiCursor>,
        end: Option<&ApiCursor>,
        size: usize,
    ) -> Result<Url, PageError> {
        let mut url = Url::parse(&self.url)?;
        let mut size = size as u64;
        match (&self.paging, at) {
            (Paging::Link, Some(at)) => {
                // Not joined: a path with two slashes would name another host.
                let (path, query) = match at.0.split_once('?') {
                    Some((path, query)) => (path, Some(query)),
                    None => (at.0.as_str(), None),
                };
                url.set_path(path);
                url.set_query(query);
                return Ok(url);
            }
            (Paging::Cursor { parameter, .. }, Some(at)) => set(&mut url, parameter, &at.0),
            (Paging::Offset { parameter }, at) => {
                let offset = at.map_or(Ok(0), offset_of)?;
                if let Some(end) = end {
                    size = size.min(offset_of(end)?.saturating_sub(offset)).max(1);
                }
                set(&mut url, parameter, &offset.to_string());
            }
            (Paging::Link | Paging::Cursor { .. }, None) => {}
        }
        if let Some(parameter) = &self.size_parameter {
            set(&mut url, parameter, &size.to_string());
        }
        Ok(url)
    }

    fn read<T: DeserializeOwned>(
        &self,
        answer: &ApiAnswer,
        at: Option<&ApiCursor>,
        url: &Url,
    ) -> Result<Read<T>, PageError> {
        let body: Value = answer.json()?;
        let list = body.pointer(&self.items).and_then(Value::as_array);
        let list = list.ok_or_else(|| lacks("a list", &self.items))?;
        let names = self.names.as_ref().map(|pointer| {
            let name = |item: &Value| match item.pointer(pointer) {
                Some(Value::String(name)) => Ok(name.clone()),
                Some(Value::Number(number)) => Ok(number.to_string()),
                _ => Err(lacks("a name in an item", pointer)),
            };
            list.iter().map(name).collect::<Result<Vec<_>, _>>()
        });
        let names = names.transpose()?;
        let next = match &self.paging {
            Paging::Link => {
                let next = answer.link.as_deref().and_then(link::next);
                next.map(|target| same_host(url, &target)).transpose()?
            }
            Paging::Cursor { field, .. } => match body.pointer(field) {
                None | Some(Value::Null) => None,
                Some(Value::String(token)) if token.is_empty() => None,
                Some(Value::String(token)) => Some(ApiCursor(token.clone())),
                Some(Value::Number(number)) => Some(ApiCursor(number.to_string())),
                Some(_) => return Err(lacks("a text or a number", field)),
            },
            Paging::Offset { .. } if list.is_empty() => None,
            Paging::Offset { .. } => {
                let seen = stable_id(&Value::Array(list.clone()));
                if at.is_some_and(|at| at.0.ends_with(&seen)) {
                    return Err(PageError::non_retryable(
                        "PageRepeated",
                        "the API gave out the same items for two offsets; it may not know the parameter",
                    ));
                }
                let offset = at.map_or(Ok(0), offset_of)?;
                Some(ApiCursor(format!("{}:{seen}", offset + list.len() as u64)))
            }
        };
        let items = items_of(answer, &self.items, list.len())?;
        Ok(Read { items, names, next })
    }
}

/// An answer, taken apart.
struct Read<T> {
    items: Vec<T>,
    names: Option<Vec<String>>,
    next: Option<ApiCursor>,
}

impl<T> Read<T> {
    fn into_page(self) -> Page<ApiCursor, T> {
        if self.items.is_empty() {
            return Page::empty();
        }
        let page = Page::opaque(self.items, self.next);
        match self.names {
            Some(names) => page.named(names),
            None => page,
        }
    }
}

/// Parses the items from the text of the answer, so that numbers keep every digit.
fn items_of<T: DeserializeOwned>(
    answer: &ApiAnswer,
    pointer: &str,
    expected: usize,
) -> Result<Vec<T>, PageError> {
    let text = std::str::from_utf8(answer.body())?;
    // An object with a key twice has no field that is certain.
    let list =
        super::template::at_pointer(text, pointer).ok_or_else(|| lacks("one list", pointer))?;
    let items: Vec<&RawValue> = serde_json::from_str(list)?;
    if items.len() != expected {
        return Err(lacks("one list", pointer));
    }
    let item = |(at, item): (usize, &&RawValue)| {
        serde_json::from_str(item.get()).map_err(|error| {
            PageError::non_retryable(
                "AnswerNotReadable",
                format_args!(
                    "item {at} of the page is not what was expected: {}",
                    crate::base::known_fields::explain(&error)
                ),
            )
        })
    };
    items.iter().enumerate().map(item).collect()
}

fn set(url: &mut Url, parameter: &str, value: &str) {
    let others: Vec<(String, String)> = url
        .query_pairs()
        .filter(|(name, _)| name != parameter)
        .map(|(name, value)| (name.into_owned(), value.into_owned()))
        .collect();
    let mut pairs = url.query_pairs_mut();
    pairs.clear().extend_pairs(others);
    pairs.append_pair(parameter, value);
}

fn offset_of(cursor: &ApiCursor) -> Result<u64, PageError> {
    let number = cursor.0.split(':').next().unwrap_or_default();
    number.parse().map_err(|_| {
        PageError::environment("the page token is not an offset").with_type("CursorNotReadable")
    })
}

/// Returns the token of a link to the same host: its path and query.
fn same_host(from: &Url, target: &str) -> Result<ApiCursor, PageError> {
    let to = from.join(target)?;
    if to.origin() != from.origin() {
        return Err(PageError::non_retryable(
            "NextElsewhere",
            format_args!(
                "the next page is at {}, and its list at {}",
                to.host_str().unwrap_or("no host"),
                from.host_str().unwrap_or("no host")
            ),
        ));
    }
    let query = to
        .query()
        .map_or_else(String::new, |query| format!("?{query}"));
    Ok(ApiCursor(format!("{}{query}", to.path())))
}

fn lacks(what: &str, pointer: &str) -> PageError {
    PageError::non_retryable(
        "AnswerNotReadable",
        format_args!("the answer has not {what} at \"{pointer}\""),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(body: &str, link: Option<&str>) -> ApiAnswer {
        ApiAnswer {
            status: 200,
            link: link.map(str::to_owned),
            body: body.to_owned().into(),
        }
    }

    fn url() -> Url {
        Url::parse("https://api.example.org/items?kind=a").unwrap()
    }

    fn cursor(text: &str) -> ApiCursor {
        ApiCursor(text.to_owned())
    }

    #[test]
    fn the_next_page_of_a_link_is_on_the_same_host() {
        let api = PagedApi::new(url(), Paging::Link);
        let next = |link| {
            let read = api.read::<u64>(&answer("[1,2]", Some(link)), None, &url());
            read.map(|read| read.next)
        };
        let found = Some(cursor("/items?page=2"));
        assert_eq!(next("</items?page=2>; rel=next").unwrap(), found);
        let whole = "<https://api.example.org/items?page=2>; rel=next";
        assert_eq!(next(whole).unwrap(), found);
        let elsewhere = next("<https://evil.example/items>; rel=next").unwrap_err();
        assert_eq!(elsewhere.error_type(), "NextElsewhere");
        let at = api.page_url(found.as_ref(), None, 10).unwrap();
        assert_eq!(at.as_str(), "https://api.example.org/items?page=2");
        // Two slashes do not make a host of a path.
        let sloppy = next("<https://api.example.org//evil.example/items?page=2>; rel=next");
        let at = api.page_url(sloppy.unwrap().as_ref(), None, 10).unwrap();
        assert_eq!(
            at.as_str(),
            "https://api.example.org//evil.example/items?page=2"
        );
    }

    #[test]
    fn an_answer_with_a_field_twice_loses_no_items() {
        let paging = Paging::Cursor {
            field: "/next".to_owned(),
            parameter: "after".to_owned(),
        };
        let api = PagedApi::new(url(), paging).items("/data");
        for body in [
            r#"{"data":[1,2],"data":[3],"next":"x"}"#,
            r#"{"data":[1,2],"total":2,"total":2,"next":"x"}"#,
        ] {
            let read = api.read::<u64>(&answer(body, None), None, &url());
            let error = read.err().unwrap();
            assert_eq!(error.error_type(), "AnswerNotReadable", "{body}");
        }
    }

    #[test]
    fn a_token_is_sent_as_it_came() {
        let paging = Paging::Cursor {
            field: "/next".to_owned(),
            parameter: "after".to_owned(),
        };
        let api = PagedApi::new(url(), paging)
            .items("/data")
            .size_parameter("limit");
        let token = "a/b+c=&d e\u{e9}";
        let body = serde_json::json!({"data": [1], "next": token}).to_string();
        let read = api.read::<u64>(&answer(&body, None), None, &url()).unwrap();
        assert_eq!(read.next, Some(cursor(token)));
        let at = api.page_url(read.next.as_ref(), None, 10).unwrap();
        let sent: Vec<_> = at.query_pairs().collect();
        assert_eq!(sent[1], ("after".into(), token.into()));
        assert_eq!((&*sent[0].1, &*sent[2].1), ("a", "10"));
        for last in [
            r#"{"data":[1],"next":null}"#,
            r#"{"data":[1]}"#,
            r#"{"data":[1],"next":""}"#,
        ] {
            let read = api.read::<u64>(&answer(last, None), None, &url()).unwrap();
            assert_eq!(read.next, None);
        }
        let wrong = api
            .read::<u64>(&answer("[1]", None), None, &url())
            .err()
            .unwrap();
        assert_eq!(wrong.error_type(), "AnswerNotReadable");
    }

    #[test]
    fn an_offset_counts_what_came_and_notices_a_page_that_is_repeated() {
        let paging = Paging::Offset {
            parameter: "offset".to_owned(),
        };
        let api = PagedApi::new(url(), paging).size_parameter("limit");
        let first = api
            .read::<u64>(&answer("[1,2,3]", None), None, &url())
            .unwrap();
        let next = first.next.unwrap();
        assert_eq!(offset_of(&next).unwrap(), 3);
        let again = api.read::<u64>(&answer("[1,2,3]", None), Some(&next), &url());
        assert_eq!(again.err().unwrap().error_type(), "PageRepeated");
        let short = api
            .read::<u64>(&answer("[4]", None), Some(&next), &url())
            .unwrap();
        assert_eq!(offset_of(&short.next.unwrap()).unwrap(), 4);
        let end = api
            .read::<u64>(&answer("[]", None), Some(&next), &url())
            .unwrap();
        assert_eq!(end.next, None);
        let closed = api.page_url(Some(&next), Some(&cursor("5:x")), 10).unwrap();
        assert!(closed.as_str().ends_with("offset=3&limit=2"), "{closed}");
    }

    #[test]
    fn numbers_of_items_keep_their_digits() {
        let api = PagedApi::new(url(), Paging::Link).items("/a/b");
        let body = r#"{"x":1,"a":{"b":[12345678901234567890.10]}}"#;
        let read = api
            .read::<Box<RawValue>>(&answer(body, None), None, &url())
            .unwrap();
        assert_eq!(read.items[0].get(), "12345678901234567890.10");
    }

    #[test]
    fn a_pointer_is_checked_at_the_start() {
        let api = PagedApi::new(url(), Paging::Link).items("data.list");
        let error = api.prepare().unwrap_err().message().to_owned();
        assert!(error.contains("write /data/list"), "{error}");
    }
}
