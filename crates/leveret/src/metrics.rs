//! What a process counts: plain atomics, so that counting costs nanoseconds. The HTTP API prints them ([`text`]).
//!
//! Every label is bounded: node types are those of the registry, all others count as one; so do workflows beyond [`WORKFLOWS_MAX`].

use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicU8, AtomicU64, Ordering},
    },
    time::Duration,
};

use leveret_core::ids::WorkflowId;

use crate::{
    broker::ConsumerState,
    store::{Outcome, RunEnd, RunStatus},
};

pub mod queues;
pub mod text;

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

/// How values are distributed: counts up to fixed bounds. Values are whole units, such as microseconds.
#[derive(Debug)]
pub struct Histogram {
    bounds: &'static [u64],
    /// One for each bound, and one for what is above the last.
    buckets: Box<[Counter]>,
    sum: Counter,
}

impl Histogram {
    /// A histogram with ascending bounds, each the largest value of its bucket.
    pub fn new(bounds: &'static [u64]) -> Histogram {
        assert!(bounds.is_sorted(), "the bounds of a histogram ascend");
        let buckets = (0..=bounds.len()).map(|_| Counter::default()).collect();
        Histogram {
            bounds,
            buckets,
            sum: Counter::default(),
        }
    }

    /// Counts a value.
    pub fn observe(&self, value: u64) {
        self.buckets[self.bounds.partition_point(|&bound| bound < value)].inc();
        self.sum.add(value);
    }

    /// For each bound how many values are at or below it.
    pub fn cumulated(&self) -> impl Iterator<Item = (u64, u64)> {
        self.bounds
            .iter()
            .zip(&self.buckets)
            .scan(0, |count, (&bound, bucket)| {
                *count += bucket.get();
                Some((bound, *count))
            })
    }

    /// How many values were counted.
    pub fn count(&self) -> u64 {
        self.buckets.iter().map(Counter::get).sum()
    }

    /// Their sum.
    pub fn sum(&self) -> u64 {
        self.sum.get()
    }
}

/// Bounds of durations, in microseconds: 100 µs to 60 s.
pub(crate) const DURATION_BOUNDS_US: &[u64] = &[
    100, 500, 1_000, 5_000, 10_000, 50_000, 100_000, 500_000, 1_000_000, 5_000_000, 10_000_000,
    60_000_000,
];

/// Bounds of batch sizes.
pub(crate) const BATCH_BOUNDS: &[u64] = &[1, 2, 4, 8, 16, 32, 64, 128, 256, 512];

/// What is counted of the steps of one node type, as this process executed them.
#[derive(Debug)]
pub struct NodeTypeMetrics {
    /// Attempts that completed their step.
    pub completed: Counter,
    /// Attempts that failed their step for good.
    pub failed: Counter,
    /// Attempts that failed and are tried again.
    pub retried: Counter,
    /// Attempts that put their step to sleep.
    pub waiting: Counter,
    /// How long attempts took, in microseconds.
    pub duration_us: Histogram,
}

impl Default for NodeTypeMetrics {
    fn default() -> NodeTypeMetrics {
        NodeTypeMetrics {
            completed: Counter::default(),
            failed: Counter::default(),
            retried: Counter::default(),
            waiting: Counter::default(),
            duration_us: Histogram::new(DURATION_BOUNDS_US),
        }
    }
}

/// Where the worker's consumer stands; `None` while this process has none.
#[derive(Debug, Default)]
pub struct ConsumerGauge(AtomicU8);

