//! The flag that serves Prometheus metrics, and the server behind it.

use std::net::SocketAddr;

use clap::Args;

use crate::{
    cli::{args::values::listen_address, exit::CliResult, output::note},
    metrics::{Metrics, MetricsServer},
};

#[derive(Args, Clone, Copy, Debug, Default)]
pub(crate) struct MetricsArgs {
    /// Serve Prometheus metrics here, for example at 127.0.0.1:9464
    #[arg(long, value_name = "IP:PORT", value_parser = listen_address)]
    metrics_address: Option<SocketAddr>,
}

impl MetricsArgs {
    /// Starts the server and prints its URL; `None` without the flag.
    pub(crate) async fn serve(self, metrics: &Metrics) -> CliResult<Option<MetricsServer>> {
        let Some(address) = self.metrics_address else {
            return Ok(None);
        };
        let server = MetricsServer::bind(address, metrics.clone()).await?;
        note(format_args!(
            "metrics at http://{}/metrics",
            server.address()
        ));
        Ok(Some(server))
    }
}
