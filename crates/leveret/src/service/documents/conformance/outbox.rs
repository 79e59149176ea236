//! Outgoing messages keep the order of their lane, are lost by nobody and held by one.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use leveret_core::time::Timestamp;
use serde_json::json;

use super::{
    versions::handles,
    world::{With, World, bodies, claims, ids, order, outgoing, put, sorted},
};
use crate::{
    broker::{Header, Message, Publication},
    service::documents::{
        Claimed, Commit, Committed, Documents, LANE_CLAIM_MAX, Outgoing, OutgoingId,
    },
};

fn publish(lanes: &[&str]) -> Commit {
    Commit::default().publishing(lanes)
}

/// Its committer has it, and nobody else until it is sent; then it is gone.
pub(super) async fn free_lane_is_claimed(world: &mut World) {
    let claimed = world.done(publish(&["l: x"])).await;
    assert_eq!(bodies(&claimed), ["x"]);
    assert_eq!(claimed[0].outgoing, outgoing("l", "x"));
    assert_eq!(claimed[0].created_at, world.now);
    assert!(world.claim(100).await.is_empty());
    assert!(world.sent(&claimed).await.is_empty());
    assert_eq!(world.documents.backlog().await.unwrap().outgoing, 0);
    let claimed = world.done(publish(&["l: y"])).await;
    assert_eq!(bodies(&claimed), ["y"], "the lane is free again");
}

/// What is committed behind others waits for them, from commit to commit.
pub(super) async fn lane_keeps_its_order(world: &mut World) {
    let first = world.done(publish(&["l: a b"])).await;
    assert_eq!(bodies(&first), ["a", "b"]);
    assert!(world.done(publish(&["l: c"])).await.is_empty());
    assert!(world.done(publish(&["l: d e"])).await.is_empty());
    let other = world.done(publish(&["other: x"])).await;
    assert_eq!(bodies(&other), ["x"], "lanes are apart");
    assert!(world.claim(100).await.is_empty());

    let next = world.sent(&first).await;
    assert_eq!(bodies(&next), ["c", "d", "e"]);
    assert!(world.done(publish(&["l: f"])).await.is_empty());
    assert!(world.claim(100).await.is_empty());
    let last = world.sent(&next).await;
    assert_eq!(bodies(&last), ["f"]);
    assert!(world.sent(&last).await.is_empty());
    assert!(world.sent(&other).await.is_empty());
}

pub(super) async fn batch_keeps_the_order(world: &mut World) {
    let spans = world.lanes_span();
    let second = if spans {
        publish(&["l: b", "k: x"])
    } else {
        publish(&["l: b"])
    };
    let batch = [publish(&["l: a"]), second, publish(&["l: c"])];
    let committed = world.batch(&batch).await;
    let claimed: Vec<_> = committed.into_iter().map(claims).collect();
    assert_eq!(bodies(&claimed[0]), ["a"]);
    assert_eq!(bodies(&claimed[1]), if spans { &["x"][..] } else { &[] });
    assert_eq!(bodies(&claimed[2]), [""; 0]);
    let next = world.sent(&claimed[0]).await;
    assert_eq!(bodies(&next), ["b", "c"]);
}

/// A commit gets back what is first in its lane, in the order in which it said it.
pub(super) async fn several_lanes_in_one_commit(world: &mut World) {
    // Of one document, so that no lane spans any.
    let first = put("a", 0, &json!(1)).publishing(&["k: 0"]);
    let held = world.done(first).await;
    let second = put("a", 1, &json!(2));
    let claimed = world
        .done(second.publishing(&["l: a", "k: x", "l: b", "m: c", "l: d"]))
        .await;
    assert_eq!(bodies(&claimed), ["a", "b", "c", "d"]);
    assert_eq!(bodies(&world.sent(&held).await), ["x"]);
}

/// Messages of different documents keep the order of a lane that they share.
pub(super) async fn lanes_span_documents(world: &mut World) {
    if !world.lanes_span() {
        return;
    }
    let held = world
        .done(put("a", 0, &json!(1)).publishing(&["l: 1"]))
        .await;
    let second = put("b", 0, &json!(1)).publishing(&["l: 2"]);
    assert!(world.done(second).await.is_empty());
    assert!(world.done(publish(&["k: x", "l: 3"])).await.len() == 1);
    assert_eq!(bodies(&world.sent(&held).await), ["2", "3"]);
}

/// Of messages that were claimed together, the next ones go when all are gone.
pub(super) async fn sent_waits_for_all_of_a_lane(world: &mut World) {
    let claimed = world.done(publish(&["l: a b c"])).await;
    world.done(publish(&["l: d"])).await;
    assert!(world.sent(&claimed[..1]).await.is_empty());
    assert!(world.sent(&claimed[2..]).await.is_empty());
    assert!(world.sent(&claimed[2..]).await.is_empty(), "gone is gone");
    assert_eq!(bodies(&world.sent(&claimed[1..2]).await), ["d"]);
}

