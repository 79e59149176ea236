//! A life of a service, from its start to its crash. What belongs to a life that is over never answers.

use std::{
    collections::BTreeMap,
    fmt,
    future::pending,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use tokio::sync::watch;

use super::{Shared, tested::Armed};
use crate::{
    broker::{Receipt, Settle, Settlement},
    crash::Point,
};

/// One life.
pub(super) struct Life {
    pub(super) world: Arc<Shared>,
    /// Which service, and which of its lives.
    pub(super) name: String,
    armed: Arc<Armed>,
    is_over: AtomicBool,
    over: watch::Sender<bool>,
    /// The deliveries that it has.
    held: Mutex<BTreeMap<u64, Held>>,
    next_tag: AtomicU64,
}

/// A delivery, of which there may be copies.
struct Held {
    receipt: Receipt,
    /// Copies that are not settled.
    open: u32,
    settlement: Settlement,
}

impl fmt::Debug for Life {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Life")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

impl Life {
    pub(super) fn new(world: Arc<Shared>, name: String, armed: Arc<Armed>) -> Life {
        Life {
            world,
            name,
            armed,
            is_over: AtomicBool::new(false),
            over: watch::Sender::new(false),
            held: Mutex::default(),
            next_tag: AtomicU64::new(0),
        }
    }

    pub(super) fn is_over(&self) -> bool {
        self.is_over.load(Ordering::Acquire)
    }

    /// Waits for its end.
    pub(super) async fn over(&self) {
        // The sender is in here: it is not gone.
        drop(self.over.subscribe().wait_for(|over| *over).await);
    }

    /// Ends it: its deliveries return to their queues.
    pub(super) fn end(&self) {
        if self.is_over.swap(true, Ordering::AcqRel) {
            return;
        }
        let held = std::mem::take(&mut *self.held());
        // In the order of their arrival; a receipt that is dropped returns its message.
        held.into_values().for_each(drop);
        self.over.send_replace(true);
    }

    /// Goes on only in a life that is not over.
    pub(super) async fn go_on(&self) {
        if self.is_over() {
            pending::<()>().await;
        }
    }

    /// Comes to a point; goes on unless it crashes there.
    pub(super) async fn come_to(&self, point: Point) {
        self.go_on().await;
        if self.crashes_at(point) {
            pending::<()>().await;
        }
    }

    fn crashes_at(&self, point: Point) -> bool {
        let crashes = self.armed.is_crash(point) || self.world.faults().is_crash();
        if crashes {
            self.note(format_args!("crashes at {point}"));
            self.end();
        }
        crashes
    }

    pub(super) fn note(&self, what: fmt::Arguments<'_>) {
        self.world.note(&self.name, what);
    }

    /// How many deliveries it has.
    pub(super) fn deliveries(&self) -> usize {
        self.held().len()
    }

    /// Keeps the receipt of a delivery; gives those of its copies. None when the life is over: the message returns to its queue.
    pub(super) fn hold(self: &Arc<Self>, receipt: Receipt, copies: u32) -> Option<Vec<Receipt>> {
        let tag = self.next_tag.fetch_add(1, Ordering::Relaxed);
        {
            let mut held = self.held();
            if self.is_over() {
                return None;
            }
            let delivery = Held {
                receipt,
                open: copies,
                settlement: Settlement::Ack,
            };
            held.insert(tag, delivery);
        }
        let copy = |_| Receipt::new(Arc::new(Copy(self.clone())), tag);
        Some((0..copies).map(copy).collect())
    }

    fn held(&self) -> MutexGuard<'_, BTreeMap<u64, Held>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Where receipts of copies are settled.
struct Copy(Arc<Life>);

impl Settle for Copy {
    /// The delivery is settled with the last of its copies; one that returns to its queue takes it along.
    fn settle(&self, tag: u64, settlement: Settlement) {
        let life = &self.0;
        if life.is_over() {
            return;
        }
        if settlement == Settlement::Ack && life.crashes_at(Point::BrokerBeforeAck) {
            return;
        }
        life.note(format_args!("settles {tag}: {settlement:?}"));
        let last = {
            let mut all = life.held();
            let Some(held) = all.get_mut(&tag) else {
                return;
            };
            held.open -= 1;
            if settlement == Settlement::Requeue || held.settlement == Settlement::Ack {
                held.settlement = settlement;
            }
            if held.open > 0 {
                return;
            }
            all.remove(&tag)
        };
        if let Some(Held {
            receipt,
            settlement,
            ..
        }) = last
        {
            match settlement {
                Settlement::Ack => receipt.ack(),
                Settlement::Requeue => receipt.requeue(),
                Settlement::Reject => receipt.reject(),
            }
        }
    }

    fn is_open(&self) -> bool {
        !self.0.is_over()
    }

    fn as_any(&self) -> &dyn std::any::Any {
        self
    }
}
