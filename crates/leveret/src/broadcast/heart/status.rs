//! How a cluster is, for operators.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::{Heart, phase::Phase};
use crate::broadcast::link::NodeState;

/// What is the matter with a heart whose lease has run out.
pub(super) const LAPSED: &str = "this heart's lease of the log has run out";

/// Whether a heart has the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "http", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum HeartState {
    /// It has not looked yet.
    Starting,
    /// Another one has it.
    Standby,
    /// It takes writes.
    Active,
    /// It had the log last, but its lease has run out and the log does not answer: another one may have it.
    Lapsed,
    /// Nodes have what its log has not: it takes no writes until it is recovered.
    Behind,
    /// It ends.
    Stopped,
}

/// How a cluster is, as its heart sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "http", derive(utoipa::ToSchema))]
pub struct Status {
    /// The cluster's id.
    pub cluster: String,
    /// The heart's epoch; 0 while it has none.
    pub epoch: u64,
    /// The last write of the log.
    pub last_seq: u64,
    /// The oldest write of the log.
    pub oldest_seq: u64,
    /// The size of the log in bytes.
    pub log_bytes: u64,
    /// Whether the heart has the log.
    pub state: HeartState,
    /// Why it takes no writes, if it takes none.
    pub detail: Option<String>,
    /// Writes that are logged and wait for the broker.
    pub unpublished: u64,
    /// Why the broker takes no writes, if it takes none.
    pub broker_fault: Option<String>,
    /// The members.
    pub nodes: Vec<NodeStatus>,
}

/// How a node is, as the heart sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "http", derive(utoipa::ToSchema))]
pub struct NodeStatus {
    /// Its name.
    pub node_id: String,
    /// The seq up to which it has applied.
    pub position: u64,
    /// How many writes it has not applied.
    pub lag_entries: u64,
    /// For how long the oldest of these has been logged, in milliseconds.
    pub lag_ms: u64,
    /// How it is.
    #[cfg_attr(feature = "http", schema(value_type = String))]
    pub state: NodeState,
    /// Why it is quarantined or faulted, if it is.
    pub detail: Option<String>,
    /// `sqlite` or `postgres`.
    pub kind: String,
    /// Where it answers.
    pub advertise: String,
    /// From the arrival of its last delivery to the commit, in milliseconds.
    pub took_ms: u64,
}

impl Heart {
    /// How the cluster is.
    pub async fn status(&self) -> Status {
        let (mut status, unknown) = self.known_status();
        for at in unknown {
            let node = &mut status.nodes[at];
            let next = self.0.parts.log.after(node.position, 1, 1).await;
            // One that is truncated, or that cannot be read, stays at zero: the entries tell.
            if let Some(entry) = next.ok().and_then(|entries| entries.into_iter().next()) {
                node.lag_ms = self.0.now().ms_since(entry.write.at);
            }
        }
        status
    }

    /// The same without looking into the log; and of which nodes the lag in time is not known without.
    pub(super) fn known_status(&self) -> (Status, Vec<usize>) {
        let now = Instant::now();
        let lease = self.0.options.node_lease;
        let state = self.0.state();
        let last = state.last.seq;
        let mut unknown = Vec::new();
        let mut nodes = Vec::with_capacity(state.members.by_id.len());
        for (node_id, member) in &state.members.by_id {
            let lag = state.recent.lag(member.position.seq, now, last);
            if lag.is_none() {
                unknown.push(nodes.len());
            }
            nodes.push(NodeStatus {
                node_id: node_id.to_string(),
                position: member.position.seq,
                lag_entries: last.saturating_sub(member.position.seq),
                lag_ms: lag.map_or(0, |lag| lag.as_millis() as u64),
                state: member.state(now, lease),
                detail: member
                    .fault
                    .clone()
                    .or_else(|| member.record.quarantined.clone()),
                kind: member.record.kind.clone(),
                advertise: member.record.advertise.clone(),
                took_ms: member.took_ms,
            });
        }
        let is_lapsed = state.phase.held().is_some() && !state.phase.has_lease(now);
        let detail = match &state.phase {
            _ if is_lapsed => Some(LAPSED.to_owned()),
            Phase::Active { .. } => None,
            other => Some(other.refusal()),
        };
        let status = Status {
            cluster: state.cluster.to_string(),
            epoch: state.phase.held().unwrap_or(0),
            last_seq: last,
            oldest_seq: state.oldest,
            log_bytes: state.log_bytes,
            state: match state.phase {
                _ if is_lapsed => HeartState::Lapsed,
                Phase::Starting => HeartState::Starting,
                Phase::Standby { .. } => HeartState::Standby,
                Phase::Active { .. } => HeartState::Active,
                Phase::Behind { .. } => HeartState::Behind,
                Phase::Stopping { .. } | Phase::Stopped => HeartState::Stopped,
            },
            detail,
            unpublished: state.outbox.len() as u64,
            broker_fault: state.unpublished.clone(),
            nodes,
        };
        (status, unknown)
    }

    /// The names of the members.
    pub fn node_ids(&self) -> Vec<Arc<str>> {
        self.0.state().members.by_id.keys().cloned().collect()
    }
}
