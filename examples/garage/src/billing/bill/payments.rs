//! Payments: charged and refunded by the gateway, which is asked by intents. That a charge failed is said only after the gateway has told whether
//! money moved.

use std::time::Duration;

use leveret::{
    core::time::Timestamp,
    service::{Next, Refusal, events::Cause},
};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{BillState, PAYMENTS_MAX, Telling, conflict};
use crate::{
    billing::intent::{Action, Intent, Outcome},
    events::{
        PaymentApproved, PaymentCreated, PaymentFailed, PaymentRefundFailed, PaymentRefunded,
        PaymentRejected,
    },
    failure::{INVALID, NOT_FOUND},
    ids::Id,
    money::Money,
    statuses::{PAYMENT, PaymentStatus, QuoteStatus},
};

/// When the gateway is asked again what became of a payment: after so long at first, twice as long each time, so long at most.
const LOOK_FIRST: Duration = Duration::from_secs(5);
const LOOK_LONGEST: Duration = Duration::from_secs(3600);
/// When the gateway could not say whether money moved, it is asked again after so long.
const SETTLE_AGAIN: Duration = Duration::from_secs(30);

/// A payment.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Payment {
    pub(crate) id: Id,
    pub(crate) quote_id: Id,
    pub(crate) amount: Money,
    pub(crate) method: Method,
    pub(crate) status: PaymentStatus,
    /// Why it was rejected, or what the gateway says of it.
    pub(crate) reason: Option<String>,
    pub(crate) metadata: Option<Map<String, Value>>,
    pub(crate) created_at: Timestamp,
    pub(crate) updated_at: Timestamp,
    /// What the gateway knows the payment by.
    pub(crate) key: String,
    /// What the gateway calls it.
    pub(crate) charge_id: Option<String>,
    /// The gateway's word for where it stands.
    pub(crate) charge_status: Option<String>,
    pub(super) phase: Phase,
    /// When the gateway is to be asked again.
    pub(super) look_at: Option<Timestamp>,
    looks: u32,
    /// How often it was tried to charge, when nobody said what came of it.
    attempts: u32,
    /// How often the gateway has answered, or could not be asked.
    pub(crate) outcomes: u64,
    pub(crate) refund: Option<Refund>,
    /// How many events of it there are.
    events: u64,
}

/// How the customer pays.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub(crate) enum Method {
    Pix,
    CreditCard,
    DebitCard,
    Boleto,
}

/// What is known of a charge under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum Phase {
    /// The gateway is asked to charge.
    Charging,
    /// The gateway never said what came of it, and is asked that.
    Settling,
    /// The gateway has it in process.
    Waiting,
}

/// Money that goes back.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Refund {
    pub(crate) reason: String,
    pub(crate) status: RefundStatus,
    /// Why it failed the last time.
    pub(crate) error: Option<String>,
    cause: Cause,
    /// How often it failed for good.
    failures: u32,
}

/// Where a refund stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub(crate) enum RefundStatus {
    Requested,
    Failed,
    Done,
}

/// A payment to be.
#[derive(Clone, Debug)]
pub(crate) struct NewPayment {
    pub(crate) id: Id,
    pub(crate) quote_id: Id,
    pub(crate) customer_id: i64,
    pub(crate) amount: Money,
    pub(crate) method: Method,
    pub(crate) metadata: Option<Map<String, Value>>,
    /// Whether it is charged at once.
    pub(crate) process: bool,
}

impl Payment {
    /// Takes a legal transition.
    pub(super) fn pass(&mut self, status: PaymentStatus, reason: Option<&str>, now: Timestamp) {
        debug_assert!(PAYMENT.allows(self.status, status));
        self.status = status;
        self.updated_at = now;
        self.look_at = None;
        if let Some(reason) = reason {
            self.reason = Some(reason.to_owned());
        }
    }

    fn count(&mut self) -> u64 {
        self.events += 1;
        self.events
    }

    /// Whether money may move, or has and is to stay.
    fn is_live(&self) -> bool {
        use PaymentStatus::{Approved, Pending, Processing};
        matches!(self.status, Pending | Processing | Approved)
    }

    /// The pause before the gateway is asked again what became of it, the next one being longer.
    fn next_look(&mut self) -> Duration {
        let pause = LOOK_FIRST.saturating_mul(2_u32.saturating_pow(self.looks));
        self.looks += 1;
        pause.min(LOOK_LONGEST)
    }
}

