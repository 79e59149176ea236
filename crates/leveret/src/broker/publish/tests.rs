//! Over a broker whose queues can be full, as RabbitMQ's with `overflow: reject-publish` are, on a clock that jumps.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex},
};

use async_trait::async_trait;

use super::*;
use crate::broker::{
    Binding, Capabilities, ConsumeOptions, Consumer, Message, Queue, QueueStats,
    memory::MemoryBroker,
};

/// Refuses what goes to queues that are full. Not atomic.
#[derive(Default)]
struct Filling {
    inner: MemoryBroker,
    full: Mutex<HashSet<String>>,
    sent: Mutex<Vec<String>>,
}

impl Filling {
    fn set_full(&self, queue: &str, full: bool) {
        let mut all = self.full.lock().unwrap();
        if full {
            all.insert(queue.to_owned());
        } else {
            all.remove(queue);
        }
    }

    /// What was sent since the last look, as `queue/body`.
    fn sent(&self) -> Vec<String> {
        std::mem::take(&mut self.sent.lock().unwrap())
    }

    async fn publish_one(&self, publication: Publication) -> Result<(), BrokerError> {
        let queue = publication.routing_key.to_string();
        let body = String::from_utf8_lossy(&publication.message.body).into_owned();
        self.sent.lock().unwrap().push(format!("{queue}/{body}"));
        if self.full.lock().unwrap().contains(&queue) {
            return Err(BrokerError::NotAccepted {
                detail: "full".to_owned(),
            });
        }
        self.inner.publish(vec![publication]).await.remove(0)
    }
}

#[async_trait]
impl Broker for Filling {
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            atomic_publish_then_ack: false,
            ..self.inner.capabilities()
        }
    }
    async fn declare(&self, topology: &Topology) -> Result<(), BrokerError> {
        self.inner.declare(topology).await
    }
    async fn unbind(&self, bindings: &[Binding]) -> Result<(), BrokerError> {
        self.inner.unbind(bindings).await
    }
    async fn publish(&self, batch: Vec<Publication>) -> Vec<Result<(), BrokerError>> {
        let mut results = Vec::new();
        for publication in batch {
            results.push(self.publish_one(publication).await);
        }
        results
    }
    async fn consume(&self, options: ConsumeOptions) -> Result<Consumer, BrokerError> {
        self.inner.consume(options).await
    }
    async fn queue_stats(&self, queue: &str) -> Result<QueueStats, BrokerError> {
        self.inner.queue_stats(queue).await
    }
    async fn purge(&self, queue: &str) -> Result<u64, BrokerError> {
        self.inner.purge(queue).await
    }
    async fn delete_queue(&self, queue: &str) -> Result<(), BrokerError> {
        self.inner.delete_queue(queue).await
    }
    async fn delete_exchange(&self, exchange: &str) -> Result<(), BrokerError> {
        self.inner.delete_exchange(exchange).await
    }
    fn is_connected(&self) -> bool {
        self.inner.is_connected()
    }
    async fn close(&self) {
        self.inner.close().await;
    }
}

fn topology() -> Topology {
    Topology {
        queues: ["q", "full", "source"].map(Queue::plain).into(),
        ..Topology::default()
    }
}

async fn broker() -> Arc<Filling> {
    let broker = Arc::new(Filling::default());
    broker.declare(&topology()).await.unwrap();
    broker
}

fn to(queue: &str, body: &'static str) -> Publication {
    Publication::to_queue(queue, Message::json(body))
}

async fn ready(broker: &Filling, queue: &str) -> u64 {
    broker.queue_stats(queue).await.unwrap().ready
}

#[test]
fn pauses_grow_to_a_bound() {
    let pauses = [0, 1, 2, 5, 6, 1000].map(|failed| Pauses::default().after(failed).as_millis());
    assert_eq!(pauses, [100, 200, 400, 3200, 5000, 5000]);
}

#[tokio::test(start_paused = true)]
async fn a_full_queue_holds_up_only_what_must_go_there() {
    let broker = broker().await;
    broker.set_full("full", true);
    let failures = Mutex::new(Vec::new());
    let room = broker.clone();
    let on_failure = |error: &BrokerError, left| {
        let mut failures = failures.lock().unwrap();
        failures.push((error.is_retryable(), left));
        if failures.len() == 3 {
            room.set_full("full", false);
        }
    };
    let topology = topology();
    let persist = Persist::new(&topology).telling(&on_failure);
    let batch = vec![to("q", "1"), to("full", "2"), to("q", "3")];
    let begun = Instant::now();
    all(&*broker, batch, &persist).await.unwrap();
    assert_eq!(
        broker.sent(),
        ["q/1", "full/2", "q/3", "full/2", "full/2", "full/2"]
    );
    assert_eq!(*failures.lock().unwrap(), [(true, 1); 3]);
    assert_eq!(begun.elapsed(), Duration::from_millis(100 + 200 + 400));
}

