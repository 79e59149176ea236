//! One queue as a state machine: what is ready, what is held, who takes the next. Pure: no async, no I/O, no clock.
//!
//! Messages have numbers that rise in the order of arrival. A queue holds its next messages in memory, in a *window*; those
//! behind it may be *paged out*, and a persistent broker reads them when the window runs low. Since deliveries take the
//! lowest number first, everything delivered has a lower number than everything in the window.
//!
//! A persistent broker also bounds the numbers that may be delivered (`allowed`), so that it knows after a crash which messages
//! may have been.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::Arc,
};

use leveret_core::time::Timestamp;

use super::{Message, QueueStats, Settlement};

/// A message as it lies in a queue.
#[derive(Debug)]
pub(super) struct Stored {
    pub(super) message: Message,
    pub(super) exchange: Arc<str>,
    pub(super) routing_key: Arc<str>,
}

/// A message that waits.
#[derive(Clone, Debug)]
pub(super) struct Waiting {
    pub(super) seq: u64,
    /// In a delay queue: when it moves on.
    pub(super) due: Timestamp,
    pub(super) redelivered: bool,
    pub(super) stored: Arc<Stored>,
}

impl Waiting {
    fn bytes(&self) -> usize {
        self.stored.message.body.len()
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct ConsumerId(pub(super) u64);

/// How much a queue may do without asking its broker.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    /// The most messages in the window.
    pub(super) window: usize,
    /// The most bytes of bodies in the window, which holds one message whatever its size.
    pub(super) window_bytes: usize,
    /// The most bytes of bodies that a consumer holds, which may hold one message whatever its size.
    pub(super) held_bytes: usize,
    /// How far ahead deliveries are allowed.
    pub(super) reserve: u64,
}

impl Bounds {
    /// Everything stays in memory.
    pub(super) const NONE: Bounds = Bounds {
        window: usize::MAX,
        window_bytes: usize::MAX,
        held_bytes: usize::MAX,
        reserve: u64::MAX,
    };
}

/// What a queue needs from a persistent broker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Need {
    /// Read the messages behind `after`, up to a window, for [`QueueState::page_in`].
    Page { after: u64, epoch: u64 },
    /// Record that numbers up to this one may be delivered, then [`QueueState::allow`] it.
    Allow { upto: u64 },
}

/// What a purge takes: single numbers, and all in a range.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Purged {
    pub(super) count: u64,
    pub(super) single: Vec<u64>,
    pub(super) range: Option<(u64, u64)>,
}

struct Held {
    /// `None`: whoever published it.
    consumer: Option<ConsumerId>,
    waiting: Waiting,
}

struct Slot {
    id: ConsumerId,
    prefetch: usize,
    held: usize,
    held_bytes: usize,
}

impl Slot {
    fn has_room(&self, bounds: &Bounds) -> bool {
        self.held == 0 || (self.held < self.prefetch && self.held_bytes < bounds.held_bytes)
    }
}

pub(super) struct QueueState {
    bounds: Bounds,
    /// Whether only the first consumer gets messages.
    single_active: bool,
    /// Delivered before and back again; all numbers below those of the window.
    returned: BTreeMap<u64, Waiting>,
    window: VecDeque<Waiting>,
    window_bytes: usize,
    /// Messages paged out, all with numbers above this one.
    paged: u64,
    paged_after: u64,
    /// The highest number that arrived.
    tail: u64,
    held: HashMap<u64, Held>,
    consumers: Vec<Slot>,
    turn: usize,
    /// The highest number that was delivered.
    delivered: u64,
    allowed: u64,
    asked_page: bool,
    asked_allow: bool,
    /// Rises when what a page was asked for is no longer so.
    epoch: u64,
}

impl QueueState {
    /// An empty queue.
    #[cfg(test)]
    fn new(bounds: Bounds) -> QueueState {
        QueueState::paged_out(bounds, 0, 0, 0)
    }

