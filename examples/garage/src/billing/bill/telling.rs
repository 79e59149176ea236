//! A bill in a decision: its next state, and what is told of it.

use leveret::{
    core::time::Timestamp,
    service::{
        Next, Publish,
        events::{Cause, Emitter, EventData},
    },
};

use super::{BillState, DUE, Ended, Payment, Quote};
use crate::{
    events::{BILLING, CATALOGUE},
    statuses::{PaymentStatus, QuoteStatus},
};

pub(super) struct Telling {
    pub(super) state: BillState,
    pub(super) now: Timestamp,
    pub(super) cause: Cause,
    publish: Vec<Publish>,
}

impl Telling {
    pub(super) fn new(state: BillState, cause: Cause, now: Timestamp) -> Telling {
        Telling {
            state,
            now,
            cause,
            publish: Vec::new(),
        }
    }

    /// Tells an event, the `version`-th of its aggregate.
    pub(super) fn tell<E: EventData>(&mut self, data: &E, version: u64) {
        self.tell_because(&self.cause.clone(), data, version);
    }

    /// The same, in consequence of something else.
    pub(super) fn tell_because<E: EventData>(&mut self, cause: &Cause, data: &E, version: u64) {
        let emitter = Emitter::new(&CATALOGUE, BILLING, cause.clone(), self.now);
        self.publish.push(emitter.event(data, version));
    }

    pub(super) fn publish(&mut self, publish: Publish) {
        self.publish.push(publish);
    }

    /// Nothing more is to be paid: what is live is rejected without a word, and what was paid goes back.
    pub(super) fn end(&mut self, reason: &str) {
        if self.state.ended.is_some() {
            return;
        }
        self.state.ended = Some(Ended {
            reason: reason.to_owned(),
            cause: self.cause.clone(),
        });
        let now = self.now;
        for quote in self.state.quotes.iter_mut().filter(|quote| quote.is_live()) {
            quote.pass(QuoteStatus::Rejected, Some(reason), now);
        }
        for at in 0..self.state.payments.len() {
            match self.state.payments[at].status {
                PaymentStatus::Pending => {
                    self.state.payments[at].pass(PaymentStatus::Rejected, Some(reason), now);
                }
                PaymentStatus::Approved => self.refund(at, reason, &self.cause.clone()),
                PaymentStatus::Processing | PaymentStatus::Rejected | PaymentStatus::Refunded => {}
            }
        }
    }

    /// What follows.
    pub(super) fn next(mut self) -> Next<BillState> {
        let due = self.state.next_due();
        let changed = due != self.state.due;
        self.state.due = due;
        let next = Next::state(self.state).publish(self.publish);
        match due {
            Some(at) if changed => next.deadline(DUE, at),
            None if changed => next.no_deadline(DUE),
            _ => next,
        }
    }

    pub(super) fn quote_at(&mut self, at: usize) -> &mut Quote {
        &mut self.state.quotes[at]
    }

    pub(super) fn payment_at(&mut self, at: usize) -> &mut Payment {
        &mut self.state.payments[at]
    }
}
