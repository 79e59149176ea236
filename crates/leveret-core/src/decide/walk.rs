//! The way through what is recorded of a run to what should be running.

use std::collections::{BTreeSet, HashMap, HashSet};

use super::{Edges, JoinPoint, JoinState, Joins, Ready, width};
use crate::{
    graph::{Around, EdgeIx, Graph, NodeIx, Place, Role},
    ids::Scope,
};

/// What is recorded of a step, as far as going on after a crash needs it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mark {
    /// The step waits for a timer, which makes it ready again.
    Waiting,
    /// The step failed for good; its fallback may be at work.
    Failed,
    /// The step completed, or was skipped or cancelled.
    Final,
}

/// What is recorded of a run's steps.
pub type Marks = HashMap<Place, Mark>;

/// What is known of a run's course.
#[derive(Clone, Debug, Default)]
pub struct Course {
    /// Of these places it is known what is recorded there, or that nothing is. `None`: of all.
    pub known: Option<HashSet<Place>>,
    /// The steps.
    pub marks: Marks,
    /// The joins.
    pub joins: Joins,
}

impl Course {
    fn knows(&self, place: &Place) -> bool {
        self.known
            .as_ref()
            .is_none_or(|known| known.contains(place))
    }
}

/// The places of which it must be known what is recorded there before a walk can go on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MissingPlaces(pub Vec<Place>);

/// The steps that should be running: made ready by what is recorded, and not recorded themselves. Everything that is recorded is in `marks` and
/// `joins`, and the [items](Graph::opening) of a batch that has not ended are told as what they are.
///
/// Walks from `from` (the starts, for a whole run) over recorded steps. Follows from the committed state alone, so that a job lost or
/// delivered again leads to the same successors.
pub fn unfinished(
    graph: &Graph,
    from: impl IntoIterator<Item = Ready>,
    marks: &Marks,
    joins: &Joins,
) -> Vec<Ready> {
    let course = Course {
        known: None,
        marks: marks.clone(),
        joins: joins.clone(),
    };
    let mut from: Vec<Ready> = from.into_iter().collect();
    let mut ready = BTreeSet::new();
    // Each item is walked through once: it is looked for at its beginning only.
    while !from.is_empty() {
        let found = unfinished_in(graph, std::mem::take(&mut from), &course);
        for found in found.unwrap_or_default() {
            match graph.opening(&found.place) {
                None => drop(ready.insert(found)),
                Some((around, first, last)) => {
                    let node = found.place.node;
                    let items = (first..last).map(|index| around.item(index));
                    from.extend(items.flat_map(|item| {
                        let first = graph.first_steps(node, &item);
                        let ready = first.map(|(place, edge)| Ready {
                            place,
                            via: Some(edge),
                        });
                        ready.collect::<Vec<_>>()
                    }));
                }
            }
        }
    }
    ready.into_iter().collect()
}

/// As [`unfinished`], as far as the course is known; the items that have begun in a batch which has not ended are one thing to do.
pub fn unfinished_in(
    graph: &Graph,
    from: impl IntoIterator<Item = Ready>,
    course: &Course,
) -> Result<Vec<Ready>, MissingPlaces> {
    let marks = &course.marks;
    let mut walk = Walk {
        graph,
        course,
        open: from.into_iter().collect(),
        missing: Vec::new(),
    };
    let mut seen = HashSet::new();
    let mut ready = Vec::new();
    while let Some(candidate) = walk.open.pop() {
        if !seen.insert(candidate.place.clone()) {
            continue;
        }
        if graph.opening(&candidate.place).is_some() {
            ready.push(candidate);
            continue;
        }
        if !walk.knows(&candidate.place) {
            continue;
        }
        let Place { node, scope } = &candidate.place;
        let node = *node;
        if graph.role(node) == Role::Loop {
            let edges = graph.outgoing(node).iter().copied();
            let scope = scope.outer();
            let around = Place { node, scope };
            if !walk.knows(&around) {
                continue;
            }
            if marks.contains_key(&around) {
                // Nothing of a loop that ended is left.
                walk.on(edges.filter(|&edge| graph.leaves(edge)), &around);
                continue;
            }
            match marks.get(&candidate.place) {
                None => ready.push(candidate),
                Some(Mark::Waiting) => {}
                Some(Mark::Failed | Mark::Final) => {
                    let inwards = edges.filter(|&edge| !graph.leaves(edge));
                    walk.along(inwards, &candidate.place.scope);
                }
            }
            continue;
        }
        match marks.get(&candidate.place) {
            None => ready.push(candidate),
            Some(Mark::Waiting) => {}
            Some(Mark::Failed | Mark::Final) if graph.role(node) == Role::Scatter => {
                walk.batch(&candidate.place);
            }
            Some(Mark::Failed) if graph.fallback_edge(node).is_some() => {
                walk.on(graph.fallback_edge(node), &candidate.place);
            }
            Some(Mark::Failed | Mark::Final) => {
                let edges = graph.routed(node).chain(graph.fallback_edge(node));
                walk.on(edges, &candidate.place);
            }
        }
    }
    if !walk.missing.is_empty() {
        walk.missing.sort_unstable();
        walk.missing.dedup();
        return Err(MissingPlaces(walk.missing));
    }
    ready.sort_unstable();
    ready.dedup();
    Ok(ready)
}

