//! The engine: runs workflows durably on a broker and a store.
//!
//! An [`Engine`] holds the connections of a process. As a client it starts, awaits and cancels runs; [`Engine::serve`] adds the roles
//! that the process plays: worker, timers, reconciler.

use std::{fmt, sync::Arc, time::Duration};

use futures_util::FutureExt;
use leveret_core::{
    decide::Ready,
    ids::{RunId, Scope, StepKey},
    parse::NodeCatalog,
    time::Timestamp,
    workflow::WorkflowHash,
};
use tokio::{sync::watch, task::JoinSet};

use crate::{
    batcher::{Batcher, Gone},
    broker::{Broker, BrokerError, Topology},
    metrics::Metrics,
    nodes::Registry,
    one_file::OneFile,
    store::{
        Batching, Committed, Finished, Load, Loaded, NewRun, NewTimer, NodeRef, Progress, RunEnd,
        RunRecord, RunStatus, Started, Store, StoreError, commit_each, load_each, start_each,
    },
};

mod awake;
mod client;
mod clock;
mod course;
mod drive;
mod execute;
mod health;
mod hub;
mod known;
mod local;
mod observer;
mod plan;
mod pruner;
mod reconciler;
mod result;
pub(crate) mod schedules;
mod signals;
mod starter;
mod suspects;
mod timers;
mod underway;
mod unread;
mod wire;
mod worker;

use self::course::Found;
#[cfg(feature = "http")]
pub(crate) use self::result::is_step;
use self::{
    awake::Awake,
    client::Cancels,
    clock::StoreClock,
    health::{Health, HeldBack, What},
    hub::Hub,
    local::LocalRuns,
    observer::{Observer, Publisher},
    plan::{Plan, Plans},
    signals::Signals,
    starter::Starter,
    suspects::Suspects,
    timers::TimerHints,
    underway::Underway,
    unread::Unread,
};
pub use self::{
    client::{Awaited, CancelError, StartError, StartRequest},
    clock::{Clock, SystemClock},
    health::Part,
    hub::RunChanged,
    result::{RunResult, StepResult},
    signals::SignalError,
    wire::{BadJob, Job, Names, Publish, StatusMessages},
    worker::WorkerOptions,
};

/// Bounds and policies of an engine.
#[derive(Clone, Debug)]
pub struct EngineOptions {
    /// A larger job is dead-lettered; a completion message that would be larger leaves out the outputs. Default 16 MiB.
    pub message_bytes_max: usize,
    /// A step with a larger output fails. Default 8 MiB.
    pub output_bytes_max: usize,
    /// A run's input up to this size travels with its first jobs, unless those are many; a larger one is loaded from the store. Default 64 KiB.
    pub inline_input_bytes_max: usize,
    /// After so many steps on one delivery, the next is published as a job. Default 1000.
    pub inline_steps_max: u32,
    /// After so much time on one delivery, the next step is published as a job. Default 5 s.
    pub inline_time_max: Duration,
    /// A step whose worker's process ended so many times is failed and its job dead-lettered. Default 5.
    pub deliveries_max: u32,
    /// A run in which nothing was recorded and nothing executed for so long, and which has no timer, is taken up by the reconciler. Default
    /// 60 s; the same in all processes.
    pub quiet: Duration,
    /// How long runs are kept after their end; the process that takes up stalled runs removes them then, with all that is recorded of them. `None`:
    /// for ever. Default 30 days.
    pub retention: Option<Duration>,
    /// How long cancelling a run may wait for a broker that is away. Default 10 s.
    pub cancel_timeout: Duration,
    /// Whether idle CPUs of this machine poll for work, instead of halting, from a commit until 2 ms after it. On a virtual machine a run that is
    /// alone takes a quarter less time then, for the price of CPUs that are busy while few runs come. It is done only on a Linux guest whose CPUs
    /// halt at once (`haltpoll`), and with the right to write to `/dev/cpu_dma_latency`. Default false.
    pub keep_cpus_awake: bool,
}

