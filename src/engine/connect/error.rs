//! The errors of a connection.

use std::error::Error;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use crate::base::text::exactly;

pub(super) type Source = Box<dyn Error + Send + Sync>;

/// The reason why [`connect`](crate::engine::connect::connect) failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// The address is not valid. Write `host:port`.
    #[error(
        "`{address}` is not the address of a server: {problem}; write host:port, for example localhost:7233"
    )]
    InvalidAddress {
        /// The address, without its password.
        address: String,
        /// The problem.
        problem: String,
    },
    /// The address has one scheme, and the other settings ask for the other. An API key or any TLS setting asks
    /// for TLS. Give the address as `host:port`, or switch TLS on or off.
    #[error(
        "the address `{address}` asks for {} but the other settings ask for {}; write the address as host:port, or set --tls accordingly",
        transport(!tls),
        transport(*tls)
    )]
    SchemeContradictsTls {
        /// The address.
        address: String,
        /// True if the other settings ask for TLS.
        tls: bool,
    },
    /// A setting is empty. Give it a value or leave it out.
    #[error("{setting} is empty; give it a value or leave it out")]
    Empty {
        /// The option of the command line.
        setting: &'static str,
    },
    /// The value of a boolean variable is neither true nor false.
    #[error("the variable {name} is neither `true` nor `false`")]
    NotABoolean {
        /// The variable.
        name: &'static str,
    },
    /// The API key cannot be sent in a header. The most common cause is a line break from the file in which it
    /// was kept.
    #[error(
        "the API key contains a character that cannot be sent in a header; look for a line break or a space around it"
    )]
    InvalidApiKey,
    /// A header from `TEMPORAL_GRPC_META_*` or the profile cannot be sent. Its value may be a secret, so it is
    /// not shown.
    #[error("the gRPC header `{name}` cannot be sent; look for a line break in its value")]
    InvalidHeader {
        /// The header's name.
        name: String,
    },
    /// A TLS file cannot be read. Check the path and the permissions.
    #[error("cannot read `{}`, the {role}; check the path and its permissions", path.display())]
    UnreadableTlsFile {
        /// The purpose of the file, with the option that names it.
        role: &'static str,
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// A TLS file is not in PEM form, with `-----BEGIN` lines. The certificate and the key may have been
    /// swapped.
    #[error(
        "the {role} is not in PEM form; it must contain a `-----BEGIN ... {expected}-----` block"
    )]
    NotPem {
        /// The purpose of the file, with the option that names it.
        role: &'static str,
        /// The expected name of the block.
        expected: &'static str,
    },
    /// A client certificate has no key, or a key no certificate. Give both or neither.
    #[error("a client certificate and its key go together; {missing} is missing")]
    IncompleteClientCertificate {
        /// The missing part.
        missing: &'static str,
    },
    /// The configuration file that was named cannot be read.
    #[error("cannot read the configuration file `{}`; check --config-file or TEMPORAL_CONFIG_FILE", path.display())]
    UnreadableConfigFile {
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// The configuration file or the variables are not valid. Lines of the file are not shown, because they may
    /// contain secrets.
    #[error("cannot use the configuration in `{}` and the TEMPORAL_* variables: {problem}", path.display())]
    InvalidConfig {
        /// The configuration file, which need not exist.
        path: PathBuf,
        /// The problem, with its line.
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
        /// The file that was searched.
        path: PathBuf,
    },
    /// The address has no server, or there is no route to it. Start a server or name another.
    #[error(
        "no Temporal server can be reached at {address}; start one with `temporal server start-dev` or `temporal-batch dev-server`, or name another with --address or TEMPORAL_ADDRESS"
    )]
    Unreachable {
        /// The address.
        address: String,
        /// The system's error.
        source: Source,
    },
    /// The connection gets no answer: a firewall drops it, the server is stuck, or another program is waiting
    /// for input.
    #[error(
        "no answer from a Temporal server at {address} within {}; check the address and that nothing blocks the way, start a server with `temporal server start-dev` or `temporal-batch dev-server`, or name another with --address or TEMPORAL_ADDRESS",
        exactly(*timeout)
    )]
    NoAnswer {
        /// The address.
        address: String,
        /// The time limit.
        timeout: Duration,
    },
    /// The program at the address does not answer like a Temporal server over this transport. It may be another
    /// program, the server may require TLS or plain text, or one side may not trust the other's certificate.
    #[error(
        "the program at {address} does not answer as a Temporal server over {}; check the address, whether the server {}, and the certificates",
        transport(*tls),
        if *tls { "has TLS (--tls=false is for one without)" } else { "requires TLS (--tls)" }
    )]
    NotUnderstood {
        /// The address.
        address: String,
        /// True if TLS was on.
        tls: bool,
        /// The cause.
        source: Source,
    },
    /// The server refuses access.
    #[error(
        "the server at {address} refuses access to the namespace `{namespace}`; check --namespace and the credentials (--api-key, or --tls-cert-path and --tls-key-path)"
    )]
    AccessDenied {
        /// The address.
        address: String,
        /// The namespace.
        namespace: String,
        /// The server's error.
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
    /// The server answered with an internal error.
    #[error("the server at {address} answered with an error; look into its log, or try again")]
    ServerFailed {
        /// The address.
        address: String,
        /// The server's error.
        source: Source,
    },
}

impl ConnectError {
    /// Returns whether no server was reached, as opposed to a server that refused. Starting a server may help.
    #[must_use]
    pub fn is_unreachable(&self) -> bool {
        matches!(self, Self::Unreachable { .. } | Self::NoAnswer { .. })
    }
}

fn transport(tls: bool) -> &'static str {
    if tls { "TLS" } else { "plain text" }
}
