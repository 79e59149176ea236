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
//! Of several taken edges, the last hands over the node's input; those of one step arrive together, in the order of the definition.
//!
//! Only nodes with several incoming edges, and the end of the run, have a state that outlives the step: a [`JoinState`], one row in
//! the store. A chain needs none.

use std::{
    borrow::Cow,
    collections::{BTreeMap, HashMap, VecDeque},
    fmt,
    str::FromStr,
};

use crate::graph::{EdgeIx, Graph, NodeIx};

/// How a step ended, as far as its edges care.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ending<'a> {
    /// The step has a result; these of its [routed](Graph::routed) edges are taken.
    Completed {
        /// Taken edges.
        taken: Cow<'a, [EdgeIx]>,
    },
    /// The step failed for good.
    Failed {
        /// Whether the node's fallback, if it has one, takes over (not after a fatal error).
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

/// A node that must run now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Ready {
    /// The node.
    pub node: NodeIx,
    /// The edge that hands over its input; `None` at the start of a run.
    pub via: Option<EdgeIx>,
}

/// What outlives a single step: a node where edges meet, or the end of the run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum JoinPoint {
    /// A node with several incoming edges.
    Node(NodeIx),
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

/// What a join knows: per incoming edge (or condition of the end) its resolution, and whether it has fired.
///
/// Printed and stored as one character per edge (`.` open, `t` taken, `u` untaken, `f` failed), then `!` when fired and the position
/// of the edge that was taken last: `tu.t`, `tt!1`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JoinState {
    resolved: Vec<Option<Resolution>>,
    open: usize,
    last_taken: Option<usize>,
    fired: bool,
}

impl JoinState {
    /// A join of `edges` edges of which none has resolved.
    pub fn new(edges: usize) -> JoinState {
        JoinState {
            resolved: vec![None; edges],
            open: edges,
            last_taken: None,
            fired: false,
        }
    }

    /// Whether the join's node was made ready, skipped or cancelled.
    pub fn has_fired(&self) -> bool {
        self.fired
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
    fn fire(&mut self, any: bool) -> Option<Fired> {
        if self.fired {
            return None;
        }
        let fired = match (any, self.last_taken) {
            (true, Some(_)) => Fired::Ready,
            _ if self.open > 0 => return None,
            _ if self.has(Resolution::Failed) => Fired::Passed(Passed::Cancelled),
            (_, Some(_)) => Fired::Ready,
            (_, None) => Fired::Passed(Passed::Skipped),
        };
        self.fired = true;
        Some(fired)
    }
}

enum Fired {
    Ready,
    Passed(Passed),
}

impl fmt::Display for JoinState {
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
        match self.last_taken {
            Some(position) => write!(f, "{}{position}", if self.fired { "" } else { "," }),
            None => Ok(()),
        }
    }
}

/// A stored join state that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is not a join state")]
pub struct JoinStateError(String);

impl FromStr for JoinState {
    type Err = JoinStateError;

