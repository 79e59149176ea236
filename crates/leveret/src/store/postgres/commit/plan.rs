//! What can be told of a batch before the database is asked.

use std::{collections::HashMap, sync::Arc};

use leveret_core::{
    decide::{Decision, JoinPoint, Joins},
    workflow::Workflow,
};

use super::{JoinColumns, push_join};
use crate::store::{
    Finished, Outcome, StepStatus, Wait, Woken,
    commit::{decide_finished, status_of},
    follow::{fails_run, follow},
    postgres::rows::step_order,
};

/// Steps with different keys, so that one statement can record them.
#[derive(Default)]
pub(super) struct Segment<'a> {
    pub(super) items: Vec<Item<'a>>,
    /// Steps that an earlier one of this segment leaves no room for, whatever is stored: their positions in the batch, and that of
    /// the earlier one.
    pub(super) echoes: Vec<(usize, usize)>,
}

pub(super) struct Item<'a> {
    /// In the batch.
    pub(super) position: usize,
    pub(super) finished: &'a Finished,
    /// Whether the step may touch a join, or the run's row.
    pub(super) locks: bool,
    /// The joins that it touches first.
    pub(super) joins: Vec<JoinPoint>,
    /// What follows from the step, if it touches no join.
    pub(super) decision: Option<Decision>,
}

impl<'a> Item<'a> {
    fn new(position: usize, finished: &'a Finished) -> Item<'a> {
        let mut joins = Vec::new();
        let decided = decide_finished(finished, &mut Joins::new(), |missing| {
            joins.extend_from_slice(missing);
            Ok::<_, std::convert::Infallible>(Vec::new())
        });
        let Ok(decision) = decided;
        let locks =
            !joins.is_empty() || decision.ended || fails_run(finished) || waits(finished).is_some();
        Item {
            position,
            finished,
            locks,
            decision: joins.is_empty().then_some(decision),
            joins,
        }
    }

    fn is_plain(&self) -> bool {
        let decision = self.decision.as_ref();
        let is_woken = self.finished.woken != Woken::No;
        !self.locks
            && !is_woken
            && decision.is_some_and(|decision| follow(self.finished, decision).is_empty())
    }
}

impl Segment<'_> {
    /// Whether recording the steps is all there is to do.
    pub(super) fn is_plain(&self) -> bool {
        self.items.iter().all(Item::is_plain)
    }

    /// Whether a step of it waits for a signal, or has waited for one.
    pub(super) fn waits(&self) -> bool {
        let mut steps = self.items.iter().map(|item| item.finished);
        steps.any(|step| step.woken != Woken::No || waits(step).is_some())
    }

    /// Sorted.
    pub(super) fn runs_to_lock(&self) -> Vec<&str> {
        let locks = self.items.iter().filter(|item| item.locks);
        let mut runs: Vec<&str> = locks.map(|item| item.finished.run_id.as_str()).collect();
        runs.sort_unstable();
        runs.dedup();
        runs
    }

    pub(super) fn joins_to_read(&self) -> JoinColumns {
        let mut wanted: Vec<(&Item<'_>, &JoinPoint)> = self
            .items
            .iter()
            .flat_map(|item| item.joins.iter().map(move |join| (item, join)))
            .collect();
        let key =
            |&(item, join): &(&Item<'_>, &JoinPoint)| (item.finished.run_id.clone(), join.clone());
        wanted.sort_by_cached_key(key);
        wanted.dedup_by_key(|wanted| key(wanted));
        let mut columns = JoinColumns::default();
        for (item, join) in wanted {
            push_join(&mut columns, item.finished, join);
        }
        columns
    }

    /// The workflows of the runs whose joins may be read.
    pub(super) fn workflows(&self) -> HashMap<&str, &Workflow> {
        let locks = self.items.iter().filter(|item| item.locks);
        locks
            .map(|item| (item.finished.run_id.as_str(), &*item.finished.workflow))
            .collect()
    }
}

/// The signal that a step waits for from now on.
pub(super) fn waits(finished: &Finished) -> Option<&Wait> {
    match &finished.outcome {
        Outcome::Waiting { wait, .. } => wait.as_ref(),
        _ => None,
    }
}

/// Cuts the batch where a step could overtake an earlier one of the same key: rare, since a step is repeated by another delivery.
pub(super) fn segments(batch: &[Arc<Finished>]) -> Vec<Segment<'_>> {
    let mut segments = vec![Segment::default()];
    let mut seen: HashMap<(&str, &str, &str), usize> = HashMap::with_capacity(batch.len());
    for (position, finished) in batch.iter().enumerate() {
        let key = step_order(finished);
        if let Some(&first) = seen.get(&key) {
            if rank(finished) <= rank(&batch[first]) {
                let segment = segments.last_mut().expect("there is one from the start");
                segment.echoes.push((position, first));
                continue;
            }
            segments.push(Segment::default());
            seen.clear();
        }
        seen.insert(key, position);
        let segment = segments.last_mut().expect("there is one from the start");
        segment.items.push(Item::new(position, finished));
    }
    segments
}

/// A step overtakes a waiting one of lower rank, and none else.
fn rank(finished: &Finished) -> (u32, bool) {
    (
        finished.attempts,
        status_of(&finished.outcome) != StepStatus::Waiting,
    )
}
