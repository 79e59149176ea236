//! `log`: writes a line to the worker's log.

use async_trait::async_trait;
use leveret_core::parse::ParamProblem;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{NodeContext, NodeError, NodeType, Verdict, check_known, is_template, params, problem};

/// Parameters: `message`, text; `level`: debug, info (default), warn or error. Output: `{message, level, logged_at}`.
pub(super) struct Log;

#[derive(Deserialize)]
struct Params {
    message: Value,
    #[serde(default)]
    level: Level,
}

#[derive(Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Level {
    Debug,
    #[default]
    Info,
    Warn,
    Error,
}

#[async_trait]
impl NodeType for Log {
    fn check_params(&self, params: &Value) -> Result<(), ParamProblem> {
        check_known(params, &["message", "level"])?;
        if params.get("message").is_none() {
            return Err(problem("message", "parameter 'message' is missing"));
        }
        let level = &params["level"];
        if !level.is_null() && !is_template(level) && Level::deserialize(level).is_err() {
            return Err(problem(
                "level",
                format!("level {level} is none of debug, info, warn, error"),
            ));
        }
        Ok(())
    }

    async fn execute(&self, ctx: NodeContext) -> Result<Verdict, NodeError> {
        let Params { message, level } = params(&ctx.params)?;
        let message = match message {
            Value::String(text) => text,
            other => other.to_string(),
        };
        let (run, node) = (ctx.key.run_id.as_str(), ctx.key.node_id.as_str());
        let level = match level {
            Level::Debug => {
                tracing::debug!(target: "leveret::log", run_id = run, node_id = node, "{message}");
                "debug"
            }
            Level::Info => {
                tracing::info!(target: "leveret::log", run_id = run, node_id = node, "{message}");
                "info"
            }
            Level::Warn => {
                tracing::warn!(target: "leveret::log", run_id = run, node_id = node, "{message}");
                "warn"
            }
            Level::Error => {
                tracing::error!(target: "leveret::log", run_id = run, node_id = node, "{message}");
                "error"
            }
        };
        Ok(json!({ "message": message, "level": level, "logged_at": ctx.now.to_string() }).into())
    }
}
