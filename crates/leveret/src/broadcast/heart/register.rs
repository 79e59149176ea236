//! Registrations: leases on names, and what a node is told to do.

use std::{path::PathBuf, sync::Arc};

use async_trait::async_trait;
use leveret_core::broadcast::Position;
use tokio::time::Instant;

use super::{
    Heart, Shared,
    members::{Member, Record},
    reports::is_ahead,
    state::State,
};
use crate::broadcast::{
    link::{Fetched, HeartLink, Joined, LinkError, NodeState, Order, Registration},
    log::LogError,
    replica::Snapshot,
    wire::is_node_id,
};

/// The most writes that are fetched at once.
const FETCHED_WRITES_MAX: u32 = 2048;

/// The most bytes that are fetched at once, about.
const FETCHED_BYTES_MAX: u64 = 8 << 20;

/// What the name of a member's record begins with in the log's facts. Persisted.
pub(super) const MEMBER_FACT: &str = "member/";

/// What the name of a removed database begins with in the log's facts. Persisted.
pub(super) const REMOVED_FACT: &str = "removed/";

/// The database with whose contents the cluster began. Persisted.
pub(super) const SEED_FACT: &str = "seed";

/// A member's record that is no more. Persisted.
pub(super) const NO_RECORD: &str = "null";

#[async_trait]
impl HeartLink for Heart {
    async fn register(&self, registration: Registration) -> Result<Joined, LinkError> {
        let shared = &self.0;
        check(&registration)?;
        // One that was frozen must not decide about names that another gives by now.
        shared.confirm().await;
        let link = (shared.parts.links)(&registration.advertise, &registration.database_id)?;
        let is_new = shared.is_new_opening(&registration);
        let history = if is_new {
            shared.history(registration.position).await?
        } else {
            None
        };
        let node_id: Arc<str> = registration.node_id.as_str().into();
        let (joined, before) = {
            let mut state = shared.state();
            let before = state.members.by_id.get(&node_id);
            let before = before.map_or(0, |member| member.position.seq);
            (decide(shared, &mut state, &registration, link)?, before)
        };
        if !shared.keep_record(&node_id).await && joined.order != Order::Removed {
            return Err(unavailable("the log does not take the node's record now"));
        }
        if let Some(reason) = history {
            shared.quarantine(&node_id, reason);
        }
        let position = registration.position.seq;
        shared.compare(&node_id, &[(position, registration.hash)]);
        let lacking = shared.advance(before.min(position), position);
        shared.pull(&node_id, &lacking);
        shared.changed.notify_waiters();
        Ok(joined)
    }

    async fn fetch(&self, after: u64) -> Result<Fetched, LinkError> {
        drop(self.0.held()?);
        let log = &self.0.parts.log;
        match log
            .after(after, FETCHED_WRITES_MAX, FETCHED_BYTES_MAX)
            .await
        {
            Ok(entries) => {
                self.0.metrics.fetched.add(entries.len() as u64);
                Ok(Fetched::Entries(entries))
            }
            Err(LogError::Truncated { oldest }) => Ok(Fetched::Truncated { oldest }),
            Err(error) => Err(unavailable(error.to_string())),
        }
    }

    async fn snapshot(&self, node_id: &str, into: PathBuf) -> Result<Snapshot, LinkError> {
        let kind = {
            let state = self.0.held()?;
            let member = state.members.by_id.get(node_id);
            member.map(|member| member.record.kind.clone())
        };
        let kind = match kind {
            Some(kind) => kind,
            None if node_id.is_empty() => "sqlite".to_owned(),
            None => {
                return Err(LinkError::Refused {
                    detail: format!("there is no node '{node_id}'"),
                });
            }
        };
        self.0.snapshot_for(node_id, &kind, into).await
    }
}

fn check(registration: &Registration) -> Result<(), LinkError> {
    let refused = |detail: String| Err(LinkError::Refused { detail });
    if !is_node_id(&registration.node_id) {
        return refused(format!(
            "'{}' is no name of a node: 1 to 100 of A-Z a-z 0-9 . _ -",
            registration.node_id
        ));
    }
    if !["sqlite", "postgres"].contains(&registration.kind.as_str()) {
        return refused(format!(
            "there are no nodes of kind '{}'",
            registration.kind
        ));
    }
    if registration.database_id.is_empty() {
        return refused("the database has no id".to_owned());
    }
    Ok(())
}

