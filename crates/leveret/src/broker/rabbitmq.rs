//! RabbitMQ behind the seam, over AMQP 0-9-1.
//!
//! - **Two connections**: one publishes and declares, the other consumes (opened with the first consumer). A broker that is
//!   short of memory or disk blocks connections that publish; acks must still get through then, since they are what helps it.
//! - **Ours, not the client's recovery**: a connection that is lost, or silent for longer than the heartbeat allows, is given
//!   up and another is opened, for ever, with growing jittered pauses from 100 ms to 1 s. It first gets the remembered topology,
//!   then consumers subscribe and publishers go on.
//! - **What was in flight when a connection was lost** is an error to the publisher ([`BrokerError::Unavailable`], the message
//!   may have arrived) and a redelivery to the consumer (old receipts have no effect).
//!
//! [`RabbitMqOptions`] has every bound. Messages are persistent, mandatory and confirmed; queues are durable and have no
//! arguments, except for delay queues, those that say so by [`Queue`](super::Queue)'s bounds, and, if so set, `x-queue-type: quorum`, from RabbitMQ 4.0 on with `x-delivery-limit: -1`.
//!
//! Before RabbitMQ 4.0, give it a policy with `queue-version: 2` and `queue-mode: lazy`, which is how its classic queues work from then on:
//! a message then costs it half. These are no arguments of our queues, because others could not declare them then.
//!
//! A delivery that is not settled within the broker's `consumer_timeout`, 30 minutes unless it is configured otherwise, costs its consumer the
//! channel and comes again. Raise it where handlers take longer.
//!
//! A classic delay queue passes its messages on inside the broker, without confirms of its own: a broker that crashes in that
//! moment can lose the message. Quorum delay queues pass them on at least once.

mod acks;
mod backoff;
mod consume;
mod link;
mod publish;
mod returns;
mod screen;
mod topology;
mod transport;
mod url;
mod version;
mod wire;

use std::{
    fmt,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use lapin::tcp::OwnedTLSConfig;
use tokio::{
    sync::{OnceCell, mpsc, watch},
    time::{Instant, timeout},
};

use self::{
    consume::LiveCounts,
    link::{Keeper, Link, Target},
    publish::{Limits, Publisher},
    topology::{QueueForm, Remembered},
};
use super::{
    Binding, Broker, BrokerError, Capabilities, ConsumeOptions, Consumer, Publication, QueueStats,
    Topology,
};
use crate::redact::redact_url;

/// The largest frame, in bytes: what brokers propose unless they are set up otherwise. The bounds of headers follow from it, so that a broker that
/// takes less is refused. One that takes more would make the client library's buffers, 32 frames each, as much larger.
const FRAME_BYTES_MAX: usize = 128 * 1024;

/// The longest that [`Broker::close`] waits for settlements and unconfirmed messages.
const CLOSE_TIME_MAX: Duration = Duration::from_secs(10);

/// What kind of queues are declared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum QueueType {
    /// Classic queues, without arguments. On one node.
    #[default]
    Classic,
    /// Replicated queues, for a cluster. Foreign clients must declare them with the same argument.
    Quorum,
}

/// How to connect, and every bound.
#[derive(Clone)]
#[non_exhaustive]
pub struct RabbitMqOptions {
    /// `amqp://user:password@host:port/vhost`, or `amqps://` for TLS. Its parameters go over the options below: `heartbeat` in seconds,
    /// `queue_type` (`classic` or `quorum`), `cacertfile`, the path of the [`ca_file`](Self::ca_file). Frames have 128 KiB, whatever it says.
    pub url: String,
    /// Shown in the broker's management. `leveret`.
    pub connection_name: String,
    /// The most messages that are sent and not yet confirmed; publishers wait beyond. 2048.
    pub publish_window: usize,
    /// The largest body that is published, in bytes; larger ones are [`BrokerError::TooLarge`], unless they are
    /// copies of what the broker delivered. 16 MiB.
    pub message_bytes_max: usize,
    /// How long opening a connection may take, TLS and login included. 10 s.
    pub connect_timeout: Duration,
    /// How long publishing and declaring wait for a lost connection to come back, or for a blocking broker to take messages
    /// again, before they fail. 10 s.
    pub outage_wait: Duration,
    /// How long a message may stay unconfirmed before it counts as not arrived. 60 s.
    pub confirm_timeout: Duration,
    /// A connection that is silent for twice this time is given up; whole seconds. 10 s.
    pub heartbeat: Duration,
    /// How often each consumer asks whether the broker counts it; after three times that it does not, it subscribes again. 15 s.
    pub watchdog_interval: Duration,
    /// What kind of queues are declared. Classic.
    pub queue_type: QueueType,
    /// A PEM file with certificates to trust besides the system's. None.
    pub ca_file: Option<PathBuf>,
    /// Whether a broker that nobody can reach when the program starts is no error: it is connected to when it is there, and until then calls
    /// fail with [`BrokerError::Unavailable`]. Not with quorum queues, whose form depends on its version. No.
    pub late: bool,
}

