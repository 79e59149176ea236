//! A store and a broker that delay, fail, lose answers, duplicate and crash, by a seed; and write down what they did.

mod losing;

use std::{
    future::Future,
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use leveret::{
    broker::{
        Binding, Broker, BrokerError, Capabilities, ConsumeOptions, Consumer, Publication,
        QueueStats, Receipt, Topology, Unfinished,
    },
    core::{
        ids::{NodeId, RunId, Scope, StepKey, WorkflowId},
        json::Json,
        time::Timestamp,
        workflow::{Workflow, WorkflowHash},
    },
    store::{
        Committed, Finished, Load, Loaded, NewRun, NewSignal, NewTimer, NodeRef, Outcome, Pass,
        Progress, RunEnd, RunFilter, RunRecord, Signalled, Started, StepHead, StepRecord, Store,
        StoreError, Timer, WaitFilter, WaitRecord, WorkflowRecord,
    },
};
use tokio::sync::watch;

pub(crate) use self::losing::LosingBroker;

/// What the whole simulation shares: randomness by the seed, and what happened.
#[derive(Debug)]
pub(crate) struct World {
    random: fastrand::Rng,
    /// How many more crashes there will be.
    crashes_left: u32,
    /// How many more calls fail.
    failures_left: u32,
    /// How many more jobs are lost by the broker before it confirms them, while somebody executes them.
    losses_left: u32,
    pub(crate) trace: Vec<String>,
    /// Steps recorded as final, and ends of runs, as often as it was said.
    pub(crate) recorded: Vec<String>,
    pub(crate) ended: Vec<RunId>,
}

impl World {
    /// Jobs are lost where no process crashes: who published one that was lost publishes it again.
    pub(crate) fn new(seed: u64) -> Arc<Mutex<World>> {
        let mut random = fastrand::Rng::with_seed(seed);
        let (crashes, losses) = (random.u32(0..8), random.u32(0..8));
        let broker_loses = random.bool();
        Arc::new(Mutex::new(World {
            crashes_left: if broker_loses { 0 } else { crashes },
            failures_left: random.u32(0..12),
            losses_left: if broker_loses { losses } else { 0 },
            random,
            trace: Vec::new(),
            recorded: Vec::new(),
            ended: Vec::new(),
        }))
    }

    pub(crate) fn below(&mut self, n: u32) -> u32 {
        self.random.u32(0..n)
    }
}

/// One life of one process: its calls go wrong until it crashes, and then never return.
#[derive(Clone, Debug)]
pub(crate) struct Life {
    name: Arc<str>,
    world: Arc<Mutex<World>>,
    dead: watch::Sender<bool>,
}

enum Fate {
    Fine,
    FailsBefore,
    FailsAfter,
    CrashesBefore,
    CrashesAfter,
}

impl Life {
    pub(crate) fn new(name: String, world: Arc<Mutex<World>>) -> Life {
        Life {
            name: name.into(),
            world,
            dead: watch::Sender::new(false),
        }
    }

    /// Returns when the process crashes.
    pub(crate) async fn crashed(&self) {
        let mut dead = self.dead.subscribe();
        dead.wait_for(|dead| *dead)
            .await
            .expect("the sender is here");
    }

    fn note(&self, what: &str) {
        let mut world = self.world.lock().unwrap();
        let line = format!("{} {what}", self.name);
        world.trace.push(line);
    }

    fn draw(&self, call: &str) -> (Fate, Duration) {
        let mut world = self.world.lock().unwrap();
        let delay = Duration::from_millis(u64::from(world.below(4)) * u64::from(world.below(20)));
        let fate = match world.below(60) {
            0 if world.crashes_left > 0 => Fate::CrashesBefore,
            1 if world.crashes_left > 0 => Fate::CrashesAfter,
            2 if world.failures_left > 0 => Fate::FailsBefore,
            3 if world.failures_left > 0 => Fate::FailsAfter,
            _ => Fate::Fine,
        };
        let outcome = match fate {
            Fate::Fine => "",
            Fate::FailsBefore | Fate::FailsAfter => {
                world.failures_left -= 1;
                " fails"
            }
            Fate::CrashesBefore | Fate::CrashesAfter => {
                world.crashes_left -= 1;
                " crashes"
            }
        };
        let line = format!("{} {call}{outcome}", self.name);
        world.trace.push(line);
        (fate, delay)
    }

    /// Whether the process crashes in the middle of a call that it has sent, and then how much later the call takes effect.
    fn dies_before_its_last_words_arrive(&self, call: &str) -> Option<Duration> {
        let mut world = self.world.lock().unwrap();
        if *self.dead.borrow() || world.crashes_left == 0 || world.below(30) > 0 {
            return None;
        }
        world.crashes_left -= 1;
        let delay = Duration::from_millis(u64::from(world.below(150)));
        let line = format!("{} {call} crashes and takes effect later", self.name);
        world.trace.push(line);
        Some(delay)
    }

    async fn die(&self) -> ! {
        self.dead.send_replace(true);
        std::future::pending().await
    }

    /// A call: late, perhaps failing before or after it took effect, perhaps the last thing that the process does.
    async fn call<T, E>(
        &self,
        name: &str,
        unavailable: E,
        call: impl Future<Output = Result<T, E>>,
    ) -> Result<T, E> {
        if *self.dead.borrow() {
            std::future::pending::<()>().await;
        }
        let (fate, delay) = self.draw(name);
        if !delay.is_zero() {
            tokio::time::sleep(delay).await;
        }
        if *self.dead.borrow() {
            std::future::pending::<()>().await;
        }
        match fate {
            Fate::Fine => {}
            Fate::FailsBefore => return Err(unavailable),
            Fate::CrashesBefore => self.die().await,
            Fate::FailsAfter => {
                drop(call.await);
                return Err(unavailable);
            }
            Fate::CrashesAfter => {
                drop(call.await);
                self.die().await;
            }
        }
        let result = call.await;
        if *self.dead.borrow() {
            std::future::pending::<()>().await;
        }
        result
    }

    async fn store<T>(
        &self,
        name: &str,
        call: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        self.call(
            name,
            StoreError::Unavailable {
                detail: "chaos".to_owned(),
            },
            call,
        )
        .await
    }
}

/// A store as one life of a process sees it.
#[derive(Clone)]
pub(crate) struct ChaosStore {
    pub(crate) inner: Arc<dyn Store>,
    pub(crate) life: Life,
}

impl ChaosStore {
    /// What the store says was recorded, whether or not the process hears of it.
    async fn commit_and_note(&self, batch: &[Arc<Finished>]) -> Result<Vec<Committed>, StoreError> {
        let results = self.inner.commit(batch).await?;
        for (finished, result) in batch.iter().zip(&results) {
            let key = finished.key().idempotency_key();
            if let Committed::Recorded { end, .. } = result {
                self.life.note(&format!("recorded {key}"));
                let mut world = self.life.world.lock().unwrap();
                if !matches!(finished.outcome, Outcome::Waiting { .. }) {
                    world.recorded.push(key);
                }
                if end.is_some() {
                    world.ended.push(finished.run_id.clone());
                }
            }
        }
        Ok(results)
    }
}

#[async_trait]
impl Store for ChaosStore {
    async fn put_workflow(
        &self,
        w: &Workflow,
        now: Timestamp,
    ) -> Result<(WorkflowRecord, bool), StoreError> {
        self.life
            .store("put_workflow", self.inner.put_workflow(w, now))
            .await
    }
    async fn workflow(&self, id: &WorkflowId) -> Result<Option<WorkflowRecord>, StoreError> {
        self.life.store("workflow", self.inner.workflow(id)).await
    }
    async fn workflow_version(
        &self,
        id: &WorkflowId,
        version: u32,
    ) -> Result<Option<WorkflowRecord>, StoreError> {
        self.life
            .store("workflow_version", self.inner.workflow_version(id, version))
            .await
    }
    async fn definition(&self, hash: &WorkflowHash) -> Result<Option<Json>, StoreError> {
        self.life
            .store("definition", self.inner.definition(hash))
            .await
    }
    async fn workflows(
        &self,
        after: Option<&WorkflowId>,
        limit: u32,
    ) -> Result<Vec<WorkflowRecord>, StoreError> {
        self.life
            .store("workflows", self.inner.workflows(after, limit))
            .await
    }
    async fn start(&self, batch: &[NewRun]) -> Result<Vec<Started>, StoreError> {
        self.life.store("start", self.inner.start(batch)).await
    }
    async fn commit(&self, batch: &[Arc<Finished>]) -> Result<Vec<Committed>, StoreError> {
        if let Some(delay) = self.life.dies_before_its_last_words_arrive("commit") {
            let (store, batch) = (self.clone(), batch.to_vec());
            tokio::spawn(async move {
                tokio::time::sleep(delay).await;
                // Nobody is there to hear it.
                drop(store.commit_and_note(&batch).await);
            });
            self.life.die().await;
        }
        self.life.store("commit", self.commit_and_note(batch)).await
    }
    async fn load(&self, batch: &[(RunId, Load)]) -> Result<Vec<Option<Loaded>>, StoreError> {
        self.life.store("load", self.inner.load(batch)).await
    }
    async fn set_redeliveries(&self, key: &StepKey, count: u32) -> Result<(), StoreError> {
        let set = self.inner.set_redeliveries(key, count);
        self.life.store("set_redeliveries", set).await
    }
    async fn claim_timers(
        &self,
        now: Timestamp,
        claim: Duration,
        limit: u32,
    ) -> Result<Vec<Timer>, StoreError> {
        self.life
            .store("claim_timers", self.inner.claim_timers(now, claim, limit))
            .await
    }
    async fn set_timers(&self, timers: &[NewTimer]) -> Result<(), StoreError> {
        self.life
            .store("set_timers", self.inner.set_timers(timers))
            .await
    }
    async fn remove_timers(&self, timers: &[Timer]) -> Result<(), StoreError> {
        self.life
            .store("remove_timers", self.inner.remove_timers(timers))
            .await
    }
    async fn next_timer(&self) -> Result<Option<Timestamp>, StoreError> {
        self.life.store("next_timer", self.inner.next_timer()).await
    }
    async fn mark_unbegun(&self, runs: &[RunId]) -> Result<(), StoreError> {
        self.life
            .store("mark_unbegun", self.inner.mark_unbegun(runs))
            .await
    }
    async fn claim_unbegun(
        &self,
        until: Timestamp,
        limit: u32,
    ) -> Result<Vec<(RunId, WorkflowHash)>, StoreError> {
        self.life
            .store("claim_unbegun", self.inner.claim_unbegun(until, limit))
            .await
    }
    async fn claim_stalled(
        &self,
        now: Timestamp,
        quiet: Duration,
        limit: u32,
    ) -> Result<(Vec<RunId>, u32), StoreError> {
        self.life
            .store("claim_stalled", self.inner.claim_stalled(now, quiet, limit))
            .await
    }
    async fn signal(
        &self,
        batch: &[NewSignal],
        now: Timestamp,
        claim: Duration,
    ) -> Result<Vec<Signalled>, StoreError> {
        let signalled = self.inner.signal(batch, now, claim);
        self.life.store("signal", signalled).await
    }
    async fn waits(&self, filter: &WaitFilter) -> Result<Vec<WaitRecord>, StoreError> {
        self.inner.waits(filter).await
    }
    async fn put_off(&self, runs: &[RunId], until: Timestamp) -> Result<(), StoreError> {
        self.life
            .store("put_off", self.inner.put_off(runs, until))
            .await
    }
    async fn progress_at(
        &self,
        run_id: &RunId,
        places: &[(NodeRef, Scope)],
    ) -> Result<Option<Progress>, StoreError> {
        self.life
            .store("progress_at", self.inner.progress_at(run_id, places))
            .await
    }
    async fn waiting_steps(
        &self,
        run_id: &RunId,
        limit: u32,
    ) -> Result<Vec<(NodeId, Scope)>, StoreError> {
        self.life
            .store("waiting_steps", self.inner.waiting_steps(run_id, limit))
            .await
    }
    async fn progress(&self, run_id: &RunId) -> Result<Option<Progress>, StoreError> {
        self.life
            .store("progress", self.inner.progress(run_id))
            .await
    }
    async fn timers_of(
        &self,
        run_id: &RunId,
    ) -> Result<Vec<(NodeId, Scope, Timestamp)>, StoreError> {
        self.inner.timers_of(run_id).await
    }
    async fn prune(
        &self,
        before: Timestamp,
        pass: Pass,
        limit: u32,
    ) -> Result<(u32, Option<Pass>), StoreError> {
        self.inner.prune(before, pass, limit).await
    }
    async fn cancel(
        &self,
        run_id: &RunId,
        now: Timestamp,
    ) -> Result<Option<(RunEnd, bool)>, StoreError> {
        let cancel = async {
            let cancelled = self.inner.cancel(run_id, now).await?;
            if let Some((_, true)) = cancelled {
                self.life.note(&format!("cancelled {run_id}"));
                self.life.world.lock().unwrap().ended.push(run_id.clone());
            }
            Ok(cancelled)
        };
        self.life.store("cancel", cancel).await
    }
    async fn run(&self, run_id: &RunId) -> Result<Option<RunRecord>, StoreError> {
        self.life.store("run", self.inner.run(run_id)).await
    }
    async fn steps(&self, run_id: &RunId) -> Result<Vec<StepRecord>, StoreError> {
        self.life.store("steps", self.inner.steps(run_id)).await
    }
    async fn step_heads(&self, run_id: &RunId) -> Result<Vec<StepHead>, StoreError> {
        let heads = self.inner.step_heads(run_id);
        self.life.store("step_heads", heads).await
    }
    async fn steps_at(
        &self,
        run_id: &RunId,
        steps: &[(NodeRef, Scope)],
    ) -> Result<Vec<Option<StepRecord>>, StoreError> {
        let steps = self.inner.steps_at(run_id, steps);
        self.life.store("steps_at", steps).await
    }
    async fn runs(&self, filter: &RunFilter) -> Result<Vec<RunRecord>, StoreError> {
        self.life.store("runs", self.inner.runs(filter)).await
    }
    fn schedules(&self) -> Arc<dyn leveret::schedules::Schedules> {
        self.inner.schedules()
    }
    async fn ping(&self) -> Result<(), StoreError> {
        self.inner.ping().await
    }
    async fn close(&self) {}
}

/// A broker as one life of a process sees it: publishes may be repeated, overtaken and lost half-way.
pub(crate) struct ChaosBroker {
    pub(crate) inner: Arc<dyn Broker>,
    pub(crate) life: Life,
}

impl ChaosBroker {
    /// Publishes the batch in another order, and some of it twice.
    async fn publish_carelessly(
        &self,
        batch: Vec<Publication>,
    ) -> Result<Vec<Result<(), BrokerError>>, BrokerError> {
        let mut order: Vec<usize> = (0..batch.len()).collect();
        {
            let mut world = self.life.world.lock().unwrap();
            world.random.shuffle(&mut order);
            let twice: Vec<usize> = order
                .iter()
                .copied()
                .filter(|_| world.random.u32(0..10) == 0)
                .collect();
            order.extend(twice);
        }
        let mut results: Vec<Result<(), BrokerError>> = batch.iter().map(|_| Ok(())).collect();
        let shuffled: Vec<Publication> = order.iter().map(|&n| batch[n].clone()).collect();
        for (n, result) in order.into_iter().zip(self.inner.publish(shuffled).await) {
            if result.is_err() {
                results[n] = result;
            }
        }
        Ok(results)
    }
}

fn away() -> BrokerError {
    BrokerError::Unavailable {
        detail: "chaos".to_owned(),
    }
}

#[async_trait]
impl Broker for ChaosBroker {
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            shared: true,
            atomic_publish_then_ack: false,
            ..self.inner.capabilities()
        }
    }
    async fn declare(&self, topology: &Topology) -> Result<(), BrokerError> {
        self.inner.declare(topology).await
    }
    async fn unbind(&self, bindings: &[Binding]) -> Result<(), BrokerError> {
        self.inner.unbind(bindings).await
    }
    async fn publish(&self, batch: Vec<Publication>) -> Vec<Result<(), BrokerError>> {
        let count = batch.len();
        match self
            .life
            .call("publish", away(), self.publish_carelessly(batch))
            .await
        {
            Ok(results) => results,
            Err(error) => vec![Err(error); count],
        }
    }
    async fn publish_then_ack(
        &self,
        batch: Vec<Publication>,
        receipts: Vec<Receipt>,
    ) -> Result<(), Unfinished> {
        if receipts.iter().any(|receipt| !receipt.is_open()) {
            // The broker crashed in the meantime.
            return Err(Unfinished {
                error: away(),
                left: batch,
                receipts,
            });
        }
        let results = self.publish(batch.clone()).await;
        let receipts = Unfinished::of(batch, results, receipts)?;
        // A crash between the confirm and the ack.
        if let Err(error) = self.life.call("ack", away(), async { Ok(()) }).await {
            return Err(Unfinished {
                error,
                left: Vec::new(),
                receipts,
            });
        }
        receipts.into_iter().for_each(Receipt::ack);
        Ok(())
    }
    async fn consume(&self, options: ConsumeOptions) -> Result<Consumer, BrokerError> {
        self.inner.consume(options).await
    }
    async fn queue_stats(&self, queue: &str) -> Result<QueueStats, BrokerError> {
        self.inner.queue_stats(queue).await
    }
    async fn purge(&self, queue: &str) -> Result<u64, BrokerError> {
        self.inner.purge(queue).await
    }
    async fn delete_queue(&self, queue: &str) -> Result<(), BrokerError> {
        self.inner.delete_queue(queue).await
    }
    async fn delete_exchange(&self, exchange: &str) -> Result<(), BrokerError> {
        self.inner.delete_exchange(exchange).await
    }
    fn is_connected(&self) -> bool {
        true
    }
    async fn close(&self) {}
}
