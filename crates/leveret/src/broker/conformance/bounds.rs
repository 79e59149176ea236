//! Queues with bounds: one active consumer, an end when they are unused, a length.

use std::{sync::Arc, time::Duration};

use tokio::time::{interval, timeout};

use super::{
    PATIENCE,
    world::{World, ack_all, bodies, body, next, numbers, reaches, take, to},
};
use crate::broker::{BrokerError, ConsumerState, Queue, Topology};

async fn declare(world: &mut World, name: &str, bounds: impl Fn(Queue) -> Queue) -> Arc<str> {
    let queue = bounds(Queue::plain(world.name(name)));
    let name = queue.name.clone();
    let topology = Topology {
        queues: vec![queue],
        ..Topology::default()
    };
    world.declare(&topology).await;
    name
}

/// The second consumer gets nothing as long as the first lives, whatever the first's prefetch, and then goes on in order.
pub(super) async fn one_consumer_is_active(world: &mut World) {
    let queue = declare(world, "q", Queue::single_active).await;
    let mut first = world.consume(&queue, 2).await;
    let mut second = world.consume(&queue, 10).await;
    world.fill(&queue, 0..20).await;
    for number in 0..10 {
        let delivery = next(&mut first).await;
        assert_eq!(body(&delivery), number.to_string());
        assert!(second.try_next().is_none(), "the first is active");
        delivery.receipt.ack();
    }
    let held = next(&mut first).await;
    first.cancel();
    let late = take(&mut second, 9).await;
    let mut seen = bodies(&late);
    seen.sort_by_key(|body| body.parse::<usize>().expect("a number"));
    assert_eq!(seen, numbers(11..20));
    drop(held);
    assert_eq!(body(&next(&mut second).await), "10");
    ack_all(late);
}

/// A queue lives while it is consumed, and ends when for its time nobody did; others are not concerned.
pub(super) async fn unused_queues_expire(world: &mut World) {
    const AFTER: Duration = Duration::from_millis(300);
    let expiring = |queue: Queue| queue.expires_after(AFTER);
    let used = declare(world, "used", expiring).await;
    let consumer = world.consume(&used, 1).await;
    let unused = declare(world, "unused", expiring).await;
    let plain = world.queue("plain").await;
    world.fill(&unused, 0..3).await;
    expires(world, &unused).await;
    world.publish("", &used, "still there").await.unwrap();
    world.publish("", &plain, "still there").await.unwrap();
    drop(consumer);
    expires(world, &used).await;
    // One of the same name starts empty.
    let again = declare(world, "unused", expiring).await;
    let mut consumer = world.consume(&again, 1).await;
    world.publish("", &again, "new").await.unwrap();
    assert_eq!(body(&next(&mut consumer).await), "new");
}

/// Waits until nobody takes messages of this name. Publishing to a queue is no use of it, and asking for its counts may be. Seldom: RabbitMQ may
/// close a connection that publishes to a quorum queue in the moment of its end, and then it is declared again and has to end again.
async fn expires(world: &World, queue: &str) {
    let poll = async {
        let mut interval = interval(Duration::from_millis(500));
        loop {
            interval.tick().await;
            match world.publish("", queue, "unused").await {
                Ok(()) => {}
                Err(BrokerError::Unroutable { .. }) => return,
                Err(error) => assert!(error.is_retryable(), "{error}"),
            }
        }
    };
    timeout(PATIENCE, poll).await.expect("the queue expires");
}

/// The most that a queue takes beyond its length; quorum queues say with a delay that they are full.
const SLACK: usize = 200;

/// A full queue refuses, keeps what it has, and takes more when there is room; other queues go on.
pub(super) async fn full_queues_refuse(world: &mut World) {
    const LENGTH: usize = 5;
    let queue = declare(world, "q", |queue| queue.length_max(LENGTH as u64)).await;
    let other = world.queue("other").await;
    let mut taken = 0;
    let refused = loop {
        match world.publish("", &queue, &taken.to_string()).await {
            Ok(()) => taken += 1,
            Err(error) => break error,
        }
        assert!(taken <= LENGTH + SLACK, "the queue took {taken}");
    };
    assert!(
        matches!(refused, BrokerError::NotAccepted { .. }) && refused.is_retryable(),
        "{refused:?}"
    );
    assert!(taken >= LENGTH, "the queue took {taken}");
    let batch = vec![to(&queue, "no"), to(&other, "yes")];
    let results = world.broker.publish(batch).await;
    assert!(
        matches!(results[0], Err(BrokerError::NotAccepted { .. })),
        "{results:?}"
    );
    assert!(results[1].is_ok(), "{results:?}");
    let mut consumer = world.consume(&queue, 100).await;
    let all = take(&mut consumer, taken).await;
    assert_eq!(bodies(&all), numbers(0..taken));
    ack_all(all);
    let state = consumer.state();
    consumer.cancel();
    reaches(state, ConsumerState::Draining).await;
    let poll = async {
        let mut interval = interval(Duration::from_millis(5));
        while world.publish("", &queue, "room").await.is_err() {
            interval.tick().await;
        }
    };
    timeout(PATIENCE, poll).await.expect("there is room again");
    assert_eq!(world.drain(&queue).await, ["room"]);
}

/// What was refused of many batches at once is nowhere, and what was accepted is there.
pub(super) async fn full_queues_refuse_under_way(world: &mut World) {
    const LENGTH: usize = 30;
    let queue = declare(world, "q", |queue| queue.length_max(LENGTH as u64)).await;
    let publishers = (0..10).map(|publisher| {
        let batch = (0..10).map(|number| to(&queue, &format!("{publisher}.{number}")));
        world.broker.publish(batch.collect())
    });
    let results = futures_util::future::join_all(publishers).await;
    let accepted = results.iter().flatten().filter(|result| result.is_ok());
    let accepted = accepted.count();
    assert!(accepted >= LENGTH, "{accepted} accepted");
    world.reaches_ready(&queue, accepted as u64).await;
    for result in results.into_iter().flatten() {
        if let Err(error) = result {
            assert!(
                matches!(error, BrokerError::NotAccepted { .. }),
                "{error:?}"
            );
        }
    }
}

/// After reopening, too, a queue of other bounds is another queue.
pub(super) async fn bounds_are_kept(world: &mut World) {
    let bounded = |queue: Queue| {
        queue
            .single_active()
            .expires_after(Duration::from_secs(600))
            .length_max(1)
    };
    let queue = declare(world, "q", bounded).await;
    world.publish("", &queue, "0").await.unwrap();
    world.reopen().await;
    declare(world, "q", bounded).await;
    let others = [
        Queue::plain(queue.clone()),
        Queue {
            single_active: false,
            ..bounded(Queue::plain(queue.clone()))
        },
        bounded(Queue::plain(queue.clone())).expires_after(Duration::from_secs(601)),
        bounded(Queue::plain(queue.clone())).length_max(2),
    ];
    for other in others {
        let topology = Topology {
            queues: vec![other],
            ..Topology::default()
        };
        let result = world.try_declare(&topology).await;
        assert!(
            matches!(result, Err(BrokerError::Mismatch { .. })),
            "{result:?}"
        );
    }
    let refused = poll_refused(world, &queue).await;
    assert!(
        matches!(refused, BrokerError::NotAccepted { .. }),
        "{refused:?}"
    );
}

/// The error of the first message that the queue does not take.
async fn poll_refused(world: &World, queue: &str) -> BrokerError {
    for _ in 0..SLACK {
        if let Err(error) = world.publish("", queue, "more").await {
            return error;
        }
    }
    panic!("the queue took {SLACK} more");
}
