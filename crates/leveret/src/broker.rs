//! The broker seam: topology, publishing, consuming.
//!
//! Every adapter keeps these promises, and [`conformance`] checks them:
//!
//! - **A publish that succeeded is durable**: persistent, routed to at least one queue (*mandatory*) and confirmed.
//!   A message that no queue takes is an error to the publisher, never silence.
//! - **A delivery ends in exactly one of** ack, nack, reject, or a closed channel. One that is dropped unsettled goes
//!   back to its queue. After a crash or a lost connection every unsettled delivery comes again, marked *redelivered*.
//! - **Order** holds within one queue for one consumer with nothing returned to it.
//! - **A consumer never dies in silence**: its [`ConsumerState`] is watched, and an adapter that loses its connection
//!   restores topology and consumers by itself.
//!
//! Publishing before acknowledging is [`Broker::publish_then_ack`]: a crash before it returns redelivers, a crash
//! after it loses nothing.

mod again;
pub mod conformance;
pub(crate) mod connect;
pub mod dead_letters;
pub mod embedded;
mod header;
mod local;
pub mod memory;
pub(crate) mod properties;
pub mod publish;
pub mod pump;
mod queues;
#[cfg(feature = "rabbitmq")]
pub mod rabbitmq;
mod routes;
mod topology;
pub mod work;

use std::{collections::BTreeMap, fmt, sync::Arc};

use async_trait::async_trait;
use bytes::Bytes;
use leveret_core::time::Timestamp;
use tokio::sync::{mpsc, watch};

use crate::crash::{self, Point};

pub use self::{
    again::HEADER_AGAIN,
    connect::{check_url, connect, connect_late},
    topology::{
        Binding, Delay, EXPIRES_AFTER_MAX, Exchange, ExchangeKind, Queue, Topology,
        dead_letter_queue_name, retry_queue_name,
    },
};

pub use self::header::{HEADER_DEPTH_MAX, Header};

/// The default exchange: routes to the queue that the routing key names.
pub const DEFAULT_EXCHANGE: &str = "";

/// A message's body and properties, as AMQP 0-9-1 has them. Always persistent.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Message {
    /// The payload.
    pub body: Bytes,
    /// The MIME type of the body, `application/json` for all of Leveret's own.
    pub content_type: Option<Arc<str>>,
    /// Identity, the same in every copy of a repeated publish, so that a consumer can recognise duplicates.
    pub message_id: Option<Arc<str>>,
    /// The `message_id` of the request that this answers, or of what caused it.
    pub correlation_id: Option<Arc<str>>,
    /// The queue that takes the answer.
    pub reply_to: Option<Arc<str>>,
    /// The kind of the message.
    pub kind: Option<Arc<str>>,
    /// When it was made; AMQP keeps seconds.
    pub timestamp: Option<Timestamp>,
    /// Further headers.
    pub headers: BTreeMap<String, Header>,
}

impl Message {
    /// A JSON message without further properties.
    pub fn json(body: impl Into<Bytes>) -> Message {
        Message {
            body: body.into(),
            content_type: Some(Arc::from("application/json")),
            ..Message::default()
        }
    }
}

/// A message and where it goes.
#[derive(Clone, Debug, PartialEq)]
pub struct Publication {
    /// The exchange; [`DEFAULT_EXCHANGE`] goes straight to a queue.
    pub exchange: Arc<str>,
    /// The routing key.
    pub routing_key: Arc<str>,
    /// What is sent.
    pub message: Message,
    /// Whether this is a copy of a message that this broker delivered. It takes what it gave, however large: an adapter's own bound on sizes
    /// is not for copies.
    pub copied: bool,
}

impl Publication {
    /// A publication straight to a queue.
    pub fn to_queue(queue: impl Into<Arc<str>>, message: Message) -> Publication {
        Publication {
            exchange: Arc::from(DEFAULT_EXCHANGE),
            routing_key: queue.into(),
            message,
            copied: false,
        }
    }
}

/// How a consumer takes messages.
#[derive(Clone, Debug)]
pub struct ConsumeOptions {
    /// The queue.
    pub queue: Arc<str>,
    /// The most deliveries that may be unsettled at once, at least 1.
    pub prefetch: u16,
    /// A name for operators, made unique by the adapter.
    pub tag: Arc<str>,
}

impl ConsumeOptions {
    /// Prefetch when nothing else is said.
    pub const PREFETCH_DEFAULT: u16 = 10;

    /// Consumes a queue with default prefetch.
    pub fn queue(queue: impl Into<Arc<str>>) -> ConsumeOptions {
        ConsumeOptions {
            queue: queue.into(),
            prefetch: Self::PREFETCH_DEFAULT,
            tag: Arc::from("leveret"),
        }
    }
}

