//! The worker's messages and topology, as foreign clients see them: names, fields and optionality.
//!
//! Queues are named by their routing keys and bound to one topic exchange. A client publishes jobs straight to the queue, which is cheaper: the
//! broker matches no patterns. A worker's messages go through the exchange, where others may listen.

use std::sync::Arc;

use leveret_core::{
    ids::{EventName, IdError, NodeId, RunId, Scope, WorkflowId},
    json::{Json, begins_object},
    time::Timestamp,
    workflow::WorkflowHash,
};
use serde::{Deserialize, Serialize};

use crate::{
    broker::{
        Binding, BrokerError, Exchange, ExchangeKind, Message, Publication, Queue, Topology,
        dead_letter_queue_name,
    },
    store::{ErrorCode, RunEnd, RunStatus, StepError, Store},
};

/// The names of the worker's exchange and queues; a prefix separates installations that share a broker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Names {
    /// The topic exchange, `workflows`.
    pub exchange: Arc<str>,
    /// Jobs, `workflow.execution`.
    pub execution: Arc<str>,
    /// What happens to steps, `workflow.node.status`.
    pub status: Arc<str>,
    /// How runs end, `workflow.completion`.
    pub completion: Arc<str>,
    /// Jobs that cannot be handled, `workflow.execution.dlq`.
    pub dead_letters: Arc<str>,
    /// Signals, `workflow.signal`; those that cannot be delivered go to `workflow.signal.dlq`.
    pub signal: Arc<str>,
    /// The fanout exchange that tells of webhooks which were called, `flowcraft-events`.
    pub events: Arc<str>,
}

impl Names {
    /// The names with a prefix, which may be empty.
    pub fn with_prefix(prefix: &str) -> Names {
        let name = |name: &str| Arc::from(format!("{prefix}{name}"));
        let execution = format!("{prefix}workflow.execution");
        Names {
            exchange: name("workflows"),
            status: name("workflow.node.status"),
            completion: name("workflow.completion"),
            dead_letters: Arc::from(dead_letter_queue_name(&execution)),
            signal: name("workflow.signal"),
            events: name("flowcraft-events"),
            execution: Arc::from(execution),
        }
    }

    /// Refuses a store that is another installation's: its timers and runs would be taken from it.
    pub(crate) fn check_store(&self, store: &dyn Store) -> Result<(), BrokerError> {
        let of_store = store.prefix().map(Names::with_prefix);
        if of_store.is_none_or(|names| names.execution == self.execution) {
            return Ok(());
        }
        let detail = format!(
            "the store holds the runs of prefix '{}'; connect to it with the prefix of these names",
            store.prefix().unwrap_or_default()
        );
        Err(BrokerError::Undeclarable {
            what: format!("queue '{}'", self.execution),
            detail,
        })
    }

    /// What must exist, given what the worker publishes.
    pub(crate) fn topology(&self, publish: Publish) -> Topology {
        let mut bound = vec![self.execution.clone(), self.signal.clone()];
        bound.extend(self.for_others(publish));
        let mut queues: Vec<Queue> = bound
            .iter()
            .map(|name| Queue::plain(name.clone()))
            .collect();
        queues.push(Queue::plain(self.dead_letters.clone()));
        queues.push(Queue::plain(dead_letter_queue_name(&self.signal)));
        let bindings = bound
            .into_iter()
            .map(|name| Binding {
                queue: name.clone(),
                exchange: self.exchange.clone(),
                routing_key: name,
            })
            .collect();
        let exchange = |name: &Arc<str>, kind| Exchange {
            name: name.clone(),
            kind,
        };
        let exchanges = vec![
            exchange(&self.exchange, ExchangeKind::Topic),
            exchange(&self.events, ExchangeKind::Fanout),
        ];
        Topology {
            exchanges,
            queues,
            bindings,
        }
    }

    /// The queues that are for others to consume, given what the worker publishes.
    pub(crate) fn for_others(&self, publish: Publish) -> Vec<Arc<str>> {
        let status = (publish.status != StatusMessages::Off).then(|| self.status.clone());
        let completion = publish.completion.then(|| self.completion.clone());
        status.into_iter().chain(completion).collect()
    }

    /// A job that a worker publishes.
    pub(crate) fn job(&self, job: &Job) -> Publication {
        self.publication(&self.execution, to_message(job))
    }

    /// A job that a client publishes.
    pub(crate) fn job_from_client(&self, job: &Job) -> Publication {
        Publication::to_queue(self.execution.clone(), to_message(job))
    }

    pub(crate) fn status(&self, status: &NodeStatus<'_>) -> Publication {
        self.publication(&self.status, to_message(status))
    }

