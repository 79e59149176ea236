//! The payment service: charges an order once, says what came of it, and gives money back.
//!
//! The decision to charge commits an *intent* with an idempotency key; [`gateway`] performs it and comes back with the outcome. That a charge
//! failed is said only after the gateway has told whether money moved.

mod gateway;
mod http;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use leveret::{
    broker::{
        Broker, Header, Message, Queue, dead_letter_queue_name,
        work::{
            HEADER_ATTEMPTS, HEADER_DEAD_AT, HEADER_EXCHANGE, HEADER_QUEUE, HEADER_REASON,
            HEADER_ROUTING_KEY, WorkOptions,
        },
    },
    core::time::Timestamp,
    service::{
        Aggregate, Documents, Input, Kind, Next, Of, Publish, Refusal, ReplyTo, Service,
        ServiceOptions, Subscription,
    },
};
use serde::{Deserialize, Serialize};

use self::gateway::{Action, Intent, Outcome};
pub(crate) use self::{gateway::Gateway, http::router};
use crate::{
    settings::Work,
    wire::{
        self, ChargeRequest, HEADER_CURRENCY, Id, PAYMENT_QUEUE, REFUND_QUEUE, RefundRequest,
        ResultStatus,
    },
};

/// The kind of its documents.
pub(crate) const KIND: &str = "payment";
/// What the gateway is asked to do: the service's own queue.
pub(crate) const GATEWAY_QUEUE: &str = "payment.gateway";
/// When the gateway could not say what is, it is asked again after so long.
const ASK_AGAIN_AFTER: Duration = Duration::from_secs(30);
const ASK_AGAIN: &str = "ask_again";
/// How many may wait for one payment's result.
const WAITING_MAX: usize = 16;

/// The kinds of documents of this service.
pub(crate) fn kinds() -> Vec<Kind> {
    vec![Kind::new(KIND, &[])]
}

/// The service. `currency` is that of requests that name none.
pub(crate) fn service(
    documents: Arc<dyn Documents>,
    broker: Arc<dyn Broker>,
    work: &Work,
    gateway: Gateway,
    currency: &str,
) -> Service {
    let mut options = ServiceOptions::new("payment", work.now.clone());
    options.topology = wire::topology();
    options.topology.queues.push(Queue::plain(GATEWAY_QUEUE));
    let default: Arc<str> = currency.into();
    let charges = Subscription::queue(PAYMENT_QUEUE, Of::<Payment>::default(), move |message| {
        let input = wire::charge_request(message)?;
        let currency = match message.headers.get(HEADER_CURRENCY) {
            Some(Header::Text(currency)) => currency.clone(),
            Some(_) => return Err(format!("header `{HEADER_CURRENCY}` is no text")),
            None => default.to_string(),
        };
        Ok(Input {
            message: PaymentMessage::Charge(Box::new(Charge {
                request: input.message,
                currency,
                answer_to: crate::inventory::answer_to(message),
                original: Original::of(message),
            })),
            identity: input.identity,
        })
    });
    let refunds = Subscription::queue(REFUND_QUEUE, Of::<Payment>::default(), |message| {
        let input = wire::refund_request(message)?;
        Ok(Input {
            message: PaymentMessage::Refund {
                request: input.message,
                answer_to: crate::inventory::answer_to(message),
            },
            identity: input.identity,
        })
    });
    let mut effects = WorkOptions::queue(GATEWAY_QUEUE);
    work.apply(&mut effects);
    Service::builder(options, documents, broker)
        .subscribe(work.on(charges))
        .subscribe(work.on(refunds))
        .effect(effects, gateway, Of::<Payment>::default())
        .deadlines(KIND, Of::<Payment>::default(), |due| {
            PaymentMessage::AskAgain(due.key.id.to_string())
        })
        .build()
}

/// Where a payment stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum PaymentStatus {
    /// The gateway is asked to charge.
    Charging,
    /// The gateway has not said what came of it, and is asked that.
    Settling,
    /// Charged.
    Paid,
    /// The customer's bank said no.
    Declined,
    /// Not charged.
    Failed,
    /// The gateway is asked to give the money back.
    Refunding,
    /// The money is back.
    Refunded,
}

