//! Documents in PostgreSQL, for a service of several processes: a schema for each service.
//!
//! Batches are set-based: one of any size is two round trips, see `commit`. Leases and deadlines go by the server's clock; what a
//! process held when it ended is free sooner, see `holders`. When the server goes
//! away, calls fail with [`DocumentsError::Unavailable`], and the next ones connect again.

mod commit;
mod error;
mod holders;
mod outbox;
mod read;
mod write;

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use async_trait::async_trait;
use leveret_core::time::Timestamp;

use self::holders::Holder;
pub(in crate::service) use self::{
    outbox::{LAST_OF_LANES, Term, occupied},
    write::{Outgoings, PUBLISH},
};
use super::{
    Backlog, Capabilities, Claimed, Commit, Committed, Document, Documents, DocumentsError, Due,
    Key, Kind, LEASE, OutgoingId, Page, Query, check::Kinds,
};
use crate::postgres::{PLANS_BY_KEY, Pool, PoolOptions};

/// What was applied once never changes; add to the end.
const MIGRATIONS: &[&str] = &[
    include_str!("postgres/schema.sql"),
    include_str!("postgres/holders.sql"),
];

/// What the server's clock shows, in milliseconds.
macro_rules! now_ms {
    () => {
        "(extract(epoch FROM clock_timestamp()) * 1000)::bigint"
    };
}
use now_ms;

/// How to reach PostgreSQL, and how much of it to use.
#[derive(Clone)]
pub struct PostgresDocumentsOptions {
    /// `postgres://user:password@host:port/database?sslmode=…`.
    pub url: String,
    /// The schema that holds the service's tables, made if it is not there.
    pub schema: String,
    /// The service's kinds.
    pub kinds: Vec<Kind>,
    /// Connections for commits and everything else that writes.
    pub write_connections_max: u32,
    /// Connections for reading.
    pub read_connections_max: u32,
    /// How long a claimed message or deadline belongs to who claimed it.
    pub lease: Duration,
}

impl PostgresDocumentsOptions {
    /// The defaults: 4 connections for writing and 2 for reading, leases of [`LEASE`].
    pub fn new(url: impl Into<String>, schema: impl Into<String>, kinds: &[Kind]) -> Self {
        PostgresDocumentsOptions {
            url: url.into(),
            schema: schema.into(),
            kinds: kinds.to_vec(),
            write_connections_max: 4,
            read_connections_max: 2,
            lease: LEASE,
        }
    }
}

/// Leaves out the URL, which may hold a password.
impl fmt::Debug for PostgresDocumentsOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PostgresDocumentsOptions")
            .field("schema", &self.schema)
            .field("lease", &self.lease)
            .finish_non_exhaustive()
    }
}

/// The documents. Clones share the connections.
#[derive(Clone)]
pub struct PostgresDocuments(Arc<Inner>);

struct Inner {
    kinds: Kinds,
    schema: String,
    writes: Pool,
    reads: Pool,
    lease: Duration,
    holder: Holder,
    /// One call at a time forgets what was sent, so that two parts of a lane do not overlook each other.
    sending: tokio::sync::Mutex<()>,
    /// When it was last looked for lanes that everybody overlooked.
    mended: Mutex<Option<Instant>>,
}

impl fmt::Debug for PostgresDocuments {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PostgresDocuments")
            .field("schema", &self.0.schema)
            .finish_non_exhaustive()
    }
}

impl PostgresDocuments {
    /// Connects, and brings the tables to the newest version; any number of processes may do so at once.
    ///
    /// [`DocumentsError::Url`]: the URL cannot be used. [`DocumentsError::Unavailable`]: nobody answers, try again.
    /// [`DocumentsError::Refused`]: wrong user, password or database, no right to create the tables, or they are of a newer program.
    pub async fn connect(
        options: PostgresDocumentsOptions,
    ) -> Result<PostgresDocuments, DocumentsError> {
        let kinds = Kinds::new(&options.kinds)?;
        let writes = Pool::connect(PoolOptions {
            connections_max: options.write_connections_max,
            settings: PLANS_BY_KEY,
            ..PoolOptions::new(options.url, &options.schema)
        });
        let writes = writes.await?;
        writes.migrate("service", MIGRATIONS).await?;
        let holder = Holder::enter(&writes).await?;
        Ok(PostgresDocuments(Arc::new(Inner {
            kinds,
            holder,
            schema: options.schema,
            reads: writes.beside(options.read_connections_max),
            writes,
            lease: options.lease,
            sending: tokio::sync::Mutex::default(),
            mended: Mutex::default(),
        })))
    }

