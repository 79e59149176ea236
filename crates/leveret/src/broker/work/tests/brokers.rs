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
    what_follows_is_published(broker).await;
    headers_of_others_survive(broker).await;
    what_ends_its_process_is_buried(broker).await;
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
    let script = |_: &str, attempt| {
        if attempt < 3 {
            again()
        } else {
            Verdict::done()
        }
    };
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

async fn what_follows_is_published(broker: &Arc<dyn Broker>) {
    let mut options = options_of("follows");
    let out = format!("{}.out", options.queue);
    options.publishes_to.queues = vec![Queue::plain(out.as_str())];
    let metrics = options.metrics.clone();
    let to = out.clone();
    let script = move |body: &str, _| {
        let publish = vec![Publication::to_queue(
            to.as_str(),
            Message::json(body.to_owned()),
        )];
        match body {
            "a" => Verdict::Done { publish },
            _ => Verdict::Repeated { publish },
        }
    };
    let world = World::over(broker.clone(), options.clone(), script).await;
    // Somebody deletes it: it is declared again, and nothing is lost or doubled.
    broker.delete_queue(&out).await.unwrap();
    world.publish("a").await;
    let declared = async {
        let mut looks = tokio::time::interval(Duration::from_millis(10));
        while broker.queue_stats(&out).await.is_err() {
            looks.tick().await;
        }
    };
    assert!(timeout(PATIENCE, declared).await.is_ok(), "it stays away");
    let first = take(&**broker, &out).await;
    assert_eq!(first.message.body, "a");
    first.receipt.ack();
    world.publish("b").await;
    let second = take(&**broker, &out).await;
    assert_eq!(second.message.body, "b");
    second.receipt.ack();
    world.end().await;
    assert_eq!((metrics.handled.get(), metrics.duplicates.get()), (2, 1));
    assert_eq!(metrics.duration_us.count(), 2);
    remove(&**broker, &options).await;
}

async fn headers_of_others_survive(broker: &Arc<dyn Broker>) {
    let options = options_of("headers");
    let mut world = World::over(broker.clone(), options.clone(), |_, _| again()).await;
    let nested = Header::Table(
        [
            ("when".to_owned(), Header::Seconds(1_795_141_463)),
            ("list".to_owned(), Header::List(vec![Header::Void])),
        ]
        .into(),
    );
    let foreign = [
        ("ratio", Header::Double(0.1)),
        ("small", Header::Float(1.5)),
        ("price", Header::Decimal { scale: 2, value: 5 }),
        ("raw", Header::Bytes(vec![0, 0xff])),
        ("odd", Header::Octets(vec![0xc3])),
        ("nested", nested),
    ]
    .map(|(name, header)| (name.to_owned(), header));
    let message = Message {
        headers: foreign.clone().into(),
        ..Message::json("1")
    };
    let published = broker.publish(vec![Publication::to_queue(options.queue.clone(), message)]);
    published.await.remove(0).unwrap();
    let letter = world.dead().await;
    for (name, header) in &foreign {
        assert_eq!(letter.message.headers.get(name), Some(header), "{name}");
    }
    letter.receipt.ack();
    for attempt in 1..=3 {
        assert_eq!(world.attempt().await, attempt);
    }
    world.end().await;
    remove(&**broker, &options).await;
}

/// Never returns from one message.
struct Deadly {
    entered: mpsc::UnboundedSender<()>,
    handled: Arc<Mutex<Vec<String>>>,
}

#[async_trait]
impl Handler for Deadly {
    async fn handle(&self, delivery: &Delivery, _: u32) -> Verdict {
        let body = String::from_utf8_lossy(&delivery.message.body).into_owned();
        if body == "killer" {
            let _ = self.entered.send(());
            std::future::pending::<()>().await;
        }
        self.handled.lock().unwrap().push(body);
        Verdict::done()
    }
}

/// Those that were read beside it are handled in the end, and none of them is buried.
async fn what_ends_its_process_is_buried(broker: &Arc<dyn Broker>) {
    let options = options_of("deaths");
    let handled = Arc::new(Mutex::new(Vec::new()));
    broker.declare(&options.topology()).await.unwrap();
    for body in ["killer", "a", "b", "c"] {
        publish(&**broker, &options.queue, body).await;
    }
    let deadly = |entered| Deadly {
        entered,
        handled: handled.clone(),
    };
    for death in 1..=5 {
        let (sender, mut entered) = mpsc::unbounded_channel();
        let (stop, serving) = start(broker, options.clone(), deadly(sender)).await;
        let begun = timeout(PATIENCE, entered.recv()).await;
        assert!(begun.is_ok(), "it was not handled before death {death}");
        serving.abort();
        assert!(serving.await.unwrap_err().is_cancelled());
        drop(stop);
    }
    let (sender, mut entered) = mpsc::unbounded_channel();
    let (stop, serving) = start(broker, options.clone(), deadly(sender)).await;
    let letter = take(&**broker, &dead_letter_queue_name(&options.queue)).await;
    assert_eq!(letter.message.body, "killer");
    let reason = text(&letter, HEADER_REASON);
    assert!(reason.starts_with("it was delivered 5 times"), "{reason}");
    assert_eq!(text(&letter, HEADER_ROUTING_KEY), &*options.queue);
    letter.receipt.ack();
    assert!(entered.try_recv().is_err(), "it was handled once more");
    let all = async {
        let mut looks = tokio::time::interval(Duration::from_millis(10));
        while handled.lock().unwrap().len() < 3 {
            looks.tick().await;
        }
    };
    assert!(timeout(PATIENCE, all).await.is_ok(), "not all were handled");
    stop.send(()).unwrap();
    timeout(PATIENCE, serving).await.unwrap().unwrap().unwrap();
    let mut handled = handled.lock().unwrap().clone();
    handled.sort();
    assert_eq!(handled, ["a", "b", "c"]);
    for queue in options.topology().queues {
        let stats = broker.queue_stats(&queue.name).await.unwrap();
        assert_eq!(stats.ready, 0, "in {}", queue.name);
    }
    remove(&**broker, &options).await;
}
