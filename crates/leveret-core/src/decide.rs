//! The decider: what the end of one step makes of its run. Pure.
//!
//! Every edge of a finished step *resolves*: taken, untaken, or failed. A node whose edges have resolved becomes *ready*,
//! *skipped* or *cancelled*; the latter two resolve their own edges in turn, until nothing changes. Resolutions are kept per
//! edge (a set, not a counter), so that the same step deciding twice changes nothing.
//!
//! | join | ready | skipped | cancelled |
//! |---|---|---|---|
//! | `all` | all edges resolved, one taken, none failed | all untaken | all resolved, one failed |
//! | `any` | at the first taken edge, once | all untaken | all resolved, none taken, one failed |
//!
//! An edge *on failure* is taken when its source, and the fallback of that if there is one, failed; the source's other edges are untaken then, so that
//! the run goes on. It is untaken when the source has a result.
//!
//! Of several taken edges, the last hands over the node's input; those of one step arrive together, in the order of the definition.
//!
//! Only nodes with several incoming edges, and the end of the run, have a state that outlives the step: a [`JoinState`], one row in
//! the store. A chain needs none.
//!
//! Steps in the body of a loop stand in the scope of their pass, `loop#2`, and so does the step of the controller that decides whether there is
//! that pass. If there is, its edges into the body resolve in that pass. If not, the others resolve in the scope around the loop, where the
//! controller's last step stands then, too. What leads back to the controller from pass 2, and all that ends elsewhere in the body, meets at the
//! controller's step in pass 3. A loop that is skipped or cancelled has a single step, around it.
//!
//! Steps in the body of a batch stand in the scope of their item, `each[17]`. The end of the scatter's step makes items ready, as one [`Ready`] for
//! many of them; in each, the first steps of the body are reached by the scatter's edges. What leads to the gather, and all that ends elsewhere in the
//! body, meets at the end of the item, which the gather counts: [`Items`], one row for each batch. The end of an item may let others begin, and
//! the last one makes the gather ready. A batch whose scatter has no list has no items: its gather is passed.

mod items;
mod walk;

use std::{
    borrow::Cow,
    collections::{BTreeMap, HashMap, VecDeque},
    fmt,
    str::FromStr,
};

pub use self::{
    items::{Arrival, Items},
    walk::{Course, Mark, Marks, MissingPlaces, unfinished, unfinished_in},
};
use crate::{
    graph::{Around, EdgeIx, Graph, NodeIx, Place, Role},
    ids::Scope,
};

/// How a step ended, as far as its edges care.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ending<'a> {
    /// The step has a result; these of its [routed](Graph::routed) edges are taken.
    Completed {
        /// Taken edges.
        taken: Cow<'a, [EdgeIx]>,
    },
    /// The step of a scatter has so many items.
    Scattered {
        /// Items.
        items: u64,
    },
    /// The step failed for good.
    Failed {
        /// Whether the node's fallback, or its edges for failures, take over if there are any (not after a fatal error).
        fall_back: bool,
    },
}

/// Why a node has no result although its run went past it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Passed {
    /// All its edges resolved untaken.
    Skipped,
    /// A failure before it keeps it from running.
    Cancelled,
}

/// A step that must run now; or the [items](Graph::opening) of a scatter that must begin.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Ready {
    /// Where it stands.
    pub place: Place,
    /// The edge that hands over its input; `None` at the start of a run.
    pub via: Option<EdgeIx>,
}

/// What outlives a single step: a place where edges meet, or the end of the run.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum JoinPoint {
    /// A place with several incoming edges. That of a gather in an item is the end of the item.
    Place(Place),
    /// The items of a gather.
    Items(Place),
    /// The end of the run.
    End,
}

/// How an edge resolved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resolution {
    /// The flow goes on along it.
    Taken,
    /// The flow does not go along it.
    Untaken,
    /// What should have decided it failed.
    Failed,
}

