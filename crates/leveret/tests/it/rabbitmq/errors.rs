//! What the seam's errors are with this adapter, beyond conformance.

use leveret::broker::{
    Broker, BrokerError, Header, Message, Publication,
    rabbitmq::{RabbitMq, RabbitMqOptions},
};

use super::{connect, declare_queue, to, url};

#[tokio::test]
async fn tells_the_version() {
    let Some(url) = url() else { return };
    let broker = connect(&url).await;
    let version = broker.server_version().await.unwrap();
    let major = version.split('.').next().unwrap();
    assert!(
        major.parse::<u32>().is_ok_and(|major| major >= 3),
        "{version}"
    );
    broker.close().await;
    assert!(matches!(
        broker.server_version().await,
        Err(BrokerError::Closed)
    ));
}

#[tokio::test]
async fn a_wrong_password_is_refused_and_not_told() {
    let Some(url) = url() else { return };
    let (_, rest) = url
        .rsplit_once('@')
        .unwrap_or_else(|| url.split_once("://").unwrap());
    let wrong = format!("amqp://guest:hunter2@{rest}");
    let options = RabbitMqOptions::new(wrong);
    assert!(!format!("{options:?}").contains("hunter2"));
    let error = RabbitMq::connect(options).await.unwrap_err();
    assert!(matches!(error, BrokerError::Refused { .. }), "{error:?}");
    assert!(!format!("{error:?}").contains("hunter2"), "{error:?}");
}

#[tokio::test]
async fn nobody_listens() {
    let error = RabbitMq::connect(RabbitMqOptions::new("amqp://127.0.0.1:1"))
        .await
        .unwrap_err();
    assert!(error.is_retryable(), "{error:?}");
}

/// A message that cannot be sent fails alone.
#[tokio::test]
async fn too_large_and_too_long_fail_alone() {
    let Some(url) = url() else { return };
    let mut options = RabbitMqOptions::new(url);
    options.message_bytes_max = 1000;
    let broker = RabbitMq::connect(options).await.unwrap();
    let queue = declare_queue(&broker, "limits").await;
    let long = Publication::to_queue("q".repeat(300), Message::json("1"));
    let batch = vec![
        to(&queue, "1"),
        to(&queue, "x".repeat(1001)),
        long,
        to(&queue, "2"),
    ];
    let results = broker.publish(batch).await;
    assert!(results[0].is_ok() && results[3].is_ok(), "{results:?}");
    let too_large = |error: &BrokerError| {
        matches!(
            error,
            BrokerError::TooLarge {
                size_bytes: 1001,
                ..
            }
        )
    };
    assert!(results[1].as_ref().is_err_and(too_large), "{results:?}");
    assert!(
        matches!(results[2], Err(BrokerError::Invalid { .. })),
        "{results:?}"
    );
    broker.delete_queue(&queue).await.unwrap();
    broker.close().await;
}

/// Unroutable messages are found among hundreds that look alike, whatever the order of the confirms.
#[tokio::test(flavor = "multi_thread")]
async fn exactly_the_unroutable_are_unroutable() {
    let Some(url) = url() else { return };
    let broker = connect(&url).await;
    let queue = declare_queue(&broker, "returns").await;
    let missing = "leveret-test.nobody".into();
    for _ in 0..10 {
        let batches = (0..6).map(|publisher| {
            let batch = (0..100).map(|number| match (number + publisher) % 7 {
                0 => to(&missing, format!("{publisher}/{number}")),
                _ => to(&queue, format!("{publisher}/{number}")),
            });
            broker.publish(batch.collect())
        });
        for (publisher, results) in futures_util::future::join_all(batches)
            .await
            .iter()
            .enumerate()
        {
            for (number, result) in results.iter().enumerate() {
                match result {
                    Ok(()) => assert_ne!((number + publisher) % 7, 0),
                    Err(BrokerError::Unroutable { .. }) => assert_eq!((number + publisher) % 7, 0),
                    Err(other) => panic!("{other:?}"),
                }
            }
        }
    }
    broker.delete_queue(&queue).await.unwrap();
    broker.close().await;
}

/// The broker closes the channel over it; only that message is to blame.
#[tokio::test]
async fn a_missing_exchange_is_not_found() {
    let Some(url) = url() else { return };
    let broker = connect(&url).await;
    let queue = declare_queue(&broker, "exchange").await;
    let lost = Publication {
        exchange: "leveret-test.missing".into(),
        routing_key: "k".into(),
        message: Message::json("1"),
        copied: false,
    };
    let results = broker
        .publish(vec![to(&queue, "1"), lost, to(&queue, "2")])
        .await;
    match &results[1] {
        Err(BrokerError::NotFound { what }) => {
            assert!(what.contains("leveret-test.missing"), "{what}");
        }
        other => panic!("{other:?}"),
    }
    for other in [&results[0], &results[2]] {
        assert!(
            other.as_ref().is_ok() || other.as_ref().is_err_and(BrokerError::is_retryable),
            "{other:?}"
        );
    }
    broker
        .publish(vec![to(&queue, "3")])
        .await
        .remove(0)
        .unwrap();
    broker.delete_queue(&queue).await.unwrap();
    broker.close().await;
}

/// The broker closes the channel and does not say over which message: that one fails for good, alone or among others.
#[tokio::test]
async fn a_message_that_the_broker_refuses_fails_alone() {
    let Some(url) = url() else { return };
    let broker = connect(&url).await;
    let queue = declare_queue(&broker, "refused").await;
    let mut refused = to(&queue, "2");
    let text = Header::Text("no list".to_owned());
    refused.message.headers.insert("CC".to_owned(), text);
    for batch in [
        vec![refused.clone()],
        vec![to(&queue, "1"), refused, to(&queue, "3")],
    ] {
        for (sent, result) in batch.iter().zip(broker.publish(batch.clone()).await) {
            match result {
                Ok(()) => assert!(sent.message.headers.is_empty()),
                Err(BrokerError::Invalid { .. }) => assert!(!sent.message.headers.is_empty()),
                Err(other) => panic!("{other:?}"),
            }
        }
    }
    broker.delete_queue(&queue).await.unwrap();
    broker.close().await;
}

/// RabbitMQ cuts its words at 255 bytes, here in the middle of a character, which the client library cannot read.
#[tokio::test]
async fn words_of_the_broker_that_are_cut_end_no_connection() {
    let Some(url) = url() else { return };
    let broker = connect(&url).await;
    let queue = declare_queue(&broker, "cut").await;
    let long = format!("x{}", "ö".repeat(126));
    let error = broker.queue_stats(&long).await.unwrap_err();
    assert!(matches!(error, BrokerError::NotFound { .. }), "{error:?}");
    assert!(broker.is_connected());
    broker.delete_queue(&queue).await.unwrap();
    broker.close().await;
}
