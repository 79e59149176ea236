//! Node types: what the nodes of workflows can do.
//!
//! A node type is a Rust value that implements [`NodeType`]; for most, a function is enough:
//!
//! ```no_run
//! use leveret::nodes::{NodeContext, Registry};
//!
//! let mut nodes = Registry::builtin();
//! nodes.register_fn("greet", |ctx: NodeContext| async move {
//!     Ok(serde_json::json!({ "hello": ctx.input.value()["name"] }))
//! });
//! ```

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    future::Future,
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use leveret_core::{
    ids::{StepKey, WorkflowId},
    json::Json,
    parse::{NodeCatalog, ParamProblem},
    template::Choice,
    time::Timestamp,
    workflow::{BATCH_GATHER, BATCH_SCATTER, LOOP_CONTROLLER},
};
use serde_json::Value;

use crate::store::Wait;

mod approve;
mod batch_gather;
mod batch_scatter;
mod check;
mod datetime;
mod each;
mod edit;
mod fail;
mod filter;
mod http;
mod limit;
mod log;
mod loop_controller;
mod map;
mod set;
mod sleep;
mod sort;
mod switch;
mod wait;
pub(crate) mod webhook;

pub(crate) use self::each::Seen;
pub use self::each::{EachItem, WORK_PER_ITEM};
pub use self::http::{HttpOptions, Proxies, ProxyError, Reach, ReachError};

/// Where the API is reached, unless it is said.
const PUBLIC_URL: &str = "http://127.0.0.1:7070";

/// A node type. Shared by all steps that use it, so `execute` takes `&self`.
#[async_trait]
pub trait NodeType: Send + Sync + 'static {
    /// Whether a step has no effect outside its run, so that executing it again after a crash cannot be noticed. Consecutive pure
    /// steps share one commit. Default: not pure.
    fn is_pure(&self) -> bool {
        false
    }

    /// Checks a node's parameters when its workflow is loaded: all that is wrong with them. Strings with `{{ … }}` stand for any value.
    fn check_params(&self, params: &Value) -> Vec<ParamProblem> {
        let _ = params;
        Vec::new()
    }

    /// The actions that a node with these parameters can give, where that is known when its workflow is loaded: an edge for another action is
    /// probably a mistake, and gets a warning. Default: not known.
    fn actions(&self, params: &Value) -> Option<Vec<String>> {
        let _ = params;
        None
    }

    /// The secrets that a node with these parameters reads beside those of its expressions: the parameter that names each, and the name. A workflow
    /// that does not declare one is not valid. Default: none.
    fn secrets(&self, params: &Value) -> Vec<(&'static str, String)> {
        let _ = params;
        Vec::new()
    }

    /// The parameters that are URLs. In a text of one that has `{{ … }}` beside other text, what an expression comes to is percent-encoded, so that it
    /// stays within its segment of the path or its value of the query. Default: none.
    fn url_params(&self) -> &'static [&'static str] {
        &[]
    }

    /// The parameters by which a node chooses, if it does: they are evaluated in order, and no further than what is chosen. Default: none.
    fn choice(&self) -> Option<Choice> {
        None
    }

    /// Executes a step: at least once per step, its result is recorded exactly once. Dropping the future must end the work
    /// (timeouts and shutdown do so).
    async fn execute(&self, ctx: NodeContext) -> Result<Verdict, NodeError>;
}

/// What a step's execution knows.
#[derive(Clone)]
pub struct NodeContext {
    /// The run's workflow.
    pub workflow_id: WorkflowId,
    /// Run, node and scope. Its [`idempotency_key`](StepKey::idempotency_key) is the same in every attempt.
    pub key: StepKey,
    /// 1 for the first attempt.
    pub attempt: u32,
    /// When the attempt began.
    pub now: Timestamp,
    /// The step waited, as it asked, and its time or its signal has come.
    pub woken: bool,
    /// What the signal brought that the step waited for, if it has come.
    pub signal: Option<Json>,
    /// The step's input.
    pub input: Json,
    /// The node's parameters, rendered, without `each`.
    pub params: Arc<Value>,
    /// The parameter that is evaluated for each item of the input, if it is given: see [`each_param`](leveret_core::each::each_param).
    pub each: Option<EachItem>,
}

