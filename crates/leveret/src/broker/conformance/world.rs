//! What a case works with: a broker, names of its own, and ways to wait.

use std::{sync::Arc, time::Duration};

use tokio::{sync::watch, time::timeout};

use super::{Opener, PATIENCE};
use crate::broker::{
    Binding, Broker, BrokerError, Capabilities, ConsumeOptions, Consumer, ConsumerState, Delivery,
    Exchange, ExchangeKind, Message, Publication, Queue, QueueStats, Topology,
};

/// The world of one case. What it declares is deleted when it ends.
pub(super) struct World {
    open: Opener,
    pub(super) broker: Arc<dyn Broker>,
    prefix: String,
    declared: Topology,
}

impl World {
    pub(super) async fn new(open: Opener) -> World {
        let broker = open().await;
        World {
            open,
            broker,
            prefix: format!("leveret-test.{:016x}", fastrand::u64(..)),
            declared: Topology::default(),
        }
    }

    pub(super) fn capabilities(&self) -> Capabilities {
        self.broker.capabilities()
    }

    /// A name that nobody else uses.
    pub(super) fn name(&self, name: &str) -> Arc<str> {
        format!("{}.{name}", self.prefix).into()
    }

    /// Declares, and remembers what to delete.
    pub(super) async fn try_declare(&mut self, topology: &Topology) -> Result<(), BrokerError> {
        self.declared.queues.extend(topology.queues.iter().cloned());
        let exchanges = topology.exchanges.iter().cloned();
        self.declared.exchanges.extend(exchanges);
        self.broker.declare(topology).await
    }

    pub(super) async fn declare(&mut self, topology: &Topology) {
        self.try_declare(topology).await.expect("declare");
    }

    /// A plain queue.
    pub(super) async fn queue(&mut self, name: &str) -> Arc<str> {
        let name = self.name(name);
        self.declare(&Topology {
            queues: vec![Queue::plain(name.clone())],
            ..Topology::default()
        })
        .await;
        name
    }

    /// A queue with messages `0`, `1`, … in it.
    pub(super) async fn queue_of(&mut self, name: &str, count: usize) -> Arc<str> {
        let queue = self.queue(name).await;
        self.fill(&queue, 0..count).await;
        queue
    }

    pub(super) async fn exchange(&mut self, name: &str, kind: ExchangeKind) -> Arc<str> {
        let name = self.name(name);
        self.declare(&Topology {
            exchanges: vec![Exchange {
                name: name.clone(),
                kind,
            }],
            ..Topology::default()
        })
        .await;
        name
    }

    pub(super) async fn bind(&mut self, queue: &Arc<str>, exchange: &Arc<str>, key: &str) {
        self.declare(&Topology {
            bindings: vec![Binding {
                queue: queue.clone(),
                exchange: exchange.clone(),
                routing_key: key.into(),
            }],
            ..Topology::default()
        })
        .await;
    }

    /// Publishes one message whose body is `body`.
    pub(super) async fn publish(
        &self,
        exchange: &str,
        key: &str,
        body: &str,
    ) -> Result<(), BrokerError> {
        let publication = Publication {
            exchange: exchange.into(),
            routing_key: key.into(),
            message: text(body),
            copied: false,
        };
        let mut results = self.broker.publish(vec![publication]).await;
        assert_eq!(results.len(), 1, "one result for each publication");
        results.remove(0)
    }

    /// Publishes the numbers to a queue, as one batch.
    pub(super) async fn fill(&self, queue: &Arc<str>, numbers: std::ops::Range<usize>) {
        let batch = numbers.map(|number| to(queue, &number.to_string()));
        for result in self.broker.publish(batch.collect()).await {
            result.expect("publish");
        }
    }

    /// A consumer that is subscribed.
    pub(super) async fn consume(&self, queue: &Arc<str>, prefetch: u16) -> Consumer {
        let options = ConsumeOptions {
            prefetch,
            ..ConsumeOptions::queue(queue.clone())
        };
        let consumer = self.broker.consume(options).await.expect("consume");
        reaches(consumer.state(), ConsumerState::Live).await;
        consumer
    }

