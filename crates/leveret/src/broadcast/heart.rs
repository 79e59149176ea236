//! The heart: orders writes in its log, broadcasts them, and answers clients.
//!
//! ```text
//! write -> gather -> one append, epoch checked -> outbox -> exchange (confirmed, in log order) -> nodes
//!            |                 '-> answer `accepted`                                               |
//!            '---- answer `one`, `quorum`, `all` <---- reports: position, outcomes, hashes --------'
//! ```
//!
//! - **What is acknowledged is in the log**, at every level. The broker is a fast path: while it is down, writes are accepted, nodes fetch them
//!   from the log, and what is unpublished goes out afterwards.
//! - **One heart at a time**: it has the log for a lease and under an epoch. A write of one that lost it is refused by the log itself; a question
//!   of level `latest` is refused by a heart whose lease has run out.
//! - **A write keeps its outcome**: an error in SQL is an outcome at its seq. A write whose level is not reached in time stays; the same key
//!   waits again.
//! - **Nodes that differ are quarantined**: rolling hashes of outcomes are compared at the same seqs.
//!
//! [`Heart::new`] makes it, [`Heart::serve`] runs it: as a standby while another heart has the log.

mod admin;
mod append;
#[cfg(feature = "http")]
mod http;
mod keep;
mod lead;
mod marks;
mod members;
mod metrics;
mod phase;
mod publish;
mod read;
mod register;
mod reports;
mod request;
mod state;
mod status;
mod waiting;

use std::{fmt, path::PathBuf, sync::Arc, time::Duration};

use leveret_core::broadcast::{Outcome, Position};
use tokio::sync::Notify;

#[cfg(feature = "http")]
pub use self::http::{document, router};
pub use self::{
    admin::{NodeContents, Recovered, Verified},
    metrics::HeartMetrics,
    request::{
        ARGS_MAX, Ack, Level, Mistake, ReadRequest, STATEMENTS_MAX, TIMEOUT_DEFAULT, TIMEOUT_MAX,
        WriteRequest,
    },
    status::{HeartState, NodeStatus, Status},
};
use self::{append::Submitted, state::State};
use super::{
    link::{LinkError, NodeLink},
    log::{LogError, WriteLog},
    replica::{ReadError, Rows},
    wire::Names,
};
use crate::{
    batcher::Batcher,
    broker::{Broker, BrokerError},
    runtime::Clock,
};

/// The most writes in one append.
const APPEND_WRITES_MAX: usize = 512;

/// How a heart reaches a node, from what it advertises and the id of its database: another node at the same address must not answer in its
/// place.
pub type Links = Arc<dyn Fn(&str, &str) -> Result<Arc<dyn NodeLink>, LinkError> + Send + Sync>;

/// What a heart is made of.
pub struct HeartParts {
    /// The truth.
    pub log: Arc<dyn WriteLog>,
    /// The fast path.
    pub broker: Arc<dyn Broker>,
    /// How it reaches nodes.
    pub links: Links,
    /// The time, and random numbers.
    pub clock: Arc<dyn Clock>,
}

impl fmt::Debug for HeartParts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HeartParts").finish_non_exhaustive()
    }
}

/// A heart's names and bounds.
#[derive(Clone, Debug)]
pub struct HeartOptions {
    /// Who has the log, stable for this heart: under the same name it takes its own lease back at once.
    pub owner: String,
    /// The names at the broker.
    pub names: Names,
    /// Where snapshots are kept, and put on their way.
    pub directory: PathBuf,
    /// How long a node's name is its own without a renewal, and how long it counts as reachable. 10 s.
    pub node_lease: Duration,
    /// A log with more bytes is truncated behind a snapshot. 1 GiB.
    pub log_bytes_max: u64,
    /// A log whose oldest write is older is truncated behind a snapshot. 7 days.
    pub log_age_max: Duration,
    /// A node's queue in which more messages wait is deleted: the node comes back by the log, or a snapshot. 100,000.
    pub queue_messages_max: u64,
    /// How long clients' keys are known. 24 h.
    pub keys_age_max: Duration,
}

impl HeartOptions {
    /// The defaults.
    pub fn new(owner: impl Into<String>, directory: impl Into<PathBuf>) -> HeartOptions {
        HeartOptions {
            owner: owner.into(),
            names: Names::default(),
            directory: directory.into(),
            node_lease: Duration::from_secs(10),
            log_bytes_max: 1 << 30,
            log_age_max: Duration::from_secs(7 * 24 * 3600),
            queue_messages_max: 100_000,
            keys_age_max: Duration::from_secs(24 * 3600),
        }
    }
}

/// A heart. Clones share it.
#[derive(Clone)]
pub struct Heart(Arc<Shared>);

