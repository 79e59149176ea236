//! What stands between a service and the broker: copies, orders and crashes.

use std::sync::Arc;

use async_trait::async_trait;
use tokio::{
    sync::{Semaphore, mpsc},
    time::sleep,
};

use super::life::Life;
use crate::{
    broker::{
        Binding, Broker, BrokerError, Capabilities, ConsumeOptions, Consumer, Delivery,
        Publication, QueueStats, Receipt, Topology, Unfinished, memory::MemoryBroker,
        work::HEADER_ATTEMPTS,
    },
    crash::Point,
};

/// The broker of one life.
#[derive(Debug)]
pub(super) struct LivedBroker {
    pub(super) inner: MemoryBroker,
    pub(super) life: Arc<Life>,
}

impl LivedBroker {
    fn note_published(&self, batch: &[Publication]) {
        for Publication {
            exchange,
            routing_key,
            ..
        } in batch
        {
            let what = format_args!("publishes to {exchange}/{routing_key}");
            self.life.note(what);
        }
    }
}

#[async_trait]
impl Broker for LivedBroker {
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            // A crash may come between the two.
            atomic_publish_then_ack: false,
            ..self.inner.capabilities()
        }
    }

    async fn declare(&self, topology: &Topology) -> Result<(), BrokerError> {
        self.life.go_on().await;
        self.inner.declare(topology).await
    }

    async fn unbind(&self, bindings: &[Binding]) -> Result<(), BrokerError> {
        self.life.go_on().await;
        self.inner.unbind(bindings).await
    }

    async fn publish(&self, batch: Vec<Publication>) -> Vec<Result<(), BrokerError>> {
        self.life.come_to(Point::RelayBeforePublish).await;
        self.note_published(&batch);
        let results = self.inner.publish(batch).await;
        self.life.come_to(Point::RelayAfterPublish).await;
        results
    }

    /// In two steps, as brokers elsewhere do: a crash may come between them.
    async fn publish_then_ack(
        &self,
        batch: Vec<Publication>,
        receipts: Vec<Receipt>,
    ) -> Result<(), Unfinished> {
        self.life.go_on().await;
        self.note_published(&batch);
        let results = self.inner.publish(batch.clone()).await;
        Unfinished::of(batch, results, receipts)?
            .into_iter()
            .for_each(Receipt::ack);
        self.life.go_on().await;
        Ok(())
    }

    async fn consume(&self, options: ConsumeOptions) -> Result<Consumer, BrokerError> {
        self.life.go_on().await;
        let queue = options.queue.clone();
        let inner = self.inner.consume(options).await?;
        let state = inner.state();
        let (out, deliveries) = mpsc::channel(Semaphore::MAX_PERMITS);
        let forwarding = tokio::spawn(forward(self.life.clone(), queue, inner, out));
        let cancel = move || forwarding.abort();
        Ok(Consumer::new(deliveries, state, cancel))
    }

    async fn queue_stats(&self, queue: &str) -> Result<QueueStats, BrokerError> {
        self.life.go_on().await;
        self.inner.queue_stats(queue).await
    }

    fn known_queues(&self) -> Vec<Arc<str>> {
        self.inner.known_queues()
    }

    async fn purge(&self, queue: &str) -> Result<u64, BrokerError> {
        self.life.go_on().await;
        self.inner.purge(queue).await
    }

    async fn delete_queue(&self, queue: &str) -> Result<(), BrokerError> {
        self.life.go_on().await;
        self.inner.delete_queue(queue).await
    }

    async fn delete_exchange(&self, exchange: &str) -> Result<(), BrokerError> {
        self.life.go_on().await;
        self.inner.delete_exchange(exchange).await
    }

    fn is_connected(&self) -> bool {
        self.inner.is_connected()
    }

    /// Closes the world's: a service leaves that to its process.
    async fn close(&self) {
        self.inner.close().await;
    }
}

/// Hands deliveries on, each as often and as late as is to be.
async fn forward(
    life: Arc<Life>,
    queue: Arc<str>,
    mut inner: Consumer,
    out: mpsc::Sender<Delivery>,
) {
    loop {
        let delivery = tokio::select! {
            biased;
            () = life.over() => return,
            delivery = inner.next() => delivery,
        };
        let Some(delivery) = delivery else { return };
        for copy in copies(&life, delivery) {
            let held_back = life.world.faults().held_back();
            let (out, life, queue) = (out.clone(), life.clone(), queue.clone());
            let hand_on = async move {
                life.note(format_args!("gets one of {queue}"));
                // Whoever reads may have gone: then it returns to its queue.
                drop(out.send(copy).await);
            };
            match held_back {
                None => hand_on.await,
                Some(time) => {
                    tokio::spawn(async move {
                        sleep(time).await;
                        hand_on.await;
                    });
                }
            }
        }
    }
}

fn copies(life: &Arc<Life>, delivery: Delivery) -> Vec<Delivery> {
    let Delivery {
        message,
        flaw,
        exchange,
        routing_key,
        redelivered,
        receipt,
    } = delivery;
    let is_first = !redelivered && !message.headers.contains_key(HEADER_ATTEMPTS);
    let copies = if is_first {
        life.world.faults().copies
    } else {
        1
    };
    let receipts = life.hold(receipt, copies).into_iter().flatten();
    let copy = |receipt| Delivery {
        message: message.clone(),
        flaw: flaw.clone(),
        exchange: exchange.clone(),
        routing_key: routing_key.clone(),
        redelivered,
        receipt,
    };
    receipts.map(copy).collect()
}
