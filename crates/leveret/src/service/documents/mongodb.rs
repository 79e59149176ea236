//! Documents in MongoDB, for a service of several processes: a standalone server of version 4.4 or later is enough, since no commit needs a
//! transaction or a session.
//!
//! A commit is one guarded write of one document, which holds all that belongs together: state, inbox, what goes out, deadlines, parked
//! messages, see `layout`. Where a commit puts none, another document carries it: that of its lane, or one of the message alone.
//! What follows from one document a commit:
//!
//! - **The inbox** is unique across documents by an index. A document keeps the last [`MongoDocumentsOptions::inbox_max`] messages that its
//!   commits handled: an older one is no longer recognised.
//! - **A lane** is kept in order among the messages of one document, its home: the one that the commits put, or, for commits that put none,
//!   the one that the lane is named after (`kind/id`), else one of the lane alone.
//! - **What one document holds** fits [16 MB](https://www.mongodb.com/docs/manual/reference/limits/), what waits for the broker included. A
//!   commit that does not fit is refused.
//!
//! A commit is on the disks of a majority of the servers when it is done. Leases and deadlines go by the server's clock. When the server goes
//! away, calls fail with [`DocumentsError::Unavailable`], and the next ones connect again.

mod commit;
mod deadlines;
mod error;
mod expressions;
mod inbox;
mod layout;
mod open;
mod outbox;
mod read;

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use futures_util::{StreamExt, stream};
use leveret_core::time::Timestamp;
use mongodb::{Client, Collection, bson::Document as Doc};

use self::error::Failure;
use super::{
    Backlog, Capabilities, Claimed, Commit, Committed, Document, Documents, DocumentsError, Due,
    Key, Kind, LEASE, OutgoingId, Page, Query, check::Kinds,
};

/// The most documents in one commit.
const DOCUMENTS_PER_COMMIT: usize = 1;

/// How many writes of one call are under way at once.
const WRITES_MAX: usize = 16;

/// How long one exchange with the server may take before it counts as away.
const CALL_TIME_MAX: Duration = Duration::from_secs(30);

/// How to reach MongoDB, and how much of it to use.
#[derive(Clone)]
pub struct MongoDocumentsOptions {
    /// `mongodb://user:password@host:port/database?…`.
    pub url: String,
    /// What the names of the service's collections begin with.
    pub schema: String,
    /// The service's kinds.
    pub kinds: Vec<Kind>,
    /// The most connections.
    pub connections_max: u32,
    /// How many messages a document remembers to have handled; those of one commit in any case.
    pub inbox_max: u32,
    /// How long a claimed message or deadline belongs to who claimed it.
    pub lease: Duration,
}

impl MongoDocumentsOptions {
    /// The defaults: 32 connections, 512 messages, leases of [`LEASE`].
    pub fn new(url: impl Into<String>, schema: impl Into<String>, kinds: &[Kind]) -> Self {
        MongoDocumentsOptions {
            url: url.into(),
            schema: schema.into(),
            kinds: kinds.to_vec(),
            connections_max: 32,
            inbox_max: 512,
            lease: LEASE,
        }
    }
}

/// Leaves out the URL, which may hold a password.
impl fmt::Debug for MongoDocumentsOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MongoDocumentsOptions")
            .field("schema", &self.schema)
            .field("inbox_max", &self.inbox_max)
            .field("lease", &self.lease)
            .finish_non_exhaustive()
    }
}

/// The documents. Clones share the connections.
#[derive(Clone)]
pub struct MongoDocuments(Arc<Inner>);

struct Inner {
    client: Client,
    kinds: Kinds,
    schema: String,
    /// Writes are on the disks of a majority when they are done.
    durable: Collection<Doc>,
    /// Writes that may be lost: claims, and that they ended.
    light: Collection<Doc>,
    inbox_max: u32,
    lease_ms: i64,
    lease: Duration,
    /// How many lanes were given back.
    turns: AtomicU64,
    closed: AtomicBool,
}

impl fmt::Debug for MongoDocuments {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MongoDocuments")
            .field("schema", &self.0.schema)
            .finish_non_exhaustive()
    }
}

impl MongoDocuments {
    /// Connects, and makes the collection and its indexes; any number of processes may do so at once.
    ///
    /// [`DocumentsError::Url`]: the URL cannot be used. [`DocumentsError::Unavailable`]: nobody answers, try again.
    /// [`DocumentsError::Refused`]: wrong user or password, no right to make indexes, too old a server, or the documents are of a newer program.
    pub async fn connect(options: MongoDocumentsOptions) -> Result<MongoDocuments, DocumentsError> {
        Ok(MongoDocuments(Arc::new(open::open(options, |_| ()).await?)))
    }
}

