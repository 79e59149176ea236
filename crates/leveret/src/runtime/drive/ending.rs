//! The end of a run: its cancellation, its completion message, and telling those who wait.

use leveret_core::{
    graph::{NodeIx, Place},
    json::Json,
    time::Timestamp,
};
use serde_json::{Map, Value};

use super::{Drive, DriveError};
use crate::{
    runtime::{
        hub::Ended,
        wire::{BadJob, Completion},
    },
    store::{Load, RunEnd, RunStatus},
};

/// How many outputs a completion loads with one call.
pub(super) const TERMINALS_AT_ONCE: usize = 16;

impl Drive<'_> {
    /// Ends the run as cancelled, unless the client did so already, and tells of it. An end before that was told by whoever made it, which for
    /// another cancellation is its own job.
    pub(super) async fn cancel(&mut self, asked_at: Option<Timestamp>) -> Result<(), DriveError> {
        let Some(run) = self.inner.load(&self.run_id, Load::default()).await? else {
            return Err(BadJob::UnknownRun(self.run_id.clone()).into());
        };
        self.expect_definition(&run.workflow_hash)?;
        let at = asked_at.unwrap_or_else(|| self.inner.clock.now());
        match self.inner.cancel(&self.run_id, at).await? {
            None => Err(BadJob::UnknownRun(self.run_id.clone()).into()),
            Some((end, true)) => self.end(&end).await,
            Some((end, false)) => {
                let told = asked_at.is_some_and(|at| at != end.ended_at);
                if self.inner.publish.completion && end.status == RunStatus::Cancelled && !told {
                    self.publish_completion(&end).await?;
                }
                Ok(())
            }
        }
    }

    /// Tells of an end that is recorded: the completion message, and whoever waits here.
    pub(super) async fn end(&mut self, end: &RunEnd) -> Result<(), DriveError> {
        let trail = std::mem::take(&mut self.trail);
        let workflow_id = &self.plan.workflow.id;
        self.inner.metrics.run_ended(workflow_id, end);
        if end.status == RunStatus::Failed {
            let (run_id, workflow_id) = (self.run_id.as_str(), workflow_id.as_str());
            let error = end.error.as_ref();
            let node_id = error.map_or("", |error| error.node_id.as_str());
            let error = error.map_or("", |error| &error.message);
            tracing::warn!(
                target: "leveret::failures",
                run_id, workflow_id, node_id, error, "run {run_id} of '{workflow_id}' failed"
            );
        }
        if self.inner.publish.completion {
            self.publish_completion(end).await?;
        }
        self.inner.hub.ended(&self.run_id, || Ended {
            end: end.clone(),
            trail: trail.whole(),
        });
        Ok(())
    }

    /// The run ended before; its completion may or may not have been published: publish it again, under the same message id.
    pub(super) async fn repeat_completion(&mut self) -> Result<(), DriveError> {
        if !self.inner.publish.completion {
            return Ok(());
        }
        let Some(run) = self.inner.run(&self.run_id).await? else {
            return Ok(());
        };
        let Some(ended_at) = run.ended_at else {
            return Ok(());
        };
        let end = RunEnd {
            status: run.status,
            error: run.error,
            created_at: run.created_at,
            ended_at,
        };
        self.publish_completion(&end).await
    }

    async fn publish_completion(&mut self, end: &RunEnd) -> Result<(), DriveError> {
        let bytes_max = self.inner.options.message_bytes_max;
        let outputs = self.terminal_outputs(bytes_max).await?;
        let completion = |outputs| {
            let final_context = Json::from(Value::Object(outputs));
            Completion::new(&self.plan.workflow.id, &self.run_id, end, final_context)
        };
        let names = &self.inner.names;
        let whole = outputs.map(|outputs| names.completion(&completion(outputs)));
        let publication = whole
            .filter(|whole| whole.message.body.len() <= bytes_max)
            .unwrap_or_else(|| names.completion(&completion(Map::new()).without_context()));
        self.publications.push(publication);
        self.tells_end = true;
        Ok(())
    }

    /// The outputs of the terminal nodes, for the completion; `None` if they have more than so many bytes. They are loaded a few at a time: no more
    /// than it takes to see that.
    async fn terminal_outputs(
        &mut self,
        bytes_max: usize,
    ) -> Result<Option<Map<String, Value>>, DriveError> {
        let plan = self.plan.clone();
        let terminals: Vec<NodeIx> = plan.workflow.graph.terminals().collect();
        let (mut outputs, mut bytes) = (Map::new(), 0);
        for some in terminals.chunks(TERMINALS_AT_ONCE) {
            self.fetch_steps(some.iter().copied().map(Place::root), false)
                .await?;
            for &node in some {
                if let Some(output) = self.known.output(&plan, &Place::root(node)) {
                    bytes += output.text().len();
                    if bytes > bytes_max {
                        return Ok(None);
                    }
                    let name = format!("${}", plan.node_id(node));
                    outputs.insert(name, output.value().clone());
                }
            }
        }
        Ok(Some(outputs))
    }
}
