//! The Temporal server of a command, and the dev server that `--dev` starts.

use std::{path::PathBuf, time::Duration};

use clap::Args;

use temporalio_client::NamespacedClient as _;

use crate::{
    base::private_files,
    batch::validate::validate_id,
    cli::{
        exit::{CliError, CliResult},
        output::{self, note},
        render::web_ui::{self, Noted, WebUi},
        shell::{Program, quoted},
        state_directory::state_directory,
    },
    dev_server::{DevServer, DevServerOptions},
    engine::{
        client::{BatchClient, BatchHandle, outage::OUTAGE_TIMEOUT},
        connect::{ConnectError, ConnectOptions, address_of},
    },
    metrics::Metrics,
};

// A doc comment would become the help of the commands. Settings without a flag come from the `TEMPORAL_*` variables and
// the profile in `temporal.toml`: see `ConnectOptions`.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Connection (also TEMPORAL_* variables and temporal.toml)")]
pub(crate) struct ConnectionArgs {
    /// The server, as host:port [default: localhost:7233]
    #[arg(long, global = true, value_name = "HOST:PORT")]
    address: Option<String>,

    /// The namespace [default: default]
    #[arg(long, global = true)]
    namespace: Option<String>,

    /// An API key; better given as TEMPORAL_API_KEY, because arguments can be seen by others
    #[arg(long, global = true, value_name = "KEY")]
    api_key: Option<String>,

    /// TLS on, or off with --tls=false
    #[arg(
        long,
        global = true,
        value_name = "BOOL",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true"
    )]
    tls: Option<bool>,

    /// PEM file with the authority that signed the server's certificate
    #[arg(long, global = true, value_name = "FILE")]
    tls_ca_path: Option<PathBuf>,

    /// PEM file with the client's certificate
    #[arg(long, global = true, value_name = "FILE")]
    tls_cert_path: Option<PathBuf>,

    /// PEM file with the client's private key
    #[arg(long, global = true, value_name = "FILE")]
    tls_key_path: Option<PathBuf>,

    /// The name that the server's certificate must carry
    #[arg(long, global = true, value_name = "NAME")]
    tls_server_name: Option<String>,

    /// The profile of the configuration file
    #[arg(long, global = true, value_name = "NAME")]
    profile: Option<String>,

    /// The configuration file in place of the usual temporal.toml
    #[arg(long, global = true, value_name = "FILE")]
    config_file: Option<PathBuf>,

    /// Keep trying for this long when the server stops answering [default: 30m]
    #[arg(long, global = true, value_name = "DURATION", value_parser = humantime::parse_duration)]
    outage_timeout: Option<Duration>,

    /// Temporal's web UI, for links to batches; also TEMPORAL_UI_ADDRESS [default: that of a dev server on this
    /// machine]
    #[arg(long, global = true, value_name = "URL", value_parser = web_ui::address)]
    ui_address: Option<String>,

    /// Start the embedded dev server if no server answers; it ends with the command, its state is kept
    #[arg(long, global = true)]
    dev: bool,

    /// The name of the program, for commands that are printed.
    #[arg(skip)]
    program: String,
}

/// A connection, and the dev server behind it if `--dev` had to start one.
pub(crate) struct Connected {
    pub(crate) client: BatchClient,
    pub(crate) server: Option<DevServer>,
    web_ui: Option<Noted>,
}

impl Connected {
    /// Stops the dev server that `--dev` started.
    pub(crate) async fn close(self) -> CliResult<()> {
        drop(self.web_ui);
        match self.server {
            Some(server) => Ok(server.stop().await?),
            None => Ok(()),
        }
    }
}

