//! `set`: makes an output out of what the run knows. Pure.

use std::sync::Arc;

use async_trait::async_trait;
use leveret_core::{json::Json, parse::ParamProblem};
use serde_json::Value;

use super::{
    NodeContext, NodeError, NodeOutput, NodeType, Verdict,
    check::{Check, Wanted},
    known_actions,
};

/// Parameters: `output`, any JSON with `{{ … }}`, by default the input; `action`, text, by default none.
pub(super) struct Set;

#[async_trait]
impl NodeType for Set {
    fn is_pure(&self) -> bool {
        true
    }

    fn check_params(&self, params: &Value) -> Vec<ParamProblem> {
        let mut check = Check::of(params, &["output", "action"]);
        check.expect("action", check.optional("action"), Wanted::Text);
        check.end()
    }

    fn actions(&self, params: &Value) -> Option<Vec<String>> {
        known_actions(
            params
                .get("action")
                .into_iter()
                .filter(|action| !action.is_null()),
        )
    }

    async fn execute(&self, ctx: NodeContext) -> Result<Verdict, NodeError> {
        let output = match ctx.params.get("output") {
            Some(output) => Json::from(output.clone()),
            None => ctx.input.clone(),
        };
        let action = match ctx.params.get("action") {
            None | Some(Value::Null) => None,
            Some(Value::String(action)) if action.is_empty() => None,
            Some(Value::String(action)) => Some(Arc::from(action.as_str())),
            Some(other) => {
                return Err(NodeError::permanent(format!(
                    "parameter 'action' must be text, not {other}"
                )));
            }
        };
        Ok(NodeOutput {
            output,
            action,
            ..NodeOutput::default()
        }
        .into())
    }
}
