//! Waits and signals in memory.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use leveret_core::{
    ids::{EventName, RunId, SignalId, StepKey},
    time::Timestamp,
};

use super::{State, Timed};
use crate::store::{
    Addressee, Finished, NewSignal, RunStatus, Signalled, Timer, WOKEN_MAX, Wait, WaitFilter,
    WaitKind, WaitRecord, Waited, signals::LOOK_AFTER,
};

/// A wait that was recorded.
#[derive(Clone, Debug)]
pub(super) struct Waiting {
    record: WaitRecord,
    timer: Timer,
    /// The signal that ended it.
    signal: Option<usize>,
}

/// A signal that was recorded, at the place of its number.
#[derive(Clone, Debug)]
pub(super) struct Recorded {
    signal: NewSignal,
    at: Timestamp,
    /// No wait has got it yet.
    kept: bool,
}

/// Waits by their numbers, and signals by theirs; those that are gone leave a gap.
#[derive(Debug, Default)]
pub(super) struct Signals {
    waits: BTreeMap<u64, Waiting>,
    recorded: BTreeMap<usize, Recorded>,
    next: u64,
}

impl Signals {
    /// What a step waits for has come, if it waits for something.
    pub(super) fn of_step(&self, key: &StepKey) -> Option<Waited> {
        let wait = self.waits.values().find(|wait| wait.record.key == *key)?;
        Some(match wait.signal {
            None => Waited::Open,
            Some(no) => Waited::Ended(self.recorded[&no].signal.data.clone()),
        })
    }

    /// The step waits no more.
    pub(super) fn forget_step(&mut self, key: &StepKey) {
        self.waits.retain(|_, wait| wait.record.key != *key);
    }

    /// The run has ended: nothing of it waits.
    pub(super) fn forget_waits_of(&mut self, run_id: &RunId) {
        self.waits
            .retain(|_, wait| wait.record.key.run_id != *run_id);
    }

    /// The run is gone.
    pub(super) fn forget_run(&mut self, run_id: &RunId) {
        self.forget_waits_of(run_id);
        self.recorded
            .retain(|_, recorded| recorded.signal.to.run_id() != Some(run_id));
    }

    /// Removes signals by keys that came before that time, but those that a step is to read.
    pub(super) fn prune(&mut self, before: Timestamp, limit: u32) {
        let read: Vec<usize> = self.waits.values().filter_map(|wait| wait.signal).collect();
        let old = self.recorded.iter().filter(|(no, recorded)| {
            recorded.signal.to.run_id().is_none() && recorded.at < before && !read.contains(no)
        });
        let old: Vec<usize> = old.map(|(no, _)| *no).take(limit as usize).collect();
        for no in old {
            self.recorded.remove(&no);
        }
    }

    /// The oldest wait without a signal that this one is for.
    fn open(&self, to: &Addressee, event: &EventName) -> Option<u64> {
        let fits = |wait: &&Waiting| wait.signal.is_none() && wait.is_for(to, event);
        let open = self.waits.values().find(fits);
        open.map(|wait| wait.record.number)
    }

    fn knows(&self, to: &Addressee, event: &EventName, id: &SignalId) -> bool {
        self.recorded.values().any(|recorded| {
            let signal = &recorded.signal;
            signal.to == *to && signal.event == *event && signal.id.as_ref() == Some(id)
        })
    }
}

impl Waiting {
    fn is_for(&self, to: &Addressee, event: &EventName) -> bool {
        let WaitRecord { key, wait, .. } = &self.record;
        match to {
            Addressee::Run(run_id) => {
                wait.kind == WaitKind::Signal && key.run_id == *run_id && wait.event == *event
            }
            Addressee::Key(of) => {
                wait.kind == WaitKind::Signal
                    && wait.key.as_ref() == Some(of)
                    && wait.event == *event
            }
            Addressee::Node(run_id, node_id, kind) => {
                wait.kind == *kind && key.run_id == *run_id && key.node_id == *node_id
            }
        }
    }
}

