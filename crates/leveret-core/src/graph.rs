//! The shape of a workflow: which edges meet where, where runs start, and what a run's end waits for.
//!
//! Nodes and edges are indexes. Besides the *flow* edges of the definition there is one *fallback* edge from every guarded node to
//! its fallback node: taken when the node failed for good, so that a fallback node is reached, skipped and cancelled by
//! the same rules as any other.
//!
//! Steps in the body of a loop stand in the scope of their pass, and those in the body of a batch in that of their item: see [`Place`], and
//! [`Role`] for which nodes these are.

mod region;

use std::collections::{HashMap, HashSet, VecDeque};

pub(crate) use self::region::{Fault, Parts, RegionIx, Regions};
pub use self::region::{NESTED_MAX, Role};
use crate::ids::{Scope, ScopePart};

/// So many places are told of by [`Graph::nearby`] at most.
const NEARBY_MAX: usize = 64;

/// An index of a node in its workflow.
pub type NodeIx = usize;
/// An index of an edge: flow edges first, in the order of the definition, then fallback edges.
pub type EdgeIx = usize;

/// Where a step stands: its node, and the scope of loops and batches.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Place {
    /// The node.
    pub node: NodeIx,
    /// In which pass and item of the loops and batches around it.
    pub scope: Scope,
}

impl Place {
    /// A place outside of every loop and batch.
    pub fn root(node: NodeIx) -> Place {
        let scope = Scope::root();
        Place { node, scope }
    }
}

/// What the graph must know of a node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NodeShape {
    /// The node is ready at the first taken edge instead of waiting for all.
    pub joins_any: bool,
    /// The node that takes over when this one failed for good.
    pub fallback: Option<NodeIx>,
    /// What the node is to the shape.
    pub role: Role,
    /// The batch that a scatter begins.
    pub batch: Option<BatchShape>,
}

/// How a scatter has its items executed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchShape {
    /// The node that waits for them.
    pub gather: NodeIx,
    /// What the failure of one means.
    pub on_error: OnError,
    /// How many run at once at most; any number if there is none.
    pub concurrency: Option<u64>,
    /// Of how many all have ended before one behind them begins; none if there is none.
    pub chunk: Option<u64>,
}

/// What the failure of an item means to its batch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnError {
    /// The failure of any step: that of the run.
    #[default]
    Fail,
    /// The item is left out of the result.
    Skip,
    /// The error stands in its place.
    Collect,
}

impl BatchShape {
    /// How many of so many items may have begun when so many have ended: `begun` before, and never fewer.
    pub fn may_begin(&self, items: u64, ended: u64, begun: u64) -> u64 {
        let running = self.concurrency.map(|most| ended.saturating_add(most));
        let chunks = self
            .chunk
            .map(|chunk| (ended / chunk).saturating_add(1).saturating_mul(chunk));
        let most = running.unwrap_or(items).min(chunks.unwrap_or(items));
        most.min(items).max(begun)
    }

    /// Whether the end of an item may let others begin.
    pub fn is_limited(&self) -> bool {
        self.concurrency.is_some() || self.chunk.is_some()
    }
}

/// In what a node is whose ends the next step of an owner waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Around {
    /// A pass of the loop of this controller.
    Pass(NodeIx),
    /// An item of the batch of this gather.
    Item(NodeIx),
}

/// What the graph must know of a flow edge.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EdgeShape {
    /// The node it leaves.
    pub source: NodeIx,
    /// The node it enters.
    pub target: NodeIx,
    /// If a loop's controller is the source: it begins a pass.
    pub continues: bool,
    /// If a loop's controller is the source: it ends the loop.
    pub breaks: bool,
    /// It is taken when the source has failed for good, and at no other time.
    pub on_failure: bool,
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
    /// Per flow edge whether it begins the next pass of the loop that it leads to.
    again: Vec<bool>,
    /// Per flow edge whether it ends the loop that it leaves.
    leaves: Vec<bool>,
    /// Per flow edge whether it is taken when its source has failed.
    on_failure: Vec<bool>,
    regions: Regions,
    /// By scatter and gather, their batch.
    batches: HashMap<NodeIx, RegionIx>,
    /// Per region what the next pass, or the end of an item, waits for.
    passes: Vec<PassEnd>,
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

/// What the end of a pass, or of an item, consists of.
#[derive(Clone, Debug, Default)]
struct PassEnd {
    /// The edges that lead back to the controller; none for an item.
    back: Vec<EdgeIx>,
    /// How many nodes and joins of the body end elsewhere.
    slots: usize,
}

