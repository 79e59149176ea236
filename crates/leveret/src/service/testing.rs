//! A test kit: services in one process, on a broker and documents in memory, in a time that passes only when nothing is left to do.
//!
//! ```ignore
//! world(7, async |world| {
//!     let accounts = world.service("accounts", &kinds, accounts).await;
//!     world.twice();
//!     world.deliver("pay_in", json!({ "account": "ada", "amount": 40 })).await;
//!     accounts.crash_at(Point::ServiceAfterCommit);
//!     world.finish().await;
//!     assert_eq!(accounts.state::<Account>("account", "ada").await.unwrap().balance, 40);
//! });
//! ```
//!
//! - **Deliver twice**: [`World::twice`], or more copies. **Reorder**: [`World::shuffled`]. **Crash here**: [`TestedService::crash_at`], with the
//!   [points](crate::crash::Point) of services. **All of it by chance**: [`World::crashing`], with the others.
//! - **A crash is a process that ends**: its tasks are gone, what it calls in its last moment never answers, its deliveries return to their
//!   queues, marked redelivered. It is started again at once, and finds what was committed.
//! - **The seed decides** who comes first and who crashes; when a test fails, it is printed with the last events.
//! - **No test waits**: time is tokio's, paused; it moves on when every task waits for it. Services in a world may therefore wait for nothing
//!   outside of it: no socket, no file, no blocking thread. A gateway is an [`Effect`](super::Effect) of the test's own.
//!
//! The adapters keep the promises of their seams, and what stands between them and the services keeps them too: both pass the conformance suites.

mod broker;
mod documents;
mod faults;
mod life;
mod tested;
mod trace;

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use leveret_core::time::Timestamp;
use serde_json::Value;
use tokio::time::{Instant, sleep};

pub use self::tested::{Parts, TestedService, Watched};
use self::{faults::Faults, tested::Instance, trace::Trace};
use super::{
    desk::Now,
    documents::{Kind, memory::MemoryDocuments},
};
use crate::broker::{
    Binding, Broker, ConsumeOptions, Message, Publication, Queue, Topology, dead_letter_queue_name,
    memory::MemoryBroker,
};

/// When a world's time begins: 2026-01-01T00:00:00Z.
const BEGINNING: Timestamp = Timestamp(1_767_225_600_000);
/// A world in which nothing happens for so long is at rest. Longer than a shuffled delivery is held back, and than a message that a crash left
/// waits for the ack of what it stands for.
const REST: Duration = Duration::from_millis(150);
/// A world that is not at rest after so many looks never will be.
const LOOKS_MAX: u32 = 100_000;
/// How long [`World::finish`] goes on, in the world's time.
const FINISH_MAX: Duration = Duration::from_secs(3600);
/// Between two looks of [`World::finish`] when something waits for its time.
const FINISH_STEP: Duration = Duration::from_secs(1);

/// Runs a test in a world of its own, and in a runtime of its own: call it from a plain `#[test]`.
///
/// The same seed makes the same choices. When the test panics, the seed and the last events are printed.
pub fn world<T>(seed: u64, test: impl AsyncFnOnce(World) -> T) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime without I/O starts");
    runtime.block_on(async {
        let world = World::new(seed);
        let _told = world.0.clone().told_if_it_fails();
        test(world).await
    })
}

/// Services, what lies between them, and what befalls them. Clones share it.
#[derive(Clone)]
pub struct World(Arc<Shared>);

/// What the parts of a world share.
struct Shared {
    seed: u64,
    broker: MemoryBroker,
    started: Instant,
    faults: Mutex<Faults>,
    trace: Mutex<Trace>,
    instances: Mutex<Vec<Arc<Instance>>>,
    /// Why a service cannot run: the test's mistake.
    broken: Mutex<Option<String>>,
    /// Numbers what the test delivers.
    delivered: Mutex<u64>,
}

impl fmt::Debug for World {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("World")
            .field("seed", &self.0.seed)
            .finish_non_exhaustive()
    }
}

impl World {
    fn new(seed: u64) -> World {
        World(Arc::new(Shared {
            seed,
            broker: MemoryBroker::new(),
            started: Instant::now(),
            faults: Mutex::new(Faults::new(seed)),
            trace: Mutex::default(),
            instances: Mutex::default(),
            broken: Mutex::default(),
            delivered: Mutex::default(),
        }))
    }

