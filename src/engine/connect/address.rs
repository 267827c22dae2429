//! Parsing of server addresses.

use url::Url;

use super::ConnectError;

/// Parses an address. `asks_for_tls` is what the other settings ask for, if anything. The client looks only at
/// the scheme of the URL: it would send an API key to an `http://` address in plain text, whatever the other
/// settings are.
pub(super) fn parse_address(
    address: &str,
    asks_for_tls: Option<bool>,
) -> Result<Url, ConnectError> {
    let invalid = |problem: &str| ConnectError::InvalidAddress {
        address: without_userinfo(address).to_owned(),
        problem: problem.to_owned(),
    };
    let has_scheme = address.contains("://");
    let scheme = if asks_for_tls == Some(true) {
        "https"
    } else {
        "http"
    };
    let url = if has_scheme {
        Url::parse(address)
    } else {
        Url::parse(&format!("{scheme}://{address}"))
    };
    let url = url.map_err(|error| invalid(&error.to_string()))?;

    if !matches!(url.scheme(), "http" | "https") {
        return Err(invalid("the scheme is neither http nor https"));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(invalid(
            "it contains a user name, which Temporal does not support",
        ));
    }
    if url.path() != "/" || url.query().is_some() || url.fragment().is_some() {
        return Err(invalid("it has something after the port"));
    }
    // A parsed URL drops the default port of its scheme, so the text is checked.
    if !has_scheme
        && url.port().is_none()
        && !address.ends_with(":80")
        && !address.ends_with(":443")
    {
        return Err(invalid("the port is missing"));
    }
    match asks_for_tls {
        Some(tls) if tls != (url.scheme() == "https") => Err(ConnectError::SchemeContradictsTls {
            address: address.to_owned(),
            tls,
        }),
        _ => Ok(url),
    }
}

/// Returns the part of an address that may be shown, without a user name or password.
pub(super) fn without_userinfo(address: &str) -> &str {
    address.rsplit_once('@').map_or(address, |(_, host)| host)
}
