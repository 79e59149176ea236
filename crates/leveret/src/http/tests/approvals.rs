//! Approvals: what waits for whom, what is decided, what is refused.

use std::time::Duration;

use super::*;

fn definition() -> Value {
    json!({
        "id": "w",
        "nodes": [
            { "id": "boss", "uses": "approve", "params": {
                "title": "Pay {{ run.input }}",
                "to": ["ada"],
                "deadline": "9h",
                "form": { "type": "object", "properties": { "limit": { "type": "integer" } }, "required": ["limit"] },
            } },
            { "id": "yes", "uses": "set" },
            { "id": "no", "uses": "set" },
            { "id": "late", "uses": "set" },
        ],
        "edges": [
            { "source": "boss", "target": "yes", "action": "approve" },
            { "source": "boss", "target": "no", "action": "reject" },
            { "source": "boss", "target": "late", "action": "timeout" },
        ],
    })
}

async fn listed(world: &World, count: usize) -> Vec<Value> {
    for _ in 0..2_000 {
        let page = world.get("/api/v1/approvals").await.expect(200);
        let items = page["items"].as_array().unwrap();
        if items.len() == count {
            return items.clone();
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("not so many wait");
}

async fn output(world: &World, run_id: &str) -> Value {
    let id = leveret_core::ids::RunId::new(run_id).unwrap();
    let ended = tokio::time::timeout(Duration::from_secs(20), world.engine.wait(&id)).await;
    let result = ended.expect("it ends").expect("answers").expect("is there");
    result.output.value().clone()
}

#[tokio::test]
async fn somebody_decides_once() {
    let world = World::new().await;
    world
        .json("PUT", "/api/v1/workflows/w", &definition())
        .await
        .expect(201);
    for (run_id, input) in [("r", 5), ("s", 6)] {
        let body = json!({ "run_id": run_id, "input": input });
        world
            .post("/api/v1/workflows/w/runs", &body)
            .await
            .expect(202);
    }
    let items = listed(&world, 2).await;
    let of = |run_id: &str| items.iter().find(|item| item["run_id"] == run_id).unwrap();
    assert_eq!(of("r")["title"], "Pay 5");
    assert_eq!(
        [&of("r")["to"], &of("r")["node_id"]],
        [&json!(["ada"]), &json!("boss")]
    );
    assert_eq!(of("s")["form"]["required"], json!(["limit"]));
    assert!(of("s")["deadline"].is_string());
    let first = world.get("/api/v1/approvals?limit=1").await.expect(200);
    let after = first["next"].as_str().unwrap();
    let second = world
        .get(&format!("/api/v1/approvals?after={after}"))
        .await
        .expect(200);
    assert_eq!(second["items"].as_array().unwrap().len(), 1);
    let only = world.get("/api/v1/approvals?run_id=s").await.expect(200);
    assert_eq!(only["items"][0]["run_id"], "s");

    let decide = async |run_id: &str, node: &str, body: Value| {
        let path = format!("/api/v1/runs/{run_id}/approvals/{node}");
        world.post(&path, &body).await
    };
    let misfit = decide("r", "boss", json!({ "decision": "approve" }))
        .await
        .problem(422);
    assert_eq!(misfit, "the data does not fit the form: must be object");
    let misfit = decide(
        "r",
        "boss",
        json!({ "decision": "reject", "data": { "limit": "x" } }),
    )
    .await;
    assert_eq!(
        misfit.problem(422),
        "the data does not fit the form: limit: must be integer"
    );
    assert_eq!(listed(&world, 2).await.len(), 2, "they wait on");
    for (body, expect) in [
        (json!({}), "missing field `decision`"),
        (json!({ "decision": "maybe" }), "unknown variant `maybe`"),
        (
            json!({ "decision": "reject", "by": "x".repeat(201) }),
            "`by` has more than",
        ),
    ] {
        let detail = decide("r", "boss", body).await.problem(400);
        assert!(detail.contains(expect), "{detail}");
    }
    decide("nobody", "boss", json!({ "decision": "reject" }))
        .await
        .problem(404);
    decide("r", "yes", json!({ "decision": "reject" }))
        .await
        .problem(404);

    let approval = json!({ "decision": "approve", "data": { "limit": 7 }, "by": "ada" });
    let decided = decide("r", "boss", approval.clone()).await.expect(200);
    assert_eq!([&decided["decision"], &decided["by"]], ["approve", "ada"]);
    decide("r", "boss", approval).await.problem(409);
    let expect = json!({ "yes": decided });
    assert_eq!(output(&world, "r").await, expect);
    decide("s", "boss", json!({ "decision": "reject" }))
        .await
        .expect(200);
    let rejected = output(&world, "s").await;
    assert_eq!(
        [&rejected["no"]["decision"], &rejected["no"]["by"]],
        [&json!("reject"), &Value::Null]
    );
    world.stop().await;
}
