//! The seam of a service's state: documents, each with a version, and what a commit takes along with them.
//!
//! A [`Commit`] is atomic: the documents with the versions that they are expected to have, the inbox entry of the message that caused them,
//! the messages that go out, deadlines, parked messages. All of it is durable when [`Documents::commit`] returns `Done` for it; nothing of it
//! is there after `Repeated`, `Conflict`, an error, or a crash before the commit.
//!
//! - **The inbox** recognises a message: a commit whose message was handled before changes nothing.
//! - **The outbox** keeps what goes out until the broker has it. In a *lane*, which is an aggregate's, messages leave one after the other: those
//!   that the committer gets back it may publish at once; those behind others of the lane go when these are [sent](Documents::sent). What a
//!   process holds when it ends is [claimed](Documents::claim_outgoing) by another one when its lease is over.
//! - **Deadlines** are an aggregate's: set, moved and cancelled by its commits; a commit that says so takes a due one away, so that it fires once.
//! - **Parked messages** came too early for a document: they come with it when it is loaded, and go with the commit that applies them.
//!
//! Times for leases and deadlines are the store's own where several processes share it, so that clocks that differ do no harm; where it belongs
//! to one process, or is in memory, `now` is the time.

mod check;
pub mod conformance;
mod connect;
mod cursor;
mod lanes;
mod lists;
#[cfg(test)]
mod measure;
pub mod memory;
#[cfg(feature = "mongodb")]
pub mod mongodb;
#[cfg(feature = "postgres")]
pub mod postgres;
pub mod sqlite;

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use async_trait::async_trait;
use leveret_core::{json::Json, time::Timestamp};

pub(super) use self::check::{check_handled, check_id, check_outgoing, check_values};
pub use self::connect::connect;
use crate::broker::{Message, Publication};

/// What a document is called: a kind, declared when the documents are opened, and an id within it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// The kind, such as `order`.
    pub kind: Arc<str>,
    /// The id: at most [`KEY_BYTES_MAX`] bytes, not empty, no control characters.
    pub id: Arc<str>,
}

/// The longest id of a document, in bytes.
pub const KEY_BYTES_MAX: usize = 200;

/// The longest name of anything else, in bytes: a lane, a consumer, a message, a deadline, an exchange, a routing key, a queue. AMQP has no
/// longer ones.
pub const NAME_BYTES_MAX: usize = 255;

/// The most values of all fields of a document.
pub const FIELD_VALUES_MAX: usize = 1000;

/// The longest value of a field, in bytes.
pub const FIELD_BYTES_MAX: usize = 1000;

impl Key {
    /// A key.
    pub fn new(kind: impl Into<Arc<str>>, id: impl Into<Arc<str>>) -> Key {
        Key {
            kind: kind.into(),
            id: id.into(),
        }
    }
}

/// A kind of documents, declared once. What is declared later is indexed from then on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kind {
    /// Its name: 1 to [`KIND_BYTES_MAX`] letters, digits, `_`, `-` of ASCII.
    pub name: Arc<str>,
    /// The fields that [`Query`] may ask for, each indexed; named like kinds.
    pub fields: Vec<Arc<str>>,
}

/// The longest name of a kind or field, in bytes.
pub const KIND_BYTES_MAX: usize = 50;

impl Kind {
    /// A kind with these fields.
    pub fn new(name: &str, fields: &[&str]) -> Kind {
        Kind {
            name: name.into(),
            fields: fields.iter().map(|&field| field.into()).collect(),
        }
    }
}

/// The values of a document's declared fields, as pairs. A field may have several values: a list finds the document by each of them; by a field
/// without a value it is not found.
pub type Fields = BTreeSet<(Arc<str>, Arc<str>)>;