/// What a join knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum JoinState {
    /// Of edges.
    Edges(Edges),
    /// Of the items of a batch.
    Items(Items),
}

impl JoinState {
    /// A join of `edges` edges of which none has resolved.
    pub fn new(edges: usize) -> JoinState {
        JoinState::Edges(Edges::new(edges))
    }

    /// Whether the join's node was made ready, skipped or cancelled.
    pub fn has_fired(&self) -> bool {
        match self {
            JoinState::Edges(edges) => edges.fired,
            JoinState::Items(items) => items.fired,
        }
    }

    /// The items that began by the end of this one, from where to where, if it is that of an item.
    pub fn begins(&self) -> Option<(u64, u64)> {
        match self {
            JoinState::Edges(edges) => edges.begins,
            JoinState::Items(_) => None,
        }
    }

    /// # Panics
    ///
    /// If it is one of items.
    fn edges(&mut self) -> &mut Edges {
        match self {
            JoinState::Edges(edges) => edges,
            JoinState::Items(_) => panic!("items are counted where edges meet"),
        }
    }
}

impl fmt::Display for JoinState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            JoinState::Edges(edges) => edges.fmt(f),
            JoinState::Items(items) => items.fmt(f),
        }
    }
}

impl FromStr for JoinState {
    type Err = JoinStateError;

    fn from_str(text: &str) -> Result<JoinState, JoinStateError> {
        let parsed = match text.strip_prefix(items::MARK) {
            Some(items) => Items::parse(items).map(JoinState::Items),
            None => Edges::parse(text).map(JoinState::Edges),
        };
        parsed.ok_or_else(|| JoinStateError(text.to_owned()))
    }
}

/// Per incoming edge (or condition of the end) its resolution, and whether the join has fired.
///
/// Printed and stored as one character per edge (`.` open, `t` taken, `u` untaken, `f` failed), then `!` when fired and the position
/// of the edge that was taken last: `tu.t`, `tt!1`. At the end of an item, the items follow that it lets begin: `t!0+17..18`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Edges {
    resolved: Vec<Option<Resolution>>,
    open: usize,
    last_taken: Option<usize>,
    fired: bool,
    begins: Option<(u64, u64)>,
}

impl Edges {
    fn new(edges: usize) -> Edges {
        Edges {
            resolved: vec![None; edges],
            open: edges,
            last_taken: None,
            fired: false,
            begins: None,
        }
    }

    /// `is_late`: the join had fired before this step, whose edges do not matter to it any more.
    fn resolve(&mut self, position: usize, resolution: Resolution, is_late: bool) {
        if self.resolved[position].is_none() {
            self.resolved[position] = Some(resolution);
            self.open -= 1;
            if resolution == Resolution::Taken && !is_late {
                self.last_taken = Some(position);
            }
        }
    }

    fn has(&self, resolution: Resolution) -> bool {
        self.resolved.contains(&Some(resolution))
    }

    /// What the join makes of its node now, at most once.
    fn fire(&mut self, wait: Wait) -> Option<Fired> {
        if self.fired {
            return None;
        }
        let fired = match (wait, self.last_taken) {
            (Wait::ForOne, Some(_)) => Fired::Ready,
            _ if self.open > 0 => return None,
            (Wait::ForAllIfOne, Some(_)) => Fired::Ready,
            _ if self.has(Resolution::Failed) => Fired::Passed(Passed::Cancelled),
            (_, Some(_)) => Fired::Ready,
            (_, None) => Fired::Passed(Passed::Skipped),
        };
        self.fired = true;
        Some(fired)
    }
}

/// What a join waits for.
#[expect(clippy::enum_variant_names)] // Each reads as an answer.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Wait {
    /// All edges, of which none may have failed.
    ForAll,
    /// The first taken one.
    ForOne,
    /// All edges; one that was taken is enough.
    ForAllIfOne,
}

enum Fired {
    Ready,
    Passed(Passed),
}