impl Telling {
    /// A payment of the approved quote, one at a time.
    pub(super) fn pay(&mut self, new: &NewPayment) -> Result<(), Refusal> {
        self.check_customer(new.customer_id)?;
        let quote = self.state.quote(&new.quote_id).ok_or_else(|| {
            Refusal::rejected(NOT_FOUND, format!("Quote {} not found", new.quote_id))
        })?;
        if quote.total != new.amount {
            let reason = format!("amount is not the quote's total: {}", quote.total);
            return Err(Refusal::rejected(INVALID, reason));
        }
        if quote.status != QuoteStatus::Approved {
            let word = quote.status.as_str();
            return Err(conflict(format!("Quote is {word}, not APPROVED")));
        }
        self.state.open()?;
        if let Some(live) = self.state.payments.iter().find(|other| other.is_live()) {
            let (id, word) = (&live.id, live.status.as_str());
            let reason = format!("The work order has a payment already: {id} is {word}");
            return Err(conflict(reason));
        }
        if self.state.payments.len() >= PAYMENTS_MAX {
            let reason = format!("The work order has {PAYMENTS_MAX} payments already");
            return Err(conflict(reason));
        }
        self.state.payments.push(Payment {
            id: new.id.clone(),
            quote_id: new.quote_id.clone(),
            amount: new.amount,
            method: new.method,
            status: PaymentStatus::Pending,
            reason: None,
            metadata: new.metadata.clone(),
            created_at: self.now,
            updated_at: self.now,
            key: format!("payment-{}", new.id),
            charge_id: None,
            charge_status: None,
            phase: Phase::Charging,
            look_at: None,
            looks: 0,
            attempts: 0,
            outcomes: 0,
            refund: None,
            events: 1,
        });
        let told = PaymentCreated {
            payment_id: new.id.clone(),
            quote_id: new.quote_id.clone(),
            work_order_id: self.state.work_order_id.clone(),
            amount: new.amount,
        };
        self.tell(&told, 1);
        if new.process {
            self.charge(self.state.payments.len() - 1);
        }
        Ok(())
    }

    /// Has a payment charged.
    pub(super) fn process(&mut self, id: &Id) -> Result<(), Refusal> {
        let at = self.payment_place(id)?;
        let status = self.state.payments[at].status;
        if !PAYMENT.allows(status, PaymentStatus::Processing) {
            let word = status.as_str().to_lowercase();
            return Err(conflict(format!("Payment is already {word}")));
        }
        self.state.open()?;
        self.charge(at);
        Ok(())
    }

    /// Asks the gateway what became of a payment, if that is not known.
    pub(super) fn verify(&mut self, id: &Id) -> Result<(), Refusal> {
        let at = self.payment_place(id)?;
        if self.state.payments[at].status == PaymentStatus::Processing {
            self.ask_gateway(at, Action::LookUp);
        }
        Ok(())
    }

    /// Asks what became of those that it is time for.
    pub(super) fn ask_again(&mut self) {
        let now = self.now;
        for at in 0..self.state.payments.len() {
            let payment = self.payment_at(at);
            if payment.look_at.is_some_and(|look_at| look_at <= now) {
                // What the answer is says when to ask next.
                payment.look_at = None;
                self.ask_gateway(at, Action::LookUp);
            }
        }
    }

    /// Gives money back, once.
    pub(super) fn refund(&mut self, at: usize, reason: &str, cause: &Cause) {
        let payment = self.payment_at(at);
        if payment.refund.is_some() {
            return;
        }
        payment.refund = Some(Refund {
            reason: reason.to_owned(),
            status: RefundStatus::Requested,
            error: None,
            cause: cause.clone(),
            failures: 0,
        });
        self.ask_gateway(at, Action::Refund);
    }

    fn charge(&mut self, at: usize) {
        let now = self.now;
        self.payment_at(at)
            .pass(PaymentStatus::Processing, None, now);
        self.ask_gateway(at, Action::Charge);
    }

    fn ask_gateway(&mut self, at: usize, action: Action) {
        let intent = self.intent(at, action);
        self.publish(intent.publish());
    }

    fn intent(&self, at: usize, action: Action) -> Intent {
        let payment = &self.state.payments[at];
        Intent {
            action,
            work_order_id: self.state.work_order_id.clone(),
            payment_id: payment.id.clone(),
            quote_id: payment.quote_id.clone(),
            customer_id: self.state.customer_id,
            amount: payment.amount,
            method: payment.method,
            key: payment.key.clone(),
            charge_id: payment.charge_id.clone(),
        }
    }