/// A document as it is stored.
#[derive(Clone, Debug, PartialEq)]
pub struct Document {
    /// Its name.
    pub key: Key,
    /// What the last [`Put`] said; 0 when it never was put.
    pub version: u64,
    /// Its state; none when it was never put, was deleted, or only messages are parked for it.
    pub state: Option<Json>,
    /// When its state was first put; 0 before that.
    pub created_at: Timestamp,
    /// What came too early, in the order of [`Parked::order`], then of their arrival.
    pub parked: Vec<Parked>,
}

/// A document in a commit.
#[derive(Clone, Debug, PartialEq)]
pub struct Put {
    /// Its name.
    pub key: Key,
    /// The version it has: another one is a conflict. 0: it must not have been put.
    pub expected: u64,
    /// The version it gets, larger than that by the number of decisions that the put stands for.
    pub version: u64,
    /// What becomes of its state.
    pub state: NewState,
}

/// What becomes of a document's state.
#[derive(Clone, Debug, PartialEq)]
pub enum NewState {
    /// It stays, fields included: the document takes part only with its version.
    Keep,
    /// A new one, with the fields that lists find it by.
    Set(Json, Fields),
    /// There is none any more; the version goes on.
    Remove,
}

/// The message that a commit handles.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Handled {
    /// Who handles it; the same message means something else to another.
    pub consumer: Arc<str>,
    /// What it is recognised by.
    pub message_id: Arc<str>,
}

/// A message on its way out.
#[derive(Clone, Debug, PartialEq)]
pub struct Outgoing {
    /// What it must keep the order with: its aggregate.
    pub lane: Arc<str>,
    /// What is published.
    pub publication: Publication,
    /// Whether it is a mistake when no queue takes it; else that counts as sent, as for an event that nobody subscribes to.
    pub must_route: bool,
}

/// An outgoing message that this process may publish now, until the lease is over.
#[derive(Clone, Debug, PartialEq)]
pub struct Claimed {
    /// What [`Documents::sent`] knows it by.
    pub id: OutgoingId,
    /// The message.
    pub outgoing: Outgoing,
    /// When it was committed.
    pub created_at: Timestamp,
}

/// A name of an outgoing message, in the order of commits within a lane.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OutgoingId(pub Arc<str>);

/// A deadline of a document. A document has one of a name at most.
#[derive(Clone, Debug, PartialEq)]
pub enum DeadlineChange {
    /// Sets or moves it.
    Set {
        /// Whose.
        key: Key,
        /// Its name, such as `payment`.
        name: Arc<str>,
        /// When it is due.
        at: Timestamp,
    },
    /// Takes it away; no error if there is none.
    Cancel {
        /// Whose.
        key: Key,
        /// Its name.
        name: Arc<str>,
    },
}

impl DeadlineChange {
    /// Whose deadline it changes, and its name.
    pub fn whose(&self) -> (&Key, &Arc<str>) {
        let (DeadlineChange::Set { key, name, .. } | DeadlineChange::Cancel { key, name }) = self;
        (key, name)
    }
}

/// A deadline that is due, claimed until the lease is over. The commit that handles it cancels it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Due {
    /// Whose.
    pub key: Key,
    /// Its name.
    pub name: Arc<str>,
    /// When it was due: with key and name its identity.
    pub at: Timestamp,
}

/// A message that came too early for its document. Parking it puts the document too (with the state it has), so that nobody can fill the gap
/// in between unseen.
#[derive(Clone, Debug, PartialEq)]
pub struct Parked {
    /// Which document it waits for.
    pub key: Key,
    /// What it is recognised by: one of these for each document, the first that came.
    pub handled: Handled,
    /// Which comes first, such as the version of its aggregate.
    pub order: u64,
    /// When it came.
    pub at: Timestamp,
    /// The message.
    pub message: Message,
    /// The queue that it came from.
    pub queue: Arc<str>,
}

