//! What the brokers inside this process share: routes, queues and the consumers' channels, as one value behind a lock.
//!
//! Nothing here waits. A consumer's channel has room for all that it may be sent.

use std::{
    any::Any,
    collections::HashMap,
    sync::{
        Arc, Weak,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use leveret_core::time::Timestamp;
use tokio::{
    sync::{Notify, Semaphore, mpsc, watch},
    time::Instant,
};

use super::{
    BrokerError, ConsumeOptions, Consumer, ConsumerState, DEFAULT_EXCHANGE, Delay, Delivery, Queue,
    QueueStats, Receipt, Settle, Settlement,
    queues::{Bounds, ConsumerId, Need, Purged, QueueState, Stored, Waiting},
    routes::{QueueId, Routes},
};

/// A broker as its receipts, consumers and timer see it.
pub(super) trait Home: Send + Sync + 'static {
    /// Ends a delivery.
    fn settle(&self, queue: QueueId, seq: u64, settlement: Settlement);
    /// Ends a subscription.
    fn unsubscribe(&self, consumer: ConsumerId);
    /// Moves what is due on, and removes the queues that expired; says after how long there is more.
    fn move_due(&self) -> Option<Duration>;
}

/// Where the receipts of one queue settle.
#[derive(Clone)]
pub(super) struct Channel {
    pub(super) home: Weak<dyn Home>,
    pub(super) queue: QueueId,
}

impl Settle for Channel {
    fn settle(&self, tag: u64, settlement: Settlement) {
        if let Some(home) = self.home.upgrade() {
            home.settle(self.queue, tag, settlement);
        }
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// A queue's number and the next number of its messages, for those who give them out of the lock.
#[derive(Clone)]
pub(super) struct Target {
    pub(super) queue: QueueId,
    pub(super) sequence: Arc<AtomicU64>,
    /// How long messages stay in a delay queue.
    pub(super) after: Option<Duration>,
}

impl Target {
    /// The next message's number.
    pub(super) fn next_seq(&self) -> u64 {
        self.sequence.fetch_add(1, Ordering::Relaxed)
    }

    /// When a message that arrives now is due.
    pub(super) fn due(&self, now: Timestamp) -> Timestamp {
        self.after.map_or(Timestamp(0), |after| now + after)
    }
}

/// A message on its way from a delay queue, as if published to the target.
pub(super) struct Due {
    pub(super) queue: QueueId,
    pub(super) waiting: Waiting,
    pub(super) target: Target,
    pub(super) stored: Arc<Stored>,
}

/// Routes, queues and consumers.
pub(super) struct Hub {
    pub(super) routes: Routes,
    queues: HashMap<QueueId, Live>,
    /// Consumers whose queue was deleted, until one of the same name is declared.
    stranded: HashMap<ConsumerId, Port>,
    bounds: Bounds,
    home: Weak<dyn Home>,
    next_consumer: u64,
    closed: bool,
    /// Woken when a delay queue may have become due, or a queue may expire, earlier.
    pub(super) timer: Arc<Notify>,
}

/// Where a message goes, with the places it takes there. Those are given back when this is dropped; that must be under the hub's lock, so that
/// a message that arrived does not count twice.
pub(super) struct Routed {
    pub(super) targets: Vec<Target>,
    pub(super) places: Vec<Place>,
}

/// A place in a queue of bounded length for a message on its way.
pub(super) struct Place(Arc<AtomicU64>);

impl Place {
    fn take(coming: &Arc<AtomicU64>) -> Place {
        coming.fetch_add(1, Ordering::Relaxed);
        Place(coming.clone())
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

struct Live {
    state: QueueState,
    delay: Option<Delay>,
    length_max: Option<u64>,
    /// Messages that have a place and did not arrive yet.
    coming: Arc<AtomicU64>,
    expires_after: Option<Duration>,
    /// Since when nobody consumes or declares it; nothing while somebody does, or while it is being deleted.
    unused_since: Option<Instant>,
    sequence: Arc<AtomicU64>,
    ports: HashMap<ConsumerId, Port>,
    channel: Arc<Channel>,
}

struct Port {
    /// Has room for all: what a deleted queue had delivered may lie in it unread, besides as much as `prefetch` allows.
    sender: mpsc::Sender<Delivery>,
    state: watch::Sender<ConsumerState>,
    queue: Arc<str>,
    prefetch: u16,
}

impl Hub {
    pub(super) fn new(bounds: Bounds, home: Weak<dyn Home>) -> Hub {
        Hub {
            routes: Routes::default(),
            queues: HashMap::new(),
            stranded: HashMap::new(),
            bounds,
            home,
            next_consumer: 0,
            closed: false,
            timer: Arc::new(Notify::new()),
        }
    }

    pub(super) fn check_open(&self) -> Result<(), BrokerError> {
        if self.closed {
            return Err(BrokerError::Closed);
        }
        Ok(())
    }

    /// Adds a queue with `count` messages, numbered up to `tail`, that are paged out; those up to `delivered` may have been
    /// delivered. Consumers of one that had its name go on with it.
    pub(super) fn add_queue(
        &mut self,
        queue: &Queue,
        id: QueueId,
        (count, tail, delivered): (u64, u64, u64),
    ) {
        self.routes.add_queue(queue, id);
        let mut live = Live {
            state: QueueState::paged_out(self.bounds, count, tail, delivered)
                .single_active(queue.single_active),
            delay: queue.delay.clone(),
            length_max: queue.length_max,
            coming: Arc::default(),
            expires_after: queue.expires_after,
            unused_since: Some(Instant::now()),
            sequence: Arc::new(AtomicU64::new(tail.max(delivered) + 1)),
            ports: HashMap::new(),
            channel: Arc::new(Channel {
                home: self.home.clone(),
                queue: id,
            }),
        };
        let waiting = self.stranded.extract_if(|_, port| port.queue == queue.name);
        for (consumer, port) in waiting {
            live.subscribe(consumer, port);
        }
        self.queues.insert(id, live);
        // A delay queue may have waited for this one, and it may be the next to expire.
        self.timer.notify_one();
    }

    /// Removes a queue; its consumers wait for another one of this name.
    pub(super) fn remove_queue(&mut self, name: &str) {
        let live = self
            .routes
            .remove_queue(name)
            .and_then(|id| self.queues.remove(&id));
        for (consumer, port) in live.into_iter().flat_map(|live| live.ports) {
            port.state.send_replace(ConsumerState::Lost);
            self.stranded.insert(consumer, port);
        }
    }

    /// Where a message goes. [`BrokerError::NotAccepted`] if a queue is full, and then no queue takes it.
    pub(super) fn route(
        &self,
        exchange: &Arc<str>,
        routing_key: &Arc<str>,
    ) -> Result<Routed, BrokerError> {
        let queues = self.routes.route(exchange, routing_key)?;
        let mut places = Vec::new();
        for live in queues.iter().filter_map(|queue| self.queues.get(queue)) {
            places.extend(live.place()?);
        }
        let targets = queues.iter().filter_map(|queue| self.target(*queue));
        Ok(Routed {
            targets: targets.collect(),
            places,
        })
    }

    pub(super) fn target(&self, queue: QueueId) -> Option<Target> {
        let live = self.queues.get(&queue)?;
        Some(Target {
            queue,
            sequence: live.sequence.clone(),
            after: live.delay.as_ref().map(|delay| delay.after),
        })
    }

    /// Adds a message to a queue; false if the queue is gone. [`dispatch`](Self::dispatch) follows.
    pub(super) fn arrive(&mut self, queue: QueueId, waiting: Waiting) -> bool {
        let Some(live) = self.queues.get_mut(&queue) else {
            return false;
        };
        live.state.arrive(waiting);
        if live.delay.is_some() {
            self.timer.notify_one();
        }
        true
    }

    /// Adds a message that is handed to its publisher; gives it back if it cannot be, for [`arrive`](Self::arrive).
    pub(super) fn hold(&mut self, queue: QueueId, waiting: Waiting) -> Result<Delivery, Waiting> {
        match self.queues.get_mut(&queue) {
            Some(live) if !self.closed => {
                live.state.hold(waiting.clone())?;
                Ok(live.delivery(&waiting))
            }
            _ => Err(waiting),
        }
    }

    /// Sends what can be delivered; says what the queue needs for more.
    pub(super) fn dispatch(&mut self, queue: QueueId) -> Vec<(QueueId, Need)> {
        let Some(live) = self.queues.get_mut(&queue) else {
            return Vec::new();
        };
        live.dispatch();
        let is_delay = live.delay.is_some();
        std::iter::from_fn(|| live.state.need(is_delay))
            .map(|need| (queue, need))
            .collect()
    }

    /// Ends a delivery; false if it is not held, as after the end of its queue.
    pub(super) fn settle(&mut self, queue: QueueId, seq: u64, settlement: Settlement) -> bool {
        let live = self.queues.get_mut(&queue);
        !self.closed && live.is_some_and(|live| live.state.settle(seq, settlement))
    }

    /// A subscription; [`dispatch`](Self::dispatch) follows.
    pub(super) fn subscribe(
        &mut self,
        options: &ConsumeOptions,
    ) -> Result<(QueueId, Consumer), BrokerError> {
        self.check_open()?;
        let queue = self.routes.existing(&options.queue)?;
        let live = self
            .queues
            .get_mut(&queue)
            .expect("routes name live queues");
        let consumer = ConsumerId(self.next_consumer);
        self.next_consumer += 1;
        let prefetch = options.prefetch.max(1);
        let (sender, deliveries) = mpsc::channel(Semaphore::MAX_PERMITS);
        let (state, watched) = watch::channel(ConsumerState::Starting);
        let port = Port {
            sender,
            state,
            queue: options.queue.clone(),
            prefetch,
        };
        live.subscribe(consumer, port);
        let home = self.home.clone();
        let cancel = move || {
            if let Some(home) = home.upgrade() {
                home.unsubscribe(consumer);
            }
        };
        Ok((queue, Consumer::new(deliveries, watched, cancel)))
    }

    pub(super) fn unsubscribe(&mut self, consumer: ConsumerId) {
        let mut queues = self.queues.values_mut();
        if let Some(port) = self.stranded.remove(&consumer) {
            port.state.send_replace(ConsumerState::Draining);
        } else if let Some(live) = queues.find(|live| live.ports.contains_key(&consumer)) {
            live.unsubscribe(consumer);
            if live.expires_after.is_some() {
                self.timer.notify_one();
            }
        }
    }

    /// Puts back what [`take_due`](Self::take_due) took and could not be moved.
    pub(super) fn restore(&mut self, queue: QueueId, waiting: Waiting) {
        if let Some(live) = self.queues.get_mut(&queue) {
            live.state.restore(waiting);
        }
    }

    /// What was read for [`Need::Page`]; nothing if reading failed.
    pub(super) fn page_in(&mut self, queue: QueueId, epoch: u64, rows: Option<Vec<Waiting>>) {
        if let Some(live) = self.queues.get_mut(&queue) {
            live.state.page_in(epoch, rows);
            if live.delay.is_some() {
                self.timer.notify_one();
            }
        }
    }

    pub(super) fn allow(&mut self, queue: QueueId, upto: u64) {
        if let Some(live) = self.queues.get_mut(&queue) {
            live.state.allow(upto);
        }
    }

    pub(super) fn stats(&self, name: &str) -> Result<QueueStats, BrokerError> {
        self.check_open()?;
        let queue = self.routes.existing(name)?;
        Ok(self.queues[&queue].state.stats())
    }

    pub(super) fn purge(&mut self, name: &str) -> Result<(QueueId, Purged), BrokerError> {
        self.check_open()?;
        let queue = self.routes.existing(name)?;
        let live = self
            .queues
            .get_mut(&queue)
            .expect("routes name live queues");
        Ok((queue, live.state.purge()))
    }

    /// Takes at most `limit` due messages out of the delay queues, each with the queue it was in and the one it goes to. One whose
    /// target does not exist stays until it does.
    pub(super) fn take_due(&mut self, now: Timestamp, limit: usize) -> Vec<Due> {
        let mut due = Vec::new();
        for (queue, to) in self.delay_queues() {
            let Some(target) = self.routes.queue(&to).and_then(|to| self.target(to)) else {
                continue;
            };
            let live = self.queues.get_mut(&queue).expect("listed above");
            while due.len() < limit
                && let Some(waiting) = live.state.take_due(now)
            {
                due.push(Due {
                    queue,
                    target: target.clone(),
                    stored: Arc::new(Stored {
                        message: waiting.stored.message.clone(),
                        exchange: DEFAULT_EXCHANGE.into(),
                        routing_key: to.clone(),
                    }),
                    waiting,
                });
            }
        }
        due
    }

    /// When [`take_due`](Self::take_due) has more.
    pub(super) fn next_due(&self) -> Option<Timestamp> {
        let queues = self.queues.values();
        let waiting = queues.filter(|live| {
            let to = live.delay.as_ref().map(|delay| &delay.to);
            to.is_some_and(|to| self.routes.queue(to).is_some())
        });
        waiting.filter_map(|live| live.state.next_due()).min()
    }

    fn delay_queues(&self) -> Vec<(QueueId, Arc<str>)> {
        let queues = self.queues.iter();
        queues
            .filter_map(|(id, live)| Some((*id, live.delay.as_ref()?.to.clone())))
            .collect()
    }

    /// How far each queue has delivered.
    pub(super) fn delivered(&self) -> Vec<(QueueId, u64)> {
        let queues = self.queues.iter();
        queues
            .map(|(id, live)| (*id, live.state.delivered()))
            .collect()
    }

    /// Declaring a queue is a use of it.
    pub(super) fn touch(&mut self, queues: &[Queue]) {
        for queue in queues {
            let id = self.routes.queue(&queue.name);
            if let Some(live) = id.and_then(|id| self.queues.get_mut(&id)) {
                live.rest();
            }
        }
    }

    /// The queues that were unused for too long, each told once, to be deleted by [`remove_expired`](Self::remove_expired).
    pub(super) fn take_expired(&mut self, now: Instant) -> Vec<(QueueId, Arc<str>)> {
        let mut expired = Vec::new();
        for (id, live) in &mut self.queues {
            if live.expires_at().is_some_and(|at| at <= now) {
                live.unused_since = None;
                expired.push(*id);
            }
        }
        let named = expired.into_iter();
        named
            .filter_map(|id| Some((id, self.routes.name(id)?)))
            .collect()
    }

    /// Whether a queue that [`take_expired`](Self::take_expired) told of is still unused.
    pub(super) fn is_expired(&self, queue: QueueId) -> bool {
        let live = self.queues.get(&queue);
        live.is_some_and(|live| live.ports.is_empty() && live.unused_since.is_none())
    }

    /// When [`take_expired`](Self::take_expired) has more.
    pub(super) fn next_expiry(&self) -> Option<Instant> {
        self.queues.values().filter_map(Live::expires_at).min()
    }

    /// Ends all consumers, and whatever is asked from here on.
    pub(super) fn close(&mut self) {
        self.closed = true;
        for (_, port) in self.stranded.drain() {
            port.state.send_replace(ConsumerState::Draining);
        }
        for live in self.queues.values_mut() {
            let consumers: Vec<ConsumerId> = live.ports.keys().copied().collect();
            for consumer in consumers {
                live.unsubscribe(consumer);
            }
        }
        self.timer.notify_one();
    }

    pub(super) fn is_closed(&self) -> bool {
        self.closed
    }
}

impl Live {
    /// A place for one message more, if places are counted.
    fn place(&self) -> Result<Option<Place>, BrokerError> {
        let Some(length_max) = self.length_max else {
            return Ok(None);
        };
        let coming = self.coming.load(Ordering::Relaxed);
        if self.state.stats().ready + coming >= length_max {
            return Err(BrokerError::NotAccepted {
                detail: format!("a queue has the {length_max} messages that it takes"),
            });
        }
        Ok(Some(Place::take(&self.coming)))
    }

    /// Begins to count how long it is unused.
    fn rest(&mut self) {
        self.unused_since = self.ports.is_empty().then(Instant::now);
    }

    fn expires_at(&self) -> Option<Instant> {
        Some(self.unused_since? + self.expires_after?)
    }

    fn dispatch(&mut self) {
        while let Some((consumer, waiting)) = self.state.deliver() {
            let delivery = self.delivery(&waiting);
            let port = self.ports.get(&consumer).expect("a consumer has a port");
            if let Err(refused) = port.sender.try_send(delivery) {
                // Settled here: the receipt would come back for the lock that is held now.
                let _ = refused.into_inner().receipt.into_tag();
                self.unsubscribe(consumer);
                self.state.settle(waiting.seq, Settlement::Requeue);
            }
        }
    }

    fn delivery(&self, waiting: &Waiting) -> Delivery {
        let stored = &waiting.stored;
        Delivery {
            message: stored.message.clone(),
            flaw: None,
            exchange: stored.exchange.clone(),
            routing_key: stored.routing_key.clone(),
            redelivered: waiting.redelivered,
            receipt: Receipt::new(self.channel.clone(), waiting.seq),
        }
    }

    fn subscribe(&mut self, consumer: ConsumerId, port: Port) {
        self.state.subscribe(consumer, port.prefetch);
        port.state.send_replace(ConsumerState::Live);
        self.ports.insert(consumer, port);
        self.unused_since = None;
    }

    fn unsubscribe(&mut self, consumer: ConsumerId) {
        self.state.unsubscribe(consumer);
        if let Some(port) = self.ports.remove(&consumer) {
            port.state.send_replace(ConsumerState::Draining);
            self.rest();
        }
    }
}

/// Moves due messages and removes expired queues when their time comes, until the broker is gone or closed.
pub(super) fn spawn_timer(home: Weak<dyn Home>, wake: Arc<Notify>) {
    tokio::spawn(async move {
        loop {
            let next = match home.upgrade() {
                Some(home) => home.move_due(),
                None => return,
            };
            // Both branches are cancel-safe: a permit of `wake` that is not taken stays, and the sleep holds nothing.
            match next {
                Some(after) => {
                    let _ = tokio::time::timeout(after, wake.notified()).await;
                }
                None => wake.notified().await,
            }
        }
    });
}

/// How long it is until then.
pub(super) fn until(at: Option<Instant>) -> Option<Duration> {
    at.map(|at| at.saturating_duration_since(Instant::now()))
}

/// The stored form of a publication.
pub(super) fn stored(publication: super::Publication) -> Arc<Stored> {
    Arc::new(Stored {
        message: publication.message,
        exchange: publication.exchange,
        routing_key: publication.routing_key,
    })
}
