//! The work queue over the in-memory broker: what the handler says and where the message ends. What brokers could make different is in
//! `brokers`, over each of them.

mod brokers;

use std::sync::Mutex;

use tokio::{
    sync::{mpsc, oneshot},
    time::timeout,
};

use super::*;
use crate::broker::{Header, Message, memory::MemoryBroker, pump::Place};

const PATIENCE: Duration = Duration::from_secs(20);

/// Answers with what the function says, and tells the test about each attempt.
struct Scripted<F> {
    script: F,
    attempts: mpsc::UnboundedSender<u32>,
}

#[async_trait]
impl<F: Fn(&str, u32) -> Verdict + Send + Sync + 'static> Handler for Scripted<F> {
    async fn handle(&self, delivery: &Delivery, attempt: u32) -> Verdict {
        let body = String::from_utf8_lossy(&delivery.message.body).into_owned();
        let _ = self.attempts.send(attempt);
        (self.script)(&body, attempt)
    }
}

fn options() -> WorkOptions {
    WorkOptions {
        retry: RetryPolicy {
            delays: [5, 10].map(Duration::from_millis).to_vec(),
        },
        requeue_pauses: Pauses {
            first: Duration::from_millis(1),
            longest: Duration::from_millis(1),
        },
        clock: || Timestamp(1_795_141_463_755),
        ..WorkOptions::queue("work")
    }
}

struct World {
    broker: Arc<dyn Broker>,
    queue: Arc<str>,
    attempts: mpsc::UnboundedReceiver<u32>,
    stop: Option<oneshot::Sender<()>>,
    serving: tokio::task::JoinHandle<Result<(), BrokerError>>,
}

impl World {
    async fn new(
        options: WorkOptions,
        script: impl Fn(&str, u32) -> Verdict + Send + Sync + 'static,
    ) -> World {
        World::over(Arc::new(MemoryBroker::new()), options, script).await
    }

    async fn over(
        broker: Arc<dyn Broker>,
        options: WorkOptions,
        script: impl Fn(&str, u32) -> Verdict + Send + Sync + 'static,
    ) -> World {
        let (sender, attempts) = mpsc::unbounded_channel();
        let handler = Scripted {
            script,
            attempts: sender,
        };
        let queue = options.queue.clone();
        let (stop, serving) = start(&broker, options, handler).await;
        World {
            broker,
            queue,
            attempts,
            stop: Some(stop),
            serving,
        }
    }

    async fn publish(&self, body: &str) {
        publish(&*self.broker, &self.queue, body).await;
    }

    async fn dead(&self) -> Delivery {
        take(&*self.broker, &dead_letter_queue_name(&self.queue)).await
    }

    async fn attempt(&mut self) -> u32 {
        timeout(PATIENCE, self.attempts.recv())
            .await
            .unwrap()
            .unwrap()
    }

    /// Ends, and checks that nothing is left in the work queue.
    async fn end(mut self) {
        self.stop.take().unwrap().send(()).unwrap();
        timeout(PATIENCE, self.serving)
            .await
            .unwrap()
            .unwrap()
            .unwrap();
        let stats = self.broker.queue_stats(&self.queue).await.unwrap();
        assert_eq!(stats.ready, 0);
    }
}

type Serving = tokio::task::JoinHandle<Result<(), BrokerError>>;

async fn start(
    broker: &Arc<dyn Broker>,
    options: WorkOptions,
    handler: impl Handler,
) -> (oneshot::Sender<()>, Serving) {
    broker.declare(&options.topology()).await.unwrap();
    let (stop, stopped) = oneshot::channel::<()>();
    let shutdown = async {
        let _ = stopped.await;
    };
    let serving = tokio::spawn(serve(broker.clone(), options, handler, shutdown));
    (stop, serving)
}

async fn publish(broker: &dyn Broker, queue: &str, body: &str) {
    let message = Message {
        message_id: Some(body.into()),
        ..Message::json(body.to_owned())
    };
    broker
        .publish(vec![Publication::to_queue(queue, message)])
        .await
        .remove(0)
        .unwrap();
}

async fn take(broker: &dyn Broker, queue: &str) -> Delivery {
    let mut consumer = broker.consume(ConsumeOptions::queue(queue)).await.unwrap();
    timeout(PATIENCE, consumer.next()).await.unwrap().unwrap()
}

fn text(delivery: &Delivery, header: &str) -> String {
    match delivery.message.headers.get(header) {
        Some(Header::Text(text)) => text.clone(),
        other => panic!("{header} is {other:?}"),
    }
}

fn again() -> Verdict {
    Verdict::Retry {
        reason: "not yet".to_owned(),
    }
}