/// Where a consumer stands. Shown in readiness and metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConsumerState {
    /// Not yet subscribed.
    Starting,
    /// Subscribed: the broker counts it.
    Live,
    /// Takes no more deliveries; those taken may still be settled.
    Draining,
    /// Not subscribed although it should be; the adapter is working on it.
    Lost,
}

/// A stream of deliveries. Dropping it cancels the subscription; deliveries taken from it can still be settled.
pub struct Consumer {
    deliveries: mpsc::Receiver<Delivery>,
    state: watch::Receiver<ConsumerState>,
    cancel: Option<Box<dyn FnOnce() + Send>>,
}

impl Consumer {
    /// For adapters: `cancel` stops the subscription (deliveries buffered and not yet read go back to the queue).
    pub fn new(
        deliveries: mpsc::Receiver<Delivery>,
        state: watch::Receiver<ConsumerState>,
        cancel: impl FnOnce() + Send + 'static,
    ) -> Consumer {
        Consumer {
            deliveries,
            state,
            cancel: Some(Box::new(cancel)),
        }
    }

    /// The next delivery; `None` after [`cancel`](Self::cancel) or when the broker was closed. Cancel-safe.
    pub async fn next(&mut self) -> Option<Delivery> {
        self.deliveries.recv().await
    }

    /// The next delivery if one is here already.
    pub fn try_next(&mut self) -> Option<Delivery> {
        self.deliveries.try_recv().ok()
    }

    /// Watches the state.
    pub fn state(&self) -> watch::Receiver<ConsumerState> {
        self.state.clone()
    }

    /// Stops taking deliveries. Those buffered and not yet read return to the queue. Idempotent.
    pub fn cancel(&mut self) {
        if let Some(cancel) = self.cancel.take() {
            cancel();
        }
        self.deliveries.close();
        while self.deliveries.try_recv().is_ok() {}
    }
}

impl Drop for Consumer {
    fn drop(&mut self) {
        self.cancel();
    }
}

impl fmt::Debug for Consumer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Consumer")
            .field("state", &*self.state.borrow())
            .finish_non_exhaustive()
    }
}

/// A message handed to a consumer, until it is settled through its [`Receipt`].
#[derive(Debug)]
#[must_use = "a delivery that is dropped goes back to its queue"]
pub struct Delivery {
    /// What was sent.
    pub message: Message,
    /// Why the properties of the message cannot be read, if they cannot: the message has none then, and belongs to the dead letters.
    pub flaw: Option<Arc<str>>,
    /// The exchange it came through.
    pub exchange: Arc<str>,
    /// Its routing key.
    pub routing_key: Arc<str>,
    /// Whether it may have been delivered before.
    pub redelivered: bool,
    /// How to settle it.
    pub receipt: Receipt,
}

/// The right to settle one delivery, once. Dropped unsettled, it returns the message to its queue.
#[must_use = "a receipt that is dropped returns the message to its queue"]
pub struct Receipt {
    channel: Arc<dyn Settle>,
    tag: u64,
    open: bool,
}

impl Receipt {
    /// For adapters.
    pub fn new(channel: Arc<dyn Settle>, tag: u64) -> Receipt {
        Receipt {
            channel,
            tag,
            open: true,
        }
    }

    /// Done: the broker forgets the message. Returns at once; acks that gather go out together. A crash before the broker
    /// has it redelivers.
    pub fn ack(self) {
        crash::reached(Point::BrokerBeforeAck);
        self.settle(Settlement::Ack);
    }

    /// Not done: the message returns to its queue, marked redelivered. Returns at once, as [`ack`](Self::ack) does. The broker has the
    /// message all the time: a crash before it hears of this returns the message just so.
    pub fn requeue(self) {
        self.settle(Settlement::Requeue);
    }

    /// Not wanted: the broker drops the message for good. Returns at once, as [`ack`](Self::ack) does. A crash before the broker hears of
    /// it redelivers; after that nothing of the message is left, so publish first what must remain, such as its dead letter.
    pub fn reject(self) {
        self.settle(Settlement::Reject);
    }

    /// Whether settling it still has an effect, as far as is known: false once the channel of the delivery is gone, and the message back in
    /// its queue.
    pub fn is_open(&self) -> bool {
        self.channel.is_open()
    }

    fn settle(mut self, settlement: Settlement) {
        self.open = false;
        self.channel.settle(self.tag, settlement);
    }

