//! What is not about workflows and runs: health, metrics, errors of HTTP itself, and the listener.

use std::time::Duration;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::timeout,
};

use super::*;

/// How long anything may take that must happen.
const PATIENCE: Duration = Duration::from_secs(20);

/// Waits until the worker consumes.
async fn ready(world: &World) {
    let ready = async {
        while world.get("/health/ready").await.status != 200 {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, ready).await.expect("it becomes ready");
}

#[tokio::test]
async fn tells_whether_it_is_ready() {
    let world = World::new().await;
    assert_eq!(
        world.get("/health/live").await.expect(200),
        json!({"status": "live"})
    );
    ready(&world).await;
    let parts =
        json!({"store": "ready", "broker": "ready", "consumer": "ready", "publishing": "ready"});
    assert_eq!(
        world.get("/health/ready").await.expect(200),
        json!({"status": "ready", "parts": parts})
    );
    world.put_chain("w", &["set"]).await;
    world.engine.store().close().await;
    let readiness = world.get("/health/ready").await.expect(503);
    assert_eq!(
        (&readiness["status"], &readiness["parts"]["store"]),
        (&json!("not_ready"), &json!("not_ready"))
    );
    world.get("/health/live").await.expect(200);
    assert!(
        world
            .post("/api/v1/workflows/w/runs", &json!({}))
            .await
            .problem(503)
            .contains("closed")
    );
    world.get("/api/v1/runs").await.problem(503);
    world.get("/api/v1/runs/r").await.problem(503);
    world.get("/api/v1/runs/r/events").await.problem(503);
    assert!(
        world
            .get("/metrics")
            .await
            .text
            .contains("leveret_ready{part=\"store\"} 0\n")
    );
    world.stop().await;
}

/// Every line is a comment or a sample of the family before it, and what happened is counted.
#[tokio::test]
async fn metrics_are_prometheus_text() {
    let world = World::new().await;
    ready(&world).await;
    world.put_chain("w", &["set", "gate", "fail"]).await;
    world.let_go();
    world
        .post("/api/v1/workflows/w/runs?wait=true", &json!({}))
        .await
        .expect(200);
    let answer = world.get("/metrics").await;
    assert_eq!(
        answer.headers["content-type"],
        "text/plain; version=0.0.4; charset=utf-8"
    );
    let mut families = BTreeSet::new();
    let mut family = String::new();
    for line in answer.text.lines() {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            family = rest.split_once(' ').unwrap().0.to_owned();
            assert!(families.insert(family.clone()), "{family} comes twice");
        } else if !line.starts_with("# HELP ") {
            let (sample, value) = line.rsplit_once(' ').unwrap();
            assert!(
                sample.starts_with(&family) && sample.starts_with("leveret_"),
                "{line}"
            );
            value.parse::<f64>().unwrap();
        }
    }
    let expect = [
        "leveret_runs_started_total 1",
        "leveret_workflow_runs_started_total{workflow=\"w\"} 1",
        "leveret_workflow_runs_ended_total{workflow=\"w\",status=\"failed\"} 1",
        "leveret_workflow_run_duration_seconds_count{workflow=\"w\"} 1",
        "leveret_runs_ended_total{status=\"failed\"} 1",
        "leveret_step_attempts_total{node_type=\"gate\",outcome=\"completed\"} 1",
        "leveret_step_attempts_total{node_type=\"fail\",outcome=\"failed\"} 1",
        "leveret_step_duration_seconds_count{node_type=\"set\"} 1",
        "leveret_queue_consumers{queue=\"workflow.execution\"} 1",
        "leveret_queue_messages{queue=\"workflow.execution.dlq\"} 0",
        "leveret_consumer_state{queue=\"workflow.execution\",state=\"live\"} 1",
        "leveret_messages_consumed_total 1",
        "leveret_messages_published_total 1",
        "leveret_dead_letters_total 0",
        "leveret_ready{part=\"consumer\"} 1",
    ];
    for line in expect {
        assert!(
            answer.text.lines().any(|l| l == line),
            "{line} is not in\n{}",
            answer.text
        );
    }
    world.stop().await;
}

