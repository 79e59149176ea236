//! What a service counts of the queues that it reads, beside what their consumption counts by itself.

use crate::metrics::Counter;

/// What became of the messages of one queue.
#[derive(Debug, Default)]
pub(super) struct QueueCounts {
    /// Parked with their documents.
    pub(super) parked: Counter,
    /// Late, or of what is known.
    pub(super) stale: Counter,
}
