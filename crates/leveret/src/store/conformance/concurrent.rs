//! Workers beside each other, each with a handle of its own.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use leveret_core::time::Timestamp;
use serde_json::json;
use tokio::sync::Barrier;

use super::world::{Run, World, commit, ms, node_id, ready};
use crate::store::{Committed, Finished, RunStatus, Started, Store};

const RUNS: usize = 40;

async fn many(world: &World, shape: &str) -> Vec<Run> {
    let names: Vec<String> = (0..RUNS).map(|number| format!("r{number:03}")).collect();
    world.runs(&names, &world.flow(shape, &json!({}))).await
}

/// Two handles commit the two batches of each round at the same moment; answers with what became of every step.
async fn race(world: &World, rounds: Vec<[Vec<Finished>; 2]>) -> Vec<(Finished, Committed)> {
    let barrier = Arc::new(Barrier::new(2));
    let (left, right): (Vec<_>, Vec<_>) = rounds
        .into_iter()
        .map(|[left, right]| (left, right))
        .unzip();
    let mut tasks = Vec::new();
    for batches in [left, right] {
        let (store, barrier): (Arc<dyn Store>, _) = (world.handle().await, barrier.clone());
        tasks.push(tokio::spawn(async move {
            let mut answers = Vec::new();
            for batch in batches {
                barrier.wait().await;
                let committed = commit(&store, &batch).await;
                answers.extend(batch.into_iter().zip(committed));
            }
            answers
        }));
    }
    let mut answers = Vec::new();
    for task in tasks {
        answers.extend(task.await.expect("a committing task"));
    }
    answers
}

/// Whatever the order, exactly one of the two predecessors makes each join ready.
fn assert_one_winner(answers: &[(Finished, Committed)]) {
    let mut winners: BTreeMap<&str, usize> = BTreeMap::new();
    for (finished, committed) in answers {
        let Committed::Recorded { decision, .. } = committed else {
            panic!("recorded, not {committed:?}")
        };
        *winners.entry(finished.run_id.as_str()).or_default() +=
            ready(&finished.workflow, decision).len();
    }
    assert_eq!(winners.len(), RUNS);
    assert!(
        winners.values().all(|&count| count == 1),
        "one winner each: {winners:?}"
    );
}

pub(super) async fn join_has_one_winner(world: &mut World) {
    let runs = many(world, "a>j b>j").await;
    let rounds = runs
        .iter()
        .map(|run| [vec![run.done("a")], vec![run.done("b")]])
        .collect();
    assert_one_winner(&race(world, rounds).await);
}

/// The batches hold the same runs in opposite orders.
pub(super) async fn join_has_one_winner_in_batches(world: &mut World) {
    let runs = many(world, "a>j b>j").await;
    let rounds = runs
        .chunks(10)
        .map(|runs| {
            [
                runs.iter().map(|run| run.done("a")).collect(),
                runs.iter().rev().map(|run| run.done("b")).collect(),
            ]
        })
        .collect();
    assert_one_winner(&race(world, rounds).await);
}

pub(super) async fn end_has_one_winner(world: &mut World) {
    let runs = many(world, "a b").await;
    let rounds = runs
        .iter()
        .map(|run| [vec![run.failed("a")], vec![run.done("b")]])
        .collect();
    let answers = race(world, rounds).await;
    let ends: Vec<_> = answers
        .iter()
        .filter_map(|(_, committed)| match committed {
            Committed::Recorded { end, .. } => end.as_ref(),
            other => panic!("recorded, not {other:?}"),
        })
        .collect();
    assert_eq!(ends.len(), RUNS, "each run ends once");
    assert!(
        ends.iter()
            .all(|end| end.status == RunStatus::Failed && end.error.is_some())
    );
}