impl fmt::Display for Edges {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for resolution in &self.resolved {
            f.write_str(match resolution {
                None => ".",
                Some(Resolution::Taken) => "t",
                Some(Resolution::Untaken) => "u",
                Some(Resolution::Failed) => "f",
            })?;
        }
        if self.fired {
            f.write_str("!")?;
        }
        if let Some(position) = self.last_taken {
            write!(f, "{}{position}", if self.fired { "" } else { "," })?;
        }
        match self.begins {
            Some((from, to)) => write!(f, "+{from}..{to}"),
            None => Ok(()),
        }
    }
}

/// A stored join state that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is not a join state")]
pub struct JoinStateError(String);

impl Edges {
    fn parse(text: &str) -> Option<Edges> {
        let (text, begins) = match text.split_once('+') {
            None => (text, None),
            Some((text, begins)) => {
                let (from, to) = begins.split_once("..")?;
                (text, Some((from.parse().ok()?, to.parse().ok()?)))
            }
        };
        let end = text.find(['!', ',']).unwrap_or(text.len());
        let (edges, rest) = text.split_at(end);
        let resolved = edges.chars().map(|c| resolution_of(c).ok());
        let resolved = resolved.collect::<Option<Vec<_>>>()?;
        let last_taken = match rest.get(1..) {
            None | Some("") => None,
            Some(digits) => Some(digits.parse().ok()?),
        };
        if last_taken.is_some_and(|position| position >= resolved.len()) {
            return None;
        }
        let open = resolved
            .iter()
            .filter(|resolution| resolution.is_none())
            .count();
        Some(Edges {
            resolved,
            open,
            last_taken,
            fired: rest.starts_with('!'),
            begins,
        })
    }
}

/// The resolution that a character stands for; `None` for none.
fn resolution_of(c: char) -> Result<Option<Resolution>, UnknownResolution> {
    match c {
        '.' => Ok(None),
        't' => Ok(Some(Resolution::Taken)),
        'u' => Ok(Some(Resolution::Untaken)),
        'f' => Ok(Some(Resolution::Failed)),
        _ => Err(UnknownResolution),
    }
}

struct UnknownResolution;

/// What a step's end makes of its run. Recorded together with the step, in one transaction.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Decision {
    /// Steps that must run now.
    pub ready: Vec<Ready>,
    /// Steps that will not run.
    pub passed: Vec<(Place, Passed)>,
    /// The scope around the loop that ended with this step of its controller: the step stands there, too.
    pub closes: Option<Scope>,
    /// Items that ended.
    pub arrived: Vec<Arrival>,
    /// Joins that changed.
    pub joins: BTreeMap<JoinPoint, JoinState>,
    /// Whether the run is at its end.
    pub ended: bool,
}

/// The joins that must be loaded (a join that is not stored yet is [`JoinState::new`]) before the step can be decided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MissingJoins(pub Vec<JoinPoint>);

/// A run's joins, as far as they were loaded.
pub type Joins = HashMap<JoinPoint, JoinState>;

/// Decides what the end of the step at `place` makes of its run.
///
/// On success `joins` holds the new states. On [`MissingJoins`] it is unchanged: load those too and ask again.
pub fn decide(
    graph: &Graph,
    place: &Place,
    ending: &Ending<'_>,
    joins: &mut Joins,
) -> Result<Decision, MissingJoins> {
    let mut decider = Decider {
        graph,
        joins,
        decision: Decision::default(),
        missing: Vec::new(),
        open: VecDeque::new(),
    };
    decider.step(place, ending);
    while let Some((edge, resolution, scope)) = decider.open.pop_front() {
        decider.resolve(edge, resolution, &scope);
    }
    decider.hand_over();
    let Decider {
        mut decision,
        mut missing,
        ..
    } = decider;
    if !missing.is_empty() {
        // Said once for each edge that led there.
        missing.sort_unstable();
        missing.dedup();
        return Err(MissingJoins(missing));
    }
    decision.ready.sort_unstable();
    for (join, state) in &decision.joins {
        joins.insert(join.clone(), state.clone());
    }
    Ok(decision)
}