#[test]
fn decides() {
    let policy = RetryPolicy {
        delays: [1, 5, 25].map(Duration::from_secs).to_vec(),
    };
    let check = |verdict: Verdict, attempt, expect: &str| {
        let shown = match decide(verdict, attempt, &policy) {
            Action::Retry { delay } => format!("retry {delay:?}"),
            Action::DeadLetter { reason } => format!("dead: {reason}"),
            other => format!("{other:?}"),
        };
        assert_eq!(shown, expect);
    };
    let after = |seconds| Verdict::RetryAfter {
        reason: "busy".to_owned(),
        delay: Duration::from_secs(seconds),
    };
    check(Verdict::done(), 1, "Done { publish: [], repeated: false }");
    check(Verdict::Requeue, 9, "Requeue");
    check(
        Verdict::DeadLetter {
            reason: "bad".to_owned(),
        },
        1,
        "dead: bad",
    );
    check(again(), 1, "retry 1s");
    check(again(), 2, "retry 5s");
    check(again(), 3, "retry 25s");
    check(again(), 4, "dead: not yet");
    check(after(2), 1, "retry 5s");
    check(after(60), 1, "retry 25s");
    check(after(0), 3, "retry 1s");
    check(after(0), 4, "dead: busy");
}

#[tokio::test]
async fn malformed_and_oversized_are_dead_at_once() {
    let options = WorkOptions {
        message_bytes_max: 10,
        ..options()
    };
    let mut world = World::new(options, |_, _| Verdict::DeadLetter {
        reason: "malformed".to_owned(),
    })
    .await;
    world.publish("a").await;
    let letter = world.dead().await;
    assert_eq!(text(&letter, HEADER_REASON), "malformed");
    assert_eq!(world.attempt().await, 1);
    letter.receipt.ack();
    world.publish("more than ten").await;
    let letter = world.dead().await;
    assert_eq!(
        text(&letter, HEADER_REASON),
        "the body has 13 bytes, the limit is 10"
    );
    assert_eq!(
        letter.message.headers.get(HEADER_ATTEMPTS),
        Some(&Header::Int(0))
    );
    letter.receipt.ack();
    assert!(world.attempts.try_recv().is_err(), "it reached the handler");
    world.end().await;
}

#[tokio::test]
async fn a_message_with_a_flaw_reaches_no_handler() {
    let broker: Arc<dyn Broker> = Arc::new(MemoryBroker::new());
    broker.declare(&options().topology()).await.unwrap();
    let (sender, mut attempts) = mpsc::unbounded_channel();
    let handler = Scripted {
        script: |_: &str, _| Verdict::done(),
        attempts: sender,
    };
    let station = Station::new(broker.clone(), options(), handler);
    publish(&*broker, "work", "a").await;
    let mut delivery = take(&*broker, "work").await;
    delivery.flaw = Some("its message id is not UTF-8".into());
    let permit = Arc::new(Semaphore::new(1)).acquire_owned().await.unwrap();
    let left = station.process(delivery, Source::Queue, Place::new(permit));
    assert!(matches!(left.await, Left::Handled));
    let letter = take(&*broker, "work.dlq").await;
    assert_eq!(text(&letter, HEADER_REASON), "its message id is not UTF-8");
    letter.receipt.ack();
    assert!(attempts.try_recv().is_err(), "it reached the handler");
}

#[tokio::test]
async fn a_panic_is_a_retry() {
    let mut world = World::new(options(), |body, attempt| {
        assert!(body != "a", "attempt {attempt} went wrong");
        Verdict::done()
    })
    .await;
    world.publish("a").await;
    let letter = world.dead().await;
    assert_eq!(
        text(&letter, HEADER_REASON),
        "the handler panicked: attempt 3 went wrong"
    );
    letter.receipt.ack();
    for _ in 0..3 {
        world.attempt().await;
    }
    // The consumer lives on.
    world.publish("b").await;
    assert_eq!(world.attempt().await, 1);
    world.end().await;
}

#[tokio::test]
async fn a_requeue_counts_no_attempt() {
    let asked = Mutex::new(0);
    let mut world = World::new(options(), move |_, _| {
        let mut asked = asked.lock().unwrap();
        *asked += 1;
        if *asked < 5 {
            Verdict::Requeue
        } else {
            Verdict::done()
        }
    })
    .await;
    world.publish("a").await;
    for _ in 0..5 {
        assert_eq!(world.attempt().await, 1);
    }
    world.end().await;
}

