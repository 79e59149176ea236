//! An engine for tests: SQLite file and embedded broker in a directory of its own, node types that do simple things, and short texts for blueprints
//! and what they did.

use std::{
    collections::HashMap,
    path::PathBuf,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use leveret::{
    Connected,
    broker::{ConsumeOptions, Header, memory::MemoryBroker},
    connect,
    core::{ids::RunId, json::Json, parse::workflow_from_json, time::Timestamp},
    nodes::{NodeContext, NodeError, NodeOutput, Registry},
    runtime::{
        Clock, Engine, EngineParts, Publish, Roles, RunResult, StartRequest, StatusMessages,
    },
    store::{RunStatus, StepStatus, memory::MemoryStore},
};
use serde_json::{Map, Value, json};
use tokio::{sync::watch, task::JoinHandle, time::Instant};

/// A directory that is removed at the end.
pub(crate) struct TempDir(PathBuf);

impl TempDir {
    pub(crate) fn new() -> TempDir {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let name = format!(
            "leveret-it-{}-{}",
            std::process::id(),
            NEXT.fetch_add(1, Ordering::Relaxed)
        );
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&path).expect("a temporary directory can be made");
        TempDir(path)
    }

    pub(crate) fn file(&self, name: &str) -> String {
        self.0.join(name).display().to_string()
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        drop(std::fs::remove_dir_all(&self.0));
    }
}

/// A serving engine.
pub(crate) struct Harness {
    pub(crate) engine: Engine,
    stop: watch::Sender<bool>,
    serving: JoinHandle<()>,
    counts: Counts,
    _directory: TempDir,
}

impl Harness {
    pub(crate) async fn start() -> Harness {
        let counts = Counts::default();
        Harness::counting(registry_counting(&counts), counts).await
    }

    pub(crate) async fn with(registry: Registry) -> Harness {
        Harness::counting(registry, Counts::default()).await
    }

    async fn counting(registry: Registry, counts: Counts) -> Harness {
        let directory = TempDir::new();
        let store = format!("sqlite:{}", directory.file("leveret.db"));
        let Connected {
            store,
            broker,
            one_file,
            ..
        } = connect(&store, "embedded:").await.expect("connects");
        let engine = Engine::new(EngineParts {
            one_file,
            registry,
            ..EngineParts::new(store, broker)
        })
        .await
        .expect("declares its topology");
        let (stop, stopped) = watch::channel(false);
        let serving = tokio::spawn({
            let engine = engine.clone();
            async move { engine.serve(Roles::all(), stopped).await.expect("serves") }
        });
        Harness {
            engine,
            stop,
            serving,
            counts,
            _directory: directory,
        }
    }

    pub(crate) async fn run_result(&self, definition: &Value, input: Value) -> RunResult {
        let workflow = workflow_from_json(definition, None).expect("the blueprint is valid");
        let request = StartRequest {
            workflow: Arc::new(workflow),
            input: Json::from(input),
            run_id: None,
        };
        let waited = tokio::time::timeout(
            std::time::Duration::from_secs(20),
            self.engine.start_and_wait(request),
        );
        waited.await.expect("the run ends").expect("the run starts")
    }

    pub(crate) async fn run(&self, definition: Value, input: Value) -> String {
        let result = self.run_result(&definition, input).await;
        let stored = self
            .engine
            .result(&result.run_id)
            .await
            .expect("the store answers")
            .expect("the run is recorded");
        assert_eq!(
            stored, result,
            "what was told at the end is what is recorded"
        );
        summary(&result)
    }

    pub(crate) fn load_error(definition: &Value) -> String {
        workflow_from_json(definition, None)
            .expect_err("the blueprint is not valid")
            .to_string()
    }

