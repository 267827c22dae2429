//! Connecting to a Temporal server, with clear answers when that does not work.

use std::collections::HashMap;
use std::error::Error;
use std::path::{Path, PathBuf};
use std::time::Duration;
use std::{env, fmt, fs, io, process};

use temporalio_client::envconfig::{
    ClientConfigProfile, ConfigError, DataSource, LoadClientConfigProfileOptions,
};
use temporalio_client::errors::{ClientConnectError, InvalidHeaderError};
use temporalio_client::tonic::{self, Code, IntoRequest as _};
use temporalio_client::{Client, ClientOptions, ConnectionOptions};
use temporalio_common::data_converters::DataConverter;
use temporalio_common::envconfig::{ClientConfigTLS, load_client_config_profile};
use temporalio_common::protos::temporal::api::workflowservice::v1::DescribeNamespaceRequest;
use url::Url;

use crate::metrics::Metrics;

type Source = Box<dyn Error + Send + Sync>;

/// Where Temporal's own tools look for a server.
const DEFAULT_ADDRESS: &str = "localhost:7233";
const DEFAULT_NAMESPACE: &str = "default";

/// People give up on a command that is silent for ten seconds; a far away server with TLS needs two.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(8);

/// How to reach a Temporal server.
///
/// A value set here wins. What is not set comes from the standard `TEMPORAL_*` variables, then from the
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
/// `TEMPORAL_GRPC_META_*` headers are sent too. A variable that is set to nothing counts as not set.
///
/// ```no_run
/// # use temporal_batch::connect::{ConnectOptions, connect};
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// let options = ConnectOptions::new().address("temporal.internal:7233").namespace("billing");
/// let client = connect(&options).await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
#[must_use]
pub struct ConnectOptions {
    address: Option<String>,
    namespace: Option<String>,
    api_key: Option<String>,
    tls: Option<bool>,
    tls_ca_path: Option<PathBuf>,
    tls_cert_path: Option<PathBuf>,
    tls_key_path: Option<PathBuf>,
    tls_server_name: Option<String>,
    profile: Option<String>,
    config_file: Option<PathBuf>,
    disable_env: bool,
    disable_config_file: bool,
    identity: Option<String>,
    timeout: Duration,
    data_converter: DataConverter,
    metrics: Option<Metrics>,
}

/// Constructors.
impl ConnectOptions {
    /// Everything from the environment and the defaults.
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
    /// The server, as `host:port`. An `https://` in front turns TLS on, an `http://` insists on plain text.
    pub fn address(mut self, address: impl Into<String>) -> Self {
        self.address = Some(address.into());
        self
    }

    /// The namespace, which must exist.
    pub fn namespace(mut self, namespace: impl Into<String>) -> Self {
        self.namespace = Some(namespace.into());
        self
    }

    /// The API key to authenticate with. It turns TLS on unless [`tls`](Self::tls) says otherwise.
    pub fn api_key(mut self, api_key: impl Into<String>) -> Self {
        self.api_key = Some(api_key.into());
        self
    }

    /// TLS on or off. `false` wins over everything that would turn it on; an API key then travels in
    /// plain text.
    pub fn tls(mut self, tls: bool) -> Self {
        self.tls = Some(tls);
        self
    }

    /// A PEM file with the certificate authority that signed the server's certificate.
    pub fn tls_ca_path(mut self, path: impl Into<PathBuf>) -> Self {
        self.tls_ca_path = Some(path.into());
        self
    }

    /// A PEM file with this client's certificate (mTLS). Goes with [`tls_key_path`](Self::tls_key_path).
    pub fn tls_cert_path(mut self, path: impl Into<PathBuf>) -> Self {
        self.tls_cert_path = Some(path.into());
        self
    }

    /// A PEM file with the private key of [`tls_cert_path`](Self::tls_cert_path).
    pub fn tls_key_path(mut self, path: impl Into<PathBuf>) -> Self {
        self.tls_key_path = Some(path.into());
        self
    }

    /// The name that the server's certificate must carry, where it is not the host of the address.
    pub fn tls_server_name(mut self, name: impl Into<String>) -> Self {
        self.tls_server_name = Some(name.into());
        self
    }

    /// The profile of `temporal.toml` to use. Naming one that is not there is an error.
    pub fn profile(mut self, profile: impl Into<String>) -> Self {
        self.profile = Some(profile.into());
        self
    }

    /// The configuration file to use in place of the usual one. It must exist.
    pub fn config_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.config_file = Some(path.into());
        self
    }

    /// Whether to leave every `TEMPORAL_*` variable out of account.
    pub fn disable_env(mut self, disable: bool) -> Self {
        self.disable_env = disable;
        self
    }

    /// Whether to read no configuration file at all; [`profile`](Self::profile) and
    /// [`config_file`](Self::config_file) then mean nothing.
    pub fn disable_config_file(mut self, disable: bool) -> Self {
        self.disable_config_file = disable;
        self
    }

    /// The name of this process in workflow histories and in the Temporal UI.
    pub fn identity(mut self, identity: impl Into<String>) -> Self {
        self.identity = Some(identity.into());
        self
    }

    /// The longest that [`connect`] takes, from the name lookup to the answer about the namespace. Zero
    /// means that no server is fast enough.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// How payloads are encoded. Give one with a codec to encrypt page tokens and arguments before they
    /// reach a history; starters, workers and operators of a batch need the same one.
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