/// A payment, as it is stored.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct PaymentState {
    pub(crate) order_id: Id,
    pub(crate) user_id: Id,
    /// In minor units.
    pub(crate) amount: i64,
    pub(crate) currency: String,
    pub(crate) status: PaymentStatus,
    pub(crate) transaction_id: Option<String>,
    pub(crate) reason: Option<String>,
    /// What the gateway knows the charge by.
    pub(crate) key: String,
    /// Who asked and has no answer yet.
    waiting: Vec<ReplyTo>,
    /// The request, as long as it may have to become a dead letter.
    original: Option<Original>,
    /// How often the gateway was asked to charge, when it never said what came of it.
    #[serde(default)]
    attempts: u32,
    pub(crate) timeline: Vec<Entry>,
}

/// A status that the payment has passed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Entry {
    pub(crate) at: Timestamp,
    pub(crate) status: PaymentStatus,
}

/// A request as it came.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Original {
    body: String,
    content_type: Option<Arc<str>>,
    message_id: Option<Arc<str>>,
    correlation_id: Option<Arc<str>>,
    reply_to: Option<Arc<str>>,
    kind: Option<Arc<str>>,
    timestamp: Option<Timestamp>,
    headers: BTreeMap<String, Kept>,
}

/// A header as it came.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
enum Kept {
    Bool(bool),
    Int(i64),
    Text(String),
}

impl Kept {
    fn of(header: &Header) -> Option<Kept> {
        match header {
            Header::Bool(truth) => Some(Kept::Bool(*truth)),
            Header::Int(number) => Some(Kept::Int(*number)),
            Header::Text(text) => Some(Kept::Text(text.clone())),
            _ => None,
        }
    }

    fn header(self) -> Header {
        match self {
            Kept::Bool(truth) => Header::Bool(truth),
            Kept::Int(number) => Header::Int(number),
            Kept::Text(text) => Header::Text(text),
        }
    }
}

impl Original {
    fn of(message: &Message) -> Original {
        let headers = message.headers.iter();
        Original {
            // It was read as JSON, so it is text.
            body: String::from_utf8_lossy(&message.body).into_owned(),
            content_type: message.content_type.clone(),
            message_id: message.message_id.clone(),
            correlation_id: message.correlation_id.clone(),
            reply_to: message.reply_to.clone(),
            kind: message.kind.clone(),
            timestamp: message.timestamp,
            headers: headers
                .filter_map(|(name, header)| Some((name.clone(), Kept::of(header)?)))
                .collect(),
        }
    }

    /// The dead letter of the request.
    fn dead_letter(self, reason: &str, attempts: u32, now: Timestamp) -> Publish {
        let mut headers = self.headers;
        for (name, text) in [
            (HEADER_REASON, reason),
            (HEADER_QUEUE, PAYMENT_QUEUE),
            (HEADER_EXCHANGE, ""),
            (HEADER_ROUTING_KEY, PAYMENT_QUEUE),
            (HEADER_DEAD_AT, &now.to_string()),
        ] {
            headers.insert(name.to_owned(), Kept::Text(text.to_owned()));
        }
        headers.insert(HEADER_ATTEMPTS.to_owned(), Kept::Int(attempts.into()));
        let headers = headers.into_iter();
        let message = Message {
            body: self.body.into(),
            content_type: self.content_type,
            message_id: self.message_id,
            correlation_id: self.correlation_id,
            reply_to: self.reply_to,
            kind: self.kind,
            timestamp: self.timestamp,
            headers: headers.map(|(name, kept)| (name, kept.header())).collect(),
        };
        Publish::to_queue(&dead_letter_queue_name(PAYMENT_QUEUE), message)
    }
}

/// What is decided upon.
#[derive(Clone, Debug)]
pub(crate) enum PaymentMessage {
    /// Somebody asks for a charge.
    Charge(Box<Charge>),
    /// Somebody asks for the money back.
    Refund {
        request: RefundRequest,
        answer_to: ReplyTo,
    },
    /// What came of an intent for this order.
    Outcome(String, Outcome),
    /// The gateway is to be asked again.
    AskAgain(String),
}

/// A request to charge, and who wants to know.
#[derive(Clone, Debug)]
pub(crate) struct Charge {
    request: ChargeRequest,
    currency: String,
    answer_to: ReplyTo,
    original: Original,
}

/// The decider.
#[derive(Debug)]
pub(crate) struct Payment;

impl Aggregate for Payment {
    const KIND: &'static str = KIND;
    type State = PaymentState;
    type Message = PaymentMessage;

