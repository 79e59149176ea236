//! Starting, showing, listing and cancelling runs.

use super::*;

fn run_id(body: &Value) -> String {
    body["run_id"]
        .as_str()
        .unwrap_or_else(|| panic!("{body}"))
        .to_owned()
}

async fn with_key(world: &World, path: &str, key: &str, input: &Value) -> Answer {
    let request = Request::post(path)
        .header("idempotency-key", key)
        .header("content-type", "application/json");
    world
        .send(
            request
                .body(Body::from(json!({"input": input}).to_string()))
                .unwrap(),
        )
        .await
}

/// The result is that of `leveret run --json`, and the same from the run's own path.
#[tokio::test]
async fn starts_and_waits() {
    let world = World::new().await;
    world.put_chain("w", &["set", "gate", "set"]).await;
    world.let_go();
    let result = world
        .post(
            "/api/v1/workflows/w/runs?wait=true",
            &json!({"input": {"a": [1, "ü"]}}),
        )
        .await
        .expect(200);
    assert_eq!(result["status"], "completed");
    assert_eq!(result["output"], json!({"a": [1, "ü"]}));
    assert_eq!(result["steps"].as_object().unwrap().len(), 3);
    let typed: RunResult = serde_json::from_value(result.clone()).unwrap();
    assert_eq!(typed.status, RunStatus::Completed);
    let shown = world
        .get(&format!("/api/v1/runs/{}", run_id(&result)))
        .await
        .expect(200);
    // It has all that the result has, and more.
    for (name, value) in result.as_object().unwrap() {
        if name != "steps" {
            assert_eq!(&shown[name], value, "{name}");
        }
    }
    assert_eq!(
        (&shown["input"], &shown["version"]),
        (&json!({"a": [1, "ü"]}), &json!(1))
    );
    assert_eq!(
        shown["steps"]["n1"]["output"],
        result["steps"]["n1"]["output"]
    );
    assert_eq!(shown["under_way"], json!([]));
    for time in [
        &shown["created_at"],
        &shown["ended_at"],
        &shown["steps"]["n2"]["finished_at"],
    ] {
        assert!(time.as_str().unwrap().ends_with('Z'), "{shown}");
    }
    world.stop().await;
}

/// Of a run that goes on: which steps are executed, and when the next one is tried again.
#[tokio::test]
async fn shows_where_a_run_is() {
    let world = World::new().await;
    let definition = json!({"id": "w", "nodes": [
        {"id": "held", "uses": "gate"},
        {"id": "after", "uses": "set"},
        {"id": "nap", "uses": "sleep", "params": {"duration": "1h"}},
    ], "edges": [{"source": "held", "target": "after"}]});
    world
        .json("PUT", "/api/v1/workflows/w", &definition)
        .await
        .expect(201);
    let begun = world
        .post("/api/v1/workflows/w/runs", &json!({}))
        .await
        .expect(202);
    drop(world.reached.acquire().await.unwrap());
    let path = format!("/api/v1/runs/{}", run_id(&begun));
    let shown = loop {
        let shown = world.get(&path).await.expect(200);
        if shown["steps"]["nap"].is_object() {
            break shown;
        }
        tokio::task::yield_now().await;
    };
    assert_eq!(shown["under_way"], json!(["held"]));
    assert_eq!(shown["ended_at"], json!(null));
    let nap = &shown["steps"]["nap"];
    assert_eq!(nap["status"], "waiting");
    assert!(
        nap["due_at"].as_str().unwrap() > nap["started_at"].as_str().unwrap(),
        "{nap}"
    );
    world
        .post(&format!("{path}/cancel"), &json!({}))
        .await
        .expect(200);
    world.stop().await;
}

/// Without a body the input is null. A failed run is a result, not an error.
#[tokio::test]
async fn takes_a_start_without_a_body() {
    let world = World::new().await;
    world.put_chain("w", &["set", "fail"]).await;
    let request = Request::post("/api/v1/workflows/w/runs?wait=true")
        .body(Body::empty())
        .unwrap();
    let result = world.send(request).await.expect(200);
    assert_eq!(
        (&result["status"], &result["output"]),
        (&json!("failed"), &Value::Null)
    );
    assert_eq!(result["error"]["node_id"], "n1");
    let null = world
        .json("POST", "/api/v1/workflows/w/runs?wait=true", &Value::Null)
        .await
        .expect(200);
    assert_eq!(null["status"], "failed");
    world.stop().await;
}

/// Whoever does not wait, or not long enough, gets the run's id; the run goes on.
#[tokio::test]
async fn answers_before_the_end() {
    let world = World::new().await;
    world.put_chain("w", &["gate"]).await;
    let begun = world
        .post("/api/v1/workflows/w/runs", &json!({}))
        .await
        .expect(202);
    assert_eq!(begun["status"], "running");
    let late = world
        .post(
            "/api/v1/workflows/w/runs?wait=true&timeout_ms=1",
            &json!({}),
        )
        .await
        .expect(202);
    assert_eq!(late["status"], "running");
    // Which of the two comes to the gate first is open.
    world.gate.add_permits(2);
    for body in [begun, late] {
        let id = run_id(&body);
        let result = world.engine.wait(&id.parse_id()).await.unwrap().unwrap();
        assert_eq!(result.status, RunStatus::Completed);
    }
    world.stop().await;
}

