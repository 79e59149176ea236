//! Operators' orders: verify, rebuild, remove, recover.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use futures_util::future::join_all;
use leveret_core::broadcast::Position;
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, timeout};

use super::{
    AdminError, Heart,
    phase::Phase,
    register::{MEMBER_FACT, NO_RECORD, REMOVED_FACT},
};
use crate::broadcast::{
    link::{CONTENTS_MAX, NodeLink, NodeState},
    replica::Contents,
};

/// How long a rebuilt node may take until it serves.
const REBUILD_MAX: Duration = Duration::from_secs(600);

/// How often a node is told to look at its orders.
const NUDGE_EVERY: Duration = Duration::from_secs(1);

/// What a comparison of contents found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "http", derive(utoipa::ToSchema))]
pub struct Verified {
    /// Where all were looked at.
    pub seq: u64,
    /// Whether all members answered, and their contents are equal.
    pub equal: bool,
    /// Each member.
    pub nodes: Vec<NodeContents>,
}

/// A node's contents.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "http", derive(utoipa::ToSchema))]
pub struct NodeContents {
    /// The node.
    pub node_id: String,
    /// The digest of its contents, if it answered; in a cluster of several kinds of databases, of the contents that these have alike.
    pub digest: Option<String>,
    /// Whether it differs from most of the others; it is quarantined then.
    pub diverged: bool,
    /// Why it did not answer, if it did not.
    pub error: Option<String>,
}

/// Where a recovered log begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "http", derive(utoipa::ToSchema))]
pub struct Recovered {
    /// The new epoch.
    pub epoch: u64,
    /// The last write that a node has applied: the next one follows it.
    pub seq: u64,
}

impl Heart {
    /// Compares the contents of all nodes at one seq, and quarantines those that differ: nodes of one kind in everything, nodes of different
    /// kinds in what these have alike. Writes wait meanwhile, so that all nodes come to the same seq.
    pub async fn verify(&self) -> Result<Verified, AdminError> {
        let shared = &self.0;
        shared.confirm().await;
        let closed = timeout(CONTENTS_MAX, shared.gate.write()).await;
        let _closed = closed
            .map_err(|_| AdminError::Unavailable("the log does not answer in time".to_owned()))?;
        let (seq, members) = {
            let state = shared.state();
            if state.phase.held().is_none() {
                return Err(AdminError::Unavailable(state.phase.refusal()));
            }
            let members = state.members.by_id.iter();
            let members = members
                .map(|(id, member)| (id.clone(), member.record.kind.clone(), member.link.clone()));
            (state.last.seq, members.collect::<Vec<_>>())
        };
        shared.nudge_all();
        let mut looked = look(&members, seq, Contents::All).await;
        let mut differing = differing(&looked, |kind| kind);
        if members.iter().any(|(_, kind, _)| *kind != members[0].1) {
            looked = look(&members, seq, Contents::Portable).await;
            let equal = looked.iter().filter(|(id, ..)| !differing.contains(id));
            let equal: Vec<Look> = equal.cloned().collect();
            differing.extend(self::differing(&equal, |_| ""));
        }
        for node_id in &differing {
            let reason = format!("its contents differ at seq {seq}");
            shared.quarantine(node_id, reason);
        }
        let nodes = looked.iter().map(|(node_id, _, digest)| NodeContents {
            node_id: node_id.to_string(),
            digest: digest.as_ref().ok().map(hex),
            diverged: differing.contains(node_id),
            error: digest.as_ref().err().cloned(),
        });
        let all_answered = looked.iter().all(|(_, _, digest)| digest.is_ok());
        Ok(Verified {
            seq,
            equal: all_answered && differing.is_empty(),
            nodes: nodes.collect(),
        })
    }

