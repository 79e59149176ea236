//! Values to a workflow: the fields of a definition, checked one by one.

mod batch;
mod config;
mod edge;
mod node;

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    sync::Arc,
};

use serde_json::{Map, Value};

use super::{
    DEPTH_MAX, EDGES_MAX, NODES_MAX, NodeCatalog, SECRETS_MAX,
    check::{self, Shape},
    diagnostics::{Problem, Report},
    fields::{Checked, Field, Told},
    keys,
    place::Places,
    reads,
};
use crate::{
    expr::{Names, NodeIds},
    graph::Role,
    ids::{ID_BYTES_MAX, IdError, NodeId, WorkflowId},
    json::Json,
    suggest,
    workflow::{BATCH_SCATTER, Workflow, WorkflowHash, graph_of, named, role_of},
};

/// Reads a definition. Tells every problem; `None` when it cannot be a workflow.
pub(super) fn workflow(
    value: &Value,
    places: &Places,
    catalog: Option<&dyn NodeCatalog>,
    report: &mut Report<'_>,
) -> Option<Workflow> {
    let root = Field::root(value, places);
    if is_deeper_than(value, DEPTH_MAX) {
        let message = format!("values are nested deeper than {DEPTH_MAX} levels");
        root.tell(report, Problem::error("too-deep", message));
        return None;
    }
    let object = root.object(report, "a workflow").ok()?;
    root.warn_of_unknown(report, object, &keys::WORKFLOW);
    let id = workflow_id(&root, report);
    let metadata = root.get("metadata");
    if let Some(metadata) = metadata {
        // What is wrong was told; there is no more to read in it.
        let _ = metadata.object(report, "`metadata`");
    }
    let secret_list = root.get("secrets");
    let secrets = secret_list.as_ref().map(|list| secrets(list, report));
    let secrets = secrets.transpose().ok()?.unwrap_or_default();
    let node_list = root.get("nodes");
    let edge_list = root.get("edges");
    let node_fields = node_list.as_ref().map(|list| node_fields(list, report));
    let edge_fields = edge_list.as_ref().map(|list| edge_fields(list, report));
    if !object.contains_key("nodes") {
        root.tell_missing(report, "a workflow", "nodes");
    }
    let node_fields = node_fields.transpose().ok()?.unwrap_or_default();
    let edge_fields = edge_fields.transpose().ok()?.unwrap_or_default();
    let mut reader = Reader {
        report,
        catalog,
        node_types: None,
        secrets: &secrets,
        index: HashMap::with_capacity(node_fields.len()),
        ids: NodeIds::with_capacity(node_fields.len()),
        fallback_of: HashMap::new(),
        ends: None,
        in_batch: Vec::new(),
        per_item: false,
        scatters: HashSet::new(),
        workers: Vec::new(),
    };
    let ids = reader.ids(&node_fields);
    reader.in_batch = batch::members(&node_fields, &edge_fields, &reader.index);
    let mut nodes: Vec<_> = ids
        .into_iter()
        .enumerate()
        .filter_map(|(ix, id)| reader.node(ix, id, &node_fields[ix].1).ok())
        .collect();
    let mut ends = Vec::with_capacity(edge_fields.len());
    let mut edges = Vec::with_capacity(edge_fields.len());
    for field in &edge_fields {
        edges.extend(reader.edge(field).ok());
        ends.push(reader.ends.take());
    }
    let workers = reader.put_workers(&node_fields, &nodes, &mut edges, &mut ends);
    reader.check_batches(&node_fields, &edge_fields, &ends);
    // What stands in the place of a worker is told of where its scatter is.
    let (of_definition, edges_of_definition) = (&node_fields, &edge_fields);
    let (mut node_fields, mut edge_fields) = (node_fields.clone(), edge_fields.clone());
    let scatter = |ix: &usize| of_definition[*ix].1;
    node_fields.extend(workers.scatters.iter().map(|ix| (None, scatter(ix))));
    edge_fields.extend(workers.edges_of.iter().map(scatter));
    nodes.extend(workers.nodes);
    ends.extend(
        workers
            .edges
            .iter()
            .map(|edge| Some((edge.source, edge.target))),
    );
    edges.extend(workers.edges);
    let (index, fallback_of) = (reader.index, reader.fallback_of);
    let is_written = |ix: usize| ix < of_definition.len();
    let shape = Shape {
        actions: edge_fields
            .iter()
            .map(|field| text_of(field, "action"))
            .collect(),
        roles: (0..node_fields.len())
            .map(|ix| {
                if is_written(ix) {
                    role_of(text_of(&node_fields[ix].1, "uses"))
                } else {
                    Role::Plain
                }
            })
            .collect(),
        gathers: (0..node_fields.len())
            .map(|ix| gather_of(&node_fields[ix].1, &index).filter(|_| is_written(ix)))
            .collect(),
        ..shape(node_fields.len(), &index, &fallback_of, ends)
    };
    check::graph(&shape, &node_fields, &edge_fields, report);
    if report.has_errors() {
        return None;
    }
    assert_eq!(
        nodes.len(),
        node_fields.len(),
        "a node is left out with an error only"
    );
    assert_eq!(
        edges.len(),
        edge_fields.len(),
        "an edge is left out with an error only"
    );
    if let Some(catalog) = catalog {
        check::actions(&nodes, &edges, &node_fields, &edge_fields, catalog, report);
    }
    let id = id.ok().filter(|_| !report.has_errors())?;
    reads::warn(&nodes, &edges, &node_fields, &edge_fields, &index, report);
    let metadata = metadata.map(|metadata| metadata.value);
    let definition = definition(&id, metadata, &secrets, of_definition, edges_of_definition);
    let named = named(&nodes, &edges, &index);
    Some(Workflow {
        named,
        id,
        hash: WorkflowHash::of(definition.text()),
        graph: graph_of(&nodes, &edges),
        metadata: metadata.map_or_else(Json::null, |metadata| Json::from(metadata.clone())),
        nodes,
        edges,
        definition,
        index,
    })
}

