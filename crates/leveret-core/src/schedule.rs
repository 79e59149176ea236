//! Schedules: runs of a workflow at due times. What falls due, what is skipped, what is made up for: decided here, with the time as an argument.
//!
//! A [`Schedule`] is a document that changes as a whole, by whoever changes it first: so each due time is taken once, however many look at it.
//! Taking one and starting its run are two steps. A run that was not started yet stands in [`Schedule::starting`], with the id that it gets, so that
//! whoever starts it again after a crash starts the same run.

mod spec;
mod timing;

use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use self::{
    spec::{CatchUp, Compiled, Overlap, Spec, SpecError},
    timing::{CRON_BYTES_MAX, EVERY_MAX, EVERY_MIN, Timing, TimingError},
};
use crate::{ids::RunId, time::Timestamp};

/// What is due for longer than this counts as missed, and is what `catch_up` says; what is late by less is fired.
pub const MISSED_AFTER: Duration = Duration::from_secs(60);

/// The most due times that one look takes; the rest is for the next.
pub const TAKEN_MAX: usize = 100;

/// The most due times that wait for a run to end, with `overlap: queue`. Further ones are skipped.
pub const QUEUED_MAX: usize = 100;

/// How often a schedule with such is looked at.
pub const QUEUE_POLL: Duration = Duration::from_millis(500);

/// A schedule with its state, as it is stored.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Schedule {
    /// What was asked for.
    pub spec: Spec,
    /// When it was put for the first time.
    pub created_at: Timestamp,
    /// When it was put last.
    pub changed_at: Timestamp,
    /// Where intervals are counted from.
    pub anchor: Timestamp,
    /// When it was paused, if it is.
    pub paused_at: Option<Timestamp>,
    /// The next due time that is not taken; `None` if there is none any more.
    pub next_due: Option<Timestamp>,
    /// How many firings there were: the number of the last.
    pub firings: u64,
    /// Whose runs are to be started.
    pub starting: Vec<Firing>,
    /// Which wait for the run before.
    pub queued: Vec<Firing>,
    /// The run that was started last.
    pub last_run: Option<RunId>,
}

/// What became of a due time.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Firing {
    /// 1 for the first of the schedule.
    pub number: u64,
    /// When it was due; of one that was asked for by hand, when that was.
    pub due_at: Timestamp,
    /// Whether it was asked for by hand.
    pub manual: bool,
    /// What became of it.
    pub state: FiringState,
    /// Since when.
    pub at: Timestamp,
    /// Its run; none if it was skipped.
    pub run_id: Option<RunId>,
    /// Why it was skipped, or failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
}

/// What became of a due time. Persisted by these names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FiringState {
    /// Its run is about to be started.
    Starting,
    /// It waits for the run before to end.
    Queued,
    /// Its run was started.
    Started,
    /// There is no run of it, as another one was running, or it was missed.
    Skipped,
    /// Its run cannot be started.
    Failed,
}

impl Schedule {
    /// A new schedule: first due after `now`.
    pub fn new(spec: Spec, compiled: &Compiled, now: Timestamp) -> Schedule {
        Schedule {
            spec,
            created_at: now,
            changed_at: now,
            anchor: now,
            paused_at: None,
            next_due: compiled.timing.next_due(now, now),
            firings: 0,
            starting: Vec::new(),
            queued: Vec::new(),
            last_run: None,
        }
    }

    /// Takes another spec. If it says other times, they count from now; what was taken before stays taken.
    pub fn change(&mut self, spec: Spec, compiled: &Compiled, now: Timestamp) {
        if !spec.has_times_of(&self.spec) {
            self.anchor = now;
            self.next_due = compiled.timing.next_due(now, now);
        }
        self.changed_at = now;
        self.spec = spec;
    }

    /// Nothing falls due any more.
    pub fn pause(&mut self, now: Timestamp) {
        self.paused_at.get_or_insert(now);
    }

    /// Goes on with the next due time from now on; what was due meanwhile is not made up for.
    pub fn resume(&mut self, compiled: &Compiled, now: Timestamp) {
        if self.paused_at.take().is_some() {
            self.next_due = compiled.timing.next_due(self.anchor, now);
        }
    }

    /// The next due times, as far as they are known, at most so many.
    pub fn upcoming(&self, compiled: &Compiled, count: usize) -> Vec<Timestamp> {
        let after = |due: &Timestamp| compiled.timing.next_due(self.anchor, *due);
        std::iter::successors(self.next_due, after)
            .take(count)
            .collect()
    }

