//! Workflows as workers hold them: immutable, with what each node needs worked out once, cached by content.

use std::{
    collections::{BTreeSet, HashMap},
    hash::Hash,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
};

use leveret_core::{
    decide::Ready,
    expr::References,
    graph::NodeIx,
    ids::{NodeId, RunId, WorkflowId},
    json::Json,
    parse::{Diagnostics, workflow_from_json},
    workflow::{InputRef, Inputs, Workflow, WorkflowHash},
};

use serde_json::{Map, Value};

use super::wire::Job;
use crate::nodes::{NodeType, Registry};

/// A workflow ready to be executed.
pub(crate) struct Plan {
    pub(crate) workflow: Arc<Workflow>,
    nodes: Vec<PlannedNode>,
    secrets: OnceLock<BTreeSet<Arc<str>>>,
}

struct PlannedNode {
    node_type: Option<Arc<dyn NodeType>>,
    needs: OnceLock<Needs>,
}

/// What must be at hand before a node is executed and its edges are routed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Needs {
    pub(crate) run_input: bool,
    /// Whether that is the item of the batch around the step.
    pub(crate) item: bool,
    /// Whether that is the item where the source of an edge to the step stands.
    pub(crate) item_handed: bool,
    /// The nodes that are named where the step stands.
    pub(crate) nodes: BTreeSet<NodeIx>,
    /// The nodes that are named where the source of an edge to the step stands.
    pub(crate) handed: BTreeSet<NodeIx>,
    pub(crate) context: BTreeSet<Arc<str>>,
    /// The names of those that it reads.
    pub(crate) secrets: BTreeSet<Arc<str>>,
}

impl Plan {
    pub(crate) fn new(workflow: Arc<Workflow>, registry: &Registry) -> Plan {
        let nodes = workflow
            .nodes
            .iter()
            .map(|node| PlannedNode {
                node_type: registry.get(&node.uses).cloned(),
                needs: OnceLock::new(),
            })
            .collect();
        Plan {
            workflow,
            nodes,
            secrets: OnceLock::new(),
        }
    }

    pub(crate) fn node_type(&self, node: NodeIx) -> Option<&Arc<dyn NodeType>> {
        self.nodes[node].node_type.as_ref()
    }

    pub(crate) fn is_pure(&self, node: NodeIx) -> bool {
        self.node_type(node)
            .is_some_and(|node_type| node_type.is_pure())
    }

    pub(crate) fn needs(&self, node: NodeIx) -> &Needs {
        self.nodes[node].needs.get_or_init(|| self.work_out(node))
    }

    /// The names of all secrets that the workflow reads. A step may fail by an expression of another one: a fallback takes what was handed to
    /// the node that it guards.
    pub(crate) fn secrets(&self) -> &BTreeSet<Arc<str>> {
        self.secrets.get_or_init(|| {
            let nodes = 0..self.nodes.len();
            nodes.flat_map(|node| self.work_out(node).secrets).collect()
        })
    }

    fn work_out(&self, node: NodeIx) -> Needs {
        let Workflow {
            nodes,
            edges,
            graph,
            ..
        } = &*self.workflow;
        let mut needs = Needs::default();
        self.add(&mut needs, &nodes[node].references());
        match &nodes[node].inputs {
            Inputs::Handed => {}
            Inputs::One(input) => self.add_input(&mut needs, input),
            Inputs::Map(inputs) => inputs
                .iter()
                .for_each(|(_, input)| self.add_input(&mut needs, input)),
        }
        let routed = graph
            .routed(node)
            .filter_map(|edge| edges[edge].condition.as_ref());
        let handed = graph
            .all_incoming(node)
            .filter(|&edge| graph.is_flow(edge))
            .filter_map(|edge| edges[edge].transform.as_ref());
        for expression in routed {
            self.add(&mut needs, expression.references());
        }
        if graph.depth(node) == 0 {
            // There is no earlier one.
            needs.nodes.remove(&node);
        }
        for expression in handed {
            let (nodes, item) = (std::mem::take(&mut needs.nodes), needs.item);
            self.add(&mut needs, expression.references());
            let named = std::mem::replace(&mut needs.nodes, nodes);
            needs.item = item;
            needs.item_handed |= expression.references().item;
            needs
                .handed
                .extend(named.into_iter().filter(|&of| of != node));
        }
        needs
    }

