//! A broker in memory, for simulations and tests: all of the seam's promises but survival.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use leveret_core::time::Timestamp;
use tokio::time::Instant;

use super::{
    Binding, Broker, BrokerError, Capabilities, ConsumeOptions, Consumer, Publication, QueueStats,
    Receipt, Settlement, Topology, Unfinished,
    header::check_headers,
    local::{self, Home, Hub, Target},
    queues::{Bounds, ConsumerId, Stored, Waiting},
    routes::QueueId,
};

/// A broker whose messages live as long as it does. Time is tokio's, so that a paused clock drives its delay queues.
#[derive(Clone)]
pub struct MemoryBroker(Arc<Shared>);

struct Shared {
    hub: Mutex<Hub>,
    started: Instant,
    next_queue: std::sync::atomic::AtomicU32,
    has_timer: AtomicBool,
    me: Weak<Shared>,
}

impl MemoryBroker {
    /// An empty broker.
    pub fn new() -> MemoryBroker {
        MemoryBroker(Arc::new_cyclic(|me: &Weak<Shared>| Shared {
            hub: Mutex::new(Hub::new(Bounds::NONE, me.clone())),
            started: Instant::now(),
            next_queue: 1.into(),
            has_timer: AtomicBool::new(false),
            me: me.clone(),
        }))
    }
}

impl Default for MemoryBroker {
    fn default() -> Self {
        MemoryBroker::new()
    }
}

impl std::fmt::Debug for MemoryBroker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("MemoryBroker")
    }
}

impl Shared {
    fn hub(&self) -> MutexGuard<'_, Hub> {
        self.hub.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> Timestamp {
        Timestamp(self.started.elapsed().as_millis() as i64)
    }

    fn publish_one(&self, hub: &mut Hub, publication: Publication) -> Result<(), BrokerError> {
        check_headers(&publication.message)?;
        let routed = hub.route(&publication.exchange, &publication.routing_key)?;
        self.put(hub, &routed.targets, &local::stored(publication));
        Ok(())
    }

    fn put(&self, hub: &mut Hub, targets: &[Target], stored: &Arc<Stored>) {
        for target in targets {
            let waiting = Waiting {
                seq: target.next_seq(),
                due: target.due(self.now()),
                redelivered: false,
                stored: stored.clone(),
            };
            hub.arrive(target.queue, waiting);
            hub.dispatch(target.queue);
        }
    }

    fn start_timer(&self, hub: &Hub) {
        if !self.has_timer.swap(true, Ordering::Relaxed) {
            local::spawn_timer(self.me.clone(), hub.timer.clone());
        }
    }
}

/// Lets the timer see that the broker is gone.
impl Drop for Shared {
    fn drop(&mut self) {
        let hub = self.hub.get_mut().unwrap_or_else(PoisonError::into_inner);
        hub.timer.notify_one();
    }
}

impl Home for Shared {
    fn settle(&self, queue: QueueId, seq: u64, settlement: Settlement) {
        let mut hub = self.hub();
        if hub.settle(queue, seq, settlement) {
            hub.dispatch(queue);
        }
    }

    fn unsubscribe(&self, consumer: ConsumerId) {
        self.hub().unsubscribe(consumer);
    }

    fn move_due(&self) -> Option<Duration> {
        let mut hub = self.hub();
        let now = self.now();
        if hub.is_closed() {
            return None;
        }
        for due in hub.take_due(now, usize::MAX) {
            self.put(&mut hub, &[due.target], &due.stored);
        }
        for (_, expired) in hub.take_expired(Instant::now()) {
            hub.remove_queue(&expired);
        }
        let due = hub.next_due();
        let due = due.map(|next| Duration::from_millis(next.ms_since(now)));
        due.into_iter().chain(local::until(hub.next_expiry())).min()
    }
}

