//! Webhooks: one call is taken; who is late, early or unsigned is refused.

use std::time::Duration;

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use super::*;

async fn start(world: &World, definition: &Value, run_id: &str) {
    let id = definition["id"].as_str().unwrap();
    let put = world
        .json("PUT", &format!("/api/v1/workflows/{id}"), definition)
        .await;
    assert!(put.status.is_success(), "{}", put.text);
    let path = format!("/api/v1/workflows/{id}/runs");
    world
        .post(&path, &json!({ "run_id": run_id }))
        .await
        .expect(202);
}

fn call(path: &str, media_type: &str, body: &str) -> Request<Body> {
    let request = Request::post(path).header("host", "hooks.example.com");
    let request = request.header("content-type", media_type);
    request.body(Body::from(body.to_owned())).unwrap()
}

/// Calls until the node waits.
async fn called(world: &World, path: &str, media_type: &str, body: &str) -> Answer {
    for _ in 0..2_000 {
        let answer = world.send(call(path, media_type, body)).await;
        if answer.status != StatusCode::NOT_FOUND {
            return answer;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("it does not wait");
}

async fn output(world: &World, run_id: &str) -> Value {
    let id = leveret_core::ids::RunId::new(run_id).unwrap();
    let ended = tokio::time::timeout(Duration::from_secs(20), world.engine.wait(&id)).await;
    let result = ended.expect("it ends").expect("answers").expect("is there");
    assert_eq!(result.status, RunStatus::Completed, "{:?}", result.error);
    result.output.value().clone()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_call_is_taken() {
    let world = World::new().await;
    let definition = json!({
        "id": "w",
        "nodes": [{ "id": "gate", "uses": "gate" }, { "id": "hook", "uses": "webhook" }, { "id": "other", "uses": "set" }],
        "edges": [{ "source": "gate", "target": "hook" }, { "source": "hook", "target": "other" }],
    });
    start(&world, &definition, "r").await;
    drop(world.reached.acquire().await.unwrap());
    let early = world
        .send(call("/webhooks/r/hook", "application/json", "1"))
        .await;
    assert_eq!(early.problem(404), "node 'hook' does not wait, or not yet");
    let other = world
        .send(call("/webhooks/r/other", "application/json", "1"))
        .await;
    assert_eq!(
        other.problem(404),
        "the run's workflow has no webhook 'other'"
    );
    let nobody = world
        .send(call("/webhooks/nobody/hook", "application/json", "1"))
        .await;
    assert_eq!(nobody.problem(404), "there is no run 'nobody'");
    world.gate.add_permits(1);
    let bad = called(&world, "/webhooks/r/hook", "application/json", "{").await;
    bad.problem(400);
    let filter = crate::store::WaitFilter {
        limit: 1,
        ..crate::store::WaitFilter::default()
    };
    let store = world.engine.store();
    while store.waits(&filter).await.unwrap().is_empty() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let calls = (0..8).map(|n| {
        let (router, body) = (world.router.clone(), format!("{{\"n\":{n}}}"));
        tokio::spawn(async move {
            let request = call("/webhooks/r/hook?from=test", "application/json", &body);
            router.oneshot(request).await.unwrap().status().as_u16()
        })
    });
    let calls: Vec<_> = calls.collect();
    let mut statuses = Vec::new();
    for call in calls {
        statuses.push(call.await.unwrap());
    }
    let taken = statuses
        .iter()
        .position(|status| *status == 200)
        .expect("one is taken");
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 409, 409, 409, 409, 409, 409, 409]);
    assert_eq!(output(&world, "r").await, json!({ "n": taken }));
    let late = world
        .send(call("/webhooks/r/hook", "application/json", "1"))
        .await;
    late.problem(409);
    world.stop().await;
}

#[tokio::test]
async fn payloads_are_by_their_media_types() {
    let world = World::new().await;
    let definition = json!({ "id": "w", "nodes": [{ "id": "hook", "uses": "WebhookNode" }] });
    for (n, (media_type, body, expect)) in [
        (
            "application/json; charset=utf-8",
            r#"{"a":[1]}"#,
            json!({ "a": [1] }),
        ),
        (
            "application/x-www-form-urlencoded",
            "a=1&b=x+y&a=2",
            json!({ "a": ["1", "2"], "b": "x y" }),
        ),
        ("text/plain", "hé", json!("hé")),
        (
            "image/png",
            "ab",
            json!({ "base64": "YWI=", "media_type": "image/png" }),
        ),
        ("application/json", "", Value::Null),
    ]
    .into_iter()
    .enumerate()
    {
        let run_id = format!("r{n}");
        start(&world, &definition, &run_id).await;
        let answer = called(
            &world,
            &format!("/webhooks/{run_id}/hook"),
            media_type,
            body,
        )
        .await;
        assert_eq!(answer.expect(200), json!({ "status": "delivered" }));
        assert_eq!(output(&world, &run_id).await, expect);
    }
    world.stop().await;
}

#[derive(Debug)]
struct OneSecret;

impl crate::runtime::Secrets for OneSecret {
    fn secret(&self, name: &str) -> Option<String> {
        (name == "KEY").then(|| "s3cret".to_owned())
    }
}

#[tokio::test]
async fn what_is_not_signed_is_refused() {
    let world = World::made(ApiOptions::default(), |parts| {
        parts.secrets = Arc::new(OneSecret);
    })
    .await;
    let definition = |secret: &str| json!({ "id": "w", "secrets": [secret], "nodes": [{ "id": "hook", "uses": "webhook", "params": { "secret": secret } }] });
    start(&world, &definition("KEY"), "r").await;
    let body = r#"{"a":1}"#;
    let mut mac = Hmac::<Sha256>::new_from_slice(b"s3cret").unwrap();
    mac.update(body.as_bytes());
    let mut hex = String::new();
    for byte in mac.finalize().into_bytes() {
        use std::fmt::Write as _;
        write!(hex, "{byte:02x}").unwrap();
    }
    let signed = |signature: &str, body: &str| {
        let mut request = call("/webhooks/r/hook", "application/json", body);
        let value = axum::http::HeaderValue::from_str(signature).unwrap();
        request.headers_mut().insert("x-leveret-signature", value);
        request
    };
    called(&world, "/webhooks/r/hook", "application/json", body)
        .await
        .problem(401);
    for (signature, body) in [
        (&*hex, "{}"),
        ("", body),
        ("sha256=", body),
        (&hex[1..], body),
        (&"0".repeat(64), body),
    ] {
        world.send(signed(signature, body)).await.problem(401);
    }
    for _ in 0..2_000 {
        let answer = world.send(signed(&format!("sha256={hex}"), body)).await;
        if answer.status == StatusCode::OK {
            break;
        }
        answer.problem(404);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(output(&world, "r").await, json!({ "a": 1 }));
    start(&world, &definition("OTHER"), "s").await;
    called(&world, "/webhooks/s/hook", "application/json", body)
        .await
        .problem(503);
    let mut undeclared = definition("KEY");
    undeclared["secrets"] = json!([]);
    let refused = world
        .json("PUT", "/api/v1/workflows/w", &undeclared)
        .await
        .expect(422);
    let message = refused["diagnostics"][0]["message"].as_str().unwrap();
    assert_eq!(message, "the workflow does not declare the secret `KEY`");
    world
        .engine
        .cancel(&leveret_core::ids::RunId::new("s").unwrap())
        .await
        .unwrap();
    world.stop().await;
}

/// The form of blueprints: the node tells the URL, and a `wait` with its event takes the payload, before or after the call.
#[tokio::test]
async fn a_webhook_may_leave_the_wait_to_another() {
    let world = World::new().await;
    let definition = json!({
        "id": "w",
        "nodes": [
            { "id": "hook", "uses": "webhook", "params": { "wait": false } },
            { "id": "taken", "uses": "wait", "params": { "event": "{{ nodes.hook.output.event }}" } },
            { "id": "all", "uses": "set", "params": { "output": { "hook": "{{ nodes.hook.output }}", "taken": "{{ input }}" } } },
        ],
        "edges": [{ "source": "hook", "target": "taken" }, { "source": "taken", "target": "all" }],
    });
    start(&world, &definition, "r").await;
    called(&world, "/webhooks/r/hook", "application/json", "5")
        .await
        .expect(200);
    let again = world
        .send(call("/webhooks/r/hook", "application/json", "6"))
        .await;
    again.problem(409);
    let expect = json!({
        "hook": { "url": "http://127.0.0.1:7070/webhooks/r/hook", "event": "webhook:r:hook" },
        "taken": 5,
    });
    assert_eq!(output(&world, "r").await, expect);
    world.stop().await;
}
