//! Bodies in both directions.

use std::io::Write;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use flate2::{
    Compression,
    write::{DeflateEncoder, GzEncoder, ZlibEncoder},
};
use serde_json::{Value, json};

use super::{Server, answer_of, ok};
use crate::nodes::{failure, output};

async fn body_of(headers: &str, body: &[u8]) -> Value {
    let server = Server::start(vec![answer_of(headers, body)]).await;
    let seen = output("http", json!({ "url": server.url() })).await;
    seen.output.value()["body"].clone()
}

/// JSON by any of its media types is parsed, lists of it are lists, text is text in its charset, and the rest is base64.
#[tokio::test]
async fn a_body_is_what_its_media_type_says() {
    let png = b"\x89PNG\r\n\x1a\n\0\xff";
    let binary = |media_type: &str, bytes: &[u8]| json!({ "base64": STANDARD.encode(bytes), "media_type": media_type });
    let utf_16: Vec<u8> = "\u{feff}{\"ä\":1}"
        .encode_utf16()
        .flat_map(u16::to_be_bytes)
        .collect();
    for (media_type, body, expect) in [
        ("Application/JSON; Charset=UTF-8", &b"[1]"[..], json!([1])),
        ("application/problem+JSON", b"{}", json!({})),
        ("text/json", b"7", json!(7)),
        (
            "application/json",
            b"\xef\xbb\xbf{\"a\":1}",
            json!({ "a": 1 }),
        ),
        ("application/json", b" \r\n", json!(null)),
        (
            "application/json; charset=utf-16",
            &utf_16,
            json!({ "ä": 1 }),
        ),
        (
            "application/json; charset=\"iso-8859-1\"",
            b"\"\xe4\"",
            json!("ä"),
        ),
        (
            "application/x-ndjson",
            b"{\"a\":1}\n\n2\r\n",
            json!([{ "a": 1 }, 2]),
        ),
        ("application/jsonl", b"", json!(null)),
        (
            "application/json-seq",
            b"\x1e{\"a\":1}\n\x1e[2]\n",
            json!([{ "a": 1 }, [2]]),
        ),
        ("application/geo+json-seq", b"\x1e1\n", json!([1])),
        ("text/plain", b" \n", json!(" \n")),
        ("text/html", "\u{feff}<p>ü".as_bytes(), json!("<p>ü")),
        ("text/plain; charset=latin1", b"gr\xfc\xdfe", json!("grüße")),
        (
            "text/csv; charset=shift_jis",
            b"\x93\xfa\x96\x7b",
            json!("日本"),
        ),
        ("image/svg+xml", b"<svg/>", json!("<svg/>")),
        ("application/xml", b"<a/>", json!("<a/>")),
        ("image/png", png, binary("image/png", png)),
        (
            "application/octet-stream",
            b"text",
            binary("application/octet-stream", b"text"),
        ),
        // What says that it is text and is none stays whole.
        (
            "text/plain",
            b"gr\xfc\xdfe",
            binary("text/plain", b"gr\xfc\xdfe"),
        ),
        (
            "text/plain; charset=klingon",
            b"Q",
            binary("text/plain", b"Q"),
        ),
    ] {
        let seen = body_of(&format!("content-type: {media_type}\r\n"), body).await;
        assert_eq!(seen, expect, "{media_type}");
    }
    assert_eq!(body_of("", b"plain").await, json!("plain"));
    assert_eq!(
        body_of("", png).await,
        binary("application/octet-stream", png)
    );
}

#[tokio::test]
async fn a_list_with_what_is_no_json_is_a_failure() {
    for (media_type, body) in [
        ("application/x-ndjson", "1\n{oops\n"),
        ("application/json-seq", "\u{1e}1\n\u{1e}[2"),
        ("application/json; charset=utf-16", "odd"),
    ] {
        let headers = format!("content-type: {media_type}\r\n");
        let server = Server::start(vec![answer_of(&headers, body.as_bytes())]).await;
        let (message, retryable) = failure("http", json!({ "url": server.url() })).await;
        assert!(
            message.contains("is not the JSON it says: ") && retryable,
            "{message}"
        );
    }
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(bytes).expect("memory takes it");
    encoder.finish().expect("memory takes it")
}

fn zlib(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(bytes).expect("memory takes it");
    encoder.finish().expect("memory takes it")
}

fn deflate(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = DeflateEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(bytes).expect("memory takes it");
    encoder.finish().expect("memory takes it")
}

#[tokio::test]
async fn codings_are_undone() {
    // What an encoder makes of `hello` (RFC 7932): one uncompressed block.
    let brotli = b"\x0b\x02\x80hello\x03".to_vec();
    for (coding, body) in [
        ("gzip", gzip(b"hello")),
        ("X-GZIP", gzip(b"hello")),
        ("gzip", [gzip(b"hel"), gzip(b"lo")].concat()),
        ("deflate", zlib(b"hello")),
        ("deflate", deflate(b"hello")),
        ("br", brotli),
        ("identity", b"hello".to_vec()),
        ("deflate, gzip", gzip(&zlib(b"hello"))),
    ] {
        let headers = format!("content-type: text/plain\r\ncontent-encoding: {coding}\r\n");
        assert_eq!(body_of(&headers, &body).await, json!("hello"), "{coding}");
    }
    let mut server = Server::start(vec![ok()]).await;
    output("http", json!({ "url": server.url() })).await;
    let accepted = server.request();
    assert_eq!(
        accepted.header("accept-encoding"),
        Some("gzip, br, deflate")
    );
}

