//! Signals: what is taken, what is refused, what a run shows of its waits.

use std::time::Duration;

use super::*;

/// Waits until a step of the run waits for something.
async fn until_waiting(world: &World, run_id: &str) -> Value {
    for _ in 0..2_000 {
        let run = world
            .get(&format!("/api/v1/runs/{run_id}"))
            .await
            .expect(200);
        let mut steps = run["steps"].as_object().unwrap().values();
        if steps.any(|step| !step["waits_for"].is_null()) {
            return run;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("nothing waits");
}

async fn until_ended(world: &World, run_id: &str) -> Value {
    let id = leveret_core::ids::RunId::new(run_id).unwrap();
    let ended = tokio::time::timeout(Duration::from_secs(20), world.engine.wait(&id)).await;
    ended.expect("it ends").expect("the store answers");
    world
        .get(&format!("/api/v1/runs/{run_id}"))
        .await
        .expect(200)
}

#[tokio::test]
async fn a_signal_ends_a_wait() {
    let world = World::new().await;
    let definition = json!({ "id": "w", "nodes": [{ "id": "paid", "uses": "wait", "params": { "key": "o-1" } }] });
    world
        .json("PUT", "/api/v1/workflows/w", &definition)
        .await
        .expect(201);
    let run_id = |answer: Value| answer["run_id"].as_str().unwrap().to_owned();
    let one = run_id(
        world
            .post("/api/v1/workflows/w/runs", &json!({}))
            .await
            .expect(202),
    );
    let shown = until_waiting(&world, &one).await;
    assert_eq!(
        shown["steps"]["paid"]["waits_for"],
        json!({ "kind": "signal", "event": "paid", "key": "o-1" })
    );
    assert_eq!(shown["steps"]["paid"]["due_at"], Value::Null);
    let path = format!("/api/v1/runs/{one}/signals");
    let signal = json!({ "event": "paid", "data": { "cents": 5 }, "id": "p-1" });
    let taken = world.post(&path, &signal).await.expect(202);
    assert_eq!(taken, json!({ "status": "delivered", "woken": 1 }));
    assert_eq!(
        until_ended(&world, &one).await["output"],
        json!({ "cents": 5 })
    );
    let again = world.post(&path, &signal).await.expect(202);
    assert_eq!(
        again,
        json!({ "status": "repeated", "woken": 0 }),
        "also when the run has ended"
    );
    let late = world
        .post(&path, &json!({ "event": "paid" }))
        .await
        .problem(409);
    assert_eq!(late, format!("run '{one}' ended before as completed"));

    let two = run_id(
        world
            .post("/api/v1/workflows/w/runs", &json!({}))
            .await
            .expect(202),
    );
    let kept = world
        .post(
            &format!("/api/v1/runs/{two}/signals"),
            &json!({ "event": "other" }),
        )
        .await;
    assert_eq!(kept.expect(202), json!({ "status": "kept", "woken": 0 }));
    until_waiting(&world, &two).await;
    let by_key = json!({ "event": "paid", "key": "o-1", "data": "by key" });
    let taken = world.post("/api/v1/signals", &by_key).await.expect(202);
    assert_eq!(taken, json!({ "status": "delivered", "woken": 1 }));
    assert_eq!(until_ended(&world, &two).await["output"], "by key");
    assert_eq!(world.engine.metrics().signals.get(), 3);
    world.stop().await;
}

#[tokio::test]
async fn what_is_no_signal_is_refused() {
    let world = World::new().await;
    let unknown = "/api/v1/runs/nobody/signals";
    let detail = world
        .post(unknown, &json!({ "event": "e" }))
        .await
        .problem(404);
    assert_eq!(detail, "there is no run 'nobody'");
    for (path, body, expect) in [
        (unknown, json!({}), "missing field `event`"),
        (unknown, json!({ "event": "" }), "event is empty"),
        (
            unknown,
            json!({ "event": "e", "dat": 1 }),
            "unknown field `dat`",
        ),
        (
            unknown,
            json!({ "event": "e", "id": "" }),
            "signal id is empty",
        ),
        (unknown, json!([1]), "the body must be an object"),
        (
            "/api/v1/signals",
            json!({ "event": "e" }),
            "missing field `key`",
        ),
        (
            "/api/v1/signals",
            json!({ "event": "e", "key": "x".repeat(201) }),
            "key has 201 bytes",
        ),
    ] {
        let detail = world.post(path, &body).await.problem(400);
        assert!(detail.contains(expect), "{body}: {detail}");
    }
    let bare = Request::post(unknown).body(Body::from("{}")).unwrap();
    world.send(bare).await.problem(415);
    let large = json!({ "event": "e", "data": "x".repeat(9 << 20) });
    world.post(unknown, &large).await.problem(413);
    world.stop().await;
}
