//! What node types evaluate for each item of their input, within bounds and without keeping other tasks of the thread waiting.

use std::{collections::HashMap, fmt, sync::Arc};

use leveret_core::{
    each::Each,
    expr::{Budget, EvalScope, ItemView, RENDERED_BYTES_MAX, Values, WORK_MAX},
    ids::RunId,
    json::Json,
};
use serde_json::Value;

use super::NodeError;

/// The work that each item adds to that of one evaluation, in the units of a [`Budget`]: what one item does not use is there for the others.
pub const WORK_PER_ITEM: u64 = 500;

/// The work after which other tasks of the thread have their turn: some two milliseconds.
const WORK_PER_TURN: u64 = 100_000;

/// The items after which they have, at least.
const ITEMS_PER_TURN: usize = 1000;

/// A parameter that is evaluated for each item, and what it sees beside the item. See [`leveret_core::each`].
#[derive(Clone)]
pub struct EachItem {
    each: Each,
    seen: Arc<Seen>,
}

/// What expressions see of the run: all that they name, and nothing else.
pub(crate) struct Seen {
    pub(crate) input: Json,
    pub(crate) run_id: RunId,
    pub(crate) run_input: Json,
    pub(crate) outputs: HashMap<Arc<str>, Json>,
    pub(crate) errors: HashMap<Arc<str>, Value>,
    pub(crate) context: HashMap<Arc<str>, Json>,
    pub(crate) secrets: HashMap<Arc<str>, String>,
}

impl Values for Seen {
    fn node_output(&self, id: &str) -> Option<&Value> {
        self.outputs.get(id).map(Json::value)
    }

    fn node_error(&self, id: &str) -> Option<&Value> {
        self.errors.get(id)
    }

    fn context(&self, key: &str) -> Option<&Value> {
        self.context.get(key).map(Json::value)
    }

    fn secret(&self, name: &str) -> Option<String> {
        self.secrets.get(name).cloned()
    }
}

/// Without values, which may hold secrets.
impl fmt::Debug for EachItem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("EachItem").field(&self.each).finish()
    }
}

impl EachItem {
    pub(crate) fn new(each: Each, seen: Seen) -> EachItem {
        EachItem {
            each,
            seen: Arc::new(seen),
        }
    }

    /// Evaluates for each of the items in turn, and hands over what that comes to, with its position.
    ///
    /// # Errors
    /// A permanent one that names the position: of an expression, of `take`, or if all together take more work than [`WORK_MAX`] and
    /// [`WORK_PER_ITEM`] for each, or come to more than [`RENDERED_BYTES_MAX`].
    pub async fn eval(
        &self,
        items: &[Value],
        mut take: impl FnMut(usize, Value) -> Result<(), NodeError> + Send,
    ) -> Result<(), NodeError> {
        let mut work = WORK_MAX + WORK_PER_ITEM * items.len() as u64;
        let mut bytes = RENDERED_BYTES_MAX;
        let mut turns = Turns::new();
        for (index, item) in items.iter().enumerate() {
            let allowed = work.min(WORK_MAX);
            let (value, left) = self.eval_one(item, index, allowed, bytes)?;
            let spent = allowed - left;
            work -= spent;
            bytes = bytes
                .checked_sub(weight(&value))
                .ok_or_else(|| too_much(index))?;
            take(index, value)?;
            turns.after(spent).await;
        }
        Ok(())
    }

    /// What it comes to for one item, and the work that is left.
    fn eval_one(
        &self,
        item: &Value,
        index: usize,
        work: u64,
        bytes: usize,
    ) -> Result<(Value, u64), NodeError> {
        let seen = &*self.seen;
        let budget = Budget::of(work, bytes);
        let scope = EvalScope {
            input: seen.input.value(),
            run_id: seen.run_id.as_str(),
            run_input: seen.run_input.value(),
            values: seen,
            result: None,
            item: Some(ItemView { item, index }),
        };
        match self.each.eval(&scope, &budget) {
            Ok(value) => Ok((value, budget.work_left())),
            Err(error) => Err(NodeError::of_expression(format!("item {index}: {error}"))),
        }
    }
}

fn too_much(index: usize) -> NodeError {
    NodeError::permanent(format!(
        "item {index}: with it the list comes to more than the {RENDERED_BYTES_MAX} bytes allowed"
    ))
}

/// About how many bytes a value takes.
fn weight(value: &Value) -> usize {
    const ONE: usize = 8;
    match value {
        Value::Null | Value::Bool(_) | Value::Number(_) => ONE,
        Value::String(text) => ONE + text.len(),
        Value::Array(elements) => ONE + elements.iter().map(weight).sum::<usize>(),
        Value::Object(entries) => {
            let entry = |(key, value): (&String, &Value)| key.len() + weight(value);
            ONE + entries.iter().map(entry).sum::<usize>()
        }
    }
}

/// Gives other tasks of the thread their turns.
pub(super) struct Turns {
    items: usize,
    work: u64,
}

impl Turns {
    pub(super) fn new() -> Turns {
        Turns { items: 0, work: 0 }
    }

    /// After an item that took so much work.
    pub(super) async fn after(&mut self, work: u64) {
        self.items += 1;
        self.work += work;
        if self.items >= ITEMS_PER_TURN || self.work >= WORK_PER_TURN {
            *self = Turns::new();
            tokio::task::yield_now().await;
        }
    }
}

/// Copies of items, in their order.
pub(super) async fn copied(items: impl ExactSizeIterator<Item = &Value> + Send) -> Vec<Value> {
    let mut copies = Vec::with_capacity(items.len());
    let mut turns = Turns::new();
    for item in items {
        copies.push(item.clone());
        turns.after(weight(item) as u64).await;
    }
    copies
}
