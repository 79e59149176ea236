//! The client's side of the engine: start, await, look at, cancel runs.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use leveret_core::{
    graph::NodeIx,
    ids::RunId,
    json::Json,
    time::Timestamp,
    workflow::{Workflow, WorkflowHash},
};
use serde_json::json;
use tokio::{
    sync::{broadcast, oneshot},
    time::Instant,
};

use super::{
    Engine, Inner,
    hub::{Ended, RunChanged, Waiter},
    local::drive_here,
    plan::Plan,
    result::RunResult,
    starter,
    wire::{Completion, Job},
};
use crate::{
    broker::{
        BrokerError, Publication,
        publish::{self, Persist},
    },
    one_file::OneFile,
    store::{Load, Loaded, NewRun, RunEnd, RunRecord, RunStatus, Started, StepRecord, StoreError},
};

/// A run to start.
#[derive(Clone, Debug)]
pub struct StartRequest {
    /// What to execute.
    pub workflow: Arc<Workflow>,
    /// The input.
    pub input: Json,
    /// Its identity; a new one if none is given. A run of this id that exists already is not started again.
    pub run_id: Option<RunId>,
}

/// Why a run was not started.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A run of this id exists with another workflow or input.
    #[error("run {run_id} exists with another workflow or another input")]
    Conflict {
        /// The run.
        run_id: RunId,
    },
}

/// Why a run was not cancelled.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CancelError {
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The broker did not take the job in time. The run goes on, unless the broker took it and its answer was lost.
    #[error("the run is not cancelled, as its completion could not be published: {0}")]
    NotPublished(#[from] BrokerError),
}

/// How often those who wait for a run ask the store, in case its end was seen by another process.
const POLL: Duration = Duration::from_millis(500);

impl Engine {
    /// Starts a run. When it returns, the run is durable, whatever the broker does. Its first jobs follow: they are published at once where
    /// the broker takes them, else when it is back, by this process or another. If a run of this id exists with the same workflow and
    /// input, nothing happens; the flag says whether the run is new.
    ///
    /// A crash before it returns leaves either no run or one that will be executed; asking again with the same id is safe. A crash after it
    /// loses nothing but, of a run without nodes, the completion message; first jobs that were under way are published again by the
    /// [reconciler](super::Roles::reconciler) when the run was quiet for [`EngineOptions::quiet`](super::EngineOptions::quiet). What keeps first
    /// jobs back for longer is logged, and the process is [not ready](Self::not_ready).
    pub async fn start(&self, request: StartRequest) -> Result<(RunId, bool), StartError> {
        let (run_id, novel) = self.run_id_of(&request);
        let new = self.start_as(&run_id, novel, false, &request).await?;
        Ok((run_id, new))
    }

    /// The run id of a request, and whether it was made just now, so that no run can have it.
    fn run_id_of(&self, request: &StartRequest) -> (RunId, bool) {
        match &request.run_id {
            Some(run_id) => (run_id.clone(), false),
            None => (self.inner.clock.new_run_id(), true),
        }
    }

    async fn start_as(
        &self,
        run_id: &RunId,
        novel: bool,
        awaited: bool,
        request: &StartRequest,
    ) -> Result<bool, StartError> {
        let inner = &self.inner;
        let plan = inner
            .plans
            .insert(request.workflow.clone(), &inner.registry);
        let (workflow, input) = (plan.workflow.clone(), request.input.clone());
        let new = inner.new_run(run_id.clone(), workflow, input, inner.clock.now());
        if inner.begin(&plan, new, novel && awaited).await? == Started::New {
            inner.metrics.run_started(&plan.workflow.id);
            return Ok(true);
        }
        let run = inner.run(run_id).await?;
        let same = run.is_some_and(|run| {
            run.workflow_hash == plan.workflow.hash && run.input == request.input
        });
        if same {
            Ok(false)
        } else {
            Err(StartError::Conflict {
                run_id: run_id.clone(),
            })
        }
    }

    /// Starts a run, as [`start`](Self::start), and waits for its end, however long that takes.
    ///
    /// Some process must play the worker, this one or another. When it returns a result, the run's end and its steps are durable. A crash
    /// before the run is recorded leaves none. A crash after that, dropping the future, and an error on the way stop the waiting, not the
    /// run: [`wait`](Self::wait) takes it up by its id. Who gives the request a run id can ask again, whatever happened, without a second
    /// run.
    pub async fn start_and_wait(&self, request: StartRequest) -> Result<RunResult, StartError> {
        Ok(self.start_awaited(request).await?.result().await?)
    }