/// Shows all but the API key.
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

/// Connects, and makes sure that the namespace is there.
///
/// Bad options are refused before anything is sent. An attempt takes no longer than
/// [`timeout`](ConnectOptions::timeout) and is not repeated: a command should say at once that there is no
/// server, and a worker's supervisor restarts it.
///
/// Do not print the client with `{:?}`: the SDK then shows the headers it sends, the API key among them.
///
/// # Errors
/// Says what is wrong and what to do about it; see [`ConnectError`].
pub async fn connect(options: &ConnectOptions) -> Result<Client, ConnectError> {
    let target = options.resolve(&temporal_variables())?;
    match tokio::time::timeout(options.timeout, target.clone().open()).await {
        Ok(opened) => opened,
        Err(_) => Err(ConnectError::NoAnswer {
            address: target.address,
            timeout: options.timeout,
        }),
    }
}

/// Why [`connect`] failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// The address cannot be one. Write `host:port`.
    #[error(
        "`{address}` is not the address of a server: {problem}; write host:port, for example localhost:7233"
    )]
    InvalidAddress {
        /// The address, without a password that was in it.
        address: String,
        /// What is wrong with it.
        problem: String,
    },
    /// The address starts with one scheme and the other settings ask for the other. An API key or any TLS
    /// setting asks for TLS. Give the address as `host:port`, or switch TLS on or off.
    #[error(
        "the address `{address}` asks for {} but the other settings ask for {}; write the address as host:port, or set --tls accordingly",
        transport(!tls),
        transport(*tls)
    )]
    SchemeContradictsTls {
        /// The address.
        address: String,
        /// Whether the other settings ask for TLS.
        tls: bool,
    },
    /// A setting is there but empty. Give it a value or leave it out.
    #[error("{setting} is empty; give it a value or leave it out")]
    Empty {
        /// The option of the command line.
        setting: &'static str,
    },
    /// A variable has a value that it cannot have.
    #[error("the variable {name} is neither `true` nor `false`")]
    NotABoolean {
        /// The variable.
        name: &'static str,
    },
    /// The API key cannot be sent in a header. Most often a line break came along from the file it was
    /// kept in.
    #[error(
        "the api key holds a character that cannot be sent in a header; look for a line break or a space around it"
    )]
    InvalidApiKey,
    /// A header given with `TEMPORAL_GRPC_META_*` or in the profile cannot be sent. Its value may be a
    /// secret, so it is not shown.
    #[error("the gRPC header `{name}` cannot be sent; look for a line break in its value")]
    InvalidHeader {
        /// The header's name.
        name: String,
    },
    /// A TLS file cannot be read. Check the path and the permissions.
    #[error("cannot read `{}`, the {role}; check the path and its permissions", path.display())]
    UnreadableTlsFile {
        /// What the file is for, with the option that names it.
        role: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A TLS file holds something else than it should. PEM files have `-----BEGIN` lines; see also that
    /// certificate and key have not changed places.
    #[error("the {role} is not in PEM form; it must hold a `-----BEGIN ... {expected}-----` block")]
    NotPem {
        /// What the file is for, with the option that names it.
        role: &'static str,
        /// What the block should be called.
        expected: &'static str,
    },
    /// A client certificate without its key, or the other way round. Give both or neither.
    #[error("a client certificate and its key go together; {missing} is missing")]
    IncompleteClientCertificate {
        /// What is not there.
        missing: &'static str,
    },
    /// The configuration file that was asked for cannot be read.
    #[error("cannot read the configuration file `{}`; check --config-file", path.display())]
    UnreadableConfigFile {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The configuration file or the variables do not make sense. What a line of the file says is not
    /// shown, because it may be a secret.
    #[error("cannot use the configuration in `{}` and the TEMPORAL_* variables: {problem}", path.display())]
    InvalidConfig {
        /// The configuration file, which need not exist.
        path: PathBuf,
        /// What is wrong, and in which line.
        problem: String,
    },
    /// The configuration file has no such profile.
    #[error(
        "there is no profile `{profile}` in `{}`; add it there, or choose another with --profile or TEMPORAL_PROFILE",
        path.display()
    )]
    ProfileNotFound {
        /// The profile that was asked for.
        profile: String,
        /// Where it was looked for.
        path: PathBuf,
    },
    /// Nothing listens at the address, or there is no way to it. Start a server or name another.
    #[error(
        "no Temporal server can be reached at {address}; start one with `temporal server start-dev` or `temporal-batch dev-server`, or name another with --address or TEMPORAL_ADDRESS"
    )]
    Unreachable {
        /// The address.
        address: String,
        /// What the system said.
        source: Source,
    },
    /// Something swallows what is sent to the address: a firewall, a server that is stuck, or a program
    /// that waits for something else.
    #[error(
        "no answer from a Temporal server at {address} within {}; check the address and that nothing blocks the way, start a server with `temporal server start-dev` or `temporal-batch dev-server`, or name another with --address or TEMPORAL_ADDRESS",
        humantime::format_duration(*timeout)
    )]
    NoAnswer {
        /// The address.
        address: String,
        /// How long it was tried.
        timeout: Duration,
    },
    /// Something answered, but not as a Temporal server does over this transport. The port may belong to
    /// another program, the server may want the other of TLS and plain text, or one side may not trust
    /// the other's certificate.
    #[error(
        "what listens at {address} does not answer as a Temporal server over {}; check the address, whether the server {}, and the certificates",
        transport(*tls),
        if *tls { "has TLS (--tls=false is for one without)" } else { "wants TLS (--tls)" }
    )]
    NotUnderstood {
        /// The address.
        address: String,
        /// Whether TLS was on.
        tls: bool,
        /// What went wrong.
        source: Source,
    },
    /// The server knows who is asking, or does not, and refuses.
    #[error(
        "the server at {address} refuses access to the namespace `{namespace}`; check --namespace and the credentials (--api-key, or --tls-cert-path and --tls-key-path)"
    )]
    AccessDenied {
        /// The address.
        address: String,
        /// The namespace.
        namespace: String,
        /// What the server said.
        source: Source,
    },
    /// The server has no such namespace.
    #[error(
        "the server at {address} has no namespace `{namespace}`; create it with `temporal operator namespace create --namespace {namespace}`, or name another with --namespace or TEMPORAL_NAMESPACE"
    )]
    NamespaceNotFound {
        /// The address.
        address: String,
        /// The namespace.
        namespace: String,
    },
    /// The server answered with an error of its own.
    #[error("the server at {address} answered with an error; look into its log, or try again")]
    ServerFailed {
        /// The address.
        address: String,
        /// What the server said.
        source: Source,
    },
}