    fn add_input(&self, needs: &mut Needs, input: &InputRef) {
        match input {
            InputRef::Node { ix, .. } | InputRef::Named { ix } => {
                needs.nodes.insert(*ix);
            }
            InputRef::Handed { ix } => self.add_handed(needs, *ix),
            InputRef::Context { key } => {
                needs.context.insert(key.clone());
                needs.run_input = true;
            }
            InputRef::Expression(expression) => self.add(needs, expression.references()),
        }
    }

    /// What is needed to tell what was handed over to a node.
    fn add_handed(&self, needs: &mut Needs, node: NodeIx) {
        let Workflow {
            nodes,
            edges,
            graph,
            ..
        } = &*self.workflow;
        let node = graph.receiver(node);
        needs.run_input = true;
        needs.nodes.insert(node);
        for edge in graph.all_incoming(node) {
            needs.nodes.insert(graph.edge(edge).source);
            let Some(transform) = &edges[edge].transform else {
                continue;
            };
            self.add(needs, transform.references());
            if let Inputs::One(input) = &nodes[node].inputs
                && !matches!(input, InputRef::Handed { .. })
            {
                self.add_input(needs, input);
            }
        }
    }

    fn add(&self, needs: &mut Needs, references: &References) {
        let named = references.nodes.iter().chain(&references.node_errors);
        needs
            .nodes
            .extend(named.filter_map(|id| self.workflow.node_ix(id)));
        needs.context.extend(references.context.iter().cloned());
        needs.run_input |= references.run_input || !references.context.is_empty();
        needs.item |= references.item;
        needs.secrets.extend(references.secrets.iter().cloned());
    }

    pub(crate) fn node_id(&self, node: NodeIx) -> &NodeId {
        &self.workflow.nodes[node].id
    }

    /// The first attempt at a node without an input.
    pub(crate) fn job(&self, run_id: &RunId, node: NodeIx) -> Job {
        let Workflow { id, hash, .. } = &*self.workflow;
        Job::new(id.clone(), hash, run_id.clone(), self.node_id(node).clone())
    }

    /// The first attempt at a step without an input.
    pub(crate) fn job_at(&self, run_id: &RunId, ready: &Ready) -> Job {
        let job = self.job(run_id, ready.place.node);
        Job {
            via: ready.via,
            ..job.within(&ready.place.scope)
        }
    }

    /// The node whose result stands in for this one's when it failed.
    pub(crate) fn fallback(&self, node: NodeIx) -> Option<NodeIx> {
        self.workflow.nodes[node].config.fallback
    }
}

/// How many workflows a process keeps parsed.
const PLANS_MAX: usize = 1024;
/// How large their definitions are together, at most. A parsed workflow takes several times as much.
const PLANS_BYTES_MAX: usize = 32 << 20;

/// Parsed workflows by content. Definitions are immutable, so that nothing in here is ever stale.
#[derive(Default)]
pub(crate) struct Plans {
    by_hash: Mutex<Kept<WorkflowHash>>,
    by_text: Mutex<Kept<Box<str>>>,
}

/// Plans by a key, within the bounds.
struct Kept<K> {
    plans: HashMap<K, Arc<Plan>>,
    bytes: usize,
}

impl<K> Default for Kept<K> {
    fn default() -> Kept<K> {
        Kept {
            plans: HashMap::new(),
            bytes: 0,
        }
    }
}

impl<K: Eq + Hash> Kept<K> {
    /// Keeps a plan, whose definition has so many bytes. Where there is no room, the others go; what is too large by itself is not kept.
    fn insert(&mut self, key: K, plan: &Arc<Plan>, bytes: usize) {
        if bytes > PLANS_BYTES_MAX || self.plans.contains_key(&key) {
            return;
        }
        if self.plans.len() >= PLANS_MAX || self.bytes + bytes > PLANS_BYTES_MAX {
            *self = Kept::default();
        }
        self.bytes += bytes;
        self.plans.insert(key, plan.clone());
    }
}

