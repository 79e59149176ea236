//! `webhook`: waits until somebody calls it; or tells where, for a `wait` that follows.

use std::sync::Arc;

use async_trait::async_trait;
use leveret_core::{
    ids::{EventName, NodeId, RunId},
    json::Json,
    parse::ParamProblem,
};
use serde_json::{Value, json};

use super::{
    NodeContext, NodeError, NodeType, Verdict,
    check::{Check, Wanted, duration_of, is_template},
    wait::{TIMEOUT, end_of, timed_out},
};
use crate::store::{self, WaitKind};

/// Parameters: `wait` (true), `timeout`, `secret`, the name of one. Output: the payload of the call, or null after the timeout; without `wait`
/// `{url, event}`, at once.
pub(super) struct Webhook {
    /// Where the API can be reached from outside, without a slash at its end.
    pub(super) public_url: Arc<str>,
}

/// The event that a call brings to the run.
pub(crate) fn event_of(run_id: &RunId, node_id: &NodeId) -> Result<EventName, String> {
    let event = EventName::new(format!("webhook:{run_id}:{node_id}"));
    event.map_err(|error| format!("the ids of run and node are too long: {error}"))
}

/// Whether a node with these parameters waits itself.
pub(crate) fn waits(params: &Value) -> bool {
    params.get("wait") != Some(&Value::Bool(false))
}

/// The name of the secret by which calls are signed.
pub(crate) fn secret_of(params: &Value) -> Option<&str> {
    params.get("secret").and_then(Value::as_str)
}

#[async_trait]
impl NodeType for Webhook {
    fn check_params(&self, params: &Value) -> Vec<ParamProblem> {
        let mut check = Check::of(params, &["wait", "timeout", "secret"]);
        check.expect("wait", params.get("wait"), Wanted::Truth);
        if params.get("secret").is_some_and(is_template) {
            let message = "parameter 'secret' is the name of a secret, not an expression";
            check.tell(&["secret"], message);
        } else {
            check.expect("secret", check.optional("secret"), Wanted::Text);
        }
        if check.optional("timeout").is_some() {
            if let Err(fault) = duration_of(params, "timeout") {
                check.tell(&["timeout"], fault);
            }
            if !waits(params) {
                let message =
                    "'timeout' goes with a webhook that waits; give it to the `wait` that follows";
                check.tell(&["timeout"], message);
            }
        }
        check.end()
    }

    fn actions(&self, params: &Value) -> Option<Vec<String>> {
        let waits = waits(params).then(|| TIMEOUT.to_owned());
        Some(waits.into_iter().collect())
    }

    fn secrets(&self, params: &Value) -> Vec<(&'static str, String)> {
        let name = secret_of(params).map(|name| ("secret", name.to_owned()));
        name.into_iter().collect()
    }

    async fn execute(&self, ctx: NodeContext) -> Result<Verdict, NodeError> {
        let (run_id, node_id) = (&ctx.key.run_id, &ctx.key.node_id);
        if !waits(&ctx.params) {
            let event = event_of(run_id, node_id).map_err(NodeError::permanent)?;
            let url = url_of(&self.public_url, run_id, node_id);
            return Ok(json!({ "url": url, "event": event }).into());
        }
        if let Some(payload) = ctx.signal {
            return Ok(payload.into());
        }
        if ctx.woken {
            return Ok(timed_out());
        }
        let until = end_of(&ctx.params, "timeout", ctx.now).map_err(NodeError::permanent)?;
        let event = EventName::new(node_id.as_str());
        let wait = store::Wait {
            event: event.map_err(|error| NodeError::permanent(error.to_string()))?,
            key: None,
            kind: WaitKind::Webhook,
            about: Json::null(),
        };
        Ok(Verdict::WaitFor { wait, until })
    }
}

/// Where the webhook of a step is called.
fn url_of(public_url: &str, run_id: &RunId, node_id: &NodeId) -> String {
    let mut url = format!("{public_url}/webhooks");
    for id in [run_id.as_str(), node_id.as_str()] {
        url.push('/');
        for byte in id.bytes() {
            match byte {
                b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                    url.push(char::from(byte));
                }
                _ => url.extend(["%", &format!("{byte:02X}")]),
            }
        }
    }
    url
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_encoded_in_urls() {
        let (run_id, node_id) = (RunId::new("r 1/é").unwrap(), NodeId::new("a?b").unwrap());
        let url = url_of("https://x", &run_id, &node_id);
        assert_eq!(url, "https://x/webhooks/r%201%2F%C3%A9/a%3Fb");
    }
}
