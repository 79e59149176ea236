//! Approvals: what waits for whom, and decisions.

use axum::{
    extract::{Path, Request, State},
    http::StatusCode,
    response::Response,
};
use leveret_core::{
    form::check_data,
    ids::{EventName, NodeId, RunId, WorkflowId},
    json::Json,
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use utoipa::{IntoParams, ToSchema};

use super::{
    Api, answer,
    extract::{NoQuery, Params},
    page::{self, Page},
    problem::{Problem, ProblemBody},
    schema::{self, NodeInPath},
    signals::{body, deliver, refusal},
};
use crate::store::{Addressee, NewSignal, Signalled, WaitFilter, WaitKind, WaitRecord};

/// A step that waits for a decision.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ApprovalItem {
    /// The run.
    #[schema(value_type = String)]
    pub run_id: RunId,
    /// Its workflow.
    #[schema(value_type = String)]
    pub workflow_id: WorkflowId,
    /// The node.
    #[schema(value_type = String)]
    pub node_id: NodeId,
    /// In which pass of the loops around it; empty outside of them.
    pub scope: String,
    /// For what; null if the node does not say.
    #[schema(value_type = Option<String>)]
    pub title: Value,
    /// Who is asked: a text, a list of them, or null.
    #[schema(value_type = serde_json::Value)]
    pub to: Value,
    /// The JSON Schema of what is given with the decision; null if that may be anything.
    #[schema(value_type = serde_json::Value)]
    pub form: Value,
    /// Since when, RFC 3339.
    #[schema(format = DateTime)]
    pub since: String,
    /// Until when, RFC 3339; null if for ever.
    #[schema(format = DateTime)]
    pub deadline: Option<String>,
}

impl From<WaitRecord> for ApprovalItem {
    fn from(record: WaitRecord) -> ApprovalItem {
        let about = record.wait.about.value();
        ApprovalItem {
            title: about["title"].clone(),
            to: about["to"].clone(),
            form: about["form"].clone(),
            run_id: record.key.run_id,
            node_id: record.key.node_id,
            scope: record.key.scope.as_str().to_owned(),
            workflow_id: record.workflow_id,
            since: record.since.to_string(),
            deadline: record.until.map(|until| until.to_string()),
        }
    }
}

/// Which approvals are listed.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct ListQuery {
    /// Only those of this run.
    #[param(schema_with = schema::id)]
    run_id: Option<String>,
    /// Items at most.
    #[param(minimum = 1, maximum = 500, default = 50)]
    limit: Option<u32>,
    /// The `next` of the page before.
    #[param(min_length = 1)]
    after: Option<String>,
}

/// Lists what waits for a decision, the longest first.
#[utoipa::path(get, path = "/api/v1/approvals", operation_id = "list_approvals", tag = "runs", params(ListQuery),
    responses(
        (status = 200, description = "A page", body = Page<ApprovalItem>),
        (status = 400, description = "Not a query", body = ProblemBody, content_type = "application/problem+json"),
        (status = 503, description = "Not available now", body = ProblemBody, content_type = "application/problem+json"),
    ))]
pub(super) async fn list(
    State(api): State<Api>,
    Params(query): Params<ListQuery>,
) -> Result<Response, Problem> {
    let limit = page::limit(query.limit)?;
    let after = query.after.map(|cursor| {
        let text = page::decode(&cursor)?;
        text.parse::<u64>().map_err(|_| {
            Problem::bad_request("after is no cursor: take it from `next` of the page before")
        })
    });
    let filter = WaitFilter {
        run_id: query.run_id.map(RunId::new).transpose()?,
        kind: Some(WaitKind::Approval),
        after: after.transpose()?,
        limit: limit + 1,
    };
    let waits = api.engine.store().waits(&filter).await?;
    let cursor = |record: &WaitRecord| page::encode(&record.number.to_string());
    let page = Page::cut(waits, limit, cursor, ApprovalItem::from);
    Ok(answer::json(StatusCode::OK, &page))
}

/// A decision.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct DecisionBody {
    /// What is decided.
    decision: Decision,
    /// What is given with it: as the node's form says, where it has one. A rejection may go without.
    #[serde(default)]
    #[schema(value_type = Option<serde_json::Value>)]
    data: Json,
    /// By whom.
    #[serde(default)]
    #[schema(max_length = 200)]
    by: Option<String>,
}

