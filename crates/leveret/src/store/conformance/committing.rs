//! Steps are recorded once, with what follows from them.

use std::sync::Arc;

use leveret_core::{
    graph::EdgeIx,
    ids::{RunId, Scope},
    json::Json,
};
use serde_json::{Value, json};

use super::world::{Run, World, assert_over, assert_repeated, error, ready, recorded};
use crate::store::{Finished, Load, Outcome, RunStatus};

pub(super) async fn first_writer_wins(world: &mut World) {
    let run = world.run("r", &world.flow("a>b", &json!({}))).await;
    let (decision, end) = world.record(run.done("a")).await;
    assert_eq!((ready(&run.workflow, &decision), end), (vec!["b"], None));
    assert_eq!(decision.ready[0].via, Some(0));
    let before = world.steps(&run).await;

    let other = Finished {
        attempts: 7,
        ..run.done_to("a", &[])
    };
    for late in [
        run.done("a"),
        other,
        run.failed("a"),
        run.waiting("a", 9, world.at(5)),
    ] {
        assert_repeated(&world.commit(&[late]).await[0]);
    }
    assert_eq!(world.steps(&run).await, before);
    assert_eq!(world.run_record(&run).await.error, None);
    assert!(
        world
            .claim(world.at(1000), super::world::ms(1))
            .await
            .is_empty()
    );
}

pub(super) async fn empty_batch(world: &mut World) {
    assert!(world.commit(&[]).await.is_empty());
    assert!(world.store.load(&[]).await.unwrap().is_empty());
    world.store.remove_timers(&[]).await.unwrap();
}

pub(super) async fn chain_in_one_batch(world: &mut World) {
    let run = world.run("r", &world.flow("a>b>c", &json!({}))).await;
    let batch = [run.done("a"), run.done("b"), run.done("c")];
    let mut answers = world.commit(&batch).await.into_iter().map(recorded);
    let expected = [vec!["b"], vec!["c"], vec![]];
    for (position, expected) in expected.into_iter().enumerate() {
        let (decision, end) = answers.next().expect("an answer");
        assert_eq!(ready(&run.workflow, &decision), expected);
        assert_eq!(end.is_some(), position == 2);
    }
    assert_eq!(world.run_record(&run).await.status, RunStatus::Completed);
}

pub(super) async fn fan_out_and_join_in_one_batch(world: &mut World) {
    let run = world
        .run("r", &world.flow("a>b>j a>c>j a>d>j", &json!({})))
        .await;
    let batch: Vec<Finished> = ["a", "d", "b", "c", "j"].map(|node| run.done(node)).into();
    let answers: Vec<_> = world
        .commit(&batch)
        .await
        .into_iter()
        .map(recorded)
        .collect();
    let readies: Vec<_> = answers
        .iter()
        .map(|(decision, _)| ready(&run.workflow, decision))
        .collect();
    assert_eq!(
        readies,
        [vec!["b", "c", "d"], vec![], vec![], vec!["j"], vec![]]
    );
    assert!(answers[4].1.is_some(), "the last step ends the run");
    assert_eq!(world.steps(&run).await.len(), 5);
}

pub(super) async fn duplicates_in_a_batch(world: &mut World) {
    let run = world.run("r", &world.flow("a>b>c x>c", &json!({}))).await;
    let second = run.done_to("a", &[]);
    let batch = [
        run.done("a"),
        second,
        run.done("b"),
        run.done("a"),
        run.done("b"),
        run.done("x"),
    ];
    let answers = world.commit(&batch).await;
    for repeated in [1, 3, 4] {
        assert_repeated(&answers[repeated]);
    }
    let (decision, _) = recorded(answers[5].clone());
    assert_eq!(ready(&run.workflow, &decision), ["c"]);
    assert_eq!(
        world.statuses(&run).await,
        ["a=completed", "b=completed", "x=completed"]
    );
}

pub(super) async fn many_runs_in_one_batch(world: &mut World) {
    let workflow = world.flow("a>b>j a>c>j", &json!({}));
    let names: Vec<String> = (0..50).map(|number| format!("r{number}")).collect();
    let runs = world.runs(&names, &workflow).await;
    for (node, expected) in [
        ("a", vec!["b", "c"]),
        ("b", vec![]),
        ("c", vec!["j"]),
        ("j", vec![]),
    ] {
        let batch: Vec<Finished> = runs.iter().rev().map(|run| run.done(node)).collect();
        for committed in world.commit(&batch).await {
            let (decision, end) = recorded(committed);
            assert_eq!(ready(&workflow, &decision), expected);
            assert_eq!(end.is_some(), node == "j");
        }
    }
}

