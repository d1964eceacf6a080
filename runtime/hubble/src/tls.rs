//! TLS for clients on the network, who must have a certificate of their own.
//!
//! The files are looked at before each handshake and read again when they have changed, so that
//! renewed certificates count without a restart. Not here: connections ([`crate::serve`]).

use std::{
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::Arc,
};

use rustls::{
    RootCertStore, ServerConfig,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
    server::{NoServerSessionStorage, WebPkiClientVerifier},
    version::TLS13,
};

/// Where the certificates are, as PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Files {
    /// The agent's certificate, with those between it and its authority.
    pub certificate: PathBuf,
    /// The key to it.
    pub key: PathBuf,
    /// The authorities whose clients are served.
    pub client_authority: PathBuf,
}

impl Files {
    fn all(&self) -> [&Path; 3] {
        [&self.certificate, &self.key, &self.client_authority]
    }

    /// Reads them.
    ///
    /// # Errors
    /// One cannot be read, or they do not belong together. The message names the file.
    fn config(&self) -> Result<ServerConfig, String> {
        let read = |path: &Path| {
            fs::read(path).map_err(|error| format!("{} cannot be read: {error}", path.display()))
        };
        let certificates = |path: &Path| {
            let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&read(path)?).collect();
            match found {
                Ok(found) if found.is_empty() => {
                    Err(format!("{} has no certificate in PEM", path.display()))
                }
                Ok(found) => Ok(found),
                Err(error) => Err(format!("{} is no PEM: {error}", path.display())),
            }
        };
        let key = PrivateKeyDer::from_pem_slice(&read(&self.key)?).map_err(|error| {
            format!("{} has no private key in PEM: {error}", self.key.display())
        })?;
        let mut authorities = RootCertStore::empty();
        for certificate in certificates(&self.client_authority)? {
            authorities.add(certificate).map_err(|error| {
                format!("{} is of no use: {error}", self.client_authority.display())
            })?;
        }
        let provider = Arc::new(ring::default_provider());
        let verifier =
            WebPkiClientVerifier::builder_with_provider(Arc::new(authorities), provider.clone());
        let verifier = verifier.build().map_err(|error| error.to_string())?;
        let config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&TLS13])
            .map_err(|error| error.to_string())?
            .with_client_cert_verifier(verifier)
            .with_single_cert(certificates(&self.certificate)?, key);
        let mut config = config.map_err(|error| {
            let (certificate, key) = (self.certificate.display(), self.key.display());
            format!("{certificate} and {key} cannot be used together: {error}")
        })?;
        config.alpn_protocols = vec![b"h2".to_vec()];
        // A session that is taken up again would be one whose certificate nobody looks at.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok(config)
    }
}

/// What tells that a file has changed.
type Stamp = (u64, u64, u64, i64, i64);

fn stamp(path: &Path) -> io::Result<Stamp> {
    let facts = fs::metadata(path)?;
    Ok((facts.dev(), facts.ino(), facts.len(), facts.mtime(), facts.mtime_nsec()))
}

/// The certificates as they are now.
#[derive(Debug)]
pub struct Certificates {
    files: Files,
    /// Of the files as they were read last; None where one could not be looked at.
    stamps: Option<[Stamp; 3]>,
    config: Option<Arc<ServerConfig>>,
    /// What is wrong, as it was last said.
    said: Option<String>,
}

impl Certificates {
    /// Those in these files, which need not be there yet.
    pub fn new(files: Files) -> Self {
        let mut certificates = Self { files, stamps: None, config: None, said: None };
        certificates.now();
        certificates
    }

    /// What to shake hands with; None while the files have never been of use. Where new files are
    /// not, the last ones that were count.
    pub fn now(&mut self) -> Option<Arc<ServerConfig>> {
        let looked: io::Result<Vec<Stamp>> = self.files.all().into_iter().map(stamp).collect();
        let stamps = looked.ok().and_then(|stamps| <[Stamp; 3]>::try_from(stamps).ok());
        if stamps.is_none() || stamps != self.stamps {
            match self.files.config() {
                Ok(config) => {
                    let again = if self.config.is_some() { " again" } else { "" };
                    tracing::info!("the certificates for Hubble's API were read{again}");
                    (self.config, self.stamps, self.said) = (Some(Arc::new(config)), stamps, None);
                }
                Err(why) => self.complain(why),
            }
        }
        self.config.clone()
    }

    /// Says what is wrong, once.
    fn complain(&mut self, why: String) {
        if self.said.as_ref() != Some(&why) {
            match self.config {
                None => tracing::warn!(
                    "{why}; no client of Hubble's API on the network is served \
                    until it can be used"
                ),
                Some(_) => tracing::warn!(
                    "{why}; the certificates that were read before count \
                    until it can be used"
                ),
            }
            self.said = Some(why);
        }
    }
}
