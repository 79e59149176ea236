//! One attempt of one step: parameters, the body, its bounds, and the routing of its result. Records nothing.

use std::{ops::Range, panic::AssertUnwindSafe, sync::Arc, time::Duration};

use futures_util::FutureExt;
use leveret_core::{
    expr::{Budget, EvalError, EvalScope, ItemView, ResultView, Values},
    graph::{EdgeIx, NodeIx, Place, Role},
    ids::{RunId, Scope, StepKey},
    json::Json,
    retry::Backoff,
    time::Timestamp,
    workflow::{InputRef, Inputs, NodeConfig},
};
use serde_json::{Map, Value};

use super::{
    Inner, Secrets,
    clock::Clock,
    known::{Fresh, Known, View},
    plan::Plan,
};
use crate::{
    nodes::{EachItem, NodeContext, NodeError, NodeOutput, NodeType, Seen, Verdict},
    store::{ErrorCode, Load, Outcome, RunStatus, StepError},
};

/// Longer error messages are cut.
pub(crate) const ERROR_CHARS_MAX: usize = 2000;

/// What an attempt works with.
pub(crate) struct Attempt<'a> {
    pub(crate) plan: &'a Plan,
    pub(crate) known: &'a Known,
    pub(crate) secrets: &'a dyn Secrets,
    pub(crate) run_id: &'a RunId,
    pub(crate) place: &'a Place,
    /// 1 for the first attempt.
    pub(crate) number: u32,
    pub(crate) woken: bool,
    /// What the signal brought that the step waited for.
    pub(crate) signal: Option<&'a Json>,
    pub(crate) input: &'a Json,
}

/// A failure of an attempt, and what may be done about it.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) error: StepError,
    retryable: bool,
    fatal: bool,
    retry_after: Duration,
}