impl Inner {
    /// Exchanges something with the server, unless this is closed or it takes too long.
    async fn exchange<T>(
        &self,
        action: impl IntoFuture<Output = Result<T, mongodb::error::Error>>,
    ) -> Result<T, Failure> {
        if self.closed.load(Ordering::Acquire) {
            return Err(Failure::Documents(DocumentsError::Closed));
        }
        match tokio::time::timeout(CALL_TIME_MAX, action.into_future()).await {
            Ok(Err(_)) if self.closed.load(Ordering::Acquire) => {
                Err(Failure::Documents(DocumentsError::Closed))
            }
            Ok(answer) => Ok(answer?),
            Err(_) => Err(Failure::Documents(DocumentsError::Unavailable {
                detail: format!("no answer within {CALL_TIME_MAX:?}"),
            })),
        }
    }
}

/// What the futures give, in their order; so many are under way at once. All end before an error is told: nothing is broken off.
async fn all<T>(
    futures: Vec<impl Future<Output = Result<T, Failure>> + Send>,
) -> Result<Vec<T>, Failure> {
    let answers = stream::iter(futures).buffered(WRITES_MAX);
    let answers: Vec<Result<T, Failure>> = answers.collect().await;
    answers.into_iter().collect()
}

#[async_trait]
impl Documents for MongoDocuments {
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            durable: true,
            shared: true,
            documents_per_commit: DOCUMENTS_PER_COMMIT,
            lanes_span_documents: false,
            batch_max: 64,
            calls_max: 4,
            lease: self.0.lease,
        }
    }

    async fn load(&self, keys: &[Key]) -> Result<Vec<Document>, DocumentsError> {
        self.0.kinds.check_keys(keys)?;
        Ok(read::load(&self.0, keys).await?)
    }

    async fn commit(
        &self,
        batch: &[Commit],
        now: Timestamp,
    ) -> Result<Vec<Committed>, DocumentsError> {
        self.0.kinds.check_batch(batch, DOCUMENTS_PER_COMMIT)?;
        Ok(commit::commit(&self.0, batch, now).await?)
    }

    async fn list(&self, query: &Query) -> Result<Page, DocumentsError> {
        self.0.kinds.check_query(query)?;
        let after = query.after.as_deref().map(str::parse).transpose()?;
        Ok(read::page(&self.0, query, after.as_ref()).await?)
    }

    async fn count(
        &self,
        kind: &str,
        filter: &[(Arc<str>, Arc<str>)],
    ) -> Result<u64, DocumentsError> {
        self.0.kinds.check_filter(kind, filter)?;
        Ok(read::count(&self.0, kind, filter).await?)
    }

    async fn claim_outgoing(
        &self,
        limit: u32,
        _now: Timestamp,
    ) -> Result<Vec<Claimed>, DocumentsError> {
        Ok(outbox::claim(&self.0, limit as usize).await?)
    }

    async fn sent(
        &self,
        ids: &[OutgoingId],
        _now: Timestamp,
    ) -> Result<Vec<Claimed>, DocumentsError> {
        Ok(outbox::sent(&self.0, ids).await?)
    }

    async fn release(&self, ids: &[OutgoingId]) -> Result<(), DocumentsError> {
        Ok(outbox::release(&self.0, ids).await?)
    }

    async fn claim_deadlines(
        &self,
        limit: u32,
        _now: Timestamp,
    ) -> Result<Vec<Due>, DocumentsError> {
        Ok(deadlines::claim(&self.0, limit as usize).await?)
    }

    async fn next_deadline(&self) -> Result<Option<Timestamp>, DocumentsError> {
        Ok(deadlines::next(&self.0).await?)
    }

    async fn backlog(&self) -> Result<Backlog, DocumentsError> {
        Ok(read::backlog(&self.0).await?)
    }

    async fn prune(
        &self,
        now: Timestamp,
        keep: Duration,
        limit: u32,
    ) -> Result<u64, DocumentsError> {
        let keep = i64::try_from(keep.as_millis()).unwrap_or(i64::MAX);
        let before = now.0.saturating_sub(keep);
        Ok(inbox::prune(&self.0, before, limit as usize).await?)
    }

    async fn ping(&self) -> Result<(), DocumentsError> {
        open::ping(&self.0).await?;
        Ok(())
    }

    async fn close(&self) {
        if !self.0.closed.swap(true, Ordering::AcqRel) {
            self.0.client.clone().shutdown().immediate(true).await;
        }
    }
}

#[cfg(test)]
pub(super) mod tests;
