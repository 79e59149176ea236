//! What stands between a service and its documents: crashes.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use leveret_core::time::Timestamp;

use super::life::Life;
use crate::{
    crash::Point,
    service::documents::{
        Backlog, Capabilities, Claimed, Commit, Committed, Document, Documents, DocumentsError,
        Due, Key, OutgoingId, Page, Query, memory::MemoryDocuments,
    },
};

/// The documents of one life.
#[derive(Debug)]
pub(super) struct LivedDocuments {
    pub(super) inner: MemoryDocuments,
    pub(super) life: Arc<Life>,
}

#[async_trait]
impl Documents for LivedDocuments {
    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }

    async fn load(&self, keys: &[Key]) -> Result<Vec<Document>, DocumentsError> {
        self.life.go_on().await;
        self.inner.load(keys).await
    }

    async fn commit(
        &self,
        batch: &[Commit],
        now: Timestamp,
    ) -> Result<Vec<Committed>, DocumentsError> {
        self.life.come_to(Point::ServiceBeforeCommit).await;
        let committed = self.inner.commit(batch, now).await?;
        for (commit, committed) in batch.iter().zip(&committed) {
            let fate = match committed {
                Committed::Done(_) => "commits",
                Committed::Repeated(_) => "knows already",
                Committed::Conflict(_) => "is too late for",
            };
            for put in &commit.put {
                let Key { kind, id } = &put.key;
                self.life
                    .note(format_args!("{fate} {kind}/{id} {}", put.version));
            }
        }
        self.life.come_to(Point::ServiceAfterCommit).await;
        Ok(committed)
    }

    async fn list(&self, query: &Query) -> Result<Page, DocumentsError> {
        self.life.go_on().await;
        self.inner.list(query).await
    }

    async fn count(
        &self,
        kind: &str,
        filter: &[(Arc<str>, Arc<str>)],
    ) -> Result<u64, DocumentsError> {
        self.life.go_on().await;
        self.inner.count(kind, filter).await
    }

    async fn claim_outgoing(
        &self,
        limit: u32,
        now: Timestamp,
    ) -> Result<Vec<Claimed>, DocumentsError> {
        self.life.go_on().await;
        let claimed = self.inner.claim_outgoing(limit, now).await?;
        if !claimed.is_empty() {
            self.life
                .note(format_args!("claims {} outgoing", claimed.len()));
        }
        Ok(claimed)
    }

    async fn sent(
        &self,
        ids: &[OutgoingId],
        now: Timestamp,
    ) -> Result<Vec<Claimed>, DocumentsError> {
        self.life.go_on().await;
        self.life.note(format_args!("has sent {}", ids.len()));
        self.inner.sent(ids, now).await
    }

    async fn release(&self, ids: &[OutgoingId]) -> Result<(), DocumentsError> {
        self.life.go_on().await;
        self.inner.release(ids).await
    }

    async fn claim_deadlines(
        &self,
        limit: u32,
        now: Timestamp,
    ) -> Result<Vec<Due>, DocumentsError> {
        self.life.go_on().await;
        let due = self.inner.claim_deadlines(limit, now).await?;
        for Due { key, name, .. } in &due {
            self.life
                .note(format_args!("is due: {name} of {}/{}", key.kind, key.id));
        }
        Ok(due)
    }

    async fn next_deadline(&self) -> Result<Option<Timestamp>, DocumentsError> {
        self.life.go_on().await;
        self.inner.next_deadline().await
    }

    async fn backlog(&self) -> Result<Backlog, DocumentsError> {
        self.life.go_on().await;
        self.inner.backlog().await
    }

    async fn prune(
        &self,
        now: Timestamp,
        keep: Duration,
        limit: u32,
    ) -> Result<u64, DocumentsError> {
        self.life.go_on().await;
        self.inner.prune(now, keep, limit).await
    }

    async fn ping(&self) -> Result<(), DocumentsError> {
        self.life.go_on().await;
        self.inner.ping().await
    }

    /// Closes the world's: a service leaves that to its process.
    async fn close(&self) {
        self.inner.close().await;
    }
}
