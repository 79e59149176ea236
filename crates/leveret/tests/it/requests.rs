//! Requests and their answers: those that come late, twice or to nobody are counted and kept in the dead letters, and are never the answer or the
//! error of another request. On the embedded broker, and on RabbitMQ where `LEVERET_TEST_AMQP_URL` is set.

use std::{path::PathBuf, sync::Arc, time::Duration};

use leveret::{
    broker::{
        Broker, ConsumeOptions, Consumer, Delivery, Message, Publication, Queue, Topology,
        embedded::EmbeddedBroker, work::HEADER_REASON,
    },
    service::{RequestError, Requests},
    sqlite::{Database, DatabaseOptions},
};
use tokio::{
    sync::watch,
    task::JoinHandle,
    time::{Instant, sleep, timeout},
};

const PATIENCE: Duration = Duration::from_secs(30);

/// A client that runs, a queue that asks, and who reads that queue.
struct World {
    broker: Arc<dyn Broker>,
    requests: Requests,
    queue: Arc<str>,
    asked: Consumer,
    stop: watch::Sender<bool>,
    running: JoinHandle<()>,
}

impl World {
    async fn new(broker: &Arc<dyn Broker>, requests: Requests) -> World {
        let queue: Arc<str> = format!("leveret-test.asked.{:016x}", fastrand::u64(..)).into();
        let topology = Topology {
            queues: vec![Queue::plain(queue.clone())],
            ..Topology::default()
        };
        broker.declare(&topology).await.unwrap();
        let asked = broker.consume(ConsumeOptions::queue(queue.clone())).await;
        let (stop, stopped) = watch::channel(false);
        let client = requests.clone();
        let running = tokio::spawn(async move { client.run(stopped).await.unwrap() });
        let world = World {
            broker: broker.clone(),
            requests,
            queue,
            asked: asked.unwrap(),
            stop,
            running,
        };
        world.until_replies_are_declared().await;
        world
    }

    async fn until_replies_are_declared(&self) {
        until("the reply queue is there", async || {
            let stats = self.broker.queue_stats(self.requests.reply_queue()).await;
            stats.is_ok_and(|stats| stats.consumers > 0)
        })
        .await;
    }

    fn ask(&self, body: &str, time: Duration) -> JoinHandle<Result<String, RequestError>> {
        let (requests, queue) = (self.requests.clone(), self.queue.clone());
        let message = Message::json(body.to_owned());
        tokio::spawn(async move {
            let answer = requests.request(&queue, message, time).await?;
            Ok(String::from_utf8(answer.body.to_vec()).unwrap())
        })
    }

    /// The next request, taken.
    async fn taken(&mut self) -> Message {
        let Delivery {
            message, receipt, ..
        } = timeout(PATIENCE, self.asked.next()).await.unwrap().unwrap();
        receipt.ack();
        message
    }

    async fn answer(&self, request: &Message, body: &str) {
        let mut answer = Message::json(body.to_owned());
        answer.correlation_id.clone_from(&request.correlation_id);
        let to = request.reply_to.clone().unwrap();
        let answer = Publication::to_queue(to, answer);
        self.broker.publish(vec![answer]).await.remove(0).unwrap();
    }

    async fn unexpected(&self, count: u64) {
        until("all are counted", async || {
            self.requests.counts().unexpected.get() == count
        })
        .await;
    }

    fn dead_letters(&self) -> Arc<str> {
        format!("{}.dlq", self.requests.reply_queue()).into()
    }

    /// The bodies of the dead letters, taken; each says why.
    async fn letters(&self, count: usize) -> Vec<String> {
        let options = ConsumeOptions::queue(self.dead_letters());
        let mut letters = self.broker.consume(options).await.unwrap();
        let mut bodies = Vec::new();
        for _ in 0..count {
            let letter = timeout(PATIENCE, letters.next()).await.unwrap().unwrap();
            assert!(letter.message.headers.contains_key(HEADER_REASON));
            bodies.push(String::from_utf8(letter.message.body.to_vec()).unwrap());
            letter.receipt.ack();
        }
        bodies.sort();
        bodies
    }

    async fn end(self) {
        self.stop.send_replace(true);
        let (replies, dead) = (self.requests.reply_queue().clone(), self.dead_letters());
        self.running.await.unwrap();
        let suspects = format!("{replies}.suspects");
        for queue in [&*self.queue, &*replies, &suspects, &dead] {
            self.broker.delete_queue(queue).await.unwrap();
        }
    }
}

async fn until(what: &str, mut look: impl AsyncFnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !look().await {
        assert!(Instant::now() < end, "not in time: {what}");
        sleep(Duration::from_millis(10)).await;
    }
}

fn name() -> String {
    format!("leveret-test.replies.{:016x}", fastrand::u64(..))
}

