//! The same over each broker: looking changes nothing, a replay loses nothing, what stays keeps its order.

use std::{ops::Range, time::Duration};

use tokio::time::timeout;

use super::*;
use crate::broker::{
    ConsumeOptions, ConsumerState, Message, Queue, Topology,
    memory::MemoryBroker,
    work::{HEADER_EXCHANGE, HEADER_ROUTING_KEY},
};

const PATIENCE: Duration = Duration::from_secs(20);

#[tokio::test]
async fn in_memory() {
    exercise(&(Arc::new(MemoryBroker::new()) as Arc<dyn Broker>), true).await;
}

#[tokio::test]
async fn embedded() {
    use crate::{broker::embedded::EmbeddedBroker, sqlite::tests::TempPath};

    let path = TempPath::new();
    let database = path.open();
    let broker: Arc<dyn Broker> = Arc::new(EmbeddedBroker::open(database.clone()).unwrap());
    exercise(&broker, true).await;
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
    for (url, in_order) in [
        (url.clone(), true),
        (format!("{url}?queue_type=quorum"), false),
    ] {
        let broker = RabbitMq::connect(RabbitMqOptions::new(url)).await.unwrap();
        let broker: Arc<dyn Broker> = Arc::new(broker);
        exercise(&broker, in_order).await;
        broker.close().await;
    }
}

/// `in_order`: whether a queue puts back what returns where it was.
async fn exercise(broker: &Arc<dyn Broker>, in_order: bool) {
    looking_changes_nothing(broker, in_order).await;
    looking_ends(broker, in_order).await;
    replay_moves_letters_back(broker, in_order).await;
    a_replay_goes_as_far_as_it_can(broker, in_order).await;
    discard_takes_what_is_chosen(broker, in_order).await;
    nothing_is_found_where_nothing_is(broker, in_order).await;
}

/// A queue and its dead letters, of this test run alone.
struct World {
    broker: Arc<dyn Broker>,
    in_order: bool,
    queue: Arc<str>,
    dlq: Arc<str>,
}

impl World {
    async fn new(
        broker: &Arc<dyn Broker>,
        in_order: bool,
        bounds: impl Fn(Queue) -> Queue,
    ) -> World {
        let name = format!("leveret-test.dead.{:016x}", fastrand::u64(..));
        let (queue, dlq): (Arc<str>, Arc<str>) =
            (name.as_str().into(), dead_letter_queue_name(&name).into());
        let topology = Topology {
            queues: vec![
                bounds(Queue::plain(queue.clone())),
                Queue::plain(dlq.clone()),
            ],
            ..Topology::default()
        };
        broker.declare(&topology).await.unwrap();
        World {
            broker: broker.clone(),
            in_order,
            queue,
            dlq,
        }
    }

    async fn publish(&self, letters: impl IntoIterator<Item = Message>) {
        let batch = letters.into_iter();
        let batch = batch.map(|letter| Publication::to_queue(self.dlq.clone(), letter));
        for result in self.broker.publish(batch.collect()).await {
            result.unwrap();
        }
    }

    /// Letters with these numbers as bodies; every third for another reason.
    async fn fill(&self, numbers: Range<usize>) {
        self.publish(numbers.map(|number| letter(number, &self.queue)))
            .await;
    }

    /// Takes all that is in a queue.
    async fn drain(&self, queue: &Arc<str>) -> Vec<Message> {
        self.publish_to(queue, "the end").await;
        let mut consumer = self
            .broker
            .consume(ConsumeOptions {
                prefetch: 200,
                ..ConsumeOptions::queue(queue.clone())
            })
            .await
            .unwrap();
        let mut messages = Vec::new();
        loop {
            let delivery = timeout(PATIENCE, consumer.next()).await.unwrap().unwrap();
            let message = delivery.message.clone();
            delivery.receipt.ack();
            if &*message.body == b"the end" {
                // What comes later is not for this consumer.
                let mut state = consumer.state();
                consumer.cancel();
                let ended = state.wait_for(|state| *state == ConsumerState::Draining);
                timeout(PATIENCE, ended).await.unwrap().unwrap();
                return messages;
            }
            messages.push(message);
        }
    }

