//! `fail`: fails on purpose. Pure.

use async_trait::async_trait;
use leveret_core::parse::ParamProblem;
use serde::Deserialize;
use serde_json::Value;

use super::{
    NodeContext, NodeError, NodeType, Verdict,
    check::{Check, Wanted},
    params,
};

/// Parameters: `message`; `fatal`: no retry and no fallback.
pub(super) struct Fail;

#[derive(Deserialize)]
struct Params {
    #[serde(default = "Params::message")]
    message: String,
    #[serde(default)]
    fatal: bool,
}

impl Params {
    fn message() -> String {
        "the workflow says so".to_owned()
    }
}

#[async_trait]
impl NodeType for Fail {
    fn is_pure(&self) -> bool {
        true
    }

    fn check_params(&self, params: &Value) -> Vec<ParamProblem> {
        let mut check = Check::of(params, &["message", "fatal"]);
        check.expect("message", check.literal("message"), Wanted::Text);
        check.expect("fatal", check.literal("fatal"), Wanted::Truth);
        check.end()
    }

    async fn execute(&self, ctx: NodeContext) -> Result<Verdict, NodeError> {
        let Params { message, fatal } = params(&ctx.params)?;
        Err(if fatal {
            NodeError::fatal(message)
        } else {
            NodeError::transient(message)
        })
    }
}
