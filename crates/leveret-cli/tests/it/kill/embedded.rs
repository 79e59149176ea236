//! `leveret up` on one data directory is killed and started again, while clients start runs over HTTP: every run that was answered for is
//! there and completes once. Needs nothing installed.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use leveret::{
    connect,
    core::ids::RunId,
    runtime::{Engine, EngineParts},
};
use reqwest::{Client, StatusCode};
use serde_json::{Value, json};
use tokio::sync::watch;

use super::{
    completions::Completions,
    load::{self, STEPS},
    rig::{COMPLETIONS, PATIENCE, POLL, until},
};
use crate::support::{Directory, Server};

/// How often the process is killed.
const KILLS: usize = 20;
/// How many runs are accepted between two kills.
const RUNS_BETWEEN: usize = 15;
/// How long one request may take.
const REQUEST_TIME_MAX: Duration = Duration::from_secs(10);

fn up(directory: &Directory) -> Server {
    let data = directory.path();
    Server::start(&[
        "up",
        "--listen",
        "127.0.0.1:0",
        "--data",
        &data,
        "--completion",
        "true",
        "--stalled-after",
        "1h",
        "--log",
        "error",
    ])
}

/// How a client asks for a run.
#[derive(Clone, Copy, Debug)]
enum Way {
    /// By an id of its own; again until it is answered.
    RunId,
    /// By a key; again until it is answered.
    Key,
    /// Without a name, and waits for the result: what is not answered may have begun or not.
    Wait,
}

/// What the clients share.
struct Clients {
    http: Client,
    /// Where the server listens now.
    url: watch::Receiver<String>,
    loading: watch::Receiver<bool>,
    accepted: Mutex<BTreeSet<RunId>>,
}