    /// Starts a run, as [`start`](Self::start), and says how to wait for its end: what happens in between is not missed.
    pub async fn start_awaited(&self, request: StartRequest) -> Result<Awaited, StartError> {
        let (run_id, novel) = self.run_id_of(&request);
        let waiter = self.inner.hub.wait(&run_id);
        let new = self.start_as(&run_id, novel, true, &request).await?;
        let StartRequest {
            workflow, input, ..
        } = request;
        Ok(Awaited {
            engine: self.clone(),
            run_id,
            new,
            workflow,
            input,
            waiter,
        })
    }

    /// Waits for a run's end. `None`: there is no such run.
    pub async fn wait(&self, run_id: &RunId) -> Result<Option<RunResult>, StoreError> {
        let mut waiter = self.inner.hub.wait(run_id);
        loop {
            if !self.is_running(run_id).await? {
                return self.result(run_id).await;
            }
            // Whether it was told or the time is up: look again.
            drop(tokio::time::timeout(POLL, waiter.ended()).await);
        }
    }

    async fn is_running(&self, run_id: &RunId) -> Result<bool, StoreError> {
        let run = self.look(run_id).await?;
        Ok(run.is_some_and(|run| run.status == RunStatus::Running))
    }

    /// A look at the run's row: asked again and again, it must not grow with the run.
    async fn look(&self, run_id: &RunId) -> Result<Option<Loaded>, StoreError> {
        let look = (run_id.clone(), Load::default());
        self.inner.loads.submit(look).await?
    }

    /// A run with its steps, as recorded now.
    pub async fn result(&self, run_id: &RunId) -> Result<Option<RunResult>, StoreError> {
        let inner = &self.inner;
        let Some(run) = inner.store.run(run_id).await? else {
            return Ok(None);
        };
        let plan = inner.plan_or_corrupt(&run.workflow_hash).await?;
        let steps = inner.store.steps(run_id).await?;
        let until = run.ended_at.unwrap_or_else(|| inner.clock.now());
        let duration_ms = until.ms_since(run.created_at);
        Ok(Some(RunResult::new(
            &plan.workflow,
            run,
            steps,
            duration_ms,
        )))
    }

    /// Cancels a run that has not ended: no further step of it is recorded, and a worker publishes its completion. How the run ended; `None`:
    /// there is no such run.
    ///
    /// When it returns, the end is durable and the job that publishes the completion is confirmed by the broker. After an error or a crash
    /// the run may be cancelled later all the same; asking again is safe.
    pub async fn cancel(&self, run_id: &RunId) -> Result<Option<RunEnd>, CancelError> {
        let inner = &self.inner;
        let at = inner.cancels.name(inner.clock.now());
        if inner.publish.completion {
            let Some(run) = self.look(run_id).await? else {
                return Ok(None);
            };
            if run.status == RunStatus::Running {
                // Before the end is recorded: nobody would tell of it if this process went away in between.
                let plan = inner.plan_or_corrupt(&run.workflow_hash).await?;
                let job = Job {
                    cancel: true,
                    cancelled_at: Some(at),
                    ..plan.job(run_id, plan.workflow.graph.starts()[0])
                };
                inner
                    .publish_within(vec![inner.names.job_from_client(&job)])
                    .await?;
            }
        }
        let Some((end, ended)) = inner.store.cancel(run_id, at).await? else {
            return Ok(None);
        };
        if ended {
            if let Some(run) = self.look(run_id).await? {
                let plan = inner.plan_or_corrupt(&run.workflow_hash).await?;
                inner.metrics.run_ended(&plan.workflow.id, &end);
            }
            inner.hub.ended(run_id, || Ended {
                end: end.clone(),
                trail: None,
            });
        }
        Ok(Some(end))
    }

    /// The workflow of a run, by the definition that it began with. `None`: there is no such run.
    pub async fn workflow_of(&self, run_id: &RunId) -> Result<Option<Arc<Workflow>>, StoreError> {
        let Some(run) = self.look(run_id).await? else {
            return Ok(None);
        };
        let plan = self.inner.plan_or_corrupt(&run.workflow_hash).await?;
        Ok(Some(plan.workflow.clone()))
    }

    /// A secret of this process.
    pub(crate) fn secret(&self, name: &str) -> Option<String> {
        self.inner.secrets.secret(name)
    }

    /// Hints about what happens to runs in this process. A listener that lags behind misses some.
    pub fn changes(&self) -> broadcast::Receiver<RunChanged> {
        self.inner.hub.changes()
    }