impl Graph {
    /// Builds the graph of `nodes` without loops and batches, with flow `edges` as `(source, target)`.
    ///
    /// # Panics
    ///
    /// When an index is out of range, or there are loops or batches.
    pub fn new(nodes: Vec<NodeShape>, edges: &[(NodeIx, NodeIx)]) -> Graph {
        let edges = edges.iter().map(|&(source, target)| EdgeShape {
            source,
            target,
            ..EdgeShape::default()
        });
        Graph::of(nodes, edges.collect())
    }

    /// Builds the graph of `nodes` with flow `edges`.
    ///
    /// # Panics
    ///
    /// When an index is out of range, or the loops and batches are none: validation comes first.
    #[expect(clippy::needless_pass_by_value)] // Nobody has another use for them.
    pub fn of(nodes: Vec<NodeShape>, shapes: Vec<EdgeShape>) -> Graph {
        let count = nodes.len();
        let regions = regions_of(&nodes, &shapes);
        let edges: Vec<(NodeIx, NodeIx)> = shapes
            .iter()
            .map(|edge| (edge.source, edge.target))
            .collect();
        let is_within = |node: NodeIx, owner: NodeIx| regions.is_around(regions.of[owner], node);
        let is_loop = |node: NodeIx| nodes[node].role == Role::Loop;
        let again = edges.iter();
        let again = again.map(|&(source, target)| is_loop(target) && is_within(source, target));
        let leaves = edges.iter();
        let leaves = leaves.map(|&(source, target)| is_loop(source) && !is_within(target, source));
        let batches = regions.regions.iter().enumerate();
        let batches = batches.filter_map(|(ix, region)| Some((ix, region.owner, region.gather?)));
        let mut graph = Graph {
            batches: batches
                .flat_map(|(ix, scatter, gather)| [(scatter, ix), (gather, ix)])
                .collect(),
            again: again.collect(),
            leaves: leaves.collect(),
            on_failure: shapes.iter().map(|edge| edge.on_failure).collect(),
            passes: vec![PassEnd::default(); regions.regions.len()],
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
            regions,
            nodes,
        };
        graph.add_fallback_edges();
        for (ix, edge) in graph.edges.iter().enumerate() {
            if graph.again.get(ix) == Some(&true) {
                let region = graph.regions.of[edge.target].expect("a loop has a region");
                graph.passes[region].back.push(ix);
            } else {
                graph.incoming[edge.target].push(ix);
            }
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
    /// first edge does not let the run end while the branches of the others still work. In the same way ends each pass of a loop, and each item of a batch.
    fn number_end_slots(&mut self) {
        for node in 0..self.nodes.len() {
            let is_terminal = match self.nodes[node].role {
                Role::Loop => !self.outgoing[node].iter().any(|&edge| self.leaves[edge]),
                _ => !self.outgoing[node]
                    .iter()
                    .any(|&edge| !self.is_on_failure(edge)),
            };
            let region = self.around(node);
            if is_terminal {
                self.end_slots[node].terminal = Some(self.next_slot(region));
            }
            let is_gather = self.nodes[node].role == Role::Gather;
            if self.joins_any(node) && self.incoming[node].len() > 1 && !is_gather {
                self.end_slots[node].any_join = Some(self.next_slot(region));
            }
        }
    }

    fn next_slot(&mut self, region: Option<RegionIx>) -> usize {
        let count = match region {
            None => &mut self.end_slot_count,
            Some(region) => &mut self.passes[region].slots,
        };
        *count += 1;
        *count - 1
    }

    /// The region in which a node is, or the loop of which it is the controller.
    fn around(&self, node: NodeIx) -> Option<RegionIx> {
        let own = self.regions.of[node];
        match self.nodes[node].role {
            Role::Loop => own.and_then(|own| self.regions.regions[own].parent),
            _ => own,
        }
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

    /// What a node is to the shape.
    pub fn role(&self, node: NodeIx) -> Role {
        self.nodes[node].role
    }

    /// Whether an edge begins the next pass of the loop that it leads to.
    pub fn is_again(&self, edge: EdgeIx) -> bool {
        self.again.get(edge) == Some(&true)
    }

    /// Whether an edge ends the loop whose controller it leaves.
    pub fn leaves(&self, edge: EdgeIx) -> bool {
        self.leaves.get(edge) == Some(&true)
    }

    /// Whether an edge is taken when its source has failed for good, and at no other time.
    pub fn is_on_failure(&self, edge: EdgeIx) -> bool {
        self.on_failure.get(edge) == Some(&true)
    }

    /// Whether an edge takes over when a node, which has no fallback, or takes the place of another, has failed for good.
    pub fn handles_failure(&self, node: NodeIx) -> bool {
        self.routed(node).any(|edge| self.is_on_failure(edge))
    }

    /// Whether what follows makes up for a step that failed for good: a fallback, or an edge for that.
    pub fn makes_up_for(&self, node: NodeIx) -> bool {
        self.fallback_edge(node).is_some() || self.handles_failure(node)
    }

    /// How many scopes there are around a node's steps; the controller of a loop stands in the passes that it decides on.
    pub fn depth(&self, node: NodeIx) -> usize {
        self.regions.chain(self.regions.of[node]).count()
    }

    /// How many scopes around the steps of both nodes are the same.
    pub fn common_depth(&self, one: NodeIx, other: NodeIx) -> usize {
        let chain = |node: NodeIx| -> Vec<RegionIx> {
            let mut chain: Vec<_> = self.regions.chain(self.regions.of[node]).collect();
            chain.reverse();
            chain
        };
        let pairs = chain(one).into_iter().zip(chain(other));
        pairs.take_while(|(one, other)| one == other).count()
    }

    /// Which step of a node its name means to a reader at a place: the one in the first scope, if it has ended; else the latest one within the
    /// second. A loop that ended stands in the scope around it. In a batch, the steps of the same item are meant; from outside of it, none.
    pub fn meant(&self, node: NodeIx, reader: &Place) -> (Option<Scope>, Option<Scope>) {
        let depth = self.depth(node);
        if depth == 0 {
            return (Some(Scope::root()), None);
        }
        let common = self.common_depth(node, reader.node);
        let items = self.item_depth(node);
        if common < items {
            return (None, None);
        }
        let ends_there = self.nodes[node].role == Role::Loop && common + 1 == depth;
        let exact = common == depth || ends_there;
        let exact = exact.then(|| reader.scope.first_parts(common));
        let latest = (items < depth).then(|| reader.scope.first_parts(items));
        (exact, latest)
    }

    /// Within which scope the latest step of a node counts that stands in this one: the item of the innermost batch around it. `None`: no loop is
    /// within that.
    pub fn latest_within(&self, node: NodeIx, scope: &Scope) -> Option<Scope> {
        let items = self.item_depth(node);
        (items < self.depth(node)).then(|| scope.first_parts(items))
    }

    /// How many scopes there are around and with the item of the innermost batch in which a node is; 0 if it is in none.
    fn item_depth(&self, node: NodeIx) -> usize {
        let mut chain = self.regions.chain(self.regions.of[node]);
        match chain.find(|&region| self.regions.regions[region].gather.is_some()) {
            Some(region) => self.regions.chain(Some(region)).count(),
            None => 0,
        }
    }

    /// The item of the innermost batch around a place: where it stands, by its scatter, and its position. The scatter itself sees it where it hands
    /// it over.
    pub fn item_of(&self, place: &Place) -> Option<(Place, u64)> {
        let Place { node, ref scope } = *place;
        if self.is_item_row(place) {
            let node = self.scatter_of(node).unwrap_or(node);
            let scope = scope.clone();
            return Some((
                Place {
                    node,
                    scope: scope.clone(),
                },
                scope.item_index()?,
            ));
        }
        let depth = self.item_depth(node);
        let mut chain = self.regions.chain(self.regions.of[node]);
        let region = chain.find(|&region| self.regions.regions[region].gather.is_some())?;
        let node = self.regions.regions[region].owner;
        let scope = scope.first_parts(depth);
        let index = scope.item_index()?;
        Some((Place { node, scope }, index))
    }

    /// Whether what stands at a place is no step, but an item of its scatter, or what came of one at its gather.
    pub fn is_item_row(&self, place: &Place) -> bool {
        self.batches.contains_key(&place.node)
            && place.scope.item_index().is_some()
            && place.scope.as_str().split('/').count() == self.depth(place.node) + 1
    }

    /// The items that are to be begun, if that is what a place says: the scope around them, and from where to where.
    pub fn opening(&self, place: &Place) -> Option<(Scope, u64, u64)> {
        match self.nodes[place.node].role {
            Role::Scatter => place.scope.item_range(),
            _ => None,
        }
    }

    /// The first steps of an item.
    pub fn first_steps(
        &self,
        scatter: NodeIx,
        item: &Scope,
    ) -> impl Iterator<Item = (Place, EdgeIx)> {
        let edges = self.outgoing[scatter].iter();
        edges.map(move |&edge| (self.target_of(edge, item), edge))
    }

    /// How the items of a gather, or a scatter, are executed.
    pub fn batch(&self, node: NodeIx) -> Option<&BatchShape> {
        let region = self.batches.get(&node)?;
        self.nodes[self.regions.regions[*region].owner]
            .batch
            .as_ref()
    }

    /// The scatter of a gather; itself for a scatter.
    pub fn scatter_of(&self, gather: NodeIx) -> Option<NodeIx> {
        let region = self.batches.get(&gather)?;
        Some(self.regions.regions[*region].owner)
    }

    /// Whether there is a batch.
    pub fn has_batches(&self) -> bool {
        !self.batches.is_empty()
    }

    /// The gather of the innermost batch around a node which goes on when an item failed, and how many scopes there are around and with the item.
    pub fn tolerated_by(&self, node: NodeIx) -> Option<(NodeIx, usize)> {
        let mut chain = self.regions.chain(self.around(node));
        chain.find_map(|region| {
            let gather = self.regions.regions[region].gather?;
            let batch = self.batch(gather)?;
            let depth = self.regions.chain(Some(region)).count();
            (batch.on_error != OnError::Fail).then_some((gather, depth))
        })
    }

    /// Whether steps of a node can stand in a scope, or it says which items the node is to begin.
    pub fn fits(&self, node: NodeIx, scope: &Scope) -> bool {
        let Some(mut parts) = scope.parts() else {
            return false;
        };
        if self.nodes[node].role == Role::Scatter
            && let Some(ScopePart::Items(..)) = parts.last()
        {
            parts.pop();
        }
        let regions: Vec<RegionIx> = self.regions.chain(self.regions.of[node]).collect();
        let is_of = |(part, region): (&ScopePart, &RegionIx)| match part {
            ScopePart::Pass(_) => self.regions.regions[*region].gather.is_none(),
            ScopePart::Item(_) => self.regions.regions[*region].gather.is_some(),
            ScopePart::Items(..) => false,
        };
        parts.len() == regions.len() && parts.iter().zip(regions.iter().rev()).all(is_of)
    }

    /// Where an edge leads; `scope` is that of its source, or around it if it ends a loop; or that of the item, if it begins one.
    pub fn target_of(&self, edge: EdgeIx, scope: &Scope) -> Place {
        let node = self.edges[edge].target;
        let scope = match self.nodes[node].role {
            Role::Loop if self.is_again(edge) => scope.next_pass(),
            Role::Loop => scope.first_pass(),
            _ => scope.clone(),
        };
        Place { node, scope }
    }

    /// Some places behind this one, and itself, that are likely to be asked for next.
    pub fn nearby(&self, place: &Place) -> Vec<Place> {
        let mut seen = HashSet::from([place.clone()]);
        let mut found = vec![place.clone()];
        let mut at = 0;
        while let Some(Place { node, scope }) = found.get(at).cloned() {
            at += 1;
            let mut reached: Vec<Place> = Vec::new();
            if self.is_item_row(&found[at - 1]) {
                let scope = scope.outer();
                reached.push(Place { node, scope });
            } else if self.nodes[node].role == Role::Scatter {
                let node = self.batch(node).map_or(node, |batch| batch.gather);
                reached.push(Place { node, scope });
            } else {
                let edges = self.routed(node).chain(self.fallback_edge[node]);
                let edges = edges.filter(|&edge| !self.is_again(edge));
                reached.extend(edges.map(|edge| {
                    let outer = self.leaves(edge).then(|| scope.outer());
                    self.target_of(edge, outer.as_ref().unwrap_or(&scope))
                }));
                if let Some(Around::Item(gather)) = self.around_of(node) {
                    let node = gather;
                    reached.push(Place { node, scope });
                }
            }
            for place in reached {
                if found.len() < NEARBY_MAX && seen.insert(place.clone()) {
                    found.push(place);
                }
            }
        }
        found
    }

    /// The scope in which the source of an edge stands whose target stands at `target`. Of the controller of a loop that ended, the
    /// scope around the loop: its last step stands there, too.
    pub fn source_scope(&self, edge: EdgeIx, target: &Place) -> Scope {
        match self.nodes[target.node].role {
            Role::Loop if self.is_again(edge) => target
                .scope
                .previous_pass()
                .unwrap_or_else(|| target.scope.clone()),
            Role::Loop => target.scope.outer(),
            _ => target.scope.clone(),
        }
    }

    /// The edges that meet at a place. Those that lead back to a controller meet at its later passes, the others at its first. Those to a gather
    /// meet in each item.
    pub(crate) fn meeting(&self, place: &Place) -> &[EdgeIx] {
        match self.pass_end(place) {
            Some(end) => &end.back,
            None => &self.incoming[place.node],
        }
    }

    /// How many conditions a place waits for beside its edges.
    pub(crate) fn slots(&self, place: &Place) -> usize {
        if self.nodes[place.node].role == Role::Gather {
            return self.passes[self.batches[&place.node]].slots;
        }
        self.pass_end(place).map_or(0, |end| end.slots)
    }

    /// What a later pass of a loop waits for, if that is where its controller stands.
    fn pass_end(&self, place: &Place) -> Option<&PassEnd> {
        let is_later = self.nodes[place.node].role == Role::Loop
            && place.scope.pass().is_some_and(|pass| pass > 1);
        let region = self.regions.of[place.node].filter(|_| is_later)?;
        Some(&self.passes[region])
    }

    /// In what a node is, of loops and batches.
    pub(crate) fn around_of(&self, node: NodeIx) -> Option<Around> {
        let region = self.regions.regions[self.around(node)?];
        Some(match region.gather {
            Some(gather) => Around::Item(gather),
            None => Around::Pass(region.owner),
        })
    }

    /// All edges into a node, those of later passes and the fallback edge last.
    pub fn all_incoming(&self, node: NodeIx) -> impl Iterator<Item = EdgeIx> + '_ {
        let own = self.regions.of[node].filter(|_| self.nodes[node].role == Role::Loop);
        let back = own.map_or(&[][..], |region| &self.passes[region].back);
        self.incoming[node].iter().chain(back).copied()
    }

    /// All edges into a node but those that lead back to it, the fallback edge last.
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

    /// Where a node stands at the start of a run: a loop at its first pass.
    pub fn start_place(&self, node: NodeIx) -> Place {
        let scope = match self.nodes[node].role {
            Role::Loop => Scope::root().first_pass(),
            _ => Scope::root(),
        };
        Place { node, scope }
    }

    /// Where runs start: the nodes without incoming edges that are nobody's fallback.
    pub fn starts(&self) -> &[NodeIx] {
        &self.starts
    }

    /// The nodes whose outputs make the run's output: those without outgoing edges but for failures, fallback nodes aside, since the result of a
    /// fallback stands in for the node that it guards, and what is in the body of a loop or a batch.
    pub fn terminals(&self) -> impl Iterator<Item = NodeIx> {
        (0..self.nodes.len()).filter(|&node| {
            self.end_slots[node].terminal.is_some()
                && self.around(node).is_none()
                && self.guards[node].is_none()
        })
    }

    /// The flow edges that a step's result decides: its own, and, for a fallback, those of the node that it guards (and of the
    /// node which that one guards in turn).
    pub fn routed(&self, node: NodeIx) -> impl Iterator<Item = EdgeIx> {
        std::iter::successors(Some(node), |&node| self.guards[node])
            .flat_map(|node| self.outgoing[node].iter().copied())
    }

    /// By node, its position in an order in which runs can reach them: each behind all that lead to it, by edges and
    /// fallbacks, those that lead back aside. A node that a fallback stands in for ends with it.
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
                for &edge in self.outgoing[node]
                    .iter()
                    .filter(|&&edge| !self.again[edge])
                {
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

/// The regions of checked nodes and edges.
fn regions_of(nodes: &[NodeShape], edges: &[EdgeShape]) -> Regions {
    if nodes.iter().all(|node| node.role == Role::Plain) {
        return Regions::none(nodes.len());
    }
    let roles: Vec<Role> = nodes.iter().map(|node| node.role).collect();
    let ends: Vec<_> = edges
        .iter()
        .map(|edge| (edge.source, edge.target))
        .collect();
    let continues: Vec<bool> = edges.iter().map(|edge| edge.continues).collect();
    let breaks: Vec<bool> = edges.iter().map(|edge| edge.breaks).collect();
    let fallbacks: Vec<_> = nodes.iter().map(|node| node.fallback).collect();
    let gathers = nodes.iter().map(|node| Some(node.batch?.gather));
    let gathers: Vec<_> = gathers.collect();
    let parts = Parts {
        gathers: &gathers,
        roles: &roles,
        edges: &ends,
        continues: &continues,
        breaks: &breaks,
        fallbacks: &fallbacks,
    };
    Regions::new(&parts).expect("the loops and batches were checked")
}
