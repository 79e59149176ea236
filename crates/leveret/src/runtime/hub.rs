//! Who waits for the end of a run in this process. A notification is only a hint: whoever waits also polls the store.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use leveret_core::{decide::Decision, ids::RunId, json::Json};
use tokio::sync::{broadcast, oneshot};

use crate::store::{
    Finished, Outcome, RunEnd, StepRecord, StepStatus, commit::status_of, follow::passed_status,
};

/// Steps of a run as one worker saw them, if it saw all of them: saves reading them back for the result.
#[derive(Debug, Default)]
pub(crate) struct Trail {
    steps: Vec<StepRecord>,
    /// About how large their outputs are.
    bytes: usize,
    whole: bool,
}

/// A trail longer than this is not kept.
const TRAIL_STEPS_MAX: usize = 256;
/// Nor is one with larger outputs.
const TRAIL_BYTES_MAX: usize = 8 << 20;

impl Trail {
    /// A run begins here; with several start nodes, others see parts of it.
    pub(crate) fn begin(&mut self, single_start: bool) {
        self.whole = single_start;
    }

    /// Another saw a part of the run.
    pub(crate) fn break_off(&mut self) {
        *self = Trail::default();
    }

    pub(crate) fn add(&mut self, finished: &Finished, decision: &Decision) {
        let only_path = decision.ready.len() <= 1
            && decision.joins.is_empty()
            && self.steps.len() < TRAIL_STEPS_MAX;
        if let Outcome::Completed { output, .. } = &finished.outcome {
            self.bytes += output.text().len();
        }
        self.whole &= only_path && self.bytes <= TRAIL_BYTES_MAX;
        if !self.whole {
            self.steps.clear();
            return;
        }
        self.steps.push(record_of(finished));
        self.steps.extend(decision.closes.iter().map(|scope| {
            let scope = scope.clone();
            StepRecord {
                scope,
                ..record_of(finished)
            }
        }));
        for (place, passed) in &decision.passed {
            let at = finished.finished_at;
            self.steps.push(StepRecord {
                node_id: finished.workflow.nodes[place.node].id.clone(),
                scope: place.scope.clone(),
                status: passed_status(*passed),
                attempts: 0,
                output: Json::null(),
                action: None,
                via: None,
                error: None,
                started_at: at,
                finished_at: at,
            });
        }
    }

    pub(crate) fn whole(self) -> Option<Vec<StepRecord>> {
        self.whole.then_some(self.steps)
    }
}

fn record_of(finished: &Finished) -> StepRecord {
    let (output, action, error) = match &finished.outcome {
        Outcome::Completed { output, action, .. } => (output.clone(), action.clone(), None),
        Outcome::Waiting { error, .. } => (Json::null(), None, error.clone()),
        Outcome::Failed { error, .. } => (Json::null(), None, Some(error.clone())),
    };
    StepRecord {
        node_id: finished.workflow.nodes[finished.node].id.clone(),
        scope: finished.scope.clone(),
        status: status_of(&finished.outcome),
        attempts: finished.attempts,
        output,
        action,
        via: finished.via,
        error,
        started_at: finished.started_at,
        finished_at: finished.finished_at,
    }
}

/// The end of a run, and its steps if they are at hand.
#[derive(Clone, Debug)]
pub(crate) struct Ended {
    pub(crate) end: RunEnd,
    pub(crate) trail: Option<Vec<StepRecord>>,
}

/// Something happened to a run in this process.
#[derive(Clone, Debug)]
pub struct RunChanged {
    /// The run.
    pub run_id: RunId,
    /// The node whose step was recorded; `None` at the run's end.
    pub node_id: Option<leveret_core::ids::NodeId>,
    /// The step's status.
    pub status: Option<StepStatus>,
}

/// Hints about runs.
#[derive(Debug)]
pub(crate) struct Hub {
    waiters: Mutex<HashMap<RunId, Vec<oneshot::Sender<Ended>>>>,
    waiting: AtomicUsize,
    changes: broadcast::Sender<RunChanged>,
}

/// How many hints a slow listener may lag behind before it misses some.
const CHANGES_MAX: usize = 1024;

impl Default for Hub {
    fn default() -> Hub {
        let (changes, _) = broadcast::channel(CHANGES_MAX);
        Hub {
            waiters: Mutex::default(),
            waiting: AtomicUsize::new(0),
            changes,
        }
    }
}

impl Hub {
    /// Registers for the end of a run. Register before you look.
    pub(crate) fn wait(self: &Arc<Self>, run_id: &RunId) -> Waiter {
        let (sender, receiver) = oneshot::channel();
        let mut waiters = self.waiters.lock().unwrap_or_else(PoisonError::into_inner);
        waiters.entry(run_id.clone()).or_default().push(sender);
        self.waiting.store(waiters.len(), Ordering::Release);
        drop(waiters);
        Waiter {
            hub: self.clone(),
            run_id: run_id.clone(),
            receiver,
        }
    }

    /// Tells those who wait. `ended` is called only if there are any.
    pub(crate) fn ended(&self, run_id: &RunId, ended: impl FnOnce() -> Ended) {
        if self.changes.receiver_count() > 0 {
            // No listener is no error.
            drop(self.changes.send(RunChanged {
                run_id: run_id.clone(),
                node_id: None,
                status: None,
            }));
        }
        if self.waiting.load(Ordering::Acquire) == 0 {
            return;
        }
        let found = {
            let mut waiters = self.waiters.lock().unwrap_or_else(PoisonError::into_inner);
            let found = waiters.remove(run_id);
            self.waiting.store(waiters.len(), Ordering::Release);
            found
        };
        if let Some(mut senders) = found
            && let Some(last) = senders.pop()
        {
            let ended = ended();
            for sender in senders {
                // Whoever waited may have gone.
                drop(sender.send(ended.clone()));
            }
            drop(last.send(ended));
        }
    }

    pub(crate) fn step(&self, finished: &Finished) {
        if self.changes.receiver_count() > 0 {
            let changed = RunChanged {
                run_id: finished.run_id.clone(),
                node_id: Some(finished.workflow.nodes[finished.node].id.clone()),
                status: Some(status_of(&finished.outcome)),
            };
            drop(self.changes.send(changed));
        }
    }

    pub(crate) fn changes(&self) -> broadcast::Receiver<RunChanged> {
        self.changes.subscribe()
    }
}

/// Waits for a run's end; dropping it stops waiting.
pub(crate) struct Waiter {
    hub: Arc<Hub>,
    run_id: RunId,
    receiver: oneshot::Receiver<Ended>,
}

impl Waiter {
    /// The end, if this process sees it. Cancel-safe.
    pub(crate) async fn ended(&mut self) -> Option<Ended> {
        (&mut self.receiver).await.ok()
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        self.receiver.close();
        let mut waiters = self
            .hub
            .waiters
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(senders) = waiters.get_mut(&self.run_id) {
            senders.retain(|sender| !sender.is_closed());
            if senders.is_empty() {
                waiters.remove(&self.run_id);
            }
        }
        self.hub.waiting.store(waiters.len(), Ordering::Release);
    }
}
