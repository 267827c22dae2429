//! The options of the dev server, and the arguments that they become.

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
};

use super::{DevServer, DevServerError, ports::Ports};

/// Options of the local Temporal dev server.
///
/// # Default
///
/// | option | default |
/// |---|---|
/// | [`port`](Self::port) | a free port |
/// | [`ui`](Self::ui), [`ui_port`](Self::ui_port) | no web UI |
/// | [`metrics_port`](Self::metrics_port) | the server takes a free port, which is not told |
/// | [`db_filename`](Self::db_filename) | in memory: all is lost when the server stops |
/// | [`namespace`](Self::namespace) | `default` |
/// | [`dynamic_config`](Self::dynamic_config) | the server's own, with fairness between batches |
/// | [`log_file`](Self::log_file) | only the last lines of the output are kept, for error messages |
///
/// The server always listens on 127.0.0.1 only. A port of 0 means a free port.
#[derive(Debug, Clone, Default)]
#[must_use = "the dev server runs only after `start`"]
pub struct DevServerOptions {
    port: u16,
    ui: Option<u16>,
    metrics_port: Option<u16>,
    db_filename: Option<PathBuf>,
    /// The namespace; `None` means `default`, which the server always creates.
    namespace: Option<String>,
    dynamic_config: Vec<String>,
    log_file: Option<PathBuf>,
}

/// # Set options
impl DevServerOptions {
    /// Returns the defaults listed above.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the port that clients and workers connect to.
    pub fn port(mut self, port: u16) -> Self {
        self.port = port;
        self
    }

    /// Serves the web UI on this port.
    pub fn ui_port(mut self, port: u16) -> Self {
        self.ui = Some(port);
        self
    }

    /// Serves the web UI on a free port, or on the one set before with [`ui_port`](Self::ui_port); `false`
    /// switches it off again.
    pub fn ui(mut self, on: bool) -> Self {
        self.ui = on.then(|| self.ui.unwrap_or(0));
        self
    }

    /// Serves the server's own Prometheus metrics on this port, under `/metrics`.
    pub fn metrics_port(mut self, port: u16) -> Self {
        self.metrics_port = Some(port);
        self
    }

    /// Keeps all state in this SQLite file. A missing file is created, readable by its user only; its directory must
    /// exist. No two servers may use one file at the same time.
    pub fn db_filename(mut self, path: impl Into<PathBuf>) -> Self {
        self.db_filename = Some(path.into());
        self
    }

    /// Creates this namespace besides `default`, and makes it [`DevServer::namespace`].
    pub fn namespace(mut self, namespace: impl Into<String>) -> Self {
        self.namespace = Some(namespace.into());
        self
    }

    /// Adds one value of the server's dynamic configuration, as `KEY=VALUE` with `VALUE` in JSON.
    pub fn dynamic_config(mut self, key_value: impl Into<String>) -> Self {
        self.dynamic_config.push(key_value.into());
        self
    }

    /// Appends the server's output to this file.
    pub fn log_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.log_file = Some(path.into());
        self
    }
}

/// # Start
impl DevServerOptions {
    /// Finds or fetches the Temporal CLI, starts the server and waits until it answers, at most 30 s.
    ///
    /// # Errors
    ///
    /// A port in use, a missing directory and similar errors are found before anything is fetched or started.
    pub async fn start(self) -> Result<DevServer, DevServerError> {
        DevServer::start(self).await
    }
}

impl DevServerOptions {
    /// Refuses invalid options before anything is fetched or started.
    pub(super) fn check(&self) -> Result<(), DevServerError> {
        if let Some(key_value) = self.dynamic_config.iter().find(|v| !is_key_and_json(v)) {
            return Err(DevServerError::InvalidDynamicConfig {
                key_value: key_value.clone(),
            });
        }
        if let Some(database) = &self.db_filename
            && let Some(directory) = database.parent()
            // The parent of a bare file name is empty and means the working directory.
            && !directory.as_os_str().is_empty()
            && !directory.is_dir()
        {
            return Err(DevServerError::DatabaseDirectoryMissing {
                database: database.clone(),
                directory: directory.to_owned(),
            });
        }
        Ok(())
    }

    pub(super) fn choose_ports(&self) -> Result<Ports, DevServerError> {
        Ports::choose(self.port, self.ui, self.metrics_port)
    }

    pub(super) fn namespace_name(&self) -> &str {
        self.namespace.as_deref().unwrap_or("default")
    }

    pub(super) fn log_path(&self) -> Option<&Path> {
        self.log_file.as_deref()
    }