    fn id(message: &PaymentMessage) -> String {
        match message {
            PaymentMessage::Charge(charge) => charge.request.order_id.text(),
            PaymentMessage::Refund { request, .. } => request.order_id.text(),
            PaymentMessage::Outcome(order_id, _) | PaymentMessage::AskAgain(order_id) => {
                order_id.clone()
            }
        }
    }

    fn decide(
        state: Option<PaymentState>,
        message: &PaymentMessage,
        now: Timestamp,
    ) -> Result<Next<PaymentState>, Refusal> {
        let Some(state) = state else {
            return match message {
                PaymentMessage::Charge(charge) => Ok(begin(charge, now)),
                PaymentMessage::Refund { .. } => Err(Refusal::rejected(
                    "no-payment",
                    "there is no payment for this order",
                )),
                PaymentMessage::Outcome(..) | PaymentMessage::AskAgain(_) => {
                    Err(Refusal::stale("no such payment"))
                }
            };
        };
        match message {
            PaymentMessage::Charge(charge) => charge_again(state, charge),
            PaymentMessage::Refund { request, answer_to } => refund(state, request, answer_to, now),
            PaymentMessage::Outcome(_, outcome) => concluded(state, outcome, now),
            PaymentMessage::AskAgain(_) => ask_again(state),
        }
    }

    /// Whoever is still to be told, is when the result is there.
    fn again(state: &PaymentState, message: &PaymentMessage) -> Vec<Publish> {
        match message {
            PaymentMessage::Charge(charge) if state.is_asked_by(charge) => state
                .result()
                .map(|result| state.answer(&charge.answer_to, result))
                .into_iter()
                .collect(),
            PaymentMessage::Refund { answer_to, .. } if state.status == PaymentStatus::Refunded => {
                vec![state.answer(answer_to, ResultStatus::Refunded)]
            }
            _ => Vec::new(),
        }
    }
}

fn begin(charge: &Charge, now: Timestamp) -> Next<PaymentState> {
    let ChargeRequest {
        order_id,
        amount,
        user_id,
    } = charge.request.clone();
    let mut state = PaymentState {
        key: format!("order/{}", order_id.text()),
        order_id,
        user_id,
        amount,
        currency: charge.currency.clone(),
        status: PaymentStatus::Charging,
        transaction_id: None,
        reason: None,
        waiting: vec![charge.answer_to.clone()],
        original: Some(charge.original.clone()),
        attempts: 0,
        timeline: Vec::new(),
    };
    state.pass(PaymentStatus::Charging, now);
    let intent = state.intent(Action::Charge);
    Next::state(state).publish([intent])
}

/// Another request for the same order: it is charged once, and whoever asks is told what came of it.
fn charge_again(mut state: PaymentState, charge: &Charge) -> Result<Next<PaymentState>, Refusal> {
    if !state.is_asked_by(charge) {
        return Err(Refusal::rejected(
            "other-amount",
            "the order has a payment of another amount or currency",
        ));
    }
    let answer_to = &charge.answer_to;
    if let Some(result) = state.result() {
        let answer = state.answer(answer_to, result);
        return Ok(Next::state(state).publish([answer]));
    }
    if !state.waiting.contains(answer_to) && state.waiting.len() < WAITING_MAX {
        state.waiting.push(answer_to.clone());
    }
    Ok(Next::state(state))
}

fn refund(
    mut state: PaymentState,
    request: &RefundRequest,
    answer_to: &ReplyTo,
    now: Timestamp,
) -> Result<Next<PaymentState>, Refusal> {
    let same = state.transaction_id.as_deref() == Some(&request.transaction_id);
    if !same || request.amount != state.amount {
        return Err(Refusal::rejected(
            "other-payment",
            "the order has no payment of this transaction and amount",
        ));
    }
    match state.status {
        PaymentStatus::Refunded => {
            let answer = state.answer(answer_to, ResultStatus::Refunded);
            Ok(Next::state(state).publish([answer]))
        }
        PaymentStatus::Refunding => {
            if !state.waiting.contains(answer_to) && state.waiting.len() < WAITING_MAX {
                state.waiting.push(answer_to.clone());
            }
            Ok(Next::state(state))
        }
        _ => {
            state.waiting = vec![answer_to.clone()];
            state.pass(PaymentStatus::Refunding, now);
            let intent = state.intent(Action::Refund);
            Ok(Next::state(state).publish([intent]))
        }
    }
}