/// What a process holds when it ends, another one gets, in order.
pub(super) async fn lease_ends(world: &mut World) {
    world.done(publish(&["l: a b"])).await;
    world.done(publish(&["l: c"])).await;
    assert!(world.claim(100).await.is_empty());
    let claimed = world.claim_after_lease(3).await;
    assert_eq!(bodies(&claimed), ["a", "b", "c"]);
    assert!(world.claim(100).await.is_empty());
    let claimed = world.claim_after_lease(3).await;
    assert_eq!(bodies(&claimed), ["a", "b", "c"], "also of a claim");
    assert!(world.sent(&claimed).await.is_empty());
    assert_eq!(world.documents.backlog().await.unwrap().outgoing, 0);
}

pub(super) async fn released_at_once(world: &mut World) {
    let commit = put("a", 0, &json!(1)).publishing(&["l: a b", "k: x"]);
    let claimed = world.done(commit).await;
    world.release(&claimed[1..2]).await;
    assert!(
        world.claim(100).await.is_empty(),
        "the first of the lane is still held"
    );
    world.release(&claimed).await;
    world.release(&claimed).await;
    let again = world.claim(100).await;
    assert_eq!(sorted(&again), ["a", "b", "x"]);
    assert_eq!(
        ids(&again).into_iter().collect::<BTreeSet<_>>(),
        ids(&claimed).into_iter().collect()
    );
    world.release(&again[..1]).await;
    world.sent(&again).await;
    assert!(world.claim(100).await.is_empty(), "sent is sent");
    world.release(&again).await;
    assert!(world.claim(100).await.is_empty());
}

/// A claim takes no more than asked for, and of a lane the first ones.
pub(super) async fn claims_are_bounded(world: &mut World) {
    let claimed = world.done(publish(&["l: a b c"])).await;
    world.release(&claimed).await;
    let claimed = world.claim(2).await;
    assert_eq!(bodies(&claimed), ["a", "b"]);
    assert!(
        world.claim(2).await.is_empty(),
        "who has the first has the lane"
    );
    assert_eq!(bodies(&world.sent(&claimed).await), ["c"]);
}

/// However long a lane is, it comes in pieces, in order.
pub(super) async fn long_lane(world: &mut World) {
    let total = 2 * LANE_CLAIM_MAX + 10;
    let mut held = world.done(publish(&["l: 0"])).await;
    let batch: Vec<Commit> = (1..total)
        .map(|number| publish(&[&format!("l: {number}")]))
        .collect();
    world.batch(&batch).await;
    let mut seen = Vec::new();
    while !held.is_empty() {
        assert!(held.len() <= LANE_CLAIM_MAX);
        seen.extend(bodies(&held));
        held = world.sent(&held).await;
    }
    let all: Vec<String> = (0..total).map(|number| number.to_string()).collect();
    assert_eq!(seen, all);
}

/// Lanes that are claimed in vain again and again leave others their turn.
pub(super) async fn no_lane_starves(world: &mut World) {
    for lane in ["a", "b", "c", "d", "e"] {
        let claimed = world.done(publish(&[&format!("{lane}: {lane}")])).await;
        world.release(&claimed).await;
    }
    let mut seen = Vec::new();
    for _ in 0..5 {
        let claimed = world.claim(2).await;
        assert_eq!(claimed.len(), 2);
        world.release(&claimed).await;
        seen.extend(bodies(&claimed));
    }
    seen.sort();
    let twice: Vec<&str> = "a a b b c c d d e e".split(' ').collect();
    assert_eq!(seen, twice);
}

/// A process whose lease was over sends what another one has by now: it is gone, and what follows is still held by one only.
pub(super) async fn late_sent(world: &mut World) {
    let first = world.done(publish(&["l: a"])).await;
    world.done(publish(&["l: b"])).await;
    world.done(publish(&["l: c"])).await;
    let second = world.claim_after_lease(3).await;
    assert!(world.sent(&first).await.is_empty(), "the others are held");
    assert!(world.claim(100).await.is_empty());
    assert!(world.sent(&second).await.is_empty());
    assert_eq!(world.documents.backlog().await.unwrap().outgoing, 0);
}

