//! What the kill tests share: an engine with timers and reconciler in this process, worker processes, clients that load them, and what
//! must hold of every run in the end.

use std::{
    collections::{BTreeMap, BTreeSet},
    process::{Child, Command, Stdio},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use leveret::{
    broker::{
        BrokerError, ConsumeOptions, Consumer,
        rabbitmq::{RabbitMq, RabbitMqOptions},
    },
    core::{ids::RunId, json::Json, parse::workflow_from_json, workflow::Workflow},
    runtime::{
        Engine, EngineOptions, EngineParts, Names, Publish, Roles, StartError, StartRequest,
        StatusMessages,
    },
    store::{
        RunStatus, StepStatus,
        postgres::{PostgresOptions, PostgresStore},
    },
};
use serde_json::{Value, json};
use tokio::{sync::watch, task::JoinHandle};

use super::servers::Place;

/// How long anything may take that must happen.
pub(crate) const PATIENCE: Duration = Duration::from_secs(90);
/// How long a client waits for the end of a run before it starts the next: a worker may have been killed with it.
const CLIENT_WAIT: Duration = Duration::from_millis(200);

/// A worker process; killed when dropped.
#[derive(Debug)]
pub(crate) struct Worker(Child);

impl Worker {
    /// `leveret worker`.
    pub(crate) fn start(place: &Place) -> Worker {
        let mut command = Command::new(env!("CARGO_BIN_EXE_leveret"));
        command
            .args(["worker", "--broker", &place.amqp])
            .args(["--store", &place.postgres, "--prefix", &place.prefix])
            .args(["--status", "off", "--log", "error,lapin=off"]);
        Worker::spawn(command)
    }

    pub(crate) fn spawn(mut command: Command) -> Worker {
        command.stdin(Stdio::null()).stdout(Stdio::null());
        Worker(command.spawn().expect("the binary starts"))
    }

    /// Whether it runs.
    pub(crate) fn is_alive(&mut self) -> bool {
        self.0.try_wait().expect("a child can be asked").is_none()
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // SIGKILL. An error says that it is dead already.
        let _dead = self.0.kill();
        let _reaped = self.0.wait();
    }
}

/// An engine that starts runs, fires timers, reconciles, and notes the completion messages.
pub(crate) struct Rig {
    pub(crate) place: Place,
    pub(crate) engine: Engine,
    completions: Completions,
    stop: watch::Sender<bool>,
    serving: JoinHandle<Result<(), BrokerError>>,
    listening: JoinHandle<()>,
}

impl Rig {
    pub(crate) async fn start(place: Place, options: EngineOptions) -> Rig {
        let engine = engine(&place, options).await;
        let (stop, stopped) = watch::channel(false);
        let serving = tokio::spawn({
            let engine = engine.clone();
            let roles = Roles {
                worker: None,
                ..Roles::all()
            };
            async move { engine.serve(roles, stopped).await }
        });
        let options = ConsumeOptions {
            prefetch: 1000,
            ..ConsumeOptions::queue(engine.names().completion.clone())
        };
        let consumer = engine.broker().consume(options).await.expect("consumes");
        let completions = Completions::default();
        let listening = tokio::spawn(completions.clone().collect(consumer));
        Rig {
            place,
            engine,
            completions,
            stop,
            serving,
            listening,
        }
    }

    /// How many runs have ended.
    pub(crate) fn ended(&self) -> usize {
        self.completions.lock().len()
    }

    /// Waits until so many more runs have ended.
    pub(crate) async fn until_ended(&self, more: usize) {
        let goal = self.ended() + more;
        until("runs end", || self.ended() >= goal).await;
    }

    /// Waits for the completions of these runs.
    pub(crate) async fn until_completed(&self, runs: &BTreeSet<RunId>) {
        let complete = || {
            let completed = self.completions.lock();
            runs.iter().all(|id| completed.contains_key(id.as_str()))
        };
        until("every accepted run completes", complete).await;
    }

    /// How many letters are in the dead-letter queue.
    pub(crate) async fn dead_letters(&self) -> u64 {
        let names = self.engine.names();
        let stats = self.engine.broker().queue_stats(&names.dead_letters).await;
        stats.expect("counts").ready
    }

    /// Each of these runs is recorded as completed with so many steps, each completed, and all copies of its completion message are one
    /// message.
    pub(crate) async fn assert_each_completed_once(&self, runs: &BTreeSet<RunId>, steps: usize) {
        for run_id in runs {
            let result = self.engine.result(run_id).await;
            let result = result.expect("the store answers");
            let result = result.expect("the run is recorded");
            let error = &result.error;
            assert_eq!(result.status, RunStatus::Completed, "{run_id}: {error:?}");
            assert_eq!(result.steps.len(), steps, "{run_id}");
            let completed = |status: &StepStatus| *status == StepStatus::Completed;
            let mut statuses = result.steps.values().map(|step| &step.status);
            assert!(statuses.all(completed), "{run_id}");
            let told = self.completions.lock().get(run_id.as_str()).cloned();
            let told: Vec<_> = told.into_iter().flatten().collect();
            assert!(
                matches!(&told[..], [(_, status)] if status == "completed"),
                "{run_id}: {told:?}"
            );
        }
    }

    /// Stops, and removes what was made at the servers.
    pub(crate) async fn end(self) {
        self.stop.send(true).expect("still serving");
        self.serving.await.expect("no panic").expect("served");
        self.listening.abort();
        let (broker, names) = (self.engine.broker(), self.engine.names());
        let Names {
            exchange,
            execution,
            status,
            completion,
            dead_letters,
        } = names;
        for queue in [execution, status, completion, dead_letters] {
            broker.delete_queue(queue).await.expect("deletes");
        }
        broker.delete_exchange(exchange).await.expect("deletes");
        self.engine.close().await;
        self.place.remove().await;
    }
}

/// An engine whose broker says soon that it is away, so that this is seen, too.
async fn engine(place: &Place, options: EngineOptions) -> Engine {
    let store = PostgresStore::connect(PostgresOptions::new(&place.postgres))
        .await
        .expect("PostgreSQL answers");
    let mut rabbitmq = RabbitMqOptions::new(&place.amqp);
    rabbitmq.outage_wait = Duration::from_secs(1);
    let broker = RabbitMq::connect(rabbitmq).await;
    let broker = broker.expect("RabbitMQ answers");
    let parts = EngineParts {
        names: Names::with_prefix(&place.prefix),
        publish: Publish {
            status: StatusMessages::Off,
            completion: true,
        },
        options,
        ..EngineParts::new(Arc::new(store), Arc::new(broker))
    };
    Engine::new(parts).await.expect("declares")
}

/// What completion messages told of each run: their message ids and statuses.
type Ends = BTreeMap<String, BTreeSet<(String, String)>>;

#[derive(Clone, Debug, Default)]
struct Completions(Arc<Mutex<Ends>>);

impl Completions {
    fn lock(&self) -> MutexGuard<'_, Ends> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn collect(self, mut consumer: Consumer) {
        while let Some(delivery) = consumer.next().await {
            let body: Value =
                serde_json::from_slice(&delivery.message.body).expect("a completion is JSON");
            let text = |name: &str| body[name].as_str().unwrap_or_default().to_owned();
            let message_id = delivery.message.message_id.as_deref().unwrap_or_default();
            let mut completions = self.lock();
            let ends = completions.entry(text("execution_id")).or_default();
            ends.insert((message_id.to_owned(), text("status")));
            delivery.receipt.ack();
        }
    }
}