    /// A definition that runs refer to by its hash.
    pub async fn workflow_by_hash(
        &self,
        hash: &WorkflowHash,
    ) -> Result<Option<Arc<Workflow>>, StoreError> {
        Ok(self
            .inner
            .plan(hash)
            .await?
            .map(|plan| plan.workflow.clone()))
    }
}

/// A run that was started and is waited for. Dropping it stops waiting, not the run.
pub struct Awaited {
    engine: Engine,
    run_id: RunId,
    new: bool,
    workflow: Arc<Workflow>,
    input: Json,
    waiter: Waiter,
}

impl fmt::Debug for Awaited {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Awaited")
            .field("run_id", &self.run_id)
            .field("new", &self.new)
            .finish_non_exhaustive()
    }
}

impl Awaited {
    /// The run.
    pub fn run_id(&self) -> &RunId {
        &self.run_id
    }

    /// Whether the run began with this call, rather than with an earlier one.
    pub fn is_new(&self) -> bool {
        self.new
    }

    /// Waits for the run's end.
    pub async fn result(mut self) -> Result<RunResult, StoreError> {
        if !self.new || self.workflow.nodes.is_empty() {
            return self.recorded().await;
        }
        loop {
            match tokio::time::timeout(POLL, self.waiter.ended()).await {
                Ok(Some(Ended {
                    end,
                    trail: Some(steps),
                })) => return Ok(self.result_of(end, steps)),
                Ok(_) => return self.recorded().await,
                Err(_) => {
                    if !self.engine.is_running(&self.run_id).await? {
                        return self.recorded().await;
                    }
                }
            }
        }
    }

    async fn recorded(&self) -> Result<RunResult, StoreError> {
        Ok(self
            .engine
            .wait(&self.run_id)
            .await?
            .expect("the run is recorded"))
    }

    /// The result from what the worker of this process had at hand: saves reading it back.
    fn result_of(&self, end: RunEnd, steps: Vec<StepRecord>) -> RunResult {
        let duration_ms = end.ended_at.ms_since(end.created_at);
        let run = RunRecord {
            run_id: self.run_id.clone(),
            workflow_id: self.workflow.id.clone(),
            workflow_hash: self.workflow.hash,
            status: end.status,
            input: self.input.clone(),
            error: end.error,
            created_at: end.created_at,
            ended_at: Some(end.ended_at),
        };
        RunResult::new(&self.workflow, run, steps, duration_ms)
    }
}

/// How much of its input the first jobs of a run carry together, if they are several.
const FIRST_JOBS_BYTES_MAX: usize = 1 << 20;

/// The times of cancellations: each its own, as it tells them apart.
#[derive(Debug)]
pub(crate) struct Cancels(AtomicI64);

impl Default for Cancels {
    fn default() -> Cancels {
        Cancels(AtomicI64::new(i64::MIN))
    }
}

impl Cancels {
    /// Now, or as little later as it takes.
    fn name(&self, now: Timestamp) -> Timestamp {
        let next = |last: i64| now.0.max(last.saturating_add(1));
        let last = self
            .0
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |last| Some(next(last)));
        Timestamp(last.map_or(now.0, next))
    }
}

impl Inner {
    pub(crate) fn new_run(
        &self,
        run_id: RunId,
        workflow: Arc<Workflow>,
        input: Json,
        now: Timestamp,
    ) -> NewRun {
        NewRun {
            run_id,
            workflow,
            input,
            created_at: now,
            reconcile_at: now + self.options.quiet,
        }
    }

    /// The first job of a run that is recorded, at one of its start nodes.
    fn first_job(&self, new: &NewRun, node: NodeIx) -> Publication {
        let workflow = &new.workflow;
        let bytes = new.input.text().len();
        let starts = workflow.graph.starts().len();
        let inline = bytes <= self.options.inline_input_bytes_max
            && (starts == 1 || bytes.saturating_mul(starts) <= FIRST_JOBS_BYTES_MAX);
        let input = inline.then(|| new.input.clone());
        let fresh = input.is_some();
        let node_id = workflow.nodes[node].id.clone();
        let job = Job::new(
            workflow.id.clone(),
            &workflow.hash,
            new.run_id.clone(),
            node_id,
        );
        let scope = workflow.graph.start_place(node).scope;
        self.names.job_from_client(&Job {
            input,
            fresh,
            ..job.within(&scope)
        })
    }

