//! Batches: what a scatter says of its items, which nodes are executed for each, and the worker that stands for them where there are none.

use std::{collections::HashMap, sync::Arc};

use serde_json::{Map, Value};

use super::{NodeField, Reader, text_of};
use crate::{
    expr::Names,
    graph::{BatchShape, NESTED_MAX, NodeIx, OnError, Role},
    ids::NodeId,
    parse::{
        diagnostics::Problem,
        fields::{Checked, Field},
    },
    template::Template,
    workflow::{BATCH_SCATTER, Edge, ITEMS_MAX, Inputs, Join, Node, NodeConfig, role_of},
};

/// What the id of the node is made of that is executed for each item where there is none between scatter and gather: the scatter's, and this.
const WORKER: &str = ".worker";

/// The `workerUsesKey` of a scatter.
pub(super) struct Worker {
    scatter: NodeIx,
    gather: NodeIx,
    uses: Arc<str>,
}

/// What stands in the place of a `workerUsesKey`.
#[derive(Default)]
pub(super) struct Workers {
    pub(super) nodes: Vec<Node>,
    /// By worker, its scatter.
    pub(super) scatters: Vec<NodeIx>,
    /// The edges from workers to gathers, and from scatters without an edge to workers.
    pub(super) edges: Vec<Edge>,
    /// By edge, the scatter.
    pub(super) edges_of: Vec<NodeIx>,
}

