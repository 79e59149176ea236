//! The connection is cut, refused and stalled, and queues vanish, while messages are published and consumed: everything confirmed
//! is consumed at least once, and consumers come back by themselves.

use std::{collections::HashSet, sync::Arc, time::Duration};

use leveret::broker::{
    Broker, BrokerError, ConsumeOptions, Consumer, ConsumerState,
    rabbitmq::{RabbitMq, RabbitMqOptions},
};
use tokio::{sync::watch, time::timeout};

use super::{PATIENCE, body, connect, declare_queue, proxy::Proxy, to, url};

/// Impatient, so that the tests are quick.
fn options(url: &str) -> RabbitMqOptions {
    let mut options = RabbitMqOptions::new(url);
    options.heartbeat = Duration::from_secs(1);
    options.connect_timeout = Duration::from_secs(2);
    options.outage_wait = Duration::from_secs(2);
    options.watchdog_interval = Duration::from_millis(100);
    options
}

async fn reaches(state: &mut watch::Receiver<ConsumerState>, wanted: ConsumerState) {
    let reached = timeout(PATIENCE, state.wait_for(|state| *state == wanted)).await;
    assert!(
        matches!(reached, Ok(Ok(_))),
        "the consumer reaches {wanted:?}"
    );
}

/// Consumes and acks until the task is aborted; what it saw is in the set.
fn collect(mut consumer: Consumer) -> watch::Receiver<HashSet<String>> {
    let (seen, receiver) = watch::channel(HashSet::new());
    tokio::spawn(async move {
        while let Some(delivery) = consumer.next().await {
            seen.send_modify(|seen| {
                seen.insert(body(&delivery));
            });
            delivery.receipt.ack();
        }
    });
    receiver
}

/// Publishes numbered messages until told to stop; those that were confirmed, in the end.
async fn publish_until(
    broker: Arc<RabbitMq>,
    queue: Arc<str>,
    name: usize,
    stop: watch::Receiver<bool>,
) -> Vec<String> {
    let mut confirmed = Vec::new();
    let mut number = 0;
    while !*stop.borrow() {
        let bodies: Vec<String> = (number..number + 16)
            .map(|n| format!("{name}/{n}"))
            .collect();
        number += 16;
        let batch = bodies.iter().map(|body| to(&queue, body.clone())).collect();
        for (body, result) in bodies.into_iter().zip(broker.publish(batch).await) {
            match result {
                Ok(()) => confirmed.push(body),
                Err(error) => assert!(error.is_retryable(), "{error:?}"),
            }
        }
    }
    confirmed
}

/// Publishes a message, again while that fails for want of a connection.
async fn publish_at_last(broker: &RabbitMq, queue: &Arc<str>) {
    let published = async {
        while let Err(error) = broker.publish(vec![to(queue, "at last")]).await.remove(0) {
            assert!(error.is_retryable(), "{error:?}");
        }
    };
    timeout(PATIENCE, published).await.unwrap();
}

/// Cuts, refusals and a stall, each while the messages flow; the consumer goes lost and live again every time.
#[tokio::test(flavor = "multi_thread")]
async fn everything_confirmed_is_consumed() {
    let Some(url) = url() else { return };
    let (proxy, through) = Proxy::start(&url).await;
    let broker = Arc::new(RabbitMq::connect(options(&through)).await.unwrap());
    let queue = declare_queue(&*broker, "chaos").await;
    let consume = ConsumeOptions {
        prefetch: 50,
        ..ConsumeOptions::queue(queue.clone())
    };
    let consumer = broker.consume(consume).await.unwrap();
    let mut state = consumer.state();
    let mut seen = collect(consumer);
    let (stop, stopped) = watch::channel(false);
    let publishers: Vec<_> = (0..3)
        .map(|name| {
            tokio::spawn(publish_until(
                broker.clone(),
                queue.clone(),
                name,
                stopped.clone(),
            ))
        })
        .collect();

    let disturbances: [fn(&Proxy); 6] = [
        Proxy::cut,
        Proxy::refuse,
        Proxy::cut,
        Proxy::stall,
        Proxy::refuse,
        Proxy::cut,
    ];
    for (round, disturb) in disturbances.into_iter().enumerate() {
        // Something flows again.
        let before = seen.borrow().len();
        let flows = seen.wait_for(|seen| seen.len() > before + 200);
        timeout(PATIENCE, flows).await.unwrap().unwrap();
        disturb(&proxy);
        // After a mere cut it may be live again before anybody looks.
        if !matches!(round, 0 | 2 | 5) {
            reaches(&mut state, ConsumerState::Lost).await;
            proxy.restore();
        }
        reaches(&mut state, ConsumerState::Live).await;
    }
    stop.send_replace(true);
    let mut confirmed = Vec::new();
    for publisher in publishers {
        confirmed.extend(timeout(PATIENCE, publisher).await.unwrap().unwrap());
    }
    assert!(
        confirmed.len() > 1000,
        "only {} were confirmed",
        confirmed.len()
    );
    let all = seen.wait_for(|seen| confirmed.iter().all(|body| seen.contains(body)));
    let arrived = timeout(PATIENCE, all).await.is_ok();
    assert!(arrived, "some confirmed messages were not consumed");
    // Both connections may still be on their way back from the last cut.
    publish_at_last(&broker, &queue).await;
    let last = seen.wait_for(|seen| seen.contains("at last"));
    let back = timeout(PATIENCE, last).await.is_ok();
    assert!(back, "the consumer did not come back");
    assert!(broker.is_connected());
    broker.delete_queue(&queue).await.unwrap();
    broker.close().await;
}

