//! What a node does while its database is well: subscribe, obey the heart, catch up, apply what arrives.

use std::{convert::Infallible, future::Future, pin::Pin, sync::Arc, time::Duration};

use tokio::{
    sync::watch,
    time::{sleep, timeout},
};

use super::{
    apply::LOG_PAUSE,
    lease::{Lease, Said},
    report::Reports,
    shared::Shared,
};
use crate::{
    broadcast::{LinkError, NodeState, Order, ReplicaError},
    broker::{BrokerError, ConsumeOptions, Consumer, ConsumerState, Delivery},
};

/// How long the queue may take to be bound before the node goes on with the log alone.
const BIND_PATIENCE: Duration = Duration::from_secs(5);
/// A consumer that is lost for so long has lost its queue.
const LOST_PATIENCE: Duration = Duration::from_secs(1);
/// How long the heart may take to say whether a node whose queue is gone is still a member.
const ORDER_PATIENCE: Duration = Duration::from_secs(3);
/// The pause before a broker that is away is asked again.
const BROKER_PAUSE: Duration = Duration::from_millis(500);

/// Why a session ends.
#[derive(Debug)]
pub(super) enum Break {
    /// As asked.
    Stopped,
    /// The node is no member any more.
    Removed,
    /// The name is another node's.
    Join(LinkError),
    /// The database cannot be used as it is.
    Database(ReplicaError),
    /// The broker says no.
    Broker(BrokerError),
    /// The database has a fault: nothing was applied.
    Fault(String),
    /// A snapshot is needed: for an order with this ticket, or because the log is cut.
    Restore(Option<u64>),
}

impl From<ReplicaError> for Break {
    fn from(error: ReplicaError) -> Break {
        match error {
            ReplicaError::NotEmpty
            | ReplicaError::OtherCluster { .. }
            | ReplicaError::Unsupported { .. } => Break::Database(error),
            error => Break::Fault(error.to_string()),
        }
    }
}

type Subscribing = Pin<Box<dyn Future<Output = Result<Consumer, BrokerError>> + Send>>;

/// Between two faults.
pub(super) struct Session {
    pub(super) shared: Arc<Shared>,
    pub(super) cluster: Arc<str>,
    pub(super) reports: Reports,
    said: watch::Receiver<Said>,
    stopped: watch::Receiver<bool>,
    consumer: Option<Consumer>,
    subscribing: Subscribing,
}

impl Session {
    pub(super) fn new(
        shared: Arc<Shared>,
        lease: &Lease,
        cluster: Arc<str>,
        stopped: watch::Receiver<bool>,
    ) -> Session {
        Session {
            reports: Reports::start(shared.clone()),
            said: lease.said(),
            consumer: None,
            subscribing: Box::pin(subscribe(shared.clone())),
            stopped,
            shared,
            cluster,
        }
    }

    /// Applies until something keeps it from going on.
    pub(super) async fn run(&mut self) -> Break {
        loop {
            let ticket = match self.serve().await {
                Err(Break::Restore(ticket)) => ticket,
                Err(broken) => return broken,
                Ok(never) => match never {},
            };
            if let Err(broken) = self.restore(ticket).await {
                return broken;
            }
        }
    }

    /// Sends what is to be reported; what is not acknowledged returns to the queue.
    pub(super) async fn end(self) {
        drop(self.consumer);
        self.reports.end().await;
    }

    async fn serve(&mut self) -> Result<Infallible, Break> {
        if self.shared.status.borrow().state == NodeState::Faulted {
            // What could not be applied is tried again before anything is consumed.
            let standing = self.shared.replica.standing().await?;
            self.shared.advance(standing.position, standing.hash);
            self.catch_up().await?;
        }
        self.shared.set_state(NodeState::CatchingUp);
        self.bound_first().await?;
        self.obey()?;
        self.catch_up().await?;
        self.shared.set_state(NodeState::Live);
        let mut seen = None;
        loop {
            match self.next().await? {
                Event::Delivery(delivery) => self.take(delivery).await?,
                Event::Look => self.catch_up().await?,
                Event::Said => {
                    self.obey()?;
                    self.look_if_silent(&mut seen).await?;
                }
                Event::QueueGone => self.mend_queue().await?,
            }
            self.shared.set_state(NodeState::Live);
        }
    }

    /// What happens next. Cancel-safe: nothing is taken that is not returned.
    async fn next(&mut self) -> Result<Event, Break> {
        let lost = lost(self.consumer.as_ref().map(Consumer::state));
        tokio::select! {
            biased;
            _ = self.stopped.wait_for(|stop| *stop) => Err(Break::Stopped),
            said = self.said.changed() => match said {
                Ok(()) => Ok(Event::Said),
                Err(_) => Err(Break::Stopped),
            },
            () = self.shared.look.notified() => Ok(Event::Look),
            delivery = delivery(&mut self.consumer) => match delivery {
                Some(delivery) => Ok(Event::Delivery(delivery)),
                None => Ok(Event::QueueGone),
            },
            consumer = &mut self.subscribing, if self.consumer.is_none() => {
                self.consumer = Some(consumer.map_err(Break::Broker)?);
                Ok(Event::Look)
            }
            () = lost => Ok(Event::QueueGone),
        }
    }

