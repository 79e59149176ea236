//! Requests: a message that asks for an answer, and the answer.
//!
//! The request carries a `correlation_id` and, in `reply_to`, the queue of this client. An answer that nobody waits for (late, doubled, of
//! another life of this process) is counted and kept in `<queue>.dlq`: it is never an error of another request.

use std::{
    collections::HashMap,
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use tokio::{
    sync::{oneshot, watch},
    time::timeout,
};
use uuid::Uuid;

use crate::{
    broker::{
        Broker, BrokerError, Delivery, Message, Publication,
        work::{self, Handler, RetryPolicy, Verdict, WorkOptions},
    },
    metrics::Counter,
};

/// Why a request has no answer.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RequestError {
    /// The request was not published: nobody has it, unless the broker went away in the middle.
    #[error(transparent)]
    Broker(#[from] BrokerError),
    /// No answer came in time. One that comes later is kept in the dead letters of the reply queue.
    #[error("no answer within {0:?}")]
    Timeout(Duration),
    /// The client was stopped.
    #[error("the client of requests was stopped")]
    Stopped,
}

impl RequestError {
    /// Whether the same request may be answered later. With the same `message_id`, a service does once what is asked.
    pub fn is_retryable(&self) -> bool {
        match self {
            RequestError::Broker(error) => error.is_retryable(),
            RequestError::Timeout(_) => true,
            RequestError::Stopped => false,
        }
    }
}

/// What is counted of answers.
#[derive(Debug, Default)]
pub struct ReplyCounts {
    /// Answers that somebody waited for.
    pub answered: Counter,
    /// Answers that nobody waited for: late, doubled or orphaned.
    pub unexpected: Counter,
}

/// Answers that are handled at once, and that are here at once.
const CONCURRENCY: u16 = 16;
const PREFETCH: u16 = 64;

/// A client of requests. Clones share its reply queue.
#[derive(Clone)]
pub struct Requests(Arc<Shared>);

struct Shared {
    broker: Arc<dyn Broker>,
    options: WorkOptions,
    waiting: Mutex<HashMap<Arc<str>, Vec<Asker>>>,
    /// Numbers askers.
    askers: AtomicU64,
    counts: ReplyCounts,
}

/// Somebody who waits for an answer.
struct Asker {
    number: u64,
    answer: oneshot::Sender<Message>,
}

impl fmt::Debug for Requests {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Requests")
            .field("queue", &self.0.options.queue)
            .finish_non_exhaustive()
    }
}

impl Requests {
    /// A client whose answers come by this queue, which belongs to it alone: durable, so that what comes while it is away is kept. It is
    /// declared when [`run`](Self::run) begins.
    pub fn new(broker: Arc<dyn Broker>, reply_queue: &str) -> Requests {
        Requests::of(broker, reply_queue.into(), None)
    }

    fn of(
        broker: Arc<dyn Broker>,
        reply_queue: Arc<str>,
        expires_after: Option<Duration>,
    ) -> Requests {
        let mut options = WorkOptions::queue(reply_queue);
        options.concurrency = CONCURRENCY;
        options.prefetch = PREFETCH;
        // An answer is taken or it is not: nothing is tried again.
        options.retry = RetryPolicy { delays: Vec::new() };
        options.expires_after = expires_after;
        Requests(Arc::new(Shared {
            broker,
            options,
            waiting: Mutex::default(),
            askers: AtomicU64::default(),
            counts: ReplyCounts::default(),
        }))
    }

    /// A client whose reply queue goes when nobody has used it for so long, and its dead letters a week later: for one that has no name to come
    /// back by. The queue is declared when [`run`](Self::run) begins.
    pub fn expiring(broker: Arc<dyn Broker>, prefix: &str, expires_after: Duration) -> Requests {
        let name = format!("{prefix}.{}", Uuid::now_v7());
        Requests::of(broker, name.into(), Some(expires_after))
    }

    /// The queue that answers come by.
    pub fn reply_queue(&self) -> &Arc<str> {
        &self.0.options.queue
    }

    /// What was counted.
    pub fn counts(&self) -> &ReplyCounts {
        &self.0.counts
    }

    /// Sends a request to a queue and waits for its answer. A `message_id` and a `correlation_id` are given to it if it has none; all who
    /// wait by the same `correlation_id` get the first answer.
    ///
    /// An answer means that it was handled. After an error it may have been, or may be yet: the same request with the same `message_id`
    /// is safe where the service takes effect once. Dropping the future stops the waiting, not the request.
    pub async fn request(
        &self,
        queue: &str,
        mut message: Message,
        time: Duration,
    ) -> Result<Message, RequestError> {
        let fresh = || Arc::from(Uuid::now_v7().to_string());
        let message_id = message.message_id.get_or_insert_with(fresh).clone();
        let correlation_id = message.correlation_id.get_or_insert(message_id).clone();
        message.reply_to = Some(self.0.options.queue.clone());
        let (sender, answer) = oneshot::channel();
        let _waiting = self.0.wait(correlation_id, sender);
        let published = async {
            let publication = Publication::to_queue(queue, message);
            let results = self.0.broker.publish(vec![publication]).await;
            results.into_iter().collect::<Result<Vec<()>, _>>()?;
            answer.await.map_err(|_| RequestError::Stopped)
        };
        timeout(time, published)
            .await
            .unwrap_or(Err(RequestError::Timeout(time)))
    }

    /// Takes answers until `stop` turns true; whoever still waits then is told [`RequestError::Stopped`].
    pub async fn run(&self, mut stop: watch::Receiver<bool>) -> Result<(), BrokerError> {
        let stopped = async move {
            // A sender that is gone stops it, too.
            drop(stop.wait_for(|stop| *stop).await);
        };
        let (answers, options) = (Answers(self.0.clone()), self.0.options.clone());
        let served = work::serve(self.0.broker.clone(), options, answers, stopped).await;
        self.0.lock().clear();
        served
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, HashMap<Arc<str>, Vec<Asker>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait(&self, correlation_id: Arc<str>, answer: oneshot::Sender<Message>) -> Waiting<'_> {
        let number = self.askers.fetch_add(1, Ordering::Relaxed);
        let asker = Asker { number, answer };
        self.lock()
            .entry(correlation_id.clone())
            .or_default()
            .push(asker);
        Waiting {
            shared: self,
            correlation_id,
            number,
        }
    }

    /// Hands an answer to those who wait for it; whether there was one.
    fn answer(&self, message: &Message) -> bool {
        let askers = message
            .correlation_id
            .as_ref()
            .and_then(|id| self.lock().remove(id));
        let askers = askers.into_iter().flatten();
        let taken = askers.filter_map(|asker| asker.answer.send(message.clone()).ok());
        taken.count() > 0
    }
}

/// A request under way.
struct Waiting<'a> {
    shared: &'a Shared,
    correlation_id: Arc<str>,
    number: u64,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let mut waiting = self.shared.lock();
        if let Some(askers) = waiting.get_mut(&self.correlation_id) {
            askers.retain(|asker| asker.number != self.number);
            if askers.is_empty() {
                waiting.remove(&self.correlation_id);
            }
        }
    }
}

struct Answers(Arc<Shared>);

#[async_trait]
impl Handler for Answers {
    async fn handle(&self, delivery: &Delivery, _attempt: u32) -> Verdict {
        if self.0.answer(&delivery.message) {
            self.0.counts.answered.inc();
            return Verdict::done();
        }
        self.0.counts.unexpected.inc();
        Verdict::DeadLetter {
            reason: "no request waits for this answer: it is late, doubled, or of another client"
                .to_owned(),
        }
    }
}
