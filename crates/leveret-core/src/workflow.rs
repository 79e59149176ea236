//! The workflow: an immutable, checked model of nodes and edges.
//!
//! A [`Workflow`] exists only when its definition passed every check of [`crate::parse`], so whoever holds one
//! relies on this: node ids are unique, edges and fallbacks name nodes, edges form no cycle but those of loops, every node can be
//! reached, and every expression and template compiled. Nodes are referred to by their index in [`Workflow::nodes`].

use std::{
    collections::{HashMap, HashSet},
    fmt,
    str::FromStr,
    sync::Arc,
    time::Duration,
};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::{
    each::Each,
    expr::{Expression, References},
    graph::{BatchShape, EdgeShape, Graph, NodeShape, Role},
    ids::{NodeId, Scope, WorkflowId},
    json::Json,
    template::Template,
};

/// A checked definition.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Workflow {
    /// Its name.
    pub id: WorkflowId,
    /// Its nodes, in the order of the definition.
    pub nodes: Vec<Node>,
    /// Its edges, in the order of the definition. Several may join the same two nodes.
    pub edges: Vec<Edge>,
    /// Free-form data of the author; null when there is none.
    pub metadata: Json,
    /// The canonical definition: exactly what is stored and hashed. Known fields only, keys sorted, nodes as a list.
    /// Parsing it again gives an equal workflow.
    pub definition: Json,
    /// The hash of the text of `definition`.
    pub hash: WorkflowHash,
    /// How its nodes and edges hang together.
    pub graph: Graph,
    pub(crate) index: HashMap<NodeId, usize>,
    /// The nodes that something names.
    pub(crate) named: HashSet<usize>,
}

impl Workflow {
    /// The index of a node.
    pub fn node_ix(&self, id: &str) -> Option<usize> {
        self.index.get(id).copied()
    }

    /// Within which scope a step is the latest of its node, if something asks for that: it stands in a pass of a loop, and something names its
    /// node.
    pub fn latest_within(&self, node: usize, scope: &Scope) -> Option<Scope> {
        if scope.is_root() || !self.named.contains(&node) {
            return None;
        }
        self.graph.latest_within(node, scope)
    }

    /// A node by its id.
    pub fn node(&self, id: &str) -> Option<&Node> {
        self.node_ix(id).map(|ix| &self.nodes[ix])
    }
}

/// The node type that decides before each pass of a loop whether there is one.
pub const LOOP_CONTROLLER: &str = "loop-controller";

/// The action of a [`LOOP_CONTROLLER`] that begins a pass.
pub const CONTINUE: &str = "continue";

/// The action of a [`LOOP_CONTROLLER`] that ends the loop.
pub const BREAK: &str = "break";

/// The node type that begins the items of a batch.
pub const BATCH_SCATTER: &str = "batch-scatter";

/// The node type that waits for the items of a batch.
pub const BATCH_GATHER: &str = "batch-gather";

/// The most items of a batch.
pub const ITEMS_MAX: usize = 100_000;

/// What a node is to the shape of its workflow, by its type.
pub(crate) fn role_of(uses: &str) -> Role {
    match uses {
        LOOP_CONTROLLER => Role::Loop,
        BATCH_SCATTER => Role::Scatter,
        BATCH_GATHER => Role::Gather,
        _ => Role::Plain,
    }
}

/// The graph of checked nodes and edges.
pub(crate) fn graph_of(nodes: &[Node], edges: &[Edge]) -> Graph {
    let node = |node: &Node| NodeShape {
        joins_any: node.config.join == Join::Any,
        fallback: node.config.fallback,
        role: role_of(&node.uses),
        batch: node.batch,
    };
    let edge = |edge: &Edge| EdgeShape {
        source: edge.source,
        target: edge.target,
        continues: edge.action.as_deref() == Some(CONTINUE),
        breaks: edge.action.as_deref() == Some(BREAK),
        on_failure: edge.on_failure,
    };
    let edges = edges.iter().map(edge).collect();
    Graph::of(nodes.iter().map(node).collect(), edges)
}

