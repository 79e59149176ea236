//! The `http` node against a server that notes what it is asked and answers what the test says.

// What is sent, and what comes back: media types, charsets, codings, and the forms of bodies.
mod bodies;
// Which headers go out and come back.
mod headers;
// Hosts, addresses, proxies and certificates.
mod reach;
// What goes along to where a redirect leads.
mod redirects;
// How long a server asks to wait, and what of its answers expressions can read.
mod retries;

use std::{collections::BTreeMap, net::SocketAddr};

use leveret::core::ids::NodeId;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpSocket, TcpStream},
    sync::mpsc,
    task::JoinHandle,
};

use super::{attempt, complaint, context, failure, output};
use crate::harness::{Harness, blueprint};

/// A request as it arrived.
#[derive(Debug)]
struct Request {
    /// Method and target.
    line: String,
    headers: BTreeMap<String, String>,
    body: String,
}

impl Request {
    async fn read(stream: &mut TcpStream) -> std::io::Result<Request> {
        let mut stream = BufReader::new(stream);
        let mut lines = Vec::new();
        loop {
            let mut line = String::new();
            stream.read_line(&mut line).await?;
            match line.trim_end() {
                "" => break,
                line => lines.push(line.to_owned()),
            }
        }
        let mut headers: BTreeMap<String, String> = BTreeMap::new();
        for (name, value) in lines[1..].iter().filter_map(|line| line.split_once(": ")) {
            let known = headers.entry(name.to_ascii_lowercase()).or_default();
            if !known.is_empty() {
                known.push_str(", ");
            }
            known.push_str(value);
        }
        let length = headers.get("content-length");
        let mut body = vec![0; length.map_or(0, |length| length.parse().expect("a length"))];
        stream.read_exact(&mut body).await?;
        Ok(Request {
            line: lines[0].trim_end_matches(" HTTP/1.1").to_owned(),
            headers,
            body: String::from_utf8(body).expect("text"),
        })
    }

    fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }
}

/// What the server does at the end of its answer.
#[derive(Clone, Copy)]
enum Then {
    Close,
    Wait,
}

/// Answers one request after the other, with what it was given; stopped when dropped.
struct Server {
    address: SocketAddr,
    requests: mpsc::UnboundedReceiver<Request>,
    serving: JoinHandle<()>,
}

impl Server {
    async fn start(answers: Vec<impl Into<Vec<u8>>>) -> Server {
        Server::start_and(Then::Close, answers).await
    }

    async fn start_and(then: Then, answers: Vec<impl Into<Vec<u8>>>) -> Server {
        let answers: Vec<Vec<u8>> = answers.into_iter().map(Into::into).collect();
        let listener = TcpListener::bind("127.0.0.1:0")
            .await
            .expect("a port is free");
        let address = listener.local_addr().expect("an address");
        let (sender, requests) = mpsc::unbounded_channel();
        let serving = tokio::spawn(async move {
            let mut waiting = Vec::new();
            for answer in answers {
                let (mut stream, _) = listener.accept().await.expect("accepts");
                let request = Request::read(&mut stream).await.expect("a request comes");
                // Not every test looks at them.
                drop(sender.send(request));
                // Whoever asked may have gone: that is what some tests are about.
                drop(stream.write_all(&answer).await);
                match then {
                    Then::Close => drop(stream),
                    Then::Wait => waiting.push(stream),
                }
            }
            std::future::pending::<()>().await;
        });
        Server {
            address,
            requests,
            serving,
        }
    }

    fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// What arrived and was not looked at yet.
    fn request(&mut self) -> Request {
        self.requests.try_recv().expect("a request came")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

/// As [`answer`], with bytes for a body, and headers that each end their line.
fn answer_of(headers: &str, body: &[u8]) -> Vec<u8> {
    let mut bytes = answer("200 OK", headers, "").into_bytes();
    let length = format!("content-length: {}", body.len());
    let text = String::from_utf8(bytes).expect("text");
    bytes = text.replace("content-length: 0", &length).into_bytes();
    bytes.extend_from_slice(body);
    bytes
}

fn answer(status: &str, headers: &str, body: &str) -> String {
    let length = body.len();
    format!(
        "HTTP/1.1 {status}\r\nconnection: close\r\ncontent-length: {length}\r\n{headers}\r\n{body}"
    )
}

fn ok() -> String {
    answer("200 OK", "", "")
}

#[tokio::test]
async fn asks_what_the_parameters_say() {
    let mut server = Server::start(vec![ok()]).await;
    let params = json!({
        "url": format!("{}/orders/7?draft=1", server.url()),
        "method": "patch",
        "headers": { "X-Tenant": "acme", "X-Number": 3 },
        "query": { "b": true, "name": "Ada & Bob" },
        "json": { "items": [1, "two"], "none": null },
    });
    output("http", params).await;
    let request = server.request();
    assert_eq!(
        request.line,
        "PATCH /orders/7?draft=1&b=true&name=Ada+%26+Bob"
    );
    assert_eq!(request.header("x-tenant"), Some("acme"));
    assert_eq!(request.header("x-number"), Some("3"));
    assert_eq!(request.header("content-type"), Some("application/json"));
    let agent = request.header("user-agent");
    assert!(
        agent.is_some_and(|agent| agent.starts_with("leveret/")),
        "{agent:?}"
    );
    let body: Value = serde_json::from_str(&request.body).expect("JSON");
    assert_eq!(body, json!({ "items": [1, "two"], "none": null }));
}

#[tokio::test]
async fn gets_unless_there_is_a_body() {
    let mut server = Server::start(vec![ok(), ok()]).await;
    output("http", json!({ "url": server.url() })).await;
    let request = server.request();
    assert_eq!((&*request.line, &*request.body), ("GET /", ""));
    output("http", json!({ "url": server.url(), "json": [] })).await;
    let request = server.request();
    assert_eq!((&*request.line, &*request.body), ("POST /", "[]"));
}

/// Status, headers and body, which is parsed if the response says that it is JSON.
#[tokio::test]
async fn the_output_is_the_response() {
    for (status, headers, body, expect) in [
        (
            "200 OK",
            "content-type: application/json",
            r#"{"n":[1]}"#,
            json!({ "n": [1] }),
        ),
        (
            "201 Created",
            "content-type: application/vnd.x+json; charset=utf-8",
            "7",
            json!(7),
        ),
        (
            "202 Accepted",
            "content-type: application/json",
            "",
            json!(null),
        ),
        ("200 OK", "content-type: text/plain", "[1]", json!("[1]")),
        ("204 No Content", "x-rest: 3", "", json!(null)),
    ] {
        let server = Server::start(vec![answer(status, &format!("{headers}\r\n"), body)]).await;
        let seen = output("http", json!({ "url": server.url() })).await;
        let (name, value) = headers.split_once(": ").expect("a header");
        let headers =
            json!({ "connection": "close", "content-length": body.len().to_string(), name: value });
        let code: u16 = status[..3].parse().expect("a status");
        let expect = json!({ "status": code, "headers": headers, "body": expect });
        assert_eq!((seen.output.value(), seen.action), (&expect, None));
    }
}

/// Which statuses are results, which failures are worth another attempt, and that neither path nor query of the URL are told.
#[tokio::test]
async fn statuses_decide() {
    const FINE: Option<bool> = None;
    const TRANSIENT: Option<bool> = Some(true);
    const PERMANENT: Option<bool> = Some(false);
    for (status, expected, outcome) in [
        ("200 OK", json!(null), FINE),
        ("299 Odd", json!(null), FINE),
        ("304 Not Modified", json!(null), PERMANENT),
        ("400 Bad Request", json!(null), PERMANENT),
        ("404 Not Found", json!(null), PERMANENT),
        ("409 Conflict", json!(null), PERMANENT),
        ("408 Request Timeout", json!(null), TRANSIENT),
        ("425 Too Early", json!(null), TRANSIENT),
        ("429 Too Many Requests", json!(null), TRANSIENT),
        ("500 Internal Server Error", json!(null), TRANSIENT),
        ("503 Service Unavailable", json!(null), TRANSIENT),
        ("404 Not Found", json!(404), FINE),
        ("404 Not Found", json!([200, 404]), FINE),
        ("503 Service Unavailable", json!([503]), FINE),
        ("200 OK", json!(201), PERMANENT),
        ("200 OK", json!([201, 202]), PERMANENT),
        ("503 Service Unavailable", json!([200]), TRANSIENT),
    ] {
        let server = Server::start(vec![answer(status, "", "the reason")]).await;
        let params = json!({
            "url": format!("{}/hush?key=hush", server.url()),
            "expected_status": expected,
        });
        if let Some(retryable) = outcome {
            let (message, is_retryable) = failure("http", params).await;
            let told = format!("{} answered {}", server.url(), &status[..3]);
            assert!(message.starts_with(&told), "{message}");
            // A 304 has no body.
            assert!(
                message.ends_with("the reason") || status.starts_with("304"),
                "{message}"
            );
            assert!(!message.contains("hush"), "{message}");
            assert_eq!(is_retryable, retryable, "{status} {expected}");
        } else {
            let seen = output("http", params).await;
            assert_eq!(
                seen.output.value()["status"],
                json!(status[..3].parse::<u16>().unwrap())
            );
        }
    }
}

/// However long the server takes with the head or the body of its answer.
#[tokio::test]
async fn a_timeout_is_transient() {
    let head = "HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf";
    for said in ["", head] {
        let server = Server::start_and(Then::Wait, vec![said.to_owned()]).await;
        for (timeout, told) in [(json!(40), "40ms"), (json!("50ms"), "50ms")] {
            let params = json!({ "url": format!("{}/hush", server.url()), "timeout": timeout });
            let message = format!("no response from {} within {told}", server.url());
            assert_eq!(failure("http", params).await, (message, true));
        }
    }
}

/// A server that does not listen, one that closes the connection without an answer or within it, and JSON that is none.
#[tokio::test]
async fn what_breaks_is_transient() {
    let deaf = TcpSocket::new_v4().expect("a socket");
    deaf.bind("127.0.0.1:0".parse().expect("an address"))
        .expect("a port is free");
    let url = format!("http://{}", deaf.local_addr().expect("an address"));
    let (message, retryable) = failure("http", json!({ "url": format!("{url}/hush") })).await;
    assert!(
        message.starts_with(&format!("request to {url} failed: ")),
        "{message}"
    );
    assert!(
        message.contains("refused") && !message.contains("hush"),
        "{message}"
    );
    assert!(retryable, "{message}");

    let half = "HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf".to_owned();
    for said in [String::new(), half] {
        let server = Server::start(vec![said]).await;
        let (message, retryable) = failure("http", json!({ "url": server.url() })).await;
        let told = format!("request to {} failed: ", server.url());
        assert!(message.starts_with(&told) && retryable, "{message}");
    }

    let json = answer("200 OK", "content-type: application/json\r\n", "{oops");
    let server = Server::start(vec![json]).await;
    let (message, retryable) = failure("http", json!({ "url": server.url() })).await;
    let told = format!("the response of {} is not the JSON it says: ", server.url());
    assert!(message.starts_with(&told) && retryable, "{message}");
}

#[tokio::test]
async fn a_response_has_a_bound() {
    let mebibyte = "x".repeat(1 << 20);
    for (body, max) in [("12345", json!(5)), (&*mebibyte, json!(null))] {
        let longer = format!("{body}6");
        let answers = vec![answer("200 OK", "", body), answer("200 OK", "", &longer)];
        let server = Server::start(answers).await;
        let params = json!({ "url": server.url(), "response_bytes_max": max });
        let seen = output("http", params.clone()).await;
        assert_eq!(seen.output.value()["body"].as_str(), Some(body));
        let told = format!(
            "the response of {} has more than response_bytes_max = {} bytes",
            server.url(),
            body.len()
        );
        assert_eq!(failure("http", params).await, (told, false));
    }
}

/// A long page that tells of an outage is an outage like one that tells it in short.
#[tokio::test]
async fn an_unexpected_response_is_told_however_long_it_is() {
    let body = "away".repeat(100);
    for (status, retryable) in [("503 Service Unavailable", true), ("404 Not Found", false)] {
        let server = Server::start(vec![answer(status, "", &body)]).await;
        let params = json!({ "url": server.url(), "response_bytes_max": 100 });
        let (message, is_retryable) = failure("http", params).await;
        let told = format!("{} answered {status}: awayaway", server.url());
        assert!(message.starts_with(&told), "{message}");
        assert_eq!(is_retryable, retryable);
    }
}

#[tokio::test]
async fn the_idempotency_key_is_sent_unless_it_is_turned_off() {
    let mut server = Server::start(vec![ok(), ok(), ok()]).await;
    for (more, key) in [
        (json!({}), Some("r/a/")),
        (json!({ "idempotency_key": false }), None),
        (
            json!({ "headers": { "Idempotency-Key": "mine" } }),
            Some("mine"),
        ),
    ] {
        let mut params = more;
        params["url"] = json!(server.url());
        output("http", params).await;
        assert_eq!(server.request().header("idempotency-key"), key);
    }
}

/// Ids may have characters beyond ASCII, and the key has them, too.
#[tokio::test]
async fn the_key_is_utf_8() {
    let mut server = Server::start(vec![ok()]).await;
    let mut context = context(json!({ "url": server.url() }));
    context.key.node_id = NodeId::new("größe").expect("an id");
    attempt("http", context).await.expect("a response");
    assert_eq!(server.request().header("idempotency-key"), Some("r/größe/"));
}

/// An id that looks like a path reaches none.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn values_stay_within_their_part_of_a_url() {
    let mut server = Server::start(vec![ok()]).await;
    let definition = blueprint(&format!(
        r#"A; A = http; A.params = {{"url":"{}/users/{{{{ run.input }}}}/orders?of={{{{ run.input }}}}"}}"#,
        server.url()
    ));
    let harness = Harness::start().await;
    let result = harness
        .run_result(&definition, json!("../admin?x=1#"))
        .await;
    assert_eq!(result.steps["A"].error, None);
    let id = "..%2Fadmin%3Fx%3D1%23";
    assert_eq!(
        server.request().line,
        format!("GET /users/{id}/orders?of={id}")
    );
    let result = harness.run_result(&definition, json!("..")).await;
    let error = result.steps["A"]
        .error
        .as_ref()
        .expect("it leads elsewhere");
    assert!(
        error
            .message
            .ends_with("is `.` or `..`, which leads elsewhere"),
        "{error}"
    );
    harness.stop().await;
}

/// A step that fails twice asks three times, with one key, which names the run and the node.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_attempt_has_the_same_key() {
    let away = || answer("503 Service Unavailable", "", "");
    let mut server = Server::start(vec![away(), away(), ok()]).await;
    let definition = blueprint(&format!(
        r#"A; A = http; A.params = {{"url":"{}","json":{{}}}}; A.config = {{"maxRetries":3,"retryDelay":0}}"#,
        server.url()
    ));
    let harness = Harness::start().await;
    let result = harness.run_result(&definition, Value::Null).await;
    assert_eq!(result.steps["A"].attempts, 3);
    let key = format!("{}/A/", result.run_id);
    for _ in 0..3 {
        assert_eq!(server.request().header("idempotency-key"), Some(&*key));
    }
    harness.stop().await;
}