impl Attempt<'_> {
    /// The node's parameters, rendered.
    pub(crate) fn params(&self) -> Result<Arc<Value>, EvalError> {
        let params = &self.plan.workflow.nodes[self.place.node].params;
        if let Some(constant) = params.constant() {
            return Ok(constant.clone());
        }
        let view = self.view(None);
        let scope = self.scope(self.input.value(), None, &view);
        let node_type = self.plan.node_type(self.place.node);
        let budget = Budget::new();
        if let Some(choice) = node_type.and_then(|node_type| node_type.choice()) {
            return Ok(Arc::new(params.render_choice(&scope, &budget, choice)?));
        }
        let urls = node_type.map_or(&[][..], |node_type| node_type.url_params());
        let rendered = params.render_with_urls(&scope, &budget, urls)?;
        Ok(Arc::new(rendered))
    }

    /// The parameter that is evaluated for each item, with what it reads.
    fn each(&self) -> Option<EachItem> {
        let each = self.plan.workflow.nodes[self.place.node].each.clone()?;
        let known = self.known;
        let reads = each.references();
        let outputs = reads.nodes.iter().filter_map(|id| {
            let node = self.plan.workflow.node_ix(id)?;
            let output = known.output_of(self.plan, node, self.place)?;
            Some((id.clone(), output.clone()))
        });
        let view = self.view(None);
        let errors = reads.node_errors.iter();
        let errors = errors.filter_map(|id| Some((id.clone(), view.node_error(id)?.clone())));
        let context = reads.context.iter();
        let context =
            context.filter_map(|key| Some((key.clone(), known.context_set(key)?.clone())));
        let secrets = reads.secrets.iter();
        let secrets = secrets.filter_map(|name| Some((name.clone(), self.secrets.secret(name)?)));
        let seen = Seen {
            input: self.input.clone(),
            run_id: self.run_id.clone(),
            run_input: known.run_input.clone().unwrap_or_default(),
            outputs: outputs.collect(),
            errors: errors.collect(),
            context: context.collect(),
            secrets: secrets.collect(),
        };
        Some(EachItem::new(each, seen))
    }

    /// Executes the node's body; retries at once as long as its policy says to retry without delay, and the run goes on.
    pub(crate) async fn run(
        &mut self,
        params: &Result<Arc<Value>, EvalError>,
        inner: &Inner,
    ) -> Outcome {
        let clock = &*inner.clock;
        loop {
            let failure = match self.try_once(params, clock.now()).await {
                Ok(Verdict::WaitUntil(until)) => {
                    return Outcome::Waiting {
                        until: Some(until),
                        wait: None,
                        error: None,
                    };
                }
                Ok(Verdict::WaitFor { wait, until }) => {
                    return Outcome::Waiting {
                        until,
                        wait: Some(wait),
                        error: None,
                    };
                }
                Ok(Verdict::Done(output)) => {
                    match self.complete(output, inner.options.output_bytes_max) {
                        Ok(outcome) => return outcome,
                        Err(failure) => failure,
                    }
                }
                Err(failure) => failure,
            };
            match self.after(failure, clock) {
                Next::Again(error) if self.is_over(inner).await => {
                    // Nobody records it: the run has ended.
                    return Outcome::Failed {
                        error,
                        fall_back: false,
                    };
                }
                Next::Again(_) => self.number += 1,
                Next::Record(outcome) => return outcome,
            }
        }
    }

    /// Whether the run was ended from outside. One whose start is still on its way to the disk was not.
    async fn is_over(&self, inner: &Inner) -> bool {
        let loaded = inner.load(self.run_id, Load::default()).await;
        matches!(loaded, Ok(Some(loaded)) if loaded.status != RunStatus::Running)
    }

    async fn try_once(
        &self,
        params: &Result<Arc<Value>, EvalError>,
        now: Timestamp,
    ) -> Result<Verdict, Failure> {
        let workflow = &self.plan.workflow;
        let node = &workflow.nodes[self.place.node];
        let Some(node_type) = self.plan.node_type(self.place.node) else {
            let message = format!("Implementation for '{}' not found.", node.uses);
            return Err(self.failure(ErrorCode::UnknownNodeType, message));
        };
        let params = params.as_ref().map_err(|error| self.of_eval(error))?;
        let ctx = NodeContext {
            workflow_id: workflow.id.clone(),
            key: StepKey {
                run_id: self.run_id.clone(),
                node_id: node.id.clone(),
                scope: self.place.scope.clone(),
            },
            attempt: self.number,
            now,
            woken: self.woken,
            signal: self.signal.cloned(),
            input: self.input.clone(),
            params: params.clone(),
            each: self.each(),
        };
        match bounded(&**node_type, ctx, node.config.timeout).await {
            Ok(result) => result.map_err(|error| self.of_node(&error)),
            Err(Broken::TimedOut(timeout)) => {
                let message = format!(
                    "node '{}' took longer than its timeout of {timeout:?}",
                    node.id
                );
                Err(Failure {
                    retryable: true,
                    ..self.failure(ErrorCode::Timeout, message)
                })
            }
            Err(Broken::Panicked(text)) => {
                let message = format!("node '{}' panicked: {text}", node.id);
                Err(Failure {
                    retryable: true,
                    ..self.failure(ErrorCode::Panicked, message)
                })
            }
        }
    }

    fn complete(&self, result: NodeOutput, output_bytes_max: usize) -> Result<Outcome, Failure> {
        let NodeOutput {
            output,
            action,
            context,
            items,
        } = result;
        let mut names = action.as_deref().into_iter();
        let is_text = |name: &str| !name.contains('\0');
        if !names.all(is_text) || !context.iter().all(|(key, _)| is_text(key)) {
            let message = "an action or a context key of the result has the character U+0000";
            return Err(self.failure(ErrorCode::NodeFailed, message.to_owned()));
        }
        let bytes = output.text().len();
        if bytes > output_bytes_max {
            let message =
                format!("the output has {bytes} bytes, more than the {output_bytes_max} allowed");
            return Err(self.failure(ErrorCode::NodeFailed, message));
        }
        let fresh = Fresh {
            node: self.place.node,
            output: &output,
            context: &context,
        };
        if self.plan.workflow.graph.role(self.place.node) == Role::Scatter {
            let Some(items) = items else {
                let message = "a scatter has no items".to_owned();
                return Err(self.failure(ErrorCode::NodeFailed, message));
            };
            let scope = |(index, item)| (self.place.scope.item(index), item);
            return Ok(Outcome::Completed {
                output,
                action,
                // Every item takes all of them.
                taken: Vec::new(),
                context,
                items: Some((0..).zip(items).map(scope).collect()),
            });
        }
        let taken = self
            .route(fresh, action.as_deref())
            .map_err(|error| self.of_eval(&error))?;
        Ok(Outcome::Completed {
            output,
            action,
            taken,
            context,
            items: None,
        })
    }

    /// The edges that a result takes: those with its action; if there are none, those without an action; conditions must hold. Of a loop's
    /// controller, those whose condition holds come first, whatever their action.
    fn route(&self, fresh: Fresh<'_>, action: Option<&str>) -> Result<Vec<EdgeIx>, EvalError> {
        let edges = &self.plan.workflow.edges;
        let budget = Budget::new();
        let holds = |edge: EdgeIx| {
            let Some(condition) = &edges[edge].condition else {
                return Ok(true);
            };
            let output = fresh.output.value();
            let view = self.view(Some(fresh));
            let result = ResultView { output, action };
            condition.eval_bool(&self.scope(output, Some(result), &view), &budget)
        };
        let graph = &self.plan.workflow.graph;
        if graph.role(self.place.node) == Role::Loop {
            let conditional = graph.routed(self.place.node);
            let mut taken = Vec::new();
            for edge in conditional.filter(|&edge| edges[edge].condition.is_some()) {
                if holds(edge)? {
                    taken.push(edge);
                }
            }
            if !taken.is_empty() {
                return Ok(taken);
            }
        }
        let select = |wanted: Option<&str>| -> Result<Vec<EdgeIx>, EvalError> {
            let mut taken = Vec::new();
            for edge in self.plan.workflow.graph.routed(self.place.node) {
                let is_for = edges[edge].action.as_deref() == wanted && !edges[edge].on_failure;
                if is_for && holds(edge)? {
                    taken.push(edge);
                }
            }
            Ok(taken)
        };
        if let Some(action) = action.filter(|action| !action.is_empty()) {
            let taken = select(Some(action))?;
            if !taken.is_empty() {
                return Ok(taken);
            }
        }
        select(None)
    }

    fn after(&self, failure: Failure, clock: &dyn Clock) -> Next {
        let config = &self.plan.workflow.nodes[self.place.node].config;
        if !failure.retryable || self.number >= config.attempts_max {
            return Next::Record(Outcome::Failed {
                error: failure.error,
                fall_back: !failure.fatal,
            });
        }
        let delay = backoff_of(config).after(self.number, clock.random());
        let delay = delay.max(failure.retry_after);
        if delay.is_zero() {
            return Next::Again(failure.error);
        }
        Next::Record(Outcome::Waiting {
            until: Some(clock.now() + delay),
            wait: None,
            error: Some(failure.error),
        })
    }

    fn failure(&self, code: ErrorCode, message: String) -> Failure {
        self.failure_in(ERROR_CHARS_MAX, code, message)
    }

    fn failure_in(&self, chars_max: usize, code: ErrorCode, message: String) -> Failure {
        Failure {
            error: error_of(
                code,
                (message, chars_max),
                self.plan,
                self.place.node,
                self.secrets,
            ),
            retryable: false,
            fatal: false,
            retry_after: Duration::ZERO,
        }
    }

    fn of_eval(&self, error: &EvalError) -> Failure {
        self.failure(ErrorCode::Expression, error.to_string())
    }

    fn of_node(&self, error: &NodeError) -> Failure {
        let chars_max = error.chars_max().min(ERROR_CHARS_MAX);
        let message = error.message().to_owned();
        let code = if error.is_of_expression() {
            ErrorCode::Expression
        } else {
            ErrorCode::NodeFailed
        };
        let mut failure = self.failure_in(chars_max, code, message);
        failure.error.status = error.status();
        Failure {
            retryable: error.is_retryable(),
            fatal: error.is_fatal(),
            retry_after: error.retry_after().unwrap_or_default(),
            ..failure
        }
    }

    fn view<'b>(&'b self, fresh: Option<Fresh<'b>>) -> View<'b> {
        View {
            plan: self.plan,
            known: self.known,
            secrets: self.secrets,
            reader: self.place,
            fresh,
        }
    }

    fn scope<'b>(
        &'b self,
        input: &'b Value,
        result: Option<ResultView<'b>>,
        values: &'b View<'b>,
    ) -> EvalScope<'b> {
        EvalScope {
            item: item_view(self.plan, self.known, self.place),
            input,
            run_id: self.run_id.as_str(),
            run_input: self
                .known
                .run_input
                .as_ref()
                .map_or(&Value::Null, Json::value),
            values,
            result,
        }
    }
}

