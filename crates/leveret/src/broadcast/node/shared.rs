//! What the parts of a node share: where it stands, and what it is made of.

use std::sync::Arc;

use leveret_core::broadcast::Position;
use tokio::{
    sync::{Notify, watch},
    time::Instant,
};

use super::{NodeError, NodeMetrics, NodeOptions, NodeParts};
use crate::{
    broadcast::{
        HeartLink, LinkError, NodeState, Registration, Replica, ReplicaError, replica::Standing,
    },
    broker::Broker,
    runtime::Clock,
};

/// Where a node stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeStatus {
    /// How it is.
    pub state: NodeState,
    /// Why it applies nothing, if it has a fault.
    pub fault: Option<String>,
    /// The last write that it has applied.
    pub position: Position,
    /// The rolling hash there.
    pub hash: u64,
    /// The last write of the log, as far as it has heard.
    pub last_seq: u64,
    /// Whether the heart calls it diverged: it answers no questions.
    pub quarantined: bool,
    /// The cluster, if it belongs to one.
    pub cluster: Option<Arc<str>>,
    pub(super) database_id: Arc<str>,
    pub(super) incarnation: u64,
    pub(super) restored: Option<u64>,
}

/// A seq behind which nothing is applied, until a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Hold {
    pub(super) at: u64,
    pub(super) until: Instant,
}

pub(super) struct Shared {
    pub(super) replica: Arc<dyn Replica>,
    pub(super) broker: Arc<dyn Broker>,
    pub(super) heart: Arc<dyn HeartLink>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) options: NodeOptions,
    pub(super) metrics: NodeMetrics,
    pub(super) status: watch::Sender<NodeStatus>,
    pub(super) hold: watch::Sender<Option<Hold>>,
    /// Somebody wants the lease renewed now.
    pub(super) renew: Notify,
    /// Somebody wants the log looked at now.
    pub(super) look: Notify,
}

impl Shared {
    pub(super) fn new(parts: NodeParts, options: NodeOptions, standing: Standing) -> Shared {
        let incarnation = draw(&*parts.clock);
        Shared {
            replica: parts.replica,
            broker: parts.broker,
            heart: parts.heart,
            clock: parts.clock,
            options,
            metrics: NodeMetrics::default(),
            status: watch::Sender::new(NodeStatus {
                state: NodeState::CatchingUp,
                fault: None,
                position: standing.position,
                hash: standing.hash,
                last_seq: standing.position.seq,
                quarantined: false,
                cluster: standing.cluster,
                database_id: standing.database_id,
                incarnation,
                restored: None,
            }),
            hold: watch::Sender::new(None),
            renew: Notify::new(),
            look: Notify::new(),
        }
    }

    /// What the heart is told.
    pub(super) fn registration(&self) -> Registration {
        let status = self.status.borrow();
        Registration {
            node_id: self.options.node_id.to_string(),
            database_id: status.database_id.to_string(),
            incarnation: status.incarnation,
            cluster: status.cluster.clone(),
            position: status.position,
            hash: status.hash,
            kind: self.replica.kind().to_owned(),
            advertise: self.options.advertise.clone(),
            seed: self.options.seed,
            state: status.state,
            fault: status.fault.clone(),
            restored: status.restored,
        }
    }

    pub(super) fn position(&self) -> Position {
        self.status.borrow().position
    }

    /// The node is in this state. A quarantined one that would be live is [`NodeState::Quarantined`].
    pub(super) fn set_state(&self, state: NodeState) {
        self.status.send_if_modified(|status| {
            let shown = match state {
                NodeState::Live | NodeState::CatchingUp if status.quarantined => {
                    NodeState::Quarantined
                }
                state => state,
            };
            let changed = status.state != shown || status.fault.is_some();
            status.state = shown;
            status.fault = None;
            changed
        });
    }

    pub(super) fn fault(&self, detail: String) {
        self.metrics.faults.inc();
        self.status.send_modify(|status| {
            status.state = NodeState::Faulted;
            status.fault = Some(detail);
        });
    }

    pub(super) fn set_cluster(&self, cluster: &Arc<str>) {
        self.status
            .send_modify(|status| status.cluster = Some(cluster.clone()));
    }

    /// The database has got there.
    pub(super) fn advance(&self, position: Position, hash: u64) {
        self.status.send_modify(|status| {
            status.position = position;
            status.hash = hash;
            status.last_seq = status.last_seq.max(position.seq);
        });
    }

    /// The log is known to have so many writes.
    pub(super) fn heard_of(&self, seq: u64) {
        self.status.send_if_modified(|status| {
            let is_news = seq > status.last_seq;
            status.last_seq = status.last_seq.max(seq);
            is_news
        });
    }

    /// The database has other contents now: it is another incarnation, and the order with this ticket is carried out.
    pub(super) fn reborn(&self, standing: Standing, ticket: Option<u64>) {
        let incarnation = draw(&*self.clock);
        self.status.send_modify(|status| {
            status.incarnation = incarnation;
            status.restored = ticket.or(status.restored);
            status.position = standing.position;
            status.hash = standing.hash;
            status.cluster = standing.cluster;
        });
    }

    pub(super) fn cannot_join(&self, source: LinkError) -> NodeError {
        let node_id = self.options.node_id.clone();
        NodeError::Join { node_id, source }
    }

    pub(super) fn bad_database(&self, source: ReplicaError) -> NodeError {
        let node_id = self.options.node_id.clone();
        NodeError::Database { node_id, source }
    }
}

/// A random number of 52 bits, which every JSON reader keeps.
fn draw(clock: &dyn Clock) -> u64 {
    (clock.random() * (1_u64 << 52) as f64) as u64
}
