//! Batches: items are begun by jobs of their first steps, and gathered from their own rows, some at once either way.

use leveret_core::{
    decide::{JoinPoint, JoinState, Mark, Ready},
    expr::{Budget, EvalError},
    graph::{EdgeIx, NodeIx, OnError, Place, Role},
    ids::Scope,
    json::Json,
    workflow::{BATCH_GATHER, ITEMS_MAX},
};
use serde_json::{Value, json};

use super::{Drive, DriveError, fetch::Wanting};
use crate::{
    runtime::{course::Found, execute::Reads, wire::BadJob},
    store::{Load, NodeRef, RunStatus, StepStatus},
};

/// How many items one delivery begins: the job behind theirs begins the next ones.
const BEGUN_AT_ONCE: u64 = 500;

/// As [`BEGUN_AT_ONCE`], where each must be looked at, as it may have begun before.
const LOOKED_AT_AT_ONCE: u64 = 100;

/// How many items a gather reads with one call.
const GATHERED_AT_ONCE: u64 = 256;

/// Why a gather has no list.
pub(super) enum NoList {
    /// Something on the way to it cannot be evaluated.
    Eval(EvalError),
    /// The list has so many bytes.
    TooLarge(String),
}

/// What is recorded of some items.
struct Seen {
    /// These have not ended, or failed before their end.
    left: Vec<u64>,
    /// These were begun by the ends of others.
    begun: Vec<(u64, u64)>,
    /// The gather, if it was made ready.
    gather: Option<Ready>,
}

