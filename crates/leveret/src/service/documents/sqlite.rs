//! Documents in a SQLite file of their own.
//!
//! A batch is one job of the file's writer, so that calls which wait together share one fsync; what a call returned is on disk. The file
//! belongs to this process, so who publishes what is known in memory alone: a claim writes nothing, and what was sent is removed with the
//! next commit.

mod commit;
mod outbox;
mod read;

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use leveret_core::time::Timestamp;
use tokio::sync::oneshot;

pub(in crate::service) use self::commit::{insert_handled, insert_outgoing};
use self::{
    commit::Ran,
    outbox::{Leases, Outbox},
};
use super::{
    Backlog, Capabilities, Claimed, Commit, Committed, Document, Documents, DocumentsError, Due,
    Key, Kind, LEASE, OutgoingId, Page, Query, check::Kinds, lanes::Held,
};
use crate::sqlite::{Database, DatabaseError, Session};

/// What was applied once never changes; add to the end.
const MIGRATIONS: &[&str] = &[include_str!("sqlite/schema.sql")];

const CAPABILITIES: Capabilities = Capabilities {
    durable: true,
    shared: false,
    documents_per_commit: usize::MAX,
    lanes_span_documents: true,
    batch_max: 256,
    calls_max: 4,
    lease: LEASE,
};

/// The documents. Clones share the file.
#[derive(Clone, Debug)]
pub struct SqliteDocuments {
    kinds: Arc<Kinds>,
    database: Database,
    outbox: Arc<Mutex<Outbox>>,
    leases: Arc<Mutex<Leases>>,
    /// Held while deadlines are read and claimed.
    claiming: Arc<tokio::sync::Mutex<()>>,
}

impl SqliteDocuments {
    /// Opens the documents in a database file, brings its tables to the newest version, and looks at what an earlier process left in the
    /// outbox. Blocks for the disk. One of them for a file: clone it.
    pub fn open(database: Database, kinds: &[Kind]) -> Result<SqliteDocuments, DocumentsError> {
        let kinds = Arc::new(Kinds::new(kinds)?);
        database.migrate("service", MIGRATIONS)?;
        let left = database.write_blocking(|session| refused(outbox::left(session, 0)))?;
        let mut outbox = Outbox::new();
        outbox.add_left(&left);
        Ok(SqliteDocuments {
            kinds,
            database,
            outbox: Arc::new(Mutex::new(outbox)),
            leases: Arc::default(),
            claiming: Arc::default(),
        })
    }

    async fn read<T: Send + 'static>(
        &self,
        job: impl FnOnce(&Session<'_>) -> Result<T, DocumentsError> + Send + 'static,
    ) -> Result<T, DocumentsError> {
        let read = self.database.read(move |session| refused(job(session)));
        Ok(read.await?)
    }

    /// Reads messages that were just claimed; gives them back if that fails.
    async fn claimed(&self, held: Vec<Held>) -> Result<Vec<Claimed>, DocumentsError> {
        if held.is_empty() {
            return Ok(Vec::new());
        }
        let wanted = held.clone();
        let read = self.read(move |session| read::outgoing(session, &wanted));
        let read = read.await;
        if read.is_err() {
            lock(&self.outbox).give_back(&held);
        }
        read
    }

    /// Takes notice of what others wrote into the outbox.
    async fn look(&self) -> Result<(), DocumentsError> {
        let known = lock(&self.outbox).known();
        let left = self
            .read(move |session| outbox::left(session, known))
            .await?;
        lock(&self.outbox).add_left(&left);
        Ok(())
    }
}

fn refused<T>(result: Result<T, DocumentsError>) -> Result<T, DatabaseError> {
    result.map_err(DatabaseError::refused)
}

fn lock<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

#[async_trait]
impl Documents for SqliteDocuments {
    fn capabilities(&self) -> Capabilities {
        CAPABILITIES
    }

    async fn load(&self, keys: &[Key]) -> Result<Vec<Document>, DocumentsError> {
        self.kinds.check_keys(keys)?;
        let keys = keys.to_vec();
        self.read(move |session| {
            keys.into_iter()
                .map(|key| read::document(session, key))
                .collect()
        })
        .await
    }

