//! The jobs that wait for the writer.

use std::{
    collections::VecDeque,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use super::{LINGER, QUEUED_JOBS_MAX};
use crate::sqlite::{DatabaseError, Session};

/// The writer looks for new jobs this long before it sleeps: waking a thread costs more than that.
const SPIN: Duration = Duration::from_micros(20);

/// Whether somebody waits for the job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::sqlite) enum Urgency {
    /// Somebody does.
    Now,
    /// Somebody does, and sees to it that it runs: the writer is not woken.
    Here,
    /// Nobody does.
    Soon,
}

/// A job with its types erased: runs, perhaps again after a rollback, then learns how its transaction ended.
pub(super) trait Job: Send {
    /// Runs it; whether it succeeded. What an earlier call wrote is rolled back.
    fn run(&mut self, session: &Session<'_>) -> bool;
    /// Its transaction was committed.
    fn committed(self: Box<Self>);
    /// Its transaction was not, or it never ran.
    fn fail(self: Box<Self>, error: DatabaseError);
}

pub(super) struct Task<T, F, A> {
    job: F,
    result: Option<Result<T, DatabaseError>>,
    after: A,
}

impl<T, F, A> Task<T, F, A> {
    pub(super) fn new(job: F, after: A) -> Task<T, F, A> {
        Task {
            job,
            result: None,
            after,
        }
    }

    /// Lets go of the job first: what it shared with the caller is then freed on the thread that made it.
    fn finish(
        self,
        result: impl FnOnce(Option<Result<T, DatabaseError>>) -> Result<T, DatabaseError>,
    ) where
        A: FnOnce(Result<T, DatabaseError>),
    {
        let Task {
            job,
            result: found,
            after,
        } = self;
        drop(job);
        if catch_unwind(AssertUnwindSafe(|| after(result(found)))).is_err() {
            tracing::error!("what follows a database job panicked");
        }
    }
}

impl<T, F, A> Job for Task<T, F, A>
where
    T: Send,
    F: FnMut(&Session<'_>) -> Result<T, DatabaseError> + Send,
    A: FnOnce(Result<T, DatabaseError>) + Send,
{
    fn run(&mut self, session: &Session<'_>) -> bool {
        let result = catch_unwind(AssertUnwindSafe(|| (self.job)(session)));
        let result = result.unwrap_or(Err(DatabaseError::Panicked));
        self.result.insert(result).is_ok()
    }

    fn committed(self: Box<Self>) {
        self.finish(|result| result.expect("the job ran"));
    }

    fn fail(self: Box<Self>, error: DatabaseError) {
        // An error of its own says more.
        self.finish(|result| match result {
            Some(Err(own)) => Err(own),
            _ => Err(error),
        });
    }
}

#[derive(Debug, Default)]
pub(super) struct JobQueue {
    waiting: Mutex<Waiting>,
    wake: Condvar,
    /// Whether a job waits that somebody waits for; only a hint, for the spin.
    urgent: AtomicBool,
}

#[derive(Default)]
struct Waiting {
    jobs: VecDeque<Box<dyn Job>>,
    urgent: bool,
    /// When the jobs that nobody waits for must run.
    deadline: Option<Instant>,
    parked: bool,
    /// It wakes by itself before a deadline that is set now.
    timed: bool,
    closed: bool,
}

impl std::fmt::Debug for Waiting {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} jobs", self.jobs.len())
    }
}

impl JobQueue {
    /// Adds a job, or gives it back with the reason.
    pub(super) fn push(
        &self,
        job: Box<dyn Job>,
        urgency: Urgency,
    ) -> Result<(), (Box<dyn Job>, DatabaseError)> {
        let mut waiting = self.lock();
        if waiting.closed {
            return Err((job, DatabaseError::Closed));
        }
        let queued = waiting.jobs.len();
        if queued >= QUEUED_JOBS_MAX {
            return Err((job, DatabaseError::Overloaded { queued }));
        }
        waiting.jobs.push_back(job);
        let wake = match urgency {
            Urgency::Now => !std::mem::replace(&mut waiting.urgent, true),
            Urgency::Here => {
                waiting.urgent = true;
                false
            }
            Urgency::Soon if waiting.deadline.is_some() => false,
            Urgency::Soon => {
                waiting.deadline = Some(Instant::now() + LINGER);
                !waiting.timed
            }
        };
        if urgency == Urgency::Now {
            self.urgent.store(true, Ordering::Release);
        }
        let wake = wake && waiting.parked;
        drop(waiting);
        if wake {
            self.wake.notify_one();
        }
        Ok(())
    }

    pub(super) fn is_closed(&self) -> bool {
        self.lock().closed
    }

    pub(super) fn close(&self) {
        self.lock().closed = true;
        self.wake.notify_one();
    }

    /// Wakes the writer for what waits.
    pub(super) fn wake(&self) {
        if self.lock().parked {
            self.wake.notify_one();
        }
    }

    /// For the writer: waits for jobs that should run now. False when the queue is closed and empty.
    pub(super) fn wait(&self) -> bool {
        self.spin();
        let mut waiting = self.lock();
        loop {
            let now = Instant::now();
            let due = waiting.deadline.is_some_and(|deadline| deadline <= now);
            if waiting.urgent || due || (waiting.closed && !waiting.jobs.is_empty()) {
                return true;
            }
            if waiting.closed {
                return false;
            }
            waiting = self.park(waiting, now);
        }
    }

    /// For whoever writes: what waits.
    pub(super) fn take(&self, backlog: &mut VecDeque<Box<dyn Job>>) {
        self.take_from(&mut self.lock(), backlog);
    }

    /// For whoever writes: what came in meanwhile, if somebody waits for it or it has company.
    pub(super) fn take_more(&self, backlog: &mut VecDeque<Box<dyn Job>>) {
        let mut waiting = self.lock();
        if waiting.urgent || !backlog.is_empty() {
            self.take_from(&mut waiting, backlog);
        }
    }

    fn take_from(&self, waiting: &mut Waiting, backlog: &mut VecDeque<Box<dyn Job>>) {
        if backlog.is_empty() {
            std::mem::swap(backlog, &mut waiting.jobs);
        } else {
            backlog.append(&mut waiting.jobs);
        }
        waiting.urgent = false;
        waiting.deadline = None;
        self.urgent.store(false, Ordering::Release);
    }

    fn park<'a>(
        &'a self,
        mut waiting: MutexGuard<'a, Waiting>,
        now: Instant,
    ) -> MutexGuard<'a, Waiting> {
        waiting.parked = true;
        waiting.timed = waiting.deadline.is_some();
        let mut waiting = match waiting.deadline {
            None => self
                .wake
                .wait(waiting)
                .unwrap_or_else(PoisonError::into_inner),
            Some(deadline) => {
                let timeout = deadline.saturating_duration_since(now);
                let woken = self.wake.wait_timeout(waiting, timeout);
                woken.unwrap_or_else(PoisonError::into_inner).0
            }
        };
        waiting.parked = false;
        waiting.timed = false;
        waiting
    }

    fn spin(&self) {
        let until = Instant::now() + SPIN;
        while !self.urgent.load(Ordering::Acquire) && Instant::now() < until {
            std::hint::spin_loop();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
