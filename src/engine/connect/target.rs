//! The way from options to a connection: everything is read and checked before the server is asked.

use std::collections::HashMap;
use std::error::Error;
use std::io::{self, ErrorKind::NotFound};
use std::path::PathBuf;

use futures::future::BoxFuture;
use temporalio_client::envconfig::{
    ClientConfigProfile, ConfigError, DataSource, LoadClientConfigProfileOptions,
};
use temporalio_client::errors::{ClientConnectError, InvalidHeaderError};
use temporalio_client::tonic::{self, Code, IntoRequest as _};
use temporalio_client::{Client, ClientOptions, ConnectionOptions};
use temporalio_common::envconfig::load_client_config_profile;
use temporalio_common::protos::temporal::api::workflowservice::v1::DescribeNamespaceRequest;

use super::ConnectError;
use super::address::parse_address;
use super::environment::{default_config_file, default_identity, temporal_variables};
use super::error::Source;
use super::options::{ConnectOptions, DEFAULT_ADDRESS, DEFAULT_NAMESPACE};
use super::tls::{TlsFile, load_tls_files};
use crate::{base::small_file, metrics::Metrics};

/// Connects and checks that the namespace exists.
///
/// Invalid options are refused before anything is sent. There is one attempt, limited by
/// [`timeout`](ConnectOptions::timeout): a command should report at once that there is no server, and a
/// supervisor restarts a worker.
///
/// Do not print the client with `{:?}`: the SDK then shows the headers that it sends, including the API key.
///
/// # Errors
/// The cause, with a way to correct it; see [`ConnectError`].
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

/// Returns the address that these options lead to, as it was written.
#[cfg(feature = "cli")]
pub(crate) fn address_of(options: &ConnectOptions) -> Result<String, ConnectError> {
    Ok(options.resolve(&temporal_variables())?.address)
}

/// The settings after everything is read and checked.
#[derive(Clone)]
pub(super) struct Target {
    /// The address as the user wrote it, for messages.
    pub(super) address: String,
    pub(super) namespace: String,
    pub(super) tls: bool,
    pub(super) connection: ConnectionOptions,
    pub(super) client: ClientOptions,
}

impl ConnectOptions {
    /// Reads the files and checks everything that can be checked without a server.
    pub(super) fn resolve(
        &self,
        variables: &HashMap<String, String>,
    ) -> Result<Target, ConnectError> {
        let mut profile = self.load_profile(variables)?;
        self.overlay(&mut profile)?;
        if let Some(tls) = &mut profile.tls {
            load_tls_files(tls)?;
            if tls.disable_host_verification {
                // Continuing is safe, because the verification is not skipped.
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
        // The limit also applies to reconnects of a long-lived client.
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

    pub(super) fn load_profile(
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
            // The SDK ignores words that it does not know, so `TEMPORAL_TLS=no` would turn TLS on.
            let value = variables.get(name).map(|value| value.to_lowercase());
            if !matches!(value.as_deref(), None | Some("true" | "1" | "false" | "0")) {
                return Err(ConnectError::NotABoolean { name });
            }
        }
        if self.disable_env && self.disable_config_file {
            return Ok(ClientConfigProfile::default());
        }
        let file = match self.disable_config_file {
            true => None,
            false => self.read_config_file(variables)?,
        };
        let options = LoadClientConfigProfileOptions::builder()
            .maybe_config_source(file)
            .maybe_config_file_profile(self.profile.clone())
            .disable_file(self.disable_config_file)
            .disable_env(self.disable_env)
            .build();
        // The variables are passed in, because the SDK reads some of them even if told not to.
        load_client_config_profile(options, Some(variables))
            .map_err(|error| self.config_error(variables, error))
    }

    fn config_path(&self, variables: &HashMap<String, String>) -> Option<PathBuf> {
        match (&self.config_file, variables.get("TEMPORAL_CONFIG_FILE")) {
            (Some(path), _) => Some(path.clone()),
            (None, Some(path)) => Some(path.into()),
            (None, None) => default_config_file(),
        }
    }

    /// Reads the configuration file. The SDK does not read it, because it would read an endless device forever.
    fn read_config_file(
        &self,
        variables: &HashMap<String, String>,
    ) -> Result<Option<DataSource>, ConnectError> {
        let Some(path) = self.config_path(variables) else {
            return Ok(None);
        };
        match small_file::read(&path) {
            Ok(data) => Ok(Some(DataSource::Data(data))),
            Err(error) if self.config_file.is_none() && error.kind() == NotFound => Ok(None),
            Err(source) => Err(ConnectError::UnreadableConfigFile { path, source }),
        }
    }

    /// Overrides the settings of the profile by the explicit ones.
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
        let path = self.config_path(variables).unwrap_or_default();
        match error {
            ConfigError::ProfileNotFound(profile) => {
                ConnectError::ProfileNotFound { profile, path }
            }
            ConfigError::InvalidConfig(problem) => ConnectError::InvalidConfig { path, problem },
            // Only the first line is kept, because the rest of a parser's message quotes the file, which
            // contains keys.
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
    pub(super) fn open(self) -> BoxFuture<'static, Result<Client, ConnectError>> {
        Box::pin(async move {
            let client =
                temporal_batch_connection::client(self.connection.clone(), self.client.clone())
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
        })
    }

    fn connect_failed(&self, error: ClientConnectError) -> ConnectError {
        match error {
            // The source is dropped, because it prints the value.
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
            // A gRPC server other than Temporal answers like this. The client also maps an HTML page to it.
            Code::Unimplemented => ConnectError::NotUnderstood {
                address,
                tls: self.tls,
                source: status.into(),
            },
            // A status from the server has no source. A status with a source stems from the client's transport.
            _ if status.source().is_some() => self.transport_failed(status.into()),
            _ => ConnectError::ServerFailed {
                address,
                source: status.into(),
            },
        }
    }

    /// Distinguishes an unreachable server from one that does not understand the request.
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
