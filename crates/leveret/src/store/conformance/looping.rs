//! Steps in the passes of loops: their joins, what is the latest of a node, and what is recorded when the loop ends.

use leveret_core::{
    decide::{decide_start, unfinished},
    ids::Scope,
    json::Json,
};
use serde_json::json;

use super::world::{Run, World, ready};
use crate::store::{Finished, Load, NodeValue, Outcome, StepStatus, Wanted};

/// `l` has a body of two branches, of which `b` is named by `e`, behind the loop.
fn definition() -> serde_json::Value {
    json!({
        "nodes": [
            { "id": "a", "uses": "set" },
            { "id": "l", "uses": "loop-controller", "params": { "condition": "true" } },
            { "id": "b", "uses": "set" },
            { "id": "c", "uses": "set" },
            { "id": "e", "uses": "set", "inputs": "b" },
        ],
        "edges": [
            { "source": "a", "target": "l" },
            { "source": "l", "target": "b", "action": "continue" },
            { "source": "l", "target": "c", "action": "continue" },
            { "source": "b", "target": "l" },
            { "source": "c", "target": "l" },
            { "source": "l", "target": "e", "action": "break" },
        ],
    })
}

/// The step of a node in a pass, with an output of its own.
fn in_pass(run: &Run, node: &str, pass: u64, to: &[&str]) -> Finished {
    let mut scope = Scope::root().first_pass();
    for _ in 1..pass {
        scope = scope.next_pass();
    }
    let mut step = run.done_to(node, to);
    if let Outcome::Completed { output, .. } = &mut step.outcome {
        *output = Json::from(json!(format!("{node}{pass}")));
    }
    step.scope = scope;
    step
}

fn load(run: &Run, node: &str, scope: Option<&str>) -> Load {
    Load {
        nodes: vec![Wanted {
            node: run.node(node),
            scope: scope.map(Scope::new),
            latest: Some(Scope::root()),
        }],
        ..Load::default()
    }
}

async fn seen(world: &World, run: &Run, node: &str, scope: Option<&str>) -> Option<String> {
    let mut loaded = world.load(run, load(run, node, scope)).await;
    let value: Option<NodeValue> = loaded.nodes.remove(0);
    value.map(|value| format!("{} {}", value.scope.as_str(), value.output.text()))
}

/// What a reconciler would start again, as `node/scope`.
async fn outstanding(world: &World, run: &Run) -> Vec<String> {
    let progress = world.store.progress(&run.id).await.expect("progress");
    let progress = progress.expect("the run is recorded");
    let (marks, joins) = progress.resolve(&run.workflow).expect("reads");
    let graph = &run.workflow.graph;
    let ready = unfinished(graph, decide_start(graph).ready, &marks, &joins);
    let name = |ready: &leveret_core::decide::Ready| {
        let node = &run.workflow.nodes[ready.place.node].id;
        format!("{node}/{}", ready.place.scope.as_str())
    };
    ready.iter().map(name).collect()
}

/// Each pass joins by itself, names mean the step of this pass or the latest, and the loop's last step stands around it.
pub(super) async fn passes_are_apart(world: &mut World) {
    let workflow = world.workflow("w", &definition());
    let run = world.run("r", &workflow).await;
    world.record(run.done("a")).await;
    let (decision, _) = world.record(in_pass(&run, "l", 1, &["b", "c"])).await;
    assert_eq!(ready(&workflow, &decision), ["b", "c"]);
    assert_eq!(outstanding(world, &run).await, ["b/loop#1", "c/loop#1"]);
    assert_eq!(seen(world, &run, "b", Some("loop#1")).await, None);

    let (decision, _) = world.record(in_pass(&run, "b", 1, &["l"])).await;
    assert!(decision.ready.is_empty(), "the pass waits for c");
    let first = Some("loop#1 \"b1\"".to_owned());
    assert_eq!(seen(world, &run, "b", Some("loop#1")).await, first);
    let (decision, _) = world.record(in_pass(&run, "c", 1, &["l"])).await;
    assert_eq!(ready(&workflow, &decision), ["l"]);
    assert_eq!(outstanding(world, &run).await, ["l/loop#2"]);

    world.record(in_pass(&run, "l", 2, &["b", "c"])).await;
    assert_eq!(
        seen(world, &run, "b", Some("loop#2")).await,
        first,
        "the latest"
    );
    // Both in one call, and what is named last.
    let both = [in_pass(&run, "c", 2, &["l"]), in_pass(&run, "b", 2, &["l"])];
    for committed in world.commit(&both).await {
        super::world::recorded(committed);
    }
    let second = Some("loop#2 \"b2\"".to_owned());
    assert_eq!(seen(world, &run, "b", Some("loop#2")).await, second);
    assert_eq!(seen(world, &run, "b", None).await, second);
    assert_eq!(
        seen(world, &run, "b", Some("loop#1")).await,
        first,
        "not the latest"
    );

    let last = in_pass(&run, "l", 3, &["e"]);
    let (decision, _) = world.record(last.clone()).await;
    assert_eq!(ready(&workflow, &decision), ["e"]);
    assert_eq!(decision.closes, Some(Scope::root()));
    super::world::assert_repeated(&world.commit(&[last]).await[0]);
    assert_eq!(outstanding(world, &run).await, ["e/"]);
    let around = Load {
        nodes: vec![Wanted::exactly(run.node("l"), Scope::root())],
        ..Load::default()
    };
    let around = world
        .load(&run, around)
        .await
        .nodes
        .remove(0)
        .expect("it stands there");
    assert_eq!(around.status, StepStatus::Completed);
    assert_eq!(around.output, Json::from(json!("l3")));
    let (_, end) = world.record(run.done("e")).await;
    assert!(end.is_some());
    let mut steps: Vec<String> = world
        .steps(&run)
        .await
        .iter()
        .map(|step| format!("{}/{}", step.node_id, step.scope.as_str()))
        .collect();
    steps.sort_unstable();
    assert_eq!(
        steps.join(" "),
        "a/ b/loop#1 b/loop#2 c/loop#1 c/loop#2 e/ l/ l/loop#1 l/loop#2 l/loop#3"
    );
}

/// A loop that nothing leads to, and one whose body fails, have a step around them.
pub(super) async fn loops_that_do_not_run(world: &mut World) {
    let workflow = world.workflow("w", &definition());
    let runs = world
        .runs(&["skipped".to_owned(), "failed".to_owned()], &workflow)
        .await;
    let (_, end) = world.record(runs[0].done_to("a", &[])).await;
    assert!(end.is_some());
    assert_eq!(
        world.statuses(&runs[0]).await,
        ["a=completed", "e=skipped", "l=skipped"]
    );

    let run = &runs[1];
    world.record(run.done("a")).await;
    world.record(in_pass(run, "l", 1, &["b", "c"])).await;
    world.record(in_pass(run, "b", 1, &["l"])).await;
    let failed = Finished {
        scope: Scope::root().first_pass(),
        ..run.failed("c")
    };
    let (_, end) = world.record(failed).await;
    assert!(end.is_some_and(|end| end.error.is_some()));
    let expected = [
        "a=completed",
        "b=completed",
        "c=failed",
        "e=cancelled",
        "l=cancelled",
        "l=completed",
    ];
    assert_eq!(world.statuses(run).await, expected);
}