impl RabbitMqOptions {
    /// The defaults, with this URL.
    pub fn new(url: impl Into<String>) -> RabbitMqOptions {
        RabbitMqOptions {
            url: url.into(),
            connection_name: "leveret".to_owned(),
            publish_window: 2048,
            message_bytes_max: 16 * 1024 * 1024,
            connect_timeout: Duration::from_secs(10),
            outage_wait: Duration::from_secs(10),
            confirm_timeout: Duration::from_secs(60),
            heartbeat: Duration::from_secs(10),
            watchdog_interval: Duration::from_secs(15),
            queue_type: QueueType::Classic,
            ca_file: None,
            late: false,
        }
    }

    fn target(&self, purpose: &str) -> Result<Target, BrokerError> {
        let mut uri = url::parse(&self.url)?;
        uri.query.heartbeat = Some(url::heartbeat(&uri, self.heartbeat));
        uri.query.frame_max = Some(FRAME_BYTES_MAX as u32);
        let ca_file = url::ca_file(&self.url).or_else(|| self.ca_file.clone());
        let cert_chain = ca_file.map(|path| {
            std::fs::read_to_string(&path).map_err(|error| BrokerError::Url {
                detail: format!("certificate file {}: {error}", path.display()),
            })
        });
        Ok(Target {
            uri,
            tls: OwnedTLSConfig {
                identity: None,
                cert_chain: cert_chain.transpose()?,
            },
            name: format!("{} ({purpose})", self.connection_name),
            connect_timeout: self.connect_timeout,
        })
    }

    fn limits(&self) -> Limits {
        Limits {
            window: self.publish_window.max(1),
            message_bytes_max: self.message_bytes_max,
            outage_wait: self.outage_wait,
            confirm_timeout: self.confirm_timeout,
        }
    }
}

/// Whether the URL is one of RabbitMQ, by its look alone.
pub(super) fn check_url(url: &str) -> Result<(), BrokerError> {
    url::parse(url)?;
    url::queue_type(url)?;
    Ok(())
}

/// Without the password.
impl fmt::Debug for RabbitMqOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RabbitMqOptions")
            .field("url", &redact_url(&self.url))
            .field("connection_name", &self.connection_name)
            .finish_non_exhaustive()
    }
}

/// What the tasks of one broker share.
struct Shared {
    options: RabbitMqOptions,
    topology: Arc<Remembered>,
    consuming: OnceCell<Arc<Keeper>>,
    live: LiveCounts,
    closing: watch::Sender<bool>,
}

impl Shared {
    /// The consuming connection, opened by the first who asks.
    async fn consume_keeper(&self) -> Result<&Arc<Keeper>, BrokerError> {
        self.consuming
            .get_or_try_init(|| async {
                Keeper::start(
                    self.options.target("consume")?,
                    self.topology.clone(),
                    false,
                )
                .await
            })
            .await
    }
}

/// What a broker has until it is closed.
struct Open {
    publisher: Publisher,
    /// Held by every task; closing waits until all are gone.
    alive: mpsc::Sender<()>,
    all_gone: mpsc::Receiver<()>,
}

/// A broker on RabbitMQ.
pub struct RabbitMq {
    shared: Arc<Shared>,
    publishing: Arc<Keeper>,
    open: Mutex<Option<Open>>,
    /// Held while closing, so that the second caller waits for the first.
    closed: tokio::sync::Mutex<()>,
    version: OnceCell<String>,
}

impl RabbitMq {
    /// Connects. An error if that fails now, so that a wrong URL or password shows at start, but for a broker that may come
    /// [late](RabbitMqOptions::late); a connection that is lost later is
    /// opened again by itself.
    pub async fn connect(options: RabbitMqOptions) -> Result<RabbitMq, BrokerError> {
        let queue_type = url::queue_type(&options.url)?.unwrap_or(options.queue_type);
        let version = match queue_type {
            QueueType::Classic => None,
            QueueType::Quorum => Some(version::ask(&options.target("version")?).await?),
        };
        let form = QueueForm::new(queue_type, version.as_deref().unwrap_or_default());
        let topology = Arc::new(Remembered::new(form));
        let publishing =
            Keeper::start(options.target("publish")?, topology.clone(), options.late).await?;
        let (alive, all_gone) = mpsc::channel(1);
        let publisher = Publisher::new(&publishing, options.limits(), &alive);
        Ok(RabbitMq {
            shared: Arc::new(Shared {
                options,
                topology,
                consuming: OnceCell::new(),
                live: LiveCounts::default(),
                closing: watch::Sender::new(false),
            }),
            publishing,
            open: Mutex::new(Some(Open {
                publisher,
                alive,
                all_gone,
            })),
            closed: tokio::sync::Mutex::default(),
            version: OnceCell::new_with(version),
        })
    }

