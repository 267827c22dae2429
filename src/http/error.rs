//! The errors of clients and requests.

/// A client that cannot be created.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidApi {
    /// A setting is out of range.
    #[error("{0}")]
    Option(String),
    /// The TLS of this machine cannot be used.
    #[error("no HTTP client can be created: {0}")]
    Client(String),
}

/// A request that cannot be sent. The message holds no value of a header or a URL.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidRequest {
    /// The method is not a token.
    #[error("the method is not one of HTTP")]
    Method,
    /// The URL cannot be called.
    #[error("the URL cannot be called: {0}")]
    Url(&'static str),
    /// A header cannot be sent.
    #[error("header {name}: {why}")]
    Header {
        /// The name of the header.
        name: String,
        /// The reason.
        why: &'static str,
    },
    /// The body has no JSON.
    #[error("the body does not serialize to JSON")]
    Body,
}