fn unavailable(detail: impl Into<String>) -> LinkError {
    LinkError::Unavailable {
        detail: detail.into(),
    }
}

/// What the registration of a node leads to.
fn decide(
    shared: &Shared,
    state: &mut State,
    registration: &Registration,
    link: Arc<dyn crate::broadcast::NodeLink>,
) -> Result<Joined, LinkError> {
    let now = Instant::now();
    let lease = shared.options.node_lease;
    let Some(epoch) = state.phase.held() else {
        return Err(unavailable(state.phase.refusal()));
    };
    let joined = |state: &State, order| Joined {
        cluster: state.cluster.clone(),
        epoch,
        last: state.last,
        oldest: state.oldest,
        lease_ms: lease.as_millis() as u64,
        order,
    };
    if state.members.removed.contains(&registration.database_id) {
        return Ok(joined(state, Order::Removed));
    }
    check_cluster(state, registration)?;
    let node_id: Arc<str> = registration.node_id.as_str().into();
    if let Some(known) = state.members.by_id.get(&node_id)
        && known.record.database_id != registration.database_id
        && known.is_reachable(now, lease)
    {
        return Err(LinkError::NameTaken {
            node_id: registration.node_id.clone(),
            advertise: known.record.advertise.clone(),
        });
    }
    check_seed(state, registration)?;
    let ticket = state.members.next_ticket(shared.now());
    let (oldest, seed) = (state.oldest, state.members.seed.clone());
    let member = state.members.by_id.entry(node_id.clone());
    let member = member.or_insert_with(|| Member::new(record(registration), None));
    if member.record.database_id != registration.database_id {
        // The name is taken over from a node that is lost.
        *member = Member::new(record(registration), None);
    }
    let said = (&member.record.kind, &member.record.advertise);
    if said != (&registration.kind, &registration.advertise) {
        member.record.kind.clone_from(&registration.kind);
        member.record.advertise.clone_from(&registration.advertise);
        member.link = None;
        member.is_dirty = true;
    }
    // Another opening may be another process at the same address.
    if member.link.is_none() || member.incarnation != Some(registration.incarnation) {
        member.link = Some(link);
    }
    let begins_anew = member.take(registration, now);
    let position = registration.position.seq;
    let is_seed = seed.as_deref() == Some(&registration.database_id);
    // Contents from before the first write leave a node at seq 0: that it has them is known by the order that it carried out.
    let lacks_seed = seed.is_some() && !is_seed && registration.restored.is_none();
    // What has no snapshots keeps what it has, and says itself that it lacks the log.
    let can_restore = registration.kind == "sqlite";
    let is_beyond_log = position + 1 < oldest || position == 0 && lacks_seed;
    if can_restore
        && is_beyond_log
        && member.record.ticket.is_none()
        && member.told != NodeState::Restoring
    {
        member.record.ticket = Some(ticket);
        member.is_dirty = true;
    }
    let order = member.order();
    if begins_anew {
        state.marks.forget(&node_id);
    }
    if is_ahead(registration.position, state.last) {
        fall_behind(state, registration);
    }
    Ok(joined(state, order))
}

fn record(registration: &Registration) -> Record {
    Record {
        database_id: registration.database_id.clone(),
        kind: registration.kind.clone(),
        advertise: registration.advertise.clone(),
        quarantined: None,
        ticket: None,
    }
}

/// A node of another cluster is a stranger; but to a log that is empty it may be the rest of a cluster whose log is lost.
fn check_cluster(state: &mut State, registration: &Registration) -> Result<(), LinkError> {
    let Some(cluster) = &registration.cluster else {
        return Ok(());
    };
    if *cluster == state.cluster {
        return Ok(());
    }
    let ours = state.cluster.clone();
    if state.last.seq == 0 && state.members.by_id.is_empty() {
        let position = registration.position;
        let strangers = &mut state.members.strangers;
        strangers.insert(registration.node_id.clone(), (cluster.clone(), position));
        let detail = format!("the log is empty, but nodes belong to cluster {cluster}");
        state.phase.fall_behind(detail.clone());
        // The node waits: after a recovery it belongs here.
        return Err(unavailable(detail));
    }
    Err(LinkError::Refused {
        detail: format!("its database belongs to cluster {cluster}, the heart's is {ours}"),
    })
}