    /// Records a run, and has its first jobs published, or its completion if it has no nodes. If store and broker share a file, both are
    /// one transaction; and if `here`, this process begins to drive the run at once.
    async fn begin(
        self: &Arc<Self>,
        plan: &Arc<Plan>,
        new: NewRun,
        here: bool,
    ) -> Result<Started, StartError> {
        let run_id = new.run_id.clone();
        let starts = plan.workflow.graph.starts();
        let mut publications: Vec<_> = starts
            .iter()
            .map(|&node| self.first_job(&new, node))
            .collect();
        // Without nodes it ends as it begins, and no worker sees it.
        let end = starts.is_empty().then_some(RunEnd {
            status: RunStatus::Completed,
            error: None,
            created_at: new.created_at,
            ended_at: new.created_at,
        });
        if let Some(end) = end.as_ref().filter(|_| self.publish.completion) {
            let outputs = Json::from(json!({}));
            let completion = Completion::new(&plan.workflow.id, &run_id, end, outputs);
            publications.push(self.names.completion(&completion));
        }
        let count = publications.len() as u64;
        let started = if let Some(file) = &self.one_file {
            let started = self.begin_in(file, plan, new, publications, here).await?;
            if started == Started::New {
                self.metrics.published.add(count);
            }
            started
        } else {
            self.begin_apart(new, publications, end.is_some()).await?
        };
        if let Some(end) = end.filter(|_| started == Started::New) {
            self.metrics.run_ended(&plan.workflow.id, &end);
        }
        Ok(started)
    }

    /// Records a run where the broker is elsewhere. What is to be published follows behind.
    async fn begin_apart(
        self: &Arc<Self>,
        new: NewRun,
        mut publications: Vec<Publication>,
        ended: bool,
    ) -> Result<Started, StoreError> {
        if ended {
            let started = self.start_durably(new).await?;
            if let (Started::New, Some(completion)) = (started, publications.pop()) {
                starter::tell_end(self, completion).await;
            }
            return Ok(started);
        }
        let run_id = new.run_id.clone();
        let direct = self.starter.direct(&*self.broker, &publications);
        let reconcile_at = match direct {
            Some(_) => new.reconcile_at,
            None => NewRun::UNBEGUN,
        };
        let new = NewRun {
            reconcile_at,
            ..new
        };
        let started = self.start_durably(new).await?;
        match direct {
            Some(direct) if started == Started::New => {
                starter::begin(self, run_id, publications, direct);
            }
            Some(_) => {}
            None => self.starter.look(),
        }
        Ok(started)
    }

    async fn begin_in(
        self: &Arc<Self>,
        file: &OneFile,
        plan: &Arc<Plan>,
        new: NewRun,
        publications: Vec<Publication>,
        here: bool,
    ) -> Result<Started, StoreError> {
        let here = here && new.input.text().len() <= self.options.inline_input_bytes_max;
        let place = if here {
            self.local.place(plan, &new.run_id)
        } else {
            None
        };
        let Some((place, node)) = place else {
            let (started, _) = file.begin(new, publications, false).await?;
            return Ok(started);
        };
        let written = file.begin(new.clone(), publications, true);
        let (sender, started) = oneshot::channel();
        // A task of its own: the run goes on when whoever waits for it goes away. Boxed, as a task copies its future several times.
        tokio::spawn(Box::pin(drive_here(
            self.clone(),
            plan.clone(),
            (new, node),
            place,
            written,
            sender,
        )));
        started.await.unwrap_or(Err(StoreError::Closed))
    }

    /// Publishes, again and again within the timeout of cancelling if the broker is away.
    async fn publish_within(&self, publications: Vec<Publication>) -> Result<(), BrokerError> {
        let deadline = Instant::now() + self.options.cancel_timeout;
        let count = publications.len();
        let on_failure = |_: &BrokerError, _| self.metrics.broker_errors.inc();
        let persist = Persist::until(&self.topology, deadline).telling(&on_failure);
        let published = publish::all(&*self.broker, publications, &persist).await;
        let left = published
            .as_ref()
            .map_or_else(|error| error.left.len(), |()| 0);
        self.metrics.published.add((count - left) as u64);
        published.map_err(|unfinished| unfinished.error)
    }

    async fn plan_or_corrupt(&self, hash: &WorkflowHash) -> Result<Arc<Plan>, StoreError> {
        let plan = self.plan(hash).await?;
        plan.ok_or_else(|| StoreError::corrupt(format!("definition {hash} is not stored")))
    }
}
