//! The TLS settings of a client, from the contents of its files.
//!
//! The crypto provider is handed over explicitly, so neither rustls' process-wide default (another library of
//! the host may have set it) nor its lazy initialisation plays a part. `ring` keeps no lock and no generator
//! state: it asks the kernel for each random number, so a fork tears nothing and repeats nothing.
#![forbid(unsafe_code)]

use super::TlsFiles;
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};
use std::sync::Arc;

/// Build the settings; an error names the file's key in the configuration.
pub fn config(files: &TlsFiles) -> Result<Arc<ClientConfig>, String> {
    let provider: Arc<CryptoProvider> = Arc::new(ring::default_provider());
    let roots = match &files.ca_pem {
        None => RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() },
        Some(pem) => {
            let mut roots = RootCertStore::empty();
            for cert in certificates(pem, "tls.ca_file")? {
                roots.add(cert).map_err(|e| format!("tls.ca_file: a certificate cannot be used: {e}"))?;
            }
            roots
        }
    };
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| e.to_string())?
        .with_root_certificates(roots);
    let mut config = match &files.client_pem {
        None => builder.with_no_client_auth(),
        Some((cert, key)) => {
            let chain = certificates(cert, "tls.cert_file")?;
            let key = PrivateKeyDer::from_pem_slice(key)
                .map_err(|e| format!("tls.key_file holds no private key in PEM: {e}"))?;
            builder
                .with_client_auth_cert(chain, key)
                .map_err(|e| format!("tls.cert_file and tls.key_file do not work together: {e}"))?
        }
    };
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

fn certificates(pem: &[u8], key: &str) -> Result<Vec<CertificateDer<'static>>, String> {
    let certs = CertificateDer::pem_slice_iter(pem)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|e| format!("{key} is no valid PEM: {e}"))?;
    if certs.is_empty() {
        return Err(format!("{key} holds no certificate in PEM"));
    }
    Ok(certs)
}
