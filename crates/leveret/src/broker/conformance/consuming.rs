//! Consumers: how many deliveries they hold, how they begin and end.

use super::world::{World, ack_all, bodies, body, next, numbers, reaches, take};
use crate::broker::{BrokerError, ConsumeOptions, ConsumerState};

pub(super) async fn waiting_consumer_is_woken(world: &mut World) {
    let queue = world.queue("q").await;
    let mut consumer = world.consume(&queue, 1).await;
    assert!(consumer.try_next().is_none());
    let (delivery, published) =
        tokio::join!(next(&mut consumer), world.publish("", &queue, "hello"));
    published.unwrap();
    assert_eq!(body(&delivery), "hello");
    delivery.receipt.ack();
}

/// A consumer that holds as many as its prefetch gets no more until it settles one.
pub(super) async fn prefetch_is_a_bound(world: &mut World) {
    let queue = world.queue_of("q", 10).await;
    let mut consumer = world.consume(&queue, 3).await;
    let mut held = take(&mut consumer, 3).await;
    assert_eq!(bodies(&held), numbers(0..3));
    world.reaches_ready(&queue, 7).await;
    assert!(consumer.try_next().is_none());

    held.remove(1).receipt.ack();
    held.extend(take(&mut consumer, 1).await);
    world.reaches_ready(&queue, 6).await;
    assert!(consumer.try_next().is_none());
    assert_eq!(bodies(&held), ["0", "2", "3"]);

    ack_all(held);
    let rest = take(&mut consumer, 3).await;
    assert_eq!(bodies(&rest), numbers(4..7));
    ack_all(rest);
}

/// While both hold as much as they may, each message is with one of them.
pub(super) async fn two_consumers_share_a_queue(world: &mut World) {
    let queue = world.queue("q").await;
    let mut a = world.consume(&queue, 2).await;
    let mut b = world.consume(&queue, 2).await;
    world.fill(&queue, 0..6).await;
    let mut held = take(&mut a, 2).await;
    held.extend(take(&mut b, 2).await);
    let mut seen = bodies(&held);
    seen.sort();
    assert_eq!(seen, numbers(0..4));
    world
        .reaches_stats(&queue, |stats| stats.ready == 2 && stats.consumers == 2)
        .await;
    ack_all(held);

    drop(a);
    let mut rest = Vec::new();
    while rest.len() < 2 {
        let delivery = next(&mut b).await;
        rest.push(body(&delivery));
        delivery.receipt.ack();
    }
    rest.sort();
    assert_eq!(rest, numbers(4..6));
}

pub(super) async fn missing_queue_is_not_found(world: &mut World) {
    let missing = world.name("missing");
    let result = world
        .broker
        .consume(ConsumeOptions::queue(missing.clone()))
        .await;
    match result {
        Err(BrokerError::NotFound { what }) => assert!(what.contains(&*missing), "{what}"),
        other => panic!("consuming a missing queue: {other:?}"),
    }
}

pub(super) async fn states(world: &mut World) {
    let queue = world.queue("q").await;
    let options = ConsumeOptions::queue(queue.clone());
    let mut consumer = world.broker.consume(options).await.unwrap();
    let first = *consumer.state().borrow();
    assert!(
        matches!(first, ConsumerState::Starting | ConsumerState::Live),
        "{first:?}"
    );
    reaches(consumer.state(), ConsumerState::Live).await;
    world
        .reaches_stats(&queue, |stats| stats.consumers == 1)
        .await;
    consumer.cancel();
    reaches(consumer.state(), ConsumerState::Draining).await;
    world
        .reaches_stats(&queue, |stats| stats.consumers == 0)
        .await;
    consumer.cancel();
    assert!(consumer.next().await.is_none());
}

/// What was taken before can still be settled.
pub(super) async fn cancel_returns_the_unread(world: &mut World) {
    let queue = world.queue_of("q", 10).await;
    let mut consumer = world.consume(&queue, 8).await;
    let taken = take(&mut consumer, 2).await;
    world.reaches_ready(&queue, 2).await;
    consumer.cancel();
    assert!(consumer.next().await.is_none());
    world.reaches_ready(&queue, 8).await;

    let mut second = world.consume(&queue, 10).await;
    let rest = take(&mut second, 8).await;
    let mut seen = bodies(&rest);
    seen.sort();
    assert_eq!(seen, numbers(2..10));
    ack_all(taken);
    ack_all(rest);
    world
        .reaches_stats(&queue, |stats| stats.consumers == 1)
        .await;
    world.publish("", &queue, "last").await.unwrap();
    let last = next(&mut second).await;
    assert_eq!(body(&last), "last");
    last.receipt.ack();
}

pub(super) async fn drop_returns_the_unread(world: &mut World) {
    let queue = world.queue_of("q", 3).await;
    let mut consumer = world.consume(&queue, 3).await;
    let first = next(&mut consumer).await;
    drop(consumer);
    world.reaches_ready(&queue, 2).await;
    first.receipt.requeue();
    world.reaches_ready(&queue, 3).await;
    let mut second = world.consume(&queue, 3).await;
    let all = take(&mut second, 3).await;
    let mut seen = bodies(&all);
    seen.sort();
    assert_eq!(seen, numbers(0..3));
    ack_all(all);
}

/// The queue is deleted while the consumer holds one of its messages and has not read another one. Then it is declared again, and once more.
pub(super) async fn consumer_outlives_its_queue(world: &mut World) {
    let queue = world.queue_of("q", 2).await;
    let mut consumer = world.consume(&queue, 2).await;
    let old = next(&mut consumer).await;
    world.reaches_ready(&queue, 0).await;
    for round in ["first", "second"] {
        world.broker.delete_queue(&queue).await.unwrap();
        reaches(consumer.state(), ConsumerState::Lost).await;
        world.queue("q").await;
        reaches(consumer.state(), ConsumerState::Live).await;
        world
            .reaches_stats(&queue, |stats| stats.consumers == 1)
            .await;
        for _ in 0..2 {
            world.publish("", &queue, round).await.unwrap();
        }
        let mut came = 0;
        while came < 2 {
            let delivery = next(&mut consumer).await;
            // What was not read is not taken back, and settling it has no effect.
            if body(&delivery) == round {
                came += 1;
                assert!(!delivery.redelivered);
            }
            delivery.receipt.ack();
        }
        world.reaches_ready(&queue, 0).await;
    }
    old.receipt.requeue();
    world.broker.delete_queue(&queue).await.unwrap();
    reaches(consumer.state(), ConsumerState::Lost).await;
    consumer.cancel();
    reaches(consumer.state(), ConsumerState::Draining).await;
    assert!(consumer.next().await.is_none());
    world.queue("q").await;
    world.fill(&queue, 0..1).await;
    assert_eq!(world.drain(&queue).await, numbers(0..1));
}