impl ConnectError {
    /// Whether there was no server, as opposed to one that did not like something. Starting one may help.
    #[must_use]
    pub fn is_unreachable(&self) -> bool {
        matches!(self, Self::Unreachable { .. } | Self::NoAnswer { .. })
    }
}

fn transport(tls: bool) -> &'static str {
    if tls { "TLS" } else { "plain text" }
}

/// The settings once everything is read and checked, ready to connect with.
#[derive(Clone)]
struct Target {
    /// As the user wrote it, for messages.
    address: String,
    namespace: String,
    tls: bool,
    connection: ConnectionOptions,
    client: ClientOptions,
}

impl ConnectOptions {
    /// Reads the files and checks everything that can be checked without a server.
    fn resolve(&self, variables: &HashMap<String, String>) -> Result<Target, ConnectError> {
        let mut profile = self.load_profile(variables)?;
        self.overlay(&mut profile)?;
        if let Some(tls) = &mut profile.tls {
            load_tls_files(tls)?;
            if tls.disable_host_verification {
                // Going on is safe: the check that was to be left out is made.
                tracing::warn!(
                    "TEMPORAL_TLS_DISABLE_HOST_VERIFICATION is not supported: the server's certificate is verified"
                );
            }
        }

        let address = profile
            .address
            .take()
            .unwrap_or_else(|| DEFAULT_ADDRESS.to_owned());
        let asks_for_tls = match &profile.tls {
            Some(tls) => Some(tls.disabled != Some(true)),
            None => profile.api_key.is_some().then_some(true),
        };
        let url = parse_address(&address, asks_for_tls)?;
        let tls = url.scheme() == "https";
        if tls {
            profile.tls.get_or_insert_default();
        }
        if let Some(api_key) = &profile.api_key {
            if !api_key.bytes().all(|byte| byte.is_ascii_graphic()) {
                return Err(ConnectError::InvalidApiKey);
            }
            if !tls {
                tracing::warn!("TLS is off: the API key travels in plain text");
            }
        }

        let namespace = profile
            .namespace
            .take()
            .unwrap_or_else(|| DEFAULT_NAMESPACE.to_owned());
        profile.address = Some(url.into());
        let mut connection = ConnectionOptions::try_from(profile)
            .map_err(|error| self.config_error(variables, error))?;
        connection.identity = self.identity.clone().unwrap_or_else(default_identity);
        // Also for the reconnects of a long-lived client.
        connection.connect_timeout = Some(self.timeout);
        connection.metrics_meter = self.metrics.as_ref().and_then(Metrics::connection_meter);
        Ok(Target {
            address,
            tls,
            connection,
            client: ClientOptions::new(namespace.as_str())
                .data_converter(self.data_converter.clone())
                .build(),
            namespace,
        })
    }

