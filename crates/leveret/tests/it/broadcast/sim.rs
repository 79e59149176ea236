//! Clusters that crash, lose, double and reorder, by seed. Afterwards all is equal, and the history keeps the promises. The same seed gives the
//! same trace, to the microsecond: random numbers and the time are the test's, all runs on one thread, and nothing that is iterated over or
//! selected from has an order of its own.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use leveret::{
    broadcast::{
        WriteLog,
        heart::{Ack, WriteError},
        log::memory::MemoryWriteLog,
    },
    broker::{
        Binding, Broker, BrokerError, Capabilities, ConsumeOptions, Consumer, Publication,
        QueueStats, Topology, memory::MemoryBroker,
    },
    core::broadcast::Outcome,
};

use super::{
    cluster::{Cluster, Trace, number, question, write},
    history::{Call, What, check},
};

/// Clients that write and read at the same time.
const CLIENTS: usize = 3;

/// Calls of each.
const CALLS: usize = 12;

/// Seeds of a usual run; `LEVERET_SIM_SEEDS` says another number.
const SEEDS: u64 = 60;

/// Seeds that are run twice.
const REPEATED: u64 = 10;

/// A broker that loses, doubles and holds back, and that may take nothing.
pub(super) struct Faulty {
    inner: MemoryBroker,
    random: Mutex<fastrand::Rng>,
    held: Mutex<Vec<Publication>>,
    /// In a hundred.
    faults: AtomicU64,
    is_blocked: AtomicBool,
    trace: Trace,
}

impl Faulty {
    pub(super) fn new(seed: u64, trace: Trace) -> Faulty {
        Faulty {
            trace,
            inner: MemoryBroker::new(),
            random: Mutex::new(fastrand::Rng::with_seed(seed)),
            held: Mutex::default(),
            faults: AtomicU64::new(0),
            is_blocked: AtomicBool::new(false),
        }
    }

    pub(super) fn block(&self, is_blocked: bool) {
        self.is_blocked.store(is_blocked, Ordering::Relaxed);
    }

    fn misbehave(&self, percent: u64) {
        self.faults.store(percent, Ordering::Relaxed);
    }

    /// What becomes of a publication: nothing, one, or two of it, and others that were held back.
    fn fate(&self, publication: Publication) -> Vec<Publication> {
        let mut random = self.random.lock().unwrap_or_else(PoisonError::into_inner);
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        if random.u64(..100) >= self.faults.load(Ordering::Relaxed) {
            let mut all = vec![publication];
            all.append(&mut held);
            self.trace.note(format_args!("{} are published", all.len()));
            return all;
        }
        let fate = random.u8(..3);
        self.trace
            .note(format_args!("a publication has fate {fate}"));
        match fate {
            0 => Vec::new(),
            1 => vec![publication.clone(), publication],
            _ => {
                held.push(publication);
                Vec::new()
            }
        }
    }
}

#[async_trait]
impl Broker for Faulty {
    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }

    async fn declare(&self, topology: &Topology) -> Result<(), BrokerError> {
        self.inner.declare(topology).await
    }

    async fn unbind(&self, bindings: &[Binding]) -> Result<(), BrokerError> {
        self.inner.unbind(bindings).await
    }

    async fn publish(&self, batch: Vec<Publication>) -> Vec<Result<(), BrokerError>> {
        let mut results = Vec::new();
        for publication in batch {
            if self.is_blocked.load(Ordering::Relaxed) {
                results.push(Err(BrokerError::NotAccepted {
                    detail: "blocked".to_owned(),
                }));
                continue;
            }
            let mut result = Ok(());
            for one in self.fate(publication) {
                if let [Err(error)] = &self.inner.publish(vec![one]).await[..] {
                    result = Err(error.clone());
                }
            }
            results.push(result);
        }
        results
    }

    async fn consume(&self, options: ConsumeOptions) -> Result<Consumer, BrokerError> {
        self.inner.consume(options).await
    }

    async fn queue_stats(&self, queue: &str) -> Result<QueueStats, BrokerError> {
        self.inner.queue_stats(queue).await
    }

    async fn purge(&self, queue: &str) -> Result<u64, BrokerError> {
        self.inner.purge(queue).await
    }

    async fn delete_queue(&self, queue: &str) -> Result<(), BrokerError> {
        self.inner.delete_queue(queue).await
    }

    async fn delete_exchange(&self, exchange: &str) -> Result<(), BrokerError> {
        self.inner.delete_exchange(exchange).await
    }

    fn is_connected(&self) -> bool {
        self.inner.is_connected()
    }

    async fn close(&self) {
        self.inner.close().await;
    }
}

/// What all clients share: a count of events, and what happened.
struct Recorder {
    trace: Trace,
    events: AtomicU64,
    numbers: AtomicI64,
    calls: Mutex<Vec<Call>>,
}

impl Recorder {
    fn event(&self) -> u64 {
        self.events.fetch_add(1, Ordering::Relaxed)
    }

    fn record(&self, client: usize, began: u64, what: What) {
        let call = Call {
            client,
            began,
            ended: self.event(),
            what,
        };
        self.trace.note(format_args!("{call:?}"));
        let mut calls = self.calls.lock().unwrap_or_else(PoisonError::into_inner);
        calls.push(call);
    }
}

