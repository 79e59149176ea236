//! Where a message goes, and what declaring means.

use super::world::{World, bodies, text, to};
use std::sync::Arc;

use crate::broker::{Binding, BrokerError, Exchange, ExchangeKind, Publication, Queue, Topology};

pub(super) async fn default_exchange(world: &mut World) {
    let (a, b) = (world.queue("a").await, world.queue("b").await);
    world.publish("", &a, "for a").await.unwrap();
    assert_eq!(world.drain(&a).await, ["for a"]);
    assert!(world.drain(&b).await.is_empty());
}

pub(super) async fn direct(world: &mut World) {
    let exchange = world.exchange("direct", ExchangeKind::Direct).await;
    let (a, b) = (world.queue("a").await, world.queue("b").await);
    world.bind(&a, &exchange, "red").await;
    world.bind(&b, &exchange, "red").await;
    world.bind(&b, &exchange, "blue.*").await;
    world.publish(&exchange, "red", "red").await.unwrap();
    world.publish(&exchange, "blue.*", "blue").await.unwrap();
    let other = world.publish(&exchange, "blue.sky", "sky").await;
    assert!(
        matches!(other, Err(BrokerError::Unroutable { .. })),
        "a direct exchange has no patterns: {other:?}"
    );
    assert_eq!(world.drain(&a).await, ["red"]);
    assert_eq!(world.drain(&b).await, ["red", "blue"]);
}

pub(super) async fn topic(world: &mut World) {
    let keys = [
        "", "a", "b", "x", "a.b", "a.x", "y.x", "a.y.b", "a.y.z.b", "a.b.c", "a..b", "y.z.x",
        "a.b.x",
    ];
    let check: &[(&str, &[&str])] = &[
        ("#", &keys),
        ("*", &["a", "b", "x"]),
        ("a.b", &["a.b"]),
        ("*.x", &["a.x", "y.x"]),
        ("a.*", &["a.b", "a.x"]),
        (
            "a.#",
            &[
                "a", "a.b", "a.x", "a.y.b", "a.y.z.b", "a.b.c", "a..b", "a.b.x",
            ],
        ),
        ("a.#.b", &["a.b", "a.y.b", "a.y.z.b", "a..b"]),
        ("#.x", &["x", "a.x", "y.x", "y.z.x", "a.b.x"]),
        (
            "#.b.#",
            &["b", "a.b", "a.y.b", "a.y.z.b", "a.b.c", "a..b", "a.b.x"],
        ),
        ("*.#.x", &["a.x", "y.x", "y.z.x", "a.b.x"]),
        ("a.*.b", &["a.y.b", "a..b"]),
    ];
    let exchange = world.exchange("topic", ExchangeKind::Topic).await;
    let mut queues = Vec::new();
    for (index, (pattern, _)) in check.iter().enumerate() {
        let queue = world.queue(&index.to_string()).await;
        world.bind(&queue, &exchange, pattern).await;
        queues.push(queue);
    }
    for key in keys {
        world.publish(&exchange, key, key).await.unwrap();
    }
    for ((pattern, expect), queue) in check.iter().zip(&queues) {
        // An empty key has no words.
        assert_eq!(&world.drain(queue).await, expect, "binding '{pattern}'");
    }
}

pub(super) async fn fanout(world: &mut World) {
    let exchange = world.exchange("fanout", ExchangeKind::Fanout).await;
    let none = world.publish(&exchange, "", "nobody").await;
    assert!(
        matches!(none, Err(BrokerError::Unroutable { .. })),
        "{none:?}"
    );
    let (a, b) = (world.queue("a").await, world.queue("b").await);
    world.bind(&a, &exchange, "").await;
    world.bind(&b, &exchange, "some.key").await;
    world.publish(&exchange, "other", "all").await.unwrap();
    assert_eq!(world.drain(&a).await, ["all"]);
    assert_eq!(world.drain(&b).await, ["all"]);
}

pub(super) async fn bound_twice_arrives_once(world: &mut World) {
    let exchange = world.exchange("topic", ExchangeKind::Topic).await;
    let queue = world.queue("q").await;
    world.bind(&queue, &exchange, "#").await;
    world.bind(&queue, &exchange, "a.*").await;
    world.bind(&queue, &exchange, "a.*").await;
    world.publish(&exchange, "a.b", "once").await.unwrap();
    assert_eq!(world.drain(&queue).await, ["once"]);
}

/// The results of a batch stand in its order, and one that nobody takes does not hold up the others.
pub(super) async fn unroutable_is_an_error_and_the_rest_succeeds(world: &mut World) {
    let exchange = world.exchange("direct", ExchangeKind::Direct).await;
    let queue = world.queue("q").await;
    let missing = world.name("missing");
    let unbound = Publication {
        exchange: exchange.clone(),
        routing_key: "nobody".into(),
        message: text("unbound"),
        copied: false,
    };
    let batch = vec![
        to(&queue, "0"),
        to(&missing, "1"),
        to(&queue, "2"),
        unbound,
        to(&queue, "4"),
    ];
    let results = world.broker.publish(batch).await;
    assert_eq!(results.len(), 5);
    for (index, result) in results.iter().enumerate() {
        match (index, result) {
            (0 | 2 | 4, Ok(())) => {}
            (
                1,
                Err(BrokerError::Unroutable {
                    exchange,
                    routing_key,
                }),
            ) => assert_eq!((&**exchange, routing_key), ("", &missing)),
            (
                3,
                Err(BrokerError::Unroutable {
                    exchange: name,
                    routing_key,
                }),
            ) => assert_eq!((name, &**routing_key), (&exchange, "nobody")),
            _ => panic!("result {index} is {result:?}"),
        }
    }
    assert_eq!(world.drain(&queue).await, ["0", "2", "4"]);
    assert!(world.broker.publish(Vec::new()).await.is_empty());
}