impl Drive<'_> {
    /// Whether the step at a place is that of a gather.
    pub(super) fn is_gather(&self, place: &Place) -> bool {
        self.plan.workflow.graph.role(place.node) == Role::Gather
    }

    /// The job of beginning some items.
    pub(super) async fn open_by_job(&mut self, ready: &Ready) -> Result<(), DriveError> {
        let loaded = self.inner.load(&self.run_id, Load::default()).await?;
        let loaded = loaded.ok_or_else(|| BadJob::UnknownRun(self.run_id.clone()))?;
        self.expect_definition(&loaded.workflow_hash)?;
        if loaded.status != RunStatus::Running {
            if self.comes_again() {
                self.repeat_completion().await?;
            }
            return Ok(());
        }
        self.open(ready, self.comes_again()).await
    }

    /// Begins items: publishes the jobs of their first steps, and behind them the one that begins the rest. `again`: they may have begun before, and
    /// what should be running of them is published instead.
    pub(super) async fn open(&mut self, ready: &Ready, again: bool) -> Result<(), DriveError> {
        let plan = self.plan.clone();
        let graph = &plan.workflow.graph;
        let scatter = ready.place.node;
        let Some((around, from, to)) = graph.opening(&ready.place) else {
            return Ok(());
        };
        let at_once = if again {
            LOOKED_AT_AT_ONCE
        } else {
            BEGUN_AT_ONCE
        };
        let end = from.saturating_add(at_once).min(to);
        let first = |index: u64| {
            let item = around.item(index);
            let first = graph.first_steps(scatter, &item);
            let ready = first.map(|(place, edge)| Ready {
                place,
                via: Some(edge),
            });
            ready.collect::<Vec<_>>()
        };
        if again {
            let Some(Seen {
                left,
                begun,
                gather,
            }) = self.look_at(scatter, &around, (from, end)).await?
            else {
                return Ok(());
            };
            let left = left.into_iter().flat_map(first);
            let from: Vec<Ready> = left.chain(gather).collect();
            match self.inner.outstanding(&self.run_id, &plan, &from).await? {
                Found::Running(ready) => {
                    for ready in &ready {
                        self.publish_job(ready, true);
                    }
                }
                Found::Ended => return self.repeat_completion().await,
                Found::NoRun | Found::Other(_) => return Ok(()),
            }
            // Those before them are looked at by this job, and by the ones behind it.
            for (from, until) in begun.into_iter().filter(|(from, _)| *from >= to) {
                let scope = around.items(from, until);
                let node = scatter;
                let ready = Ready {
                    place: Place { node, scope },
                    via: None,
                };
                self.publish_job(&ready, true);
            }
        } else {
            for ready in (from..end).flat_map(first) {
                self.publish_job(&ready, false);
            }
        }
        if end < to {
            let scope = around.items(end, to);
            let node = scatter;
            let rest = Ready {
                place: Place { node, scope },
                via: None,
            };
            self.publish_job(&rest, again);
        }
        Ok(())
    }

    /// What is recorded of items, at their gather; `None` if the run is over.
    async fn look_at(
        &mut self,
        scatter: NodeIx,
        around: &Scope,
        (from, to): (u64, u64),
    ) -> Result<Option<Seen>, DriveError> {
        let plan = self.plan.clone();
        let Some(batch) = plan.workflow.graph.batch(scatter) else {
            return Ok(None);
        };
        let gather = NodeRef::new(&plan.workflow, batch.gather);
        let items = (from..to).map(|index| around.item(index));
        let scopes = items.chain([around.clone()]);
        let places: Vec<_> = scopes.map(|scope| (gather.clone(), scope)).collect();
        let Some(progress) = self.inner.progress_at(&self.run_id, &places).await? else {
            return Ok(None);
        };
        self.expect_definition(&progress.workflow_hash)?;
        if progress.status != RunStatus::Running {
            self.repeat_completion().await?;
            return Ok(None);
        }
        let (marks, joins) = progress.resolve(&plan.workflow)?;
        let at = |scope: Scope| Place {
            node: batch.gather,
            scope,
        };
        let has_ended = |index: u64| marks.get(&at(around.item(index))) == Some(&Mark::Final);
        let begun = (from..to).filter_map(|index| {
            let join = JoinPoint::Place(at(around.item(index)));
            joins.get(&join)?.begins()
        });
        let is_over = joins.get(&JoinPoint::Items(at(around.clone())));
        let is_over = is_over.is_some_and(JoinState::has_fired);
        Ok(Some(Seen {
            left: (from..to).filter(|&index| !has_ended(index)).collect(),
            begun: begun.collect(),
            gather: is_over.then(|| Ready {
                place: at(around.clone()),
                via: None,
            }),
        }))
    }

    /// What the items of a gather came to, in their order. They are read some at a time, and nothing of them is kept; of a list that is too large, no
    /// more than its size.
    pub(super) async fn gathered(
        &mut self,
        gather: &Place,
    ) -> Result<Result<Json, NoList>, DriveError> {
        let plan = self.plan.clone();
        let graph = &plan.workflow.graph;
        let Some(scatter) = graph.scatter_of(gather.node) else {
            return Ok(Ok(Json::null()));
        };
        let scattered = Place {
            node: scatter,
            scope: gather.scope.clone(),
        };
        self.fetch_steps([scattered.clone()], false).await?;
        let count = self.known.node(&scattered);
        let count = count.and_then(|value| value.output.value().get("count")?.as_u64());
        let count = count.unwrap_or_default().min(ITEMS_MAX as u64);
        let aside = self.known.aside();
        let kept = std::mem::replace(&mut self.known, aside);
        let list = self.gather_items(gather, count).await;
        self.known = kept;
        list
    }

    async fn gather_items(
        &mut self,
        gather: &Place,
        count: u64,
    ) -> Result<Result<Json, NoList>, DriveError> {
        let bytes_max = self.inner.options.output_bytes_max;
        // Brackets, and commas between.
        let (mut list, mut bytes, mut results) = (Vec::new(), 1_usize, 0_usize);
        let mut from = 0;
        while from < count {
            let to = count.min(from + GATHERED_AT_ONCE);
            let items = (from..to).map(|index| Place {
                node: gather.node,
                scope: gather.scope.item(index),
            });
            let items: Vec<Place> = items.collect();
            self.known.forget_steps();
            self.fetch_steps(items.iter().cloned(), false).await?;
            let via = |place: &Place| {
                let value = self.known.node(place)?;
                let done = value.status == StepStatus::Completed;
                value.via.filter(|_| done)
            };
            let handed: Vec<(Place, EdgeIx)> = items
                .iter()
                .filter_map(|place| Some((place.clone(), via(place)?)))
                .collect();
            let targets = handed.iter().map(|(place, edge)| (place, *edge));
            let load = Wanting::handed(self, targets);
            self.fetch_load(load).await?;
            for place in &items {
                let result = match self.item_result(place) {
                    Ok(Some(result)) => result,
                    Ok(None) => continue,
                    Err(error) => return Ok(Err(NoList::Eval(error))),
                };
                results += 1;
                bytes += result.text().len() + 1;
                if bytes > bytes_max {
                    list = Vec::new();
                } else {
                    list.push(result.value().clone());
                }
            }
            from = to;
        }
        self.known.forget_steps();
        if bytes > bytes_max {
            let message = format!(
                "the list of {results} results has {bytes} bytes, more than the {bytes_max} allowed for the output of a `{BATCH_GATHER}`"
            );
            return Ok(Err(NoList::TooLarge(message)));
        }
        Ok(Ok(Json::from(Value::Array(list))))
    }

    /// What an item came to; `None` if it is left out.
    fn item_result(&self, place: &Place) -> Result<Option<Json>, EvalError> {
        let Some(value) = self.known.node(place) else {
            return Ok(None);
        };
        let reads = Reads {
            plan: &self.plan,
            known: &self.known,
            secrets: &*self.inner.secrets,
            run_id: &self.run_id,
            budget: &Budget::new(),
        };
        match (value.status, value.via) {
            (StepStatus::Completed, Some(edge)) => {
                let output = reads.output_over(edge, place);
                let made = reads.transformed(edge, place, &output)?;
                Ok(Some(made.unwrap_or(output)))
            }
            (StepStatus::Failed, _) => {
                let batch = self.plan.workflow.graph.batch(place.node);
                let collects = batch.is_some_and(|batch| batch.on_error == OnError::Collect);
                let error = value.error.as_ref().filter(|_| collects);
                Ok(error.map(|error| {
                    Json::from(json!({ "error": {
                        "message": error.message,
                        "code": error.code,
                        "node_id": error.node_id,
                    }}))
                }))
            }
            _ => Ok(None),
        }
    }
}