impl Plans {
    pub(crate) fn get(&self, hash: &WorkflowHash) -> Option<Arc<Plan>> {
        locked(&self.by_hash).plans.get(hash).cloned()
    }

    pub(crate) fn insert(&self, workflow: Arc<Workflow>, registry: &Registry) -> Arc<Plan> {
        let mut kept = locked(&self.by_hash);
        if let Some(plan) = kept.plans.get(&workflow.hash) {
            return plan.clone();
        }
        let plan = Arc::new(Plan::new(workflow, registry));
        let Workflow {
            hash, definition, ..
        } = &*plan.workflow;
        kept.insert(*hash, &plan, definition.text().len());
        plan
    }

    /// The plan of a definition; parsed once per text.
    pub(crate) fn parse(
        &self,
        definition: &Json,
        registry: &Registry,
    ) -> Result<Arc<Plan>, Diagnostics> {
        if let Some(plan) = self.parsed(definition.text()) {
            return Ok(plan);
        }
        let workflow = workflow_from_json(definition.value(), None)?;
        Ok(self.keep(Box::from(definition.text()), workflow, registry))
    }

    /// The plan of a definition that came with a message. One without an id gets that of its message.
    pub(crate) fn parse_named(
        &self,
        definition: &Json,
        id: &WorkflowId,
        registry: &Registry,
    ) -> Result<Arc<Plan>, Diagnostics> {
        if let Some(plan) = self.parsed(definition.text()) {
            return Ok(plan);
        }
        let Some(mut fields) = unnamed(definition.value()) else {
            return self.parse(definition, registry);
        };
        // Not the text of a definition: no string spans lines, and an object does not end with the end of one in it.
        let text = format!("{id}\n{}", definition.text());
        if let Some(plan) = self.parsed(&text) {
            return Ok(plan);
        }
        fields.insert("id".to_owned(), Value::from(id.as_str()));
        let workflow = workflow_from_json(&Value::Object(fields), None)?;
        Ok(self.keep(text.into_boxed_str(), workflow, registry))
    }

    fn keep(&self, text: Box<str>, workflow: Workflow, registry: &Registry) -> Arc<Plan> {
        let plan = self.insert(Arc::new(workflow), registry);
        let bytes = text.len();
        locked(&self.by_text).insert(text, &plan, bytes);
        plan
    }

    fn parsed(&self, text: &str) -> Option<Arc<Plan>> {
        locked(&self.by_text).plans.get(text).cloned()
    }
}

fn locked<K>(kept: &Mutex<Kept<K>>) -> MutexGuard<'_, Kept<K>> {
    kept.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The fields of a definition that has no id.
fn unnamed(definition: &Value) -> Option<Map<String, Value>> {
    let fields = definition.as_object()?;
    let has_id = fields.get("id").is_some_and(|id| !id.is_null());
    (!has_id).then(|| fields.clone())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// Many small definitions, and few large ones.
    #[test]
    fn plans_are_bounded_by_count_and_by_bytes() {
        let definition = json!({ "id": "w", "nodes": [] });
        let workflow = workflow_from_json(&definition, None).expect("valid");
        let plan = Arc::new(Plan::new(Arc::new(workflow), &Registry::empty()));
        let check = |bytes: usize, count: usize, expect: usize| {
            let mut kept = Kept::default();
            for key in 0..count {
                kept.insert(key, &plan, bytes);
            }
            assert_eq!(kept.plans.len(), expect);
            assert!(kept.bytes <= PLANS_BYTES_MAX);
        };
        check(1, PLANS_MAX, PLANS_MAX);
        check(1, PLANS_MAX + 1, 1);
        check(PLANS_BYTES_MAX / 4, 4, 4);
        check(PLANS_BYTES_MAX / 4, 5, 1);
        check(PLANS_BYTES_MAX, 2, 1);
        check(PLANS_BYTES_MAX + 1, 2, 0);
    }
}