impl State {
    /// Records what a step waits for; whether a signal was there already.
    pub(super) fn wait(
        &mut self,
        finished: &Finished,
        wait: &Wait,
        until: Option<Timestamp>,
    ) -> bool {
        let key = finished.key();
        let kept = self
            .signals
            .recorded
            .iter_mut()
            .filter(|(_, kept)| kept.kept);
        let of_run = |to: &Addressee| *to == Addressee::Run(key.run_id.clone());
        let of_key = |to: &Addressee| match (to, &wait.key) {
            (Addressee::Key(of), Some(key)) => of == key,
            _ => false,
        };
        let kept = kept.filter(|(_, kept)| kept.signal.event == wait.event);
        let mut kept: Vec<_> = kept
            .filter(|(_, kept)| of_run(&kept.signal.to) || of_key(&kept.signal.to))
            .collect();
        // Those to the run first.
        kept.sort_by_key(|(no, kept)| (!of_run(&kept.signal.to), **no));
        let kept = kept.into_iter().next();
        let signal = kept
            .filter(|_| wait.kind == WaitKind::Signal)
            .map(|(no, kept)| {
                kept.kept = false;
                *no
            });
        let timer = Timer {
            key: key.clone(),
            workflow_id: finished.workflow.id.clone(),
            workflow_hash: finished.workflow.hash,
            via: finished.via,
            attempts: finished.attempts,
            claimed_until: finished.finished_at,
        };
        if signal.is_some() {
            let (due, timer) = (finished.finished_at, timer.clone());
            self.timers.insert(key.clone(), Timed { due, timer });
        }
        let before = self
            .signals
            .waits
            .values()
            .find(|wait| wait.record.key == key);
        let number = if let Some(before) = before {
            before.record.number
        } else {
            self.signals.next += 1;
            self.signals.next
        };
        let record = WaitRecord {
            number,
            key,
            workflow_id: finished.workflow.id.clone(),
            wait: wait.clone(),
            since: finished.finished_at,
            until,
        };
        let waiting = Waiting {
            record,
            timer,
            signal,
        };
        self.signals.waits.insert(number, waiting);
        signal.is_some()
    }

    pub(super) fn signal(
        &mut self,
        signal: &NewSignal,
        now: Timestamp,
        claim: Duration,
    ) -> Signalled {
        let NewSignal { to, event, id, .. } = signal;
        let status = match to.run_id() {
            None => None,
            Some(run_id) => match self.runs.get(run_id) {
                None => return Signalled::NoRun,
                Some(run) => Some(run.record.status),
            },
        };
        if id
            .as_ref()
            .is_some_and(|id| self.signals.knows(to, event, id))
        {
            return Signalled::Repeated;
        }
        if let Some(status) = status.filter(|status| *status != RunStatus::Running) {
            return Signalled::Ended(status);
        }
        let ended = self.ended_by(to, event);
        if ended.is_empty()
            && let Addressee::Node(run_id, node_id, kind) = to
        {
            let run = &self.runs[run_id];
            let mut waits = self.signals.waits.values();
            let has_signal = waits.any(|wait| {
                let WaitRecord { key, wait: of, .. } = &wait.record;
                key.run_id == *run_id && key.node_id == *node_id && of.kind == *kind
            });
            let mut steps = run.steps.values().filter(|step| step.node_id == *node_id);
            let has_ended = steps.any(|step| step.status != crate::store::StepStatus::Waiting);
            return if has_signal || has_ended {
                Signalled::Over
            } else {
                Signalled::NotWaiting
            };
        }
        self.signals.next += 1;
        let no = self.signals.next as usize;
        let recorded = Recorded {
            signal: signal.clone(),
            at: now,
            kept: ended.is_empty(),
        };
        self.signals.recorded.insert(no, recorded);
        let few = ended.len() <= WOKEN_MAX;
        let due = if few { now + claim } else { now };
        let mut timers = Vec::new();
        for number in &ended {
            let wait = self.signals.waits.get_mut(number).expect("it was found");
            wait.signal = Some(no);
            let timer = Timer {
                claimed_until: due,
                ..wait.timer.clone()
            };
            timers.extend(few.then(|| timer.clone()));
            if let Some(run) = self.runs.get_mut(&timer.key.run_id) {
                run.reconcile_at = run.reconcile_at.min(now + LOOK_AFTER);
            }
            self.timers.insert(timer.key.clone(), Timed { due, timer });
        }
        let woken = ended.len() as u64;
        Signalled::Recorded { woken, timers }
    }

    /// The waits that a signal ends.
    fn ended_by(&self, to: &Addressee, event: &EventName) -> Vec<u64> {
        let Addressee::Key(_) = to else {
            return self.signals.open(to, event).into_iter().collect();
        };
        let mut runs = BTreeSet::new();
        let open = self.signals.waits.values().filter(|wait| {
            wait.signal.is_none()
                && wait.is_for(to, event)
                && runs.insert(wait.record.key.run_id.clone())
        });
        open.map(|wait| wait.record.number).collect()
    }

    pub(super) fn waits(&self, filter: &WaitFilter) -> Vec<WaitRecord> {
        let open = self
            .signals
            .waits
            .values()
            .filter(|wait| wait.signal.is_none());
        let wanted = open.map(|wait| &wait.record).filter(|record| {
            let WaitFilter {
                run_id,
                kind,
                after,
                ..
            } = filter;
            run_id.as_ref().is_none_or(|id| record.key.run_id == *id)
                && kind.is_none_or(|kind| record.wait.kind == kind)
                && after.is_none_or(|after| record.number > after)
        });
        wanted.take(filter.limit as usize).cloned().collect()
    }

    /// Whether a step of the run waits for a signal that has not come.
    pub(super) fn has_open_wait(signals: &Signals, run_id: &RunId) -> bool {
        let mut waits = signals.waits.values();
        waits.any(|wait| wait.signal.is_none() && wait.record.key.run_id == *run_id)
    }
}
