//! Services: messages change documents, and what follows from that goes out, all in one commit.
//!
//! ```text
//! delivery -> decode -> load -> decide (pure) -> commit: inbox, documents, outbox, deadlines -> publish + confirm -> ack
//! HTTP     ----------> load -> decide (pure) -> commit ----------------------------------------> answer; the relay publishes
//! ```
//!
//! [`Documents`] is the seam of their state; an [`Aggregate`] decides about one document, a [`Decider`] about several.
//!
//! - **A message takes effect once**, however often and concurrently it comes: it is known by its `message_id`, or by what it names.
//! - **What a decision publishes is in its commit**, and reaches the broker after every crash, perhaps twice with the same `message_id`, in order
//!   for each aggregate.
//! - **Ack last.** A crash before it brings the message again; the inbox then says that it was handled.
//! - **Malformed is a dead letter at once**, with the reason, and no document is touched. This machine's own faults lose nothing: the message
//!   returns to its queue, and the service is not ready.

mod counts;
mod deadlines;
pub mod decider;
mod desk;
pub mod documents;
mod effects;
pub mod events;
#[cfg(feature = "http")]
pub mod http;
pub mod inbox;
pub mod outbox;
mod relay;
mod requests;
mod scrape;
mod subscribe;
#[cfg(feature = "testing")]
pub mod testing;

use std::{collections::HashMap, fmt, sync::Arc, time::Duration};

use futures_util::future::BoxFuture;
use tokio::{sync::watch, task::JoinSet};

use self::{
    counts::QueueCounts,
    deadlines::{Deadline, Deadlines, Fire},
    desk::{Desk, Executed, Reader, Readers},
    effects::Performer,
    relay::Relay,
    subscribe::{ParkedReader, Station},
};
pub use self::{
    decider::{Aggregate, Change, Decider, Decision, Next, Of, Publish, Refusal, ReplyTo, View},
    desk::{ExecuteError, Now, PARKED_MAX, Watch},
    documents::{Documents, DocumentsError, Due, Key, Kind},
    effects::{Effect, Performed},
    requests::{ReplyCounts, RequestError, Requests},
    scrape::scrape,
    subscribe::{Decode, Input, Subscription},
};
use crate::{
    broker::{
        Broker, BrokerError, Topology,
        work::{self, Handler, WorkOptions},
    },
    metrics::queues::QueueMetrics,
};

/// How a service is run.
#[derive(Clone)]
pub struct ServiceOptions {
    /// Its name: who has handled a message, and where its own queues begin.
    pub name: Arc<str>,
    /// What it publishes to, declared at start and when it is gone: whoever comes first declares.
    pub topology: Topology,
    /// How long a message is recognised. 7 days.
    pub inbox_keep: Duration,
    /// How long what runs may take when it stops. 30 s.
    pub drain_timeout: Duration,
    /// What time it is.
    pub now: Now,
}

impl ServiceOptions {
    /// The defaults.
    pub fn new(name: &str, now: Now) -> ServiceOptions {
        ServiceOptions {
            name: name.into(),
            topology: Topology::default(),
            inbox_keep: Duration::from_secs(7 * 24 * 3600),
            drain_timeout: Duration::from_secs(30),
            now,
        }
    }
}

impl fmt::Debug for ServiceOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServiceOptions")
            .field("name", &self.name)
            .field("topology", &self.topology)
            .finish_non_exhaustive()
    }
}

/// How often old inbox entries are forgotten, and how many at once.
const PRUNE_EVERY: Duration = Duration::from_secs(60);
const PRUNE_MAX: u32 = 10_000;
/// How long the database may take to say that it is there.
const PING_TIMEOUT: Duration = Duration::from_secs(2);

type Start = Box<dyn Fn(&Shared) -> (WorkOptions, BoxedHandler) + Send + Sync>;

/// A handler of any kind.
struct BoxedHandler(Box<dyn Handler>);

#[async_trait::async_trait]
impl Handler for BoxedHandler {
    async fn handle(&self, delivery: &crate::broker::Delivery, attempt: u32) -> work::Verdict {
        self.0.handle(delivery, attempt).await
    }
}

