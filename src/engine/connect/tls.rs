//! TLS files, read and checked before anything is sent.

use std::path::Path;

use temporalio_client::envconfig::DataSource;
use temporalio_common::envconfig::ClientConfigTLS;

use super::ConnectError;
use crate::base::small_file;

#[derive(Clone, Copy)]
pub(super) enum TlsFile {
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

    /// The purpose of the file, for messages.
    pub(super) fn role(self) -> &'static str {
        match self {
            Self::ServerAuthority => "certificate of the server's authority (--tls-ca-path)",
            Self::ClientCertificate => "client certificate (--tls-cert-path)",
            Self::ClientKey => "client key (--tls-key-path)",
        }
    }

    /// The end of the name of its PEM block. Keys have several kinds (`RSA PRIVATE KEY`).
    pub(super) fn pem_block(self) -> &'static str {
        match self {
            Self::ServerAuthority | Self::ClientCertificate => "CERTIFICATE",
            Self::ClientKey => "PRIVATE KEY",
        }
    }

    pub(super) fn source(self, tls: &mut ClientConfigTLS) -> &mut Option<DataSource> {
        match self {
            Self::ServerAuthority => &mut tls.server_ca_cert,
            Self::ClientCertificate => &mut tls.client_cert,
            Self::ClientKey => &mut tls.client_key,
        }
    }

    pub(super) fn read(self, path: &Path) -> Result<Vec<u8>, ConnectError> {
        small_file::read(path).map_err(|source| ConnectError::UnreadableTlsFile {
            role: self.role(),
            path: path.to_owned(),
            source,
        })
    }

    pub(super) fn check(self, data: &[u8]) -> Result<(), ConnectError> {
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

/// Reads the files that are still paths, so that errors name them, and checks their contents.
pub(super) fn load_tls_files(tls: &mut ClientConfigTLS) -> Result<(), ConnectError> {
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
