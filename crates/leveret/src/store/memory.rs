//! A store in memory: for simulation and tests. Keeps every promise of the seam but durability.

mod signals;

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use async_trait::async_trait;
use leveret_core::{
    decide::{JoinPoint, JoinState, Joins},
    graph::{EdgeIx, Place},
    ids::{NodeId, RunId, Scope, StepKey, WorkflowId},
    json::Json,
    time::Timestamp,
    workflow::{Workflow, WorkflowHash},
};

use self::signals::Signals;
use super::{
    Committed, Finished, Load, Loaded, NewRun, NewSignal, NewTimer, NodeRef, NodeValue, Outcome,
    Pass, Progress, RunEnd, RunFilter, RunRecord, RunStatus, Signalled, Started, StepError,
    StepHead, StepRecord, StepStatus, Store, StoreError, Timer, WaitFilter, WaitRecord, Waited,
    Wanted, Woken, WorkflowRecord,
    commit::{decide_finished, key_of, mark_of, status_of},
    follow::{Write, follow},
    signals::look_pause,
};
use crate::schedules::{MemorySchedules, Schedules};

/// The store. Clones share their content.
#[derive(Clone, Debug, Default)]
pub struct MemoryStore(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    workflows: BTreeMap<WorkflowId, Vec<WorkflowRecord>>,
    definitions: HashMap<WorkflowHash, Json>,
    runs: BTreeMap<RunId, Run>,
    timers: BTreeMap<StepKey, Timed>,
    redeliveries: HashMap<StepKey, u32>,
    signals: Signals,
    schedules: MemorySchedules,
}

#[derive(Debug)]
struct Run {
    record: RunRecord,
    reconcile_at: Timestamp,
    steps: BTreeMap<(NodeId, Scope), StepRecord>,
    joins: BTreeMap<JoinPoint, JoinState>,
    /// By node and scope, the scope of the latest step within.
    latest: BTreeMap<(NodeId, Scope), Scope>,
    context: BTreeMap<Arc<str>, Json>,
    workflow: Arc<Workflow>,
}

impl Run {
    fn is_unbegun(&self) -> bool {
        self.reconcile_at == NewRun::UNBEGUN
    }
}

#[derive(Clone, Debug)]
struct Timed {
    due: Timestamp,
    timer: Timer,
}

