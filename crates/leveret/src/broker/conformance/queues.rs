//! Queues as operators see them, and delay queues.

use std::time::Duration;

use tokio::time::Instant;

use super::world::{World, ack_all, bodies, body, next, numbers, take};
use crate::broker::{BrokerError, ConsumeOptions, ExchangeKind, Queue, QueueStats, Topology};

pub(super) async fn stats(world: &mut World) {
    let queue = world.queue("q").await;
    assert_eq!(world.stats(&queue).await, QueueStats::default());
    world.fill(&queue, 0..5).await;
    world.reaches_ready(&queue, 5).await;
    let mut consumer = world.consume(&queue, 2).await;
    let held = take(&mut consumer, 2).await;
    world
        .reaches_stats(&queue, |stats| stats.ready == 3 && stats.consumers == 1)
        .await;
    drop(consumer);
    drop(held);
    world
        .reaches_stats(&queue, |stats| stats.ready == 5 && stats.consumers == 0)
        .await;
    let missing = world.broker.queue_stats(&world.name("missing")).await;
    assert!(
        matches!(missing, Err(BrokerError::NotFound { .. })),
        "{missing:?}"
    );
}

/// What a consumer holds stays with it.
pub(super) async fn purge(world: &mut World) {
    let queue = world.queue_of("q", 5).await;
    let mut consumer = world.consume(&queue, 1).await;
    let held = next(&mut consumer).await;
    world.reaches_ready(&queue, 4).await;
    assert_eq!(world.broker.purge(&queue).await.unwrap(), 4);
    assert_eq!(world.broker.purge(&queue).await.unwrap(), 0);
    held.receipt.requeue();
    let again = next(&mut consumer).await;
    assert_eq!((body(&again), again.redelivered), ("0".to_owned(), true));
    again.receipt.ack();
    drop(consumer);
    assert!(world.drain(&queue).await.is_empty());
    let missing = world.broker.purge(&world.name("missing")).await;
    assert!(
        matches!(missing, Err(BrokerError::NotFound { .. })),
        "{missing:?}"
    );
}

pub(super) async fn delete_queue(world: &mut World) {
    let exchange = world.exchange("x", ExchangeKind::Fanout).await;
    let queue = world.queue_of("q", 3).await;
    world.bind(&queue, &exchange, "").await;
    world.broker.delete_queue(&queue).await.unwrap();
    world.broker.delete_queue(&queue).await.unwrap();
    for exchange in ["", &exchange] {
        let result = world.publish(exchange, &queue, "lost").await;
        assert!(
            matches!(result, Err(BrokerError::Unroutable { .. })),
            "{result:?}"
        );
    }
    let options = ConsumeOptions::queue(queue.clone());
    let result = world.broker.consume(options).await;
    assert!(
        matches!(result, Err(BrokerError::NotFound { .. })),
        "{result:?}"
    );
    // One of the same name starts empty, unbound, and may have other properties.
    let other = Queue {
        name: queue.clone(),
        ..Queue::retry_of("other", Duration::from_secs(60))
    };
    let topology = Topology {
        queues: vec![other],
        ..Topology::default()
    };
    world.declare(&topology).await;
    assert_eq!(world.stats(&queue).await.ready, 0);
    let result = world.publish(&exchange, "", "lost").await;
    assert!(
        matches!(result, Err(BrokerError::Unroutable { .. })),
        "{result:?}"
    );
}

pub(super) async fn delete_exchange(world: &mut World) {
    let exchange = world.exchange("x", ExchangeKind::Fanout).await;
    let queue = world.queue("q").await;
    world.bind(&queue, &exchange, "").await;
    world.broker.delete_exchange(&exchange).await.unwrap();
    world.broker.delete_exchange(&exchange).await.unwrap();
    let again = world.exchange("x", ExchangeKind::Topic).await;
    assert_eq!(again, exchange);
    let result = world.publish(&exchange, "", "lost").await;
    assert!(
        matches!(result, Err(BrokerError::Unroutable { .. })),
        "{result:?}"
    );
    assert!(world.drain(&queue).await.is_empty());
}

async fn with_delay(
    world: &mut World,
    after: Duration,
) -> (std::sync::Arc<str>, std::sync::Arc<str>) {
    let queue = world.queue("q").await;
    let retry = Queue::retry_of(&queue, after);
    let topology = Topology {
        queues: vec![retry.clone()],
        ..Topology::default()
    };
    world.declare(&topology).await;
    (queue, retry.name)
}

/// Clocks of a server count in whole milliseconds.
const CLOCK_TOLERANCE: Duration = Duration::from_millis(2);

pub(super) async fn delay_moves_messages_in_order(world: &mut World) {
    const AFTER: Duration = Duration::from_millis(120);
    let (queue, retry) = with_delay(world, AFTER).await;
    let mut consumer = world.consume(&queue, 20).await;
    let first = Instant::now();
    world.fill(&retry, 0..5).await;
    let second = Instant::now();
    world.fill(&retry, 5..10).await;
    for (range, since) in [(0..5, first), (5..10, second)] {
        let deliveries = take(&mut consumer, 5).await;
        assert!(
            since.elapsed() + CLOCK_TOLERANCE >= AFTER,
            "came after {:?}",
            since.elapsed()
        );
        assert_eq!(bodies(&deliveries), numbers(range));
        for delivery in &deliveries {
            assert_eq!((&*delivery.exchange, &delivery.routing_key), ("", &queue));
            assert!(!delivery.redelivered);
        }
        ack_all(deliveries);
    }
    world.reaches_ready(&retry, 0).await;
}

pub(super) async fn delay_queue_counts_and_purges(world: &mut World) {
    let (queue, retry) = with_delay(world, Duration::from_secs(300)).await;
    world.fill(&retry, 0..3).await;
    world.reaches_ready(&retry, 3).await;
    assert_eq!(world.broker.purge(&retry).await.unwrap(), 3);
    world.fill(&retry, 3..4).await;
    world.reaches_ready(&retry, 1).await;
    assert_eq!(world.stats(&queue).await.ready, 0);
}

/// A message whose time comes while the broker is closed, and one whose time comes after it was opened again.
pub(super) async fn delay_survives_reopening(world: &mut World) {
    const AFTER: Duration = Duration::from_millis(200);
    let (queue, retry) = with_delay(world, AFTER).await;
    let since = Instant::now();
    world.fill(&retry, 0..2).await;
    world.reopen().await;
    let mut consumer = world.consume(&queue, 10).await;
    let deliveries = take(&mut consumer, 2).await;
    assert!(since.elapsed() + CLOCK_TOLERANCE >= AFTER);
    assert_eq!(bodies(&deliveries), numbers(0..2));
    ack_all(deliveries);
}