trait ParseId {
    fn parse_id(&self) -> leveret_core::ids::RunId;
}

impl ParseId for String {
    fn parse_id(&self) -> leveret_core::ids::RunId {
        leveret_core::ids::RunId::new(self.as_str()).unwrap()
    }
}

/// One key, one run, whatever is asked again; another input is refused.
#[tokio::test]
async fn repeats_start_nothing() {
    let world = World::new().await;
    world.put_chain("w", &["gate"]).await;
    world.put_chain("v", &["set"]).await;
    let path = "/api/v1/workflows/w/runs";
    let first = with_key(&world, path, "k", &json!(1)).await.expect(202);
    let again = with_key(&world, path, "k", &json!(1)).await.expect(200);
    assert_eq!(
        again,
        json!({"run_id": first["run_id"], "status": "running"})
    );
    assert!(
        with_key(&world, path, "k", &json!(2))
            .await
            .problem(409)
            .contains("another input")
    );
    let elsewhere = with_key(&world, "/api/v1/workflows/v/runs", "k", &json!(1))
        .await
        .expect(202);
    assert_ne!(
        elsewhere["run_id"], first["run_id"],
        "a key is the workflow's own"
    );
    world.let_go();
    let waited = with_key(&world, "/api/v1/workflows/w/runs?wait=true", "k", &json!(1))
        .await
        .expect(200);
    assert_eq!(
        (&waited["run_id"], &waited["status"]),
        (&first["run_id"], &json!("completed"))
    );
    // Neither a new version of the workflow nor the run's end changes what the key names.
    world
        .json(
            "PUT",
            "/api/v1/workflows/w",
            &json!({"nodes": [{"id": "z", "uses": "set"}]}),
        )
        .await
        .expect(201);
    let after = with_key(&world, path, "k", &json!(1)).await.expect(200);
    assert_eq!(
        after,
        json!({"run_id": first["run_id"], "status": "completed"})
    );
    let after = with_key(&world, "/api/v1/workflows/w/runs?wait=true", "k", &json!(1))
        .await
        .expect(200);
    assert_eq!(after, waited);
    world.stop().await;
}

#[tokio::test]
async fn takes_the_clients_run_id() {
    let world = World::new().await;
    world.put_chain("w", &["set"]).await;
    let body = json!({"run_id": "mine/1", "input": 1});
    let path = "/api/v1/workflows/w/runs?wait=true";
    assert_eq!(
        world.post(path, &body).await.expect(200)["run_id"],
        "mine/1"
    );
    assert_eq!(
        world.post(path, &body).await.expect(200)["run_id"],
        "mine/1"
    );
    world
        .post(path, &json!({"run_id": "mine/1", "input": 2}))
        .await
        .problem(409);
    assert_eq!(
        world.get("/api/v1/runs/mine%2F1").await.expect(200)["output"],
        1
    );
    world.stop().await;
}