    /// Starts a service on documents of its own, of these kinds. `make` makes it from its [`Parts`], for each of its lives anew.
    ///
    /// # Panics
    /// When the kinds cannot be, or the service cannot run.
    pub async fn service(
        &self,
        name: &str,
        kinds: &[Kind],
        make: impl Fn(Parts) -> super::Service + Send + Sync + 'static,
    ) -> TestedService {
        let documents = MemoryDocuments::new(kinds).expect("kinds can be declared");
        self.start(name, documents, Arc::new(make)).await
    }

    /// Starts one more process of a service, on the same documents.
    pub async fn another(&self, service: &TestedService) -> TestedService {
        let Instance {
            name,
            documents,
            make,
            ..
        } = &*service.0;
        self.start(name, documents.clone(), make.clone()).await
    }

    async fn start(
        &self,
        name: &str,
        documents: MemoryDocuments,
        make: tested::Make,
    ) -> TestedService {
        let instance = Instance::start(self.0.clone(), name, documents, make);
        self.0.instances().push(instance.clone());
        self.settle().await;
        TestedService(instance)
    }

    /// From now on every delivery comes twice, both at once; one that comes again, after a crash or for a retry, comes once.
    pub fn twice(&self) {
        self.copies(2);
    }

    /// The same, so often.
    pub fn copies(&self, copies: u32) {
        self.0.faults().copies = copies.max(1);
    }

    /// From now on deliveries come in any order, within a queue and across queues.
    pub fn shuffled(&self) {
        self.0.faults().shuffled = true;
    }

    /// From now on one in so many times that a service comes to a [point](crate::crash::Point) it crashes there, until so many have.
    ///
    /// A message that has five crashes while it is with its handler is a dead letter (`deaths_max`); with four crashes there is none.
    pub fn crashing(&self, one_in: u32, crashes_max: u32) {
        let faults = &mut *self.0.faults();
        faults.crash_one_in = one_in.max(1);
        faults.crashes_left = crashes_max;
    }

    /// From now on nothing befalls the services.
    pub fn calm(&self) {
        self.0.faults().calm();
    }

    /// Puts a JSON message into a queue, with a `message_id` of its own.
    ///
    /// # Panics
    /// When there is no such queue.
    pub async fn deliver(&self, queue: &str, body: Value) {
        let message = Message::json(body.to_string());
        self.publish(Publication::to_queue(queue, message)).await;
    }

    /// Publishes a message; one without a `message_id` gets one.
    ///
    /// # Panics
    /// When no queue takes it.
    pub async fn publish(&self, mut publication: Publication) {
        let number = {
            let mut delivered = self
                .0
                .delivered
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            *delivered += 1;
            *delivered
        };
        let own = || format!("delivered-{number}").into();
        publication.message.message_id.get_or_insert_with(own);
        let results = self.0.broker.publish(vec![publication]).await;
        for result in results {
            result.expect("a queue takes it");
        }
    }

    /// Declares a queue that no service reads, to look into by [`take`](Self::take): with a routing key, it takes what is published so to an
    /// exchange.
    ///
    /// # Panics
    /// When there is no such exchange.
    pub async fn listen(&self, queue: &str, exchange: &str, routing_key: &str) {
        let binding = Binding {
            queue: queue.into(),
            exchange: exchange.into(),
            routing_key: routing_key.into(),
        };
        let topology = Topology {
            queues: vec![Queue::plain(queue)],
            bindings: vec![binding],
            ..Topology::default()
        };
        let declared = self.0.broker.declare(&topology).await;
        declared.expect("the exchange is there");
    }

    /// Takes what lies in a queue that no service reads, oldest first; nothing where there is no queue.
    pub async fn take(&self, queue: &str) -> Vec<Message> {
        let options = ConsumeOptions {
            prefetch: u16::MAX,
            ..ConsumeOptions::queue(queue)
        };
        let Ok(mut consumer) = self.0.broker.consume(options).await else {
            return Vec::new();
        };
        let mut taken = Vec::new();
        while let Some(delivery) = consumer.try_next() {
            taken.push(delivery.message);
            delivery.receipt.ack();
        }
        taken
    }