/// The nodes that expressions and inputs name.
pub(crate) fn named(
    nodes: &[Node],
    edges: &[Edge],
    index: &HashMap<NodeId, usize>,
) -> HashSet<usize> {
    let mut named = HashSet::new();
    let mut add = |references: &References| {
        let ids = references.nodes.iter().chain(&references.node_errors);
        named.extend(ids.filter_map(|id| index.get(&**id)));
    };
    let mut inputs = HashSet::new();
    let mut add_input = |input: &InputRef| match input {
        InputRef::Node { ix, .. } | InputRef::Named { ix } | InputRef::Handed { ix } => {
            inputs.insert(*ix);
        }
        InputRef::Context { .. } => {}
        InputRef::Expression(expression) => add(expression.references()),
    };
    for node in nodes {
        match &node.inputs {
            Inputs::Handed => {}
            Inputs::One(input) => add_input(input),
            Inputs::Map(entries) => entries.iter().for_each(|(_, input)| add_input(input)),
        }
    }
    for node in nodes {
        add(&node.references());
    }
    for edge in edges {
        let expressions = edge.condition.iter().chain(&edge.transform);
        expressions.for_each(|expression| add(expression.references()));
    }
    named.extend(inputs);
    // A fallback is read in the place of its node.
    let mut open: Vec<usize> = named.iter().copied().collect();
    while let Some(node) = open.pop() {
        open.extend(
            nodes[node]
                .config
                .fallback
                .filter(|&fallback| named.insert(fallback)),
        );
    }
    named
}

/// Two workflows are equal when their canonical definitions are.
impl PartialEq for Workflow {
    fn eq(&self, other: &Workflow) -> bool {
        self.hash == other.hash
    }
}

/// A node of a workflow.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Node {
    /// Its name within the workflow.
    pub id: NodeId,
    /// The node type.
    pub uses: Arc<str>,
    /// A name for people.
    pub name: Option<Arc<str>>,
    /// Parameters of the node type: an object whose strings may hold expressions.
    pub params: Template,
    /// The parameter that is evaluated for each item of the input, which `params` does not have then.
    pub each: Option<Each>,
    /// Where its input comes from.
    pub inputs: Inputs,
    /// Attempts, times, fallback and join.
    pub config: NodeConfig,
    /// How a [`BATCH_SCATTER`] has its items executed.
    pub batch: Option<BatchShape>,
}

impl Node {
    /// What the expressions of its parameters read.
    pub fn references(&self) -> References {
        let mut all = self.params.references().clone();
        if let Some(each) = &self.each {
            all.extend(each.references());
        }
        all
    }
}

/// Where the input of a node comes from.
#[derive(Clone, Debug, PartialEq)]
pub enum Inputs {
    /// What its predecessor's edge hands over.
    Handed,
    /// One value.
    One(InputRef),
    /// An object of values, sorted by key.
    Map(Vec<(Arc<str>, InputRef)>),
}

/// A value that a node takes as input. What is not there reads as null.
#[derive(Clone, Debug, PartialEq)]
pub enum InputRef {
    /// The output of a node, or the part of it that a path of keys leads to.
    Node {
        /// The node's index.
        ix: usize,
        /// Keys from the output inwards; a position in an array is a key of digits.
        path: Vec<Arc<str>>,
    },
    /// The output of a node; if it left none, the context key of that name.
    Named {
        /// The node's index.
        ix: usize,
    },
    /// What was handed over to a node: `_inputs.NODE`.
    Handed {
        /// The node's index.
        ix: usize,
    },
    /// A context key, else that key of the run's input.
    Context {
        /// The key.
        key: Arc<str>,
    },
    /// What an expression gives; its failure fails the step.
    Expression(Expression),
}

/// How a node is executed.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct NodeConfig {
    /// Executions in all, the first included: 1 to [`ATTEMPTS_MAX`]. `maxRetries`, default 1.
    pub attempts_max: u32,
    /// The delay before the second attempt. `retryDelay`, default 1 s.
    pub retry_delay: Duration,
    /// The longest delay between attempts. `retryDelayMax`, default 5 minutes.
    pub retry_delay_max: Duration,
    /// What each further delay is multiplied by: 1 to [`RETRY_FACTOR_MAX`]. `retryFactor`, default 2.
    pub retry_factor: f64,
    /// The share of a delay that is random: 0 to 1. `retryJitter`, default 0.1; 0 when `retry_delay` is 0.
    pub retry_jitter: f64,
    /// The longest time an attempt may take. `timeout`, where 0 is none.
    pub timeout: Option<Duration>,
    /// The node whose result takes the place of this one's when it failed for good: an index. `fallback`.
    pub fallback: Option<usize>,
    /// When the node is ready. `joinStrategy`, default `all`.
    pub join: Join,
}

