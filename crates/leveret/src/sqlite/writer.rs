//! The writer: jobs in order, many to a transaction, on a thread of its own or, when it has nothing else to do, on the caller's.

mod checkpoint;
mod queue;
mod transaction;

use std::{
    collections::VecDeque,
    fmt,
    path::PathBuf,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, TryLockError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use rusqlite::Connection;
use tokio::sync::watch;

pub(super) use self::queue::Urgency;
use self::{
    checkpoint::Checkpoints,
    queue::{JobQueue, Task},
    transaction::Transactions,
};
use super::{DatabaseError, Session, connection::ProcessLock};

/// The most jobs in one transaction, so that the first of them does not wait long for the last.
pub const BATCH_JOBS_MAX: usize = 1024;

/// After so long in a transaction, no further job joins it: their callers go on with those that are committed while the next ones run.
/// Where the disk is slower than that, it is as long as the last commit took.
const BATCH_TIME: Duration = Duration::from_millis(1);

/// The most jobs that may wait; further ones fail with [`DatabaseError::Overloaded`]. Callers that wait for their results never
/// come near.
pub const QUEUED_JOBS_MAX: usize = 1 << 17;

/// The longest that a job which nobody waits for is held back to share a transaction.
pub const LINGER: Duration = Duration::from_millis(5);

/// A disk that takes longer than this for a commit is waited for on the writer's thread only.
const HERE_COMMIT_MAX: Duration = Duration::from_millis(1);

/// The writer as its callers see it.
pub(super) struct Writer {
    jobs: Arc<JobQueue>,
    desk: Arc<Mutex<Option<Desk>>>,
    open: Arc<AtomicBool>,
    ended: watch::Receiver<bool>,
}

impl fmt::Debug for Writer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Writer").finish_non_exhaustive()
    }
}

impl Writer {
    pub(super) fn start(
        mut connection: Connection,
        path: PathBuf,
        lock: ProcessLock,
    ) -> Result<Writer, DatabaseError> {
        let open = Arc::new(AtomicBool::new(true));
        let desk = Desk {
            checkpoints: Checkpoints::start(&mut connection, path)?,
            transactions: Transactions::new(connection, open.clone()),
            backlog: VecDeque::new(),
        };
        let jobs = Arc::new(JobQueue::default());
        let desk = Arc::new(Mutex::new(Some(desk)));
        let (end, ended) = watch::channel(false);
        let thread = (jobs.clone(), desk.clone());
        std::thread::Builder::new()
            .name("leveret-sqlite".to_owned())
            .spawn(move || {
                let (jobs, desk) = thread;
                while jobs.wait() {
                    if let Some(desk) = &mut *lock_desk(&desk) {
                        desk.work(&jobs);
                    }
                }
                *lock_desk(&desk) = None;
                drop(lock);
                end.send_replace(true);
            })
            .expect("the system starts a thread");
        Ok(Writer {
            jobs,
            desk,
            open,
            ended,
        })
    }

    pub(super) fn queue<T, F, A>(&self, job: F, after: A, urgency: Urgency)
    where
        T: Send + 'static,
        F: FnMut(&Session<'_>) -> Result<T, DatabaseError> + Send + 'static,
        A: FnOnce(Result<T, DatabaseError>) + Send + 'static,
    {
        if let Err((task, error)) = self.jobs.push(Box::new(Task::new(job, after)), urgency) {
            task.fail(error);
        }
        if urgency == Urgency::Here {
            self.work_here();
        }
    }

    /// Does what waits on this thread, unless the writer is at it or has more to do than that.
    fn work_here(&self) {
        let desk = match self.desk.try_lock() {
            Ok(desk) => Some(desk),
            Err(TryLockError::Poisoned(desk)) => Some(desk.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        };
        match desk {
            Some(mut desk) if desk.as_ref().is_some_and(Desk::is_quick) => {
                if let Some(desk) = &mut *desk {
                    desk.work_once(&self.jobs);
                }
            }
            _ => self.jobs.wake(),
        }
    }

    pub(super) fn is_open(&self) -> bool {
        self.open.load(Ordering::Acquire) && !self.jobs.is_closed()
    }

    pub(super) async fn close(&self) {
        self.jobs.close();
        // An error says that the thread is gone, which is what is waited for.
        let _ = self.ended.clone().wait_for(|ended| *ended).await;
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.jobs.close();
    }
}

/// What whoever writes has before them. It is locked first, and then jobs are taken: so they run in their order, whoever runs them.
struct Desk {
    // Dropped first: its connection must not be the last on the file.
    checkpoints: Checkpoints,
    transactions: Transactions,
    backlog: VecDeque<Box<dyn queue::Job>>,
}

impl Desk {
    /// Runs what waits, and what comes in meanwhile.
    fn work(&mut self, jobs: &JobQueue) {
        jobs.take(&mut self.backlog);
        while !self.backlog.is_empty() {
            self.transact();
            self.checkpoints
                .after_commit(self.transactions.connection());
            jobs.take_more(&mut self.backlog);
        }
    }

    /// Whether the next transaction is likely to be all there is to do, and soon done.
    fn is_quick(&self) -> bool {
        !self.checkpoints.are_due() && self.transactions.commit_time < HERE_COMMIT_MAX
    }

    /// Runs what waits.
    fn work_once(&mut self, jobs: &JobQueue) {
        jobs.take(&mut self.backlog);
        while !self.backlog.is_empty() {
            self.transact();
        }
    }

    fn transact(&mut self) {
        let time = self.transactions.commit_time.max(BATCH_TIME);
        self.transactions.run(Batch {
            backlog: &mut self.backlog,
            taken: 0,
            until: Instant::now() + time,
        });
    }
}

fn lock_desk(desk: &Mutex<Option<Desk>>) -> MutexGuard<'_, Option<Desk>> {
    desk.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The jobs of one transaction: the first ones of the backlog, up to a number and a time.
struct Batch<'a> {
    backlog: &'a mut VecDeque<Box<dyn queue::Job>>,
    taken: usize,
    until: Instant,
}

impl Iterator for Batch<'_> {
    type Item = Box<dyn queue::Job>;

    fn next(&mut self) -> Option<Self::Item> {
        let is_full = self.taken == BATCH_JOBS_MAX || Instant::now() >= self.until;
        if is_full && self.taken > 0 {
            return None;
        }
        self.taken += 1;
        self.backlog.pop_front()
    }
}
