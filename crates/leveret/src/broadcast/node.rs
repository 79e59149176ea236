//! A node: a replica, the consumer of its queue, and its lease with the heart.
//!
//! ```text
//! lease -> queue bound -> snapshot if ordered -> log from the heart -> deliveries: apply -> report + confirm -> ack
//! ```
//!
//! - **Nothing is consumed without the lease on the name**, so that two processes never share a queue.
//! - **Applied in order, each once**: the position is in the transaction of the effects. What was applied before is skipped, what is missing is
//!   fetched from the heart's log, and so is everything that no queue brings.
//! - **Ack last**: a delivery is acknowledged when it is applied and its report is confirmed. A crash anywhere before brings it again.
//! - **A fault of this machine skips nothing**: the node is [`NodeState::Faulted`], consumes nothing and answers no questions until the same
//!   write succeeds.
//! - **What is no write of this cluster** goes to the dead letters beside the queue, confirmed, and is then acked.

mod apply;
mod deliveries;
#[cfg(feature = "http")]
mod http;
mod lease;
mod link;
mod metrics;
mod report;
mod session;
mod shared;

use std::{fmt, path::PathBuf, sync::Arc, time::Duration};

use tokio::{sync::watch, time::sleep};

#[cfg(feature = "http")]
pub use self::http::{document, router};
use self::{
    lease::Lease,
    session::{Break, Session, until_stopped},
    shared::Shared,
};
pub use self::{metrics::NodeMetrics, shared::NodeStatus};
use super::{
    HeartLink, Joined, LinkError, NodeLink, NodeState, Replica, ReplicaError, wire::Names,
};
use crate::{
    broker::{Broker, BrokerError},
    runtime::Clock,
};

/// What a node is made of.
pub struct NodeParts {
    /// Its database.
    pub replica: Arc<dyn Replica>,
    /// Where writes come from.
    pub broker: Arc<dyn Broker>,
    /// Its heart, or several of which one is active.
    pub heart: Arc<dyn HeartLink>,
    /// The time, for messages.
    pub clock: Arc<dyn Clock>,
}

impl fmt::Debug for NodeParts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NodeParts").finish_non_exhaustive()
    }
}

/// A node's names and bounds.
#[derive(Clone, Debug)]
pub struct NodeOptions {
    /// Its name, unique in the cluster.
    pub node_id: Arc<str>,
    /// The names at the broker.
    pub names: Names,
    /// Where its link answers, such as `http://10.0.0.2:7091`.
    pub advertise: String,
    /// Whether a database that has tables may be the beginning of a cluster. Default false.
    pub seed: bool,
    /// Where snapshots are put on their way.
    pub directory: PathBuf,
    /// Deliveries taken and not yet acknowledged. 128.
    pub prefetch: u16,
    /// The most writes in a transaction. 1024.
    pub batch_writes_max: usize,
    /// The pause before a fault is tried again doubles from 250 ms up to this. 5 s.
    pub fault_pause_max: Duration,
}

impl NodeOptions {
    /// The defaults for this node.
    pub fn new(node_id: impl Into<Arc<str>>, directory: impl Into<PathBuf>) -> NodeOptions {
        NodeOptions {
            node_id: node_id.into(),
            names: Names::default(),
            advertise: String::new(),
            seed: false,
            directory: directory.into(),
            prefetch: 128,
            batch_writes_max: 1024,
            fault_pause_max: Duration::from_secs(5),
        }
    }

    fn queue(&self) -> Arc<str> {
        self.names.node_queue(&self.node_id)
    }
}

/// How a node ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NodeEnd {
    /// As asked: what was applied is reported and acknowledged, the rest is in the queue.
    Stopped,
    /// It was removed from the cluster; its queue is deleted.
    Removed,
}

/// Why a node cannot go on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NodeError {
    /// The heart says no, or the name is taken.
    #[error("node '{node_id}' cannot join")]
    Join {
        /// The node.
        node_id: Arc<str>,
        /// What the heart says.
        source: LinkError,
    },
    /// The database cannot be used as it is.
    #[error("node '{node_id}' cannot use its database")]
    Database {
        /// The node.
        node_id: Arc<str>,
        /// Why.
        source: ReplicaError,
    },
    /// The broker says no.
    #[error("node '{node_id}' cannot use the broker")]
    Broker {
        /// The node.
        node_id: Arc<str>,
        /// What it says.
        source: BrokerError,
    },
}

/// A node of a cluster. Cheap to clone.
#[derive(Clone)]
pub struct Node(Arc<Shared>);

