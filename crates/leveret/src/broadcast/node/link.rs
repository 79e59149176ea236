//! What the heart asks of a node, answered in its process.

use std::path::PathBuf;

use async_trait::async_trait;
use leveret_core::broadcast::Position;
use tokio::time::{Instant, timeout_at};

use super::shared::{Hold, Shared};
use crate::broadcast::{
    Applied, CONTENTS_MAX, Contents, LinkError, NodeLink, NodeState, Query, ReadError,
    ReplicaError, Rows, Snapshot,
};

/// The most outcomes in an answer.
const OUTCOMES_MAX: u32 = 10_000;

#[async_trait]
impl NodeLink for Shared {
    async fn query(&self, query: Query) -> Result<Result<Rows, ReadError>, LinkError> {
        let state = self.status.borrow().state;
        if !matches!(state, NodeState::Live | NodeState::CatchingUp) {
            return Err(LinkError::Unavailable {
                detail: format!("the node is {}", state.as_str()),
            });
        }
        self.metrics.reads.inc();
        let answer = self.replica.query(query).await;
        if let Err(ReadError::LocalFault { detail }) = &answer {
            tracing::error!(%detail, "a question found a fault of the node's database");
        }
        Ok(answer)
    }

    async fn contents(&self, at: u64, of: Contents) -> Result<(Position, [u8; 32]), LinkError> {
        let until = Instant::now() + CONTENTS_MAX;
        let _held = Held::at(self, Hold { at, until });
        let mut status = self.status.subscribe();
        let arrived = status.wait_for(|status| status.position.seq >= at);
        if timeout_at(until, arrived).await.is_err() {
            let detail = format!("the node has not applied seq {at} in time");
            return Err(LinkError::Unavailable { detail });
        }
        let past = |seq| LinkError::Refused {
            detail: format!("the node has applied seq {seq} already"),
        };
        let applied = self.position().seq;
        if applied > at {
            return Err(past(applied));
        }
        let digest = timeout_at(until, self.replica.contents(of)).await;
        let (position, digest) = digest
            .unwrap_or_else(|_| {
                let detail = "the digest was not made in time".to_owned();
                Err(ReplicaError::LocalFault { detail })
            })
            .map_err(|error| unable(&error))?;
        if position.seq > at {
            return Err(past(position.seq));
        }
        Ok((position, digest))
    }

    async fn snapshot(&self, into: PathBuf) -> Result<Snapshot, LinkError> {
        let state = self.status.borrow().state;
        if !matches!(state, NodeState::Live | NodeState::CatchingUp) {
            return Err(LinkError::Unavailable {
                detail: format!("the node is {}", state.as_str()),
            });
        }
        let name = format!("snapshot-{}.db", uuid::Uuid::now_v7());
        self.replica
            .snapshot(into.join(name))
            .await
            .map_err(|error| unable(&error))
    }

    async fn outcomes(&self, after: u64, limit: u32) -> Result<Vec<Applied>, LinkError> {
        let outcomes = self.replica.outcomes(after, limit.min(OUTCOMES_MAX));
        outcomes.await.map_err(|error| unable(&error))
    }

    async fn nudge(&self) -> Result<(), LinkError> {
        self.renew.notify_one();
        self.look.notify_one();
        Ok(())
    }
}

/// Holds the node while it lives.
struct Held<'a>(&'a Shared);

impl Held<'_> {
    fn at(shared: &Shared, hold: Hold) -> Held<'_> {
        shared.hold.send_replace(Some(hold));
        Held(shared)
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.0.hold.send_replace(None);
    }
}

/// A fault may pass; what this kind of database cannot do, it never can.
fn unable(error: &ReplicaError) -> LinkError {
    let detail = error.to_string();
    match error {
        ReplicaError::LocalFault { .. } => LinkError::Unavailable { detail },
        _ => LinkError::Refused { detail },
    }
}