/// The bound is that of the decoded body: a few bytes that become many are refused, and never made.
#[tokio::test]
async fn a_coding_that_hides_a_long_body_is_refused() {
    let long = gzip(&vec![b'x'; 1 << 24]);
    let mut cut = gzip(b"hello");
    cut.truncate(20);
    for (coding, body, told, is_transient) in [
        (
            "gzip",
            long.clone(),
            "has more than response_bytes_max = 100 bytes",
            false,
        ),
        ("gzip", b"hello".to_vec(), "is not the 'gzip' it says", true),
        ("gzip", cut, "is not the 'gzip' it says", true),
        (
            "zstd",
            b"hello".to_vec(),
            "has the content coding 'zstd', which was not asked for",
            false,
        ),
        (
            "gzip, gzip, gzip, gzip",
            gzip(b""),
            "which was not asked for",
            false,
        ),
    ] {
        let headers = format!("content-encoding: {coding}\r\n");
        let server = Server::start(vec![answer_of(&headers, &body)]).await;
        let params = json!({ "url": server.url(), "response_bytes_max": 100 });
        let (message, retryable) = failure("http", params).await;
        assert!(message.ends_with(told), "{message}");
        assert_eq!(retryable, is_transient, "{message}");
    }
}

async fn sent(more: Value) -> (String, String) {
    let mut server = Server::start(vec![ok()]).await;
    let mut params = more;
    params["url"] = json!(server.url());
    output("http", params).await;
    let request = server.request();
    assert_eq!(request.line, "POST /");
    let content_type = request.header("content-type").unwrap_or_default();
    (content_type.to_owned(), request.body)
}

#[tokio::test]
async fn a_request_has_any_of_five_bodies() {
    let check = |(content_type, body): (String, String), expect: (&str, &str)| {
        assert_eq!((&*content_type, &*body), expect);
    };
    let form = json!({ "form": { "a b": "1&2", "list": ["x", 2], "ü": null } });
    check(
        sent(form).await,
        (
            "application/x-www-form-urlencoded",
            "a+b=1%262&list=x&list=2&%C3%BC=null",
        ),
    );
    check(
        sent(json!({ "text": "grüße" })).await,
        ("text/plain; charset=utf-8", "grüße"),
    );
    check(
        sent(json!({ "text": "<a/>", "headers": { "Content-Type": "text/xml" } })).await,
        ("text/xml", "<a/>"),
    );
    check(
        sent(json!({ "json": false })).await,
        ("application/json", "false"),
    );
    for base64 in ["AAECw7w=", "AAECw7w", "AAEC\r\nw7w="] {
        check(
            sent(json!({ "base64": base64 })).await,
            ("application/octet-stream", "\0\u{1}\u{2}ü"),
        );
    }
    check(
        sent(json!({ "base64": "Pz8-Pz8_" })).await,
        ("application/octet-stream", "??>???"),
    );
}

/// What a response gave is what a request takes.
#[tokio::test]
async fn bytes_can_be_handed_on() {
    let mut server = Server::start(vec![
        answer_of("content-type: image/x\r\n", b"\0ab"),
        ok().into(),
    ])
    .await;
    let seen = output("http", json!({ "url": server.url() })).await;
    server.request();
    let body = &seen.output.value()["body"];
    output("http", json!({ "url": server.url(), "base64": body })).await;
    let request = server.request();
    assert_eq!(
        (request.header("content-type"), &*request.body),
        (Some("image/x"), "\0ab")
    );
}

#[tokio::test]
async fn a_body_can_have_parts() {
    let parts = json!([
        { "name": "plain", "text": "one" },
        { "name": "q\"\r\nx: y", "json": { "a": 1 } },
        { "name": "file", "base64": "YWJj", "filename": "ü.bin", "media_type": "image/png" },
    ]);
    let headers = json!({ "content-type": "multipart/form-data; boundary=theirs" });
    let (content_type, body) = sent(json!({ "multipart": parts, "headers": headers })).await;
    let boundary = content_type.strip_prefix("multipart/form-data; boundary=leveret");
    let line = format!("--leveret{}", boundary.expect("a boundary of ours"));
    let expect = [
        "\r\ncontent-disposition: form-data; name=\"plain\"\r\n\r\none\r\n",
        "\r\ncontent-disposition: form-data; name=\"q%22%0D%0Ax: y\"\r\ncontent-type: application/json\r\n\r\n{\"a\":1}\r\n",
        "\r\ncontent-disposition: form-data; name=\"file\"; filename=\"ü.bin\"\r\ncontent-type: image/png\r\n\r\nabc\r\n",
        "--\r\n",
    ];
    let seen: Vec<&str> = body.split(&line).collect();
    assert_eq!(seen, [&[""][..], &expect].concat());
    // A map is as good, and its values may be plain.
    let (_, body) = sent(json!({ "multipart": { "n": 5 } })).await;
    assert!(body.contains("name=\"n\"\r\n\r\n5\r\n"), "{body}");
    for (multipart, told) in [
        (json!([{ "text": "x" }]), "a part of a list has a 'name'"),
        (
            json!({ "a": {} }),
            "part 'a' has one of 'text', 'json' and 'base64'",
        ),
        (
            json!({ "a": { "base64": "%" } }),
            "part 'a': this is no base64",
        ),
        (
            json!({ "a": { "text": "x", "media_type": "a\r\nb: c" } }),
            "part 'a': the media type has",
        ),
        (json!(7), "'multipart' is a map"),
    ] {
        let params = json!({ "url": "http://127.0.0.1:1", "multipart": multipart });
        let (message, retryable) = failure("http", params).await;
        assert!(message.starts_with(told) && !retryable, "{message}");
    }
}
