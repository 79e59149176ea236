//! One SQLite file: the store and the embedded broker live in it side by side.
//!
//! - **One writer.** All writes run on one thread, in the order in which they were queued. Jobs that wait together share one
//!   transaction and one fsync (*group commit*): alone, a job costs an fsync; in a crowd, a share of one.
//! - **What resolved is durable**: WAL with `synchronous=FULL`. A job that fails is rolled back alone.
//! - **Uncertain means stop.** After a commit whose outcome is unknown (an I/O error, a failed fsync) everything in it is
//!   reported failed, and the database refuses writes until it is opened again.
//! - **One process.** A second one that opens the file gets [`DatabaseError::InUse`]; a killed one leaves nothing behind.

mod connection;
mod error;
mod reader;
mod schema;
mod session;
mod writer;

use std::{
    future::Future,
    path::{Path, PathBuf},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use tokio::sync::oneshot;

pub(crate) use self::connection::ProcessLock;
pub use self::{
    error::DatabaseError,
    session::Session,
    writer::{BATCH_JOBS_MAX, LINGER, QUEUED_JOBS_MAX},
};
use self::{reader::Readers, writer::Writer};

/// How a database file is opened.
#[derive(Clone, Debug)]
pub struct DatabaseOptions {
    /// The file; made if it does not exist. Beside it stand `…-wal` and `….lock`. While it is open here, no other process reads or writes
    /// it: another leveret says so, and the `sqlite3` shell that the database is locked.
    pub path: PathBuf,
    /// Whether a commit waits for the disk. Without, a power failure may take the last commits (a killed process does not);
    /// the file stays consistent either way.
    pub synchronous_full: bool,
    /// The writer's page cache in KiB. It bounds memory, not correctness.
    pub cache_kib: u32,
    /// The most connections that read at the same time.
    pub readers_max: usize,
}

impl DatabaseOptions {
    /// The defaults: every commit waits for the disk, 8 MiB of cache, two readers.
    pub fn new(path: impl AsRef<Path>) -> DatabaseOptions {
        DatabaseOptions {
            path: path.as_ref().to_owned(),
            synchronous_full: true,
            cache_kib: 8 * 1024,
            readers_max: 2,
        }
    }
}

/// A handle on the open file; a clone is another handle. The last one to go stops the writer after the jobs already queued,
/// without waiting for them: [`close`](Self::close) first to open the file again.
#[derive(Clone, Debug)]
pub struct Database(Arc<Handle>);

#[derive(Debug)]
struct Handle {
    writer: Writer,
    readers: Readers,
    path: PathBuf,
}

impl Database {
    /// Opens the file and starts its writer thread. Blocks for the disk.
    ///
    /// # Errors
    /// [`DatabaseError::InUse`] when another process (or another `Database`) has it open.
    pub fn open(options: DatabaseOptions) -> Result<Database, DatabaseError> {
        let lock = ProcessLock::take(&options.path)?;
        // The lock file keeps other leverets away, SQLite's own lock other programs.
        let connection = connection::open_writer(&options)
            .and_then(|connection| schema::prepare(&connection).map(|()| connection))
            .map_err(|error| error.or_in_use(&options.path))?;
        Ok(Database(Arc::new(Handle {
            writer: Writer::start(connection, options.path.clone(), lock)?,
            readers: Readers::new(&options),
            path: options.path,
        })))
    }

    /// Whether both are handles on the same open file.
    pub fn is_same(&self, other: &Database) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// Where the file is.
    pub fn path(&self) -> &Path {
        &self.0.path
    }

    /// Queues a job for the writer, now and not at the first poll: two calls in sequence keep their order and, queued
    /// together, share a transaction unless a bound cuts it in between. Resolves after the commit.
    ///
    /// `Ok` means durable. An error means that nothing of this job is there, but after
    /// [`Uncertain`](DatabaseError::Uncertain) it may be. A crash before it resolves leaves all of the job or nothing. Dropping the
    /// future does not take the job back.
    ///
    /// The job runs on the writer thread while everyone waits: statements only, and no transaction of its own. It runs again when another
    /// job of the same transaction failed: what it wrote before is rolled back then, and what else it did must not matter.
    pub fn write<T, F>(&self, job: F) -> Written<T>
    where
        T: Send + 'static,
        F: FnMut(&Session<'_>) -> Result<T, DatabaseError> + Send + 'static,
    {
        let (sender, receiver) = oneshot::channel();
        self.write_then(job, move |result| drop(sender.send(result)));
        Written(receiver)
    }

    /// Like [`write`](Self::write), but if nobody else writes and the disk is quick, the job runs on this thread, within the call: that
    /// saves waking the writer and being woken by it, about half of the time of a single commit. Blocks the thread for that long.
    pub fn write_here<T, F>(&self, job: F) -> Written<T>
    where
        T: Send + 'static,
        F: FnMut(&Session<'_>) -> Result<T, DatabaseError> + Send + 'static,
    {
        let (sender, receiver) = oneshot::channel();
        let after = move |result| drop(sender.send(result));
        self.0.writer.queue(job, after, writer::Urgency::Here);
        Written(receiver)
    }

    /// Like [`write`](Self::write), but hands the result to `after` on the writer thread, right after the commit and in the
    /// order of the jobs. `after` must be short. It is always called, unless the writer died.
    pub fn write_then<T, F, A>(&self, job: F, after: A)
    where
        T: Send + 'static,
        F: FnMut(&Session<'_>) -> Result<T, DatabaseError> + Send + 'static,
        A: FnOnce(Result<T, DatabaseError>) + Send + 'static,
    {
        self.0.writer.queue(job, after, writer::Urgency::Now);
    }

    /// Like [`write_then`](Self::write_then) for what nobody waits for: runs with the next transaction, at the latest after
    /// [`LINGER`], instead of paying for an fsync of its own. Keeps its place in the order.
    pub fn write_soon<T, F, A>(&self, job: F, after: A)
    where
        T: Send + 'static,
        F: FnMut(&Session<'_>) -> Result<T, DatabaseError> + Send + 'static,
        A: FnOnce(Result<T, DatabaseError>) + Send + 'static,
    {
        self.0.writer.queue(job, after, writer::Urgency::Soon);
    }

    /// Like [`write`](Self::write), for start-up code that is not async. Blocks the thread.
    pub fn write_blocking<T, F>(&self, job: F) -> Result<T, DatabaseError>
    where
        T: Send + 'static,
        F: FnMut(&Session<'_>) -> Result<T, DatabaseError> + Send + 'static,
    {
        let (sender, receiver) = std::sync::mpsc::sync_channel(1);
        self.write_then(job, move |result| drop(sender.send(result)));
        receiver.recv().unwrap_or(Err(DatabaseError::Closed))
    }

    /// Reads what is committed, on one of a few query-only connections. Sees every write that resolved before the call.
    pub async fn read<T, F>(&self, job: F) -> Result<T, DatabaseError>
    where
        T: Send + 'static,
        F: FnOnce(&Session<'_>) -> Result<T, DatabaseError> + Send + 'static,
    {
        self.0.readers.read(job).await
    }

    /// Brings a component's tables to the newest version: `migrations[n]` leads from version `n` to `n + 1`, and what was applied
    /// once never changes. All of it happens or nothing. Blocks the thread.
    ///
    /// # Errors
    /// [`DatabaseError::NewerSchema`] when a newer program wrote the file.
    pub fn migrate(
        &self,
        component: &'static str,
        migrations: &'static [&'static str],
    ) -> Result<(), DatabaseError> {
        self.write_blocking(move |connection| schema::migrate(connection, component, migrations))
    }

    /// The components that have tables in the file, and the versions of these. Blocks the thread.
    pub fn schema_versions(&self) -> Result<Vec<(String, u32)>, DatabaseError> {
        self.write_blocking(|session| schema::versions(session))
    }

    /// Whether writes are accepted: not closed, and no commit failed with an uncertain outcome.
    pub fn is_open(&self) -> bool {
        self.0.writer.is_open()
    }

    /// Runs the jobs already queued, then closes the file and lets go of it. Later calls get [`DatabaseError::Closed`].
    /// Idempotent.
    pub async fn close(&self) {
        self.0.readers.close();
        self.0.writer.close().await;
    }
}

/// The result of a queued write, once it is durable.
#[derive(Debug)]
#[must_use = "the write happens anyway, but only this says whether it did"]
pub struct Written<T>(oneshot::Receiver<Result<T, DatabaseError>>);

impl<T> Future for Written<T> {
    type Output = Result<T, DatabaseError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0)
            .poll(context)
            .map(|result| result.unwrap_or(Err(DatabaseError::Closed)))
    }
}

#[cfg(test)]
pub(crate) mod tests;
