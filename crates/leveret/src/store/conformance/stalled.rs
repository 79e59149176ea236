//! The reconciler's claims on runs that may have stalled.

use leveret_core::ids::{RunId, Scope};
use serde_json::json;

use super::world::{Run, World, ms};
use crate::store::{Finished, NewRun};

/// A run that the reconciler first looks at `ms` after the case's beginning.
async fn begin(world: &World, name: &str, reconcile_ms: i64) -> Run {
    let workflow = world.flow("a>b", &json!({}));
    let new = NewRun {
        reconcile_at: world.at(reconcile_ms),
        ..world.new_run(name, &workflow)
    };
    world
        .store
        .start(std::slice::from_ref(&new))
        .await
        .expect("start");
    Run {
        id: new.run_id,
        workflow,
        now: world.base,
    }
}

/// Claims, with `quiet` of 1000 ms; answers with the names of the case's runs.
async fn claim(world: &World, now: i64) -> (Vec<String>, u32) {
    let (stalled, looked_at) = world
        .store
        .claim_stalled(world.at(now), ms(1000), 1000)
        .await
        .expect("claim_stalled");
    let name = |run: &RunId| {
        run.as_str()
            .strip_prefix(&format!("{}.", world.prefix))
            .map(str::to_owned)
    };
    let mut names: Vec<String> = stalled.iter().filter_map(name).collect();
    names.sort();
    (names, looked_at)
}

pub(super) async fn quiet_runs_are_found(world: &mut World) {
    let (quiet, busy, inside) = (
        begin(world, "quiet", 500).await,
        begin(world, "busy", 500).await,
        begin(world, "inside", 500).await,
    );
    let ended = begin(world, "ended", 500).await;
    world.store.cancel(&ended.id, world.at(1)).await.unwrap();
    begin(world, "later", 9000).await;
    world
        .record(Finished {
            finished_at: world.at(400),
            ..busy.done("a")
        })
        .await;
    let in_a_batch = Finished {
        scope: Scope::new("each[1]"),
        finished_at: world.at(400),
        ..inside.waiting("a", 1, world.at(450))
    };
    world.record(in_a_batch).await;
    let timers = world.claim(world.at(450), ms(10)).await;
    world.store.remove_timers(&timers).await.unwrap();

    assert_eq!(claim(world, 499).await, (vec![], 0));
    assert_eq!(claim(world, 500).await, (vec!["quiet".to_owned()], 3));
    assert_eq!(
        claim(world, 1499).await,
        (vec![], 0),
        "looked at, and due again after the quiet time"
    );
    assert_eq!(
        claim(world, 1500).await,
        (
            vec!["busy".to_owned(), "inside".to_owned(), "quiet".to_owned()],
            3
        )
    );
    world
        .record(Finished {
            finished_at: world.at(1501),
            ..quiet.done("a")
        })
        .await;
    assert_eq!(
        claim(world, 2500).await,
        (vec!["busy".to_owned(), "inside".to_owned()], 3),
        "a step 999 ms ago"
    );
}

pub(super) async fn executing_runs_are_put_off(world: &mut World) {
    let run = begin(world, "long", 500).await;
    let ended = begin(world, "ended", 500).await;
    world.store.cancel(&ended.id, world.at(1)).await.unwrap();
    let all = [run.id.clone(), ended.id, world.run_id("unknown")];
    for (runs, until) in [(&all[..], 3000), (&all, 2000), (&[], 9000)] {
        world.store.put_off(runs, world.at(until)).await.unwrap();
    }
    assert_eq!(claim(world, 2999).await, (vec![], 0));
    assert_eq!(claim(world, 3000).await, (vec!["long".to_owned()], 1));
}

/// A run with a timer is not stalled; it is due again the quiet time after its last timer.
pub(super) async fn timers_postpone(world: &mut World) {
    let run = begin(world, "waits", 500).await;
    world.record(run.done("a")).await;
    world.record(run.waiting("b", 1, world.at(8000))).await;
    assert_eq!(claim(world, 5000).await, (vec![], 1));
    assert_eq!(claim(world, 8999).await, (vec![], 0));
    let timers = world.claim(world.at(8000), ms(10)).await;
    world.store.remove_timers(&timers).await.unwrap();
    assert_eq!(claim(world, 9000).await, (vec!["waits".to_owned()], 1));

    let late = begin(world, "late", 500).await;
    world.record(late.waiting("a", 1, world.at(600))).await;
    assert_eq!(
        claim(world, 9500).await,
        (vec![], 1),
        "its timer is overdue, but there"
    );
    assert_eq!(claim(world, 10_499).await.1, 1, "only the first run");
    assert_eq!(claim(world, 10_500).await.1, 1, "the quiet time after now");
}

