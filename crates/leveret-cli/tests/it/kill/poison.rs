//! A step that ends its worker's process is given up after a bounded number of tries: its run fails, its job is dead-lettered with the
//! reason, and all other runs complete.
//!
//! The workers are this test binary, started again at [`worker`] and [`one_process`], with the node type `abort` beside the built-in
//! ones.

use std::{collections::BTreeSet, process::Command, sync::Arc, time::Instant};

use leveret::{
    broker::{ConsumeOptions, Header},
    connect_prefixed,
    core::{ids::RunId, json::Json, workflow::Workflow},
    nodes::{NodeContext, Registry},
    runtime::{Engine, EngineParts, Names, Roles, StartRequest},
    store::{RunFilter, RunStatus},
};
use serde_json::{Value, json};
use tokio::sync::watch;

use super::{
    completions::Completions,
    load::{Load, workflow},
    rig::{COMPLETIONS, NEVER, PATIENCE, Rig, Worker, until},
    servers::Place,
};
use crate::support::Directory;

/// How often the step may end a process: at its first delivery and at so many redeliveries that nothing else explains them.
const TRIES: usize = 5;
/// How many runs each process of the second test starts.
const RUNS_A_LIFE: usize = 20;
const SIGABRT: i32 = 6;
/// Tells the child where to work.
const STORE: &str = "KILL_TEST_STORE";
const BROKER: &str = "KILL_TEST_BROKER";
const PREFIX: &str = "KILL_TEST_PREFIX";

/// The built-in node types, and `abort`: ends the process if the run's input says so.
fn registry() -> Registry {
    let mut registry = Registry::builtin();
    registry.register_fn("abort", |context: NodeContext| async move {
        if context.params["run"]["abort"] == true {
            std::process::abort();
        }
        Ok(json!({}))
    });
    registry
}

/// Runs whose third step may end its worker.
fn abort_workflow() -> Arc<Workflow> {
    workflow(
        "abort",
        &[("c", "abort", json!({ "run": "{{ run.input }}" }))],
    )
}

fn request(workflow: &Arc<Workflow>, abort: bool) -> StartRequest {
    StartRequest {
        workflow: workflow.clone(),
        input: Json::from(json!({ "abort": abort })),
        run_id: None,
    }
}

/// This binary as the child that is named.
fn child(name: &str, settings: &[(&str, &str)]) -> Command {
    let mut command = Command::new(std::env::current_exe().expect("a path"));
    command
        .args(["--exact", "--ignored", &format!("kill::poison::{name}")])
        .envs(settings.iter().copied());
    command
}

/// The engine of a child, where it was told to work; `None` if this is no child.
async fn child_engine() -> Option<Engine> {
    let setting = |name| std::env::var(name).ok();
    let (store, broker, prefix) = (setting(STORE)?, setting(BROKER)?, setting(PREFIX)?);
    Some(engine_at(&store, &broker, &prefix).await)
}

async fn engine_at(store: &str, broker: &str, prefix: &str) -> Engine {
    let connected = connect_prefixed(store, broker, prefix).await;
    let connected = connected.expect("connects");
    let parts = EngineParts {
        one_file: connected.one_file,
        registry: registry(),
        names: Names::with_prefix(prefix),
        publish: COMPLETIONS,
        ..EngineParts::new(connected.store, connected.broker)
    };
    Engine::new(parts).await.expect("declares")
}

