//! The API over an engine that serves, on one SQLite file. A node of type `gate` holds its step until the test lets it go, so that
//! nothing here depends on time.

use std::collections::BTreeSet;

use axum::{
    body::{Body, to_bytes},
    http::{HeaderMap, Request, StatusCode},
    routing::get,
};
use leveret_core::ids::WorkflowId;
use serde_json::{Value, json};
use tokio::{net::TcpListener, task::JoinHandle};
use tower::ServiceExt;

use super::*;
use crate::{
    connect,
    nodes::{NodeContext, NodeError, Registry},
    runtime::{EngineParts, Roles, RunResult},
    sqlite::tests::TempPath,
    store::RunStatus,
};

mod approvals;
mod dead_letters;
mod events;
mod guard;
mod runs;
mod schedules;
mod server;
mod signals;
mod webhooks;
mod workflows;

/// An engine that serves, and its API.
struct World {
    engine: Engine,
    router: Router,
    gate: Arc<Semaphore>,
    /// One permit for each step that came to the gate.
    reached: Arc<Semaphore>,
    stop: watch::Sender<bool>,
    serving: JoinHandle<()>,
    _path: TempPath,
}

/// An answer, read to its end.
#[derive(Debug)]
struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    text: String,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{error}: {}", self.text))
    }

    /// The body of an answer with this status.
    fn expect(&self, status: u16) -> Value {
        assert_eq!(self.status.as_u16(), status, "{}", self.text);
        self.json()
    }

    /// The detail of a problem with this status.
    fn problem(&self, status: u16) -> String {
        let body = self.expect(status);
        assert_eq!(self.headers["content-type"], "application/problem+json");
        assert_eq!(body["status"], status);
        assert!(
            body["type"]
                .as_str()
                .unwrap()
                .starts_with("urn:leveret:problem:"),
            "{body}"
        );
        assert!(!body["title"].as_str().unwrap().is_empty(), "{body}");
        assert_eq!(self.headers.contains_key("retry-after"), status == 503);
        body["detail"].as_str().unwrap().to_owned()
    }
}

impl World {
    async fn new() -> World {
        World::with(ApiOptions {
            needs_consumer: true,
            ..ApiOptions::default()
        })
        .await
    }

    async fn with(options: ApiOptions) -> World {
        World::made(options, |_| {}).await
    }

    /// Over an engine of parts that are changed a little.
    async fn made(options: ApiOptions, change: impl FnOnce(&mut EngineParts)) -> World {
        let path = TempPath::new();
        let connected = connect(&format!("sqlite:{}", path.0.display()), "embedded:")
            .await
            .unwrap();
        let (gate, reached) = (Arc::new(Semaphore::new(0)), Arc::new(Semaphore::new(0)));
        let mut parts = EngineParts::new(connected.store, connected.broker);
        parts.one_file = connected.one_file;
        parts.registry = registry(&gate, &reached);
        change(&mut parts);
        let engine = Engine::new(parts).await.unwrap();
        let (stop, stopped) = watch::channel(false);
        let options = ApiOptions {
            shutdown: Some(stopped.clone()),
            ..options
        };
        let served = engine.clone();
        let serving =
            tokio::spawn(async move { served.serve(Roles::all(), stopped).await.unwrap() });
        World {
            router: router(engine.clone(), options),
            engine,
            gate,
            reached,
            stop,
            serving,
            _path: path,
        }
    }

    async fn send(&self, request: Request<Body>) -> Answer {
        let response = self.router.clone().oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let bytes = to_bytes(body, usize::MAX).await.unwrap();
        Answer {
            status: parts.status,
            headers: parts.headers,
            text: String::from_utf8(bytes.to_vec()).unwrap(),
        }
    }

    async fn get(&self, path: &str) -> Answer {
        self.send(Request::get(path).body(Body::empty()).unwrap())
            .await
    }

    /// Sends JSON, as a client does that sets no headers but the necessary ones.
    async fn json(&self, method: &str, path: &str, body: &Value) -> Answer {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("content-type", "application/json");
        self.send(request.body(Body::from(body.to_string())).unwrap())
            .await
    }

    async fn post(&self, path: &str, body: &Value) -> Answer {
        self.json("POST", path, body).await
    }

    /// Puts a workflow of these nodes, one after the other.
    async fn put_chain(&self, id: &str, uses: &[&str]) {
        let node = |(ix, uses): (usize, &&str)| json!({"id": format!("n{ix}"), "uses": uses});
        let nodes: Vec<Value> = uses.iter().enumerate().map(node).collect();
        let edge =
            |ix: usize| json!({"source": format!("n{ix}"), "target": format!("n{}", ix + 1)});
        let edges: Vec<Value> = (0..uses.len() - 1).map(edge).collect();
        let definition = json!({"id": id, "nodes": nodes, "edges": edges});
        self.json("PUT", &format!("/api/v1/workflows/{id}"), &definition)
            .await
            .expect(201);
    }

    /// Lets one step of type `gate` go.
    fn let_go(&self) {
        self.gate.add_permits(1);
    }

    /// Stops everything; steps that the gate still holds are let go, so that the worker need not wait for them.
    async fn stop(self) {
        self.gate.add_permits(100);
        self.stop.send_replace(true);
        self.serving.await.unwrap();
        self.engine.close().await;
    }
}

