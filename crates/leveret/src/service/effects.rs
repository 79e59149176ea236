//! Effects outside: a call to a gateway, an e-mail. A decision commits the intent, a message with an idempotency key that its state keeps; a
//! handler performs it, again with a backoff while it fails; what comes of it is decided upon as a message.
//!
//! A crash at any point performs it again with the same key: before the intent is acknowledged, its outcome is committed.

use std::{fmt, sync::Arc, time::Duration};

use async_trait::async_trait;

use super::{
    decider::{Decider, Refusal},
    desk::{Arrived, Desk, ExecuteError, Executed},
    documents::Handled,
    relay::Relay,
};
use crate::{
    broker::{
        Delivery, Message,
        work::{Handler, Verdict, WorkOptions},
    },
    crash::{self, Point},
};

/// What performs intents, and what their outcomes mean.
#[async_trait]
pub trait Effect: Send + Sync + 'static {
    /// Who decides upon outcomes.
    type Decider: Decider;

    /// Performs an intent. `attempt` counts from 1; it runs again for one intent, after a crash too, and must do nothing twice: that is what
    /// the intent's idempotency key is for.
    async fn perform(&self, intent: &Message, attempt: u32) -> Performed<Self::Decider>;

    /// What it means that the last attempt failed; none makes the intent a dead letter.
    fn given_up(
        &self,
        intent: &Message,
        reason: &str,
    ) -> Option<<Self::Decider as Decider>::Message>;
}

/// What came of an attempt.
pub enum Performed<D: Decider> {
    /// It is known what happened.
    Outcome(D::Message),
    /// A passing fault, or it is not known.
    Retry {
        /// What went wrong.
        reason: String,
    },
    /// The same, but not before this time.
    RetryAfter {
        /// What went wrong.
        reason: String,
        /// How long to wait at least.
        delay: Duration,
    },
    /// The intent makes no sense: it becomes a dead letter.
    Malformed {
        /// Why.
        reason: String,
    },
}

impl<D: Decider> fmt::Debug for Performed<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Performed::Outcome(_) => f.write_str("Outcome"),
            Performed::Retry { reason } => write!(f, "Retry({reason})"),
            Performed::RetryAfter { reason, delay } => write!(f, "RetryAfter({reason}, {delay:?})"),
            Performed::Malformed { reason } => write!(f, "Malformed({reason})"),
        }
    }
}

/// One effect at work.
pub(super) struct Performer<E: Effect> {
    pub(super) effect: Arc<E>,
    pub(super) decider: Arc<E::Decider>,
    pub(super) options: WorkOptions,
    pub(super) consumer: Arc<str>,
    pub(super) desk: Desk,
    pub(super) relay: Relay,
}

#[async_trait]
impl<E: Effect> Handler for Performer<E> {
    async fn handle(&self, delivery: &Delivery, attempt: u32) -> Verdict {
        let intent = &delivery.message;
        let Some(message_id) = intent.message_id.clone() else {
            let reason = "an intent has a message_id".to_owned();
            return Verdict::DeadLetter { reason };
        };
        crash::reached(Point::EffectBeforeCall);
        let performed = self.effect.perform(intent, attempt).await;
        crash::reached(Point::EffectAfterCall);
        let (reason, again) = match performed {
            Performed::Outcome(outcome) => return self.conclude(&message_id, &outcome).await,
            Performed::Malformed { reason } => return Verdict::DeadLetter { reason },
            Performed::Retry { reason } => {
                let again = Verdict::Retry {
                    reason: reason.clone(),
                };
                (reason, again)
            }
            Performed::RetryAfter { reason, delay } => {
                let again = Verdict::RetryAfter {
                    reason: reason.clone(),
                    delay,
                };
                (reason, again)
            }
        };
        if (attempt as usize) <= self.options.retry.delays.len() {
            return again;
        }
        match self.effect.given_up(intent, &reason) {
            Some(outcome) => self.conclude(&message_id, &outcome).await,
            None => again,
        }
    }
}

impl<E: Effect> Performer<E> {
    /// Decides upon what came of an intent, once for each intent.
    async fn conclude(
        &self,
        message_id: &str,
        outcome: &<E::Decider as Decider>::Message,
    ) -> Verdict {
        let arrived = Arrived {
            handled: Handled {
                consumer: self.consumer.clone(),
                message_id: format!("{message_id}/outcome").into(),
            },
            parkable: None,
        };
        let executed = self
            .desk
            .execute(&*self.decider, outcome, Some(arrived), &[])
            .await;
        match executed {
            Ok(Executed::Done { claimed, .. }) => {
                self.relay.publish(claimed).await;
                Verdict::done()
            }
            Ok(
                Executed::Repeated | Executed::Parked | Executed::Refused(Refusal::Stale { .. }),
            ) => Verdict::done(),
            Ok(Executed::Refused(refusal)) => Verdict::DeadLetter {
                reason: refusal.to_string(),
            },
            Err(ExecuteError::Contended) => Verdict::Retry {
                reason: ExecuteError::Contended.to_string(),
            },
            Err(error) => {
                let queue = &*self.options.queue;
                tracing::warn!(queue, %error, "the outcome of an effect waits for the database");
                Verdict::Requeue
            }
        }
    }
}
