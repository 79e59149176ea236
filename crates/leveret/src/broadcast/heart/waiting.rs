//! Writes whose outcomes somebody waits for.

use std::collections::BTreeMap;

use leveret_core::broadcast::Outcome;
use tokio::{sync::oneshot, time::Instant};

use super::request::Ack;

/// The most writes whose outcomes are waited for.
const SLOTS_MAX: usize = 1 << 16;

/// The writes by seq.
#[derive(Debug, Default)]
pub(super) struct Waiting(BTreeMap<u64, Slot>);

#[derive(Debug)]
struct Slot {
    outcome: Option<Outcome>,
    /// It has a key: its outcome goes to the log.
    is_keyed: bool,
    is_settled: bool,
    since: Instant,
    waiters: Vec<Waiter>,
}

#[derive(Debug)]
struct Waiter {
    ack: Ack,
    answer: oneshot::Sender<Outcome>,
}

impl Waiting {
    /// Waits for a write, with its outcome if it is known.
    pub(super) fn wait(
        &mut self,
        seq: u64,
        ack: Ack,
        is_keyed: bool,
        outcome: Option<Outcome>,
        now: Instant,
    ) -> oneshot::Receiver<Outcome> {
        let (answer, answered) = oneshot::channel();
        let is_settled = outcome.is_some();
        let slot = self.0.entry(seq).or_insert(Slot {
            outcome: None,
            is_keyed,
            is_settled,
            since: now,
            waiters: Vec::new(),
        });
        slot.outcome = slot.outcome.take().or(outcome);
        slot.since = now;
        if ack != Ack::Accepted {
            slot.waiters.push(Waiter { ack, answer });
        }
        if self.0.len() > SLOTS_MAX {
            self.0.pop_first();
        }
        answered
    }

    /// The outcome of a write that is waited for; the first that is told stays.
    pub(super) fn outcome(&mut self, seq: u64, outcome: &Outcome) {
        if let Some(slot) = self.0.get_mut(&seq)
            && slot.outcome.is_none()
        {
            slot.outcome = Some(outcome.clone());
        }
    }

    /// Answers whose level is reached among the seqs behind `after` up to `through`; `reached` says how many have applied a seq, and of how many.
    pub(super) fn advance(
        &mut self,
        after: u64,
        through: u64,
        reached: impl Fn(u64) -> (usize, usize),
    ) -> Advanced {
        let mut advanced = Advanced::default();
        if through <= after {
            return advanced;
        }
        let mut done = Vec::new();
        for (seq, slot) in self.0.range_mut(after + 1..=through) {
            let (applied, members) = reached(*seq);
            let is_reached = |waiter: &Waiter| applied >= waiter.ack.needs(members);
            slot.waiters.retain(|waiter| !waiter.answer.is_closed());
            let Some(outcome) = &slot.outcome else {
                if applied > 0 {
                    advanced.lacking.push(*seq);
                }
                continue;
            };
            if slot.is_keyed && !slot.is_settled && applied > 0 {
                slot.is_settled = true;
                advanced.settle.push((*seq, outcome.clone()));
            }
            for waiter in slot.waiters.extract_if(.., |waiter| is_reached(waiter)) {
                // Who asked may be gone.
                drop(waiter.answer.send(outcome.clone()));
            }
            if slot.waiters.is_empty() && (slot.is_settled || !slot.is_keyed) {
                done.push(*seq);
            }
        }
        for seq in done {
            self.0.remove(&seq);
        }
        advanced
    }

    /// Forgets what nobody waits for since `before`: its outcome can be asked for again.
    pub(super) fn forget(&mut self, before: Instant) {
        self.0.retain(|_, slot| {
            slot.waiters.retain(|waiter| !waiter.answer.is_closed());
            !slot.waiters.is_empty() || slot.since >= before
        });
    }

    /// Lets all go: what they waited for is no more this heart's.
    pub(super) fn clear(&mut self) {
        self.0.clear();
    }

    /// Whether somebody waits for an outcome.
    pub(super) fn is_anybody_there(&self) -> bool {
        let mut waiters = self.0.values().flat_map(|slot| &slot.waiters);
        waiters.any(|waiter| !waiter.answer.is_closed())
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }
}

/// What follows from an advance.
#[derive(Debug, Default)]
pub(super) struct Advanced {
    /// Outcomes for the log.
    pub(super) settle: Vec<(u64, Outcome)>,
    /// Seqs that are applied, but whose outcomes nobody told.
    pub(super) lacking: Vec<u64>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn answers_when_the_level_is_reached() {
        let (mut waiting, now) = (Waiting::default(), Instant::now());
        let mut one = waiting.wait(5, Ack::One, false, None, now);
        let mut quorum = waiting.wait(5, Ack::Quorum, false, None, now);
        let advanced = waiting.advance(0, 5, |_| (1, 3));
        assert_eq!(advanced.lacking, [5], "nobody told what came of it");
        let outcome = Outcome::Done(Vec::new());
        waiting.outcome(5, &outcome);
        waiting.advance(0, 4, |_| (1, 3));
        assert!(one.try_recv().is_err(), "the seq is not reached");
        waiting.advance(4, 5, |_| (1, 3));
        assert_eq!(one.try_recv(), Ok(outcome.clone()));
        assert!(quorum.try_recv().is_err());
        assert_eq!(waiting.len(), 1);
        waiting.advance(4, 5, |_| (2, 3));
        assert_eq!(quorum.try_recv(), Ok(outcome));
        assert_eq!(waiting.len(), 0);
    }

    /// One with a key is settled although nobody waits for it, and once.
    #[tokio::test]
    async fn settles_what_has_a_key() {
        let (mut waiting, now) = (Waiting::default(), Instant::now());
        drop(waiting.wait(1, Ack::Accepted, true, None, now));
        let outcome = Outcome::Done(Vec::new());
        waiting.outcome(1, &outcome);
        assert_eq!(waiting.advance(0, 1, |_| (1, 1)).settle, [(1, outcome)]);
        assert_eq!(waiting.len(), 0);
    }

    #[tokio::test]
    async fn forgets_whom_nobody_waits_for() {
        let (mut waiting, now) = (Waiting::default(), Instant::now());
        drop(waiting.wait(1, Ack::All, false, None, now));
        let kept = waiting.wait(2, Ack::All, false, None, now);
        waiting.forget(now + std::time::Duration::from_secs(1));
        assert_eq!(waiting.0.keys().collect::<Vec<_>>(), [&2]);
        drop(kept);
    }
}
