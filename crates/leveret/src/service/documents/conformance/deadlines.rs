//! Deadlines are durable, move with their document, and fire once.

use leveret_core::time::Timestamp;
use serde_json::json;

use super::{
    versions::handles,
    world::{FAR, With, World, names, order, put},
};
use crate::service::documents::{Commit, Committed, Due};

fn set(id: &str, expected: u64, name: &str, at: Timestamp) -> Commit {
    put(id, expected, &json!(1)).deadline(name, at)
}

/// The earliest comes first; what is not due, not at all.
pub(super) async fn due_only_when_due(world: &mut World) {
    let now = world.now;
    world.done(set("a", 0, "second", now)).await;
    world.done(set("b", 0, "first", Timestamp(now.0 - 1))).await;
    world.done(set("c", 0, "later", FAR)).await;
    let due = world.claim_deadlines(1).await;
    let expected = Due {
        key: order("b"),
        name: "first".into(),
        at: Timestamp(now.0 - 1),
    };
    assert_eq!(due, [expected]);
    assert_eq!(names(&world.claim_deadlines(10).await), ["second"]);
    assert!(world.claim_deadlines(10).await.is_empty());

    if !world.documents.capabilities().shared {
        world.now = Timestamp(FAR.0 - 1);
        world.claim_deadlines(10).await;
        world.now = FAR;
        let due = world.claim_deadlines(10).await;
        assert!(names(&due).contains(&"later"));
    }
}

/// A document has one deadline of a name: the last that was set.
pub(super) async fn moved_and_cancelled(world: &mut World) {
    let now = world.now;
    world.done(set("a", 0, "d", now)).await;
    world.done(set("a", 1, "d", FAR)).await;
    assert!(world.claim_deadlines(10).await.is_empty());
    let earlier = Timestamp(now.0 - 5);
    world.done(set("a", 2, "d", earlier)).await;
    let both = put("a", 3, &json!(1)).cancelling("d").cancelling("none");
    world.done(both).await;
    assert!(world.claim_deadlines(10).await.is_empty());
    assert_eq!(world.documents.backlog().await.unwrap().deadlines, 0);

    // Changes apply in their order.
    let again = put("a", 4, &json!(1))
        .cancelling("d")
        .deadline("d", earlier);
    world.done(again.deadline("e", now).cancelling("e")).await;
    let due = world.claim_deadlines(10).await;
    assert_eq!((names(&due), due[0].at), (vec!["d"], earlier));
}

/// Many claimers at once: each deadline has one.
pub(super) async fn claimed_once(world: &mut World) {
    let now = world.now;
    let batch: Vec<Commit> = (0..60)
        .map(|number| set(&format!("a{number}"), 0, &format!("d{number}"), now))
        .collect();
    world.batch(&batch).await;
    let claimers = handles(world, 6).await.into_iter().map(|documents| {
        tokio::spawn(async move {
            let mut all = Vec::new();
            loop {
                let due = documents.claim_deadlines(4, now).await.unwrap();
                if due.is_empty() {
                    return all;
                }
                all.extend(due);
            }
        })
    });
    let mut all = Vec::new();
    for claimer in claimers.collect::<Vec<_>>() {
        all.extend(claimer.await.unwrap());
    }
    assert_eq!(all.len(), 60);
    all.sort_by(|a, b| a.name.cmp(&b.name));
    all.dedup();
    assert_eq!(all.len(), 60);
}

/// What was claimed in vain comes again, behind those that were not.
pub(super) async fn lease_ends(world: &mut World) {
    world.done(set("a", 0, "d", world.now)).await;
    let claimed = world.claim_deadlines(10).await;
    assert_eq!(names(&claimed), ["d"]);
    assert!(world.claim_deadlines(10).await.is_empty());
    assert_eq!(world.claim_deadlines_after_lease(1).await, claimed);
    assert!(world.claim_deadlines(10).await.is_empty());
}

/// A deadline that is set anew is nobody's.
pub(super) async fn moved_while_claimed(world: &mut World) {
    let now = world.now;
    world.done(set("a", 0, "d", now)).await;
    world.claim_deadlines(10).await;
    let earlier = Timestamp(now.0 - 1);
    world.done(set("a", 1, "d", earlier)).await;
    let due = world.claim_deadlines(10).await;
    assert_eq!(due.len(), 1);
    assert_eq!(due[0].at, earlier);
}

/// Two that hold it one after the other decide on the same version, and one of them is done.
pub(super) async fn fires_once(world: &mut World) {
    world.done(set("a", 0, "d", world.now)).await;
    world.claim_deadlines(10).await;
    world.claim_deadlines_after_lease(1).await;
    let fire = || put("a", 1, &json!("expired")).cancelling("d");
    world.done(fire()).await;
    assert_eq!(world.commit(fire()).await, Committed::Conflict(order("a")));
    assert_eq!(world.documents.backlog().await.unwrap().deadlines, 0);
}

pub(super) async fn names_are_apart(world: &mut World) {
    let commit = put("a", 0, &json!(1)).deadline("d", world.now);
    world.done(commit.deadline("e", world.now)).await;
    world.done(set("b", 0, "d", world.now)).await;
    world.done(put("a", 1, &json!(1)).cancelling("d")).await;
    let mut due = world.claim_deadlines(10).await;
    due.sort_by(|a, b| a.name.cmp(&b.name));
    assert_eq!(names(&due), ["d", "e"]);
    assert_eq!((&due[0].key, &due[1].key), (&order("b"), &order("a")));
}

/// A claimed one counts from the end of its lease.
pub(super) async fn next_is_told(world: &mut World) {
    let next = async |world: &World| world.documents.next_deadline().await.unwrap();
    assert_eq!(next(world).await, None);
    world.done(set("a", 0, "d", FAR)).await;
    assert_eq!(next(world).await, Some(FAR));
    world.done(set("b", 0, "d", world.now)).await;
    assert_eq!(next(world).await, Some(world.now));
    world.claim_deadlines(10).await;
    let lease = world.documents.capabilities().lease;
    let after = next(world).await.expect("the claimed one");
    assert!(after >= world.now + lease && after < FAR, "{after}");
    world.done(put("b", 1, &json!(1)).cancelling("d")).await;
    assert_eq!(next(world).await, Some(FAR));
}
