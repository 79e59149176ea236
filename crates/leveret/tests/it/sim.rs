//! Simulation: two workers run a handful of workflows over a store and a broker that delay, fail, lose answers and jobs, duplicate and crash, by a
//! seed.
//!
//! Checked for each seed: every accepted run ends exactly once and as it would without faults, or cancelled; each step is recorded once; every
//! run has its completion; nothing is dead-lettered, nothing is left in the queue. The same seed gives the same trace.

mod chaos;
// Workflows by a seed, and what they come to.
mod parts;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex},
    time::Duration,
};

use leveret::{
    broker::{
        Broker, ConsumeOptions,
        memory::MemoryBroker,
        publish::{self, Persist},
    },
    core::{ids::RunId, json::Json, parse::workflow_from_json, workflow::Workflow},
    runtime::{
        Engine, EngineOptions, EngineParts, Publish, Roles, StartRequest, StatusMessages,
        WorkerOptions,
    },
    store::{RunStatus, Store, memory::MemoryStore},
};
use serde_json::{Value, json};
use tokio::{sync::watch, time::Instant};

use self::chaos::{ChaosBroker, ChaosStore, Life, LosingBroker, World};
use crate::harness::{PausedClock, blueprint, registry, summary};

/// Workflows that between them have everything: chains, joins, routes, failures, fallbacks, retries, sleeps, loops, batches. What each comes to.
const WORKFLOWS: &[(&str, &str)] = &[
    ("A>B B>C C>D D>E; A = const 7", "completed 7 | A B C D E |"),
    (
        "S>A S>B A>J B>J J>K; A = const 1; B = const 2; J = const 3",
        "completed 3 | A B J K S |",
    ),
    (
        "S>A S>B S>C A>J B>J C>J; J = const 1; J.join = any",
        "completed 1 | A B C J S |",
    ),
    (
        "A>B[x] A>C[y] B>D C>D; A = act x; D = const 4",
        "completed 4 | A B D | C:skipped",
    ),
    (
        "A>B B>C; B = flaky 2; B.config = {\"maxRetries\":4,\"retryDelay\":300}; C = echo",
        "completed 3 | A B*3 C |",
    ),
    (
        "A>B B>C; B = sleep; B.params = {\"duration\":\"2s\"}; A = const 5",
        "completed 5 | A B C |",
    ),
    (
        "A>C; A = fail boom; A.config = {\"fallback\":\"F\"}; F = const 8",
        "completed 8 | C F | A:failed",
    ),
    (
        "I>L L>B[continue] B>L L>E[break]; L = loop-controller; L.params = {\"condition\":\"input < 8\"}; I = const 1; B = double",
        "completed 8 | B/loop#1 B/loop#2 B/loop#3 E I L L/loop#1 L/loop#2 L/loop#3 L/loop#4 |",
    ),
    (
        "I>L L>A[continue] L>B[continue] A>J B>J B>D J>L L>E[break]; L = loop-controller; L.params = {\"condition\":\"input < 4\"}; I = const 1; A = double; B = flaky 1; B.config = {\"maxRetries\":2,\"retryDelay\":200}; J.inputs = \"A\"; E.inputs = \"A\"",
        "completed 4 | A/loop#1 A/loop#2 B/loop#1*2 B/loop#2*2 D/loop#1 D/loop#2 E I J/loop#1 J/loop#2 L L/loop#1 L/loop#2 L/loop#3 |",
    ),
    (
        "I>S S>B B>C C>G G>E; I = const [1,2,3]; S = batch-scatter; S.params = {\"gatherNodeId\":\"G\"}; G = batch-gather; B = flaky 1; B.config = {\"maxRetries\":2,\"retryDelay\":200}; C = double; C.inputs = \"{{ item }}\"",
        "completed [2,4,6] | B/each[0]*2 B/each[1]*2 B/each[2]*2 C/each[0] C/each[1] C/each[2] E G I S |",
    ),
    (
        "I>S S>B B>G B>D G>E; I = const [1,2,3,4]; S = batch-scatter; S.params = {\"gatherNodeId\":\"G\",\"concurrency\":1}; G = batch-gather; B = double; D = echo",
        "completed [2,4,6,8] | B/each[0] B/each[1] B/each[2] B/each[3] D/each[0] D/each[1] D/each[2] D/each[3] E G I S |",
    ),
    (
        "I>S S>T T>B B>H H>G; I = const [[1,2,3],[],[4]]; S = batch-scatter; S.params = {\"gatherNodeId\":\"G\",\"concurrency\":2}; G = batch-gather; T = batch-scatter; T.params = {\"gatherNodeId\":\"H\",\"chunkSize\":2}; H = batch-gather; B = double",
        "completed [[2,4,6],[],[8]] | B/each[0]/each[0] B/each[0]/each[1] B/each[0]/each[2] B/each[2]/each[0] G H/each[0] H/each[1] H/each[2] I S T/each[0] T/each[1] T/each[2] |",
    ),
    (
        "I>S S>A A>B{item == 2} A>G{item != 2} B>G; I = const [1,2]; S = batch-scatter; S.params = {\"gatherNodeId\":\"G\",\"on_error\":\"collect\"}; G = batch-gather; A = sleep; A.params = {\"duration\":\"1s\"}; B = fail boom",
        "completed [1,{\"error\":{\"code\":\"node_failed\",\"message\":\"boom\",\"node_id\":\"B\"}}] | A/each[0] A/each[1] G I S | B/each[0]:skipped B/each[1]:failed",
    ),
    (
        "S>A S>B B>B2 A>J B2>J; A = fail boom",
        "failed boom | B B2 S | A:failed J:cancelled",
    ),
];

