//! What becomes of connections: those whose channel numbers run out, and those whose owner is gone.

use std::sync::Arc;

use leveret::broker::{
    Broker, BrokerError, ConsumeOptions, Publication,
    rabbitmq::{RabbitMq, RabbitMqOptions},
};
use tokio::{sync::watch, time::timeout};

use super::{PATIENCE, body, declare_queue, proxy::Proxy, to, url};

/// Few, so that they soon come round.
const CHANNELS: u32 = 20;

/// A broker with few channels, through a proxy.
async fn with_few_channels(url: &str) -> (RabbitMq, Proxy) {
    let (proxy, through) = Proxy::start(url).await;
    let options = RabbitMqOptions::new(format!("{through}?channel_max={CHANNELS}"));
    (RabbitMq::connect(options).await.unwrap(), proxy)
}

/// The broker closes the channel over it.
fn refused(queue: &Arc<str>) -> Publication {
    Publication {
        exchange: "leveret-test.missing".into(),
        ..to(queue, "refused")
    }
}

async fn reaches(mut count: watch::Receiver<usize>, wanted: usize) {
    let reached = timeout(PATIENCE, count.wait_for(|count| *count == wanted)).await;
    let reached = reached.map(|_| ());
    assert!(reached.is_ok(), "it stays at {}", *count.borrow());
}

/// The client's library fails to open a channel with the number of one that the broker closed, with the error of that one.
#[tokio::test]
async fn a_closed_channel_is_no_error_of_another_one() {
    let Some(url) = url() else { return };
    let (broker, proxy) = with_few_channels(&url).await;
    let queue = declare_queue(&broker, "numbers").await;
    for _ in 0..3 {
        let missing = broker.queue_stats("leveret-test.missing").await;
        assert!(
            matches!(missing, Err(BrokerError::NotFound { .. })),
            "{missing:?}"
        );
    }
    for _ in 0..3 * CHANNELS {
        broker.queue_stats(&queue).await.unwrap();
    }
    assert_eq!(proxy.opened(), 1);
    broker.delete_queue(&queue).await.unwrap();
    broker.close().await;
}

/// Half of the numbers are gone: another connection takes over, and nobody notices. The first one ends when nobody works with it any more.
#[tokio::test]
async fn a_worn_connection_is_replaced() {
    let Some(url) = url() else { return };
    let (broker, proxy) = with_few_channels(&url).await;
    let queue = declare_queue(&broker, "worn").await;
    let consume = ConsumeOptions::queue(queue.clone());
    let mut consumer = broker.consume(consume).await.unwrap();
    for round in 0..CHANNELS / 2 {
        assert_eq!(proxy.opened(), 2);
        let results = broker.publish(vec![refused(&queue)]).await;
        assert!(
            matches!(results[0], Err(BrokerError::NotFound { .. })),
            "{results:?}"
        );
        let mut results = broker.publish(vec![to(&queue, round.to_string())]).await;
        results.remove(0).unwrap();
    }
    reaches(proxy.ended(), 1).await;
    assert_eq!(proxy.opened(), 3);
    let mut results = broker.publish(vec![to(&queue, "last")]).await;
    results.remove(0).unwrap();
    for round in 0..CHANNELS / 2 {
        let delivery = timeout(PATIENCE, consumer.next()).await.unwrap().unwrap();
        assert_eq!(body(&delivery), round.to_string());
        delivery.receipt.ack();
    }
    assert_eq!(proxy.opened(), 3);
    broker.delete_queue(&queue).await.unwrap();
    broker.close().await;
}

/// Faster than connections can be replaced: what fails may be tried again, and it works again by itself.
#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_refused_messages_passes() {
    let Some(url) = url() else { return };
    let (broker, proxy) = with_few_channels(&url).await;
    let queue = declare_queue(&broker, "flood").await;
    for _ in 0..5 * CHANNELS {
        drop(broker.publish(vec![refused(&queue)]).await);
        if let Err(error) = broker.publish(vec![to(&queue, "good")]).await.remove(0) {
            assert!(error.is_retryable(), "{error:?}");
        }
    }
    let works = async {
        while let Err(error) = broker.publish(vec![to(&queue, "good")]).await.remove(0) {
            assert!(error.is_retryable(), "{error:?}");
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, works).await.unwrap();
    assert!(proxy.opened() > 1);
    broker.delete_queue(&queue).await.unwrap();
    broker.close().await;
}
