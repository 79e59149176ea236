//! What a step needs that is not at hand, and its input.

use std::sync::Arc;

use leveret_core::{
    decide::Ready,
    expr::{Budget, EvalError},
    graph::NodeIx,
    json::Json,
    workflow::{InputRef, Inputs},
};

use super::{Drive, DriveError};
use crate::{
    runtime::{
        execute::{input_of, transformed},
        wire::BadJob,
    },
    store::{Load, Loaded, NodeRef, NodeValue, StepStatus},
};

impl Drive<'_> {
    /// What executing `ready` needs that is not at hand.
    pub(super) fn wanted(&self, ready: Ready, first: bool) -> Load {
        let needs = self.plan.needs(ready.node);
        let source = ready
            .via
            .map(|edge| self.plan.workflow.graph.edge(edge).source);
        let own = first.then_some(ready.node);
        let nodes = self.with_fallbacks(needs.nodes.iter().copied().chain(source).chain(own));
        let handed_run_input = ready.via.is_none();
        Load {
            input: (needs.run_input || handed_run_input) && self.known.run_input.is_none(),
            nodes,
            context: needs
                .context
                .iter()
                .filter(|key| !self.known.has_context(key))
                .cloned()
                .collect(),
            ..Load::default()
        }
    }

    pub(super) fn node_ref(&self, node: NodeIx) -> NodeRef {
        NodeRef::new(&self.plan.workflow, node)
    }

    /// Those of the nodes that are not at hand, with the fallbacks that may stand in for them.
    fn with_fallbacks(&self, nodes: impl IntoIterator<Item = NodeIx>) -> Vec<NodeRef> {
        let mut all: Vec<NodeIx> = nodes
            .into_iter()
            .flat_map(|node| std::iter::successors(Some(node), |&node| self.stand_in(node)))
            .filter(|&node| self.known.node(node).is_none())
            .collect();
        all.sort_unstable();
        all.dedup();
        all.into_iter().map(|node| self.node_ref(node)).collect()
    }

    /// The fallback whose result may stand for the node's.
    fn stand_in(&self, node: NodeIx) -> Option<NodeIx> {
        match self.known.node(node) {
            Some(value) if value.status != StepStatus::Failed => None,
            _ => self.plan.fallback(node),
        }
    }

    pub(super) async fn fetch(&mut self, ready: Ready) -> Result<(), DriveError> {
        let load = self.wanted(ready, false);
        self.fetch_load(load).await
    }

    pub(super) async fn fetch_nodes(
        &mut self,
        nodes: impl IntoIterator<Item = NodeIx>,
        input: bool,
    ) -> Result<(), DriveError> {
        let nodes = self.with_fallbacks(nodes);
        let load = Load {
            input: input && self.known.run_input.is_none(),
            nodes,
            ..Load::default()
        };
        self.fetch_load(load).await
    }

    async fn fetch_load(&mut self, load: Load) -> Result<(), DriveError> {
        if load.is_empty() {
            return Ok(());
        }
        let loaded = self.inner.load(&self.run_id, load.clone()).await?;
        let loaded = loaded.ok_or_else(|| BadJob::UnknownRun(self.run_id.clone()))?;
        self.learn(&load, &loaded);
        Ok(())
    }

    pub(super) fn learn(&mut self, load: &Load, loaded: &Loaded) {
        if let Some(input) = &loaded.input {
            self.known.run_input = Some(input.clone());
        }
        let own = load.step.as_ref().map(|(node, _)| node);
        for (node, value) in load.nodes.iter().zip(&loaded.nodes) {
            // What is final stays so; anything else may change while this run goes on elsewhere.
            let stays =
                |value: &&NodeValue| value.status != StepStatus::Waiting || own == Some(node);
            if let Some(value) = value.as_ref().filter(stays) {
                self.known.set_node(node.ix, value.clone());
            }
        }
        for (key, value) in load.context.iter().zip(&loaded.context) {
            self.known.set_context(key.clone(), value.clone());
        }
    }

    /// Fetches the context keys that stand for nodes which a node names as its input and which left no output.
    async fn fetch_absent(&mut self, node: NodeIx) -> Result<(), DriveError> {
        let (plan, known) = (&*self.plan, &self.known);
        let key = |input: &InputRef| match input {
            InputRef::Named { ix } if known.output(plan, *ix).is_none() => {
                Some(Arc::from(plan.node_id(*ix).as_str()))
            }
            _ => None,
        };
        let mut keys: Vec<Arc<str>> = match &plan.workflow.nodes[node].inputs {
            Inputs::Handed => return Ok(()),
            Inputs::One(input) => key(input).into_iter().collect(),
            Inputs::Map(inputs) => inputs.iter().filter_map(|(_, input)| key(input)).collect(),
        };
        if keys.is_empty() {
            return Ok(());
        }
        keys.sort_unstable();
        keys.dedup();
        keys.retain(|key| !known.has_context(key));
        let load = Load {
            input: known.run_input.is_none(),
            context: keys,
            ..Load::default()
        };
        self.fetch_load(load).await
    }

    /// The input of a step: what its `inputs` name, else what came over its edge, else the run's input. A fallback's is that of the step
    /// that failed.
    pub(super) async fn input(
        &mut self,
        ready: Ready,
    ) -> Result<Result<Json, EvalError>, DriveError> {
        let (mut node, mut via) = (ready.node, ready.via);
        while let Some(edge) = via.filter(|&edge| !self.plan.workflow.graph.is_flow(edge)) {
            node = self.plan.workflow.graph.edge(edge).source;
            if let Some(input) = self.known.input_of(node) {
                return Ok(Ok(input.clone()));
            }
            self.fetch_nodes([node], true).await?;
            via = self.known.node(node).and_then(|value| value.via);
            self.fetch(Ready { node, via }).await?;
        }
        self.fetch_absent(node).await?;
        let (plan, secrets, budget) = (&*self.plan, &*self.inner.secrets, &Budget::new());
        let handed = match via {
            None => self.known.run_input.clone().unwrap_or_default(),
            Some(edge) => {
                let source = plan.workflow.graph.edge(edge).source;
                let output = self.known.output(plan, source).cloned().unwrap_or_default();
                match transformed(
                    plan,
                    &self.known,
                    secrets,
                    &self.run_id,
                    edge,
                    &output,
                    budget,
                ) {
                    Ok(None) => output,
                    Ok(Some(handed)) => return Ok(Ok(handed)),
                    Err(error) => return Ok(Err(error)),
                }
            }
        };
        Ok(input_of(
            plan,
            &self.known,
            secrets,
            &self.run_id,
            node,
            &handed,
            budget,
        ))
    }
}