impl ConsumerGauge {
    /// All states, with their names in metrics.
    pub const STATES: [(ConsumerState, &'static str); 4] = [
        (ConsumerState::Starting, "starting"),
        (ConsumerState::Live, "live"),
        (ConsumerState::Draining, "draining"),
        (ConsumerState::Lost, "lost"),
    ];

    /// Tells the state.
    pub fn set(&self, state: ConsumerState) {
        let at = Self::STATES
            .iter()
            .position(|(known, _)| *known == state)
            .expect("all states are listed");
        self.0.store(at as u8 + 1, Ordering::Relaxed);
    }

    /// The process consumes no more.
    pub fn clear(&self) {
        self.0.store(0, Ordering::Relaxed);
    }

    /// The state.
    pub fn get(&self) -> Option<ConsumerState> {
        let at = usize::from(self.0.load(Ordering::Relaxed)).checked_sub(1)?;
        Some(Self::STATES[at].0)
    }
}

/// Bounds of the durations of runs, in milliseconds: 1 ms to a day.
pub(crate) const RUN_BOUNDS_MS: &[u64] = &[
    1, 5, 10, 50, 100, 500, 1_000, 5_000, 10_000, 60_000, 300_000, 3_600_000, 86_400_000,
];

/// How many workflows are told apart; the runs of all others count together.
pub const WORKFLOWS_MAX: usize = 200;

/// What is counted of the runs of one workflow in this process. Runs begin in one and end in another: those that go on are the difference of
/// the sums over all.
#[derive(Debug)]
pub struct WorkflowMetrics {
    /// Runs begun.
    pub started: Counter,
    /// Runs that ended as completed.
    pub completed: Counter,
    /// Runs that ended as failed.
    pub failed: Counter,
    /// Runs cancelled.
    pub cancelled: Counter,
    /// How long runs took, from when they were asked for to their end, in milliseconds.
    pub duration_ms: Histogram,
}

impl Default for WorkflowMetrics {
    fn default() -> WorkflowMetrics {
        WorkflowMetrics {
            started: Counter::default(),
            completed: Counter::default(),
            failed: Counter::default(),
            cancelled: Counter::default(),
            duration_ms: Histogram::new(RUN_BOUNDS_MS),
        }
    }
}

/// What a process counts.
#[derive(Debug)]
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
    /// Runs removed, as they had ended long ago.
    pub runs_pruned: Counter,
    /// Timers fired: steps that slept, and retries that came due.
    pub timers_fired: Counter,
    /// Signals recorded, each once.
    pub signals: Counter,
    /// Messages that the broker confirmed.
    pub published: Counter,
    /// Status messages that the broker did not take. They are not published again.
    pub status_messages_lost: Counter,
    /// Deliveries of jobs taken.
    pub consumed: Counter,
    /// Deliveries acknowledged, after everything that follows from them was confirmed.
    pub acked: Counter,
    /// Deliveries returned to their queue.
    pub requeued: Counter,
    /// Calls of the store that failed for now and were repeated.
    pub store_errors: Counter,
    /// Publishes that failed, a batch as one, and were repeated; of status messages also those that are lost.
    pub broker_errors: Counter,
    /// Steps per commit.
    pub commit_steps: Histogram,
    /// The worker's consumer.
    pub consumer: ConsumerGauge,
    by_node_type: HashMap<Arc<str>, NodeTypeMetrics>,
    unregistered: NodeTypeMetrics,
    by_workflow: RwLock<BTreeMap<WorkflowId, Arc<WorkflowMetrics>>>,
    other_workflows: Arc<WorkflowMetrics>,
}

impl Default for Metrics {
    fn default() -> Metrics {
        Metrics::new(Vec::new())
    }
}

impl Metrics {
    /// Metrics that tell these node types apart.
    pub fn new(node_types: Vec<String>) -> Metrics {
        let by_node_type = node_types
            .into_iter()
            .map(|name| (Arc::from(name), NodeTypeMetrics::default()))
            .collect();
        Metrics {
            runs_started: Counter::default(),
            runs_completed: Counter::default(),
            runs_failed: Counter::default(),
            runs_cancelled: Counter::default(),
            duplicates: Counter::default(),
            dead_letters: Counter::default(),
            reconciled: Counter::default(),
            runs_pruned: Counter::default(),
            timers_fired: Counter::default(),
            signals: Counter::default(),
            published: Counter::default(),
            status_messages_lost: Counter::default(),
            consumed: Counter::default(),
            acked: Counter::default(),
            requeued: Counter::default(),
            store_errors: Counter::default(),
            broker_errors: Counter::default(),
            commit_steps: Histogram::new(BATCH_BOUNDS),
            consumer: ConsumerGauge::default(),
            by_node_type,
            unregistered: NodeTypeMetrics::default(),
            by_workflow: RwLock::default(),
            other_workflows: Arc::default(),
        }
    }

    /// The node types of which something was counted, by name; those that are not registered count as `unregistered`.
    pub fn node_types(&self) -> Vec<(&str, &NodeTypeMetrics)> {
        let mut all: Vec<(&str, &NodeTypeMetrics)> = self
            .by_node_type
            .iter()
            .map(|(name, counted)| (&**name, counted))
            .collect();
        all.push(("unregistered", &self.unregistered));
        all.retain(|(_, counted)| counted.duration_us.count() > 0);
        all.sort_unstable_by_key(|(name, _)| *name);
        all
    }