/// The child of the first test.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a process that a test starts"]
async fn worker() {
    let Some(engine) = child_engine().await else {
        return;
    };
    let roles = Roles {
        timers: false,
        reconciler: false,
        ..Roles::all()
    };
    // Until it is killed.
    let (_stop, stopped) = watch::channel(false);
    engine.serve(roles, stopped).await.expect("serves");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_step_that_ends_its_workers_is_given_up() {
    let Some(place) = Place::shared("kill-poison").await else {
        return;
    };
    let rig = Rig::start(place, NEVER).await;
    let begun = Instant::now();
    let settings = [
        (STORE, &*rig.place.postgres),
        (BROKER, &*rig.place.amqp),
        (PREFIX, &*rig.place.prefix),
    ];
    let start = || Worker::spawn(child("worker", &settings));
    let workflow = abort_workflow();
    let load = Load::start(&rig.engine, &workflow, 8);
    let mut workers = [start(), start()];
    rig.until_ended(50).await;
    let (poisoned, _) = rig
        .engine
        .start(request(&workflow, true))
        .await
        .expect("starts");
    let mut deaths = 0;
    until("the poisoned run ends", || {
        for worker in &mut workers {
            if !worker.is_alive() {
                assert_eq!(worker.end(), Some(SIGABRT));
                deaths += 1;
                *worker = start();
            }
        }
        rig.completions.has(&poisoned)
    })
    .await;
    rig.until_ended(50).await;
    let accepted = load.stop().await;
    rig.assert_each_once(&accepted).await;
    println!(
        "{deaths} deaths, {} runs, {:.1} s",
        accepted.len(),
        begun.elapsed().as_secs_f64()
    );
    assert_eq!(deaths, TRIES);
    for worker in &mut workers {
        assert!(worker.is_alive());
    }
    assert_given_up(&rig.engine, &poisoned).await;
    drop(workers);
    rig.end().await;
}

/// The run failed for its step, and its job is in the dead-letter queue with the reason, and nothing else is.
async fn assert_given_up(engine: &Engine, run_id: &RunId) {
    const WHY: &str = "ended its worker each time";
    let result = engine.result(run_id).await.expect("the store answers");
    let result = result.expect("the run is recorded");
    let error = result.error.as_ref().map(ToString::to_string);
    assert_eq!(result.status, RunStatus::Failed, "{error:?}");
    assert!(
        error.as_ref().is_some_and(|error| error.contains(WHY)),
        "{error:?}"
    );

    let queue = &engine.names().dead_letters;
    let letters = engine
        .broker()
        .consume(ConsumeOptions::queue(queue.clone()));
    let mut letters = letters.await.expect("consumes");
    let letter = tokio::time::timeout(PATIENCE, letters.next()).await;
    let letter = letter.expect("in time").expect("the consumer lives");
    let job: Value = serde_json::from_slice(&letter.message.body).expect("a job is JSON");
    assert_eq!(job["execution_id"], run_id.as_str());
    match letter.message.headers.get("x-leveret-reason") {
        Some(Header::Text(reason)) => assert!(reason.contains(WHY), "{reason}"),
        other => panic!("no reason: {other:?}"),
    }
    letter.receipt.ack();
    assert!(
        letters.try_next().is_none(),
        "another job was dead-lettered"
    );
}

/// The child of the second test, one life of a process with everything in one file: starts runs, the first time one that aborts it
/// among them, and returns when all have ended.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a process that a test starts"]
async fn one_process() {
    let Some(engine) = child_engine().await else {
        return;
    };
    let (stop, stopped) = watch::channel(false);
    let serving = tokio::spawn({
        let engine = engine.clone();
        async move { engine.serve(Roles::all(), stopped).await }
    });
    let workflow = abort_workflow();
    let is_first_life = runs(&engine).await.is_empty();
    for n in 0..RUNS_A_LIFE {
        let abort = is_first_life && n == RUNS_A_LIFE / 2;
        // Not waited for: it goes on, and the next ones with it.
        let started = engine.start_awaited(request(&workflow, abort)).await;
        started.expect("the run starts");
    }
    for run_id in runs(&engine).await {
        engine.wait(&run_id).await.expect("the store answers");
    }
    stop.send_replace(true);
    serving.await.expect("no panic").expect("serves");
    engine.close().await;
}

async fn runs(engine: &Engine) -> Vec<RunId> {
    let filter = RunFilter {
        limit: 10_000,
        ..RunFilter::default()
    };
    let runs = engine.store().runs(&filter).await;
    let runs = runs.expect("the store answers").into_iter();
    runs.map(|run| run.run_id).collect()
}

/// Everything in one process and one file, which is started again until it ends well.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_step_that_ends_the_only_process_is_given_up() {
    let begun = Instant::now();
    let directory = Directory::new();
    let store = format!("sqlite:{}/leveret.db", directory.path());
    let settings = [(STORE, &*store), (BROKER, "embedded:"), (PREFIX, "")];
    let mut deaths = 0;
    loop {
        let mut process = Worker::spawn(child("one_process", &settings));
        until("the process ends", || !process.is_alive()).await;
        let Some(signal) = process.end() else {
            break;
        };
        assert_eq!(signal, SIGABRT);
        deaths += 1;
        assert!(deaths <= TRIES, "the step is not given up");
    }
    let engine = engine_at(&store, "embedded:", "").await;
    let runs = runs(&engine).await;
    println!(
        "{deaths} deaths, {} runs, {:.1} s",
        runs.len(),
        begun.elapsed().as_secs_f64()
    );
    assert_eq!(deaths, TRIES);
    let completions = Completions::of(&engine).await;
    let mut poisoned = None;
    let mut others = BTreeSet::new();
    for run_id in runs {
        let run = engine.store().run(&run_id).await;
        let run = run.expect("the store answers").expect("it is recorded");
        if run.input.value()["abort"] == true {
            assert_eq!(poisoned.replace(run_id), None, "one run aborts");
        } else {
            others.insert(run_id);
        }
    }
    completions.assert_each_once(&engine, &others).await;
    assert_given_up(&engine, &poisoned.expect("one run aborts")).await;
    engine.close().await;
}