/// When the workflow is loaded, what can be told then.
#[test]
fn invalid_parameters_are_told_at_load() {
    for (params, message) in [
        (json!({}), "parameter 'url' is missing"),
        (
            json!({ "url": 7 }),
            "parameter 'url' must be text, not this number",
        ),
        (
            json!({ "url": "h/x" }),
            "parameter 'url' is no URL of http:// or https://",
        ),
        (
            json!({ "url": "http://h", "method": "G T" }),
            "'G T' is no HTTP method; did you mean 'GET'?",
        ),
        (
            json!({ "url": "http://h", "timeout": "soon" }),
            "'soon' is no timeout: say milliseconds or '10s'",
        ),
        (
            json!({ "url": "http://h", "timeout": -1 }),
            "-1 is no timeout in whole milliseconds",
        ),
        (
            json!({ "url": "http://h", "timeout": [1] }),
            "[1] is no timeout: say milliseconds or '10s'",
        ),
        (
            json!({ "url": "http://h", "timeout": 0 }),
            "a timeout of 0 lets no request end; leave it out for 30s",
        ),
        (
            json!({ "url": "http://h", "timeout": "0s" }),
            "a timeout of 0 lets no request end; leave it out for 30s",
        ),
        (
            json!({ "url": "http://h", "headers": { "Content-Length": 3 } }),
            "header 'Content-Length' is the node's own to send",
        ),
        (
            json!({ "url": "http://h", "json": 1, "text": "{{ input }}" }),
            "",
        ),
        (
            json!({ "url": "http://h", "json": 1, "text": "1" }),
            "a request has one body, and there is 'json' already",
        ),
        (
            json!({ "url": "http://h", "base64": "%" }),
            "this is no base64",
        ),
        (
            json!({ "url": "http://h", "ca": "-----BEGIN CERTIFICATE-----" }),
            "parameter 'ca' has no certificate in PEM",
        ),
        (json!([]), "params must be an object"),
        // What expressions come to is not known yet.
        (
            json!({ "url": "{{ input }}", "method": "{{ input }}", "timeout": "{{ input }}" }),
            "",
        ),
        (
            json!({ "url": "http://h", "method": "get", "timeout": "3s" }),
            "",
        ),
    ] {
        assert_eq!(complaint("http", &params), message);
    }
    let unknown = complaint("http", &json!({ "url": "http://h", "payload": 1 }));
    assert!(
        unknown.starts_with("unknown parameter 'payload'; known: url, "),
        "{unknown}"
    );
}

