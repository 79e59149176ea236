//! The simulated gateway without HTTP, for services in a world of their own.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use leveret::{
    broker::Message,
    service::{Effect, Now, Of, Performed, Service, testing::Parts},
};
use serde_json::Value;

use super::{
    super::{
        bill::{Bill, BillMessage},
        intent::{Action, Intent, Outcome},
    },
    Told, Tried,
};
use crate::{
    gateway::ledger::{Charged, Ledger, Refunded, Request},
    settings::Settings,
};

/// The billing service of a world, with this gateway.
pub(crate) fn service(parts: Parts, settings: &Settings, gateway: &InMemory) -> Service {
    let effect = parts.effect(gateway.clone());
    let service = super::super::service_with(parts.documents, parts.broker, settings, effect);
    service.expect("the catalogue agrees")
}

/// A gateway that outlives the services' crashes.
#[derive(Clone)]
pub(crate) struct InMemory {
    ledger: Arc<Mutex<Ledger>>,
    now: Now,
    attempts_max: u32,
}

impl InMemory {
    pub(crate) fn new(settings: &Settings) -> InMemory {
        InMemory {
            ledger: Arc::new(Mutex::new(Ledger::new(Duration::from_millis(500)))),
            now: settings.work.now.clone(),
            attempts_max: settings.work.attempts_max(),
        }
    }

    /// Everything that it did, and what it did twice.
    pub(crate) fn report(&self) -> Value {
        self.ledger().report(self.now())
    }

    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> Duration {
        Duration::from_millis((self.now)().0.unsigned_abs())
    }

    fn told(shown: Option<Value>) -> Tried {
        match shown {
            Some(shown) => serde_json::from_value::<Told>(shown)
                .map_err(|error| error.to_string())?
                .outcome(),
            None => Ok(Outcome::NotCharged),
        }
    }

    fn tried(&self, intent: &Intent) -> Tried {
        let (mut ledger, now) = (self.ledger(), self.now());
        let charge_id = intent.charge_id.as_ref().and_then(|id| id.parse().ok());
        match intent.action {
            Action::Charge => {
                let request = Request {
                    amount: intent.amount,
                    reference: intent.payment_id.to_string(),
                    notification_url: None,
                };
                match ledger.charge(&intent.key, request, now) {
                    Charged::Done(id) | Charged::InProcess(id) => {
                        InMemory::told(ledger.shown(id, now))
                    }
                    Charged::Late(_) => Err("the gateway gave no answer in time".to_owned()),
                    Charged::Fails => Err("the gateway answered 500".to_owned()),
                    Charged::OtherBody => panic!("a key is used for another payment: {intent:?}"),
                }
            }
            Action::LookUp => {
                let shown = if let Some(id) = charge_id {
                    ledger.shown(id, now)
                } else {
                    let found = ledger.search(intent.payment_id.as_str(), now);
                    found.into_iter().next()
                };
                InMemory::told(shown)
            }
            Action::Refund => {
                let id = charge_id.expect("what is refunded was charged");
                let key = format!("{}-refund", intent.key);
                match ledger.refund(id, &key, now) {
                    Refunded::Done => Ok(Outcome::Refunded),
                    Refunded::Fails => Err("the gateway answered the refund with 500".to_owned()),
                    other => panic!("a refund of what was not paid: {other:?} {intent:?}"),
                }
            }
        }
    }
}

#[async_trait]
impl Effect for InMemory {
    type Decider = Of<Bill>;

    async fn perform(&self, intent: &Message, _: u32) -> Performed<Of<Bill>> {
        let intent: Intent = serde_json::from_slice(&intent.body).expect("an intent");
        match self.tried(&intent) {
            Ok(outcome) => Performed::Outcome(intent.concluded(outcome)),
            Err(reason) => Performed::Retry { reason },
        }
    }

    fn given_up(&self, intent: &Message, reason: &str) -> Option<BillMessage> {
        let intent: Intent = serde_json::from_slice(&intent.body).ok()?;
        let outcome = intent.given_up(reason, self.attempts_max);
        Some(intent.concluded(outcome))
    }
}
