//! A call to make.

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use serde::Serialize;
use url::Url;

use super::error::InvalidRequest;

/// Headers that belong to the connection or to the client, and that a request must not set.
const RESERVED: [&str; 7] = [
    "connection",
    "content-length",
    "expect",
    "host",
    "te",
    "transfer-encoding",
    "upgrade",
];

/// A call to make: method, URL, headers, body and idempotency key.
///
/// ```
/// use temporal_batch::http::ApiRequest;
///
/// # fn main() -> Result<(), temporal_batch::http::InvalidRequest> {
/// let request = ApiRequest::post("https://api.example.org/invoices")?
///     .header("authorization", "Bearer 123")?
///     .json(&serde_json::json!({ "order": 7 }))?
///     .key("order-7");
///
/// // A value that would add a header of its own.
/// assert!(ApiRequest::get("https://api.example.org")?.header("x-name", "a\r\nx-admin: yes").is_err());
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct ApiRequest {
    pub(super) method: Method,
    pub(super) url: Url,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
    pub(super) key: Option<String>,
}

impl ApiRequest {
    /// Creates a request without headers and body.
    ///
    /// # Errors
    /// The method has other characters than those of a token, or the URL is not an absolute one of `http` or `https`
    /// with a host and without a user.
    pub fn new(method: &str, url: &str) -> Result<Self, InvalidRequest> {
        let method = Method::from_bytes(method.as_bytes());
        Ok(Self {
            method: method.map_err(|_| InvalidRequest::Method)?,
            url: checked(url)?,
            headers: HeaderMap::new(),
            body: Bytes::new(),
            key: None,
        })
    }

    /// Creates a `GET`.
    ///
    /// # Errors
    /// Those of [`new`](Self::new).
    pub fn get(url: &str) -> Result<Self, InvalidRequest> {
        Self::new("GET", url)
    }

    /// Creates a `POST`.
    ///
    /// # Errors
    /// Those of [`new`](Self::new).
    pub fn post(url: &str) -> Result<Self, InvalidRequest> {
        Self::new("POST", url)
    }

    /// Sets a header, in place of one with the same name. The value is not shown in any message or log.
    ///
    /// # Errors
    /// The name is not one of a header, or belongs to the connection (`host`, `content-length` and the like); the value
    /// has other characters than printable ASCII, spaces and tabs.
    pub fn header(mut self, name: &str, value: &str) -> Result<Self, InvalidRequest> {
        let (name, value) = (header_name(name)?, header_value(name, value)?);
        self.headers.insert(name, value);
        Ok(self)
    }

    /// Sets the body to a value in JSON, and the header `content-type`.
    ///
    /// # Errors
    /// The value has no JSON.
    pub fn json(self, body: &impl Serialize) -> Result<Self, InvalidRequest> {
        let body = serde_json::to_vec(body).map_err(|_| InvalidRequest::Body)?;
        self.header("content-type", "application/json")
            .map(|request| request.body(body))
    }

    /// Sets the body. The header `content-type` is up to the caller.
    #[must_use]
    pub fn body(mut self, body: impl Into<Bytes>) -> Self {
        self.body = body.into();
        self
    }

    /// Sets the idempotency key, which the client sends in a header: [`PageContext::item_key`](crate::PageContext::item_key).
    #[must_use]
    pub fn key(mut self, key: impl Into<String>) -> Self {
        self.key = Some(key.into());
        self
    }
}

/// Parses the URL of a request.
pub(super) fn checked(url: &str) -> Result<Url, InvalidRequest> {
    let url = Url::parse(url).map_err(|_| InvalidRequest::Url("it is not an absolute URL"))?;
    let wrong = match url.scheme() {
        "http" | "https" if url.host_str().is_none_or(str::is_empty) => "it has no host",
        "http" | "https" if !url.username().is_empty() || url.password().is_some() => {
            "it has a user or a password; send them in a header"
        }
        "http" | "https" => return Ok(url),
        _ => "its scheme is neither http nor https",
    };
    Err(InvalidRequest::Url(wrong))
}

/// Parses the name of a header that a request may set.
pub(super) fn header_name(name: &str) -> Result<HeaderName, InvalidRequest> {
    let refused = |why| InvalidRequest::Header {
        name: name.escape_debug().to_string(),
        why,
    };
    let parsed = HeaderName::from_bytes(name.as_bytes());
    let parsed = parsed.map_err(|_| refused("the name is not one of a header"))?;
    match RESERVED.contains(&parsed.as_str()) {
        true => Err(refused("the client sets it itself")),
        false => Ok(parsed),
    }
}

/// Checks the value of a header. Line ends would add headers of their own.
pub(super) fn header_value(name: &str, value: &str) -> Result<HeaderValue, InvalidRequest> {
    let refused = || InvalidRequest::Header {
        name: name.escape_debug().to_string(),
        why: "the value has other characters than printable ASCII",
    };
    if !value
        .bytes()
        .all(|b| b == b'\t' || (b' '..=b'~').contains(&b))
    {
        return Err(refused());
    }
    let mut value = HeaderValue::from_str(value).map_err(|_| refused())?;
    value.set_sensitive(true);
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_that_cannot_be_called_or_hold_a_secret_are_refused() {
        for (url, why) in [
            ("api.example.org/x", "absolute"),
            ("ftp://example.org", "http"),
            ("file:///etc/passwd", "http"),
            ("https://me:secret@example.org", "header"),
        ] {
            let error = ApiRequest::get(url).err().unwrap().to_string();
            assert!(error.contains(why), "{error}");
            assert!(!error.contains("secret"), "{error}");
        }
    }

    #[test]
    fn a_value_adds_no_header_of_its_own() {
        let request = || ApiRequest::get("https://example.org").unwrap();
        for value in ["a\r\nb: c", "a\nb", "a\rb", "a\0", "ä"] {
            assert!(request().header("x-a", value).is_err(), "{value:?}");
        }
        for name in ["host", "Content-Length", "a b", "", "transfer-encoding"] {
            assert!(request().header(name, "x").is_err(), "{name}");
        }
        assert!(request().header("x-a", "plain \t text").is_ok());
    }
}
