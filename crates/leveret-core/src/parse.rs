//! Definitions in, workflows out: YAML and JSON, with every problem of a file at once and each at its place.
//!
//! A flowcraft blueprint is a definition as it stands: fields that Leveret does not know (positions, styles, source
//! locations) are dropped. A field that is probably meant to do something, such as a misspelling of a known one or what
//! another tool calls it, is a warning; on an edge and in `config`, every unknown field is, but for those of editors.
//! Nodes are a list, or a map from id to node. YAML anchors, aliases and merge keys work, within [`EXPANDED_MAX`].
//!
//! Reading takes time linear in the size of the definition, and no input makes it panic.

mod check;
mod diagnostics;
mod document;
mod fields;
mod json_text;
mod keys;
mod place;
mod read;
mod reads;
mod settings;
mod yaml_text;

use serde_json::Value;

use self::{diagnostics::Report, place::Places};
pub use self::{
    diagnostics::{DIAGNOSTICS_MAX, Diagnostic, Diagnostics, Severity},
    settings::{Setting, parse_settings},
};
use crate::{ids::WorkflowId, workflow::Workflow};

/// The longest text of a definition, in bytes.
pub const TEXT_BYTES_MAX: usize = 4 * 1024 * 1024;
/// The most nodes.
pub const NODES_MAX: usize = 100_000;
/// The most edges.
pub const EDGES_MAX: usize = 500_000;

/// The most secrets that a workflow declares.
pub const SECRETS_MAX: usize = 1000;
/// The deepest nesting of a definition.
pub const DEPTH_MAX: usize = 128;
/// What the anchors and aliases of a YAML file may add to it: values, and pieces of text of 16 bytes.
pub const EXPANDED_MAX: usize = 1_000_000;

/// A definition as text.
#[derive(Clone, Copy, Debug)]
pub struct Source<'a> {
    /// The name of the file, for messages. A name that ends in `.json` makes it strict JSON.
    pub name: &'a str,
    /// Its text: YAML or JSON.
    pub text: &'a str,
}

/// The node types that exist, where that is known.
pub trait NodeCatalog {
    /// Whether there is such a node type.
    fn contains(&self, uses: &str) -> bool;
    /// The names of all node types, for "did you mean".
    fn names(&self) -> Vec<String>;
    /// All that is wrong with the parameters of a node as they are written, expressions not evaluated.
    fn check_params(&self, uses: &str, params: &Value) -> Vec<ParamProblem>;
    /// The actions that a node with these parameters can give, where they are known beforehand.
    fn actions(&self, _uses: &str, _params: &Value) -> Option<Vec<String>> {
        None
    }
    /// The secrets that a node with these parameters reads beside those of its expressions: the parameter that names each, and the name.
    fn secrets(&self, _uses: &str, _params: &Value) -> Vec<(&'static str, String)> {
        Vec::new()
    }
}

/// What a node type has against its parameters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParamProblem {
    /// Where in the parameters: keys and positions from the outside inwards.
    pub path: Vec<String>,
    /// What is wrong.
    pub message: String,
}

/// Parses a definition. Fails with all its problems; warnings alone do not fail and are not told, see
/// [`check_workflow`].
pub fn parse_workflow(
    source: &Source<'_>,
    catalog: Option<&dyn NodeCatalog>,
) -> Result<Workflow, Diagnostics> {
    let (workflow, diagnostics) = check_workflow(source, catalog);
    workflow.ok_or(diagnostics)
}

/// Parses a definition and tells warnings too. There is a workflow exactly when there is no error.
pub fn check_workflow(
    source: &Source<'_>,
    catalog: Option<&dyn NodeCatalog>,
) -> (Option<Workflow>, Diagnostics) {
    read_text(source, None, catalog)
}

/// As [`check_workflow`], for a definition whose name is known from elsewhere, such as a path: one without an `id` gets
/// this one, and one with another keeps it, which is the caller's to refuse.
pub fn check_workflow_named(
    source: &Source<'_>,
    id: &WorkflowId,
    catalog: Option<&dyn NodeCatalog>,
) -> (Option<Workflow>, Diagnostics) {
    read_text(source, Some(id), catalog)
}

fn read_text(
    source: &Source<'_>,
    name: Option<&WorkflowId>,
    catalog: Option<&dyn NodeCatalog>,
) -> (Option<Workflow>, Diagnostics) {
    let mut report = Report::for_text(source);
    let workflow = document::read(source, &mut report).and_then(|(mut value, places)| {
        if let (Some(name), Value::Object(fields)) = (name, &mut value) {
            let id = fields.entry("id").or_insert(Value::Null);
            if id.is_null() {
                *id = Value::from(name.as_str());
            }
        }
        read::workflow(&value, &places, catalog, &mut report)
    });
    report.finish(workflow)
}

/// Takes a definition that is JSON already, such as one received or stored. Problems have paths, as in
/// `nodes[2].config.fallback`, and neither line nor column.
pub fn workflow_from_json(
    value: &Value,
    catalog: Option<&dyn NodeCatalog>,
) -> Result<Workflow, Diagnostics> {
    let mut report = Report::for_value();
    let workflow = read::workflow(value, &Places::none(), catalog, &mut report);
    let (workflow, diagnostics) = report.finish(workflow);
    workflow.ok_or(diagnostics)
}

#[cfg(test)]
mod tests;

#[cfg(test)]
mod named_tests {
    use super::*;

    /// A definition without an id takes the given name; one with an id keeps its own.
    #[test]
    fn fills_in_an_absent_id_only() {
        let check = |text: &str, expect: &str| {
            let source = Source {
                name: "w.yaml",
                text,
            };
            let id = WorkflowId::new("given").unwrap();
            let (workflow, diagnostics) = check_workflow_named(&source, &id, None);
            let workflow = workflow.unwrap_or_else(|| panic!("{diagnostics}"));
            assert_eq!(workflow.id.as_str(), expect);
        };
        check("nodes: [{id: a, uses: set}]", "given");
        check(
            "{\"id\": null, \"nodes\": [{\"id\": \"a\", \"uses\": \"set\"}]}",
            "given",
        );
        check("id: own\nnodes: [{id: a, uses: set}]", "own");
    }
}
