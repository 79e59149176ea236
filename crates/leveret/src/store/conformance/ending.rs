//! A run ends once, and its end is final.

use leveret_core::ids::RunId;
use serde_json::json;

use super::world::{World, assert_over, error, ready, recorded};
use crate::store::{Finished, Outcome, RunEnd, RunStatus};

pub(super) async fn completes_once(world: &mut World) {
    let run = world.run("r", &world.flow("a b", &json!({}))).await;
    let (_, end) = world.record(run.done("a")).await;
    assert_eq!(end, None);
    let last = Finished {
        finished_at: world.at(77),
        ..run.done("b")
    };
    let (_, end) = world.record(last.clone()).await;
    let expected = RunEnd {
        status: RunStatus::Completed,
        error: None,
        created_at: world.base,
        ended_at: world.at(77),
    };
    assert_eq!(end, Some(expected.clone()));
    assert_over(&world.commit(&[last]).await[0], Some(RunStatus::Completed));
    let record = world.run_record(&run).await;
    assert_eq!(
        (record.status, record.ended_at),
        (RunStatus::Completed, Some(world.at(77)))
    );
    let late = world.store.cancel(&run.id, world.at(99)).await.unwrap();
    assert_eq!(late, Some((expected, false)));
}

/// Several branches fail; the run ends with the first failure that was recorded, after the others came to their end.
pub(super) async fn first_cause_is_kept(world: &mut World) {
    let run = world.run("r", &world.flow("a b c", &json!({}))).await;
    let (_, end) = world.record(run.failed("b")).await;
    assert_eq!(end, None);
    let record = world.run_record(&run).await;
    assert_eq!(
        (record.status, record.error),
        (RunStatus::Running, Some(error("b")))
    );
    world.record(run.failed("a")).await;
    let (_, end) = world.record(run.done("c")).await;
    let end = end.expect("all branches are at their end");
    assert_eq!(
        (end.status, end.error),
        (RunStatus::Failed, Some(error("b")))
    );
    assert_eq!((end.created_at, end.ended_at), (world.base, world.at(1)));
    assert_over(
        &world.commit(&[run.done("a")]).await[0],
        Some(RunStatus::Failed),
    );
    assert_eq!(world.run_record(&run).await.error, Some(error("b")));
}

pub(super) async fn first_cause_in_one_batch(world: &mut World) {
    let workflow = world.flow("a b c", &json!({}));
    let (run, other) = (
        world.run("r", &workflow).await,
        world.run("other", &workflow).await,
    );
    let batch = [
        run.done("b"),
        run.failed("c"),
        other.done("a"),
        run.failed("a"),
        other.done("c"),
        other.done("b"),
    ];
    let answers: Vec<_> = world
        .commit(&batch)
        .await
        .into_iter()
        .map(recorded)
        .collect();
    let end = answers[3].1.clone().expect("the end of the first run");
    assert_eq!(
        (end.status, end.error),
        (RunStatus::Failed, Some(error("c")))
    );
    let end = answers[5].1.clone().expect("the end of the other run");
    assert_eq!((end.status, end.error), (RunStatus::Completed, None));
}

pub(super) async fn fallback_saves_the_run(world: &mut World) {
    let workflow = world.flow("a>b f", &json!({ "a": { "fallback": "f" } }));
    let run = world.run("r", &workflow).await;
    let (decision, end) = world.record(run.failed("a")).await;
    assert_eq!((ready(&workflow, &decision), end), (vec!["f"], None));
    assert_eq!(world.run_record(&run).await.error, None);
    let (decision, _) = world.record(run.done("f")).await;
    assert_eq!(ready(&workflow, &decision), ["b"]);
    let (_, end) = world.record(run.done("b")).await;
    assert_eq!(end.map(|end| end.status), Some(RunStatus::Completed));
    assert_eq!(
        world.statuses(&run).await,
        ["a=failed", "b=completed", "f=completed"]
    );

    let unused = world.run("unused", &workflow).await;
    world.record(unused.done("a")).await;
    let (_, end) = world.record(unused.done("b")).await;
    assert_eq!(end.map(|end| end.status), Some(RunStatus::Completed));
    assert_eq!(
        world.statuses(&unused).await,
        ["a=completed", "b=completed", "f=skipped"]
    );
}

pub(super) async fn failed_fallback_fails_the_run(world: &mut World) {
    let workflow = world.flow("a>b f", &json!({ "a": { "fallback": "f" } }));
    let run = world.run("r", &workflow).await;
    world.record(run.failed("a")).await;
    let (_, end) = world.record(run.failed("f")).await;
    let end = end.expect("nothing is left to do");
    assert_eq!(
        (end.status, end.error),
        (RunStatus::Failed, Some(error("f")))
    );
    assert_eq!(
        world.statuses(&run).await,
        ["a=failed", "b=cancelled", "f=failed"]
    );
}

pub(super) async fn fatal_failure_passes_the_fallback(world: &mut World) {
    let workflow = world.flow("a>b f", &json!({ "a": { "fallback": "f" } }));
    let run = world.run("r", &workflow).await;
    let fatal = run.ended(
        "a",
        Outcome::Failed {
            error: error("a"),
            fall_back: false,
        },
    );
    let (_, end) = world.record(fatal).await;
    let end = end.expect("nothing is left to do");
    assert_eq!(
        (end.status, end.error),
        (RunStatus::Failed, Some(error("a")))
    );
    assert_eq!(
        world.statuses(&run).await,
        ["a=failed", "b=cancelled", "f=skipped"]
    );
}

pub(super) async fn cancel_once(world: &mut World) {
    let run = world.run("r", &world.flow("a>b", &json!({}))).await;
    world.record(run.done("a")).await;
    let expected = RunEnd {
        status: RunStatus::Cancelled,
        error: None,
        created_at: world.base,
        ended_at: world.at(8),
    };
    let first = world.store.cancel(&run.id, world.at(8)).await.unwrap();
    assert_eq!(first, Some((expected.clone(), true)));
    for late in [world.at(9), world.at(10)] {
        let again = world.store.cancel(&run.id, late).await.unwrap();
        assert_eq!(again, Some((expected.clone(), false)));
    }
    assert_over(
        &world.commit(&[run.done("b")]).await[0],
        Some(RunStatus::Cancelled),
    );
    let unknown = RunId::new(format!("{}.unknown", world.prefix)).unwrap();
    assert_eq!(
        world.store.cancel(&unknown, world.at(1)).await.unwrap(),
        None
    );
}