impl fmt::Debug for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Node")
            .field("node_id", &self.0.options.node_id)
            .finish_non_exhaustive()
    }
}

/// The first pause after a fault.
const FAULT_PAUSE: Duration = Duration::from_millis(250);

impl Node {
    /// A node over its database, which has no other user. [`run`](Self::run) makes it live.
    pub async fn open(parts: NodeParts, options: NodeOptions) -> Result<Node, NodeError> {
        let standing = parts.replica.standing().await;
        let standing = standing.map_err(|source| NodeError::Database {
            node_id: options.node_id.clone(),
            source,
        })?;
        let is_foreign = standing.cluster.is_none() && standing.has_tables;
        if is_foreign && !options.seed {
            return Err(NodeError::Database {
                node_id: options.node_id,
                source: ReplicaError::NotEmpty,
            });
        }
        Ok(Node(Arc::new(Shared::new(parts, options, standing))))
    }

    /// What its heart asks it for, in the same process.
    pub fn link(&self) -> Arc<dyn NodeLink> {
        self.0.clone()
    }

    /// Where it stands.
    pub fn status(&self) -> NodeStatus {
        self.0.status.borrow().clone()
    }

    /// Follows where it stands.
    pub fn watch(&self) -> watch::Receiver<NodeStatus> {
        self.0.status.subscribe()
    }

    /// What it counts.
    pub fn metrics(&self) -> &NodeMetrics {
        &self.0.metrics
    }

    /// Takes the lease, catches up, and applies what arrives until `stopped` turns true or the node is removed. Once for each node.
    ///
    /// Waits for heart and broker as long as they are away, and for the end of faults of its database. When it returns, what it applied is
    /// durable; what was not acknowledged comes again and is known by its position.
    pub async fn run(&self, mut stopped: watch::Receiver<bool>) -> Result<NodeEnd, NodeError> {
        let mut lease = Lease::start(self.0.clone());
        let end = match until_stopped(&mut stopped, lease.joined()).await {
            Ok(Ok(joined)) => self.work(&lease, joined, stopped).await,
            Ok(Err(source)) => Err(self.0.cannot_join(source)),
            Err(_) => Ok(NodeEnd::Stopped),
        };
        lease.stop().await;
        end
    }

    async fn work(
        &self,
        lease: &Lease,
        joined: Joined,
        mut stopped: watch::Receiver<bool>,
    ) -> Result<NodeEnd, NodeError> {
        let shared = &self.0;
        let adopted = shared.replica.adopt(&joined.cluster, shared.options.seed);
        adopted
            .await
            .map_err(|source| shared.bad_database(source))?;
        shared.set_cluster(&joined.cluster);
        let mut pause = FAULT_PAUSE;
        loop {
            let cluster = joined.cluster.clone();
            let mut session = Session::new(shared.clone(), lease, cluster, stopped.clone());
            let broken = session.run().await;
            session.end().await;
            match broken {
                Break::Stopped => return Ok(NodeEnd::Stopped),
                Break::Removed => return self.leave().await,
                Break::Join(source) => return Err(shared.cannot_join(source)),
                Break::Database(source) => return Err(shared.bad_database(source)),
                Break::Broker(source) => {
                    let node_id = shared.options.node_id.clone();
                    return Err(NodeError::Broker { node_id, source });
                }
                // The session restores by itself.
                Break::Restore(_) => {}
                Break::Fault(detail) => {
                    if shared.status.borrow().state != NodeState::Faulted {
                        pause = FAULT_PAUSE;
                        tracing::error!(%detail, "the node's database has a fault; nothing is applied until it is mended");
                    }
                    shared.fault(detail);
                    lease.renew();
                    let pausing = until_stopped(&mut stopped, sleep(pause)).await;
                    if pausing.is_err() {
                        return Ok(NodeEnd::Stopped);
                    }
                    pause = (pause * 2).min(shared.options.fault_pause_max);
                }
            }
        }
    }

    /// Deletes the queue of a node that is no member any more. Its dead letters stay.
    async fn leave(&self) -> Result<NodeEnd, NodeError> {
        let shared = &self.0;
        tracing::info!(node_id = %shared.options.node_id, "the node was removed from the cluster");
        let queue = shared.options.queue();
        if let Err(error) = shared.broker.delete_queue(&queue).await {
            tracing::warn!(%error, %queue, "the queue of the removed node was not deleted");
        }
        Ok(NodeEnd::Removed)
    }
}
