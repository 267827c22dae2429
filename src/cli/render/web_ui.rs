//! Temporal's web UI, and the page of a batch in it.
//!
//! A server does not tell the address of its web UI. The operator can name it (`--ui-address`, `TEMPORAL_UI_ADDRESS`).
//! A dev server that this program starts on this machine leaves a note with its address for the other commands of the
//! same user.

use std::{
    fs,
    io::Write as _,
    net::{SocketAddr, TcpStream},
    path::PathBuf,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use crate::{
    base::private_files,
    cli::{output::note, state_directory::state_directory},
    dev_server::DevServer,
};

/// The variable that stands for `--ui-address`.
pub(crate) const VARIABLE: &str = "TEMPORAL_UI_ADDRESS";
/// The wait for a web UI on this machine, which answers at once.
const PATIENCE: Duration = Duration::from_millis(500);

/// The web UI of the server that this process is connected to.
static KNOWN: Mutex<Option<WebUi>> = Mutex::new(None);

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct WebUi {
    pub(crate) url: String,
    pub(crate) namespace: String,
}

impl WebUi {
    /// Returns the page of a batch.
    pub(crate) fn of_batch(&self, batch_id: &str) -> String {
        let (namespace, batch) = (encoded(&self.namespace), encoded(batch_id));
        format!("{}/namespaces/{namespace}/workflows/{batch}", self.url)
    }
}

/// Records the web UI of the server that the process uses from now on.
pub(crate) fn is_at(web_ui: Option<WebUi>) {
    *KNOWN.lock().unwrap_or_else(PoisonError::into_inner) = web_ui;
}

/// Returns the page of a batch, if the web UI is known.
pub(crate) fn link(batch_id: &str) -> Option<String> {
    let known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    known.as_ref().map(|web_ui| web_ui.of_batch(batch_id))
}

/// Prints the page of a batch for people.
pub(crate) fn tell(batch_id: &str) {
    if let Some(link) = link(batch_id) {
        note(format_args!("web UI: {link}"));
    }
}

/// Reads an address: `http://HOST:PORT`, `https://HOST/PATH`, or `HOST:PORT`.
pub(crate) fn address(text: &str) -> Result<String, String> {
    let wrong = || {
        format!(
            "`{text}` is not the address of a web UI; write one such as http://localhost:8233 or https://temporal.example.com"
        )
    };
    let text = text.trim();
    let with_scheme = match text.contains("://") {
        true => text.to_owned(),
        false => format!("http://{text}"),
    };
    let url = url::Url::parse(&with_scheme).map_err(|_| wrong())?;
    let plain = matches!(url.scheme(), "http" | "https")
        && url.has_host()
        && url.username().is_empty()
        && url.password().is_none()
        && url.query().is_none()
        && url.fragment().is_none();
    match plain {
        true => Ok(url.as_str().trim_end_matches('/').to_owned()),
        false => Err(wrong()),
    }
}

/// Returns the address in the environment variable.
pub(crate) fn of_variable() -> Result<Option<String>, String> {
    match std::env::var(VARIABLE) {
        Ok(text) if !text.trim().is_empty() => address(&text)
            .map(Some)
            .map_err(|wrong| format!("the variable {VARIABLE}: {wrong}")),
        _ => Ok(None),
    }
}

/// Returns a segment of the path of a URL.
fn encoded(text: &str) -> String {
    text.bytes()
        .map(|byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                char::from(byte).to_string()
            }
            byte => format!("%{byte:02X}"),
        })
        .collect()
}

/// The note with the address of a dev server's web UI. It is removed when the server stops.
#[derive(Debug)]
pub(crate) struct Noted(PathBuf);

impl Noted {
    /// Leaves a note for commands that connect to this server. Without the note they show no link.
    pub(crate) fn of_server(server: &DevServer) -> Option<Self> {
        let address = server.address();
        let (_, port) = address.rsplit_once(':')?;
        Self::of(port.parse().ok()?, &server.ui_url()?)
    }

    fn of(port: u16, url: &str) -> Option<Self> {
        let path = file(port)?;
        private_files::directory(path.parent()?).ok()?;
        let mut file = private_files::file()
            .create(true)
            .truncate(true)
            .open(&path)
            .ok()?;
        file.write_all(url.as_bytes()).ok()?;
        Some(Self(path))
    }
}

impl Drop for Noted {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// Returns the web UI of the dev server on this port, if the server left a note and the page still answers.
pub(crate) fn noted(port: u16) -> Option<String> {
    let text = fs::read_to_string(file(port)?).ok()?;
    let url = address(&text).ok()?;
    let ui_port = url::Url::parse(&url).ok()?.port()?;
    // A server that was killed could not remove its note.
    let there = SocketAddr::from(([127, 0, 0, 1], ui_port));
    TcpStream::connect_timeout(&there, PATIENCE).ok()?;
    Some(url)
}

fn file(port: u16) -> Option<PathBuf> {
    Some(state_directory()?.join(format!("web-ui-{port}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_one_of_a_web_page() {
        for (text, read) in [
            ("http://localhost:8233", "http://localhost:8233"),
            ("localhost:8233", "http://localhost:8233"),
            (
                "https://temporal.example.com/ui/",
                "https://temporal.example.com/ui",
            ),
            (" 127.0.0.1:80 ", "http://127.0.0.1"),
        ] {
            assert_eq!(address(text).as_deref(), Ok(read), "{text}");
        }
        for text in [
            "",
            "ftp://host",
            "http://",
            "http://a b",
            "http://u:p@host",
            "https://h/?q=1",
        ] {
            let refused = address(text).unwrap_err();
            assert!(
                refused.contains("http://localhost:8233"),
                "{text}: {refused}"
            );
        }
    }

    #[test]
    fn a_link_leads_to_the_batch_whatever_its_id() {
        let web_ui = WebUi {
            url: "http://localhost:8233".to_owned(),
            namespace: "default".to_owned(),
        };
        assert_eq!(
            web_ui.of_batch("prices/2026 #1"),
            "http://localhost:8233/namespaces/default/workflows/prices%2F2026%20%231"
        );
    }

    #[test]
    fn a_note_is_believed_while_the_page_is_there() {
        let page = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = page.local_addr().unwrap().port();
        let url = format!("http://127.0.0.1:{port}");
        // Its own port stands for that of the server, so that no other test has the same.
        let noted_here = Noted::of(port, &url).unwrap();
        assert_eq!(noted(port).as_deref(), Some(&*url));
        drop(page);
        assert_eq!(noted(port), None, "the server was killed");
        let path = noted_here.0.clone();
        drop(noted_here);
        assert!(!path.exists());
    }
}
