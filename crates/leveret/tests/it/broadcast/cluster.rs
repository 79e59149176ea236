//! Hearts and nodes that are started, killed and started again. What is on disk stays: the log, and each node's database.

use std::{
    collections::BTreeMap,
    fmt,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use leveret::{
    broadcast::{
        Applied, Contents, Fetched, HeartLink, Joined, LinkError, NewWrite, NodeLink, NodeState,
        Query, ReadError, Registration, Rows, Snapshot, WriteLog,
        heart::{
            Ack, Answer, Heart, HeartOptions, HeartParts, HeartState, QuestionError, ReadRequest,
            WriteError, WriteRequest, Written,
        },
        log::memory::MemoryWriteLog,
        node::{Node, NodeEnd, NodeError, NodeOptions, NodeParts},
    },
    broker::Broker,
    core::{
        broadcast::{Position, Statement, Value},
        ids::RunId,
        time::Timestamp,
    },
    runtime::Clock,
};
use tokio::{
    sync::watch,
    task::JoinHandle,
    time::{Instant, timeout},
};

use super::model::Model;

/// The longest that anything takes here; the clock is paused, so that only what never happens takes it.
const PATIENCE: Duration = Duration::from_secs(300);

/// Who answers to which address now.
#[derive(Clone, Default)]
pub(super) struct Book(Arc<Mutex<Entries>>);

#[derive(Default)]
struct Entries {
    heart: Option<Heart>,
    nodes: BTreeMap<String, Arc<dyn NodeLink>>,
}

impl Book {
    fn entries(&self) -> MutexGuard<'_, Entries> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The heart, if one runs.
    pub(super) fn running(&self) -> Option<Heart> {
        self.entries().heart.clone()
    }

    fn heart(&self) -> Result<Heart, LinkError> {
        self.entries().heart.clone().ok_or_else(away)
    }

    fn node(&self, id: &str) -> Result<Arc<dyn NodeLink>, LinkError> {
        self.entries().nodes.get(id).cloned().ok_or_else(away)
    }
}

fn away() -> LinkError {
    LinkError::Unavailable {
        detail: "nobody is there".to_owned(),
    }
}

#[async_trait]
impl HeartLink for Book {
    async fn register(&self, registration: Registration) -> Result<Joined, LinkError> {
        self.heart()?.register(registration).await
    }

    async fn fetch(&self, after: u64) -> Result<Fetched, LinkError> {
        self.heart()?.fetch(after).await
    }

    async fn snapshot(&self, node_id: &str, into: PathBuf) -> Result<Snapshot, LinkError> {
        HeartLink::snapshot(&self.heart()?, node_id, into).await
    }
}

struct Address(Book, String);

#[async_trait]
impl NodeLink for Address {
    async fn query(&self, query: Query) -> Result<Result<Rows, ReadError>, LinkError> {
        self.0.node(&self.1)?.query(query).await
    }

    async fn contents(&self, at: u64, of: Contents) -> Result<(Position, [u8; 32]), LinkError> {
        self.0.node(&self.1)?.contents(at, of).await
    }

    async fn snapshot(&self, into: PathBuf) -> Result<Snapshot, LinkError> {
        self.0.node(&self.1)?.snapshot(into).await
    }

    async fn outcomes(&self, after: u64, limit: u32) -> Result<Vec<Applied>, LinkError> {
        self.0.node(&self.1)?.outcomes(after, limit).await
    }

    async fn nudge(&self) -> Result<(), LinkError> {
        self.0.node(&self.1)?.nudge().await
    }
}

/// A time of day that goes with tokio's clock, which is paused, and random numbers of a seed.
#[derive(Clone, Debug)]
struct TestClock {
    began: Instant,
    random: Arc<Mutex<fastrand::Rng>>,
}

impl TestClock {
    fn new(seed: u64) -> TestClock {
        TestClock {
            began: Instant::now(),
            random: Arc::new(Mutex::new(fastrand::Rng::with_seed(seed))),
        }
    }

    fn random(&self) -> MutexGuard<'_, fastrand::Rng> {
        self.random.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Clock for TestClock {
    fn now(&self) -> Timestamp {
        Timestamp(1_795_141_463_755) + self.began.elapsed()
    }

    fn random(&self) -> f64 {
        self.random().f64()
    }

    fn new_run_id(&self) -> RunId {
        RunId::new(format!("run-{}", self.random().u64(..))).unwrap()
    }
}

/// What happened, with the time of each event: the same for the same seed.
#[derive(Clone)]
pub(super) struct Trace {
    began: Instant,
    lines: Arc<Mutex<Vec<String>>>,
}

impl Trace {
    pub(super) fn new() -> Trace {
        Trace {
            began: Instant::now(),
            lines: Arc::default(),
        }
    }

    pub(super) fn note(&self, what: fmt::Arguments<'_>) {
        let line = format!("{:>9} {what}", self.began.elapsed().as_micros());
        self.lines().push(line);
    }

    pub(super) fn lines(&self) -> MutexGuard<'_, Vec<String>> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Running<T> {
    stop: watch::Sender<bool>,
    task: JoinHandle<T>,
}

pub(super) struct Cluster {
    pub(super) log: Arc<dyn WriteLog>,
    pub(super) broker: Arc<dyn Broker>,
    pub(super) book: Book,
    pub(super) models: BTreeMap<String, Model>,
    pub(super) trace: Trace,
    clock: TestClock,
    directory: PathBuf,
    heart: Option<Running<()>>,
    nodes: BTreeMap<String, Running<Result<NodeEnd, NodeError>>>,
}

impl Cluster {
    /// A heart, and these nodes, which serve.
    pub(super) async fn start(broker: Arc<dyn Broker>, ids: &[&str]) -> Cluster {
        let log = Arc::new(MemoryWriteLog::new("c1"));
        Cluster::over(log, broker, ids, Trace::new(), 0).await
    }

    /// The same over a log, with what happens noted and random numbers of this seed.
    pub(super) async fn over(
        log: Arc<dyn WriteLog>,
        broker: Arc<dyn Broker>,
        ids: &[&str],
        trace: Trace,
        seed: u64,
    ) -> Cluster {
        let name = format!("leveret-cluster-{}", uuid::Uuid::now_v7());
        let directory = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&directory).unwrap();
        let mut cluster = Cluster {
            log,
            broker,
            book: Book::default(),
            models: BTreeMap::new(),
            trace,
            clock: TestClock::new(seed),
            directory,
            heart: None,
            nodes: BTreeMap::new(),
        };
        cluster.start_heart();
        for id in ids {
            cluster.start_node(id).await;
        }
        for id in ids {
            cluster.until_state(id, NodeState::Live).await;
        }
        cluster
    }

    pub(super) fn heart(&self) -> Heart {
        self.book.heart().unwrap()
    }

    pub(super) fn options(&self, owner: &str) -> HeartOptions {
        HeartOptions::new(owner, &self.directory)
    }

    pub(super) fn parts(&self) -> HeartParts {
        let book = self.book.clone();
        HeartParts {
            log: self.log.clone(),
            broker: self.broker.clone(),
            links: Arc::new(move |advertise, _database_id| {
                Ok(Arc::new(Address(book.clone(), advertise.to_owned())) as Arc<dyn NodeLink>)
            }),
            clock: Arc::new(self.clock.clone()),
        }
    }

    pub(super) fn start_heart(&mut self) {
        self.start_heart_with(self.options("heart"));
    }

    pub(super) fn start_heart_with(&mut self, options: HeartOptions) {
        self.trace.note(format_args!("a heart is started"));
        let heart = Heart::new(self.parts(), options);
        let (stop, stopped) = watch::channel(false);
        self.book.entries().heart = Some(heart.clone());
        let task = tokio::spawn(async move { heart.serve(stopped).await.unwrap() });
        self.heart = Some(Running { stop, task });
    }

    /// Another heart beside the one that runs, and in its place for whoever asks; the first one's task.
    pub(super) fn start_beside(&mut self, owner: &str) -> JoinHandle<()> {
        let first = self.heart.take().unwrap();
        self.start_heart_with(self.options(owner));
        // Without this the first one would take its sender's end for an order to stop.
        std::mem::forget(first.stop);
        first.task
    }

    /// Asks it to stop, and waits for that.
    pub(super) async fn stop_heart(&mut self) {
        let running = self.heart.take().unwrap();
        running.stop.send_replace(true);
        running.task.await.unwrap();
        self.book.entries().heart = None;
    }

    /// A log with what is in this cluster's now.
    pub(super) async fn copy_of_log(&self) -> Arc<dyn WriteLog> {
        let copy = MemoryWriteLog::new(&self.log.cluster().await.unwrap());
        let (epoch, _) = copy.open_epoch("copy", Timestamp(0)).await.unwrap();
        let entries = self.log.after(0, u32::MAX, u64::MAX).await.unwrap();
        let writes = entries.into_iter().map(|entry| NewWrite {
            write: entry.write,
            key: None,
        });
        let appended = copy.append(epoch, writes.collect(), Timestamp(0)).await;
        appended.unwrap();
        for (name, value) in self.log.facts().await.unwrap() {
            copy.put_fact(epoch, &name, &value).await.unwrap();
        }
        copy.release(epoch).await.unwrap();
        Arc::new(copy)
    }

    /// It ends in the middle of whatever it does.
    pub(super) fn kill_heart(&mut self) {
        self.trace.note(format_args!("the heart is killed"));
        self.book.entries().heart = None;
        if let Some(running) = self.heart.take() {
            running.task.abort();
        }
    }

    pub(super) async fn start_node(&mut self, id: &str) {
        self.trace.note(format_args!("{id} is started"));
        let model = self.models.entry(id.to_owned());
        let model = model
            .or_insert_with(|| Model::new(id, self.trace.clone()))
            .clone();
        let parts = NodeParts {
            replica: Arc::new(model),
            broker: self.broker.clone(),
            heart: Arc::new(self.book.clone()),
            clock: Arc::new(self.clock.clone()),
        };
        let options = NodeOptions {
            advertise: id.to_owned(),
            ..NodeOptions::new(id, &self.directory)
        };
        let node = Node::open(parts, options).await.unwrap();
        self.book.entries().nodes.insert(id.to_owned(), node.link());
        let (stop, stopped) = watch::channel(false);
        let task = tokio::spawn(async move { node.run(stopped).await });
        self.nodes.insert(id.to_owned(), Running { stop, task });
    }

    pub(super) fn kill_node(&mut self, id: &str) {
        self.trace.note(format_args!("{id} is killed"));
        self.book.entries().nodes.remove(id);
        if let Some(running) = self.nodes.remove(id) {
            running.task.abort();
        }
    }

    /// Waits for a node's own end.
    pub(super) async fn ended(&mut self, id: &str) -> Result<NodeEnd, NodeError> {
        let running = self.nodes.remove(id).unwrap();
        timeout(PATIENCE, running.task).await.unwrap().unwrap()
    }

    pub(super) async fn until(&self, what: &str, is_so: impl AsyncFn(&Heart) -> bool) {
        let waiting = async {
            loop {
                if let Ok(heart) = self.book.heart()
                    && is_so(&heart).await
                {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        if timeout(PATIENCE, waiting).await.is_err() {
            let status = self.heart().status().await;
            panic!("it never happens: {what}: {status:#?}");
        }
    }

    pub(super) async fn until_state(&self, id: &str, state: NodeState) {
        self.until(&format!("{id} is {}", state.as_str()), async |heart| {
            let status = heart.status().await;
            status
                .nodes
                .iter()
                .any(|node| node.node_id == id && node.state == state)
        })
        .await;
    }

    /// Until all nodes that run have applied everything.
    pub(super) async fn until_equal(&self) {
        self.until("all is applied", async |heart| {
            let last = heart.status().await.last_seq;
            let at = |id: &String| self.models[id].disk().position.seq;
            self.nodes.keys().all(|id| at(id) == last)
        })
        .await;
        let running = self
            .nodes
            .keys()
            .map(|id| self.models[id].disk().values.clone());
        let contents: Vec<_> = running.collect();
        assert!(
            contents.windows(2).all(|pair| pair[0] == pair[1]),
            "{contents:?}"
        );
    }

    pub(super) async fn until_active(&self) {
        self.until("the heart is active", async |heart| {
            heart.status().await.state == HeartState::Active
        })
        .await;
    }

    pub(super) async fn write(
        &self,
        sql: &str,
        number: i64,
        ack: Ack,
    ) -> Result<Written, WriteError> {
        self.heart().write(write(sql, number, ack, None)).await
    }

    pub(super) async fn read(&self, sql: &str, more: &str) -> Result<Answer, QuestionError> {
        self.heart().read(question(sql, more)).await
    }

    /// Ends all, which must succeed.
    pub(super) async fn stop(mut self) {
        for running in std::mem::take(&mut self.nodes).into_values() {
            running.stop.send_replace(true);
            assert_eq!(running.task.await.unwrap().unwrap(), NodeEnd::Stopped);
        }
        if let Some(running) = self.heart.take() {
            running.stop.send_replace(true);
            running.task.await.unwrap();
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        drop(std::fs::remove_dir_all(&self.directory));
    }
}

pub(super) fn write(sql: &str, number: i64, ack: Ack, key: Option<&str>) -> WriteRequest {
    WriteRequest {
        statements: vec![Statement {
            sql: sql.to_owned(),
            args: vec![Value::Integer(number)],
        }],
        ack,
        timeout: Duration::from_secs(5),
        key: key.map(Arc::from),
    }
}

pub(super) fn question(sql: &str, more: &str) -> ReadRequest {
    let body = format!(r#"{{"sql":"{sql}"{more}}}"#);
    ReadRequest::parse(body.as_bytes()).unwrap()
}

/// The number that a question or a write gives.
pub(super) fn number(rows: &[Vec<Value>]) -> Option<i64> {
    match rows[0][0] {
        Value::Integer(number) => Some(number),
        _ => None,
    }
}
