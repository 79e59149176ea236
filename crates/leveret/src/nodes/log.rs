//! `log`: writes a line to the worker's log.

use std::borrow::Cow;

use async_trait::async_trait;
use leveret_core::{json::Json, parse::ParamProblem, time::Timestamp};
use serde::{Deserialize, Serialize, Serializer};
use serde_json::Value;

use super::{NodeContext, NodeError, NodeType, Verdict, check::Check};

/// Parameters: `message`, text; `level`: debug, info (default), warn or error. Output: `{message, level, logged_at}`.
pub(super) struct Log;

#[derive(Clone, Copy, Default, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
enum Level {
    Debug,
    #[default]
    Info,
    Warn,
    Error,
}

#[derive(Serialize)]
struct Output<'a> {
    level: Level,
    #[serde(serialize_with = "as_text")]
    logged_at: Timestamp,
    message: &'a str,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
fn as_text<S: Serializer>(time: &Timestamp, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(time)
}

#[async_trait]
impl NodeType for Log {
    fn check_params(&self, params: &Value) -> Vec<ParamProblem> {
        let mut check = Check::of(params, &["message", "level"]);
        check.needs("message");
        if let Some(level) = check.optional("level")
            && Level::deserialize(level).is_err()
        {
            let message = format!("level {level} is none of debug, info, warn, error");
            check.tell(&["level"], message);
        }
        check.end()
    }

    async fn execute(&self, ctx: NodeContext) -> Result<Verdict, NodeError> {
        let message = match ctx.params.get("message") {
            Some(Value::String(text)) => Cow::Borrowed(text.as_str()),
            Some(other) => Cow::Owned(other.to_string()),
            None => return Err(NodeError::permanent("parameter 'message' is missing")),
        };
        let level = match &ctx.params["level"] {
            Value::Null => Level::default(),
            level => Level::deserialize(level)
                .map_err(|error| NodeError::permanent(format!("parameter 'level': {error}")))?,
        };
        let (run, node) = (ctx.key.run_id.as_str(), ctx.key.node_id.as_str());
        match level {
            Level::Debug => {
                tracing::debug!(target: "leveret::log", run_id = run, node_id = node, "{message}");
            }
            Level::Info => {
                tracing::info!(target: "leveret::log", run_id = run, node_id = node, "{message}");
            }
            Level::Warn => {
                tracing::warn!(target: "leveret::log", run_id = run, node_id = node, "{message}");
            }
            Level::Error => {
                tracing::error!(target: "leveret::log", run_id = run, node_id = node, "{message}");
            }
        }
        let output = Output {
            level,
            logged_at: ctx.now,
            message: &message,
        };
        Ok(Json::from_serialize(&output).expect("a line prints").into())
    }
}