impl ConnectionArgs {
    /// Returns the flags that were given, with their values; `--dev` has an empty one.
    fn given(&self) -> impl Iterator<Item = (&'static str, String)> {
        let path = |path: &Option<PathBuf>| Some(path.as_ref()?.display().to_string());
        let outage_timeout = self.outage_timeout.map(output::exactly);
        [
            ("--address", self.address.clone()),
            ("--namespace", self.namespace.clone()),
            ("--api-key", self.api_key.clone()),
            ("--tls", self.tls.map(|tls| tls.to_string())),
            ("--tls-ca-path", path(&self.tls_ca_path)),
            ("--tls-cert-path", path(&self.tls_cert_path)),
            ("--tls-key-path", path(&self.tls_key_path)),
            ("--tls-server-name", self.tls_server_name.clone()),
            ("--profile", self.profile.clone()),
            ("--config-file", path(&self.config_file)),
            ("--outage-timeout", outage_timeout),
            ("--ui-address", self.ui_address.clone()),
            ("--dev", self.dev.then(String::new)),
        ]
        .into_iter()
        .filter_map(|(flag, value)| Some((flag, value?)))
    }

    /// Returns the first flag that was given, for the error of a command with a server of its own.
    pub(crate) fn first_given(&self) -> Option<&'static str> {
        self.given().next().map(|(flag, _)| flag)
    }

    /// Returns the program, which prints its commands with the flags that were given here. An API key is left to the
    /// environment.
    pub(crate) fn program(&self, database: Option<String>) -> Program {
        let flags = self.given().filter(|(flag, _)| *flag != "--api-key");
        let flags = flags.map(|(flag, value)| match flag {
            "--dev" => format!(" {flag}"),
            "--tls" => format!(" {flag}={value}"),
            flag => format!(" {flag} {}", quoted(&value)),
        });
        Program {
            name: self.program.clone(),
            server: flags.collect(),
            database,
        }
    }

    /// Returns these arguments for a program of this name.
    pub(crate) fn of(self, program: &str) -> Self {
        Self {
            program: program.to_owned(),
            ..self
        }
    }

    fn options(&self) -> ConnectOptions {
        let mut options = ConnectOptions::new();
        macro_rules! pass_on {
            ($($setting:ident),*) => {$(
                if let Some(value) = &self.$setting {
                    options = options.$setting(value.clone());
                }
            )*};
        }
        pass_on!(
            address,
            namespace,
            api_key,
            tls_ca_path,
            tls_cert_path,
            tls_key_path
        );
        pass_on!(tls_server_name, profile, config_file);
        if let Some(tls) = self.tls {
            options = options.tls(tls);
        }
        options
    }

    /// Connects for a command that asks a few questions.
    pub(crate) async fn connect(&self) -> CliResult<Connected> {
        self.open(self.options()).await
    }

    /// Connects for a worker, and counts its requests in the metrics.
    pub(crate) async fn connect_with(&self, metrics: &Metrics) -> CliResult<Connected> {
        self.open(self.options().metrics(metrics)).await
    }

    /// Connects for a command about one batch, after a check of its id.
    pub(crate) async fn open_batch(&self, id: &str) -> CliResult<(Connected, BatchHandle)> {
        validate_id(id)?;
        let connected = self.connect().await?;
        let handle = connected.client.handle(id)?;
        Ok((connected, handle))
    }

    async fn open(&self, options: ConnectOptions) -> CliResult<Connected> {
        let timeout = self.outage_timeout.unwrap_or(OUTAGE_TIMEOUT);
        let given = match &self.ui_address {
            Some(given) => Some(given.clone()),
            None => web_ui::of_variable().map_err(CliError::usage)?,
        };
        let (client, server) = match BatchClient::connect(&options).await {
            Ok(client) => (client, None),
            Err(ConnectError::Unreachable { address, .. }) if self.dev => {
                let server = self.start_dev_server(&address).await?;
                (BatchClient::connect(&options).await?, Some(server))
            }
            Err(error) => return Err(error.into()),
        };
        let client = client.outage_timeout(timeout);
        let own = server.as_ref().and_then(DevServer::ui_url);
        let noted = server.as_ref().and_then(Noted::of_server);
        let url = given.or(own).or_else(|| {
            let address = address_of(&options).ok()?;
            web_ui::noted(local_port(&address)?)
        });
        web_ui::is_at(url.map(|url| WebUi {
            url,
            namespace: client.temporal().namespace(),
        }));
        Ok(Connected {
            client,
            server,
            web_ui: noted,
        })
    }

    async fn start_dev_server(&self, address: &str) -> CliResult<DevServer> {
        let port = local_port(address).ok_or_else(|| {
            CliError::usage(format_args!(
                "--dev starts a server on this machine only, but the address is {address}; give one \
                 such as 127.0.0.1:7233, or leave --dev out"
            ))
        })?;
        let state = state_file(port)?;
        let mut options = DevServerOptions::new()
            .port(port)
            .ui(true)
            .db_filename(&state);
        if let Some(namespace) = &self.namespace {
            options = options.namespace(namespace);
        }
        let server = options.start().await?;
        note(format_args!(
            "dev server started at {}; web UI {}; it ends with this command, its state is kept in {}",
            server.address(),
            server.ui_url().unwrap_or_default(),
            state.display(),
        ));
        note(format_args!(
            "next: `{}`",
            self.program(None).command("list")
        ));
        Ok(server)
    }
}

