//! `map`: makes something of each item of a list. Pure.

use async_trait::async_trait;
use leveret_core::parse::ParamProblem;
use serde_json::Value;

use super::{NodeContext, NodeError, NodeType, Verdict, check::Check, list_of};

/// Parameters: `output`, any JSON with `{{ … }}` in which `item` and `index` are known. Output: the list of what it comes to.
pub(super) struct Map;

#[async_trait]
impl NodeType for Map {
    fn is_pure(&self) -> bool {
        true
    }

    fn check_params(&self, params: &Value) -> Vec<ParamProblem> {
        let mut check = Check::of(params, &["output"]);
        check.needs("output");
        check.end()
    }

    async fn execute(&self, ctx: NodeContext) -> Result<Verdict, NodeError> {
        let items = list_of(&ctx.input)?;
        let mut made = Vec::with_capacity(items.len());
        match &ctx.each {
            Some(output) => {
                let take = |_, value| {
                    made.push(value);
                    Ok(())
                };
                output.eval(items, take).await?;
            }
            // It was written as null.
            None => made.resize(items.len(), Value::Null),
        }
        Ok(Value::Array(made).into())
    }
}
