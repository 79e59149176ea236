//! Lists and counts by declared fields, pages by cursor; what waits is counted.

use leveret_core::json::Json;
use serde_json::json;

use super::world::{FAR, With, World, delete, ids_of, keep, put, put_with, query};
use crate::service::documents::{Backlog, Commit, NewState, Order, Query};

/// Makes orders `1` to `count`, one each millisecond.
async fn orders(world: &mut World, count: u32) {
    for id in 1..=count {
        world.now.0 += 1;
        let status = if id % 2 == 0 { "even" } else { "odd" };
        let user = (id % 3).to_string();
        let fields = [("status", status), ("user_id", &*user)];
        world.done(put_with(&id.to_string(), 0, &fields)).await;
    }
}

pub(super) async fn by_fields(world: &mut World) {
    orders(world, 7).await;
    world.done(put("bare", 0, &json!(1))).await;
    let mut stock = put("4", 0, &json!(1));
    stock.put[0].key.kind = "stock".into();
    world.done(stock).await;
    let check = async |filter: &[(&str, &str)], expected: &str| {
        assert_eq!(world.listed(filter).await.join(" "), expected);
        let owned = query(filter, 1).filter;
        let count = world.documents.count("order", &owned).await.unwrap();
        assert_eq!(count, expected.split_whitespace().count() as u64);
    };
    check(&[], "bare 7 6 5 4 3 2 1").await;
    check(&[("status", "even")], "6 4 2").await;
    check(&[("status", "even"), ("user_id", "1")], "4").await;
    check(&[("user_id", "1"), ("status", "even")], "4").await;
    check(&[("user_id", "1")], "7 4 1").await;
    check(&[("status", "EVEN")], "").await;
    check(&[("status", "even"), ("status", "odd")], "").await;
    check(&[("status", "even"), ("status", "even")], "6 4 2").await;
    let found = world.list(&query(&[("status", "even")], 1)).await;
    let expected = world.load("6").await;
    assert_eq!(found.documents, [expected]);
}

/// A field with several values: found by each, once, and by none that it lost.
pub(super) async fn by_each_of_several_values(world: &mut World) {
    let tags = [("status", "a"), ("status", "b"), ("user_id", "1")];
    world.done(put_with("1", 0, &tags)).await;
    world.done(put_with("2", 0, &[("status", "b")])).await;
    let check = async |world: &World, filter: &[(&str, &str)], expected: &str| {
        let mut listed = world.listed(filter).await;
        listed.sort();
        assert_eq!(listed.join(" "), expected, "{filter:?}");
    };
    check(world, &[], "1 2").await;
    check(world, &[("status", "a")], "1").await;
    check(world, &[("status", "b")], "1 2").await;
    check(world, &[("status", "a"), ("status", "b")], "1").await;
    check(world, &[("status", "b"), ("user_id", "1")], "1").await;
    world
        .done(put_with("1", 1, &[("status", "b"), ("status", "c")]))
        .await;
    check(world, &[("status", "a")], "").await;
    check(world, &[("status", "b")], "1 2").await;
    check(world, &[("status", "c")], "1").await;
    check(world, &[("user_id", "1")], "").await;
}

pub(super) async fn both_orders(world: &mut World) {
    orders(world, 5).await;
    for (order, expected) in [
        (Order::Newest, ["5", "4", "3", "2", "1"]),
        (Order::Oldest, ["1", "2", "3", "4", "5"]),
    ] {
        let query = Query {
            order,
            ..query(&[], 2)
        };
        assert_eq!(pages(world, query).await, expected);
    }
}

/// All ids, page by page.
async fn pages(world: &World, mut query: Query) -> Vec<String> {
    let mut all = Vec::new();
    loop {
        let page = world.list(&query).await;
        let found = ids_of(&page);
        assert!(found.len() <= query.limit as usize);
        all.extend(found);
        query.after = page.next;
        if query.after.is_none() {
            return all;
        }
    }
}