    async fn commit(
        &self,
        batch: &[Commit],
        now: Timestamp,
    ) -> Result<Vec<Committed>, DocumentsError> {
        self.kinds
            .check_batch(batch, CAPABILITIES.documents_per_commit)?;
        if batch.is_empty() {
            return Ok(Vec::new());
        }
        let batch: Arc<[Commit]> = batch.into();
        let (sender, receiver) = oneshot::channel();
        let (outbox, leases) = (self.outbox.clone(), self.leases.clone());
        let (of_job, known) = (batch.clone(), self.outbox.clone());
        let job = move |session: &Session<'_>| {
            let known = lock(&known).known();
            refused(commit::run(session, &of_job, known, now))
        };
        // Called in the order of the commits, so that lanes in memory are in the order of the file.
        let after = move |result: Result<Ran, DatabaseError>| {
            let committed = result.map(|ran| {
                lock(&leases).end(&batch, &ran);
                lock(&outbox).committed(&batch, ran, now)
            });
            let _ = sender.send(committed);
        };
        self.database.write_then(job, after);
        let committed = receiver.await.map_err(|_| DocumentsError::Closed)?;
        Ok(committed?)
    }

    async fn list(&self, query: &Query) -> Result<Page, DocumentsError> {
        self.kinds.check_query(query)?;
        let after = query.after.as_deref().map(str::parse).transpose()?;
        let query = query.clone();
        self.read(move |session| read::page(session, &query, after.as_ref()))
            .await
    }

    async fn count(
        &self,
        kind: &str,
        filter: &[(Arc<str>, Arc<str>)],
    ) -> Result<u64, DocumentsError> {
        self.kinds.check_filter(kind, filter)?;
        let (kind, filter) = (kind.to_owned(), filter.to_vec());
        self.read(move |session| read::count(session, &kind, &filter))
            .await
    }

    async fn claim_outgoing(
        &self,
        limit: u32,
        now: Timestamp,
    ) -> Result<Vec<Claimed>, DocumentsError> {
        self.look().await?;
        let held = lock(&self.outbox).claim(limit as usize, now);
        self.claimed(held).await
    }

    async fn sent(
        &self,
        ids: &[OutgoingId],
        now: Timestamp,
    ) -> Result<Vec<Claimed>, DocumentsError> {
        let (gone, next) = lock(&self.outbox).sent(ids, now);
        if !gone.is_empty() {
            self.forget(gone);
        }
        self.claimed(next).await
    }

    async fn release(&self, ids: &[OutgoingId]) -> Result<(), DocumentsError> {
        lock(&self.outbox).release(ids);
        Ok(())
    }

    async fn claim_deadlines(
        &self,
        limit: u32,
        now: Timestamp,
    ) -> Result<Vec<Due>, DocumentsError> {
        let _claiming = self.claiming.lock().await;
        let most = limit as usize + lock(&self.leases).len();
        let due = self
            .read(move |session| read::due(session, now, most))
            .await?;
        Ok(lock(&self.leases).claim(due, limit as usize, now))
    }

    async fn next_deadline(&self) -> Result<Option<Timestamp>, DocumentsError> {
        let most = lock(&self.leases).len() + 1;
        let first = self
            .read(move |session| read::due(session, Timestamp(i64::MAX), most))
            .await?;
        Ok(lock(&self.leases).next(&first))
    }

    async fn backlog(&self) -> Result<Backlog, DocumentsError> {
        self.look().await?;
        let backlog = self.read(read::backlog).await?;
        let (outgoing, outgoing_oldest) = lock(&self.outbox).backlog();
        Ok(Backlog {
            outgoing,
            outgoing_oldest,
            ..backlog
        })
    }

    async fn prune(
        &self,
        now: Timestamp,
        keep: Duration,
        limit: u32,
    ) -> Result<u64, DocumentsError> {
        let keep = i64::try_from(keep.as_millis()).unwrap_or(i64::MAX);
        let before = now.0.saturating_sub(keep);
        let written = self
            .database
            .write(move |session| refused(commit::prune(session, before, limit)));
        Ok(written.await?)
    }

    async fn ping(&self) -> Result<(), DocumentsError> {
        if self.database.is_open() {
            return Ok(());
        }
        Err(DocumentsError::Closed)
    }

    async fn close(&self) {
        self.database.close().await;
    }
}

impl SqliteDocuments {
    /// Removes messages that the broker has, with the next commit. Those that cannot be removed now go with the next ones that are sent.
    fn forget(&self, gone: Vec<u64>) {
        let mut numbers = lock(&self.outbox).take_unforgotten();
        numbers.extend(gone);
        let (numbers, outbox) = (Arc::new(numbers), self.outbox.clone());
        let of_job = numbers.clone();
        let job = move |session: &Session<'_>| refused(commit::forget(session, &of_job));
        self.database.write_soon(job, move |result| {
            if result.is_err() {
                lock(&outbox).set_unforgotten(&numbers);
            }
        });
    }
}

impl From<DatabaseError> for DocumentsError {
    fn from(error: DatabaseError) -> DocumentsError {
        match error {
            DatabaseError::Closed => DocumentsError::Closed,
            DatabaseError::Uncertain { detail } => DocumentsError::Uncertain {
                detail: detail.to_string(),
            },
            DatabaseError::Refused(error) => match error.downcast::<DocumentsError>() {
                Ok(error) => *error,
                Err(error) => DocumentsError::Refused {
                    detail: error.to_string(),
                },
            },
            error if error.is_retryable() => DocumentsError::Unavailable {
                detail: error.chain(),
            },
            error => DocumentsError::Refused {
                detail: error.chain(),
            },
        }
    }
}

impl From<rusqlite::Error> for DocumentsError {
    fn from(error: rusqlite::Error) -> DocumentsError {
        DatabaseError::from(error).into()
    }
}

#[cfg(test)]
mod tests;