/// The most executions a node may have.
pub const ATTEMPTS_MAX: u32 = 1000;

/// The largest factor between two delays.
pub const RETRY_FACTOR_MAX: f64 = 100.0;

/// The longest delay or timeout.
pub const DURATION_MAX: Duration = Duration::from_secs(366 * 24 * 60 * 60);

impl Default for NodeConfig {
    fn default() -> NodeConfig {
        NodeConfig {
            attempts_max: 1,
            retry_delay: Duration::from_secs(1),
            retry_delay_max: Duration::from_secs(5 * 60),
            retry_factor: 2.0,
            retry_jitter: 0.1,
            timeout: None,
            fallback: None,
            join: Join::All,
        }
    }
}

/// When a node with several incoming edges is ready.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Join {
    /// When all of them have resolved and at least one was taken.
    #[default]
    All,
    /// At the first one that is taken, once.
    Any,
}

/// An edge of a workflow.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Edge {
    /// The index of the node it leaves.
    pub source: usize,
    /// The index of the node it enters.
    pub target: usize,
    /// Taken when the source has failed for good and has no fallback, or that failed, too; at no other time. What it hands over is the error.
    pub on_failure: bool,
    /// Taken only when the source's result has this action.
    pub action: Option<Arc<str>>,
    /// Taken only when this is true.
    pub condition: Option<Expression>,
    /// Makes the target's input of the source's output.
    pub transform: Option<Expression>,
}

/// The SHA-256 of a workflow's canonical definition: the name of that one version, for ever. In text, 64 hexadecimal
/// digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct WorkflowHash([u8; 32]);

impl WorkflowHash {
    /// The hash of the text of a canonical definition.
    pub fn of(definition: &str) -> WorkflowHash {
        WorkflowHash(Sha256::digest(definition.as_bytes()).into())
    }

    /// The 32 bytes.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl From<[u8; 32]> for WorkflowHash {
    fn from(bytes: [u8; 32]) -> WorkflowHash {
        WorkflowHash(bytes)
    }
}

impl fmt::Display for WorkflowHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let mut text = [0; 64];
        for (pair, byte) in text.chunks_exact_mut(2).zip(self.0) {
            pair[0] = DIGITS[usize::from(byte >> 4)];
            pair[1] = DIGITS[usize::from(byte & 15)];
        }
        f.write_str(str::from_utf8(&text).map_err(|_| fmt::Error)?)
    }
}

impl fmt::Debug for WorkflowHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A text that is not 64 hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a workflow hash has 64 hexadecimal digits")]
pub struct HashError;

impl FromStr for WorkflowHash {
    type Err = HashError;

    fn from_str(text: &str) -> Result<WorkflowHash, HashError> {
        let digits = text.as_bytes();
        if digits.len() != 64 {
            return Err(HashError);
        }
        let digit = |byte: u8| (byte as char).to_digit(16).ok_or(HashError);
        let mut bytes = [0; 32];
        for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
            *byte = (digit(pair[0])? * 16 + digit(pair[1])?) as u8;
        }
        Ok(WorkflowHash(bytes))
    }
}

impl TryFrom<String> for WorkflowHash {
    type Error = HashError;

    fn try_from(text: String) -> Result<WorkflowHash, HashError> {
        text.parse()
    }
}

impl From<WorkflowHash> for String {
    fn from(hash: WorkflowHash) -> String {
        hash.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_print_and_parse() {
        let hash = WorkflowHash::of("{}");
        let text = "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a";
        assert_eq!(hash.to_string(), text);
        assert_eq!(text.parse(), Ok(hash));
        assert_eq!(text[1..].parse::<WorkflowHash>(), Err(HashError));
        assert_eq!("é".repeat(32).parse::<WorkflowHash>(), Err(HashError));
    }
}