    /// A queue whose messages, `count` with numbers up to `tail`, are all paged out, and of which those up to `delivered` may have
    /// been delivered.
    pub(super) fn paged_out(bounds: Bounds, count: u64, tail: u64, delivered: u64) -> QueueState {
        QueueState {
            bounds,
            single_active: false,
            returned: BTreeMap::new(),
            window: VecDeque::new(),
            window_bytes: 0,
            paged: count,
            paged_after: 0,
            tail,
            held: HashMap::new(),
            consumers: Vec::new(),
            turn: 0,
            delivered,
            allowed: if bounds.reserve == u64::MAX {
                u64::MAX
            } else {
                delivered
            },
            asked_page: false,
            asked_allow: false,
            epoch: 0,
        }
    }

    /// Only the consumer that subscribed first gets messages, until it ends.
    pub(super) fn single_active(mut self, single_active: bool) -> QueueState {
        self.single_active = single_active;
        self
    }

    /// Adds a message, whose number is above all before.
    pub(super) fn arrive(&mut self, waiting: Waiting) {
        assert!(waiting.seq > self.tail, "messages arrive in order");
        self.tail = waiting.seq;
        if self.paged > 0 || !self.has_room() {
            self.paged += 1;
        } else {
            self.push(waiting);
        }
    }

    /// Adds a message that its publisher holds from the start, as if it had just been delivered; gives it back if others are in front of it.
    pub(super) fn hold(&mut self, waiting: Waiting) -> Result<(), Waiting> {
        let first = self.returned.is_empty() && self.window.is_empty() && self.paged == 0;
        if !first || waiting.seq > self.allowed {
            return Err(waiting);
        }
        assert!(waiting.seq > self.tail, "messages arrive in order");
        self.tail = waiting.seq;
        self.paged_after = waiting.seq;
        self.delivered = waiting.seq;
        let held = Held {
            consumer: None,
            waiting,
        };
        self.held.insert(self.tail, held);
        Ok(())
    }

    fn has_room(&self) -> bool {
        self.window.is_empty()
            || (self.window.len() < self.bounds.window
                && self.window_bytes < self.bounds.window_bytes)
    }

    fn push(&mut self, waiting: Waiting) {
        self.paged_after = waiting.seq;
        self.window_bytes += waiting.bytes();
        self.window.push_back(waiting);
    }

    /// Takes what was read from disk for [`Need::Page`]: the messages behind the window in order, perhaps with some that have not
    /// arrived here yet; nothing if reading failed.
    pub(super) fn page_in(&mut self, epoch: u64, rows: Option<Vec<Waiting>>) {
        if epoch != self.epoch {
            return;
        }
        self.asked_page = false;
        let Some(rows) = rows else {
            return;
        };
        if rows.is_empty() {
            // Nothing is there, whatever the count said.
            self.paged = 0;
        }
        for row in rows {
            if row.seq > self.tail {
                break;
            }
            self.paged = self.paged.saturating_sub(1);
            self.push(row);
        }
    }

    /// Deliveries up to this number are recorded.
    pub(super) fn allow(&mut self, upto: u64) {
        self.asked_allow = false;
        self.allowed = self.allowed.max(upto);
    }

    /// What the queue waits for, each thing said once. A delay queue needs its messages without a consumer.
    pub(super) fn need(&mut self, is_delay: bool) -> Option<Need> {
        let wanted = is_delay || !self.consumers.is_empty();
        if wanted && self.paged > 0 && !self.asked_page && self.runs_low() {
            self.asked_page = true;
            return Some(Need::Page {
                after: self.paged_after,
                epoch: self.epoch,
            });
        }
        let head = self.head();
        let close = head.saturating_add(self.bounds.reserve / 2) > self.allowed;
        if !self.consumers.is_empty() && close && !self.asked_allow && self.allowed < u64::MAX {
            self.asked_allow = true;
            return Some(Need::Allow {
                upto: head + self.bounds.reserve,
            });
        }
        None
    }

    /// The lowest number that the next message not delivered before may have.
    fn head(&self) -> u64 {
        match self.window.front() {
            Some(waiting) => waiting.seq,
            None if self.paged > 0 => self.paged_after + 1,
            None => self.tail + 1,
        }
    }

    fn runs_low(&self) -> bool {
        self.window.len() <= self.bounds.window / 2
            && self.window_bytes <= self.bounds.window_bytes / 2
    }

