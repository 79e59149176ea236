//! The end of a broker, and what is there when it is opened again.

use super::world::{World, ack_all, bodies, body, next, numbers, take, to};
use crate::broker::{BrokerError, ConsumeOptions, ExchangeKind, Topology, Unfinished};

pub(super) async fn close_is_idempotent_and_final(world: &mut World) {
    let queue = world.queue_of("q", 1).await;
    let mut consumer = world.consume(&queue, 1).await;
    assert!(world.broker.is_connected());
    let held = next(&mut consumer).await;
    world.broker.close().await;
    world.broker.close().await;
    assert!(!world.broker.is_connected());
    assert!(consumer.next().await.is_none());
    // Settling after the end has no effect, and does no harm.
    held.receipt.ack();

    let broker = &world.broker;
    let results = broker.publish(vec![to(&queue, "a"), to(&queue, "b")]).await;
    assert_eq!(results.len(), 2);
    let mut outcomes: Vec<Result<(), BrokerError>> = results;
    outcomes.push(broker.declare(&Topology::default()).await);
    let options = ConsumeOptions::queue(queue.clone());
    outcomes.push(broker.consume(options).await.map(drop));
    outcomes.push(broker.queue_stats(&queue).await.map(drop));
    outcomes.push(broker.purge(&queue).await.map(drop));
    outcomes.push(broker.delete_queue(&queue).await);
    outcomes.push(broker.delete_exchange("x").await);
    for outcome in outcomes {
        assert!(matches!(outcome, Err(BrokerError::Closed)), "{outcome:?}");
    }
}

pub(super) async fn publish_then_ack_after_close_gives_receipts_back(world: &mut World) {
    let queue = world.queue_of("q", 1).await;
    let mut consumer = world.consume(&queue, 1).await;
    let receipt = next(&mut consumer).await.receipt;
    world.broker.close().await;
    let batch = vec![to(&queue, "late")];
    let result = world.broker.publish_then_ack(batch, vec![receipt]).await;
    let Unfinished {
        error, receipts, ..
    } = result.expect_err("the broker is closed");
    assert!(matches!(error, BrokerError::Closed), "{error:?}");
    assert_eq!(receipts.len(), 1);
}

/// Exchanges, queues, bindings and messages are there again, without being declared.
pub(super) async fn messages_survive_reopening(world: &mut World) {
    let exchange = world.exchange("x", ExchangeKind::Topic).await;
    let queue = world.queue("q").await;
    world.bind(&queue, &exchange, "a.#").await;
    for number in numbers(0..20) {
        world.publish(&exchange, "a.b", &number).await.unwrap();
    }
    world.reopen().await;
    world.publish(&exchange, "a", "20").await.unwrap();
    assert_eq!(world.stats(&queue).await.ready, 21);
    let mut consumer = world.consume(&queue, 30).await;
    let deliveries = take(&mut consumer, 21).await;
    assert_eq!(bodies(&deliveries), numbers(0..21));
    assert_eq!(deliveries[3].exchange, exchange);
    assert_eq!(&*deliveries[3].routing_key, "a.b");
    ack_all(deliveries);
}

/// Acked ones stay away, held ones come first and are marked, also when they were never read from the consumer.
pub(super) async fn unsettled_deliveries_come_again(world: &mut World) {
    let queue = world.queue_of("q", 8).await;
    let mut consumer = world.consume(&queue, 5).await;
    let mut held = take(&mut consumer, 3).await;
    held.remove(1).receipt.ack();
    world.reaches_ready(&queue, 2).await;
    world.reopen().await;
    drop(held);
    drop(consumer);

    let mut consumer = world.consume(&queue, 10).await;
    let deliveries = take(&mut consumer, 7).await;
    assert_eq!(bodies(&deliveries), ["0", "2", "3", "4", "5", "6", "7"]);
    for delivery in &deliveries[..2] {
        assert!(delivery.redelivered, "{} was held", body(delivery));
    }
    ack_all(deliveries);
}
