//! Items of batches: their rows, what is counted of them, what came of each, and what is read of a run with many of them.

use leveret_core::{
    decide::{Decision, JoinPoint, decide_start, unfinished},
    ids::Scope,
    json::Json,
};
use serde_json::{Value, json};

use super::world::{Run, World, ready, recorded};
use crate::store::{Finished, Load, NodeRef, Outcome, RunStatus, StepStatus, Wanted};

/// A batch whose items have two steps.
fn definition(params: &Value) -> Value {
    let mut params = params.clone();
    params["gatherNodeId"] = json!("g");
    json!({
        "nodes": [
            { "id": "s", "uses": "batch-scatter", "params": params },
            { "id": "b", "uses": "set" },
            { "id": "c", "uses": "set" },
            { "id": "g", "uses": "batch-gather" },
            { "id": "e", "uses": "set" },
        ],
        "edges": [
            { "source": "s", "target": "b" },
            { "source": "b", "target": "c" },
            { "source": "c", "target": "g" },
            { "source": "g", "target": "e" },
        ],
    })
}

/// The step of the scatter, with these items.
fn scattered(run: &Run, items: &[Value]) -> Finished {
    let items = items.iter().cloned().map(Json::from);
    let scope = |(index, item)| (Scope::root().item(index), item);
    run.ended(
        "s",
        Outcome::Completed {
            output: Json::from(json!({ "count": items.len() })),
            action: None,
            taken: Vec::new(),
            context: Vec::new(),
            items: Some((0..).zip(items).map(scope).collect()),
        },
    )
}

/// A step in the scope of an item.
fn of_item(index: u64, step: Finished) -> Finished {
    Finished {
        scope: Scope::root().item(index),
        ..step
    }
}

/// What is ready, as `node/scope`.
fn names(run: &Run, decision: &Decision) -> Vec<String> {
    let name = |ready: &leveret_core::decide::Ready| {
        let node = &run.workflow.nodes[ready.place.node].id;
        format!("{node}/{}", ready.place.scope.as_str())
    };
    decision.ready.iter().map(name).collect()
}

/// What stands of a node at each of these items: status, output, and the message of its error.
async fn stands(world: &World, run: &Run, node: &str, items: u64) -> Vec<String> {
    let wanted = |index| Wanted::exactly(run.node(node), Scope::root().item(index));
    let load = Load {
        nodes: (0..items).map(wanted).collect(),
        ..Load::default()
    };
    let loaded = world.load(run, load).await;
    let told = loaded.nodes.into_iter().map(|value| match value {
        None => "none".to_owned(),
        Some(value) => {
            let error = value.error.map(|error| format!(" {error}"));
            format!(
                "{} {} {:?}{}",
                value.status,
                value.output.text(),
                value.via,
                error.unwrap_or_default()
            )
        }
    });
    told.collect()
}

/// What is counted of the items.
async fn counted(world: &World, run: &Run) -> String {
    let places = [(run.node("g"), Scope::root())];
    let progress = world.store.progress_at(&run.id, &places).await;
    let progress = progress.expect("reads").expect("the run is recorded");
    let [(key, state)] = &progress.joins[..] else {
        panic!("{progress:?}");
    };
    assert_eq!((&*key.node, key.scope.is_root()), ("g", true));
    state.clone()
}

