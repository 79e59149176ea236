//! `switch`: names the action of the first case that holds. Pure.

use std::sync::Arc;

use async_trait::async_trait;
use leveret_core::parse::ParamProblem;
use serde::Deserialize;
use serde_json::Value;

use super::{
    NodeContext, NodeError, NodeOutput, NodeType, Verdict, check_known, known_actions, params,
    problem,
};

/// Parameters: `cases`, a list of `{when, action}` where `when` is `{{ expression }}` with a truth value; `default`, the action when no case
/// holds. Output: the input.
pub(super) struct Switch;

#[derive(Deserialize)]
struct Params {
    cases: Vec<Case>,
    #[serde(default)]
    default: Option<Arc<str>>,
}

#[derive(Deserialize)]
struct Case {
    when: Value,
    action: Arc<str>,
}

#[async_trait]
impl NodeType for Switch {
    fn is_pure(&self) -> bool {
        true
    }

    fn check_params(&self, params: &Value) -> Result<(), ParamProblem> {
        check_known(params, &["cases", "default"])?;
        let Some(cases) = params.get("cases").and_then(Value::as_array) else {
            return Err(problem(
                "cases",
                "parameter 'cases' must be a list of {when, action}",
            ));
        };
        for (index, case) in cases.iter().enumerate() {
            let text = |key: &str| case.get(key).and_then(Value::as_str);
            let fault = if text("action").is_none() {
                "a case needs an 'action'"
            } else if !case["when"].is_boolean()
                && !text("when").is_some_and(|when| when.contains("{{"))
            {
                "a case needs a condition: when: \"{{ expression }}\""
            } else {
                continue;
            };
            return Err(ParamProblem {
                path: vec!["cases".to_owned(), index.to_string()],
                message: fault.to_owned(),
            });
        }
        Ok(())
    }

    fn actions(&self, params: &Value) -> Option<Vec<String>> {
        let cases = params.get("cases").and_then(Value::as_array)?;
        let actions = cases.iter().map(|case| &case["action"]);
        let default = params.get("default").filter(|default| !default.is_null());
        known_actions(actions.chain(default))
    }

    async fn execute(&self, ctx: NodeContext) -> Result<Verdict, NodeError> {
        let Params { cases, default } = params(&ctx.params)?;
        let mut action = default;
        for case in cases {
            match case.when {
                Value::Bool(true) => {
                    action = Some(case.action);
                    break;
                }
                Value::Bool(false) => {}
                other => {
                    return Err(NodeError::permanent(format!(
                        "the condition of case '{}' is {other}, not true or false",
                        case.action
                    )));
                }
            }
        }
        Ok(NodeOutput {
            output: ctx.input,
            action,
            context: Vec::new(),
        }
        .into())
    }
}
