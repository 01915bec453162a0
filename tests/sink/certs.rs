//! Certificates of the tests' own authority, and servers that show them.
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use std::sync::{Arc, OnceLock};

pub struct Leaf {
    pub der: CertificateDer<'static>,
    pub pem: String,
    pub key: KeyPair,
}

pub type Ca = CertifiedIssuer<'static, KeyPair>;

pub fn new_ca(name: &str) -> Ca {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.distinguished_name.push(rcgen::DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

pub fn ca() -> &'static Ca {
    static CA: OnceLock<Ca> = OnceLock::new();
    CA.get_or_init(|| new_ca("ours"))
}

pub fn leaf(names: &[&str], last_year: Option<i32>) -> Leaf {
    signed_by(ca(), names, last_year)
}

fn params(names: &[&str]) -> CertificateParams {
    let names: Vec<String> = names.iter().map(|s| s.to_string()).collect();
    let mut params = CertificateParams::new(names).unwrap();
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params
}

pub fn self_signed(names: &[&str]) -> Leaf {
    let key = KeyPair::generate().unwrap();
    let cert = params(names).self_signed(&key).unwrap();
    Leaf { der: cert.der().clone(), pem: cert.pem(), key }
}

/// A server's certificate that says it is an authority's, and signs itself.
pub fn authority_of_itself(names: &[&str], last_year: Option<i32>) -> Leaf {
    let mut params = valid_until(params(names), last_year);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.extended_key_usages = Vec::new();
    let key = KeyPair::generate().unwrap();
    let cert = params.self_signed(&key).unwrap();
    Leaf { der: cert.der().clone(), pem: cert.pem(), key }
}

fn valid_until(mut params: CertificateParams, last_year: Option<i32>) -> CertificateParams {
    if let Some(year) = last_year {
        params.not_before = rcgen::date_time_ymd(year - 1, 1, 1);
        params.not_after = rcgen::date_time_ymd(year, 1, 1);
    }
    params
}

pub fn signed_by(ca: &Ca, names: &[&str], last_year: Option<i32>) -> Leaf {
    let params = valid_until(params(names), last_year);
    let key = KeyPair::generate().unwrap();
    let cert = params.signed_by(&key, ca).unwrap();
    Leaf { der: cert.der().clone(), pem: cert.pem(), key }
}

pub fn server_config(leaf: &Leaf, client_ca: bool) -> Arc<ServerConfig> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .unwrap();
    let builder = if client_ca {
        let mut roots = RootCertStore::empty();
        roots.add(ca().der().clone()).unwrap();
        let verifier =
            WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build().unwrap();
        builder.with_client_cert_verifier(verifier)
    } else {
        builder.with_no_client_auth()
    };
    let key = PrivateKeyDer::try_from(leaf.key.serialize_der()).unwrap();
    Arc::new(builder.with_single_cert(vec![leaf.der.clone()], key).unwrap())
}

pub fn good_leaf() -> Leaf {
    leaf(&["127.0.0.1", "localhost", "collector.test"], None)
}
