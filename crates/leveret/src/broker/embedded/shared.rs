//! The state in memory beside the rows, and what is written when it changes.

use std::{
    collections::{HashMap, HashSet},
    mem,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak, atomic::AtomicBool},
    time::Duration,
};

use leveret_core::time::Timestamp;
use tokio::{
    runtime::Handle,
    sync::{OwnedMutexGuard, oneshot},
    time::Instant,
};

use super::{
    HELD_BYTES, RESERVE, WINDOW, WINDOW_BYTES, error,
    rows::{self, PageBounds},
};
use crate::{
    broker::{
        BrokerError, Delivery, Queue, Receipt, Settlement,
        local::{self, Channel, Due, Home, Hub, Place, Target},
        queues::{Bounds, ConsumerId, Need, Stored, Waiting},
        routes::QueueId,
    },
    clock::{Clock as _, SystemClock},
    sqlite::{Database, DatabaseError, Session},
};

const BOUNDS: Bounds = Bounds {
    window: WINDOW,
    window_bytes: WINDOW_BYTES,
    held_bytes: HELD_BYTES,
    reserve: RESERVE,
};

const PAGE: PageBounds = PageBounds {
    messages: WINDOW,
    bytes: WINDOW_BYTES,
};

/// The most messages that leave delay queues in one job.
const DUE_MAX: usize = 256;

/// When messages that could not be moved are tried again.
const DUE_RETRY: Duration = Duration::from_secs(1);

/// When a queue asks again for what failed.
const NEED_RETRY: Duration = Duration::from_millis(500);

pub(super) struct Shared {
    pub(super) database: Database,
    pub(super) has_own_file: AtomicBool,
    hub: Mutex<Hub>,
    acks: Mutex<Acks>,
    /// Queues whose needs failed and are asked for again in a moment.
    unmet: Mutex<HashSet<QueueId>>,
    runtime: Handle,
    /// One change of the topology at a time.
    pub(super) topology: Arc<tokio::sync::Mutex<()>>,
    /// Up to where each queue may have delivered before it was opened.
    marks: HashMap<QueueId, u64>,
    me: Weak<Shared>,
}

/// Keys of rows that are settled and to be deleted.
#[derive(Default)]
struct Acks {
    waiting: Vec<i64>,
    /// Those of the job that runs.
    writing: Vec<i64>,
    scheduled: bool,
}

/// A message and its queues.
pub(super) struct Routed {
    pub(super) targets: Vec<Target>,
    /// What it takes of queues of bounded length until it arrives there.
    pub(super) places: Vec<Place>,
    pub(super) stored: Arc<Stored>,
    pub(super) properties: Option<String>,
}

type Arrived = Vec<(QueueId, Waiting)>;

impl Shared {
    /// Called within a tokio runtime.
    pub(super) fn new(database: Database, marks: HashMap<QueueId, u64>) -> Arc<Shared> {
        Arc::new_cyclic(|me: &Weak<Shared>| Shared {
            database,
            has_own_file: AtomicBool::new(false),
            hub: Mutex::new(Hub::new(BOUNDS, me.clone())),
            acks: Mutex::default(),
            unmet: Mutex::default(),
            runtime: Handle::current(),
            topology: Arc::default(),
            marks,
            me: me.clone(),
        })
    }

    pub(super) fn hub(&self) -> MutexGuard<'_, Hub> {
        self.hub.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn acks(&self) -> MutexGuard<'_, Acks> {
        self.acks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn me(&self) -> Arc<Shared> {
        self.me.upgrade().expect("called through an Arc")
    }

    pub(super) fn start_timer(&self) {
        local::spawn_timer(self.me.clone(), self.hub().timer.clone());
    }