impl Default for EngineOptions {
    fn default() -> EngineOptions {
        EngineOptions {
            message_bytes_max: 16 << 20,
            output_bytes_max: 8 << 20,
            inline_input_bytes_max: 64 << 10,
            inline_steps_max: 1000,
            inline_time_max: Duration::from_secs(5),
            deliveries_max: 5,
            quiet: Duration::from_secs(60),
            retention: Some(Duration::from_secs(30 * 24 * 60 * 60)),
            cancel_timeout: Duration::from_secs(10),
            keep_cpus_awake: false,
        }
    }
}

/// Resolves `secret("NAME")` when a step is executed.
pub trait Secrets: Send + Sync + fmt::Debug + 'static {
    /// The secret, if there is one of this name.
    fn secret(&self, name: &str) -> Option<String>;
}

/// No secrets.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoSecrets;

impl Secrets for NoSecrets {
    fn secret(&self, _name: &str) -> Option<String> {
        None
    }
}

/// What an engine is made of.
pub struct EngineParts {
    /// The store.
    pub store: Arc<dyn Store>,
    /// The broker.
    pub broker: Arc<dyn Broker>,
    /// Store and broker as one, if they share a file.
    pub one_file: Option<OneFile>,
    /// The node types.
    pub registry: Registry,
    /// Names of exchange and queues.
    pub names: Names,
    /// What is published for observers.
    pub publish: Publish,
    /// Secrets.
    pub secrets: Arc<dyn Secrets>,
    /// Time and randomness. The time of a store that has a clock of its own goes before: processes compare what it tells.
    pub clock: Arc<dyn Clock>,
    /// Bounds and policies.
    pub options: EngineOptions,
}

impl EngineParts {
    /// Parts with defaults: built-in node types, no messages to observers unless the broker is shared with others.
    pub fn new(store: Arc<dyn Store>, broker: Arc<dyn Broker>) -> EngineParts {
        let publish = if broker.capabilities().shared {
            Publish::EVERYTHING
        } else {
            Publish::NOTHING
        };
        EngineParts {
            store,
            broker,
            one_file: None,
            registry: Registry::builtin(),
            names: Names::default(),
            publish,
            secrets: Arc::new(NoSecrets),
            clock: Arc::new(SystemClock),
            options: EngineOptions::default(),
        }
    }
}

impl fmt::Debug for EngineParts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EngineParts")
            .field("registry", &self.registry)
            .finish_non_exhaustive()
    }
}

/// Which roles a process plays.
#[derive(Clone, Debug)]
pub struct Roles {
    /// Executes jobs.
    pub worker: Option<WorkerOptions>,
    /// Fires timers and schedules.
    pub timers: bool,
    /// Takes up stalled runs, and removes those that ended long ago.
    pub reconciler: bool,
}

impl Roles {
    /// All roles in one process.
    pub fn all() -> Roles {
        Roles {
            worker: Some(WorkerOptions::default()),
            timers: true,
            reconciler: true,
        }
    }
}

/// Why [`Engine::serve`] ended by itself.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServeError {
    /// A role could not begin, or the broker was closed.
    #[error(transparent)]
    Broker(#[from] BrokerError),
    /// The store takes nothing more until it is opened again, which is the business of another process: what this one executes it cannot
    /// record.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// The engine. Clones share it.
#[derive(Clone)]
pub struct Engine {
    inner: Arc<Inner>,
}

impl fmt::Debug for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Engine")
            .field("registry", &self.inner.registry)
            .finish_non_exhaustive()
    }
}

