//! Quotes: made, sent, approved, rejected, expired.

use leveret::{core::time::Timestamp, service::Refusal};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{QUOTES_MAX, Telling, conflict};
use crate::{
    events::{QuoteApproved, QuoteCreated, QuoteRejected, QuoteSent},
    failure::{INVALID, NOT_FOUND},
    ids::Id,
    money::Money,
    statuses::{QUOTE, QuoteStatus},
};

/// Why a quote that nobody has answered in time is rejected.
const EXPIRED: &str = "expired";

/// A quote.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Quote {
    pub(crate) id: Id,
    pub(crate) items: Vec<Item>,
    pub(crate) total: Money,
    pub(crate) status: QuoteStatus,
    pub(crate) valid_until: Timestamp,
    pub(crate) approved_at: Option<Timestamp>,
    /// Why it was rejected.
    pub(crate) reason: Option<String>,
    pub(crate) metadata: Option<Map<String, Value>>,
    pub(crate) created_at: Timestamp,
    pub(crate) updated_at: Timestamp,
    /// How many events of it there are.
    events: u64,
}

/// A line of a quote.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Item {
    pub(crate) name: String,
    pub(crate) description: String,
    pub(crate) quantity: i64,
    pub(crate) unit_price: Money,
}

/// A quote to be.
#[derive(Clone, Debug)]
pub(crate) struct NewQuote {
    pub(crate) id: Id,
    pub(crate) customer_id: i64,
    pub(crate) items: Vec<Item>,
    pub(crate) total: Money,
    pub(crate) valid_until: Timestamp,
    pub(crate) metadata: Option<Map<String, Value>>,
}

impl Item {
    /// What a new work order is quoted for.
    pub(super) fn diagnosis(description: &str, cost: Money) -> Item {
        Item {
            name: "Avaliação/Diagnóstico".to_owned(),
            description: format!("Avaliação inicial: {description}"),
            quantity: 1,
            unit_price: cost,
        }
    }
}

impl Quote {
    /// Whether it waits for an answer.
    pub(super) fn is_live(&self) -> bool {
        matches!(self.status, QuoteStatus::Pending | QuoteStatus::Sent)
    }

    /// Takes a legal transition.
    pub(super) fn pass(&mut self, status: QuoteStatus, reason: Option<&str>, now: Timestamp) {
        debug_assert!(QUOTE.allows(self.status, status));
        self.status = status;
        self.updated_at = now;
        if let Some(reason) = reason {
            self.reason = Some(reason.to_owned());
        }
    }

    fn count(&mut self) -> u64 {
        self.events += 1;
        self.events
    }
}

impl Telling {
    /// A new quote takes the place of one that waits for an answer.
    pub(super) fn quote(&mut self, new: &NewQuote) -> Result<(), Refusal> {
        self.state.open()?;
        self.check_customer(new.customer_id)?;
        if let Some(approved) = self.state.approved_quote() {
            let reason = format!("Quote {} is already approved", approved.id);
            return Err(conflict(reason));
        }
        if !self.state.quotes.is_empty() && self.state.live_quote().is_none() {
            return Err(conflict(
                "The quote was not accepted: the work order is being cancelled",
            ));
        }
        if self.state.quotes.len() >= QUOTES_MAX {
            let reason = format!("The work order has {QUOTES_MAX} quotes already");
            return Err(conflict(reason));
        }
        let now = self.now;
        if let Some(at) = self.state.live_quote() {
            let reason = format!("superseded by quote {}", new.id);
            self.quote_at(at)
                .pass(QuoteStatus::Rejected, Some(&reason), now);
        }
        self.state.quotes.push(Quote {
            id: new.id.clone(),
            items: new.items.clone(),
            total: new.total,
            status: QuoteStatus::Pending,
            valid_until: new.valid_until,
            approved_at: None,
            reason: None,
            metadata: new.metadata.clone(),
            created_at: now,
            updated_at: now,
            events: 1,
        });
        let told = QuoteCreated {
            quote_id: new.id.clone(),
            work_order_id: self.state.work_order_id.clone(),
            customer_id: self.state.customer_id,
            total_amount: new.total,
        };
        self.tell(&told, 1);
        Ok(())
    }