    fn payment_place(&self, id: &Id) -> Result<usize, Refusal> {
        let mut payments = self.state.payments.iter();
        let at = payments.position(|payment| payment.id == *id);
        at.ok_or_else(|| Refusal::rejected(NOT_FOUND, format!("Payment {id} not found")))
    }
}

/// Something became of a payment, the gateway says: it is asked what.
pub(super) fn notified(
    state: BillState,
    id: &Id,
    now: Timestamp,
) -> Result<Next<BillState>, Refusal> {
    let cause = Cause::root(state.work_order_id.as_str());
    let mut bill = Telling::new(state, cause, now);
    let at = bill.payment_place(id)?;
    match bill.state.payments[at].status {
        PaymentStatus::Processing | PaymentStatus::Rejected => {
            bill.ask_gateway(at, Action::LookUp);
            Ok(bill.next())
        }
        status => Err(Refusal::stale(format!("it is {}", status.as_str()))),
    }
}

/// What came of an intent.
pub(super) fn concluded(
    state: BillState,
    id: &Id,
    outcome: &Outcome,
    now: Timestamp,
) -> Result<Next<BillState>, Refusal> {
    let cause = Cause::root(state.work_order_id.as_str());
    let mut bill = Telling::new(state, cause, now);
    let at = bill.payment_place(id)?;
    bill.payment_at(at).outcomes += 1;
    let status = bill.state.payments[at].status;
    match (status, outcome) {
        (PaymentStatus::Processing, outcome) => bill.charged(at, outcome),
        (PaymentStatus::Rejected, Outcome::Charged { charge_id }) => {
            bill.charged_late(at, charge_id)?;
        }
        (_, Outcome::Refunded) => bill.refunded(at)?,
        (_, Outcome::RefundFailed { reason, attempts }) => {
            bill.refund_failed(at, reason, *attempts)?;
        }
        (status, outcome) => {
            let word = status.as_str();
            return Err(Refusal::stale(format!(
                "{outcome:?} for one that is {word}"
            )));
        }
    }
    Ok(bill.next())
}

impl Telling {
    /// What came of a charge, or what the gateway says became of it.
    fn charged(&mut self, at: usize, outcome: &Outcome) {
        match outcome {
            Outcome::Charged { charge_id } => self.paid(at, charge_id),
            Outcome::Rejected { charge_id, reason } => {
                self.rejected(at, charge_id.as_deref(), reason);
            }
            Outcome::InProcess { charge_id, status } => {
                let now = self.now;
                let payment = self.payment_at(at);
                payment.phase = Phase::Waiting;
                payment.charge_id = Some(charge_id.clone());
                payment.charge_status = Some(status.clone());
                payment.updated_at = now;
                payment.look_at = Some(now + payment.next_look());
            }
            Outcome::NotCharged => match self.state.payments[at].phase {
                // Somebody asked while it is being charged: that says what came of it.
                Phase::Charging => {}
                Phase::Settling => self.failed(at),
                Phase::Waiting => {
                    let now = self.now;
                    let payment = self.payment_at(at);
                    payment.look_at = Some(now + payment.next_look());
                }
            },
            Outcome::Unknown {
                of,
                reason,
                attempts,
            } => self.unknown(at, *of, reason, *attempts),
            // Nobody asks for the refund of what is not charged.
            Outcome::Refunded | Outcome::RefundFailed { .. } => {}
        }
    }

    fn unknown(&mut self, at: usize, of: Action, reason: &str, attempts: u32) {
        let now = self.now;
        let payment = self.payment_at(at);
        match (payment.phase, of) {
            (Phase::Charging, Action::Charge) => {
                payment.phase = Phase::Settling;
                payment.attempts = attempts;
                payment.reason = Some(reason.to_owned());
                payment.updated_at = now;
                self.ask_gateway(at, Action::LookUp);
            }
            (Phase::Charging, _) => {}
            (Phase::Settling, _) => payment.look_at = Some(now + SETTLE_AGAIN),
            (Phase::Waiting, _) => payment.look_at = Some(now + payment.next_look()),
        }
    }

    fn paid(&mut self, at: usize, charge_id: &str) {
        let now = self.now;
        let work_order_id = self.state.work_order_id.clone();
        let payment = self.payment_at(at);
        payment.reason = None;
        payment.pass(PaymentStatus::Approved, None, now);
        payment.charge_id = Some(charge_id.to_owned());
        payment.charge_status = Some("approved".to_owned());
        let told = PaymentApproved {
            payment_id: payment.id.clone(),
            quote_id: payment.quote_id.clone(),
            work_order_id,
            amount: payment.amount,
        };
        if let Some(ended) = self.state.ended.clone() {
            // Nobody is to begin work for it.
            return self.refund(at, &ended.reason, &ended.cause);
        }
        let version = self.payment_at(at).count();
        self.tell(&told, version);
    }