    /// Takes a firing that was asked for by hand: whatever runs.
    pub fn fire_now(&mut self, run_id: RunId, now: Timestamp) {
        let firing = self.firing(now, now, FiringState::Starting, Some(run_id));
        self.starting.push(Firing {
            manual: true,
            ..firing
        });
    }

    /// Takes what is due, at most [`TAKEN_MAX`]; returns what is skipped. `is_running`: whether its last run is; `run_id_of` gives the run of a
    /// due time.
    pub fn take(
        &mut self,
        compiled: &Compiled,
        id: &str,
        now: Timestamp,
        is_running: bool,
        run_id_of: impl Fn(Timestamp) -> RunId,
    ) -> Vec<Firing> {
        let mut skipped = Vec::new();
        if self.paused_at.is_some() {
            return skipped;
        }
        let is_free = |schedule: &Schedule| !is_running && schedule.starting.is_empty();
        if is_free(self) && !self.queued.is_empty() {
            let first = self.queued.remove(0);
            self.starting.push(Firing {
                state: FiringState::Starting,
                at: now,
                ..first
            });
        }
        for _ in 0..TAKEN_MAX {
            let Some(due) = self
                .next_due
                .filter(|due| compiled.fires_at(id, *due) <= now)
            else {
                break;
            };
            let missed_until = Timestamp(
                now.0
                    .saturating_sub((MISSED_AFTER + compiled.jitter).as_millis() as i64),
            );
            let is_missed = due < missed_until;
            let mut fires = due;
            if is_missed && self.spec.catch_up != CatchUp::All {
                let until = Timestamp(missed_until.0 - 1);
                fires = compiled.timing.last_due(self.anchor, due, until);
            }
            self.next_due = compiled.timing.next_due(self.anchor, fires);
            if is_missed && self.spec.catch_up == CatchUp::None {
                skipped.push(self.skipped(fires, now, format!("missed, with all since {due}")));
                continue;
            }
            let firing = self.firing(fires, now, FiringState::Starting, Some(run_id_of(fires)));
            match self.spec.overlap {
                Overlap::Allow => self.starting.push(firing),
                _ if is_free(self) && self.queued.is_empty() => self.starting.push(firing),
                Overlap::Queue if self.queued.len() < QUEUED_MAX => self.queued.push(Firing {
                    state: FiringState::Queued,
                    ..firing
                }),
                overlap => skipped.push(Firing {
                    state: FiringState::Skipped,
                    run_id: None,
                    detail: Some(match overlap {
                        Overlap::Queue => format!("{QUEUED_MAX} wait already"),
                        _ => "the run before is still running".to_owned(),
                    }),
                    ..firing
                }),
            }
        }
        skipped
    }

    /// What was started, or could not be, leaves; returns it as it is remembered.
    pub fn started(
        &mut self,
        number: u64,
        now: Timestamp,
        failure: Option<String>,
    ) -> Option<Firing> {
        let at = self
            .starting
            .iter()
            .position(|firing| firing.number == number)?;
        let firing = self.starting.remove(at);
        let state = match failure {
            None => FiringState::Started,
            Some(_) => FiringState::Failed,
        };
        if state == FiringState::Started {
            self.last_run.clone_from(&firing.run_id);
        }
        Some(Firing {
            state,
            at: now,
            detail: failure,
            ..firing
        })
    }

    /// When it must be looked at, unless somebody asks before; `None`: never. What is being started is looked at when `claimed_until` is over.
    pub fn look_at(
        &self,
        compiled: &Compiled,
        id: &str,
        now: Timestamp,
        claimed_until: Timestamp,
    ) -> Option<Timestamp> {
        if !self.starting.is_empty() {
            return Some(claimed_until);
        }
        if self.paused_at.is_some() {
            return None;
        }
        let fires = self.next_due.map(|due| compiled.fires_at(id, due));
        let polled = (!self.queued.is_empty()).then_some(now + QUEUE_POLL);
        fires.into_iter().chain(polled).min()
    }

    fn firing(
        &mut self,
        due_at: Timestamp,
        at: Timestamp,
        state: FiringState,
        run_id: Option<RunId>,
    ) -> Firing {
        self.firings += 1;
        Firing {
            number: self.firings,
            due_at,
            manual: false,
            state,
            at,
            run_id,
            detail: None,
        }
    }

    fn skipped(&mut self, due_at: Timestamp, at: Timestamp, detail: String) -> Firing {
        let firing = self.firing(due_at, at, FiringState::Skipped, None);
        Firing {
            detail: Some(detail),
            ..firing
        }
    }
}

#[cfg(test)]
mod tests;