    /// Stops, and checks that nothing is left over: no job, no timer; and that nothing that counts was executed again.
    pub(crate) async fn stop(self) {
        self.stop.send(true).expect("still serving");
        self.serving.await.expect("serves to the end");
        assert_eq!(
            self.engine
                .store()
                .next_timer()
                .await
                .expect("the store answers"),
            None,
            "a timer is left"
        );
        let stats = self
            .engine
            .broker()
            .queue_stats(&self.engine.names().execution)
            .await
            .expect("the broker answers");
        assert_eq!(stats.ready, 0, "a job is left");
        for (step, count) in self.counts.lock().unwrap().iter() {
            assert_eq!(*count, 1, "{step} was executed again");
        }
        self.engine.close().await;
    }
}

/// The time of a paused runtime, and ids by number.
#[derive(Debug)]
pub(crate) struct PausedClock {
    name: String,
    begun: Instant,
    ids: AtomicU64,
}

impl PausedClock {
    pub(crate) fn new(name: &str, begun: Instant) -> PausedClock {
        PausedClock {
            name: name.to_owned(),
            begun,
            ids: AtomicU64::new(0),
        }
    }
}

impl Clock for PausedClock {
    fn now(&self) -> Timestamp {
        Timestamp(1_700_000_000_000) + self.begun.elapsed()
    }

    fn random(&self) -> f64 {
        0.5
    }

    fn new_run_id(&self) -> RunId {
        let number = self.ids.fetch_add(1, Ordering::Relaxed);
        RunId::new(format!("{}-{number:04}", self.name)).expect("an id")
    }
}

/// Parts of an engine in memory that publishes completion messages, and no status messages.
pub(crate) fn in_memory() -> EngineParts {
    EngineParts {
        registry: registry(),
        publish: Publish {
            status: StatusMessages::Off,
            completion: true,
        },
        ..EngineParts::new(Arc::new(MemoryStore::new()), Arc::new(MemoryBroker::new()))
    }
}

/// An engine that serves until the test's end.
pub(crate) async fn serving(parts: EngineParts, roles: Roles) -> Engine {
    let engine = Engine::new(parts).await.expect("declares its topology");
    let (stop, stopped) = watch::channel(false);
    let serving = engine.clone();
    tokio::spawn(async move {
        let _never = stop;
        serving.serve(roles, stopped).await
    });
    engine
}

/// Works until the run ends, in paused time; its summary and the reasons of the dead letters.
pub(crate) async fn work(engine: &Engine, run_id: &RunId) -> (String, Vec<String>) {
    let (_stop, stopped) = watch::channel(false);
    let serving = tokio::spawn({
        let engine = engine.clone();
        async move { engine.serve(Roles::all(), stopped).await }
    });
    // Less than it takes the reconciler to look.
    let ended = tokio::time::timeout(Duration::from_secs(30), engine.wait(run_id)).await;
    let result = ended.expect("the run ends").expect("the store answers");
    let result = result.expect("the run is recorded");
    // What follows from the end is published after it is recorded.
    tokio::time::sleep(Duration::from_secs(1)).await;
    serving.abort();
    let queue = ConsumeOptions::queue(engine.names().dead_letters.clone());
    let mut letters = engine.broker().consume(queue).await.expect("consumes");
    let mut reasons = Vec::new();
    while let Some(letter) = letters.try_next() {
        match &letter.message.headers["x-leveret-reason"] {
            Header::Text(reason) => reasons.push(reason.clone()),
            other => panic!("{other:?}"),
        }
        letter.receipt.ack();
    }
    (summary(&result), reasons)
}

/// `status output-or-error | completed nodes | other nodes`, nodes by name with their attempts if there were several.
pub(crate) fn summary(result: &RunResult) -> String {
    let what = match result.status {
        RunStatus::Completed => result.output.text().to_owned(),
        _ => result
            .error
            .as_ref()
            .map(ToString::to_string)
            .unwrap_or_default(),
    };
    let attempts = |n: u32| {
        if n > 1 {
            format!("*{n}")
        } else {
            String::new()
        }
    };
    let (mut done, mut others) = (vec![String::new()], vec![String::new()]);
    for (node, step) in &result.steps {
        match step.status {
            StepStatus::Completed => done.push(format!("{node}{}", attempts(step.attempts))),
            status => others.push(format!("{node}:{status}{}", attempts(step.attempts))),
        }
    }
    let (done, others) = (done.join(" "), others.join(" "));
    format!("{} {what} |{done} |{others}", result.status)
}