    /// Takes the dead letters of a queue.
    pub async fn dead_letters(&self, queue: &str) -> Vec<Message> {
        self.take(&dead_letter_queue_name(queue)).await
    }

    /// The broker without what stands between it and the services: for clients.
    pub fn broker(&self) -> Arc<dyn Broker> {
        Arc::new(self.0.broker.clone())
    }

    /// What time it is.
    pub fn now(&self) -> Timestamp {
        self.0.now()
    }

    /// A clock of this world.
    pub fn clock(&self) -> Now {
        let shared = self.0.clone();
        Arc::new(move || shared.now())
    }

    /// Lets happen what can happen now. What waits for its time goes on waiting: retries, deadlines, leases of a process that crashed.
    ///
    /// # Panics
    /// When there is no end to it, or a service cannot run.
    pub async fn settle(&self) {
        for _ in 0..LOOKS_MAX {
            let seen = self.0.trace().count();
            // A paused clock moves only when every task waits for it.
            sleep(REST).await;
            self.0.check();
            if self.0.trace().count() == seen {
                return;
            }
        }
        panic!("the world does not come to rest");
    }

    /// Lets time pass, and all happen that is due by then.
    pub async fn advance(&self, time: Duration) {
        sleep(time).await;
        self.settle().await;
    }

    /// Lets time pass until no message is on its way: nothing in the queues that services read, nothing that waits for a retry, nothing in an
    /// outbox. Deadlines that are set stay.
    ///
    /// # Panics
    /// When there is no end to it within an hour of the world's time.
    pub async fn finish(&self) {
        let end = Instant::now() + FINISH_MAX;
        loop {
            self.settle().await;
            let Some(waiting) = self.waiting().await else {
                return;
            };
            assert!(Instant::now() < end, "the world does not end: {waiting}");
            sleep(FINISH_STEP).await;
        }
    }

    /// What is on its way.
    async fn waiting(&self) -> Option<String> {
        let broker = &self.0.broker;
        for queue in broker.known_queues() {
            let Ok(stats) = broker.queue_stats(&queue).await else {
                continue;
            };
            let is_read = stats.consumers > 0 || queue.contains(".retry.");
            if is_read && stats.ready > 0 {
                return Some(format!("{} messages are in {queue}", stats.ready));
            }
        }
        let instances = self.0.instances().clone();
        for instance in instances {
            if let Some(waiting) = instance.waiting().await {
                return Some(waiting);
            }
        }
        None
    }

    /// What has happened, a line for each event, the last ten thousand: equal for equal seeds.
    pub fn events(&self) -> Vec<String> {
        self.0.trace().lines()
    }
}

impl Shared {
    fn now(&self) -> Timestamp {
        BEGINNING + self.started.elapsed()
    }

    fn faults(&self) -> MutexGuard<'_, Faults> {
        self.faults.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn trace(&self) -> MutexGuard<'_, Trace> {
        self.trace.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn instances(&self) -> MutexGuard<'_, Vec<Arc<Instance>>> {
        self.instances
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that something happened.
    fn note(&self, who: &str, what: fmt::Arguments<'_>) {
        let at = self.started.elapsed();
        self.trace().add(at, who, what);
    }

    /// A service cannot run.
    fn break_off(&self, why: String) {
        let mut broken = self.broken.lock().unwrap_or_else(PoisonError::into_inner);
        broken.get_or_insert(why);
    }

    fn check(&self) {
        let broken = self.broken.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(why) = &*broken {
            panic!("{why}");
        }
    }

    fn told_if_it_fails(self: Arc<Self>) -> Told {
        Told(self)
    }
}

/// Tells the seed when its test panics, and lets go of the services, which have the world.
struct Told(Arc<Shared>);

impl Drop for Told {
    fn drop(&mut self) {
        self.0.instances().clear();
        if std::thread::panicking() {
            let Shared { seed, .. } = &*self.0;
            eprintln!("the world of seed {seed}, its last events:");
            for line in self.0.trace().last() {
                eprintln!("  {line}");
            }
        }
    }
}

#[cfg(test)]
mod tests;
