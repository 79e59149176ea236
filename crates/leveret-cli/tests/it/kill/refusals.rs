//! RabbitMQ is there and does not take what is published, for want of a right, of memory, or of room in a queue: runs are accepted at once,
//! log and readiness tell what waits and why, and it goes out when RabbitMQ takes it.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    time::Instant,
};

use leveret::{
    broker::{
        Broker, ConsumeOptions,
        rabbitmq::{RabbitMq, RabbitMqOptions},
    },
    core::ids::RunId,
};
use reqwest::{Client, StatusCode};
use serde_json::Value;
use tokio::task::JoinSet;

use super::{
    load,
    rig::{PATIENCE, POLL},
    servers::{Place, Servers},
    starts::{START_MAX, start},
};
use crate::support::{Directory, Server, command};

/// `leveret up` on a RabbitMQ of the test's own.
struct World {
    place: Place,
    servers: Servers,
    server: Server,
    http: Client,
    directory: Directory,
}

impl World {
    /// Connects to this broker, with a workflow to start.
    async fn start(place: Place, servers: Servers, amqp: &str) -> World {
        // An error only says that a provider is installed already.
        drop(rustls::crypto::ring::default_provider().install_default());
        let directory = Directory::new();
        let log = File::create(directory.path() + "/log").expect("the directory is there");
        let up = command(&[
            "up",
            "--listen",
            "127.0.0.1:0",
            "--broker",
            amqp,
            "--store",
            &place.postgres,
            "--prefix",
            &place.prefix,
            "--status",
            "off",
            "--stalled-after",
            "1h",
            "--log",
            "warn,lapin=off",
        ]);
        let world = World {
            server: Server::logging_to(log, up),
            http: Client::new(),
            place,
            servers,
            directory,
        };
        let put = world.http.put(world.url("/api/v1/workflows/w"));
        let put = put.json(&load::definition("w", &[])).send().await;
        assert!(put.expect("the server answers").status().is_success());
        world
    }

    fn url(&self, path: &str) -> String {
        format!("{}{path}", self.server.url())
    }

    /// Starts a run, which is accepted at once.
    async fn begin(&self) -> RunId {
        let (run_id, latency) =
            start(self.http.clone(), self.url("/api/v1/workflows/w/runs")).await;
        assert!(latency <= START_MAX, "{latency:?}");
        run_id
    }

    async fn get(&self, path: &str) -> (StatusCode, Value) {
        let answer = self.http.get(self.url(path)).send().await;
        let answer = answer.expect("the server answers");
        (answer.status(), answer.json().await.expect("JSON"))
    }

    /// Waits until readiness tells that something waits for a reason in which these words are.
    async fn until_waiting(&self, words: [&str; 2]) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let (status, body) = self.get("/health/ready").await;
            let reasons = body["reasons"].as_array().cloned().unwrap_or_default();
            let tells = |reason: &Value| {
                let reason = reason.as_str().unwrap_or_default();
                words.iter().all(|word| reason.contains(word))
            };
            if status == StatusCode::SERVICE_UNAVAILABLE && reasons.iter().any(tells) {
                assert_eq!(body["parts"]["publishing"], "not_ready");
                return;
            }
            assert!(Instant::now() < deadline, "not told: {words:?}: {body}");
            tokio::time::sleep(POLL).await;
        }
    }

    async fn until_ready(&self) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let (status, body) = self.get("/health/ready").await;
            if status == StatusCode::OK {
                return;
            }
            assert!(Instant::now() < deadline, "not ready: {body}");
            tokio::time::sleep(POLL).await;
        }
    }

    async fn is_running(&self, run_id: &RunId) -> bool {
        let (_, run) = self.get(&format!("/api/v1/runs/{run_id}")).await;
        run["status"] == "running"
    }

    async fn until_ended(&self, run_id: &RunId) {
        let deadline = Instant::now() + PATIENCE;
        while self.is_running(run_id).await {
            assert!(Instant::now() < deadline, "run {run_id} does not end");
            tokio::time::sleep(POLL).await;
        }
    }

    fn log(&self) -> String {
        fs::read_to_string(self.directory.path() + "/log").expect("there is a log")
    }

    async fn end(self) {
        self.server.terminate();
        assert_eq!(self.server.wait().0, Some(0));
        self.place.remove().await;
    }
}