pub(super) async fn claims_are_bounded(world: &mut World) {
    for number in 0..5 {
        begin(world, &format!("r{number}"), 500).await;
    }
    let mut found = Vec::new();
    for expected in [2, 2, 1, 0] {
        let (stalled, looked_at) = world
            .store
            .claim_stalled(world.at(500), ms(1000), 2)
            .await
            .unwrap();
        assert_eq!((stalled.len(), looked_at), (expected, expected as u32));
        found.extend(stalled);
    }
    found.sort();
    found.dedup();
    assert_eq!(found.len(), 5);
}

/// Records runs whose first jobs cannot be published.
async fn unbegun(world: &World, names: &[&str]) -> Vec<Run> {
    let workflow = world.flow("a>b", &json!({}));
    let new = |name: &&str| NewRun {
        reconcile_at: NewRun::UNBEGUN,
        ..world.new_run(name, &workflow)
    };
    let new: Vec<NewRun> = names.iter().map(new).collect();
    world.store.start(&new).await.expect("start");
    let run = |new: NewRun| Run {
        id: new.run_id,
        workflow: new.workflow,
        now: world.base,
    };
    new.into_iter().map(run).collect()
}

/// Claims unbegun runs until that time; those of the case, in the order of the answer.
async fn claim_unbegun(world: &World, until: i64, limit: u32) -> Vec<RunId> {
    let claimed = world.store.claim_unbegun(world.at(until), limit).await;
    let claimed = claimed.expect("claim_unbegun").into_iter();
    claimed.map(|(run_id, _)| run_id).collect()
}

/// The oldest first, each to one caller, whether or not it has ended; what is unbegun is not stalled, and what was claimed may be.
pub(super) async fn unbegun_runs_are_claimed_once(world: &mut World) {
    let runs = unbegun(world, &["r3", "r1", "r2", "ended"]).await;
    let ids =
        |order: &[usize]| -> Vec<RunId> { order.iter().map(|&n| runs[n].id.clone()).collect() };
    world.store.cancel(&runs[3].id, world.at(1)).await.unwrap();
    begin(world, "begun", 500).await;
    assert_eq!(claim(world, 500).await, (vec!["begun".to_owned()], 1));

    assert_eq!(claim_unbegun(world, 2000, 2).await, ids(&[3, 1]));
    assert_eq!(claim_unbegun(world, 2000, 9).await, ids(&[2, 0]));
    assert_eq!(claim_unbegun(world, 2000, 2).await, []);
    let hash = world.run_record(&runs[0]).await.workflow_hash;
    assert_eq!(hash, runs[0].workflow.hash);

    assert_eq!(claim(world, 1400).await, (vec![], 0));
    let (stalled, _) = claim(world, 2000).await;
    assert_eq!(
        stalled,
        ["begun", "r1", "r2", "r3"],
        "nobody published them"
    );
}

/// Also one that was claimed before, or has ended; and it stays so when a worker has a job of it.
pub(super) async fn a_run_is_marked_unbegun(world: &mut World) {
    let fresh = begin(world, "fresh", 500).await;
    let ended = begin(world, "ended", 500).await;
    world.store.cancel(&ended.id, world.at(1)).await.unwrap();
    let all = [ended.id, fresh.id.clone(), world.run_id("unknown")];
    for until in [2000, 3000] {
        world.store.mark_unbegun(&all).await.unwrap();
        world.store.mark_unbegun(&[]).await.unwrap();
        assert_eq!(claim_unbegun(world, until, 10).await, all[..2]);
    }
    assert_eq!(claim(world, 2999).await, (vec![], 0));
    world.store.mark_unbegun(&all).await.unwrap();
    world.store.put_off(&all, world.at(4000)).await.unwrap();
    assert_eq!(claim_unbegun(world, 3000, 10).await, all[..2]);
    world.store.put_off(&all, world.at(4000)).await.unwrap();
    assert_eq!(claim(world, 3999).await, (vec![], 0));
    assert_eq!(claim(world, 4000).await, (vec!["fresh".to_owned()], 1));
}
