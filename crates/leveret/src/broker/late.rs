//! A broker that may be away when the process starts: connected in the background, unavailable until then.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use tokio::{sync::watch, task::JoinHandle, time::sleep};

use super::{
    Binding, Broker, BrokerError, Capabilities, ConsumeOptions, Consumer, Publication, QueueStats,
    Receipt, Topology, Unfinished,
    rabbitmq::{RabbitMq, RabbitMqOptions},
};

/// The pause before the broker is tried again.
const PAUSE: Duration = Duration::from_millis(500);

/// RabbitMQ, perhaps not yet. Every call is [`BrokerError::Unavailable`] until it is there; from then on it is [`RabbitMq`].
#[derive(Debug)]
pub struct LateRabbitMq {
    connected: watch::Receiver<Option<Arc<RabbitMq>>>,
    connecting: JoinHandle<()>,
}

impl LateRabbitMq {
    /// Connects, or begins to. An error is one that time does not mend, as far as the first attempt tells: the URL, the credentials.
    pub async fn connect(options: RabbitMqOptions) -> Result<LateRabbitMq, BrokerError> {
        let first = match RabbitMq::connect(options.clone()).await {
            Ok(broker) => Some(Arc::new(broker)),
            Err(error) if error.is_retryable() => {
                tracing::warn!(%error, "the broker is away; trying on");
                None
            }
            Err(error) => return Err(error),
        };
        let is_there = first.is_some();
        let (tell, connected) = watch::channel(first);
        let connecting = tokio::spawn(async move {
            if !is_there {
                tell.send_replace(Some(Arc::new(connect(options).await)));
            }
        });
        Ok(LateRabbitMq {
            connected,
            connecting,
        })
    }

    fn get(&self) -> Result<Arc<RabbitMq>, BrokerError> {
        let connected = self.connected.borrow().clone();
        connected.ok_or_else(|| BrokerError::Unavailable {
            detail: "not connected yet".to_owned(),
        })
    }
}

async fn connect(options: RabbitMqOptions) -> RabbitMq {
    loop {
        sleep(PAUSE).await;
        match RabbitMq::connect(options.clone()).await {
            Ok(broker) => return broker,
            Err(error) if error.is_retryable() => tracing::debug!(%error, "the broker is away"),
            Err(error) => tracing::error!(%error, "the broker cannot be used; trying on"),
        }
    }
}

#[async_trait]
impl Broker for LateRabbitMq {
    fn capabilities(&self) -> Capabilities {
        RabbitMq::CAPABILITIES
    }

    async fn declare(&self, topology: &Topology) -> Result<(), BrokerError> {
        self.get()?.declare(topology).await
    }

    async fn unbind(&self, bindings: &[Binding]) -> Result<(), BrokerError> {
        self.get()?.unbind(bindings).await
    }

    async fn publish(&self, batch: Vec<Publication>) -> Vec<Result<(), BrokerError>> {
        match self.get() {
            Ok(broker) => broker.publish(batch).await,
            Err(error) => vec![Err(error); batch.len()],
        }
    }

    async fn publish_then_ack(
        &self,
        batch: Vec<Publication>,
        receipts: Vec<Receipt>,
    ) -> Result<(), Unfinished> {
        match self.get() {
            Ok(broker) => broker.publish_then_ack(batch, receipts).await,
            Err(error) => Err(Unfinished {
                error,
                left: batch,
                receipts,
            }),
        }
    }

    async fn consume(&self, options: ConsumeOptions) -> Result<Consumer, BrokerError> {
        self.get()?.consume(options).await
    }

    async fn queue_stats(&self, queue: &str) -> Result<QueueStats, BrokerError> {
        self.get()?.queue_stats(queue).await
    }

    fn known_queues(&self) -> Vec<Arc<str>> {
        self.get()
            .map_or_else(|_| Vec::new(), |broker| broker.known_queues())
    }

    async fn purge(&self, queue: &str) -> Result<u64, BrokerError> {
        self.get()?.purge(queue).await
    }

    async fn delete_queue(&self, queue: &str) -> Result<(), BrokerError> {
        self.get()?.delete_queue(queue).await
    }

    async fn delete_exchange(&self, exchange: &str) -> Result<(), BrokerError> {
        self.get()?.delete_exchange(exchange).await
    }

    fn is_connected(&self) -> bool {
        self.get().is_ok_and(|broker| broker.is_connected())
    }

    async fn close(&self) {
        self.connecting.abort();
        if let Ok(broker) = self.get() {
            broker.close().await;
        }
    }
}
