//! Applying: what deliveries bring and what the log has, in order, up to where the heart holds the node.

use std::{collections::BTreeSet, time::Duration};

use leveret_core::broadcast::{Arrived, Logged, Outcome, Position, arrived};
use tokio::time::{Instant, timeout_at};

use super::{
    deliveries::Taken,
    report::Outgoing,
    session::{Break, Session},
};
use crate::{
    broadcast::{
        Applied, Fetched, NodeState, Snapshot,
        wire::{MARK_EVERY, Mark, Report},
    },
    broker::Delivery,
    crash::{self, Point},
};

/// The pause before a heart that is away, or has no more, is asked again.
pub(super) const LOG_PAUSE: Duration = Duration::from_millis(250);

impl Session {
    /// Applies a delivery and those that have arrived behind it, reports, and acknowledges them when the report is confirmed.
    pub(super) async fn take(&mut self, first: Delivery) -> Result<(), Break> {
        let since = Instant::now();
        let mut taken = Taken::new(self.cluster.clone(), self.shared.options.queue());
        let mut next = Some(first);
        while let Some(delivery) = next {
            taken.add(delivery);
            let room = taken.entries.len() < self.shared.options.batch_writes_max;
            next = if room { self.try_next() } else { None };
        }
        self.shared
            .metrics
            .dead_letters
            .add(taken.letters.len() as u64);
        let before = self.shared.position();
        let done = self
            .apply_arrived(std::mem::take(&mut taken.entries))
            .await?;
        let report = if taken.messages > taken.letters.len() {
            Some(self.report(done, &taken.wanted, before, since).await?)
        } else {
            None
        };
        let (letters, receipts) = (taken.letters, taken.receipts);
        self.reports
            .send(Outgoing {
                report,
                letters,
                receipts,
            })
            .await;
        Ok(())
    }

    /// Applies what is next of these, skips what was applied, and fetches what is missing between them.
    async fn apply_arrived(&mut self, entries: Vec<Logged>) -> Result<Vec<Applied>, Break> {
        let mut at = self.shared.position();
        let (mut pending, mut done) = (Vec::new(), Vec::new());
        for entry in entries {
            let position = entry.position;
            self.shared.heard_of(position.seq);
            if let Arrived::Fetch { .. } = arrived(at, position) {
                done.extend(self.apply(std::mem::take(&mut pending)).await?);
                self.fetch_to(position.seq - 1).await?;
                at = self.shared.position();
            }
            match arrived(at, position) {
                Arrived::Apply => {
                    at = position;
                    pending.push(entry);
                }
                Arrived::Skip => self.shared.metrics.skipped.inc(),
                Arrived::StaleEpoch => self.shared.metrics.stale.inc(),
                // The log has gone on meanwhile, and so has this node: `fetch_to` ends at or behind the seq before.
                Arrived::Fetch { after } => {
                    let detail = format!("the log went from seq {after} past seq {}", position.seq);
                    return Err(Break::Fault(detail));
                }
            }
        }
        done.extend(self.apply(pending).await?);
        Ok(done)
    }

    /// Applies writes that follow each other and the position. Those behind a hold wait for its end.
    async fn apply(&mut self, mut writes: Vec<Logged>) -> Result<Vec<Applied>, Break> {
        let mut done = Vec::with_capacity(writes.len());
        while !writes.is_empty() {
            let free = self.free(&writes);
            if free == 0 {
                self.until_released().await?;
                continue;
            }
            let rest = writes.split_off(free);
            done.extend(self.apply_now(std::mem::replace(&mut writes, rest)).await?);
        }
        Ok(done)
    }

    async fn apply_now(&mut self, writes: Vec<Logged>) -> Result<Vec<Applied>, Break> {
        let since = Instant::now();
        let metrics = &self.shared.metrics;
        metrics.batch_writes.observe(writes.len() as u64);
        crash::reached(Point::NodeBeforeCommit);
        let applied = self.shared.replica.apply(writes).await?;
        crash::reached(Point::NodeAfterCommit);
        metrics.apply_us.observe(micros(since));
        metrics.applied.add(applied.len() as u64);
        let failed = |applied: &&Applied| matches!(applied.outcome, Outcome::Failed(_));
        metrics
            .failed
            .add(applied.iter().filter(failed).count() as u64);
        if let Some(last) = applied.last() {
            self.shared.advance(last.position, last.hash);
        }
        Ok(applied)
    }

    /// How many of these may be applied now.
    fn free(&self, writes: &[Logged]) -> usize {
        let hold = *self.shared.hold.borrow();
        let most = self.shared.options.batch_writes_max.min(writes.len());
        match hold {
            Some(hold) if hold.until > Instant::now() => writes[..most]
                .iter()
                .take_while(|write| write.position.seq <= hold.at)
                .count(),
            _ => most,
        }
    }

    async fn until_released(&mut self) -> Result<(), Break> {
        let mut hold = self.shared.hold.subscribe();
        let until = hold.borrow_and_update().map(|hold| hold.until);
        let Some(until) = until else { return Ok(()) };
        let released = timeout_at(until, hold.changed());
        drop(self.unless_stopped(released).await?);
        Ok(())
    }

