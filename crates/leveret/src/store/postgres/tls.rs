//! The URL, and TLS where its `sslmode` asks for it.
//!
//! `require`, `verify-ca` and `verify-full` all verify the server's certificate and name. `prefer`, which is the default, goes without
//! TLS: trust that nobody checks protects from nothing.

use std::{path::Path, str::FromStr};

use reqwest::Url;
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, pem::PemObject},
};
use tokio_postgres::{Config, config::SslMode};
use tokio_postgres_rustls::MakeRustlsConnect;

use crate::store::StoreError;

fn url_error(detail: impl Into<String>) -> StoreError {
    StoreError::Url {
        detail: detail.into(),
    }
}

/// Reads a URL; the second is the file of its `sslrootcert`.
pub(super) fn parse(url: &str) -> Result<(Config, Option<String>), StoreError> {
    let (base, query) = url.split_once('?').unwrap_or((url, ""));
    let pairs = Url::parse(&format!("q:?{query}"))
        .map_err(|_| url_error("the part after '?' cannot be read"))?;
    let (mut known, mut ca_file, mut verify) = (String::new(), None, false);
    for (pair, (key, value)) in query
        .split('&')
        .filter(|pair| !pair.is_empty())
        .zip(pairs.query_pairs())
    {
        match (&*key, &*value) {
            ("sslrootcert", file) => ca_file = Some(file.to_owned()),
            ("sslmode", "verify-ca" | "verify-full") => verify = true,
            _ => {
                known.push(if known.is_empty() { '?' } else { '&' });
                known.push_str(pair);
            }
        }
    }
    // The driver's message can quote a part of the URL, so it is not passed on.
    let mut config = Config::from_str(&format!("{base}{known}")).map_err(|_| {
        url_error("not of the form postgres://user:password@host:port/database?option=value")
    })?;
    if config.get_hosts().is_empty() && config.get_hostaddrs().is_empty() {
        return Err(url_error("the host is missing"));
    }
    if verify {
        config.ssl_mode(SslMode::Require);
    }
    Ok((config, ca_file))
}

/// The connector, if the mode asks for TLS.
pub(super) fn connector(
    config: &Config,
    ca_file: Option<&Path>,
) -> Result<Option<MakeRustlsConnect>, StoreError> {
    if config.get_ssl_mode() != SslMode::Require {
        return Ok(None);
    }
    crate::tls::install_provider();
    let mut roots = RootCertStore::empty();
    let certificates: Vec<CertificateDer<'static>> = match ca_file {
        Some(path) => CertificateDer::pem_file_iter(path)
            .and_then(Iterator::collect)
            .map_err(|error| {
                url_error(format!("the certificates in {}: {error}", path.display()))
            })?,
        None => rustls_native_certs::load_native_certs().certs,
    };
    roots.add_parsable_certificates(certificates);
    if roots.is_empty() {
        return Err(url_error(
            "there are no root certificates to verify the server with",
        ));
    }
    let client = ClientConfig::builder()
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(Some(MakeRustlsConnect::new(client)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_urls() {
        let (config, ca_file) = parse(
            "postgres://u:p@h:1/d?sslmode=verify-full&sslrootcert=%2Fa%20b&connect_timeout=3",
        )
        .unwrap();
        assert_eq!(
            (config.get_ssl_mode(), ca_file.as_deref()),
            (SslMode::Require, Some("/a b"))
        );
        assert_eq!(config.get_dbname(), Some("d"));
        assert!(config.get_connect_timeout().is_some());
        let (config, _) = parse("postgres://h/d").unwrap();
        assert_eq!(config.get_ssl_mode(), SslMode::Prefer);
    }

    #[test]
    fn errors_keep_the_password() {
        for url in [
            "postgres://u:secret@h:x/d",
            "postgres://u:secret@h/d?nonsense=secret",
            "postgres:",
            "secret",
        ] {
            let error = parse(url).unwrap_err();
            assert!(!error.to_string().contains("secret"), "{error}");
        }
    }
}