/// Returns the port of an address on this machine.
fn local_port(address: &str) -> Option<u16> {
    let rest = address.strip_prefix("http://").unwrap_or(address);
    let (host, port) = rest.trim_end_matches('/').rsplit_once(':')?;
    matches!(host, "localhost" | "127.0.0.1").then_some(())?;
    port.parse().ok().filter(|port| *port != 0)
}

/// Returns the state file of a dev server. Each port has its own file, because two servers cannot share one.
fn state_file(port: u16) -> CliResult<PathBuf> {
    let directory =
        state_directory().unwrap_or_else(|| std::env::temp_dir().join("temporal-batch"));
    private_files::directory(&directory).map_err(|e| {
        let directory = directory.display();
        CliError::caused(
            format_args!("cannot use {directory}, where the dev server's state is kept"),
            &e,
        )
    })?;
    Ok(directory.join(format!("dev-server-{port}.db")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        connection: ConnectionArgs,
    }

    #[test]
    fn commands_that_are_printed_repeat_the_connection_without_its_secret() {
        use clap::Parser as _;
        let printed = |given: &[&str]| {
            let line = Line::try_parse_from([&["shop"], given].concat()).unwrap();
            line.connection
                .of("shop")
                .program(None)
                .of_batch("watch", "b")
        };
        assert_eq!(printed(&[]), "shop watch b");
        let given = [
            "--address=h:1",
            "--namespace",
            "n s",
            "--api-key",
            "secret",
            "--tls=false",
            "--tls-ca-path=ca.pem",
            "--tls-cert-path=c.pem",
            "--tls-key-path=k.pem",
            "--tls-server-name=s",
            "--profile=p",
            "--config-file=f.toml",
            "--outage-timeout=90s",
            "--ui-address=h:2",
            "--dev",
        ];
        let line = printed(&given);
        assert_eq!(
            line,
            "shop watch b --address h:1 --namespace 'n s' --tls=false --tls-ca-path ca.pem --tls-cert-path c.pem \
             --tls-key-path k.pem --tls-server-name s --profile p --config-file f.toml --outage-timeout '1m 30s' \
             --ui-address http://h:2 --dev"
        );
        // The printed flags are read back.
        let words = line.replace("'n s'", "n_s").replace("'1m 30s'", "90s");
        let words: Vec<_> = words.split(' ').skip(3).collect();
        assert_eq!(printed(&words), line.replace("'n s'", "n_s"));
    }

    #[test]
    fn a_dev_server_is_started_on_this_machine_only() {
        for (address, port) in [
            ("localhost:7233", Some(7233)),
            ("127.0.0.1:1", Some(1)),
            ("http://localhost:7233/", Some(7233)),
            ("temporal.internal:7233", None),
            ("https://localhost:7233", None),
            ("localhost", None),
            ("localhost:0", None),
        ] {
            assert_eq!(local_port(address), port, "{address}");
        }
    }
}
