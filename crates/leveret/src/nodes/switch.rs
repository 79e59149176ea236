//! `switch`: names the action of the first case that holds. Pure.

use std::sync::Arc;

use async_trait::async_trait;
use leveret_core::{parse::ParamProblem, template::Choice};
use serde::Deserialize;
use serde_json::Value;

use super::{
    NodeContext, NodeError, NodeOutput, NodeType, Verdict,
    check::{Check, Wanted, is_template},
    known_actions, params,
};

/// Parameters: `cases`, a list of `{when, action}` where `when` is `{{ expression }}` with a truth value; `default`, the action when no case
/// holds. They are evaluated in that order, and no further than the case that holds. Output: the input.
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

/// What is wrong with a case.
fn fault(case: &Value) -> Option<&'static str> {
    let when = &case["when"];
    if !case["action"].is_string() {
        Some("a case needs an 'action'")
    } else if !when.is_boolean() && !is_template(when) {
        Some("a case needs a condition: when: \"{{ expression }}\"")
    } else {
        None
    }
}

#[async_trait]
impl NodeType for Switch {
    fn is_pure(&self) -> bool {
        true
    }

    fn check_params(&self, params: &Value) -> Vec<ParamProblem> {
        let mut check = Check::of(params, &["cases", "default"]);
        check.expect("default", check.optional("default"), Wanted::Text);
        let Some(cases) = params.get("cases").and_then(Value::as_array) else {
            let message = "parameter 'cases' must be a list of {when, action}";
            check.tell(&["cases"], message);
            return check.end();
        };
        for (index, case) in cases.iter().enumerate() {
            if let Some(fault) = fault(case) {
                check.tell(&["cases", &index.to_string()], fault);
            }
        }
        check.end()
    }

    fn actions(&self, params: &Value) -> Option<Vec<String>> {
        let cases = params.get("cases").and_then(Value::as_array)?;
        let actions = cases.iter().map(|case| &case["action"]);
        let default = params.get("default").filter(|default| !default.is_null());
        known_actions(actions.chain(default))
    }

    fn choice(&self) -> Option<Choice> {
        Some(Choice {
            cases: "cases",
            when: "when",
            otherwise: "default",
        })
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
            ..NodeOutput::default()
        }
        .into())
    }
}
