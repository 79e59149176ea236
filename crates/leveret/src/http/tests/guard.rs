//! Who may ask, and what is refused before anybody looks at it.

use super::*;

async fn asked(
    world: &World,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &'static [u8],
) -> Answer {
    let mut request = Request::builder().method(method).uri(path);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    world.send(request.body(Body::from(body)).unwrap()).await
}

const START: &str = "/api/v1/workflows/w/runs?wait=true";
const JSON: (&str, &str) = ("content-type", "application/json");

/// What a form or a script of another page can send: no content type or a plain one, a foreign origin, a name made to lead here.
#[tokio::test]
async fn pages_of_others_start_no_runs() {
    let world = World::new().await;
    world.put_chain("w", &["set"]).await;
    let form = ("content-type", "application/x-www-form-urlencoded");
    let local = ("host", "localhost");
    for (headers, status) in [
        (&[("host", "localhost:7070")][..], 415),
        (&[("content-type", "text/plain")], 415),
        (&[form], 415),
        (&[JSON, ("host", "evil.example:7070")], 403),
        (&[JSON, local, ("origin", "https://evil.example")], 403),
        (&[JSON, local, ("origin", "null")], 403),
        (&[JSON, local, ("origin", "http://localhost")], 200),
    ] {
        let answer = asked(&world, "POST", START, headers, b"{}").await;
        assert_eq!(
            answer.status.as_u16(),
            status,
            "{headers:?} {}",
            answer.text
        );
    }
    let foreign = [local, ("origin", "null")];
    let cancel = asked(&world, "POST", "/api/v1/runs/r/cancel", &foreign, b"").await;
    cancel.problem(403);
    let evil = [("host", "evil.example")];
    asked(&world, "GET", "/nowhere", &evil, b"")
        .await
        .problem(403);
    // Who asks for health asks by whatever name.
    asked(&world, "GET", "/health/live", &evil, b"")
        .await
        .expect(200);
    world.stop().await;
}

#[tokio::test]
async fn tokens_let_do_what_their_scope_says() {
    let options = ApiOptions {
        guard: Guard {
            tokens: "look:t-1:read,ci:t-2:run,ops:t-3".parse().unwrap(),
            hosts: Vec::new(),
        },
        ..ApiOptions::default()
    };
    let world = World::with(options).await;
    let definition = br#"{"nodes": [{"id": "a", "uses": "set"}]}"#;
    let put = "/api/v1/workflows/w";
    for (token, statuses) in [
        ("", [401, 401, 401]),
        ("Bearer t-0", [401, 401, 401]),
        ("Bearer t-1", [403, 404, 403]),
        ("Bearer t-2", [403, 404, 404]),
        ("Bearer t-3", [201, 200, 200]),
    ] {
        let token = ("authorization", token);
        let seen = [
            asked(&world, "PUT", put, &[JSON, token], definition).await,
            asked(&world, "GET", put, &[("host", "any.example"), token], b"").await,
            asked(&world, "POST", START, &[JSON, token], b"{}").await,
        ];
        let seen = seen.map(|answer| answer.status.as_u16());
        assert_eq!(seen, statuses, "{token:?}");
    }
    let answer = asked(&world, "GET", "/metrics", &[], b"").await;
    answer.problem(401);
    assert_eq!(answer.headers["www-authenticate"], "Bearer");
    let health = asked(&world, "GET", "/health/live", &[], b"").await;
    health.expect(200);
    world.stop().await;
}

/// Bodies that are JSON for others each have their own answer.
#[tokio::test]
async fn what_is_no_plain_json_is_told() {
    let world = World::new().await;
    world.put_chain("w", &["set"]).await;
    let gzip = ("content-encoding", "gzip");
    for (headers, body, status, told) in [
        (&[JSON][..], &b"\xef\xbb\xbf{}"[..], 400, "byte order mark"),
        (&[JSON], b"\xff\xfe{\0}\0", 400, "UTF-16"),
        (&[JSON, gzip], b"\x1f\x8b", 415, "must not be compressed"),
    ] {
        let answer = asked(&world, "POST", START, headers, body).await;
        let detail = answer.problem(status);
        assert!(detail.contains(told), "{detail}");
    }
    let put = asked(&world, "PUT", "/api/v1/workflows/w", &[JSON, gzip], b"x").await;
    assert!(put.problem(415).contains("must not be compressed"));
    let plain = [JSON, ("content-encoding", "identity")];
    asked(&world, "POST", START, &plain, b"{}")
        .await
        .expect(200);
    world.stop().await;
}

/// On every path of the document.
#[tokio::test]
async fn unknown_query_parameters_are_refused() {
    let world = World::new().await;
    let document = world.get("/api/openapi.json").await.expect(200);
    // Who calls a webhook may add to its URL what they like.
    let paths = document["paths"].as_object().unwrap().iter();
    for (path, item) in paths.filter(|(path, _)| !path.starts_with("/webhooks/")) {
        for method in item.as_object().unwrap().keys() {
            let filled = path.split('/').map(|segment| match segment {
                segment if segment.starts_with('{') => "none",
                segment => segment,
            });
            let filled = filled.collect::<Vec<_>>().join("/");
            let path = format!("{filled}?colour=red");
            let answer = asked(&world, &method.to_uppercase(), &path, &[JSON], b"{}").await;
            let detail = answer.problem(400);
            assert!(detail.contains("there is no `colour`"), "{path}: {detail}");
        }
    }
    world.stop().await;
}

#[tokio::test]
async fn a_version_can_be_asked_for() {
    let world = World::new().await;
    world.put_chain("w", &["set"]).await;
    world.put_chain("w", &["set", "set"]).await;
    let shown = async |query: &str| world.get(&format!("/api/v1/workflows/w{query}")).await;
    for (query, version, nodes) in [("", 2, 2), ("?version=1", 1, 1), ("?version=2", 2, 2)] {
        let detail = shown(query).await.expect(200);
        assert_eq!(detail["version"], version, "{query}");
        let seen = detail["definition"]["nodes"].as_array().unwrap().len();
        assert_eq!(seen, nodes, "{query}");
    }
    let none = shown("?version=3").await.problem(404);
    assert_eq!(none, "there is no version 3 of workflow 'w'");
    for wrong in ["?version=one", "?version=-1", "?version="] {
        shown(wrong).await.problem(400);
    }
    world.stop().await;
}

/// In words, not by a status alone, up to what fits into a head.
#[tokio::test]
async fn too_many_headers_are_told() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    let world = World::new().await;
    let (address, stop, serving) = server::listen(world.router.clone()).await;
    for (count, status) in [(98, 200), (101, 431), (3000, 431)] {
        let mut stream = tokio::net::TcpStream::connect(&address).await.unwrap();
        let mut lines = vec![
            "GET /health/live HTTP/1.1".to_owned(),
            "host: localhost".to_owned(),
            "connection: close".to_owned(),
        ];
        lines.extend((0..count).map(|at| format!("x-{at}: 1")));
        let request = lines.join("\r\n") + "\r\n\r\n";
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).await.unwrap();
        assert!(text.starts_with(&format!("HTTP/1.1 {status} ")), "{text}");
        let is_told = text.contains("a request has at most 100 headers");
        assert_eq!(is_told, status == 431, "{text}");
    }
    stop.send_replace(true);
    serving.await.unwrap().unwrap();
    world.stop().await;
}