    fn load_profile(
        &self,
        variables: &HashMap<String, String>,
    ) -> Result<ClientConfigProfile, ConnectError> {
        let nothing = HashMap::new();
        let variables = if self.disable_env {
            &nothing
        } else {
            variables
        };
        for name in ["TEMPORAL_TLS", "TEMPORAL_TLS_DISABLE_HOST_VERIFICATION"] {
            // The SDK passes over a word it does not know, and then `TEMPORAL_TLS=no` turns TLS on.
            let value = variables.get(name).map(|value| value.to_lowercase());
            if !matches!(value.as_deref(), None | Some("true" | "1" | "false" | "0")) {
                return Err(ConnectError::NotABoolean { name });
            }
        }
        if self.disable_env && self.disable_config_file {
            return Ok(ClientConfigProfile::default());
        }
        let file = match &self.config_file {
            Some(path) if !self.disable_config_file => {
                let data = fs::read(path).map_err(|source| ConnectError::UnreadableConfigFile {
                    path: path.clone(),
                    source,
                })?;
                Some(DataSource::Data(data))
            }
            _ => None,
        };
        let options = LoadClientConfigProfileOptions::builder()
            .maybe_config_source(file)
            .maybe_config_file_profile(self.profile.clone())
            .disable_file(self.disable_config_file)
            .disable_env(self.disable_env)
            .build();
        // Always handed over, never left to the SDK to read: it looks at some variables even where it is
        // told not to.
        load_client_config_profile(options, Some(variables))
            .map_err(|error| self.config_error(variables, error))
    }

    /// Puts the explicit settings over those of the profile.
    fn overlay(&self, profile: &mut ClientConfigProfile) -> Result<(), ConnectError> {
        for (setting, explicit, value) in [
            ("--address", &self.address, &mut profile.address),
            ("--namespace", &self.namespace, &mut profile.namespace),
            ("--api-key", &self.api_key, &mut profile.api_key),
        ] {
            if explicit.is_some() {
                value.clone_from(explicit);
            }
            if value.as_deref() == Some("") {
                return Err(ConnectError::Empty { setting });
            }
        }

        for (path, file) in [
            (&self.tls_ca_path, TlsFile::ServerAuthority),
            (&self.tls_cert_path, TlsFile::ClientCertificate),
            (&self.tls_key_path, TlsFile::ClientKey),
        ] {
            if let Some(path) = path {
                let tls = profile.tls.get_or_insert_default();
                *file.source(tls) = Some(DataSource::Data(file.read(path)?));
                tls.disabled = Some(false);
            }
        }
        if let Some(name) = &self.tls_server_name {
            let tls = profile.tls.get_or_insert_default();
            tls.server_name = Some(name.clone());
            tls.disabled = Some(false);
        }
        if let Some(on) = self.tls {
            profile.tls.get_or_insert_default().disabled = Some(!on);
        }
        Ok(())
    }

    fn config_error(
        &self,
        variables: &HashMap<String, String>,
        error: ConfigError,
    ) -> ConnectError {
        let path = match (&self.config_file, variables.get("TEMPORAL_CONFIG_FILE")) {
            (Some(path), _) => path.clone(),
            (None, Some(path)) => path.into(),
            (None, None) => default_config_file(),
        };
        match error {
            ConfigError::ProfileNotFound(profile) => {
                ConnectError::ProfileNotFound { profile, path }
            }
            ConfigError::InvalidConfig(problem) => ConnectError::InvalidConfig { path, problem },
            // Only the first line: a parser's message goes on to quote the file, where keys are kept.
            ConfigError::LoadError(error) => ConnectError::InvalidConfig {
                path,
                problem: error
                    .to_string()
                    .lines()
                    .next()
                    .unwrap_or_default()
                    .to_owned(),
            },
        }
    }
}

impl Target {
    async fn open(self) -> Result<Client, ConnectError> {
        let client = Client::connect(self.connection.clone(), self.client.clone())
            .await
            .map_err(|error| self.connect_failed(error))?;
        let request = DescribeNamespaceRequest {
            namespace: self.namespace.clone(),
            ..Default::default()
        };
        client
            .connection()
            .workflow_service()
            .describe_namespace(request.into_request())
            .await
            .map_err(|status| match status.code() {
                Code::NotFound => ConnectError::NamespaceNotFound {
                    address: self.address.clone(),
                    namespace: self.namespace.clone(),
                },
                _ => self.call_failed(status),
            })?;
        Ok(client)
    }

    fn connect_failed(&self, error: ClientConnectError) -> ConnectError {
        match error {
            // Without its source, which prints the value.
            ClientConnectError::InvalidHeaders(
                InvalidHeaderError::InvalidAsciiHeaderKey { key, .. }
                | InvalidHeaderError::InvalidAsciiHeaderValue { key, .. }
                | InvalidHeaderError::InvalidBinaryHeaderKey { key, .. },
            ) => ConnectError::InvalidHeader { name: key },
            ClientConnectError::SystemInfoCallError(status) => self.call_failed(status),
            ClientConnectError::DnsResolutionError { source, .. } => ConnectError::Unreachable {
                address: self.address.clone(),
                source: source.into(),
            },
            ClientConnectError::TonicTransportError(error) => self.transport_failed(error.into()),
            other => self.transport_failed(other.into()),
        }
    }

    fn call_failed(&self, status: tonic::Status) -> ConnectError {
        let address = self.address.clone();
        match status.code() {
            Code::Unauthenticated | Code::PermissionDenied => ConnectError::AccessDenied {
                address,
                namespace: self.namespace.clone(),
                source: status.into(),
            },
            // The answer of a gRPC server that is not Temporal, and what the client makes of a page of
            // HTML.
            Code::Unimplemented => ConnectError::NotUnderstood {
                address,
                tls: self.tls,
                source: status.into(),
            },
            // A status of the server has no source; one that has was made by the client's transport.
            _ if status.source().is_some() => self.transport_failed(status.into()),
            _ => ConnectError::ServerFailed {
                address,
                source: status.into(),
            },
        }
    }