/// A step's error with a text that can be stored. It is cut last: a part of a secret would not be known as such.
pub(crate) fn error_of(
    code: ErrorCode,
    (message, chars_max): (String, usize),
    plan: &Plan,
    node: NodeIx,
    secrets: &dyn Secrets,
) -> StepError {
    let message = without_secrets(message, plan, secrets);
    let message = match message.char_indices().nth(chars_max) {
        Some((end, _)) => format!("{}…", &message[..end]),
        None => message,
    };
    StepError {
        message,
        code,
        node_id: plan.node_id(node).clone(),
        status: None,
    }
}

/// An error's text, which is stored and shown, without the secrets that the workflow reads: a node's type may have told what it was given.
fn without_secrets(text: String, plan: &Plan, secrets: &dyn Secrets) -> String {
    let values = plan
        .secrets()
        .iter()
        .filter_map(|name| secrets.secret(name));
    without(text, values)
}

/// The text without the values: as they are, as `{:?}` quotes them, and as JSON does. They may overlap, or be parts of each other.
fn without(text: String, values: impl Iterator<Item = String>) -> String {
    let mut found: Vec<Range<usize>> = Vec::new();
    for value in values {
        let (debug, json) = (format!("{value:?}"), Value::from(&*value).to_string());
        let inside = |quoted: &str| quoted[1..quoted.len() - 1].to_owned();
        for form in [inside(&debug), inside(&json), value] {
            if !form.is_empty() {
                let at = text.match_indices(&form).map(|(at, _)| at..at + form.len());
                found.extend(at);
            }
        }
    }
    if found.is_empty() {
        return text;
    }
    found.sort_unstable_by_key(|range| (range.start, range.end));
    let mut cleaned = String::with_capacity(text.len());
    let mut end = 0;
    for range in found {
        if range.start >= end {
            cleaned.push_str(&text[end..range.start]);
            cleaned.push_str("[secret]");
        }
        end = end.max(range.end);
    }
    cleaned.push_str(&text[end..]);
    cleaned
}