pub(crate) struct Inner {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) broker: Arc<dyn Broker>,
    one_file: Option<OneFile>,
    registry: Registry,
    names: Arc<Names>,
    publish: Publish,
    /// What was declared, for those who find a part of it gone.
    topology: Topology,
    secrets: Arc<dyn Secrets>,
    clock: Arc<dyn Clock>,
    options: EngineOptions,
    commits: Batcher<Arc<Finished>, Result<Committed, StoreError>>,
    starts: Batcher<NewRun, Result<Started, StoreError>>,
    loads: Batcher<(RunId, Load), Result<Option<Loaded>, StoreError>>,
    marks: Batcher<RunId, Result<(), StoreError>>,
    reminders: Batcher<NewTimer, Result<(), StoreError>>,
    signals: Signals,
    starter: Starter,
    plans: Plans,
    hub: Arc<Hub>,
    observer: Observer,
    timers: TimerHints,
    local: LocalRuns,
    suspects: Suspects,
    underway: Underway,
    cancels: Cancels,
    unread: Unread,
    health: Arc<Health>,
    /// Why this process can record nothing more, if so.
    failed: watch::Sender<Option<StoreError>>,
    metrics: Arc<Metrics>,
}

impl Engine {
    /// Declares the topology and makes the engine. Spawns the task that publishes status messages, if any are wanted.
    pub async fn new(parts: EngineParts) -> Result<Engine, BrokerError> {
        let EngineParts {
            store,
            broker,
            one_file,
            registry,
            names,
            publish,
            secrets,
            clock,
            options,
        } = parts;
        names.check_store(&*store)?;
        let topology = names.topology(publish);
        broker.declare(&topology).await?;
        let names = Arc::new(names);
        let hub = Arc::new(Hub::default());
        let metrics = Arc::new(Metrics::new(registry.names()));
        let health = Arc::<Health>::default();
        let (observer, publishing) = Observer::new(
            publish.status,
            names.clone(),
            hub.clone(),
            Publisher {
                broker: broker.clone(),
                topology: topology.clone(),
                metrics: metrics.clone(),
                health: health.clone(),
                losing: Arc::default(),
            },
        );
        tokio::spawn(publishing);
        let clock = store_time(&store, clock).await;
        let awake = options.keep_cpus_awake.then(Awake::start).flatten();
        let inner = Inner {
            commits: commits(&store, metrics.clone(), awake),
            starts: starts(&store),
            loads: loads(&store),
            marks: marks(&store),
            reminders: reminders(&store),
            signals: signals::batcher(&store, &clock),
            starter: Starter::default(),
            store,
            broker,
            one_file,
            registry,
            names,
            publish,
            topology,
            secrets,
            clock,
            options,
            plans: Plans::default(),
            hub,
            observer,
            timers: TimerHints::default(),
            local: LocalRuns::default(),
            suspects: Suspects::default(),
            underway: Underway::default(),
            cancels: Cancels::default(),
            unread: Unread::default(),
            health,
            failed: watch::Sender::new(None),
            metrics,
        };
        let inner = Arc::new(inner);
        if inner.one_file.is_none() {
            tokio::spawn(Starter::task(&inner));
        }
        Ok(Engine { inner })
    }

    /// Plays the roles until `shutdown` turns true, then drains. An error means that a role could not begin, or that the store takes nothing
    /// more: the process is to be started again.
    ///
    /// A drain ends 2 s after the [drain timeout](WorkerOptions::drain_timeout) at the latest, whatever store and broker do: what is under way
    /// then is dropped, and taken up by others as after a crash.
    pub async fn serve(
        &self,
        roles: Roles,
        shutdown: watch::Receiver<bool>,
    ) -> Result<(), ServeError> {
        let inner = &self.inner;
        let works = roles.worker.is_some();
        // Tasks of their own, which the runtime's threads poll: the caller may be outside of these, in `block_on`.
        let mut playing = JoinSet::new();
        if inner.publish != Publish::NOTHING {
            playing.spawn(unread::run(inner.clone(), shutdown.clone()).map(Ok));
        }
        if roles.timers {
            playing.spawn(timers::run(inner.clone(), shutdown.clone()).map(Ok));
            playing.spawn(schedules::run(self.clone(), shutdown.clone()).map(Ok));
        }
        if roles.reconciler {
            playing.spawn(reconciler::run(inner.clone(), shutdown.clone()).map(Ok));
            if let Some(kept) = inner.options.retention {
                playing.spawn(pruner::run(inner.clone(), kept, shutdown.clone()).map(Ok));
            }
        }
        let options = roles.worker.unwrap_or_default();
        let drain_max = options.drain_timeout + DRAIN_MARGIN;
        let mut stopping = shutdown.clone();
        let late = async move {
            drop(stopping.wait_for(|stop| *stop).await);
            tokio::time::sleep(drain_max).await;
        };
        if works {
            let receiving = signals::consume(self.clone(), options.clone(), shutdown.clone());
            playing.spawn(receiving);
            playing.spawn(worker::work(inner.clone(), options, shutdown));
        }
        let mut failed = inner.failed.subscribe();
        let failed = async {
            let failed = failed.wait_for(Option::is_some).await.ok();
            failed.and_then(|error| error.clone())
        };
        let played = async {
            while let Some(played) = playing.join_next().await {
                match played {
                    Ok(result) => result?,
                    Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
                    Err(_) => return Err(BrokerError::Closed.into()),
                }
            }
            Ok(())
        };
        tokio::select! {
            biased;
            Some(error) = failed => Err(error.into()),
            result = played => result,
            () = late => {
                tracing::warn!("the roles did not come to rest in time; what they were at is left to others");
                Ok(())
            }
        }
    }