    /// For adapters: takes the tag out, settled by the adapter itself from here on.
    pub fn into_tag(mut self) -> (Arc<dyn Settle>, u64) {
        self.open = false;
        (self.channel.clone(), self.tag)
    }
}

impl Drop for Receipt {
    fn drop(&mut self) {
        if self.open {
            self.channel.settle(self.tag, Settlement::Requeue);
        }
    }
}

impl fmt::Debug for Receipt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Receipt({})", self.tag)
    }
}

/// How a delivery ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Settlement {
    /// Handled.
    Ack,
    /// Back to the queue.
    Requeue,
    /// Dropped.
    Reject,
}

/// For adapters: where receipts settle. Never blocks; what it is told after its channel closed has no effect, since the broker
/// has by then returned the message to its queue.
pub trait Settle: Send + Sync {
    /// Ends the delivery with this tag.
    fn settle(&self, tag: u64, settlement: Settlement);

    /// Whether settling still has an effect. True unless the adapter knows better.
    fn is_open(&self) -> bool {
        true
    }

    /// So that an adapter can recognise its own receipts.
    fn as_any(&self) -> &dyn std::any::Any;
}

/// What a broker says of a queue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct QueueStats {
    /// Messages waiting for a consumer.
    pub ready: u64,
    /// Consumers subscribed; perhaps one that stopped, too, until the last of its deliveries is settled.
    pub consumers: u32,
}

/// What sets adapters apart, as data for the conformance suite and the runtime.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capabilities {
    /// Messages survive the end of the process.
    pub durable: bool,
    /// Others outside this process can publish and consume.
    pub shared: bool,
    /// [`Broker::publish_then_ack`] happens entirely or not at all.
    pub atomic_publish_then_ack: bool,
}

/// A broker. Cheap to share behind an `Arc`.
#[async_trait]
pub trait Broker: Send + Sync + 'static {
    /// What this adapter can do.
    fn capabilities(&self) -> Capabilities;

    /// Declares what is missing; what exists stays. Remembered, and declared again after a reconnect. An object that exists with
    /// other properties is an error that names it. Declaring a queue is a use of it, see [`Queue::expires_after`].
    async fn declare(&self, topology: &Topology) -> Result<(), BrokerError>;

    /// Removes bindings, and forgets them. No error for one that does not exist, or whose queue or exchange does not. What was routed before
    /// stays in the queue. A crash in the middle may leave some of them bound.
    async fn unbind(&self, bindings: &[Binding]) -> Result<(), BrokerError>;

    /// Publishes a batch; results in the order of the batch. `Ok` means durable in every queue it was routed to. A batch
    /// costs one round trip, and batches of several callers overlap. A message that one of its queues does not take because it is
    /// [full](Queue::length_max) is [`BrokerError::NotAccepted`]; others may have taken it. On an error the message may still have arrived: publish it
    /// [again](Publication::again) with the same `message_id`.
    async fn publish(&self, batch: Vec<Publication>) -> Vec<Result<(), BrokerError>>;

    /// Publishes, and once everything is confirmed, acks. If a publish fails, nothing is acked: the receipts come back in the error, with
    /// what is not confirmed of the batch, to be tried again by the caller ([`publish::all_then_ack`] does) or given up.
    async fn publish_then_ack(
        &self,
        batch: Vec<Publication>,
        receipts: Vec<Receipt>,
    ) -> Result<(), Unfinished> {
        let results = self.publish(batch.clone()).await;
        Unfinished::of(batch, results, receipts)?
            .into_iter()
            .for_each(Receipt::ack);
        Ok(())
    }

    /// Subscribes. The consumer lives through reconnects until it is cancelled or the broker is closed. An error if the queue
    /// does not exist.
    async fn consume(&self, options: ConsumeOptions) -> Result<Consumer, BrokerError>;

    /// Counts a queue's messages and consumers.
    async fn queue_stats(&self, queue: &str) -> Result<QueueStats, BrokerError>;

    /// The names of the queues that it knows of: all, where the broker tells; on RabbitMQ, which does not over AMQP, those declared here.
    fn known_queues(&self) -> Vec<Arc<str>> {
        Vec::new()
    }

    /// Removes all ready messages of a queue; returns how many.
    async fn purge(&self, queue: &str) -> Result<u64, BrokerError>;

    /// Removes a queue with its messages and bindings. No error if it does not exist. Its consumers are [lost](ConsumerState::Lost) until one
    /// of the same name is declared.
    async fn delete_queue(&self, queue: &str) -> Result<(), BrokerError>;

    /// Removes an exchange with its bindings. No error if it does not exist.
    async fn delete_exchange(&self, exchange: &str) -> Result<(), BrokerError>;

    /// Whether publishing and consuming can work now.
    fn is_connected(&self) -> bool;

    /// Sends the settlements that wait, cancels consumers and closes. Unsettled deliveries return to their queues. Idempotent.
    async fn close(&self);
}

