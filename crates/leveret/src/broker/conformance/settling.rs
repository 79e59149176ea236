//! How deliveries end.

use super::world::{World, ack_all, bodies, body, next, numbers, take, to};
use crate::broker::{BrokerError, Delivery, Queue, Topology, Unfinished, publish};

pub(super) async fn ack_removes(world: &mut World) {
    let queue = world.queue_of("q", 2).await;
    let mut consumer = world.consume(&queue, 1).await;
    next(&mut consumer).await.receipt.ack();
    // With a prefetch of one the second comes only after the first was acked.
    next(&mut consumer).await.receipt.ack();
    drop(consumer);
    world
        .reaches_stats(&queue, |stats| stats.consumers == 0)
        .await;
    assert!(world.drain(&queue).await.is_empty());
}

pub(super) async fn requeue_returns_redelivered(world: &mut World) {
    let queue = world.queue_of("q", 1).await;
    let mut consumer = world.consume(&queue, 10).await;
    let first = next(&mut consumer).await;
    assert!(!first.redelivered);
    first.receipt.requeue();
    let again = next(&mut consumer).await;
    assert!(again.redelivered);
    assert_eq!(body(&again), "0");
    again.receipt.requeue();
    // Another consumer sees the mark, too.
    drop(consumer);
    let mut other = world.consume(&queue, 10).await;
    let third = next(&mut other).await;
    assert!(third.redelivered);
    third.receipt.ack();
}

pub(super) async fn reject_drops(world: &mut World) {
    let queue = world.queue_of("q", 2).await;
    let mut consumer = world.consume(&queue, 1).await;
    next(&mut consumer).await.receipt.reject();
    let second = next(&mut consumer).await;
    assert_eq!(body(&second), "1");
    second.receipt.ack();
    drop(consumer);
    assert!(world.drain(&queue).await.is_empty());
}

/// Dropped whole, and dropped after the message was moved out.
pub(super) async fn dropped_delivery_returns(world: &mut World) {
    let queue = world.queue_of("q", 1).await;
    let mut consumer = world.consume(&queue, 1).await;
    drop(next(&mut consumer).await);
    let again = next(&mut consumer).await;
    assert!(again.redelivered);
    let Delivery {
        message, receipt, ..
    } = again;
    assert_eq!(&message.body[..], b"0");
    drop(receipt);
    let third = next(&mut consumer).await;
    assert!(third.redelivered);
    third.receipt.ack();
}

pub(super) async fn out_of_order(world: &mut World) {
    let queue = world.queue_of("q", 6).await;
    let mut consumer = world.consume(&queue, 6).await;
    let mut held: Vec<Option<Delivery>> =
        take(&mut consumer, 6).await.into_iter().map(Some).collect();
    let mut settle = |index: usize| held[index].take().unwrap().receipt;
    settle(3).ack();
    settle(1).ack();
    settle(4).requeue();
    settle(5).reject();
    settle(0).ack();
    let again = next(&mut consumer).await;
    assert_eq!((body(&again), again.redelivered), ("4".to_owned(), true));
    again.receipt.ack();
    let mut settle = |index: usize| held[index].take().unwrap().receipt;
    settle(2).requeue();
    let again = next(&mut consumer).await;
    assert_eq!((body(&again), again.redelivered), ("2".to_owned(), true));
    again.receipt.ack();
    drop(consumer);
    assert!(world.drain(&queue).await.is_empty());
}

pub(super) async fn batch_of_acks(world: &mut World) {
    let queue = world.queue_of("q", 400).await;
    let mut consumer = world.consume(&queue, 300).await;
    let deliveries = take(&mut consumer, 300).await;
    assert_eq!(bodies(&deliveries), numbers(0..300));
    ack_all(deliveries);
    let rest = take(&mut consumer, 100).await;
    assert_eq!(bodies(&rest), numbers(300..400));
    ack_all(rest);
    drop(consumer);
    world
        .reaches_stats(&queue, |stats| stats.consumers == 0)
        .await;
    if world.capabilities().durable {
        world.reopen().await;
    }
    assert!(world.drain(&queue).await.is_empty());
}

pub(super) async fn publish_then_ack(world: &mut World) {
    let source = world.queue_of("source", 3).await;
    let target = world.queue("target").await;
    let mut consumer = world.consume(&source, 3).await;
    let receipts = take(&mut consumer, 3).await.into_iter().map(|d| d.receipt);
    let batch = vec![to(&target, "a"), to(&target, "b")];
    let done = world
        .broker
        .publish_then_ack(batch, receipts.collect())
        .await;
    assert!(done.is_ok(), "{done:?}");
    // Only receipts, and only messages.
    world.fill(&source, 3..4).await;
    let receipt = next(&mut consumer).await.receipt;
    let done = world.broker.publish_then_ack(vec![], vec![receipt]).await;
    assert!(done.is_ok(), "{done:?}");
    let done = world
        .broker
        .publish_then_ack(vec![to(&target, "c")], vec![])
        .await;
    assert!(done.is_ok(), "{done:?}");
    drop(consumer);
    world
        .reaches_stats(&source, |stats| stats.consumers == 0)
        .await;
    assert!(world.drain(&source).await.is_empty());
    assert_eq!(world.drain(&target).await, ["a", "b", "c"]);
}