    /// Fires the timers that are due; returns how many. [`serve`](Self::serve) does this by itself.
    pub async fn fire_timers_once(&self) -> Result<usize, StoreError> {
        timers::run_once(&self.inner, self.inner.clock.now())
            .await
            .map_err(store_error)
    }

    /// Removes runs that ended before that time, with all that is recorded of them; returns how many. [`serve`](Self::serve) does this by itself,
    /// after [`EngineOptions::retention`].
    pub async fn prune(&self, ended_before: Timestamp) -> Result<u64, StoreError> {
        let removed = pruner::run_once(&*self.inner.store, ended_before).await?;
        self.inner.metrics.runs_pruned.add(removed);
        Ok(removed)
    }

    /// Fires the schedules that are due; returns how many were looked at. [`serve`](Self::serve) does this by itself.
    pub async fn fire_schedules_once(&self) -> Result<usize, StoreError> {
        schedules::run_once(self, self.inner.clock.now()).await
    }

    /// Takes up stalled runs; returns how many runs were looked at. [`serve`](Self::serve) does this by itself.
    pub async fn reconcile_once(&self) -> Result<u32, StoreError> {
        reconciler::run_once(&self.inner, self.inner.clock.now())
            .await
            .map_err(store_error)
    }

    /// The parts that are not well: empty when ready.
    pub async fn not_ready(&self, needs_consumer: bool) -> Vec<Part> {
        let inner = &self.inner;
        inner
            .health
            .set(Part::Store, inner.store.ping().await.is_ok());
        inner.health.set(Part::Broker, inner.broker.is_connected());
        [Part::Store, Part::Broker, Part::Consumer, Part::Publishing]
            .into_iter()
            .filter(|part| *part != Part::Consumer || needs_consumer)
            .filter(|part| !inner.health.get(*part))
            .collect()
    }

    /// What waits to be published, and why. Not empty where [`not_ready`](Self::not_ready) names [`Part::Publishing`].
    pub fn held_back(&self) -> Vec<String> {
        self.inner.health.reasons()
    }

    /// What is well enough to work, and needs somebody's attention: queues that grow as nobody reads them, status messages that are lost.
    /// Known in a process that [serves](Self::serve).
    pub fn warnings(&self) -> Vec<String> {
        let inner = &self.inner;
        let losing = inner.observer.losing();
        let losing = losing.map(|reason| format!("status messages are lost: {reason}"));
        let unread = inner.unread.queues().into_iter();
        let unread = unread.map(|(queue, messages)| unread::advice(inner, &queue, messages));
        unread.chain(losing).collect()
    }

    /// The queues that are for others to consume.
    pub(crate) fn for_others(&self) -> Vec<Arc<str>> {
        self.inner.names.for_others(self.inner.publish)
    }