    /// The numbers of letters, in the order of the queue where that is kept.
    fn ordered<'a>(&self, texts: impl IntoIterator<Item = &'a String>) -> Vec<usize> {
        let numbers = texts
            .into_iter()
            .map(|text| text.parse().expect("a number"));
        let mut numbers: Vec<usize> = numbers.collect();
        if !self.in_order {
            numbers.sort_unstable();
        }
        numbers
    }

    async fn publish_to(&self, queue: &Arc<str>, body: &str) {
        let message = Message {
            body: body.as_bytes().to_vec().into(),
            ..Message::default()
        };
        let batch = vec![Publication::to_queue(queue.clone(), message)];
        self.broker.publish(batch).await.remove(0).unwrap();
    }

    async fn remove(self) {
        for queue in [&self.queue, &self.dlq] {
            self.broker.delete_queue(queue).await.unwrap();
        }
    }
}

fn letter(number: usize, queue: &str) -> Message {
    let reason = if number.is_multiple_of(3) {
        "no money: card declined"
    } else {
        "timeout"
    };
    let texts = [
        (HEADER_REASON, reason),
        (HEADER_QUEUE, queue),
        (HEADER_DEAD_AT, "2026-01-02T03:04:05.000Z"),
        (HEADER_EXCHANGE, "orders"),
        (HEADER_ROUTING_KEY, "order.created"),
        ("tenant", "blue"),
    ];
    let texts = texts.map(|(name, text)| (name.to_owned(), Header::Text(text.to_owned())));
    let mut message = Message::json(number.to_string());
    message.headers = texts.into();
    let attempts = Header::Int(4);
    message.headers.insert(HEADER_ATTEMPTS.to_owned(), attempts);
    message.message_id = Some(number.to_string().into());
    message
}

fn bodies(messages: &[Message]) -> Vec<String> {
    let bodies = messages.iter();
    bodies
        .map(|message| String::from_utf8_lossy(&message.body).into_owned())
        .collect()
}

fn ids(letters: &Letters) -> Vec<String> {
    let items = letters.items.iter();
    items
        .map(|letter| letter.message_id.clone().unwrap_or_default())
        .collect()
}

fn of_reason(reason: &str, limit: Option<u64>) -> Choice {
    Choice {
        reason: Some(reason.to_owned()),
        limit,
        ..Choice::default()
    }
}

fn first(limit: u64) -> Choice {
    Choice {
        limit: Some(limit),
        ..Choice::default()
    }
}

/// More than a batch; by each way of looking, and by both names of the queue.
async fn looking_changes_nothing(broker: &Arc<dyn Broker>, in_order: bool) {
    const COUNT: usize = 700;
    let world = World::new(broker, in_order, |queue| queue).await;
    world.fill(0..COUNT).await;

    let summary = summary(&**broker, &world.queue).await.unwrap();
    assert_eq!((summary.count, summary.examined), (700, 700));
    assert_eq!(summary.oldest.as_deref(), Some("2026-01-02T03:04:05.000Z"));
    let reasons: Vec<_> = summary.reasons.iter().map(|reason| reason.count).collect();
    assert_eq!(reasons, [466, 234]);
    let listed = list(&**broker, &[world.dlq.clone(), world.queue.clone()]).await;
    assert_eq!(listed.unwrap(), [summary]);

    let shown = show(&**broker, &world.dlq, &first(3), true).await.unwrap();
    assert_eq!(shown.items.len(), 3);
    if in_order {
        assert_eq!(ids(&shown), ["0", "1", "2"]);
    }
    let letter = &shown.items[1];
    assert_eq!(
        (&*letter.queue, letter.attempts, letter.exchange.as_deref()),
        (&*world.queue, 4, Some("orders"))
    );
    assert_eq!(letter.headers.as_ref().unwrap()["tenant"], "blue");
    let id = letter.message_id.as_deref();
    assert!(matches!(&letter.body, Some(Body::Json(json)) if Some(json.get()) == id));
    let declined = of_reason("card declined", Some(250));
    let shown = show(&**broker, &world.queue, &declined, false)
        .await
        .unwrap();
    let declined_numbers: Vec<usize> = (0..COUNT).step_by(3).collect();
    assert_eq!(world.ordered(&ids(&shown)), declined_numbers);
    assert!(shown.items[0].body.is_none());
    let one = Choice {
        message_id: Some("650".to_owned()),
        ..first(1)
    };
    let shown = show(&**broker, &world.queue, &one, false).await.unwrap();
    assert_eq!(ids(&shown), ["650"]);

    for fate in [Fate::Replay, Fate::Discard] {
        let report = settle(&**broker, &world.queue, &declined, true, fate).await;
        assert_eq!(report.unwrap().done, 234);
    }
    let all: Vec<usize> = (0..COUNT).collect();
    assert_eq!(world.ordered(&bodies(&world.drain(&world.dlq).await)), all);
    assert!(world.drain(&world.queue).await.is_empty());
    world.remove().await;
}

