//! A message that ends its process: real processes abort in its handler, until it is a dead letter. What the process had beside it is handled.

use std::{
    process::{Command, ExitStatus},
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use leveret::{
    broker::{
        Broker, ConsumeOptions, Delivery, Message, Publication, Queue, Topology,
        dead_letter_queue_name,
        embedded::EmbeddedBroker,
        work::{self, HEADER_REASON, Handler, Verdict, WorkOptions},
    },
    sqlite::{Database, DatabaseOptions},
};
use tokio::time::{interval, timeout};

/// Where the child finds its broker; only children have it.
const CHILD: &str = "LEVERET_TEST_WORK_CHILD";
const QUEUE: &str = "LEVERET_TEST_WORK_QUEUE";
const INNOCENT: usize = 6;
const PATIENCE: Duration = Duration::from_secs(60);

/// A broker by `sqlite:PATH` or URL, and what to close.
struct Opened {
    broker: Arc<dyn Broker>,
    database: Option<Database>,
}

impl Opened {
    async fn at(url: &str) -> Opened {
        if let Some(path) = url.strip_prefix("sqlite:") {
            let database = Database::open(DatabaseOptions::new(path)).unwrap();
            let broker = EmbeddedBroker::open(database.clone()).unwrap();
            return Opened {
                broker: Arc::new(broker),
                database: Some(database),
            };
        }
        Opened {
            broker: connect(url).await,
            database: None,
        }
    }

    async fn close(self) {
        self.broker.close().await;
        if let Some(database) = self.database {
            database.close().await;
        }
    }
}

#[cfg(feature = "rabbitmq")]
async fn connect(url: &str) -> Arc<dyn Broker> {
    use leveret::broker::rabbitmq::{RabbitMq, RabbitMqOptions};

    Arc::new(RabbitMq::connect(RabbitMqOptions::new(url)).await.unwrap())
}

#[cfg(not(feature = "rabbitmq"))]
async fn connect(url: &str) -> Arc<dyn Broker> {
    panic!("no broker for {url}")
}

/// Where that goes which follows from one of the innocent: a queue of its own for each, as some may be handled twice.
fn out(queue: &str, body: &[u8]) -> String {
    format!("{queue}.out.{}", String::from_utf8_lossy(body))
}

fn innocent(at: usize) -> String {
    format!("innocent {at}")
}

fn options(queue: &str) -> WorkOptions {
    let mut options = WorkOptions::queue(queue);
    options.publishes_to = Topology {
        queues: (0..INNOCENT)
            .map(|at| Queue::plain(out(queue, innocent(at).as_bytes())))
            .collect(),
        ..Topology::default()
    };
    options
}

struct Killer(String);

#[async_trait]
impl Handler for Killer {
    async fn handle(&self, delivery: &Delivery, _: u32) -> Verdict {
        if &delivery.message.body[..] == b"killer" {
            std::process::abort();
        }
        let to = out(&self.0, &delivery.message.body);
        Verdict::Done {
            publish: vec![Publication::to_queue(to, delivery.message.clone())],
        }
    }
}

/// What the children do: they handle, until the dead letter is there and all innocent were handled. As a test of its own it does nothing.
#[tokio::test]
async fn child() {
    let (Ok(url), Ok(queue)) = (std::env::var(CHILD), std::env::var(QUEUE)) else {
        return;
    };
    let opened = Opened::at(&url).await;
    let broker = opened.broker.clone();
    let mut expected = vec![dead_letter_queue_name(&queue)];
    expected.extend((0..INNOCENT).map(|at| out(&queue, innocent(at).as_bytes())));
    let watched = broker.clone();
    let until = async {
        let mut looks = interval(Duration::from_millis(20));
        loop {
            looks.tick().await;
            let mut missing = 0;
            for queue in &expected {
                let stats = watched.queue_stats(queue).await;
                missing += usize::from(stats.is_ok_and(|stats| stats.ready == 0));
            }
            if missing == 0 {
                return;
            }
        }
    };
    let served = work::serve(broker, options(&queue), Killer(queue.clone()), until);
    timeout(PATIENCE, served).await.unwrap().unwrap();
    opened.close().await;
}

async fn run_child(url: &str, queue: &str) -> ExitStatus {
    let (url, queue) = (url.to_owned(), queue.to_owned());
    let running = tokio::task::spawn_blocking(move || {
        Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "work::child"])
            .env(CHILD, url)
            .env(QUEUE, queue)
            .output()
            .unwrap()
            .status
    });
    running.await.unwrap()
}

async fn what_kills_is_dead_lettered_after_five_deaths(url: &str) {
    let queue = format!("leveret-test.kill.{:016x}", fastrand::u64(..));
    let opened = Opened::at(url).await;
    opened
        .broker
        .declare(&options(&queue).topology())
        .await
        .unwrap();
    let message = |body: String| {
        let message = Message {
            message_id: Some(body.as_str().into()),
            ..Message::json(body)
        };
        Publication::to_queue(queue.as_str(), message)
    };
    let mut batch = vec![message("killer".to_owned())];
    batch.extend((0..INNOCENT).map(|at| message(innocent(at))));
    for result in opened.broker.publish(batch).await {
        result.unwrap();
    }
    opened.close().await;

    for death in 1..=5 {
        let status = run_child(url, &queue).await;
        assert!(!status.success(), "nobody died at death {death}");
    }
    let status = run_child(url, &queue).await;
    assert!(status.success(), "one died after the bound");

    let opened = Opened::at(url).await;
    let broker = &opened.broker;
    let dead = dead_letter_queue_name(&queue);
    let mut letters = broker
        .consume(ConsumeOptions::queue(dead.as_str()))
        .await
        .unwrap();
    let letter = timeout(PATIENCE, letters.next()).await.unwrap().unwrap();
    assert_eq!(letter.message.body, "killer");
    let reason = format!("{:?}", letter.message.headers[HEADER_REASON]);
    assert!(reason.contains("it was delivered 5 times"), "{reason}");
    letter.receipt.ack();
    drop(letters);
    for queue in options(&queue).topology().queues {
        broker.delete_queue(&queue.name).await.unwrap();
    }
    opened.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_kills_is_dead_lettered_embedded() {
    let directory = std::env::temp_dir().join(format!("leveret-kill-{:016x}", fastrand::u64(..)));
    std::fs::create_dir_all(&directory).unwrap();
    let url = format!("sqlite:{}", directory.join("work.db").display());
    what_kills_is_dead_lettered_after_five_deaths(&url).await;
    std::fs::remove_dir_all(&directory).unwrap();
}

#[cfg(feature = "rabbitmq")]
#[tokio::test(flavor = "multi_thread")]
async fn what_kills_is_dead_lettered_on_rabbitmq() {
    let Ok(url) = std::env::var("LEVERET_TEST_AMQP_URL") else {
        println!("skipped: LEVERET_TEST_AMQP_URL is not set");
        return;
    };
    what_kills_is_dead_lettered_after_five_deaths(&url).await;
}
