//! Steps that may have ended their worker's process, and how they are told from those that were only there when it ended.
//!
//! Each redelivery of a step is counted in the store before the step is executed again, and at a bound the step is given up. Whatever else
//! ends processes, or takes their jobs away, must not bring an innocent step to that bound:
//!
//! - A step that was counted before is a *suspect*, and waits for its turn in the [`Lane`]: longer each time, and it is counted after the wait,
//!   so that a process which keeps ending soon after its start accuses nobody.
//! - Suspects that were counted once share the lane, which begins with room for one and has twice as much after each that ended well: what a
//!   crash of the whole process left behind is soon done. When the process ends, those in the lane at most are counted again.
//! - Suspects that were counted more often were in the lane when a process ended, and have it for themselves: of these, one at most is counted
//!   again.
//! - A process that lost its jobs and lives takes back what it counted for them.
//!
//! Suspects that wait are deliveries in the worker's hand, as are those that wait for a place: they take none, the reconciler is told of them,
//! and a drain returns them to the queue.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use leveret_core::ids::StepKey;
use tokio::time::Instant;

use super::Inner;

/// The wait before a step that was counted once is tried again. Doubles with the count.
const PAUSE: Duration = Duration::from_millis(500);
/// The longest wait.
const PAUSE_MAX: Duration = Duration::from_secs(30);
/// The most suspects that share the lane. One more crash makes so many of them wait for each other.
const WIDTH_MAX: usize = 32;

/// The suspects of a worker that wait, and the room for those that are executed. Time is an argument.
#[derive(Debug)]
pub(crate) struct Lane<T> {
    /// By when their turn is at the earliest; those of the same time in their order.
    waiting: BTreeMap<(Instant, u64), (T, u32)>,
    number: u64,
    /// How many of those counted once may be executed at the same time.
    width: usize,
    /// Held once more by each turn.
    turns: Arc<()>,
    /// Whether the last turn given is one alone.
    alone: bool,
}

/// The right to execute a suspect, until this is dropped.
#[derive(Debug)]
pub(crate) struct Turn {
    alone: bool,
    _held: Arc<()>,
}

impl Turn {
    /// Whether it is the turn of a step that was counted so often.
    pub(crate) fn serves(&self, counted: u32) -> bool {
        self.alone || !needs_all(counted)
    }
}

impl<T> Default for Lane<T> {
    fn default() -> Lane<T> {
        Lane {
            waiting: BTreeMap::new(),
            number: 0,
            width: 1,
            turns: Arc::default(),
            alone: false,
        }
    }
}

impl<T> Lane<T> {
    /// Adds a suspect that was counted so often.
    pub(crate) fn wait(&mut self, suspect: T, counted: u32, now: Instant) {
        let turn = (now + pause(counted), self.number);
        self.number += 1;
        self.waiting.insert(turn, (suspect, counted));
    }

    /// The first of those that wait, if its turn has come.
    pub(crate) fn next(&mut self, now: Instant) -> Option<(T, Turn)> {
        if self.next_at()? > now {
            return None;
        }
        let (_, (suspect, counted)) = self.waiting.pop_first()?;
        self.alone = needs_all(counted);
        let turn = Turn {
            alone: self.alone,
            _held: self.turns.clone(),
        };
        Some((suspect, turn))
    }

    /// When [`next`](Self::next) has one, if nothing happens before; `None`: none waits, or others must end first.
    pub(crate) fn next_at(&self) -> Option<Instant> {
        let ((at, _), (_, counted)) = self.waiting.first_key_value()?;
        let executed = Arc::strong_count(&self.turns) - 1;
        let room = match executed {
            0 => true,
            _ => !self.alone && !needs_all(*counted) && executed < self.width,
        };
        room.then_some(*at)
    }

    /// A suspect ended and its process did not.
    pub(crate) fn ended_well(&mut self) {
        self.width = (self.width * 2).min(WIDTH_MAX);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Those that wait, first ones first.
    pub(crate) fn waiting(&self) -> impl Iterator<Item = &T> {
        self.waiting.values().map(|(suspect, _)| suspect)
    }

    /// Lets go of those that wait.
    pub(crate) fn clear(&mut self) {
        self.waiting.clear();
    }
}

/// Whether a suspect that was counted so often is tried alone.
fn needs_all(counted: u32) -> bool {
    counted > 1
}

fn pause(counted: u32) -> Duration {
    PAUSE
        .saturating_mul(1 << counted.saturating_sub(1).min(16))
        .min(PAUSE_MAX)
}

/// The redelivered steps that this process executes, with their counts before.
#[derive(Debug, Default)]
pub(crate) struct Suspects(Mutex<OnTrial>);

#[derive(Debug, Default)]
struct OnTrial {
    steps: HashMap<u64, (StepKey, u32)>,
    next: u64,
}

/// A redelivered step is executed, until this is dropped.
#[derive(Debug)]
pub(crate) struct Trial<'a> {
    suspects: &'a Suspects,
    number: u64,
}

