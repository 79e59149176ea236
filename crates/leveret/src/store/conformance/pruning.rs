//! What ended long ago is removed, and nothing else.

use leveret_core::{
    ids::{RunId, Scope},
    json::Json,
    time::Timestamp,
};
use serde_json::json;

use super::world::{Run, World, ms};
use crate::store::{Finished, NewTimer, Outcome, Pass, RunFilter, Started};

/// Passes over all runs; how many were removed, of whomever.
async fn prune(world: &World, before: Timestamp, limit: u32) -> u32 {
    let (mut removed, mut pass) = (0, Some(Pass::default()));
    while let Some(at) = pass {
        let (some, next) = world.store.prune(before, at, limit).await.expect("prunes");
        (removed, pass) = (removed + some, next);
    }
    removed
}

async fn is_there(world: &World, run_id: &RunId) -> bool {
    let run = world.store.run(run_id).await.expect("answers");
    assert_eq!(
        run.is_some(),
        !world.store.steps(run_id).await.expect("answers").is_empty()
    );
    run.is_some()
}

/// A run with a long input, a long output, a join, a context, a count and a step in a scope, that ended then.
async fn ended(world: &World, name: &str, at: i64) -> Run {
    let run = world.run(name, &world.flow("a>c b>c", &json!({}))).await;
    let long = Json::from(json!("long ".repeat(400)));
    let outcome = Outcome::Completed {
        output: long.clone(),
        action: None,
        taken: vec![0],
        context: vec![("k".into(), long)],
        items: None,
    };
    world.record(run.ended("a", outcome)).await;
    let step = run.done("a").key();
    world.store.set_redeliveries(&step, 1).await.unwrap();
    let inside = Finished {
        scope: Scope::new("each[1]"),
        ..run.waiting("b", 1, world.at(1))
    };
    world.record(inside).await;
    let timers = world.claim(world.at(1), ms(1)).await;
    world.store.remove_timers(&timers).await.unwrap();
    world.record(run.done("b")).await;
    let last = Finished {
        finished_at: world.at(at),
        ..run.done("c")
    };
    assert!(world.record(last).await.1.is_some());
    run
}

pub(super) async fn what_ended_before_is_removed(world: &mut World) {
    let (old, young) = (
        ended(world, "old", 10).await,
        ended(world, "young", 20).await,
    );
    let running = world.run("running", &old.workflow).await;
    world.record(running.done("a")).await;
    let cancelled = world.run("cancelled", &old.workflow).await;
    world.record(cancelled.done("a")).await;
    world
        .store
        .cancel(&cancelled.id, world.at(11))
        .await
        .unwrap();
    assert!(prune(world, world.at(20), 100).await >= 2);
    for (run, stays) in [
        (&old, false),
        (&cancelled, false),
        (&young, true),
        (&running, true),
    ] {
        assert_eq!(is_there(world, &run.id).await, stays, "{}", run.id);
    }
    // Nothing of it is left: a run of its id is a new one, also if it has the numbers of the other.
    let again = world.new_run("old", &old.workflow);
    assert_eq!(world.store.start(&[again]).await.unwrap(), [Started::New]);
    assert!(world.store.steps(&old.id).await.unwrap().is_empty());
    let progress = world.store.progress(&old.id).await.unwrap().unwrap();
    assert!(progress.marks.is_empty() && progress.joins.is_empty());
    let load = crate::store::Load {
        step: Some((old.node("a"), Scope::root())),
        context: vec!["k".into()],
        redeliveries: true,
        ..crate::store::Load::default()
    };
    let loaded = world.load(&old, load).await;
    assert_eq!((loaded.context, loaded.redeliveries), (vec![None], 0));
    // Definitions stay, for others.
    let hash = &old.workflow.hash;
    assert!(world.store.definition(hash).await.unwrap().is_some());
}

/// An end of which a timer is to tell, and one that is unbegun.
pub(super) async fn what_is_still_to_be_told_stays(world: &mut World) {
    let (timed, unbegun) = (
        ended(world, "timed", 10).await,
        ended(world, "unbegun", 10).await,
    );
    let wakes = NewTimer {
        key: timed.done("c").key(),
        due: world.at(15),
        attempts: 1,
    };
    world.store.set_timers(&[wakes]).await.unwrap();
    world
        .store
        .mark_unbegun(std::slice::from_ref(&unbegun.id))
        .await
        .unwrap();
    prune(world, world.at(20), 100).await;
    for run in [&timed, &unbegun] {
        assert!(is_there(world, &run.id).await, "{}", run.id);
    }
    let timers = world.claim(world.at(15), ms(1)).await;
    world.store.remove_timers(&timers).await.unwrap();
    world.store.claim_unbegun(world.at(30), 1000).await.unwrap();
    prune(world, world.at(20), 100).await;
    for run in [&timed, &unbegun] {
        assert!(!is_there(world, &run.id).await, "{}", run.id);
    }
}

/// Pages smaller than what is to go, and runs between them that stay.
pub(super) async fn passes_go_by_pages(world: &mut World) {
    let mut runs = Vec::new();
    for number in 0..7 {
        let at = if number % 3 == 0 { 90 } else { 10 };
        runs.push((ended(world, &format!("r{number}"), at).await, at == 90));
    }
    let other = world.named_flow("z", "a", &json!({}));
    let of_other = world.run("z", &other).await;
    world.record(of_other.done("a")).await;
    prune(world, world.at(50), 2).await;
    for (run, stays) in &runs {
        assert_eq!(is_there(world, &run.id).await, *stays, "{}", run.id);
    }
    let filter = RunFilter {
        workflow_id: Some(other.id.clone()),
        limit: 10,
        ..RunFilter::default()
    };
    assert!(world.store.runs(&filter).await.unwrap().is_empty());
}
