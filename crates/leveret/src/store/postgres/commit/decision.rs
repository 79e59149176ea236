//! Decides the steps of a segment, run by run in the order of the batch, as far as the joins that were read allow.

use std::collections::{HashMap, HashSet};

use leveret_core::{
    decide::{Decision, JoinPoint, Joins, MissingJoins, decide},
    ids::RunId,
};

use super::{
    JoinColumns,
    plan::{Item, Segment},
    push_join,
};
use crate::store::{
    Finished,
    commit::{ending_of, provide},
};

/// A step that is recorded, with what follows from it.
pub(super) struct Decided<'a> {
    /// In the batch.
    pub(super) position: usize,
    pub(super) finished: &'a Finished,
    pub(super) decision: Decision,
}

pub(super) struct Deciding<'s, 'a> {
    open: Vec<&'s Item<'a>>,
    decided: Vec<Decided<'a>>,
    joins: HashMap<RunId, Joins>,
    /// Joins that were asked for: those that are not stored are fresh.
    asked: Vec<(RunId, &'a Finished, Vec<JoinPoint>)>,
}

impl<'s, 'a> Deciding<'s, 'a> {
    pub(super) fn new(segment: &'s Segment<'a>, recorded: &[usize]) -> Deciding<'s, 'a> {
        let open: Vec<&Item<'_>> = recorded
            .iter()
            .map(|&position| &segment.items[position])
            .collect();
        let joining = open.iter().filter(|item| !item.joins.is_empty());
        let asked = joining
            .map(|item| {
                (
                    item.finished.run_id.clone(),
                    item.finished,
                    item.joins.clone(),
                )
            })
            .collect();
        Deciding {
            asked,
            decided: Vec::with_capacity(open.len()),
            joins: HashMap::new(),
            open,
        }
    }

    /// Takes the joins that were read.
    pub(super) fn provide(&mut self, read: HashMap<RunId, Joins>) {
        for (run_id, joins) in read {
            self.joins.entry(run_id).or_default().extend(joins);
        }
        for (run_id, finished, missing) in self.asked.drain(..) {
            let joins = self.joins.entry(run_id).or_default();
            provide(&finished.workflow.graph, joins, &missing, None);
        }
    }

    /// Decides what can be; answers with the joins that must be read for the rest.
    pub(super) fn decide(&mut self) -> JoinColumns {
        let mut wanted = JoinColumns::default();
        let mut stuck: HashSet<&RunId> = HashSet::new();
        for item in std::mem::take(&mut self.open) {
            let (position, finished) = (item.position, item.finished);
            if stuck.contains(&finished.run_id) {
                self.open.push(item);
                continue;
            }
            match self.decide_one(item) {
                Ok(decision) => self.decided.push(Decided {
                    position,
                    finished,
                    decision,
                }),
                Err(MissingJoins(missing)) => {
                    for join in &missing {
                        push_join(&mut wanted, finished, join);
                    }
                    self.asked
                        .push((finished.run_id.clone(), finished, missing));
                    stuck.insert(&finished.run_id);
                    self.open.push(item);
                }
            }
        }
        wanted
    }

    fn decide_one(&mut self, item: &Item<'a>) -> Result<Decision, MissingJoins> {
        if let Some(decision) = &item.decision {
            return Ok(decision.clone());
        }
        let finished = item.finished;
        let Some(ending) = ending_of(&finished.outcome) else {
            return Ok(Decision::default());
        };
        let joins = self.joins.entry(finished.run_id.clone()).or_default();
        decide(&finished.workflow.graph, &finished.place(), &ending, joins)
    }

    /// The decided steps, in the order of the batch.
    pub(super) fn finish(mut self) -> Vec<Decided<'a>> {
        self.decided.sort_by_key(|step| step.position);
        self.decided
    }
}