fn concluded(
    mut state: PaymentState,
    outcome: &Outcome,
    now: Timestamp,
) -> Result<Next<PaymentState>, Refusal> {
    use PaymentStatus::{Charging, Declined, Failed, Paid, Refunded, Refunding, Settling};
    match (state.status, outcome) {
        (Charging | Settling, Outcome::Charged { transaction_id }) => {
            state.transaction_id = Some(transaction_id.clone());
            Ok(state.settled(Paid, ResultStatus::Paid, now))
        }
        (Charging | Settling, Outcome::Declined { reason }) => {
            state.reason = Some(reason.clone());
            Ok(state.settled(Declined, ResultStatus::Declined, now))
        }
        (Charging | Settling, Outcome::NotCharged { reason }) => {
            let reason = state.reason.take().unwrap_or_else(|| reason.clone());
            state.reason = Some(reason.clone());
            let original = state.original.take();
            let letter =
                original.map(|original| original.dead_letter(&reason, state.attempts, now));
            Ok(state
                .settled(Failed, ResultStatus::Failed, now)
                .publish(letter))
        }
        (Charging, Outcome::Unknown { reason, attempts }) => {
            state.attempts = *attempts;
            state.reason = Some(reason.clone());
            state.pass(Settling, now);
            let intent = state.intent(Action::LookUp);
            Ok(Next::state(state).publish([intent]))
        }
        (Settling | Refunding, Outcome::Unknown { reason, .. }) => {
            tracing::warn!(order_id = ?state.order_id, reason, "the gateway does not say what is; it is asked again");
            Ok(Next::state(state).deadline(ASK_AGAIN, now + ASK_AGAIN_AFTER))
        }
        (Refunding, Outcome::Refunded) => {
            state.pass(Refunded, now);
            let waiting = std::mem::take(&mut state.waiting);
            let refunded = |to| state.answer(to, ResultStatus::Refunded);
            let answers: Vec<_> = waiting.iter().map(refunded).collect();
            Ok(Next::state(state).publish(answers).no_deadline(ASK_AGAIN))
        }
        (status, outcome) => Err(Refusal::stale(format!("{outcome:?} for one in {status:?}"))),
    }
}

fn ask_again(state: PaymentState) -> Result<Next<PaymentState>, Refusal> {
    let action = match state.status {
        PaymentStatus::Settling => Action::LookUp,
        PaymentStatus::Refunding => Action::Refund,
        _ => return Err(Refusal::stale("it is settled")),
    };
    let intent = state.intent(action);
    Ok(Next::state(state).publish([intent]))
}

impl PaymentState {
    fn pass(&mut self, status: PaymentStatus, now: Timestamp) {
        self.status = status;
        self.timeline.push(Entry { at: now, status });
    }

    /// What its request is answered, once that is known: a refund does not change it.
    fn result(&self) -> Option<ResultStatus> {
        match self.status {
            PaymentStatus::Charging | PaymentStatus::Settling => None,
            PaymentStatus::Declined => Some(ResultStatus::Declined),
            PaymentStatus::Failed => Some(ResultStatus::Failed),
            PaymentStatus::Paid | PaymentStatus::Refunding | PaymentStatus::Refunded => {
                Some(ResultStatus::Paid)
            }
        }
    }

    /// Settles the charge and tells all who wait.
    fn settled(
        mut self,
        status: PaymentStatus,
        result: ResultStatus,
        now: Timestamp,
    ) -> Next<PaymentState> {
        self.pass(status, now);
        self.original = None;
        let waiting = std::mem::take(&mut self.waiting);
        let answers: Vec<_> = waiting.iter().map(|to| self.answer(to, result)).collect();
        Next::state(self).publish(answers).no_deadline(ASK_AGAIN)
    }

    fn answer(&self, answer_to: &ReplyTo, result: ResultStatus) -> Publish {
        let transaction_id = self.transaction_id.as_deref();
        let body = wire::result_message(&self.order_id, result, transaction_id);
        wire::answer(answer_to, body)
    }

    /// Whether a request asks for this charge.
    fn is_asked_by(&self, charge: &Charge) -> bool {
        charge.request.amount == self.amount && charge.currency == self.currency
    }

    fn intent(&self, action: Action) -> Publish {
        let intent = Intent {
            action,
            order_id: self.order_id.text(),
            amount: self.amount,
            currency: self.currency.clone(),
            key: self.key.clone(),
            transaction_id: self.transaction_id.clone(),
        };
        Publish::to_queue(GATEWAY_QUEUE, wire::message(&intent))
    }
}
