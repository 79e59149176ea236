//! What was asked, what was answered and what was charged. No I/O and no clock.

use std::collections::{BTreeMap, HashMap};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::plan::{Plan, Step, hash};

/// A thousand million euros.
const AMOUNT_CENTS_MAX: u64 = 100_000_000_000;

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ChargeRequest {
    order_id: String,
    amount_cents: u64,
    currency: String,
    token: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Provider {
    Primary,
    Backup,
}

impl Provider {
    /// Its share of the amount.
    fn fee_percent(self) -> u64 {
        match self {
            Self::Primary => 1,
            Self::Backup => 3,
        }
    }
}

/// The answer of a provider, as it goes over the wire.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "status", rename_all = "lowercase")]
pub(super) enum Outcome {
    Approved {
        charge_id: String,
        provider: Provider,
        amount_cents: u64,
        fee_cents: u64,
    },
    Declined {
        provider: Provider,
        reason: &'static str,
    },
}

#[derive(Debug)]
pub(super) struct Answer {
    pub(super) outcome: Outcome,
    /// The answer, not the charge, shall be late.
    pub(super) stalls: bool,
}

/// Why a request has no outcome.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    Unavailable,
    OtherBody,
    Amount,
    Full,
}

/// What is known of an idempotency key.
#[derive(Debug)]
struct Entry {
    request: ChargeRequest,
    attempts: u32,
    settled: Option<Outcome>,
}

#[derive(Debug, Serialize)]
#[expect(clippy::struct_field_names, reason = "the names are those of the JSON")]
struct Charge {
    charge_id: String,
    provider: Provider,
    order_id: String,
    amount_cents: u64,
    fee_cents: u64,
    currency: String,
    idempotency_key: String,
}

#[derive(Debug, Default, Serialize)]
struct Counts {
    requests: u64,
    approved: u64,
    declined: u64,
    unavailable: u64,
    repeated: u64,
    refused: u64,
}

#[derive(Debug)]
pub(super) struct Ledger {
    seed: u64,
    keys_max: usize,
    entries: HashMap<(Provider, String), Entry>,
    charges: Vec<Charge>,
    counts: Counts,
}

impl Ledger {
    /// At most `keys_max` idempotency keys are kept.
    pub(super) fn new(seed: u64, keys_max: usize) -> Self {
        Self {
            seed,
            keys_max,
            entries: HashMap::new(),
            charges: Vec::new(),
            counts: Counts::default(),
        }
    }

    /// Answers a request. Once a key has an outcome it keeps it, and is never charged again.
    pub(super) fn charge(
        &mut self,
        provider: Provider,
        key: &str,
        request: ChargeRequest,
    ) -> Result<Answer, Refusal> {
        let result = self.settle(provider, key, request);
        self.counts.requests += 1;
        match &result {
            Err(Refusal::Unavailable) => self.counts.unavailable += 1,
            Err(_) => self.counts.refused += 1,
            Ok(_) => {}
        }
        result
    }

    fn settle(
        &mut self,
        provider: Provider,
        key: &str,
        request: ChargeRequest,
    ) -> Result<Answer, Refusal> {
        if !(1..=AMOUNT_CENTS_MAX).contains(&request.amount_cents) {
            return Err(Refusal::Amount);
        }
        let slot = (provider, key.to_owned());
        if !self.entries.contains_key(&slot) && self.entries.len() >= self.keys_max {
            return Err(Refusal::Full);
        }
        let entry = self.entries.entry(slot).or_insert(Entry {
            request: request.clone(),
            attempts: 0,
            settled: None,
        });
        if entry.request != request {
            return Err(Refusal::OtherBody);
        }
        if let Some(outcome) = entry.settled.clone() {
            self.counts.repeated += 1;
            return Ok(Answer {
                outcome,
                stalls: false,
            });
        }
        entry.attempts += 1;
        let plan = Plan::of(self.seed, &request.order_id, &request.token);
        let step = match provider {
            Provider::Primary => plan.step(entry.attempts),
            Provider::Backup => plan.backup_step(),
        };
        let (outcome, stalls) = match step {
            Step::Unavailable => return Err(Refusal::Unavailable),
            Step::Decline(reason) => (Outcome::Declined { provider, reason }, false),
            Step::Approve { stalls } => (approved(provider, key, &request), stalls),
        };
        entry.settled = Some(outcome.clone());
        self.record(key, request, &outcome);
        Ok(Answer { outcome, stalls })
    }

    fn record(&mut self, key: &str, request: ChargeRequest, outcome: &Outcome) {
        let Outcome::Approved {
            charge_id,
            provider,
            amount_cents,
            fee_cents,
        } = outcome
        else {
            self.counts.declined += 1;
            return;
        };
        self.counts.approved += 1;
        self.charges.push(Charge {
            charge_id: charge_id.clone(),
            provider: *provider,
            order_id: request.order_id,
            amount_cents: *amount_cents,
            fee_cents: *fee_cents,
            currency: request.currency,
            idempotency_key: key.to_owned(),
        });
    }

    /// All charges, the counts, and the orders with more than one charge, of whichever provider.
    pub(super) fn report(&self) -> Value {
        let mut by_order: BTreeMap<&str, u32> = BTreeMap::new();
        for charge in &self.charges {
            *by_order.entry(&charge.order_id).or_default() += 1;
        }
        let twice: Vec<&str> = by_order
            .iter()
            .filter(|(_, charges)| **charges > 1)
            .map(|(order, _)| *order)
            .collect();
        json!({ "counts": self.counts, "orders_charged_twice": twice, "charges": self.charges })
    }
}

fn approved(provider: Provider, key: &str, request: &ChargeRequest) -> Outcome {
    Outcome::Approved {
        charge_id: format!("ch_{:016x}", hash(&format!("{provider:?}/{key}"))),
        provider,
        amount_cents: request.amount_cents,
        // Rounded up, as fees are.
        fee_cents: (request.amount_cents * provider.fee_percent()).div_ceil(100),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(order: &str, token: &str) -> ChargeRequest {
        ChargeRequest {
            order_id: order.into(),
            amount_cents: 5_000,
            currency: "EUR".into(),
            token: token.into(),
        }
    }

    /// Whatever order requests arrive in, each key gets the same answers.
    #[test]
    fn arrival_order_does_not_matter() {
        let orders: Vec<String> = (0..200).map(|n| format!("ord-{n:06}")).collect();
        let answers = |orders: &mut dyn Iterator<Item = &String>| {
            let mut ledger = Ledger::new(7, 1_000);
            let mut answer = |order: &String| {
                let tries = (0..3)
                    .map(|_| ledger.charge(Provider::Primary, order, request(order, "tok_4f2a")));
                (
                    order.clone(),
                    tries
                        .map(|answer| answer.map(|it| it.outcome))
                        .collect::<Vec<_>>(),
                )
            };
            orders.map(&mut answer).collect::<BTreeMap<_, _>>()
        };
        assert_eq!(
            answers(&mut orders.iter()),
            answers(&mut orders.iter().rev())
        );
    }

    /// Two keys for one order are two charges, and the report says so.
    #[test]
    fn a_double_charge_is_reported() {
        let mut ledger = Ledger::new(7, 10);
        for key in ["a", "b"] {
            ledger
                .charge(Provider::Primary, key, request("ord-1", "tok_ok_1"))
                .unwrap();
        }
        assert_eq!(ledger.report()["orders_charged_twice"], json!(["ord-1"]));
    }
}
