//! A queue that a service reads: each message is decoded, decided upon, committed, and acknowledged last.

use std::{fmt, sync::Arc};

use async_trait::async_trait;
use leveret_core::time::Timestamp;
use uuid::Uuid;

use super::{
    counts::QueueCounts,
    decider::{Decider, Decision, Publish, Refusal, View},
    desk::{Arrived, Desk, ExecuteError, Executed, Reader},
    documents::{Handled, Key, Parked},
    relay::Relay,
};
use crate::broker::{
    Binding, Delivery, Header, Message,
    work::{
        HEADER_DEAD_AT, HEADER_EXCHANGE, HEADER_QUEUE, HEADER_REASON, HEADER_ROUTING_KEY, Handler,
        Verdict, WorkOptions,
    },
};

/// A message that was understood.
#[derive(Clone, Debug)]
pub struct Input<M> {
    /// What it says.
    pub message: M,
    /// What it is recognised by, if not by its `message_id`.
    pub identity: Option<Arc<str>>,
}

impl<M> Input<M> {
    /// Recognised by its `message_id`, which it must have then.
    pub fn new(message: M) -> Input<M> {
        Input {
            message,
            identity: None,
        }
    }

    /// Recognised by this if it has no `message_id`.
    pub fn known_by(message: M, identity: impl Into<Arc<str>>) -> Input<M> {
        Input {
            message,
            identity: Some(identity.into()),
        }
    }
}

/// Reads a message, strictly: the error says what is wrong, with its place.
pub type Decode<M> = Arc<dyn Fn(&Message) -> Result<Input<M>, String> + Send + Sync>;

/// A queue that a service reads.
pub struct Subscription<D: Decider> {
    /// How it is consumed: concurrency, retries, bounds.
    pub options: WorkOptions,
    /// What is bound to it, declared at start; the exchanges among what the service [publishes to](super::ServiceOptions::topology).
    pub bindings: Vec<Binding>,
    /// Who decides.
    pub decider: D,
    /// How its messages are read.
    pub decode: Decode<D::Message>,
}

impl<D: Decider> Subscription<D> {
    /// Deliveries that are handled at once. Those for one document are decided one after the other all the same.
    pub const CONCURRENCY_DEFAULT: u16 = 256;

    /// A queue with the defaults.
    pub fn queue(
        queue: &str,
        decider: D,
        decode: impl Fn(&Message) -> Result<Input<D::Message>, String> + Send + Sync + 'static,
    ) -> Subscription<D> {
        let mut options = WorkOptions::queue(queue);
        options.concurrency = Self::CONCURRENCY_DEFAULT;
        options.prefetch = 2 * Self::CONCURRENCY_DEFAULT;
        Subscription {
            options,
            bindings: Vec::new(),
            decider,
            decode: Arc::new(decode),
        }
    }

    /// With a binding.
    #[must_use]
    pub fn bind(mut self, exchange: &str, routing_key: &str) -> Subscription<D> {
        self.bindings.push(Binding {
            queue: self.options.queue.clone(),
            exchange: exchange.into(),
            routing_key: routing_key.into(),
        });
        self
    }
}

impl<D: Decider> fmt::Debug for Subscription<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Subscription")
            .field("options", &self.options)
            .field("bindings", &self.bindings)
            .finish_non_exhaustive()
    }
}

/// What a message is recognised by: its own id, else what its meaning names. One that is put back from the dead letters keeps its id: beside it
/// there may be a copy that a crash left.
fn identity(message: &Message, named: Option<Arc<str>>) -> Result<Arc<str>, String> {
    let own = message.message_id.clone().filter(|id| !id.is_empty());
    own.or(named).ok_or_else(|| {
        "the message has no message_id, and nothing else tells it from others".to_owned()
    })
}

/// Names the answers that are given again. Stored in inboxes: it never changes.
const AGAIN: Uuid = Uuid::from_u128(0x1c0d_93a6_5f0b_4c1e_8a54_27d1_90e6_3b7f);

/// Answers again.
struct Again<D>(Arc<D>);

impl<D: Decider> Decider for Again<D> {
    type Message = D::Message;
    type Answer = ();

    fn keys(&self, message: &D::Message) -> Vec<Key> {
        self.0.keys(message)
    }

    fn decide(
        &self,
        documents: &View<'_>,
        message: &D::Message,
        _: Timestamp,
    ) -> Result<Decision<()>, Refusal> {
        let publish = self.0.again(documents, message)?;
        if publish.is_empty() {
            return Err(Refusal::stale("nothing is said again"));
        }
        Ok(Decision {
            publish,
            ..Decision::answer(())
        })
    }
}

/// One subscription at work.
pub(super) struct Station<D: Decider> {
    pub(super) decider: Arc<D>,
    pub(super) decode: Decode<D::Message>,
    pub(super) queue: Arc<str>,
    /// The service: who has handled a message.
    pub(super) consumer: Arc<str>,
    pub(super) desk: Desk,
    pub(super) relay: Relay,
    pub(super) counts: Arc<QueueCounts>,
}

