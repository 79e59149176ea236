//! Headers in both directions.

use serde_json::json;

use super::{Server, answer, ok};
use crate::nodes::output;

/// All headers of another message are handed on: those that framed it are not, nor those that its `connection` named.
#[tokio::test]
async fn headers_that_frame_a_message_are_not_handed_on() {
    let mut server = Server::start(vec![ok()]).await;
    let forwarded = json!({
        "Content-Length": "3",
        "transfer-encoding": "chunked",
        "host": "elsewhere.example",
        "Connection": "X-Hop, keep-alive",
        "x-hop": "1",
        "keep-alive": "timeout=5",
        "te": "trailers",
        "upgrade": "websocket",
        "expect": "100-continue",
        "content-encoding": "gzip",
        "accept-encoding": "zstd",
        "x-kept": "2",
    });
    let params = json!({ "url": server.url(), "headers": forwarded, "json": { "whole": true } });
    output("http", params).await;
    let request = server.request();
    assert_eq!(request.body, r#"{"whole":true}"#);
    assert_eq!(request.header("content-length"), Some("14"));
    assert_eq!(request.header("host"), Some(&*server.address.to_string()));
    assert_eq!(request.header("x-kept"), Some("2"));
    for gone in [
        "transfer-encoding",
        "connection",
        "x-hop",
        "keep-alive",
        "te",
        "upgrade",
        "expect",
        "content-encoding",
    ] {
        assert_eq!(request.header(gone), None, "{gone}");
    }
}

#[tokio::test]
async fn a_list_is_a_header_that_comes_several_times() {
    let mut server = Server::start(vec![ok()]).await;
    let params = json!({ "url": server.url(), "headers": { "X-Tag": ["a", 2, "c"] } });
    output("http", params).await;
    assert_eq!(server.request().header("x-tag"), Some("a, 2, c"));
}

#[tokio::test]
async fn all_headers_of_a_response_are_kept() {
    let headers = "x-a: 1\r\nset-cookie: a=1; expires=Mon, 1 Jan\r\nX-A: 2, 3\r\nset-cookie: b=2\r\nx-u: gr\u{fc}n\r\n";
    let server = Server::start(vec![answer("200 OK", headers, "")]).await;
    let seen = output("http", json!({ "url": server.url() })).await;
    let seen = &seen.output.value()["headers"];
    assert_eq!(seen["x-a"], json!("1, 2, 3"));
    assert_eq!(
        seen["set-cookie"],
        json!(["a=1; expires=Mon, 1 Jan", "b=2"])
    );
    assert_eq!(seen["x-u"], json!("grün"));
    let server = Server::start(vec![answer("200 OK", "set-cookie: a=1\r\n", "")]).await;
    let seen = output("http", json!({ "url": server.url() })).await;
    assert_eq!(seen.output.value()["headers"]["set-cookie"], json!(["a=1"]));
}
