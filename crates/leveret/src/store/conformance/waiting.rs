//! Steps that wait, and the timers that wake them.

use serde_json::json;

use super::world::{World, assert_over, assert_repeated, error, ms, node_id, ready, recorded};
use leveret_core::{
    ids::{Scope, StepKey},
    time::Timestamp,
};

use crate::store::{Finished, Load, NewTimer, RunStatus, StepStatus};

/// The timers of a run are told with their steps, and those of no other.
pub(super) async fn timers_of_a_run(world: &mut World) {
    let workflow = world.flow("a b", &json!({}));
    let (run, other) = (
        world.run("r", &workflow).await,
        world.run("o", &workflow).await,
    );
    world.record(run.waiting("b", 1, world.at(40))).await;
    world.record(run.waiting("a", 1, world.at(50))).await;
    world.record(other.waiting("a", 1, world.at(60))).await;
    let timers = world.store.timers_of(&run.id).await.unwrap();
    let told: Vec<_> = timers
        .iter()
        .map(|(node, _, due)| (node.as_str(), *due))
        .collect();
    assert_eq!(told, [("a", world.at(50)), ("b", world.at(40))]);
}

pub(super) async fn timer_is_due_at_its_time(world: &mut World) {
    let run = world.run("r", &world.flow("a>b", &json!({}))).await;
    world.record(run.done("a")).await;
    let (decision, end) = world.record(run.waiting("b", 2, world.at(100))).await;
    assert_eq!((ready(&run.workflow, &decision), end), (vec![], None));
    let step = &world.steps(&run).await[1];
    assert_eq!((step.status, step.attempts), (StepStatus::Waiting, 2));
    assert_eq!(step.error, Some(error("b")));

    assert!(world.claim(world.at(99), ms(50)).await.is_empty());
    let timers = world.claim(world.at(100), ms(50)).await;
    assert_eq!(timers.len(), 1);
    let timer = &timers[0];
    assert_eq!(timer.key, run.done("b").key());
    assert_eq!(
        (&timer.workflow_id, timer.workflow_hash),
        (&run.workflow.id, run.workflow.hash)
    );
    assert_eq!(
        (timer.via, timer.attempts, timer.claimed_until),
        (Some(0), 2, world.at(150))
    );
}

pub(super) async fn claim_hides_until_it_ends(world: &mut World) {
    let run = world.run("r", &world.flow("a", &json!({}))).await;
    world.record(run.waiting("a", 1, world.at(100))).await;
    assert_eq!(world.claim(world.at(120), ms(50)).await.len(), 1);
    assert!(world.claim(world.at(169), ms(50)).await.is_empty());
    let again = world.claim(world.at(170), ms(50)).await;
    assert_eq!(again.len(), 1);
    assert_eq!(again[0].claimed_until, world.at(220));
    world.store.remove_timers(&again).await.unwrap();
    assert!(world.claim(world.at(9999), ms(50)).await.is_empty());
}

/// Due timers come earliest first, no more than asked for.
pub(super) async fn claims_are_bounded_and_earliest_first(world: &mut World) {
    let names: Vec<String> = (0..6).map(|number| format!("r{number}")).collect();
    let runs = world.runs(&names, &world.flow("a", &json!({}))).await;
    // Earlier than what any other case leaves behind, so that the limit is spent on these.
    let early = Timestamp(fastrand::i64(1_000_000..900_000_000));
    let due = |number: usize| early + ms([50, 10, 40, 20, 60, 30][number]);
    let batch: Vec<Finished> = runs
        .iter()
        .enumerate()
        .map(|(number, run)| run.waiting("a", 1, due(number)))
        .collect();
    world.commit(&batch).await;
    let mut claimed = Vec::new();
    for expected in [4, 1, 0] {
        let timers = world
            .store
            .claim_timers(early + ms(55), ms(1000), 4)
            .await
            .unwrap();
        assert_eq!(timers.len(), expected);
        claimed.push(timers);
    }
    let mut first: Vec<&str> = claimed[0]
        .iter()
        .map(|timer| timer.key.run_id.as_str())
        .collect();
    first.sort_unstable();
    let mut expected: Vec<&str> = [1, 3, 5, 2]
        .map(|number: usize| runs[number].id.as_str())
        .into();
    expected.sort_unstable();
    assert_eq!(first, expected);
    assert_eq!(claimed[1][0].key.run_id, runs[0].id);
}

