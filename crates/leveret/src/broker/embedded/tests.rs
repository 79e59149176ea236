use std::sync::Mutex;

use super::*;
use crate::{
    broker::{Delivery, Message, Queue, conformance},
    sqlite::tests::TempPath,
};

#[tokio::test]
async fn conforms() {
    let path = Arc::new(TempPath::new());
    let last: Arc<Mutex<Option<Database>>> = Arc::default();
    let open = move || {
        let (path, last) = (path.clone(), last.clone());
        async move {
            let before = last.lock().unwrap().take();
            if let Some(database) = before {
                database.close().await;
            }
            let database = path.open();
            *last.lock().unwrap() = Some(database.clone());
            Arc::new(EmbeddedBroker::open(database).unwrap()) as Arc<dyn Broker>
        }
    };
    conformance::exercise(open).await;
}

async fn with_queue(path: &TempPath) -> (Database, EmbeddedBroker) {
    let database = path.open();
    let broker = EmbeddedBroker::open(database.clone()).unwrap();
    let topology = Topology {
        queues: vec![Queue::plain("q")],
        ..Topology::default()
    };
    broker.declare(&topology).await.unwrap();
    (database, broker)
}

async fn fill(broker: &EmbeddedBroker, numbers: std::ops::Range<u64>) {
    let message = |number: u64| Message::json(number.to_string());
    let batch = numbers.map(|number| Publication::to_queue("q", message(number)));
    for result in broker.publish(batch.collect()).await {
        result.unwrap();
    }
}

async fn consume(broker: &EmbeddedBroker, prefetch: u16) -> Consumer {
    let options = ConsumeOptions {
        prefetch,
        ..ConsumeOptions::queue("q")
    };
    broker.consume(options).await.unwrap()
}

fn number(delivery: &Delivery) -> u64 {
    std::str::from_utf8(&delivery.message.body)
        .unwrap()
        .parse()
        .unwrap()
}

/// More messages than the window holds come in order, from this session and from the one before, while more arrive.
#[tokio::test]
async fn pages_from_disk_in_order() {
    let path = TempPath::new();
    let (database, broker) = with_queue(&path).await;
    for batch in 0..5 {
        fill(&broker, batch * 1000..batch * 1000 + 1000).await;
    }
    let mut consumer = consume(&broker, 100).await;
    for expect in 0..2500 {
        let delivery = consumer.next().await.unwrap();
        assert_eq!((number(&delivery), delivery.redelivered), (expect, false));
        delivery.receipt.ack();
        if expect == 2000 {
            fill(&broker, 5000..5100).await;
        }
    }
    broker.close().await;
    database.close().await;

    let (database, broker) = with_queue(&path).await;
    assert_eq!(broker.queue_stats("q").await.unwrap().ready, 2600);
    let mut consumer = consume(&broker, 100).await;
    fill(&broker, 5100..5200).await;
    for expect in 2500..5200 {
        let delivery = consumer.next().await.unwrap();
        // Those that were with the first consumer when it was closed, and none else.
        let seen = expect < 2600;
        assert_eq!((number(&delivery), delivery.redelivered), (expect, seen));
        delivery.receipt.ack();
    }
    assert_eq!(broker.queue_stats("q").await.unwrap().ready, 0);
    broker.close().await;
    database.close().await;
}

/// A message that its publisher holds goes to nobody else, and comes again with its mark after a crash.
#[tokio::test]
async fn a_publisher_may_hold_its_message() {
    let path = TempPath::new();
    let (database, broker) = with_queue(&path).await;
    // Nothing is allowed to be delivered yet, so that the first one goes to the consumer.
    let mut consumer = consume(&broker, 1).await;
    let publish = async |number: u64| {
        let message = Publication::to_queue("q", Message::json(number.to_string()));
        let written = broker.publish_with(vec![message], |_| Ok(((), true)), true);
        written.unwrap().await.unwrap().unwrap().1
    };
    let first = match publish(0).await.pop() {
        Some(delivery) => delivery,
        None => consumer.next().await.unwrap(),
    };
    let acked = publish(1).await.pop().unwrap();
    let returned = publish(2).await.pop().unwrap();
    let kept = publish(3).await.pop().unwrap();
    assert_eq!((number(&acked), acked.redelivered), (1, false));
    first.receipt.ack();
    acked.receipt.ack();
    returned.receipt.requeue();
    let again = consumer.next().await.unwrap();
    assert_eq!((number(&again), again.redelivered), (2, true));
    assert!(
        publish(4).await.pop().is_some(),
        "nothing is in front of it"
    );
    again.receipt.requeue();
    let again = consumer.next().await.unwrap();
    fill(&broker, 5..6).await;
    assert!(publish(6).await.is_empty(), "5 is");
    // The file is taken away under the broker, as by a crash.
    database.close().await;
    drop((again, kept));

    let (database, broker) = with_queue(&path).await;
    let mut consumer = consume(&broker, 10).await;
    for expect in 2..7 {
        let delivery = consumer.next().await.unwrap();
        assert_eq!((number(&delivery), delivery.redelivered), (expect, true));
        delivery.receipt.ack();
    }
    broker.close().await;
    database.close().await;
}

