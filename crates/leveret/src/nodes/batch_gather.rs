//! `batch-gather`: waits for the items of a scatter. Pure.

use async_trait::async_trait;
use leveret_core::parse::ParamProblem;
use serde::Deserialize;
use serde_json::Value;

use super::{
    NodeContext, NodeError, NodeOutput, NodeType, Verdict,
    check::{Check, Wanted},
    params,
};

/// Parameters: `outputKey`, and `gatherNodeId`, which blueprints have. Its input is the list of what the items handed over, and so is its output.
pub(super) struct BatchGather;

#[derive(Deserialize)]
struct Params {
    #[serde(rename = "outputKey", default)]
    output_key: Option<String>,
}

#[async_trait]
impl NodeType for BatchGather {
    fn is_pure(&self) -> bool {
        true
    }

    fn check_params(&self, params: &Value) -> Vec<ParamProblem> {
        let mut check = Check::of(params, &["outputKey", "gatherNodeId"]);
        for name in ["outputKey", "gatherNodeId"] {
            let given = check.optional(name);
            check.expect(name, given, Wanted::Text);
        }
        check.end()
    }

    async fn execute(&self, ctx: NodeContext) -> Result<Verdict, NodeError> {
        let Params { output_key } = params(&ctx.params)?;
        let key = output_key.filter(|key| !key.is_empty());
        Ok(NodeOutput {
            context: key
                .map(|key| (key.into(), ctx.input.clone()))
                .into_iter()
                .collect(),
            output: ctx.input,
            ..NodeOutput::default()
        }
        .into())
    }
}