/// The broker goes on working after it.
pub(super) async fn unknown_exchange_is_an_error(world: &mut World) {
    let queue = world.queue("q").await;
    let missing = world.name("missing");
    let result = world.publish(&missing, "key", "lost").await;
    assert!(result.is_err(), "{result:?}");
    let mut again = world.publish("", &queue, "works").await;
    for _ in 0..100 {
        match &again {
            Err(error) if error.is_retryable() => {
                again = world.publish("", &queue, "works").await;
            }
            _ => break,
        }
    }
    again.unwrap();
    let mut consumer = world.consume(&queue, 1).await;
    let delivery = super::world::next(&mut consumer).await;
    assert_eq!(bodies(std::slice::from_ref(&delivery)), ["works"]);
    delivery.receipt.ack();
}

pub(super) async fn declare_is_idempotent(world: &mut World) {
    let (exchange, queue) = (world.name("x"), world.name("q"));
    let topology = Topology {
        exchanges: vec![Exchange {
            name: exchange.clone(),
            kind: ExchangeKind::Topic,
        }],
        queues: vec![
            Queue::plain(queue.clone()),
            Queue::retry_of(&queue, std::time::Duration::from_secs(60)),
        ],
        bindings: vec![Binding {
            queue: queue.clone(),
            exchange: exchange.clone(),
            routing_key: "a.*".into(),
        }],
    };
    world.declare(&topology).await;
    world.publish(&exchange, "a.b", "kept").await.unwrap();
    world.declare(&topology).await;
    world.declare(&topology).await;
    assert_eq!(world.drain(&queue).await, ["kept"]);
}

pub(super) async fn declare_mismatch_is_an_error(world: &mut World) {
    let exchange = world.exchange("x", ExchangeKind::Topic).await;
    let queue = world.queue("q").await;
    let other_kind = Topology {
        exchanges: vec![Exchange {
            name: exchange.clone(),
            kind: ExchangeKind::Fanout,
        }],
        ..Topology::default()
    };
    let retry = Queue::retry_of(&queue, std::time::Duration::from_secs(60));
    let other_queue = Topology {
        queues: vec![Queue {
            name: queue.clone(),
            ..retry
        }],
        ..Topology::default()
    };
    for (topology, name) in [(other_kind, &exchange), (other_queue, &queue)] {
        match world.broker.declare(&topology).await {
            Err(BrokerError::Mismatch { what, .. }) => {
                assert!(what.contains(&**name), "'{what}' names '{name}'");
            }
            other => panic!("declaring '{name}' otherwise: {other:?}"),
        }
    }
    world.bind(&queue, &exchange, "key").await;
    world
        .publish(&exchange, "key", "still there")
        .await
        .unwrap();
    assert_eq!(world.drain(&queue).await, ["still there"]);
}

pub(super) async fn binding_to_nothing_is_an_error(world: &mut World) {
    let exchange = world.exchange("x", ExchangeKind::Topic).await;
    let queue = world.queue("q").await;
    let missing = world.name("missing");
    for (queue, exchange) in [(&queue, &missing), (&missing, &exchange)] {
        let topology = Topology {
            bindings: vec![Binding {
                queue: queue.clone(),
                exchange: exchange.clone(),
                routing_key: "key".into(),
            }],
            ..Topology::default()
        };
        let result = world.broker.declare(&topology).await;
        assert!(
            matches!(result, Err(BrokerError::NotFound { .. })),
            "{result:?}"
        );
    }
}

/// Only what is named is unbound, and twice is as good as once.
pub(super) async fn unbind(world: &mut World) {
    let exchange = world.exchange("x", ExchangeKind::Topic).await;
    let (first, second) = (world.queue("q1").await, world.queue("q2").await);
    for key in ["a", "b.*"] {
        world.bind(&first, &exchange, key).await;
    }
    world.bind(&second, &exchange, "a").await;
    let binding = |queue: &Arc<str>, key: &str| Binding {
        queue: queue.clone(),
        exchange: exchange.clone(),
        routing_key: key.into(),
    };
    let missing = [
        binding(&world.name("missing"), "a"),
        Binding {
            exchange: world.name("missing"),
            ..binding(&first, "a")
        },
    ];
    world.publish(&exchange, "a", "before").await.unwrap();
    for _ in 0..2 {
        let mut gone = missing.to_vec();
        gone.push(binding(&first, "a"));
        world.broker.unbind(&gone).await.unwrap();
    }
    world.publish(&exchange, "a", "after").await.unwrap();
    world.publish(&exchange, "b.1", "other").await.unwrap();
    assert_eq!(world.drain(&first).await, ["before", "other"]);
    assert_eq!(world.drain(&second).await, ["before", "after"]);
    world.broker.unbind(&[binding(&second, "a")]).await.unwrap();
    let result = world.publish(&exchange, "a", "lost").await;
    assert!(
        matches!(result, Err(BrokerError::Unroutable { .. })),
        "{result:?}"
    );
    // Bound again, it takes messages again.
    world.bind(&first, &exchange, "a").await;
    world.publish(&exchange, "a", "again").await.unwrap();
    assert_eq!(world.drain(&first).await, ["again"]);
}