impl fmt::Debug for NodeContext {
    /// Without input and parameters, which may hold secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NodeContext")
            .field("key", &self.key)
            .field("attempt", &self.attempt)
            .finish_non_exhaustive()
    }
}

/// What a step's execution came to.
#[derive(Clone, Debug)]
pub enum Verdict {
    /// The step is done.
    Done(NodeOutput),
    /// The step sleeps, in the store and not in memory, and is executed again at this time with [`NodeContext::woken`]. It may sleep as often
    /// as it likes; from the second time on that counts as an attempt.
    WaitUntil(Timestamp),
    /// As [`WaitUntil`](Self::WaitUntil), until a signal has come, or at the latest until this time, if there is one. [`NodeContext::signal`] is what
    /// it brought.
    WaitFor {
        /// The signal.
        wait: Wait,
        /// The latest time.
        until: Option<Timestamp>,
    },
}

/// A step's result.
#[derive(Clone, Debug, Default)]
pub struct NodeOutput {
    /// The output.
    pub output: Json,
    /// Routes: edges with this `action` are taken.
    pub action: Option<Arc<str>>,
    /// Values set in the run's context, read as `context.<key>`.
    pub context: Vec<(Arc<str>, Json)>,
    /// The items of a batch, from a type that is registered as [`BATCH_SCATTER`]; of no meaning from any other.
    pub items: Option<Vec<Json>>,
}

impl From<NodeOutput> for Verdict {
    fn from(output: NodeOutput) -> Verdict {
        Verdict::Done(output)
    }
}

impl From<Json> for Verdict {
    fn from(output: Json) -> Verdict {
        Verdict::Done(NodeOutput {
            output,
            ..NodeOutput::default()
        })
    }
}

impl From<Value> for Verdict {
    fn from(output: Value) -> Verdict {
        Json::from(output).into()
    }
}

/// Why a step's execution failed. Says whether a retry helps.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct NodeError {
    message: String,
    chars_max: usize,
    kind: Kind,
    of_expression: bool,
    status: Option<u16>,
    retry_after: Option<Duration>,
}

/// The longest wait that a failure may ask for.
pub const RETRY_AFTER_MAX: Duration = Duration::from_secs(86_400);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Transient,
    Permanent,
    Fatal,
}

impl NodeError {
    /// A failure that another attempt may not have: retried within the node's `maxRetries`, then its fallback runs.
    pub fn transient(message: impl Into<String>) -> NodeError {
        NodeError::new(message.into(), Kind::Transient)
    }

    /// A failure that every attempt would have: not retried; the node's fallback runs.
    pub fn permanent(message: impl Into<String>) -> NodeError {
        NodeError::new(message.into(), Kind::Permanent)
    }

    /// A failure that nothing may cover up: neither retried nor handed to the fallback.
    pub fn fatal(message: impl Into<String>) -> NodeError {
        NodeError::new(message.into(), Kind::Fatal)
    }

    fn new(message: String, kind: Kind) -> NodeError {
        NodeError {
            message,
            chars_max: usize::MAX,
            kind,
            of_expression: false,
            status: None,
            retry_after: None,
        }
    }

    /// A permanent failure of an expression that the node type evaluated.
    pub(crate) fn of_expression(message: impl Into<String>) -> NodeError {
        NodeError {
            of_expression: true,
            ..NodeError::permanent(message)
        }
    }

    /// Whether it is one of an expression.
    pub(crate) fn is_of_expression(&self) -> bool {
        self.of_expression
    }

    /// With the status of the response that was no result: `nodes.ID.error.status`.
    #[must_use]
    pub fn with_status(self, status: u16) -> NodeError {
        let status = Some(status);
        NodeError { status, ..self }
    }

