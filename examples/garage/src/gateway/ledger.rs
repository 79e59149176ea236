//! The books of the simulated gateway: pure, the time is an argument.

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use serde_json::{Value, json};

use crate::money::Money;

/// The most charges that it remembers.
const CHARGES_MAX: usize = 5_000_000;
/// The id of the first charge.
const FIRST_ID: u64 = 1_300_000_001;
/// How often the refund of an amount that ends in 05 fails.
const REFUND_FAILURES: u32 = 2;

/// What is asked of the gateway.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Request {
    pub(crate) amount: Money,
    pub(crate) reference: String,
    pub(crate) notification_url: Option<String>,
}

#[derive(Debug)]
struct Charge {
    request: Request,
    /// When, since the gateway began.
    at: Duration,
    refunds: u32,
    refund_calls: u32,
}

/// What a charge comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Charged {
    /// Here it is.
    Done(u64),
    /// It is new, and will be decided about in a while.
    InProcess(u64),
    /// It is new, and its answer comes late.
    Late(u64),
    /// Nothing is charged.
    Fails,
    /// The key belongs to another charge.
    OtherBody,
}

/// What a refund comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refunded {
    Done,
    Fails,
    /// There is no such charge.
    Unknown,
    /// Nothing was paid.
    NotPaid,
}

/// The books.
#[derive(Debug)]
pub(crate) struct Ledger {
    charges: Vec<Charge>,
    by_key: HashMap<String, usize>,
    by_reference: HashMap<String, Vec<usize>>,
    /// By charge and key.
    refund_keys: HashSet<(usize, String)>,
    /// Charges that were refunded, once for each time.
    refunds: Vec<usize>,
    /// How long an amount that ends in 02 is in process.
    in_process: Duration,
}

impl Ledger {
    pub(crate) fn new(in_process: Duration) -> Ledger {
        Ledger {
            charges: Vec::new(),
            by_key: HashMap::new(),
            by_reference: HashMap::new(),
            refund_keys: HashSet::new(),
            refunds: Vec::new(),
            in_process,
        }
    }

    /// Charges once by a key.
    pub(crate) fn charge(&mut self, key: &str, request: Request, now: Duration) -> Charged {
        if let Some(&known) = self.by_key.get(key) {
            if self.charges[known].request != request {
                return Charged::OtherBody;
            }
            return Charged::Done(id_of(known));
        }
        let ending = request.amount.0 % 100;
        if ending == 3 || self.charges.len() >= CHARGES_MAX {
            return Charged::Fails;
        }
        let at = self.charges.len();
        self.by_key.insert(key.to_owned(), at);
        let same = self.by_reference.entry(request.reference.clone());
        same.or_default().push(at);
        self.charges.push(Charge {
            request,
            at: now,
            refunds: 0,
            refund_calls: 0,
        });
        match ending {
            2 => Charged::InProcess(id_of(at)),
            4 => Charged::Late(id_of(at)),
            _ => Charged::Done(id_of(at)),
        }
    }

    /// Gives the money of a charge back, once by a key.
    pub(crate) fn refund(&mut self, id: u64, key: &str, now: Duration) -> Refunded {
        let Some(at) = self.place(id) else {
            return Refunded::Unknown;
        };
        let by_key = (at, key.to_owned());
        if self.refund_keys.contains(&by_key) {
            return Refunded::Done;
        }
        if !self.is_paid(at, now) {
            return Refunded::NotPaid;
        }
        let charge = &mut self.charges[at];
        charge.refund_calls += 1;
        match charge.request.amount.0 % 100 {
            5 if charge.refund_calls <= REFUND_FAILURES => return Refunded::Fails,
            6 => return Refunded::Fails,
            _ => {}
        }
        charge.refunds += 1;
        self.refund_keys.insert(by_key);
        self.refunds.push(at);
        Refunded::Done
    }

    /// A charge, as the API shows it.
    pub(crate) fn shown(&self, id: u64, now: Duration) -> Option<Value> {
        let at = self.place(id)?;
        let charge = &self.charges[at];
        let (status, detail) = self.status(at, now);
        Some(json!({
            "id": id,
            "status": status,
            "status_detail": detail,
            "transaction_amount": decimal(charge.request.amount),
            "transaction_amount_refunded": decimal(refunded(charge)),
            "external_reference": charge.request.reference,
        }))
    }

    /// The charges with this reference, newest first.
    pub(crate) fn search(&self, reference: &str, now: Duration) -> Vec<Value> {
        let found = self.by_reference.get(reference);
        let found = found.into_iter().flatten().rev();
        found.filter_map(|&at| self.shown(id_of(at), now)).collect()
    }

    /// Everything, and what was done twice.
    pub(crate) fn report(&self, now: Duration) -> Value {
        let all = 0..self.charges.len();
        let charges = all.map(|at| {
            let Request {
                reference, amount, ..
            } = &self.charges[at].request;
            json!({
                "id": id_of(at).to_string(),
                "order_id": reference,
                "amount": amount.0,
                "status": self.status(at, now).0,
            })
        });
        let refunds = self.refunds.iter().map(|&at| {
            let Request {
                reference, amount, ..
            } = &self.charges[at].request;
            json!({ "order_id": reference, "amount": amount.0 })
        });
        let twice = |count: &dyn Fn(usize) -> u32| {
            let more = self.by_reference.iter().filter(|(_, places)| {
                let times: u32 = places.iter().map(|&at| count(at)).sum();
                times > 1
            });
            let mut references: Vec<&String> = more.map(|(reference, _)| reference).collect();
            references.sort();
            references
        };
        json!({
            "charges": charges.collect::<Vec<_>>(),
            "refunds": refunds.collect::<Vec<_>>(),
            "charged_twice": twice(&|at| u32::from(self.charges[at].request.amount.0 % 100 != 1)),
            "refunded_twice": twice(&|at| self.charges[at].refunds),
        })
    }

