//! Processes are killed while signals come: one that was accepted is not lost, and ends one wait, in order.

use std::{
    collections::BTreeSet,
    process::Command,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use reqwest::{Client, StatusCode};
use serde_json::{Value, json};
use tokio::sync::watch;

use super::{
    rig::{PATIENCE, POLL, Worker, until},
    servers::Place,
};
use crate::support::{Directory, Server};

/// How often a process is killed.
const KILLS: usize = 12;
/// How many signals are accepted between two kills.
const SIGNALS_BETWEEN: usize = 25;
/// How many clients send them.
const CLIENTS: usize = 6;
/// How many signals a run waits for.
const WAITS: usize = 3;
/// How long one request may take.
const REQUEST_TIME_MAX: Duration = Duration::from_secs(10);

/// A run waits for the same event again and again, between steps that are recorded alone.
fn workflow() -> Value {
    let (mut nodes, mut edges) = (Vec::new(), Vec::new());
    for n in 1..=WAITS {
        nodes.push(json!({ "id": format!("log{n}"), "uses": "log", "params": { "message": "m", "level": "debug" } }));
        nodes.push(json!({ "id": format!("wait{n}"), "uses": "wait", "params": { "event": "go", "key": "{{ run.id }}" } }));
        edges.push(json!({ "source": format!("log{n}"), "target": format!("wait{n}") }));
        if n > 1 {
            edges.push(json!({ "source": format!("wait{}", n - 1), "target": format!("log{n}") }));
        }
    }
    json!({ "id": "waits", "nodes": nodes, "edges": edges })
}

struct Clients {
    http: Client,
    /// Where the server listens now.
    url: watch::Receiver<String>,
    loading: watch::Receiver<bool>,
    accepted: AtomicUsize,
    runs: Mutex<BTreeSet<String>>,
}

impl Clients {
    /// One client: starts a run and sends its signals, one after the other, each until it is answered for.
    async fn run(self: Arc<Clients>, name: usize) {
        let mut n = 0;
        while *self.loading.borrow() {
            n += 1;
            let run_id = format!("{name}-{n}");
            self.post("workflows/waits/runs", &json!({ "run_id": run_id }))
                .await;
            for signal in 1..=WAITS {
                let mut body = json!({ "event": "go", "data": signal, "id": signal.to_string() });
                let path = if name.is_multiple_of(2) && signal == 2 {
                    body["key"] = json!(run_id);
                    "signals".to_owned()
                } else {
                    format!("runs/{run_id}/signals")
                };
                self.post(&path, &body).await;
                self.accepted.fetch_add(1, Ordering::SeqCst);
            }
            let mut runs = self.runs.lock().unwrap_or_else(PoisonError::into_inner);
            runs.insert(run_id);
        }
    }

    async fn post(&self, path: &str, body: &Value) {
        let begun = Instant::now();
        loop {
            let url = format!("{}/api/v1/{path}", *self.url.borrow());
            let request = self.http.post(url).timeout(REQUEST_TIME_MAX).json(body);
            if let Ok(response) = request.send().await {
                let status = response.status();
                if status.is_success() {
                    return;
                }
                let text = response.text().await.unwrap_or_default();
                assert_eq!(
                    status,
                    StatusCode::SERVICE_UNAVAILABLE,
                    "{path} {body}: {text}"
                );
            }
            assert!(begun.elapsed() < PATIENCE, "{path} {body} is not answered");
            tokio::time::sleep(POLL).await;
        }
    }
}

async fn get(http: &Client, server: &Server, path: &str) -> Value {
    let url = format!("{}/api/v1/{path}", server.url());
    let answer = http.get(url).send().await.expect("the server answers");
    answer.json().await.expect("JSON")
}

/// Kills the server, which `serve` starts, and what else is of the kind `kill_another` kills, in turn.
async fn each_counts_once(serve: impl Fn() -> Server, mut kill_another: impl FnMut(usize) -> bool) {
    // An error only says that a provider is installed already.
    drop(rustls::crypto::ring::default_provider().install_default());
    let begun = Instant::now();
    let mut server = serve();
    let (at, url) = watch::channel(server.url());
    let (load, loading) = watch::channel(true);
    let http = Client::new();
    let put = http.put(format!("{}/api/v1/workflows/waits", server.url()));
    let put = put.json(&workflow()).send().await.expect("answers");
    assert!(put.status().is_success(), "{}", put.status());
    let clients = Arc::new(Clients {
        http: http.clone(),
        url,
        loading,
        accepted: AtomicUsize::new(0),
        runs: Mutex::default(),
    });
    let accepted = || clients.accepted.load(Ordering::SeqCst);
    let tasks: Vec<_> = (0..CLIENTS)
        .map(|name| tokio::spawn(clients.clone().run(name)))
        .collect();
    for n in 0..KILLS {
        let goal = accepted() + SIGNALS_BETWEEN;
        until("signals are accepted", || accepted() >= goal).await;
        if !kill_another(n) {
            server.kill();
            server = serve();
            at.send_replace(server.url());
        }
    }
    load.send_replace(false);
    for task in tasks {
        task.await.expect("a client does not panic");
    }
    let runs = clients
        .runs
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .clone();
    for run_id in &runs {
        let ended = Instant::now();
        let run = loop {
            let run = get(&http, &server, &format!("runs/{run_id}")).await;
            if run["status"] != "running" {
                break run;
            }
            assert!(ended.elapsed() < PATIENCE, "it waits in vain: {run}");
            tokio::time::sleep(POLL).await;
        };
        assert_eq!(run["status"], "completed", "{run}");
        for n in 1..=WAITS {
            let output = &run["steps"][format!("wait{n}")]["output"];
            // One by a key and one to the run may come in either order, if the run waits for neither yet.
            let expect = json!(n);
            assert!(*output == expect || is_swapped(&run, run_id), "{run}");
        }
    }
    println!(
        "{KILLS} kills, {} runs, {} signals, {:.1} s",
        runs.len(),
        accepted(),
        begun.elapsed().as_secs_f64()
    );
    server.terminate();
    server.wait();
}

/// Whether the run got each of its signals once, one of them by its key.
fn is_swapped(run: &Value, run_id: &str) -> bool {
    let client: usize = run_id
        .split('-')
        .next()
        .and_then(|name| name.parse().ok())
        .expect("a name");
    let outputs = (1..=WAITS).map(|n| run["steps"][format!("wait{n}")]["output"].as_u64());
    let got: BTreeSet<Option<u64>> = outputs.collect();
    client.is_multiple_of(2) && got == (1..=WAITS as u64).map(Some).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn signals_outlive_leveret_up() {
    let directory = Directory::new();
    let data = directory.path();
    let up = || {
        Server::start(&[
            "up",
            "--listen",
            "127.0.0.1:0",
            "--data",
            &data,
            "--stalled-after",
            "1h",
            "--log",
            "error",
        ])
    };
    each_counts_once(up, |_| false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn signals_outlive_servers_and_workers() {
    let Some(place) = Place::shared("signals").await else {
        return;
    };
    let serve = || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_leveret"));
        command
            .args(["serve", "--listen", "127.0.0.1:0", "--broker", &place.amqp])
            .args(["--store", &place.postgres, "--prefix", &place.prefix])
            .args([
                "--status",
                "off",
                "--completion",
                "false",
                "--stalled-after",
                "5s",
            ])
            .args(["--log", "error,lapin=off"]);
        Server::of(command)
    };
    // A server may die before the first job of a run that it accepted is confirmed: the reconciler finds such a run.
    let mut workers = [Worker::start(&place), Worker::start(&place)];
    each_counts_once(serve, |n| {
        if n % 3 == 0 {
            return false;
        }
        workers[n % 2] = Worker::start(&place);
        true
    })
    .await;
    drop(workers);
    place.remove().await;
}