fn check_seed(state: &mut State, registration: &Registration) -> Result<(), LinkError> {
    let is_replayed = registration.kind != "sqlite";
    if is_replayed && (registration.seed || state.members.seed.is_some()) {
        return Err(LinkError::Refused {
            detail: format!(
                "a {} node is built by replay alone, and the log does not lead to what a cluster was seeded with",
                registration.kind
            ),
        });
    }
    if !registration.seed || registration.cluster.is_some() {
        return Ok(());
    }
    let is_known = state.members.seed.as_deref() == Some(&registration.database_id);
    if is_known {
        return Ok(());
    }
    let others = state.members.by_id.keys();
    let has_others = others.into_iter().any(|id| **id != *registration.node_id);
    if state.last.seq > 0 || has_others || state.members.seed.is_some() {
        return Err(LinkError::Refused {
            detail: "a cluster begins with one database that has contents, as its first node and before its first write".to_owned(),
        });
    }
    state.members.seed = Some(registration.database_id.clone());
    Ok(())
}

fn fall_behind(state: &mut State, registration: &Registration) {
    let (position, last) = (registration.position, state.last);
    let detail = format!(
        "node '{}' has applied seq {} of epoch {}, the log ends with seq {} of epoch {}",
        registration.node_id, position.seq, position.epoch, last.seq, last.epoch
    );
    state.phase.fall_behind(detail);
}

impl Shared {
    /// Whether this heart has the log.
    fn held(&self) -> Result<std::sync::MutexGuard<'_, State>, LinkError> {
        let state = self.state();
        if state.phase.held().is_some() {
            Ok(state)
        } else {
            Err(unavailable(state.phase.refusal()))
        }
    }

    fn is_new_opening(&self, registration: &Registration) -> bool {
        let state = self.state();
        let known = state.members.by_id.get(registration.node_id.as_str());
        known.is_none_or(|known| known.incarnation != Some(registration.incarnation))
    }

    /// Why the node's history is not the log's, if the log still has the write where it stands and that is one of another epoch.
    async fn history(&self, position: Position) -> Result<Option<String>, LinkError> {
        if position.seq == 0 {
            return Ok(None);
        }
        let found = self.parts.log.after(position.seq - 1, 1, 1).await;
        let found = match found {
            Ok(found) => found,
            Err(LogError::Truncated { .. }) => return Ok(None),
            Err(error) => return Err(unavailable(error.to_string())),
        };
        let found = found.first().map(|entry| entry.position);
        let differs = found.is_some_and(|found| found.epoch != position.epoch);
        Ok(differs.then(|| {
            format!(
                "its seq {} is of epoch {}, the log's is of another",
                position.seq, position.epoch
            )
        }))
    }

    /// Keeps a member's record in the log, if it is not there as it is. Returns whether it is there then.
    pub(super) async fn keep_record(&self, node_id: &Arc<str>) -> bool {
        let (epoch, facts) = {
            let mut state = self.state();
            let Some(epoch) = state.phase.held() else {
                return false;
            };
            let seed = state.members.seed.clone();
            let Some(member) = state.members.by_id.get_mut(node_id) else {
                return false;
            };
            if !member.is_dirty {
                return true;
            }
            member.is_dirty = false;
            let record = serde_json::to_string(&member.record).expect("texts and numbers print");
            let mut facts = vec![(format!("{MEMBER_FACT}{node_id}"), record)];
            if seed.as_deref() == Some(&member.record.database_id) {
                facts.push((SEED_FACT.to_owned(), member.record.database_id.clone()));
            }
            (epoch, facts)
        };
        for (name, value) in facts {
            if let Err(error) = self.parts.log.put_fact(epoch, &name, &value).await {
                tracing::warn!(%error, %node_id, "the record of node {node_id} is not kept");
                if let Some(member) = self.state().members.by_id.get_mut(node_id) {
                    member.is_dirty = true;
                }
                return false;
            }
        }
        true
    }
}