#[tokio::test]
async fn errors_of_http_are_problems() {
    let world = World::new().await;
    world.get("/nothing").await.problem(404);
    world.get("/api/v1/workflows/a/b/c").await.problem(404);
    let wrong = world
        .json("DELETE", "/api/v1/workflows/w", &json!({}))
        .await;
    wrong.problem(405);
    let allowed: BTreeSet<_> = wrong.headers["allow"]
        .to_str()
        .unwrap()
        .split(',')
        .map(str::trim)
        .collect();
    assert_eq!(allowed, ["GET", "HEAD", "PUT"].into());
    world.stop().await;
}

/// A server that listens, and how to stop it.
pub(super) async fn listen(
    router: Router,
) -> (String, watch::Sender<bool>, JoinHandle<std::io::Result<()>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let (stop, stopped) = watch::channel(false);
    (
        address,
        stop,
        tokio::spawn(serve(listener, router, stopped)),
    )
}

/// A panic is answered, on a connection that lives on.
#[tokio::test]
async fn panics_are_answers() {
    async fn boom() -> &'static str {
        panic!("on purpose")
    }
    let (address, stop, serving) = listen(Router::new().route("/boom", get(boom))).await;
    let mut stream = tokio::net::TcpStream::connect(&address).await.unwrap();
    for _ in 0..2 {
        stream
            .write_all(b"GET /boom HTTP/1.1\r\nHost: x\r\n\r\n")
            .await
            .unwrap();
        let mut text = String::new();
        while !text.ends_with('}') {
            let mut buffer = [0; 1024];
            let read = stream.read(&mut buffer).await.unwrap();
            assert!(read > 0, "the connection closed: {text}");
            text.push_str(std::str::from_utf8(&buffer[..read]).unwrap());
        }
        assert!(text.starts_with("HTTP/1.1 500 "), "{text}");
        assert!(
            text.contains("urn:leveret:problem:internal") && !text.contains("on purpose"),
            "{text}"
        );
    }
    stop.send_replace(true);
    serving.await.unwrap().unwrap();
}

/// Over a real connection: start, wait, and stop while a request is waiting, which is answered that its run still runs.
#[tokio::test]
async fn drains_when_it_stops() {
    let world = World::new().await;
    world.put_chain("w", &["gate"]).await;
    let (address, stop, serving) = listen(world.router.clone()).await;
    crate::tls::install_provider();
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let url = format!("http://{address}/api/v1/workflows/w/runs?wait=true");
    world.let_go();
    let result: Value = client
        .post(&url)
        .json(&json!({}))
        .send()
        .await
        .unwrap()
        .json()
        .await
        .unwrap();
    assert_eq!(result["status"], "completed");
    let mut changes = world.engine.changes();
    let waiting = tokio::spawn(client.post(&url).json(&json!({"run_id": "r"})).send());
    // Both runs have come to the gate, so that the second one's step is in progress.
    world.reached.acquire_many(2).await.unwrap().forget();
    stop.send_replace(true);
    world.stop.send_replace(true);
    let answer = waiting.await.unwrap().unwrap();
    assert_eq!(answer.status().as_u16(), 202);
    assert_eq!(
        answer.json::<Value>().await.unwrap(),
        json!({"run_id": "r", "status": "running"})
    );
    serving.await.unwrap().unwrap();
    world.let_go();
    while changes.recv().await.unwrap().node_id.is_some() {}
    assert_eq!(
        world.get("/api/v1/runs/r").await.expect(200)["status"],
        "completed"
    );
    world.stop().await;
}

/// What another process put is run, once the entry in memory is too old.
#[tokio::test]
async fn sees_what_others_put() {
    use leveret_core::parse::{Source, parse_workflow};

    let world = World::new().await;
    let id = WorkflowId::new("w").unwrap();
    let newest = Newest::default();
    assert!(newest.get(&world.engine, &id).await.unwrap().is_none());
    for version in 1..=3 {
        let text = format!("id: w\nnodes: [{{id: n{version}, uses: set}}]");
        let workflow = parse_workflow(
            &Source {
                name: "w.yaml",
                text: &text,
            },
            None,
        )
        .unwrap();
        let (record, _) = world
            .engine
            .store()
            .put_workflow(&workflow, leveret_core::time::Timestamp(0))
            .await
            .unwrap();
        assert_eq!(record.version, version);
        newest.age(&id);
        let seen = newest.get(&world.engine, &id).await.unwrap().unwrap();
        assert_eq!(seen.hash, workflow.hash);
        let kept = newest.get(&world.engine, &id).await.unwrap().unwrap();
        assert!(Arc::ptr_eq(&seen, &kept));
    }
    world.stop().await;
}