/// A node's field, and its id when the nodes are a map.
pub(super) type NodeField<'a> = (Option<&'a str>, Field<'a>);

/// What is known while nodes and edges are read.
struct Reader<'r, 's, 'c> {
    report: &'r mut Report<'s>,
    catalog: Option<&'c dyn NodeCatalog>,
    /// The names of the catalog, asked for at the first unknown one.
    node_types: Option<Vec<String>>,
    /// Those that the workflow declares.
    secrets: &'c BTreeSet<Arc<str>>,
    index: HashMap<NodeId, usize>,
    ids: NodeIds,
    /// By a fallback's index, the index of the node that it stands in for.
    fallback_of: HashMap<usize, usize>,
    /// The source and the target of the edge that was read last, if both could be.
    ends: Option<(usize, usize)>,
    /// By node, whether it is executed for the items of a batch.
    in_batch: Vec<bool>,
    /// Whether what is read is.
    per_item: bool,
    scatters: HashSet<usize>,
    workers: Vec<batch::Worker>,
}

impl Reader<'_, '_, '_> {
    /// What may be named in a parameter that is evaluated for each item.
    fn names_per_item(&self) -> Names<'_> {
        Names {
            per_item: true,
            ..self.names(false)
        }
    }

    fn names(&self, on_edge: bool) -> Names<'_> {
        Names {
            node_ids: &self.ids,
            on_edge,
            per_item: self.per_item,
            secrets: Some(self.secrets),
        }
    }

    /// Reads the ids of all nodes, which every other field may refer to.
    fn ids(&mut self, fields: &[NodeField<'_>]) -> Vec<Checked<NodeId>> {
        let mut ids = Vec::with_capacity(fields.len());
        for (ix, (key, field)) in fields.iter().enumerate() {
            let id = self.node_id(*key, field);
            if let Ok(id) = &id {
                self.ids.insert(Arc::from(id.as_str()));
                if self.index.insert(id.clone(), ix).is_some() {
                    let message = format!("there are two nodes `{id}`");
                    let problem = Problem::error("duplicate-id", message);
                    // Where an alias stands, the node's fields stand elsewhere.
                    let id = field.get("id").filter(|id| !id.is_before(field));
                    id.as_ref().unwrap_or(field).tell(self.report, problem);
                }
            }
            ids.push(id);
        }
        ids
    }

    fn node_id(&mut self, key: Option<&str>, field: &Field<'_>) -> Checked<NodeId> {
        field.object(self.report, "a node")?;
        let id = field.get("id");
        let text = id.map(|id| id.text(self.report, "the id of a node"));
        let text = text.transpose()?;
        if let (Some(key), Some(text), Some(id)) = (key, text, id)
            && key != text
        {
            let message = format!("the node `{key}` has another id, `{text}`, and goes by that");
            id.tell(self.report, Problem::warning("other-id", message));
        }
        let Some(text) = text.or(key) else {
            return Err(field.tell_missing(self.report, "a node", "id"));
        };
        let at = id.as_ref().unwrap_or(field);
        NodeId::new(text).map_err(|error| at.tell(self.report, bad_id(&error)))
    }

    /// The index of the node that a field names, or a problem with `code`.
    fn node_named(&mut self, field: &Field<'_>, what: &str, code: &'static str) -> Checked<usize> {
        let name = field.text(self.report, what)?;
        if let Some(ix) = self.index.get(name) {
            return Ok(*ix);
        }
        if self.report.is_full() {
            return Err(Told);
        }
        let near = suggest::nearest(name, self.ids.iter().map(|id| &**id));
        let problem = Problem::error(code, format!("there is no node `{name}`"));
        Err(field.tell(self.report, problem.did_you_mean(near)))
    }
}

