//! Joins whose edges resolve in separate commits, and what skips and failures make of them.

use serde_json::json;

use super::world::{World, assert_repeated, ready};

pub(super) async fn all_across_commits(world: &mut World) {
    let run = world
        .run("r", &world.flow("a>j b>j c>j j>e", &json!({})))
        .await;
    for (node, expected) in [
        ("c", vec![]),
        ("a", vec![]),
        ("b", vec!["j"]),
        ("j", vec!["e"]),
    ] {
        let (decision, end) = world.record(run.done(node)).await;
        assert_eq!(ready(&run.workflow, &decision), expected, "after {node}");
        assert_eq!(end, None);
        assert_repeated(&world.commit(&[run.done(node)]).await[0]);
    }
    let (_, end) = world.record(run.done("e")).await;
    assert!(end.is_some());
}

pub(super) async fn any_is_ready_once(world: &mut World) {
    let workflow = world.flow("a>j b>j c>j", &json!({ "j": { "joinStrategy": "any" } }));
    let run = world.run("r", &workflow).await;
    let mut ends = Vec::new();
    // The run goes on until all edges into the join have resolved.
    for (node, expected) in [
        ("b", vec!["j"]),
        ("j", vec![]),
        ("a", vec![]),
        ("c", vec![]),
    ] {
        let (decision, end) = world.record(run.done(node)).await;
        assert_eq!(ready(&workflow, &decision), expected, "after {node}");
        ends.push(end.is_some());
    }
    assert_eq!(ends, [false, false, false, true]);
}

/// Nodes that no edge led to have a row, and joins after them wait only for the others.
pub(super) async fn skips_are_recorded(world: &mut World) {
    let run = world
        .run("r", &world.flow("a>b>c>j a>d>j", &json!({})))
        .await;
    let (decision, _) = world.record(run.done_to("a", &["d"])).await;
    assert_eq!(ready(&run.workflow, &decision), ["d"]);
    assert_eq!(decision.passed.len(), 2);
    let expected = ["a=completed", "b=skipped", "c=skipped"];
    assert_eq!(world.statuses(&run).await, expected);
    let (decision, _) = world.record(run.done("d")).await;
    assert_eq!(ready(&run.workflow, &decision), ["j"]);
    let (_, end) = world.record(run.done("j")).await;
    assert!(end.is_some());
    let skipped = &world
        .steps(&run)
        .await
        .into_iter()
        .find(|step| step.node_id.as_str() == "b")
        .unwrap();
    assert_eq!(
        (skipped.attempts, skipped.via, &skipped.action),
        (0, None, &None)
    );
    assert!(skipped.output.is_null() && skipped.error.is_none());
    assert_eq!(
        (skipped.started_at, skipped.finished_at),
        (world.at(1), world.at(1))
    );
}

/// What a stored join knows decides how far a skip goes: through two joins, to the end of the run.
pub(super) async fn skips_cascade_through_stored_joins(world: &mut World) {
    let run = world
        .run("r", &world.flow("a>j b>j j>k c>k k>m d>m", &json!({})))
        .await;
    for node in ["a", "c", "d"] {
        let (decision, end) = world.record(run.done_to(node, &[])).await;
        assert_eq!((ready(&run.workflow, &decision), end), (vec![], None));
    }
    let (decision, end) = world.record(run.done_to("b", &[])).await;
    assert_eq!(decision.passed.len(), 3);
    assert!(decision.ended && end.is_some());
    let skipped: Vec<_> = world.statuses(&run).await.split_off(4);
    assert_eq!(skipped, ["j=skipped", "k=skipped", "m=skipped"]);
}

pub(super) async fn failures_cancel_what_follows(world: &mut World) {
    let workflow = world.flow(
        "a>j b>j j>k a>n b>n",
        &json!({ "n": { "joinStrategy": "any" } }),
    );
    let run = world.run("r", &workflow).await;
    let (decision, _) = world.record(run.done("a")).await;
    assert_eq!(ready(&workflow, &decision), ["n"]);
    let (decision, end) = world.record(run.failed("b")).await;
    assert_eq!((ready(&workflow, &decision), end), (vec![], None));
    assert_eq!(
        world.statuses(&run).await,
        ["a=completed", "b=failed", "j=cancelled", "k=cancelled"]
    );
    let (_, end) = world.record(run.done("n")).await;
    assert!(end.is_some(), "the other branch went on to its end");
}
