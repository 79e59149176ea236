//! `batch-scatter`: has the nodes between it and its gather executed for each item of a list. Pure.

use async_trait::async_trait;
use leveret_core::{json::Json, parse::ParamProblem, workflow::ITEMS_MAX};
use serde_json::{Value, json};

use super::{NodeContext, NodeError, NodeOutput, NodeType, Verdict, check::Check, list_of};

/// Parameters: `gatherNodeId`, `workerUsesKey`, `concurrency`, `chunkSize` and `on_error`, which are read with the definition. Output: how many items
/// there are.
pub(super) struct BatchScatter;

#[async_trait]
impl NodeType for BatchScatter {
    fn is_pure(&self) -> bool {
        true
    }

    /// What the parameters must be is checked with the definition.
    fn check_params(&self, params: &Value) -> Vec<ParamProblem> {
        let known = [
            "gatherNodeId",
            "workerUsesKey",
            "concurrency",
            "chunkSize",
            "on_error",
            "outputKey",
        ];
        Check::of(params, &known).end()
    }

    async fn execute(&self, ctx: NodeContext) -> Result<Verdict, NodeError> {
        let items = list_of(&ctx.input)?;
        let count = items.len();
        if count > ITEMS_MAX {
            let message = format!("the input has {count} items, more than the {ITEMS_MAX} allowed");
            return Err(NodeError::permanent(message));
        }
        Ok(NodeOutput {
            output: Json::from(json!({ "count": count })),
            items: Some(items.iter().cloned().map(Json::from).collect()),
            ..NodeOutput::default()
        }
        .into())
    }
}
