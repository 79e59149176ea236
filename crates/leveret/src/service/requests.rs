//! Requests: a message that asks for an answer, and the answer.
//!
//! The request carries a `correlation_id` and, in `reply_to`, the queue of this client. An answer that nobody waits for (late, doubled, of
//! another life of this process) is counted and kept in `<queue>.dlq`: it is never an error of another request.

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
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
        Broker, BrokerError, Delivery, Message, Publication, Queue, Topology,
        work::{self, Handler, Verdict, WorkOptions},
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

/// A client of requests. Clones share its reply queue.
#[derive(Clone)]
pub struct Requests(Arc<Shared>);

struct Shared {
    broker: Arc<dyn Broker>,
    queue: Arc<str>,
    waiting: Mutex<HashMap<Arc<str>, oneshot::Sender<Message>>>,
    counts: ReplyCounts,
}

impl fmt::Debug for Requests {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Requests")
            .field("queue", &self.0.queue)
            .finish_non_exhaustive()
    }
}

impl Requests {
    /// A client whose answers come by this queue, which belongs to it alone: durable, so that what comes while it is away is kept. It is
    /// declared when [`run`](Self::run) begins.
    pub fn new(broker: Arc<dyn Broker>, reply_queue: &str) -> Requests {
        Requests(Arc::new(Shared {
            broker,
            queue: reply_queue.into(),
            waiting: Mutex::default(),
            counts: ReplyCounts::default(),
        }))
    }

    /// Declares a reply queue that goes when nobody has used it for so long: for a client that has no name to come back by.
    pub async fn expiring(
        broker: Arc<dyn Broker>,
        prefix: &str,
        expires_after: Duration,
    ) -> Result<Requests, BrokerError> {
        let name = format!("{prefix}.{}", Uuid::now_v7());
        let queue = Queue {
            expires_after: Some(expires_after),
            ..Queue::plain(name.as_str())
        };
        let topology = Topology {
            queues: vec![queue],
            ..Topology::default()
        };
        broker.declare(&topology).await?;
        Ok(Requests::new(broker, &name))
    }

    /// The queue that answers come by.
    pub fn reply_queue(&self) -> &Arc<str> {
        &self.0.queue
    }

    /// What was counted.
    pub fn counts(&self) -> &ReplyCounts {
        &self.0.counts
    }

    /// Sends a request to a queue and waits for its answer. A `message_id` and a `correlation_id` are given to it if it has none.
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
        message.reply_to = Some(self.0.queue.clone());
        let (sender, answer) = oneshot::channel();
        self.0.lock().insert(correlation_id.clone(), sender);
        let _waiting = Waiting {
            shared: &self.0,
            correlation_id,
        };
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

    /// Takes answers until `stop` turns true.
    pub async fn run(&self, mut stop: watch::Receiver<bool>) -> Result<(), BrokerError> {
        let options = WorkOptions {
            concurrency: 16,
            ..WorkOptions::queue(self.0.queue.clone())
        };
        let stopped = async move {
            // A sender that is gone stops it, too.
            drop(stop.wait_for(|stop| *stop).await);
        };
        let answers = Answers(self.0.clone());
        work::serve(self.0.broker.clone(), options, answers, stopped).await
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, HashMap<Arc<str>, oneshot::Sender<Message>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A request under way.
struct Waiting<'a> {
    shared: &'a Shared,
    correlation_id: Arc<str>,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.shared.lock().remove(&self.correlation_id);
    }
}

struct Answers(Arc<Shared>);

#[async_trait]
impl Handler for Answers {
    async fn handle(&self, delivery: &Delivery, _attempt: u32) -> Verdict {
        let message = &delivery.message;
        let waiting = message
            .correlation_id
            .as_ref()
            .and_then(|id| self.0.lock().remove(id));
        if waiting.is_some_and(|waiting| waiting.send(message.clone()).is_ok()) {
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
