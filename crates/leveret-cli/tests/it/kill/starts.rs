//! Clients start runs over HTTP while RabbitMQ is away: each is accepted at once, and begins when RabbitMQ is back, without the reconciler.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use leveret::core::ids::RunId;
use reqwest::{Client, StatusCode};
use serde_json::Value;
use tokio::{task::JoinSet, time};

use super::{
    load,
    rig::{NEVER, Rig},
    servers::{Place, Servers},
};
use crate::support::Server;

/// Between two starts: 50 a second.
const BETWEEN: Duration = Duration::from_millis(20);
/// How long RabbitMQ works before it stops.
const BEFORE: Duration = Duration::from_secs(2);
/// How long it is away.
const AWAY: Duration = Duration::from_secs(20);
/// What a start may take at the median, and at most.
const START_MEDIAN: Duration = Duration::from_millis(200);
pub(super) const START_MAX: Duration = Duration::from_secs(2);
/// How long after RabbitMQ's return all runs are done.
const DONE_WITHIN: Duration = Duration::from_secs(10);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn runs_are_accepted_at_once_while_rabbitmq_is_away() {
    let Some((place, servers)) = Place::private("kill-starts", &["rabbitmq"]).await else {
        return;
    };
    // An error only says that a provider is installed already.
    drop(rustls::crypto::ring::default_provider().install_default());
    let rig = Rig::start(place, NEVER).await;
    let server = up(&rig.place);
    let http = Client::new();
    let workflow = format!("{}/api/v1/workflows/starts", server.url());
    let put = http.put(&workflow).json(&load::definition("starts", &[]));
    let put = put.send().await.expect("the server answers").status();
    assert!(put.is_success(), "{put}");

    let mut starts = JoinSet::new();
    let outage = tokio::spawn(outage(servers));
    let mut tick = time::interval(BETWEEN);
    while !outage.is_finished() {
        tick.tick().await;
        starts.spawn(start(http.clone(), format!("{workflow}/runs")));
    }
    // The servers live as long as this.
    let (back, _servers) = outage.await.expect("no panic");
    let (mut runs, mut latencies) = (BTreeSet::new(), Vec::new());
    while let Some(started) = starts.join_next().await {
        let (run_id, latency) = started.expect("a start does not panic");
        assert!(runs.insert(run_id), "an id is given once");
        latencies.push(latency);
    }
    rig.assert_each_once(&runs).await;
    let done = back.elapsed();
    latencies.sort_unstable();
    let (median, max) = (
        latencies[latencies.len() / 2],
        latencies[latencies.len() - 1],
    );
    println!(
        "{} runs: accepted in {median:?} at the median, {max:?} at most; all done {done:?} after the return",
        runs.len()
    );
    assert!(median <= START_MEDIAN, "{median:?}");
    assert!(max <= START_MAX, "{max:?}");
    assert!(done <= DONE_WITHIN, "{done:?}");
    rig.assert_no_dead_letters().await;
    server.terminate();
    assert_eq!(server.wait().0, Some(0));
    rig.end().await;
}

fn up(place: &Place) -> Server {
    Server::start(&[
        "up",
        "--listen",
        "127.0.0.1:0",
        "--broker",
        &place.amqp,
        "--store",
        &place.postgres,
        "--prefix",
        &place.prefix,
        "--status",
        "off",
        "--stalled-after",
        "1h",
        "--log",
        "error,lapin=off",
    ])
}

/// RabbitMQ stops and comes back; when it was back.
async fn outage(servers: Servers) -> (Instant, Servers) {
    time::sleep(BEFORE).await;
    servers.order("stop", "rabbitmq").await;
    time::sleep(AWAY).await;
    servers.order("start", "rabbitmq").await;
    (Instant::now(), servers)
}

/// One start, which is accepted; its run, and how long the answer took.
pub(super) async fn start(http: Client, url: String) -> (RunId, Duration) {
    let begun = Instant::now();
    let answer = http.post(url).send().await.expect("the server answers");
    let latency = begun.elapsed();
    let status = answer.status();
    let body: Value = answer.json().await.expect("JSON");
    assert_eq!(status, StatusCode::ACCEPTED, "{body}");
    let run_id = body["run_id"].as_str().expect("the answer names the run");
    (RunId::new(run_id).expect("an id"), latency)
}
