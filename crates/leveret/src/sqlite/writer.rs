//! The writer thread: jobs in order, many to a transaction.

mod queue;
mod transaction;

use std::{
    collections::VecDeque,
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
    queue::{JobQueue, Task},
    transaction::Transactions,
};
use super::{DatabaseError, connection::ProcessLock};

/// The most jobs in one transaction, so that the first of them does not wait long for the last.
pub const BATCH_JOBS_MAX: usize = 1024;

/// The longest that jobs run before their transaction is committed with those that had their turn.
const BATCH_TIME_MAX: Duration = Duration::from_millis(20);

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
    pub(super) fn start(connection: Connection, lock: ProcessLock) -> Writer {
        let jobs = Arc::new(JobQueue::default());
        let open = Arc::new(AtomicBool::new(true));
        let (end, ended) = watch::channel(false);
        let thread = (jobs.clone(), open.clone());
        std::thread::Builder::new()
            .name("leveret-sqlite".to_owned())
            .spawn(move || {
                let (jobs, open) = thread;
                let mut transactions = Transactions::new(connection, open);
                run(&jobs, &mut transactions);
                drop(transactions);
                drop(lock);
                end.send_replace(true);
            })
            .expect("the system starts a thread");
        Writer { jobs, open, ended }
    }

    pub(super) fn queue<T, F, A>(&self, job: F, after: A, urgency: Urgency)
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> Result<T, DatabaseError> + Send + 'static,
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

fn run(jobs: &JobQueue, transactions: &mut Transactions) {
    let mut backlog = VecDeque::new();
    while jobs.wait(&mut backlog) {
        while !backlog.is_empty() {
            transactions.run(Batch {
                backlog: &mut backlog,
                left: BATCH_JOBS_MAX,
                until: Instant::now() + BATCH_TIME_MAX,
            });
            jobs.take_more(&mut backlog);
        }
    }
}

/// The jobs of one transaction: the first ones of the backlog, up to a number and a time.
struct Batch<'a> {
    backlog: &'a mut VecDeque<Box<dyn queue::Job>>,
    left: usize,
    until: Instant,
}

impl Batch<'_> {
    fn is_alone(&self) -> bool {
        self.backlog.len() == 1
    }
}

impl Iterator for Batch<'_> {
    type Item = Box<dyn queue::Job>;

    fn next(&mut self) -> Option<Self::Item> {
        // Looking at the clock costs as much as a small statement.
        let look = self.left.is_multiple_of(32) && self.left < BATCH_JOBS_MAX;
        if self.left == 0 || (look && Instant::now() >= self.until) {
            return None;
        }
        self.left -= 1;
        self.backlog.pop_front()
    }
}