    /// The broker's version, as in `3.10.8`. Asked once, by a connection that goes no further than the broker's greeting
    /// (the client library does not pass it on); the broker logs that connection as one that was not finished.
    pub async fn server_version(&self) -> Result<String, BrokerError> {
        self.not_closed()?;
        let version = self.version.get_or_try_init(|| async {
            version::ask(&self.shared.options.target("version")?).await
        });
        version.await.cloned()
    }

    fn not_closed(&self) -> Result<(), BrokerError> {
        match &*self.lock() {
            Some(_) => Ok(()),
            None => Err(BrokerError::Closed),
        }
    }

    /// The connection for declarations and questions.
    async fn link(&self) -> Result<Arc<Link>, BrokerError> {
        self.not_closed()?;
        let deadline = Instant::now() + self.shared.options.outage_wait;
        self.publishing.link_by(deadline).await
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Open>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for RabbitMq {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RabbitMq")
            .field("options", &self.shared.options)
            .field("connected", &self.is_connected())
            .finish_non_exhaustive()
    }
}

#[async_trait]
impl Broker for RabbitMq {
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            durable: true,
            shared: true,
            atomic_publish_then_ack: false,
        }
    }

    async fn declare(&self, topology: &Topology) -> Result<(), BrokerError> {
        let link = self.link().await?;
        self.shared.topology.declare(&link, topology).await
    }

    async fn unbind(&self, bindings: &[Binding]) -> Result<(), BrokerError> {
        let link = self.link().await?;
        self.shared.topology.unbind(&link, bindings).await
    }

    async fn publish(&self, batch: Vec<Publication>) -> Vec<Result<(), BrokerError>> {
        let publisher = self.lock().as_ref().map(|open| open.publisher.clone());
        match publisher {
            Some(publisher) => publisher.publish(batch).await,
            None => vec![Err(BrokerError::Closed); batch.len()],
        }
    }

    async fn consume(&self, options: ConsumeOptions) -> Result<Consumer, BrokerError> {
        let alive = self.lock().as_ref().map(|open| open.alive.clone());
        let alive = alive.ok_or(BrokerError::Closed)?;
        consume::consume(self.shared.clone(), options, alive).await
    }

    async fn queue_stats(&self, queue: &str) -> Result<QueueStats, BrokerError> {
        topology::stats(&*self.link().await?, queue).await
    }

    fn known_queues(&self) -> Vec<Arc<str>> {
        self.shared.topology.queue_names()
    }

    async fn purge(&self, queue: &str) -> Result<u64, BrokerError> {
        topology::purge(&*self.link().await?, queue).await
    }

    async fn delete_queue(&self, queue: &str) -> Result<(), BrokerError> {
        let link = self.link().await?;
        self.shared.topology.delete_queue(&link, queue).await
    }

    async fn delete_exchange(&self, exchange: &str) -> Result<(), BrokerError> {
        let link = self.link().await?;
        self.shared.topology.delete_exchange(&link, exchange).await
    }

    fn is_connected(&self) -> bool {
        let consuming = self.shared.consuming.get();
        self.not_closed().is_ok()
            && self.publishing.is_up()
            && consuming.is_none_or(|keeper| keeper.is_up())
    }

    async fn close(&self) {
        let _closing = self.closed.lock().await;
        let Some(open) = self.lock().take() else {
            return;
        };
        self.shared.closing.send_replace(true);
        let Open {
            publisher,
            alive,
            mut all_gone,
        } = open;
        // The lanes end when nobody can hand them anything.
        drop((publisher, alive));
        let _ = timeout(CLOSE_TIME_MAX, all_gone.recv()).await;
        if let Some(keeper) = self.shared.consuming.get() {
            keeper.stop().await;
        }
        self.publishing.stop().await;
    }
}

/// A broker that is dropped without being closed: its connections end, and the broker takes back what is unsettled.
impl Drop for RabbitMq {
    fn drop(&mut self) {
        self.shared.closing.send_replace(true);
        self.publishing.abandon();
        if let Some(keeper) = self.shared.consuming.get() {
            keeper.abandon();
        }
    }
}
