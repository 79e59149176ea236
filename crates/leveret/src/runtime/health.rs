//! What a process needs in order to be ready, and whether it has it; and what waits to be published, and why.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use tokio::time::Instant;

/// A part that readiness depends on. The names are part of the API.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// The store answers.
    Store,
    /// The broker is connected.
    Broker,
    /// The worker's consumer is live.
    Consumer,
    /// The broker takes what is published: nothing is held back.
    Publishing,
}

/// What may be held back. The names are part of the API.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum What {
    /// The first jobs of runs.
    FirstJobs,
    /// What follows from a job: its successors, the run's completion.
    Successors,
    /// The jobs of timers that are due.
    Timers,
    /// The jobs of stalled runs.
    StalledRuns,
    /// The status messages of steps.
    StatusMessages,
    /// The completion messages of runs that end as they begin.
    Completions,
}

impl fmt::Display for What {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            What::FirstJobs => "first jobs of runs",
            What::Successors => "messages that follow from jobs",
            What::Timers => "jobs of timers that are due",
            What::StalledRuns => "jobs of stalled runs",
            What::StatusMessages => "status messages",
            What::Completions => "completion messages of runs without nodes",
        })
    }
}

/// Who holds something back, and the last reason.
#[derive(Debug)]
struct Held {
    holders: usize,
    /// Something was put off until then: if nobody says more, it was published.
    until: Option<Instant>,
    reason: String,
}

/// Readiness, as parts.
#[derive(Debug)]
pub(crate) struct Health {
    parts: [AtomicBool; 3],
    held: Mutex<BTreeMap<What, Held>>,
}

impl Default for Health {
    /// Store and broker were just connected; the consumer comes later.
    fn default() -> Health {
        Health {
            parts: [
                AtomicBool::new(true),
                AtomicBool::new(true),
                AtomicBool::new(false),
            ],
            held: Mutex::default(),
        }
    }
}

impl Health {
    /// # Panics
    /// For [`Part::Publishing`], which follows from what is [held back](Self::hold_back).
    pub(crate) fn set(&self, part: Part, well: bool) {
        let before = self.parts[part as usize].swap(well, Ordering::AcqRel);
        if before != well {
            tracing::info!(?part, well, "health changed");
        }
    }

    pub(crate) fn get(&self, part: Part) -> bool {
        match part {
            Part::Publishing => self.lock().is_empty(),
            part => self.parts[part as usize].load(Ordering::Acquire),
        }
    }

    /// What is held back, with the reasons.
    pub(crate) fn reasons(&self) -> Vec<String> {
        let held = self.lock();
        let reason = |(what, held): (&What, &Held)| format!("{what} wait: {}", held.reason);
        held.iter().map(reason).collect()
    }

    /// Something could not be published for this reason, and waits until what this returns is dropped. The first one, and a new reason, are logged.
    pub(crate) fn hold_back(self: &Arc<Self>, what: What, reason: impl fmt::Display) -> HeldBack {
        {
            let mut all = self.lock();
            let held = all.entry(what).or_insert_with(|| Held {
                holders: 0,
                until: None,
                reason: String::new(),
            });
            held.holders += 1;
            held.tell(what, &reason);
        }
        HeldBack {
            health: self.clone(),
            what,
        }
    }

    /// As [`hold_back`](Self::hold_back), until then.
    pub(crate) fn put_off(self: &Arc<Self>, what: What, reason: impl fmt::Display, until: Instant) {
        let _held = self.hold_back(what, reason);
        if let Some(held) = self.lock().get_mut(&what) {
            held.until = held.until.max(Some(until));
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<What, Held>> {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        held.retain(|what, held| held.lasts(*what, Instant::now()));
        held
    }
}

impl Held {
    fn lasts(&self, what: What, now: Instant) -> bool {
        let lasts = self.holders > 0 || self.until.is_some_and(|until| until > now);
        if !lasts {
            tracing::info!("{what} wait no more");
        }
        lasts
    }

    fn tell(&mut self, what: What, reason: &impl fmt::Display) {
        let reason = reason.to_string();
        if self.reason != reason {
            tracing::warn!(%reason, "{what} wait to be published");
            self.reason = reason;
        }
    }
}

/// Something that waits to be published.
#[derive(Debug)]
#[must_use = "the process is not ready as long as this lives"]
pub(crate) struct HeldBack {
    health: Arc<Health>,
    what: What,
}

impl HeldBack {
    /// It was tried again and failed, for this reason.
    pub(crate) fn because(&self, reason: impl fmt::Display) {
        if let Some(held) = self.health.lock().get_mut(&self.what) {
            held.tell(self.what, &reason);
        }
    }
}

impl Drop for HeldBack {
    fn drop(&mut self) {
        if let Some(held) = self.health.lock().get_mut(&self.what) {
            held.holders -= 1;
        }
        // Forgets it, and says so.
        drop(self.health.lock());
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::sleep;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_is_put_off_is_held_back_until_its_time() {
        let health = Arc::new(Health::default());
        let at = |seconds| Instant::now() + Duration::from_secs(seconds);
        health.put_off(What::Successors, "full", at(5));
        health.put_off(What::Successors, "full", at(3));
        drop(health.hold_back(What::Successors, "full"));
        sleep(Duration::from_millis(4_999)).await;
        assert!(!health.get(Part::Publishing));
        sleep(Duration::from_millis(2)).await;
        assert!(health.get(Part::Publishing));
        assert!(health.reasons().is_empty());
    }

    /// Not ready as long as one of them holds something back, and the reason is the last one.
    #[test]
    fn tells_what_is_held_back() {
        let health = Arc::new(Health::default());
        assert!(health.get(Part::Publishing));
        let first = health.hold_back(What::FirstJobs, "away");
        let second = health.hold_back(What::FirstJobs, "full");
        let timers = health.hold_back(What::Timers, "away");
        drop(first);
        assert!(!health.get(Part::Publishing));
        assert_eq!(
            health.reasons(),
            [
                "first jobs of runs wait: full",
                "jobs of timers that are due wait: away"
            ]
        );
        timers.because("gone");
        drop(second);
        assert_eq!(health.reasons(), ["jobs of timers that are due wait: gone"]);
        drop(timers);
        assert!(health.get(Part::Publishing));
    }
}