    /// Applies what the log has and this node lacks, to its end.
    pub(super) async fn catch_up(&mut self) -> Result<(), Break> {
        while self.fetch_once().await? > 0 {}
        Ok(())
    }

    /// Applies from the log until the position is at least this; the heart is asked as long as it takes.
    async fn fetch_to(&mut self, seq: u64) -> Result<(), Break> {
        while self.shared.position().seq < seq {
            if self.fetch_once().await? == 0 {
                self.pause().await?;
            }
        }
        Ok(())
    }

    /// Fetches a piece of the log and applies it; how many writes that were. Waits for a heart that is away.
    async fn fetch_once(&mut self) -> Result<usize, Break> {
        let since = Instant::now();
        let before = self.shared.position();
        let entries = loop {
            let heart = self.shared.heart.clone();
            match self.unless_stopped(heart.fetch(before.seq)).await? {
                Ok(Fetched::Entries(entries)) => break entries,
                Ok(Fetched::Truncated { oldest }) => {
                    tracing::info!(
                        at = before.seq,
                        oldest,
                        "the log begins later; a snapshot is needed"
                    );
                    return Err(Break::Restore(None));
                }
                Err(error) => {
                    tracing::debug!(%error, "the heart gives no log");
                    self.pause().await?;
                }
            }
        };
        if entries.is_empty() {
            return Ok(0);
        }
        if self.shared.status.borrow().state == NodeState::Live {
            self.shared.set_state(NodeState::CatchingUp);
        }
        let count = entries.len();
        self.shared.metrics.fetched.add(count as u64);
        let done = self.apply(entries).await?;
        let report = self.report(done, &BTreeSet::new(), before, since).await?;
        self.reports.send(Outgoing::only(report)).await;
        Ok(count)
    }

    /// What the heart is told after writes were applied. Outcomes that are wanted of writes from before are read again.
    async fn report(
        &mut self,
        done: Vec<Applied>,
        wanted: &BTreeSet<u64>,
        before: Position,
        since: Instant,
    ) -> Result<Report, Break> {
        self.shared.metrics.lag_us.observe(micros(since));
        let marks = done
            .iter()
            .filter(|applied| applied.position.seq % MARK_EVERY == 0);
        let marks = marks.map(|applied| Mark {
            seq: applied.position.seq,
            hash: applied.hash,
        });
        let marks = marks.collect();
        let mut outcomes = Vec::new();
        if let Some(first) = wanted.range(..=before.seq).next() {
            let limit = u32::try_from(before.seq + 1 - first).unwrap_or(u32::MAX);
            let known = self
                .shared
                .replica
                .outcomes(first - 1, limit.min(REPEATED_MAX))
                .await?;
            outcomes.extend(known);
        }
        outcomes.extend(done);
        outcomes.retain(|applied| wanted.contains(&applied.position.seq));
        let status = self.shared.status.borrow();
        Ok(Report {
            cluster: self.cluster.clone(),
            node_id: self.shared.options.node_id.clone(),
            incarnation: status.incarnation,
            position: status.position,
            hash: status.hash,
            outcomes,
            marks,
            took_ms: since.elapsed().as_millis() as u64,
        })
    }

    /// Puts a snapshot of another node in the place of all contents; what cannot take one is emptied, to be rebuilt by replay.
    pub(super) async fn restore(&mut self, ticket: Option<u64>) -> Result<(), Break> {
        self.shared.set_state(NodeState::Restoring);
        self.shared.renew.notify_one();
        self.shared.metrics.restores.inc();
        if self.shared.replica.kind() == "postgres" {
            if ticket.is_none() {
                let detail = "the heart's log no more has what this node lacks, and a PostgreSQL node is rebuilt by replay only";
                return Err(Break::Fault(detail.to_owned()));
            }
            self.shared.replica.clear().await?;
        } else {
            let snapshot = self.receive().await?;
            let path = snapshot.path.clone();
            let restored = self.shared.replica.restore(snapshot).await;
            // A file that is left over is in nobody's way but the disk's.
            drop(tokio::fs::remove_file(&path).await);
            restored?;
        }
        let standing = self.shared.replica.standing().await?;
        tracing::info!(
            seq = standing.position.seq,
            "the node's database is restored"
        );
        self.shared.reborn(standing, ticket);
        self.shared.renew.notify_one();
        Ok(())
    }

    /// A snapshot, as long as that takes.
    async fn receive(&mut self) -> Result<Snapshot, Break> {
        let node_id = self.shared.options.node_id.clone();
        loop {
            let directory = self.shared.options.directory.clone();
            let heart = self.shared.heart.clone();
            match self
                .unless_stopped(heart.snapshot(&node_id, directory))
                .await?
            {
                Ok(snapshot) => return Ok(snapshot),
                Err(error) => {
                    tracing::warn!(%error, "the heart gives no snapshot; trying on");
                    let moment = tokio::time::sleep(SNAPSHOT_PAUSE);
                    self.unless_stopped(moment).await?;
                }
            }
        }
    }
}

/// The most outcomes that are read again for a report; the heart asks for others.
const REPEATED_MAX: u32 = 1024;
/// The pause before a snapshot is asked for again.
const SNAPSHOT_PAUSE: Duration = Duration::from_secs(1);

fn micros(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_micros()).unwrap_or(u64::MAX)
}