/// A definition from its short text: edges and node names before the first `;`, then `NODE = type params`, `NODE.inputs = JSON`,
/// `NODE.config = JSON`, `NODE.join = any`. Edges on failure are written `A>B!`. Nodes that are not described echo their input; secrets that are read are
/// declared.
pub(crate) fn blueprint(text: &str) -> Value {
    let mut parts = text.split(';').map(str::trim);
    let mut nodes: Vec<(String, Map<String, Value>)> = Vec::new();
    let mut edges = Vec::new();
    let mut rest: Vec<&str> = Vec::new();
    let add = |nodes: &mut Vec<(String, Map<String, Value>)>, name: &str| {
        if !nodes.iter().any(|(known, _)| known == name) {
            nodes.push((
                name.to_owned(),
                json!({"id": name, "uses": "echo"})
                    .as_object()
                    .unwrap()
                    .clone(),
            ));
        }
    };
    for part in parts.by_ref() {
        if part.contains(" = ") {
            rest.push(part);
            break;
        }
        for word in words(part) {
            match word.split_once('>') {
                None => add(&mut nodes, &word),
                Some((source, target)) => {
                    let (target, edge) = edge(source, target);
                    add(&mut nodes, source);
                    add(&mut nodes, &target);
                    edges.push(edge);
                }
            }
        }
    }
    for part in rest.into_iter().chain(parts) {
        let (left, right) = part.split_once(" = ").expect("a description has ' = '");
        let (name, field) = left.trim().split_once('.').unwrap_or((left.trim(), "uses"));
        add(&mut nodes, name);
        let (_, node) = nodes.iter_mut().find(|(known, _)| known == name).unwrap();
        let config = |node: &mut Map<String, Value>| {
            node.entry("config")
                .or_insert_with(|| json!({}))
                .as_object_mut()
                .unwrap()
                .clone()
        };
        match field {
            "uses" => {
                let (uses, params) = right.trim().split_once(' ').unwrap_or((right.trim(), ""));
                node.insert("uses".to_owned(), json!(uses));
                let value = serde_json::from_str(params).unwrap_or_else(|_| json!(params));
                node.insert("params".to_owned(), json!({ "value": value }));
            }
            "params" => {
                node.insert(
                    "params".to_owned(),
                    serde_json::from_str(right).expect("params are JSON"),
                );
            }
            "inputs" => {
                node.insert(
                    "inputs".to_owned(),
                    serde_json::from_str(right).expect("inputs are JSON"),
                );
            }
            "config" => {
                let mut merged = config(node);
                merged.extend(
                    serde_json::from_str::<Map<String, Value>>(right).expect("config is JSON"),
                );
                node.insert("config".to_owned(), Value::Object(merged));
            }
            "join" => {
                let mut merged = config(node);
                merged.insert("joinStrategy".to_owned(), json!(right.trim()));
                node.insert("config".to_owned(), Value::Object(merged));
            }
            other => panic!("no field {other}"),
        }
    }
    let nodes: Vec<Value> = nodes
        .into_iter()
        .map(|(_, node)| Value::Object(node))
        .collect();
    let secrets: Vec<&str> = text
        .split("secret('")
        .skip(1)
        .filter_map(|rest| Some(rest.split_once('\'')?.0))
        .collect();
    json!({ "id": "case", "secrets": secrets, "nodes": nodes, "edges": edges })
}

