//! A workflow as a Mermaid flowchart.

use std::fmt::{self, Write};

use crate::workflow::{Edge, Join, Node, Workflow};

/// The longest part of a label, in characters.
const LABEL_CHARS_MAX: usize = 80;

/// Draws a workflow as a Mermaid `flowchart TD`.
///
/// A node shows its name (else its id) and its type, and `any` when it waits for one predecessor only; an edge shows
/// whether it is for failures, its action, condition and transform, and `each` where it leads to what is executed for each item of a batch; a dotted
/// arrow leads to a fallback. Labels hold any text.
pub fn mermaid(workflow: &Workflow) -> String {
    let mut chart = String::from("flowchart TD\n");
    draw(workflow, &mut chart).expect("writing to a string does not fail");
    chart
}

fn draw(workflow: &Workflow, chart: &mut String) -> fmt::Result {
    let mut incoming = vec![0_usize; workflow.nodes.len()];
    for edge in &workflow.edges {
        incoming[edge.target] += 1;
    }
    for (ix, node) in workflow.nodes.iter().enumerate() {
        writeln!(
            chart,
            "    n{ix}[\"{}\"]",
            node_label(node, incoming[ix] > 1)
        )?;
    }
    for edge in &workflow.edges {
        let Edge { source, target, .. } = edge;
        match edge_label(edge, workflow.nodes[*source].batch.is_some()) {
            None => writeln!(chart, "    n{source} --> n{target}")?,
            Some(label) => writeln!(chart, "    n{source} -->|\"{label}\"| n{target}")?,
        }
    }
    for (ix, node) in workflow.nodes.iter().enumerate() {
        if let Some(fallback) = node.config.fallback {
            writeln!(chart, "    n{ix} -.->|\"fallback\"| n{fallback}")?;
        }
    }
    Ok(())
}

fn node_label(node: &Node, is_join: bool) -> String {
    let name = node.name.as_deref().unwrap_or(node.id.as_str());
    let mut label = format!("{}<br/>{}", escape(name), escape(&node.uses));
    if is_join {
        label.push_str(match node.config.join {
            Join::All => "<br/>join: all",
            Join::Any => "<br/>join: any",
        });
    }
    label
}

fn edge_label(edge: &Edge, is_each: bool) -> Option<String> {
    let action = edge.action.as_deref().map(escape);
    let condition = edge.condition.as_ref().map(|of| escape(of.source()));
    let transform = edge.transform.as_ref().map(|of| escape(of.source()));
    let parts = [
        is_each.then(|| "each".to_owned()),
        edge.on_failure.then(|| "on failure".to_owned()),
        action,
        condition.map(|condition| format!("if {condition}")),
        transform.map(|transform| format!("= {transform}")),
    ];
    let parts: Vec<String> = parts.into_iter().flatten().collect();
    (!parts.is_empty()).then(|| parts.join(" | "))
}

/// Text within a quoted label: what Mermaid or HTML would read otherwise becomes an entity code.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for (at, c) in text.chars().enumerate() {
        if at == LABEL_CHARS_MAX {
            escaped.push('…');
            break;
        }
        match c {
            '"' | '#' | '&' | '<' | '>' | '`' | '|' | '\\' | ';' | '[' | ']' | '{' | '}' => {
                write!(escaped, "#{};", u32::from(c)).expect("writing to a string does not fail");
            }
            c if c.is_control() => escaped.push(' '),
            c => escaped.push(c),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use insta::assert_snapshot;
    use serde_json::json;

    use super::*;
    use crate::parse::workflow_from_json;

    #[test]
    fn draws_nodes_edges_and_fallbacks() {
        // Labels hold quotes and brackets, which must not end them.
        let workflow = workflow_from_json(
            &json!({
                "id": "w",
                "nodes": [
                    { "id": "a", "uses": "http", "config": { "fallback": "f" } },
                    { "id": "b-1", "uses": "log", "name": "Say \"hi\" [now]" },
                    { "id": "f", "uses": "log" },
                    { "id": "j", "uses": "log", "config": { "joinStrategy": "any" } },
                ],
                "edges": [
                    { "source": "a", "target": "b-1", "action": "ok",
                      "condition": "result.output.n > 3 || input == \"x\"", "transform": "input * 2" },
                    { "source": "a", "target": "j" },
                    { "source": "b-1", "target": "j" },
                    { "source": "b-1", "target": "j", "on": "failure" },
                ],
            }),
            None,
        )
        .unwrap();
        assert_snapshot!(mermaid(&workflow), @r#"
        flowchart TD
            n0["a<br/>http"]
            n1["Say #34;hi#34; #91;now#93;<br/>log"]
            n2["f<br/>log"]
            n3["j<br/>log<br/>join: any"]
            n0 -->|"ok | if result.output.n #62; 3 #124;#124; input == #34;x#34; | = input * 2"| n1
            n0 --> n3
            n1 --> n3
            n1 -->|"on failure"| n3
            n0 -.->|"fallback"| n2
        "#);
    }

    /// The worker of a batch without nodes between stands there as a node.
    #[test]
    fn draws_batches() {
        let workflow = workflow_from_json(
            &json!({
                "id": "w",
                "nodes": [
                    { "id": "s", "uses": "batch-scatter", "params": { "gatherNodeId": "g" } },
                    { "id": "t", "uses": "batch-scatter", "params": { "gatherNodeId": "h", "workerUsesKey": "double" } },
                    { "id": "h", "uses": "batch-gather" },
                    { "id": "g", "uses": "batch-gather" },
                ],
                "edges": [
                    { "source": "s", "target": "t", "transform": "[item]" },
                    { "source": "t", "target": "h" },
                    { "source": "h", "target": "g" },
                ],
            }),
            None,
        )
        .unwrap();
        assert_snapshot!(mermaid(&workflow), @r#"
        flowchart TD
            n0["s<br/>batch-scatter"]
            n1["t<br/>batch-scatter"]
            n2["h<br/>batch-gather"]
            n3["g<br/>batch-gather"]
            n4["t.worker<br/>double"]
            n0 -->|"each | = #91;item#93;"| n1
            n1 -->|"each"| n4
            n2 --> n3
            n4 --> n2
        "#);
    }
}
