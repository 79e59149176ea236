//! `loop-controller`: decides before each pass of a loop whether there is one. Pure.

use async_trait::async_trait;
use leveret_core::{
    parse::ParamProblem,
    workflow::{BREAK, CONTINUE},
};
use serde::Deserialize;
use serde_json::Value;

use super::{
    NodeContext, NodeError, NodeOutput, NodeType, Verdict,
    check::{Check, Wanted},
    params,
};

/// How many passes a loop may have, unless it says otherwise.
const ITERATIONS: u64 = 1000;

/// The most that it may say.
const ITERATIONS_MAX: u64 = 1_000_000;

/// Parameters: `condition`, an expression, which comes evaluated; `max_iterations`. Output: the input; action: `continue` or `break`.
pub(super) struct LoopController;

#[derive(Deserialize)]
struct Params {
    condition: Value,
    #[serde(default)]
    max_iterations: Option<u64>,
}

#[async_trait]
impl NodeType for LoopController {
    fn is_pure(&self) -> bool {
        true
    }

    fn check_params(&self, params: &Value) -> Vec<ParamProblem> {
        let mut check = Check::of(params, &["condition", "max_iterations"]);
        check.needs("condition");
        let given = check.optional("max_iterations");
        check.expect("max_iterations", given, Wanted::WholeNumber);
        let given = given.and_then(Value::as_u64);
        if given.is_some_and(|given| !(1..=ITERATIONS_MAX).contains(&given)) {
            let message = format!("parameter 'max_iterations' must be from 1 to {ITERATIONS_MAX}");
            check.tell(&["max_iterations"], message);
        }
        check.end()
    }

    fn actions(&self, _params: &Value) -> Option<Vec<String>> {
        Some(vec![CONTINUE.to_owned(), BREAK.to_owned()])
    }

    async fn execute(&self, ctx: NodeContext) -> Result<Verdict, NodeError> {
        let Params {
            condition,
            max_iterations,
        } = params(&ctx.params)?;
        let Value::Bool(goes_on) = condition else {
            let message = format!("the condition of the loop is {condition}, not true or false");
            return Err(NodeError::permanent(message));
        };
        let pass = ctx.key.scope.pass().unwrap_or(1);
        let most = max_iterations.unwrap_or(ITERATIONS).min(ITERATIONS_MAX);
        if goes_on && pass > most {
            let message = format!("the loop has had {most} passes, which is its max_iterations");
            return Err(NodeError::permanent(message));
        }
        let action = if goes_on { CONTINUE } else { BREAK };
        Ok(NodeOutput {
            output: ctx.input,
            action: Some(action.into()),
            ..NodeOutput::default()
        }
        .into())
    }
}
