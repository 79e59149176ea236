//! `sleep`: goes on after a time. A sleeping step is a row in the store, not a task in memory.

use std::time::Duration;

use async_trait::async_trait;
use leveret_core::{parse::ParamProblem, time::parse_duration};
use serde_json::Value;

use super::{NodeContext, NodeError, NodeType, Verdict, check::Check};

/// Parameters: `duration`, milliseconds or text such as `250ms`, `10s`, `5m`, `1h`, `2d`. Output: the input.
///
/// The node's `config.timeout` does not end a sleep: it bounds an attempt, and a step sleeps between its attempts.
pub(super) struct Sleep;

/// The longest sleep: a hundred years. Longer ones are taken for mistakes.
const SLEEP_MAX: Duration = Duration::from_secs(100 * 366 * 86_400);

fn duration(params: &Value) -> Result<Duration, String> {
    let value = params
        .get("duration")
        .ok_or("parameter 'duration' is missing")?;
    let duration = match value {
        Value::Number(number) => number
            .as_u64()
            .map(Duration::from_millis)
            .ok_or_else(|| format!("{number} is no duration in whole milliseconds"))?,
        Value::String(text) => parse_duration(text).ok_or_else(|| {
            format!("'{text}' is no duration: say '250ms', '10s', '5m', '1h' or '2d'")
        })?,
        other => return Err(format!("{other} is no duration: say milliseconds or '10s'")),
    };
    if duration > SLEEP_MAX {
        Err(format!("{value} is longer than a hundred years"))
    } else {
        Ok(duration)
    }
}

#[async_trait]
impl NodeType for Sleep {
    fn check_params(&self, params: &Value) -> Vec<ParamProblem> {
        let mut check = Check::of(params, &["duration"]);
        check.needs("duration");
        if check.literal("duration").is_some()
            && let Err(message) = duration(params)
        {
            check.tell(&["duration"], message);
        }
        check.end()
    }

    async fn execute(&self, ctx: NodeContext) -> Result<Verdict, NodeError> {
        let duration = duration(&ctx.params).map_err(NodeError::permanent)?;
        if ctx.woken || duration.is_zero() {
            return Ok(ctx.input.into());
        }
        Ok(Verdict::WaitUntil(ctx.now + duration))
    }
}
