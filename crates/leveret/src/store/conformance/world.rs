//! What a case works with: a store, ids of its own, small workflows, and steps that ended.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use leveret_core::{
    decide::Decision,
    graph::NodeIx,
    ids::{NodeId, RunId, Scope, WorkflowId},
    json::Json,
    parse::workflow_from_json,
    time::Timestamp,
    workflow::Workflow,
};
use serde_json::{Value, json};

use super::Opener;
use crate::store::{
    Committed, ErrorCode, Finished, Load, Loaded, NewRun, NodeRef, Outcome, RunEnd, RunRecord,
    RunStatus, StepError, StepRecord, Store, Timer, Wanted, Woken,
};

/// When the reconciler first looks at a run, unless a case says otherwise: later than any clock of the suite.
const FAR: Timestamp = Timestamp(4_000_000_000_000);

/// The world of one case. Its runs are ended and its timers removed when it ends.
pub(super) struct World {
    open: Opener,
    pub(super) store: Arc<dyn Store>,
    pub(super) prefix: String,
    /// The case's clock starts here, somewhere in the last century.
    pub(super) base: Timestamp,
    runs: Mutex<Vec<RunId>>,
}

impl World {
    pub(super) async fn new(open: Opener) -> World {
        let store = open().await;
        World {
            open,
            store,
            prefix: format!("t{:016x}", fastrand::u64(..)),
            base: Timestamp(fastrand::i64(1_000_000_000..500_000_000_000)),
            runs: Mutex::new(Vec::new()),
        }
    }

    /// Another handle to the same database.
    pub(super) async fn handle(&self) -> Arc<dyn Store> {
        (self.open)().await
    }

    /// So many milliseconds after the case's beginning.
    pub(super) fn at(&self, ms: i64) -> Timestamp {
        Timestamp(self.base.0 + ms)
    }

    pub(super) fn run_id(&self, name: &str) -> RunId {
        let id = RunId::new(format!("{}.{name}", self.prefix)).expect("a run id");
        self.runs
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(id.clone());
        id
    }

    pub(super) fn workflow_id(&self, name: &str) -> WorkflowId {
        WorkflowId::new(format!("{}.{name}", self.prefix)).expect("a workflow id")
    }

    /// A workflow from its edges and single nodes, as in `a>b a>c d`, with the configuration of some nodes.
    pub(super) fn flow(&self, shape: &str, config: &Value) -> Arc<Workflow> {
        self.named_flow("w", shape, config)
    }

    pub(super) fn named_flow(&self, name: &str, shape: &str, config: &Value) -> Arc<Workflow> {
        let (mut ids, mut edges): (Vec<&str>, Vec<Value>) = (Vec::new(), Vec::new());
        for part in shape.split_whitespace() {
            let ends: Vec<&str> = part.split('>').collect();
            ids.extend(&ends);
            edges.extend(
                ends.windows(2)
                    .map(|pair| json!({ "source": pair[0], "target": pair[1] })),
            );
        }
        let mut seen = Vec::new();
        ids.retain(|id| {
            !seen.contains(id) && {
                seen.push(id);
                true
            }
        });
        let node = |id: &&str| match config.get(*id) {
            Some(config) => json!({ "id": id, "uses": "log", "config": config }),
            None => json!({ "id": id, "uses": "log" }),
        };
        let nodes: Vec<Value> = ids.iter().map(node).collect();
        self.workflow(name, &json!({ "nodes": nodes, "edges": edges }))
    }

    /// A workflow of a definition, with an id of its own.
    pub(super) fn workflow(&self, name: &str, definition: &Value) -> Arc<Workflow> {
        let mut definition = definition.clone();
        definition["id"] = json!(self.workflow_id(name).as_str());
        Arc::new(workflow_from_json(&definition, None).expect("a valid definition"))
    }

    pub(super) fn new_run(&self, name: &str, workflow: &Arc<Workflow>) -> NewRun {
        NewRun {
            run_id: self.run_id(name),
            workflow: workflow.clone(),
            input: Json::from(json!({ "of": name })),
            created_at: self.base,
            reconcile_at: FAR,
        }
    }