    /// Returns the arguments of the Temporal CLI.
    pub(super) fn args(&self, ports: Ports) -> Vec<OsString> {
        let mut args: Vec<OsString> = ["server", "start-dev", "--ip", "127.0.0.1"]
            .map(OsString::from)
            .into();
        let mut flag = |name: &str, value: OsString| args.extend([name.into(), value]);
        flag("--port", ports.server.to_string().into());
        flag("--log-level", "warn".into());
        flag("--namespace", self.namespace_name().into());
        // Otherwise the server contacts its vendor to check for updates.
        flag(
            "--dynamic-config-value",
            "frontend.enableServerVersionCheck=false".into(),
        );
        // Fairness lets batches share workers by their weights. The dynamic configuration below can switch it off.
        flag(
            "--dynamic-config-value",
            "matching.enableFairness=true".into(),
        );
        for key_value in &self.dynamic_config {
            flag("--dynamic-config-value", key_value.into());
        }
        if let Some(path) = &self.db_filename {
            flag("--db-filename", path.into());
        }
        if let Some(port) = ports.metrics {
            flag("--metrics-port", port.to_string().into());
        }
        match ports.ui {
            Some(port) => flag("--ui-port", port.to_string().into()),
            None => args.push("--headless".into()),
        }
        args
    }
}

fn is_key_and_json(key_value: &str) -> bool {
    key_value.split_once('=').is_some_and(|(key, value)| {
        !key.trim().is_empty() && serde_json::from_str::<serde::de::IgnoredAny>(value).is_ok()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const PORTS: Ports = Ports {
        server: 7233,
        ui: None,
        metrics: None,
    };

    fn args(options: &DevServerOptions, ports: Ports) -> String {
        options
            .args(ports)
            .iter()
            .map(|arg| arg.to_str().unwrap())
            .collect::<Vec<_>>()
            .join(" ")
    }

    #[test]
    fn defaults_are_headless_in_memory_and_local() {
        assert_eq!(
            args(&DevServerOptions::new(), PORTS),
            "server start-dev --ip 127.0.0.1 --port 7233 --log-level warn --namespace default \
             --dynamic-config-value frontend.enableServerVersionCheck=false \
             --dynamic-config-value matching.enableFairness=true --headless"
        );
    }

    #[test]
    fn every_option_reaches_the_command_line() {
        let options = DevServerOptions::new()
            .namespace("tests")
            .db_filename("state.db")
            .dynamic_config("a.b=1")
            .dynamic_config("c=\"x\"");
        let ports = Ports {
            ui: Some(8233),
            metrics: Some(9233),
            ..PORTS
        };
        let args = args(&options, ports);
        for part in [
            "--namespace tests",
            "--db-filename state.db",
            "--dynamic-config-value a.b=1 --dynamic-config-value c=\"x\"",
            "--metrics-port 9233",
            "--ui-port 8233",
        ] {
            assert!(args.contains(part), "{part} is missing in: {args}");
        }
        assert!(!args.contains("--headless"));
    }

    #[test]
    fn the_ui_is_off_unless_asked_for() {
        let ui = |options: DevServerOptions| options.ui;
        assert_eq!(ui(DevServerOptions::new()), None);
        assert_eq!(ui(DevServerOptions::new().ui(true)), Some(0));
        assert_eq!(ui(DevServerOptions::new().ui_port(80).ui(true)), Some(80));
        assert_eq!(ui(DevServerOptions::new().ui_port(80).ui(false)), None);
    }

    #[test]
    fn a_database_in_a_missing_directory_is_refused() {
        let missing = tempfile::tempdir().unwrap().path().join("gone");
        let error = DevServerOptions::new()
            .db_filename(missing.join("state.db"))
            .check()
            .unwrap_err();
        assert!(matches!(
            error,
            DevServerError::DatabaseDirectoryMissing { directory, .. } if directory == missing
        ));
    }

    #[test]
    fn a_database_in_the_working_directory_is_accepted() {
        DevServerOptions::new()
            .db_filename("state.db")
            .check()
            .unwrap();
    }

    #[test]
    fn dynamic_configuration_must_be_key_and_json() {
        for good in ["a.b=1", "a=\"x=y\"", "a=[1,2]", "a=true"] {
            DevServerOptions::new()
                .dynamic_config(good)
                .check()
                .unwrap();
        }
        for bad in ["a.b", "a=text", "=1", "a="] {
            assert!(
                matches!(
                    DevServerOptions::new().dynamic_config(bad).check(),
                    Err(DevServerError::InvalidDynamicConfig { key_value }) if key_value == bad
                ),
                "{bad} was accepted"
            );
        }
    }
}