/// Others add letters all the time.
async fn looking_ends(broker: &Arc<dyn Broker>, in_order: bool) {
    let world = Arc::new(World::new(broker, in_order, |queue| queue).await);
    world.fill(0..50).await;
    let adding = tokio::spawn({
        let world = world.clone();
        async move {
            for number in 50.. {
                world.fill(number..number + 1).await;
                tokio::task::yield_now().await;
            }
        }
    });
    for _ in 0..3 {
        let all = Choice::default();
        let looked = timeout(PATIENCE, show(&**broker, &world.queue, &all, false));
        let letters = looked.await.expect("it ends").unwrap();
        let all: Vec<usize> = (0..letters.items.len()).collect();
        assert_eq!(world.ordered(&ids(&letters)), all);
        assert!(letters.items.len() >= 50);
    }
    adding.abort();
    // Whether it was in the middle of a publication does not matter.
    drop(adding.await);
    Arc::into_inner(world).expect("the last").remove().await;
}

/// Each as it was before it failed, to where it came from, whether its letter says so or not.
async fn replay_moves_letters_back(broker: &Arc<dyn Broker>, in_order: bool) {
    let (world, other) = (
        World::new(broker, in_order, |queue| queue).await,
        World::new(broker, in_order, |queue| queue).await,
    );
    world.fill(0..600).await;
    let bare = Message {
        message_id: Some("bare".into()),
        ..Message::json("600")
    };
    world.publish([bare, letter(601, &other.queue)]).await;
    let report = replay(&**broker, &world.queue, &first(10), false).await;
    assert_eq!(report.unwrap().done, 10);
    let report = replay(&**broker, &world.queue, &Choice::default(), false).await;
    let report = report.unwrap();
    assert_eq!((report.count, report.done, report.failed), (592, 592, 0));
    let back = world.drain(&world.queue).await;
    let all: Vec<usize> = (0..601).collect();
    assert_eq!(world.ordered(&bodies(&back)), all);
    let seventh = back
        .iter()
        .find(|message| message.message_id.as_deref() == Some("7"));
    let seventh = seventh.expect("with its id");
    let headers: Vec<_> = seventh.headers.keys().map(String::as_str).collect();
    let kept = [
        "tenant",
        HEADER_DEAD_AT,
        HEADER_EXCHANGE,
        HEADER_ROUTING_KEY,
    ];
    assert_eq!(headers, kept);
    assert_eq!(bodies(&other.drain(&other.queue).await), ["601"]);
    assert!(world.drain(&world.dlq).await.is_empty());
    world.remove().await;
    other.remove().await;
}

