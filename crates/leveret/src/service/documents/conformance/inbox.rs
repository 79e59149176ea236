//! A message takes effect once.

use std::time::Duration;

use serde_json::json;

use super::{
    versions::handles,
    world::{With, World, handled, put, repeated},
};
use crate::service::documents::{Commit, Committed, Handled};

pub(super) async fn once(world: &mut World) {
    world.done(put("a", 0, &json!(1)).handling(&["m"])).await;
    let again = put("a", 1, &json!(2)).handling(&["m"]);
    assert_eq!(world.commit(again).await, repeated(&["m"]));
    assert_eq!(world.load("a").await.version, 1);
    world.done(put("a", 1, &json!(2)).handling(&["M"])).await;
}

pub(super) async fn consumers_are_apart(world: &mut World) {
    world.done(Commit::default().handling(&["m"])).await;
    let other = |consumer: &str| Commit {
        handled: vec![Handled {
            consumer: consumer.into(),
            ..handled("m")
        }],
        ..Commit::default()
    };
    world.done(other("others")).await;
    for consumer in ["others", "tests"] {
        let again = other(consumer);
        let expected = Committed::Repeated(again.handled.clone());
        assert_eq!(world.commit(again).await, expected);
    }
}

/// One that was handled before is enough, wherever it stands; all that were are told.
pub(super) async fn several_in_one(world: &mut World) {
    world
        .done(Commit::default().handling(&["a", "b", "c"]))
        .await;
    for (again, expected) in [
        (&["a", "x"][..], &["a"][..]),
        (&["x", "b"], &["b"]),
        (&["c", "y", "a"], &["c", "a"]),
    ] {
        let commit = Commit::default().handling(again);
        assert_eq!(world.commit(commit).await, repeated(expected), "{again:?}");
    }
    world.done(Commit::default().handling(&["x", "y"])).await;
}

/// The same messages from several handles at once, alone and in batches of different orders: each is done once.
pub(super) async fn concurrently_once(world: &mut World) {
    const MESSAGES: usize = 60;
    let now = world.now;
    let handles = handles(world, 6).await;
    let consumers = handles.into_iter().enumerate().map(|(number, documents)| {
        let mut messages: Vec<usize> = (0..MESSAGES).collect();
        fastrand::shuffle(&mut messages);
        tokio::spawn(async move {
            let mut done = 0;
            for messages in messages.chunks(1 + number * 5) {
                let batch: Vec<Commit> = messages
                    .iter()
                    .map(|message| Commit::default().handling(&[&format!("m{message}")]))
                    .collect();
                for committed in documents.commit(&batch, now).await.unwrap() {
                    match committed {
                        Committed::Done(_) => done += 1,
                        other => assert!(matches!(other, Committed::Repeated(_)), "{other:?}"),
                    }
                }
            }
            done
        })
    });
    let mut done = 0;
    for consumer in consumers.collect::<Vec<_>>() {
        done += consumer.await.unwrap();
    }
    assert_eq!(done, MESSAGES);
}

/// What is older than the stated time goes, no more at once than asked for; what is younger stays.
pub(super) async fn pruned_when_old(world: &mut World) {
    let begin = world.now;
    for message in 0..5 {
        let commit = Commit::default().handling(&[&format!("old{message}")]);
        world.done(commit).await;
    }
    world.now.0 += 1;
    world.done(Commit::default().handling(&["young"])).await;
    let keep = Duration::from_secs(60);
    let prune = async |world: &World, limit| {
        let documents = &world.documents;
        documents.prune(world.now, keep, limit).await.unwrap()
    };
    world.now = begin + keep;
    assert_eq!(prune(world, 100).await, 0);
    world.now.0 += 1;
    assert_eq!(prune(world, 2).await, 2);
    assert_eq!(prune(world, 100).await, 3);
    assert_eq!(prune(world, 100).await, 0);
    let young = Commit::default().handling(&["young"]);
    assert_eq!(world.commit(young).await, repeated(&["young"]));
    world.done(Commit::default().handling(&["old0"])).await;
}