struct Shared {
    parts: HeartParts,
    options: HeartOptions,
    metrics: HeartMetrics,
    state: std::sync::Mutex<State>,
    /// Something changed that a reader or an operator may wait for.
    changed: Notify,
    /// Whether this heart has the log.
    leads: tokio::sync::watch::Sender<bool>,
    /// Something waits to be published.
    outgoing: Notify,
    /// Held for writing where nothing may be appended, such as while contents are compared.
    gate: tokio::sync::RwLock<()>,
    /// Writes on their way into the log: one append at a time, in order.
    submits: std::sync::OnceLock<Batcher<append::Submit, Result<Submitted, WriteError>>>,
}

impl fmt::Debug for Heart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Heart")
            .field("options", &self.0.options)
            .finish_non_exhaustive()
    }
}

/// What came of a write.
#[derive(Clone, Debug, PartialEq)]
pub struct Written {
    /// Its place, for good.
    pub position: Position,
    /// What came of it; none at level `accepted`.
    pub outcome: Option<Outcome>,
}

/// An answer to a question.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    /// The rows, and the seq of the snapshot that gave them.
    pub rows: Rows,
    /// Who gave them.
    pub node_id: Arc<str>,
}

/// Why a write is not answered as asked.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WriteError {
    /// The key belongs to another write; nothing was logged.
    #[error("the key belongs to a write with other statements or arguments")]
    KeyTaken,
    /// It is logged and stays, but was not applied by as many nodes as asked for in time.
    #[error(
        "the write is logged (epoch {}, seq {}), but not applied as widely as asked in time",
        position.epoch, position.seq
    )]
    NotYet {
        /// Its place.
        position: Position,
    },
    /// A member takes the portable subset of SQL alone, and this is not of it; nothing was logged.
    #[error("not portable, as a PostgreSQL node needs it: {detail}")]
    NotPortable {
        /// Which statement, from 0.
        statement: usize,
        /// What is not.
        detail: String,
    },
    /// This heart does not take writes now.
    #[error("{detail}")]
    Unavailable {
        /// Why.
        detail: String,
    },
    /// The log does not answer: the write may be logged or not. With a key it can be repeated.
    #[error("it is not known whether the write is logged: {detail}")]
    Uncertain {
        /// What happened.
        detail: String,
    },
}

/// Why a question has no answer.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum QuestionError {
    /// The node says no: the same anywhere.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// No node is as fresh as asked for, in time.
    #[error("no node has applied seq {min_seq} in time")]
    NotYet {
        /// What was asked for.
        min_seq: u64,
    },
    /// No node can be asked, or none answered in time.
    #[error("no node answers: {detail}")]
    NoNode {
        /// What happened last.
        detail: String,
    },
    /// This heart cannot say what is latest.
    #[error("{detail}")]
    NotLatest {
        /// Why.
        detail: String,
    },
}

/// Why an operator's order cannot be carried out.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AdminError {
    /// There is no such node.
    #[error("there is no node '{0}'")]
    NoNode(String),
    /// It is not possible as things stand.
    #[error("{0}")]
    Refused(String),
    /// It is not possible now.
    #[error("{0}")]
    Unavailable(String),
}

impl From<LogError> for AdminError {
    fn from(error: LogError) -> AdminError {
        AdminError::Unavailable(error.to_string())
    }
}

/// Why a heart ends.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HeartError {
    /// The log cannot be used as it is.
    #[error("the log cannot be used")]
    Log(#[from] LogError),
    /// The broker says no.
    #[error("the broker cannot be used")]
    Broker(#[from] BrokerError),
}

impl Heart {
    /// A heart over these parts, which does nothing until it is [served](Heart::serve).
    pub fn new(parts: HeartParts, options: HeartOptions) -> Heart {
        let shared = Arc::new(Shared {
            parts,
            options,
            metrics: HeartMetrics::default(),
            state: std::sync::Mutex::default(),
            changed: Notify::new(),
            leads: tokio::sync::watch::Sender::new(false),
            outgoing: Notify::new(),
            gate: tokio::sync::RwLock::new(()),
            submits: std::sync::OnceLock::new(),
        });
        let weak = Arc::downgrade(&shared);
        let submits = Batcher::new(APPEND_WRITES_MAX, 1, move |batch| {
            let shared = weak.upgrade();
            async move {
                match shared {
                    Some(shared) => append::append(&shared, batch).await,
                    None => Vec::new(),
                }
            }
        });
        drop(shared.submits.set(submits));
        Heart(shared)
    }

    /// What it counts.
    pub fn metrics(&self) -> &HeartMetrics {
        &self.0.metrics
    }
}

impl Shared {
    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn now(&self) -> leveret_core::time::Timestamp {
        self.parts.clock.now()
    }
}