    /// A run that has begun.
    pub(super) async fn run(&self, name: &str, workflow: &Arc<Workflow>) -> Run {
        self.runs(&[name.to_owned()], workflow).await.remove(0)
    }

    /// Runs that have begun.
    pub(super) async fn runs(&self, names: &[String], workflow: &Arc<Workflow>) -> Vec<Run> {
        let new: Vec<NewRun> = names
            .iter()
            .map(|name| self.new_run(name, workflow))
            .collect();
        self.store.start(&new).await.expect("start");
        let run = |new: NewRun| Run {
            id: new.run_id,
            workflow: new.workflow,
            now: self.base,
        };
        new.into_iter().map(run).collect()
    }

    /// Commits a batch.
    pub(super) async fn commit(&self, batch: &[Finished]) -> Vec<Committed> {
        commit(&self.store, batch).await
    }

    /// Commits one step, which must be recorded.
    pub(super) async fn record(&self, finished: Finished) -> (Decision, Option<RunEnd>) {
        recorded(self.commit(&[finished]).await.remove(0))
    }

    pub(super) async fn run_record(&self, run: &Run) -> RunRecord {
        self.store
            .run(&run.id)
            .await
            .expect("run")
            .expect("the run is recorded")
    }

    pub(super) async fn steps(&self, run: &Run) -> Vec<StepRecord> {
        self.store.steps(&run.id).await.expect("steps")
    }

    /// The recorded steps as `node=status`, by node id.
    pub(super) async fn statuses(&self, run: &Run) -> Vec<String> {
        let steps = self.steps(run).await;
        let mut texts: Vec<String> = steps
            .iter()
            .map(|step| format!("{}={}", step.node_id, step.status))
            .collect();
        texts.sort();
        texts
    }

    pub(super) async fn load(&self, run: &Run, load: Load) -> Loaded {
        let mut loaded = self
            .store
            .load(&[(run.id.clone(), load)])
            .await
            .expect("load");
        assert_eq!(loaded.len(), 1, "one answer for each load");
        loaded.remove(0).expect("the run is recorded")
    }

    /// Claims this case's timers.
    pub(super) async fn claim(&self, now: Timestamp, claim: Duration) -> Vec<Timer> {
        let timers = self
            .store
            .claim_timers(now, claim, 1000)
            .await
            .expect("claim_timers");
        timers
            .into_iter()
            .filter(|timer| timer.key.run_id.as_str().starts_with(&self.prefix))
            .collect()
    }

    pub(super) async fn clean_up(&mut self) {
        let mut runs = std::mem::take(self.runs.get_mut().unwrap_or_else(PoisonError::into_inner));
        runs.dedup();
        for run in runs {
            let _ = self.store.cancel(&run, self.base).await;
        }
        let claimed = self.store.claim_timers(FAR, Duration::ZERO, 10_000).await;
        let mut timers = claimed.unwrap_or_default();
        timers.retain(|timer| timer.key.run_id.as_str().starts_with(&self.prefix));
        let _ = self.store.remove_timers(&timers).await;
    }
}

/// A run that has begun, and the steps of its nodes.
#[derive(Clone)]
pub(super) struct Run {
    pub(super) id: RunId,
    pub(super) workflow: Arc<Workflow>,
    /// When its steps begin; they end a millisecond later.
    pub(super) now: Timestamp,
}

impl Run {
    pub(super) fn ix(&self, node: &str) -> NodeIx {
        self.workflow.node_ix(node).expect("a node of the workflow")
    }

    pub(super) fn node(&self, node: &str) -> NodeRef {
        NodeRef::new(&self.workflow, self.ix(node))
    }

    /// The step of a node outside of loops.
    pub(super) fn wanted(&self, node: &str) -> Wanted {
        Wanted::exactly(self.node(node), Scope::root())
    }

    pub(super) fn ended(&self, node: &str, outcome: Outcome) -> Finished {
        let node = self.ix(node);
        Finished {
            run_id: self.id.clone(),
            workflow: self.workflow.clone(),
            node,
            scope: Scope::root(),
            via: self.workflow.graph.incoming(node).first().copied(),
            attempts: 1,
            started_at: self.now,
            finished_at: self.now + Duration::from_millis(1),
            woken: Woken::No,
            outcome,
        }
    }