impl Suspects {
    /// A step that was counted so often before is about to be counted and executed.
    pub(crate) fn trial(&self, step: StepKey, counted: u32) -> Trial<'_> {
        let mut on_trial = self.on_trial();
        let number = on_trial.next;
        on_trial.next += 1;
        on_trial.steps.insert(number, (step, counted));
        Trial {
            suspects: self,
            number,
        }
    }

    fn on_trial(&self) -> MutexGuard<'_, OnTrial> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Trial<'_> {
    fn drop(&mut self) {
        self.suspects.on_trial().steps.remove(&self.number);
    }
}

/// Takes back what was counted for the steps that are on trial now: their jobs are lost to this process, and it lives.
pub(crate) fn acquit(inner: &Arc<Inner>) -> impl Future<Output = ()> + Send + 'static {
    let steps: Vec<_> = inner.suspects.on_trial().steps.drain().collect();
    let inner = inner.clone();
    async move {
        for (_, (step, counted)) in steps {
            if let Err(error) = inner.set_redeliveries(&step, counted).await {
                tracing::warn!(%error, "a redelivery stays counted");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pause_doubles_to_a_bound() {
        let pauses: Vec<_> = [1, 2, 3, 4, 7, 40].map(|n| pause(n).as_millis()).into();
        assert_eq!(pauses, [500, 1000, 2000, 4000, 30_000, 30_000]);
    }

    /// Takes all whose turn it is, so long after the beginning.
    fn take(lane: &mut Lane<char>, now: Instant, turns: &mut Vec<Turn>) -> String {
        let mut taken = String::new();
        while let Some((name, turn)) = lane.next(now) {
            taken.push(name);
            turns.push(turn);
        }
        taken
    }

    #[test]
    fn the_lane_widens_with_each_that_ends_well() {
        let (begun, mut lane, mut turns) = (Instant::now(), Lane::default(), Vec::new());
        for name in 'a'..='i' {
            lane.wait(name, 1, begun);
        }
        assert_eq!(take(&mut lane, begun, &mut turns), "");
        let now = begun + PAUSE;
        assert_eq!(lane.next_at(), Some(now));
        assert_eq!(take(&mut lane, now, &mut turns), "a");
        assert_eq!(lane.next_at(), None);
        turns.clear();
        // It panicked, or its job was lost.
        assert_eq!(take(&mut lane, now, &mut turns), "b");
        turns.clear();
        lane.ended_well();
        assert_eq!(take(&mut lane, now, &mut turns), "cd");
        turns.pop();
        lane.ended_well();
        assert_eq!(take(&mut lane, now, &mut turns), "efg");
        assert_eq!(lane.waiting().collect::<String>(), "hi");
    }

    /// Neither beside others that are suspected more or less.
    #[test]
    fn who_was_in_the_lane_before_has_it_alone() {
        let (begun, mut lane, mut turns) = (Instant::now(), Lane::default(), Vec::new());
        (0..5).for_each(|_| lane.ended_well());
        for (name, counted) in [('x', 2), ('a', 1), ('b', 1), ('y', 3)] {
            lane.wait(name, counted, begun);
        }
        assert_eq!(take(&mut lane, begun + PAUSE, &mut turns), "ab");
        assert!(turns[0].serves(1) && !turns[0].serves(2));
        let now = begun + PAUSE * 4;
        assert_eq!(take(&mut lane, now, &mut turns), "");
        turns.clear();
        assert_eq!(take(&mut lane, now, &mut turns), "x");
        lane.wait('c', 1, begun);
        assert_eq!(take(&mut lane, now, &mut turns), "");
        assert!(turns[0].serves(9));
        turns.clear();
        assert_eq!(take(&mut lane, now, &mut turns), "c");
        turns.clear();
        assert_eq!(take(&mut lane, now, &mut turns), "y");
    }

    /// Processes that end with one step in them, again and again: which of the steps reach the bound?
    #[test]
    fn only_the_guilty_step_reaches_the_bound() {
        const BOUND: u32 = 5;
        let mut counts: HashMap<char, u32> = ('a'..='z').map(|name| (name, 0)).collect();
        let mut given_up = String::new();
        // Each turn of this loop is a process. Whoever was counted never was executed at once.
        while !counts.is_empty() {
            let (begun, mut lane) = (Instant::now(), Lane::default());
            let mut executed: Vec<(char, Option<Turn>)> = Vec::new();
            let mut names: Vec<char> = counts.keys().copied().collect();
            names.sort_unstable();
            for name in names {
                match counts[&name] {
                    0 => executed.push((name, None)),
                    counted => lane.wait(name, counted, begun),
                }
            }
            let mut now = begun;
            let crashed = loop {
                for (name, _) in &executed {
                    *counts.get_mut(name).unwrap() += 1;
                }
                let guilty = executed.iter().any(|(name, _)| *name == 'q');
                if guilty && counts[&'q'] == BOUND {
                    given_up.push('q');
                } else if guilty {
                    break true;
                }
                for (name, turn) in executed.drain(..) {
                    assert!(name == 'q' || counts[&name] < BOUND, "{name}");
                    counts.remove(&name);
                    drop(turn);
                    lane.ended_well();
                }
                now = lane.next_at().map_or(now, |at| at.max(now));
                while let Some((name, turn)) = lane.next(now) {
                    executed.push((name, Some(turn)));
                }
                if executed.is_empty() {
                    break false;
                }
            };
            assert_eq!(crashed, !counts.is_empty());
        }
        assert_eq!(given_up, "q");
    }
}
