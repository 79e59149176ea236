//! What a node counts.

use super::{NodeOptions, shared::NodeStatus};
use crate::{
    broadcast::NodeState,
    metrics::{
        BATCH_BOUNDS, Counter, DURATION_BOUNDS_US, Histogram,
        text::{Kind, TextWriter},
    },
};

/// What a node counts, since its process began.
#[derive(Debug)]
pub struct NodeMetrics {
    /// Writes applied, failed ones included.
    pub applied: Counter,
    /// Writes whose outcome is an error of SQL.
    pub failed: Counter,
    /// Writes that had been applied before.
    pub skipped: Counter,
    /// Writes of a heart that had lost its log.
    pub stale: Counter,
    /// Writes that the heart's log gave.
    pub fetched: Counter,
    /// Messages that were no writes of this cluster.
    pub dead_letters: Counter,
    /// Faults of the database's machine.
    pub faults: Counter,
    /// Snapshots put in the place of all contents.
    pub restores: Counter,
    /// Questions answered.
    pub reads: Counter,
    /// Writes in a transaction.
    pub batch_writes: Histogram,
    /// How long transactions took, in microseconds.
    pub apply_us: Histogram,
    /// From the arrival of a delivery until it was applied, in microseconds.
    pub lag_us: Histogram,
}

impl Default for NodeMetrics {
    fn default() -> NodeMetrics {
        NodeMetrics {
            applied: Counter::default(),
            failed: Counter::default(),
            skipped: Counter::default(),
            stale: Counter::default(),
            fetched: Counter::default(),
            dead_letters: Counter::default(),
            faults: Counter::default(),
            restores: Counter::default(),
            reads: Counter::default(),
            batch_writes: Histogram::new(BATCH_BOUNDS),
            apply_us: Histogram::new(DURATION_BOUNDS_US),
            lag_us: Histogram::new(DURATION_BOUNDS_US),
        }
    }
}

impl NodeMetrics {
    /// In the text format, each with the label `node_id`. `queue_depth`: the messages that wait in the node's queue, if the broker says.
    pub(super) fn text(
        &self,
        options: &NodeOptions,
        status: &NodeStatus,
        queue_depth: Option<u64>,
    ) -> String {
        let node = [("node_id", &*options.node_id)];
        let mut writer = TextWriter::default();
        for (name, help, counter) in self.counters() {
            let mut family = writer.family(name, Kind::Counter, help);
            family.sample(&node, counter.get());
        }
        let lag = status.last_seq.saturating_sub(status.position.seq);
        let gauges = [
            (
                "leveret_node_applied_seq",
                "The last write applied.",
                Some(status.position.seq),
            ),
            (
                "leveret_node_lag_entries",
                "Writes of the log that are not applied.",
                Some(lag),
            ),
            (
                "leveret_node_queue_depth",
                "Messages that wait in the node's queue.",
                queue_depth,
            ),
        ];
        for (name, help, value) in gauges {
            if let Some(value) = value {
                writer.family(name, Kind::Gauge, help).sample(&node, value);
            }
        }
        let help = "1 for the state that the node is in.";
        let mut family = writer.family("leveret_node_state", Kind::Gauge, help);
        for state in NodeState::ALL {
            let labels = [node[0], ("state", state.as_str())];
            family.sample(&labels, u8::from(state == status.state));
        }
        let histograms = [
            (
                "leveret_node_apply_duration_seconds",
                "How long transactions took.",
                1e6,
                &self.apply_us,
            ),
            (
                "leveret_node_lag_seconds",
                "From arrival until applied.",
                1e6,
                &self.lag_us,
            ),
            (
                "leveret_node_batch_writes",
                "Writes in a transaction.",
                1.0,
                &self.batch_writes,
            ),
        ];
        for (name, help, of, histogram) in histograms {
            let mut family = writer.family(name, Kind::Histogram, help);
            family.histogram(&node, of, histogram);
        }
        writer.finish()
    }

    fn counters(&self) -> [(&'static str, &'static str, &Counter); 9] {
        [
            (
                "leveret_node_applied_total",
                "Writes applied, failed ones included.",
                &self.applied,
            ),
            (
                "leveret_node_failed_total",
                "Writes whose outcome is an error of SQL.",
                &self.failed,
            ),
            (
                "leveret_node_skipped_total",
                "Writes that had been applied before.",
                &self.skipped,
            ),
            (
                "leveret_node_stale_total",
                "Writes of a heart that had lost its log.",
                &self.stale,
            ),
            (
                "leveret_node_fetched_total",
                "Writes that the heart's log gave.",
                &self.fetched,
            ),
            (
                "leveret_node_dead_letters_total",
                "Messages that were no writes of this cluster.",
                &self.dead_letters,
            ),
            (
                "leveret_node_faults_total",
                "Faults of the database's machine.",
                &self.faults,
            ),
            (
                "leveret_node_restores_total",
                "Snapshots put in the place of all contents.",
                &self.restores,
            ),
            (
                "leveret_node_reads_total",
                "Questions answered.",
                &self.reads,
            ),
        ]
    }
}
