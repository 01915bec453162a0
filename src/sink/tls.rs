//! The TLS settings of a client, from the contents of its files.
//!
//! The crypto provider is handed over explicitly, so neither rustls' process-wide default (another library of
//! the host may have set it) nor its lazy initialisation plays a part. `ring` keeps no lock and no generator
//! state: it asks the kernel for each random number, so a fork tears nothing and repeats nothing.
#![forbid(unsafe_code)]

use super::TlsFiles;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{WebPkiServerVerifier, verify_server_name};
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};
use std::sync::Arc;

/// Build the settings; an error names the file's key in the configuration.
pub fn config(files: &TlsFiles) -> Result<Arc<ClientConfig>, String> {
    let provider: Arc<CryptoProvider> = Arc::new(ring::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|e| e.to_string())?;
    let builder = match &files.ca_pem {
        None => {
            let roots = webpki_roots::TLS_SERVER_ROOTS.to_vec();
            builder.with_root_certificates(RootCertStore { roots })
        }
        Some(pem) => {
            let verifier = Trusted::new(certificates(pem, "tls.ca_file")?, &provider)?;
            builder.dangerous().with_custom_certificate_verifier(Arc::new(verifier))
        }
    };
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

/// Who is trusted by `tls.ca_file`: whom an authority in it vouches for, and also the server whose own certificate it is.
///
/// What `openssl req -x509` makes for a server calls itself an authority, and the verifier takes no authority for a server,
/// so it is left to this one: byte for byte the certificate in the file, of that name, and valid now.
#[derive(Debug)]
struct Trusted {
    by_authority: Arc<WebPkiServerVerifier>,
    known: Vec<CertificateDer<'static>>,
}

impl Trusted {
    fn new(known: Vec<CertificateDer<'static>>, provider: &Arc<CryptoProvider>) -> Result<Trusted, String> {
        let unfit = |e: &dyn std::fmt::Display| format!("tls.ca_file: a certificate cannot be used: {e}");
        let mut roots = RootCertStore::empty();
        for cert in &known {
            roots.add(cert.clone()).map_err(|e| unfit(&e))?;
        }
        let builder = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider));
        Ok(Trusted { by_authority: builder.build().map_err(|e| unfit(&e))?, known })
    }
}

/// The verifier's objection to an authority that is a server. Validity in time was looked at before it.
fn is_authority(why: &Error) -> bool {
    let Error::InvalidCertificate(CertificateError::Other(other)) = why else { return false };
    matches!(other.0.downcast_ref::<webpki::Error>(), Some(webpki::Error::CaUsedAsEndEntity))
}

impl ServerCertVerifier for Trusted {
    fn verify_server_cert(
        &self,
        cert: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        match self.by_authority.verify_server_cert(cert, others, name, ocsp, now) {
            Err(why) if is_authority(&why) && self.known.iter().any(|known| known == cert) => {
                verify_server_name(&ParsedCertificate::try_from(cert)?, name)?;
                Ok(ServerCertVerified::assertion())
            }
            verdict => verdict,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.by_authority.verify_tls12_signature(message, cert, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.by_authority.verify_tls13_signature(message, cert, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.by_authority.supported_verify_schemes()
    }
}

/// Some editors begin a file with it.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

fn certificates(pem: &[u8], key: &str) -> Result<Vec<CertificateDer<'static>>, String> {
    let certs = CertificateDer::pem_slice_iter(pem.strip_prefix(BYTE_ORDER_MARK).unwrap_or(pem))
        .collect::<Result<Vec<_>, _>>()
        .map_err(|e| format!("{key} is no valid PEM: {e}"))?;
    if certs.is_empty() {
        return Err(format!("{key} holds no certificate in PEM"));
    }
    Ok(certs)
}
