//! The bill of a work order: its quotes and its payments, one document.
//!
//! ```text
//! quote:   PENDING --> SENT --> APPROVED | REJECTED | EXPIRED        one at most is live or approved
//! payment: PENDING --> PROCESSING --> APPROVED --> REFUNDED          one at most is live or approved
//!                 '---------------'-> REJECTED
//! ```
//!
//! - **A work order that has ended absorbs**: live quotes and pending payments are rejected without a word, what was paid goes back, and so does
//!   what the gateway charges later.
//! - **A payment is refunded once**, however often and by whatever it is asked for.

mod happened;
mod payments;
mod quotes;
mod telling;
#[cfg(test)]
mod tests;

use leveret::{
    core::time::Timestamp,
    service::{Aggregate, Next, Refusal, events::Cause},
};
use serde::{Deserialize, Serialize};

use self::telling::Telling;
pub(crate) use self::{
    happened::Happened,
    payments::{Method, NewPayment, Payment},
    quotes::{Item, NewQuote, Quote},
};
use super::intent::Outcome;
use crate::{
    failure::{CONFLICT, NOT_FOUND},
    ids::Id,
    request::{Keyed, Seen, Served},
    statuses::{QuoteStatus, WorkOrderStatus},
};

/// The kind of its documents; their ids are work orders'.
pub(crate) const KIND: &str = "bill";
/// What bills are found by: each quote, each payment, each charge of the gateway, the customer, and whether there are quotes or payments.
pub(crate) const FIELDS: [&str; 5] = [QUOTE, PAYMENT, CHARGE, CUSTOMER, HAS];
pub(crate) const QUOTE: &str = "quote";
pub(crate) const PAYMENT: &str = "payment";
pub(crate) const CHARGE: &str = "charge";
pub(crate) const CUSTOMER: &str = "customer";
pub(crate) const HAS: &str = "has";

/// The most quotes of a work order, and the most payments.
pub(crate) const QUOTES_MAX: usize = 50;
pub(crate) const PAYMENTS_MAX: usize = 50;

/// The deadline of a bill: the earliest of all that wait for a time in it.
const DUE: &str = "due";

/// A bill, as it is stored.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct BillState {
    pub(crate) work_order_id: Id,
    pub(crate) customer_id: i64,
    /// Whether the work order's creation has come. Its cancellation may come first.
    pub(crate) created: bool,
    /// What is known of the work order, by the newest of its events.
    pub(crate) work_order: WorkOrderStatus,
    work_order_version: u64,
    /// Why nothing more is to be paid, if so.
    pub(crate) ended: Option<Ended>,
    /// Oldest first.
    pub(crate) quotes: Vec<Quote>,
    /// Oldest first.
    pub(crate) payments: Vec<Payment>,
    /// When its deadline is set to.
    due: Option<Timestamp>,
    served: Served,
}

/// Why nothing more is to be paid.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Ended {
    pub(crate) reason: String,
    /// Whose fault: what is refunded later names it.
    cause: Cause,
}

/// What is decided upon.
#[derive(Clone, Debug)]
pub(crate) enum BillMessage {
    /// Something happened to the work order or to its execution.
    Happened(Box<Happened>),
    /// Somebody asks for something.
    Ask(Box<Ask>),
    /// What came of an intent for a payment of this work order.
    Outcome {
        work_order_id: Id,
        payment_id: Id,
        outcome: Outcome,
    },
    /// The gateway says that something became of a payment.
    Notified { work_order_id: Id, payment_id: Id },
    /// The deadline fell due at this time.
    Due {
        work_order_id: String,
        at: Timestamp,
    },
}

/// A request.
#[derive(Clone, Debug)]
pub(crate) struct Ask {
    pub(crate) work_order_id: Id,
    pub(crate) keyed: Option<Keyed>,
    pub(crate) what: What,
}

/// What somebody asks for.
#[derive(Clone, Debug)]
pub(crate) enum What {
    Quote(NewQuote),
    Approve {
        quote_id: Id,
    },
    Reject {
        quote_id: Id,
        reason: Option<String>,
    },
    Send {
        quote_id: Id,
    },
    Pay(NewPayment),
    Process {
        payment_id: Id,
    },
    Verify {
        payment_id: Id,
    },
}

/// The decider.
#[derive(Debug)]
pub(crate) struct Bill;

impl Aggregate for Bill {
    const KIND: &'static str = KIND;
    type State = BillState;
    type Message = BillMessage;

    fn id(message: &BillMessage) -> String {
        match message {
            BillMessage::Happened(happened) => happened.work_order_id().to_string(),
            BillMessage::Ask(ask) => ask.work_order_id.to_string(),
            BillMessage::Outcome { work_order_id, .. }
            | BillMessage::Notified { work_order_id, .. } => work_order_id.to_string(),
            BillMessage::Due { work_order_id, .. } => work_order_id.clone(),
        }
    }

