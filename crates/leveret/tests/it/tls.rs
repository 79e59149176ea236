//! RabbitMQ and PostgreSQL by TLS: certificates that are trusted, unknown, and of somebody else. A process in between speaks TLS for the
//! servers, which so need no certificates of their own.

use std::sync::Arc;

use leveret::{
    broker::{
        Broker, BrokerError, ConsumeOptions, Message, Publication, Queue, Topology,
        rabbitmq::{RabbitMq, RabbitMqOptions},
    },
    store::{
        Store,
        postgres::{PostgresOptions, PostgresStore},
    },
};
use rcgen::generate_simple_self_signed;
use rustls::{
    ServerConfig,
    pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional},
    net::{TcpListener, TcpStream},
};
use tokio_rustls::TlsAcceptor;

use crate::{harness::TempDir, postgres::in_schema};

/// How a client asks for TLS.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Opening {
    /// With the first byte.
    AtOnce,
    /// By PostgreSQL's request. Source: <https://www.postgresql.org/docs/current/protocol-flow.html>, "SSL Session Encryption".
    AfterRequest,
}

/// What speaks TLS for a server, with a certificate of its own for `localhost`.
struct Front {
    port: u16,
    ca_file: String,
    _directory: TempDir,
}

impl Front {
    /// In front of the server at `host:port`. Ends with the test.
    async fn start(server: &str, opening: Opening) -> Front {
        let made = generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
        let directory = TempDir::new();
        let ca_file = directory.file("ca.pem");
        std::fs::write(&ca_file, made.cert.pem()).expect("is written");
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()));
        let ring = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(ring)
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], key)
            .expect("the key is the certificate's");
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("listens");
        let port = listener.local_addr().expect("an address").port();
        let server = server.to_owned();
        tokio::spawn(async move {
            loop {
                let (client, _) = listener.accept().await.expect("accepts");
                tokio::spawn(pass(client, acceptor.clone(), server.clone(), opening));
            }
        });
        Front {
            port,
            ca_file,
            _directory: directory,
        }
    }
}

/// One connection. How it fails is the client's to tell.
async fn pass(
    mut client: TcpStream,
    acceptor: TlsAcceptor,
    server: String,
    opening: Opening,
) -> std::io::Result<()> {
    if opening == Opening::AfterRequest {
        let mut request = [0; 8];
        client.read_exact(&mut request).await?;
        assert_eq!(request, [0, 0, 0, 8, 4, 210, 22, 47], "SSLRequest");
        client.write_all(b"S").await?;
    }
    let mut client = acceptor.accept(client).await?;
    let mut server = TcpStream::connect(server).await?;
    copy_bidirectional(&mut client, &mut server).await?;
    Ok(())
}

/// `scheme://user@`, `host:port`, `/path` of the server under test; says that the test is skipped if there is none.
fn server(variable: &str) -> Option<(String, String, String)> {
    let Ok(url) = std::env::var(variable) else {
        println!("skipped: {variable} is not set");
        return None;
    };
    let (head, rest) = url.rsplit_once('@').expect("a user");
    let (authority, path) = rest.split_once('/').expect("a path");
    Some((format!("{head}@"), authority.to_owned(), format!("/{path}")))
}

#[tokio::test(flavor = "multi_thread")]
async fn rabbitmq() {
    let Some((head, authority, vhost)) = server("LEVERET_TEST_AMQP_URL") else {
        return;
    };
    let front = Front::start(&authority, Opening::AtOnce).await;
    let head = head.replacen("amqp:", "amqps:", 1);
    let url = |host: &str, query: &str| format!("{head}{host}:{}{vhost}{query}", front.port);
    let trusted = format!("?cacertfile={}", front.ca_file);
    let broker = RabbitMq::connect(RabbitMqOptions::new(url("localhost", &trusted)))
        .await
        .expect("the certificate is trusted");
    let queue: Arc<str> = format!("leveret-test.tls.{:016x}", fastrand::u64(..)).into();
    let topology = Topology {
        queues: vec![Queue::plain(queue.clone())],
        ..Topology::default()
    };
    broker.declare(&topology).await.expect("declares");
    let long = Message::json("x".repeat(100_000));
    let published = broker
        .publish(vec![Publication::to_queue(queue.clone(), long)])
        .await;
    published[0].as_ref().expect("is confirmed");
    let mut consumer = broker
        .consume(ConsumeOptions::queue(queue.clone()))
        .await
        .expect("consumes");
    let delivery = consumer.next().await.expect("arrives");
    assert_eq!(delivery.message.body.len(), 100_000);
    delivery.receipt.ack();
    drop(consumer);
    broker.delete_queue(&queue).await.expect("is deleted");
    broker.close().await;

    for (host, query) in [("localhost", ""), ("127.0.0.1", &*trusted)] {
        let error = RabbitMq::connect(RabbitMqOptions::new(url(host, query)))
            .await
            .expect_err("is not trusted");
        assert!(error.to_string().contains("certificate"), "{error}");
    }
    let missing = url("localhost", "?cacertfile=/nowhere/ca.pem");
    let error = RabbitMq::connect(RabbitMqOptions::new(missing)).await;
    let error = error.expect_err("there is no such file");
    assert!(matches!(error, BrokerError::Url { .. }), "{error:?}");
    assert!(error.to_string().contains("/nowhere/ca.pem"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn postgres() {
    in_schema(|options| async move {
        let Some((head, authority, database)) = server("LEVERET_TEST_POSTGRES_URL") else {
            return;
        };
        let front = Front::start(&authority, Opening::AfterRequest).await;
        let connect = async |host: &str, query: &str| {
            PostgresStore::connect(PostgresOptions {
                url: format!("{head}{host}:{}{database}?{query}", front.port),
                ..options.clone()
            })
            .await
        };
        let trusted = format!("sslmode=verify-full&sslrootcert={}", front.ca_file);
        let store = connect("localhost", &trusted).await.expect("is trusted");
        store.ping().await.expect("answers");
        store.close().await;
        for (host, query) in [("localhost", "sslmode=require"), ("127.0.0.1", &*trusted)] {
            let error = connect(host, query).await.expect_err("is not trusted");
            assert!(error.to_string().contains("certificate"), "{error}");
        }
    })
    .await;
}