enum Next {
    Again(StepError),
    Record(Outcome),
}

enum Broken {
    TimedOut(Duration),
    Panicked(String),
}

async fn bounded(
    node_type: &dyn NodeType,
    ctx: NodeContext,
    timeout: Option<Duration>,
) -> Result<Result<Verdict, NodeError>, Broken> {
    let body = AssertUnwindSafe(node_type.execute(ctx)).catch_unwind();
    let result = match timeout {
        None => body.await,
        Some(timeout) => tokio::time::timeout(timeout, body)
            .await
            .map_err(|_| Broken::TimedOut(timeout))?,
    };
    result.map_err(|panic| {
        let text = panic.downcast_ref::<&str>().map(ToString::to_string);
        Broken::Panicked(
            text.or_else(|| panic.downcast_ref::<String>().cloned())
                .unwrap_or_default(),
        )
    })
}

fn backoff_of(config: &NodeConfig) -> Backoff {
    Backoff {
        delay: config.retry_delay,
        delay_max: config.retry_delay_max,
        factor: config.retry_factor,
        jitter: config.retry_jitter,
    }
}

/// What the steps of a run read: what inputs and edges say is made of it.
pub(crate) struct Reads<'a> {
    pub(crate) plan: &'a Plan,
    pub(crate) known: &'a Known,
    pub(crate) secrets: &'a dyn Secrets,
    pub(crate) run_id: &'a RunId,
    /// What is copied is taken from it.
    pub(crate) budget: &'a Budget,
}

/// The item that a reader sees, if it is known.
fn item_view<'a>(plan: &Plan, known: &'a Known, reader: &Place) -> Option<ItemView<'a>> {
    let (place, index) = plan.workflow.graph.item_of(reader)?;
    let item = known.node(&place)?.output.value();
    let index = index as usize;
    Some(ItemView { item, index })
}