/// By the step, if an expression came to it; no attempt helps then.
#[tokio::test]
async fn invalid_parameters_are_told_by_the_step() {
    for (params, message) in [
        (
            json!({ "url": "not a url" }),
            "parameter 'url' is no URL of http:// or https://",
        ),
        (
            json!({ "url": "file:///etc/passwd" }),
            "parameter 'url' is no URL of http:// or https://",
        ),
        (
            json!({ "url": "http://x", "timeout": 0 }),
            "a timeout of 0 ",
        ),
        (
            json!({ "url": "http://x", "text": "a", "form": {} }),
            "a request has one body",
        ),
        (
            json!({ "url": "http://x", "base64": "%" }),
            "this is no base64",
        ),
        (
            json!({ "url": "http://x", "ca": "x" }),
            "parameter 'ca' has no",
        ),
        (json!({ "url": 7 }), "parameters: "),
        (
            json!({ "url": "http://x", "method": "G T" }),
            "'G T' is no HTTP method",
        ),
        (
            json!({ "url": "http://x", "timeout": 0.5 }),
            "0.5 is no timeout",
        ),
        (
            json!({ "url": "http://x", "headers": { "a b": 1 } }),
            "'a b' is no header name",
        ),
        (
            json!({ "url": "http://x", "headers": { "a": "b\nc" } }),
            "the value of header 'a' has characters",
        ),
        (
            json!({ "url": "http://x", "expected_status": "2xx" }),
            "parameters: ",
        ),
        (
            json!({ "url": "http://x", "response_bytes_max": -1 }),
            "parameters: ",
        ),
    ] {
        let (told, retryable) = failure("http", params).await;
        assert!(told.starts_with(message), "{told}");
        assert!(!retryable, "{told}");
    }
}
