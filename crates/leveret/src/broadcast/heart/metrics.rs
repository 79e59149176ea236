//! What a heart counts, and its text for Prometheus.

use crate::metrics::Counter;

/// What a heart counts.
#[derive(Debug, Default)]
pub struct HeartMetrics {
    /// Writes logged.
    pub writes: Counter,
    /// Writes whose level was not reached in time.
    pub writes_not_yet: Counter,
    /// Appends that failed.
    pub append_failures: Counter,
    /// Writes that the broker confirmed.
    pub published: Counter,
    /// Messages that the broker confirmed.
    pub messages: Counter,
    /// Batches that the broker did not take.
    pub publish_failures: Counter,
    /// Writes that nodes fetched from the log.
    pub fetched: Counter,
    /// Reports of nodes.
    pub reports: Counter,
    /// Messages in the queue of reports that are none.
    pub reports_malformed: Counter,
    /// Nodes quarantined.
    pub divergences: Counter,
    /// Questions answered.
    pub reads: Counter,
    /// Nodes that did not answer a question.
    pub read_failures: Counter,
    /// Snapshots passed on.
    pub snapshots: Counter,
    /// Writes truncated.
    pub truncated: Counter,
    /// Queues of nodes that were deleted, since too much waited in them.
    pub queues_deleted: Counter,
}
#[cfg(feature = "http")]
pub(super) mod text {
    //! The text. Its names and labels are what operators' dashboards know.

    use std::collections::BTreeMap;

    use crate::{
        broadcast::{
            heart::{HeartState, Status},
            link::NodeState,
        },
        metrics::text::{Kind, TextWriter},
    };

    use super::HeartMetrics;

    /// What is counted, how the cluster is, and the depth of each node's queue where the broker told.
    pub(in crate::broadcast::heart) fn print(
        metrics: &HeartMetrics,
        status: &Status,
        waiting: usize,
        depths: &BTreeMap<String, u64>,
    ) -> String {
        let mut text = TextWriter::default();
        let counters = [
            (
                "leveret_broadcast_writes_total",
                "Writes logged.",
                &metrics.writes,
            ),
            (
                "leveret_broadcast_writes_not_yet_total",
                "Writes whose acknowledgement level was not reached in time.",
                &metrics.writes_not_yet,
            ),
            (
                "leveret_broadcast_append_failures_total",
                "Appends to the log that failed.",
                &metrics.append_failures,
            ),
            (
                "leveret_broadcast_published_total",
                "Writes that the broker confirmed.",
                &metrics.published,
            ),
            (
                "leveret_broadcast_messages_total",
                "Messages with writes that the broker confirmed.",
                &metrics.messages,
            ),
            (
                "leveret_broadcast_publish_failures_total",
                "Batches that the broker did not take.",
                &metrics.publish_failures,
            ),
            (
                "leveret_broadcast_fetched_total",
                "Writes that nodes fetched from the log.",
                &metrics.fetched,
            ),
            (
                "leveret_broadcast_reports_total",
                "Reports of nodes.",
                &metrics.reports,
            ),
            (
                "leveret_broadcast_reports_malformed_total",
                "Messages in the queue of reports that are none.",
                &metrics.reports_malformed,
            ),
            (
                "leveret_broadcast_divergences_total",
                "Nodes quarantined.",
                &metrics.divergences,
            ),
            (
                "leveret_broadcast_reads_total",
                "Questions answered.",
                &metrics.reads,
            ),
            (
                "leveret_broadcast_read_failures_total",
                "Nodes that did not answer a question in time.",
                &metrics.read_failures,
            ),
            (
                "leveret_broadcast_snapshots_total",
                "Snapshots passed on.",
                &metrics.snapshots,
            ),
            (
                "leveret_broadcast_truncated_total",
                "Writes truncated from the log.",
                &metrics.truncated,
            ),
            (
                "leveret_broadcast_queues_deleted_total",
                "Queues of nodes that were deleted, since too much waited in them.",
                &metrics.queues_deleted,
            ),
        ];
        for (name, help, counter) in counters {
            text.single(name, Kind::Counter, help, counter.get());
        }
        let is_active = u8::from(status.state == HeartState::Active);
        let gauges = [
            (
                "leveret_broadcast_active",
                "Whether this heart takes writes.",
                u64::from(is_active),
            ),
            (
                "leveret_broadcast_epoch",
                "The epoch of this heart; 0 while it has none.",
                status.epoch,
            ),
            (
                "leveret_broadcast_last_seq",
                "The last write of the log.",
                status.last_seq,
            ),
            (
                "leveret_broadcast_log_oldest_seq",
                "The oldest write of the log.",
                status.oldest_seq,
            ),
            (
                "leveret_broadcast_log_bytes",
                "The size of the log.",
                status.log_bytes,
            ),
            (
                "leveret_broadcast_unpublished",
                "Writes that wait for the broker.",
                status.unpublished,
            ),
            (
                "leveret_broadcast_waiting",
                "Writes whose outcomes are waited for.",
                waiting as u64,
            ),
        ];
        for (name, help, value) in gauges {
            text.single(name, Kind::Gauge, help, value);
        }
        nodes(&mut text, status, depths);
        text.finish()
    }

    fn nodes(text: &mut TextWriter, status: &Status, depths: &BTreeMap<String, u64>) {
        let mut family = text.family(
            "leveret_broadcast_queue_depth",
            Kind::Gauge,
            "Messages in a node's queue.",
        );
        for (node_id, depth) in depths {
            family.sample(&[("node_id", node_id)], depth);
        }
        type Of = fn(&crate::broadcast::heart::NodeStatus) -> f64;
        let families: [(&'static str, &str, Of); 4] = [
            (
                "leveret_broadcast_node_position",
                "The seq up to which a node has applied.",
                |node| node.position as f64,
            ),
            (
                "leveret_broadcast_node_lag_entries",
                "Writes that a node has not applied.",
                |node| node.lag_entries as f64,
            ),
            (
                "leveret_broadcast_node_lag_seconds",
                "For how long the oldest write that a node has not applied has been logged.",
                |node| node.lag_ms as f64 / 1e3,
            ),
            (
                "leveret_broadcast_node_apply_seconds",
                "From the arrival of a node's last delivery to its commit.",
                |node| node.took_ms as f64 / 1e3,
            ),
        ];
        for (name, help, value) in families {
            let mut family = text.family(name, Kind::Gauge, help);
            for node in &status.nodes {
                family.sample(&[("node_id", &node.node_id)], value(node));
            }
        }
        let mut family = text.family(
            "leveret_broadcast_node_state",
            Kind::Gauge,
            "1 for the state that a node is in.",
        );
        for node in &status.nodes {
            for state in NodeState::ALL {
                let labels = [("node_id", &*node.node_id), ("state", state.as_str())];
                family.sample(&labels, u8::from(node.state == state));
            }
        }
    }
}