    /// Writes messages and deletes rows in one job; after the commit the messages are in their queues and sent, and then
    /// `then` runs.
    pub(super) fn put<F>(&self, mut routed: Vec<Routed>, remove: Vec<i64>, then: F)
    where
        F: FnOnce(&Shared, Result<(), BrokerError>) + Send + 'static,
    {
        let me = self.me();
        let places = take_places(&mut routed);
        let job = move |session: &Session<'_>| {
            let arrived = insert_all(session, &routed, now())?;
            rows::delete(session, remove.iter().copied())?;
            Ok(arrived)
        };
        self.database.write_then(job, move |result| {
            let result = result.map_err(error);
            then(
                &me,
                result.map(|arrived| drop(me.arrive(arrived, places, false))),
            );
        });
    }

    /// Runs a job, and writes messages if it says so, in one transaction; after the commit the messages are in their queues and
    /// sent, or with `hold` where possible given to `then`, which runs last.
    pub(super) fn put_with<T, J, F>(&self, mut routed: Vec<Routed>, mut job: J, hold: bool, then: F)
    where
        T: Send + 'static,
        J: FnMut(&Session<'_>) -> Result<(T, bool), DatabaseError> + Send + 'static,
        F: FnOnce(Result<(T, Vec<Delivery>), DatabaseError>) + Send + 'static,
    {
        let me = self.me();
        let places = take_places(&mut routed);
        let job = move |session: &Session<'_>| {
            let (value, publish) = job(session)?;
            let arrived = if publish {
                insert_all(session, &routed, now())?
            } else {
                Arrived::default()
            };
            Ok((value, arrived))
        };
        let after = move |result: Result<(T, Arrived), DatabaseError>| {
            then(result.map(|(value, arrived)| (value, me.arrive(arrived, places, hold))));
        };
        if hold {
            self.database.write_soon(job, after);
        } else {
            self.database.write_then(job, after);
        }
    }

    /// [`put`](Self::put) with the rows of receipts as what is deleted.
    pub(super) fn put_then_ack<F>(&self, routed: Vec<Routed>, receipts: Vec<Receipt>, then: F)
    where
        F: FnOnce(Result<(), (BrokerError, Vec<Receipt>)>) + Send + 'static,
    {
        let (own, foreign) = self.own(receipts);
        let keys = own
            .iter()
            .map(|(channel, seq)| rows::key(channel.queue, *seq));
        self.put(routed, keys.collect(), move |me, result| match result {
            Ok(()) => {
                for (channel, seq) in own {
                    me.settled(channel.queue, seq, Settlement::Ack);
                }
                foreign.into_iter().for_each(Receipt::ack);
                then(Ok(()));
            }
            Err(error) => {
                let own = own.into_iter();
                let mut receipts: Vec<Receipt> = own
                    .map(|(channel, seq)| Receipt::new(Arc::new(channel), seq))
                    .collect();
                receipts.extend(foreign);
                then(Err((error, receipts)));
            }
        });
    }

    /// Receipts of this broker, taken apart, and the others.
    fn own(&self, receipts: Vec<Receipt>) -> (Vec<(Channel, u64)>, Vec<Receipt>) {
        let home: Weak<dyn Home> = self.me.clone();
        let (mut own, mut foreign) = (Vec::with_capacity(receipts.len()), Vec::new());
        for receipt in receipts {
            let (settle, seq) = receipt.into_tag();
            match settle.as_any().downcast_ref::<Channel>() {
                Some(channel) if channel.home.ptr_eq(&home) => own.push((channel.clone(), seq)),
                _ => foreign.push(Receipt::new(settle, seq)),
            }
        }
        (own, foreign)
    }

    /// After the commit: messages enter their queues and go out, or with `hold` are returned if nothing is in front of them. Those whose
    /// queue was deleted meanwhile go with it.
    fn arrive(&self, arrived: Arrived, places: Vec<Place>, hold: bool) -> Vec<Delivery> {
        let mut queues = Vec::new();
        let mut orphans = Vec::new();
        let mut deliveries = Vec::new();
        let mut hub = self.hub();
        for (queue, mut waiting) in arrived {
            if hold {
                match hub.hold(queue, waiting) {
                    Ok(delivery) => {
                        deliveries.push(delivery);
                        queues.push(queue);
                        continue;
                    }
                    Err(refused) => waiting = refused,
                }
            }
            let key = rows::key(queue, waiting.seq);
            if !hub.arrive(queue, waiting) {
                orphans.push(key);
            } else if !queues.contains(&queue) {
                queues.push(queue);
            }
        }
        let needs: Vec<_> = queues
            .into_iter()
            .flat_map(|queue| hub.dispatch(queue))
            .collect();
        drop(places);
        drop(hub);
        self.provide(needs);
        for orphan in orphans {
            self.forget(orphan);
        }
        deliveries
    }

    /// Sends what the queues have.
    pub(super) fn dispatch(&self, queues: impl IntoIterator<Item = QueueId>) {
        let mut hub = self.hub();
        let queues = queues.into_iter();
        let needs: Vec<_> = queues.flat_map(|queue| hub.dispatch(queue)).collect();
        drop(hub);
        self.provide(needs);
    }

    fn provide(&self, needs: Vec<(QueueId, Need)>) {
        for (queue, need) in needs {
            match need {
                Need::Page { after, epoch } => self.page(queue, after, epoch),
                Need::Allow { upto } => self.allow(queue, upto),
            }
        }
    }

    /// Reads on the writer thread, whose cache holds the rows when they are deleted soon after.
    fn page(&self, queue: QueueId, after: u64, epoch: u64) {
        let me = self.me();
        let delivered = self.marks.get(&queue).copied().unwrap_or(0);
        self.database.write_then(
            move |session| rows::page(session, queue, after, delivered, PAGE),
            move |result| {
                let rows = logged(result, "cannot read messages ahead");
                let failed = rows.is_none();
                me.hub().page_in(queue, epoch, rows);
                me.go_on(queue, failed);
            },
        );
    }

    fn allow(&self, queue: QueueId, upto: u64) {
        let me = self.me();
        self.database.write_then(
            move |session| rows::set_delivered(session, queue, upto),
            move |result| {
                let allowed = logged(result, "cannot record what is delivered");
                me.hub().allow(queue, allowed.map_or(0, |()| upto));
                me.go_on(queue, allowed.is_none());
            },
        );
    }

    /// Sends what a queue has after a need of it was met; if that failed, the queue asks again after a pause, whether or not anything else
    /// happens to it.
    fn go_on(&self, queue: QueueId, failed: bool) {
        if !failed {
            return self.dispatch([queue]);
        }
        if !self.database.is_open() || !self.unmet().insert(queue) {
            return;
        }
        let me = self.me.clone();
        self.runtime.spawn(async move {
            tokio::time::sleep(NEED_RETRY).await;
            if let Some(me) = me.upgrade() {
                me.unmet().remove(&queue);
                me.dispatch([queue]);
            }
        });
    }

    fn unmet(&self) -> MutexGuard<'_, HashSet<QueueId>> {
        self.unmet.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends a delivery in memory; false if it was not held.
    fn settled(&self, queue: QueueId, seq: u64, settlement: Settlement) -> bool {
        let mut hub = self.hub();
        if !hub.settle(queue, seq, settlement) {
            return false;
        }
        let needs = hub.dispatch(queue);
        drop(hub);
        self.provide(needs);
        true
    }

    /// Deletes a row with the next transaction.
    fn forget(&self, key: i64) {
        let mut acks = self.acks();
        acks.waiting.push(key);
        if !mem::replace(&mut acks.scheduled, true) {
            drop(acks);
            self.write_acks();
        }
    }

    fn write_acks(&self) {
        let (me, after) = (self.me(), self.me());
        self.database.write_soon(
            move |session| {
                let mut acks = me.acks();
                let Acks {
                    waiting, writing, ..
                } = &mut *acks;
                writing.append(waiting);
                let keys = writing.clone();
                drop(acks);
                rows::delete(session, keys)
            },
            move |result| after.acks_written(&result),
        );
    }

    fn acks_written(&self, result: &Result<(), DatabaseError>) {
        let mut acks = self.acks();
        let written = mem::take(&mut acks.writing);
        if result.is_err() {
            // They go with the next ack; until then their messages would come again after a restart.
            acks.waiting.extend(written);
        }
        acks.scheduled = result.is_ok() && !acks.waiting.is_empty();
        let more = acks.scheduled;
        drop(acks);
        if more {
            self.write_acks();
        }
    }

    /// Changes the topology on disk, then in memory, whether or not the caller still waits.
    pub(super) async fn change<T, F, A>(
        &self,
        turn: OwnedMutexGuard<()>,
        job: F,
        apply: A,
    ) -> Result<(), BrokerError>
    where
        T: Send + 'static,
        F: FnMut(&Session<'_>) -> Result<T, DatabaseError> + Send + 'static,
        A: FnOnce(&mut Hub, T) + Send + 'static,
    {
        let (sender, done) = oneshot::channel();
        let me = self.me();
        self.database.write_then(job, move |result| {
            let result = result.map(|value| apply(&mut me.hub(), value));
            drop(turn);
            drop(sender.send(result.map_err(error)));
        });
        done.await.unwrap_or(Err(BrokerError::Closed))
    }

    /// Deletes a queue with its messages and bindings.
    pub(super) async fn delete_queue(
        &self,
        turn: OwnedMutexGuard<()>,
        queue: QueueId,
        name: Arc<str>,
    ) -> Result<(), BrokerError> {
        let removed = name.clone();
        let job = move |session: &Session<'_>| rows::remove_queue(session, queue, &name);
        let apply = move |hub: &mut Hub, ()| hub.remove_queue(&removed);
        self.change(turn, job, apply).await
    }

    /// Deletes queues that expired, unless somebody uses them by now.
    fn expire(&self, expired: Vec<(QueueId, Arc<str>)>) {
        let me = self.me();
        self.runtime.spawn(async move {
            for (queue, name) in expired {
                let turn = me.topology.clone().lock_owned().await;
                if !me.hub().is_expired(queue) {
                    continue;
                }
                if let Err(error) = me.delete_queue(turn, queue, name.clone()).await {
                    tracing::warn!(%error, queue = &*name, "cannot delete a queue that expired");
                    // It expires again later.
                    me.hub().touch(&[Queue::plain(name)]);
                }
            }
        });
    }

    /// Ends consumers, then writes the acks that wait and how far each queue has delivered.
    pub(super) async fn close(&self) {
        let marks = {
            let mut hub = self.hub();
            hub.close();
            hub.delivered()
        };
        let me = self.me();
        let written = self.database.write(move |session| {
            let keys = me.acks().waiting.clone();
            rows::delete(session, keys)?;
            for &(queue, upto) in &marks {
                rows::set_delivered(session, queue, upto)?;
            }
            Ok(())
        });
        match written.await {
            Ok(()) | Err(DatabaseError::Closed) => {}
            Err(error) => tracing::warn!(
                error = error.chain(),
                "the broker closed without its last acks: their messages will come again"
            ),
        }
    }

    fn move_all(&self, due: Vec<Due>) {
        let (me, due) = (self.me(), Arc::new(due));
        let moving = due.clone();
        let job = move |session: &Session<'_>| {
            let mut arrived = Vec::with_capacity(moving.len());
            for due in &*moving {
                let waiting = arriving(&due.target, &due.stored, now());
                let from = rows::key(due.queue, due.waiting.seq);
                if rows::move_to(session, from, due.target.queue, &waiting)? {
                    arrived.push((due.target.queue, waiting));
                }
            }
            Ok(arrived)
        };
        self.database.write_then(job, move |result| {
            let arrived = logged(result, "cannot move messages out of their delay queue");
            if let Some(arrived) = arrived {
                me.arrive(arrived, Vec::new(), false);
            } else {
                let mut hub = me.hub();
                for due in &*due {
                    hub.restore(due.queue, due.waiting.clone());
                }
            }
            // The delay queues may have more on disk.
            me.dispatch(due.iter().map(|due| due.queue));
        });
    }
}

