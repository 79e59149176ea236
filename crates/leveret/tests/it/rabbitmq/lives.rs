//! A step that takes long goes from process to process, as each of them loses its connection to the broker, and lives: nobody takes it for
//! the step that ends processes.

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
    core::{json::Json, parse::workflow_from_json},
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

#[tokio::test(flavor = "multi_thread")]
async fn a_long_step_survives_lost_connections() {
    let Some(url) = url() else { return };
    let prefix = format!("leveret-test.lives.{:016x}.", fastrand::u64(..));
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
    let store = Arc::new(MemoryStore::new());
    let mut processes = vec![Process::start(&url, &prefix, &store, &nodes).await];
    let definition = json!({ "id": "w", "nodes": [{ "id": "a", "uses": "long" }] });
    let request = StartRequest {
        workflow: Arc::new(workflow_from_json(&definition, None).unwrap()),
        input: Json::null(),
        run_id: None,
    };
    let (run_id, _) = processes[0].engine.start(request).await.unwrap();
    let executed = async |times: usize| {
        let executed = async {
            while begun.load(Ordering::SeqCst) < times {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let executed = timeout(PATIENCE, executed).await;
        assert!(executed.is_ok(), "the step is not executed {times} times");
    };
    executed(1).await;
    for times in 2..=PROCESSES {
        processes.push(Process::start(&url, &prefix, &store, &nodes).await);
        processes[times - 2].proxy.refuse();
        executed(times).await;
    }
    gate.add_permits(PROCESSES);
    let last = &processes[PROCESSES - 1].engine;
    let result = timeout(PATIENCE, last.wait(&run_id))
        .await
        .expect("in time");
    let result = result.unwrap().expect("the run is recorded");
    assert_eq!(result.status, RunStatus::Completed, "{:?}", result.error);
    let names = last.names();
    let dead = last.broker().queue_stats(&names.dead_letters).await;
    assert_eq!(dead.unwrap().ready, 0);
    for queue in [&names.execution, &names.dead_letters] {
        last.broker().delete_queue(queue).await.unwrap();
    }
    last.broker()
        .delete_exchange(&names.exchange)
        .await
        .unwrap();
}