    /// The highest number that was delivered.
    pub(super) fn delivered(&self) -> u64 {
        self.delivered
    }

    /// Adds a consumer that may hold `prefetch` messages.
    pub(super) fn subscribe(&mut self, id: ConsumerId, prefetch: u16) {
        self.consumers.push(Slot {
            id,
            prefetch: usize::from(prefetch.max(1)),
            held: 0,
            held_bytes: 0,
        });
    }

    /// Removes a consumer. What it holds it may still settle.
    pub(super) fn unsubscribe(&mut self, id: ConsumerId) {
        self.consumers.retain(|slot| slot.id != id);
    }

    /// Hands the first message to the next consumer that has room; both in turn. It is held until it is settled.
    pub(super) fn deliver(&mut self) -> Option<(ConsumerId, Waiting)> {
        let (turn, count) = if self.single_active {
            (0, self.consumers.len().min(1))
        } else {
            (self.turn, self.consumers.len())
        };
        let index = (0..count)
            .map(|step| (turn + step) % count)
            .find(|&index| self.consumers[index].has_room(&self.bounds))?;
        let waiting = self.take_first(|waiting, allowed| waiting.seq <= allowed)?;
        self.delivered = self.delivered.max(waiting.seq);
        self.turn = index + 1;
        let slot = &mut self.consumers[index];
        slot.held += 1;
        slot.held_bytes += waiting.bytes();
        let held = Held {
            consumer: Some(slot.id),
            waiting: waiting.clone(),
        };
        let before = self.held.insert(waiting.seq, held);
        assert!(before.is_none(), "a message has one holder");
        Some((slot.id, waiting))
    }

    fn take_first(&mut self, wanted: impl Fn(&Waiting, u64) -> bool) -> Option<Waiting> {
        if let Some(entry) = self.returned.first_entry() {
            let wanted = wanted(entry.get(), self.allowed);
            return wanted.then(|| entry.remove());
        }
        if !wanted(self.window.front()?, self.allowed) {
            return None;
        }
        let waiting = self.window.pop_front()?;
        self.window_bytes -= waiting.bytes();
        Some(waiting)
    }

    /// Ends a delivery; false if there is none of this number. One that returns keeps its place.
    pub(super) fn settle(&mut self, seq: u64, settlement: Settlement) -> bool {
        let Some(held) = self.held.remove(&seq) else {
            return false;
        };
        let slot = self
            .consumers
            .iter_mut()
            .find(|slot| Some(slot.id) == held.consumer);
        if let Some(slot) = slot {
            slot.held -= 1;
            slot.held_bytes -= held.waiting.bytes();
        }
        if settlement == Settlement::Requeue {
            let waiting = Waiting {
                redelivered: true,
                ..held.waiting
            };
            self.returned.insert(seq, waiting);
        }
        true
    }

    /// Takes a message whose time has come; the first in line, as all stay equally long.
    pub(super) fn take_due(&mut self, now: Timestamp) -> Option<Waiting> {
        self.take_first(|waiting, _| waiting.due <= now)
    }

    /// Puts back what [`take_due`](Self::take_due) took.
    pub(super) fn restore(&mut self, waiting: Waiting) {
        self.returned.insert(waiting.seq, waiting);
    }

    /// When the first message is due.
    pub(super) fn next_due(&self) -> Option<Timestamp> {
        let returned = self.returned.values().next();
        returned.or(self.window.front()).map(|waiting| waiting.due)
    }

    /// Takes all ready messages.
    pub(super) fn purge(&mut self) -> Purged {
        let behind = self.window.len() as u64 + self.paged;
        let first = self.head();
        let purged = Purged {
            count: self.returned.len() as u64 + behind,
            single: self.returned.keys().copied().collect(),
            range: (behind > 0).then_some((first, self.tail)),
        };
        self.returned.clear();
        self.window.clear();
        self.window_bytes = 0;
        self.paged = 0;
        self.paged_after = self.tail;
        self.asked_page = false;
        self.epoch += 1;
        purged
    }

