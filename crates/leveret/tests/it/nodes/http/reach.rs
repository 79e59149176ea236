//! Where requests go: hosts that may be asked, proxies, private certificate authorities.

use std::sync::Arc;

use leveret::nodes::{HttpOptions, NodeError, Proxies, Reach, Registry, Verdict};
use rcgen::generate_simple_self_signed;
use rustls::{
    ServerConfig,
    pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer},
};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};
use tokio_rustls::TlsAcceptor;

use super::{Server, ok};
use crate::nodes::{context, failure};

async fn attempt_with(options: HttpOptions, params: Value) -> Result<Verdict, NodeError> {
    let registry = Registry::builtin_with(options).expect("proxies");
    let node_type = registry.get("http").expect("it is built in");
    node_type.execute(context(params)).await
}

#[tokio::test]
async fn metadata_is_not_asked() {
    for host in [
        "169.254.169.254",
        "2852039166",
        "[::ffff:a9fe:a9fe]",
        "metadata.google.internal",
    ] {
        let params =
            json!({ "url": format!("http://{host}/latest/meta-data?hush"), "timeout": 500 });
        let (message, retryable) = failure("http", params).await;
        assert!(
            message.contains(" hands out the machine's credentials"),
            "{message}"
        );
        assert!(!retryable && !message.contains("hush"), "{message}");
    }
}

/// By name before it is resolved, and by the address to which it is.
#[tokio::test]
async fn only_what_is_allowed_is_asked() {
    for (allow, deny, host, told) in [
        (
            vec![],
            vec!["localhost"],
            "localhost",
            Some("localhost is refused by http_deny"),
        ),
        (
            vec![],
            vec!["127.0.0.0/8", "::1"],
            "localhost",
            Some(") is refused by http_deny"),
        ),
        (
            vec![],
            vec!["127.0.0.0/8"],
            "127.0.0.1",
            Some("127.0.0.1 is refused by http_deny"),
        ),
        (
            vec!["10.0.0.0/8"],
            vec![],
            "localhost",
            Some(") is not among what http_allow names"),
        ),
        (
            vec!["a.example"],
            vec![],
            "localhost",
            Some("localhost is not among what http_allow names"),
        ),
        (vec!["127.0.0.0/8"], vec![], "localhost", None),
        (vec!["localhost"], vec![], "localhost", None),
    ] {
        let server = Server::start(vec![ok()]).await;
        let options = HttpOptions {
            reach: Reach::new(&allow, &deny).expect("entries"),
            ..HttpOptions::default()
        };
        let url = format!("http://{host}:{}/", server.address.port());
        let seen = attempt_with(options, json!({ "url": url })).await;
        match (seen, told) {
            (Ok(_), None) => {}
            (Err(error), Some(told)) => {
                assert!(error.message().ends_with(told), "{error}");
                assert!(!error.is_retryable());
            }
            (seen, _) => panic!("{allow:?} {deny:?} {host}: {seen:?}"),
        }
    }
}

/// A proxy is asked for all but what is asked without it; `*` is everything, addresses too.
#[tokio::test]
async fn proxies_are_asked_unless_there_is_none_for_it() {
    for (none_for, through_proxy) in [
        ("", true),
        ("other.example", true),
        ("*", false),
        ("x, * ", false),
        ("127.0.0.1", false),
    ] {
        let mut server = Server::start(vec![ok()]).await;
        let mut proxy = Server::start(vec![ok()]).await;
        let options = HttpOptions {
            proxies: Proxies {
                http: Some(proxy.url()),
                none_for: Some(none_for.to_owned()),
                ..Proxies::default()
            },
            ..HttpOptions::default()
        };
        let url = format!("{}/x", server.url());
        attempt_with(options, json!({ "url": url }))
            .await
            .expect("an answer");
        let line = if through_proxy {
            proxy.request().line
        } else {
            server.request().line
        };
        let expect = if through_proxy { url } else { "/x".to_owned() };
        assert_eq!(line, format!("GET {expect}"), "{none_for}");
    }
    let proxies = Proxies {
        all: Some("http://me:hush@:x".to_owned()),
        ..Proxies::default()
    };
    assert!(!format!("{proxies:?}").contains("hush"));
    let options = HttpOptions {
        proxies,
        ..HttpOptions::default()
    };
    let error = Registry::builtin_with(options)
        .expect_err("no URL")
        .to_string();
    assert!(
        error.contains("is no URL of a proxy") && !error.contains("hush"),
        "{error}"
    );
}

/// A server for `localhost` whose certificate only its own authority knows.
#[tokio::test]
async fn a_private_authority_is_trusted_where_it_is_named() {
    let made = generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()));
    let config =
        ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], key)
            .expect("the key is the certificate's");
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("listens");
    let port = listener.local_addr().expect("an address").port();
    let serving = tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.expect("accepts");
            // Who does not trust us goes.
            if let Ok(mut stream) = acceptor.accept(stream).await {
                let _read = stream.read(&mut [0; 4096]).await.expect("reads");
                stream.write_all(ok().as_bytes()).await.expect("writes");
                drop(stream.shutdown().await);
            }
        }
    });
    let url = format!("https://localhost:{port}/");
    let (message, retryable) = failure("http", json!({ "url": url })).await;
    assert!(message.contains("certificate") && retryable, "{message}");
    let other = generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
    let (message, _) = failure("http", json!({ "url": url, "ca": other.cert.pem() })).await;
    assert!(message.contains("certificate"), "{message}");
    let params = json!({ "url": url, "ca": made.cert.pem() });
    attempt_with(HttpOptions::default(), params)
        .await
        .expect("an answer");
    serving.abort();
}
