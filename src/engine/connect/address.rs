//! Addresses as users write them.

use url::Url;

use super::ConnectError;

/// `asks_for_tls` is what the other settings say, if anything. The client looks only at the scheme of the
/// URL: it would send an API key to an `http://` address in plain text whatever they say.
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
        return Err(invalid("it has a user name, which Temporal does not know"));
    }
    if url.path() != "/" || url.query().is_some() || url.fragment().is_some() {
        return Err(invalid("something follows the port"));
    }
    // A URL that ends in the port of its scheme forgets it, so the text is asked.
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

/// What of an address may be shown: a password in front of the host may not.
pub(super) fn without_userinfo(address: &str) -> &str {
    address.rsplit_once('@').map_or(address, |(_, host)| host)
}
