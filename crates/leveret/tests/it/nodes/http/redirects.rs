//! Redirects, and what goes along.

use serde_json::{Value, json};

use super::{Server, answer, ok};
use crate::nodes::{failure, output};

fn to(status: &str, location: &str) -> String {
    answer(status, &format!("location: {location}\r\n"), "")
}

fn secretive(url: &str) -> Value {
    let url = url.replace("http://", "http://me:hush@");
    json!({
        "url": format!("{url}/start?key=hush"),
        "headers": { "x-api-key": "hush", "cookie": "hush", "accept": "text/plain", "x-other": "hush" },
    })
}

/// To another host, or another port of it, go only headers without secrets; and nowhere goes where the request came from.
#[tokio::test]
async fn secrets_stay_with_their_origin() {
    let mut other = Server::start(vec![ok()]).await;
    let mut server = Server::start(vec![to("302 Found", &format!("{}/x", other.url()))]).await;
    output("http", secretive(&server.url())).await;
    let first = server.request();
    assert_eq!(first.header("authorization"), Some("Basic bWU6aHVzaA=="));
    assert_eq!(first.header("x-api-key"), Some("hush"));
    let second = other.request();
    assert!(!format!("{second:?}").contains("hush"), "{second:?}");
    for gone in ["authorization", "cookie", "referer", "x-other"] {
        assert_eq!(second.header(gone), None, "{gone}");
    }
    assert_eq!(second.header("accept"), Some("text/plain"));
    assert_eq!(second.header("idempotency-key"), Some("r/a/"));
}

#[tokio::test]
async fn at_the_same_origin_all_headers_go_along() {
    let mut server = Server::start(vec![to("302 Found", "next?b=1"), ok()]).await;
    output("http", secretive(&server.url())).await;
    server.request();
    let second = server.request();
    assert_eq!(second.line, "GET /next?b=1");
    assert_eq!(second.header("authorization"), Some("Basic bWU6aHVzaA=="));
    assert_eq!(second.header("x-api-key"), Some("hush"));
    assert_eq!(second.header("referer"), None);
}

#[tokio::test]
async fn a_redirect_that_is_expected_is_not_followed() {
    for expected in [json!(302), json!([200, 302])] {
        let server = Server::start(vec![to("302 Found", "http://127.0.0.1:1/")]).await;
        let params = json!({ "url": server.url(), "expected_status": expected });
        let seen = output("http", params).await;
        assert_eq!(seen.output.value()["status"], json!(302));
        assert_eq!(
            seen.output.value()["headers"]["location"],
            json!("http://127.0.0.1:1/")
        );
    }
}

#[tokio::test]
async fn the_method_changes_as_in_browsers() {
    for (status, method, expect, body) in [
        ("301 Moved", "POST", "GET", ""),
        ("302 Found", "POST", "GET", ""),
        ("302 Found", "PUT", "PUT", "1"),
        ("303 See Other", "PUT", "GET", ""),
        ("307 Temporary", "POST", "POST", "1"),
        ("308 Permanent", "PATCH", "PATCH", "1"),
    ] {
        let mut server = Server::start(vec![to(status, "/next"), ok()]).await;
        let params = json!({ "url": server.url(), "method": method, "json": 1 });
        output("http", params).await;
        server.request();
        let second = server.request();
        assert_eq!(
            (&*second.line, &*second.body),
            (&*format!("{expect} /next"), body),
            "{status} {method}"
        );
        let content_type = second.header("content-type");
        assert_eq!(
            content_type.is_some(),
            !body.is_empty(),
            "{status} {method}"
        );
    }
}

#[tokio::test]
async fn circles_and_redirects_to_nowhere_end() {
    let server = Server::start(vec![to("302 Found", "/"); 12]).await;
    let (message, retryable) = failure("http", json!({ "url": server.url() })).await;
    assert_eq!(
        message,
        format!("{} redirects more than 10 times", server.url())
    );
    assert!(!retryable);
    for location in [
        "",
        "location: file:///etc/passwd\r\n",
        "location: http://\r\n",
    ] {
        let server = Server::start(vec![answer("302 Found", location, "")]).await;
        let (message, retryable) = failure("http", json!({ "url": server.url() })).await;
        assert!(
            message.contains(" answered 302 Found") && !retryable,
            "{message}"
        );
    }
    let (refused, retryable) = {
        let server = Server::start(vec![to("302 Found", "http://169.254.169.254/latest")]).await;
        failure("http", json!({ "url": server.url() })).await
    };
    assert!(
        refused.starts_with("169.254.169.254 hands out the machine's credentials"),
        "{refused}"
    );
    assert!(!retryable);
}