    /// The customer agrees.
    pub(super) fn approve(&mut self, id: &Id) -> Result<(), Refusal> {
        let at = self.next_of(id, QuoteStatus::Approved)?;
        self.state.open()?;
        self.approve_at(at);
        Ok(())
    }

    /// A live quote is approved, or has expired.
    pub(super) fn approve_at(&mut self, at: usize) {
        let now = self.now;
        if now >= self.quote_at(at).valid_until {
            return self.expire_at(at);
        }
        let (work_order_id, customer_id) =
            (self.state.work_order_id.clone(), self.state.customer_id);
        let quote = self.quote_at(at);
        quote.pass(QuoteStatus::Approved, None, now);
        quote.approved_at = Some(now);
        let told = QuoteApproved {
            quote_id: quote.id.clone(),
            work_order_id,
            customer_id,
            total_amount: quote.total,
        };
        let version = quote.count();
        self.tell(&told, version);
    }

    /// The customer does not agree.
    pub(super) fn reject(&mut self, id: &Id, reason: Option<&str>) -> Result<(), Refusal> {
        let at = self.next_of(id, QuoteStatus::Rejected)?;
        self.reject_at(at, QuoteStatus::Rejected, reason);
        Ok(())
    }

    /// The customer is sent the quote.
    pub(super) fn send(&mut self, id: &Id) -> Result<(), Refusal> {
        let at = self.next_of(id, QuoteStatus::Sent)?;
        self.state.open()?;
        let now = self.now;
        let (work_order_id, customer_id) =
            (self.state.work_order_id.clone(), self.state.customer_id);
        let quote = self.quote_at(at);
        quote.pass(QuoteStatus::Sent, None, now);
        let told = QuoteSent {
            quote_id: quote.id.clone(),
            work_order_id,
            customer_id,
            total_amount: quote.total,
        };
        let version = quote.count();
        self.tell(&told, version);
        Ok(())
    }

    /// Those that nobody has answered in time.
    pub(super) fn expire_quotes(&mut self) {
        for at in 0..self.state.quotes.len() {
            let quote = &self.state.quotes[at];
            if quote.is_live() && quote.valid_until <= self.now {
                self.expire_at(at);
            }
        }
    }

    fn expire_at(&mut self, at: usize) {
        self.reject_at(at, QuoteStatus::Expired, Some(EXPIRED));
    }

    fn reject_at(&mut self, at: usize, status: QuoteStatus, reason: Option<&str>) {
        let now = self.now;
        let work_order_id = self.state.work_order_id.clone();
        let quote = self.quote_at(at);
        quote.pass(status, reason, now);
        let told = QuoteRejected {
            quote_id: quote.id.clone(),
            work_order_id,
            reason: reason.map(str::to_owned),
        };
        let version = quote.count();
        self.tell(&told, version);
    }

    /// Where a quote is that may become this.
    fn next_of(&self, id: &Id, to: QuoteStatus) -> Result<usize, Refusal> {
        let at = self.state.quotes.iter().position(|quote| quote.id == *id);
        let at = at.ok_or_else(|| Refusal::rejected(NOT_FOUND, format!("Quote {id} not found")))?;
        let from = self.state.quotes[at].status;
        if QUOTE.allows(from, to) {
            return Ok(at);
        }
        let word = from.as_str().to_lowercase();
        Err(conflict(format!("Quote is already {word}")))
    }

    pub(super) fn check_customer(&self, customer_id: i64) -> Result<(), Refusal> {
        if customer_id == self.state.customer_id {
            return Ok(());
        }
        Err(Refusal::rejected(
            INVALID,
            format!("customerId is not the work order's: {customer_id}"),
        ))
    }
}
