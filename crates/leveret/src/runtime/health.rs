//! What a process needs in order to be ready, and whether it has it; and what waits to be published, and why.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

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

    fn lock(&self) -> MutexGuard<'_, BTreeMap<What, Held>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Held {
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
        let mut all = self.health.lock();
        let Some(held) = all.get_mut(&self.what) else {
            return;
        };
        held.holders -= 1;
        if held.holders == 0 {
            all.remove(&self.what);
            tracing::info!("{} wait no more", self.what);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
