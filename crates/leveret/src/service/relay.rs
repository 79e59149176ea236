//! The relay: what decisions publish leaves the outbox for the broker.
//!
//! Whoever commits publishes at once what it has claimed; the relay's own loop takes what nobody has: what a process left that ended, what
//! waited for a broker that was away, what waited behind others of its lane. A hint wakes it, and it looks without one too.
//!
//! A message leaves the outbox only after the broker confirmed it. A crash in between sends it again, with the same `message_id`.

use std::{fmt, sync::Arc, time::Duration};

use leveret_core::time::Timestamp;
use tokio::{
    sync::{Notify, OnceCell, Semaphore, watch},
    task::JoinSet,
    time::{sleep, timeout},
};

use super::{
    desk::Now,
    documents::{Claimed, Documents, DocumentsError, OutgoingId},
};
use crate::{
    batcher::Batcher,
    broker::{Broker, BrokerError, Topology},
    crash::{self, Point},
    metrics::Counter,
};

/// How often the outbox is looked at without a hint.
const POLL: Duration = Duration::from_secs(1);
/// How many messages one look claims.
const CLAIM_MAX: u32 = 512;
/// How many batches of these are on their way at once.
const BATCHES_MAX: usize = 3;
/// After so many looks it is seen whether the relay is to stop.
const LOOKS_MAX: u32 = 64;
/// How many publishing tasks of this process may be under way; what comes beyond waits in the outbox.
const TASKS_MAX: usize = 4096;
/// How often a message is tried, with pauses from [`PAUSE`] on that double, before it goes back to the outbox.
const TRIES: u32 = 5;
const PAUSE: Duration = Duration::from_millis(50);
/// How many messages are forgotten in one call, and how many of these calls are made at once.
const SENT_MAX: usize = 512;

/// What a relay has done, since the process began.
#[derive(Debug, Default)]
pub(super) struct Counts {
    /// Messages that the broker confirmed.
    pub(super) sent: Counter,
    /// Of these, events that no queue takes.
    pub(super) unrouted: Counter,
    /// Tries that failed.
    pub(super) failures: Counter,
}

/// The relay of a service. Clones share it.
#[derive(Clone)]
pub(super) struct Relay(Arc<Shared>);

struct Shared {
    broker: Arc<dyn Broker>,
    documents: Arc<dyn Documents>,
    /// What the messages need: declared again when it is gone.
    topology: Topology,
    /// Set once that is there.
    declared: OnceCell<()>,
    sent: Batcher<OutgoingId, Vec<Claimed>>,
    tasks: Arc<Semaphore>,
    hint: Notify,
    now: Now,
    counts: Counts,
}

impl fmt::Debug for Relay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Relay").finish_non_exhaustive()
    }
}

impl Relay {
    pub(super) fn new(
        broker: Arc<dyn Broker>,
        documents: Arc<dyn Documents>,
        topology: Topology,
        now: Now,
    ) -> Relay {
        Relay(Arc::new(Shared {
            sent: forgetting(&documents, &now),
            broker,
            documents,
            topology,
            declared: OnceCell::new(),
            tasks: Arc::new(Semaphore::new(TASKS_MAX)),
            hint: Notify::new(),
            now,
            counts: Counts::default(),
        }))
    }

    pub(super) fn counts(&self) -> &Counts {
        &self.0.counts
    }

    /// Publishes what was claimed. When it returns, the broker has it, or it is back in the outbox. Dropping it leaves that to the lease.
    pub(super) async fn publish(&self, claimed: Vec<Claimed>) {
        let follow = self.publish_once(claimed).await;
        self.publish_soon(follow);
    }

    /// The same in a task; what there is no room for goes back to the outbox.
    pub(super) fn publish_soon(&self, claimed: Vec<Claimed>) {
        if claimed.is_empty() {
            return;
        }
        let relay = self.clone();
        let permit = self.0.tasks.clone().try_acquire_owned();
        let ready = permit.is_ok() && self.0.broker.is_connected();
        tokio::spawn(async move {
            let _permit = permit;
            if ready {
                relay.publish_all(claimed).await;
            } else {
                relay.give_back(&claimed).await;
            }
        });
    }

    /// Declares what the messages need, unless that was done. Nothing is published before: an exchange that another process has declared
    /// takes an event also when the queues for it are not bound yet, and it is lost then.
    pub(super) async fn declare(&self) -> Result<(), BrokerError> {
        let shared = &self.0;
        let declaring = || shared.broker.declare(&shared.topology);
        shared.declared.get_or_try_init(declaring).await.copied()
    }

    /// Publishes and forgets; returns what waited behind it.
    async fn publish_once(&self, mut claimed: Vec<Claimed>) -> Vec<Claimed> {
        let mut follow = Vec::new();
        if let Err(error) = self.declare().await {
            tracing::warn!(%error, "messages stay in the outbox: the queues that they go to cannot be declared");
            self.0.counts.failures.inc();
            self.give_back(&claimed).await;
            return follow;
        }
        let mut pause = PAUSE;
        for attempt in 1..=TRIES {
            if claimed.is_empty() {
                return follow;
            }
            let (sent, left, declare) = self.attempt(claimed).await;
            follow.extend(self.forget(sent).await);
            claimed = left;
            if claimed.is_empty() || attempt == TRIES {
                break;
            }
            if declare && let Err(error) = self.0.broker.declare(&self.0.topology).await {
                tracing::warn!(%error, "the queues that a service publishes to cannot be declared");
            }
            sleep(pause).await;
            pause *= 2;
        }
        self.give_back(&claimed).await;
        follow
    }

