//! A step that takes long, and processes that lose their connections to the broker, and live.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use leveret::{
    broker::{
        Broker,
        rabbitmq::{RabbitMq, RabbitMqOptions},
    },
    core::{ids::RunId, json::Json, parse::workflow_from_json},
    nodes::{NodeContext, Registry},
    runtime::{Engine, EngineParts, Names, Publish, Roles, StartRequest},
    store::{RunStatus, Store, memory::MemoryStore},
};
use serde_json::json;
use tokio::{
    sync::{Semaphore, watch},
    time::timeout,
};

use super::{PATIENCE, proxy::Proxy, url};

/// More than the deliveries after which a step is given up.
const PROCESSES: usize = 9;

/// A process: an engine of its own, which reaches the broker through a proxy of its own.
struct Process {
    engine: Engine,
    proxy: Proxy,
    _stop: watch::Sender<bool>,
}

impl Process {
    async fn start(url: &str, prefix: &str, store: &Arc<MemoryStore>, nodes: &Registry) -> Process {
        let (proxy, through) = Proxy::start(url).await;
        let mut options = RabbitMqOptions::new(through);
        options.outage_wait = Duration::from_secs(1);
        let broker: Arc<dyn Broker> = Arc::new(RabbitMq::connect(options).await.unwrap());
        let store: Arc<dyn Store> = store.clone();
        let parts = EngineParts {
            names: Names::with_prefix(prefix),
            registry: nodes.clone(),
            publish: Publish::NOTHING,
            ..EngineParts::new(store, broker)
        };
        let engine = Engine::new(parts).await.unwrap();
        let (stop, stopped) = watch::channel(false);
        let worker = Roles {
            timers: false,
            reconciler: false,
            ..Roles::all()
        };
        let serving = engine.clone();
        tokio::spawn(async move { serving.serve(worker, stopped).await });
        Process {
            engine,
            proxy,
            _stop: stop,
        }
    }
}

/// A run of one step, which waits at a gate, and the processes that may execute it.
struct World {
    url: String,
    prefix: String,
    store: Arc<MemoryStore>,
    nodes: Registry,
    begun: Arc<AtomicUsize>,
    gate: Arc<Semaphore>,
}

impl World {
    fn new(url: String) -> World {
        let (begun, gate) = (Arc::new(AtomicUsize::new(0)), Arc::new(Semaphore::new(0)));
        let mut nodes = Registry::builtin();
        nodes.register_fn("long", {
            let (begun, gate) = (begun.clone(), gate.clone());
            move |_: NodeContext| {
                let (begun, gate) = (begun.clone(), gate.clone());
                async move {
                    begun.fetch_add(1, Ordering::SeqCst);
                    gate.acquire_owned().await.expect("open").forget();
                    Ok(json!(1))
                }
            }
        });
        World {
            url,
            prefix: format!("leveret-test.lives.{:016x}.", fastrand::u64(..)),
            store: Arc::new(MemoryStore::new()),
            nodes,
            begun,
            gate,
        }
    }

    async fn process(&self) -> Process {
        Process::start(&self.url, &self.prefix, &self.store, &self.nodes).await
    }

    /// Waits until the step was begun so often.
    async fn executed(&self, times: usize) {
        let what = format!("the step is executed {times} times");
        until(&what, || self.begun.load(Ordering::SeqCst) >= times).await;
    }
}

async fn until(what: &str, holds: impl Fn() -> bool) {
    let waits = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    assert!(timeout(PATIENCE, waits).await.is_ok(), "{what}");
}

async fn start(engine: &Engine) -> RunId {
    let definition = json!({ "id": "w", "nodes": [{ "id": "a", "uses": "long" }] });
    let request = StartRequest {
        workflow: Arc::new(workflow_from_json(&definition, None).unwrap()),
        input: Json::null(),
        run_id: None,
    };
    engine.start(request).await.unwrap().0
}

/// Waits for the run's end; nothing is left in the queues, which go away.
async fn completes(engine: &Engine, run_id: &RunId) {
    let result = timeout(PATIENCE, engine.wait(run_id))
        .await
        .expect("in time");
    let result = result.unwrap().expect("the run is recorded");
    assert_eq!(result.status, RunStatus::Completed, "{:?}", result.error);
    // The publishing connection may be on its way back still.
    until("the broker is connected", || engine.broker().is_connected()).await;
    let names = engine.names();
    let dead = engine.broker().queue_stats(&names.dead_letters).await;
    assert_eq!(dead.unwrap().ready, 0);
    for queue in [&names.execution, &names.dead_letters] {
        engine.broker().delete_queue(queue).await.unwrap();
    }
    let exchange = &names.exchange;
    engine.broker().delete_exchange(exchange).await.unwrap();
}

/// It goes from process to process, as each of them loses the broker: nobody takes it for the step that ends processes.
#[tokio::test(flavor = "multi_thread")]
async fn a_long_step_survives_lost_connections() {
    let Some(url) = url() else { return };
    let world = World::new(url);
    let mut processes = vec![world.process().await];
    let run_id = start(&processes[0].engine).await;
    world.executed(1).await;
    for times in 2..=PROCESSES {
        processes.push(world.process().await);
        processes[times - 2].proxy.refuse();
        world.executed(times).await;
    }
    world.gate.add_permits(PROCESSES);
    completes(&processes[PROCESSES - 1].engine, &run_id).await;
}

/// The job comes again to the process that executes it, and waits.
#[tokio::test(flavor = "multi_thread")]
async fn a_long_step_is_not_executed_beside_itself() {
    let Some(url) = url() else { return };
    let world = World::new(url);
    let process = world.process().await;
    let run_id = start(&process.engine).await;
    world.executed(1).await;
    for times in 2..=4 {
        process.proxy.cut();
        let consumed = &process.engine.metrics().consumed;
        until("the job comes again", || consumed.get() >= times).await;
    }
    world.gate.add_permits(1);
    completes(&process.engine, &run_id).await;
    assert_eq!(world.begun.load(Ordering::SeqCst), 1);
}
