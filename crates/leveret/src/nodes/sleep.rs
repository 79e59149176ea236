//! `sleep`: goes on after a time. A sleeping step is a row in the store, not a task in memory.

use async_trait::async_trait;
use leveret_core::parse::ParamProblem;
use serde_json::Value;

use super::{
    NodeContext, NodeError, NodeType, Verdict,
    check::{Check, duration_of},
};

/// Parameters: `duration`, milliseconds or text such as `250ms`, `10s`, `5m`, `1h`, `2d`. Output: the input.
///
/// The node's `config.timeout` does not end a sleep: it bounds an attempt, and a step sleeps between its attempts.
pub(super) struct Sleep;

#[async_trait]
impl NodeType for Sleep {
    fn check_params(&self, params: &Value) -> Vec<ParamProblem> {
        let mut check = Check::of(params, &["duration"]);
        check.needs("duration");
        if check.literal("duration").is_some()
            && let Err(message) = duration_of(params, "duration")
        {
            check.tell(&["duration"], message);
        }
        check.end()
    }

    async fn execute(&self, ctx: NodeContext) -> Result<Verdict, NodeError> {
        let duration = duration_of(&ctx.params, "duration").map_err(NodeError::permanent)?;
        if ctx.woken || duration.is_zero() {
            return Ok(ctx.input.into());
        }
        Ok(Verdict::WaitUntil(ctx.now + duration))
    }
}
