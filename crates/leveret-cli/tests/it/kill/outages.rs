//! Servers stop, crash and come back while two workers work: what was accepted ends exactly once, nothing is dead-lettered, and no worker
//! gives up.

use std::time::{Duration, Instant};

use serde_json::json;

use super::{
    load::{Load, workflow},
    rig::{NEVER, Rig, Worker},
    servers::{Place, Servers},
};

/// How many runs end before, between and after the outages.
const RUNS_BETWEEN: usize = 100;

/// What happens to a server.
#[derive(Clone, Copy, Debug)]
enum Outage {
    /// It stops in order and is started again.
    Restart,
    /// `kill -9`, and started again.
    Crash,
    /// `kill -9`, and started again after this time.
    Down(Duration),
}

impl Outage {
    async fn happen(self, servers: &Servers, kinds: &[&str]) {
        let all = async |order: &str| {
            for kind in kinds {
                servers.order(order, kind).await;
            }
        };
        match self {
            Outage::Restart => all("restart").await,
            Outage::Crash => {
                all("kill").await;
                all("start").await;
            }
            Outage::Down(time) => {
                all("kill").await;
                tokio::time::sleep(time).await;
                all("start").await;
            }
        }
    }
}

/// Whether there is something that finds runs which stand still.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reconciler {
    /// At work all the time, and impatient: it takes up what is only slow, too.
    Always,
    /// Never: all runs end without it.
    Never,
}

/// Runs load through the outages of these servers, which are the test's own.
async fn endure(name: &str, kinds: &[&str], reconciler: Reconciler, outages: &[Outage]) {
    let Some((place, servers)) = Place::private(name, kinds).await else {
        return;
    };
    let quiet = match reconciler {
        Reconciler::Always => Duration::from_secs(2),
        Reconciler::Never => NEVER,
    };
    let rig = Rig::start(place, quiet).await;
    let begun = Instant::now();
    let workflow = workflow("outage", &[("b", "sleep", json!({ "duration": "100ms" }))]);
    let load = Load::start(&rig.engine, &workflow, 16);
    let mut workers = [Worker::start(&rig.place), Worker::start(&rig.place)];
    rig.until_ended(RUNS_BETWEEN).await;
    for outage in outages {
        outage.happen(&servers, kinds).await;
        let back = Instant::now();
        rig.until_ended(RUNS_BETWEEN).await;
        println!(
            "{outage:?} of {kinds:?}: {RUNS_BETWEEN} runs ended {:.1} s later",
            back.elapsed().as_secs_f64()
        );
    }
    let runs = load.stop().await;
    rig.assert_each_once(&runs).await;
    println!(
        "{} runs, {:.1} s; {} runs taken up by the reconciler",
        runs.len(),
        begun.elapsed().as_secs_f64(),
        rig.engine.metrics().reconciled.get()
    );
    rig.assert_no_dead_letters().await;
    for worker in &mut workers {
        assert!(worker.is_alive(), "a worker gave up");
    }
    drop(workers);
    rig.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rabbitmq_is_restarted() {
    endure(
        "kill-rabbitmq-stop",
        &["rabbitmq"],
        Reconciler::Never,
        &[Outage::Restart],
    )
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rabbitmq_crashes() {
    endure(
        "kill-rabbitmq",
        &["rabbitmq"],
        Reconciler::Never,
        &[Outage::Crash],
    )
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgresql_restarts_and_crashes() {
    let away = Outage::Down(Duration::from_secs(3));
    let outages = [Outage::Restart, Outage::Crash, Outage::Crash, away];
    endure("kill-postgres", &["postgres"], Reconciler::Never, &outages).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_are_away_for_a_while() {
    let away = Outage::Down(Duration::from_secs(5));
    endure(
        "kill-both",
        &["rabbitmq", "postgres"],
        Reconciler::Always,
        &[away],
    )
    .await;
}