impl Reader<'_, '_, '_> {
    /// What a scatter says of its items.
    pub(super) fn batch(&mut self, ix: NodeIx, node: &Field<'_>) -> Checked<Option<BatchShape>> {
        if text_of(node, "uses") != BATCH_SCATTER {
            return Ok(None);
        }
        self.scatters.insert(ix);
        let Some(params) = node.get("params") else {
            return Err(node.tell_missing(self.report, "a batch", "params"));
        };
        params.object(self.report, "`params`")?;
        let gather = if let Some(gather) = params.get("gatherNodeId") {
            self.node_named(&gather, "`gatherNodeId`", "unknown-gather")
        } else {
            let what = "the parameters of a batch";
            Err(params.tell_missing(self.report, what, "gatherNodeId"))
        };
        let worker = self.worker(&params);
        let concurrency = self.items(&params, "concurrency");
        let chunk = self.items(&params, "chunkSize");
        let on_error = self.on_error(&params);
        let batch = BatchShape {
            gather: gather?,
            on_error: on_error?,
            concurrency: concurrency?,
            chunk: chunk?,
        };
        if let Some(uses) = worker? {
            self.workers.push(Worker {
                scatter: ix,
                gather: batch.gather,
                uses,
            });
        }
        Ok(Some(batch))
    }

    /// The node type that is executed for each item.
    fn worker(&mut self, params: &Field<'_>) -> Checked<Option<Arc<str>>> {
        let Some(uses) = self.optional_text(params, "workerUsesKey")? else {
            return Ok(None);
        };
        let field = params.get("workerUsesKey").expect("it was read");
        if role_of(&uses) != Role::Plain {
            let message = format!("`{uses}` cannot be a worker");
            return Err(field.tell(self.report, Problem::error("bad-batch", message)));
        }
        if let Some(catalog) = self.catalog {
            self.known_type(&field, &uses)?;
            let problems = catalog.check_params(&uses, &Value::Object(Map::new()));
            if let Some(problem) = problems.into_iter().next() {
                let message = format!("`{uses}` cannot be a worker: {}", problem.message);
                let problem = Problem::error("bad-batch", message)
                    .help("put a node between scatter and gather: a worker has no parameters");
                return Err(field.tell(self.report, problem));
            }
        }
        Ok(Some(uses))
    }

    fn items(&mut self, params: &Field<'_>, key: &str) -> Checked<Option<u64>> {
        let Some(field) = params.get(key) else {
            return Ok(None);
        };
        match field.value.as_u64() {
            Some(items) if (1..=ITEMS_MAX as u64).contains(&items) => Ok(Some(items)),
            _ => {
                let message = format!("`{key}` must be a whole number from 1 to {ITEMS_MAX}");
                Err(field.tell(self.report, Problem::error("out-of-range", message)))
            }
        }
    }

    fn on_error(&mut self, params: &Field<'_>) -> Checked<OnError> {
        let Some(field) = params.get("on_error") else {
            return Ok(OnError::default());
        };
        match field.value.as_str() {
            Some("fail") => Ok(OnError::Fail),
            Some("skip") => Ok(OnError::Skip),
            Some("collect") => Ok(OnError::Collect),
            _ => {
                let message = "`on_error` must be `fail`, `skip` or `collect`";
                Err(field.tell(self.report, Problem::error("bad-value", message)))
            }
        }
    }

    /// Puts workers between scatters and gathers; `edges` are those of the definition, with their ends, as far as they were read.
    pub(super) fn put_workers(
        &mut self,
        node_fields: &[NodeField<'_>],
        nodes: &[Node],
        edges: &mut [Edge],
        ends: &mut [Option<(NodeIx, NodeIx)>],
    ) -> Workers {
        let mut put = Workers::default();
        for Worker {
            scatter,
            gather,
            uses,
        } in std::mem::take(&mut self.workers)
        {
            let field = &node_fields[scatter].1;
            let mut outgoing = (0..ends.len())
                .filter(|&edge| ends[edge].is_some_and(|(source, _)| source == scatter));
            let first = outgoing.next();
            let is_past = |edge: usize| ends[edge].is_some_and(|(_, target)| target != gather);
            if first.is_some_and(is_past) || outgoing.next().is_some() {
                let message = format!(
                    "`workerUsesKey` is for a batch in which one edge leads from `{}` to its gather",
                    nodes.get(scatter).map_or("", |node| node.id.as_str())
                );
                let problem = Problem::error("bad-batch", message)
                    .help("leave it out where nodes are between them");
                self.tell_of_worker(field, problem);
                continue;
            }
            // What is wrong elsewhere was told.
            let Some(node) = nodes.get(scatter) else {
                continue;
            };
            let id = NodeId::new(format!("{}{WORKER}", node.id));
            let ix = node_fields.len() + put.nodes.len();
            let id = match id {
                Ok(id) if !self.index.contains_key(&id) => id,
                _ => {
                    let message = format!(
                        "the worker of the batch `{0}` has the id `{0}{WORKER}`, which is taken, or too long",
                        node.id
                    );
                    self.tell_of_worker(field, Problem::error("duplicate-id", message));
                    continue;
                }
            };
            self.index.insert(id.clone(), ix);
            put.nodes.push(self.worker_node(id, uses, &node.config));
            put.scatters.push(scatter);
            let mut edge = |source, target| {
                put.edges.push(Edge {
                    source,
                    target,
                    on_failure: false,
                    action: None,
                    condition: None,
                    transform: None,
                });
                put.edges_of.push(scatter);
            };
            match first {
                Some(first) => {
                    ends[first] = Some((scatter, ix));
                    if let Some(edge) = edges.get_mut(first) {
                        edge.target = ix;
                    }
                }
                None => edge(scatter, ix),
            }
            edge(ix, gather);
        }
        put
    }

    fn tell_of_worker(&mut self, node: &Field<'_>, problem: Problem) {
        let params = node.get("params");
        let worker = params.as_ref().and_then(|of| of.get("workerUsesKey"));
        worker.as_ref().unwrap_or(node).tell(self.report, problem);
    }

    /// It is executed as its scatter says.
    fn worker_node(&self, id: NodeId, uses: Arc<str>, config: &NodeConfig) -> Node {
        let names = Names {
            per_item: true,
            ..self.names(false)
        };
        let params = Template::compile_all(&Value::Object(Map::new()), &names);
        Node {
            id,
            uses,
            name: None,
            params: params.expect("there is no expression in it"),
            each: None,
            inputs: Inputs::Handed,
            config: NodeConfig {
                fallback: None,
                join: Join::All,
                ..config.clone()
            },
            batch: None,
        }
    }

    /// Tells what edges out of scatters, and inputs of gathers, cannot have.
    pub(super) fn check_batches(
        &mut self,
        node_fields: &[NodeField<'_>],
        edge_fields: &[Field<'_>],
        ends: &[Option<(NodeIx, NodeIx)>],
    ) {
        let role = |ix: NodeIx| role_of(text_of(&node_fields[ix].1, "uses"));
        for (field, ends) in edge_fields.iter().zip(ends) {
            let from_scatter = ends.filter(|(source, _)| role(*source) == Role::Scatter);
            let Some((_, target)) = from_scatter else {
                continue;
            };
            let to_worker = target >= node_fields.len();
            for key in ["on", "action", "condition", "transform"] {
                if let Some(field) = field.get(key)
                    && (key != "transform" || to_worker)
                {
                    let message = format!("an edge from a `{BATCH_SCATTER}` has no `{key}` here");
                    let problem = Problem::error("bad-batch", message).help(
                        "every item takes it; `item` is known on the edges behind the first node",
                    );
                    field.tell(self.report, problem);
                }
            }
        }
        for (ix, (_, field)) in node_fields.iter().enumerate() {
            if role(ix) == Role::Gather
                && let Some(inputs) = field.get("inputs")
            {
                let message = "a gather has no `inputs`: its input is what its items hand over";
                inputs.tell(self.report, Problem::error("bad-batch", message));
            }
        }
    }
}

/// Which nodes are executed for items of batches. Works on what is written: what is wrong with it is told elsewhere.
pub(super) fn members(
    nodes: &[NodeField<'_>],
    edges: &[Field<'_>],
    index: &HashMap<NodeId, usize>,
) -> Vec<bool> {
    let mut is_member = vec![false; nodes.len()];
    let named = |of: &Field<'_>, key: &str| index.get(text_of(of, key)).copied();
    let scatters: Vec<NodeIx> = (0..nodes.len())
        .filter(|&ix| text_of(&nodes[ix].1, "uses") == BATCH_SCATTER)
        .collect();
    if scatters.is_empty() {
        return is_member;
    }
    let mut next: Vec<Vec<NodeIx>> = vec![Vec::new(); nodes.len()];
    for edge in edges {
        if let (Some(source), Some(target)) = (named(edge, "source"), named(edge, "target")) {
            next[source].push(target);
        }
    }
    for (ix, (_, node)) in nodes.iter().enumerate() {
        let config = node.get("config");
        next[ix].extend(config.and_then(|config| named(&config, "fallback")));
    }
    let mut budget = NESTED_MAX * (nodes.len() + edges.len());
    for scatter in scatters {
        let params = nodes[scatter].1.get("params");
        let gather = params.and_then(|params| named(&params, "gatherNodeId"));
        let mut seen = std::collections::HashSet::from([scatter]);
        let mut open = next[scatter].clone();
        while let Some(node) = open.pop() {
            if Some(node) == gather || !seen.insert(node) {
                continue;
            }
            is_member[node] = true;
            let Some(left) = budget.checked_sub(1 + next[node].len()) else {
                return is_member;
            };
            budget = left;
            open.extend(&next[node]);
        }
    }
    is_member
}