/// Documents of one moment, as many as a multiple of the page: none is left out, none twice, and no empty page at the end.
pub(super) async fn pages_with_equal_times(world: &mut World) {
    let names = ["a", "A", "b:1", "ä", "z z", "9"];
    let batch: Vec<Commit> = names
        .iter()
        .map(|id| put_with(id, 0, &[("status", "new")]))
        .collect();
    world.batch(&batch).await;
    for order in [Order::Newest, Order::Oldest] {
        for filter in [&[][..], &[("status", "new")]] {
            for limit in [1, 2, 3, 4, 6] {
                let mut found = pages(
                    world,
                    Query {
                        order,
                        ..query(filter, limit)
                    },
                )
                .await;
                let mut expected = names.map(str::to_owned);
                expected.sort();
                if order == Order::Newest {
                    found.reverse();
                }
                assert_eq!(found, expected, "{order:?} {limit}");
            }
        }
    }
    // A page goes on behind a document that is gone by now.
    let first = world.list(&query(&[], 2)).await;
    world.done(delete(&first.documents[1].key.id, 1)).await;
    let rest = Query {
        after: first.next,
        ..query(&[], 10)
    };
    assert_eq!(ids_of(&world.list(&rest).await).len(), 4);
}

pub(super) async fn changed_fields(world: &mut World) {
    world.done(put_with("a", 0, &[("status", "new")])).await;
    world.now.0 += 5;
    world.done(put_with("b", 0, &[("status", "new")])).await;
    let both = [("status", "paid"), ("user_id", "u")];
    world.done(put_with("a", 1, &both)).await;
    assert_eq!(world.listed(&[("status", "new")]).await, ["b"]);
    assert_eq!(world.listed(&both).await, ["a"]);
    assert_eq!(world.listed(&[]).await, ["b", "a"], "its place stays");
    world.done(put_with("a", 2, &[("user_id", "u")])).await;
    assert!(world.listed(&[("status", "paid")]).await.is_empty());
    assert_eq!(world.listed(&[("user_id", "u")]).await, ["a"]);
    world.done(keep("a", 3)).await;
    assert_eq!(world.listed(&[("user_id", "u")]).await, ["a"]);
    world.done(put("a", 4, &json!(1))).await;
    assert!(world.listed(&[("user_id", "u")]).await.is_empty());
    assert_eq!(world.listed(&[]).await, ["b", "a"]);
}

pub(super) async fn without_a_state_left_out(world: &mut World) {
    let fields = [("status", "new")];
    world.done(put_with("a", 0, &fields)).await;
    world.done(keep("parked", 0).parking("m", 1)).await;
    world.done(delete("gone", 0)).await;
    assert_eq!(world.listed(&fields).await, ["a"]);
    assert_eq!(world.listed(&[]).await, ["a"]);
    world.done(delete("a", 1)).await;
    assert!(world.listed(&fields).await.is_empty());
    assert!(world.listed(&[]).await.is_empty());
    world.done(put_with("a", 2, &fields)).await;
    assert_eq!(world.listed(&fields).await, ["a"]);
    world.done(put_with("parked", 1, &fields)).await;
    assert_eq!(world.listed(&fields).await.len(), 2);
    // The state null is one.
    let mut null = put_with("a", 3, &fields);
    if let NewState::Set(state, _) = &mut null.put[0].state {
        *state = Json::null();
    }
    world.done(null).await;
    assert_eq!(world.load("a").await.state, Some(json!(null).into()));
    assert_eq!(world.listed(&fields).await.len(), 2);
}

pub(super) async fn counts(world: &mut World) {
    let count = async |world: &World, kind| world.documents.count(kind, &[]).await.unwrap();
    assert_eq!(count(world, "order").await, 0);
    orders(world, 4).await;
    assert_eq!(count(world, "order").await, 4);
    assert_eq!(count(world, "stock").await, 0);
    world.done(delete("1", 1)).await;
    assert_eq!(count(world, "order").await, 3);
}

pub(super) async fn backlog(world: &mut World) {
    let backlog = async |world: &World| world.documents.backlog().await.unwrap();
    assert_eq!(backlog(world).await, Backlog::default());
    let begin = world.now;
    let first = put("a", 0, &json!(1)).publishing(&["l: x y"]);
    let held = world.done(first.parking("m", 1).deadline("d", FAR)).await;
    world.now.0 += 9;
    let second = put("b", 0, &json!(1)).publishing(&["l: z", "k: z"]);
    let mut second = second.parking("n", 1).deadline("d", world.now);
    second.park[0].at = world.now;
    world.done(second).await;
    let mut expected = Backlog {
        outgoing: 4,
        outgoing_oldest: Some(begin),
        parked: 2,
        parked_oldest: Some(begin),
        deadlines: 2,
    };
    assert_eq!(backlog(world).await, expected);
    world.sent(&held).await;
    world.done(put("a", 1, &json!(1)).unparking("m")).await;
    expected.outgoing = 2;
    expected.outgoing_oldest = Some(world.now);
    expected.parked = 1;
    expected.parked_oldest = Some(world.now);
    assert_eq!(backlog(world).await, expected);
}
