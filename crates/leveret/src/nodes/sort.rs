//! `sort`: orders a list by a key of each item. Pure.

use std::cmp::Ordering;

use async_trait::async_trait;
use leveret_core::{edit::kind, parse::ParamProblem};
use serde_json::{Number, Value};

use super::{
    NodeContext, NodeError, NodeType, Verdict,
    check::{Check, Wanted},
    each::copied,
    list_of,
};

/// Parameters: `by`, an expression in which `item` and `index` are known, by default the item; `order`, `asc` (default) or `desc`.
/// Output: the items by what it gives; those with equal keys stay in their order, also by `desc`, and those without (null) come last.
pub(super) struct Sort;

const ORDERS: [&str; 2] = ["asc", "desc"];

fn fault(order: &str) -> Option<String> {
    (!ORDERS.contains(&order)).then(|| format!("order {order:?} is neither asc nor desc"))
}

#[async_trait]
impl NodeType for Sort {
    fn is_pure(&self) -> bool {
        true
    }

    fn check_params(&self, params: &Value) -> Vec<ParamProblem> {
        let mut check = Check::of(params, &["by", "order"]);
        check.expect(
            "by",
            params.get("by").filter(|by| !by.is_null()),
            Wanted::Text,
        );
        match check.optional("order") {
            Some(Value::String(order)) => {
                if let Some(fault) = fault(order) {
                    check.tell(&["order"], fault);
                }
            }
            other => check.expect("order", other, Wanted::Text),
        }
        check.end()
    }

    async fn execute(&self, ctx: NodeContext) -> Result<Verdict, NodeError> {
        let items = list_of(&ctx.input)?;
        let falls = match ctx.params.get("order") {
            None | Some(Value::Null) => false,
            Some(Value::String(order)) => match fault(order) {
                Some(fault) => return Err(NodeError::permanent(fault)),
                None => order == "desc",
            },
            Some(other) => {
                let message = format!("parameter 'order' must be text, not {}", kind(other));
                return Err(NodeError::permanent(message));
            }
        };
        let mut keys = Keys::default();
        match &ctx.each {
            Some(by) => by.eval(items, |index, key| keys.push(index, key)).await?,
            None => {
                for (index, item) in items.iter().enumerate() {
                    keys.push(index, item.clone())?;
                }
            }
        }
        // Not on a thread that others wait for.
        let places = tokio::task::spawn_blocking(move || keys.sorted(falls));
        let places = places
            .await
            .map_err(|error| NodeError::transient(error.to_string()))?;
        let sorted = copied(places.iter().map(|place| &items[*place]));
        Ok(Value::Array(sorted.await).into())
    }
}

/// What items are sorted by, all of one kind.
#[derive(Default)]
struct Keys {
    keys: Vec<(Key, usize)>,
    kind: Option<&'static str>,
}

#[derive(PartialEq)]
enum Key {
    Truth(bool),
    Number(Number),
    Text(String),
    None,
}

impl Keys {
    fn push(&mut self, index: usize, value: Value) -> Result<(), NodeError> {
        let found = kind(&value);
        let key = match value {
            Value::Null => Key::None,
            Value::Bool(truth) => Key::Truth(truth),
            Value::Number(number) => Key::Number(number),
            Value::String(text) => Key::Text(text),
            Value::Array(_) | Value::Object(_) => {
                return Err(NodeError::permanent(format!(
                    "item {index}: {found} has no order; sort by a number, a text or a truth value"
                )));
            }
        };
        if key != Key::None {
            let before = *self.kind.get_or_insert(found);
            if before != found {
                return Err(NodeError::permanent(format!(
                    "item {index}: its key is {found}, and one before it {before}: they have no order"
                )));
            }
        }
        self.keys.push((key, index));
        Ok(())
    }

    /// The places of the items in their new order.
    fn sorted(mut self, falls: bool) -> Vec<usize> {
        self.keys.sort_by(|(a, _), (b, _)| order(a, b, falls));
        self.keys.into_iter().map(|(_, place)| place).collect()
    }
}

fn order(a: &Key, b: &Key, falls: bool) -> Ordering {
    let rising = match (a, b) {
        (Key::Truth(a), Key::Truth(b)) => a.cmp(b),
        (Key::Number(a), Key::Number(b)) => order_of_numbers(a, b),
        (Key::Text(a), Key::Text(b)) => a.cmp(b),
        _ => return (*a == Key::None).cmp(&(*b == Key::None)),
    };
    if falls { rising.reverse() } else { rising }
}

/// By value: whole numbers exactly, others as doubles.
fn order_of_numbers(a: &Number, b: &Number) -> Ordering {
    match (a.as_i128(), b.as_i128()) {
        (Some(a), Some(b)) => a.cmp(&b),
        (Some(a), None) => order_beside_double(a, double(b)),
        (None, Some(b)) => order_beside_double(b, double(a)).reverse(),
        (None, None) => double(a).partial_cmp(&double(b)).unwrap_or(Ordering::Equal),
    }
}

/// A number of JSON is finite.
fn double(number: &Number) -> f64 {
    number.as_f64().unwrap_or(0.0)
}

/// An order in which neither is rounded, so that it is one of all numbers.
fn order_beside_double(int: i128, double: f64) -> Ordering {
    let whole = double.floor();
    // A finite double beyond the range becomes the bound of it, which no whole number of JSON reaches.
    int.cmp(&(whole as i128)).then_with(|| {
        if double > whole {
            Ordering::Less
        } else {
            Ordering::Equal
        }
    })
}
