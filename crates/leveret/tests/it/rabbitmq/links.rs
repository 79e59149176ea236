//! What becomes of connections: those whose channel numbers run out, and those whose owner is gone.

use std::{sync::Arc, time::Duration};

use leveret::broker::{
    Broker, BrokerError, ConsumeOptions, Publication,
    rabbitmq::{RabbitMq, RabbitMqOptions},
};
use tokio::{
    io::AsyncReadExt,
    net::{TcpListener, TcpStream},
    sync::watch,
    time::timeout,
};

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

/// Waits for the end of a connection.
async fn ends(mut peer: TcpStream) {
    let mut received = Vec::new();
    let end = timeout(PATIENCE, peer.read_to_end(&mut received)).await;
    assert!(end.is_ok(), "the connection stays open");
}

/// Nobody answers, and whoever connects gives up. The connection ends with that.
#[tokio::test]
async fn a_connection_ends_with_who_opens_it() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("amqp://{}/", listener.local_addr().unwrap());
    let mut options = RabbitMqOptions::new(url);
    options.connect_timeout = 2 * PATIENCE;
    let peer = tokio::select! {
        connected = RabbitMq::connect(options) => panic!("{connected:?}"),
        accepted = listener.accept() => accepted.unwrap().0,
    };
    ends(peer).await;
}

/// A broker that is closed while another connection is opened, and while that gets its topology.
#[tokio::test(flavor = "multi_thread")]
async fn a_connection_on_its_way_ends_with_the_broker() {
    let Some(url) = url() else { return };
    for drops in [false, true] {
        let (proxy, through) = Proxy::start(&url).await;
        let mut options = RabbitMqOptions::new(through);
        options.heartbeat = 10 * PATIENCE;
        let broker = RabbitMq::connect(options).await.unwrap();
        let queue = declare_queue(&broker, "restored").await;
        proxy.hold_declarations();
        proxy.cut();
        reaches(proxy.held_declarations(), 1).await;
        assert_eq!((proxy.opened(), *proxy.ended().borrow()), (2, 1));
        if drops {
            drop(broker);
        } else {
            broker.close().await;
        }
        reaches(proxy.ended(), 2).await;
        super::connect(&url)
            .await
            .delete_queue(&queue)
            .await
            .unwrap();
    }
}

/// A message that is not confirmed in time while others are on their way. Its channel must not be closed before they are gone: that would cost
/// the connection.
#[tokio::test(flavor = "multi_thread")]
async fn a_late_confirm_costs_no_connection() {
    let Some(url) = url() else { return };
    let (proxy, through) = Proxy::start(&url).await;
    let mut options = RabbitMqOptions::new(through);
    options.confirm_timeout = Duration::from_millis(100);
    options.heartbeat = 2 * PATIENCE;
    let broker = RabbitMq::connect(options).await.unwrap();
    let queue = declare_queue(&broker, "late").await;
    let mut results = broker.publish(vec![to(&queue, "before")]).await;
    results.remove(0).unwrap();
    proxy.hold();
    // More than the sockets' buffers take.
    let batch = (0..4).map(|_| to(&queue, "x".repeat(8 << 20))).collect();
    for result in broker.publish(batch).await {
        assert!(
            matches!(result, Err(BrokerError::Unavailable { .. })),
            "{result:?}"
        );
    }
    proxy.restore();
    let works = async {
        while let Err(error) = broker.publish(vec![to(&queue, "after")]).await.remove(0) {
            assert!(error.is_retryable(), "{error:?}");
        }
    };
    timeout(PATIENCE, works).await.unwrap();
    assert_eq!(proxy.opened(), 1);
    broker.delete_queue(&queue).await.unwrap();
    broker.close().await;
}
