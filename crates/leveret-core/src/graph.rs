//! The shape of a workflow: which edges meet where, where runs start, and what a run's end waits for.
//!
//! Nodes and edges are indexes. Besides the *flow* edges of the definition there is one *fallback* edge from every guarded node to
//! its fallback node: taken when the node failed for good, so that a fallback node is reached, skipped and cancelled by
//! the same rules as any other.

use std::collections::VecDeque;

/// An index of a node in its workflow.
pub type NodeIx = usize;
/// An index of an edge: flow edges first, in the order of the definition, then fallback edges.
pub type EdgeIx = usize;

/// What the graph must know of a node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NodeShape {
    /// The node is ready at the first taken edge instead of waiting for all.
    pub joins_any: bool,
    /// The node that takes over when this one failed for good.
    pub fallback: Option<NodeIx>,
}

/// An edge between two nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GraphEdge {
    /// Where it leaves.
    pub source: NodeIx,
    /// Where it arrives.
    pub target: NodeIx,
}

/// The shape of a workflow. Immutable; built in time linear in nodes and edges.
#[derive(Clone, Debug)]
pub struct Graph {
    nodes: Vec<NodeShape>,
    edges: Vec<GraphEdge>,
    flow_edges: usize,
    incoming: Vec<Vec<EdgeIx>>,
    outgoing: Vec<Vec<EdgeIx>>,
    fallback_edge: Vec<Option<EdgeIx>>,
    guards: Vec<Option<NodeIx>>,
    starts: Vec<NodeIx>,
    end_slots: Vec<EndSlots>,
    end_slot_count: usize,
}

/// Which of the end's conditions a node meets.
#[derive(Clone, Copy, Debug, Default)]
struct EndSlots {
    terminal: Option<usize>,
    any_join: Option<usize>,
}

impl Graph {
    /// Builds the graph of `nodes` with flow `edges` as `(source, target)`.
    ///
    /// # Panics
    ///
    /// When an index is out of range: validation comes first.
    pub fn new(nodes: Vec<NodeShape>, edges: &[(NodeIx, NodeIx)]) -> Graph {
        let count = nodes.len();
        let mut graph = Graph {
            incoming: vec![Vec::new(); count],
            outgoing: vec![Vec::new(); count],
            fallback_edge: vec![None; count],
            guards: vec![None; count],
            flow_edges: edges.len(),
            edges: edges
                .iter()
                .map(|&(source, target)| GraphEdge { source, target })
                .collect(),
            starts: Vec::new(),
            end_slots: vec![EndSlots::default(); count],
            end_slot_count: 0,
            nodes,
        };
        graph.add_fallback_edges();
        for (ix, edge) in graph.edges.iter().enumerate() {
            graph.incoming[edge.target].push(ix);
            if ix < graph.flow_edges {
                graph.outgoing[edge.source].push(ix);
            }
        }
        graph.starts = (0..count)
            .filter(|&node| graph.incoming[node].is_empty())
            .collect();
        graph.number_end_slots();
        graph
    }

    fn add_fallback_edges(&mut self) {
        for node in 0..self.nodes.len() {
            if let Some(fallback) = self.nodes[node].fallback {
                self.fallback_edge[node] = Some(self.edges.len());
                self.guards[fallback] = Some(node);
                self.edges.push(GraphEdge {
                    source: node,
                    target: fallback,
                });
            }
        }
    }

    /// A run ends when every terminal node is final and every edge into an `any` join is resolved: a join that ran at its
    /// first edge does not let the run end while the branches of the others still work.
    fn number_end_slots(&mut self) {
        let mut next = 0;
        for node in 0..self.nodes.len() {
            if self.outgoing[node].is_empty() {
                self.end_slots[node].terminal = Some(next);
                next += 1;
            }
            if self.joins_any(node) && self.incoming[node].len() > 1 {
                self.end_slots[node].any_join = Some(next);
                next += 1;
            }
        }
        self.end_slot_count = next;
    }

    /// How many nodes there are.
    pub fn node_count(&self) -> usize {
        self.nodes.len()
    }

    /// An edge.
    pub fn edge(&self, edge: EdgeIx) -> GraphEdge {
        self.edges[edge]
    }