    /// Those of them that nobody reads and that grow.
    pub(crate) fn unread(&self) -> Vec<Arc<str>> {
        let unread = self.inner.unread.queues().into_iter();
        unread.map(|(queue, _)| queue).collect()
    }

    /// The store.
    pub fn store(&self) -> &Arc<dyn Store> {
        &self.inner.store
    }

    /// The broker.
    pub fn broker(&self) -> &Arc<dyn Broker> {
        &self.inner.broker
    }

    /// The node types.
    pub fn registry(&self) -> &Registry {
        &self.inner.registry
    }

    /// Names of exchange and queues.
    pub fn names(&self) -> &Names {
        &self.inner.names
    }

    /// The names of the queues that it declared. A broker answers a question for another one with an error.
    pub(crate) fn queues(&self) -> Vec<Arc<str>> {
        let topology = self.inner.names.topology(self.inner.publish);
        let queues = topology.queues.into_iter();
        queues.map(|queue| queue.name).collect()
    }

    /// Time and randomness.
    pub fn clock(&self) -> &Arc<dyn Clock> {
        &self.inner.clock
    }

    /// The metrics.
    pub fn metrics(&self) -> &Arc<Metrics> {
        &self.inner.metrics
    }

    /// Waits until what was under way to the broker has arrived: status messages, and first jobs. What follows from a job is published before its
    /// delivery is acknowledged.
    pub async fn flush(&self) {
        tokio::join!(self.inner.observer.flush(), self.inner.starter.at_rest());
    }

    /// Closes broker and store, in this order. What is under way to the broker has 10 s to arrive. First jobs that did not are published by
    /// another process, or the next one.
    pub async fn close(&self) {
        let inner = &self.inner;
        drop(tokio::time::timeout(CLOSE_TIME_MAX, self.flush()).await);
        inner.broker.close().await;
        // Runs of which it is known by now that their first jobs are not published are being marked.
        drop(tokio::time::timeout(CLOSE_TIME_MAX, inner.starter.at_rest()).await);
        inner.store.close().await;
    }
}

/// The clock that the store's is, if it has one. A store that does not answer now is asked again.
async fn store_time(store: &Arc<dyn Store>, own: Arc<dyn Clock>) -> Arc<dyn Clock> {
    let clock = Arc::new(StoreClock::new(own.clone()));
    if let Ok(None) = clock.sample(&**store).await {
        return own;
    }
    tokio::spawn(clock.clone().keep(store.clone()));
    clock
}

fn store_error(error: timers::FireError) -> StoreError {
    match error {
        timers::FireError::Store(error) => error,
        timers::FireError::Broker(error) => StoreError::Unavailable {
            detail: error.to_string(),
        },
    }
}

fn commits(
    store: &Arc<dyn Store>,
    metrics: Arc<Metrics>,
    awake: Option<Awake>,
) -> Batcher<Arc<Finished>, Result<Committed, StoreError>> {
    let store = store.clone();
    let Batching {
        steps_max,
        calls_max,
    } = store.batching();
    Batcher::new(steps_max, calls_max, move |batch: Vec<Arc<Finished>>| {
        metrics.commit_steps.observe(batch.len() as u64);
        if let Some(awake) = &awake {
            awake.used();
        }
        let store = store.clone();
        async move { commit_each(&*store, &batch).await }
    })
}

/// The most starts or loads in one call of the store, and the most of these calls at the same time.
const CALL_MAX: usize = 512;
const CALLS_MAX: usize = 4;

fn starts(store: &Arc<dyn Store>) -> Batcher<NewRun, Result<Started, StoreError>> {
    let store = store.clone();
    Batcher::new(CALL_MAX, CALLS_MAX, move |batch: Vec<NewRun>| {
        let store = store.clone();
        async move { start_each(&*store, &batch).await }
    })
}

fn marks(store: &Arc<dyn Store>) -> Batcher<RunId, Result<(), StoreError>> {
    let store = store.clone();
    Batcher::new(CALL_MAX, 1, move |batch: Vec<RunId>| {
        let store = store.clone();
        async move { vec![store.mark_unbegun(&batch).await; batch.len()] }
    })
}