    fn fields(state: &BillState) -> Vec<(&'static str, String)> {
        let quotes = state.quotes.iter();
        let payments = state.payments.iter();
        let charges = payments.clone().filter_map(|payment| {
            let charge_id = payment.charge_id.clone()?;
            Some((CHARGE, charge_id))
        });
        let mut fields: Vec<_> = quotes
            .map(|quote| (QUOTE, quote.id.to_string()))
            .chain(payments.map(|payment| (PAYMENT, payment.id.to_string())))
            .chain(charges)
            .collect();
        fields.push((CUSTOMER, state.customer_id.to_string()));
        fields.extend((!state.quotes.is_empty()).then(|| (HAS, QUOTE.to_owned())));
        fields.extend((!state.payments.is_empty()).then(|| (HAS, PAYMENT.to_owned())));
        fields
    }

    fn decide(
        state: Option<BillState>,
        message: &BillMessage,
        now: Timestamp,
    ) -> Result<Next<BillState>, Refusal> {
        match message {
            BillMessage::Happened(happened) => happened::decide(state, happened, now),
            BillMessage::Ask(ask) => asked(state, ask, now),
            BillMessage::Outcome {
                payment_id,
                outcome,
                ..
            } => payments::concluded(known(state)?, payment_id, outcome, now),
            BillMessage::Notified { payment_id, .. } => {
                payments::notified(known(state)?, payment_id, now)
            }
            BillMessage::Due { at, .. } => Ok(due(known(state)?, now.max(*at))),
        }
    }
}

fn known(state: Option<BillState>) -> Result<BillState, Refusal> {
    state.ok_or_else(|| Refusal::stale("there is no such bill"))
}

/// A request about a work order that is known. The same one again, by its key, changes nothing.
fn asked(state: Option<BillState>, ask: &Ask, now: Timestamp) -> Result<Next<BillState>, Refusal> {
    let state = state.filter(|state| state.created).ok_or_else(|| {
        Refusal::rejected(
            NOT_FOUND,
            format!("Work order {} not found", ask.work_order_id),
        )
    })?;
    match state.served.look(ask.keyed.as_ref()) {
        Seen::New => {}
        Seen::Again => return Ok(Next::state(state)),
        Seen::Other => return Err(conflict("this Idempotency-Key belongs to another request")),
    }
    let cause = Cause::root(state.work_order_id.as_str());
    let mut bill = Telling::new(state, cause, now);
    match &ask.what {
        What::Quote(new) => bill.quote(new)?,
        What::Approve { quote_id } => bill.approve(quote_id)?,
        What::Reject { quote_id, reason } => bill.reject(quote_id, reason.as_deref())?,
        What::Send { quote_id } => bill.send(quote_id)?,
        What::Pay(new) => bill.pay(new)?,
        What::Process { payment_id } => bill.process(payment_id)?,
        What::Verify { payment_id } => bill.verify(payment_id)?,
    }
    bill.state.served.keep(ask.keyed.as_ref());
    Ok(bill.next())
}

/// All that is due by then.
fn due(mut state: BillState, now: Timestamp) -> Next<BillState> {
    // The deadline went with falling due.
    state.due = None;
    let cause = Cause::root(state.work_order_id.as_str());
    let mut bill = Telling::new(state, cause, now);
    bill.expire_quotes();
    bill.ask_again();
    bill.next()
}

fn conflict(reason: impl Into<String>) -> Refusal {
    Refusal::rejected(CONFLICT, reason)
}

impl BillState {
    fn new(work_order_id: &Id, customer_id: i64) -> BillState {
        BillState {
            work_order_id: work_order_id.clone(),
            customer_id,
            created: false,
            work_order: WorkOrderStatus::Pending,
            work_order_version: 0,
            ended: None,
            quotes: Vec::new(),
            payments: Vec::new(),
            due: None,
            served: Served::default(),
        }
    }

    /// A quote of it.
    pub(crate) fn quote(&self, id: &Id) -> Option<&Quote> {
        self.quotes.iter().find(|quote| quote.id == *id)
    }

    /// A payment of it.
    pub(crate) fn payment(&self, id: &Id) -> Option<&Payment> {
        self.payments.iter().find(|payment| payment.id == *id)
    }

    /// Where its live quote is: one that may yet be approved.
    fn live_quote(&self) -> Option<usize> {
        self.quotes.iter().rposition(Quote::is_live)
    }

    fn approved_quote(&self) -> Option<&Quote> {
        let mut quotes = self.quotes.iter();
        quotes.find(|quote| quote.status == QuoteStatus::Approved)
    }

    /// An error if nothing more is to be agreed upon or paid.
    fn open(&self) -> Result<(), Refusal> {
        if self.ended.is_some() || self.work_order == WorkOrderStatus::Cancelled {
            return Err(conflict("The work order is cancelled"));
        }
        Ok(())
    }

    /// When something of it is due next.
    fn next_due(&self) -> Option<Timestamp> {
        let quotes = self.quotes.iter().filter(|quote| quote.is_live());
        let expiries = quotes.map(|quote| quote.valid_until);
        let looks = self.payments.iter().filter_map(|payment| payment.look_at);
        expiries.chain(looks).min()
    }
}