    fn from_str(text: &str) -> Result<JoinState, JoinStateError> {
        let error = || JoinStateError(text.to_owned());
        let end = text.find(['!', ',']).unwrap_or(text.len());
        let (edges, rest) = text.split_at(end);
        let resolved = edges
            .chars()
            .map(|c| resolution_of(c).map_err(|UnknownResolution| error()))
            .collect::<Result<Vec<_>, _>>()?;
        let last_taken = match rest.get(1..) {
            None | Some("") => None,
            Some(digits) => Some(digits.parse().map_err(|_| error())?),
        };
        if last_taken.is_some_and(|position| position >= resolved.len()) {
            return Err(error());
        }
        let open = resolved
            .iter()
            .filter(|resolution| resolution.is_none())
            .count();
        Ok(JoinState {
            resolved,
            open,
            last_taken,
            fired: rest.starts_with('!'),
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
    /// Nodes that must run now.
    pub ready: Vec<Ready>,
    /// Nodes that will not run.
    pub passed: Vec<(NodeIx, Passed)>,
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

/// Decides what the end of the step at `node` makes of its run.
///
/// On success `joins` holds the new states. On [`MissingJoins`] it is unchanged: load those too and ask again.
pub fn decide(
    graph: &Graph,
    node: NodeIx,
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
    decider.step(node, ending);
    while let Some((edge, resolution)) = decider.open.pop_front() {
        decider.resolve(edge, resolution);
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
        joins.insert(*join, state.clone());
    }
    Ok(decision)
}

/// Decides the start of a run: an empty workflow ends at once.
pub fn decide_start(graph: &Graph) -> Decision {
    let ready = graph
        .starts()
        .iter()
        .map(|&node| Ready { node, via: None })
        .collect();
    Decision {
        ready,
        ended: graph.node_count() == 0,
        ..Decision::default()
    }
}

/// How many edges meet at a join.
pub fn join_width(graph: &Graph, join: JoinPoint) -> usize {
    match join {
        JoinPoint::Node(node) => graph.incoming(node).len(),
        JoinPoint::End => graph.end_slot_count(),
    }
}

struct Decider<'a> {
    graph: &'a Graph,
    joins: &'a Joins,
    decision: Decision,
    missing: Vec<JoinPoint>,
    /// Edges that resolved and whose targets have not heard of it, in the order in which they are told.
    open: VecDeque<(EdgeIx, Resolution)>,
}

impl Decider<'_> {
    fn step(&mut self, node: NodeIx, ending: &Ending<'_>) {
        let graph = self.graph;
        match ending {
            Ending::Completed { taken } => {
                let taken = sorted(taken);
                for edge in graph.routed(node) {
                    let resolution = if taken.binary_search(&edge).is_ok() {
                        Resolution::Taken
                    } else {
                        Resolution::Untaken
                    };
                    self.open.push_back((edge, resolution));
                }
                self.open.extend(
                    graph
                        .fallback_edge(node)
                        .map(|edge| (edge, Resolution::Untaken)),
                );
            }
            Ending::Failed { fall_back: true } if graph.fallback_edge(node).is_some() => {
                // The node's own edges wait for the fallback's result.
                self.open.extend(
                    graph
                        .fallback_edge(node)
                        .map(|edge| (edge, Resolution::Taken)),
                );
            }
            Ending::Failed { .. } => {
                self.open
                    .extend(graph.routed(node).map(|edge| (edge, Resolution::Failed)));
                self.open.extend(
                    graph
                        .fallback_edge(node)
                        .map(|edge| (edge, Resolution::Untaken)),
                );
            }
        }
        self.terminal(node);
    }

    fn resolve(&mut self, edge: EdgeIx, resolution: Resolution) {
        let node = self.graph.edge(edge).target;
        let incoming = self.graph.incoming(node);
        if let [_] = incoming {
            return match resolution {
                Resolution::Taken => self.decision.ready.push(Ready {
                    node,
                    via: Some(edge),
                }),
                Resolution::Untaken => self.pass(node, Passed::Skipped),
                Resolution::Failed => self.pass(node, Passed::Cancelled),
            };
        }
        let any = self.graph.joins_any(node);
        let position = incoming
            .binary_search(&edge)
            .expect("an edge is among its target's incoming");
        let join = JoinPoint::Node(node);
        let is_late = self.joins.get(&join).is_some_and(JoinState::has_fired);
        let Some(state) = self.join(join) else {
            return;
        };
        state.resolve(position, resolution, is_late);
        let fired = state.fire(any);
        let complete = state.open == 0;
        match fired {
            Some(Fired::Ready) => self.decision.ready.push(Ready {
                node,
                via: Some(edge),
            }),
            Some(Fired::Passed(passed)) => self.pass(node, passed),
            None => {}
        }
        if complete {
            self.end_slot(self.graph.any_join_slot(node));
        }
    }

    /// Joins that fired hand over what came last, which is known when all edges of the step were told.
    fn hand_over(&mut self) {
        let Decision { ready, joins, .. } = &mut self.decision;
        if joins.is_empty() {
            return;
        }
        for ready in ready {
            if let Some(state) = joins.get(&JoinPoint::Node(ready.node)) {
                let incoming = self.graph.incoming(ready.node);
                ready.via = state.last_taken.map(|position| incoming[position]);
            }
        }
    }

    fn pass(&mut self, node: NodeIx, passed: Passed) {
        self.decision.passed.push((node, passed));
        let resolution = match passed {
            Passed::Skipped => Resolution::Untaken,
            Passed::Cancelled => Resolution::Failed,
        };
        let edges = self
            .graph
            .outgoing(node)
            .iter()
            .copied()
            .chain(self.graph.fallback_edge(node));
        self.open.extend(edges.map(|edge| (edge, resolution)));
        self.terminal(node);
    }

    fn terminal(&mut self, node: NodeIx) {
        self.end_slot(self.graph.terminal_slot(node));
    }

    fn end_slot(&mut self, slot: Option<usize>) {
        let Some(slot) = slot else { return };
        if self.graph.end_slot_count() == 1 {
            self.decision.ended = true;
        } else if let Some(state) = self.join(JoinPoint::End) {
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
            self.decision.joins.insert(join, state.clone());
        }
        self.decision.joins.get_mut(&join)
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
pub type Marks = HashMap<NodeIx, Mark>;

/// The nodes that should be running: made ready by what is recorded, and not recorded themselves.
///
/// Walks from `from` (the starts, for a whole run) over recorded steps. Follows from the committed state alone, so that a job lost or
/// delivered again leads to the same successors.
pub fn unfinished(
    graph: &Graph,
    from: impl IntoIterator<Item = Ready>,
    marks: &Marks,
    joins: &Joins,
) -> Vec<Ready> {
    let mut open: Vec<Ready> = from.into_iter().collect();
    let mut seen = vec![false; graph.node_count()];
    let mut ready = Vec::new();
    while let Some(candidate) = open.pop() {
        if std::mem::replace(&mut seen[candidate.node], true) {
            continue;
        }
        let node = candidate.node;
        let mut follow = |edge: EdgeIx| {
            let target = graph.edge(edge).target;
            if let Ok(via) = join_to(graph, target, joins) {
                open.push(Ready {
                    node: target,
                    via: via.or(Some(edge)),
                });
            }
        };
        match marks.get(&node) {
            None => ready.push(candidate),
            Some(Mark::Waiting) => {}
            Some(Mark::Failed) if graph.fallback_edge(node).is_some() => {
                graph.fallback_edge(node).into_iter().for_each(&mut follow);
            }
            Some(Mark::Failed | Mark::Final) => {
                graph
                    .routed(node)
                    .chain(graph.fallback_edge(node))
                    .for_each(&mut follow);
            }
        }
    }
    ready.sort_unstable();
    ready
}

struct NotFired;

/// The edge that hands over the input of a join that fired; `None` for a node with one edge.
fn join_to(graph: &Graph, node: NodeIx, joins: &Joins) -> Result<Option<EdgeIx>, NotFired> {
    let incoming = graph.incoming(node);
    if incoming.len() == 1 {
        return Ok(None);
    }
    match joins.get(&JoinPoint::Node(node)) {
        Some(state) if state.fired => Ok(state.last_taken.map(|position| incoming[position])),
        _ => Err(NotFired),
    }
}

#[cfg(test)]
mod tests;