/// What is shared by all lives of all processes.
struct Simulation {
    store: Arc<dyn Store>,
    broker: Arc<dyn Broker>,
    world: Arc<Mutex<World>>,
    begun: Instant,
    quiet: Duration,
}

impl Simulation {
    async fn engine(&self, name: &str, life: Option<&Life>) -> Engine {
        let broker = Arc::new(LosingBroker {
            inner: self.broker.clone(),
            world: self.world.clone(),
        });
        let (store, broker): (Arc<dyn Store>, Arc<dyn Broker>) = match life {
            None => (self.store.clone(), broker),
            Some(life) => (
                Arc::new(ChaosStore {
                    inner: self.store.clone(),
                    life: life.clone(),
                }),
                Arc::new(ChaosBroker {
                    inner: broker,
                    life: life.clone(),
                }),
            ),
        };
        Engine::new(EngineParts {
            registry: registry(),
            publish: Publish {
                status: StatusMessages::Off,
                completion: true,
            },
            clock: Arc::new(PausedClock::new(name, self.begun)),
            options: EngineOptions {
                quiet: self.quiet,
                ..EngineOptions::default()
            },
            ..EngineParts::new(store, broker)
        })
        .await
        .expect("declares")
    }

    /// A client that cancels a run after a while; it may crash in the middle, and then nobody asks again.
    async fn cancel(self: Arc<Simulation>, run_id: RunId, after: Duration) {
        let life = Life::new("canceller".to_owned(), self.world.clone());
        let engine = self.engine("canceller", Some(&life)).await;
        tokio::time::sleep(after).await;
        tokio::select! {
            biased;
            () = life.crashed() => {}
            cancelled = engine.cancel(&run_id) => drop(cancelled),
        }
    }

    /// A process: lives until it crashes, and then again.
    async fn process(self: Arc<Simulation>, name: &'static str) {
        for n in 0.. {
            let life = Life::new(format!("{name}{n}"), self.world.clone());
            let engine = self.engine(name, Some(&life)).await;
            let (_stop, stopped) = watch::channel(false);
            let roles = Roles {
                worker: Some(WorkerOptions {
                    concurrency: 4,
                    prefetch: 6,
                    ..WorkerOptions::default()
                }),
                ..Roles::all()
            };
            tokio::select! {
                biased;
                () = life.crashed() => {}
                served = engine.serve(roles, stopped) => panic!("the process stopped: {served:?}"),
            }
        }
    }
}

/// Runs a seed; returns its trace.
fn simulate(seed: u64) -> Vec<String> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    runtime.block_on(simulate_async(seed))
}

