//! Lists for people.

use leveret_core::ids::{RunId, Scope};
use serde_json::json;

use super::world::World;
use crate::store::{Finished, NewRun, RunFilter, RunStatus, StepHead};

/// Steps come by start time, then node id.
pub(super) async fn run_and_steps(world: &mut World) {
    let run = world.run("r", &world.flow("a>b c d", &json!({}))).await;
    let later = Finished {
        started_at: world.at(5),
        finished_at: world.at(6),
        ..run.done("a")
    };
    world.commit(&[later, run.done("d"), run.done("c")]).await;
    let steps = world.steps(&run).await;
    let order: Vec<_> = steps.iter().map(|step| step.node_id.as_str()).collect();
    assert_eq!(order, ["c", "d", "a"]);
    let a = &steps[2];
    assert_eq!(
        (a.started_at, a.finished_at, a.attempts),
        (world.at(5), world.at(6), 1)
    );
    assert_eq!(a.output.value(), &json!({ "by": "a" }));
    let record = world.run_record(&run).await;
    assert_eq!(
        (record.run_id, record.input.value()),
        (run.id.clone(), &json!({ "of": "r" }))
    );
}

/// Heads say where each step stands; of some steps all is told, in the order asked for.
pub(super) async fn heads_and_some_steps(world: &mut World) {
    let run = world.run("r", &world.flow("a>b c d", &json!({}))).await;
    let other = world.run("o", &world.flow("a>b c d", &json!({}))).await;
    let waiting = Finished {
        attempts: 3,
        ..run.waiting("c", 3, world.at(50))
    };
    world
        .commit(&[run.done("a"), waiting, other.done("d")])
        .await;
    let steps = world.steps(&run).await;
    let mut heads = world.store.step_heads(&run.id).await.expect("heads");
    let by_node = |heads: &mut Vec<StepHead>| heads.sort_by(|a, b| a.node_id.cmp(&b.node_id));
    let mut expect: Vec<StepHead> = steps
        .iter()
        .map(|step| StepHead {
            node_id: step.node_id.clone(),
            scope: step.scope.clone(),
            status: step.status,
            attempts: step.attempts,
            started_at: step.started_at,
            finished_at: step.finished_at,
        })
        .collect();
    by_node(&mut heads);
    by_node(&mut expect);
    assert_eq!(heads, expect);
    assert_eq!(heads.len(), 2);
    let wanted = ["c", "d", "a", "c"].map(|node| (run.node(node), Scope::root()));
    let found = world.store.steps_at(&run.id, &wanted).await.expect("steps");
    let of = |node: &str| {
        steps
            .iter()
            .find(|step| step.node_id.as_str() == node)
            .cloned()
    };
    assert_eq!(found, [of("c"), None, of("a"), of("c")]);
    let elsewhere = [(run.node("a"), Scope::new("loop#1"))];
    let found = world.store.steps_at(&run.id, &elsewhere).await;
    assert_eq!(found.expect("steps"), [None]);
    let unknown = RunId::new(format!("{}.unknown", world.prefix)).expect("an id");
    assert_eq!(world.store.step_heads(&unknown).await.expect("heads"), []);
    let found = world.store.steps_at(&unknown, &wanted).await;
    assert_eq!(found.expect("steps"), vec![None; 4]);
}

async fn list(world: &World, filter: RunFilter) -> Vec<String> {
    let runs = world
        .store
        .runs(&RunFilter {
            limit: 1000,
            ..filter
        })
        .await
        .expect("runs");
    let name = |id: &RunId| {
        id.as_str()
            .strip_prefix(&format!("{}.", world.prefix))
            .map(str::to_owned)
    };
    runs.iter().filter_map(|run| name(&run.run_id)).collect()
}

pub(super) async fn filters(world: &mut World) {
    let (one, two) = (
        world.named_flow("one", "a", &json!({})),
        world.named_flow("two", "a", &json!({})),
    );
    for (position, (name, workflow)) in [("r1", &one), ("r2", &two), ("r3", &one), ("r4", &one)]
        .into_iter()
        .enumerate()
    {
        let new = NewRun {
            created_at: world.at(position as i64),
            ..world.new_run(name, workflow)
        };
        world.store.start(&[new]).await.unwrap();
    }
    world
        .store
        .cancel(&world.run_id("r3"), world.at(9))
        .await
        .unwrap();
    let of = |workflow_id, status| RunFilter {
        workflow_id,
        status,
        ..RunFilter::default()
    };
    let first = Some(one.id.clone());
    assert_eq!(
        list(world, of(first.clone(), None)).await,
        ["r4", "r3", "r1"]
    );
    assert_eq!(
        list(world, of(first.clone(), Some(RunStatus::Running))).await,
        ["r4", "r1"]
    );
    assert_eq!(
        list(world, of(first, Some(RunStatus::Cancelled))).await,
        ["r3"]
    );
    assert_eq!(list(world, of(Some(two.id.clone()), None)).await, ["r2"]);
    assert!(
        list(world, of(Some(two.id.clone()), Some(RunStatus::Failed)))
            .await
            .is_empty()
    );
    assert!(
        list(world, of(None, Some(RunStatus::Completed)))
            .await
            .is_empty()
    );
    // Nobody else's runs are as old as this case's.
    let after = Some((world.at(4), world.run_id("x")));
    let mine = list(
        world,
        RunFilter {
            after,
            ..RunFilter::default()
        },
    )
    .await;
    assert_eq!(mine[..4], ["r4", "r3", "r2", "r1"]);
}

/// Pages neither repeat nor leave out a run, also where many began in the same millisecond.
pub(super) async fn pages_with_equal_times(world: &mut World) {
    let workflow = world.flow("a", &json!({}));
    let names: Vec<String> = (0..7).map(|number| format!("r{number}")).collect();
    world.runs(&names, &workflow).await;
    let newer = NewRun {
        created_at: world.at(1),
        ..world.new_run("a newer one", &workflow)
    };
    world.store.start(&[newer]).await.unwrap();
    let (mut found, mut after) = (Vec::new(), None);
    loop {
        let filter = RunFilter {
            workflow_id: Some(workflow.id.clone()),
            after,
            limit: 3,
            status: None,
        };
        let page = world.store.runs(&filter).await.unwrap();
        assert!(page.len() <= 3);
        let Some(last) = page.last() else { break };
        after = Some((last.created_at, last.run_id.clone()));
        found.extend(page.into_iter().map(|run| run.run_id));
    }
    let mut expected = vec![world.run_id("a newer one")];
    expected.extend(names.iter().rev().map(|name| world.run_id(name)));
    assert_eq!(found, expected);
}
