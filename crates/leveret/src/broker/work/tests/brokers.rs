//! Retries, dead letters and the end, over each broker.

use super::*;
use crate::broker::memory::MemoryBroker;

#[tokio::test]
async fn in_memory() {
    exercise(&(Arc::new(MemoryBroker::new()) as Arc<dyn Broker>)).await;
}

#[tokio::test]
async fn embedded() {
    use crate::{broker::embedded::EmbeddedBroker, sqlite::tests::TempPath};

    let path = TempPath::new();
    let database = path.open();
    let broker: Arc<dyn Broker> = Arc::new(EmbeddedBroker::open(database.clone()).unwrap());
    exercise(&broker).await;
    broker.close().await;
    database.close().await;
}

#[cfg(feature = "rabbitmq")]
#[tokio::test(flavor = "multi_thread")]
async fn rabbitmq() {
    use crate::broker::rabbitmq::{RabbitMq, RabbitMqOptions};

    let Ok(url) = std::env::var("LEVERET_TEST_AMQP_URL") else {
        println!("skipped: LEVERET_TEST_AMQP_URL is not set");
        return;
    };
    let broker = RabbitMq::connect(RabbitMqOptions::new(url)).await.unwrap();
    let broker: Arc<dyn Broker> = Arc::new(broker);
    exercise(&broker).await;
    broker.close().await;
}

async fn exercise(broker: &Arc<dyn Broker>) {
    retries_then_succeeds(broker).await;
    retries_are_used_up(broker).await;
    what_does_not_finish_in_time_returns(broker).await;
}

/// A queue of this test run alone: others may share the broker.
fn options_of(case: &str) -> WorkOptions {
    let queue = format!("leveret-test.work.{case}.{:016x}", fastrand::u64(..));
    WorkOptions {
        queue: queue.into(),
        ..options()
    }
}

async fn remove(broker: &dyn Broker, options: &WorkOptions) {
    for queue in options.topology().queues {
        broker.delete_queue(&queue.name).await.unwrap();
    }
}

async fn retries_then_succeeds(broker: &Arc<dyn Broker>) {
    let options = options_of("retries");
    let script = |_: &str, attempt| if attempt < 3 { again() } else { Verdict::Done };
    let mut world = World::over(broker.clone(), options.clone(), script).await;
    world.publish("a").await;
    for attempt in 1..=3 {
        assert_eq!(world.attempt().await, attempt);
    }
    world.end().await;
    for queue in options.topology().queues {
        let stats = broker.queue_stats(&queue.name).await.unwrap();
        assert_eq!(stats.ready, 0, "in {}", queue.name);
    }
    remove(&**broker, &options).await;
}

async fn retries_are_used_up(broker: &Arc<dyn Broker>) {
    let options = options_of("used-up");
    let queue = &*options.queue;
    let mut world = World::over(broker.clone(), options.clone(), |_, _| again()).await;
    world.publish("a").await;
    let letter = world.dead().await;
    for attempt in 1..=3 {
        assert_eq!(world.attempt().await, attempt);
    }
    assert_eq!(letter.message.body, "a");
    assert_eq!(letter.message.message_id.as_deref(), Some("a"));
    assert_eq!(
        letter.message.headers.get(HEADER_ATTEMPTS),
        Some(&Header::Int(3))
    );
    assert_eq!(text(&letter, HEADER_REASON), "not yet");
    assert_eq!(text(&letter, HEADER_QUEUE), queue);
    assert_eq!(text(&letter, HEADER_EXCHANGE), "");
    assert_eq!(text(&letter, HEADER_ROUTING_KEY), queue);
    assert_eq!(text(&letter, HEADER_DEAD_AT), "2026-11-20T02:24:23.755Z");
    letter.receipt.ack();
    world.end().await;
    remove(&**broker, &options).await;
}

async fn what_does_not_finish_in_time_returns(broker: &Arc<dyn Broker>) {
    let (entered, mut entries) = mpsc::unbounded_channel();
    let gate = Arc::new(tokio::sync::Semaphore::new(0));
    let options = WorkOptions {
        drain_timeout: Duration::from_millis(10),
        ..options_of("end")
    };
    let (stop, serving) = start(broker, options.clone(), Held { entered, gate }).await;
    publish(&**broker, &options.queue, "slow").await;
    let begun = timeout(PATIENCE, entries.recv()).await.unwrap();
    assert_eq!(begun.as_deref(), Some("slow"));
    stop.send(()).unwrap();
    timeout(PATIENCE, serving).await.unwrap().unwrap().unwrap();
    let again = take(&**broker, &options.queue).await;
    assert_eq!(again.message.body, "slow");
    assert!(again.redelivered);
    assert_eq!(attempts(&again.message), 0, "no attempt is counted");
    again.receipt.ack();
    remove(&**broker, &options).await;
}
