//! What arrives is what was sent, in order.

use bytes::Bytes;
use leveret_core::time::Timestamp;

use super::world::{World, ack_all, bodies, next, numbers, take, to};
use crate::broker::{BrokerError, ExchangeKind, HEADER_DEPTH_MAX, Header, Message, Publication};

/// Lists and tables inside each other.
fn deep(depth: u32) -> Header {
    (0..depth).fold(Header::Int(1), |inner, at| match at % 2 {
        0 => Header::List(vec![Header::Text("void".to_owned()), inner]),
        _ => Header::Table([("in".to_owned(), inner)].into()),
    })
}

pub(super) async fn properties_and_headers_round_trip(world: &mut World) {
    let exchange = world.exchange("x", ExchangeKind::Direct).await;
    let queue = world.queue("q").await;
    world.bind(&queue, &exchange, "the.key").await;
    let full = Message {
        body: Bytes::from_static(b"{}"),
        content_type: Some("application/json".into()),
        message_id: Some("message-1".into()),
        correlation_id: Some("request-1".into()),
        reply_to: Some("answers".into()),
        kind: Some("OrderCreated".into()),
        timestamp: Some(Timestamp(1_795_141_463_000)),
        headers: [
            ("text", Header::Text("größer".to_owned())),
            ("empty", Header::Text(String::new())),
            ("large", Header::Int(i64::MAX)),
            ("small", Header::Int(-1)),
            ("yes", Header::Bool(true)),
            ("no", Header::Bool(false)),
            ("octets", Header::Octets(vec![0xff, 0, 0xc3])),
            ("bytes", Header::Bytes(vec![0, 1, 0xff])),
            ("float", Header::Float(0.1)),
            ("double", Header::Double(f64::MIN)),
            (
                "decimal",
                Header::Decimal {
                    scale: 2,
                    value: 1999,
                },
            ),
            ("seconds", Header::Seconds(1_795_141_463)),
            ("void", Header::Void),
            ("deep", deep(HEADER_DEPTH_MAX)),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .into(),
    };
    // One for all: another one's message could come back from this one, counted.
    let mut consumer = world.consume(&queue, 1).await;
    for message in [full, Message::default(), Message::json("null")] {
        let publication = Publication {
            exchange: exchange.clone(),
            routing_key: "the.key".into(),
            message: message.clone(),
            copied: false,
        };
        world.broker.publish(vec![publication]).await[0]
            .clone()
            .unwrap();
        let delivery = next(&mut consumer).await;
        assert_eq!(delivery.message, message);
        assert_eq!(delivery.exchange, exchange);
        assert_eq!(&*delivery.routing_key, "the.key");
        assert!(!delivery.redelivered);
        delivery.receipt.ack();
    }
}

pub(super) async fn bodies_round_trip(world: &mut World) {
    let queue = world.queue("q").await;
    let large: Vec<u8> = (0..1 << 20).map(|at: u32| ((at * 31) >> 3) as u8).collect();
    let every_byte: Vec<u8> = (0..=255).collect();
    let sent: Vec<Bytes> = vec![
        Bytes::new(),
        every_byte.into(),
        Bytes::from_static(&[0xff, 0xfe, 0, 0xc3, 0x28]),
        large.into(),
    ];
    let message = |body: &Bytes| Message {
        body: body.clone(),
        ..Message::default()
    };
    let batch = sent
        .iter()
        .map(|body| Publication::to_queue(queue.clone(), message(body)));
    for result in world.broker.publish(batch.collect()).await {
        result.unwrap();
    }
    let mut consumer = world.consume(&queue, 10).await;
    for body in sent {
        let delivery = next(&mut consumer).await;
        assert!(delivery.message.body == body, "{} bytes differ", body.len());
        delivery.receipt.ack();
    }
}

/// Published in ten batches before and while they are consumed.
pub(super) async fn thousand_messages_in_order(world: &mut World) {
    let queue = world.queue_of("q", 500).await;
    let mut consumer = world.consume(&queue, 50).await;
    for batch in 5..10 {
        world.fill(&queue, batch * 100..batch * 100 + 100).await;
        for number in (batch - 5) * 200..(batch - 4) * 200 {
            let delivery = next(&mut consumer).await;
            assert_eq!(
                bodies(std::slice::from_ref(&delivery)),
                [number.to_string()]
            );
            delivery.receipt.ack();
        }
    }
    world.reaches_ready(&queue, 0).await;
}

/// Batches of several callers at once all arrive, each in its own order.
pub(super) async fn publishers_overlap(world: &mut World) {
    let queue = world.queue("q").await;
    let publishers = (0..8).map(|publisher| {
        let (broker, queue) = (world.broker.clone(), queue.clone());
        tokio::spawn(async move {
            for batch in 0..5 {
                let numbers = batch * 5..batch * 5 + 5;
                let batch = numbers.map(|number| to(&queue, &format!("{publisher}/{number}")));
                for result in broker.publish(batch.collect()).await {
                    result.unwrap();
                }
            }
        })
    });
    for publisher in publishers.collect::<Vec<_>>() {
        publisher.await.unwrap();
    }
    let mut consumer = world.consume(&queue, 200).await;
    let deliveries = take(&mut consumer, 200).await;
    let arrived = bodies(&deliveries);
    for publisher in 0..8 {
        let prefix = format!("{publisher}/");
        let own = arrived.iter().filter_map(|body| body.strip_prefix(&prefix));
        assert_eq!(own.collect::<Vec<_>>(), numbers(0..25));
    }
    ack_all(deliveries);
}

/// What cannot be given back by each broker is taken by none.
pub(super) async fn headers_that_cannot_be_kept_are_refused(world: &mut World) {
    let queue = world.queue("q").await;
    let headers = [
        deep(HEADER_DEPTH_MAX + 1),
        Header::Float(f32::NAN),
        Header::List(vec![Header::Double(f64::INFINITY)]),
    ];
    let mut batch = Vec::from(headers.map(|header| {
        let message = Message {
            headers: [("bad".to_owned(), header)].into(),
            ..Message::default()
        };
        Publication::to_queue(queue.clone(), message)
    }));
    batch.push(to(&queue, "0"));
    let mut results = world.broker.publish(batch).await;
    assert!(results.pop().is_some_and(|result| result.is_ok()));
    for result in results {
        assert!(
            matches!(result, Err(BrokerError::Invalid { .. })),
            "{result:?}"
        );
    }
    assert_eq!(world.drain(&queue).await, ["0"]);
}