/// The dead letter queue is gone: it is declared again, and the message moves on without being handled again.
#[tokio::test]
async fn what_cannot_be_moved_on_is_not_lost() {
    let mut world = World::new(options(), |_, _| Verdict::DeadLetter {
        reason: "bad".to_owned(),
    })
    .await;
    // It serves, so that it will not declare the queue again by itself.
    world.publish("first").await;
    world.dead().await.receipt.ack();
    assert_eq!(world.attempt().await, 1);
    world.broker.delete_queue("work.dlq").await.unwrap();
    world.publish("a").await;
    assert_eq!(world.attempt().await, 1);
    let letter = world.dead().await;
    assert_eq!(letter.message.body, "a");
    letter.receipt.ack();
    assert!(world.attempts.try_recv().is_err(), "it was handled again");
    world.end().await;
}

/// The delivery is kept, so that the broker marks no redelivery; nothing else is handled meanwhile, and pauses grow.
#[tokio::test(start_paused = true)]
async fn a_fault_of_this_machine_pauses_the_consumer() {
    let begun = Instant::now();
    let log = Arc::new(Mutex::new(Vec::new()));
    let options = WorkOptions {
        requeue_pauses: Pauses {
            first: Duration::from_secs(1),
            longest: Duration::from_secs(4),
        },
        ..options()
    };
    let metrics = options.metrics.clone();
    let (seen, written) = (metrics.clone(), log.clone());
    let mut world = World::new(options, move |body, attempt| {
        let at = begun.elapsed().as_secs();
        let mut log = written.lock().unwrap();
        log.push(format!(
            "{body} {attempt} {at} s paused={}",
            seen.is_paused()
        ));
        if log.len() < 5 {
            Verdict::Requeue
        } else {
            Verdict::done()
        }
    })
    .await;
    world.publish("a").await;
    world.publish("b").await;
    for _ in 0..6 {
        assert_eq!(world.attempt().await, 1);
    }
    assert_eq!(
        *log.lock().unwrap(),
        [
            "a 1 0 s paused=false",
            "a 1 1 s paused=true",
            "a 1 3 s paused=true",
            "a 1 7 s paused=true",
            "a 1 11 s paused=true",
            "b 1 11 s paused=false",
        ]
    );
    assert!(metrics.is_ready());
    assert_eq!((metrics.requeued.get(), metrics.suspected.get()), (4, 0));
    world.end().await;
    assert_eq!(metrics.handled.get(), 2);
    assert_eq!(metrics.consumer.get(), None);
}

/// It is buried with the reason, instead of coming again for ever.
#[tokio::test(start_paused = true)]
async fn what_can_never_be_published_makes_a_dead_letter() {
    let options = options();
    let metrics = options.metrics.clone();
    let world = World::new(options, |_, _| Verdict::Done {
        publish: vec![Publication::to_queue("nowhere", Message::json("1"))],
    })
    .await;
    world.publish("a").await;
    let letter = world.dead().await;
    let reason = text(&letter, HEADER_REASON);
    assert!(
        reason.starts_with("what follows from it cannot be published: no queue takes"),
        "{reason}"
    );
    letter.receipt.ack();
    world.end().await;
    assert_eq!((metrics.handled.get(), metrics.dead_letters.get()), (0, 1));
    assert_eq!(metrics.held_back(), 0);
}

/// Handlers that wait for the test, which sees how many run at once.
struct Held {
    entered: mpsc::UnboundedSender<String>,
    gate: Arc<tokio::sync::Semaphore>,
}

#[async_trait]
impl Handler for Held {
    async fn handle(&self, delivery: &Delivery, _: u32) -> Verdict {
        let body = String::from_utf8_lossy(&delivery.message.body).into_owned();
        let _ = self.entered.send(body);
        self.gate.acquire().await.unwrap().forget();
        Verdict::done()
    }
}

#[tokio::test]
async fn concurrency_is_a_bound_and_shutdown_drains() {
    let (entered, mut entries) = mpsc::unbounded_channel();
    let gate = Arc::new(tokio::sync::Semaphore::new(0));
    let options = WorkOptions {
        concurrency: 2,
        ..options()
    };
    let broker: Arc<dyn Broker> = Arc::new(MemoryBroker::new());
    let handler = Held {
        entered,
        gate: gate.clone(),
    };
    let (stop, serving) = start(&broker, options, handler).await;
    for body in ["a", "b", "c", "d"] {
        publish(&*broker, "work", body).await;
    }
    let mut running = vec![entries.recv().await.unwrap(), entries.recv().await.unwrap()];
    running.sort();
    assert_eq!(running, ["a", "b"]);
    assert!(entries.try_recv().is_err(), "a third runs");
    stop.send(()).unwrap();
    gate.add_permits(2);
    timeout(PATIENCE, serving).await.unwrap().unwrap().unwrap();
    // The running ones finished, the others were not begun and are in the queue.
    assert!(entries.try_recv().is_err());
    let ready = broker.queue_stats("work").await.unwrap().ready;
    assert_eq!(ready, 2);
}
