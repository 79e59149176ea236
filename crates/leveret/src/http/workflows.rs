//! Workflows: put a definition, show the newest, list all.

use std::sync::Arc;

use axum::{
    extract::{Request, State},
    http::StatusCode,
    response::Response,
};
use leveret_core::{
    ids::WorkflowId,
    json::Json,
    parse::{Diagnostics, NodeCatalog, ParamProblem, Source, check_workflow_named},
    workflow::Workflow,
};
use serde::{Deserialize, Serialize};
use tokio::task::spawn_blocking;
use utoipa::{IntoParams, ToSchema};

use super::{
    Api, Shared, answer,
    extract::{Id, NoQuery, Params, is_json, media_type, read_body},
    page::{self, Page},
    problem::{Problem, ProblemBody},
    schema::WorkflowInPath,
};
use crate::{nodes::Registry, store::WorkflowRecord};

/// The newest version of a workflow.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct WorkflowItem {
    /// Its name.
    pub workflow_id: String,
    /// 1 for its first definition, one more for each that differed from the one before.
    pub version: u32,
    /// The SHA-256 of the canonical definition.
    pub hash: String,
    /// When this version was put, RFC 3339.
    #[schema(format = DateTime)]
    pub created_at: String,
}

/// A workflow with its definition.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct WorkflowDetail {
    /// Its name, version and hash.
    #[serde(flatten)]
    pub item: WorkflowItem,
    /// The canonical definition.
    #[schema(value_type = Object)]
    pub definition: serde_json::Value,
}

/// The answer to a definition.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct WorkflowPut {
    /// Its name, version and hash.
    #[serde(flatten)]
    pub item: WorkflowItem,
    /// What is probably not meant, though usable.
    #[schema(value_type = Vec<DiagnosticBody>)]
    pub warnings: Diagnostics,
}

/// A problem of a definition.
#[derive(ToSchema)]
#[schema(as = Diagnostic)]
#[allow(dead_code)] // The schema of `leveret_core::parse::Diagnostic`; a test compares them.
pub(super) struct DiagnosticBody {
    /// `definition.json` or `definition.yaml`.
    pub(super) file: String,
    /// From 1.
    pub(super) line: usize,
    /// In characters, from 1.
    pub(super) column: usize,
    /// As in `nodes[2].config.fallback`; empty for the whole.
    pub(super) path: String,
    /// `error` or `warning`.
    pub(super) severity: String,
    /// A stable name of this kind of problem.
    pub(super) code: String,
    /// What is wrong.
    pub(super) message: String,
    /// What to do about it.
    pub(super) help: Option<String>,
}

impl From<&WorkflowRecord> for WorkflowItem {
    fn from(record: &WorkflowRecord) -> WorkflowItem {
        WorkflowItem {
            workflow_id: record.workflow_id.to_string(),
            version: record.version,
            hash: record.hash.to_string(),
            created_at: record.created_at.to_string(),
        }
    }
}

/// As [`WorkflowDetail`], with the definition as it is stored.
#[derive(Serialize)]
struct Detail<'a> {
    #[serde(flatten)]
    item: WorkflowItem,
    definition: &'a Json,
}

/// Puts a definition: it becomes the newest version of the workflow, unless it is that already. Runs that began before go on with
/// theirs.
#[utoipa::path(put, path = "/api/v1/workflows/{id}", operation_id = "put_workflow", tag = "workflows",
    params(WorkflowInPath),
    request_body(description = "The definition, JSON or YAML by content type; without `id` it takes the name from the path", content(
        (Object = "application/json"), (String = "application/yaml"),
    )),
    responses(
        (status = 200, description = "It is the newest version already", body = WorkflowPut),
        (status = 201, description = "It is a new version", body = WorkflowPut),
        (status = 400, description = "Not a request", body = ProblemBody, content_type = "application/problem+json"),
        (status = 408, description = "The body did not arrive", body = ProblemBody, content_type = "application/problem+json"),
        (status = 413, description = "Too large", body = ProblemBody, content_type = "application/problem+json"),
        (status = 415, description = "Neither JSON nor YAML", body = ProblemBody, content_type = "application/problem+json"),
        (status = 422, description = "Not valid; see diagnostics", body = ProblemBody, content_type = "application/problem+json"),
        (status = 503, description = "Not available now", body = ProblemBody, content_type = "application/problem+json"),
    ))]
pub(super) async fn put(
    State(api): State<Api>,
    Id(id): Id<WorkflowId>,
    _: NoQuery,
    request: Request,
) -> Result<Response, Problem> {
    let (parts, body) = request.into_parts();
    let name = match media_type(&parts.headers)?.as_deref() {
        Some(media_type) if is_json(media_type) => "definition.json",
        None
        | Some(
            "application/yaml" | "application/x-yaml" | "text/yaml" | "text/x-yaml" | "text/plain",
        ) => "definition.yaml",
        Some(_) => {
            return Err(Problem::content_type(
                "application/json or application/yaml",
            ));
        }
    };
    let bytes = read_body(&parts.headers, body, &api.options).await?;
    let text = std::str::from_utf8(&bytes)
        .map_err(|error| Problem::bad_request(format!("the body is not UTF-8 text: {error}")))?;
    let (workflow, diagnostics) = if text.len() > CHECKED_HERE_MAX {
        let (text, id, api) = (text.to_owned(), id.clone(), api.clone());
        let checked = spawn_blocking(move || check(name, &text, &id, &api)).await;
        checked.map_err(|_| Problem::panicked())?
    } else {
        check(name, text, &id, &api)
    };
    let Some(workflow) = workflow else {
        return Err(Problem::invalid_workflow(diagnostics));
    };
    if workflow.id != id {
        return Err(Problem::other_workflow(&id, &workflow.id));
    }
    let (record, new) = api
        .engine
        .store()
        .put_workflow(&workflow, api.engine.clock().now())
        .await?;
    api.newest.put(&record, Arc::new(workflow));
    let status = if new {
        StatusCode::CREATED
    } else {
        StatusCode::OK
    };
    Ok(answer::json(
        status,
        &WorkflowPut {
            item: WorkflowItem::from(&record),
            warnings: diagnostics,
        },
    ))
}