    /// Tells "nobody there" from "somebody who speaks otherwise".
    fn transport_failed(&self, source: Source) -> ConnectError {
        let address = self.address.clone();
        let mut cause: Option<&(dyn Error + 'static)> = Some(source.as_ref());
        while let Some(error) = cause {
            let kind = error.downcast_ref::<io::Error>().map(io::Error::kind);
            if matches!(
                kind,
                Some(
                    io::ErrorKind::ConnectionRefused
                        | io::ErrorKind::HostUnreachable
                        | io::ErrorKind::NetworkUnreachable
                        | io::ErrorKind::NetworkDown
                        | io::ErrorKind::AddrNotAvailable
                        | io::ErrorKind::TimedOut
                )
            ) {
                return ConnectError::Unreachable { address, source };
            }
            cause = error.source();
        }
        ConnectError::NotUnderstood {
            address,
            tls: self.tls,
            source,
        }
    }
}

/// `asks_for_tls` is what the other settings say, if anything. The client looks only at the scheme of the
/// URL: it would send an API key to an `http://` address in plain text whatever they say.
fn parse_address(address: &str, asks_for_tls: Option<bool>) -> Result<Url, ConnectError> {
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
fn without_userinfo(address: &str) -> &str {
    address.rsplit_once('@').map_or(address, |(_, host)| host)
}

#[derive(Clone, Copy)]
enum TlsFile {
    ServerAuthority,
    ClientCertificate,
    ClientKey,
}

impl TlsFile {
    const ALL: [Self; 3] = [
        Self::ServerAuthority,
        Self::ClientCertificate,
        Self::ClientKey,
    ];

    /// For messages.
    fn role(self) -> &'static str {
        match self {
            Self::ServerAuthority => "certificate of the server's authority (--tls-ca-path)",
            Self::ClientCertificate => "client certificate (--tls-cert-path)",
            Self::ClientKey => "client key (--tls-key-path)",
        }
    }

    /// What the name of its PEM block ends in; keys have several (`RSA PRIVATE KEY`).
    fn pem_block(self) -> &'static str {
        match self {
            Self::ServerAuthority | Self::ClientCertificate => "CERTIFICATE",
            Self::ClientKey => "PRIVATE KEY",
        }
    }

    fn source(self, tls: &mut ClientConfigTLS) -> &mut Option<DataSource> {
        match self {
            Self::ServerAuthority => &mut tls.server_ca_cert,
            Self::ClientCertificate => &mut tls.client_cert,
            Self::ClientKey => &mut tls.client_key,
        }
    }

    fn read(self, path: &Path) -> Result<Vec<u8>, ConnectError> {
        fs::read(path).map_err(|source| ConnectError::UnreadableTlsFile {
            role: self.role(),
            path: path.to_owned(),
            source,
        })
    }

    fn check(self, data: &[u8]) -> Result<(), ConnectError> {
        let block = format!("{}-----", self.pem_block());
        let is_pem = String::from_utf8_lossy(data)
            .lines()
            .any(|line| line.starts_with("-----BEGIN ") && line.trim_end().ends_with(&block));
        if is_pem {
            Ok(())
        } else {
            Err(ConnectError::NotPem {
                role: self.role(),
                expected: self.pem_block(),
            })
        }
    }
}

/// Reads what is still a path, so that the error names the file, and looks whether all can be what they
/// should be.
fn load_tls_files(tls: &mut ClientConfigTLS) -> Result<(), ConnectError> {
    if tls.disabled == Some(true) {
        return Ok(());
    }
    for file in TlsFile::ALL {
        let source = file.source(tls);
        if let Some(DataSource::Path(path)) = source {
            *source = Some(DataSource::Data(file.read(Path::new(path))?));
        }
        if let Some(DataSource::Data(data)) = source {
            file.check(data)?;
        }
    }
    match (&tls.client_cert, &tls.client_key) {
        (Some(_), None) => Err(ConnectError::IncompleteClientCertificate {
            missing: "the key (--tls-key-path)",
        }),
        (None, Some(_)) => Err(ConnectError::IncompleteClientCertificate {
            missing: "the certificate (--tls-cert-path)",
        }),
        _ => Ok(()),
    }
}

/// The variables that configure a client. Empty ones are left out, because a container file that passes
/// them on sets them to nothing; only for a header does nothing mean something, that it is not sent.
fn temporal_variables() -> HashMap<String, String> {
    env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value)))
        .filter(|(name, value)| {
            name.starts_with("TEMPORAL_")
                && (!value.is_empty() || name.starts_with("TEMPORAL_GRPC_META_"))
        })
        .map(|(name, value)| (name, value.to_string_lossy().into_owned()))
        .collect()
}

fn default_config_file() -> PathBuf {
    dirs::config_dir()
        .unwrap_or_default()
        .join("temporalio")
        .join("temporal.toml")
}