/// Where the names on an edge are read whose source stands in `scope`. A loop that ended stands around its passes.
pub(crate) fn reader_of(plan: &Plan, edge: EdgeIx, scope: &Scope) -> Place {
    let graph = &plan.workflow.graph;
    let ends = graph.edge(edge);
    let scope = scope.clone();
    let node = if graph.leaves(edge) {
        ends.target
    } else {
        ends.source
    };
    Place { node, scope }
}

impl Reads<'_> {
    /// The input of a step as its node's `inputs` say; `handed` is what came over the edge.
    pub(crate) fn input_of(&self, place: &Place, handed: &Json) -> Result<Json, EvalError> {
        let Reads { plan, known, .. } = *self;
        match &plan.workflow.nodes[place.node].inputs {
            Inputs::Handed => Ok(handed.clone()),
            Inputs::One(InputRef::Node { ix, path }) if path.is_empty() => {
                let output = known.output_of(plan, *ix, place);
                Ok(output.cloned().unwrap_or_default())
            }
            Inputs::One(InputRef::Named { ix }) => Ok(self.named(*ix, place).unwrap_or_default()),
            Inputs::One(InputRef::Handed { ix }) => self.handed_to(*ix, place, handed),
            Inputs::One(input) => Ok(Json::from(self.resolve(input, place, handed)?)),
            Inputs::Map(inputs) => {
                let mut map = Map::new();
                for (name, input) in inputs {
                    map.insert(name.to_string(), self.resolve(input, place, handed)?);
                }
                Ok(Json::from(Value::Object(map)))
            }
        }
    }

    fn resolve(&self, input: &InputRef, place: &Place, handed: &Json) -> Result<Value, EvalError> {
        let Reads { plan, known, .. } = *self;
        let copy = |value: Option<&Value>, name: &str| {
            value.map_or(Ok(Value::Null), |value| self.budget.copy(value, name))
        };
        let name = |of: NodeIx| plan.node_id(of).as_str();
        match input {
            InputRef::Node { ix, path } => {
                let output = known.output_of(plan, *ix, place).map(Json::value);
                copy(walk(output, path), name(*ix))
            }
            InputRef::Named { ix } => {
                let named = self.named(*ix, place);
                copy(named.as_ref().map(Json::value), name(*ix))
            }
            InputRef::Handed { ix } => {
                let handed = self.handed_to(*ix, place, handed)?;
                copy(Some(handed.value()), name(*ix))
            }
            InputRef::Context { key } => copy(known.context_value(key), key),
            InputRef::Expression(expression) => {
                let scope = EdgeScope::new(self, place, handed.value());
                expression.eval(&scope.scope(), self.budget)
            }
        }
    }

    /// A node's output, else the context key of its name.
    fn named(&self, node: NodeIx, reader: &Place) -> Option<Json> {
        let Reads { plan, known, .. } = *self;
        let context = || known.context_value(plan.node_id(node).as_str()).cloned();
        let output = known.output_of(plan, node, reader).cloned();
        output.or_else(|| context().map(Json::from))
    }

    /// What was handed over to a node that a step names; `handed` is what came to the step itself.
    fn handed_to(&self, of: NodeIx, reader: &Place, handed: &Json) -> Result<Json, EvalError> {
        let graph = &self.plan.workflow.graph;
        if graph.receiver(of) == graph.receiver(reader.node) {
            return Ok(handed.clone());
        }
        self.handed_over(graph.receiver(of), reader)
    }

    /// What was handed over to another node: the run's input to a start node, null to one that was not reached yet.
    fn handed_over(&self, node: NodeIx, reader: &Place) -> Result<Json, EvalError> {
        let Reads { plan, known, .. } = *self;
        let graph = &plan.workflow.graph;
        if graph.incoming(node).is_empty() {
            return Ok(known.run_input.clone().unwrap_or_default());
        }
        let place = known.meant(plan, node, reader);
        let via = |place: &Place| known.node(place).and_then(|value| value.via);
        let Some((edge, place)) = place.and_then(|place| Some((via(&place)?, place))) else {
            return Ok(Json::null());
        };
        let output = self.output_over(edge, &place);
        let made = self.transformed(edge, &place, &output)?;
        Ok(made.unwrap_or(output))
    }

    /// What an edge hands over to a step: the output of its source, or, of an edge on failure, the error.
    pub(crate) fn output_over(&self, edge: EdgeIx, target: &Place) -> Json {
        let graph = &self.plan.workflow.graph;
        let node = graph.edge(edge).source;
        let scope = graph.source_scope(edge, target);
        let source = Place { node, scope };
        if graph.is_on_failure(edge) {
            let error = self.known.failure(self.plan, &source);
            return error.cloned().map(Json::from).unwrap_or_default();
        }
        let output = self.known.output(self.plan, &source);
        output.cloned().unwrap_or_default()
    }

    /// What an edge hands over of `output` to a step: the output itself, or what its transform makes of it. A transform's `input` is what the
    /// target's single `inputs` names, if it names something.
    pub(crate) fn transformed(
        &self,
        edge: EdgeIx,
        target: &Place,
        output: &Json,
    ) -> Result<Option<Json>, EvalError> {
        let Reads { plan, known, .. } = *self;
        let Some(transform) = &plan.workflow.edges[edge].transform else {
            return Ok(None);
        };
        let base = match &plan.workflow.nodes[target.node].inputs {
            Inputs::Handed | Inputs::One(InputRef::Handed { .. }) | Inputs::Map(_) => {
                output.clone()
            }
            Inputs::One(_) => self.input_of(target, output)?,
        };
        let graph = &plan.workflow.graph;
        let scope = graph.source_scope(edge, target);
        let reader = reader_of(plan, edge, &scope);
        let node = graph.edge(edge).source;
        let mut edge_scope = EdgeScope::new(self, &reader, base.value());
        let source = Place { node, scope };
        edge_scope.result = known.node(&source).map(|value| ResultView {
            output: output.value(),
            action: value.action.as_deref(),
        });
        transform
            .eval(&edge_scope.scope(), self.budget)
            .map(|value| Some(Json::from(value)))
    }
}