/// In a file that is removed after it.
fn embedded() -> (Arc<dyn Broker>, Database, PathBuf) {
    let directory = std::env::temp_dir().join(name());
    std::fs::create_dir_all(&directory).unwrap();
    let options = DatabaseOptions::new(directory.join("broker.db"));
    let database = Database::open(options).unwrap();
    let broker = EmbeddedBroker::open(database.clone()).unwrap();
    (Arc::new(broker), database, directory)
}

#[cfg(feature = "rabbitmq")]
async fn rabbitmq() -> Option<Arc<dyn Broker>> {
    use leveret::broker::rabbitmq::{RabbitMq, RabbitMqOptions};
    let Ok(url) = std::env::var("LEVERET_TEST_AMQP_URL") else {
        println!("skipped: LEVERET_TEST_AMQP_URL is not set");
        return None;
    };
    let broker = RabbitMq::connect(RabbitMqOptions::new(url)).await.unwrap();
    Some(Arc::new(broker))
}

#[cfg(not(feature = "rabbitmq"))]
async fn rabbitmq() -> Option<Arc<dyn Broker>> {
    None
}

#[tokio::test(flavor = "multi_thread")]
async fn odd_answers_on_the_embedded_broker() {
    let (broker, database, directory) = embedded();
    odd_answers(&broker).await;
    expiring(&broker).await;
    broker.close().await;
    database.close().await;
    std::fs::remove_dir_all(directory).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn odd_answers_on_rabbitmq() {
    let Some(broker) = rabbitmq().await else {
        return;
    };
    odd_answers(&broker).await;
    expiring(&broker).await;
}

async fn odd_answers(broker: &Arc<dyn Broker>) {
    let mut world = World::new(broker, Requests::new(broker.clone(), &name())).await;

    // Late: its asker went away. Another one that waits meanwhile is not disturbed.
    let late = world.ask("late", Duration::from_millis(50));
    let late_request = world.taken().await;
    assert!(matches!(late.await.unwrap(), Err(RequestError::Timeout(_))));
    let other = world.ask("other", PATIENCE);
    let other_request = world.taken().await;
    assert_eq!(other_request.correlation_id, other_request.message_id);
    world.answer(&late_request, "late").await;
    world.unexpected(1).await;
    assert!(!other.is_finished());

    // Orphaned: of nobody, and without saying whose.
    let mut nobody = late_request.clone();
    nobody.correlation_id = Some("nobody".into());
    world.answer(&nobody, "orphaned").await;
    nobody.correlation_id = None;
    world.answer(&nobody, "without").await;
    world.unexpected(3).await;
    assert!(!other.is_finished());

    // Doubled: the first counts. They are taken beside each other, so that the second comes when the first was.
    world.answer(&other_request, "first").await;
    assert_eq!(other.await.unwrap().unwrap(), "first");
    world.answer(&other_request, "second").await;
    world.unexpected(4).await;
    assert_eq!(
        world.letters(4).await,
        ["late", "orphaned", "second", "without"]
    );
    assert_eq!(world.requests.counts().answered.get(), 1);

    // Two that ask the same are told the same, and one of them may go away.
    let mut same = Message::json("same");
    same.message_id = Some("same".into());
    let ask = |time| {
        let (requests, queue, same) = (world.requests.clone(), world.queue.clone(), same.clone());
        tokio::spawn(async move { requests.request(&queue, same, time).await })
    };
    let (one, two, gone) = (ask(PATIENCE), ask(PATIENCE), ask(Duration::from_millis(50)));
    assert!(matches!(gone.await.unwrap(), Err(RequestError::Timeout(_))));
    let request = world.taken().await;
    world.taken().await;
    world.taken().await;
    world.answer(&request, "both").await;
    for asker in [one, two] {
        assert_eq!(&*asker.await.unwrap().unwrap().body, b"both");
    }

    // Whoever waits when the client stops is told.
    let waiting = world.ask("stopped", PATIENCE);
    world.taken().await;
    world.stop.send_replace(true);
    assert!(matches!(waiting.await.unwrap(), Err(RequestError::Stopped)));
    world.end().await;
}

/// A reply queue of a client without a name goes some time after it.
async fn expiring(broker: &Arc<dyn Broker>) {
    let requests = Requests::expiring(broker.clone(), &name(), Duration::from_millis(500));
    let mut world = World::new(broker, requests).await;
    let asked = world.ask("q", PATIENCE);
    let request = world.taken().await;
    world.answer(&request, "a").await;
    assert_eq!(asked.await.unwrap().unwrap(), "a");
    world.answer(&request, "doubled").await;
    world.unexpected(1).await;
    assert_eq!(world.letters(1).await, ["doubled"]);
    world.stop.send_replace(true);
    let replies = world.requests.reply_queue().clone();
    // Looking is a use.
    let mut pause = Duration::from_millis(600);
    until("the reply queue is gone", async || {
        sleep(pause).await;
        pause *= 2;
        broker.queue_stats(&replies).await.is_err()
    })
    .await;
    world.end().await;
}