fn reminders(store: &Arc<dyn Store>) -> Batcher<NewTimer, Result<(), StoreError>> {
    let store = store.clone();
    Batcher::new(CALL_MAX, 1, move |batch: Vec<NewTimer>| {
        let store = store.clone();
        async move { vec![store.set_timers(&batch).await; batch.len()] }
    })
}

fn loads(store: &Arc<dyn Store>) -> Batcher<(RunId, Load), Result<Option<Loaded>, StoreError>> {
    let store = store.clone();
    Batcher::new(CALL_MAX, CALLS_MAX, move |batch: Vec<(RunId, Load)>| {
        let store = store.clone();
        async move { load_each(&*store, &batch).await }
    })
}

/// How much longer than the worker's drain the other roles may take, and the worker to give up.
const DRAIN_MARGIN: Duration = Duration::from_secs(2);

/// How long closing waits for what is under way to the broker.
const CLOSE_TIME_MAX: Duration = Duration::from_secs(10);

impl From<Gone> for StoreError {
    fn from(_: Gone) -> StoreError {
        StoreError::Closed
    }
}

/// Pauses between attempts at a store that is away: 50 ms, doubling to 2 s.
fn store_pause(attempt: u32) -> Duration {
    Duration::from_millis(50 << attempt.min(5)).min(Duration::from_secs(2))
}

impl Inner {
    /// Repeats a call until the store is back: what was executed is not thrown away. The flag says that a call failed in between, so that
    /// it may have happened nevertheless.
    async fn durably<T, F>(&self, mut call: impl FnMut() -> F) -> Result<(T, bool), StoreError>
    where
        F: Future<Output = Result<T, StoreError>>,
    {
        let mut attempt = 0;
        loop {
            match call().await {
                Ok(value) => {
                    if attempt > 0 {
                        self.health.set(Part::Store, true);
                    }
                    return Ok((value, attempt > 0));
                }
                Err(error) if error.is_retryable() => {
                    self.metrics.store_errors.inc();
                    self.health.set(Part::Store, false);
                    if attempt == 0 {
                        tracing::warn!(%error, "the store is away; holding what is at hand");
                    }
                    tokio::time::sleep(store_pause(attempt)).await;
                    attempt += 1;
                }
                Err(error) => {
                    self.look_at(&error);
                    return Err(error);
                }
            }
        }
    }

    /// Ends [`serve`](Engine::serve) if the store takes nothing more.
    fn look_at(&self, error: &StoreError) {
        if let StoreError::Uncertain { .. } = error {
            self.health.set(Part::Store, false);
            self.failed.send_replace(Some(error.clone()));
        }
    }

    /// What could not be published is held back, for this reason, until `held` is none.
    fn hold_back(&self, held: &mut Option<HeldBack>, what: What, reason: &BrokerError) {
        match held {
            Some(held) => held.because(reason),
            None => *held = Some(self.health.hold_back(what, reason)),
        }
    }

    /// Declares the topology again, if the error says that somebody deleted a part of it.
    async fn declare_again(&self, error: &BrokerError) {
        let is_missing = matches!(
            error,
            BrokerError::Unroutable { .. } | BrokerError::NotFound { .. }
        );
        if !is_missing {
            return;
        }
        if let Err(error) = self.broker.declare(&self.topology).await {
            tracing::warn!(%error, "the exchange and the queues cannot be declared");
        }
    }

    async fn commit_durably(
        &self,
        batch: &[Arc<Finished>],
    ) -> Result<(Vec<Committed>, bool), StoreError> {
        self.durably(|| async {
            if let [only] = batch {
                return Ok(vec![self.commits.submit(only.clone()).await??]);
            }
            let answers = self.commits.submit_all(batch.to_vec()).await?;
            answers.into_iter().collect()
        })
        .await
    }

