//! Counters of a process. Printed in the Prometheus text format by the HTTP API.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::store::{RunEnd, RunStatus};

/// A number that only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds one.
    pub fn inc(&self) {
        self.add(1);
    }

    /// Adds.
    pub fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    /// The number.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// What a process counts.
#[derive(Debug, Default)]
pub struct Metrics {
    /// Runs begun by this process.
    pub runs_started: Counter,
    /// Runs that ended here as completed.
    pub runs_completed: Counter,
    /// Runs that ended here as failed.
    pub runs_failed: Counter,
    /// Runs cancelled here.
    pub runs_cancelled: Counter,
    /// Jobs that were copies of others and changed nothing.
    pub duplicates: Counter,
    /// Jobs that went to the dead-letter queue.
    pub dead_letters: Counter,
    /// Stalled runs taken up again.
    pub reconciled: Counter,
}

impl Metrics {
    pub(crate) fn run_ended(&self, end: &RunEnd) {
        match end.status {
            RunStatus::Completed => self.runs_completed.inc(),
            RunStatus::Failed => self.runs_failed.inc(),
            RunStatus::Cancelled => self.runs_cancelled.inc(),
            RunStatus::Running => {}
        }
    }
}