/// A service in the making.
pub struct ServiceBuilder {
    options: ServiceOptions,
    documents: Arc<dyn Documents>,
    broker: Arc<dyn Broker>,
    starts: Vec<Start>,
    work: Vec<(Arc<str>, Arc<QueueMetrics>)>,
    readers: HashMap<Arc<str>, Arc<dyn Reader>>,
    deadlines: HashMap<Arc<str>, Arc<dyn Fire>>,
    counts: HashMap<Arc<str>, Arc<QueueCounts>>,
}

impl fmt::Debug for ServiceBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServiceBuilder")
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}

impl ServiceBuilder {
    /// Reads a queue.
    #[must_use]
    pub fn subscribe<D: Decider>(mut self, subscription: Subscription<D>) -> ServiceBuilder {
        let Subscription {
            options,
            bindings,
            decider,
            decode,
        } = subscription;
        let decider = Arc::new(decider);
        let queue = options.queue.clone();
        self.work.push((queue.clone(), options.metrics.clone()));
        let counts = Arc::new(QueueCounts::default());
        self.options
            .topology
            .queues
            .extend(options.topology().queues);
        self.options.topology.bindings.extend(bindings);
        self.counts.insert(queue.clone(), counts.clone());
        let reader = ParkedReader {
            decider: decider.clone(),
            decode: decode.clone(),
        };
        self.readers.insert(queue.clone(), Arc::new(reader));
        self.starts.push(Box::new(move |shared| {
            let station = Station {
                decider: decider.clone(),
                decode: decode.clone(),
                queue: queue.clone(),
                consumer: shared.consumer(&queue),
                desk: shared.desk.clone(),
                relay: shared.relay.clone(),
                counts: counts.clone(),
            };
            (options.clone(), BoxedHandler(Box::new(station)))
        }));
        self
    }

    /// Performs the intents of a queue, which is the service's own.
    #[must_use]
    pub fn effect<E: Effect>(
        mut self,
        options: WorkOptions,
        effect: E,
        decider: E::Decider,
    ) -> ServiceBuilder {
        let (effect, decider) = (Arc::new(effect), Arc::new(decider));
        let queue = options.queue.clone();
        self.work.push((queue, options.metrics.clone()));
        self.options
            .topology
            .queues
            .extend(options.topology().queues);
        self.starts.push(Box::new(move |shared| {
            let performer = Performer {
                effect: effect.clone(),
                decider: decider.clone(),
                options: options.clone(),
                consumer: shared.consumer(&options.queue),
                desk: shared.desk.clone(),
                relay: shared.relay.clone(),
            };
            (options.clone(), BoxedHandler(Box::new(performer)))
        }));
        self
    }

    /// Says what a due deadline means to the documents of a kind.
    #[must_use]
    pub fn deadlines<D: Decider>(
        mut self,
        kind: &str,
        decider: D,
        meaning: impl Fn(&Due) -> D::Message + Send + Sync + 'static,
    ) -> ServiceBuilder {
        let deadline = Deadline {
            decider: Arc::new(decider),
            meaning: Arc::new(meaning),
        };
        self.deadlines.insert(kind.into(), Arc::new(deadline));
        self
    }

    /// The service.
    pub fn build(self) -> Service {
        let ServiceBuilder {
            options,
            documents,
            broker,
            starts,
            work,
            readers,
            deadlines,
            counts,
        } = self;
        let readers: Readers = Arc::new(move |queue: &str| readers.get(queue).cloned());
        let desk = Desk::new(documents.clone(), readers, options.now.clone());
        let (topology, now) = (options.topology.clone(), options.now.clone());
        let relay = Relay::new(broker.clone(), documents.clone(), topology, now);
        let deadlines = Deadlines {
            desk: desk.clone(),
            relay: relay.clone(),
            consumer: options.name.clone(),
            kinds: Arc::new(deadlines),
        };
        Service(Arc::new(Shared {
            options,
            documents,
            broker,
            starts,
            work,
            desk,
            relay,
            deadlines,
            counts,
        }))
    }
}

/// A service: reads queues, decides, publishes. Clones share it.
#[derive(Clone)]
pub struct Service(Arc<Shared>);