/// Eight tasks commit the same steps of the same runs, each in an order of its own and some of them twice: no call fails, each step is
/// recorded by one of them, and each run ends once.
pub(super) async fn overlapping_batches(world: &mut World) {
    let runs = many(world, "a>b>j a>c>j x").await;
    let mut steps: Vec<Finished> = Vec::new();
    for node in ["a", "b", "c", "j", "x"] {
        steps.extend(runs.iter().map(|run| run.done(node)));
    }
    let mut tasks = Vec::new();
    for _ in 0..8 {
        let store: Arc<dyn Store> = world.handle().await;
        let mut mine = steps.clone();
        fastrand::shuffle(&mut mine);
        mine.extend(mine.clone().into_iter().step_by(3));
        tasks.push(tokio::spawn(async move {
            let mut recorded = Vec::new();
            for batch in mine.chunks(1 + fastrand::usize(..48)) {
                for (finished, committed) in batch.iter().zip(commit(&store, batch).await) {
                    if let Committed::Recorded { end, .. } = committed {
                        recorded.push((finished.key(), end.is_some()));
                    }
                }
            }
            recorded
        }));
    }
    let (mut keys, mut ends) = (BTreeSet::new(), 0);
    for task in tasks {
        for (key, ended) in task.await.expect("a committing task") {
            assert!(keys.insert(key.clone()), "recorded twice: {key:?}");
            ends += usize::from(ended);
        }
    }
    assert_eq!(ends, RUNS);
    for run in &runs {
        assert_eq!(world.run_record(run).await.status, RunStatus::Completed);
    }
}

pub(super) async fn same_run_is_started_once(world: &mut World) {
    let workflow = world.flow(&format!("n{}", world.prefix), &json!({}));
    let mut new: Vec<_> = (0..RUNS)
        .map(|number| world.new_run(&format!("r{number}"), &workflow))
        .collect();
    let mut tasks = Vec::new();
    for _ in 0..6 {
        fastrand::shuffle(&mut new);
        let (store, batch): (Arc<dyn Store>, _) = (world.handle().await, new.clone());
        tasks.push(tokio::spawn(async move {
            store.start(&batch).await.expect("start")
        }));
    }
    let mut begun = 0;
    for task in tasks {
        let answers = task.await.expect("a starting task");
        begun += answers
            .iter()
            .filter(|started| **started == Started::New)
            .count();
    }
    assert_eq!(begun, RUNS);
}

pub(super) async fn timers_are_claimed_once(world: &mut World) {
    let runs = many(world, "a").await;
    let early = Timestamp(fastrand::i64(1_000_000..900_000_000));
    let batch: Vec<Finished> = runs.iter().map(|run| run.waiting("a", 1, early)).collect();
    world.commit(&batch).await;
    let mut tasks = Vec::new();
    for _ in 0..4 {
        let store: Arc<dyn Store> = world.handle().await;
        tasks.push(tokio::spawn(async move {
            let mut claimed = Vec::new();
            loop {
                let timers = store
                    .claim_timers(early, ms(60_000), 3)
                    .await
                    .expect("claim_timers");
                if timers.is_empty() {
                    return claimed;
                }
                claimed.extend(timers);
            }
        }));
    }
    let mut claimed = Vec::new();
    for task in tasks {
        claimed.extend(task.await.expect("a claiming task"));
    }
    // A claim may pass over a timer that another is just taking; nobody may be left behind.
    claimed.extend(
        world
            .store
            .claim_timers(early, ms(60_000), 1000)
            .await
            .unwrap(),
    );
    let keys: BTreeSet<_> = claimed.iter().map(|timer| timer.key.clone()).collect();
    assert_eq!((claimed.len(), keys.len()), (RUNS, RUNS));
}

/// A run ends either by its last step or from outside, and both sides learn the same.
pub(super) async fn cancel_against_the_last_step(world: &mut World) {
    let (runs, store) = (many(world, "a").await, world.handle().await);
    for run in &runs {
        let batch = [run.done("a")];
        let (committed, cancelled) = tokio::join!(
            commit(&world.store, &batch),
            store.cancel(&run.id, world.at(5))
        );
        let (end, by_cancel) = cancelled.unwrap().expect("the run is known");
        match &committed[0] {
            Committed::Recorded { end: by_step, .. } => {
                assert!(!by_cancel);
                assert_eq!(*by_step, Some(end));
            }
            Committed::Over(status) => {
                assert!(by_cancel);
                assert_eq!(*status, Some(RunStatus::Cancelled));
                assert!(
                    world
                        .steps(run)
                        .await
                        .iter()
                        .all(|step| step.node_id != node_id("a"))
                );
            }
            Committed::Repeated => panic!("nobody else commits"),
        }
    }
}