#[async_trait]
impl Broker for MemoryBroker {
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            durable: false,
            shared: false,
            atomic_publish_then_ack: true,
        }
    }

    async fn declare(&self, topology: &Topology) -> Result<(), BrokerError> {
        let mut hub = self.0.hub();
        hub.check_open()?;
        let missing = hub.routes.missing(topology)?;
        for exchange in &missing.exchanges {
            hub.routes.add_exchange(exchange);
        }
        for queue in &missing.queues {
            let id = QueueId(self.0.next_queue.fetch_add(1, Ordering::Relaxed));
            hub.add_queue(queue, id, (0, 0, 0));
            if queue.delay.is_some() || queue.expires_after.is_some() {
                self.0.start_timer(&hub);
            }
        }
        for binding in &missing.bindings {
            hub.routes.add_binding(binding);
        }
        hub.touch(&topology.queues);
        Ok(())
    }

    async fn unbind(&self, bindings: &[Binding]) -> Result<(), BrokerError> {
        let mut hub = self.0.hub();
        hub.check_open()?;
        for binding in bindings {
            hub.routes.remove_binding(binding);
        }
        Ok(())
    }

    async fn publish(&self, batch: Vec<Publication>) -> Vec<Result<(), BrokerError>> {
        let mut hub = self.0.hub();
        let publish = |publication| {
            hub.check_open()?;
            self.0.publish_one(&mut hub, publication)
        };
        batch.into_iter().map(publish).collect()
    }

    async fn publish_then_ack(
        &self,
        batch: Vec<Publication>,
        receipts: Vec<Receipt>,
    ) -> Result<(), Unfinished> {
        let published = || {
            let mut hub = self.0.hub();
            hub.check_open()?;
            let routed = batch.iter().map(|publication| {
                check_headers(&publication.message)?;
                let routed = hub.route(&publication.exchange, &publication.routing_key)?;
                Ok((routed, local::stored(publication.clone())))
            });
            for (routed, stored) in routed.collect::<Result<Vec<_>, BrokerError>>()? {
                self.0.put(&mut hub, &routed.targets, &stored);
            }
            Ok(())
        };
        match published() {
            Ok(()) => receipts.into_iter().for_each(Receipt::ack),
            Err(error) => {
                return Err(Unfinished {
                    error,
                    left: batch,
                    receipts,
                });
            }
        }
        Ok(())
    }

    async fn consume(&self, options: ConsumeOptions) -> Result<Consumer, BrokerError> {
        let mut hub = self.0.hub();
        let (queue, consumer) = hub.subscribe(&options)?;
        hub.dispatch(queue);
        Ok(consumer)
    }

    async fn queue_stats(&self, queue: &str) -> Result<QueueStats, BrokerError> {
        self.0.hub().stats(queue)
    }

    fn known_queues(&self) -> Vec<Arc<str>> {
        self.0.hub().routes.queue_names()
    }

    async fn purge(&self, queue: &str) -> Result<u64, BrokerError> {
        let (_, purged) = self.0.hub().purge(queue)?;
        Ok(purged.count)
    }

    async fn delete_queue(&self, queue: &str) -> Result<(), BrokerError> {
        let mut hub = self.0.hub();
        hub.check_open()?;
        hub.remove_queue(queue);
        Ok(())
    }

    async fn delete_exchange(&self, exchange: &str) -> Result<(), BrokerError> {
        let mut hub = self.0.hub();
        hub.check_open()?;
        hub.routes.remove_exchange(exchange);
        Ok(())
    }

    fn is_connected(&self) -> bool {
        !self.0.hub().is_closed()
    }

    async fn close(&self) {
        self.0.hub().close();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broker::conformance;

    #[tokio::test]
    async fn conforms() {
        conformance::exercise(|| async { Arc::new(MemoryBroker::new()) as Arc<dyn Broker> }).await;
    }

    /// The same on a clock that jumps: what simulations rely on.
    #[tokio::test(start_paused = true)]
    async fn conforms_with_paused_time() {
        conformance::exercise(|| async { Arc::new(MemoryBroker::new()) as Arc<dyn Broker> }).await;
    }
}
