//! What this process knows of its outbox and of claimed deadlines, which is all that there is to know: the file is its own.

use std::{collections::HashMap, sync::Arc};

use leveret_core::time::Timestamp;

use super::super::{
    Claimed, Commit, Committed, DocumentsError, Due, Key, LEASE, OutgoingId,
    lanes::{Held, Lanes},
};
use super::commit::{Outcome, Ran};
use crate::sqlite::Session;

/// A message that somebody else put into the outbox: an earlier process, or a user's own transaction.
#[derive(Debug)]
pub(super) struct Left {
    pub(super) number: u64,
    lane: Arc<str>,
    created_at: Timestamp,
}

/// The messages behind one.
pub(super) fn left(session: &Session<'_>, known: u64) -> Result<Vec<Left>, DocumentsError> {
    session.rows(
        "SELECT number, lane, created_at_ms FROM outgoing WHERE number > ?1 ORDER BY number",
        [known as i64],
        |row| {
            Ok(Left {
                number: row.get::<_, i64>(0)? as u64,
                lane: row.get(1)?,
                created_at: Timestamp(row.get(2)?),
            })
        },
    )
}

/// The outbox in memory.
#[derive(Debug)]
pub(super) struct Outbox {
    lanes: Lanes,
    /// The last message that the lanes had.
    known: u64,
    /// Messages that were sent and are still in the file.
    unforgotten: Vec<u64>,
}

impl Outbox {
    pub(super) fn new() -> Outbox {
        Outbox {
            lanes: Lanes::new(LEASE),
            known: 0,
            unforgotten: Vec::new(),
        }
    }

    pub(super) fn known(&self) -> u64 {
        self.known
    }

    pub(super) fn add_left(&mut self, left: &[Left]) {
        for one in left.iter().filter(|left| left.number > self.known) {
            self.lanes.add_left(&one.lane, one.number, one.created_at);
        }
        let last = left.last().map_or(0, |left| left.number);
        self.known = self.known.max(last);
    }

    /// Takes notice of a batch that was committed, and claims for it what is free.
    pub(super) fn committed(
        &mut self,
        batch: &[Commit],
        ran: Ran,
        now: Timestamp,
    ) -> Vec<Committed> {
        self.add_left(&ran.left);
        let outcomes = batch.iter().zip(ran.outcomes);
        outcomes
            .map(|(commit, outcome)| match outcome {
                Outcome::Done(numbers) => Committed::Done(self.publish(commit, &numbers, now)),
                Outcome::Repeated(handled) => Committed::Repeated(handled),
                Outcome::Conflict(key) => Committed::Conflict(key),
            })
            .collect()
    }

    fn publish(&mut self, commit: &Commit, numbers: &[u64], now: Timestamp) -> Vec<Claimed> {
        // Whoever looked into the file between the commit and this has them.
        let known = self.known;
        let new = commit.publish.iter().zip(numbers.iter().copied());
        let new = new.filter(|(_, number)| *number > known);
        let lanes = new
            .clone()
            .map(|(outgoing, number)| (&outgoing.lane, number));
        let held = self.lanes.add(lanes, now);
        self.known = known.max(numbers.last().copied().unwrap_or(0));
        let held = new.zip(held).filter(|(_, held)| *held);
        held.map(|((outgoing, number), _)| Claimed {
            id: OutgoingId::new(number, &outgoing.lane),
            outgoing: outgoing.clone(),
            created_at: now,
        })
        .collect()
    }

    pub(super) fn claim(&mut self, limit: usize, now: Timestamp) -> Vec<Held> {
        self.lanes.claim(limit, now)
    }

    /// The messages that are gone now, and those that come next.
    pub(super) fn sent(&mut self, ids: &[OutgoingId], now: Timestamp) -> (Vec<u64>, Vec<Held>) {
        self.lanes
            .sent(ids.iter().filter_map(OutgoingId::parts), now)
    }

    pub(super) fn release(&mut self, ids: &[OutgoingId]) {
        self.lanes.release(ids.iter().filter_map(OutgoingId::parts));
    }

    pub(super) fn give_back(&mut self, held: &[Held]) {
        let held = held.iter().map(|(number, lane)| (*number, &**lane));
        self.lanes.release(held);
    }

    pub(super) fn backlog(&self) -> (u64, Option<Timestamp>) {
        self.lanes.backlog()
    }

    pub(super) fn take_unforgotten(&mut self) -> Vec<u64> {
        std::mem::take(&mut self.unforgotten)
    }

    pub(super) fn set_unforgotten(&mut self, numbers: &[u64]) {
        self.unforgotten.extend(numbers);
    }
}

/// The deadlines that were claimed.
#[derive(Debug, Default)]
pub(super) struct Leases(HashMap<(Key, Arc<str>), Lease>);

#[derive(Debug)]
struct Lease {
    at: Timestamp,
    until: Timestamp,
}

impl Leases {
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// Ends those of deadlines that a batch moved or cancelled.
    pub(super) fn end(&mut self, batch: &[Commit], ran: &Ran) {
        if self.0.is_empty() {
            return;
        }
        for (commit, outcome) in batch.iter().zip(&ran.outcomes) {
            if matches!(outcome, Outcome::Done(_)) {
                for change in &commit.deadlines {
                    let (key, name) = change.whose();
                    self.0.remove(&(key.clone(), name.clone()));
                }
            }
        }
    }

    /// Claims of what is due, which is in the order of time, what nobody has; those that were claimed in vain come last.
    pub(super) fn claim(&mut self, due: Vec<Due>, limit: usize, now: Timestamp) -> Vec<Due> {
        let mut free: Vec<(Option<Timestamp>, Due)> = due
            .into_iter()
            .map(|due| (self.until(&due), due))
            .filter(|(until, _)| until.is_none_or(|until| until <= now))
            .collect();
        free.sort_by_key(|(until, _)| *until);
        // Of a lease that ended so long ago, the deadline is gone.
        self.0.retain(|_, lease| now < lease.until + LEASE);
        free.truncate(limit);
        let until = now + LEASE;
        for (_, Due { key, name, at }) in &free {
            let lease = Lease { at: *at, until };
            self.0.insert((key.clone(), name.clone()), lease);
        }
        free.into_iter().map(|(_, due)| due).collect()
    }

    /// When the next one can be claimed, of the first deadlines in the order of time, one more than there are leases.
    pub(super) fn next(&self, first: &[Due]) -> Option<Timestamp> {
        let claimable_at = |due: &Due| self.until(due).unwrap_or(due.at);
        first.iter().map(claimable_at).min()
    }

    fn until(&self, due: &Due) -> Option<Timestamp> {
        let lease = self.0.get(&(due.key.clone(), due.name.clone()))?;
        (lease.at == due.at).then_some(lease.until)
    }
}