    /// Whether an edge is of the definition, not one to a fallback.
    pub fn is_flow(&self, edge: EdgeIx) -> bool {
        edge < self.flow_edges
    }

    /// All edges into a node, the fallback edge last.
    pub fn incoming(&self, node: NodeIx) -> &[EdgeIx] {
        &self.incoming[node]
    }

    /// The flow edges out of a node.
    pub fn outgoing(&self, node: NodeIx) -> &[EdgeIx] {
        &self.outgoing[node]
    }

    /// The edge to a node's fallback.
    pub fn fallback_edge(&self, node: NodeIx) -> Option<EdgeIx> {
        self.fallback_edge[node]
    }

    /// The node whose fallback this one is.
    pub fn guards(&self, node: NodeIx) -> Option<NodeIx> {
        self.guards[node]
    }

    /// The node whose edges hand over a node's input: its own, or for a fallback those of the node that it guards.
    pub fn receiver(&self, node: NodeIx) -> NodeIx {
        let mut node = node;
        while let Some(guarded) = self.guards[node] {
            node = guarded;
        }
        node
    }

    /// Whether a node is ready at its first taken edge.
    pub fn joins_any(&self, node: NodeIx) -> bool {
        self.nodes[node].joins_any
    }

    /// Where runs start: the nodes without incoming edges that are nobody's fallback.
    pub fn starts(&self) -> &[NodeIx] {
        &self.starts
    }

    /// The nodes whose outputs make the run's output: those without outgoing edges, fallback nodes aside, since the result of a
    /// fallback stands in for the node that it guards.
    pub fn terminals(&self) -> impl Iterator<Item = NodeIx> {
        (0..self.nodes.len())
            .filter(|&node| self.outgoing[node].is_empty() && self.guards[node].is_none())
    }

    /// The flow edges that a step's result decides: its own, and, for a fallback, those of the node that it guards (and of the
    /// node which that one guards in turn).
    pub fn routed(&self, node: NodeIx) -> impl Iterator<Item = EdgeIx> {
        std::iter::successors(Some(node), |&node| self.guards[node])
            .flat_map(|node| self.outgoing[node].iter().copied())
    }

    /// By node, its position in an order in which runs can reach them: each behind all that lead to it, by edges and
    /// fallbacks. A node that a fallback stands in for ends with it.
    pub fn order(&self) -> Vec<usize> {
        let (start, end) = (|node| 2 * node, |node| 2 * node + 1);
        let mut awaited = vec![0_usize; 2 * self.nodes.len()];
        for node in 0..self.nodes.len() {
            awaited[start(node)] = self.incoming[node].len();
            awaited[end(node)] = 1 + usize::from(self.fallback_edge[node].is_some());
        }
        let mut open: VecDeque<usize> = self.starts.iter().map(|&node| start(node)).collect();
        let mut order = vec![0; self.nodes.len()];
        let mut position = 0;
        while let Some(vertex) = open.pop_front() {
            let node = vertex / 2;
            let mut reach = |vertex: usize| {
                awaited[vertex] -= 1;
                if awaited[vertex] == 0 {
                    open.push_back(vertex);
                }
            };
            if vertex == start(node) {
                order[node] = position;
                position += 1;
                reach(end(node));
                if let Some(edge) = self.fallback_edge[node] {
                    reach(start(self.edges[edge].target));
                }
            } else {
                for &edge in &self.outgoing[node] {
                    reach(start(self.edges[edge].target));
                }
                if let Some(guarded) = self.guards[node] {
                    reach(end(guarded));
                }
            }
        }
        order
    }

    /// How many conditions the end of a run waits for.
    pub(crate) fn end_slot_count(&self) -> usize {
        self.end_slot_count
    }

    /// The condition that a terminal node meets when it is final.
    pub(crate) fn terminal_slot(&self, node: NodeIx) -> Option<usize> {
        self.end_slots[node].terminal
    }

    /// The condition that an `any` join meets when all its edges are resolved.
    pub(crate) fn any_join_slot(&self, node: NodeIx) -> Option<usize> {
        self.end_slots[node].any_join
    }
}
