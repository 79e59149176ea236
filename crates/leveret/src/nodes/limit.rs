//! `limit`: the first items of a list. Pure.

use async_trait::async_trait;
use leveret_core::{edit::kind, parse::ParamProblem};
use serde_json::Value;

use super::{
    NodeContext, NodeError, NodeType, Verdict,
    check::{Check, Wanted},
    each::copied,
    list_of,
};

/// Parameters: `count`, how many items are kept at most. Output: the first items, in their order.
pub(super) struct Limit;

#[async_trait]
impl NodeType for Limit {
    fn is_pure(&self) -> bool {
        true
    }

    fn check_params(&self, params: &Value) -> Vec<ParamProblem> {
        let mut check = Check::of(params, &["count"]);
        check.needs("count");
        check.expect("count", check.literal("count"), Wanted::WholeNumber);
        check.end()
    }

    async fn execute(&self, ctx: NodeContext) -> Result<Verdict, NodeError> {
        let items = list_of(&ctx.input)?;
        let count = ctx.params.get("count").unwrap_or(&Value::Null);
        let count = count.as_u64().ok_or_else(|| {
            let found = match count {
                Value::Number(number) => number.to_string(),
                other => kind(other).to_owned(),
            };
            NodeError::permanent(format!(
                "parameter 'count' must be a whole number from 0, not {found}"
            ))
        })?;
        let count = usize::try_from(count).unwrap_or(usize::MAX);
        if count >= items.len() {
            return Ok(ctx.input.into());
        }
        Ok(Value::Array(copied(items[..count].iter()).await).into())
    }
}