struct Shared {
    options: ServiceOptions,
    documents: Arc<dyn Documents>,
    broker: Arc<dyn Broker>,
    starts: Vec<Start>,
    work: Vec<(Arc<str>, Arc<QueueMetrics>)>,
    desk: Desk,
    relay: Relay,
    deadlines: Deadlines,
    counts: HashMap<Arc<str>, Arc<QueueCounts>>,
}

impl Shared {
    /// Who has handled a message of a queue: the same message may mean something else by another one.
    fn consumer(&self, queue: &str) -> Arc<str> {
        format!("{}/{queue}", self.options.name).into()
    }
}

impl fmt::Debug for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Service")
            .field("options", &self.0.options)
            .finish_non_exhaustive()
    }
}

/// Why a call of a service in this process came to nothing.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CallError {
    /// The decider said no: nothing changed.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// It is not known whether anything changed, or nothing could.
    #[error(transparent)]
    Execute(#[from] ExecuteError),
}

impl Service {
    /// A service in the making.
    pub fn builder(
        options: ServiceOptions,
        documents: Arc<dyn Documents>,
        broker: Arc<dyn Broker>,
    ) -> ServiceBuilder {
        ServiceBuilder {
            options,
            documents,
            broker,
            starts: Vec::new(),
            work: Vec::new(),
            readers: HashMap::new(),
            deadlines: HashMap::new(),
            counts: HashMap::new(),
        }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.0.options.name
    }

    /// Its documents.
    pub fn documents(&self) -> &Arc<dyn Documents> {
        &self.0.documents
    }

    /// What time it is for it.
    pub fn now(&self) -> leveret_core::time::Timestamp {
        self.0.desk.now()
    }

    /// Decides upon a message of this process, such as an HTTP request: whatever the broker does.
    ///
    /// When it returns an answer, what was decided is durable, and what it publishes leaves with the relay. After
    /// [`CallError::Execute`] it may have happened; a decider that recognises the message by its documents makes the same call again safe.
    pub async fn call<D: Decider>(
        &self,
        decider: &D,
        message: &D::Message,
    ) -> Result<D::Answer, CallError> {
        match self.0.desk.execute(decider, message, None, &[]).await? {
            Executed::Done { answer, claimed } => {
                self.0.relay.publish_soon(claimed);
                Ok(answer)
            }
            Executed::Refused(refusal) => Err(refusal.into()),
            Executed::Repeated | Executed::Parked => {
                unreachable!("a call is neither recognised nor parked")
            }
        }
    }

    /// Waits for the next commit of this process that puts a document. A hint: look at the document before and after, and now and then without
    /// one, since other processes commit too. Whoever calls this before looking misses nothing of this process.
    pub fn changed(&self, key: &Key) -> impl Future<Output = ()> + Send + use<> {
        let mut watch = self.watch(key);
        async move { drop(watch.next().await) }
    }

    /// Watches what commits of this process make of a document, from now on. Other processes commit, too: look at the stored document now and then.
    pub fn watch(&self, key: &Key) -> Watch {
        self.0.desk.watch(key)
    }

    /// What keeps it from being ready, each in a few words: empty when every subscription is live, the broker is connected and the database
    /// answers.
    pub async fn not_ready(&self) -> Vec<String> {
        let shared = &self.0;
        let name = &shared.options.name;
        let mut missing = Vec::new();
        let answered = tokio::time::timeout(PING_TIMEOUT, shared.documents.ping()).await;
        if !matches!(answered, Ok(Ok(()))) {
            missing.push(format!("{name}: the database does not answer"));
        }
        if !shared.broker.is_connected() {
            missing.push(format!("{name}: the broker is not connected"));
        }
        let queues = shared.work.iter();
        let queues = queues.filter(|(_, metrics)| !metrics.is_ready());
        missing.extend(queues.map(|(queue, _)| format!("{name}: {queue} is not consumed")));
        missing
    }