    fn rejected(&mut self, at: usize, charge_id: Option<&str>, reason: &str) {
        let now = self.now;
        let work_order_id = self.state.work_order_id.clone();
        let payment = self.payment_at(at);
        payment.pass(PaymentStatus::Rejected, Some(reason), now);
        payment.charge_id = charge_id.map(str::to_owned);
        payment.charge_status = Some("rejected".to_owned());
        let told = PaymentRejected {
            payment_id: payment.id.clone(),
            work_order_id,
            reason: reason.to_owned(),
        };
        let version = payment.count();
        self.tell(&told, version);
    }

    /// The gateway could not be used, and has not charged.
    fn failed(&mut self, at: usize) {
        let now = self.now;
        let work_order_id = self.state.work_order_id.clone();
        let payment = self.payment_at(at);
        let error = payment.reason.clone();
        let error = error.unwrap_or_else(|| "the gateway has not charged".to_owned());
        payment.pass(PaymentStatus::Rejected, Some(&error), now);
        let told = PaymentFailed {
            payment_id: payment.id.clone(),
            work_order_id,
            error: error.clone(),
        };
        let (version, attempts) = (payment.count(), payment.attempts);
        let name = format!("{}/charge", payment.id);
        self.tell(&told, version);
        // Put back, it looks again whether money moved: what is rejected is never charged.
        let letter = self.intent(at, Action::LookUp);
        self.publish(letter.dead_letter(&name, &error, attempts, now));
    }

    /// Money came for a payment that was given up.
    fn charged_late(&mut self, at: usize, charge_id: &str) -> Result<(), Refusal> {
        let now = self.now;
        let cause = self.cause.clone();
        let payment = self.payment_at(at);
        if payment.refund.is_some() {
            return Err(Refusal::stale("it is being refunded"));
        }
        payment.charge_id = Some(charge_id.to_owned());
        payment.charge_status = Some("approved".to_owned());
        payment.updated_at = now;
        self.refund(at, "the charge came after the payment was given up", &cause);
        Ok(())
    }

    fn refunded(&mut self, at: usize) -> Result<(), Refusal> {
        let now = self.now;
        let work_order_id = self.state.work_order_id.clone();
        let payment = self.payment_at(at);
        let Some(refund) = &mut payment.refund else {
            return Err(Refusal::stale("nobody asked for a refund"));
        };
        if refund.status == RefundStatus::Done {
            return Err(Refusal::stale("it is refunded"));
        }
        refund.status = RefundStatus::Done;
        refund.error = None;
        let (cause, reason) = (refund.cause.clone(), refund.reason.clone());
        payment.charge_status = Some("refunded".to_owned());
        payment.updated_at = now;
        if payment.status == PaymentStatus::Approved {
            payment.pass(PaymentStatus::Refunded, None, now);
        }
        let told = PaymentRefunded {
            payment_id: payment.id.clone(),
            work_order_id,
            amount: payment.amount,
            reason,
        };
        let version = payment.count();
        self.tell_because(&cause, &told, version);
        Ok(())
    }

    /// Somebody has to see to it: the dead letter, put back, asks again.
    fn refund_failed(&mut self, at: usize, error: &str, attempts: u32) -> Result<(), Refusal> {
        let now = self.now;
        let work_order_id = self.state.work_order_id.clone();
        let payment = self.payment_at(at);
        let Some(refund) = &mut payment.refund else {
            return Err(Refusal::stale("nobody asked for a refund"));
        };
        if refund.status == RefundStatus::Done {
            return Err(Refusal::stale("it is refunded"));
        }
        let is_first = refund.failures == 0;
        refund.status = RefundStatus::Failed;
        refund.error = Some(error.to_owned());
        refund.failures += 1;
        let (cause, failures) = (refund.cause.clone(), refund.failures);
        payment.updated_at = now;
        let name = format!("{}/refund/{failures}", payment.id);
        if is_first {
            let told = PaymentRefundFailed {
                payment_id: payment.id.clone(),
                work_order_id,
                amount: payment.amount,
                error: error.to_owned(),
            };
            let version = payment.count();
            self.tell_because(&cause, &told, version);
        }
        let letter = self.intent(at, Action::Refund);
        self.publish(letter.dead_letter(&name, error, attempts, now));
        Ok(())
    }
}