/// The largest definition that is checked between requests, in bytes: a larger one takes a thread of its own, as the others would wait for it.
const CHECKED_HERE_MAX: usize = 32 << 10;

fn check(name: &str, text: &str, id: &WorkflowId, api: &Shared) -> (Option<Workflow>, Diagnostics) {
    let catalog = Catalog {
        registry: api.engine.registry(),
        elsewhere: &api.options.node_types,
    };
    check_workflow_named(&Source { name, text }, id, Some(&catalog))
}

/// The node types of this process, and the names of those that workers elsewhere have.
struct Catalog<'a> {
    registry: &'a Registry,
    elsewhere: &'a [String],
}

impl NodeCatalog for Catalog<'_> {
    fn contains(&self, uses: &str) -> bool {
        self.registry.contains(uses) || self.elsewhere.iter().any(|name| name == uses)
    }

    fn names(&self) -> Vec<String> {
        let mut names = self.registry.names();
        names.extend_from_slice(self.elsewhere);
        names.sort_unstable();
        names.dedup();
        names
    }

    fn check_params(&self, uses: &str, params: &serde_json::Value) -> Vec<ParamProblem> {
        self.registry.check_params(uses, params)
    }

    fn actions(&self, uses: &str, params: &serde_json::Value) -> Option<Vec<String>> {
        self.registry.actions(uses, params)
    }

    fn secrets(&self, uses: &str, params: &serde_json::Value) -> Vec<(&'static str, String)> {
        self.registry.secrets(uses, params)
    }
}

/// Which version is shown.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct VersionQuery {
    /// From 1; without it the newest.
    #[param(minimum = 1)]
    version: Option<u32>,
}

/// Shows a version of a workflow, the newest unless one is named.
#[utoipa::path(get, path = "/api/v1/workflows/{id}", operation_id = "show_workflow", tag = "workflows",
    params(WorkflowInPath, VersionQuery),
    responses(
        (status = 200, description = "The version", body = WorkflowDetail),
        (status = 400, description = "Not an id", body = ProblemBody, content_type = "application/problem+json"),
        (status = 404, description = "No such workflow, or no such version", body = ProblemBody, content_type = "application/problem+json"),
        (status = 503, description = "Not available now", body = ProblemBody, content_type = "application/problem+json"),
    ))]
pub(super) async fn show(
    State(api): State<Api>,
    Id(id): Id<WorkflowId>,
    Params(query): Params<VersionQuery>,
) -> Result<Response, Problem> {
    let store = api.engine.store();
    let record = match query.version {
        None => {
            let newest = store.workflow(&id).await?;
            newest.ok_or_else(|| Problem::no_workflow(&id))?
        }
        Some(version) => {
            let named = store.workflow_version(&id, version).await?;
            named.ok_or_else(|| Problem::no_version(&id, version))?
        }
    };
    let detail = Detail {
        item: WorkflowItem::from(&record),
        definition: &record.definition,
    };
    Ok(answer::json(StatusCode::OK, &detail))
}

/// Which part of the list is asked.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct ListQuery {
    /// Items at most.
    #[param(minimum = 1, maximum = 500, default = 50)]
    limit: Option<u32>,
    /// The `next` of the page before.
    #[param(min_length = 1)]
    after: Option<String>,
}

/// Lists the newest version of each workflow, by name.
#[utoipa::path(get, path = "/api/v1/workflows", operation_id = "list_workflows", tag = "workflows", params(ListQuery),
    responses(
        (status = 200, description = "A page", body = Page<WorkflowItem>),
        (status = 400, description = "Not a query", body = ProblemBody, content_type = "application/problem+json"),
        (status = 503, description = "Not available now", body = ProblemBody, content_type = "application/problem+json"),
    ))]
pub(super) async fn list(
    State(api): State<Api>,
    Params(query): Params<ListQuery>,
) -> Result<Response, Problem> {
    let limit = page::limit(query.limit)?;
    let after = query
        .after
        .map(|cursor| Ok::<_, Problem>(WorkflowId::new(page::decode(&cursor)?)?))
        .transpose()?;
    let records = api
        .engine
        .store()
        .workflows(after.as_ref(), limit + 1)
        .await?;
    let cursor = |record: &WorkflowRecord| page::encode(record.workflow_id.as_str());
    let page = Page::cut(records, limit, cursor, |record| WorkflowItem::from(&record));
    Ok(answer::json(StatusCode::OK, &page))
}