/// Its user may not write to the default exchange, by which first jobs go.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_right_that_is_missing_is_told_and_may_be_given() {
    let Some((place, servers)) = Place::private("kill-rights", &["rabbitmq"]).await else {
        return;
    };
    servers.rabbitmqctl(&["add_user", "narrow", "secret"]).await;
    let permit = async |servers: &Servers, write: &str| {
        let order = ["set_permissions", "-p", "/", "narrow", ".*", write, ".*"];
        servers.rabbitmqctl(&order).await;
    };
    // What is declared needs the right, too: queues for retries let their messages go back through that exchange.
    permit(&servers, ".*").await;
    let narrow = place.amqp.replace("guest:guest", "narrow:secret");
    let world = World::start(place, servers, &narrow).await;
    world.until_ready().await;

    permit(&world.servers, &format!("^{}", world.place.prefix)).await;
    let run_id = world.begin().await;
    world
        .until_waiting(["first jobs of runs wait", "amq.default"])
        .await;
    assert!(world.is_running(&run_id).await);
    let log = world.log();
    assert!(
        log.contains("first jobs of runs wait to be published") && log.contains("amq.default"),
        "{log}"
    );

    permit(&world.servers, ".*").await;
    world.until_ended(&run_id).await;
    world.until_ready().await;
    world.end().await;
}

/// It lacks memory already when the process and its first run start.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn runs_wait_for_an_alarm_to_end() {
    let Some((place, servers)) = Place::private("kill-alarm", &["rabbitmq"]).await else {
        return;
    };
    let watermark = async |servers: &Servers, fraction: &str| {
        let order = ["set_vm_memory_high_watermark", fraction];
        servers.rabbitmqctl(&order).await;
    };
    watermark(&servers, "0.00001").await;
    let amqp = place.amqp.clone();
    let world = World::start(place, servers, &amqp).await;

    let run_id = world.begin().await;
    world
        .until_waiting(["first jobs of runs wait", "blocks"])
        .await;
    let second = world.begin().await;
    assert!(world.is_running(&run_id).await);

    watermark(&world.servers, "0.6").await;
    let lifted = Instant::now();
    world.until_ended(&run_id).await;
    world.until_ended(&second).await;
    println!("ended {:?} after the alarm", lifted.elapsed());
    world.until_ready().await;
    world.end().await;
}

/// Nobody reads completions, and their queue takes one more: more runs than a worker takes deliveries end nevertheless, and their completions come
/// when there is room.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_completion_queue_holds_up_only_completions() {
    const RUNS: usize = 600;
    let Some((place, servers)) = Place::private("kill-full", &["rabbitmq"]).await else {
        return;
    };
    let amqp = place.amqp.clone();
    let world = World::start(place, servers, &amqp).await;
    let queue = format!("{}workflow.completion", world.place.prefix);
    let pattern = format!("^{queue}$");
    let bound = r#"{"queue-version": 2, "queue-mode": "lazy", "max-length": 1, "overflow": "reject-publish"}"#;
    let policy = ["set_policy", "full", &pattern, bound, "--priority", "1"];
    world.servers.rabbitmqctl(&policy).await;

    let mut runs = Vec::new();
    while runs.len() < RUNS {
        let mut starts = JoinSet::new();
        for _ in 0..20 {
            let url = world.url("/api/v1/workflows/w/runs");
            starts.spawn(start(world.http.clone(), url));
        }
        runs.extend(
            starts
                .join_all()
                .await
                .into_iter()
                .map(|(run_id, _)| run_id),
        );
    }
    for run_id in &runs {
        world.until_ended(run_id).await;
    }
    world
        .until_waiting(["messages that follow from jobs wait", "did not accept"])
        .await;

    world.servers.rabbitmqctl(&["clear_policy", "full"]).await;
    let room = Instant::now();
    let broker = RabbitMq::connect(RabbitMqOptions::new(&amqp)).await;
    let broker = broker.expect("RabbitMQ answers");
    let completions = broker.consume(ConsumeOptions::queue(queue)).await;
    let mut completions = completions.expect("the queue is there");
    let mut missing: BTreeSet<String> = runs
        .iter()
        .map(|run_id| format!("{run_id}/completion"))
        .collect();
    while !missing.is_empty() {
        let next = tokio::time::timeout(PATIENCE, completions.next()).await;
        let next = next.unwrap_or_else(|_| panic!("{} completions are lost", missing.len()));
        let delivery = next.expect("the consumer lives");
        missing.remove(&*delivery.message.message_id.clone().expect("has an id"));
        delivery.receipt.ack();
    }
    println!("all told {:?} after there was room", room.elapsed());
    world.until_ready().await;
    broker.close().await;
    world.end().await;
}