    /// Another attempt is made after this time at the earliest, and not later than [`RETRY_AFTER_MAX`] for its sake, if there is another attempt.
    #[must_use]
    pub fn after(self, wait: Duration) -> NodeError {
        let retry_after = Some(wait.min(RETRY_AFTER_MAX));
        NodeError {
            retry_after,
            ..self
        }
    }

    /// Of the message no more is to be told. What cuts a message itself may leave a part of a secret, which nobody can tell from other text.
    pub(crate) fn cut_to(self, chars_max: usize) -> NodeError {
        NodeError { chars_max, ..self }
    }

    pub(crate) fn chars_max(&self) -> usize {
        self.chars_max
    }

    /// The status of a response, if it was one that made the failure.
    pub fn status(&self) -> Option<u16> {
        self.status
    }

    /// How long to wait for another attempt, at least.
    pub fn retry_after(&self) -> Option<Duration> {
        self.retry_after
    }

    /// Whether another attempt may succeed.
    pub fn is_retryable(&self) -> bool {
        self.kind == Kind::Transient
    }

    /// Whether even the fallback is out of question.
    pub fn is_fatal(&self) -> bool {
        self.kind == Kind::Fatal
    }

    /// The message.
    pub fn message(&self) -> &str {
        &self.message
    }
}

/// The node types that a worker knows, by name.
#[derive(Clone, Default)]
pub struct Registry {
    types: HashMap<Arc<str>, Arc<dyn NodeType>>,
}

impl Registry {
    /// No node types.
    pub fn empty() -> Registry {
        Registry::default()
    }

    /// The built-in node types: `set`, `switch`, `loop-controller`, `batch-scatter`, `batch-gather`, `http`, `sleep`, `wait`, `webhook`, `approve`,
    /// `log` and `fail`, those over lists (`map`, `filter`, `sort`, `limit`), `edit` and `datetime`. Some have further names, which flowcraft
    /// blueprints use: `start` and `join` are `set`, `error` is `fail`, `SleepNode` is `sleep`, `WaitNode` is `wait`, `WebhookNode` is `webhook`.
    pub fn builtin() -> Registry {
        Registry::builtin_with(HttpOptions::default()).expect("there is no proxy")
    }

    /// As [`builtin`](Self::builtin), with what `http` nodes use. Fails if the URL of a proxy is none.
    pub fn builtin_with(http: HttpOptions) -> Result<Registry, ProxyError> {
        let mut registry = Registry::empty();
        registry.register("set", set::Set);
        registry.register("start", set::Set);
        registry.register("join", set::Set);
        registry.register("http", http::Http::new(http)?);
        registry.register("log", log::Log);
        registry.register("fail", fail::Fail);
        registry.register("error", fail::Fail);
        registry.register("sleep", sleep::Sleep);
        registry.register("SleepNode", sleep::Sleep);
        registry.register("wait", wait::Wait);
        registry.register("WaitNode", wait::Wait);
        registry.register("approve", approve::Approve);
        registry.set_public_url(PUBLIC_URL);
        registry.register("switch", switch::Switch);
        registry.register("map", map::Map);
        registry.register("filter", filter::Filter);
        registry.register("sort", sort::Sort);
        registry.register("limit", limit::Limit);
        registry.register("edit", edit::Edit);
        registry.register("datetime", datetime::Datetime);
        registry.register(LOOP_CONTROLLER, loop_controller::LoopController);
        registry.register(BATCH_SCATTER, batch_scatter::BatchScatter);
        registry.register(BATCH_GATHER, batch_gather::BatchGather);
        Ok(registry)
    }

    /// Where others reach the API, which is what `webhook` nodes tell them: `https://example.com`, without a path. Default:
    /// `http://127.0.0.1:7070`.
    pub fn set_public_url(&mut self, url: &str) -> &mut Registry {
        let public_url: Arc<str> = Arc::from(url.trim_end_matches('/'));
        for name in ["webhook", "WebhookNode"] {
            let public_url = public_url.clone();
            self.register(name, webhook::Webhook { public_url });
        }
        self
    }