impl MemoryStore {
    /// An empty store.
    pub fn new() -> MemoryStore {
        MemoryStore::default()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl State {
    fn start(&mut self, new: &NewRun) -> Started {
        if let Some(run) = self.runs.get(&new.run_id) {
            return Started::Exists(run.record.status);
        }
        let empty = new.workflow.nodes.is_empty();
        let record = RunRecord {
            run_id: new.run_id.clone(),
            workflow_id: new.workflow.id.clone(),
            workflow_hash: new.workflow.hash,
            status: if empty {
                RunStatus::Completed
            } else {
                RunStatus::Running
            },
            input: new.input.clone(),
            error: None,
            created_at: new.created_at,
            ended_at: empty.then_some(new.created_at),
        };
        self.definitions
            .insert(new.workflow.hash, new.workflow.definition.clone());
        self.runs.insert(
            new.run_id.clone(),
            Run {
                record,
                reconcile_at: new.reconcile_at,
                steps: BTreeMap::new(),
                joins: BTreeMap::new(),
                latest: BTreeMap::new(),
                context: BTreeMap::new(),
                workflow: new.workflow.clone(),
            },
        );
        Started::New
    }

    fn commit(&mut self, finished: &Finished) -> Result<Committed, StoreError> {
        let Some(run) = self.runs.get_mut(&finished.run_id) else {
            return Ok(Committed::Over(None));
        };
        if run.record.status != RunStatus::Running {
            return Ok(Committed::Over(Some(run.record.status)));
        }
        let key = finished.key();
        let has_signal = matches!(self.signals.of_step(&key), Some(Waited::Ended(_)));
        if finished.woken == Woken::ByTime && has_signal {
            return Ok(Committed::Repeated);
        }
        if !run.record_step(finished) {
            return Ok(Committed::Repeated);
        }
        let mut joins: Joins = run.joins.clone().into_iter().collect();
        let decision = decide_finished(finished, &mut joins, |_| Ok::<_, StoreError>(Vec::new()))?;
        if !matches!(finished.outcome, Outcome::Waiting { .. }) {
            self.timers.remove(&key);
            self.signals.forget_step(&key);
        }
        let (mut end, mut until, mut waits) = (None, None, None);
        for write in follow(finished, &decision) {
            match write {
                Write::Join { join, state } => {
                    run.joins.insert(join.clone(), state.clone());
                }
                Write::Pass { place, status } => run.pass(finished, place, status),
                Write::Item { scope, value } => run.item(finished, scope, value),
                Write::Arrival { place, status, via } => {
                    run.stand(finished, place, status, via, None);
                }
                Write::Caught { place, error } => {
                    let error = Some(error.clone());
                    run.stand(finished, &place, StepStatus::Failed, None, error);
                }
                Write::Close { scope } => run.close(&key, scope),
                Write::Latest { within } => {
                    let scope = finished.scope.clone();
                    run.latest.insert((key.node_id.clone(), within), scope);
                }
                Write::Error(error) => {
                    run.record.error.get_or_insert_with(|| error.into_owned());
                }
                Write::Timer { due } => {
                    let timer = Timer {
                        key: key.clone(),
                        workflow_id: finished.workflow.id.clone(),
                        workflow_hash: finished.workflow.hash,
                        via: finished.via,
                        attempts: finished.attempts,
                        claimed_until: due,
                    };
                    self.timers.insert(key.clone(), Timed { due, timer });
                    until = Some(due);
                }
                Write::Wait(wait) => waits = Some(wait),
                Write::Context { key, value } => {
                    run.context.insert(key.clone(), value.clone());
                }
                Write::End => end = Some(run.end(None, finished.finished_at)),
            }
        }
        let signalled = waits.is_some_and(|wait| self.wait(finished, wait, until));
        Ok(Committed::Recorded {
            decision,
            end,
            signalled,
        })
    }

    fn cancel(&mut self, run_id: &RunId, now: Timestamp) -> Option<(RunEnd, bool)> {
        let run = self.runs.get_mut(run_id)?;
        if run.record.status != RunStatus::Running {
            return Some((run.ended(), false));
        }
        let end = run.end(Some(RunStatus::Cancelled), now);
        self.signals.forget_waits_of(run_id);
        Some((end, true))
    }
}

impl Run {
    /// First writer wins; a waiting step may be overtaken by its next attempt.
    fn record_step(&mut self, finished: &Finished) -> bool {
        let node = finished.workflow.nodes[finished.node].id.clone();
        let status = status_of(&finished.outcome);
        let mut record = StepRecord {
            node_id: node.clone(),
            scope: finished.scope.clone(),
            status,
            attempts: finished.attempts,
            output: Json::null(),
            action: None,
            via: finished.via,
            error: None,
            started_at: finished.started_at,
            finished_at: finished.finished_at,
        };
        let slot = (node, finished.scope.clone());
        if let Some(earlier) = self.steps.get(&slot) {
            let overtakes = earlier.status == StepStatus::Waiting
                && (finished.attempts > earlier.attempts
                    || finished.attempts == earlier.attempts && status != StepStatus::Waiting);
            if !overtakes {
                return false;
            }
            record.started_at = earlier.started_at;
        }
        match &finished.outcome {
            Outcome::Completed { output, action, .. } => {
                record.output = output.clone();
                record.action.clone_from(action);
            }
            Outcome::Waiting { error, .. } => record.error.clone_from(error),
            Outcome::Failed { error, .. } => record.error = Some(error.clone()),
        }
        self.steps.insert(slot, record);
        true
    }

    /// A step stands in another scope, too.
    fn close(&mut self, key: &StepKey, scope: &Scope) {
        let node = key.node_id.clone();
        if let Some(step) = self.steps.get(&(node.clone(), key.scope.clone())) {
            let scope = scope.clone();
            let step = StepRecord {
                scope: scope.clone(),
                ..step.clone()
            };
            self.steps.entry((node, scope)).or_insert(step);
        }
    }

    fn pass(&mut self, finished: &Finished, place: &Place, status: StepStatus) {
        self.stand(finished, place, status, None, None);
    }

    fn item(&mut self, finished: &Finished, scope: &Scope, value: &Json) {
        let place = Place {
            node: finished.node,
            scope: scope.clone(),
        };
        self.stand(finished, &place, StepStatus::Completed, None, None);
        let node = finished.workflow.nodes[finished.node].id.clone();
        if let Some(item) = self.steps.get_mut(&(node, scope.clone())) {
            item.output = value.clone();
        }
    }

    /// Records what was not executed, unless something is recorded there.
    fn stand(
        &mut self,
        finished: &Finished,
        place: &Place,
        status: StepStatus,
        via: Option<EdgeIx>,
        error: Option<StepError>,
    ) {
        let Place { node, scope } = place;
        let node_id = finished.workflow.nodes[*node].id.clone();
        let record = StepRecord {
            node_id: node_id.clone(),
            scope: scope.clone(),
            status,
            attempts: 0,
            output: Json::null(),
            action: None,
            via,
            error,
            started_at: finished.finished_at,
            finished_at: finished.finished_at,
        };
        self.steps.entry((node_id, scope.clone())).or_insert(record);
    }

    fn end(&mut self, status: Option<RunStatus>, now: Timestamp) -> RunEnd {
        let natural = if self.record.error.is_some() {
            RunStatus::Failed
        } else {
            RunStatus::Completed
        };
        self.record.status = status.unwrap_or(natural);
        self.record.ended_at = Some(now);
        self.ended()
    }

    fn ended(&self) -> RunEnd {
        RunEnd {
            status: self.record.status,
            error: self.record.error.clone(),
            created_at: self.record.created_at,
            ended_at: self.record.ended_at.unwrap_or(self.record.created_at),
        }
    }

    fn load(&self, load: &Load) -> Loaded {
        let step = |node: &NodeId, scope: &Scope| self.steps.get(&(node.clone(), scope.clone()));
        Loaded {
            workflow_hash: self.record.workflow_hash,
            status: self.record.status,
            created_at: self.record.created_at,
            input: load.input.then(|| self.record.input.clone()),
            step: load
                .step
                .as_ref()
                .and_then(|(node, scope)| step(&node.id, scope))
                .map(|record| (record.status, record.attempts)),
            nodes: load
                .nodes
                .iter()
                .map(|wanted| {
                    self.wanted(wanted).map(|record| NodeValue {
                        scope: record.scope.clone(),
                        status: record.status,
                        output: record.output.clone(),
                        action: record.action.clone(),
                        error: record.error.clone(),
                        via: record.via,
                    })
                })
                .collect(),
            context: load
                .context
                .iter()
                .map(|key| self.context.get(key).cloned())
                .collect(),
            redeliveries: 0,
            wait: None,
        }
    }

    fn wanted(&self, wanted: &Wanted) -> Option<&StepRecord> {
        let id = &wanted.node.id;
        let at = |scope: &Scope| self.steps.get(&(id.clone(), scope.clone()));
        let exact = wanted.scope.as_ref().and_then(at);
        if exact.is_some_and(|step| step.status.has_ended()) {
            return exact;
        }
        let within = wanted.latest.clone();
        let latest = within.and_then(|within| self.latest.get(&(id.clone(), within)));
        latest.and_then(at).or(exact)
    }
}

#[async_trait]
impl Store for MemoryStore {
    async fn put_workflow(
        &self,
        workflow: &Workflow,
        now: Timestamp,
    ) -> Result<(WorkflowRecord, bool), StoreError> {
        let mut state = self.state();
        state
            .definitions
            .insert(workflow.hash, workflow.definition.clone());
        let versions = state.workflows.entry(workflow.id.clone()).or_default();
        if let Some(newest) = versions.last()
            && newest.hash == workflow.hash
        {
            return Ok((newest.clone(), false));
        }
        let record = WorkflowRecord {
            workflow_id: workflow.id.clone(),
            version: versions.len() as u32 + 1,
            hash: workflow.hash,
            definition: workflow.definition.clone(),
            created_at: now,
        };
        versions.push(record.clone());
        Ok((record, true))
    }

    async fn workflow(&self, id: &WorkflowId) -> Result<Option<WorkflowRecord>, StoreError> {
        Ok(self
            .state()
            .workflows
            .get(id)
            .and_then(|versions| versions.last().cloned()))
    }

    async fn workflow_version(
        &self,
        id: &WorkflowId,
        version: u32,
    ) -> Result<Option<WorkflowRecord>, StoreError> {
        let state = self.state();
        let versions = state.workflows.get(id).into_iter().flatten();
        Ok(versions
            .into_iter()
            .find(|record| record.version == version)
            .cloned())
    }

    async fn definition(&self, hash: &WorkflowHash) -> Result<Option<Json>, StoreError> {
        Ok(self.state().definitions.get(hash).cloned())
    }

    async fn workflows(
        &self,
        after: Option<&WorkflowId>,
        limit: u32,
    ) -> Result<Vec<WorkflowRecord>, StoreError> {
        let state = self.state();
        let newest = state
            .workflows
            .values()
            .filter_map(|versions| versions.last());
        let rest = newest.filter(|record| after.is_none_or(|after| record.workflow_id > *after));
        Ok(rest.take(limit as usize).cloned().collect())
    }

    async fn start(&self, batch: &[NewRun]) -> Result<Vec<Started>, StoreError> {
        let mut state = self.state();
        Ok(batch.iter().map(|new| state.start(new)).collect())
    }

    async fn commit(&self, batch: &[Arc<Finished>]) -> Result<Vec<Committed>, StoreError> {
        let mut state = self.state();
        batch
            .iter()
            .map(|finished| state.commit(finished))
            .collect()
    }

    async fn load(&self, batch: &[(RunId, Load)]) -> Result<Vec<Option<Loaded>>, StoreError> {
        let state = self.state();
        let loaded = |(run_id, load): &(RunId, Load)| {
            let mut loaded = state.runs.get(run_id)?.load(load);
            if let Some((node, scope)) = load.step.clone() {
                let key = StepKey {
                    run_id: run_id.clone(),
                    node_id: node.id,
                    scope,
                };
                loaded.redeliveries = state.redeliveries.get(&key).copied().unwrap_or(0);
                if load.wait {
                    loaded.wait = state.signals.of_step(&key);
                }
            }
            Some(loaded)
        };
        Ok(batch.iter().map(loaded).collect())
    }

    async fn set_redeliveries(&self, key: &StepKey, count: u32) -> Result<(), StoreError> {
        self.state().redeliveries.insert(key.clone(), count);
        Ok(())
    }

    async fn claim_timers(
        &self,
        now: Timestamp,
        claim: Duration,
        limit: u32,
    ) -> Result<Vec<Timer>, StoreError> {
        let mut state = self.state();
        let mut due: Vec<&mut Timed> = state
            .timers
            .values_mut()
            .filter(|timed| timed.due <= now)
            .collect();
        due.sort_by_key(|timed| timed.due);
        Ok(due
            .into_iter()
            .take(limit as usize)
            .map(|timed| {
                timed.due = now + claim;
                timed.timer.claimed_until = timed.due;
                timed.timer.clone()
            })
            .collect())
    }

    async fn set_timers(&self, timers: &[NewTimer]) -> Result<(), StoreError> {
        let mut state = self.state();
        for NewTimer { key, due, attempts } in timers {
            let Some(run) = state.runs.get(&key.run_id) else {
                continue;
            };
            let timer = Timer {
                key: key.clone(),
                workflow_id: run.record.workflow_id.clone(),
                workflow_hash: run.record.workflow_hash,
                via: None,
                attempts: *attempts,
                claimed_until: *due,
            };
            state.timers.insert(key.clone(), Timed { due: *due, timer });
        }
        Ok(())
    }

    async fn remove_timers(&self, timers: &[Timer]) -> Result<(), StoreError> {
        let mut state = self.state();
        for timer in timers {
            if state.timers.get(&timer.key).is_some_and(|timed| {
                timed.due == timer.claimed_until && timed.timer.attempts == timer.attempts
            }) {
                state.timers.remove(&timer.key);
            }
        }
        Ok(())
    }

    async fn next_timer(&self) -> Result<Option<Timestamp>, StoreError> {
        Ok(self.state().timers.values().map(|timed| timed.due).min())
    }

    async fn mark_unbegun(&self, runs: &[RunId]) -> Result<(), StoreError> {
        let mut state = self.state();
        for run_id in runs {
            if let Some(run) = state.runs.get_mut(run_id) {
                run.reconcile_at = NewRun::UNBEGUN;
            }
        }
        Ok(())
    }

    async fn claim_unbegun(
        &self,
        until: Timestamp,
        limit: u32,
    ) -> Result<Vec<(RunId, WorkflowHash)>, StoreError> {
        let mut state = self.state();
        let unbegun = state.runs.values_mut().filter(|run| run.is_unbegun());
        let claim = |run: &mut Run| {
            run.reconcile_at = until;
            (run.record.run_id.clone(), run.record.workflow_hash)
        };
        Ok(unbegun.take(limit as usize).map(claim).collect())
    }

    async fn claim_stalled(
        &self,
        now: Timestamp,
        quiet: Duration,
        limit: u32,
    ) -> Result<(Vec<RunId>, u32), StoreError> {
        let mut state = self.state();
        let State {
            runs,
            timers,
            signals,
            ..
        } = &mut *state;
        let due = runs
            .values_mut()
            .filter(|run| run.record.status == RunStatus::Running && run.reconcile_at <= now)
            .filter(|run| !run.is_unbegun())
            .take(limit as usize);
        let (mut stalled, mut looked_at) = (Vec::new(), 0);
        for run in due {
            looked_at += 1;
            let last_timer = timers
                .iter()
                .filter(|(key, _)| key.run_id == run.record.run_id)
                .map(|(_, timed)| timed.due)
                .max();
            let waits = State::has_open_wait(signals, &run.record.run_id);
            let last_step = run.steps.values().map(|step| step.finished_at).max();
            let pause = match last_step.filter(|_| waits) {
                Some(at) => look_pause(Duration::from_millis(now.ms_since(at)), quiet),
                None => quiet,
            };
            run.reconcile_at = last_timer.map_or(now, |timer| timer.max(now)) + pause;
            let active = run
                .steps
                .values()
                .any(|step| step.finished_at + quiet > now);
            if !active && last_timer.is_none() {
                stalled.push(run.record.run_id.clone());
            }
        }
        Ok((stalled, looked_at))
    }

    async fn signal(
        &self,
        batch: &[NewSignal],
        now: Timestamp,
        claim: Duration,
    ) -> Result<Vec<Signalled>, StoreError> {
        let mut state = self.state();
        let signal = |signal| state.signal(signal, now, claim);
        Ok(batch.iter().map(signal).collect())
    }

    async fn waits(&self, filter: &WaitFilter) -> Result<Vec<WaitRecord>, StoreError> {
        Ok(self.state().waits(filter))
    }

    async fn put_off(&self, runs: &[RunId], until: Timestamp) -> Result<(), StoreError> {
        let mut state = self.state();
        for run_id in runs {
            if let Some(run) = state.runs.get_mut(run_id)
                && !run.is_unbegun()
            {
                run.reconcile_at = run.reconcile_at.max(until);
            }
        }
        Ok(())
    }

    async fn progress_at(
        &self,
        run_id: &RunId,
        places: &[(NodeRef, Scope)],
    ) -> Result<Option<Progress>, StoreError> {
        let whole = self.progress(run_id).await?;
        let is_wanted = |id: &str, at: &Scope| {
            let mut places = places.iter();
            places.any(|(node, scope)| node.id.as_str() == id && scope == at)
        };
        Ok(whole.map(|mut progress| {
            progress
                .marks
                .retain(|(id, scope, _)| is_wanted(id.as_str(), scope));
            progress
                .joins
                .retain(|(key, _)| is_wanted(&key.node, &key.scope));
            progress
        }))
    }

    async fn waiting_steps(
        &self,
        run_id: &RunId,
        limit: u32,
    ) -> Result<Vec<(NodeId, Scope)>, StoreError> {
        let state = self.state();
        let steps = state.runs.get(run_id).into_iter();
        let steps = steps.flat_map(|run| run.steps.values());
        let waiting = steps.filter(|step| step.status == StepStatus::Waiting);
        let keys = waiting.map(|step| (step.node_id.clone(), step.scope.clone()));
        Ok(keys.take(limit as usize).collect())
    }

    async fn progress(&self, run_id: &RunId) -> Result<Option<Progress>, StoreError> {
        let state = self.state();
        Ok(state.runs.get(run_id).map(|run| Progress {
            workflow_hash: run.record.workflow_hash,
            status: run.record.status,
            marks: run
                .steps
                .values()
                .map(|step| {
                    (
                        step.node_id.clone(),
                        step.scope.clone(),
                        mark_of(step.status),
                    )
                })
                .collect(),
            joins: run
                .joins
                .iter()
                .map(|(join, joined)| (key_of(&run.workflow, join), joined.to_string()))
                .collect(),
        }))
    }

    async fn cancel(
        &self,
        run_id: &RunId,
        now: Timestamp,
    ) -> Result<Option<(RunEnd, bool)>, StoreError> {
        Ok(self.state().cancel(run_id, now))
    }

    async fn prune(
        &self,
        before: Timestamp,
        pass: Pass,
        limit: u32,
    ) -> Result<(u32, Option<Pass>), StoreError> {
        let mut state = self.state();
        let State {
            runs,
            timers,
            redeliveries,
            signals,
            ..
        } = &mut *state;
        signals.prune(before, limit);
        let of_workflow = runs
            .values()
            .filter(|run| run.record.workflow_id.as_str() == pass.workflow_id);
        let mut page: Vec<(i64, String)> = of_workflow
            .map(|run| (run.record.created_at.0, run.record.run_id.to_string()))
            .filter(|at| *at > pass.after && at.0 < before.0)
            .collect();
        page.sort_unstable();
        page.truncate(limit as usize);
        let mut removed = 0;
        for (_, run_id) in &page {
            let run = &runs[run_id.as_str()];
            let ended = run.record.ended_at.is_some_and(|at| at < before);
            let run_id = run.record.run_id.clone();
            if ended && !run.is_unbegun() && !timers.keys().any(|key| key.run_id == run_id) {
                runs.remove(&run_id);
                redeliveries.retain(|key, _| key.run_id != run_id);
                signals.forget_run(&run_id);
                removed += 1;
            }
        }
        let after = |id: &&str| *id > pass.workflow_id.as_str();
        let ids = runs.values().map(|run| run.record.workflow_id.as_str());
        let next = ids.filter(after).min().map(|id| Pass::at(id.to_owned()));
        Ok((removed, pass.behind(&page, limit).or(next)))
    }

    async fn run(&self, run_id: &RunId) -> Result<Option<RunRecord>, StoreError> {
        Ok(self.state().runs.get(run_id).map(|run| run.record.clone()))
    }

    async fn steps(&self, run_id: &RunId) -> Result<Vec<StepRecord>, StoreError> {
        let state = self.state();
        let mut steps: Vec<StepRecord> = state
            .runs
            .get(run_id)
            .map(|run| run.steps.values().cloned().collect())
            .unwrap_or_default();
        steps.sort_by_key(|step| step.started_at);
        Ok(steps)
    }

    async fn step_heads(&self, run_id: &RunId) -> Result<Vec<StepHead>, StoreError> {
        let state = self.state();
        let steps = state.runs.get(run_id).into_iter();
        let steps = steps.flat_map(|run| run.steps.values());
        let heads = steps.map(|step| StepHead {
            node_id: step.node_id.clone(),
            scope: step.scope.clone(),
            status: step.status,
            attempts: step.attempts,
            started_at: step.started_at,
            finished_at: step.finished_at,
        });
        Ok(heads.collect())
    }

    async fn steps_at(
        &self,
        run_id: &RunId,
        steps: &[(NodeRef, Scope)],
    ) -> Result<Vec<Option<StepRecord>>, StoreError> {
        let state = self.state();
        let run = state.runs.get(run_id);
        let at = |(node, scope): &(NodeRef, Scope)| {
            let place = (node.id.clone(), scope.clone());
            run?.steps.get(&place).cloned()
        };
        Ok(steps.iter().map(at).collect())
    }

    async fn timers_of(
        &self,
        run_id: &RunId,
    ) -> Result<Vec<(NodeId, Scope, Timestamp)>, StoreError> {
        let state = self.state();
        let timers = state.timers.iter().filter(|(key, _)| key.run_id == *run_id);
        let due = timers.map(|(key, timed)| (key.node_id.clone(), key.scope.clone(), timed.due));
        Ok(due.collect())
    }

    async fn runs(&self, filter: &RunFilter) -> Result<Vec<RunRecord>, StoreError> {
        let state = self.state();
        let mut runs: Vec<&RunRecord> = state
            .runs
            .values()
            .map(|run| &run.record)
            .filter(|run| {
                filter
                    .workflow_id
                    .as_ref()
                    .is_none_or(|id| run.workflow_id == *id)
            })
            .filter(|run| filter.status.is_none_or(|status| run.status == status))
            .filter(|run| {
                filter
                    .after
                    .as_ref()
                    .is_none_or(|(at, id)| (run.created_at, &run.run_id) < (*at, id))
            })
            .collect();
        runs.sort_by(|a, b| (b.created_at, &b.run_id).cmp(&(a.created_at, &a.run_id)));
        Ok(runs
            .into_iter()
            .take(filter.limit as usize)
            .cloned()
            .collect())
    }

    fn schedules(&self) -> Arc<dyn Schedules> {
        Arc::new(self.state().schedules.clone())
    }

    async fn ping(&self) -> Result<(), StoreError> {
        Ok(())
    }

    async fn close(&self) {}
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::conformance;

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn conforms() {
        let store = MemoryStore::new();
        conformance::exercise(move || {
            let store = store.clone();
            async move { Arc::new(store) as Arc<dyn Store> }
        })
        .await;
    }
}
