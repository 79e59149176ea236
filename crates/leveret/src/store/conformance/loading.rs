//! What workers read.

use std::sync::Arc;

use leveret_core::{
    decide::unfinished,
    ids::{RunId, Scope},
    json::Json,
};
use serde_json::json;

use super::world::{World, error};
use crate::store::{Finished, Load, NodeValue, Outcome, RunStatus, StepStatus};

pub(super) async fn everything(world: &mut World) {
    let run = world.run("r", &world.flow("a>b>c a>d e", &json!({}))).await;
    let acted = run.ended(
        "a",
        Outcome::Completed {
            output: Json::from(json!({ "n": 1 })),
            action: Some("left".into()),
            taken: vec![0],
            context: vec![(Arc::from("k"), Json::from(json!("v")))],
            items: None,
        },
    );
    world
        .commit(&[
            acted,
            run.failed("b"),
            Finished {
                attempts: 4,
                ..run.waiting("e", 4, world.at(50))
            },
        ])
        .await;
    let load = Load {
        step: Some((run.node("e"), Scope::root())),
        input: true,
        nodes: ["d", "a", "b", "e", "a"]
            .map(|node| run.wanted(node))
            .into(),
        context: vec!["missing".into(), "k".into()],
        redeliveries: true,
        wait: true,
    };
    let loaded = world.load(&run, load).await;
    assert_eq!(
        (loaded.workflow_hash, loaded.status),
        (run.workflow.hash, RunStatus::Running)
    );
    assert_eq!(loaded.created_at, world.base);
    assert_eq!(loaded.input, Some(Json::from(json!({ "of": "r" }))));
    assert_eq!(loaded.step, Some((StepStatus::Waiting, 4)));
    assert_eq!(loaded.context, [None, Some(Json::from(json!("v")))]);
    assert_eq!((loaded.redeliveries, loaded.wait), (0, None));
    let value = |status, output, action: Option<&str>, error, via| {
        Some(NodeValue {
            scope: Scope::root(),
            status,
            output: Json::from(output),
            action: action.map(Into::into),
            error,
            via,
        })
    };
    let a = value(
        StepStatus::Completed,
        json!({ "n": 1 }),
        Some("left"),
        None,
        None,
    );
    let b = value(
        StepStatus::Failed,
        json!(null),
        None,
        Some(error("b")),
        Some(0),
    );
    let d = value(StepStatus::Skipped, json!(null), None, None, None);
    let e = value(
        StepStatus::Waiting,
        json!(null),
        None,
        Some(error("e")),
        None,
    );
    assert_eq!(loaded.nodes, [d, a.clone(), b, e, a]);
}

pub(super) async fn missing(world: &mut World) {
    let run = world.run("r", &world.flow("a>b", &json!({}))).await;
    let load = Load {
        step: Some((run.node("b"), Scope::root())),
        nodes: vec![run.wanted("a")],
        ..Load::default()
    };
    let loaded = world.load(&run, load.clone()).await;
    assert_eq!((loaded.input, loaded.step), (None, None));
    assert_eq!(loaded.nodes, [None]);
    assert!(loaded.context.is_empty());
    let unknown = RunId::new(format!("{}.unknown", world.prefix)).unwrap();
    let loaded = world.store.load(&[(unknown.clone(), load)]).await.unwrap();
    assert!(matches!(loaded[..], [None]));
    assert_eq!(world.store.run(&unknown).await.unwrap(), None);
    assert!(world.store.steps(&unknown).await.unwrap().is_empty());
    assert!(world.store.progress(&unknown).await.unwrap().is_none());
}