/// Many claimers at once: each message has one, and of each lane they are in order.
pub(super) async fn many_claimers(world: &mut World) {
    const LANES: usize = 40;
    const MESSAGES: usize = 5;
    for lane in 0..LANES {
        let bodies: Vec<String> = (0..MESSAGES).map(|number| number.to_string()).collect();
        let commit = publish(&[&format!("l{lane}: {}", bodies.join(" "))]);
        let claimed = world.done(commit).await;
        world.release(&claimed).await;
    }
    let now = world.now;
    let claimers = handles(world, 8).await.into_iter().map(|documents| {
        tokio::spawn(async move {
            let mut all = Vec::new();
            loop {
                let claimed = documents.claim_outgoing(7, now).await.unwrap();
                if claimed.is_empty() {
                    return all;
                }
                all.extend(claimed);
            }
        })
    });
    let mut all: Vec<Claimed> = Vec::new();
    for claimer in claimers.collect::<Vec<_>>() {
        all.extend(claimer.await.unwrap());
    }
    // A claim that ends within a lane has that lane, so that the rest of it comes with `sent`.
    let mut rest = world.sent(&all).await;
    while !rest.is_empty() {
        let next = world.sent(&rest).await;
        all.extend(rest);
        rest = next;
    }
    let mut lanes: BTreeMap<Arc<str>, Vec<String>> = BTreeMap::new();
    for claimed in &all {
        let lane = lanes.entry(claimed.outgoing.lane.clone()).or_default();
        lane.extend(bodies(std::slice::from_ref(claimed)));
    }
    assert_eq!(lanes.len(), LANES);
    for (lane, bodies) in lanes {
        assert_eq!(bodies, ["0", "1", "2", "3", "4"], "{lane}");
    }
}

/// Several processes change one aggregate, and send what they get back and what follows it. All of it goes out, each once, in the order of
/// the versions, and nothing is left for a claim.
pub(super) async fn one_lane_from_many_handles(world: &mut World) {
    const WRITERS: usize = 4;
    const CHANGES: usize = 15;
    let wire: Arc<tokio::sync::Mutex<Vec<u64>>> = Arc::default();
    let now = world.now;
    let writers = handles(world, WRITERS).await.into_iter().map(|documents| {
        let wire = wire.clone();
        tokio::spawn(async move {
            for _ in 0..CHANGES {
                let mut held = change(&*documents, now).await;
                while !held.is_empty() {
                    let numbers = bodies(&held).into_iter().map(|body| body.parse().unwrap());
                    wire.lock().await.extend(numbers.collect::<Vec<u64>>());
                    held = documents.sent(&ids(&held), now).await.unwrap();
                }
            }
        })
    });
    for writer in writers.collect::<Vec<_>>() {
        writer.await.unwrap();
    }
    let wire = wire.lock().await.clone();
    let expected: Vec<u64> = (1..=(WRITERS * CHANGES) as u64).collect();
    assert_eq!(wire, expected);
    assert_eq!(world.documents.backlog().await.unwrap().outgoing, 0);
}

/// Changes the aggregate, in as many tries as it takes, and publishes its version.
async fn change(documents: &dyn Documents, now: Timestamp) -> Vec<Claimed> {
    loop {
        let version = documents.load(&[order("a")]).await.unwrap()[0].version;
        let commit =
            put("a", version, &json!(version)).publishing(&[&format!("a: {}", version + 1)]);
        let committed = documents.commit(&[commit], now).await.unwrap().remove(0);
        if let Committed::Done(claimed) = committed {
            return claimed;
        }
    }
}

/// Everything of a publication comes back from each way in which it is given out.
pub(super) async fn messages_are_whole(world: &mut World) {
    let message = Message {
        body: vec![0, 159, 146, 150].into(),
        content_type: Some("application/octet-stream".into()),
        message_id: Some("m \u{1f407} \"'\\".into()),
        correlation_id: Some("c".into()),
        reply_to: Some("amq.rabbitmq.reply-to.x".into()),
        kind: Some("order.created".into()),
        timestamp: Some(Timestamp(1_700_000_000_000)),
        headers: BTreeMap::from([
            (
                "text".to_owned(),
                Header::Text("null \0 character".to_owned()),
            ),
            ("int".to_owned(), Header::Int(i64::MIN)),
            ("bool".to_owned(), Header::Bool(true)),
        ]),
    };
    let whole = Outgoing {
        lane: "l".into(),
        publication: Publication {
            exchange: "garage-events".into(),
            routing_key: "work-order.created".into(),
            message,
            copied: true,
        },
        must_route: true,
    };
    let bare = Outgoing {
        publication: Publication::to_queue("q", Message::default()),
        must_route: false,
        ..whole.clone()
    };
    let commit = |outgoing: &Outgoing| Commit {
        publish: vec![outgoing.clone()],
        ..Commit::default()
    };
    let mut held = world.done(commit(&whole)).await;
    world.done(commit(&bare)).await;
    world.done(commit(&whole)).await;
    assert_eq!(held[0].outgoing, whole);
    held = world.sent(&held).await;
    assert_eq!(held.len(), 2);
    assert_eq!((&held[0].outgoing, &held[1].outgoing), (&bare, &whole));
    world.release(&held).await;
    let again = world.claim(10).await;
    assert_eq!(again, held);
    let unknown = [OutgoingId("nobody's".into())];
    assert!(
        world
            .documents
            .sent(&unknown, world.now)
            .await
            .unwrap()
            .is_empty()
    );
}