    /// The workflows of which runs were counted, by name, the first [`WORKFLOWS_MAX`] that came; those of all others as `other`.
    pub fn workflows(&self) -> Vec<(String, Arc<WorkflowMetrics>)> {
        let known = self.by_workflow.read();
        let known = known.unwrap_or_else(PoisonError::into_inner);
        let mut all: Vec<_> = known
            .iter()
            .map(|(id, counted)| (id.to_string(), counted.clone()))
            .collect();
        let others = &self.other_workflows;
        if others.started.get() > 0 || others.duration_ms.count() > 0 {
            all.push(("other".to_owned(), others.clone()));
        }
        all
    }

    fn of_workflow(&self, id: &WorkflowId) -> Arc<WorkflowMetrics> {
        let known = self.by_workflow.read();
        let known = known.unwrap_or_else(PoisonError::into_inner);
        if let Some(counted) = known.get(id) {
            return counted.clone();
        }
        let is_full = known.len() >= WORKFLOWS_MAX;
        drop(known);
        if is_full || id.as_str() == "other" {
            return self.other_workflows.clone();
        }
        let known = self.by_workflow.write();
        let mut known = known.unwrap_or_else(PoisonError::into_inner);
        known.entry(id.clone()).or_default().clone()
    }

    pub(crate) fn run_started(&self, workflow_id: &WorkflowId) {
        self.runs_started.inc();
        self.of_workflow(workflow_id).started.inc();
    }

    pub(crate) fn run_ended(&self, workflow_id: &WorkflowId, end: &RunEnd) {
        let counted = self.of_workflow(workflow_id);
        let (of_all, of_workflow) = match end.status {
            RunStatus::Completed => (&self.runs_completed, &counted.completed),
            RunStatus::Failed => (&self.runs_failed, &counted.failed),
            RunStatus::Cancelled => (&self.runs_cancelled, &counted.cancelled),
            RunStatus::Running => return,
        };
        of_all.inc();
        of_workflow.inc();
        let took = end.ended_at.ms_since(end.created_at);
        counted.duration_ms.observe(took);
    }

    /// An attempt at a step was executed.
    pub(crate) fn executed(&self, node_type: &str, took: Duration, outcome: &Outcome) {
        let counted = self
            .by_node_type
            .get(node_type)
            .unwrap_or(&self.unregistered);
        match outcome {
            Outcome::Completed { .. } => counted.completed.inc(),
            Outcome::Failed { .. } => counted.failed.inc(),
            Outcome::Waiting { error: Some(_), .. } => counted.retried.inc(),
            Outcome::Waiting { error: None, .. } => counted.waiting.inc(),
        }
        counted
            .duration_us
            .observe(u64::try_from(took.as_micros()).unwrap_or(u64::MAX));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cumulates_buckets() {
        let histogram = Histogram::new(&[1, 10]);
        for value in [0, 1, 2, 10, 11, 500] {
            histogram.observe(value);
        }
        assert_eq!(histogram.cumulated().collect::<Vec<_>>(), [(1, 2), (10, 4)]);
        assert_eq!((histogram.count(), histogram.sum()), (6, 524));
    }

    #[test]
    fn workflows_are_bounded() {
        let metrics = Metrics::default();
        for number in 0..WORKFLOWS_MAX + 5 {
            let id = WorkflowId::new(format!("w{number:04}")).unwrap();
            metrics.run_started(&id);
            metrics.run_started(&id);
        }
        let workflows = metrics.workflows();
        assert_eq!(workflows.len(), WORKFLOWS_MAX + 1);
        let (name, others) = workflows.last().unwrap();
        assert_eq!((&**name, others.started.get()), ("other", 10));
        assert_eq!(workflows[0].1.started.get(), 2);
    }

    #[test]
    fn remembers_the_consumer() {
        let gauge = ConsumerGauge::default();
        assert_eq!(gauge.get(), None);
        gauge.set(ConsumerState::Lost);
        assert_eq!(gauge.get(), Some(ConsumerState::Lost));
        gauge.clear();
        assert_eq!(gauge.get(), None);
    }
}