#[tokio::test(start_paused = true)]
async fn gives_up_at_the_deadline() {
    let broker = broker().await;
    broker.set_full("full", true);
    let topology = topology();
    let begun = Instant::now();
    let persist = Persist::until(&topology, begun + Duration::from_millis(500));
    let batch = vec![to("full", "1"), to("q", "2")];
    let unfinished = all(&*broker, batch, &persist).await.unwrap_err();
    assert_eq!(unfinished.left, [to("full", "1").again()]);
    assert!(unfinished.error.is_retryable());
    // Once more when the time is over, not later.
    assert_eq!(begun.elapsed(), Duration::from_millis(500));
    assert_eq!(
        broker.sent(),
        ["full/1", "q/2", "full/1", "full/1", "full/1"]
    );
}

#[tokio::test(start_paused = true)]
async fn the_ack_waits_for_the_last_and_the_rest_is_sent_once() {
    let broker = broker().await;
    broker.publish_one(to("source", "job")).await.unwrap();
    broker.sent();
    let mut consumer = broker
        .consume(ConsumeOptions::queue("source"))
        .await
        .unwrap();
    let receipt = consumer.next().await.unwrap().receipt;
    broker.set_full("full", true);
    let publishing = tokio::spawn({
        let broker = broker.clone();
        async move {
            let batch = vec![to("q", "1"), to("full", "2")];
            let topology = topology();
            all_then_ack(&*broker, batch, vec![receipt], &Persist::new(&topology)).await
        }
    });
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(ready(&broker, "q").await, 1);
    assert!(!publishing.is_finished());
    broker.set_full("full", false);
    publishing.await.unwrap().unwrap();
    assert_eq!(ready(&broker, "q").await, 1);
    assert_eq!(ready(&broker, "full").await, 1);
    drop(consumer);
    assert_eq!(ready(&broker, "source").await, 0);
}

/// A message that nothing takes is given up after a few tries, and the others were sent once.
#[tokio::test(start_paused = true)]
async fn what_is_missing_for_good_is_told() {
    let broker = broker().await;
    let topology = topology();
    let batch = vec![to("nowhere", "1"), to("q", "2")];
    let unfinished = all(&*broker, batch, &Persist::new(&topology))
        .await
        .unwrap_err();
    assert_eq!(unfinished.left, [to("nowhere", "1").again()]);
    assert!(matches!(unfinished.error, BrokerError::Unroutable { .. }));
    assert_eq!(broker.sent().len(), 2 + DECLARED_MAX as usize);
    assert_eq!(ready(&broker, "q").await, 1);
}

/// What is missing and what is full, in one batch: both are mended.
#[tokio::test(start_paused = true)]
async fn what_is_missing_is_declared_beside_what_is_full() {
    let broker = broker().await;
    broker.delete_queue("q").await.unwrap();
    broker.set_full("full", true);
    let room = broker.clone();
    let on_failure = |error: &BrokerError, _| {
        if error.is_retryable() {
            room.set_full("full", false);
        }
    };
    let topology = topology();
    let persist = Persist::new(&topology).telling(&on_failure);
    all(&*broker, vec![to("full", "1"), to("q", "2")], &persist)
        .await
        .unwrap();
    assert_eq!(ready(&broker, "q").await, 1);
    assert_eq!(ready(&broker, "full").await, 1);
}

struct Gone;

impl crate::broker::Settle for Gone {
    fn settle(&self, _: u64, _: crate::broker::Settlement) {}

    fn is_open(&self) -> bool {
        false
    }

    fn as_any(&self) -> &dyn std::any::Any {
        self
    }
}

#[tokio::test(start_paused = true)]
async fn nobody_goes_on_for_a_delivery_that_is_gone() {
    let broker = broker().await;
    broker.set_full("full", true);
    let topology = topology();
    let receipts = vec![Receipt::new(Arc::new(Gone), 1)];
    let persist = Persist::new(&topology);
    let publishing = all_then_ack(&*broker, vec![to("full", "1")], receipts, &persist);
    let unfinished = publishing.await.unwrap_err();
    assert_eq!(unfinished.left.len(), 1);
    assert_eq!(broker.sent(), ["full/1"]);
}