/// The scope around the loop that the step at `place` ends, if it does: with an edge out of it, with none at all, or with its failure.
pub fn closes(graph: &Graph, place: &Place, ending: &Ending<'_>) -> Option<Scope> {
    let goes_on = match ending {
        Ending::Completed { taken } => {
            !taken.is_empty() && !taken.iter().any(|&edge| graph.leaves(edge))
        }
        Ending::Scattered { .. } => true,
        Ending::Failed { .. } => false,
    };
    let is_loop = graph.role(place.node) == Role::Loop;
    (is_loop && !goes_on).then(|| place.scope.outer())
}

/// Decides the start of a run: an empty workflow ends at once.
pub fn decide_start(graph: &Graph) -> Decision {
    let ready = graph
        .starts()
        .iter()
        .map(|&node| Ready {
            place: graph.start_place(node),
            via: None,
        })
        .collect();
    Decision {
        ready,
        ended: graph.node_count() == 0,
        ..Decision::default()
    }
}

/// A join that nothing has come to yet.
pub fn fresh_join(graph: &Graph, join: &JoinPoint) -> JoinState {
    match join {
        JoinPoint::Place(place) => JoinState::new(width(graph, place)),
        // Of a batch that was never begun, nothing comes.
        JoinPoint::Items(_) => JoinState::Items(Items::default()),
        JoinPoint::End => JoinState::new(graph.end_slot_count()),
    }
}

/// How many edges and conditions meet at a place.
fn width(graph: &Graph, place: &Place) -> usize {
    graph.meeting(place).len() + graph.slots(place)
}

struct Decider<'a> {
    graph: &'a Graph,
    joins: &'a Joins,
    decision: Decision,
    missing: Vec<JoinPoint>,
    /// Edges that resolved, in which scope, and whose targets have not heard of it, in the order in which they are told.
    open: VecDeque<(EdgeIx, Resolution, Scope)>,
}

