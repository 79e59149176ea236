//! Workers die: real processes, real servers, `kill -9` in the middle of their work. Every run that was accepted ends exactly once.
//!
//! Needs `LEVERET_TEST_AMQP_URL` and `LEVERET_TEST_POSTGRES_URL`.

use std::{
    collections::{BTreeMap, BTreeSet},
    process::{Child, Command, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use leveret::{
    broker::{ConsumeOptions, Header, Message, Publication},
    connect,
    core::{ids::RunId, json::Json, parse::workflow_from_json, workflow::Workflow},
    runtime::{Engine, EngineParts, Names, Publish, Roles, StartRequest, StatusMessages},
    store::{RunStatus, StepStatus},
};
use serde_json::{Value, json};
use tokio::sync::watch;

/// How often a worker is killed.
const KILLS: usize = 50;
/// How many runs end between two kills.
const RUNS_BETWEEN: u64 = 20;

/// A worker process; killed when dropped.
struct Worker(Child);

impl Worker {
    fn start(amqp: &str, postgres: &str, prefix: &str) -> Worker {
        let child = Command::new(env!("CARGO_BIN_EXE_leveret"))
            .args([
                "worker", "--broker", amqp, "--store", postgres, "--prefix", prefix,
            ])
            .args(["--status", "off", "--log", "error"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .expect("the binary starts");
        Worker(child)
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // SIGKILL. An error says that it is dead already.
        let _dead = self.0.kill();
        let _reaped = self.0.wait();
    }
}

/// A chain, a fan-out and a join; no node is pure.
fn workflow() -> Workflow {
    let node = |id: &str| json!({ "id": id, "uses": "log", "params": { "message": id, "level": "debug" } });
    let edge = |source: &str, target: &str| json!({ "source": source, "target": target });
    let nodes = ["a", "b", "c", "left", "right", "joined"].map(node);
    let definition = json!({
        "id": "kill",
        "nodes": nodes,
        "edges": [
            edge("a", "b"), edge("b", "c"), edge("c", "left"), edge("c", "right"), edge("left", "joined"),
            edge("right", "joined"),
        ],
    });
    workflow_from_json(&definition, None).expect("the workflow is valid")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_accepted_run_ends_once_whichever_worker_is_killed() {
    let (Ok(amqp), Ok(postgres)) = (
        std::env::var("LEVERET_TEST_AMQP_URL"),
        std::env::var("LEVERET_TEST_POSTGRES_URL"),
    ) else {
        println!("skipped: LEVERET_TEST_AMQP_URL and LEVERET_TEST_POSTGRES_URL are not set");
        return;
    };
    let prefix = format!("kill-{}.", std::process::id());
    let connected = connect(&postgres, &amqp).await.expect("connects");
    let engine = Engine::new(EngineParts {
        names: Names::with_prefix(&prefix),
        publish: Publish {
            status: StatusMessages::Off,
            completion: true,
        },
        ..EngineParts::new(connected.store, connected.broker)
    })
    .await
    .expect("declares");
    let (stop, stopped) = watch::channel(false);
    let serving = tokio::spawn({
        let engine = engine.clone();
        async move {
            engine
                .serve(
                    Roles {
                        worker: None,
                        timers: true,
                        reconciler: true,
                    },
                    stopped,
                )
                .await
        }
    });
    let mut completions = engine
        .broker()
        .consume(ConsumeOptions {
            prefetch: 1000,
            ..ConsumeOptions::queue(engine.names().completion.clone())
        })
        .await
        .expect("consumes");
    let completed: Arc<Mutex<BTreeMap<String, BTreeSet<String>>>> = Arc::default();
    let listening = tokio::spawn({
        let completed = completed.clone();
        async move {
            while let Some(delivery) = completions.next().await {
                let body: Value =
                    serde_json::from_slice(&delivery.message.body).expect("a completion is JSON");
                let run_id = body["execution_id"].as_str().unwrap_or_default().to_owned();
                let message_id = delivery
                    .message
                    .message_id
                    .clone()
                    .unwrap_or_default()
                    .to_string();
                completed
                    .lock()
                    .unwrap()
                    .entry(run_id)
                    .or_default()
                    .insert(message_id);
                delivery.receipt.ack();
            }
        }
    });

    let begun = Instant::now();
    let loading = Arc::new(AtomicBool::new(true));
    let clients: Vec<_> = (0..16)
        .map(|_| tokio::spawn(load(engine.clone(), loading.clone())))
        .collect();
    let mut workers = [
        Worker::start(&amqp, &postgres, &prefix),
        Worker::start(&amqp, &postgres, &prefix),
    ];
    let ended = || completed.lock().unwrap().len() as u64;
    for n in 0..KILLS {
        let goal = ended() + RUNS_BETWEEN;
        until("runs end between two kills", || ended() >= goal).await;
        workers[n % 2] = Worker::start(&amqp, &postgres, &prefix);
    }
    loading.store(false, Ordering::SeqCst);
    let mut accepted = BTreeSet::new();
    for client in clients {
        accepted.extend(client.await.expect("a client does not panic"));
    }
    let missing = || {
        accepted
            .iter()
            .filter(|id| !completed.lock().unwrap().contains_key(id.as_str()))
            .count()
    };
    until("every accepted run completes", || missing() == 0).await;
    println!(
        "{KILLS} kills, {} runs, {:.1} s",
        accepted.len(),
        begun.elapsed().as_secs_f64()
    );

    for run_id in &accepted {
        let result = engine
            .result(run_id)
            .await
            .expect("the store answers")
            .expect("the run is recorded");
        assert_eq!(
            result.status,
            RunStatus::Completed,
            "{run_id}: {:?}",
            result.error
        );
        assert_eq!(result.steps.len(), 6, "{run_id}");
        assert!(
            result
                .steps
                .values()
                .all(|step| step.status == StepStatus::Completed),
            "{run_id}"
        );
    }
    let completed = std::mem::take(&mut *completed.lock().unwrap());
    for (run_id, message_ids) in &completed {
        assert_eq!(
            message_ids.len(),
            1,
            "copies of the completion of {run_id} have one message id"
        );
    }
    let dead = engine
        .broker()
        .queue_stats(&engine.names().dead_letters)
        .await
        .expect("counts");
    assert_eq!(dead.ready, 0, "jobs were dead-lettered");

    drop(workers);
    stop.send(true).expect("still serving");
    serving.await.expect("no panic").expect("served");
    listening.abort();
    let Names {
        exchange,
        execution,
        status,
        completion,
        dead_letters,
    } = engine.names();
    for queue in [execution, status, completion, dead_letters] {
        engine.broker().delete_queue(queue).await.expect("deletes");
    }
    engine
        .broker()
        .delete_exchange(exchange)
        .await
        .expect("deletes");
    engine.close().await;
}

/// Messages that are no jobs are dead-lettered with the reason, and the consumer goes on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn malformed_messages_are_dead_lettered_with_the_reason() {
    let (Ok(amqp), Ok(postgres)) = (
        std::env::var("LEVERET_TEST_AMQP_URL"),
        std::env::var("LEVERET_TEST_POSTGRES_URL"),
    ) else {
        println!("skipped: LEVERET_TEST_AMQP_URL and LEVERET_TEST_POSTGRES_URL are not set");
        return;
    };
    let prefix = format!("malformed-{}.", std::process::id());
    let connected = connect(&postgres, &amqp).await.expect("connects");
    let engine = Engine::new(EngineParts {
        names: Names::with_prefix(&prefix),
        publish: Publish {
            status: StatusMessages::Off,
            completion: true,
        },
        ..EngineParts::new(connected.store, connected.broker)
    })
    .await
    .expect("declares");
    let names = engine.names().clone();
    let bad = [
        ("not json", "not a job"),
        (r#"{"workflow_id":"w","execution_id":"e"}"#, "node_id"),
        (
            r#"{"workflow_id":"w","execution_id":"no-such-run","node_id":"a"}"#,
            "is not recorded",
        ),
        (
            r#"{"workflow_id":"w","execution_id":"e","node_id":"a","workflow":{"id":"w","nodes":[{"uses":"log"}]}}"#,
            "not valid",
        ),
    ];
    let publish =
        |body: String| Publication::to_queue(names.execution.clone(), Message::json(body));
    let mut batch: Vec<Publication> = bad
        .iter()
        .map(|(body, _)| publish((*body).to_owned()))
        .collect();
    batch.push(publish(format!("\"{}\"", "x".repeat((16 << 20) - 2))));
    for result in engine.broker().publish(batch).await {
        result.expect("publishes");
    }
    let _worker = Worker::start(&amqp, &postgres, &prefix);
    let workflow = Arc::new(workflow());
    let request = StartRequest {
        workflow,
        input: Json::null(),
        run_id: None,
    };
    let result = engine
        .start_and_wait(request)
        .await
        .expect("the run starts");
    assert_eq!(result.status, RunStatus::Completed, "the consumer goes on");

    let mut letters = engine
        .broker()
        .consume(ConsumeOptions::queue(names.dead_letters.clone()))
        .await
        .expect("consumes");
    let mut reasons = Vec::new();
    while reasons.len() < bad.len() + 1 {
        let letter = tokio::time::timeout(Duration::from_secs(30), letters.next()).await;
        let letter = letter
            .expect("the letters come")
            .expect("the consumer lives");
        match letter.message.headers.get("x-leveret-reason") {
            Some(Header::Text(reason)) => reasons.push(reason.clone()),
            other => panic!("no reason: {other:?}"),
        }
        letter.receipt.ack();
    }
    for (_, expect) in bad {
        assert!(
            reasons.iter().any(|reason| reason.contains(expect)),
            "{expect} is not in {reasons:?}"
        );
    }
    for queue in [
        &names.execution,
        &names.status,
        &names.completion,
        &names.dead_letters,
    ] {
        engine.broker().delete_queue(queue).await.expect("deletes");
    }
    engine
        .broker()
        .delete_exchange(&names.exchange)
        .await
        .expect("deletes");
    engine.close().await;
}

/// Starts runs, one after the other, a few of them at once per client.
async fn load(engine: Engine, loading: Arc<AtomicBool>) -> Vec<RunId> {
    let workflow = Arc::new(workflow());
    let mut accepted = Vec::new();
    while loading.load(Ordering::SeqCst) {
        let request = StartRequest {
            workflow: workflow.clone(),
            input: Json::null(),
            run_id: None,
        };
        let awaited = engine.start_awaited(request).await.expect("the run starts");
        accepted.push(awaited.run_id().clone());
        // Goes on when the run ends, or when it takes long: a worker was killed with it.
        drop(tokio::time::timeout(Duration::from_millis(200), awaited.result()).await);
    }
    accepted
}

/// Waits for a condition that another process brings about.
async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !holds() {
        assert!(Instant::now() < deadline, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