fn default_identity() -> String {
    // The standard library cannot tell the host's name; these are where the systems keep it.
    let host = fs::read_to_string("/proc/sys/kernel/hostname")
        .ok()
        .or_else(|| env::var("HOSTNAME").ok())
        .or_else(|| env::var("COMPUTERNAME").ok())
        .unwrap_or_default();
    match host.trim() {
        "" => format!("{}@unknown-host", process::id()),
        host => format!("{}@{host}", process::id()),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::time::Instant;

    use tempfile::{NamedTempFile, TempDir};
    use tokio::io::AsyncWriteExt as _;
    use tokio::net::TcpListener;

    use super::*;

    const CERTIFICATE: &str = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    const KEY: &str = "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n";

    /// Nothing of the machine that the tests run on.
    fn isolated() -> ConnectOptions {
        ConnectOptions::new()
            .disable_env(true)
            .disable_config_file(true)
    }

    fn resolve(options: &ConnectOptions) -> Result<Target, ConnectError> {
        options.resolve(&HashMap::new())
    }

    fn refused(options: &ConnectOptions) -> ConnectError {
        resolve(options)
            .err()
            .expect("these options should be refused")
    }

    fn variables(pairs: &[(&str, &str)]) -> HashMap<String, String> {
        pairs
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect()
    }

    fn file(content: &str) -> NamedTempFile {
        let mut file = NamedTempFile::new().unwrap();
        file.write_all(content.as_bytes()).unwrap();
        file
    }

    fn with_sources(error: &dyn Error) -> String {
        let mut text = error.to_string();
        let mut cause = error.source();
        while let Some(error) = cause {
            text.push_str(": ");
            text.push_str(&error.to_string());
            cause = error.source();
        }
        text
    }

    #[test]
    fn without_any_setting_it_is_the_local_default_namespace_in_plain_text() {
        let target = resolve(&isolated()).unwrap();
        assert_eq!(target.address, "localhost:7233");
        assert_eq!(target.connection.target.as_str(), "http://localhost:7233/");
        assert_eq!(target.client.namespace, "default");
        assert!(!target.tls && target.connection.tls_options.is_none());
        let identity = &target.connection.identity;
        assert!(
            identity.starts_with(&format!("{}@", process::id())),
            "{identity}"
        );
    }

    #[test]
    fn explicit_values_win_over_variables_and_those_over_the_profile() {
        let config = file(
            "[profile.default]\naddress = 'file:1'\nnamespace = 'file'\napi_key = 'file-key'\n",
        );
        let options = ConnectOptions::new()
            .config_file(config.path())
            .address("explicit:3");
        let variables = variables(&[
            ("TEMPORAL_ADDRESS", "variable:2"),
            ("TEMPORAL_NAMESPACE", "variable"),
        ]);

        let target = options.resolve(&variables).unwrap();
        assert_eq!(target.address, "explicit:3");
        assert_eq!(target.client.namespace, "variable");
        assert_eq!(target.connection.api_key.as_deref(), Some("file-key"));

        let target = options.disable_env(true).resolve(&variables).unwrap();
        assert_eq!(target.client.namespace, "file");
    }

    #[test]
    fn the_profile_is_chosen_by_option_then_variable() {
        let config = file(
            "[profile.default]\nnamespace = 'd'\n[profile.a]\nnamespace = 'a'\n[profile.b]\nnamespace = 'b'\n",
        );
        let path = config.path().to_str().unwrap();
        let options = ConnectOptions::new();
        let variables = variables(&[("TEMPORAL_CONFIG_FILE", path), ("TEMPORAL_PROFILE", "a")]);
        assert_eq!(options.resolve(&variables).unwrap().namespace, "a");
        let options = options.profile("b");
        assert_eq!(options.resolve(&variables).unwrap().namespace, "b");
        let error = options.profile("c").resolve(&variables).err().unwrap();
        assert!(matches!(error, ConnectError::ProfileNotFound { .. }));
        assert!(error.to_string().contains(path), "{error}");
    }

    #[test]
    fn disabling_the_environment_ignores_the_config_file_variable_too() {
        let config = file("[profile.default]\nnamespace = 'from-the-file'\n");
        let variables = variables(&[("TEMPORAL_CONFIG_FILE", config.path().to_str().unwrap())]);
        let options = isolated().disable_config_file(false);
        // What this machine's usual file holds, if there is one, does not matter here.
        let profile = options.load_profile(&variables).unwrap_or_default();
        assert_ne!(profile.namespace.as_deref(), Some("from-the-file"));
    }

    #[test]
    fn an_api_key_turns_tls_on_unless_it_is_off() {
        let options = isolated().api_key("key");
        let target = resolve(&options).unwrap();
        assert_eq!(target.connection.target.scheme(), "https");
        assert!(target.tls && target.connection.tls_options.is_some());

        let target = resolve(&options.tls(false)).unwrap();
        assert_eq!(target.connection.target.scheme(), "http");
        assert!(!target.tls && target.connection.tls_options.is_none());
        assert_eq!(target.connection.api_key.as_deref(), Some("key"));
    }

    #[test]
    fn tls_follows_from_the_scheme_and_from_any_tls_setting() {
        let ca = file(CERTIFICATE);
        for options in [
            isolated().tls(true),
            isolated().address("https://host:7233"),
            isolated().tls_server_name("name"),
            isolated().tls_ca_path(ca.path()),
        ] {
            let target = resolve(&options).unwrap();
            assert!(target.tls, "{options:?}");
            assert!(target.connection.tls_options.is_some(), "{options:?}");
            assert_eq!(target.connection.target.scheme(), "https", "{options:?}");
        }
        let off = variables(&[("TEMPORAL_TLS", "false")]);
        let options = ConnectOptions::new().disable_config_file(true);
        assert!(!options.resolve(&off).unwrap().tls);
        assert!(options.tls_ca_path(ca.path()).resolve(&off).unwrap().tls);
    }

    #[test]
    fn an_api_key_never_goes_to_a_plain_text_address_by_accident() {
        let error = refused(&isolated().api_key("key").address("http://host:7233"));
        assert!(matches!(
            error,
            ConnectError::SchemeContradictsTls { tls: true, .. }
        ));
        let error = refused(&isolated().tls(false).address("https://host:7233"));
        assert!(matches!(
            error,
            ConnectError::SchemeContradictsTls { tls: false, .. }
        ));
        resolve(
            &isolated()
                .api_key("key")
                .tls(false)
                .address("http://host:7233"),
        )
        .unwrap();
    }

    #[test]
    fn addresses_that_are_none_are_refused() {
        for address in [
            "localhost",
            ":7233",
            "host:port",
            "host:99999",
            "host:7233/path",
            "http://host:7233/?q",
            "ftp://host:7233",
            "://bad",
            "two words:7233",
            "::1:7233",
        ] {
            let error = refused(&isolated().address(address));
            assert!(
                matches!(error, ConnectError::InvalidAddress { .. }),
                "{address}: {error:?}"
            );
            let message = error.to_string();
            assert!(
                message.contains(address) && message.contains("localhost:7233"),
                "{message}"
            );
        }
    }

    #[test]
    fn addresses_of_every_usual_form_are_taken() {
        for (address, url) in [
            ("host:7233", "http://host:7233/"),
            ("127.0.0.1:7233", "http://127.0.0.1:7233/"),
            ("[::1]:7233", "http://[::1]:7233/"),
            ("host:80", "http://host/"),
            ("https://host:443", "https://host/"),
            ("https://host", "https://host/"),
            (
                "ns.a1b2c.tmprl.cloud:7233",
                "http://ns.a1b2c.tmprl.cloud:7233/",
            ),
        ] {
            let target = resolve(&isolated().address(address)).unwrap();
            assert_eq!(target.connection.target.as_str(), url);
            assert_eq!(target.address, address);
        }
        let target = resolve(&isolated().tls(true).address("host:443")).unwrap();
        assert_eq!(target.connection.target.port_or_known_default(), Some(443));
    }

    #[test]
    fn empty_settings_are_refused() {
        for options in [
            isolated().address(""),
            isolated().namespace(""),
            isolated().api_key(""),
        ] {
            assert!(matches!(refused(&options), ConnectError::Empty { .. }));
        }
    }

    #[test]
    fn tls_files_are_checked_before_connecting() {
        let directory = TempDir::new().unwrap();
        let missing = directory.path().join("missing.pem");
        for options in [
            isolated().tls_ca_path(&missing),
            isolated().tls_cert_path(&missing),
            isolated().tls_key_path(&missing),
        ] {
            let error = refused(&options);
            assert!(matches!(error, ConnectError::UnreadableTlsFile { .. }));
            assert!(error.to_string().contains("missing.pem"), "{error}");
            assert!(error.source().is_some());
        }

        let (certificate, key) = (file(CERTIFICATE), file(KEY));
        let error = refused(&isolated().tls_cert_path(certificate.path()));
        assert!(error.to_string().contains("--tls-key-path"), "{error}");
        let error = refused(&isolated().tls_key_path(key.path()));
        assert!(error.to_string().contains("--tls-cert-path"), "{error}");
        let swapped = isolated()
            .tls_cert_path(key.path())
            .tls_key_path(certificate.path());
        assert!(matches!(refused(&swapped), ConnectError::NotPem { .. }));

        let both = isolated()
            .tls_cert_path(certificate.path())
            .tls_key_path(key.path());
        let tls = resolve(&both).unwrap().connection.tls_options.unwrap();
        assert_eq!(
            tls.client_tls_options.unwrap().client_cert,
            CERTIFICATE.as_bytes()
        );
    }

    #[test]
    fn tls_files_from_the_environment_are_checked_too() {
        let options = ConnectOptions::new().disable_config_file(true);
        let missing = variables(&[("TEMPORAL_TLS_CLIENT_CERT_PATH", "/missing/cert.pem")]);
        let error = options.resolve(&missing).err().unwrap();
        assert!(matches!(error, ConnectError::UnreadableTlsFile { .. }));
        // With TLS off nobody needs them.
        options.tls(false).resolve(&missing).unwrap();
    }

    #[test]
    fn a_boolean_variable_that_is_none_is_refused() {
        let options = ConnectOptions::new().disable_config_file(true);
        let error = options
            .resolve(&variables(&[("TEMPORAL_TLS", "no")]))
            .err()
            .unwrap();
        assert!(matches!(
            error,
            ConnectError::NotABoolean {
                name: "TEMPORAL_TLS"
            }
        ));
    }

    #[test]
    fn a_config_file_that_was_asked_for_must_exist() {
        let directory = TempDir::new().unwrap();
        let options = isolated()
            .disable_config_file(false)
            .config_file(directory.path().join("absent.toml"));
        assert!(matches!(
            refused(&options),
            ConnectError::UnreadableConfigFile { .. }
        ));
    }

    #[test]
    fn a_broken_config_file_is_located_but_not_quoted() {
        for content in [
            "[profile.default]\napi_key = s3cret\n",
            "[profile.default]\nnamespace = 1\napi_key = 's3cret'\n",
            "[profile.default]\napi_key = 's3cret\n",
        ] {
            let config = file(content);
            let options = isolated()
                .disable_config_file(false)
                .config_file(config.path());
            let error = refused(&options);
            let message = with_sources(&error);
            assert!(message.contains("line 2"), "{message}");
            assert!(
                !format!("{message}{error:?}").contains("s3cret"),
                "{message}"
            );
        }
    }

    #[test]
    fn secrets_are_in_no_message() {
        let options = isolated()
            .api_key("s3cret")
            .address("user:s3cret@host:7233");
        let shown = format!("{options:?}");
        assert!(
            !shown.contains("s3cret") && shown.contains("api_key: Some"),
            "{shown}"
        );
        let error = refused(&options);
        assert!(!format!("{error}{error:?}").contains("s3cret"), "{error}");
    }

    #[test]
    fn an_api_key_that_no_header_can_carry_is_refused() {
        for api_key in ["s3cret\n", " s3cret", "s3crét"] {
            let error = refused(&isolated().api_key(api_key));
            assert!(matches!(error, ConnectError::InvalidApiKey));
        }
    }

    #[tokio::test]
    async fn a_header_that_cannot_be_sent_is_named_without_its_value() {
        let variables = variables(&[("TEMPORAL_GRPC_META_AUTHORIZATION", "s3cret\n")]);
        let mut target = ConnectOptions::new()
            .disable_config_file(true)
            .resolve(&variables)
            .unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        target.connection.target = Url::parse(&url).unwrap();

        let error = target.open().await.err().unwrap();
        assert!(matches!(&error, ConnectError::InvalidHeader { name } if name == "authorization"));
        assert!(!format!("{}{error:?}", with_sources(&error)).contains("s3cret"));
    }

    /// A port that nobody listens on: taken, then given back.
    async fn unused_address() -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        listener.local_addr().unwrap().to_string()
    }

    #[tokio::test]
    async fn an_unused_port_is_answered_at_once_with_what_to_do() {
        let address = unused_address().await;
        let started = Instant::now();
        let error = connect(&isolated().address(&address)).await.err().unwrap();
        assert!(
            started.elapsed() < Duration::from_secs(4),
            "{:?}",
            started.elapsed()
        );
        assert!(
            matches!(error, ConnectError::Unreachable { .. }),
            "{error:?}"
        );
        assert!(error.is_unreachable());
        let message = error.to_string();
        for part in [
            address.as_str(),
            "temporal server start-dev",
            "temporal-batch dev-server",
            "--address",
        ] {
            assert!(message.contains(part), "{message}");
        }
        assert!(
            with_sources(&error).contains("refused"),
            "{}",
            with_sources(&error)
        );
    }

    #[tokio::test]
    async fn an_unused_port_of_a_name_is_unreachable_too() {
        let address = unused_address().await.replace("127.0.0.1", "localhost");
        let error = connect(&isolated().address(&address)).await.err().unwrap();
        assert!(
            matches!(error, ConnectError::Unreachable { .. }),
            "{error:?}"
        );
    }

    #[tokio::test]
    async fn a_name_that_does_not_exist_is_unreachable() {
        // Reserved never to exist. A machine without a name server may not say so in time.
        let options = isolated()
            .address("host.invalid:7233")
            .timeout(Duration::from_secs(5));
        let error = connect(&options).await.err().unwrap();
        assert!(error.is_unreachable(), "{error:?}");
    }

    #[tokio::test]
    async fn a_server_that_says_nothing_is_given_up_on_in_time() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let options = isolated()
            .address(&address)
            .timeout(Duration::from_millis(300));
        let started = Instant::now();
        let error = connect(&options).await.err().unwrap();
        assert!(
            started.elapsed() < Duration::from_secs(3),
            "{:?}",
            started.elapsed()
        );
        assert!(matches!(error, ConnectError::NoAnswer { .. }), "{error:?}");
        let message = error.to_string();
        assert!(
            message.contains(&address) && message.contains("300ms"),
            "{message}"
        );
    }

    #[tokio::test]
    async fn a_program_that_is_no_temporal_server_is_called_that() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let answering = tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
            }
        });
        for tls in [false, true] {
            let options = isolated().address(&address).tls(tls);
            let error = connect(&options).await.err().unwrap();
            assert!(
                matches!(error, ConnectError::NotUnderstood { tls: t, .. } if t == tls),
                "{error:?}"
            );
            assert!(error.to_string().contains("--tls"), "{error}");
        }
        answering.abort();
    }
}