    /// Takes what is in the queue, acks it, and says what it was: shows routing. A last message of its own, published after all
    /// others, says that nothing more is to come.
    pub(super) async fn drain(&self, queue: &Arc<str>) -> Vec<String> {
        self.publish("", queue, "the end").await.expect("publish");
        let mut consumer = self.consume(queue, 10).await;
        let mut bodies = Vec::new();
        loop {
            let delivery = next(&mut consumer).await;
            let body = body(&delivery);
            delivery.receipt.ack();
            if body == "the end" {
                return bodies;
            }
            bodies.push(body);
        }
    }

    pub(super) async fn stats(&self, queue: &str) -> QueueStats {
        self.broker.queue_stats(queue).await.expect("queue stats")
    }

    /// Waits until the queue has so many ready messages. Settlements go out without an answer, so that a count may lag behind.
    pub(super) async fn reaches_ready(&self, queue: &str, ready: u64) {
        self.reaches_stats(queue, |stats| stats.ready == ready)
            .await;
    }

    pub(super) async fn reaches_stats(&self, queue: &str, wanted: impl Fn(QueueStats) -> bool) {
        let mut seen = QueueStats::default();
        let poll = async {
            let mut interval = tokio::time::interval(Duration::from_millis(2));
            loop {
                interval.tick().await;
                seen = self.stats(queue).await;
                if wanted(seen) {
                    return;
                }
            }
        };
        let reached = timeout(PATIENCE, poll).await;
        assert!(
            reached.is_ok(),
            "the counts of the queue stayed at {seen:?}"
        );
    }

    /// Closes the broker and opens it anew.
    pub(super) async fn reopen(&mut self) {
        self.broker.close().await;
        self.broker = (self.open)().await;
    }

    pub(super) async fn clean_up(&mut self) {
        if !self.broker.is_connected() {
            self.reopen().await;
        }
        for queue in &self.declared.queues {
            let _ = self.broker.delete_queue(&queue.name).await;
        }
        for exchange in &self.declared.exchanges {
            let _ = self.broker.delete_exchange(&exchange.name).await;
        }
        self.broker.close().await;
    }
}

/// The next delivery, which must come.
pub(super) async fn next(consumer: &mut Consumer) -> Delivery {
    timeout(PATIENCE, consumer.next())
        .await
        .expect("a delivery comes")
        .expect("the consumer is open")
}

/// So many deliveries, which must come.
pub(super) async fn take(consumer: &mut Consumer, count: usize) -> Vec<Delivery> {
    let mut deliveries = Vec::with_capacity(count);
    while deliveries.len() < count {
        deliveries.push(next(consumer).await);
    }
    deliveries
}

/// Waits until the consumer is in a state.
pub(super) async fn reaches(mut state: watch::Receiver<ConsumerState>, wanted: ConsumerState) {
    let reached = timeout(PATIENCE, state.wait_for(|state| *state == wanted)).await;
    let seen = reached.map(|result| result.map(|state| *state));
    assert!(
        matches!(seen, Ok(Ok(_))),
        "the consumer reaches {wanted:?}; it is {:?}",
        *state.borrow()
    );
}

pub(super) fn text(body: &str) -> Message {
    Message {
        body: body.as_bytes().to_vec().into(),
        ..Message::default()
    }
}

pub(super) fn to(queue: &Arc<str>, body: &str) -> Publication {
    Publication::to_queue(queue.clone(), text(body))
}

pub(super) fn body(delivery: &Delivery) -> String {
    String::from_utf8_lossy(&delivery.message.body).into_owned()
}

/// The numbers as bodies.
pub(super) fn numbers(range: std::ops::Range<usize>) -> Vec<String> {
    range.map(|number| number.to_string()).collect()
}

pub(super) fn bodies(deliveries: &[Delivery]) -> Vec<String> {
    deliveries.iter().map(body).collect()
}

pub(super) fn ack_all(deliveries: Vec<Delivery>) {
    for delivery in deliveries {
        delivery.receipt.ack();
    }
}