    async fn start_durably(&self, new: NewRun) -> Result<Started, StoreError> {
        let (started, ambiguous) = self.durably(|| self.start(new.clone())).await?;
        if !ambiguous || started != Started::Exists(RunStatus::Running) {
            return Ok(started);
        }
        // If it is the same, the answer to the call that began it was lost: it is ours.
        let run = self.run(&new.run_id).await?;
        let ours =
            run.is_some_and(|run| run.workflow_hash == new.workflow.hash && run.input == new.input);
        Ok(if ours { Started::New } else { started })
    }

    async fn start(&self, new: NewRun) -> Result<Started, StoreError> {
        self.starts.submit(new).await?
    }

    async fn load(&self, run_id: &RunId, load: Load) -> Result<Option<Loaded>, StoreError> {
        let call = || async { self.loads.submit((run_id.clone(), load.clone())).await? };
        Ok(self.durably(call).await?.0)
    }

    /// What should be running of a run, as far as it follows from these.
    async fn outstanding(
        &self,
        run_id: &RunId,
        plan: &Plan,
        from: &[Ready],
    ) -> Result<Found, StoreError> {
        let read = |places: Option<Vec<(NodeRef, Scope)>>| async move {
            match places {
                None => Ok(self.durably(|| self.store.progress(run_id)).await?.0),
                Some(places) => self.progress_at(run_id, &places).await,
            }
        };
        course::outstanding(&plan.workflow, from, read).await
    }

    async fn progress_at(
        &self,
        run_id: &RunId,
        places: &[(NodeRef, Scope)],
    ) -> Result<Option<Progress>, StoreError> {
        let read = || self.store.progress_at(run_id, places);
        Ok(self.durably(read).await?.0)
    }

    async fn run(&self, run_id: &RunId) -> Result<Option<RunRecord>, StoreError> {
        Ok(self.durably(|| self.store.run(run_id)).await?.0)
    }

    async fn cancel(
        &self,
        run_id: &RunId,
        at: Timestamp,
    ) -> Result<Option<(RunEnd, bool)>, StoreError> {
        let cancel = || self.store.cancel(run_id, at);
        Ok(self.durably(cancel).await?.0)
    }

    async fn remind(&self, timer: NewTimer) -> Result<(), StoreError> {
        let set = || async { self.reminders.submit(timer.clone()).await? };
        self.durably(set).await.map(drop)
    }

    async fn set_redeliveries(&self, key: &StepKey, count: u32) -> Result<(), StoreError> {
        let set = || self.store.set_redeliveries(key, count);
        self.durably(set).await.map(drop)
    }

    /// The workflow of a hash: from the cache, else from the store.
    async fn plan(&self, hash: &WorkflowHash) -> Result<Option<Arc<Plan>>, StoreError> {
        if let Some(plan) = self.plans.get(hash) {
            return Ok(Some(plan));
        }
        let Some(definition) = self.durably(|| self.store.definition(hash)).await?.0 else {
            return Ok(None);
        };
        self.plans
            .parse(&definition, &self.registry)
            .map(Some)
            .map_err(|diagnostics| StoreError::corrupt(format!("definition {hash}: {diagnostics}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{broker::memory::MemoryBroker, store::memory::MemoryStore};

    /// Only another process can open the store again, and a supervisor starts one.
    #[tokio::test(start_paused = true)]
    async fn serving_ends_when_the_store_takes_nothing_more() {
        let parts = EngineParts::new(Arc::new(MemoryStore::new()), Arc::new(MemoryBroker::new()));
        let engine = Engine::new(parts).await.expect("declares");
        let (_stop, stopped) = watch::channel(false);
        let serving = engine.serve(Roles::all(), stopped);
        let call = engine.inner.durably(|| async {
            Err::<(), _>(StoreError::Uncertain {
                detail: "fsync".to_owned(),
            })
        });
        let both = async { tokio::join!(serving, call) };
        let both = tokio::time::timeout(Duration::from_secs(60), both).await;
        let (served, called) = both.expect("serving ends");
        assert!(called.is_err());
        let served = served.expect_err("not by itself");
        assert!(
            matches!(served, ServeError::Store(StoreError::Uncertain { .. })),
            "{served}"
        );
    }
}