async fn client(book: super::cluster::Book, recorder: Arc<Recorder>, client: usize, seed: u64) {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut last_seen = 0;
    for _ in 0..CALLS {
        tokio::time::sleep(Duration::from_millis(random.u64(..400))).await;
        let Some(heart) = book.running() else {
            continue;
        };
        let name = ["x", "y"][random.usize(..2)];
        let began = recorder.event();
        if random.bool() {
            let number = recorder.numbers.fetch_add(1, Ordering::Relaxed) + 1;
            let verb = if random.u8(..4) == 0 { "put" } else { "add" };
            let ack = [Ack::Accepted, Ack::One, Ack::Quorum, Ack::All][random.usize(..4)];
            let key = format!("key-{number}");
            let request = write(&format!("{verb} {name}"), number, ack, Some(&key));
            let what = match heart.write(request).await {
                Ok(written) => What::Logged {
                    number,
                    seq: written.position.seq,
                    sum: sum(written.outcome),
                },
                Err(WriteError::NotYet { position }) => What::Logged {
                    number,
                    seq: position.seq,
                    sum: None,
                },
                Err(_) => What::Unknown,
            };
            if let What::Logged { seq, .. } = what {
                last_seen = last_seen.max(seq);
            }
            recorder.record(client, began, what);
        } else {
            let is_latest = random.bool();
            let min_seq = if is_latest { 0 } else { last_seen };
            let more = if is_latest {
                r#","level":"latest""#.to_owned()
            } else {
                format!(r#","level":"session","min_seq":{min_seq}"#)
            };
            if let Ok(answer) = heart.read(question(&format!("get {name}"), &more)).await {
                last_seen = last_seen.max(answer.rows.seq);
                let what = What::Read {
                    name: name.to_owned(),
                    value: number(&answer.rows.rows),
                    seq: answer.rows.seq,
                    is_latest,
                    min_seq,
                };
                recorder.record(client, began, what);
            }
        }
    }
}

fn sum(outcome: Option<Outcome>) -> Option<i64> {
    match outcome? {
        Outcome::Done(results) => number(results[0].rows.as_ref()?),
        Outcome::Failed(error) => panic!("{error}"),
    }
}

/// Kills and starts parts of the cluster while clients are at it.
async fn unrest(cluster: &mut Cluster, broker: &Faulty, random: &mut fastrand::Rng) {
    for _ in 0..random.usize(3..8) {
        tokio::time::sleep(Duration::from_millis(random.u64(50..800))).await;
        let id = ["a", "b", "c"][random.usize(..3)];
        match random.u8(..5) {
            0 => {
                cluster.kill_heart();
                tokio::time::sleep(Duration::from_millis(random.u64(..500))).await;
                cluster.start_heart();
            }
            1 | 2 => {
                cluster.kill_node(id);
                tokio::time::sleep(Duration::from_millis(random.u64(..500))).await;
                cluster.start_node(id).await;
            }
            3 => {
                let queue = leveret::broadcast::wire::Names::default().node_queue(id);
                cluster.broker.delete_queue(&queue).await.unwrap();
            }
            _ => {
                broker.block(true);
                tokio::time::sleep(Duration::from_millis(random.u64(..800))).await;
                broker.block(false);
            }
        }
    }
}

async fn run(seed: u64) -> Vec<String> {
    let mut random = fastrand::Rng::with_seed(seed);
    let trace = Trace::new();
    let broker = Arc::new(Faulty::new(seed, trace.clone()));
    let log = Arc::new(MemoryWriteLog::new("c1"));
    let nodes = ["a", "b", "c"];
    let mut cluster = Cluster::over(log.clone(), broker.clone(), &nodes, trace.clone(), seed).await;
    broker.misbehave(random.u64(..40));
    let recorder = Arc::new(Recorder {
        trace: trace.clone(),
        events: AtomicU64::default(),
        numbers: AtomicI64::default(),
        calls: Mutex::default(),
    });
    let clients: Vec<_> = (0..CLIENTS)
        .map(|at| {
            let seed = random.u64(..);
            tokio::spawn(client(cluster.book.clone(), recorder.clone(), at, seed))
        })
        .collect();
    unrest(&mut cluster, &broker, &mut random).await;
    for client in clients {
        client.await.unwrap();
    }
    broker.misbehave(0);
    cluster.until_active().await;
    cluster.until_equal().await;
    let entries = log.after(0, u32::MAX, u64::MAX).await.unwrap();
    let calls = recorder.calls.lock().unwrap().clone();
    check(&entries, &calls);
    let expected = super::history::replay(&entries).pop().unwrap();
    assert_eq!(cluster.models["a"].disk().values, expected);
    assert_eq!(cluster.heart().metrics().divergences.get(), 0);
    cluster.stop().await;
    trace.lines().clone()
}

fn simulate(seed: u64) -> Vec<String> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        .build()
        .unwrap();
    let ran = std::panic::catch_unwind(|| runtime.block_on(run(seed)));
    ran.unwrap_or_else(|_| panic!("seed {seed}"))
}

#[test]
fn keeps_its_promises_whatever_happens() {
    let seeds = std::env::var("LEVERET_SIM_SEEDS");
    let seeds = seeds
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(SEEDS);
    for seed in 0..seeds {
        simulate(seed);
    }
}

#[test]
fn the_same_seed_repeats_its_trace() {
    for seed in 0..REPEATED {
        let (first, second) = (simulate(seed), simulate(seed));
        assert!(first.len() > 50, "something happened");
        let differs = first
            .iter()
            .zip(&second)
            .position(|(one, other)| one != other);
        if let Some(at) = differs {
            let from = at.saturating_sub(5);
            let window = |lines: &[String]| lines[from..(at + 3).min(lines.len())].join("\n");
            panic!(
                "seed {seed}, line {at}:\n{}\n--- or\n{}",
                window(&first),
                window(&second)
            );
        }
        assert_eq!(first.len(), second.len(), "seed {seed}");
    }
}