    /// What is claimed belongs to this process for so long.
    fn term(&self) -> Term {
        Term {
            lease_ms: i64::try_from(self.0.lease.as_millis()).unwrap_or(i64::MAX >> 1),
            holder: Some(self.0.holder.id()),
        }
    }

    /// Whether it is time to look for overlooked lanes: once a lease.
    fn must_mend(&self) -> bool {
        let mut mended = self.0.mended.lock().unwrap_or_else(PoisonError::into_inner);
        let must = mended.is_none_or(|at| at.elapsed() >= self.0.lease);
        if must {
            *mended = Some(Instant::now());
        }
        must
    }
}

#[async_trait]
impl Documents for PostgresDocuments {
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            durable: true,
            shared: true,
            documents_per_commit: usize::MAX,
            lanes_span_documents: true,
            batch_max: 256,
            calls_max: 4,
            lease: self.0.lease,
        }
    }

    async fn load(&self, keys: &[Key]) -> Result<Vec<Document>, DocumentsError> {
        self.0.kinds.check_keys(keys)?;
        Ok(read::load(&self.0.reads, keys).await?)
    }

    async fn commit(
        &self,
        batch: &[Commit],
        now: Timestamp,
    ) -> Result<Vec<Committed>, DocumentsError> {
        self.0.kinds.check_batch(batch, usize::MAX)?;
        Ok(commit::commit(&self.0.writes, batch, now, self.term()).await?)
    }

    async fn list(&self, query: &Query) -> Result<Page, DocumentsError> {
        self.0.kinds.check_query(query)?;
        let after = query.after.as_deref().map(str::parse).transpose()?;
        Ok(read::page(&self.0.reads, query, after.as_ref()).await?)
    }

    async fn count(
        &self,
        kind: &str,
        filter: &[(Arc<str>, Arc<str>)],
    ) -> Result<u64, DocumentsError> {
        self.0.kinds.check_filter(kind, filter)?;
        Ok(read::count(&self.0.reads, kind, filter).await?)
    }

    async fn claim_outgoing(
        &self,
        limit: u32,
        _now: Timestamp,
    ) -> Result<Vec<Claimed>, DocumentsError> {
        if self.must_mend() {
            outbox::mend(&self.0.writes).await?;
        }
        Ok(outbox::claim(&self.0.writes, limit, self.term()).await?)
    }

    async fn sent(
        &self,
        ids: &[OutgoingId],
        _now: Timestamp,
    ) -> Result<Vec<Claimed>, DocumentsError> {
        let _sending = self.0.sending.lock().await;
        Ok(outbox::sent(&self.0.writes, ids, self.term()).await?)
    }

    async fn release(&self, ids: &[OutgoingId]) -> Result<(), DocumentsError> {
        Ok(outbox::release(&self.0.writes, ids).await?)
    }

    async fn claim_deadlines(
        &self,
        limit: u32,
        _now: Timestamp,
    ) -> Result<Vec<Due>, DocumentsError> {
        Ok(outbox::claim_deadlines(&self.0.writes, limit, self.term()).await?)
    }

    async fn next_deadline(&self) -> Result<Option<Timestamp>, DocumentsError> {
        Ok(read::next_deadline(&self.0.reads).await?)
    }

    async fn backlog(&self) -> Result<Backlog, DocumentsError> {
        Ok(read::backlog(&self.0.reads).await?)
    }

    async fn prune(
        &self,
        now: Timestamp,
        keep: Duration,
        limit: u32,
    ) -> Result<u64, DocumentsError> {
        let keep = i64::try_from(keep.as_millis()).unwrap_or(i64::MAX);
        let before = now.0.saturating_sub(keep);
        Ok(outbox::prune(&self.0.writes, before, limit).await?)
    }

    async fn ping(&self) -> Result<(), DocumentsError> {
        let mut lease = self.0.reads.lease().await?;
        lease.query("SELECT 1", &[]).await?;
        Ok(())
    }

    async fn close(&self) {
        self.0.holder.leave();
        self.0.writes.close().await;
        self.0.reads.close().await;
    }
}

#[cfg(test)]
pub(super) mod tests;