    /// Puts a snapshot of another node, or the log from its beginning, in the place of a node's contents. Returns when it serves.
    pub async fn rebuild(&self, node_id: &str) -> Result<(), AdminError> {
        let shared = &self.0;
        shared.confirm().await;
        let node_id: Arc<str> = node_id.into();
        let deadline = Instant::now() + REBUILD_MAX;
        {
            let mut state = shared.state();
            if state.phase.held().is_none() {
                return Err(AdminError::Unavailable(state.phase.refusal()));
            }
            let ticket = state.members.next_ticket(shared.now());
            let (oldest, has_kept) = (state.oldest, state.kept.is_some());
            let lease = shared.options.node_lease;
            let now = Instant::now();
            let others = state.members.by_id.iter().filter(|(id, _)| **id != node_id);
            let serving = others.filter(|(_, other)| other.serves(now, lease));
            let kinds: Vec<_> = serving
                .map(|(_, other)| other.record.kind.clone())
                .collect();
            let Some(member) = state.members.by_id.get_mut(&node_id) else {
                return Err(AdminError::NoNode(node_id.to_string()));
            };
            let can_copy =
                member.record.kind == "sqlite" && (has_kept || kinds.contains(&member.record.kind));
            let can_replay = member.record.kind != "sqlite" && oldest <= 1;
            if !can_copy && !can_replay {
                return Err(AdminError::Refused(format!(
                    "there is nothing to rebuild node '{node_id}' from: no other node of its kind is well, and no snapshot is kept"
                )));
            }
            member.record.ticket = Some(ticket);
            member.is_dirty = true;
        }
        if !shared.keep_record(&node_id).await {
            return Err(AdminError::Unavailable(
                "the log does not take the order now".to_owned(),
            ));
        }
        loop {
            let changed = shared.changed.notified();
            let link = {
                let state = shared.state();
                let Some(member) = state.members.by_id.get(&node_id) else {
                    return Err(AdminError::NoNode(node_id.to_string()));
                };
                let is_done = member.record.ticket.is_none();
                if is_done
                    && member.state(Instant::now(), shared.options.node_lease) == NodeState::Live
                {
                    return Ok(());
                }
                member.link.clone()
            };
            if Instant::now() >= deadline {
                let minutes = REBUILD_MAX.as_secs() / 60;
                return Err(AdminError::Unavailable(format!(
                    "node '{node_id}' does not serve after {minutes} minutes; the order stands"
                )));
            }
            if let Some(link) = link {
                // It finds its orders by itself, too.
                drop(timeout(NUDGE_EVERY, link.nudge()).await);
            }
            drop(timeout(NUDGE_EVERY, changed).await);
        }
    }

    /// Makes a node no member any more: it counts no longer, is told to end, and its queue is deleted. A node that is stopped is told when it
    /// starts; to join again, it begins with an empty database.
    pub async fn remove(&self, node_id: &str) -> Result<(), AdminError> {
        let shared = &self.0;
        shared.confirm().await;
        let (epoch, member, last) = {
            let mut state = shared.state();
            let Some(epoch) = state.phase.held() else {
                return Err(AdminError::Unavailable(state.phase.refusal()));
            };
            let Some(member) = state.members.by_id.remove(node_id) else {
                return Err(AdminError::NoNode(node_id.to_owned()));
            };
            let database_id = member.record.database_id.clone();
            state.members.removed.insert(database_id);
            state.marks.forget(node_id);
            (epoch, member, state.last.seq)
        };
        let log = &shared.parts.log;
        let removed = format!("{REMOVED_FACT}{}", member.record.database_id);
        log.put_fact(epoch, &removed, node_id).await?;
        log.put_fact(epoch, &format!("{MEMBER_FACT}{node_id}"), NO_RECORD)
            .await?;
        // Fewer members may be a quorum.
        shared.advance(0, last);
        if let Some(link) = member.link {
            drop(timeout(NUDGE_EVERY, link.nudge()).await);
        }
        let queue = shared.options.names.node_queue(node_id);
        let deleted = shared.parts.broker.delete_queue(&queue).await;
        deleted.map_err(|error| {
            AdminError::Unavailable(format!(
                "node '{node_id}' is removed, but its queue {queue} is not deleted: {error}"
            ))
        })
    }

    /// For a log that is lost, or older than what nodes have applied: goes on behind the furthest node that has registered, in a new epoch.
    /// Nodes that are not as far restore a snapshot of it. Writes that no node has applied are lost.
    pub async fn recover(&self) -> Result<Recovered, AdminError> {
        let shared = &self.0;
        let _closed = shared.gate.write().await;
        let (cluster, end) = {
            let state = shared.state();
            let Phase::Behind { .. } = state.phase else {
                return Err(AdminError::Refused(
                    "the log is not behind its nodes: there is nothing to recover".to_owned(),
                ));
            };
            furthest(&state)?
        };
        let started = Instant::now();
        let owner = &shared.options.owner;
        let log = &shared.parts.log;
        let epoch = log.recover(owner, &cluster, end, shared.now()).await?;
        shared.load(epoch, end, started).await?;
        Ok(Recovered {
            epoch,
            seq: end.seq,
        })
    }
}

