//! What comes too early waits with its document.

use std::collections::BTreeMap;

use leveret_core::{json::Json, time::Timestamp};
use serde_json::json;

use super::world::{With, World, handled, keep, parked, put};
use crate::{
    broker::{Header, Message},
    service::documents::{Document, Parked},
};

fn bodies(document: &Document) -> Vec<String> {
    let parked = document.parked.iter();
    let body = |parked: &Parked| String::from_utf8(parked.message.body.to_vec()).expect("text");
    parked.map(body).collect()
}

pub(super) async fn order_and_arrival(world: &mut World) {
    world.done(put("a", 0, &json!(1)).parking("m5", 5)).await;
    let two = put("a", 1, &json!(1)).parking("m3", 3);
    world.done(two.parking("m5 later", 5)).await;
    world.done(keep("a", 2).parking("m4", 4)).await;
    world.done(put("b", 0, &json!(1)).parking("m1", 1)).await;
    let found = world.load("a").await;
    assert_eq!(bodies(&found), ["m3", "m4", "m5", "m5 later"]);
    assert_eq!(found.version, 3);
    assert_eq!(bodies(&world.load("b").await), ["m1"]);
}

/// A copy of a message that is parked changes nothing of it.
pub(super) async fn first_counts(world: &mut World) {
    world.done(put("a", 0, &json!(1)).parking("m", 5)).await;
    let mut copy = put("a", 1, &json!(1)).parking("m", 7);
    copy.park[0].message = Message::json("copy");
    world.done(copy).await;
    let found = world.load("a").await;
    assert_eq!(bodies(&found), ["m"]);
    assert_eq!(found.parked[0].order, 5);
    // Another consumer's is another one, and so is that of another document.
    let mut other = put("a", 2, &json!(1)).parking("m", 6);
    other.park[0].handled.consumer = "others".into();
    world.done(other).await;
    world.done(put("b", 0, &json!(1)).parking("m", 9)).await;
    assert_eq!(bodies(&world.load("a").await), ["m", "m"]);
    assert_eq!(bodies(&world.load("b").await), ["m"]);
}

/// What is applied goes with the commit that applies it, before what that commit parks comes.
pub(super) async fn unparked(world: &mut World) {
    let three = put("a", 0, &json!(1)).parking("m2", 2).parking("m3", 3);
    world.done(three.parking("m4", 4)).await;
    let apply = put("a", 1, &json!(2)).handling(&["m1", "m2", "m3"]);
    world
        .done(apply.unparking("m2").unparking("m3").unparking("none"))
        .await;
    assert_eq!(bodies(&world.load("a").await), ["m4"]);
    let again = put("a", 2, &json!(2)).unparking("m4").parking("m4", 9);
    world.done(again).await;
    assert_eq!(world.load("a").await.parked[0].order, 9);
}

/// A message can wait for a document that never was.
pub(super) async fn without_a_state(world: &mut World) {
    world.done(keep("a", 0).parking("m2", 2)).await;
    let found = world.load("a").await;
    assert_eq!((found.version, &found.state), (1, &None));
    assert_eq!(found.created_at, Timestamp(0));
    assert_eq!(bodies(&found), ["m2"]);
    assert!(world.listed(&[]).await.is_empty());
    world.now.0 += 1;
    world.done(put("a", 1, &json!(1)).unparking("m2")).await;
    let found = world.load("a").await;
    assert_eq!((found.version, found.created_at), (2, world.now));
    assert_eq!(found.state, Some(Json::from(json!(1))));
    assert!(found.parked.is_empty());
}

pub(super) async fn messages_are_whole(world: &mut World) {
    let mut commit = put("a", 0, &json!(1));
    let whole = Parked {
        at: Timestamp(world.now.0 - 7),
        queue: "os-payment-approved".into(),
        handled: handled("m \u{1f407} ' \" \\ ;--"),
        message: Message {
            body: vec![255, 0, 1].into(),
            content_type: Some("x/y".into()),
            message_id: Some("id".into()),
            correlation_id: Some("c".into()),
            reply_to: Some("r".into()),
            kind: Some("payment.approved".into()),
            timestamp: Some(Timestamp(-1)),
            headers: BTreeMap::from([("n".to_owned(), Header::Int(-7))]),
        },
        ..parked(&commit.put[0].key, "m", i64::MAX as u64)
    };
    let bare = Parked {
        message: Message::default(),
        ..parked(&commit.put[0].key, "bare", 0)
    };
    commit.park = vec![whole.clone(), bare.clone()];
    world.done(commit).await;
    assert_eq!(world.load("a").await.parked, [bare, whole]);
}