pub(super) async fn publish_then_ack_gives_receipts_back(world: &mut World) {
    let source = world.queue_of("source", 2).await;
    let missing = world.name("missing");
    let mut consumer = world.consume(&source, 2).await;
    let receipts: Vec<_> = take(&mut consumer, 2)
        .await
        .into_iter()
        .map(|d| d.receipt)
        .collect();
    let result = world
        .broker
        .publish_then_ack(vec![to(&missing, "lost")], receipts)
        .await;
    let Unfinished {
        error,
        left,
        receipts,
    } = result.expect_err("nobody takes the message");
    assert_eq!(left, [to(&missing, "lost")]);
    assert!(matches!(error, BrokerError::Unroutable { .. }), "{error:?}");
    assert_eq!(receipts.len(), 2);
    for receipt in receipts {
        receipt.requeue();
    }
    let again = take(&mut consumer, 2).await;
    assert!(again.iter().all(|delivery| delivery.redelivered));
    ack_all(again);
}

/// A batch of which one message is unroutable publishes none.
pub(super) async fn publish_then_ack_is_atomic(world: &mut World) {
    let source = world.queue_of("source", 1).await;
    let target = world.queue("target").await;
    let missing = world.name("missing");
    let mut consumer = world.consume(&source, 1).await;
    let receipt = next(&mut consumer).await.receipt;
    let batch = vec![to(&target, "a"), to(&missing, "lost"), to(&target, "b")];
    let result = world.broker.publish_then_ack(batch, vec![receipt]).await;
    let unfinished = result.expect_err("nobody takes the message");
    assert_eq!(
        unfinished.left,
        [to(&target, "a"), to(&missing, "lost"), to(&target, "b")]
    );
    drop(unfinished.receipts);
    let again = next(&mut consumer).await;
    assert!(again.redelivered);
    again.receipt.ack();
    assert!(world.drain(&target).await.is_empty());
}

/// Where a batch is not atomic, what was confirmed of it does not come back.
pub(super) async fn publish_then_ack_tells_what_is_left(world: &mut World) {
    if world.capabilities().atomic_publish_then_ack {
        return;
    }
    let source = world.queue_of("source", 1).await;
    let target = world.queue("target").await;
    let missing = world.name("missing");
    let mut consumer = world.consume(&source, 1).await;
    let receipt = next(&mut consumer).await.receipt;
    let batch = vec![to(&target, "a"), to(&missing, "lost"), to(&target, "b")];
    let result = world.broker.publish_then_ack(batch, vec![receipt]).await;
    let unfinished = result.expect_err("nobody takes one message");
    assert_eq!(unfinished.left, [to(&missing, "lost")]);
    unfinished.receipts.into_iter().for_each(|receipt| {
        assert!(receipt.is_open());
        receipt.ack();
    });
    assert_eq!(world.drain(&target).await, ["a", "b"]);
}

/// A queue that somebody deleted is declared again by those who publish to it, and the others get each message once.
pub(super) async fn what_was_deleted_is_declared_again(world: &mut World) {
    let source = world.queue_of("source", 1).await;
    let target = world.queue("target").await;
    let gone = world.queue("gone").await;
    let queues = [&target, &gone].map(|queue| Queue::plain(queue.clone()));
    let topology = Topology {
        queues: queues.into(),
        ..Topology::default()
    };
    let persist = publish::Persist::new(&topology);
    let batch = || vec![to(&target, "a"), to(&gone, "b"), to(&target, "c")];
    world.broker.delete_queue(&gone).await.expect("deletes");
    publish::all(&*world.broker, batch(), &persist)
        .await
        .expect("publishes");
    assert_eq!(world.drain(&target).await, ["a", "c"]);
    assert_eq!(world.drain(&gone).await, ["b"]);

    let mut consumer = world.consume(&source, 1).await;
    let receipts = vec![next(&mut consumer).await.receipt];
    world.broker.delete_queue(&gone).await.expect("deletes");
    publish::all_then_ack(&*world.broker, batch(), receipts, &persist)
        .await
        .expect("publishes");
    drop(consumer);
    world
        .reaches_stats(&source, |stats| stats.consumers == 0)
        .await;
    assert!(world.drain(&source).await.is_empty());
    assert_eq!(world.drain(&target).await, ["a", "c"]);
    assert_eq!(world.drain(&gone).await, ["b"]);
}