/// Clients that start runs, one after the other, until they are told to stop.
#[derive(Debug)]
pub(crate) struct Load {
    loading: Arc<AtomicBool>,
    clients: Vec<JoinHandle<(Vec<RunId>, Refusals)>>,
}

/// How often starting a run failed before it was accepted.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Refusals {
    /// By the store.
    pub(crate) store: usize,
    /// After the run was recorded: its jobs could not be published yet.
    pub(crate) not_published: usize,
}

impl Load {
    pub(crate) fn start(engine: &Engine, workflow: &Arc<Workflow>, clients: usize) -> Load {
        let loading = Arc::new(AtomicBool::new(true));
        let client = |_| tokio::spawn(client(engine.clone(), workflow.clone(), loading.clone()));
        let clients = (0..clients).map(client).collect();
        Load { loading, clients }
    }

    /// Stops the clients; the runs that were accepted.
    pub(crate) async fn stop(self) -> (BTreeSet<RunId>, Refusals) {
        self.loading.store(false, Ordering::SeqCst);
        let (mut runs, mut refusals) = (BTreeSet::new(), Refusals::default());
        for client in self.clients {
            let (accepted, refused) = client.await.expect("a client does not panic");
            runs.extend(accepted);
            refusals.store += refused.store;
            refusals.not_published += refused.not_published;
        }
        (runs, refusals)
    }
}

async fn client(
    engine: Engine,
    workflow: Arc<Workflow>,
    loading: Arc<AtomicBool>,
) -> (Vec<RunId>, Refusals) {
    let (mut accepted, mut refusals) = (Vec::new(), Refusals::default());
    while loading.load(Ordering::SeqCst) {
        let run_id = engine.clock().new_run_id();
        let request = StartRequest {
            workflow: workflow.clone(),
            input: Json::null(),
            run_id: Some(run_id.clone()),
        };
        // What was refused may have begun nevertheless: it is asked for again under its name.
        let awaited = loop {
            match engine.start_awaited(request.clone()).await {
                Ok(awaited) => break awaited,
                Err(StartError::Store(error)) if error.is_retryable() => refusals.store += 1,
                Err(StartError::NotPublished { .. }) => refusals.not_published += 1,
                Err(error) => panic!("{run_id}: {error}"),
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        };
        accepted.push(run_id);
        drop(tokio::time::timeout(CLIENT_WAIT, awaited.result()).await);
    }
    (accepted, refusals)
}

/// A chain, a fan-out and a join; no node is pure. With these nodes' `uses` and parameters in place of `log`.
pub(crate) fn workflow(id: &str, special: &[(&str, &str, Value)]) -> Arc<Workflow> {
    let node = |id: &str| match special.iter().find(|(node, ..)| *node == id) {
        Some((_, uses, params)) => json!({ "id": id, "uses": uses, "params": params }),
        None => json!({ "id": id, "uses": "log", "params": { "message": id, "level": "debug" } }),
    };
    let edge = |source: &str, target: &str| json!({ "source": source, "target": target });
    let nodes = ["a", "b", "c", "left", "right", "joined"].map(node);
    let definition = json!({
        "id": id,
        "nodes": nodes,
        "edges": [
            edge("a", "b"), edge("b", "c"), edge("c", "left"), edge("c", "right"), edge("left", "joined"),
            edge("right", "joined"),
        ],
    });
    Arc::new(workflow_from_json(&definition, None).expect("the workflow is valid"))
}

/// How many steps a run of [`workflow`] has.
pub(crate) const STEPS: usize = 6;

/// Waits for a condition that another process brings about.
pub(crate) async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