impl Decider<'_> {
    fn step(&mut self, place: &Place, ending: &Ending<'_>) {
        let graph = self.graph;
        let (node, scope) = (place.node, &place.scope);
        match graph.role(node) {
            Role::Loop => return self.controller(place, ending),
            Role::Scatter => return self.scatter(place, ending),
            Role::Plain | Role::Gather => {}
        }
        match ending {
            Ending::Scattered { .. } => {}
            Ending::Completed { taken } => {
                let taken = sorted(taken);
                self.tell(graph.routed(node), scope, |edge| taken_or_not(&taken, edge));
                self.tell(graph.fallback_edge(node), scope, |_| Resolution::Untaken);
            }
            Ending::Failed { fall_back: true } if graph.fallback_edge(node).is_some() => {
                // The node's own edges wait for the fallback's result.
                self.tell(graph.fallback_edge(node), scope, |_| Resolution::Taken);
            }
            Ending::Failed { fall_back: true } if graph.handles_failure(node) => {
                self.tell(graph.routed(node), scope, |edge| {
                    if graph.is_on_failure(edge) {
                        Resolution::Taken
                    } else {
                        Resolution::Untaken
                    }
                });
            }
            Ending::Failed { .. } => {
                self.tell(graph.routed(node), scope, |_| Resolution::Failed);
                self.tell(graph.fallback_edge(node), scope, |_| Resolution::Untaken);
            }
        }
        self.terminal(node, scope);
    }

    /// The step of a loop's controller: it begins a pass, or ends the loop.
    fn controller(&mut self, place: &Place, ending: &Ending<'_>) {
        let graph = self.graph;
        let edges = graph.outgoing(place.node).iter().copied();
        match ending {
            Ending::Completed { taken } if closes(graph, place, ending).is_none() => {
                let taken = sorted(taken);
                let inwards = edges.filter(|&edge| !graph.leaves(edge));
                self.tell(inwards, &place.scope, |edge| taken_or_not(&taken, edge));
            }
            Ending::Completed { taken } => {
                let taken = sorted(taken);
                self.close(place, |edge| taken_or_not(&taken, edge));
            }
            Ending::Scattered { .. } | Ending::Failed { .. } => {
                self.close(place, |_| Resolution::Failed);
            }
        }
    }

    /// The step of a controller that ends its loop.
    fn close(&mut self, place: &Place, resolution: impl Fn(EdgeIx) -> Resolution) {
        let outer = place.scope.outer();
        self.leave(place.node, &outer, resolution);
        self.decision.closes = Some(outer);
    }

    /// Goes on behind a loop.
    fn leave(&mut self, node: NodeIx, outer: &Scope, resolution: impl Fn(EdgeIx) -> Resolution) {
        let graph = self.graph;
        let edges = graph.outgoing(node).iter().copied();
        let outwards = edges.filter(|&edge| graph.leaves(edge));
        self.tell(outwards, outer, resolution);
        self.terminal(node, outer);
    }

    fn tell(
        &mut self,
        edges: impl IntoIterator<Item = EdgeIx>,
        scope: &Scope,
        resolution: impl Fn(EdgeIx) -> Resolution,
    ) {
        let edges = edges.into_iter();
        self.open
            .extend(edges.map(|edge| (edge, resolution(edge), scope.clone())));
    }

    /// An edge resolved; `scope` is that of its source, or around it if it ends a loop.
    fn resolve(&mut self, edge: EdgeIx, resolution: Resolution, scope: &Scope) {
        let graph = self.graph;
        let place = graph.target_of(edge, scope);
        let meeting = graph.meeting(&place);
        if meeting.len() == 1 && graph.slots(&place) == 0 {
            if graph.role(place.node) == Role::Gather {
                return self.item_end(&place, resolution, Some(edge));
            }
            return match resolution {
                Resolution::Taken => self.decision.ready.push(Ready {
                    place,
                    via: Some(edge),
                }),
                Resolution::Untaken => self.pass(&place, Passed::Skipped),
                Resolution::Failed => self.pass(&place, Passed::Cancelled),
            };
        }
        let position = meeting
            .binary_search(&edge)
            .expect("an edge is among those that meet at its target");
        self.meet(place, position, resolution);
    }

    /// An edge, or a condition, is met at a join.
    fn meet(&mut self, place: Place, position: usize, resolution: Resolution) {
        let graph = self.graph;
        let role = graph.role(place.node);
        let is_later = match role {
            Role::Loop => place.scope.pass() != Some(1),
            Role::Gather => true,
            Role::Plain | Role::Scatter => false,
        };
        let wait = match (graph.joins_any(place.node), is_later) {
            (false, _) => Wait::ForAll,
            (true, false) => Wait::ForOne,
            (true, true) => Wait::ForAllIfOne,
        };
        let join = JoinPoint::Place(place.clone());
        let is_late = self.joins.get(&join).is_some_and(JoinState::has_fired);
        let Some(state) = self.join(join) else {
            return;
        };
        let state = state.edges();
        state.resolve(position, resolution, is_late);
        let fired = state.fire(wait);
        let complete = state.open == 0;
        if role == Role::Gather {
            let last_taken = state.last_taken;
            let resolution = match fired {
                Some(Fired::Ready) => Resolution::Taken,
                Some(Fired::Passed(Passed::Skipped)) => Resolution::Untaken,
                Some(Fired::Passed(Passed::Cancelled)) => Resolution::Failed,
                None => return,
            };
            let via = last_taken.map(|position| graph.meeting(&place)[position]);
            return self.item_end(&place, resolution, via);
        }
        match fired {
            // What hands over is known when all edges of the step were told.
            Some(Fired::Ready) => self.decision.ready.push(Ready {
                place: place.clone(),
                via: None,
            }),
            Some(Fired::Passed(passed)) => self.pass(&place, passed),
            None => {}
        }
        if complete && wait == Wait::ForOne {
            let outer = match role {
                Role::Loop => place.scope.outer(),
                _ => place.scope,
            };
            self.end_slot(place.node, graph.any_join_slot(place.node), &outer);
        }
    }

    /// Joins that fired hand over what came last, which is known when all edges of the step were told.
    fn hand_over(&mut self) {
        let Decision { ready, joins, .. } = &mut self.decision;
        if joins.is_empty() {
            return;
        }
        for ready in ready {
            let join = JoinPoint::Place(ready.place.clone());
            if let Some(JoinState::Edges(state)) = joins.get(&join) {
                let meeting = self.graph.meeting(&ready.place);
                ready.via = state.last_taken.map(|position| meeting[position]);
            }
        }
    }

    fn pass(&mut self, place: &Place, passed: Passed) {
        let graph = self.graph;
        let resolution = match passed {
            Passed::Skipped => Resolution::Untaken,
            Passed::Cancelled => Resolution::Failed,
        };
        let node = place.node;
        if graph.role(node) == Role::Loop {
            let scope = place.scope.outer();
            self.leave(node, &scope, |_| resolution);
            self.decision.passed.push((Place { node, scope }, passed));
            return;
        }
        self.decision.passed.push((place.clone(), passed));
        if graph.role(node) == Role::Scatter {
            return self.pass_gather(place, passed);
        }
        let edges = graph.outgoing(node).iter().copied();
        let edges = edges.chain(graph.fallback_edge(node));
        self.tell(edges, &place.scope, |_| resolution);
        self.terminal(node, &place.scope);
    }

    /// `scope` is around a loop, if the node is its controller.
    fn terminal(&mut self, node: NodeIx, scope: &Scope) {
        self.end_slot(node, self.graph.terminal_slot(node), scope);
    }

    fn end_slot(&mut self, node: NodeIx, slot: Option<usize>, scope: &Scope) {
        let Some(slot) = slot else { return };
        if let Some(around) = self.graph.around_of(node) {
            // What ends within a pass lets the next one begin, whatever came of it; the same goes for the end of an item.
            let (node, scope) = match around {
                Around::Pass(node) => (node, scope.next_pass()),
                Around::Item(node) => (node, scope.clone()),
            };
            let place = Place { node, scope };
            let position = self.graph.meeting(&place).len() + slot;
            self.meet(place, position, Resolution::Untaken);
        } else if self.graph.end_slot_count() == 1 {
            self.decision.ended = true;
        } else if let Some(state) = self.join(JoinPoint::End) {
            let state = state.edges();
            state.resolve(slot, Resolution::Taken, false);
            if state.open == 0 && !state.fired {
                state.fired = true;
                self.decision.ended = true;
            }
        }
    }

    fn join(&mut self, join: JoinPoint) -> Option<&mut JoinState> {
        if !self.decision.joins.contains_key(&join) {
            let Some(state) = self.joins.get(&join) else {
                self.missing.push(join);
                return None;
            };
            self.decision.joins.insert(join.clone(), state.clone());
        }
        self.decision.joins.get_mut(&join)
    }
}

fn taken_or_not(taken: &[EdgeIx], edge: EdgeIx) -> Resolution {
    if taken.binary_search(&edge).is_ok() {
        Resolution::Taken
    } else {
        Resolution::Untaken
    }
}

/// The edges in order, in which they are for the most part already: looking for each is then quick, however many there are.
fn sorted(edges: &[EdgeIx]) -> Cow<'_, [EdgeIx]> {
    if edges.is_sorted() {
        return Cow::Borrowed(edges);
    }
    let mut sorted = edges.to_vec();
    sorted.sort_unstable();
    Cow::Owned(sorted)
}

#[cfg(test)]
mod tests;
