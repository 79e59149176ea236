//! What only the whole graph shows: cycles, nodes that nothing leads to, edges that are never taken.
//!
//! A fallback takes the place of its node, so that the node is done when its fallback is, and the graph must stay
//! without cycles under that rule too. To say so, each node is two vertices, its start and its end:
//!
//! - a node's start leads to its end,
//! - an edge leads from the end of its source to the start of its target,
//! - a node's start leads to its fallback's start, and the fallback's end to the node's end.

use std::collections::{BTreeSet, HashMap};

use serde_json::Value;

use super::{
    NodeCatalog,
    diagnostics::{Problem, Report},
    fields::Field,
    read::NodeField,
};
use crate::{
    graph::{Fault, Parts, Regions, Role},
    suggest,
    workflow::{BREAK, CONTINUE, Edge, Node},
};

/// The most cycles told of one definition.
const CYCLES_MAX: usize = 10;

/// The most nodes of a cycle that are told by name.
const CYCLE_NODES_MAX: usize = 20;

/// Why one vertex leads to another.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Cause {
    /// A start leads to its end.
    Itself,
    /// An edge, by index.
    Edge(usize),
    /// The fallback of a node, by the node's index.
    Fallback(usize),
}

#[derive(Clone, Copy)]
struct Arc {
    to: usize,
    cause: Cause,
}

/// What was read of a graph; what could not be is left out.
pub(super) struct Shape<'a> {
    /// The names of the nodes; empty where there is none.
    pub(super) names: Vec<&'a str>,
    pub(super) fallbacks: Vec<Option<usize>>,
    /// Sources and targets.
    pub(super) edges: Vec<Option<(usize, usize)>>,
    /// The actions of edges; empty where there is none.
    pub(super) actions: Vec<&'a str>,
    pub(super) roles: Vec<Role>,
    /// By scatter, its gather.
    pub(super) gathers: Vec<Option<usize>>,
}

impl Shape<'_> {
    /// The loops and batches, or what is wrong with them; `None` where edges are missing, so that it cannot be told.
    fn regions(&self) -> Option<Result<Regions, Vec<Fault>>> {
        let edges: Vec<_> = self.edges.iter().copied().collect::<Option<_>>()?;
        let with = |action| {
            self.actions
                .iter()
                .map(|of| *of == action)
                .collect::<Vec<_>>()
        };
        let parts = Parts {
            roles: &self.roles,
            edges: &edges,
            continues: &with(CONTINUE),
            breaks: &with(BREAK),
            fallbacks: &self.fallbacks,
            gathers: &self.gathers,
        };
        Some(Regions::new(&parts))
    }
}

