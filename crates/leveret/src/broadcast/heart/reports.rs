//! What nodes tell: how far they are, what came of writes, and the hashes that show whether they are equal.

use std::{sync::Arc, time::Duration};

use leveret_core::broadcast::Position;
use tokio::{sync::watch, time::Instant};

use super::{Shared, waiting::Advanced};
use crate::{
    broadcast::{replica::Applied, wire::Report},
    broker::{ConsumeOptions, Consumer},
};

/// Reports taken and not yet acknowledged.
const PREFETCH: u16 = 256;

/// The pause before the queue is consumed again after it could not be.
const PAUSE: Duration = Duration::from_millis(500);

/// The most outcomes that are asked for at once.
const PULLED_MAX: u32 = 1024;

/// Consumes reports until `stop`, while this heart has the log: a standby leaves them to the one that has it. One that is lost does no harm:
/// positions and outcomes can be asked for.
pub(super) async fn run(shared: Arc<Shared>, mut stop: watch::Receiver<bool>) {
    let mut leads = shared.leads.subscribe();
    loop {
        // The sender is in `shared`.
        let begins = async { drop(leads.wait_for(|leads| *leads).await) };
        tokio::select! {
            biased;
            _ = stop.wait_for(|stop| *stop) => return,
            () = begins => {}
        }
        let ends = async { drop(leads.wait_for(|leads| !*leads).await) };
        tokio::select! {
            biased;
            _ = stop.wait_for(|stop| *stop) => return,
            // Dropped in the middle, taking them returns what it has not acknowledged.
            () = ends => {}
            () = take_reports(&shared) => {}
        }
    }
}

async fn take_reports(shared: &Arc<Shared>) {
    match shared.reports().await {
        Ok(mut consumer) => {
            while let Some(delivery) = consumer.next().await {
                match Report::from_message(&delivery.message) {
                    Ok(report) => shared.report(&report),
                    Err(reason) => {
                        tracing::warn!(%reason, "a message in the queue of reports is none");
                        shared.metrics.reports_malformed.inc();
                    }
                }
                delivery.receipt.ack();
            }
        }
        Err(error) => tracing::debug!(%error, "reports cannot be consumed now"),
    }
    tokio::time::sleep(PAUSE).await;
}

impl Shared {
    async fn reports(&self) -> Result<Consumer, crate::broker::BrokerError> {
        let names = &self.options.names;
        let broker = &self.parts.broker;
        broker.declare(&names.heart_topology()).await?;
        let options = ConsumeOptions {
            prefetch: PREFETCH,
            ..ConsumeOptions::queue(names.heart_queue())
        };
        broker.consume(options).await
    }

    /// Takes a report. One of another cluster, of no member, or of an earlier opening of its database says nothing.
    fn report(self: &Arc<Self>, report: &Report) {
        let now = Instant::now();
        self.metrics.reports.inc();
        let advance = {
            let mut state = self.state();
            if report.cluster != state.cluster || state.phase.held().is_none() {
                return;
            }
            let Some(member) = state.members.by_id.get_mut(&report.node_id) else {
                return;
            };
            if member.incarnation != Some(report.incarnation) {
                return;
            }
            let before = member.position;
            if report.position > before {
                member.position = report.position;
                member.hash = report.hash;
            }
            member.seen = Some(now);
            member.took_ms = report.took_ms;
            let is_trusted = member.record.quarantined.is_none();
            if is_trusted {
                for applied in &report.outcomes {
                    state
                        .waiting
                        .outcome(applied.position.seq, &applied.outcome);
                }
            }
            (before.seq, report.position.seq)
        };
        let outcomes = report.outcomes.iter();
        let outcomes = outcomes.map(|applied| (applied.position.seq, applied.hash));
        let marks = report.marks.iter().map(|mark| (mark.seq, mark.hash));
        let hashes = outcomes.chain(marks);
        let hashes: Vec<_> = hashes.chain([(report.position.seq, report.hash)]).collect();
        self.compare(&report.node_id, &hashes);
        let (before, position) = advance;
        // Outcomes may be of writes that it told of before, in a report without them.
        let outcomes = report.outcomes.iter().map(|applied| applied.position.seq);
        let after = outcomes.min().map_or(before, |first| before.min(first - 1));
        let lacking = self.advance(after, position);
        self.pull(&report.node_id, &lacking);
        self.changed.notify_waiters();
    }