/// Nothing is recorded for a run that ended, was cancelled, or never began.
pub(super) async fn over(world: &mut World) {
    let workflow = world.flow("a b", &json!({}));
    let (ended, cancelled) = (
        world.run("ended", &workflow).await,
        world.run("cancelled", &workflow).await,
    );
    let live = world.run("live", &workflow).await;
    world.commit(&[ended.done("a"), ended.done("b")]).await;
    world
        .store
        .cancel(&cancelled.id, world.at(3))
        .await
        .unwrap();
    let unknown = Run {
        id: RunId::new(format!("{}.unknown", world.prefix)).unwrap(),
        ..live.clone()
    };

    let batch = [
        ended.done("a"),
        cancelled.done("a"),
        live.done("a"),
        unknown.done("a"),
        cancelled.failed("b"),
    ];
    let answers = world.commit(&batch).await;
    assert_over(&answers[0], Some(RunStatus::Completed));
    assert_over(&answers[1], Some(RunStatus::Cancelled));
    recorded(answers[2].clone());
    assert_over(&answers[3], None);
    assert_over(&answers[4], Some(RunStatus::Cancelled));
    assert!(world.steps(&cancelled).await.is_empty());
    assert!(world.steps(&unknown).await.is_empty());
    assert_eq!(world.run_record(&cancelled).await.error, None);

    let single = world.commit(&[unknown.done("a")]).await;
    assert_over(&single[0], None);
    let late = world
        .commit(&[cancelled.waiting("b", 1, world.at(1))])
        .await;
    assert_over(&late[0], Some(RunStatus::Cancelled));
    assert!(
        world
            .claim(world.at(1000), super::world::ms(1))
            .await
            .is_empty()
    );
}

async fn context(world: &World, run: &Run, keys: &[&str]) -> Vec<Option<Value>> {
    let keys = keys.iter().map(|key| Arc::from(*key)).collect();
    let loaded = world
        .load(
            run,
            Load {
                context: keys,
                ..Load::default()
            },
        )
        .await;
    loaded
        .context
        .iter()
        .map(|value| value.as_ref().map(|json| json.value().clone()))
        .collect()
}

pub(super) async fn last_context_write_wins(world: &mut World) {
    let workflow = world.flow("a>b>c>d", &json!({}));
    let (run, other) = (
        world.run("r", &workflow).await,
        world.run("other", &workflow).await,
    );
    world
        .record(run.with_context(
            "a",
            &[("k", json!(1)), ("same", json!("x")), ("same", json!("y"))],
        ))
        .await;
    let batch = [
        run.with_context("b", &[("k", json!(2)), ("l", json!([null]))]),
        other.with_context("a", &[("k", json!("other"))]),
        run.with_context("c", &[("k", json!({ "v": 3 })), ("nothing", json!(null))]),
    ];
    world.commit(&batch).await;
    assert_eq!(
        context(world, &run, &["l", "k", "missing", "same", "nothing"]).await,
        [
            Some(json!([null])),
            Some(json!({ "v": 3 })),
            None,
            Some(json!("y")),
            Some(json!(null))
        ]
    );
    assert_eq!(
        context(world, &other, &["k", "l"]).await,
        [Some(json!("other")), None]
    );
}

pub(super) async fn repeated_step_sets_no_context(world: &mut World) {
    let run = world.run("r", &world.flow("a>b", &json!({}))).await;
    world
        .record(run.with_context("a", &[("k", json!(1))]))
        .await;
    let late = run.with_context("a", &[("k", json!(2)), ("l", json!(2))]);
    assert_repeated(&world.commit(&[late]).await[0]);
    assert_eq!(
        context(world, &run, &["k", "l"]).await,
        [Some(json!(1)), None]
    );
}

/// The scope is part of a step's identity.
pub(super) async fn scopes_are_apart(world: &mut World) {
    let run = world.run("r", &world.flow("a>b", &json!({}))).await;
    let scoped = |scope: &str, output: i64| Finished {
        scope: Scope::new(scope),
        via: None::<EdgeIx>,
        outcome: Outcome::Completed {
            output: Json::from(json!(output)),
            action: Some("go".into()),
            taken: vec![0],
            context: Vec::new(),
            items: None,
        },
        ..run.done("a")
    };
    let batch = [
        scoped("each[0]", 0),
        scoped("each[1]", 1),
        scoped("", 2),
        scoped("each[1]", 3),
    ];
    let answers = world.commit(&batch).await;
    assert_repeated(&answers[3]);
    let steps = world.steps(&run).await;
    let outputs: Vec<_> = steps
        .iter()
        .map(|step| (step.scope.as_str(), step.output.value().clone()))
        .collect();
    assert_eq!(
        outputs,
        [("", json!(2)), ("each[0]", json!(0)), ("each[1]", json!(1))]
    );

    let late = Finished {
        outcome: Outcome::Failed {
            error: error("a"),
            fall_back: true,
        },
        ..scoped("each[0]", 9)
    };
    assert_repeated(&world.commit(&[late]).await[0]);
    let step = Some((run.node("a"), Scope::new("each[1]")));
    let loaded = world
        .load(
            &run,
            Load {
                step,
                nodes: vec![run.wanted("a")],
                ..Load::default()
            },
        )
        .await;
    assert_eq!(loaded.step.map(|(_, attempts)| attempts), Some(1));
    let root = loaded.nodes[0].as_ref().expect("recorded");
    assert_eq!(
        root.output.value(),
        &json!(2),
        "nodes are of the root scope"
    );
}
