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

use super::PostgresError;

fn url_error(detail: impl Into<String>) -> PostgresError {
    PostgresError::Url {
        detail: detail.into(),
    }
}

/// Reads a URL; the second is the file of its `sslrootcert`.
pub(super) fn parse(url: &str) -> Result<(Config, Option<String>), PostgresError> {
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
        let form = "not of the form postgres://user:password@host:port/database?option=value";
        url_error(bad_parameter(base, &known).unwrap_or_else(|| form.to_owned()))
    })?;
    if config.get_hosts().is_empty() && config.get_hostaddrs().is_empty() {
        return Err(url_error("the host is missing"));
    }
    if verify {
        config.ssl_mode(SslMode::Require);
    }
    Ok((config, ca_file))
}

/// The first parameter that cannot be used, where it is a parameter and no part of a password with a `?`.
fn bad_parameter(base: &str, query: &str) -> Option<String> {
    Config::from_str(base).ok()?;
    let mut pairs = query.trim_start_matches('?').split('&');
    let refused = pairs.find_map(|pair| {
        let error = Config::from_str(&format!("{base}?{pair}")).err()?;
        Some((pair.split_once('=').map_or(pair, |(key, _)| key), error))
    });
    let (key, error) = refused?;
    let is_word = |byte: u8| byte.is_ascii_lowercase() || byte == b'_';
    if !query.contains('@') && key.bytes().all(is_word) {
        let is_unknown = std::error::Error::source(&error)
            .is_some_and(|cause| cause.to_string().starts_with("unknown option"));
        let fault = if is_unknown {
            "is not known"
        } else {
            "has a value that cannot be used"
        };
        return Some(format!("the parameter '{key}' {fault}"));
    }
    None
}

/// The connector, if the mode asks for TLS.
pub(super) fn connector(
    config: &Config,
    ca_file: Option<&Path>,
) -> Result<Option<MakeRustlsConnect>, PostgresError> {
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
    fn bad_parameters_are_named() {
        let check = |query: &str, expect: &str| {
            let error = parse(&format!("postgres://u:secret@h/d?{query}")).unwrap_err();
            assert_eq!(error.to_string(), format!("the parameter {expect}"));
        };
        check("nonsense=1", "'nonsense' is not known");
        check(
            "sslmode=require&connect_timeout=soon",
            "'connect_timeout' has a value that cannot be used",
        );
        check(
            "sslmode=always",
            "'sslmode' has a value that cannot be used",
        );
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
