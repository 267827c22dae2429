//! Why there is no connection.

use std::error::Error;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

pub(super) type Source = Box<dyn Error + Send + Sync>;

/// Why [`connect`](crate::engine::connect::connect) failed.
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
    #[error("cannot read the configuration file `{}`; check --config-file or TEMPORAL_CONFIG_FILE", path.display())]
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
