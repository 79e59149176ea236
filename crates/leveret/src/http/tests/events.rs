//! Streams of events.

use futures_util::StreamExt;

use super::*;

/// An event as a client reads it.
#[derive(Clone, Debug, Default, PartialEq)]
struct Received {
    kind: String,
    id: String,
    data: Value,
}

/// A stream that is being read.
struct Reading {
    pieces: axum::body::BodyDataStream,
    text: String,
}

impl Reading {
    async fn open(world: &World, run_id: &str, last: Option<&str>) -> Reading {
        let request = Request::get(format!("/api/v1/runs/{run_id}/events"));
        let request = last.into_iter().fold(request, |request, last| {
            request.header("last-event-id", last)
        });
        let response = world
            .router
            .clone()
            .oneshot(request.body(Body::empty()).unwrap())
            .await
            .unwrap();
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        Reading {
            pieces: response.into_body().into_data_stream(),
            text: String::new(),
        }
    }

    /// The next event; `None` when the stream closed.
    async fn next(&mut self) -> Option<Received> {
        while !self.text.contains("\n\n") {
            let piece = self.pieces.next().await?.unwrap();
            self.text.push_str(std::str::from_utf8(&piece).unwrap());
        }
        let text = self.text.clone();
        let (event, rest) = text.split_once("\n\n").unwrap();
        rest.clone_into(&mut self.text);
        let field = |name: &str| {
            let prefix = format!("{name}: ");
            event
                .lines()
                .filter_map(|line| line.strip_prefix(&prefix))
                .collect::<Vec<_>>()
                .join("\n")
        };
        let data = serde_json::from_str(&field("data")).unwrap();
        Some(Received {
            kind: field("event"),
            id: field("id"),
            data,
        })
    }

    async fn rest(mut self) -> Vec<Received> {
        let mut all = Vec::new();
        while let Some(event) = self.next().await {
            all.push(event);
        }
        all
    }
}

fn nodes(events: &[Received]) -> Vec<&str> {
    events
        .iter()
        .map(|event| event.data["node_id"].as_str().unwrap_or("end"))
        .collect()
}

/// What was recorded comes first, what happens then comes live, and the end closes the stream. A client that comes back gets what it
/// does not have, and after the end is told not to come again.
#[tokio::test]
async fn follows_a_run_to_its_end() {
    let world = World::new().await;
    world.put_chain("w", &["gate", "gate", "set", "gate"]).await;
    let mut changes = world.engine.changes();
    let body = json!({"run_id": "r", "input": "line 1\nline 2"});
    world
        .post("/api/v1/workflows/w/runs", &body)
        .await
        .expect(202);
    world.let_go();
    while changes
        .recv()
        .await
        .unwrap()
        .node_id
        .is_none_or(|node| node.as_str() != "n0")
    {}
    let mut reading = Reading::open(&world, "r", None).await;
    let first = reading.next().await.unwrap();
    assert_eq!(
        (first.kind.as_str(), &first.data["node_id"]),
        ("step", &json!("n0"))
    );
    assert_eq!(first.data["output"], "line 1\nline 2");
    assert_eq!(
        (&first.data["status"], &first.data["attempts"]),
        (&json!("completed"), &json!(1))
    );
    world.let_go();
    let live = reading.next().await.unwrap();
    assert_eq!(live.data["node_id"], "n1");
    world.let_go();
    let last = reading.rest().await;
    assert_eq!(nodes(&last), ["n2", "n3", "end"]);
    let end = last.last().unwrap();
    assert_eq!((end.kind.as_str(), end.id.as_str()), ("end", "end"));
    assert_eq!(
        (&end.data["status"], &end.data["output"]),
        (&json!("completed"), &json!("line 1\nline 2"))
    );
    let back = Reading::open(&world, "r", Some(&live.id))
        .await
        .rest()
        .await;
    assert_eq!(
        back, last,
        "events and their ids are the same in every stream"
    );
    let unknown = Reading::open(&world, "r", Some("7-00")).await.rest().await;
    assert_eq!(nodes(&unknown), ["n0", "n1", "n2", "n3", "end"]);
    let done = Request::get("/api/v1/runs/r/events")
        .header("last-event-id", "end")
        .body(Body::empty())
        .unwrap();
    assert_eq!(world.send(done).await.status, 204);
    world.get("/api/v1/runs/none/events").await.problem(404);
    world.stop().await;
}

/// Steps that another process records are seen although nobody here tells of them: a second engine over the same store cancels.
#[tokio::test]
async fn sees_what_others_record() {
    let world = World::new().await;
    world.put_chain("w", &["gate"]).await;
    world
        .post("/api/v1/workflows/w/runs", &json!({"run_id": "r"}))
        .await
        .expect(202);
    let reading = Reading::open(&world, "r", None).await;
    let now = world.engine.clock().now();
    world
        .engine
        .store()
        .cancel(&leveret_core::ids::RunId::new("r").unwrap(), now)
        .await
        .unwrap();
    let events = reading.rest().await;
    assert_eq!(events.last().unwrap().data["status"], "cancelled");
    world.stop().await;
}

/// Streams are bounded, and end when the process stops.
#[tokio::test]
async fn streams_are_bounded() {
    let world = World::with(ApiOptions {
        streams_max: 1,
        ..ApiOptions::default()
    })
    .await;
    world.put_chain("w", &["gate"]).await;
    world
        .post("/api/v1/workflows/w/runs", &json!({"run_id": "r"}))
        .await
        .expect(202);
    let reading = Reading::open(&world, "r", None).await;
    world.get("/api/v1/runs/r/events").await.problem(503);
    drop(reading);
    let reading = Reading::open(&world, "r", None).await;
    world.let_go();
    world.stop.send_replace(true);
    // Whether the end was still seen depends on who was first; the stream closes either way.
    reading.rest().await;
    world.stop().await;
}