/// What happens together, or not at all.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Commit {
    /// The messages that are handled with it, the parked ones that it applies included. One that was handled before makes the commit `Repeated`.
    pub handled: Vec<Handled>,
    /// Documents; each key once in the commit and once in its batch, at most [`Capabilities::documents_per_commit`].
    pub put: Vec<Put>,
    /// Messages that go out, in this order in each lane.
    pub publish: Vec<Outgoing>,
    /// Deadlines of documents among `put`.
    pub deadlines: Vec<DeadlineChange>,
    /// Messages that wait for documents among `put`.
    pub park: Vec<Parked>,
    /// Parked messages that are applied or given up, of documents among `put`. They go before others come.
    pub unpark: Vec<(Key, Handled)>,
}

/// What became of a commit.
#[derive(Clone, Debug, PartialEq)]
pub enum Committed {
    /// It is durable. These of its messages the caller may, and is to, publish now; the others wait behind messages of their lanes, and
    /// whoever sends these gets them.
    Done(Vec<Claimed>),
    /// These messages of it were handled before, all that were; nothing changed.
    Repeated(Vec<Handled>),
    /// A document has another version: nothing changed; load and decide again.
    Conflict(Key),
}

/// The order of a list.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Order {
    /// Those whose state was put first the latest come first.
    #[default]
    Newest,
    /// The other way round.
    Oldest,
}

/// A question for documents that have a state.
#[derive(Clone, Debug, PartialEq)]
pub struct Query {
    /// The kind.
    pub kind: Arc<str>,
    /// Declared fields and the values they must have, all of them.
    pub filter: Vec<(Arc<str>, Arc<str>)>,
    /// The order.
    pub order: Order,
    /// Goes on behind this document, as [`Page::next`] said.
    pub after: Option<Arc<str>>,
    /// The most documents, 1 to [`PAGE_MAX`].
    pub limit: u32,
}

/// The most documents in one page.
pub const PAGE_MAX: u32 = 1000;

/// A page of a list. Parked messages are left out.
#[derive(Clone, Debug, PartialEq)]
pub struct Page {
    /// The documents.
    pub documents: Vec<Document>,
    /// Where the next page begins, if there is one. Opaque to clients.
    pub next: Option<Arc<str>>,
}

/// What waits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Backlog {
    /// Outgoing messages.
    pub outgoing: u64,
    /// When the oldest of them was committed.
    pub outgoing_oldest: Option<Timestamp>,
    /// Parked messages.
    pub parked: u64,
    /// When the oldest of them came.
    pub parked_oldest: Option<Timestamp>,
    /// Deadlines that are set.
    pub deadlines: u64,
}

/// What sets adapters apart, as data for the conformance suite and the services.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capabilities {
    /// What is committed survives the end of the process.
    pub durable: bool,
    /// Other processes can open the same documents.
    pub shared: bool,
    /// The most documents in one commit.
    pub documents_per_commit: usize,
    /// Messages of several documents can be of one lane, and a commit that puts no document can publish to several. Where not, a lane keeps the
    /// order, and has one holder, among the messages of commits that put the same document, or that put none and publish first to the same lane.
    pub lanes_span_documents: bool,
    /// The most commits that are worth one call.
    pub batch_max: usize,
    /// The most calls that are worth being made at once.
    pub calls_max: usize,
    /// How long a claimed message or deadline belongs to who claimed it: [`LEASE`], unless the adapter was opened with another one.
    pub lease: Duration,
}

/// How long this process has a claimed message or deadline to itself, at most; a process that ends has nothing to itself any more. Nothing renews it: what is not sent by then may go out twice, with the
/// same `message_id`.
pub const LEASE: Duration = Duration::from_secs(30);

/// The most messages of a lane that are claimed at once; more only of one commit that publishes more.
pub const LANE_CLAIM_MAX: usize = 100;