impl Home for Shared {
    fn settle(&self, queue: QueueId, seq: u64, settlement: Settlement) {
        let held = self.settled(queue, seq, settlement);
        if held && settlement != Settlement::Requeue {
            self.forget(rows::key(queue, seq));
        }
    }

    fn unsubscribe(&self, consumer: ConsumerId) {
        self.hub().unsubscribe(consumer);
    }

    fn move_due(&self) -> Option<Duration> {
        let mut hub = self.hub();
        if hub.is_closed() {
            return None;
        }
        let now = now();
        let due = hub.take_due(now, DUE_MAX);
        let next = hub
            .next_due()
            .map(|next| Duration::from_millis(next.ms_since(now)));
        let expired = hub.take_expired(Instant::now());
        let expiry = local::until(hub.next_expiry());
        let next = next.into_iter().chain(expiry).min();
        drop(hub);
        if !expired.is_empty() {
            self.expire(expired);
        }
        if due.is_empty() {
            return next;
        }
        self.move_all(due);
        Some(next.unwrap_or(DUE_RETRY).min(DUE_RETRY))
    }
}

/// Lets the timer see that the broker is gone.
impl Drop for Shared {
    fn drop(&mut self) {
        let hub = self.hub.get_mut().unwrap_or_else(PoisonError::into_inner);
        hub.timer.notify_one();
    }
}

fn take_places(routed: &mut [Routed]) -> Vec<Place> {
    let messages = routed.iter_mut();
    messages
        .flat_map(|message| mem::take(&mut message.places))
        .collect()
}

fn insert_all(
    session: &Session<'_>,
    routed: &[Routed],
    now: Timestamp,
) -> Result<Arrived, DatabaseError> {
    let mut arrived = Vec::with_capacity(routed.len());
    for message in routed {
        for target in &message.targets {
            let waiting = arriving(target, &message.stored, now);
            let properties = message.properties.as_deref();
            rows::insert(session, target.queue, &waiting, properties)?;
            arrived.push((target.queue, waiting));
        }
    }
    Ok(arrived)
}

fn arriving(target: &Target, stored: &Arc<Stored>, now: Timestamp) -> Waiting {
    Waiting {
        seq: target.next_seq(),
        due: target.due(now),
        redelivered: false,
        stored: stored.clone(),
    }
}

fn logged<T>(result: Result<T, DatabaseError>, what: &str) -> Option<T> {
    result
        .inspect_err(|error| tracing::warn!(error = error.chain(), "{what}"))
        .ok()
}

/// Due times are stored, so that they are of the wall clock.
fn now() -> Timestamp {
    SystemClock.now()
}
