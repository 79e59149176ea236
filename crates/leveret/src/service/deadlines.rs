//! Deadlines that are due: each is a message to its aggregate, decided and cancelled in one commit, so that it fires once.

use std::{collections::HashMap, sync::Arc, time::Duration};

use async_trait::async_trait;
use leveret_core::time::Timestamp;
use tokio::{
    sync::watch,
    time::{sleep, timeout},
};

use super::{
    decider::{Decider, Refusal},
    desk::{Arrived, Desk, ExecuteError, Executed},
    documents::{DeadlineChange, DocumentsError, Due, Handled},
    relay::Relay,
};

/// How often it is looked whether a deadline is due, at least.
const POLL: Duration = Duration::from_secs(1);
/// How many are taken at once.
const CLAIM_MAX: u32 = 256;

/// What a due deadline says to its aggregate.
pub(super) type Meaning<M> = Arc<dyn Fn(&Due) -> M + Send + Sync>;

/// Fires the deadlines of one kind of documents.
#[async_trait]
pub(super) trait Fire: Send + Sync {
    async fn fire(
        &self,
        desk: &Desk,
        relay: &Relay,
        consumer: &Arc<str>,
        due: Due,
    ) -> Result<(), ExecuteError>;
}

/// The decider of a kind's deadlines.
pub(super) struct Deadline<D: Decider> {
    pub(super) decider: Arc<D>,
    pub(super) meaning: Meaning<D::Message>,
}

#[async_trait]
impl<D: Decider> Fire for Deadline<D> {
    async fn fire(
        &self,
        desk: &Desk,
        relay: &Relay,
        consumer: &Arc<str>,
        due: Due,
    ) -> Result<(), ExecuteError> {
        let message = (self.meaning)(&due);
        let Due { key, name, at } = due;
        let identity = format!("deadline/{}/{}/{name}/{}", key.kind, key.id, at.0);
        let arrived = Arrived {
            handled: Handled {
                consumer: consumer.clone(),
                message_id: identity.into(),
            },
            parkable: None,
        };
        let over = DeadlineChange::Cancel {
            key: key.clone(),
            name: name.clone(),
        };
        let executed = desk
            .execute(&*self.decider, &message, Some(arrived), &[over])
            .await?;
        match executed {
            Executed::Done { claimed, .. } => relay.publish(claimed).await,
            Executed::Refused(Refusal::Stale { .. }) | Executed::Repeated | Executed::Parked => {}
            Executed::Refused(refusal) => {
                let (kind, id) = (&*key.kind, &*key.id);
                tracing::warn!(kind, id, deadline = &*name, error = %refusal, "a deadline of {kind} '{id}' comes to nothing");
            }
        }
        Ok(())
    }
}

/// The deadlines of a service.
#[derive(Clone)]
pub(super) struct Deadlines {
    pub(super) desk: Desk,
    pub(super) relay: Relay,
    pub(super) consumer: Arc<str>,
    pub(super) kinds: Arc<HashMap<Arc<str>, Arc<dyn Fire>>>,
}

impl Deadlines {
    /// Fires what is due; returns how many deadlines were looked at. One that cannot be decided now comes again when its lease is over.
    pub(super) async fn run_once(&self, now: Timestamp) -> Result<usize, DocumentsError> {
        let due = self
            .desk
            .documents()
            .claim_deadlines(CLAIM_MAX, now)
            .await?;
        let count = due.len();
        let fired = due.into_iter().map(|due| async move {
            let Some(kind) = self.kinds.get(&due.key.kind) else {
                let kind = &*due.key.kind;
                return tracing::error!(
                    kind,
                    "a deadline of a kind that nobody decides about waits"
                );
            };
            let fired = kind
                .fire(&self.desk, &self.relay, &self.consumer, due)
                .await;
            if let Err(error) = fired {
                tracing::warn!(%error, "a deadline is late");
            }
        });
        futures_util::future::join_all(fired).await;
        Ok(count)
    }

    /// Fires until `stop` turns true.
    pub(super) async fn run(&self, mut stop: watch::Receiver<bool>) {
        loop {
            let now = self.desk.now();
            let pause = match self.run_once(now).await {
                Ok(0) => self.pause(now).await,
                Ok(_) => continue,
                Err(error) => {
                    tracing::warn!(%error, "deadlines cannot be looked at; trying again");
                    POLL
                }
            };
            tokio::select! {
                biased;
                _ = stop.wait_for(|stop| *stop) => return,
                () = sleep(pause) => {}
            }
        }
    }

    /// Until the next one is due, or to the next look.
    async fn pause(&self, now: Timestamp) -> Duration {
        let next = timeout(POLL, self.desk.documents().next_deadline()).await;
        match next {
            Ok(Ok(Some(at))) => Duration::from_millis(at.ms_since(now).max(1)).min(POLL),
            _ => POLL,
        }
    }
}