    /// A repeated completion has the same message id, so that consumers can recognise it.
    pub(crate) fn completion(&self, completion: &Completion<'_>) -> Publication {
        let mut message = to_message(completion);
        message.message_id = Some(Arc::from(format!("{}/completion", completion.execution_id)));
        message.correlation_id = Some(Arc::from(completion.execution_id));
        self.publication(&self.completion, message)
    }

    /// Tells of a webhook that was called.
    pub(crate) fn event(&self, event: &EventName, payload: &Json) -> Publication {
        #[derive(Serialize)]
        struct Event<'a> {
            event: &'a EventName,
            payload: &'a Json,
        }
        Publication {
            exchange: self.events.clone(),
            routing_key: Arc::from(""),
            message: to_message(&Event { event, payload }),
            copied: false,
        }
    }

    fn publication(&self, key: &Arc<str>, message: Message) -> Publication {
        Publication {
            exchange: self.exchange.clone(),
            routing_key: key.clone(),
            message,
            copied: false,
        }
    }
}

impl Default for Names {
    fn default() -> Names {
        Names::with_prefix("")
    }
}

/// Which messages a worker publishes for others to observe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Publish {
    /// Status messages of nodes.
    pub status: StatusMessages,
    /// A completion message at the end of each run.
    pub completion: bool,
}

impl Publish {
    /// Nothing: nobody outside this process could consume it.
    pub const NOTHING: Publish = Publish {
        status: StatusMessages::Off,
        completion: false,
    };
    /// Everything.
    pub const EVERYTHING: Publish = Publish {
        status: StatusMessages::All,
        completion: true,
    };
}

/// Which status messages a worker publishes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StatusMessages {
    /// `running`, `waiting`, `success` and `failed`.
    #[default]
    All,
    /// `success` and `failed`.
    Final,
    /// None.
    Off,
}

/// A job: asks a worker to execute a step. The first of a run carries the workflow.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(try_from = "Received")]
pub struct Job {
    /// The workflow's name.
    pub workflow_id: WorkflowId,
    /// The run.
    pub execution_id: RunId,
    /// The node to execute; on the first message a start node.
    pub node_id: NodeId,
    /// In which pass of the loops around it; none outside of them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scope: Option<String>,
    /// The definition; on the first message of a foreign client.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub workflow: Option<Json>,
    /// The definition's hash; on Leveret's own messages.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub workflow_hash: Option<String>,
    /// The run's input, if it is small or the message is the first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub input: Option<Json>,
    /// The edge that hands over the step's input.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub via: Option<usize>,
    /// Attempts already made.
    #[serde(skip_serializing_if = "is_zero")]
    pub attempts: u32,
    /// On the messages that begin a run whose start is recorded: nothing else of it is yet.
    #[serde(skip_serializing_if = "is_false")]
    pub fresh: bool,
    /// Asks for the run to be cancelled instead; the node does not matter then.
    #[serde(skip_serializing_if = "is_false")]
    pub cancel: bool,
    /// When that was asked for, on Leveret's own messages. Of several, the one whose time is that of the run's end tells of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cancelled_at: Option<Timestamp>,
}

/// A job as it comes: what has two names may come by either, or by both alike.
#[derive(Deserialize)]
struct Received {
    workflow_id: WorkflowId,
    execution_id: RunId,
    node_id: Option<NodeId>,
    current_node: Option<NodeId>,
    scope: Option<String>,
    workflow: Option<Json>,
    workflow_definition: Option<Json>,
    workflow_hash: Option<String>,
    input: Option<Json>,
    via: Option<usize>,
    #[serde(default)]
    attempts: u32,
    #[serde(default)]
    fresh: bool,
    #[serde(default)]
    cancel: bool,
    cancelled_at: Option<Timestamp>,
}

impl TryFrom<Received> for Job {
    type Error = &'static str;

    fn try_from(received: Received) -> Result<Job, &'static str> {
        let node_id = either(received.node_id, received.current_node)
            .map_err(|Differ| "`node_id` and `current_node` differ")?;
        let workflow = either(received.workflow, received.workflow_definition)
            .map_err(|Differ| "`workflow` and `workflow_definition` differ")?;
        Ok(Job {
            workflow_id: received.workflow_id,
            execution_id: received.execution_id,
            node_id: node_id.ok_or("missing field `node_id`")?,
            scope: received.scope,
            workflow,
            workflow_hash: received.workflow_hash,
            input: received.input,
            via: received.via,
            attempts: received.attempts,
            fresh: received.fresh,
            cancel: received.cancel,
            cancelled_at: received.cancelled_at,
        })
    }
}

