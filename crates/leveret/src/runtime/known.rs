//! What a worker has at hand of a run while it executes it: inputs, outputs, context. Never the whole run.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use leveret_core::{
    expr::Values,
    graph::{NodeIx, Place},
    ids::Scope,
    json::Json,
};
use serde_json::Value;

use super::{Secrets, plan::Plan};
use crate::store::{NodeValue, StepStatus};

/// More than this many bytes are not kept from one commit to the next: what is needed is loaded again.
const BYTES_MAX: usize = 8 << 20;

/// Values of one run, as far as they were needed.
#[derive(Default)]
pub(crate) struct Known {
    pub(crate) run_input: Option<Json>,
    nodes: BTreeMap<Place, KnownNode>,
    /// By node and scope, the scope of the latest step within.
    latest: BTreeMap<(NodeIx, Scope), Scope>,
    /// Of nodes that have a fallback.
    inputs: BTreeMap<Place, Json>,
    context: HashMap<Arc<str>, Option<Json>>,
    /// About how large outputs, inputs and context are.
    bytes: usize,
}

struct KnownNode {
    value: NodeValue,
    error: Option<Value>,
}

/// About how large a value is.
fn bytes_of(value: &Json) -> usize {
    value.text().len()
}

impl Known {
    /// What a step left behind, if that is known.
    pub(crate) fn node(&self, place: &Place) -> Option<&NodeValue> {
        self.nodes.get(place).map(|known| &known.value)
    }

    /// The step that a node's name means to a reader, as far as it is known.
    pub(crate) fn meant(&self, plan: &Plan, node: NodeIx, reader: &Place) -> Option<Place> {
        let (exact, latest) = plan.workflow.graph.meant(node, reader);
        let exact = exact.map(|scope| Place { node, scope });
        let Some(within) = latest else { return exact };
        let has_ended = |place: &Place| {
            let value = self.node(place);
            value.is_some_and(|value| value.status.has_ended())
        };
        if exact.as_ref().is_some_and(has_ended) {
            return exact;
        }
        let latest = self.latest.get(&(node, within));
        latest
            .map(|scope| Place {
                node,
                scope: scope.clone(),
            })
            .or(exact)
    }

    /// The step in `scope` is the latest of a node.
    pub(crate) fn set_latest(&mut self, node: NodeIx, within: Scope, scope: Scope) {
        self.latest.insert((node, within), scope);
    }

    pub(crate) fn set_node(&mut self, node: NodeIx, value: NodeValue) {
        let error = value
            .error
            .as_ref()
            .and_then(|error| serde_json::to_value(error).ok());
        self.bytes += bytes_of(&value.output);
        let scope = value.scope.clone();
        let known = KnownNode { value, error };
        if let Some(before) = self.nodes.insert(Place { node, scope }, known) {
            self.bytes -= bytes_of(&before.value.output);
        }
    }

    /// What is known of the run at its beginning: its input.
    pub(crate) fn aside(&self) -> Known {
        Known {
            run_input: self.run_input.clone(),
            ..Known::default()
        }
    }

    /// Forgets everything but the run's input.
    pub(crate) fn forget_steps(&mut self) {
        *self = Known {
            run_input: self.run_input.take(),
            ..Known::default()
        };
    }

    /// Forgets the run's context, and which steps are the latest: others may have set them anew.
    pub(crate) fn forget_what_changes(&mut self) {
        self.latest.clear();
        let forgotten = self.context.drain().filter_map(|(_, value)| value);
        self.bytes -= forgotten.map(|value| bytes_of(&value)).sum::<usize>();
    }

    /// Whether so much is held that it is to be recorded, and [trimmed](Self::trim), before more is executed.
    pub(crate) fn is_full(&self) -> bool {
        self.bytes > BYTES_MAX
    }

    /// Makes room, if much is held, once everything held is recorded: what the store does not have yet could not be loaded again.
    pub(crate) fn trim(&mut self, keep: &Place) {
        if self.is_full() {
            self.nodes.retain(|place, _| place == keep);
            self.inputs.retain(|place, _| place == keep);
            self.latest.clear();
            self.context.clear();
            let outputs = self.nodes.values().map(|kept| &kept.value.output);
            self.bytes = outputs.chain(self.inputs.values()).map(bytes_of).sum();
        }
    }

    pub(crate) fn input_of(&self, place: &Place) -> Option<&Json> {
        self.inputs.get(place)
    }

    pub(crate) fn set_input(&mut self, place: Place, input: Json) {
        self.bytes += bytes_of(&input);
        if let Some(before) = self.inputs.insert(place, input) {
            self.bytes -= bytes_of(&before);
        }
    }

    pub(crate) fn has_context(&self, key: &str) -> bool {
        self.context.contains_key(key)
    }

    pub(crate) fn set_context(&mut self, key: Arc<str>, value: Option<Json>) {
        self.bytes += value.as_ref().map_or(0, bytes_of);
        if let Some(Some(before)) = self.context.insert(key, value) {
            self.bytes -= bytes_of(&before);
        }
    }