/// A letter whose queue is gone stays, alone. Where the queue is full, the rest stays, and in order.
async fn a_replay_goes_as_far_as_it_can(broker: &Arc<dyn Broker>, in_order: bool) {
    const LENGTH: usize = 100;
    let world = World::new(broker, in_order, |queue| queue.length_max(LENGTH as u64)).await;
    let gone = format!("{}.gone", world.queue);
    world.publish([letter(0, &gone)]).await;
    world.fill(1..30).await;
    let report = replay(&**broker, &world.queue, &first(5), false)
        .await
        .unwrap();
    assert_eq!((report.done, report.failed), (4, 1), "{report:?}");
    assert_eq!(report.failures[0].message_id.as_deref(), Some("0"));
    assert!(
        report.failures[0].error.contains("no queue takes"),
        "{report:?}"
    );

    world.fill(30..800).await;
    let report = replay(&**broker, &world.queue, &Choice::default(), false)
        .await
        .unwrap();
    assert!(report.failed > 0, "{report:?}");
    let back = bodies(&world.drain_full().await);
    assert_eq!(back.len() as u64, 4 + report.done);
    assert!(back.len() >= LENGTH, "{} fit", back.len());
    let stayed = bodies(&world.drain(&world.dlq).await);
    let mut all: Vec<usize> = back
        .iter()
        .chain(&stayed)
        .map(|body| body.parse().unwrap())
        .collect();
    all.sort_unstable();
    assert_eq!(all, (0..800).collect::<Vec<_>>(), "none lost, none doubled");
    let stayed: Vec<usize> = stayed.iter().map(|body| body.parse().unwrap()).collect();
    assert!(!in_order || stayed.is_sorted(), "{stayed:?}");
    world.remove().await;
}

impl World {
    /// As [`drain`](Self::drain), for a queue that takes no more.
    async fn drain_full(&self) -> Vec<Message> {
        let ready = self.broker.queue_stats(&self.queue).await.unwrap().ready;
        let options = ConsumeOptions::queue(self.queue.clone());
        let mut consumer = self.broker.consume(options).await.unwrap();
        let mut messages = Vec::new();
        for _ in 0..ready {
            let delivery = timeout(PATIENCE, consumer.next()).await.unwrap().unwrap();
            messages.push(delivery.message.clone());
            delivery.receipt.ack();
        }
        messages
    }
}

async fn discard_takes_what_is_chosen(broker: &Arc<dyn Broker>, in_order: bool) {
    let world = World::new(broker, in_order, |queue| queue).await;
    world.fill(0..30).await;
    let report = discard(
        &**broker,
        &world.queue,
        &of_reason("declined", Some(4)),
        false,
    )
    .await;
    assert_eq!(report.unwrap().done, 4);
    let left: Vec<usize> = (0..30)
        .filter(|number| ![0, 3, 6, 9].contains(number))
        .collect();
    assert_eq!(world.ordered(&bodies(&world.drain(&world.dlq).await)), left);
    world.fill(0..30).await;
    let report = discard(&**broker, &world.queue, &Choice::default(), false).await;
    assert_eq!(report.unwrap().done, 30);
    assert!(world.drain(&world.dlq).await.is_empty());
    assert!(world.drain(&world.queue).await.is_empty());
    world.remove().await;
}

async fn nothing_is_found_where_nothing_is(broker: &Arc<dyn Broker>, in_order: bool) {
    let world = World::new(broker, in_order, |queue| queue).await;
    let (broker, missing) = (&**broker, format!("{}.missing", world.queue));
    assert_eq!(
        list(broker, &[world.queue.clone(), missing.as_str().into()])
            .await
            .unwrap(),
        []
    );
    let report = replay(broker, &world.queue, &Choice::default(), false).await;
    assert_eq!(report.unwrap().done, 0);
    let none = show(broker, &missing, &Choice::default(), false).await;
    assert!(
        matches!(none, Err(BrokerError::NotFound { .. })),
        "{none:?}"
    );
    world.remove().await;
}

#[test]
fn either_name_means_the_work_queue() {
    assert_eq!(work_queue("payment"), "payment");
    assert_eq!(work_queue("payment.dlq"), "payment");
    assert_eq!(work_queue(".dlq"), ".dlq");
}
