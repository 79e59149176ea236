//! What a step needs that is not at hand, and its input.

use std::{collections::BTreeSet, sync::Arc};

use leveret_core::{
    decide::Ready,
    expr::{Budget, EvalError},
    graph::{EdgeIx, NodeIx, Place},
    ids::Scope,
    json::Json,
    workflow::{InputRef, Inputs},
};

use super::{Drive, DriveError};
use crate::{
    runtime::{
        execute::{Reads, reader_of},
        known::Known,
        plan::Plan,
        wire::BadJob,
    },
    store::{Load, Loaded, NodeRef, NodeValue, StepStatus, Wanted},
};

impl Drive<'_> {
    /// What executing `ready` needs that is not at hand.
    pub(super) fn wanted(&self, ready: &Ready, first: bool) -> Load {
        let Ready { place, via } = ready;
        let needs = self.plan.needs(place.node);
        let mut wanting = Wanting::new(self);
        for &node in &needs.nodes {
            wanting.named(node, place);
        }
        if needs.item {
            wanting.item(place);
        }
        if let Some(edge) = *via {
            let graph = &self.plan.workflow.graph;
            let (node, scope) = (graph.edge(edge).source, graph.source_scope(edge, place));
            let reader = reader_of(&self.plan, edge, &scope);
            for &node in &needs.handed {
                wanting.named(node, &reader);
            }
            if needs.item_handed {
                wanting.item(&reader);
            }
            wanting.exactly(&Place { node, scope });
        }
        if first {
            wanting.exactly(place);
        }
        Load {
            input: (needs.run_input || via.is_none() && !self.is_gather(place))
                && self.known.run_input.is_none(),
            nodes: wanting.end(),
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

    pub(super) async fn fetch(&mut self, ready: &Ready) -> Result<(), DriveError> {
        let load = self.wanted(ready, false);
        self.fetch_load(load).await
    }

    pub(super) async fn fetch_steps(
        &mut self,
        places: impl IntoIterator<Item = Place>,
        input: bool,
    ) -> Result<(), DriveError> {
        let mut wanting = Wanting::new(self);
        for place in places {
            wanting.exactly(&place);
        }
        let nodes = wanting.end();
        let load = Load {
            input: input && self.known.run_input.is_none(),
            nodes,
            ..Load::default()
        };
        self.fetch_load(load).await
    }

    pub(super) async fn fetch_load(&mut self, load: Load) -> Result<(), DriveError> {
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
        let own = |wanted: &Wanted| {
            let step = load.step.as_ref();
            step.is_some_and(|(node, scope)| {
                *node == wanted.node && wanted.scope.as_ref() == Some(scope)
            })
        };
        for (wanted, value) in load.nodes.iter().zip(&loaded.nodes) {
            // What is final stays so; anything else may change while this run goes on elsewhere.
            let stays = |value: &&NodeValue| value.status != StepStatus::Waiting || own(wanted);
            let Some(value) = value.as_ref().filter(stays) else {
                continue;
            };
            self.known.set_node(wanted.node.ix, value.clone());
            if let Some(within) = &wanted.latest
                && wanted.scope.as_ref() != Some(&value.scope)
            {
                let scope = value.scope.clone();
                self.known.set_latest(wanted.node.ix, within.clone(), scope);
            }
        }
        for (key, value) in load.context.iter().zip(&loaded.context) {
            self.known.set_context(key.clone(), value.clone());
        }
    }

    /// Fetches the context keys that stand for nodes which a step names as its input and which left no output.
    async fn fetch_absent(&mut self, place: &Place) -> Result<(), DriveError> {
        let (plan, known) = (&*self.plan, &self.known);
        let key = |input: &InputRef| match input {
            InputRef::Named { ix } if known.output_of(plan, *ix, place).is_none() => {
                Some(Arc::from(plan.node_id(*ix).as_str()))
            }
            _ => None,
        };
        let mut keys: Vec<Arc<str>> = match &plan.workflow.nodes[place.node].inputs {
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
        step: &Ready,
    ) -> Result<Result<Json, EvalError>, DriveError> {
        let Ready { mut place, mut via } = step.clone();
        while let Some(edge) = via.filter(|&edge| !self.plan.workflow.graph.is_flow(edge)) {
            place.node = self.plan.workflow.graph.edge(edge).source;
            if let Some(input) = self.known.input_of(&place) {
                return Ok(Ok(input.clone()));
            }
            self.fetch_steps([place.clone()], true).await?;
            via = self.known.node(&place).and_then(|value| value.via);
            let failed = Ready {
                place: place.clone(),
                via,
            };
            self.fetch(&failed).await?;
        }
        self.fetch_absent(&place).await?;
        let reads = Reads {
            plan: &self.plan,
            known: &self.known,
            secrets: &*self.inner.secrets,
            run_id: &self.run_id,
            budget: &Budget::new(),
        };
        let handed = match via {
            None => self.known.run_input.clone().unwrap_or_default(),
            Some(edge) => {
                let output = reads.output_over(edge, &place);
                match reads.transformed(edge, &place, &output) {
                    Ok(None) => output,
                    Ok(Some(handed)) => return Ok(Ok(handed)),
                    Err(error) => return Ok(Err(error)),
                }
            }
        };
        Ok(reads.input_of(&place, &handed))
    }
}

/// Steps that are not at hand, each once, with the fallbacks that may stand in for them.
pub(super) struct Wanting<'a> {
    plan: &'a Plan,
    known: &'a Known,
    wanted: BTreeSet<(NodeIx, Option<Scope>, Option<Scope>)>,
}

impl<'a> Wanting<'a> {
    fn new(drive: &'a Drive<'_>) -> Wanting<'a> {
        Wanting {
            plan: &drive.plan,
            known: &drive.known,
            wanted: BTreeSet::new(),
        }
    }

    fn exactly(&mut self, place: &Place) {
        let mut place = place.clone();
        loop {
            match self.known.node(&place) {
                Some(value) if value.status != StepStatus::Failed => return,
                Some(_) => {}
                None => {
                    self.wanted
                        .insert((place.node, Some(place.scope.clone()), None));
                }
            }
            match self.plan.fallback(place.node) {
                Some(fallback) => place.node = fallback,
                None => return,
            }
        }
    }

    /// What handing over an edge to each of these takes.
    pub(super) fn handed<'p>(
        drive: &'a Drive<'_>,
        targets: impl IntoIterator<Item = (&'p Place, EdgeIx)>,
    ) -> Load {
        let (plan, graph) = (&drive.plan, &drive.plan.workflow.graph);
        let mut wanting = Wanting::new(drive);
        let mut transforms = false;
        let mut context = BTreeSet::new();
        for (target, edge) in targets {
            let scope = graph.source_scope(edge, target);
            let node = graph.edge(edge).source;
            if plan.workflow.edges[edge].transform.is_some() {
                transforms = true;
                let needs = plan.needs(target.node);
                let reader = reader_of(plan, edge, &scope);
                for &node in &needs.handed {
                    wanting.named(node, &reader);
                }
                if needs.item_handed {
                    wanting.item(&reader);
                }
                let unknown = |key: &&Arc<str>| !drive.known.has_context(key);
                context.extend(needs.context.iter().filter(unknown).cloned());
            }
            wanting.exactly(&Place { node, scope });
        }
        Load {
            context: context.into_iter().collect(),
            nodes: wanting.end(),
            input: transforms && drive.known.run_input.is_none(),
            ..Load::default()
        }
    }

    /// The item that a reader sees.
    fn item(&mut self, reader: &Place) {
        if let Some((place, _)) = self.plan.workflow.graph.item_of(reader) {
            self.exactly(&place);
        }
    }

    /// The step that a node's name means to a reader.
    fn named(&mut self, node: NodeIx, reader: &Place) {
        let (exact, latest) = self.plan.workflow.graph.meant(node, reader);
        if exact.is_none() && latest.is_none() {
            return;
        }
        if let (Some(scope), None) = (&exact, &latest) {
            let scope = scope.clone();
            return self.exactly(&Place { node, scope });
        }
        let meant = self.known.meant(self.plan, node, reader);
        let is_known = |place: &Place| {
            let value = self.known.node(place);
            value.is_some_and(|value| value.status.has_ended())
        };
        if let Some(place) = meant.filter(is_known) {
            self.exactly(&place);
            return;
        }
        let fallbacks = std::iter::successors(Some(node), |&node| self.plan.fallback(node));
        let all = fallbacks.map(|node| (node, exact.clone(), latest.clone()));
        self.wanted.extend(all);
    }

    fn end(self) -> Vec<Wanted> {
        let wanted = self.wanted.into_iter();
        let wanted = wanted.map(|(node, scope, latest)| Wanted {
            node: NodeRef::new(&self.plan.workflow, node),
            scope,
            latest,
        });
        wanted.collect()
    }
}