    fn place(&self, id: u64) -> Option<usize> {
        let at = usize::try_from(id.checked_sub(FIRST_ID)?).ok()?;
        (at < self.charges.len()).then_some(at)
    }

    fn is_paid(&self, at: usize, now: Duration) -> bool {
        matches!(self.status(at, now).0, "approved" | "refunded")
    }

    /// Status and detail.
    fn status(&self, at: usize, now: Duration) -> (&'static str, &'static str) {
        let charge = &self.charges[at];
        match charge.request.amount.0 % 100 {
            1 => ("rejected", "cc_rejected_insufficient_amount"),
            2 if now < charge.at + self.in_process => ("in_process", "pending_contingency"),
            _ if charge.refunds > 0 => ("refunded", "refunded"),
            _ => ("approved", "accredited"),
        }
    }
}

fn refunded(charge: &Charge) -> Money {
    let amount = charge.request.amount;
    amount.times(charge.refunds.into()).unwrap_or(amount)
}

fn id_of(at: usize) -> u64 {
    FIRST_ID + at as u64
}

/// An amount as a number with decimals.
fn decimal(amount: Money) -> Value {
    serde_json::from_str(&amount.to_string()).expect("an amount is a number")
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Duration = Duration::from_secs(10);
    const LATER: Duration = Duration::from_secs(11);

    fn request(minor: i64, reference: &str) -> Request {
        Request {
            amount: Money(minor),
            reference: reference.to_owned(),
            notification_url: None,
        }
    }

    fn ledger() -> Ledger {
        Ledger::new(Duration::from_millis(500))
    }

    /// What each ending comes to: the call, the status at once and later.
    #[test]
    fn what_endings_come_to() {
        let check = |minor, charged, at_once, later| {
            let mut ledger = ledger();
            assert_eq!(ledger.charge("k", request(minor, "p"), NOW), charged);
            let status = |now| {
                let shown = ledger.shown(FIRST_ID, now);
                shown.map(|shown| shown["status"].as_str().unwrap().to_owned())
            };
            assert_eq!(status(NOW).as_deref(), at_once, "{minor}");
            assert_eq!(status(LATER).as_deref(), later, "{minor}");
        };
        let approved = Some("approved");
        check(15_000, Charged::Done(FIRST_ID), approved, approved);
        let rejected = Some("rejected");
        check(15_001, Charged::Done(FIRST_ID), rejected, rejected);
        let id = FIRST_ID;
        check(15_002, Charged::InProcess(id), Some("in_process"), approved);
        check(15_003, Charged::Fails, None, None);
        check(15_004, Charged::Late(FIRST_ID), approved, approved);
    }

    #[test]
    fn a_key_charges_once() {
        let mut ledger = ledger();
        let charge = ledger.charge("k", request(15_004, "p"), NOW);
        assert_eq!(charge, Charged::Late(FIRST_ID));
        let again = ledger.charge("k", request(15_004, "p"), NOW);
        assert_eq!(again, Charged::Done(FIRST_ID));
        let other = ledger.charge("k", request(15_000, "p"), NOW);
        assert_eq!(other, Charged::OtherBody);
        assert_eq!(ledger.search("p", NOW).len(), 1);
        assert_eq!(ledger.report(NOW)["charged_twice"], json!([]));
        ledger.charge("l", request(15_004, "p"), NOW);
        assert_eq!(ledger.report(NOW)["charged_twice"], json!(["p"]));
    }

    #[test]
    fn refunds() {
        let check = |minor, expected: &[Refunded]| {
            let mut ledger = ledger();
            ledger.charge("k", request(minor, "p"), NOW);
            for expected in expected {
                assert_eq!(ledger.refund(FIRST_ID, "r", LATER), *expected, "{minor}");
            }
            let report = ledger.report(LATER);
            assert_eq!(report["refunded_twice"], json!([]));
            let done = expected.contains(&Refunded::Done);
            assert_eq!(
                report["refunds"].as_array().unwrap().len(),
                usize::from(done)
            );
        };
        use Refunded::{Done, Fails, NotPaid, Unknown};
        check(15_000, &[Done, Done]);
        check(15_001, &[NotPaid]);
        check(15_002, &[Done, Done]);
        check(15_003, &[Unknown]);
        check(15_005, &[Fails, Fails, Done, Done]);
        check(15_006, &[Fails, Fails, Fails, Fails, Fails]);
        let mut ledger = ledger();
        ledger.charge("k", request(15_000, "p"), NOW);
        ledger.refund(FIRST_ID, "r", NOW);
        ledger.refund(FIRST_ID, "s", NOW);
        assert_eq!(ledger.report(NOW)["refunded_twice"], json!(["p"]));
    }
}
