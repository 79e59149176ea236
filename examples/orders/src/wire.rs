//! What goes through the queues: names, bodies, and how they are read.
//!
//! The queues and bodies are a public contract: a service in any language can stand at either end of each queue. What a message needs
//! beyond its body, ours set and foreign ones may leave out.

use leveret::{
    broker::{Message, Queue, Topology},
    service::{Input, Publish, ReplyTo},
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::json;

/// Requests to charge: `{order_id, amount, user_id}`.
pub(crate) const PAYMENT_QUEUE: &str = "payment_queue";
/// Results for orders: `{order_id, status, transaction_id}`.
pub(crate) const ORDER_QUEUE: &str = "order_queue";
/// Requests to reserve stock: `{order_id, items: [{id, quantity}]}`.
pub(crate) const INVENTORY_QUEUE: &str = "inventory_queue";
/// Requests to refund: `{order_id, transaction_id, amount}`.
pub(crate) const REFUND_QUEUE: &str = "refund_queue";

/// The header that names the currency of an amount, as ISO 4217 does.
pub(crate) const HEADER_CURRENCY: &str = "currency";

/// The most items of one order, and the largest quantity of one.
pub(crate) const ITEMS_MAX: usize = 100;
pub(crate) const QUANTITY_MAX: i64 = 1_000_000;
/// The longest id, in bytes.
pub(crate) const ID_BYTES_MAX: usize = 128;

/// The queues between the services. Whoever comes first declares them.
pub(crate) fn topology() -> Topology {
    let queues = [PAYMENT_QUEUE, ORDER_QUEUE, INVENTORY_QUEUE, REFUND_QUEUE];
    Topology {
        queues: queues.map(Queue::plain).to_vec(),
        ..Topology::default()
    }
}

/// An id, text or a whole number. It is answered as it came.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub(crate) enum Id {
    /// Text.
    Text(String),
    /// A whole number.
    Number(i64),
    /// A whole number above all of these.
    Large(u64),
}

impl Id {
    /// As text: `17` and `"17"` are one order.
    pub(crate) fn text(&self) -> String {
        match self {
            Id::Text(text) => text.clone(),
            Id::Number(number) => number.to_string(),
            Id::Large(number) => number.to_string(),
        }
    }

    fn check(&self, field: &str) -> Result<(), String> {
        match self {
            Id::Text(text) => check_text(text, field),
            Id::Number(_) | Id::Large(_) => Ok(()),
        }
    }
}

/// Whether a text can be an id.
pub(crate) fn check_text(text: &str, field: &str) -> Result<(), String> {
    if text.is_empty() {
        return Err(format!("`{field}` is empty"));
    }
    if text.len() > ID_BYTES_MAX {
        return Err(format!("`{field}` has more than {ID_BYTES_MAX} bytes"));
    }
    if text.chars().any(char::is_control) {
        return Err(format!("`{field}` has a control character"));
    }
    Ok(())
}

/// A request to charge.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct ChargeRequest {
    pub(crate) order_id: Id,
    /// In minor units, above zero.
    pub(crate) amount: i64,
    pub(crate) user_id: Id,
}

/// A request to refund.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct RefundRequest {
    pub(crate) order_id: Id,
    pub(crate) transaction_id: String,
    /// In minor units, above zero.
    pub(crate) amount: i64,
}

/// A request to reserve.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct ReserveRequest {
    pub(crate) order_id: Id,
    pub(crate) items: Vec<Quantity>,
}

/// So many of an item.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Quantity {
    pub(crate) id: String,
    pub(crate) quantity: i64,
}

/// What came of a request for an order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum ResultStatus {
    /// Charged.
    Paid,
    /// The customer's bank said no.
    Declined,
    /// It could not be charged, and was not.
    Failed,
    /// The money is back.
    Refunded,
    /// The stock is there, and kept for the order.
    Reserved,
    /// It is not.
    OutOfStock,
}

impl ResultStatus {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            ResultStatus::Paid => "paid",
            ResultStatus::Declined => "declined",
            ResultStatus::Failed => "failed",
            ResultStatus::Refunded => "refunded",
            ResultStatus::Reserved => "reserved",
            ResultStatus::OutOfStock => "out_of_stock",
        }
    }
}

