//! `filter`: keeps the items of a list for which a condition holds. Pure.

use async_trait::async_trait;
use leveret_core::{edit::kind, parse::ParamProblem};
use serde_json::Value;

use super::{
    NodeContext, NodeError, NodeType, Verdict,
    check::{Check, needs_expression},
    each::copied,
    list_of,
};

/// Parameters: `condition`, an expression in which `item` and `index` are known. Output: the items for which it is true, in their order.
pub(super) struct Filter;

#[async_trait]
impl NodeType for Filter {
    fn is_pure(&self) -> bool {
        true
    }

    fn check_params(&self, params: &Value) -> Vec<ParamProblem> {
        let mut check = Check::of(params, &["condition"]);
        needs_expression(&mut check, "condition");
        check.end()
    }

    async fn execute(&self, ctx: NodeContext) -> Result<Verdict, NodeError> {
        let items = list_of(&ctx.input)?;
        let condition = ctx
            .each
            .as_ref()
            .ok_or_else(|| NodeError::permanent("parameter 'condition' is missing"))?;
        let mut kept = Vec::new();
        let take = |index: usize, value| match value {
            Value::Bool(holds) => {
                kept.extend(holds.then(|| &items[index]));
                Ok(())
            }
            other => Err(NodeError::permanent(format!(
                "item {index}: the condition gives {}, not true or false",
                kind(&other)
            ))),
        };
        condition.eval(items, take).await?;
        Ok(Value::Array(copied(kept.into_iter()).await).into())
    }
}