/// A node, its kind, and how it is asked.
type Asked = (Arc<str>, String, Option<Arc<dyn NodeLink>>);

/// Asks all nodes for the digests of their contents at this seq.
async fn look(members: &[Asked], seq: u64, of: Contents) -> Vec<Look> {
    let looks = members.iter().map(|(node_id, kind, link)| async move {
        let digest = match link {
            None => Err("it has not registered".to_owned()),
            Some(link) => match timeout(CONTENTS_MAX, link.contents(seq, of)).await {
                Err(_) => Err("it does not answer in time".to_owned()),
                Ok(Err(error)) => Err(error.to_string()),
                Ok(Ok((position, _))) if position.seq != seq => {
                    Err(format!("it answers for seq {}", position.seq))
                }
                Ok(Ok((_, digest))) => Ok(digest),
            },
        };
        (node_id.clone(), kind.clone(), digest)
    });
    join_all(looks).await
}

fn furthest(state: &super::state::State) -> Result<(Arc<str>, Position), AdminError> {
    let members = state.members.by_id.values().map(|member| member.position);
    let strangers = &state.members.strangers;
    let Some((cluster, _)) = strangers.values().next() else {
        let end = members.max().unwrap_or_default().max(state.last);
        return Ok((state.cluster.clone(), end));
    };
    if strangers.values().any(|(other, _)| other != cluster) {
        return Err(AdminError::Refused(
            "the nodes belong to several clusters: stop those that are not wanted".to_owned(),
        ));
    }
    let end = strangers.values().map(|(_, position)| *position).max();
    Ok((cluster.clone(), end.unwrap_or_default()))
}

type Digest = [u8; 32];

/// A node, its kind, and what its contents are.
type Look = (Arc<str>, String, Result<Digest, String>);

/// The nodes whose contents differ from the most frequent of their group; where two are as frequent, from that of the first node by name.
fn differing(looked: &[Look], group: impl Fn(&str) -> &str) -> Vec<Arc<str>> {
    let mut groups: BTreeMap<&str, Vec<(&Arc<str>, &Digest)>> = BTreeMap::new();
    for (node_id, kind, digest) in looked {
        if let Ok(digest) = digest {
            let group = groups.entry(group(kind));
            group.or_default().push((node_id, digest));
        }
    }
    let mut differing = Vec::new();
    for digests in groups.values() {
        let count = |digest: &Digest| digests.iter().filter(|(_, other)| *other == digest).count();
        let mut most: Option<(&Digest, usize)> = None;
        for (_, digest) in digests {
            if most.is_none_or(|(_, most)| count(digest) > most) {
                most = Some((digest, count(digest)));
            }
        }
        let others = digests
            .iter()
            .filter(|(_, digest)| most.is_some_and(|(most, _)| most != *digest));
        differing.extend(others.map(|(node_id, _)| (*node_id).clone()));
    }
    differing
}

fn hex(digest: &Digest) -> String {
    use std::fmt::Write;
    let mut text = String::with_capacity(64);
    for byte in digest {
        // Writing to a string does not fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_who_differs() {
        let look = |id: &str, kind: &str, digest: Option<u8>| {
            let digest = digest.map(|byte| [byte; 32]).ok_or_else(String::new);
            (Arc::from(id), kind.to_owned(), digest)
        };
        let check = |looked: &[Look], expect: &str| {
            assert_eq!(differing(looked, |kind| kind).join(""), expect);
        };
        let (s, p) = ("sqlite", "postgres");
        check(
            &[
                look("a", s, Some(1)),
                look("b", s, Some(1)),
                look("c", p, Some(2)),
            ],
            "",
        );
        check(
            &[
                look("a", s, Some(2)),
                look("b", s, Some(1)),
                look("c", s, Some(1)),
            ],
            "a",
        );
        check(&[look("a", s, Some(1)), look("b", s, Some(2))], "b");
        check(&[look("a", s, None), look("b", s, Some(2))], "");
        let mixed = [
            look("a", p, Some(2)),
            look("b", s, Some(1)),
            look("c", s, Some(1)),
        ];
        assert_eq!(differing(&mixed, |_| "").join(""), "a");
    }
}
