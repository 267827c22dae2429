//! The options of a connection.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use temporalio_common::data_converters::DataConverter;

use super::address::without_userinfo;
use crate::metrics::Metrics;

/// The default address of Temporal's own tools.
pub(super) const DEFAULT_ADDRESS: &str = "localhost:7233";
pub(super) const DEFAULT_NAMESPACE: &str = "default";

/// Default time limit. People abandon a command that is silent for ten seconds; a distant server with TLS needs
/// two.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(8);

/// The options of a connection to a Temporal server.
///
/// A value set here takes precedence. Other values come from the standard `TEMPORAL_*` variables, then from the
/// profile in `temporal.toml`, then from the defaults:
///
/// | setting | variable | default |
/// |---|---|---|
/// | [`address`](Self::address) | `TEMPORAL_ADDRESS` | `localhost:7233` |
/// | [`namespace`](Self::namespace) | `TEMPORAL_NAMESPACE` | `default` |
/// | [`api_key`](Self::api_key) | `TEMPORAL_API_KEY` | none |
/// | [`tls`](Self::tls) | `TEMPORAL_TLS` | on with an API key, a TLS setting or an `https://` address, else off |
/// | [`tls_ca_path`](Self::tls_ca_path) | `TEMPORAL_TLS_SERVER_CA_CERT_PATH`, `_DATA` | the system's roots |
/// | [`tls_cert_path`](Self::tls_cert_path) | `TEMPORAL_TLS_CLIENT_CERT_PATH`, `_DATA` | none |
/// | [`tls_key_path`](Self::tls_key_path) | `TEMPORAL_TLS_CLIENT_KEY_PATH`, `_DATA` | none |
/// | [`tls_server_name`](Self::tls_server_name) | `TEMPORAL_TLS_SERVER_NAME` | the host of the address |
/// | [`profile`](Self::profile) | `TEMPORAL_PROFILE` | `default` |
/// | [`config_file`](Self::config_file) | `TEMPORAL_CONFIG_FILE` | `temporalio/temporal.toml` in the user's configuration directory |
/// | [`identity`](Self::identity) | | `pid@host` |
/// | [`timeout`](Self::timeout) | | 8 seconds |
///
/// `TEMPORAL_GRPC_META_*` headers are also sent. An empty variable counts as not set.
///
/// ```no_run
/// # use temporal_batch::{ConnectOptions, connect};
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// let options = ConnectOptions::new().address("temporal.internal:7233").namespace("billing");
/// let client = connect(&options).await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
#[must_use]
pub struct ConnectOptions {
    pub(super) address: Option<String>,
    pub(super) namespace: Option<String>,
    pub(super) api_key: Option<String>,
    pub(super) tls: Option<bool>,
    pub(super) tls_ca_path: Option<PathBuf>,
    pub(super) tls_cert_path: Option<PathBuf>,
    pub(super) tls_key_path: Option<PathBuf>,
    pub(super) tls_server_name: Option<String>,
    pub(super) profile: Option<String>,
    pub(super) config_file: Option<PathBuf>,
    pub(super) disable_env: bool,
    pub(super) disable_config_file: bool,
    pub(super) identity: Option<String>,
    pub(super) timeout: Duration,
    pub(super) data_converter: DataConverter,
    pub(super) metrics: Option<Metrics>,
}

/// Constructors.
impl ConnectOptions {
    /// Options that come entirely from the environment and the defaults.
    pub fn new() -> Self {
        Self {
            address: None,
            namespace: None,
            api_key: None,
            tls: None,
            tls_ca_path: None,
            tls_cert_path: None,
            tls_key_path: None,
            tls_server_name: None,
            profile: None,
            config_file: None,
            disable_env: false,
            disable_config_file: false,
            identity: None,
            timeout: DEFAULT_TIMEOUT,
            data_converter: DataConverter::default(),
            metrics: None,
        }
    }
}

/// Settings.
impl ConnectOptions {
    /// Sets the server, as `host:port`. The prefix `https://` turns TLS on, and `http://` requires plain text.
    pub fn address(mut self, address: impl Into<String>) -> Self {
        self.address = Some(address.into());
        self
    }