/// A timer that was set anew, or claimed anew, since the claim stays.
pub(super) async fn remove_only_if_unchanged(world: &mut World) {
    let run = world.run("r", &world.flow("a b", &json!({}))).await;
    world
        .commit(&[
            run.waiting("a", 1, world.at(10)),
            run.waiting("b", 1, world.at(10)),
        ])
        .await;
    let old = world.claim(world.at(20), ms(100)).await;
    assert_eq!(old.len(), 2);
    world.record(run.waiting("a", 2, world.at(500))).await;
    world.store.remove_timers(&old).await.unwrap();
    let left = world.claim(world.at(600), ms(100)).await;
    assert_eq!(left.len(), 1);
    assert_eq!((left[0].key.node_id.as_str(), left[0].attempts), ("a", 2));

    // Set anew for the very time at which the claim ends.
    world.record(run.waiting("a", 3, world.at(700))).await;
    world.store.remove_timers(&left).await.unwrap();
    let newer = world.claim(world.at(700), ms(100)).await;
    assert_eq!(newer.len(), 1);
    world.store.remove_timers(&left).await.unwrap();
    world.store.remove_timers(&newer).await.unwrap();
    world.store.remove_timers(&newer).await.unwrap();
    assert!(world.claim(world.at(9999), ms(1)).await.is_empty());
}

/// In the place of what is set for the step; not for a run that is unknown.
pub(super) async fn timers_are_set_for_runs_that_ended(world: &mut World) {
    let run = world.run("r", &world.flow("a>b", &json!({}))).await;
    world.record(run.waiting("a", 1, world.at(10))).await;
    world.store.cancel(&run.id, world.at(20)).await.unwrap();
    let key = run.done("a").key();
    let timer = |due, attempts| NewTimer {
        key: key.clone(),
        due: world.at(due),
        attempts,
    };
    let unknown = NewTimer {
        key: StepKey {
            run_id: world.run_id("unknown"),
            ..key.clone()
        },
        ..timer(5, 1)
    };
    world.store.set_timers(&[]).await.unwrap();
    world
        .store
        .set_timers(&[timer(30, 1), unknown])
        .await
        .unwrap();
    assert!(world.claim(world.at(29), ms(9)).await.is_empty());
    let claimed = world.claim(world.at(30), ms(9)).await;
    assert_eq!(claimed.len(), 1);
    assert_eq!((&claimed[0].key, claimed[0].via), (&key, None));
    assert_eq!(claimed[0].workflow_hash, run.workflow.hash);

    // Set anew while it was claimed.
    world.store.set_timers(&[timer(60, 2)]).await.unwrap();
    world.store.remove_timers(&claimed).await.unwrap();
    let claimed = world.claim(world.at(60), ms(9)).await;
    let attempts: Vec<u32> = claimed.iter().map(|timer| timer.attempts).collect();
    assert_eq!(attempts, [2]);
    world.store.remove_timers(&claimed).await.unwrap();
    assert!(world.claim(world.at(9999), ms(9)).await.is_empty());
}

pub(super) async fn next_timer_is_the_earliest(world: &mut World) {
    let run = world.run("r", &world.flow("a b", &json!({}))).await;
    let early = Timestamp(fastrand::i64(1000..900_000));
    world
        .commit(&[
            run.waiting("a", 1, early + ms(7)),
            run.waiting("b", 1, early),
        ])
        .await;
    assert_eq!(world.store.next_timer().await.unwrap(), Some(early));
    let claimed = world.claim(early, ms(3)).await;
    assert_eq!(
        world.store.next_timer().await.unwrap(),
        Some(early + ms(3)),
        "the end of the claim"
    );
    world.store.remove_timers(&claimed).await.unwrap();
    assert_eq!(world.store.next_timer().await.unwrap(), Some(early + ms(7)));
}