/// A walk over what is recorded.
struct Walk<'a> {
    graph: &'a Graph,
    course: &'a Course,
    open: Vec<Ready>,
    missing: Vec<Place>,
}

impl Walk<'_> {
    /// Whether it is known what is recorded at a place; else it is asked for.
    fn knows(&mut self, place: &Place) -> bool {
        let knows = self.course.knows(place);
        if !knows {
            self.missing.push(place.clone());
        }
        knows
    }

    /// Goes on from a step that is recorded.
    fn on(&mut self, edges: impl IntoIterator<Item = EdgeIx>, from: &Place) {
        self.along(edges, &from.scope);
        if self.graph.terminal_slot(from.node).is_none() {
            return;
        }
        // The next pass, or the end of the item, may have waited for this step.
        match self.graph.around_of(from.node) {
            Some(Around::Pass(node)) => {
                let scope = from.scope.next_pass();
                self.reach(Place { node, scope }, None);
            }
            Some(Around::Item(node)) => {
                let scope = from.scope.clone();
                self.reach(Place { node, scope }, None);
            }
            None => {}
        }
    }

    fn along(&mut self, edges: impl IntoIterator<Item = EdgeIx>, scope: &Scope) {
        for edge in edges {
            self.reach(self.graph.target_of(edge, scope), Some(edge));
        }
    }

    fn reach(&mut self, place: Place, edge: Option<EdgeIx>) {
        let graph = self.graph;
        let is_alone = width(graph, &place) == 1;
        let ends_item = graph.is_item_row(&place);
        if (!is_alone || ends_item) && !self.knows(&place) {
            return;
        }
        let meeting = graph.meeting(&place);
        let state = self.course.joins.get(&JoinPoint::Place(place.clone()));
        let via = match state {
            _ if is_alone => None,
            Some(JoinState::Edges(state)) if state.fired => {
                state.last_taken.map(|position| meeting[position])
            }
            _ => return,
        };
        if ends_item {
            return self.item(&place);
        }
        let via = via.or(edge);
        self.open.push(Ready { place, via });
    }

    /// Goes on from a scatter whose step is recorded.
    fn batch(&mut self, scatter: &Place) {
        let Some(batch) = self.graph.batch(scatter.node) else {
            return;
        };
        let gather = Place {
            node: batch.gather,
            scope: scatter.scope.clone(),
        };
        if !self.knows(&gather) {
            return;
        }
        match self.course.joins.get(&JoinPoint::Items(gather.clone())) {
            Some(JoinState::Items(items)) if !items.fired => {
                self.items(scatter.node, &scatter.scope, (0, items.begun));
            }
            // It has ended, or never had items.
            _ => self.open.push(Ready {
                place: gather,
                via: None,
            }),
        }
    }

    /// Goes on from an item that has ended.
    fn item(&mut self, end: &Place) {
        let gather = Place {
            node: end.node,
            scope: end.scope.outer(),
        };
        if !self.knows(&gather) {
            return;
        }
        let state = self.course.joins.get(&JoinPoint::Place(end.clone()));
        if let Some(JoinState::Edges(Edges {
            begins: Some(begins),
            ..
        })) = state
            && let Some(scatter) = self.graph.scatter_of(end.node)
        {
            self.items(scatter, &gather.scope, *begins);
        }
        let state = self.course.joins.get(&JoinPoint::Items(gather.clone()));
        if let Some(JoinState::Items(items)) = state
            && items.fired
            && items.fired_by == end.scope.item_index()
        {
            self.open.push(Ready {
                place: gather,
                via: None,
            });
        }
    }

    /// Items that have begun.
    fn items(&mut self, node: NodeIx, around: &Scope, (from, to): (u64, u64)) {
        if to == from + 1 {
            let edges = self.graph.outgoing(node).iter().copied();
            return self.along(edges, &around.item(from));
        }
        let scope = around.items(from, to);
        let place = Place { node, scope };
        self.open.push(Ready { place, via: None });
    }
}