struct Differ;

fn either<T: PartialEq>(one: Option<T>, other: Option<T>) -> Result<Option<T>, Differ> {
    match (one, other) {
        (Some(one), Some(other)) if one != other => Err(Differ),
        (one, other) => Ok(one.or(other)),
    }
}

#[allow(clippy::trivially_copy_pass_by_ref)] // serde's signature
fn is_zero(n: &u32) -> bool {
    *n == 0
}

#[allow(clippy::trivially_copy_pass_by_ref)] // serde's signature
fn is_false(flag: &bool) -> bool {
    !*flag
}

/// Why a message is no job.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadJob {
    /// Larger than the worker takes.
    #[error("the message has {bytes} bytes, more than the {bytes_max} allowed")]
    TooLarge {
        /// Its size.
        bytes: usize,
        /// The bound.
        bytes_max: usize,
    },
    /// Not JSON of the right form.
    #[error("not a job: {0}")]
    Malformed(String),
    /// An id is none.
    #[error("not a job: {0}")]
    Id(#[from] IdError),
    /// Its definition is not valid.
    #[error("the workflow definition is not valid: {0}")]
    Definition(String),
    /// It names a node that the workflow does not have, or one at which a run cannot start.
    #[error("{0}")]
    Node(String),
    /// No such run, and no definition to begin one.
    #[error("run {0} is not recorded and the message carries no workflow to begin it")]
    UnknownRun(RunId),
    /// It names or carries another definition than that which its run began with.
    #[error("run {0} was begun with another definition of its workflow")]
    OtherDefinition(RunId),
    /// It is the first message of a run that began with another input.
    #[error("run {0} was begun with another input")]
    OtherInput(RunId),
}

impl Job {
    /// The first attempt at a node without an input, of a recorded run.
    pub(crate) fn new(
        workflow_id: WorkflowId,
        workflow_hash: &WorkflowHash,
        execution_id: RunId,
        node_id: NodeId,
    ) -> Job {
        Job {
            workflow_id,
            execution_id,
            node_id,
            scope: None,
            workflow: None,
            workflow_hash: Some(workflow_hash.to_string()),
            input: None,
            via: None,
            attempts: 0,
            fresh: false,
            cancel: false,
            cancelled_at: None,
        }
    }

    /// The same of a step in this scope.
    pub(crate) fn within(self, scope: &Scope) -> Job {
        let scope = (!scope.is_root()).then(|| scope.as_str().to_owned());
        Job { scope, ..self }
    }

    /// Decodes strictly: required fields, their types and bounds; unknown fields are ignored.
    pub fn decode(body: &[u8], bytes_max: usize) -> Result<Job, BadJob> {
        if body.len() > bytes_max {
            return Err(BadJob::TooLarge {
                bytes: body.len(),
                bytes_max,
            });
        }
        if !begins_object(body) {
            return Err(BadJob::Malformed("it is no JSON object".to_owned()));
        }
        serde_json::from_slice(body).map_err(|error| BadJob::Malformed(error.to_string()))
    }
}

/// What happens to a step.
#[derive(Debug, Serialize)]
pub(crate) struct NodeStatus<'a> {
    pub(crate) workflow_id: &'a str,
    pub(crate) execution_id: &'a str,
    pub(crate) node_id: &'a str,
    pub(crate) node_name: &'a str,
    /// In which pass of the loops around it, if it is in one.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub(crate) scope: &'a str,
    pub(crate) status: StatusWord,
    /// As rendered; none if there are none, or if a secret is among what they are made of.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) parameters: Option<&'a serde_json::Map<String, serde_json::Value>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) output: Option<&'a Json>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) error: Option<WireError<'a>>,
    pub(crate) executed_at: String,
    pub(crate) duration_ms: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum StatusWord {
    Running,
    Success,
    Failed,
    Waiting,
}

#[derive(Debug, Serialize)]
pub(crate) struct WireError<'a> {
    pub(crate) message: &'a str,
    pub(crate) code: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) details: Option<WireErrorDetails<'a>>,
}

/// Of a node that could not be made.
#[derive(Debug, Serialize)]
pub(crate) struct WireErrorDetails<'a> {
    pub(crate) error: &'a str,
}