/// The next attempt overtakes a waiting one; an old or equal one does not, unless it ended.
pub(super) async fn retry_overtakes(world: &mut World) {
    let run = world.run("r", &world.flow("a>b", &json!({}))).await;
    let first = Finished {
        started_at: world.at(-50),
        ..run.waiting("a", 2, world.at(10))
    };
    world.record(first).await;
    for late in [
        run.waiting("a", 2, world.at(5)),
        run.waiting("a", 1, world.at(5)),
        run.failed("a"),
    ] {
        assert_repeated(&world.commit(&[late]).await[0]);
    }
    assert_eq!(world.run_record(&run).await.error, None);
    assert!(
        world.claim(world.at(9), ms(1)).await.is_empty(),
        "the timer stands as it was"
    );

    world.record(run.waiting("a", 3, world.at(40))).await;
    assert!(
        world.claim(world.at(39), ms(1)).await.is_empty(),
        "the timer was set anew"
    );
    let same_attempt = Finished {
        attempts: 3,
        finished_at: world.at(44),
        ..run.done("a")
    };
    let (decision, _) = world.record(same_attempt).await;
    assert_eq!(ready(&run.workflow, &decision), ["b"]);
    let step = world.steps(&run).await.remove(0);
    assert_eq!(
        (step.status, step.attempts, step.error),
        (StepStatus::Completed, 3, None)
    );
    assert_eq!(
        (step.started_at, step.finished_at),
        (world.at(-50), world.at(44))
    );
    assert_repeated(&world.commit(&[run.waiting("a", 9, world.at(50))]).await[0]);
    assert!(world.claim(world.at(9999), ms(1)).await.is_empty());
}

pub(super) async fn completion_removes_its_own_timer_only(world: &mut World) {
    let workflow = world.flow("a>c b", &json!({}));
    let (run, other) = (
        world.run("r", &workflow).await,
        world.run("other", &workflow).await,
    );
    let scoped = Finished {
        scope: Scope::new("each[1]"),
        ..run.waiting("a", 1, world.at(10))
    };
    let batch = [
        run.waiting("a", 1, world.at(10)),
        run.waiting("b", 1, world.at(10)),
        other.waiting("a", 1, world.at(10)),
        scoped,
    ];
    world.commit(&batch).await;
    assert_repeated(
        &world
            .commit(&[Finished {
                attempts: 0,
                ..run.done("a")
            }])
            .await[0],
    );
    assert_eq!(
        world.claim(world.at(10), ms(5)).await.len(),
        4,
        "what changes nothing removes nothing"
    );
    world
        .record(Finished {
            attempts: 2,
            ..run.done("a")
        })
        .await;
    let failed = Finished {
        attempts: 2,
        ..other.failed("a")
    };
    world.record(failed).await;
    let left = world.claim(world.at(100), ms(5)).await;
    let mut left: Vec<_> = left
        .iter()
        .map(|timer| (timer.key.node_id.as_str(), timer.key.scope.as_str()))
        .collect();
    left.sort_unstable();
    assert_eq!(left, [("a", "each[1]"), ("b", "")]);
}

pub(super) async fn waiting_then_completed_in_one_batch(world: &mut World) {
    let run = world.run("r", &world.flow("a>b>c", &json!({}))).await;
    let later = Finished {
        attempts: 2,
        ..run.done("a")
    };
    let batch = [
        run.waiting("a", 1, world.at(10)),
        later,
        run.done("b"),
        run.waiting("c", 1, world.at(10)),
        run.done("a"),
    ];
    let answers = world.commit(&batch).await;
    let (decision, _) = recorded(answers[1].clone());
    assert_eq!(ready(&run.workflow, &decision), ["b"]);
    recorded(answers[3].clone());
    assert_repeated(&answers[4]);
    let timers = world.claim(world.at(10), ms(5)).await;
    assert_eq!(timers.len(), 1);
    assert_eq!(timers[0].key.node_id, node_id("c"));
    let loaded = world
        .load(
            &run,
            Load {
                step: Some((run.node("a"), Scope::root())),
                ..Load::default()
            },
        )
        .await;
    assert_eq!(loaded.step, Some((StepStatus::Completed, 2)));
    let batch = [
        Finished {
            attempts: 2,
            ..run.done("c")
        },
        Finished {
            attempts: 3,
            ..run.done("c")
        },
    ];
    let answers = world.commit(&batch).await;
    assert!(recorded(answers[0].clone()).1.is_some());
    assert_over(&answers[1], Some(RunStatus::Completed));
}