fn walk<'a>(value: Option<&'a Value>, path: &[Arc<str>]) -> Option<&'a Value> {
    path.iter().try_fold(value?, |value, name| match value {
        Value::Array(items) => items.get(name.parse::<usize>().ok()?),
        other => other.get(&**name),
    })
}

/// What an expression on an edge, or in a node's `inputs`, sees.
struct EdgeScope<'a> {
    view: View<'a>,
    run_id: &'a RunId,
    input: &'a Value,
    result: Option<ResultView<'a>>,
}

impl<'a> EdgeScope<'a> {
    fn new(reads: &Reads<'a>, reader: &'a Place, input: &'a Value) -> EdgeScope<'a> {
        EdgeScope {
            view: View {
                plan: reads.plan,
                known: reads.known,
                secrets: reads.secrets,
                reader,
                fresh: None,
            },
            run_id: reads.run_id,
            input,
            result: None,
        }
    }

    fn scope(&self) -> EvalScope<'_> {
        let View {
            plan,
            known,
            reader,
            ..
        } = self.view;
        EvalScope {
            item: item_view(plan, known, reader),
            input: self.input,
            run_id: self.run_id.as_str(),
            run_input: self
                .view
                .known
                .run_input
                .as_ref()
                .map_or(&Value::Null, Json::value),
            values: &self.view,
            result: self.result,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leaves_out_secrets_that_are_parts_of_others_or_quoted() {
        let check = |text: &str, secrets: &[&str], expect: &str| {
            let secrets = secrets.iter().map(ToString::to_string);
            assert_eq!(without(text.to_owned(), secrets), expect);
        };
        check("no", &["key", ""], "no");
        check("a key, a key!", &["key"], "a [secret], a [secret]!");
        check(
            "it is hunter2-tail",
            &["hunter", "hunter2-tail"],
            "it is [secret]",
        );
        check(
            "it is hunter2-tail",
            &["tail", "hunter2-tail"],
            "it is [secret]",
        );
        check("abcd", &["abc", "bcd"], "[secret]");
        check("abcd", &["ab", "cd"], "[secret][secret]");
        let secret = "it's\"a\u{7f}\\\nkey";
        let quoted = format!("{secret:?} {}", Value::from(secret));
        check(&quoted, &[secret], r#""[secret]" "[secret]""#);
    }
}
