//! The order service: takes orders, asks for payment, then for stock, and refunds what it cannot deliver.
//!
//! ```text
//! PENDING --paid--> PAID --reserved------> COMPLETED
//!    |                '----out_of_stock--> (refund asked for) --refunded--> CANCELLED
//!    '-----declined, failed--> PAYMENT_FAILED
//! ```

mod http;

use std::{sync::Arc, time::Duration};

use leveret::{
    broker::{Broker, Header},
    core::time::Timestamp,
    service::{
        Aggregate, Documents, Kind, Next, Of, Publish, Refusal, Service, ServiceOptions,
        Subscription,
    },
};
use serde::{Deserialize, Serialize};
use serde_json::json;

pub(crate) use self::http::{is_currency, router};
use crate::{
    settings::Work,
    wire::{
        self, HEADER_CURRENCY, INVENTORY_QUEUE, Id, ORDER_QUEUE, OrderResult, PAYMENT_QUEUE,
        Quantity, REFUND_QUEUE, ResultStatus,
    },
};

/// The kind of its documents.
pub(crate) const KIND: &str = "order";
/// What orders are found by.
pub(crate) const STATUS: &str = "status";
pub(crate) const USER: &str = "user_id";

/// When an answer has not come for so long, it is asked for again.
const PATIENCE: Duration = Duration::from_secs(600);
const ASK_AGAIN: &str = "ask_again";

/// The kinds of documents of this service.
pub(crate) fn kinds() -> Vec<Kind> {
    vec![Kind::new(KIND, &[STATUS, USER])]
}

/// The service.
pub(crate) fn service(
    documents: Arc<dyn Documents>,
    broker: Arc<dyn Broker>,
    work: &Work,
) -> Service {
    let mut options = ServiceOptions::new("order", work.now.clone());
    options.topology = wire::topology();
    let results = Subscription::queue(ORDER_QUEUE, Of::<Order>::default(), |message| {
        let input = wire::order_result(message)?;
        Ok(leveret::service::Input {
            message: OrderMessage::Result(input.message),
            identity: input.identity,
        })
    });
    Service::builder(options, documents, broker)
        .subscribe(work.on(results))
        .deadlines(KIND, Of::<Order>::default(), |due| {
            OrderMessage::AskAgain(due.key.id.to_string())
        })
        .build()
}

/// Where an order stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub(crate) enum OrderStatus {
    /// Waits for its payment.
    Pending,
    /// Waits for its stock, or for its refund.
    Paid,
    /// Paid, and its stock is kept for it.
    Completed,
    /// Not charged.
    PaymentFailed,
    /// Refunded.
    Cancelled,
}

impl OrderStatus {
    /// All of them.
    pub(crate) const ALL: [OrderStatus; 5] = [
        OrderStatus::Pending,
        OrderStatus::Paid,
        OrderStatus::Completed,
        OrderStatus::PaymentFailed,
        OrderStatus::Cancelled,
    ];

    pub(crate) fn as_str(self) -> &'static str {
        match self {
            OrderStatus::Pending => "PENDING",
            OrderStatus::Paid => "PAID",
            OrderStatus::Completed => "COMPLETED",
            OrderStatus::PaymentFailed => "PAYMENT_FAILED",
            OrderStatus::Cancelled => "CANCELLED",
        }
    }

    /// Whether nothing follows.
    pub(crate) fn is_final(self) -> bool {
        !matches!(self, OrderStatus::Pending | OrderStatus::Paid)
    }
}

/// An order, as it is stored.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct OrderState {
    pub(crate) order_id: String,
    pub(crate) user_id: String,
    pub(crate) currency: String,
    pub(crate) items: Vec<Item>,
    pub(crate) total: i64,
    pub(crate) status: OrderStatus,
    pub(crate) transaction_id: Option<String>,
    pub(crate) reason: Option<String>,
    /// Whether the money is asked back for.
    #[serde(default)]
    pub(crate) refunding: bool,
    pub(crate) timeline: Vec<Entry>,
}

/// An item of an order.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Item {
    pub(crate) id: String,
    pub(crate) quantity: i64,
    /// In minor units.
    pub(crate) unit_price: i64,
}

/// A status that the order has passed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Entry {
    pub(crate) at: Timestamp,
    pub(crate) status: OrderStatus,
    pub(crate) cause: String,
}

/// What is decided upon.
#[derive(Clone, Debug)]
pub(crate) enum OrderMessage {
    /// A customer orders.
    Place(Place),
    /// Something came of a request.
    Result(OrderResult),
    /// An answer is long overdue.
    AskAgain(String),
}

/// An order to be.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Place {
    pub(crate) order_id: String,
    pub(crate) user_id: String,
    pub(crate) currency: String,
    pub(crate) items: Vec<Item>,
    pub(crate) total: i64,
}

/// The decider.
#[derive(Debug)]
pub(crate) struct Order;

impl Aggregate for Order {
    const KIND: &'static str = KIND;
    type State = OrderState;
    type Message = OrderMessage;

    fn id(message: &OrderMessage) -> String {
        match message {
            OrderMessage::Place(place) => place.order_id.clone(),
            OrderMessage::Result(result) => result.order_id.text(),
            OrderMessage::AskAgain(order_id) => order_id.clone(),
        }
    }

    fn fields(state: &OrderState) -> Vec<(&'static str, String)> {
        vec![
            (STATUS, state.status.as_str().to_owned()),
            (USER, state.user_id.clone()),
        ]
    }

