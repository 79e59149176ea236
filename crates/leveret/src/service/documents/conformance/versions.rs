//! Documents have versions, and a commit the ones that it expects.

use std::collections::BTreeSet;

use leveret_core::time::Timestamp;
use serde_json::json;

use super::world::{World, delete, keep, order, put};
use crate::service::documents::{Commit, Committed, Document, Key, Put};

pub(super) async fn put_then_load(world: &mut World) {
    world.done(put("a", 0, &json!({ "n": 1 }))).await;
    let expected = Document {
        key: order("a"),
        version: 1,
        state: Some(json!({ "n": 1 }).into()),
        created_at: world.now,
        parked: Vec::new(),
    };
    assert_eq!(world.load("a").await, expected);
    world.done(put("a", 1, &json!([2]))).await;
    let changed = Document {
        version: 2,
        state: Some(json!([2]).into()),
        ..expected
    };
    assert_eq!(world.load("a").await, changed);
    let other = world.handle().await;
    let found = other.load(&[order("a")]).await.unwrap();
    assert_eq!(found, [changed], "another handle sees it");
}

/// Kinds are apart; a load answers in the order of its keys, also for one that is there twice.
pub(super) async fn missing(world: &mut World) {
    world.done(put("a", 0, &json!(1))).await;
    let keys = [
        order("none"),
        order("a"),
        Key::new("stock", "a"),
        order("a"),
    ];
    let found = world.documents.load(&keys).await.unwrap();
    let found_keys: Vec<&Key> = found.iter().map(|found| &found.key).collect();
    assert_eq!(found_keys, keys.iter().collect::<Vec<_>>());
    let versions: Vec<u64> = found.iter().map(|found| found.version).collect();
    assert_eq!(versions, [0, 1, 0, 1]);
    assert_eq!(
        (&found[0].state, found[0].created_at),
        (&None, Timestamp(0))
    );
}

pub(super) async fn another_version_conflicts(world: &mut World) {
    let conflict = Committed::Conflict(order("a"));
    assert_eq!(world.commit(put("a", 1, &json!(0))).await, conflict);
    world.done(put("a", 0, &json!(1))).await;
    for expected in [0, 2, 7] {
        assert_eq!(world.commit(put("a", expected, &json!(0))).await, conflict);
    }
    assert_eq!(world.load("a").await.state, Some(json!(1).into()));
}

/// A put stands for several decisions.
pub(super) async fn versions_may_skip(world: &mut World) {
    let mut commit = put("a", 0, &json!(3));
    commit.put[0].version = 3;
    world.done(commit.clone()).await;
    commit.put[0].expected = 3;
    commit.put[0].version = 10;
    world.done(commit).await;
    assert_eq!(world.load("a").await.version, 10);
}

pub(super) async fn deleted_keeps_its_version(world: &mut World) {
    world.done(put("a", 0, &json!(1))).await;
    world.done(delete("a", 1)).await;
    let found = world.load("a").await;
    assert_eq!((found.version, found.state), (2, None));
    let conflict = Committed::Conflict(order("a"));
    assert_eq!(world.commit(put("a", 0, &json!(1))).await, conflict);
    world.done(put("a", 2, &json!(3))).await;
    assert_eq!(world.load("a").await.state, Some(json!(3).into()));
}

/// It is that of the first state, whatever comes before and after.
pub(super) async fn first_time_is_kept(world: &mut World) {
    world.done(delete("a", 0)).await;
    assert_eq!(world.load("a").await.created_at, Timestamp(0));
    world.now.0 += 1;
    let created_at = world.now;
    world.done(put("a", 1, &json!(1))).await;
    for expected in [2, 3, 4] {
        world.now.0 += 1;
        let change = match expected {
            3 => delete("a", expected),
            _ => put("a", expected, &json!(2)),
        };
        world.done(change).await;
        assert_eq!(world.load("a").await.created_at, created_at);
    }
}

/// A document can take part with its version alone.
pub(super) async fn state_is_kept(world: &mut World) {
    world.done(put("a", 0, &json!({ "n": 1 }))).await;
    let before = world.load("a").await;
    world.now.0 += 1;
    world.done(keep("a", 1)).await;
    let expected = Document {
        version: 2,
        ..before
    };
    assert_eq!(world.load("a").await, expected);
    let conflict = Committed::Conflict(order("a"));
    assert_eq!(world.commit(keep("a", 1)).await, conflict);
    world.done(delete("a", 2)).await;
    world.done(keep("a", 3)).await;
    let found = world.load("a").await;
    assert_eq!((found.version, found.state), (4, None));
}

pub(super) async fn several_documents(world: &mut World) {
    if !world.takes_two() {
        return;
    }
    let mut commit = put("b", 0, &json!("b"));
    commit.put.extend(put("a", 0, &json!("a")).put);
    let stock = Put {
        key: Key::new("stock", "a"),
        ..commit.put[0].clone()
    };
    commit.put.push(stock);
    world.done(commit).await;
    let keys = [order("a"), order("b"), Key::new("stock", "a")];
    for found in world.documents.load(&keys).await.unwrap() {
        assert_eq!(found.version, 1, "{:?}", found.key);
    }
}

/// Of those that change the same version at the same time, one is done.
pub(super) async fn one_writer_wins(world: &mut World) {
    world.done(put("a", 0, &json!(0))).await;
    let (handles, now) = (handles(world, 8).await, world.now);
    for round in 1..=20 {
        let writers = handles.iter().enumerate().map(|(writer, documents)| {
            let (documents, commit) = (documents.clone(), put("a", round, &json!(writer)));
            tokio::spawn(async move { documents.commit(&[commit], now).await.unwrap().remove(0) })
        });
        let mut done = Vec::new();
        for (writer, task) in writers.collect::<Vec<_>>().into_iter().enumerate() {
            match task.await.unwrap() {
                Committed::Done(_) => done.push(writer),
                other => assert_eq!(other, Committed::Conflict(order("a"))),
            }
        }
        let [winner] = done[..] else {
            panic!("round {round}: {done:?} won");
        };
        assert_eq!(world.load("a").await.state, Some(json!(winner).into()));
    }
}

/// Of those that make the same documents at the same time, in batches that overlap, one makes each.
pub(super) async fn new_ones_are_made_once(world: &mut World) {
    let (handles, now) = (handles(world, 8).await, world.now);
    let writers = handles.into_iter().enumerate().map(|(writer, documents)| {
        let mut batch: Vec<Commit> = (0..40)
            .map(|number| put(&format!("a{number}"), 0, &json!(writer)))
            .collect();
        fastrand::shuffle(&mut batch);
        tokio::spawn(async move {
            let committed = documents.commit(&batch, now).await.unwrap();
            let made = batch.into_iter().zip(committed);
            let made = made.filter(|(_, committed)| matches!(committed, Committed::Done(_)));
            made.map(|(commit, _)| commit.put[0].key.id.clone())
                .collect::<Vec<_>>()
        })
    });
    let mut made = Vec::new();
    for task in writers.collect::<Vec<_>>() {
        made.extend(task.await.unwrap());
    }
    assert_eq!(made.len(), 40);
    assert_eq!(made.into_iter().collect::<BTreeSet<_>>().len(), 40);
}

/// So many handles, some of them the same.
pub(super) async fn handles(
    world: &World,
    count: usize,
) -> Vec<std::sync::Arc<dyn crate::service::Documents>> {
    let opened = [world.documents.clone(), world.handle().await];
    opened.iter().cycle().take(count).cloned().collect()
}