    /// Answers those whose level is reached between these seqs. Returns the seqs that are applied but whose outcomes nobody told.
    pub(super) fn advance(&self, after: u64, through: u64) -> Vec<u64> {
        let advanced: Advanced = {
            let mut state = self.state();
            let state = &mut *state;
            let members = &state.members;
            let reached = |seq| members.reached(seq);
            state.waiting.advance(after, through, reached)
        };
        if !advanced.settle.is_empty() {
            let log = self.parts.log.clone();
            tokio::spawn(async move {
                // What is not kept is asked of the nodes again.
                if let Err(error) = log.settle(advanced.settle).await {
                    tracing::warn!(%error, "outcomes of writes with keys are not kept");
                }
            });
        }
        advanced.lacking
    }

    /// Asks a node that has applied these writes what came of them. If all are asked already, whoever asked for the write asks again.
    pub(super) fn pull_from_any(self: &Arc<Self>, lacking: &[u64]) {
        let Some(first) = lacking.first().copied() else {
            return;
        };
        let node_id = {
            let state = self.state();
            let mut members = state.members.by_id.iter();
            let knows = members.find(|(_, member)| {
                let is_trusted = member.record.quarantined.is_none();
                let is_free = member.link.is_some() && !member.is_pulled;
                is_trusted && is_free && member.position.seq >= first
            });
            knows.map(|(node_id, _)| node_id.clone())
        };
        if let Some(node_id) = node_id {
            self.pull(&node_id, lacking);
        }
    }

    /// Asks a node for outcomes that it did not report, such as of writes that it fetched.
    pub(super) fn pull(self: &Arc<Self>, node_id: &Arc<str>, lacking: &[u64]) {
        let Some(first) = lacking.first().copied() else {
            return;
        };
        let link = {
            let mut state = self.state();
            let Some(member) = state.members.by_id.get_mut(node_id) else {
                return;
            };
            if member.is_pulled || member.record.quarantined.is_some() {
                return;
            }
            member.is_pulled = member.link.is_some();
            member.link.clone()
        };
        let Some(link) = link else { return };
        let (shared, node_id) = (self.clone(), node_id.clone());
        tokio::spawn(async move {
            let outcomes = link.outcomes(first - 1, PULLED_MAX).await;
            let through = {
                let mut state = shared.state();
                if let Some(member) = state.members.by_id.get_mut(&node_id) {
                    member.is_pulled = false;
                }
                let outcomes: Vec<Applied> = outcomes.unwrap_or_default();
                for applied in &outcomes {
                    state
                        .waiting
                        .outcome(applied.position.seq, &applied.outcome);
                }
                outcomes.last().map_or(0, |last| last.position.seq)
            };
            shared.advance(first - 1, through);
        });
    }

    /// Compares a node's hashes with those of the others of its kind, and quarantines those that differ.
    pub(super) fn compare(self: &Arc<Self>, node_id: &Arc<str>, hashes: &[(u64, u64)]) {
        let now = Instant::now();
        let lease = self.options.node_lease;
        let mut diverged = Vec::new();
        {
            let mut state = self.state();
            let state = &mut *state;
            for &(seq, hash) in hashes {
                if state.marks.note(node_id, seq, hash) {
                    let members = &state.members;
                    let voters = members.of_its_kind(node_id, members.voters());
                    let reachable = members.of_its_kind(node_id, members.reachable(now, lease));
                    let minority = state.marks.minority(seq, &voters, &reachable);
                    diverged.extend(minority.into_iter().map(|id| (id, seq)));
                }
            }
        }
        for (node_id, seq) in diverged {
            self.quarantine(
                &node_id,
                format!("its outcomes differ at seq {seq}, or before"),
            );
        }
    }

    /// Takes a node out of the reads and the quorum until it is rebuilt.
    pub(super) fn quarantine(self: &Arc<Self>, node_id: &Arc<str>, reason: String) {
        let link = {
            let mut state = self.state();
            let Some(member) = state.members.by_id.get_mut(node_id) else {
                return;
            };
            if member.record.quarantined.is_some() {
                return;
            }
            tracing::error!(%node_id, %reason, "node {node_id} is quarantined: rebuild it");
            member.record.quarantined = Some(reason);
            member.is_dirty = true;
            member.link.clone()
        };
        self.metrics.divergences.inc();
        self.changed.notify_waiters();
        let (shared, node_id) = (self.clone(), node_id.clone());
        tokio::spawn(async move {
            shared.keep_record(&node_id).await;
            if let Some(link) = link {
                drop(link.nudge().await);
            }
            // Fewer members may be a quorum.
            let last = shared.state().last.seq;
            shared.advance(0, last);
        });
    }
}

/// Whether a node has applied what this heart's log does not have.
pub(super) fn is_ahead(position: Position, last: Position) -> bool {
    position.seq > last.seq || position.epoch > last.epoch && position.seq > 0
}