impl<'a> WireError<'a> {
    pub(crate) fn of(error: &'a StepError) -> WireError<'a> {
        let message = &error.message;
        let (code, details) = match error.code {
            ErrorCode::UnknownNodeType => (
                "NODE_CREATION_FAILED",
                Some(WireErrorDetails { error: message }),
            ),
            _ => ("NODE_EXECUTION_FAILED", None),
        };
        WireError {
            message,
            code,
            details,
        }
    }
}

/// How a run ended.
#[derive(Debug, Serialize)]
pub(crate) struct Completion<'a> {
    pub(crate) workflow_id: &'a str,
    pub(crate) execution_id: &'a str,
    pub(crate) status: &'static str,
    pub(crate) final_context: Json,
    /// The outputs would have made the message too large.
    #[serde(skip_serializing_if = "is_false")]
    pub(crate) final_context_left_out: bool,
    pub(crate) completed_at: String,
    pub(crate) total_duration_ms: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) failure_reason: Option<&'a str>,
}

impl<'a> Completion<'a> {
    /// `final_context` maps terminal nodes to their outputs.
    pub(crate) fn new(
        workflow_id: &'a WorkflowId,
        run_id: &'a RunId,
        end: &'a RunEnd,
        final_context: Json,
    ) -> Completion<'a> {
        Completion {
            workflow_id: workflow_id.as_str(),
            execution_id: run_id.as_str(),
            status: match end.status {
                RunStatus::Completed => "completed",
                RunStatus::Cancelled => "halted",
                RunStatus::Failed | RunStatus::Running => "failed",
            },
            final_context,
            final_context_left_out: false,
            completed_at: end.ended_at.to_string(),
            total_duration_ms: end.ended_at.ms_since(end.created_at),
            failure_reason: match end.status {
                RunStatus::Cancelled => Some("cancelled"),
                _ => end.error.as_ref().map(|error| error.message.as_str()),
            },
        }
    }

    /// The same without the outputs.
    pub(crate) fn without_context(self) -> Completion<'a> {
        Completion {
            final_context: Json::from(serde_json::json!({})),
            final_context_left_out: true,
            ..self
        }
    }
}

fn to_message(body: &impl Serialize) -> Message {
    Message::json(serde_json::to_vec(body).expect("wire types print"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// serde would take a list for an object.
    #[test]
    fn a_list_is_no_job() {
        let bad = Job::decode(br#"["w", "r", "a", null, {"id": "w"}]"#, 1000).unwrap_err();
        assert!(matches!(bad, BadJob::Malformed(_)), "{bad}");
    }

    #[test]
    fn accepts_both_spellings_of_the_first_message() {
        let job = Job::decode(
            br#"{"workflow_id":"w","execution_id":"e","current_node":"n","workflow_definition":{"id":"w"},"extra":1}"#,
            1000,
        )
        .unwrap();
        assert_eq!(job.node_id.as_str(), "n");
        assert_eq!(job.workflow.unwrap().text(), r#"{"id":"w"}"#);
        let job = Job::decode(
            br#"{"workflow_id":"w","execution_id":"e","node_id":"n","input":{"a":1}}"#,
            1000,
        )
        .unwrap();
        assert_eq!(job.input.unwrap().text(), r#"{"a":1}"#);
    }

    #[test]
    fn accepts_both_spellings_at_once_if_they_agree() {
        let decode = |nodes: &str, definition: &str| {
            let body = format!(
                r#"{{"workflow_id":"w","execution_id":"e",{nodes},"workflow":{{"id":"w","a":1}},"workflow_definition":{definition}}}"#
            );
            Job::decode(body.as_bytes(), 1000).map_err(|error| error.to_string())
        };
        let agreed = r#""node_id":"n","current_node":"n""#;
        let job = decode(agreed, r#"{ "a": 1, "id": "w" }"#).unwrap();
        assert_eq!(job.node_id.as_str(), "n");
        let error = decode(agreed, r#"{"id":"w"}"#).unwrap_err();
        assert!(
            error.contains("`workflow` and `workflow_definition` differ"),
            "{error}"
        );
        let error = decode(r#""node_id":"n","current_node":"m""#, "null").unwrap_err();
        assert!(
            error.contains("`node_id` and `current_node` differ"),
            "{error}"
        );
    }

    #[test]
    fn refuses_what_is_no_job() {
        let check = |body: &str, expect: &str| {
            let error = Job::decode(body.as_bytes(), 100).unwrap_err().to_string();
            assert!(error.contains(expect), "{error}");
        };
        check("not json", "not a job");
        check("[]", "not a job");
        check(r#"{"workflow_id":"w","execution_id":"e"}"#, "node_id");
        check(
            r#"{"workflow_id":"","execution_id":"e","node_id":"n"}"#,
            "workflow id is empty",
        );
        check(&"x".repeat(101), "more than the 100 allowed");
    }
}