    /// Reads its queues, fires its deadlines and empties its outbox until `stop` turns true, then drains: what is being handled is finished
    /// within the drain timeout, the rest returns to its queue. An error if the broker refuses what the service needs. Dropping it ends all at
    /// the next `await`, as a crash would.
    pub async fn run(&self, stop: watch::Receiver<bool>) -> Result<(), BrokerError> {
        let shared = &self.0;
        let mut reading: JoinSet<Result<(), BrokerError>> = JoinSet::new();
        for start in &shared.starts {
            let (options, handler) = start(shared);
            let stopped = stopped(stop.clone());
            reading.spawn(work::serve(
                shared.broker.clone(),
                options,
                handler,
                stopped,
            ));
        }
        let mut beside: JoinSet<()> = JoinSet::new();
        beside.spawn({
            let (relay, stop) = (shared.relay.clone(), stop.clone());
            async move { relay.run(stop).await }
        });
        beside.spawn({
            let (deadlines, stop) = (shared.deadlines.clone(), stop.clone());
            async move { deadlines.run(stop).await }
        });
        beside.spawn(prune(self.clone(), stop.clone()));
        self.declare(stop.clone()).await?;
        let mut result = Ok(());
        if shared.starts.is_empty() {
            stopped(stop).await;
        }
        while let Some(read) = reading.join_next().await {
            let read = read.unwrap_or(Err(BrokerError::Closed));
            if let Err(error) = read {
                result = Err(error);
                break;
            }
        }
        if result.is_err() {
            beside.abort_all();
        }
        while beside.join_next().await.is_some() {}
        shared.relay.drain(shared.options.drain_timeout).await;
        result
    }

    /// Declares what it needs, waiting for a broker that is away.
    async fn declare(&self, stop: watch::Receiver<bool>) -> Result<(), BrokerError> {
        const PAUSE: Duration = Duration::from_millis(500);
        let shared = &self.0;
        loop {
            match shared.relay.declare().await {
                Err(error) if error.is_retryable() && !*stop.borrow() => {
                    tracing::warn!(service = &*shared.options.name, %error, "not declared yet");
                    tokio::time::sleep(PAUSE).await;
                }
                Err(error) if error.is_retryable() => return Ok(()),
                other => {
                    shared.relay.hint();
                    return other;
                }
            }
        }
    }

    /// Publishes what lies in the outbox; returns how many messages. [`run`](Self::run) does this by itself.
    pub async fn relay_once(&self) -> Result<usize, DocumentsError> {
        self.0.relay.run_once(self.now()).await
    }

    /// Fires the deadlines that are due; returns how many. [`run`](Self::run) does this by itself.
    pub async fn fire_deadlines_once(&self) -> Result<usize, DocumentsError> {
        self.0.deadlines.run_once(self.now()).await
    }
}

fn stopped(mut stop: watch::Receiver<bool>) -> BoxFuture<'static, ()> {
    Box::pin(async move {
        // A sender that is gone stops it, too.
        drop(stop.wait_for(|stop| *stop).await);
    })
}

/// Forgets old inbox entries until `stop` turns true.
async fn prune(service: Service, mut stop: watch::Receiver<bool>) {
    let Shared {
        options, documents, ..
    } = &*service.0;
    loop {
        let now = service.now();
        let pruned = documents.prune(now, options.inbox_keep, PRUNE_MAX).await;
        let pause = match pruned {
            Ok(count) if count >= PRUNE_MAX.into() => Duration::from_millis(100),
            Ok(_) => PRUNE_EVERY,
            Err(error) => {
                tracing::warn!(%error, "old inbox entries are not forgotten; trying again");
                PRUNE_EVERY
            }
        };
        tokio::select! {
            biased;
            _ = stop.wait_for(|stop| *stop) => return,
            () = tokio::time::sleep(pause) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    /// The example of the documentation, which nobody compiles, has the lines of the one that is compiled.
    #[test]
    fn the_documented_example_is_the_compiled_one() {
        let compiled = include_str!("../examples/account.rs");
        let page = include_str!("../../../docs/SERVICES.md");
        let blocks = page.split("```").skip(1).step_by(2);
        let rust = blocks.filter_map(|block| block.strip_prefix("rust\n"));
        let mut lines = 0;
        for line in rust.flat_map(str::lines) {
            let known = compiled.lines().any(|known| known.trim() == line.trim());
            assert!(known, "not in examples/account.rs: {line}");
            lines += 1;
        }
        assert!(lines > 20, "the page shows an example");
    }
}
