//! All of a commit is there, or nothing.

use serde_json::json;

use super::{
    versions::handles,
    world::{FAR, With, World, bodies, claims, order, put, put_with, repeated},
};
use crate::service::documents::{Backlog, Commit, Committed};

/// A commit that does everything.
fn everything(id: &str, expected: u64) -> Commit {
    put_with(id, expected, &[("status", "changed")])
        .handling(&["m1", "m2"])
        .publishing(&["l: x y", "l2: z"])
        .deadline("d", FAR)
        .cancelling("kept")
        .parking("p2", 2)
        .unparking("p1")
}

/// A document to which it can happen.
async fn before(world: &World) {
    let first = put_with("a", 0, &[("status", "first")]);
    world
        .done(first.parking("p1", 1).deadline("kept", FAR))
        .await;
}

async fn assert_nothing_happened(world: &World) {
    let found = world.load("a").await;
    assert_eq!(found.version, 1);
    let parked: Vec<u64> = found.parked.iter().map(|parked| parked.order).collect();
    assert_eq!(parked, [1]);
    assert_eq!(world.listed(&[("status", "first")]).await, ["a"]);
    assert!(world.listed(&[("status", "changed")]).await.is_empty());
    assert!(world.claim(100).await.is_empty());
    let expected = Backlog {
        parked: 1,
        parked_oldest: Some(world.now),
        deadlines: 1,
        ..Backlog::default()
    };
    assert_eq!(world.documents.backlog().await.unwrap(), expected);
}

pub(super) async fn conflict_leaves_nothing(world: &mut World) {
    before(world).await;
    for expected in [0, 2] {
        let committed = world.commit(everything("a", expected)).await;
        assert_eq!(committed, Committed::Conflict(order("a")));
        assert_nothing_happened(world).await;
    }
    // The messages were not handled, and the lane is free.
    let claimed = world.done(everything("a", 1)).await;
    assert_eq!(bodies(&claimed), ["x", "y", "z"]);
    assert_eq!(world.listed(&[("status", "changed")]).await, ["a"]);
    let found = world.load("a").await;
    let parked: Vec<u64> = found.parked.iter().map(|parked| parked.order).collect();
    assert_eq!((found.version, parked), (2, vec![2]));
}

pub(super) async fn repeated_leaves_nothing(world: &mut World) {
    before(world).await;
    world.done(Commit::default().handling(&["m2"])).await;
    let committed = world.commit(everything("a", 1)).await;
    assert_eq!(committed, repeated(&["m2"]));
    assert_nothing_happened(world).await;
    // The other message of it was not handled.
    world.done(Commit::default().handling(&["m1"])).await;
}

/// What was handled has changed the document: that is no conflict to resolve.
pub(super) async fn repeated_comes_before_conflict(world: &mut World) {
    let commit = || put("a", 0, &json!(1)).handling(&["m"]);
    world.done(commit()).await;
    assert_eq!(world.commit(commit()).await, repeated(&["m"]));
}

pub(super) async fn one_conflict_of_several(world: &mut World) {
    if !world.takes_two() {
        return;
    }
    before(world).await;
    let mut commit = everything("a", 1);
    commit.put.extend(put("b", 1, &json!(1)).put);
    let committed = world.commit(commit).await;
    assert_eq!(committed, Committed::Conflict(order("b")));
    assert_nothing_happened(world).await;
    assert_eq!(world.load("b").await.version, 0);
}

/// What becomes of one leaves the others alone.
pub(super) async fn batch_is_of_single_ones(world: &mut World) {
    world.done(put("a", 0, &json!(1)).handling(&["m0"])).await;
    let committed = world
        .batch(&[
            put("b", 0, &json!(1))
                .handling(&["m1"])
                .publishing(&["b: x"]),
            put("a", 0, &json!(2))
                .handling(&["m2"])
                .publishing(&["a: y"]),
            put("c", 0, &json!(1))
                .handling(&["m0"])
                .publishing(&["c: z"]),
            put("d", 0, &json!(1))
                .handling(&["m3"])
                .publishing(&["d: u"]),
            Commit::default().publishing(&["e: v"]),
        ])
        .await;
    assert_eq!(committed[1], Committed::Conflict(order("a")));
    assert_eq!(committed[2], repeated(&["m0"]));
    for (position, body) in [(0, "x"), (3, "u"), (4, "v")] {
        assert_eq!(bodies(&claims(committed[position].clone())), [body]);
    }
    for (id, version) in [("a", 1), ("b", 1), ("c", 0), ("d", 1)] {
        assert_eq!(world.load(id).await.version, version, "{id}");
    }
    world.done(Commit::default().handling(&["m2"])).await;
}

/// Batches of the same documents in different orders, from several handles: each decision counts once, and nobody waits for ever.
pub(super) async fn overlapping_batches(world: &mut World) {
    const DOCUMENTS: usize = 20;
    const WRITERS: usize = 6;
    const ROUNDS: usize = 10;
    let now = world.now;
    let handles = handles(world, WRITERS).await;
    let writers = handles.into_iter().enumerate().map(|(writer, documents)| {
        tokio::spawn(async move {
            for round in 0..ROUNDS {
                let mut left: Vec<usize> = (0..DOCUMENTS).collect();
                while !left.is_empty() {
                    fastrand::shuffle(&mut left);
                    let keys: Vec<_> = left.iter().map(|id| order(&format!("d{id}"))).collect();
                    let found = documents.load(&keys).await.unwrap();
                    let change = |(id, found): (&usize, _)| {
                        let found: &crate::service::documents::Document = found;
                        let count = found
                            .state
                            .as_ref()
                            .and_then(|state| state.value().as_u64());
                        put(&found.key.id, found.version, &json!(count.unwrap_or(0) + 1))
                            .handling(&[&format!("{writer}.{round}.{id}")])
                            .publishing(&[&format!("d{id}: x")])
                    };
                    let batch: Vec<Commit> = left.iter().zip(&found).map(change).collect();
                    let committed = documents.commit(&batch, now).await.unwrap();
                    let mut committed = committed.into_iter();
                    left.retain(|_| matches!(committed.next(), Some(Committed::Conflict(_))));
                }
            }
        })
    });
    for writer in writers.collect::<Vec<_>>() {
        writer.await.unwrap();
    }
    for id in 0..DOCUMENTS {
        let found = world.load(&format!("d{id}")).await;
        let count = json!(WRITERS * ROUNDS);
        assert_eq!(found.state, Some(count.into()), "d{id}");
    }
    let backlog = world.documents.backlog().await.unwrap();
    assert_eq!(backlog.outgoing, (DOCUMENTS * WRITERS * ROUNDS) as u64);
}