/// A batch of which not all is confirmed. What is not in `left` is durable, and must not be sent again.
#[derive(Debug, thiserror::Error)]
#[error("{} messages are not published: {error}", left.len())]
pub struct Unfinished {
    /// Why. If there are several reasons, the one that waiting helps least.
    pub error: BrokerError,
    /// What is not confirmed, in its order. It may have arrived all the same: what goes again says [so](Publication::again).
    pub left: Vec<Publication>,
    /// What was to be acked afterwards. Empty if the broker was closed: the deliveries have returned to their queues.
    pub receipts: Vec<Receipt>,
}

impl Unfinished {
    /// For adapters: the receipts, if all of the batch is confirmed, to be acked now. `results` are those of [`Broker::publish`].
    pub fn of(
        batch: Vec<Publication>,
        results: Vec<Result<(), BrokerError>>,
        receipts: Vec<Receipt>,
    ) -> Result<Vec<Receipt>, Unfinished> {
        let (mut left, mut worst) = (Vec::new(), None::<BrokerError>);
        for (publication, result) in batch.into_iter().zip(results) {
            let Err(error) = result else {
                continue;
            };
            left.push(publication);
            worst = Some(match worst {
                Some(worst) if worst.remedy() >= error.remedy() => worst,
                _ => error,
            });
        }
        match worst {
            None => Ok(receipts),
            Some(error) => Err(Unfinished {
                error,
                left,
                receipts,
            }),
        }
    }
}

/// What may help against an error, the easiest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Remedy {
    /// Time.
    Wait,
    /// Declaring the topology: somebody deleted a part of it.
    Declare,
    /// Nothing that a program can do.
    Nothing,
}

/// Why a broker operation failed.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BrokerError {
    /// No queue takes the message.
    #[error(
        "no queue takes messages of exchange '{exchange}' with key '{routing_key}'; declare and bind one"
    )]
    Unroutable {
        /// The exchange.
        exchange: Arc<str>,
        /// The routing key.
        routing_key: Arc<str>,
    },
    /// The exchange or queue does not exist.
    #[error("{what} does not exist; declare it first")]
    NotFound {
        /// Which exchange or queue.
        what: String,
    },
    /// It exists with other properties.
    #[error("{what} exists with other properties: {detail}")]
    Mismatch {
        /// Which exchange or queue.
        what: String,
        /// What the broker said.
        detail: String,
    },
    /// It can never be declared so.
    #[error("{what} cannot be declared: {detail}")]
    Undeclarable {
        /// Which queue.
        what: String,
        /// Why.
        detail: String,
    },
    /// Credentials or rights are missing.
    #[error("the broker refused access: {detail}")]
    Refused {
        /// What the broker said, without secrets.
        detail: String,
    },
    /// The URL cannot be used.
    #[error("broker URL: {detail}")]
    Url {
        /// What is wrong, without secrets.
        detail: String,
    },
    /// The broker cannot be reached now, or went away in the middle: the message may or may not have arrived.
    #[error("the broker is not available: {detail}")]
    Unavailable {
        /// What happened.
        detail: String,
    },
    /// The broker did not take the message (nack, full queue, resource alarm).
    #[error("the broker did not accept the message: {detail}")]
    NotAccepted {
        /// What the broker said.
        detail: String,
    },
    /// The message is larger than this broker takes.
    #[error("the message has {size_bytes} bytes, the broker takes {max_bytes}")]
    TooLarge {
        /// The size of its body.
        size_bytes: usize,
        /// The largest that is taken.
        max_bytes: usize,
    },
    /// A name or property can never be sent as it is: AMQP keeps each in at most 255 bytes, and all headers in one frame.
    #[error("the message cannot be sent: {detail}")]
    Invalid {
        /// What is wrong with it.
        detail: String,
    },
    /// [`Broker::close`] was called.
    #[error("the broker connection was closed")]
    Closed,
}

impl BrokerError {
    /// Whether the same call may succeed later without a change.
    pub fn is_retryable(&self) -> bool {
        matches!(
            self,
            BrokerError::Unavailable { .. } | BrokerError::NotAccepted { .. }
        )
    }

    pub(crate) fn remedy(&self) -> Remedy {
        match self {
            error if error.is_retryable() => Remedy::Wait,
            BrokerError::Unroutable { .. } | BrokerError::NotFound { .. } => Remedy::Declare,
            _ => Remedy::Nothing,
        }
    }
}
