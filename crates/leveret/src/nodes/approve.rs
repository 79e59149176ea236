//! `approve`: waits until somebody decides.

use std::sync::Arc;

use async_trait::async_trait;
use leveret_core::{
    form::check_form, ids::EventName, json::Json, parse::ParamProblem, time::Timestamp,
};
use serde_json::{Value, json};

use super::{
    NodeContext, NodeError, NodeOutput, NodeType, Verdict,
    check::{Check, Wanted, duration_of, is_template},
    wait::{TIMEOUT, point, timed_out},
};
use crate::store::{self, WaitKind};

/// Parameters: `form`, the JSON Schema of what is given with the decision; `deadline`, a time or a point in time; `to`, who is asked; `title`, for
/// what. Output: `{decision, data, by, at}`, or null after the deadline; action: `approve`, `reject` or `timeout`.
pub(super) struct Approve;

/// The actions, which are also the decisions.
pub(crate) const DECISIONS: [&str; 2] = ["approve", "reject"];

const KNOWN: [&str; 4] = ["form", "deadline", "to", "title"];

/// The largest form, as JSON.
const FORM_BYTES_MAX: usize = 64 << 10;

/// Whether an expression is somewhere in it, so that it is known at execution only.
fn has_template(value: &Value) -> bool {
    match value {
        Value::Array(items) => items.iter().any(has_template),
        Value::Object(entries) => entries.values().any(has_template),
        other => is_template(other),
    }
}

/// When nobody decides any more.
fn deadline(params: &Value, now: Timestamp) -> Result<Option<Timestamp>, String> {
    match params.get("deadline") {
        None | Some(Value::Null) => Ok(None),
        Some(text @ Value::String(_)) if duration_of(params, "deadline").is_err() => {
            point(text).map(Some)
        }
        Some(_) => Ok(Some(now + duration_of(params, "deadline")?)),
    }
}

/// Those who are asked: a text, or a list of them.
fn is_people(to: &Value) -> bool {
    match to {
        Value::Array(people) => people.iter().all(Value::is_string),
        one => one.is_string(),
    }
}

fn form(params: &Value) -> Result<&Value, (Vec<String>, String)> {
    let form = params.get("form").unwrap_or(&Value::Null);
    if form.is_null() {
        return Ok(form);
    }
    let bytes = form.to_string().len();
    if bytes > FORM_BYTES_MAX {
        let message = format!("the form has {bytes} bytes, more than the {FORM_BYTES_MAX} allowed");
        return Err((Vec::new(), message));
    }
    match check_form(form).into_iter().next() {
        None => Ok(form),
        Some(fault) => Err((fault.path, fault.message)),
    }
}

#[async_trait]
impl NodeType for Approve {
    fn check_params(&self, params: &Value) -> Vec<ParamProblem> {
        let mut check = Check::of(params, &KNOWN);
        if !params.get("form").is_some_and(has_template)
            && let Err((path, message)) = form(params)
        {
            let path = std::iter::once("form").chain(path.iter().map(String::as_str));
            check.tell(&path.collect::<Vec<_>>(), message);
        }
        if check.optional("deadline").is_some()
            && let Err(fault) = deadline(params, Timestamp(0))
        {
            let hint = "a time such as '2d', or '2026-12-24T18:00:00Z'";
            check.tell(
                &["deadline"],
                format!("parameter 'deadline' is {hint}: {fault}"),
            );
        }
        let to = params
            .get("to")
            .filter(|to| !to.is_null() && !has_template(to));
        if to.is_some_and(|to| !is_people(to)) {
            check.tell(&["to"], "parameter 'to' must be text, or a list of texts");
        }
        check.expect("title", check.optional("title"), Wanted::Text);
        check.end()
    }

    fn actions(&self, _params: &Value) -> Option<Vec<String>> {
        let decisions = DECISIONS.into_iter();
        Some(decisions.chain([TIMEOUT]).map(str::to_owned).collect())
    }

    async fn execute(&self, ctx: NodeContext) -> Result<Verdict, NodeError> {
        if let Some(decided) = ctx.signal {
            let decision = decided.value()["decision"].as_str().map(Arc::from);
            return Ok(NodeOutput {
                action: decision,
                output: decided,
                ..NodeOutput::default()
            }
            .into());
        }
        if ctx.woken {
            return Ok(timed_out());
        }
        let params = &*ctx.params;
        let form = form(params).map_err(|(path, message)| {
            let place = path.join(".");
            NodeError::permanent(format!("parameter 'form': {place}: {message}"))
        })?;
        let to = params.get("to").unwrap_or(&Value::Null);
        if !to.is_null() && !is_people(to) {
            let message = "parameter 'to' must be text, or a list of texts";
            return Err(NodeError::permanent(message));
        }
        let about = json!({ "form": form, "to": to, "title": params.get("title") });
        let event = EventName::new(ctx.key.node_id.as_str());
        let wait = store::Wait {
            event: event.map_err(|error| NodeError::permanent(error.to_string()))?,
            key: None,
            kind: WaitKind::Approval,
            about: Json::from(about),
        };
        let until = deadline(params, ctx.now).map_err(NodeError::permanent)?;
        Ok(Verdict::WaitFor { wait, until })
    }
}
