//! A replica in one SQLite file.
//!
//! - **One writer**, a thread of its own: a delivery is one transaction with its outcomes and the position (WAL, `synchronous=FULL`).
//! - **Readers** cannot write: by their flags, by `query_only`, and by SQLite's authorizer.
//! - **What a statement may do** is said by the authorizer; **what time it is and what is drawn** by functions in the place of SQLite's own.
//! - **One process.** A second leveret that opens the file is told so; the `sqlite3` shell may read beside it.

mod apply;
mod contents;
mod copy;
mod fault;
mod functions;
mod guard;
mod open;
mod own;
mod query;
mod rowids;
mod statement;
mod steps;

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError, mpsc},
    thread::JoinHandle,
    time::Instant,
};

use async_trait::async_trait;
use leveret_core::broadcast::{Logged, Position};
use tokio::sync::{OwnedSemaphorePermit, oneshot, watch};

use self::{
    apply::{Applier, fault},
    query::{Reader, Readers},
};
use super::{Applied, Contents, Query, ReadError, Replica, ReplicaError, Rows, Snapshot, Standing};
use crate::sqlite::ProcessLock;

/// How a replica's file is opened.
#[derive(Clone, Debug)]
pub struct SqliteReplicaOptions {
    /// The most questions that are answered at the same time; also digests and snapshots. 4.
    pub readers_max: u32,
}

impl Default for SqliteReplicaOptions {
    fn default() -> SqliteReplicaOptions {
        SqliteReplicaOptions { readers_max: 4 }
    }
}

/// A replica in one SQLite file. The last handle to go ends the writer; [`close`](Replica::close) first to open the file again.
#[derive(Debug)]
pub struct SqliteReplica {
    path: PathBuf,
    /// None once it is closed.
    jobs: Mutex<Option<mpsc::Sender<Job>>>,
    thread: Mutex<Option<JoinHandle<()>>>,
    standing: watch::Receiver<Standing>,
    readers: Arc<Readers>,
}

type Job = Box<dyn FnOnce(&mut Applier) + Send>;

impl SqliteReplica {
    /// Opens the file, makes it and its own tables if they are not there, and starts the writer. Blocks for the disk.
    ///
    /// # Errors
    /// [`ReplicaError::LocalFault`], also when another process has it open.
    pub fn open(
        path: &Path,
        options: &SqliteReplicaOptions,
    ) -> Result<SqliteReplica, ReplicaError> {
        let failed = |detail: String| ReplicaError::LocalFault { detail };
        let lock = ProcessLock::take(path).map_err(|error| failed(error.to_string()))?;
        copy::clean_up(path)?;
        let mut applier = Applier::open(path)?;
        let (sender, standing) = watch::channel(applier.standing.clone());
        let (jobs, queue) = mpsc::channel::<Job>();
        let write = move || {
            for job in queue {
                job(&mut applier);
                sender.send_if_modified(|standing| {
                    let moved = *standing != applier.standing;
                    standing.clone_from(&applier.standing);
                    moved
                });
            }
            drop(applier);
            drop(lock);
        };
        let thread = std::thread::Builder::new().name("leveret-replica".to_owned());
        let thread = thread
            .spawn(write)
            .map_err(|error| failed(error.to_string()))?;
        Ok(SqliteReplica {
            path: path.to_owned(),
            jobs: Mutex::new(Some(jobs)),
            thread: Mutex::new(Some(thread)),
            standing,
            readers: Arc::new(Readers::new(path, options.readers_max.max(1))),
        })
    }

    /// Where the file is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Runs a job on the writer thread, behind those that are queued. It runs also when nobody waits for it any more.
    async fn write<T: Send + 'static>(
        &self,
        job: impl FnOnce(&mut Applier) -> Result<T, ReplicaError> + Send + 'static,
    ) -> Result<T, ReplicaError> {
        let (sender, receiver) = oneshot::channel();
        let job: Job = Box::new(move |applier| drop(sender.send(job(applier))));
        let queued = {
            let jobs = self.jobs.lock().unwrap_or_else(PoisonError::into_inner);
            jobs.as_ref().is_some_and(|jobs| jobs.send(job).is_ok())
        };
        if !queued {
            return Err(closed());
        }
        receiver.await.unwrap_or_else(|_| Err(closed()))
    }

    /// Runs a job on a reader, on a thread that may block.
    async fn read<T: Send + 'static, E: Send + 'static>(
        &self,
        permit: OwnedSemaphorePermit,
        job: impl FnOnce(&Reader) -> Result<T, E> + Send + 'static,
        failed: fn(String) -> E,
    ) -> Result<T, E> {
        let readers = self.readers.clone();
        let read = move || {
            let reader = readers.take();
            let reader = reader.map_err(|error| failed(fault::message(&error)))?;
            let result = job(&reader);
            readers.put_back(reader);
            drop(permit);
            result
        };
        let task = tokio::task::spawn_blocking(read);
        task.await
            .unwrap_or_else(|error| Err(failed(error.to_string())))
    }

    async fn wait_for(&self, query: &Query, deadline: Instant) -> Result<(), ReadError> {
        let mut standing = self.standing.clone();
        let reached = standing.wait_for(|standing| standing.position.seq >= query.min_seq);
        let waited = tokio::time::timeout_at(deadline.into(), reached).await;
        if waited.is_ok_and(|reached| reached.is_ok()) {
            return Ok(());
        }
        Err(ReadError::Behind {
            at: self.standing.borrow().position.seq,
            min_seq: query.min_seq,
        })
    }
}

