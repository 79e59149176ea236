//! The writer thread: jobs in order, many to a transaction.

mod checkpoint;
mod queue;
mod transaction;

use std::{
    collections::VecDeque,
    path::PathBuf,
    sync::{
        Arc,
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
use super::{DatabaseError, connection::ProcessLock};

/// The most jobs in one transaction, so that the first of them does not wait long for the last.
pub const BATCH_JOBS_MAX: usize = 1024;

/// After so long in a transaction, no further job joins it: their callers go on with those that are committed while the next ones run.
/// Where the disk is slower than that, it is as long as the last commit took.
const BATCH_TIME: Duration = Duration::from_micros(1000);

/// The most jobs that may wait; further ones fail with [`DatabaseError::Overloaded`]. Callers that wait for their results never
/// come near.
pub const QUEUED_JOBS_MAX: usize = 1 << 17;

/// The longest that a job which nobody waits for is held back to share a transaction.
pub const LINGER: Duration = Duration::from_millis(5);

/// The writer as its callers see it.
#[derive(Debug)]
pub(super) struct Writer {
    jobs: Arc<JobQueue>,
    open: Arc<AtomicBool>,
    ended: watch::Receiver<bool>,
}

impl Writer {
    pub(super) fn start(
        mut connection: Connection,
        path: PathBuf,
        lock: ProcessLock,
    ) -> Result<Writer, DatabaseError> {
        let mut checkpoints = Checkpoints::start(&mut connection, path)?;
        let jobs = Arc::new(JobQueue::default());
        let open = Arc::new(AtomicBool::new(true));
        let (end, ended) = watch::channel(false);
        let thread = (jobs.clone(), open.clone());
        std::thread::Builder::new()
            .name("leveret-sqlite".to_owned())
            .spawn(move || {
                let (jobs, open) = thread;
                let mut transactions = Transactions::new(connection, open);
                run(&jobs, &mut transactions, &mut checkpoints);
                drop(checkpoints);
                drop(transactions);
                drop(lock);
                end.send_replace(true);
            })
            .expect("the system starts a thread");
        Ok(Writer { jobs, open, ended })
    }

    pub(super) fn queue<T, F, A>(&self, job: F, after: A, urgency: Urgency)
    where
        T: Send + 'static,
        F: FnMut(&Connection) -> Result<T, DatabaseError> + Send + 'static,
        A: FnOnce(Result<T, DatabaseError>) + Send + 'static,
    {
        if let Err((task, error)) = self.jobs.push(Box::new(Task::new(job, after)), urgency) {
            task.fail(error);
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

fn run(jobs: &JobQueue, transactions: &mut Transactions, checkpoints: &mut Checkpoints) {
    let mut backlog = VecDeque::new();
    while jobs.wait(&mut backlog) {
        while !backlog.is_empty() {
            let time = transactions.commit_time.max(BATCH_TIME);
            transactions.run(Batch {
                backlog: &mut backlog,
                taken: 0,
                until: Instant::now() + time,
            });
            checkpoints.after_commit(transactions.connection());
            jobs.take_more(&mut backlog);
        }
    }
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