/// Tells of cycles and unreachable nodes.
pub(super) fn graph(
    shape: &Shape<'_>,
    node_fields: &[NodeField<'_>],
    edge_fields: &[Field<'_>],
    report: &mut Report<'_>,
) {
    let Some(regions) = tell_loops(shape, node_fields, report) else {
        return;
    };
    let arcs = arcs(shape, &regions);
    let mut in_cycle = vec![false; shape.names.len()];
    let mut told = BTreeSet::new();
    for cycle in cycles(&arcs) {
        for ix in cycle.members() {
            in_cycle[ix] = true;
        }
        // A fallback leads back both where it starts and where it ends; once is enough.
        if told.insert(cycle.members().collect::<BTreeSet<_>>()) {
            tell_cycle(&cycle, shape, node_fields, edge_fields, report);
        }
    }
    fallbacks_with_edges(shape, edge_fields, report);
    failures_of_loops(shape, edge_fields, report);
    if shape.edges.contains(&None) {
        // What seems unreachable may be where that edge leads.
        return;
    }
    for ix in unreachable(shape, &regions) {
        if !in_cycle[ix] {
            let message = format!("nothing leads to the node `{}`", shape.names[ix]);
            let problem = Problem::error("unreachable", message);
            node_fields[ix].1.tell(report, problem);
        }
    }
}

/// The loops and batches; none if something is wrong with them, which is told.
fn tell_loops(
    shape: &Shape<'_>,
    node_fields: &[NodeField<'_>],
    report: &mut Report<'_>,
) -> Option<Regions> {
    let faults = match shape.regions() {
        Some(Ok(regions)) => return Some(regions),
        Some(Err(faults)) => faults,
        None if shape.roles.iter().any(|role| *role != Role::Plain) => return None,
        None => return Some(Regions::none(shape.names.len())),
    };
    for fault in faults {
        let message = fault.told(&shape.names).to_string();
        let problem = match shape.roles[fault.owner()] {
            Role::Loop => Problem::error("bad-loop", message).help(
                "a loop-controller has an edge with the action `continue` into its body, from which an edge leads back, and edges with the \
                 action `break`; nothing else leads into the body, or out of it",
            ),
            _ => Problem::error("bad-batch", message).help(
                "edges lead from a batch-scatter to the nodes that are executed for each item, and from these to the batch-gather that \
                 its `gatherNodeId` names; nothing else leads to them, or away from them",
            ),
        };
        node_fields[fault.owner()].1.tell(report, problem);
    }
    None
}

/// A fallback node runs when its node failed and at no other time, so that no edge may lead to it.
fn fallbacks_with_edges(shape: &Shape<'_>, edge_fields: &[Field<'_>], report: &mut Report<'_>) {
    let mut is_fallback = vec![false; shape.names.len()];
    for fallback in shape.fallbacks.iter().flatten() {
        is_fallback[*fallback] = true;
    }
    for (edge, field) in shape.edges.iter().zip(edge_fields) {
        if let Some((_, target)) = *edge
            && is_fallback[target]
        {
            let message = format!(
                "`{}` is a fallback, and no edge may lead to it",
                shape.names[target]
            );
            let problem = Problem::error("fallback-with-edge", message)
                .help("a fallback runs when its node failed; give the edge a node of its own");
            field.tell(report, problem);
        }
    }
}

/// What a loop's controller decides is whether there is a pass: if it cannot, the loop is cancelled.
fn failures_of_loops(shape: &Shape<'_>, edge_fields: &[Field<'_>], report: &mut Report<'_>) {
    for (edge, field) in shape.edges.iter().zip(edge_fields) {
        let Some(on) = field.get("on") else { continue };
        if edge.is_some_and(|(source, _)| shape.roles[source] == Role::Loop) {
            let message = "a loop-controller has no edges on failure";
            on.tell(report, Problem::error("bad-loop", message));
        }
    }
}

/// Warns of edges that wait for an action which their source never gives.
pub(super) fn actions(
    nodes: &[Node],
    edges: &[Edge],
    node_fields: &[NodeField<'_>],
    edge_fields: &[Field<'_>],
    catalog: &dyn NodeCatalog,
    report: &mut Report<'_>,
) {
    let mut given: HashMap<usize, Option<Vec<String>>> = HashMap::new();
    for (edge, field) in edges.iter().zip(edge_fields) {
        let (Some(action), source) = (&edge.action, &nodes[edge.source]) else {
            continue;
        };
        // A fallback gives its own action in the place of its node's.
        if source.config.fallback.is_some() {
            continue;
        }
        let given = given.entry(edge.source).or_insert_with(|| {
            let params = node_fields[edge.source].1.get("params");
            let params = params.map_or(&Value::Null, |params| params.value);
            catalog.actions(&source.uses, params)
        });
        let Some(given) = given
            .as_ref()
            .filter(|given| !given.iter().any(|a| **a == **action))
        else {
            continue;
        };
        let near = suggest::nearest(action, given.iter().map(String::as_str));
        let message = format!("`{}` never gives the action `{action}`", source.id);
        let problem = Problem::warning("action-never-given", message).did_you_mean(near);
        let at = field.get("action");
        at.as_ref().unwrap_or(field).tell(report, problem);
    }
}

fn start(ix: usize) -> usize {
    2 * ix
}

fn end(ix: usize) -> usize {
    2 * ix + 1
}

/// What each vertex leads to, but for edges that begin the next pass of a loop.
fn arcs(shape: &Shape<'_>, regions: &Regions) -> Vec<Vec<Arc>> {
    let mut arcs = vec![Vec::new(); 2 * shape.names.len()];
    for (ix, edge) in shape.edges.iter().enumerate() {
        if let Some((source, target)) = *edge {
            if shape.roles[target] == Role::Loop && regions.is_around(regions.of[target], source) {
                continue;
            }
            arcs[end(source)].push(Arc {
                to: start(target),
                cause: Cause::Edge(ix),
            });
        }
    }
    for (ix, fallback) in shape.fallbacks.iter().enumerate() {
        arcs[start(ix)].push(Arc {
            to: end(ix),
            cause: Cause::Itself,
        });
        if let Some(fallback) = *fallback {
            let cause = Cause::Fallback(ix);
            arcs[start(ix)].push(Arc {
                to: start(fallback),
                cause,
            });
            arcs[end(fallback)].push(Arc { to: end(ix), cause });
        }
    }
    arcs
}

/// A cycle: its vertices in order, and the cause of the step to each of them.
struct Cycle {
    vertices: Vec<usize>,
    causes: Vec<Cause>,
}

impl Cycle {
    /// The nodes it passes, where it passes them.
    fn members(&self) -> impl Iterator<Item = usize> {
        self.vertices.iter().map(|vertex| vertex / 2)
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Visit {
    New,
    Open,
    Done,
}

/// A depth-first search; every arc back to an open vertex closes a cycle.
fn cycles(arcs: &[Vec<Arc>]) -> Vec<Cycle> {
    let mut cycles = Vec::new();
    let mut visits = vec![Visit::New; arcs.len()];
    // Open vertices, outermost first: the cause of the step to each, and how many of its arcs were followed.
    let mut open: Vec<(usize, Cause, usize)> = Vec::new();
    for root in 0..arcs.len() {
        if visits[root] != Visit::New {
            continue;
        }
        visits[root] = Visit::Open;
        open.push((root, Cause::Itself, 0));
        while let Some((vertex, _, followed)) = open.last_mut() {
            let Some(arc) = arcs[*vertex].get(*followed) else {
                visits[*vertex] = Visit::Done;
                open.pop();
                continue;
            };
            *followed += 1;
            match visits[arc.to] {
                Visit::New => {
                    visits[arc.to] = Visit::Open;
                    open.push((arc.to, arc.cause, 0));
                }
                Visit::Open => cycles.push(closed(&open, *arc)),
                Visit::Done => {}
            }
            if cycles.len() == CYCLES_MAX {
                return cycles;
            }
        }
    }
    cycles
}

fn closed(open: &[(usize, Cause, usize)], arc: Arc) -> Cycle {
    let first = open.iter().rposition(|(vertex, ..)| *vertex == arc.to);
    let cycle = &open[first.expect("an open vertex is on the stack")..];
    let mut causes: Vec<Cause> = cycle.iter().map(|(_, cause, _)| *cause).collect();
    causes[0] = arc.cause;
    Cycle {
        vertices: cycle.iter().map(|(vertex, ..)| *vertex).collect(),
        causes,
    }
}

fn tell_cycle(
    cycle: &Cycle,
    shape: &Shape<'_>,
    node_fields: &[NodeField<'_>],
    edge_fields: &[Field<'_>],
    report: &mut Report<'_>,
) {
    let mut members: Vec<usize> = cycle.members().collect();
    members.dedup();
    if members.len() > 1 && members.first() == members.last() {
        members.pop();
    }
    let mut names: Vec<&str> = members.iter().map(|ix| shape.names[*ix]).collect();
    if names.len() > CYCLE_NODES_MAX {
        names.truncate(CYCLE_NODES_MAX);
        names.push("…");
    }
    names.push(shape.names[members[0]]);
    let names = names.join(" > ");

    let by_fallback = cycle
        .causes
        .iter()
        .any(|cause| matches!(cause, Cause::Fallback(_)));
    let problem = if by_fallback {
        Problem::error(
            "fallback-cycle",
            format!("a fallback takes the place of its node, which makes a cycle here: {names}"),
        )
    } else {
        let message = format!("a cycle without a loop-controller: {names}");
        Problem::error("cycle", message)
    };
    // The first cause is the arc that closed the cycle; the way from a start to its end has no place of its own.
    let cause = cycle.causes.iter().find(|cause| **cause != Cause::Itself);
    match cause {
        Some(Cause::Edge(ix)) => edge_fields[*ix].tell(report, problem),
        Some(Cause::Fallback(ix)) => {
            let node = node_fields[*ix].1;
            let config = node.get("config");
            let fallback = config.as_ref().and_then(|config| config.get("fallback"));
            fallback.unwrap_or(node).tell(report, problem)
        }
        Some(Cause::Itself) | None => node_fields[members[0]].1.tell(report, problem),
    };
}

/// Nodes that no start node leads to by edges and fallbacks.
fn unreachable(shape: &Shape<'_>, regions: &Regions) -> Vec<usize> {
    let count = shape.names.len();
    let mut next: Vec<Vec<usize>> = vec![Vec::new(); count];
    let mut is_start = vec![true; count];
    let fallbacks = shape.fallbacks.iter().enumerate();
    let fallbacks = fallbacks.filter_map(|(ix, fallback)| Some((ix, (*fallback)?)));
    for (source, target) in shape.edges.iter().copied().flatten().chain(fallbacks) {
        next[source].push(target);
        let again =
            shape.roles[target] == Role::Loop && regions.is_around(regions.of[target], source);
        is_start[target] &= again;
    }
    let mut is_reached = is_start;
    let mut found: Vec<usize> = (0..count).filter(|ix| is_reached[*ix]).collect();
    while let Some(ix) = found.pop() {
        for to in &next[ix] {
            if !std::mem::replace(&mut is_reached[*to], true) {
                found.push(*to);
            }
        }
    }
    (0..count).filter(|ix| !is_reached[*ix]).collect()
}
