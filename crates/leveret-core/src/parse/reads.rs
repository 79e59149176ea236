//! Outputs that are read where they may not be there yet: no path leads from their node to the reader.
//!
//! A path is one of edges and fallbacks, where a fallback takes the place of its node, as in [`super::check`].

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use serde_json::Value;

use super::{
    diagnostics::{Problem, Report},
    fields::Field,
    read::NodeField,
};
use crate::{
    expr::References,
    ids::NodeId,
    workflow::{Edge, InputRef, Inputs, Node},
};

/// The most steps of all searches together. What a definition has beyond that is not looked at.
const STEPS_MAX: usize = 2_000_000;

/// Warns of outputs and errors that are read where no path leads from their node.
pub(super) fn warn(
    nodes: &[Node],
    edges: &[Edge],
    node_fields: &[NodeField<'_>],
    edge_fields: &[Field<'_>],
    index: &HashMap<NodeId, usize>,
    report: &mut Report<'_>,
) {
    let mut search = Search::new(nodes, edges);
    for (ix, node) in nodes.iter().enumerate() {
        let field = &node_fields[ix].1;
        let params = named(&node.references(), index);
        let inputs = inputs(&node.inputs, index);
        let all = params.union(&inputs).copied().collect();
        // A node does not read itself, but in a loop that of the pass before: the search begins before it.
        let early = search.missing(start(ix), Some(ix), all);
        for (key, read) in [("params", params), ("inputs", inputs)] {
            for from in early.intersection(&read) {
                tell(field, key, &nodes[*from], node.id.as_str(), report);
            }
        }
    }
    for (edge, field) in edges.iter().zip(edge_fields) {
        for (key, expression) in [
            ("condition", &edge.condition),
            ("transform", &edge.transform),
        ] {
            let Some(expression) = expression else {
                continue;
            };
            let read = named(expression.references(), index);
            for from in search.missing(end(edge.source), None, read) {
                let source = nodes[edge.source].id.as_str();
                tell(field, key, &nodes[from], source, report);
            }
        }
    }
}

fn tell(of: &Field<'_>, key: &str, from: &Node, reader: &str, report: &mut Report<'_>) {
    let from = from.id.as_str();
    let problem = if from == reader {
        let message = format!("`{from}` reads its own output, which is not there yet");
        Problem::warning("read-too-early", message)
    } else {
        let message = format!(
            "nothing leads from `{from}` to `{reader}`, so that what it gives may not be there"
        );
        let help = format!("let an edge or a path of edges lead from `{from}`");
        Problem::warning("read-too-early", message).help(help)
    };
    let field = of.get(key);
    let field = field.as_ref().unwrap_or(of);
    let mut path = Vec::new();
    find(field.value, from, &mut path);
    field.tell_within(report, &path, None, problem);
}

/// Makes `path` lead to the first text that names a node; leaves it empty when there is none.
fn find(value: &Value, name: &str, path: &mut Vec<String>) -> bool {
    let mut within = |key: String, value: &Value| {
        path.push(key);
        let is_found = find(value, name, path);
        if !is_found {
            path.pop();
        }
        is_found
    };
    match value {
        Value::String(text) => text.contains(name),
        Value::Array(elements) => {
            let mut keyed = elements.iter().enumerate();
            keyed.any(|(at, element)| within(at.to_string(), element))
        }
        Value::Object(entries) => entries
            .iter()
            .any(|(key, value)| within(key.clone(), value)),
        _ => false,
    }
}

/// The nodes that are read.
fn named(references: &References, index: &HashMap<NodeId, usize>) -> BTreeSet<usize> {
    let names = references.nodes.iter().chain(&references.node_errors);
    names
        .filter_map(|name: &Arc<str>| index.get(&**name).copied())
        .collect()
}

fn inputs(inputs: &Inputs, index: &HashMap<NodeId, usize>) -> BTreeSet<usize> {
    let of_one = |input: &InputRef| match input {
        InputRef::Node { ix, .. } | InputRef::Named { ix } | InputRef::Handed { ix } => {
            BTreeSet::from([*ix])
        }
        InputRef::Context { .. } => BTreeSet::new(),
        InputRef::Expression(expression) => named(expression.references(), index),
    };
    match inputs {
        Inputs::Handed => BTreeSet::new(),
        Inputs::One(input) => of_one(input),
        Inputs::Map(entries) => entries
            .iter()
            .flat_map(|(_, input)| of_one(input))
            .collect(),
    }
}

fn start(ix: usize) -> usize {
    2 * ix
}

fn end(ix: usize) -> usize {
    2 * ix + 1
}

/// Searches against the direction of edges.
struct Search {
    /// The vertices that lead to each one.
    before: Vec<Vec<usize>>,
    /// The number of the search that was last at each vertex.
    seen: Vec<usize>,
    searches: usize,
    steps_left: usize,
}

impl Search {
    fn new(nodes: &[Node], edges: &[Edge]) -> Search {
        let mut before = vec![Vec::new(); 2 * nodes.len()];
        for edge in edges {
            before[start(edge.target)].push(end(edge.source));
        }
        for (ix, node) in nodes.iter().enumerate() {
            before[end(ix)].push(start(ix));
            if let Some(fallback) = node.config.fallback {
                before[start(fallback)].push(start(ix));
                before[end(ix)].push(end(fallback));
            }
        }
        Search {
            seen: vec![0; before.len()],
            before,
            searches: 0,
            steps_left: STEPS_MAX,
        }
    }

    /// Those of the wanted nodes that no path leads from to a vertex, of which that one is none if it is where a reader starts; none when the search
    /// would take too long.
    fn missing(
        &mut self,
        vertex: usize,
        reader: Option<usize>,
        mut wanted: BTreeSet<usize>,
    ) -> BTreeSet<usize> {
        self.searches += 1;
        let mut found = vec![vertex];
        let mut begins_before = reader.is_some();
        while let Some(vertex) = found.pop().filter(|_| !wanted.is_empty()) {
            if !std::mem::take(&mut begins_before) {
                wanted.remove(&(vertex / 2));
            }
            for before in &self.before[vertex] {
                if self.steps_left == 0 {
                    return BTreeSet::new();
                }
                self.steps_left -= 1;
                if std::mem::replace(&mut self.seen[*before], self.searches) != self.searches {
                    found.push(*before);
                }
            }
        }
        wanted
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;

    use crate::parse::{Source, check_workflow};

    /// Nodes one a line, and edges `A>B`, or `A>B:CONDITION`.
    fn warnings(nodes: &str, edges: &str) -> Vec<String> {
        let mut text = String::from("id: w\nnodes:\n");
        for node in nodes.lines() {
            writeln!(text, "  - {{uses: x, {node}}}").unwrap();
        }
        text.push_str("edges:\n");
        for edge in edges.split_whitespace() {
            let (ends, condition) = edge.split_once(':').unwrap_or((edge, "true"));
            let (source, target) = ends.split_once('>').unwrap();
            writeln!(
                text,
                "  - {{source: {source}, target: {target}, condition: '{condition}'}}"
            )
            .unwrap();
        }
        let name = "w.yaml";
        let (workflow, problems) = check_workflow(&Source { name, text: &text }, None);
        assert!(workflow.is_some(), "{problems}");
        let line =
            |problem: &super::super::Diagnostic| format!("{}: {}", problem.path, problem.message);
        problems.0.iter().map(line).collect()
    }

    const EARLY: &str = "nothing leads from `j` to `n`, so that what it gives may not be there";

    #[test]
    fn what_no_path_leads_to_is_told() {
        let check = |nodes: &str, edges: &str, path: &str| {
            let expect = [format!("{path}: {EARLY}")];
            assert_eq!(warnings(nodes, edges), expect, "{nodes}");
        };
        check(
            "id: j\nid: n, params: {a: [1, '{{ nodes.j.output }}']}",
            "",
            "nodes[1].params.a[1]",
        );
        check("id: j\nid: n, inputs: j.x", "", "nodes[1].inputs");
        check(
            "id: j\nid: n, inputs: {k: '{{ j }}'}",
            "n>j",
            "nodes[1].inputs.k",
        );
        check(
            "id: n\nid: j\nid: z",
            "n>z:nodes.j.output",
            "edges[0].condition",
        );
        check(
            "id: s\nid: j\nid: n, inputs: j",
            "s>j s>n",
            "nodes[2].inputs",
        );
        let own = warnings("id: n, params: {a: '{{ nodes.n.output }}'}", "");
        assert_eq!(
            own,
            ["nodes[0].params.a: `n` reads its own output, which is not there yet"]
        );
    }

    #[test]
    fn what_a_path_leads_to_is_silent() {
        let check = |nodes: &str, edges: &str| {
            assert_eq!(warnings(nodes, edges), [""; 0], "{nodes}");
        };
        check("id: j\nid: m\nid: n, inputs: j", "j>m m>n");
        check("id: j\nid: z", "j>z:nodes.j.output");
        // A fallback runs after the predecessors of its node, and reads that one's error.
        check(
            "id: j\nid: g, config: {fallback: f}\nid: f, inputs: j, params: {a: '{{ nodes.g.error }}'}",
            "j>g",
        );
        // It takes the place of its node, so that what comes after that one comes after it.
        check(
            "id: g, config: {fallback: f}\nid: f\nid: h\nid: n, inputs: {a: f, b: h}",
            "f>h g>n h>n",
        );
        check(
            "id: g, config: {fallback: f}\nid: f\nid: n, inputs: f",
            "g>n:nodes.f.output",
        );
    }

    /// However many nodes read from far away.
    #[test]
    fn work_is_bounded() {
        let mut nodes = String::from("id: n0");
        let mut edges = String::new();
        for ix in 1..5000 {
            write!(nodes, "\nid: n{ix}, inputs: n0").unwrap();
            write!(edges, "n{}>n{ix} ", ix - 1).unwrap();
        }
        assert_eq!(warnings(&nodes, &edges), [""; 0]);
    }
}