    /// Adds a node type, in place of one of the same name. One named `map`, `filter` or `sort` gets the parameter that is evaluated for each
    /// item, by [`each_param`](leveret_core::each::each_param), in [`NodeContext::each`].
    pub fn register(&mut self, name: &str, node_type: impl NodeType) -> &mut Registry {
        self.types.insert(Arc::from(name), Arc::new(node_type));
        self
    }

    /// Adds a function as a node type that is not pure.
    pub fn register_fn<F, Fut, T>(&mut self, name: &str, function: F) -> &mut Registry
    where
        F: Fn(NodeContext) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<T, NodeError>> + Send + 'static,
        T: Into<Verdict> + 'static,
    {
        self.register(
            name,
            Function {
                function,
                pure: false,
            },
        )
    }

    /// Adds a function without effects outside the run: see [`NodeType::is_pure`].
    pub fn register_pure_fn<F, Fut, T>(&mut self, name: &str, function: F) -> &mut Registry
    where
        F: Fn(NodeContext) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<T, NodeError>> + Send + 'static,
        T: Into<Verdict> + 'static,
    {
        self.register(
            name,
            Function {
                function,
                pure: true,
            },
        )
    }

    /// A node type by name.
    pub fn get(&self, name: &str) -> Option<&Arc<dyn NodeType>> {
        self.types.get(name)
    }
}

impl fmt::Debug for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set()
            .entries(self.types.keys().collect::<std::collections::BTreeSet<_>>())
            .finish()
    }
}

impl NodeCatalog for Registry {
    fn contains(&self, uses: &str) -> bool {
        self.types.contains_key(uses)
    }

    fn names(&self) -> Vec<String> {
        let sorted: BTreeMap<_, _> = self.types.iter().collect();
        sorted.keys().map(ToString::to_string).collect()
    }

    fn check_params(&self, uses: &str, params: &Value) -> Vec<ParamProblem> {
        let node_type = self.types.get(uses);
        node_type.map_or_else(Vec::new, |node_type| node_type.check_params(params))
    }

    fn actions(&self, uses: &str, params: &Value) -> Option<Vec<String>> {
        self.types.get(uses)?.actions(params)
    }

    fn secrets(&self, uses: &str, params: &Value) -> Vec<(&'static str, String)> {
        let node_type = self.types.get(uses);
        node_type.map_or_else(Vec::new, |node_type| node_type.secrets(params))
    }
}

struct Function<F> {
    function: F,
    pure: bool,
}

#[async_trait]
impl<F, Fut, T> NodeType for Function<F>
where
    F: Fn(NodeContext) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<T, NodeError>> + Send + 'static,
    T: Into<Verdict> + 'static,
{
    fn is_pure(&self) -> bool {
        self.pure
    }

    async fn execute(&self, ctx: NodeContext) -> Result<Verdict, NodeError> {
        (self.function)(ctx).await.map(Into::into)
    }
}

/// The input as a list.
fn list_of(input: &Json) -> Result<&[Value], NodeError> {
    match input.value() {
        Value::Array(items) => Ok(items),
        other => {
            let found = leveret_core::edit::kind(other);
            let message = format!("the input must be a list, not {found}");
            Err(NodeError::permanent(message))
        }
    }
}

/// Reads parameters with a serde type; problems name the parameter. For node types.
pub(crate) fn params<T: serde::de::DeserializeOwned>(params: &Value) -> Result<T, NodeError> {
    let params = if params.is_null() {
        &Value::Object(serde_json::Map::new())
    } else {
        params
    };
    T::deserialize(params).map_err(|error| NodeError::permanent(format!("parameters: {error}")))
}

/// The actions, unless one is made by a template.
fn known_actions<'a>(actions: impl Iterator<Item = &'a Value>) -> Option<Vec<String>> {
    let known = actions.map(|action| {
        let text = action.as_str().filter(|text| !text.contains("{{"));
        text.map(str::to_owned)
    });
    known.collect()
}

#[cfg(test)]
mod tests;