/// The decisions, which are also the actions of the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum Decision {
    /// Yes.
    Approve,
    /// No.
    Reject,
}

/// A decision that is recorded: the output of the node.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Decided {
    /// What is decided.
    decision: Decision,
    /// What was given with it.
    #[schema(value_type = serde_json::Value)]
    data: Json,
    /// By whom, if that was said.
    by: Option<String>,
    /// When, RFC 3339.
    #[schema(format = DateTime)]
    at: String,
}

/// The longest name of who decides, in bytes.
const BY_BYTES_MAX: usize = 200;

/// Decides what a node waits for. There is one decision; data that does not fit the node's form is refused, and the node waits on.
#[utoipa::path(post, path = "/api/v1/runs/{run_id}/approvals/{node_id}", operation_id = "decide", tag = "runs",
    params(NodeInPath),
    request_body(content = DecisionBody, description = "The decision"),
    responses(
        (status = 200, description = "It is recorded", body = Decided),
        (status = 400, description = "Not a request", body = ProblemBody, content_type = "application/problem+json"),
        (status = 404, description = "No such run, or the node does not wait for a decision", body = ProblemBody, content_type = "application/problem+json"),
        (status = 408, description = "The body did not arrive", body = ProblemBody, content_type = "application/problem+json"),
        (status = 409, description = "It is decided, its deadline is over, or the run has ended", body = ProblemBody, content_type = "application/problem+json"),
        (status = 413, description = "Too large", body = ProblemBody, content_type = "application/problem+json"),
        (status = 415, description = "Not JSON", body = ProblemBody, content_type = "application/problem+json"),
        (status = 422, description = "The data does not fit the form", body = ProblemBody, content_type = "application/problem+json"),
        (status = 503, description = "Not available now", body = ProblemBody, content_type = "application/problem+json"),
    ))]
pub(super) async fn decide(
    State(api): State<Api>,
    Path((run_id, node_id)): Path<(String, String)>,
    _: NoQuery,
    request: Request,
) -> Result<Response, Problem> {
    let (run_id, node_id) = (RunId::new(run_id)?, NodeId::new(node_id)?);
    let DecisionBody { decision, data, by } = body(&api, request).await?;
    data.readable()
        .map_err(|error| Problem::bad_request(format!("the data cannot be taken in: {error}")))?;
    if by.as_ref().is_some_and(|by| by.len() > BY_BYTES_MAX) {
        let detail = format!("`by` has more than {BY_BYTES_MAX} bytes");
        return Err(Problem::bad_request(detail));
    }
    // What does not wait is told by the signal itself.
    if decision == Decision::Approve || !data.is_null() {
        check(&api, &run_id, &node_id, data.value()).await?;
    }
    let decided = Decided {
        decision,
        data,
        by,
        at: api.engine.clock().now().to_string(),
    };
    let to = Addressee::Node(run_id, node_id.clone(), WaitKind::Approval);
    let signal = NewSignal {
        to: to.clone(),
        event: EventName::new(node_id.as_str())?,
        id: None,
        data: Json::from(json!(decided)),
    };
    match deliver(&api, signal).await? {
        Signalled::Recorded { .. } => Ok(answer::json(StatusCode::OK, &decided)),
        refused => Err(refusal(&to, &refused)),
    }
}

/// How many decisions of one run are looked through for that of a node.
const WAITS_MAX: u32 = 10_000;

/// Refuses data that does not fit the form of the node's oldest wait.
async fn check(api: &Api, run_id: &RunId, node_id: &NodeId, data: &Value) -> Result<(), Problem> {
    let filter = WaitFilter {
        run_id: Some(run_id.clone()),
        kind: Some(WaitKind::Approval),
        limit: WAITS_MAX,
        ..WaitFilter::default()
    };
    let waits = api.engine.store().waits(&filter).await?;
    let Some(record) = waits.iter().find(|record| record.key.node_id == *node_id) else {
        return Ok(());
    };
    let form = &record.wait.about.value()["form"];
    if form.is_null() {
        return Ok(());
    }
    let faults = check_data(form, data);
    if faults.is_empty() {
        return Ok(());
    }
    let faults: Vec<String> = faults.iter().map(ToString::to_string).collect();
    Err(Problem::misfit(&faults.join("; ")))
}