#[async_trait]
impl<D: Decider> Handler for Station<D> {
    async fn handle(&self, delivery: &Delivery, _attempt: u32) -> Verdict {
        let message = &delivery.message;
        let read = (self.decode)(message)
            .and_then(|input| Ok((identity(message, input.identity)?, input.message)));
        let (message_id, decoded) = match read {
            Ok(read) => read,
            Err(reason) => return Verdict::DeadLetter { reason },
        };
        let arrived = Arrived {
            handled: Handled {
                consumer: self.consumer.clone(),
                message_id: message_id.clone(),
            },
            parkable: Some((&self.queue, message)),
        };
        let executed = self
            .desk
            .execute(&*self.decider, &decoded, Some(arrived), &[])
            .await;
        if matches!(executed, Ok(Executed::Repeated))
            && let Some(Header::Text(dead_at)) = message.headers.get(HEADER_DEAD_AT)
        {
            return self.again(&decoded, &message_id, dead_at).await;
        }
        self.verdict(executed).await
    }
}

impl<D: Decider> Station<D> {
    /// Says once more what a message was told that is put back from the dead letters, once for each time that it was one.
    async fn again(&self, message: &D::Message, message_id: &str, dead_at: &str) -> Verdict {
        let name = format!("{message_id}\0{dead_at}");
        let arrived = Arrived {
            handled: Handled {
                consumer: self.consumer.clone(),
                message_id: format!("again/{}", Uuid::new_v5(&AGAIN, name.as_bytes())).into(),
            },
            parkable: None,
        };
        let again = Again(self.decider.clone());
        let executed = self.desk.execute(&again, message, Some(arrived), &[]);
        match executed.await {
            Ok(Executed::Done { claimed, .. }) => {
                self.relay.publish(claimed).await;
                Verdict::Repeated {
                    publish: Vec::new(),
                }
            }
            Ok(Executed::Refused(Refusal::Stale { .. })) => Verdict::Repeated {
                publish: Vec::new(),
            },
            other => self.verdict(other).await,
        }
    }

    async fn verdict<A>(&self, executed: Result<Executed<A>, ExecuteError>) -> Verdict {
        match executed {
            Ok(Executed::Done { claimed, .. }) => {
                self.relay.publish(claimed).await;
                Verdict::done()
            }
            Ok(Executed::Repeated) => Verdict::Repeated {
                publish: Vec::new(),
            },
            Ok(Executed::Parked) => {
                self.counts.parked.inc();
                Verdict::done()
            }
            Ok(Executed::Refused(Refusal::Stale { reason })) => {
                tracing::debug!(queue = &*self.queue, reason, "a message changes nothing");
                self.counts.stale.inc();
                Verdict::done()
            }
            Ok(Executed::Refused(refusal @ Refusal::Unreadable { .. })) => {
                tracing::error!(queue = &*self.queue, error = %refusal, "a message cannot be decided upon");
                Verdict::Retry {
                    reason: refusal.to_string(),
                }
            }
            Ok(Executed::Refused(refusal)) => Verdict::DeadLetter {
                reason: refusal.to_string(),
            },
            Err(ExecuteError::Contended) => Verdict::Retry {
                reason: ExecuteError::Contended.to_string(),
            },
            Err(error) => {
                tracing::warn!(queue = &*self.queue, %error, "a message waits for the database");
                Verdict::Requeue
            }
        }
    }
}

/// Decides upon parked messages of the queue.
pub(super) struct ParkedReader<D: Decider> {
    pub(super) decider: Arc<D>,
    pub(super) decode: Decode<D::Message>,
}

impl<D: Decider> Reader for ParkedReader<D> {
    fn decide(
        &self,
        message: &Message,
        documents: &View<'_>,
        now: Timestamp,
    ) -> Result<Decision<()>, Refusal> {
        let input = (self.decode)(message).map_err(Refusal::malformed)?;
        let decision = self.decider.decide(documents, &input.message, now)?;
        Ok(Decision {
            answer: (),
            put: decision.put,
            publish: decision.publish,
            deadlines: decision.deadlines,
        })
    }

    fn dead_letter(&self, parked: &Parked, reason: &str, now: Timestamp) -> Publish {
        let queue = &parked.queue;
        let mut letter = parked.message.clone();
        for (name, text) in [
            (HEADER_REASON, reason.to_owned()),
            (HEADER_QUEUE, queue.to_string()),
            (HEADER_EXCHANGE, String::new()),
            (HEADER_ROUTING_KEY, queue.to_string()),
            (HEADER_DEAD_AT, now.to_string()),
        ] {
            letter.headers.insert(name.to_owned(), Header::Text(text));
        }
        Publish::to_queue(&crate::broker::dead_letter_queue_name(queue), letter)
    }
}