    /// The output that stands for a step's: its own, or that of the fallback which took over.
    pub(crate) fn output(&self, plan: &Plan, place: &Place) -> Option<&Json> {
        let mut value = self.node(place)?;
        let mut node = place.node;
        loop {
            match value.status {
                StepStatus::Completed => return Some(&value.output),
                StepStatus::Failed => node = plan.fallback(node)?,
                _ => return None,
            }
            let scope = place.scope.clone();
            value = self.node(&Place { node, scope })?;
        }
    }

    /// The error that stands for a step's: its own, or that of the fallback which took over and failed, too.
    pub(crate) fn failure(&self, plan: &Plan, place: &Place) -> Option<&Value> {
        let of = |node: NodeIx| {
            let scope = place.scope.clone();
            let known = self.nodes.get(&Place { node, scope })?;
            let has_failed = known.value.status == StepStatus::Failed;
            known.error.as_ref().filter(|_| has_failed)
        };
        let nodes = std::iter::successors(Some(place.node), |&node| plan.fallback(node));
        nodes.map_while(of).last()
    }

    /// The output of the step that a node's name means to a reader.
    pub(crate) fn output_of(&self, plan: &Plan, node: NodeIx, reader: &Place) -> Option<&Json> {
        self.output(plan, &self.meant(plan, node, reader)?)
    }

    /// A context key that was set by a node.
    pub(crate) fn context_set(&self, key: &str) -> Option<&Json> {
        self.context.get(key)?.as_ref()
    }

    /// A context key: set by a node, else a key of the run's input.
    pub(crate) fn context_value(&self, key: &str) -> Option<&Value> {
        match self.context.get(key) {
            Some(Some(value)) => Some(value.value()),
            _ => self.run_input.as_ref()?.value().get(key),
        }
    }
}

/// Known values as expressions see them.
pub(crate) struct View<'a> {
    pub(crate) plan: &'a Plan,
    pub(crate) known: &'a Known,
    pub(crate) secrets: &'a dyn Secrets,
    /// Where names are read.
    pub(crate) reader: &'a Place,
    /// A result that is not recorded yet, and the nodes for which it stands.
    pub(crate) fresh: Option<Fresh<'a>>,
}

/// The result of the step at hand, which is where names are read.
#[derive(Clone, Copy)]
pub(crate) struct Fresh<'a> {
    pub(crate) node: NodeIx,
    pub(crate) output: &'a Json,
    pub(crate) context: &'a [(Arc<str>, Json)],
}

impl Values for View<'_> {
    fn node_output(&self, id: &str) -> Option<&Value> {
        let node = self.plan.workflow.node_ix(id)?;
        if let Some(fresh) = self.fresh {
            let graph = &self.plan.workflow.graph;
            let mut stands_for =
                std::iter::successors(Some(fresh.node), |&node| graph.guards(node));
            if stands_for.any(|stood_for| stood_for == node) {
                return Some(fresh.output.value());
            }
        }
        let output = self.known.output_of(self.plan, node, self.reader);
        output.map(Json::value)
    }

    fn node_error(&self, id: &str) -> Option<&Value> {
        let node = self.plan.workflow.node_ix(id)?;
        let place = self.known.meant(self.plan, node, self.reader)?;
        self.known.nodes.get(&place)?.error.as_ref()
    }

    fn context(&self, key: &str) -> Option<&Value> {
        let fresh = self
            .fresh
            .and_then(|fresh| fresh.context.iter().rev().find(|(name, _)| **name == *key));
        match fresh {
            Some((_, value)) => Some(value.value()),
            None => self.known.context_value(key),
        }
    }

    fn secret(&self, name: &str) -> Option<String> {
        self.secrets.secret(name)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn value(output: Json) -> NodeValue {
        NodeValue {
            scope: Scope::root(),
            status: StepStatus::Completed,
            output,
            action: None,
            error: None,
            via: None,
        }
    }

    /// Whatever it is that has grown large, and however often it is set.
    #[test]
    fn outputs_inputs_and_context_count_together() {
        let third = Json::from(json!("x".repeat(BYTES_MAX / 3)));
        let mut known = Known::default();
        for _ in 0..2 {
            known.set_node(0, value(third.clone()));
            known.set_input(Place::root(0), third.clone());
            known.set_context("k".into(), Some(Json::null()));
        }
        assert!(!known.is_full());
        known.trim(&Place::root(1));
        assert!(known.node(&Place::root(0)).is_some(), "there is room");
        known.set_context("k".into(), Some(third.clone()));
        assert!(known.is_full());
        known.forget_what_changes();
        assert!(!known.is_full());
        known.set_node(1, value(third.clone()));
        known.set_node(1, value(third.clone()));
        assert!(known.is_full());
        known.trim(&Place::root(1));
        assert!(known.node(&Place::root(1)).is_some());
        let first = Place::root(0);
        assert!(known.node(&first).is_none() && known.input_of(&first).is_none());
        assert_eq!(known.bytes, third.text().len());
    }
}