/// A client that goes away in the middle of a start takes nothing back: the run begins and ends.
#[tokio::test]
async fn goes_on_without_the_client() {
    let world = World::new().await;
    world.put_chain("w", &["set"]).await;
    let mut changes = world.engine.changes();
    let request = Request::post("/api/v1/workflows/w/runs?wait=true")
        .header("content-type", "application/json");
    let request = request.body(Body::from(r#"{"run_id":"left"}"#)).unwrap();
    {
        let mut answer = std::pin::pin!(world.router.clone().oneshot(request));
        assert!(futures_util::FutureExt::now_or_never(answer.as_mut()).is_none());
    }
    loop {
        let hint = changes.recv().await.unwrap();
        if hint.run_id.as_str() == "left" && hint.node_id.is_none() {
            break;
        }
    }
    assert_eq!(
        world.get("/api/v1/runs/left").await.expect(200)["status"],
        "completed"
    );
    world.stop().await;
}

#[tokio::test]
async fn refuses_bad_starts() {
    let world = World::new().await;
    world.put_chain("w", &["set"]).await;
    let path = "/api/v1/workflows/w/runs";
    let check = async |body: String, expect: &str| {
        let request = Request::post(path)
            .header("content-type", "application/json")
            .body(Body::from(body))
            .unwrap();
        let detail = world.send(request).await.problem(400);
        assert!(detail.contains(expect), "{detail}");
    };
    check("{\"input\": 1,\n  x}".to_owned(), "line 2 column 3").await;
    check("[]".to_owned(), "line 1 column").await;
    check(r#"{"inptu": 1}"#.to_owned(), "unknown field `inptu`").await;
    check(r#"{"run_id": 5}"#.to_owned(), "expected a string").await;
    check(r#"{"run_id": ""}"#.to_owned(), "run id is empty").await;
    check(
        format!(r#"{{"input": {}{}}}"#, "[".repeat(5000), "]".repeat(5000)),
        "recursion limit",
    )
    .await;
    check(r#"{"input": 1e999}"#.to_owned(), "out of range").await;
    for query in [
        "wait=maybe",
        "timeout_ms=5",
        "wait=true&timeout_ms=0",
        "wait=true&timeout_ms=3600001",
        "other=1",
    ] {
        world
            .post(&format!("{path}?{query}"), &json!({}))
            .await
            .problem(400);
    }
    world
        .post("/api/v1/workflows/none/runs", &json!({}))
        .await
        .problem(404);
    let key = |request: axum::http::request::Builder| {
        request.body(Body::from(r#"{"run_id":"r"}"#)).unwrap()
    };
    let json = || Request::post(path).header("content-type", "application/json");
    world
        .send(key(json().header("idempotency-key", "k")))
        .await
        .problem(400);
    world
        .send(key(json().header("idempotency-key", "")))
        .await
        .problem(400);
    world
        .send(key(json().header("idempotency-key", "k".repeat(256))))
        .await
        .problem(400);
    world
        .send(key(Request::post(path).header("content-type", "text/plain")))
        .await
        .problem(415);
    assert_eq!(
        world.get("/api/v1/runs").await.expect(200)["items"],
        json!([]),
        "nothing was started"
    );
    world.stop().await;
}

#[tokio::test]
async fn lists_in_pages() {
    let world = World::new().await;
    world.put_chain("w", &["set"]).await;
    world.put_chain("v", &["fail"]).await;
    let mut ids = Vec::new();
    for id in ["w", "w", "v", "w", "w"] {
        let result = world
            .post(
                &format!("/api/v1/workflows/{id}/runs?wait=true"),
                &json!({}),
            )
            .await
            .expect(200);
        ids.push(run_id(&result));
    }
    let mut listed = Vec::new();
    let mut path = "/api/v1/runs?limit=2".to_owned();
    loop {
        let page = world.get(&path).await.expect(200);
        let items = page["items"].as_array().unwrap();
        assert!(items.len() <= 2);
        listed.extend(items.iter().map(run_id));
        let Some(next) = page["next"].as_str() else {
            break;
        };
        path = format!("/api/v1/runs?limit=2&after={next}");
    }
    ids.sort_unstable();
    listed.sort_unstable();
    assert_eq!(listed, ids);
    let failed = world
        .get("/api/v1/runs?workflow_id=v&status=failed")
        .await
        .expect(200);
    assert_eq!(failed["items"].as_array().unwrap().len(), 1);
    let item = &failed["items"][0];
    assert_eq!(
        (&item["workflow_id"], &item["error"]["node_id"]),
        (&json!("v"), &json!("n0"))
    );
    assert!(
        item["ended_at"].is_string() && item["duration_ms"].is_u64(),
        "{item}"
    );
    assert_eq!(
        world
            .get("/api/v1/runs?workflow_id=v&status=completed")
            .await
            .expect(200)["items"],
        json!([])
    );
    for bad in [
        "limit=0",
        "limit=501",
        "status=done",
        "after=00",
        "workflow_id=",
        "state=x",
    ] {
        world.get(&format!("/api/v1/runs?{bad}")).await.problem(400);
    }
    world.get("/api/v1/runs/none").await.problem(404);
    world.stop().await;
}

/// A run is cancelled once; what ended otherwise stays as it is.
#[tokio::test]
async fn cancels() {
    let world = World::new().await;
    world.put_chain("w", &["gate", "set"]).await;
    let begun = world
        .post("/api/v1/workflows/w/runs", &json!({}))
        .await
        .expect(202);
    let path = format!("/api/v1/runs/{}", run_id(&begun));
    let cancelled = world
        .post(&format!("{path}/cancel"), &json!({}))
        .await
        .expect(200);
    assert_eq!(
        (&cancelled["status"], &cancelled["run_id"]),
        (&json!("cancelled"), &begun["run_id"])
    );
    assert_eq!(
        world
            .post(&format!("{path}/cancel"), &json!({}))
            .await
            .expect(200),
        cancelled
    );
    assert_eq!(world.get(&path).await.expect(200)["status"], "cancelled");
    world.gate.add_permits(2);
    let result = world
        .post("/api/v1/workflows/w/runs?wait=true", &json!({}))
        .await
        .expect(200);
    let detail = world
        .post(
            &format!("/api/v1/runs/{}/cancel", run_id(&result)),
            &json!({}),
        )
        .await
        .problem(409);
    assert!(detail.contains("completed"), "{detail}");
    world
        .post("/api/v1/runs/none/cancel", &json!({}))
        .await
        .problem(404);
    world.stop().await;
}
