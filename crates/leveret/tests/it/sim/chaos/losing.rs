//! A broker that crashes with jobs in its memory: it delivers some before it has them on disk, and never confirms them. Whoever executes such a
//! job has lost its delivery.

use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use leveret::broker::{
    Binding, Broker, BrokerError, Capabilities, ConsumeOptions, Consumer, Delivery, Header,
    Publication, QueueStats, Receipt, Settle, Settlement, Topology,
};
use tokio::sync::mpsc;

use super::{World, away};

/// On a message that is lost when it is delivered.
const LOST: &str = "chaos-lost";

pub(crate) struct LosingBroker {
    pub(crate) inner: Arc<dyn Broker>,
    pub(crate) world: Arc<Mutex<World>>,
}

impl LosingBroker {
    /// Whether this message is a job, and will be lost.
    fn loses(&self, publication: &Publication) -> bool {
        let mut world = self.world.lock().unwrap();
        let is_job = publication.routing_key.ends_with("workflow.execution");
        if !is_job || world.losses_left == 0 || world.below(6) > 0 {
            return false;
        }
        world.losses_left -= 1;
        let job = String::from_utf8_lossy(&publication.message.body);
        let line = format!("broker loses {}", job.chars().take(120).collect::<String>());
        world.trace.push(line);
        true
    }
}

/// The delivery as whoever gets it sees it.
fn delivered(mut delivery: Delivery) -> Delivery {
    if delivery.message.headers.remove(LOST).is_some() {
        let gone = Receipt::new(Arc::new(Gone), 0);
        std::mem::replace(&mut delivery.receipt, gone).ack();
        delivery.redelivered = false;
    }
    delivery
}

/// The channel of a connection that is lost.
struct Gone;

impl Settle for Gone {
    fn settle(&self, _: u64, _: Settlement) {}

    fn is_open(&self) -> bool {
        false
    }

    fn as_any(&self) -> &dyn std::any::Any {
        self
    }
}

#[async_trait]
impl Broker for LosingBroker {
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            shared: true,
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
    async fn publish(&self, mut batch: Vec<Publication>) -> Vec<Result<(), BrokerError>> {
        let lost: Vec<bool> = batch.iter().map(|message| self.loses(message)).collect();
        for (publication, _) in batch.iter_mut().zip(&lost).filter(|(_, lost)| **lost) {
            let headers = &mut publication.message.headers;
            headers.insert(LOST.to_owned(), Header::Bool(true));
        }
        let results = self.inner.publish(batch).await;
        let outcome = |(result, lost)| if lost { Err(away()) } else { result };
        results.into_iter().zip(lost).map(outcome).collect()
    }
    async fn consume(&self, options: ConsumeOptions) -> Result<Consumer, BrokerError> {
        let mut inner = self.inner.consume(options).await?;
        let state = inner.state();
        let (sender, deliveries) = mpsc::channel(1);
        let forwarding = tokio::spawn(async move {
            while let Some(delivery) = inner.next().await {
                if sender.send(delivered(delivery)).await.is_err() {
                    return;
                }
            }
        });
        Ok(Consumer::new(deliveries, state, move || forwarding.abort()))
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