    /// Waits until the queue is bound, for a while: what is broadcast from then on is not missed.
    async fn bound_first(&mut self) -> Result<(), Break> {
        if self.consumer.is_some() {
            return Ok(());
        }
        let subscribing = timeout(BIND_PATIENCE, &mut self.subscribing);
        let subscribed = until_stopped(&mut self.stopped, subscribing).await?;
        if let Ok(consumer) = subscribed {
            self.consumer = Some(consumer.map_err(Break::Broker)?);
        } else {
            tracing::warn!("the broker is away; the node follows the heart's log");
        }
        Ok(())
    }

    /// Does what the heart last said, as far as it ends this session.
    fn obey(&mut self) -> Result<(), Break> {
        match &*self.said.borrow_and_update() {
            Said::Nothing => Ok(()),
            Said::Refused(error) => Err(Break::Join(error.clone())),
            Said::Joined(joined) => match joined.order {
                Order::Removed => Err(Break::Removed),
                Order::Restore { ticket }
                    if self.shared.status.borrow().restored != Some(ticket) =>
                {
                    Err(Break::Restore(Some(ticket)))
                }
                _ => Ok(()),
            },
        }
    }

    /// Looks into the log when the heart has more than this node, and nothing has arrived since it last said so.
    async fn look_if_silent(&mut self, seen: &mut Option<u64>) -> Result<(), Break> {
        let (at, last) = {
            let status = self.shared.status.borrow();
            (status.position.seq, status.last_seq)
        };
        if at < last && seen.replace(at) == Some(at) {
            self.catch_up().await?;
        }
        Ok(())
    }

    /// The queue was deleted, perhaps because it had grown beyond its bound: if this node is still a member, it is declared again.
    async fn mend_queue(&mut self) -> Result<(), Break> {
        self.shared.renew.notify_one();
        let heard = timeout(ORDER_PATIENCE, self.said.changed());
        // A heart that does not answer does not say that the node is removed.
        drop(until_stopped(&mut self.stopped, heard).await?);
        self.obey()?;
        tracing::warn!(queue = %self.shared.options.queue(), "the node's queue is gone; it is declared again");
        self.consumer = None;
        self.subscribing = Box::pin(subscribe(self.shared.clone()));
        self.bound_first().await?;
        self.catch_up().await
    }

    /// One more delivery if it is here already.
    pub(super) fn try_next(&mut self) -> Option<Delivery> {
        self.consumer.as_mut()?.try_next()
    }

    /// Waits a moment for the heart, obeying it and whoever stops the node.
    pub(super) async fn pause(&mut self) -> Result<(), Break> {
        let said = timeout(LOG_PAUSE, self.said.changed());
        if until_stopped(&mut self.stopped, said).await?.is_ok() {
            self.obey()?;
        }
        Ok(())
    }

    /// Waits for something, unless the node is to stop.
    pub(super) async fn unless_stopped<T>(
        &mut self,
        waiting: impl Future<Output = T>,
    ) -> Result<T, Break> {
        until_stopped(&mut self.stopped, waiting).await
    }
}

#[expect(
    clippy::large_enum_variant,
    reason = "there is one at a time, on the stack"
)]
enum Event {
    Delivery(Delivery),
    /// The log may have what no queue brings.
    Look,
    /// The heart has answered.
    Said,
    QueueGone,
}

pub(super) async fn until_stopped<T>(
    stopped: &mut watch::Receiver<bool>,
    waiting: impl Future<Output = T>,
) -> Result<T, Break> {
    tokio::select! {
        biased;
        _ = stopped.wait_for(|stop| *stop) => Err(Break::Stopped),
        value = waiting => Ok(value),
    }
}

/// The next delivery; for ever without a consumer.
async fn delivery(consumer: &mut Option<Consumer>) -> Option<Delivery> {
    match consumer {
        Some(consumer) => consumer.next().await,
        None => std::future::pending().await,
    }
}

/// Resolves when a consumer has been lost for a while. While the broker is away that tells nothing new, and what it leads to does no harm.
async fn lost(state: Option<watch::Receiver<ConsumerState>>) {
    let Some(mut state) = state else {
        return std::future::pending().await;
    };
    loop {
        let is_lost = |state: &ConsumerState| *state == ConsumerState::Lost;
        if state.wait_for(is_lost).await.is_err() {
            return std::future::pending().await;
        }
        let found = timeout(LOST_PATIENCE, state.wait_for(|state| !is_lost(state))).await;
        if found.is_err() {
            return;
        }
    }
}

/// Declares and binds the node's queue and subscribes to it, as long as that takes.
async fn subscribe(shared: Arc<Shared>) -> Result<Consumer, BrokerError> {
    loop {
        match subscribe_once(&shared).await {
            Err(error) if error.is_retryable() => {
                tracing::debug!(%error, "the broker is away");
                sleep(BROKER_PAUSE).await;
            }
            done => return done,
        }
    }
}

async fn subscribe_once(shared: &Shared) -> Result<Consumer, BrokerError> {
    let options = &shared.options;
    let topology = options.names.node_topology(&options.node_id);
    shared.broker.declare(&topology).await?;
    let options = ConsumeOptions {
        prefetch: options.prefetch,
        tag: format!("leveret-node-{}", options.node_id).into(),
        ..ConsumeOptions::queue(options.queue())
    };
    shared.broker.consume(options).await
}