    fn decide(
        state: Option<OrderState>,
        message: &OrderMessage,
        now: Timestamp,
    ) -> Result<Next<OrderState>, Refusal> {
        match (state, message) {
            (None, OrderMessage::Place(place)) => Ok(placed(place, now)),
            (Some(state), OrderMessage::Place(place)) => again(state, place),
            (None, OrderMessage::Result(_) | OrderMessage::AskAgain(_)) => {
                Err(Refusal::stale("no order of this service"))
            }
            (Some(state), OrderMessage::Result(result)) => resulted(state, result, now),
            (Some(state), OrderMessage::AskAgain(_)) => ask_again(state, now),
        }
    }
}

fn placed(place: &Place, now: Timestamp) -> Next<OrderState> {
    let mut state = OrderState {
        order_id: place.order_id.clone(),
        user_id: place.user_id.clone(),
        currency: place.currency.clone(),
        items: place.items.clone(),
        total: place.total,
        status: OrderStatus::Pending,
        transaction_id: None,
        reason: None,
        refunding: false,
        timeline: Vec::new(),
    };
    state.pass(OrderStatus::Pending, "ordered", now);
    let charge = charge(&state);
    Next::state(state)
        .publish([charge])
        .deadline(ASK_AGAIN, now + PATIENCE)
}

/// The same key again is the same order if it says the same.
fn again(state: OrderState, place: &Place) -> Result<Next<OrderState>, Refusal> {
    let same = state.user_id == place.user_id
        && state.currency == place.currency
        && state.items == place.items;
    if same {
        Ok(Next::state(state))
    } else {
        Err(Refusal::rejected(
            "idempotency-conflict",
            "this Idempotency-Key belongs to another order",
        ))
    }
}

fn resulted(
    mut state: OrderState,
    result: &OrderResult,
    now: Timestamp,
) -> Result<Next<OrderState>, Refusal> {
    use OrderStatus::{Cancelled, Completed, Paid, PaymentFailed, Pending};
    use ResultStatus::{Declined, Failed, OutOfStock, Refunded, Reserved};
    match (state.status, result.status) {
        (Pending, ResultStatus::Paid) => {
            state.transaction_id.clone_from(&result.transaction_id);
            state.pass(Paid, "paid", now);
            let reserve = reserve(&state);
            Ok(Next::state(state)
                .publish([reserve])
                .deadline(ASK_AGAIN, now + PATIENCE))
        }
        (Pending, Declined | Failed) => {
            let word = result.status.as_str();
            state.reason = Some(word.to_owned());
            state.pass(PaymentFailed, word, now);
            Ok(Next::state(state).no_deadline(ASK_AGAIN))
        }
        (Paid, Reserved) if !state.refunding => {
            state.pass(Completed, "reserved", now);
            Ok(Next::state(state).no_deadline(ASK_AGAIN))
        }
        (Paid, OutOfStock) if !state.refunding => {
            state.reason = Some("out_of_stock".to_owned());
            state.refunding = true;
            let refund = refund(&state);
            Ok(Next::state(state)
                .publish([refund])
                .deadline(ASK_AGAIN, now + PATIENCE))
        }
        (Paid, Refunded) if state.refunding => {
            state.pass(Cancelled, "refunded", now);
            Ok(Next::state(state).no_deadline(ASK_AGAIN))
        }
        // Money came after all, for an order that is over.
        (PaymentFailed, ResultStatus::Paid) if !state.refunding => {
            state.transaction_id.clone_from(&result.transaction_id);
            state.refunding = true;
            let refund = refund(&state);
            Ok(Next::state(state)
                .publish([refund])
                .deadline(ASK_AGAIN, now + PATIENCE))
        }
        (PaymentFailed, Refunded) if state.refunding => {
            state.refunding = false;
            Ok(Next::state(state).no_deadline(ASK_AGAIN))
        }
        (status, word) => {
            let (status, word) = (status.as_str(), word.as_str());
            Err(Refusal::stale(format!("'{word}' for an order in {status}")))
        }
    }
}

/// Whoever is asked answers a repeated request with what is settled.
fn ask_again(state: OrderState, now: Timestamp) -> Result<Next<OrderState>, Refusal> {
    let request = match state.status {
        _ if state.refunding => refund(&state),
        OrderStatus::Pending => charge(&state),
        OrderStatus::Paid => reserve(&state),
        _ => return Err(Refusal::stale("the order has ended")),
    };
    Ok(Next::state(state)
        .publish([request])
        .deadline(ASK_AGAIN, now + PATIENCE))
}

impl OrderState {
    fn pass(&mut self, status: OrderStatus, cause: &str, now: Timestamp) {
        self.status = status;
        self.timeline.push(Entry {
            at: now,
            status,
            cause: cause.to_owned(),
        });
    }

    fn id(&self) -> Id {
        Id::Text(self.order_id.clone())
    }
}

fn charge(state: &OrderState) -> Publish {
    let body = json!({
        "order_id": state.id(),
        "amount": state.total,
        "user_id": state.user_id,
    });
    let mut request = request(PAYMENT_QUEUE, &body);
    request.publication.message.headers.insert(
        HEADER_CURRENCY.to_owned(),
        Header::Text(state.currency.clone()),
    );
    request
}

fn reserve(state: &OrderState) -> Publish {
    let items = state.items.iter().map(|item| Quantity {
        id: item.id.clone(),
        quantity: item.quantity,
    });
    let items: Vec<_> = items.collect();
    request(
        INVENTORY_QUEUE,
        &json!({ "order_id": state.id(), "items": items }),
    )
}

fn refund(state: &OrderState) -> Publish {
    let body = json!({
        "order_id": state.id(),
        "transaction_id": state.transaction_id,
        "amount": state.total,
    });
    request(REFUND_QUEUE, &body)
}

/// A request whose answer comes by the order queue.
fn request(queue: &str, body: &serde_json::Value) -> Publish {
    let mut message = wire::message(body);
    message.reply_to = Some(ORDER_QUEUE.into());
    Publish::to_queue(queue, message)
}