/// A service's documents. Cheap to share behind an `Arc`.
#[async_trait]
pub trait Documents: Send + Sync + 'static {
    /// What this adapter can do.
    fn capabilities(&self) -> Capabilities;

    /// Documents with what is parked for them, in the order of the keys. One that does not exist has version 0 and no state.
    async fn load(&self, keys: &[Key]) -> Result<Vec<Document>, DocumentsError>;

    /// Commits each, independent of the others: no two of a batch put the same document or handle the same message; messages of one lane keep
    /// the order of the batch. Those that are `Done` are durable when it returns.
    ///
    /// # Errors
    /// [`DocumentsError::Invalid`] for the whole batch when one of it cannot be; nothing happened. After any other error each of them may have
    /// happened: repeat them, the inbox and the versions tell.
    async fn commit(
        &self,
        batch: &[Commit],
        now: Timestamp,
    ) -> Result<Vec<Committed>, DocumentsError>;

    /// A page of documents.
    async fn list(&self, query: &Query) -> Result<Page, DocumentsError>;

    /// How many documents with a state a list without bounds would have.
    async fn count(
        &self,
        kind: &str,
        filter: &[(Arc<str>, Arc<str>)],
    ) -> Result<u64, DocumentsError>;

    /// Messages of lanes that nobody has a lease on: of each the first ones, in order, at most [`LANE_CLAIM_MAX`]; all for nobody else until the
    /// lease is over. The lanes that wait longest come first, those that were claimed in vain go behind.
    async fn claim_outgoing(
        &self,
        limit: u32,
        now: Timestamp,
    ) -> Result<Vec<Claimed>, DocumentsError>;

    /// Forgets messages that the broker has, and gives out, claimed, those that waited directly behind them, when nobody has any other of the
    /// lane. Not durable at once: a message that is sent again after a crash has the same `message_id`. One that is gone is no error.
    async fn sent(
        &self,
        ids: &[OutgoingId],
        now: Timestamp,
    ) -> Result<Vec<Claimed>, DocumentsError>;

    /// Gives claims back at once, those of a broker that is away. What is gone or has no lease is no error.
    async fn release(&self, ids: &[OutgoingId]) -> Result<(), DocumentsError>;

    /// Deadlines that are due, earliest first, and last those that were claimed in vain; each for nobody else until the lease is over.
    async fn claim_deadlines(&self, limit: u32, now: Timestamp)
    -> Result<Vec<Due>, DocumentsError>;

    /// When the next deadline can be claimed: it is due, or its lease is over.
    async fn next_deadline(&self) -> Result<Option<Timestamp>, DocumentsError>;

    /// What waits.
    async fn backlog(&self) -> Result<Backlog, DocumentsError>;

    /// Forgets inbox entries that are older than `keep`, at most `limit` at once; returns how many.
    async fn prune(
        &self,
        now: Timestamp,
        keep: Duration,
        limit: u32,
    ) -> Result<u64, DocumentsError>;

    /// Whether it answers.
    async fn ping(&self) -> Result<(), DocumentsError>;

    /// Closes it. Idempotent.
    async fn close(&self);
}

/// Why documents are not read or written.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DocumentsError {
    /// The database cannot be reached now, or went away in the middle: what was asked for may have happened.
    #[error("the service's database is not available: {detail}")]
    Unavailable {
        /// What happened.
        detail: String,
    },
    /// After a failed commit nobody knows what is on disk: it takes nothing more until it is opened again.
    #[error("the service's database may have lost a commit and must be opened again: {detail}")]
    Uncertain {
        /// What happened.
        detail: String,
    },
    /// The URL cannot be used.
    #[error("service store URL: {detail}")]
    Url {
        /// What is wrong, without secrets.
        detail: String,
    },
    /// A kind, field, cursor, key or commit that cannot be.
    #[error("{detail}")]
    Invalid {
        /// What is wrong.
        detail: String,
    },
    /// The database refused, and would again.
    #[error("the service's database refused: {detail}")]
    Refused {
        /// What it said.
        detail: String,
    },
    /// [`Documents::close`] was called.
    #[error("the service's database was closed")]
    Closed,
}

impl DocumentsError {
    /// Whether the same call may succeed later without a change.
    pub fn is_retryable(&self) -> bool {
        matches!(self, DocumentsError::Unavailable { .. })
    }
}