/// Words of an edge list; blanks inside brackets do not separate.
fn words(text: &str) -> Vec<String> {
    let (mut words, mut word, mut depth, mut transform) = (Vec::new(), String::new(), 0, false);
    for c in text.chars() {
        match c {
            '[' | '{' | '(' => depth += 1,
            ']' | '}' | ')' => depth -= 1,
            '~' => transform = !transform,
            _ => {}
        }
        if c == ' ' && depth == 0 && !transform {
            words.push(std::mem::take(&mut word));
        } else {
            word.push(c);
        }
    }
    words.push(word);
    words.retain(|word| !word.is_empty());
    words
}

fn edge(source: &str, text: &str) -> (String, Value) {
    let end = text.find(['!', '[', '{', '~']).unwrap_or(text.len());
    let (target, mut rest) = text.split_at(end);
    let mut edge = json!({ "source": source, "target": target });
    while let Some(open) = rest.chars().next() {
        let (key, close) = match open {
            '!' => {
                edge["on"] = json!("failure");
                rest = &rest[1..];
                continue;
            }
            '[' => ("action", ']'),
            '{' => ("condition", '}'),
            _ => ("transform", '~'),
        };
        let inside = &rest[1..];
        let end = if open == '[' {
            inside.find(close)
        } else {
            inside.rfind(close)
        };
        let end = end.expect("brackets close") + 1;
        edge[key] = json!(&rest[1..end]);
        rest = &rest[end + 1..];
        if key != "action" {
            break;
        }
    }
    (target.to_owned(), edge)
}

/// How often steps of type `count` were executed, by idempotency key.
pub(crate) type Counts = Arc<Mutex<HashMap<String, u64>>>;

/// Node types for tests.
pub(crate) fn registry() -> Registry {
    registry_counting(&Counts::default())
}

fn registry_counting(counts: &Counts) -> Registry {
    let mut registry = Registry::builtin();
    let value = |ctx: &NodeContext| ctx.params["value"].clone();
    registry.register_fn(
        "const",
        move |ctx: NodeContext| async move { Ok(value(&ctx)) },
    );
    registry.register_fn("echo", |ctx: NodeContext| async move { Ok(ctx.input) });
    registry.register_fn("nothing", |_| async { Ok(NodeOutput::default()) });
    registry.register_fn("double", |ctx: NodeContext| async move {
        Ok(json!(ctx.input.value().as_i64().unwrap_or(0) * 2))
    });
    registry.register_fn("act", |ctx: NodeContext| async move {
        let action = ctx.params["value"].as_str().unwrap_or_default().to_owned();
        Ok(NodeOutput {
            output: Json::from(json!(action)),
            action: Some(action.into()),
            ..NodeOutput::default()
        })
    });
    registry.register_fn("context", |_| async {
        let context = vec![("flag".into(), Json::from(json!("on")))];
        Ok(NodeOutput {
            output: Json::from(json!(1)),
            context,
            ..NodeOutput::default()
        })
    });
    let text = |ctx: &NodeContext| ctx.params["value"].as_str().unwrap_or("failed").to_owned();
    registry.register_fn("fail", move |ctx: NodeContext| async move {
        Err::<Value, _>(NodeError::transient(text(&ctx)))
    });
    registry.register_fn("fatal", move |ctx: NodeContext| async move {
        Err::<Value, _>(NodeError::fatal(text(&ctx)))
    });
    registry.register_fn("flaky", |ctx: NodeContext| async move {
        if i64::from(ctx.attempt) <= ctx.params["value"].as_i64().unwrap_or(0) {
            return Err(NodeError::transient("not yet"));
        }
        Ok(json!(ctx.attempt))
    });
    registry.register_fn("hang", |_| async {
        std::future::pending::<Result<Value, NodeError>>().await
    });
    let counts = counts.clone();
    registry.register_fn("count", move |ctx: NodeContext| {
        let counts = counts.clone();
        async move {
            let mut counts = counts.lock().unwrap();
            let count = counts.entry(ctx.key.idempotency_key()).or_default();
            *count += 1;
            Ok(json!(*count))
        }
    });
    registry
}