/// The graph as far as it was read.
fn shape<'a>(
    count: usize,
    index: &'a HashMap<NodeId, usize>,
    fallback_of: &HashMap<usize, usize>,
    edges: Vec<Option<(usize, usize)>>,
) -> Shape<'a> {
    let mut names = vec![""; count];
    for (id, ix) in index {
        names[*ix] = id.as_str();
    }
    let mut fallbacks = vec![None; count];
    for (fallback, ix) in fallback_of {
        fallbacks[*ix] = Some(*fallback);
    }
    Shape {
        names,
        fallbacks,
        edges,
        actions: Vec::new(),
        roles: Vec::new(),
        gathers: Vec::new(),
    }
}

/// The gather that a scatter names.
fn gather_of(node: &Field<'_>, index: &HashMap<NodeId, usize>) -> Option<usize> {
    let is_scatter = text_of(node, "uses") == BATCH_SCATTER;
    let params = node.value.get("params").filter(|_| is_scatter)?;
    index.get(params.get("gatherNodeId")?.as_str()?).copied()
}

/// A field that is text; empty for any other.
fn text_of<'a>(of: &Field<'a>, key: &str) -> &'a str {
    of.value.get(key).and_then(Value::as_str).unwrap_or("")
}

fn bad_id(error: &IdError) -> Problem {
    Problem::error("bad-id", format!("the {error}")).help(format!(
        "an id has 1 to {ID_BYTES_MAX} bytes and no control characters"
    ))
}

fn workflow_id(root: &Field<'_>, report: &mut Report<'_>) -> Checked<WorkflowId> {
    let Some(field) = root.get("id") else {
        return Err(root.tell_missing(report, "a workflow", "id"));
    };
    let text = field.text(report, "the id of a workflow")?;
    WorkflowId::new(text).map_err(|error| field.tell(report, bad_id(&error)))
}

/// The names of the secrets that a workflow declares.
fn secrets(list: &Field<'_>, report: &mut Report<'_>) -> Checked<BTreeSet<Arc<str>>> {
    let Value::Array(names) = list.value else {
        return Err(list.wrong_type(report, "`secrets`", "a list of names"));
    };
    let fields = list.elements(names);
    let fields = bounded(fields, SECRETS_MAX, "secrets", list, report)?;
    let mut declared = BTreeSet::new();
    for field in &fields {
        let name = field.text(report, "the name of a secret")?;
        if name.is_empty() || name.len() > ID_BYTES_MAX || name.chars().any(char::is_control) {
            let message = format!(
                "the name of a secret has 1 to {ID_BYTES_MAX} bytes and no control characters"
            );
            return Err(field.tell(report, Problem::error("bad-secret", message)));
        }
        declared.insert(Arc::from(name));
    }
    Ok(declared)
}