    /// Sets the namespace, which must exist.
    pub fn namespace(mut self, namespace: impl Into<String>) -> Self {
        self.namespace = Some(namespace.into());
        self
    }

    /// Sets the API key. It turns TLS on unless [`tls`](Self::tls) is set.
    pub fn api_key(mut self, api_key: impl Into<String>) -> Self {
        self.api_key = Some(api_key.into());
        self
    }

    /// Turns TLS on or off. `false` overrides everything that would turn it on, and an API key is then sent in
    /// plain text.
    pub fn tls(mut self, tls: bool) -> Self {
        self.tls = Some(tls);
        self
    }

    /// Sets the PEM file with the certificate authority of the server's certificate.
    pub fn tls_ca_path(mut self, path: impl Into<PathBuf>) -> Self {
        self.tls_ca_path = Some(path.into());
        self
    }

    /// Sets the PEM file with this client's certificate (mTLS). Requires [`tls_key_path`](Self::tls_key_path).
    pub fn tls_cert_path(mut self, path: impl Into<PathBuf>) -> Self {
        self.tls_cert_path = Some(path.into());
        self
    }

    /// Sets the PEM file with the private key of [`tls_cert_path`](Self::tls_cert_path).
    pub fn tls_key_path(mut self, path: impl Into<PathBuf>) -> Self {
        self.tls_key_path = Some(path.into());
        self
    }

    /// Sets the name that the server's certificate must have, if it is not the host of the address.
    pub fn tls_server_name(mut self, name: impl Into<String>) -> Self {
        self.tls_server_name = Some(name.into());
        self
    }

    /// Sets the profile of `temporal.toml`. It must exist.
    pub fn profile(mut self, profile: impl Into<String>) -> Self {
        self.profile = Some(profile.into());
        self
    }

    /// Sets the configuration file, in place of the default. It must exist.
    pub fn config_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.config_file = Some(path.into());
        self
    }

    /// Ignores every `TEMPORAL_*` variable.
    pub fn disable_env(mut self, disable: bool) -> Self {
        self.disable_env = disable;
        self
    }

    /// Reads no configuration file. [`profile`](Self::profile) and [`config_file`](Self::config_file) then have
    /// no effect.
    pub fn disable_config_file(mut self, disable: bool) -> Self {
        self.disable_config_file = disable;
        self
    }

    /// Sets the name of this process in workflow histories and in the Temporal UI.
    pub fn identity(mut self, identity: impl Into<String>) -> Self {
        self.identity = Some(identity.into());
        self
    }

    /// Limits the time of [`connect`](crate::engine::connect::connect), from the name lookup to the answer
    /// about the namespace. With zero every server is too slow.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Sets the encoding of payloads. Use a converter with a codec to encrypt page tokens and arguments before
    /// they reach a history. Starters, workers and operators of a batch need the same one.
    pub fn data_converter(mut self, data_converter: DataConverter) -> Self {
        self.data_converter = data_converter;
        self
    }

    /// Counts the requests of this connection (`temporal_request_...`).
    pub fn metrics(mut self, metrics: &Metrics) -> Self {
        self.metrics = Some(metrics.clone());
        self
    }
}

impl Default for ConnectOptions {
    fn default() -> Self {
        Self::new()
    }
}

/// Shows everything except the API key.
impl fmt::Debug for ConnectOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConnectOptions")
            .field("address", &self.address.as_deref().map(without_userinfo))
            .field("namespace", &self.namespace)
            .field("api_key", &self.api_key.as_ref().map(|_| "(hidden)"))
            .field("tls", &self.tls)
            .field("tls_ca_path", &self.tls_ca_path)
            .field("tls_cert_path", &self.tls_cert_path)
            .field("tls_key_path", &self.tls_key_path)
            .field("tls_server_name", &self.tls_server_name)
            .field("profile", &self.profile)
            .field("config_file", &self.config_file)
            .field("disable_env", &self.disable_env)
            .field("disable_config_file", &self.disable_config_file)
            .field("identity", &self.identity)
            .field("timeout", &self.timeout)
            .finish_non_exhaustive()
    }
}