    pub(super) fn stats(&self) -> QueueStats {
        let ready = self.returned.len() as u64 + self.window.len() as u64 + self.paged;
        QueueStats {
            ready,
            consumers: self.consumers.len() as u32,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: Bounds = Bounds {
        window: 4,
        window_bytes: 1 << 20,
        held_bytes: 100,
        reserve: 8,
    };

    fn waiting(seq: u64) -> Waiting {
        sized(seq, 0)
    }

    fn sized(seq: u64, bytes: usize) -> Waiting {
        Waiting {
            seq,
            due: Timestamp(seq as i64 * 10),
            redelivered: false,
            stored: Arc::new(Stored {
                message: Message {
                    body: vec![0; bytes].into(),
                    ..Message::default()
                },
                exchange: "".into(),
                routing_key: "q".into(),
            }),
        }
    }

    fn queue(bounds: Bounds, count: u64) -> QueueState {
        let mut queue = QueueState::new(bounds);
        (1..=count).for_each(|seq| queue.arrive(waiting(seq)));
        queue
    }

    /// Delivers all that goes out: `consumer:seq`, with `!` for redelivered.
    fn deliver(queue: &mut QueueState) -> String {
        let mut out = Vec::new();
        while let Some((consumer, waiting)) = queue.deliver() {
            let mark = if waiting.redelivered { "!" } else { "" };
            out.push(format!("{}:{}{mark}", consumer.0, waiting.seq));
        }
        out.join(" ")
    }

    #[test]
    fn consumers_take_turns_within_their_prefetch() {
        let mut queue = queue(Bounds::NONE, 7);
        queue.subscribe(ConsumerId(1), 2);
        queue.subscribe(ConsumerId(2), 3);
        assert_eq!(deliver(&mut queue), "1:1 2:2 1:3 2:4 2:5");
        assert!(queue.settle(3, Settlement::Ack));
        assert!(!queue.settle(3, Settlement::Ack));
        assert_eq!(deliver(&mut queue), "1:6");
        queue.unsubscribe(ConsumerId(1));
        assert!(queue.settle(1, Settlement::Requeue));
        assert!(queue.settle(4, Settlement::Reject));
        assert!(queue.settle(2, Settlement::Requeue));
        assert_eq!(deliver(&mut queue), "2:1! 2:2!");
        assert_eq!(
            queue.stats(),
            QueueStats {
                ready: 1,
                consumers: 1
            }
        );
    }

    #[test]
    fn a_single_consumer_is_active_until_it_ends() {
        let mut queue = queue(Bounds::NONE, 6).single_active(true);
        queue.subscribe(ConsumerId(1), 2);
        queue.subscribe(ConsumerId(2), 9);
        queue.subscribe(ConsumerId(3), 9);
        assert_eq!(deliver(&mut queue), "1:1 1:2");
        queue.settle(1, Settlement::Ack);
        assert_eq!(deliver(&mut queue), "1:3");
        queue.unsubscribe(ConsumerId(2));
        assert_eq!(deliver(&mut queue), "");
        queue.unsubscribe(ConsumerId(1));
        queue.settle(2, Settlement::Requeue);
        assert_eq!(deliver(&mut queue), "3:2! 3:4 3:5 3:6");
    }

    #[test]
    fn consumers_hold_so_many_bytes() {
        let mut queue = queue(SMALL, 0);
        queue.allow(100);
        queue.subscribe(ConsumerId(1), 100);
        for (seq, bytes) in [(1, 500), (2, 60), (3, 60), (4, 0)] {
            queue.arrive(sized(seq, bytes));
        }
        assert_eq!(deliver(&mut queue), "1:1", "one, whatever its size");
        queue.settle(1, Settlement::Ack);
        assert_eq!(deliver(&mut queue), "1:2 1:3");
        queue.settle(3, Settlement::Requeue);
        assert_eq!(deliver(&mut queue), "1:3!");
        queue.settle(2, Settlement::Ack);
        assert_eq!(deliver(&mut queue), "1:4");
    }

    #[test]
    fn pages_in_what_did_not_fit() {
        let mut queue = queue(SMALL, 10);
        queue.allow(100);
        assert_eq!(queue.stats().ready, 10);
        assert_eq!(queue.need(false), None, "nobody wants them");
        queue.subscribe(ConsumerId(1), 100);
        assert_eq!(deliver(&mut queue), "1:1 1:2 1:3 1:4");
        let need = queue.need(false);
        assert_eq!(need, Some(Need::Page { after: 4, epoch: 0 }));
        assert_eq!(queue.need(false), None, "asked once");
        queue.arrive(waiting(11));
        // The disk is ahead by one that has not arrived.
        queue.page_in(0, Some((5..=12).map(waiting).collect()));
        assert_eq!(queue.stats().ready, 7);
        queue.arrive(waiting(12));
        assert_eq!(deliver(&mut queue), "1:5 1:6 1:7 1:8 1:9 1:10 1:11");
        let need = queue.need(false);
        assert_eq!(
            need,
            Some(Need::Page {
                after: 11,
                epoch: 0
            })
        );
        queue.page_in(0, Some(vec![waiting(12)]));
        queue.arrive(waiting(13));
        assert_eq!(deliver(&mut queue), "1:12 1:13");
    }

    #[test]
    fn delivers_only_what_is_allowed() {
        let mut queue = queue(SMALL, 3);
        queue.subscribe(ConsumerId(1), 100);
        assert_eq!(deliver(&mut queue), "");
        assert_eq!(queue.need(false), Some(Need::Allow { upto: 9 }));
        assert_eq!(queue.need(false), None);
        queue.allow(2);
        assert_eq!(deliver(&mut queue), "1:1 1:2");
        assert_eq!(queue.need(false), Some(Need::Allow { upto: 11 }));
        queue.allow(11);
        assert_eq!(deliver(&mut queue), "1:3");
        assert_eq!(queue.need(false), None);
    }

    #[test]
    fn publishers_hold_only_what_is_next() {
        let mut queue = queue(SMALL, 0);
        assert!(queue.hold(waiting(1)).is_err(), "not allowed yet");
        queue.arrive(waiting(1));
        queue.allow(9);
        assert!(queue.hold(waiting(2)).is_err(), "1 is in front of it");
        queue.subscribe(ConsumerId(1), 1);
        assert_eq!(deliver(&mut queue), "1:1");
        assert!(queue.hold(waiting(2)).is_ok());
        assert!(queue.hold(waiting(3)).is_ok());
        assert_eq!(queue.delivered(), 3);
        queue.arrive(waiting(4));
        assert!(queue.hold(waiting(5)).is_err());
        assert!(queue.settle(2, Settlement::Ack));
        assert!(queue.settle(3, Settlement::Requeue));
        assert!(queue.settle(1, Settlement::Ack));
        assert_eq!(deliver(&mut queue), "1:3!");
        assert_eq!(queue.stats().ready, 1);
    }

    #[test]
    fn purge_leaves_what_is_held_and_outdates_pages() {
        let mut queue = queue(SMALL, 10);
        queue.allow(100);
        queue.subscribe(ConsumerId(1), 3);
        assert_eq!(deliver(&mut queue), "1:1 1:2 1:3");
        queue.settle(2, Settlement::Requeue);
        queue.unsubscribe(ConsumerId(1));
        let purged = queue.purge();
        assert_eq!((purged.count, purged.single), (8, vec![2]));
        assert_eq!(purged.range, Some((4, 10)));
        queue.page_in(0, Some(vec![waiting(5)]));
        assert_eq!(queue.stats().ready, 0);
        assert!(queue.settle(1, Settlement::Requeue));
        assert_eq!(queue.stats().ready, 1);
        assert_eq!(queue.purge().range, None);
    }

    #[test]
    fn due_messages_leave_in_order() {
        let mut queue = queue(Bounds::NONE, 3);
        assert_eq!(queue.next_due(), Some(Timestamp(10)));
        assert!(queue.take_due(Timestamp(9)).is_none());
        let due: Vec<_> = std::iter::from_fn(|| queue.take_due(Timestamp(25))).collect();
        assert_eq!(due.iter().map(|due| due.seq).collect::<Vec<_>>(), [1, 2]);
        assert_eq!(queue.next_due(), Some(Timestamp(30)));
    }
}