/// A result for an order.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct OrderResult {
    pub(crate) order_id: Id,
    pub(crate) status: ResultStatus,
    #[serde(default)]
    pub(crate) transaction_id: Option<String>,
}

/// A message with a JSON body.
pub(crate) fn message(body: &impl Serialize) -> Message {
    Message::json(serde_json::to_vec(body).expect("bodies print"))
}

fn read<T: DeserializeOwned>(message: &Message) -> Result<T, String> {
    let value: serde_json::Value =
        serde_json::from_slice(&message.body).map_err(|error| format!("not JSON: {error}"))?;
    if !value.is_object() {
        return Err("the body is no JSON object".to_owned());
    }
    serde_json::from_value(value).map_err(|error| error.to_string())
}

fn check_amount(amount: i64) -> Result<(), String> {
    if amount > 0 {
        Ok(())
    } else {
        Err(format!("`amount` is {amount}, not above zero"))
    }
}

/// Reads a request to charge. A bare one is known by its order.
pub(crate) fn charge_request(message: &Message) -> Result<Input<ChargeRequest>, String> {
    let request: ChargeRequest = read(message)?;
    request.order_id.check("order_id")?;
    request.user_id.check("user_id")?;
    check_amount(request.amount)?;
    let known_by = request.order_id.text();
    Ok(Input::known_by(request, known_by))
}

/// Reads a request to refund. A bare one is known by its order.
pub(crate) fn refund_request(message: &Message) -> Result<Input<RefundRequest>, String> {
    let request: RefundRequest = read(message)?;
    request.order_id.check("order_id")?;
    check_text(&request.transaction_id, "transaction_id")?;
    check_amount(request.amount)?;
    let known_by = request.order_id.text();
    Ok(Input::known_by(request, known_by))
}

/// Reads a request to reserve. A bare one is known by its order.
pub(crate) fn reserve_request(message: &Message) -> Result<Input<ReserveRequest>, String> {
    let request: ReserveRequest = read(message)?;
    request.order_id.check("order_id")?;
    check_items(&request.items)?;
    let known_by = request.order_id.text();
    Ok(Input::known_by(request, known_by))
}

fn check_items(items: &[Quantity]) -> Result<(), String> {
    if items.is_empty() || items.len() > ITEMS_MAX {
        let count = items.len();
        return Err(format!("`items` has {count} items, not 1 to {ITEMS_MAX}"));
    }
    for (at, item) in items.iter().enumerate() {
        check_text(&item.id, &format!("items[{at}].id"))?;
        let quantity = item.quantity;
        if !(1..=QUANTITY_MAX).contains(&quantity) {
            return Err(format!(
                "`items[{at}].quantity` is {quantity}, not 1 to {QUANTITY_MAX}"
            ));
        }
    }
    Ok(())
}

/// Reads a result for an order. A bare one is known by its order and status.
pub(crate) fn order_result(message: &Message) -> Result<Input<OrderResult>, String> {
    let result: OrderResult = read(message)?;
    result.order_id.check("order_id")?;
    if let Some(transaction_id) = &result.transaction_id {
        check_text(transaction_id, "transaction_id")?;
    }
    let paid = result.status == ResultStatus::Paid;
    if paid && result.transaction_id.is_none() {
        return Err("a payment has a `transaction_id`".to_owned());
    }
    let known_by = format!("{}/{}", result.order_id.text(), result.status.as_str());
    Ok(Input::known_by(result, known_by))
}

/// The body of a result: always the same three keys.
pub(crate) fn result_message(
    order_id: &Id,
    status: ResultStatus,
    transaction_id: Option<&str>,
) -> Message {
    message(&json!({
        "order_id": order_id,
        "status": status,
        "transaction_id": transaction_id,
    }))
}

/// The answer to a request. One to our own order queue must arrive; another queue is the business of who named it.
pub(crate) fn answer(answer_to: &ReplyTo, body: Message) -> Publish {
    Publish {
        must_route: &*answer_to.queue == ORDER_QUEUE,
        ..answer_to.publish(body)
    }
}