/// The built-in node types, and one that holds each step until the gate has a permit.
fn registry(gate: &Arc<Semaphore>, reached: &Arc<Semaphore>) -> Registry {
    let mut registry = Registry::builtin();
    let (gate, reached) = (gate.clone(), reached.clone());
    registry.register_fn("gate", move |ctx: NodeContext| {
        let (gate, reached) = (gate.clone(), reached.clone());
        async move {
            reached.add_permits(1);
            gate.acquire()
                .await
                .map_err(|_| NodeError::permanent("the gate is closed"))?
                .forget();
            Ok(ctx.input)
        }
    });
    registry
}

/// Every route is in the document and answers; nothing else does. The document names every status and schema that it refers to.
#[tokio::test]
async fn document_and_routes_are_the_same() {
    let world = World::new().await;
    let document = world.get("/api/openapi.json").await.expect(200);
    assert_eq!(document["openapi"], "3.1.0");
    check_parameters(&document);
    let mut routes = BTreeSet::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            assert!(
                !operation["responses"].as_object().unwrap().is_empty(),
                "{method} {path}"
            );
            assert!(operation["operationId"].is_string(), "{method} {path}");
            routes.insert(format!("{} {path}", method.to_uppercase()));
        }
    }
    let expect = [
        "DELETE /api/v1/schedules/{id}",
        "GET /api/openapi.json",
        "GET /api/v1/approvals",
        "GET /api/v1/dlq",
        "GET /api/v1/dlq/{queue}",
        "GET /api/v1/runs",
        "GET /api/v1/runs/{run_id}",
        "GET /api/v1/runs/{run_id}/events",
        "GET /api/v1/schedules",
        "GET /api/v1/schedules/{id}",
        "GET /api/v1/schedules/{id}/history",
        "GET /api/v1/workflows",
        "GET /api/v1/workflows/{id}",
        "GET /health/live",
        "GET /health/ready",
        "GET /metrics",
        "POST /api/v1/dlq/{queue}/discard",
        "POST /api/v1/dlq/{queue}/replay",
        "POST /api/v1/runs/{run_id}/approvals/{node_id}",
        "POST /api/v1/runs/{run_id}/cancel",
        "POST /api/v1/runs/{run_id}/signals",
        "POST /api/v1/signals",
        "POST /api/v1/schedules/{id}/pause",
        "POST /api/v1/schedules/{id}/resume",
        "POST /api/v1/schedules/{id}/run",
        "POST /api/v1/workflows/{id}/runs",
        "POST /webhooks/{run_id}/{node_id}",
        "PUT /api/v1/schedules/{id}",
        "PUT /api/v1/workflows/{id}",
    ];
    assert_eq!(routes, expect.map(str::to_owned).into());
    for route in &routes {
        let (method, path) = route.split_once(' ').unwrap();
        let path = ["{id}", "{run_id}", "{node_id}", "{queue}"]
            .iter()
            .fold(path.to_owned(), |path, name| path.replace(name, "none"));
        let request = Request::builder()
            .method(method)
            .uri(&path)
            .body(Body::empty())
            .unwrap();
        let answer = world.send(request).await;
        assert_ne!(answer.status, StatusCode::METHOD_NOT_ALLOWED, "{route}");
        assert!(!answer.text.contains("nothing at this path"), "{route}");
        let told = &document["paths"][route.split_once(' ').unwrap().1][method.to_lowercase()]["responses"];
        assert!(
            told.get(answer.status.as_str()).is_some(),
            "{route} answers {}, which is not documented",
            answer.status
        );
    }
    check_references(&document, &document);
    world.stop().await;
}

/// What clients are generated from: each part of a path is a parameter that is required, each operation has a name of its own, and problems have
/// their media type.
fn check_parameters(document: &Value) {
    let mut names = BTreeSet::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        let in_path: BTreeSet<&str> = path.split(['{', '}']).skip(1).step_by(2).collect();
        for (method, operation) in item.as_object().unwrap() {
            let name = operation["operationId"].as_str().unwrap();
            assert!(names.insert(name), "{name} names two operations");
            let parameters = operation["parameters"].as_array().into_iter().flatten();
            let of_path = parameters.filter(|parameter| parameter["in"] == "path");
            let described: BTreeSet<&str> = of_path
                .inspect(|parameter| {
                    assert_eq!(parameter["required"], true, "{method} {path}: {parameter}");
                })
                .map(|parameter| parameter["name"].as_str().unwrap())
                .collect();
            assert_eq!(described, in_path, "{method} {path}");
            for (status, response) in operation["responses"].as_object().unwrap() {
                let content = response["content"].as_object().into_iter().flatten();
                for (media_type, content) in content {
                    let is_problem =
                        content["schema"]["$ref"] == "#/components/schemas/ProblemBody";
                    assert_eq!(
                        is_problem,
                        media_type == "application/problem+json",
                        "{method} {path} {status}"
                    );
                }
            }
        }
    }
}

/// Every `$ref` leads somewhere.
fn check_references(document: &Value, value: &Value) {
    match value {
        Value::Object(map) => {
            if let Some(Value::String(reference)) = map.get("$ref") {
                let pointer = reference.strip_prefix('#').unwrap();
                assert!(
                    document.pointer(pointer).is_some(),
                    "{reference} leads nowhere"
                );
            }
            map.values()
                .for_each(|value| check_references(document, value));
        }
        Value::Array(values) => values
            .iter()
            .for_each(|value| check_references(document, value)),
        _ => {}
    }
}
