//! The members of a cluster: nodes from their registration until they are removed.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::{Arc, atomic::AtomicUsize},
    time::Duration,
};

use leveret_core::{broadcast::Position, time::Timestamp};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::broadcast::link::{NodeLink, NodeState, Order, Registration};

/// What is kept of a member beside the log, so that a heart that starts knows it. Persisted as JSON.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Record {
    pub(super) database_id: String,
    pub(super) kind: String,
    pub(super) advertise: String,
    /// Why it is quarantined, if it is.
    pub(super) quarantined: Option<String>,
    /// The order to restore that it has not carried out.
    pub(super) ticket: Option<u64>,
}

/// A member as this heart knows it.
pub(super) struct Member {
    pub(super) record: Record,
    /// The record is not in the log as it is here.
    pub(super) is_dirty: bool,
    /// Which opening of its database; none until it registers with this heart.
    pub(super) incarnation: Option<u64>,
    pub(super) position: Position,
    pub(super) hash: u64,
    pub(super) told: NodeState,
    pub(super) fault: Option<String>,
    pub(super) seen: Option<Instant>,
    pub(super) link: Option<Arc<dyn NodeLink>>,
    pub(super) in_flight: Arc<AtomicUsize>,
    /// It did not answer lately: others are asked first.
    pub(super) slow_until: Option<Instant>,
    /// From arrival to commit, as told last.
    pub(super) took_ms: u64,
    pub(super) is_pulled: bool,
}

impl fmt::Debug for Member {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Member")
            .field("record", &self.record)
            .field("position", &self.position)
            .finish_non_exhaustive()
    }
}

impl Member {
    pub(super) fn new(record: Record, link: Option<Arc<dyn NodeLink>>) -> Member {
        Member {
            record,
            is_dirty: false,
            incarnation: None,
            position: Position::default(),
            hash: 0,
            told: NodeState::Lost,
            fault: None,
            seen: None,
            link,
            in_flight: Arc::default(),
            slow_until: None,
            took_ms: 0,
            is_pulled: false,
        }
    }

    /// Whether it was heard of within its lease.
    pub(super) fn is_reachable(&self, now: Instant, lease: Duration) -> bool {
        self.seen
            .is_some_and(|seen| now.duration_since(seen) < lease)
    }

    pub(super) fn state(&self, now: Instant, lease: Duration) -> NodeState {
        if !self.is_reachable(now, lease) {
            NodeState::Lost
        } else if self.fault.is_some() {
            NodeState::Faulted
        } else if self.record.ticket.is_some() {
            NodeState::Restoring
        } else if self.record.quarantined.is_some() {
            NodeState::Quarantined
        } else {
            self.told
        }
    }

    /// Whether it may be asked.
    pub(super) fn serves(&self, now: Instant, lease: Duration) -> bool {
        let state = self.state(now, lease);
        matches!(state, NodeState::Live | NodeState::CatchingUp) && self.link.is_some()
    }

    /// What it is told to do.
    pub(super) fn order(&self) -> Order {
        match (self.record.ticket, &self.record.quarantined) {
            (Some(ticket), _) => Order::Restore { ticket },
            (None, Some(_)) => Order::Quarantined,
            (None, None) => Order::Serve,
        }
    }

    /// Takes over what it says of itself. Returns whether its database begins anew: opened, or restored.
    pub(super) fn take(&mut self, registration: &Registration, now: Instant) -> bool {
        let is_new = self.incarnation != Some(registration.incarnation);
        if is_new || registration.position >= self.position {
            self.position = registration.position;
            self.hash = registration.hash;
        }
        self.incarnation = Some(registration.incarnation);
        self.told = registration.state;
        self.fault.clone_from(&registration.fault);
        self.seen = Some(now);
        if self.record.ticket.is_some() && self.record.ticket == registration.restored {
            self.record.ticket = None;
            self.record.quarantined = None;
            self.is_dirty = true;
        }
        is_new
    }
}

/// All members by their names.
#[derive(Debug, Default)]
pub(super) struct Members {
    pub(super) by_id: BTreeMap<Arc<str>, Member>,
    /// Databases whose nodes were removed.
    pub(super) removed: BTreeSet<String>,
    /// The database that the cluster began with, if it had contents before: the log alone does not lead to them.
    pub(super) seed: Option<String>,
    /// Registrations that the log does not fit: by node, their cluster and position.
    pub(super) strangers: BTreeMap<String, (Arc<str>, Position)>,
    pub(super) last_ticket: u64,
}

impl Members {
    /// Those that count for a quorum.
    pub(super) fn voters(&self) -> BTreeSet<Arc<str>> {
        let voters = self.by_id.iter();
        let voters = voters.filter(|(_, member)| member.record.quarantined.is_none());
        voters.map(|(id, _)| id.clone()).collect()
    }

    /// Of the voters, those that were heard of within their lease.
    pub(super) fn reachable(&self, now: Instant, lease: Duration) -> BTreeSet<Arc<str>> {
        let reachable = self.by_id.iter().filter(|(_, member)| {
            member.record.quarantined.is_none() && member.is_reachable(now, lease)
        });
        reachable.map(|(id, _)| id.clone()).collect()
    }

    /// Whether a member takes the portable subset of SQL alone.
    pub(super) fn has_portable_only(&self) -> bool {
        self.by_id
            .values()
            .any(|member| member.record.kind != "sqlite")
    }

    /// Of these, those whose outcomes are told in the same way as this node's.
    pub(super) fn of_its_kind(
        &self,
        node_id: &str,
        mut ids: BTreeSet<Arc<str>>,
    ) -> BTreeSet<Arc<str>> {
        let kind = |id: &str| self.by_id.get(id).map(|member| &member.record.kind);
        ids.retain(|id| kind(id) == kind(node_id));
        ids
    }

    /// Whether more than half of the voters have told this heart where they are.
    pub(super) fn most_are_heard(&self) -> bool {
        let voters = self.by_id.values();
        let voters = voters.filter(|member| member.record.quarantined.is_none());
        let (heard, all) = voters.fold((0, 0), |(heard, all), member| {
            (heard + usize::from(member.incarnation.is_some()), all + 1)
        });
        heard * 2 > all
    }

    /// How many voters have applied a seq, and of how many.
    pub(super) fn reached(&self, seq: u64) -> (usize, usize) {
        let voters = self.by_id.values();
        let voters = voters.filter(|member| member.record.quarantined.is_none());
        voters.fold((0, 0), |(applied, all), member| {
            (applied + usize::from(member.position.seq >= seq), all + 1)
        })
    }

    /// The furthest that a member is.
    pub(super) fn furthest(&self) -> u64 {
        let positions = self.by_id.values().map(|member| member.position.seq);
        positions.max().unwrap_or(0)
    }

    /// A number for an order to restore, above all before, also those of earlier hearts: it begins with the time.
    pub(super) fn next_ticket(&mut self, now: Timestamp) -> u64 {
        self.last_ticket = now.0.unsigned_abs().max(self.last_ticket + 1);
        self.last_ticket
    }
}