/// Answers stand in the order of the batch, whatever they have in common.
pub(super) async fn many_at_once(world: &mut World) {
    let names: Vec<String> = (0..20).map(|number| format!("r{number}")).collect();
    let runs = world.runs(&names, &world.flow("a>b", &json!({}))).await;
    let batch: Vec<Finished> = runs
        .iter()
        .enumerate()
        .map(|(number, run)| run.with_context("a", &[("number", json!(number))]))
        .collect();
    world.commit(&batch).await;
    let load = |number: usize| Load {
        input: number.is_multiple_of(2),
        nodes: vec![runs[number].wanted(if number.is_multiple_of(3) { "a" } else { "b" })],
        context: vec!["number".into()],
        ..Load::default()
    };
    let unknown = RunId::new(format!("{}.unknown", world.prefix)).unwrap();
    let mut loads = vec![(unknown, Load::default())];
    loads.extend(
        runs.iter()
            .enumerate()
            .rev()
            .map(|(number, run)| (run.id.clone(), load(number))),
    );
    loads.push((runs[3].id.clone(), load(0)));
    let answers = world.store.load(&loads).await.unwrap();
    assert_eq!(answers.len(), 22);
    assert!(answers[0].is_none());
    for (answer, number) in answers[1..21].iter().zip((0..20_usize).rev()) {
        let loaded = answer.as_ref().expect("the run is recorded");
        let input = number
            .is_multiple_of(2)
            .then(|| Json::from(json!({ "of": format!("r{number}") })));
        assert_eq!(loaded.input, input);
        assert_eq!(loaded.context, [Some(Json::from(json!(number)))]);
        assert_eq!(loaded.nodes[0].is_some(), number.is_multiple_of(3));
    }
    let twice = answers[21].as_ref().expect("the run is recorded");
    assert_eq!(twice.input, Some(Json::from(json!({ "of": "r3" }))));
}

pub(super) async fn redeliveries_are_kept(world: &mut World) {
    let run = world.run("r", &world.flow("a b", &json!({}))).await;
    let (a, b) = (run.done("a").key(), run.done("b").key());
    let load = |node: &str| Load {
        step: Some((run.node(node), Scope::root())),
        redeliveries: true,
        ..Load::default()
    };
    world.store.set_redeliveries(&b, 1).await.unwrap();
    for count in [1, 2, 2, 0, 3] {
        world.store.set_redeliveries(&a, count).await.unwrap();
        assert_eq!(world.load(&run, load("a")).await.redeliveries, count);
    }
    assert_eq!(world.load(&run, load("b")).await.redeliveries, 1);
}

/// From what is recorded, the nodes that should be running can be found.
pub(super) async fn progress_resolves(world: &mut World) {
    let workflow = world.flow(
        "a>b>j a>c>j a>x j>k f",
        &json!({ "c": { "fallback": "f" } }),
    );
    let run = world.run("r", &workflow).await;
    let open = async |world: &World| {
        let progress = world
            .store
            .progress(&run.id)
            .await
            .unwrap()
            .expect("the run is recorded");
        assert_eq!(
            (progress.workflow_hash, progress.status),
            (workflow.hash, RunStatus::Running)
        );
        let (marks, joins) = progress.resolve(&workflow).unwrap();
        let starts = leveret_core::decide::decide_start(&workflow.graph).ready;
        let ready = unfinished(&workflow.graph, starts, &marks, &joins);
        ready
            .iter()
            .map(|ready| workflow.nodes[ready.place.node].id.to_string())
            .collect::<Vec<_>>()
    };
    assert_eq!(open(world).await, ["a"]);
    world.record(run.done_to("a", &["b", "c"])).await;
    assert_eq!(open(world).await, ["b", "c"]);
    world.record(run.failed("c")).await;
    assert_eq!(open(world).await, ["b", "f"]);
    world.record(run.waiting("f", 1, world.at(5))).await;
    assert_eq!(open(world).await, ["b"]);
    world
        .commit(&[
            run.done("b"),
            Finished {
                attempts: 2,
                ..run.done("f")
            },
        ])
        .await;
    assert_eq!(open(world).await, ["j"]);
    world.record(run.done("j")).await;
    assert_eq!(open(world).await, ["k"]);
}