impl Clients {
    fn accepted(&self) -> usize {
        self.lock().len()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeSet<RunId>> {
        self.accepted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One client: starts runs, one after the other.
    async fn run(self: Arc<Clients>, name: usize, way: Way) {
        let mut n = 0;
        while *self.loading.borrow() {
            n += 1;
            let id = format!("{name}-{n}");
            while let Err(refused) = self.start(way, &id).await {
                assert!(refused.passing, "{way:?} {id}: {}", refused.why);
                if matches!(way, Way::Wait) {
                    break;
                }
                tokio::time::sleep(POLL).await;
            }
        }
    }

    /// One request. `Ok`: the run is accepted.
    async fn start(&self, way: Way, id: &str) -> Result<(), Refused> {
        let url = format!("{}/api/v1/workflows/kill/runs", *self.url.borrow());
        let request = self.http.post(url).timeout(REQUEST_TIME_MAX);
        let request = match way {
            Way::RunId => request.json(&json!({ "run_id": id })),
            Way::Key => request.header("idempotency-key", id),
            Way::Wait => request.query(&[("wait", "true")]),
        };
        let response = request.send().await?;
        let status = response.status();
        if !status.is_success() {
            return Err(Refused {
                passing: status == StatusCode::SERVICE_UNAVAILABLE,
                why: format!("{status}: {}", response.text().await?),
            });
        }
        let body: Value = response.json().await?;
        let run_id = body["run_id"].as_str().expect("the answer names the run");
        self.lock().insert(RunId::new(run_id).expect("an id"));
        Ok(())
    }
}

/// Why a run was not accepted.
struct Refused {
    /// Whether that is to be expected of a process that is killed.
    passing: bool,
    why: String,
}

impl From<reqwest::Error> for Refused {
    /// The process is gone, or went before its answer was whole.
    fn from(error: reqwest::Error) -> Refused {
        Refused {
            passing: !error.is_timeout(),
            why: error.to_string(),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_answered_run_completes_once_however_often_the_process_is_killed() {
    // An error only says that a provider is installed already.
    drop(rustls::crypto::ring::default_provider().install_default());
    let directory = Directory::new();
    let begun = Instant::now();
    let mut server = up(&directory);
    let (at, url) = watch::channel(server.url());
    let (load, loading) = watch::channel(true);
    let http = Client::new();
    put_workflow(&http, &server).await;
    let clients = Arc::new(Clients {
        http: http.clone(),
        url,
        loading,
        accepted: Mutex::default(),
    });
    let tasks: Vec<_> = [Way::RunId, Way::Key, Way::Wait]
        .into_iter()
        .cycle()
        .take(9)
        .enumerate()
        .map(|(name, way)| tokio::spawn(clients.clone().run(name, way)))
        .collect();
    for _ in 0..KILLS {
        let goal = clients.accepted() + RUNS_BETWEEN;
        until("runs are accepted", || clients.accepted() >= goal).await;
        server.kill();
        server = up(&directory);
        at.send_replace(server.url());
    }
    load.send_replace(false);
    for task in tasks {
        task.await.expect("a client does not panic");
    }
    let accepted = clients.lock().clone();
    until_idle(&http, &server).await;
    for run_id in &accepted {
        assert_shown_completed(&http, &server, run_id).await;
    }
    until_drained(&http, &server).await;
    println!(
        "{KILLS} kills, {} runs, {:.1} s",
        accepted.len(),
        begun.elapsed().as_secs_f64()
    );
    server.terminate();
    assert_eq!(server.wait().0, Some(0));
    assert_recorded_once(&directory, &accepted).await;
}

async fn put_workflow(http: &Client, server: &Server) {
    let workflow = load::definition("kill", &[("b", "sleep", json!({ "duration": "20ms" }))]);
    let url = format!("{}/api/v1/workflows/kill", server.url());
    let answer = http.put(url).json(&workflow).send().await;
    let status = answer.expect("the server answers").status();
    assert!(status.is_success(), "{status}");
}

/// Waits until no run is running, those included that were not answered for.
async fn until_idle(http: &Client, server: &Server) {
    let begun = Instant::now();
    loop {
        let running = get(http, server, "runs?status=running").await;
        if running["items"].as_array().is_some_and(Vec::is_empty) {
            return;
        }
        assert!(begun.elapsed() < PATIENCE, "still running: {running}");
        tokio::time::sleep(POLL).await;
    }
}

/// Waits until no job is left: copies of those whose runs have ended may still be on their way.
async fn until_drained(http: &Client, server: &Server) {
    let url = format!("{}/metrics", server.url());
    let begun = Instant::now();
    loop {
        let answer = http.get(&url).send().await.expect("the server answers");
        let text = answer.text().await.expect("text");
        let sum = |name: &str| {
            let lines = text.lines().filter(|line| line.starts_with(name));
            let values = lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok());
            values.sum::<f64>()
        };
        let taken = sum("leveret_messages_consumed_total");
        let settled = sum("leveret_messages_acked_total") + sum("leveret_messages_requeued_total");
        let waiting = sum("leveret_queue_messages{queue=\"workflow.execution\"");
        if settled >= taken && waiting == 0.0 {
            return;
        }
        assert!(
            begun.elapsed() < PATIENCE,
            "{waiting} jobs wait, {settled} of {taken} are settled"
        );
        tokio::time::sleep(POLL).await;
    }
}

async fn assert_shown_completed(http: &Client, server: &Server, run_id: &RunId) {
    let run = get(http, server, &format!("runs/{run_id}")).await;
    let steps = run["steps"].as_object().map(serde_json::Map::len);
    assert!(
        run["status"] == "completed" && steps == Some(STEPS),
        "{run}"
    );
}

async fn get(http: &Client, server: &Server, path: &str) -> Value {
    let url = format!("{}/api/v1/{path}", server.url());
    let answer = http.get(url).send().await.expect("the server answers");
    answer.json().await.expect("JSON")
}

/// What the process left in its file: each accepted run completed once; nothing waits for anything, and nothing was dead-lettered.
async fn assert_recorded_once(directory: &Directory, accepted: &BTreeSet<RunId>) {
    let store = format!("sqlite:{}/leveret.db", directory.path());
    let connected = connect(&store, "embedded:").await.expect("connects");
    let engine = Engine::new(EngineParts {
        one_file: connected.one_file,
        publish: COMPLETIONS,
        ..EngineParts::new(connected.store, connected.broker)
    });
    let engine = engine.await.expect("declares");
    for queue in [&engine.names().execution, &engine.names().dead_letters] {
        let stats = engine.broker().queue_stats(queue).await.expect("counts");
        assert_eq!(stats.ready, 0, "in {queue}");
    }
    assert_eq!(engine.store().next_timer().await.expect("answers"), None);
    let completions = Completions::of(&engine).await;
    completions.assert_each_once(&engine, accepted).await;
    engine.close().await;
}