    /// One try: what the broker has now, what it has not, and whether something is to be declared.
    async fn attempt(&self, claimed: Vec<Claimed>) -> (Vec<OutgoingId>, Vec<Claimed>, bool) {
        let batch = claimed
            .iter()
            .map(|claimed| claimed.outgoing.publication.clone())
            .collect();
        crash::reached(Point::RelayBeforePublish);
        let results = self.0.broker.publish(batch).await;
        crash::reached(Point::RelayAfterPublish);
        let counts = &self.0.counts;
        let (mut sent, mut left, mut declare) = (Vec::new(), Vec::new(), false);
        for (claimed, result) in claimed.into_iter().zip(results) {
            match result {
                Ok(()) => sent.push(claimed.id),
                Err(BrokerError::Unroutable { .. }) if !claimed.outgoing.must_route => {
                    counts.unrouted.inc();
                    sent.push(claimed.id);
                }
                Err(error) => {
                    if left.is_empty() {
                        tracing::warn!(%error, "a message stays in the outbox for now");
                    }
                    counts.failures.inc();
                    declare |= !error.is_retryable();
                    left.push(claimed);
                }
            }
        }
        counts.sent.add(sent.len() as u64);
        (sent, left, declare)
    }

    async fn forget(&self, sent: Vec<OutgoingId>) -> Vec<Claimed> {
        if sent.is_empty() {
            return Vec::new();
        }
        let follow = self.0.sent.submit_all(sent).await.unwrap_or_default();
        follow.into_iter().flatten().collect()
    }

    async fn give_back(&self, claimed: &[Claimed]) {
        let ids: Vec<_> = claimed.iter().map(|claimed| claimed.id.clone()).collect();
        if ids.is_empty() {
            return;
        }
        // What cannot be given back is free when its lease is over.
        if let Err(error) = self.0.documents.release(&ids).await {
            tracing::debug!(%error, "messages of the outbox are not given back");
        }
    }

    /// Wakes the loop.
    pub(super) fn hint(&self) {
        self.0.hint.notify_one();
    }

    /// Publishes what nobody has claimed; returns how many messages that were. While one batch is on its way, the next one is claimed.
    pub(super) async fn run_once(&self, now: Timestamp) -> Result<usize, DocumentsError> {
        let mut publishing = JoinSet::new();
        let (mut count, mut result) = (0, Ok(()));
        for _ in 0..LOOKS_MAX {
            let claimed = match self.0.documents.claim_outgoing(CLAIM_MAX, now).await {
                Ok(claimed) => claimed,
                Err(error) => {
                    result = Err(error);
                    break;
                }
            };
            let is_all = claimed.len() < CLAIM_MAX as usize;
            count += claimed.len();
            if !claimed.is_empty() {
                publishing.spawn(self.clone().publish_all(claimed));
            }
            if is_all {
                break;
            }
            while publishing.len() >= BATCHES_MAX {
                publishing.join_next().await;
            }
        }
        while publishing.join_next().await.is_some() {}
        result.map(|()| count)
    }

    /// Publishes, and what waited behind it.
    async fn publish_all(self, mut claimed: Vec<Claimed>) {
        while !claimed.is_empty() {
            claimed = self.publish_once(claimed).await;
        }
    }

    /// Publishes until `stop` turns true.
    pub(super) async fn run(&self, mut stop: watch::Receiver<bool>) {
        loop {
            // What cannot be declared is told by the service's start, which waits for it, too.
            if self.0.broker.is_connected() && self.declare().await.is_ok() {
                match self.run_once((self.0.now)()).await {
                    Ok(0) => {}
                    Ok(_) => continue,
                    Err(error) => {
                        tracing::warn!(%error, "the outbox cannot be looked at; trying again");
                    }
                }
            }
            tokio::select! {
                biased;
                _ = stop.wait_for(|stop| *stop) => return,
                // A hint is only that.
                _ = timeout(POLL, self.0.hint.notified()) => {}
            }
        }
    }

    /// Waits until nothing is being published, within a time.
    pub(super) async fn drain(&self, time: Duration) {
        let all = self.0.tasks.acquire_many(TASKS_MAX as u32);
        drop(timeout(time, all).await);
    }
}

/// Forgets what was sent, many at a time. What cannot be forgotten is sent again when its lease is over.
fn forgetting(documents: &Arc<dyn Documents>, now: &Now) -> Batcher<OutgoingId, Vec<Claimed>> {
    let (documents, now) = (documents.clone(), now.clone());
    Batcher::new(SENT_MAX, 1, move |ids: Vec<OutgoingId>| {
        let (documents, now) = (documents.clone(), now());
        async move {
            let follow = documents.sent(&ids, now).await.unwrap_or_else(|error| {
                tracing::warn!(%error, "messages that were sent stay in the outbox, and may be sent again");
                Vec::new()
            });
            let mut answers = vec![Vec::new(); ids.len()];
            // Whoever comes first has them all: order is a lane's, and each lane has one here.
            answers[0] = follow;
            answers
        }
    })
}