    /// The step completed, and its edges are taken; the output names the node.
    pub(super) fn done(&self, node: &str) -> Finished {
        let targets: Vec<NodeIx> = self
            .workflow
            .graph
            .routed(self.ix(node))
            .map(|edge| self.workflow.graph.edge(edge).target)
            .collect();
        self.routed(node, |target| targets.contains(&target))
    }

    /// The step completed, and only the edges to these nodes are taken.
    pub(super) fn done_to(&self, node: &str, targets: &[&str]) -> Finished {
        let targets: Vec<NodeIx> = targets.iter().map(|target| self.ix(target)).collect();
        self.routed(node, |target| targets.contains(&target))
    }

    fn routed(&self, node: &str, taken: impl Fn(NodeIx) -> bool) -> Finished {
        let graph = &self.workflow.graph;
        let edges = graph.routed(self.ix(node));
        self.ended(
            node,
            Outcome::Completed {
                output: Json::from(json!({ "by": node })),
                action: None,
                taken: edges
                    .filter(|&edge| taken(graph.edge(edge).target))
                    .collect(),
                context: Vec::new(),
                items: None,
            },
        )
    }

    pub(super) fn failed(&self, node: &str) -> Finished {
        self.ended(
            node,
            Outcome::Failed {
                error: error(node),
                fall_back: true,
            },
        )
    }

    pub(super) fn waiting(&self, node: &str, attempts: u32, until: Timestamp) -> Finished {
        let error = Some(error(node));
        Finished {
            attempts,
            ..self.ended(
                node,
                Outcome::Waiting {
                    until: Some(until),
                    wait: None,
                    error,
                },
            )
        }
    }

    pub(super) fn with_context(&self, node: &str, context: &[(&str, Value)]) -> Finished {
        let mut finished = self.done(node);
        if let Outcome::Completed {
            context: values, ..
        } = &mut finished.outcome
        {
            values.extend(
                context
                    .iter()
                    .map(|(key, value)| (Arc::from(*key), Json::from(value.clone()))),
            );
        }
        finished
    }
}

/// The error of a node.
pub(super) fn error(node: &str) -> StepError {
    StepError {
        message: format!("{node} broke"),
        code: ErrorCode::NodeFailed,
        node_id: node_id(node),
        status: Some(418),
    }
}

pub(super) fn node_id(node: &str) -> NodeId {
    NodeId::new(node).expect("a node id")
}

pub(super) async fn commit(store: &Arc<dyn Store>, batch: &[Finished]) -> Vec<Committed> {
    let batch: Vec<_> = batch.iter().cloned().map(Arc::new).collect();
    let committed = store.commit(&batch).await.expect("commit");
    assert_eq!(committed.len(), batch.len(), "one answer for each step");
    committed
}

pub(super) fn recorded(committed: Committed) -> (Decision, Option<RunEnd>) {
    match committed {
        Committed::Recorded { decision, end, .. } => {
            assert_eq!(
                decision.ended,
                end.is_some(),
                "the end is told with the decision"
            );
            (decision, end)
        }
        other => panic!("the step is recorded, not {other:?}"),
    }
}

#[track_caller]
pub(super) fn assert_repeated(committed: &Committed) {
    assert!(
        matches!(committed, Committed::Repeated),
        "the step was recorded before: {committed:?}"
    );
}

#[track_caller]
pub(super) fn assert_over(committed: &Committed, expected: Option<RunStatus>) {
    let over = matches!(committed, Committed::Over(status) if *status == expected);
    assert!(over, "the run is over with {expected:?}: {committed:?}");
}

/// The ids of the nodes that are ready.
pub(super) fn ready<'a>(workflow: &'a Workflow, decision: &Decision) -> Vec<&'a str> {
    decision
        .ready
        .iter()
        .map(|ready| workflow.nodes[ready.place.node].id.as_str())
        .collect()
}

/// A duration in milliseconds.
pub(super) fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}