async fn simulate_async(seed: u64) -> Vec<String> {
    let world = World::new(seed);
    let simulation = Arc::new(Simulation {
        store: Arc::new(MemoryStore::new()),
        broker: Arc::new(MemoryBroker::new()),
        world: world.clone(),
        begun: Instant::now(),
        // Every other world does without the reconciler's help: deliveries alone must bring every run to its end.
        quiet: Duration::from_secs(if seed.is_multiple_of(2) { 20 } else { 1 << 30 }),
    });
    let client = simulation.engine("client", None).await;
    let mut completions = simulation
        .broker
        .consume(ConsumeOptions {
            prefetch: 10_000,
            ..ConsumeOptions::queue(client.names().completion.clone())
        })
        .await
        .expect("consumes");
    let mut expected: BTreeMap<RunId, Expect> = BTreeMap::new();
    let count = 3 + world.lock().unwrap().below(6);
    for n in 0..count {
        let (definition, outcome) = any_workflow(seed, &mut world.lock().unwrap());
        let run_id = RunId::new(format!("run-{n}")).expect("an id");
        begin(&client, n, &run_id, definition).await;
        expected.insert(run_id, outcome);
    }
    let processes = [
        tokio::spawn(simulation.clone().process("left")),
        tokio::spawn(simulation.clone().process("right")),
    ];
    // In every third world somebody cancels a run, perhaps before it began or after its end.
    let unwanted = seed.is_multiple_of(3).then(|| {
        let mut world = world.lock().unwrap();
        let n = world.below(count);
        let after = Duration::from_millis(u64::from(world.below(400)));
        (RunId::new(format!("run-{n}")).expect("an id"), after)
    });
    if let Some((run_id, after)) = &unwanted {
        tokio::spawn(simulation.clone().cancel(run_id.clone(), *after));
    }
    for (run_id, outcome) in &expected {
        let ended =
            tokio::time::timeout(Duration::from_secs(3600), until_ended(&client, run_id)).await;
        let result = ended.unwrap_or_else(|_| panic!("seed {seed}: run {run_id} does not end"));
        let cancelled = unwanted.as_ref().is_some_and(|(id, _)| id == run_id)
            && result.status == RunStatus::Cancelled;
        match outcome {
            _ if cancelled => {}
            Expect::Summary(text) => {
                assert_eq!(summary(&result), *text, "seed {seed}: run {run_id}");
            }
            Expect::Output(output) => {
                let came_to = (result.output.value(), &result.error);
                assert_eq!(came_to, (output, &None), "seed {seed}: run {run_id}");
            }
        }
    }
    // What is still on its way comes to its end: copies of jobs, timers that were claimed before a crash.
    tokio::time::sleep(Duration::from_secs(120)).await;
    let stats = client
        .broker()
        .queue_stats(&client.names().execution)
        .await
        .expect("counts");
    assert_eq!(stats.ready, 0, "seed {seed}: jobs are left");
    let dead = client
        .broker()
        .queue_stats(&client.names().dead_letters)
        .await
        .expect("counts");
    assert_eq!(dead.ready, 0, "seed {seed}: jobs were dead-lettered");
    processes.iter().for_each(tokio::task::JoinHandle::abort);

    let mut completed = BTreeSet::new();
    while let Some(delivery) = completions.try_next() {
        let body: Value = serde_json::from_slice(&delivery.message.body).expect("JSON");
        completed.insert(body["execution_id"].as_str().unwrap_or_default().to_owned());
        delivery.receipt.ack();
    }
    let runs: BTreeSet<String> = expected.keys().map(ToString::to_string).collect();
    let world = world.lock().unwrap();
    assert_eq!(
        completed,
        runs,
        "seed {seed}: completions\n{}",
        world.trace.join("\n")
    );
    let ended: BTreeSet<&RunId> = world.ended.iter().collect();
    assert_eq!(
        (world.ended.len(), ended.len()),
        (expected.len(), expected.len()),
        "seed {seed}: a run ends once"
    );
    let recorded: BTreeSet<&String> = world.recorded.iter().collect();
    assert_eq!(
        world.recorded.len(),
        recorded.len(),
        "seed {seed}: a step is recorded once"
    );
    world.trace.clone()
}

/// What a run comes to.
enum Expect {
    /// As [`summary`] tells it.
    Summary(&'static str),
    Output(Value),
}

/// One of the [`WORKFLOWS`]; in every fifth world one put together of parts.
fn any_workflow(seed: u64, world: &mut World) -> (Value, Expect) {
    if seed % 5 == 4 {
        let (definition, output) = parts::workflow(world);
        return (definition, Expect::Output(output));
    }
    let (text, outcome) = WORKFLOWS[world.below(WORKFLOWS.len() as u32) as usize];
    (blueprint(text), Expect::Summary(outcome))
}

/// Starts a run: every other one as a foreign client does, with two copies of the first message.
async fn begin(client: &Engine, n: u32, run_id: &RunId, mut definition: Value) {
    definition["id"] = json!(format!("workflow-{n}"));
    if n.is_multiple_of(2) {
        let workflow: Arc<Workflow> =
            Arc::new(workflow_from_json(&definition, None).expect("valid"));
        let request = StartRequest {
            workflow,
            input: Json::null(),
            run_id: Some(run_id.clone()),
        };
        client.start(request).await.expect("starts");
        return;
    }
    let body = json!({
        "workflow_id": definition["id"], "execution_id": run_id, "node_id": definition["nodes"][0]["id"],
        "workflow": definition,
    });
    let message = leveret::broker::Message::json(serde_json::to_vec(&body).expect("prints"));
    let publication =
        leveret::broker::Publication::to_queue(client.names().execution.clone(), message);
    let twice = vec![publication.clone(), publication];
    let topology = leveret::broker::Topology::default();
    let published = publish::all(&**client.broker(), twice, &Persist::new(&topology)).await;
    published.expect("publishes");
}

async fn until_ended(client: &Engine, run_id: &RunId) -> leveret::runtime::RunResult {
    loop {
        if let Some(result) = client.wait(run_id).await.expect("the store answers") {
            return result;
        }
        // The message of a foreign client has not begun the run yet.
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[test]
fn runs_end_as_they_should_whatever_goes_wrong() {
    let seeds = std::env::var("LEVERET_SIM_SEEDS")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(400);
    for seed in 0..seeds {
        simulate(seed);
    }
}

#[test]
fn the_same_seed_repeats_its_trace() {
    for seed in [1, 7, 42] {
        let (first, second) = (simulate(seed), simulate(seed));
        assert!(first.len() > 50, "something happened");
        assert_eq!(first, second, "seed {seed}");
    }
}