/// Items stand in rows of their own; each ends once, and the last one makes the gather ready.
pub(super) async fn items_end_once(world: &mut World) {
    let workflow = world.workflow("w", &definition(&json!({})));
    let run = world.run("r", &workflow).await;
    let long = "x".repeat(10_000);
    let items = [json!(1), json!(null), json!({ "long": long })];
    let (decision, _) = world.record(scattered(&run, &items)).await;
    assert_eq!(names(&run, &decision), ["s/each[0..3]"]);
    let rows = stands(world, &run, "s", 4).await;
    let expect = items.iter().map(|item| format!("completed {item} None"));
    assert_eq!(rows[..3], expect.collect::<Vec<_>>());
    assert_eq!(rows[3], "none");
    assert_eq!(counted(world, &run).await, "*3 3 0");
    super::world::assert_repeated(&world.commit(&[scattered(&run, &items)]).await[0]);

    for index in [2, 0] {
        let (decision, _) = world.record(of_item(index, run.done("b"))).await;
        assert_eq!(ready(&workflow, &decision), ["c"]);
    }
    world.record(of_item(2, run.done("c"))).await;
    let again = world.commit(&[of_item(2, run.done("c"))]).await;
    super::world::assert_repeated(&again[0]);
    assert_eq!(counted(world, &run).await, "*3 3 1");
    // Two in one call: one is left out, as no edge to the gather is taken.
    let both = [of_item(1, run.done_to("b", &[])), of_item(0, run.done("c"))];
    let mut last = Vec::new();
    for committed in world.commit(&both).await {
        last.push(recorded(committed).0);
    }
    assert!(last[0].ready.is_empty());
    assert_eq!(names(&run, &last[1]), ["g/"]);
    assert_eq!(counted(world, &run).await, "*3 3 3 !0");
    let edge = Some(2_usize);
    let done = format!("completed null {edge:?}");
    let rows = stands(world, &run, "g", 3).await;
    assert_eq!(rows, [done.clone(), "skipped null None".to_owned(), done]);
    world.record(run.done("g")).await;
    let (_, end) = world.record(run.done("e")).await;
    assert!(end.is_some_and(|end| end.status == RunStatus::Completed));
}

/// The end of an item lets others begin, and whoever goes on from it alone finds which.
pub(super) async fn ends_begin_others(world: &mut World) {
    let workflow = world.workflow(
        "w",
        &definition(&json!({ "concurrency": 2, "chunkSize": 3 })),
    );
    let run = world.run("r", &workflow).await;
    let items = [json!(0), json!(1), json!(2), json!(3), json!(4)];
    let (decision, _) = world.record(scattered(&run, &items)).await;
    assert_eq!(names(&run, &decision), ["s/each[0..2]"]);
    let mut begun = Vec::new();
    for index in [1, 0, 2, 4, 3] {
        world.record(of_item(index, run.done("b"))).await;
        let (decision, _) = world.record(of_item(index, run.done("c"))).await;
        begun.push(names(&run, &decision).join(" "));
        let places = [(run.node("g"), Scope::root().item(index))];
        let progress = world.store.progress_at(&run.id, &places).await;
        let progress = progress.expect("reads").expect("is recorded");
        let state = progress.joins.iter().map(|(_, state)| &**state);
        begun.push(state.collect());
    }
    let expect = [
        "b/each[2]",
        ".+2..3",
        "",
        "",
        "s/each[3..5]",
        ".+3..5",
        "",
        "",
        "g/",
        "",
    ];
    assert_eq!(begun, expect);
}

/// The failure of an item is that of the run, or stands in the place of its result.
pub(super) async fn items_fail(world: &mut World) {
    let fails = world.workflow("fails", &definition(&json!({})));
    let run = world.run("fails", &fails).await;
    world.record(scattered(&run, &[json!(0), json!(1)])).await;
    world.record(of_item(1, run.failed("b"))).await;
    world.record(of_item(0, run.done("b"))).await;
    let (_, end) = world.record(of_item(0, run.done("c"))).await;
    let error = end.expect("it ends").error.expect("it failed");
    assert_eq!(error.message, "item 1, node 'b': b broke");
    assert_eq!(error.node_id.as_str(), "b");

    let goes_on = world.workflow("goes-on", &definition(&json!({ "on_error": "collect" })));
    let run = world.run("goes-on", &goes_on).await;
    world.record(scattered(&run, &[json!(0), json!(1)])).await;
    world.record(of_item(0, run.done("b"))).await;
    world.record(of_item(0, run.done("c"))).await;
    let (decision, _) = world.record(of_item(1, run.failed("b"))).await;
    assert_eq!(names(&run, &decision), ["g/"]);
    let rows = stands(world, &run, "g", 2).await;
    assert_eq!(rows, ["completed null Some(2)", "failed null None b broke"]);
    world.record(run.done("g")).await;
    let (_, end) = world.record(run.done("e")).await;
    assert_eq!(end.expect("it ends").error, None);
}

