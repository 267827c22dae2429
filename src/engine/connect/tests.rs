//! Tests of options against the environment, and of the errors without a server.

use std::collections::HashMap;
use std::error::Error;
use std::process;
use std::time::Duration;

use url::Url;

use super::ConnectError;
use super::options::*;
use super::target::*;

use std::io::Write as _;
use std::time::Instant;

use tempfile::{NamedTempFile, TempDir};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpListener;

const CERTIFICATE: &str = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
const KEY: &str = "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n";

/// Options that are independent of the machine on which the tests run.
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
    let config =
        file("[profile.default]\naddress = 'file:1'\nnamespace = 'file'\napi_key = 'file-key'\n");
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
    // The default file of this machine may or may not exist.
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
    // With TLS off these files are not needed.
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

/// Returns an address with a free port: it was bound and released again.
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
    // This name is reserved never to exist. A machine without a name server may take too long to say so.
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