/// The nodes of a list, or of a map from id to node.
fn node_fields<'a>(list: &'a Field<'a>, report: &mut Report<'_>) -> Checked<Vec<NodeField<'a>>> {
    let fields: Vec<NodeField<'a>> = match list.value {
        Value::Array(nodes) => {
            let elements = list.elements(nodes).into_iter();
            elements.map(|field| (None, field)).collect()
        }
        Value::Object(nodes) => {
            let entries = list.entries(nodes).into_iter();
            entries.map(|(key, field)| (Some(key), field)).collect()
        }
        _ => return Err(list.wrong_type(report, "`nodes`", "a list, or an object by id")),
    };
    bounded(fields, NODES_MAX, "nodes", list, report)
}

fn edge_fields<'a>(list: &'a Field<'a>, report: &mut Report<'_>) -> Checked<Vec<Field<'a>>> {
    let fields = match list.value {
        Value::Array(edges) => list.elements(edges),
        Value::Object(edges) => {
            let entries = list.entries(edges).into_iter();
            entries.map(|(_, field)| field).collect()
        }
        _ => return Err(list.wrong_type(report, "`edges`", "a list")),
    };
    bounded(fields, EDGES_MAX, "edges", list, report)
}

fn bounded<T>(
    fields: Vec<T>,
    most: usize,
    what: &str,
    list: &Field<'_>,
    report: &mut Report<'_>,
) -> Checked<Vec<T>> {
    let count = fields.len();
    if count <= most {
        return Ok(fields);
    }
    let message = format!("a workflow has at most {most} {what}, not {count}");
    Err(list.tell(report, Problem::error("too-large", message)))
}

fn is_deeper_than(value: &Value, levels: usize) -> bool {
    let Some(below) = levels.checked_sub(1) else {
        return value.is_array() || value.is_object();
    };
    match value {
        Value::Array(elements) => elements
            .iter()
            .any(|element| is_deeper_than(element, below)),
        Value::Object(entries) => entries.values().any(|value| is_deeper_than(value, below)),
        _ => false,
    }
}

/// The canonical definition: known fields that are not null, keys sorted, nodes and edges as lists.
fn definition(
    id: &WorkflowId,
    metadata: Option<&Value>,
    secrets: &BTreeSet<Arc<str>>,
    nodes: &[NodeField<'_>],
    edges: &[Field<'_>],
) -> Json {
    let node = |(key, field): &NodeField<'_>| node::canonical(*key, field.value);
    let edge = |field: &Field<'_>| Value::Object(keep(field.value, keys::EDGE.known));
    let mut definition = Map::new();
    definition.insert("id".to_owned(), Value::from(id.as_str()));
    definition.insert("nodes".to_owned(), nodes.iter().map(node).collect());
    definition.insert("edges".to_owned(), edges.iter().map(edge).collect());
    if let Some(metadata) = metadata {
        definition.insert("metadata".to_owned(), metadata.clone());
    }
    if !secrets.is_empty() {
        let names = secrets.iter().map(|name| Value::from(&**name));
        definition.insert("secrets".to_owned(), names.collect());
    }
    let mut definition = Value::Object(definition);
    // Maps are sorted already, unless somebody turned the feature `preserve_order` of `serde_json` on.
    definition.sort_all_objects();
    Json::from(definition)
}

/// The known fields of an object that are not null.
fn keep(value: &Value, known: &[&str]) -> Map<String, Value> {
    let kept = known.iter().filter_map(|key| {
        let value = value.get(*key).filter(|value| !value.is_null())?;
        Some(((*key).to_owned(), value.clone()))
    });
    kept.collect()
}