/// A batch of nothing, and one that does not begin.
pub(super) async fn batches_without_items(world: &mut World) {
    let workflow = world.workflow("w", &definition(&json!({})));
    let runs = world
        .runs(&["empty".to_owned(), "failed".to_owned()], &workflow)
        .await;
    let (decision, _) = world.record(scattered(&runs[0], &[])).await;
    assert_eq!(names(&runs[0], &decision), ["g/"]);
    assert_eq!(counted(world, &runs[0]).await, "*0 0 0 !");
    let (_, end) = world.record(runs[1].failed("s")).await;
    assert!(end.is_some());
    let expect = ["e=cancelled", "g=cancelled", "s=failed"];
    assert_eq!(world.statuses(&runs[1]).await, expect);
}

/// Two workers that end items at the same time count each, and one makes the gather ready.
pub(super) async fn items_have_one_winner(world: &mut World) {
    const ITEMS: u64 = 40;
    let workflow = world.workflow("w", &definition(&json!({})));
    let run = world.run("r", &workflow).await;
    let items: Vec<Value> = (0..ITEMS).map(|item| json!(item)).collect();
    world.record(scattered(&run, &items)).await;
    let mut workers = Vec::new();
    for worker in 0..2 {
        let (store, run) = (world.store.clone(), run.clone());
        workers.push(tokio::spawn(async move {
            let mut fired = 0;
            for index in (worker..ITEMS).step_by(2) {
                for node in ["b", "c"] {
                    let step = of_item(index, run.done(node));
                    let mut committed = super::world::commit(&store, &[step]).await;
                    let (decision, _) = recorded(committed.remove(0));
                    fired += usize::from(names(&run, &decision) == ["g/"]);
                }
            }
            fired
        }));
    }
    let mut fired = 0;
    for worker in workers {
        fired += worker.await.expect("no panic");
    }
    assert_eq!(fired, 1);
    let counted = counted(world, &run).await;
    assert!(counted.starts_with("*40 40 40 !"), "{counted}");
}

/// Some places are read without the rest; what waits is found; and from all that is recorded it is seen what should be running.
pub(super) async fn places_are_read(world: &mut World) {
    let workflow = world.workflow("w", &definition(&json!({})));
    let run = world.run("r", &workflow).await;
    world
        .record(scattered(&run, &[json!(0), json!(1), json!(2)]))
        .await;
    world.record(of_item(0, run.done("b"))).await;
    let until = run.now;
    world.record(of_item(1, run.waiting("b", 1, until))).await;
    let key = |node: &str, index: u64| -> (NodeRef, Scope) {
        (run.node(node), Scope::root().item(index))
    };
    let places = [key("b", 0), key("b", 1), key("b", 2), key("c", 0)];
    let progress = world.store.progress_at(&run.id, &places).await;
    let progress = progress.expect("reads").expect("is recorded");
    assert_eq!(progress.status, RunStatus::Running);
    let mut marks: Vec<String> = progress
        .marks
        .iter()
        .map(|(node, scope, mark)| format!("{node}/{} {mark:?}", scope.as_str()))
        .collect();
    marks.sort_unstable();
    assert_eq!(marks, ["b/each[0] Final", "b/each[1] Waiting"]);
    assert!(progress.joins.is_empty());
    let unknown = world.run_id("unknown");
    assert_eq!(
        world.store.progress_at(&unknown, &places).await.unwrap(),
        None
    );

    let waiting = world.store.waiting_steps(&run.id, 10).await.unwrap();
    let waiting: Vec<String> = waiting
        .iter()
        .map(|(node, scope)| format!("{node}/{}", scope.as_str()))
        .collect();
    assert_eq!(waiting, ["b/each[1]"]);
    assert!(
        world
            .store
            .waiting_steps(&run.id, 0)
            .await
            .unwrap()
            .is_empty()
    );

    let whole = world.store.progress(&run.id).await.unwrap().unwrap();
    let (marks, joins) = whole.resolve(&run.workflow).expect("reads");
    let gather = leveret_core::graph::Place::root(run.ix("g"));
    assert!(joins.contains_key(&JoinPoint::Items(gather)));
    let graph = &run.workflow.graph;
    let decision = Decision {
        ready: unfinished(graph, decide_start(graph).ready, &marks, &joins),
        ..Decision::default()
    };
    assert_eq!(names(&run, &decision), ["b/each[2]", "c/each[0]"]);
    let statuses: Vec<StepStatus> = world
        .steps(&run)
        .await
        .iter()
        .map(|step| step.status)
        .collect();
    assert_eq!(statuses.len(), 6, "three items, the scatter and two steps");
}
