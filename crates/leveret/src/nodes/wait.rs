//! `wait`: goes on after a time, or when a signal has come. A waiting step is a row in the store, not a task in memory.

use std::sync::Arc;

use async_trait::async_trait;
use leveret_core::{
    ids::{EventName, NodeId, SignalKey},
    json::Json,
    parse::ParamProblem,
    time::Timestamp,
};
use serde_json::Value;

use super::{
    NodeContext, NodeError, NodeOutput, NodeType, Verdict,
    check::{Check, Wanted, duration_of},
};
use crate::store::{self, WaitKind};

/// The action of a step whose time is over before its signal came.
pub(super) const TIMEOUT: &str = "timeout";

/// Parameters: `duration`, or `until`, or `event` (by default the node's id) with `key` and `timeout`. Output: the input, or what the signal brought, or
/// null after the timeout.
pub(super) struct Wait;

const KNOWN: [&str; 5] = ["duration", "until", "event", "key", "timeout"];

/// A point in time, as RFC 3339 says it.
pub(super) fn point(value: &Value) -> Result<Timestamp, String> {
    let Some(text) = value.as_str() else {
        return Err("parameter 'until' must be text: '2026-12-24T18:00:00Z'".to_owned());
    };
    let instant: jiff::Timestamp = text.parse().map_err(|_| {
        format!("'{text}' is no time: say '2026-12-24T18:00:00Z', or with an offset")
    })?;
    Ok(Timestamp(instant.as_millisecond()))
}

fn text<'a>(params: &'a Value, name: &str) -> Result<Option<&'a str>, String> {
    match params.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(_) => Err(format!("parameter '{name}' must be text")),
    }
}

/// The event that is waited for.
fn event(params: &Value, node_id: &NodeId) -> Result<EventName, String> {
    let name = text(params, "event")?.unwrap_or(node_id.as_str());
    EventName::new(name).map_err(|error| format!("parameter 'event': {error}"))
}

fn key(params: &Value) -> Result<Option<SignalKey>, String> {
    let key = text(params, "key")?.map(SignalKey::new).transpose();
    key.map_err(|error| format!("parameter 'key': {error}"))
}

/// When a wait for a signal is over, if ever: a `timeout` after it began.
pub(super) fn end_of(
    params: &Value,
    name: &str,
    now: Timestamp,
) -> Result<Option<Timestamp>, String> {
    match params.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(_) => Ok(Some(now + duration_of(params, name)?)),
    }
}

/// What a step comes to that waited for a signal in vain.
pub(super) fn timed_out() -> Verdict {
    NodeOutput {
        output: Json::null(),
        action: Some(Arc::from(TIMEOUT)),
        ..NodeOutput::default()
    }
    .into()
}

#[async_trait]
impl NodeType for Wait {
    fn check_params(&self, params: &Value) -> Vec<ParamProblem> {
        let mut check = Check::of(params, &KNOWN);
        let given: Vec<&str> = ["duration", "until", "event"]
            .into_iter()
            .filter(|name| params.get(name).is_some_and(|value| !value.is_null()))
            .collect();
        if let [first, second, ..] = given[..] {
            let message = format!("there is either '{first}' or '{second}', not both");
            check.tell(&[second], message);
        }
        for (name, fault) in [
            (
                "duration",
                (|params| duration_of(params, "duration").err()) as fn(&Value) -> Option<String>,
            ),
            ("timeout", |params| duration_of(params, "timeout").err()),
            ("until", |params| point(&params["until"]).err()),
        ] {
            if check.optional(name).is_some()
                && let Some(fault) = fault(params)
            {
                check.tell(&[name], fault);
            }
        }
        for (name, fault) in [
            (
                "event",
                (|text| EventName::new(text).err()) as fn(&str) -> Option<_>,
            ),
            ("key", |text| SignalKey::new(text).err()),
        ] {
            let given = check.optional(name);
            check.expect(name, given, Wanted::Text);
            if let Some(fault) = given.and_then(Value::as_str).and_then(fault) {
                check.tell(&[name], format!("parameter '{name}': {fault}"));
            }
        }
        let by_time = given.iter().find(|name| **name != "event");
        for name in ["key", "timeout"] {
            let is_given = params.get(name).is_some_and(|value| !value.is_null());
            if let (true, Some(by_time)) = (is_given, by_time) {
                let message =
                    format!("'{name}' goes with an event, and '{by_time}' waits for none");
                check.tell(&[name], message);
            }
        }
        check.end()
    }

    fn actions(&self, _params: &Value) -> Option<Vec<String>> {
        Some(vec![TIMEOUT.to_owned()])
    }

    async fn execute(&self, ctx: NodeContext) -> Result<Verdict, NodeError> {
        let is_given = |name: &str| ctx.params.get(name).is_some_and(|value| !value.is_null());
        let until = if is_given("duration") {
            Some(ctx.now + duration_of(&ctx.params, "duration").map_err(NodeError::permanent)?)
        } else if is_given("until") {
            Some(point(&ctx.params["until"]).map_err(NodeError::permanent)?)
        } else {
            None
        };
        if let Some(until) = until {
            return Ok(if ctx.woken || until <= ctx.now {
                ctx.input.into()
            } else {
                Verdict::WaitUntil(until)
            });
        }
        if let Some(signal) = ctx.signal {
            return Ok(signal.into());
        }
        if ctx.woken {
            return Ok(timed_out());
        }
        let (params, node_id) = (&*ctx.params, &ctx.key.node_id);
        let wait = store::Wait {
            event: event(params, node_id).map_err(NodeError::permanent)?,
            key: key(params).map_err(NodeError::permanent)?,
            kind: WaitKind::Signal,
            about: Json::null(),
        };
        let until = end_of(params, "timeout", ctx.now).map_err(NodeError::permanent)?;
        Ok(Verdict::WaitFor { wait, until })
    }
}