/// While nobody can be reached, publishing fails within its bound, as retryable; afterwards it works.
#[tokio::test(flavor = "multi_thread")]
async fn publishing_in_an_outage_is_bounded() {
    let Some(url) = url() else { return };
    let (proxy, through) = Proxy::start(&url).await;
    let broker = RabbitMq::connect(options(&through)).await.unwrap();
    let queue = declare_queue(&broker, "outage").await;
    proxy.refuse();
    let result = timeout(
        Duration::from_secs(15),
        broker.publish(vec![to(&queue, "1")]),
    )
    .await;
    let result = result.expect("it is bounded").remove(0);
    assert!(
        matches!(result, Err(BrokerError::Unavailable { .. })),
        "{result:?}"
    );
    assert!(!broker.is_connected());
    proxy.restore();
    publish_at_last(&broker, &queue).await;
    broker.delete_queue(&queue).await.unwrap();
    broker.close().await;
}

/// The queue is deleted by somebody else: the broker cancels the consumer, which declares the queue again and comes back.
#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_queue_comes_back() {
    let Some(url) = url() else { return };
    let (broker, other) = (
        RabbitMq::connect(options(&url)).await.unwrap(),
        connect(&url).await,
    );
    let queue = declare_queue(&broker, "deleted").await;
    let mut consumer = broker
        .consume(ConsumeOptions::queue(queue.clone()))
        .await
        .unwrap();
    let mut state = consumer.state();
    other.delete_queue(&queue).await.unwrap();
    // It may be back before anybody sees that it was lost.
    let counted = async {
        while !matches!(other.queue_stats(&queue).await, Ok(counts) if counts.consumers == 1) {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, counted).await.unwrap();
    reaches(&mut state, ConsumerState::Live).await;
    other
        .publish(vec![to(&queue, "again")])
        .await
        .remove(0)
        .unwrap();
    let delivery = timeout(PATIENCE, consumer.next()).await.unwrap().unwrap();
    assert_eq!(body(&delivery), "again");
    delivery.receipt.ack();
    broker.delete_queue(&queue).await.unwrap();
    broker.close().await;
    other.close().await;
}

/// Receipts of a lost connection have no effect; their messages come again, marked.
#[tokio::test(flavor = "multi_thread")]
async fn old_receipts_are_void() {
    let Some(url) = url() else { return };
    let (proxy, through) = Proxy::start(&url).await;
    let broker = RabbitMq::connect(options(&through)).await.unwrap();
    let queue = declare_queue(&broker, "void").await;
    broker
        .publish(vec![to(&queue, "1")])
        .await
        .remove(0)
        .unwrap();
    let mut consumer = broker
        .consume(ConsumeOptions::queue(queue.clone()))
        .await
        .unwrap();
    let old = timeout(PATIENCE, consumer.next()).await.unwrap().unwrap();
    let mut state = consumer.state();
    proxy.refuse();
    reaches(&mut state, ConsumerState::Lost).await;
    proxy.restore();
    reaches(&mut state, ConsumerState::Live).await;
    let again = timeout(PATIENCE, consumer.next()).await.unwrap().unwrap();
    assert!(again.redelivered);
    old.receipt.ack();
    again.receipt.requeue();
    let third = timeout(PATIENCE, consumer.next()).await.unwrap().unwrap();
    assert_eq!(body(&third), "1");
    third.receipt.ack();
    broker.delete_queue(&queue).await.unwrap();
    broker.close().await;
}

/// A server that blocks its publishers answers nothing on their connection. They are told so, and the connection is there when it is over.
#[tokio::test(flavor = "multi_thread")]
async fn a_blocked_connection_is_kept() {
    let Some(url) = url() else { return };
    let (proxy, through) = Proxy::start(&url).await;
    let mut options = options(&through);
    options.heartbeat = PATIENCE;
    options.outage_wait = Duration::from_millis(100);
    let broker = RabbitMq::connect(options).await.unwrap();
    let queue = declare_queue(&broker, "blocked").await;
    publish_at_last(&broker, &queue).await;
    proxy.block();
    let error = broker.queue_stats(&queue).await.unwrap_err();
    assert!(
        matches!(error, BrokerError::NotAccepted { .. }),
        "{error:?}"
    );
    let result = broker.publish(vec![to(&queue, "2")]).await.remove(0);
    assert!(
        matches!(result, Err(BrokerError::NotAccepted { .. })),
        "{result:?}"
    );
    proxy.unblock();
    publish_at_last(&broker, &queue).await;
    assert_eq!(proxy.opened(), 1);
    broker.delete_queue(&queue).await.unwrap();
    broker.close().await;
}