fn closed() -> ReplicaError {
    ReplicaError::LocalFault {
        detail: "the replica is closed".to_owned(),
    }
}

fn replica_fault(detail: String) -> ReplicaError {
    ReplicaError::LocalFault { detail }
}

fn read_fault(detail: String) -> ReadError {
    ReadError::LocalFault { detail }
}

#[async_trait]
impl Replica for SqliteReplica {
    fn kind(&self) -> &'static str {
        "sqlite"
    }

    async fn standing(&self) -> Result<Standing, ReplicaError> {
        self.write(Applier::standing).await
    }

    async fn adopt(&self, cluster: &str, seed: bool) -> Result<(), ReplicaError> {
        let cluster: Arc<str> = cluster.into();
        self.write(move |applier| {
            applier.change(|connection, standing| {
                match &standing.cluster {
                    Some(known) if *known == cluster => return Ok(()),
                    Some(known) => {
                        return Err(ReplicaError::OtherCluster {
                            other: known.to_string(),
                        });
                    }
                    None => {}
                }
                let has = own::has_users_contents(connection).map_err(|error| fault(&error))?;
                if has && !seed {
                    return Err(ReplicaError::NotEmpty);
                }
                standing.cluster = Some(cluster);
                Ok(())
            })
        })
        .await
    }

    async fn apply(&self, writes: Vec<Logged>) -> Result<Vec<Applied>, ReplicaError> {
        self.write(move |applier| applier.apply(&writes)).await
    }

    async fn outcomes(&self, after: u64, limit: u32) -> Result<Vec<Applied>, ReplicaError> {
        let permit = self.readers.permit().await.ok_or_else(closed)?;
        let read = move |reader: &Reader| {
            own::outcomes(&reader.connection, after, limit).map_err(|error| fault(&error))
        };
        self.read(permit, read, replica_fault).await
    }

    async fn query(&self, query: Query) -> Result<Rows, ReadError> {
        let deadline = Instant::now() + query.limits.time;
        self.wait_for(&query, deadline).await?;
        let permit = tokio::time::timeout_at(deadline.into(), self.readers.permit()).await;
        let permit = permit.map_err(|_| ReadError::Limit { what: "time" })?;
        let permit = permit.ok_or_else(|| read_fault("the replica is closed".to_owned()))?;
        let read = move |reader: &Reader| reader.answer(&query, deadline);
        self.read(permit, read, read_fault).await
    }

    async fn contents(&self, of: Contents) -> Result<(Position, [u8; 32]), ReplicaError> {
        let permit = self.readers.permit().await.ok_or_else(closed)?;
        let read = move |reader: &Reader| {
            let (standing, digest) =
                contents::digest(&reader.connection, of).map_err(|error| fault(&error))?;
            let position = standing.map_or(Position::default(), |standing| standing.position);
            Ok((position, digest))
        };
        self.read(permit, read, replica_fault).await
    }

    async fn snapshot(&self, to: PathBuf) -> Result<Snapshot, ReplicaError> {
        let permit = self.readers.permit().await.ok_or_else(closed)?;
        let read = move |reader: &Reader| copy::take(&reader.connection, &to);
        self.read(permit, read, replica_fault).await
    }

    async fn restore(&self, snapshot: Snapshot) -> Result<(), ReplicaError> {
        let path = self.path.clone();
        let quiet = self.readers.quiet().await.ok_or_else(closed)?;
        self.write(move |applier| {
            let part = copy::prepare(&snapshot, &path, &applier.standing.database_id)?;
            let exchanged = applier.exchange(|| copy::swap(&part, &path));
            drop(quiet);
            exchanged
        })
        .await
    }

    async fn clear(&self) -> Result<(), ReplicaError> {
        let path = self.path.clone();
        let quiet = self.readers.quiet().await.ok_or_else(closed)?;
        self.write(move |applier| {
            let part = copy::prepare_empty(&path, &applier.standing)?;
            let exchanged = applier.exchange(|| copy::swap(&part, &path));
            drop(quiet);
            exchanged
        })
        .await
    }

    async fn close(&self) {
        let lock = |jobs: &Mutex<Option<mpsc::Sender<Job>>>| {
            jobs.lock().unwrap_or_else(PoisonError::into_inner).take()
        };
        drop(lock(&self.jobs));
        drop(self.readers.quiet().await);
        self.readers.close();
        let thread = {
            let mut thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner);
            thread.take()
        };
        if let Some(thread) = thread {
            // A writer that panicked has nothing left to close.
            let joined = tokio::task::spawn_blocking(move || thread.join()).await;
            if joined.is_err() || joined.is_ok_and(|ended| ended.is_err()) {
                tracing::error!("the writer of a replica has died");
            }
        }
    }
}
#[cfg(test)]
mod tests;