/// Without a close, as after a crash, what was delivered is marked, and at most the reserve more.
#[tokio::test]
async fn marks_what_was_delivered_before_a_crash() {
    let path = TempPath::new();
    let (database, broker) = with_queue(&path).await;
    fill(&broker, 0..3000).await;
    let mut consumer = consume(&broker, 50).await;
    let mut held = Vec::new();
    while held.len() < 50 {
        held.push(consumer.next().await.unwrap());
    }
    // The file is taken away under the broker, which therefore writes nothing more.
    database.close().await;

    let (database, again) = with_queue(&path).await;
    let mut consumer = consume(&again, 3000).await;
    for expect in 0..3000 {
        let delivery = consumer.next().await.unwrap();
        assert_eq!(number(&delivery), expect);
        if expect < 50 {
            assert!(delivery.redelivered);
        }
        if expect > 50 + RESERVE {
            assert!(!delivery.redelivered);
        }
        delivery.receipt.ack();
    }
    again.close().await;
    database.close().await;
    drop(held);
    drop(broker);
}

/// An error, and nothing else of the batch is held up by it.
#[tokio::test]
async fn refuses_what_is_too_large() {
    let path = TempPath::new();
    let (database, broker) = with_queue(&path).await;
    let large = Message::json(vec![b' '; MESSAGE_BYTES_MAX + 1]);
    let batch = vec![
        Publication::to_queue("q", large),
        Publication::to_queue("q", Message::json("1")),
    ];
    let results = broker.publish(batch).await;
    assert!(matches!(results[0], Err(BrokerError::TooLarge { .. })));
    assert!(results[1].is_ok());
    broker.close().await;
    database.close().await;
}

/// Bodies of ready messages beyond the window are not held in memory, whatever their size.
#[tokio::test]
async fn large_messages_are_paged_by_bytes() {
    let path = TempPath::new();
    let (database, broker) = with_queue(&path).await;
    let body = bytes::Bytes::from(vec![7; WINDOW_BYTES / 2 + 1]);
    let message = Message {
        body: body.clone(),
        ..Message::default()
    };
    for _ in 0..8 {
        let batch = vec![Publication::to_queue("q", message.clone())];
        broker.publish(batch).await[0].clone().unwrap();
    }
    let mut consumer = consume(&broker, 3).await;
    for _ in 0..8 {
        let delivery = consumer.next().await.unwrap();
        assert!(delivery.message.body == body);
        delivery.receipt.ack();
    }
    broker.close().await;
    database.close().await;
}

/// A write or a read that fails, as when the disk is full, delays what waits for it and does not hold it for good.
#[tokio::test]
async fn goes_on_after_what_failed() {
    let breaks = [
        (
            "CREATE TRIGGER full BEFORE UPDATE ON broker_queues BEGIN SELECT RAISE(ABORT, 'the disk is full'); END",
            "DROP TRIGGER full",
        ),
        (
            "ALTER TABLE broker_messages RENAME TO away",
            "ALTER TABLE away RENAME TO broker_messages",
        ),
    ];
    for (fail, mend) in breaks {
        let path = TempPath::new();
        let (database, broker) = with_queue(&path).await;
        fill(&broker, 0..1).await;
        broker.close().await;
        database.close().await;
        let (database, broker) = with_queue(&path).await;
        let execute =
            |sql: &'static str| database.write(move |session| Ok(session.execute_batch(sql)?));
        execute(fail).await.unwrap();
        let mut consumer = consume(&broker, 1).await;
        // Runs after what the consumer asked for, which has failed.
        execute(mend).await.unwrap();
        let delivery = consumer.next();
        let delivery = tokio::time::timeout(std::time::Duration::from_secs(20), delivery).await;
        delivery.expect(fail).unwrap().receipt.ack();
        broker.close().await;
        database.close().await;
    }
}
