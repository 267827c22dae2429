//! The URL of a request.

use super::{InvalidTemplate, NotSendable, Part, Values, parts};
use crate::http::request::checked;

/// A URL with placeholders in its path and its query.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct UrlTemplate {
    /// Scheme, host and port.
    base: String,
    path: Vec<Part>,
    /// Starts with `?`.
    query: Vec<Part>,
}

impl UrlTemplate {
    pub fn parse(text: &str) -> Result<Self, InvalidTemplate> {
        let authority = text.find("://").map(|at| at + 3);
        let authority = authority.ok_or_else(|| {
            InvalidTemplate::Url("the URL does not begin with http:// or https://".to_owned())
        })?;
        let end = text[authority..].find(['/', '?', '#', '\\']);
        let end = end.map_or(text.len(), |end| authority + end);
        let (base, rest) = text.split_at(end);
        if base.contains(['{', '}']) {
            return Err(InvalidTemplate::Host);
        }
        checked(base).map_err(|error| InvalidTemplate::Url(error.to_string()))?;
        if rest.contains('#') {
            return Err(InvalidTemplate::Url(
                "the URL has a fragment (#), which is never sent; write %23 for the character"
                    .to_owned(),
            ));
        }
        if rest.contains('\\') || rest.contains(|c: char| c.is_ascii_control() || c == ' ') {
            return Err(InvalidTemplate::Url(
                "the URL has a space, a backslash or a control character; encode it".to_owned(),
            ));
        }
        let (path, query) = rest.split_at(rest.find('?').unwrap_or(rest.len()));
        let template = Self {
            base: base.to_owned(),
            path: parts(path)?,
            query: parts(query)?,
        };
        if template.parts().next().is_none() || path.is_empty() || path.starts_with('/') {
            return Ok(template);
        }
        Err(InvalidTemplate::Host)
    }

    pub fn parts(&self) -> impl Iterator<Item = &Part> {
        self.path.iter().chain(&self.query)
    }

    /// Returns whether the URL is one of `http`, to another machine.
    pub fn is_open_to_listeners(&self) -> bool {
        let Ok(url) = checked(&self.base) else {
            return false;
        };
        let loopback = match url.host() {
            Some(url::Host::Ipv4(address)) => address.is_loopback(),
            Some(url::Host::Ipv6(address)) => address.is_loopback(),
            Some(url::Host::Domain(name)) => name == "localhost" || name.ends_with(".localhost"),
            None => false,
        };
        url.scheme() == "http" && !loopback
    }

    /// Returns the URL for a record.
    pub fn fill(&self, values: &Values<'_>) -> Result<String, NotSendable> {
        const PLACE: &str = "URL";
        for part in &self.path {
            if let Part::Field(name) = part
                && values.field(name).text().is_ok_and(str::is_empty)
            {
                // The path would be that of another resource.
                return Err(refused(name, "is empty"));
            }
        }
        let path = values.fill(&self.path, PLACE, encoded)?;
        if path.split('/').any(|segment| matches!(segment, "." | "..")) {
            let name = super::fields_of(&self.path).next().unwrap_or_default();
            return Err(refused(name, "makes a segment of the path that is . or .."));
        }
        let query = values.fill(&self.query, PLACE, encoded)?;
        Ok(format!("{}{path}{query}", self.base))
    }
}

fn refused(field: &str, why: &'static str) -> NotSendable {
    NotSendable::Field {
        place: "URL",
        field: field.to_owned(),
        why,
    }
}

/// Encodes every byte but letters, digits and `-._~`.
fn encoded(value: &str) -> String {
    let mut text = String::with_capacity(value.len());
    for byte in value.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                text.push(char::from(byte));
            }
            _ => text.push_str(&format!("%{byte:02X}")),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::http::template::{
        Datum,
        tests::{no_secret, record, text},
    };

    fn fill(template: &str, fields: &[(&str, Datum)]) -> Result<String, NotSendable> {
        let fields = record(fields);
        UrlTemplate::parse(template).unwrap().fill(&Values {
            fields: &fields,
            secret: &no_secret,
        })
    }

    #[test]
    fn values_are_encoded_and_stay_in_their_place() {
        let filled = fill(
            "https://api.example.org/u/{id}?q={q}",
            &[("id", text("a/b?c#d ä")), ("q", text("x&y=z+1"))],
        );
        let expected = "https://api.example.org/u/a%2Fb%3Fc%23d%20%C3%A4?q=x%26y%3Dz%2B1";
        assert_eq!(filled.unwrap(), expected);
    }

    #[test]
    fn a_value_that_would_call_another_resource_is_refused() {
        let url = "https://api.example.org/u/{id}/orders";
        for value in [text(""), text("."), text(".."), Datum::Null] {
            assert!(fill(url, &[("id", value.clone())]).is_err(), "{value:?}");
        }
        assert!(fill(url, &[("id", text("..a"))]).is_ok());
        let query = fill("https://api.example.org/u?q={id}", &[("id", text(""))]);
        assert_eq!(query.unwrap(), "https://api.example.org/u?q=");
    }

    #[test]
    fn a_host_is_fixed() {
        for wrong in [
            "https://{host}/x",
            "https://api.{region}.example.org/x",
            "https://api.example.org{path}",
            "https://api.example.org:{port}/x",
            "{scheme}://api.example.org/x",
        ] {
            let error = UrlTemplate::parse(wrong).unwrap_err();
            assert_eq!(error, InvalidTemplate::Host, "{wrong}");
        }
        for wrong in [
            "api.example.org/{id}",
            "ftp://api.example.org/{id}",
            "https://me:pw@api.example.org/{id}",
            "https://api.example.org/{id}#x",
            "https://api.example.org\\{id}",
            "https:///x",
        ] {
            assert!(UrlTemplate::parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn only_plain_http_to_another_machine_can_be_listened_to() {
        let open = |url: &str| UrlTemplate::parse(url).unwrap().is_open_to_listeners();
        assert!(open("http://api.example.org/x"));
        assert!(open("http://10.0.0.1/x"));
        for url in [
            "https://api.example.org/x",
            "http://localhost:8080/x",
            "http://127.0.0.1/x",
            "http://[::1]:80/x",
        ] {
            assert!(!open(url), "{url}");
        }
    }

    proptest! {
        #[test]
        fn a_value_comes_back_from_the_url_as_it_went_in(value in ".{1,30}") {
            prop_assume!(value != "." && value != "..");
            let url = fill("http://h/{v}?v={v}", &[("v", text(&value))]).unwrap();
            let url = url::Url::parse(&url).unwrap();
            prop_assert_eq!(url.host_str(), Some("h"));
            prop_assert_eq!(url.path_segments().unwrap().count(), 1);
            let (_, back) = url.query_pairs().next().unwrap();
            prop_assert_eq!(&*back, value.as_str());
            prop_assert_eq!(url.query_pairs().count(), 1);
        }
    }
}
