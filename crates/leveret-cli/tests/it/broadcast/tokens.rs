//! Tokens and their scopes, at hearts and nodes; without tokens, pages of others are refused.

use reqwest::{Client, RequestBuilder, StatusCode};
use serde_json::json;

use super::{
    load::write,
    rig::{Cluster, as_strs, client, shared_broker},
};
use crate::support::{Directory, Server, command, leveret};

const TOKENS: &str = "look:t-look:read,ci:t-write:run,ops:t-all";

/// A process whose cluster has tokens.
fn start(args: &[&str]) -> Server {
    let mut command = command(args);
    command.env("LEVERET_API_TOKENS", TOKENS);
    command.env("LEVERET_TOKEN", "t-all");
    Server::of(command)
}

async fn status(request: RequestBuilder, token: Option<&str>) -> StatusCode {
    let request = match token {
        Some(token) => request.bearer_auth(token),
        None => request,
    };
    request.send().await.unwrap().status()
}

fn post(http: &Client, url: &str, path: &str, sql: &str) -> RequestBuilder {
    http.post(format!("{url}/{path}"))
        .json(&json!({ "sql": sql }))
}

/// A heart and nodes ask each other with their token; clients need one that lets do what they ask.
#[tokio::test(flavor = "multi_thread")]
async fn tokens_are_asked_for() {
    let Some(amqp) = shared_broker() else { return };
    let mut cluster = Cluster::new(amqp);
    let listen = cluster.heart_url.trim_start_matches("http://").to_owned();
    let (exchange, log) = (cluster.exchange(), cluster.beside("heart.db"));
    let log = format!("sqlite:{log}");
    let args = ["heart", "--broker", &cluster.amqp, "--listen", &listen];
    let names = ["--exchange", &exchange, "--queue-name", &cluster.name];
    let heart = start(&[&args[..], &names, &["--write-log", &log, "--log", "error"]].concat());
    let node = start(&as_strs(&cluster.node_args(1, &cluster.file(1))));
    let (http, url) = (client(), heart.url());

    let create = || post(&http, &url, "write", "CREATE TABLE t (x)");
    assert_eq!(status(create(), None).await, StatusCode::UNAUTHORIZED);
    assert_eq!(status(create(), Some("t-")).await, StatusCode::UNAUTHORIZED);
    assert_eq!(
        status(create(), Some("t-look")).await,
        StatusCode::FORBIDDEN
    );
    // Logged when the node has come, whose calls carry a token.
    let mut answer = StatusCode::GATEWAY_TIMEOUT;
    while answer == StatusCode::GATEWAY_TIMEOUT || answer == StatusCode::SERVICE_UNAVAILABLE {
        answer = status(create().header("idempotency-key", "t"), Some("t-write")).await;
    }
    assert_eq!(answer, StatusCode::OK);
    // The heart asks the node with a token.
    let question = || post(&http, &url, "read", "SELECT * FROM t");
    assert_eq!(status(question(), Some("t-look")).await, StatusCode::OK);
    assert_eq!(status(question(), None).await, StatusCode::UNAUTHORIZED);
    let verify = || http.post(format!("{url}/verify"));
    assert_eq!(
        status(verify(), Some("t-write")).await,
        StatusCode::FORBIDDEN
    );
    let log = || http.get(format!("{url}/log?after=0"));
    assert_eq!(status(log(), Some("t-write")).await, StatusCode::FORBIDDEN);
    for path in ["health/live", "health/ready"] {
        let health = http.get(format!("{url}/{path}"));
        assert_eq!(status(health, None).await, StatusCode::OK, "{path}");
    }
    // The node has the same guard.
    let copy = || http.get(format!("{}/snapshot", node.url()));
    assert_eq!(status(copy(), None).await, StatusCode::UNAUTHORIZED);
    assert_eq!(status(copy(), Some("t-look")).await, StatusCode::FORBIDDEN);
    let metrics = http.get(format!("{}/metrics", node.url()));
    assert_eq!(status(metrics, Some("t-look")).await, StatusCode::OK);

    let operate = |token: &str| leveret(&["cluster", "--heart", &url, "--token", token, "verify"]);
    assert_eq!(operate("t-all").code, Some(0));
    let refused = operate("t-none");
    assert_eq!(refused.code, Some(2), "{refused:?}");
    assert!(!refused.stderr.contains("t-none"), "{refused:?}");
    node.terminate();
    assert_eq!(node.wait().0, Some(0));
    cluster.put_heart(heart);
    cluster.stop_heart();
}

/// A page of another origin, a name that leads here, a body that does not say that it is JSON.
#[tokio::test]
async fn pages_of_others_are_refused() {
    let directory = Directory::new();
    let data = directory.path();
    let args = ["heart", "--embedded", "--nodes", "1", "--data", &data];
    let server =
        Server::start(&[&args[..], &["--listen", "127.0.0.1:0", "--log", "error"]].concat());
    let (http, url) = (client(), server.url());
    let table = json!({ "sql": "CREATE TABLE t (x)" });
    write(&http, &url, "table", &table).await;
    let insert = || post(&http, &url, "write", "INSERT INTO t VALUES (1)");
    for (name, value) in [("origin", "https://evil.example"), ("host", "evil.example")] {
        let refused = status(insert().header(name, value), None).await;
        assert_eq!(refused, StatusCode::FORBIDDEN, "{name}");
        let recover = http.post(format!("{url}/recover")).header(name, value);
        assert_eq!(status(recover, None).await, StatusCode::FORBIDDEN, "{name}");
    }
    let body = r#"{"sql": "INSERT INTO t VALUES (1)"}"#;
    let silent = http.post(format!("{url}/write")).body(body);
    assert_eq!(
        status(silent, None).await,
        StatusCode::UNSUPPORTED_MEDIA_TYPE
    );
    assert_eq!(status(insert(), None).await, StatusCode::OK);
}

/// Where others can reach it, it needs tokens, or that it is meant.
#[test]
fn without_tokens_only_this_machine_is_answered() {
    let directory = Directory::new();
    let data = directory.path();
    let args = [
        "heart",
        "--embedded",
        "--listen",
        "0.0.0.0:0",
        "--data",
        &data,
    ];
    let ended = leveret(&args);
    assert_eq!(ended.code, Some(2), "{ended:?}");
    assert!(ended.stderr.contains("LEVERET_API_TOKENS"), "{ended:?}");
}
