//! One delivery of a job, from start to end: the loop of the worker.
//!
//! ```text
//! decode -> load what is needed -> execute -> commit -> (go on inline | publish) -> ack
//! ```
//!
//! A step with exactly one ready successor goes on here, on the same delivery, after its own commit. The unacknowledged delivery is the outbox:
//! what must be published follows from what is committed, so that a redelivery publishes it again.

mod batch;
mod ending;
mod fetch;
#[cfg(test)]
mod tests;

use std::{sync::Arc, time::Duration};

use leveret_core::{
    decide::{Decision, Joins, Ready, closes, decide, decide_start},
    graph::{NodeIx, Place, Role},
    ids::{RunId, Scope, StepKey},
    json::Json,
    time::Timestamp,
    workflow::WorkflowHash,
};
use tokio::time::Instant;

use self::batch::NoList;
use super::{
    Inner,
    course::Found,
    execute::{Attempt, ERROR_CHARS_MAX, error_of},
    hub::Trail,
    known::Known,
    plan::Plan,
    reconciler::attended,
    suspects::Turn,
    wire::{BadJob, Job},
};
use crate::{
    broker::{Message, Publication},
    store::{
        Committed, ErrorCode, Finished, Load, NewRun, NodeRef, NodeValue, Outcome, RunStatus,
        Started, StepError, StepStatus, StoreError, Waited, Woken, commit::ending_of,
    },
};

/// The largest definition that is parsed between other work, in bytes: a larger one takes a thread of its own.
const PARSED_HERE_MAX: usize = 32 << 10;

/// How many pure steps share a commit at most.
const PURE_STEPS_MAX: usize = 64;

/// How a delivery ends.
pub(crate) enum Disposal {
    /// Publish these, then ack.
    Done(Vec<Publication>),
    /// The run has ended: publish its completion, then ack. Whenever the step's job is published again, it comes to this again.
    Ended {
        completion: Publication,
        step: StepKey,
        /// Of the job.
        attempts: u32,
    },
    /// The message can never be handled: publish it to the dead-letter queue with this reason (and publish these), then ack.
    Dead(String, Vec<Publication>),
}

/// Why a delivery cannot be brought to an end now.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DriveError {
    #[error(transparent)]
    Bad(#[from] BadJob),
    #[error(transparent)]
    Store(#[from] StoreError),
    /// It is to be driven again when it has its [turn](super::suspects). Nothing was done.
    #[error("the step is suspected: it was counted {0} times before")]
    Suspected(u32),
}

/// How a job comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Coming {
    /// For the first time, as far as is known. If its step is recorded it is a mere copy: another delivery sees to what follows.
    Once,
    /// It may have been [published before](Publication::again), delivered and lost, so that nobody sees to what follows.
    PublishedAgain,
    /// It was delivered before, and perhaps ended its worker.
    Redelivered,
}

impl Coming {
    /// Of a delivery of this message.
    pub(crate) fn of(message: &Message, redelivered: bool) -> Coming {
        match redelivered {
            true => Coming::Redelivered,
            false if message.is_again() => Coming::PublishedAgain,
            false => Coming::Once,
        }
    }
}

/// Handles the body of a delivery. One that is suspected needs a turn.
pub(crate) async fn drive(
    inner: &Arc<Inner>,
    body: &[u8],
    coming: Coming,
    turn: Option<&Turn>,
) -> Result<Disposal, DriveError> {
    let job = Job::decode(body, inner.options.message_bytes_max)?;
    let plan = plan_of(inner, &job).await?;
    let node = plan.workflow.node_ix(job.node_id.as_str()).ok_or_else(|| {
        BadJob::Node(format!(
            "workflow '{}' has no node '{}'",
            plan.workflow.id, job.node_id
        ))
    })?;
    let place = place_of(&plan, node, &job)?;
    let mut drive = Drive::new(inner, plan, job.execution_id.clone(), coming);
    (drive.turn, drive.job) = (turn, (place.clone(), job.attempts));
    if job.cancel {
        drive.cancel(job.cancelled_at).await?;
        return Ok(drive.disposal());
    }
    let graph = &drive.plan.workflow.graph;
    if graph.opening(&place).is_some() {
        drive.open_by_job(&Ready { place, via: None }).await?;
        return Ok(drive.disposal());
    }
    let leads_here = |edge| graph.all_incoming(node).any(|known| known == edge);
    if !job.via.is_none_or(leads_here) {
        let message = format!("`via` is no edge into node '{}'", job.node_id);
        return Err(BadJob::Node(message).into());
    }
    let _turn = inner
        .underway
        .turn(
            &job.execution_id,
            &job.node_id,
            &place.scope,
            drive.comes_again(),
        )
        .await;
    drive.known.run_input.clone_from(&job.input);
    let ready = Ready {
        place,
        via: job.via,
    };
    if job.workflow.is_some() {
        drive.first(&job, ready).await?;
    } else if job.fresh && !drive.comes_again() && job.input.is_some() {
        drive
            .trail
            .begin(drive.plan.workflow.graph.starts().len() == 1);
        drive.chain(ready, 0, false).await?;
    } else {
        drive.later(&job, ready).await?;
    }
    Ok(drive.disposal())
}

/// Drives a run from its only start node, without a delivery at hand yet.
pub(crate) async fn drive_new(
    inner: &Arc<Inner>,
    plan: Arc<Plan>,
    new: NewRun,
    node: NodeIx,
) -> Result<Disposal, DriveError> {
    let mut drive = Drive::new(inner, plan, new.run_id, Coming::Once);
    drive.known.run_input = Some(new.input);
    let place = drive.plan.workflow.graph.start_place(node);
    (drive.unseen, drive.job) = (true, (place.clone(), 0));
    drive.trail.begin(true);
    drive.chain(Ready { place, via: None }, 0, false).await?;
    Ok(drive.disposal())
}

/// Where the step of a job stands. A first message has no scope: where the node stands when it begins a run.
fn place_of(plan: &Plan, node: NodeIx, job: &Job) -> Result<Place, BadJob> {
    let graph = &plan.workflow.graph;
    let place = match &job.scope {
        Some(scope) => Place {
            node,
            scope: Scope::new(&**scope),
        },
        None => graph.start_place(node),
    };
    if job.cancel || graph.fits(node, &place.scope) {
        return Ok(place);
    }
    let scope = place.scope.as_str();
    Err(BadJob::Node(format!(
        "node '{}' has no step in the scope '{scope}'",
        job.node_id
    )))
}

async fn plan_of(inner: &Arc<Inner>, job: &Job) -> Result<Arc<Plan>, DriveError> {
    if let Some(definition) = &job.workflow {
        definition
            .readable()
            .map_err(|error| BadJob::Definition(error.to_string()))?;
        let parse = {
            let (inner, definition, id) =
                (inner.clone(), definition.clone(), job.workflow_id.clone());
            move || {
                inner
                    .plans
                    .parse_named(&definition, &id, &inner.registry)
                    .map_err(|diagnostics| BadJob::Definition(diagnostics.to_string()))
            }
        };
        if definition.text().len() <= PARSED_HERE_MAX {
            return Ok(parse()?);
        }
        let parsed = tokio::task::spawn_blocking(parse).await;
        return Ok(parsed.map_err(|error| BadJob::Definition(error.to_string()))??);
    }
    let hash = match job.workflow_hash.as_ref().map(|text| text.parse()) {
        Some(Ok(hash)) => hash,
        Some(Err(_)) => return Err(BadJob::Malformed("workflow_hash is no hash".to_owned()).into()),
        None => {
            let loaded = inner.load(&job.execution_id, Load::default()).await?;
            loaded
                .ok_or_else(|| BadJob::UnknownRun(job.execution_id.clone()))?
                .workflow_hash
        }
    };
    let plan = inner.plan(&hash).await?;
    Ok(plan
        .ok_or_else(|| BadJob::Definition(format!("no definition with hash {hash} is stored")))?)
}

struct Drive<'a> {
    inner: &'a Arc<Inner>,
    plan: Arc<Plan>,
    run_id: RunId,
    coming: Coming,
    turn: Option<&'a Turn>,
    /// Where the job's step stands, and its attempts.
    job: (Place, u32),
    /// A step that waited for a signal, and how its wait stood when it was woken.
    waited: Option<(Place, Waited)>,
    /// The run's start is on its way to the disk: until something is recorded, which goes there behind it, nothing can be loaded.
    unseen: bool,
    known: Known,
    /// Steps that were executed and are not recorded yet, for status messages.
    begun: Vec<Begun>,
    publications: Vec<Publication>,
    /// Whether the run's completion is among them.
    tells_end: bool,
    trail: Trail,
    steps: u32,
    dead: Option<String>,
}

/// A step that was executed.
struct Begun {
    place: Place,
    /// Its parameters, unless a secret is among what they are made of.
    params: Option<Arc<serde_json::Value>>,
    /// Steps before it are not recorded yet, and it is told behind them.
    is_untold: bool,
}

impl Drive<'_> {
    fn new(inner: &Arc<Inner>, plan: Arc<Plan>, run_id: RunId, coming: Coming) -> Drive<'_> {
        Drive {
            inner,
            plan,
            run_id,
            coming,
            turn: None,
            job: (Place::root(0), 0),
            waited: None,
            unseen: false,
            known: Known::default(),
            begun: Vec::new(),
            publications: Vec::new(),
            tells_end: false,
            trail: Trail::default(),
            steps: 0,
            dead: None,
        }
    }

    /// Whether nobody else may see to what follows from steps that are recorded.
    fn comes_again(&self) -> bool {
        self.coming != Coming::Once
    }

    /// Whether the broker may have lost this very delivery, too, and others have seen to its job already. What others recorded is then gone on
    /// with by jobs of their own: whatever this delivery records beyond it, nobody would tell of.
    fn may_be_lost(&self) -> bool {
        self.coming == Coming::PublishedAgain
    }

    fn is_redelivered(&self) -> bool {
        self.coming == Coming::Redelivered
    }

    fn disposal(mut self) -> Disposal {
        if let Some(reason) = self.dead {
            return Disposal::Dead(reason, self.publications);
        }
        let (ref place, attempts) = self.job;
        let step = self.key(place);
        match self.publications.pop() {
            Some(completion) if self.tells_end && self.publications.is_empty() => Disposal::Ended {
                completion,
                step,
                attempts,
            },
            last => {
                self.publications.extend(last);
                Disposal::Done(self.publications)
            }
        }
    }

    fn key(&self, place: &Place) -> StepKey {
        StepKey {
            run_id: self.run_id.clone(),
            node_id: self.plan.node_id(place.node).clone(),
            scope: place.scope.clone(),
        }
    }

    /// A step as a load names it.
    fn step_of(&self, place: &Place) -> (NodeRef, Scope) {
        (self.node_ref(place.node), place.scope.clone())
    }

    /// The first message of a run, from a foreign client: begins the run, unless it began before.
    async fn first(&mut self, job: &Job, ready: Ready) -> Result<(), DriveError> {
        let plan = self.plan.clone();
        let starts = plan.workflow.graph.starts();
        if job.workflow_id != plan.workflow.id {
            let message = format!(
                "the message names workflow '{}', its definition '{}'",
                job.workflow_id, plan.workflow.id
            );
            return Err(BadJob::Node(message).into());
        }
        if !starts.contains(&ready.place.node) {
            let names: Vec<&str> = starts
                .iter()
                .map(|&node| plan.node_id(node).as_str())
                .collect();
            let message = format!(
                "a run cannot start at '{}': start nodes are {}",
                job.node_id,
                names.join(", ")
            );
            return Err(BadJob::Node(message).into());
        }
        let now = self.inner.clock.now();
        let input = job.input.clone().unwrap_or_default();
        input
            .readable()
            .map_err(|error| BadJob::Malformed(format!("the input cannot be taken in: {error}")))?;
        let all = decide_start(&plan.workflow.graph).ready;
        let others = all.into_iter().filter(|one| one.place != ready.place);
        let new = self.inner.new_run(
            self.run_id.clone(),
            plan.workflow.clone(),
            input.clone(),
            now,
        );
        match self.inner.start_durably(new).await? {
            Started::New => {
                self.inner.metrics.run_started(&plan.workflow.id);
                self.known.run_input = Some(input);
                for ready in others {
                    self.publish_job(&ready, false);
                }
                self.trail.begin(starts.len() == 1);
                let via = None;
                self.chain(Ready { via, ..ready }, 0, false).await
            }
            Started::Exists(_) => {
                if let Some(run) = self.inner.run(&self.run_id).await? {
                    self.expect_definition(&run.workflow_hash)?;
                    if run.input != input {
                        return Err(BadJob::OtherInput(self.run_id.clone()).into());
                    }
                }
                if self.comes_again() {
                    let begin = decide_start(&plan.workflow.graph).ready;
                    return self.resume(begin).await;
                }
                // A copy of a first message: the original, or its redelivery, sees to the run.
                self.inner.metrics.duplicates.inc();
                Ok(())
            }
        }
    }

    /// A job in the middle of a run, or one that comes again.
    async fn later(&mut self, job: &Job, ready: Ready) -> Result<(), DriveError> {
        let load = Load {
            step: Some(self.step_of(&ready.place)),
            redeliveries: self.is_redelivered(),
            // A job that wakes a step comes after an attempt.
            wait: job.attempts > 0,
            ..self.wanted(&ready, true)
        };
        let Some(loaded) = self.inner.load(&self.run_id, load.clone()).await? else {
            return Err(BadJob::UnknownRun(self.run_id.clone()).into());
        };
        self.expect_definition(&loaded.workflow_hash)?;
        if self.is_redelivered()
            && loaded.redeliveries >= self.inner.options.deliveries_max
            && matches!(loaded.step, Some((StepStatus::Failed, _)))
        {
            // It was given up; the dead letter may not have been published.
            self.dead = Some(given_up(loaded.redeliveries));
        }
        if loaded.status != RunStatus::Running {
            if self.comes_again() {
                self.repeat_completion().await?;
            }
            return Ok(());
        }
        self.learn(&load, &loaded);
        match loaded.step {
            Some((StepStatus::Waiting, attempts)) if job.attempts >= attempts => {
                self.waited = loaded.wait.map(|wait| (ready.place.clone(), wait));
                self.suspected(ready, attempts, true, loaded.redeliveries)
                    .await
            }
            Some((StepStatus::Waiting, _)) => Ok(()),
            Some(_) if self.comes_again() => self.resume([ready]).await,
            Some(_) => {
                self.inner.metrics.duplicates.inc();
                Ok(())
            }
            None => {
                self.suspected(ready, job.attempts, false, loaded.redeliveries)
                    .await
            }
        }
    }

    /// Nodes and edges are known by their places in the definition: another one would have others there.
    fn expect_definition(&self, of_run: &WorkflowHash) -> Result<(), DriveError> {
        if *of_run == self.plan.workflow.hash {
            return Ok(());
        }
        Err(BadJob::OtherDefinition(self.run_id.clone()).into())
    }

    /// Goes on from what is committed: publishes again what should be running, or goes on with it here if it is a single step of a delivery that
    /// comes again if it is lost.
    async fn resume(&mut self, from: impl IntoIterator<Item = Ready>) -> Result<(), DriveError> {
        let from: Vec<Ready> = from.into_iter().collect();
        let plan = self.plan.clone();
        loop {
            let ready = match self.inner.outstanding(&self.run_id, &plan, &from).await? {
                Found::Running(ready) => ready,
                Found::Ended => return self.repeat_completion().await,
                Found::NoRun => return Ok(()),
                Found::Other(hash) => return self.expect_definition(&hash),
            };
            let ([single], false) = (&ready[..], self.may_be_lost()) else {
                for ready in &ready {
                    self.publish_job(ready, true);
                }
                return Ok(());
            };
            let single = single.clone();
            if plan.workflow.graph.opening(&single.place).is_some() {
                return self.open(&single, true).await;
            }
            let load = Load {
                step: Some(self.step_of(&single.place)),
                redeliveries: true,
                ..self.wanted(&single, true)
            };
            let Some(loaded) = self.inner.load(&self.run_id, load.clone()).await? else {
                return Ok(());
            };
            self.learn(&load, &loaded);
            match loaded.step {
                None => return self.suspected(single, 0, false, loaded.redeliveries).await,
                Some((StepStatus::Waiting, _)) => return Ok(()),
                // Recorded just now: the last commit of a worker that died arrived after it. There is nobody else to go on from there.
                Some(_) => {}
            }
        }
    }

    /// Executes a step that may have ended its worker's process before. Each redelivery is counted, durably, before the step is executed, in
    /// its [turn](super::suspects), so that only a step which is at fault comes to the bound.
    async fn suspected(
        &mut self,
        ready: Ready,
        attempts: u32,
        woken: bool,
        counted: u32,
    ) -> Result<(), DriveError> {
        if !self.is_redelivered() {
            return self.chain(ready, attempts, woken).await;
        }
        let inner = self.inner;
        let key = self.key(&ready.place);
        if counted > 0 && !self.turn.is_some_and(|turn| turn.serves(counted)) {
            return Err(DriveError::Suspected(counted));
        }
        let _trial = inner.suspects.trial(key.clone(), counted);
        inner.set_redeliveries(&key, counted + 1).await?;
        if counted + 1 < inner.options.deliveries_max {
            return self.chain(ready, attempts, woken).await;
        }
        self.give_up(ready, attempts, counted + 1).await
    }

    /// Records a step as failed that ended its worker too often. Its job goes to the dead-letter queue, unless the step was recorded by another
    /// in the meantime.
    async fn give_up(
        &mut self,
        ready: Ready,
        attempts: u32,
        redeliveries: u32,
    ) -> Result<(), DriveError> {
        let message = given_up(redeliveries);
        let error = StepError {
            message: message.clone(),
            code: ErrorCode::Crashed,
            node_id: self.plan.node_id(ready.place.node).clone(),
            status: None,
        };
        let outcome = Outcome::Failed {
            error,
            fall_back: true,
        };
        self.dead = Some(message);
        let now = self.inner.clock.now();
        let finished = self.finished(&ready, attempts, now, outcome);
        if let Some(Follows { decision, again }) = self.record(&[finished]).await? {
            for next in &decision.ready {
                self.publish_job(next, again);
            }
        }
        Ok(())
    }

    /// Executes a step and, inline, its single successors.
    async fn chain(&mut self, ready: Ready, attempts: u32, woken: bool) -> Result<(), DriveError> {
        let begun = Instant::now();
        let (mut ready, mut attempts, mut woken) = (ready, attempts, woken);
        // What was executed and is not recorded: several steps only if all but the last are pure.
        let mut executed = Vec::new();
        loop {
            let node = ready.place.node;
            let finished = self.step(&ready, attempts, woken).await?;
            (attempts, woken) = (0, false);
            self.steps += 1;
            let inline = self.steps < self.inner.options.inline_steps_max
                && begun.elapsed() < self.inner.options.inline_time_max;
            if inline
                && self.plan.is_pure(node)
                && executed.len() < PURE_STEPS_MAX
                && !self.known.is_full()
                && let Some(next) = self.foresee(&finished)
                && !self.is_watched(next.place.node)
            {
                executed.push(finished);
                ready = next;
                continue;
            }
            executed.push(finished);
            let Some(Follows { decision, again }) = self.record(&executed).await? else {
                return Ok(());
            };
            executed.clear();
            self.known.trim(&ready.place);
            if !decision.joins.is_empty() {
                // What runs beside this chain may have set it anew.
                self.known.forget_what_changes();
            }
            match &decision.ready[..] {
                [next] if inline && !(again && self.may_be_lost()) => {
                    if self.plan.workflow.graph.opening(&next.place).is_some() {
                        return self.open(next, again).await;
                    }
                    ready = next.clone();
                }
                all => {
                    for next in all {
                        self.publish_job(next, again);
                    }
                    return Ok(());
                }
            }
        }
    }

    /// Whether others may want to know that the node is at work before it is done. What is pure is done at once.
    fn is_watched(&self, node: NodeIx) -> bool {
        self.inner.observer.tells_running() && !self.plan.is_pure(node)
    }

    /// The single successor of a step, if that is certain, and can be executed, before the step is committed.
    fn foresee(&self, finished: &Finished) -> Option<Ready> {
        let Outcome::Completed { .. } = finished.outcome else {
            return None;
        };
        let ending = ending_of(&finished.outcome)?;
        let decision = decide(
            &self.plan.workflow.graph,
            &finished.place(),
            &ending,
            &mut Joins::new(),
        )
        .ok()?;
        match decision {
            Decision {
                mut ready,
                joins,
                ended: false,
                ..
            } if joins.is_empty() && ready.len() == 1 => {
                let next = ready.remove(0);
                let loads = self.unseen && !self.wanted(&next, false).is_empty();
                (!loads).then_some(next)
            }
            _ => None,
        }
    }

    /// Executes one step and keeps its result at hand. Nothing is recorded.
    async fn step(
        &mut self,
        ready: &Ready,
        attempts: u32,
        woken: bool,
    ) -> Result<Arc<Finished>, DriveError> {
        let inner = self.inner;
        let place = &ready.place;
        let node = place.node;
        self.fetch(ready).await?;
        let started_at = inner.clock.now();
        let input = if self.is_gather(place) {
            self.gathered(place).await?.map_err(|error| match error {
                NoList::Eval(error) => (ErrorCode::Expression, error.to_string()),
                NoList::TooLarge(message) => (ErrorCode::NodeFailed, message),
            })
        } else {
            let input = self.input(ready).await?;
            input.map_err(|error| (ErrorCode::Expression, error.to_string()))
        };
        let input = match input {
            Ok(input) => input,
            Err((code, message)) => {
                let outcome = Outcome::Failed {
                    error: error_of(
                        code,
                        (message, ERROR_CHARS_MAX),
                        &self.plan,
                        node,
                        &*inner.secrets,
                    ),
                    fall_back: true,
                };
                inner.metrics.executed(
                    &self.plan.workflow.nodes[node].uses,
                    Duration::ZERO,
                    &outcome,
                );
                self.keep(ready, &outcome);
                return Ok(self.finished(ready, attempts.saturating_add(1), started_at, outcome));
            }
        };
        if self.plan.fallback(node).is_some() {
            self.known.set_input(place.clone(), input.clone());
        }
        let signal = match self.waited_at(place) {
            Some(Waited::Ended(brought)) => Some(brought.clone()),
            _ => None,
        };
        let mut attempt = Attempt {
            plan: &self.plan,
            known: &self.known,
            secrets: &*inner.secrets,
            run_id: &self.run_id,
            place,
            number: attempts.saturating_add(1),
            woken,
            signal: signal.as_ref(),
            input: &input,
        };
        if woken && self.is_retry(place) {
            attempt.woken = false;
        } else if woken {
            // It goes on with the attempt in which it began to wait.
            attempt.number = attempts.max(1);
        }
        let params = attempt.params();
        if inner.observer.is_on() {
            // Not those of a node that reads a secret, or takes over from one that does.
            let guarded = |&node: &NodeIx| self.plan.workflow.graph.guards(node);
            let shows = std::iter::successors(Some(node), guarded)
                .all(|node| self.plan.needs(node).secrets.is_empty());
            let params = params.as_ref().ok().filter(|_| shows).cloned();
            // A node without a type does not begin.
            let begins = self.plan.node_type(node).is_some();
            let is_next = self.begun.is_empty();
            if begins && is_next {
                let (plan, run_id) = (&self.plan, &self.run_id);
                inner
                    .observer
                    .running(plan, run_id, place, params.as_deref(), started_at)
                    .await;
            }
            self.begun.push(Begun {
                place: place.clone(),
                params,
                is_untold: begins && !is_next,
            });
        }
        let begun = Instant::now();
        let body = attempt.run(&params, inner);
        let outcome = attended(inner, &self.run_id, body).await;
        inner.metrics.executed(
            &self.plan.workflow.nodes[node].uses,
            begun.elapsed(),
            &outcome,
        );
        let mut attempts = attempt.number;
        if attempt.woken && matches!(outcome, Outcome::Waiting { .. }) {
            // What waits again follows on what waited.
            attempts = attempts.saturating_add(1);
        }
        self.keep(ready, &outcome);
        Ok(self.finished(ready, attempts, started_at, outcome))
    }

    /// Whether the waiting step failed before, rather than slept.
    fn is_retry(&self, place: &Place) -> bool {
        self.known
            .node(place)
            .is_some_and(|value| value.error.is_some())
    }

    fn finished(
        &self,
        ready: &Ready,
        attempts: u32,
        started_at: Timestamp,
        outcome: Outcome,
    ) -> Arc<Finished> {
        Arc::new(Finished {
            run_id: self.run_id.clone(),
            workflow: self.plan.workflow.clone(),
            node: ready.place.node,
            scope: ready.place.scope.clone(),
            via: ready.via,
            attempts,
            started_at,
            finished_at: self.inner.clock.now(),
            woken: match self.waited_at(&ready.place) {
                None => Woken::No,
                Some(Waited::Open) => Woken::ByTime,
                Some(Waited::Ended(_)) => Woken::BySignal,
            },
            outcome,
        })
    }

    /// How the step's wait for a signal stood, if it waited for one.
    fn waited_at(&self, place: &Place) -> Option<&Waited> {
        let waited = self.waited.as_ref();
        waited.filter(|(of, _)| of == place).map(|(_, wait)| wait)
    }

    fn keep(&mut self, ready: &Ready, outcome: &Outcome) {
        let (Place { node, scope }, via) = (&ready.place, ready.via);
        let value = match outcome {
            Outcome::Completed {
                output,
                action,
                context,
                ..
            } => {
                for (key, value) in context {
                    self.known.set_context(key.clone(), Some(value.clone()));
                }
                NodeValue {
                    scope: scope.clone(),
                    status: StepStatus::Completed,
                    output: output.clone(),
                    action: action.clone(),
                    error: None,
                    via,
                }
            }
            Outcome::Failed { error, .. } => NodeValue {
                scope: scope.clone(),
                status: StepStatus::Failed,
                output: Json::null(),
                action: None,
                error: Some(error.clone()),
                via,
            },
            Outcome::Waiting { .. } => return,
        };
        if let Some(within) = self.plan.workflow.latest_within(*node, scope) {
            self.known.set_latest(*node, within, scope.clone());
        }
        if let Some(scope) = self.closes(ready, outcome) {
            let value = value.clone();
            self.known.set_node(*node, NodeValue { scope, ..value });
        }
        self.known.set_node(*node, value);
    }

    /// The scope around the loop that the step ends, if it ends one.
    fn closes(&self, ready: &Ready, outcome: &Outcome) -> Option<Scope> {
        let graph = &self.plan.workflow.graph;
        if graph.role(ready.place.node) != Role::Loop {
            return None;
        }
        let ending = ending_of(outcome)?;
        closes(graph, &ready.place, &ending)
    }

    /// Commits steps, then does what follows from the last: tells observers and those who wait. `None`: nothing follows.
    async fn record(&mut self, batch: &[Arc<Finished>]) -> Result<Option<Follows>, DriveError> {
        let inner = self.inner;
        let begun = std::mem::take(&mut self.begun);
        let (results, ambiguous) = inner.commit_durably(batch).await?;
        self.unseen = false;
        let mut last = None;
        for (finished, result) in batch.iter().zip(results) {
            last = None;
            match result {
                Committed::Recorded {
                    decision,
                    end,
                    signalled,
                } => {
                    if let Outcome::Failed { error, .. } = &finished.outcome {
                        self.tell_failure(error);
                    }
                    let place = finished.place();
                    let begun = begun.iter().find(|begun| begun.place == place);
                    let params = begun.and_then(|begun| begun.params.as_deref());
                    if begun.is_some_and(|begun| begun.is_untold) {
                        let at = finished.started_at;
                        inner
                            .observer
                            .running(&self.plan, &self.run_id, &place, params, at)
                            .await;
                    }
                    inner.observer.recorded(&self.plan, finished, params).await;
                    self.trail.add(finished, &decision);
                    if let Outcome::Waiting { until, .. } = finished.outcome {
                        let due = if signalled {
                            Some(finished.finished_at)
                        } else {
                            until
                        };
                        if let Some(due) = due {
                            inner.timers.hint(due);
                        }
                    }
                    if let Some(end) = end {
                        self.end(&end).await?;
                    }
                    last = Some(decision);
                }
                Committed::Over(_) => {
                    self.spare(ambiguous);
                    // Perhaps by this very step, in a call that lost its answer.
                    if ambiguous || self.comes_again() {
                        self.repeat_completion().await?;
                    }
                    return Ok(None);
                }
                Committed::Repeated => {
                    self.spare(ambiguous);
                    self.trail.break_off();
                }
            }
        }
        match last {
            Some(decision) => Ok(Some(Follows {
                decision,
                again: false,
            })),
            // Recorded by another, or by this very call before it lost its answer: in doubt, go on from what is committed.
            None if ambiguous || self.comes_again() => {
                let from = batch.last().map(|finished| Ready {
                    place: finished.place(),
                    via: finished.via,
                });
                let from: Vec<Ready> = from.into_iter().collect();
                let plan = self.plan.clone();
                let ready = match inner.outstanding(&self.run_id, &plan, &from).await? {
                    Found::Running(ready) => ready,
                    Found::Ended => {
                        self.repeat_completion().await?;
                        return Ok(None);
                    }
                    Found::NoRun | Found::Other(_) => return Ok(None),
                };
                // What was executed here may not be what was recorded.
                self.known.forget_steps();
                let decision = Decision {
                    ready,
                    ..Decision::default()
                };
                Ok(Some(Follows {
                    decision,
                    again: true,
                }))
            }
            None => {
                inner.metrics.duplicates.inc();
                Ok(None)
            }
        }
    }

    fn tell_failure(&self, error: &StepError) {
        let (run_id, node_id) = (self.run_id.as_str(), error.node_id.as_str());
        let error = error.message.as_str();
        tracing::warn!(
            target: "leveret::failures",
            run_id, node_id, error, "step '{node_id}' of run {run_id} failed"
        );
    }

    /// Another was faster than this delivery, which is not to be dead-lettered then; in doubt, it was not another.
    fn spare(&mut self, ambiguous: bool) {
        if !ambiguous {
            self.dead = None;
        }
    }

    /// Publishes the job of a step; `again` if it may have been published before.
    fn publish_job(&mut self, ready: &Ready, again: bool) {
        let job = self.plan.job_at(&self.run_id, ready);
        let job = self.inner.names.job(&job);
        self.publications
            .push(if again { job.again() } else { job });
    }
}

/// What follows from steps that are recorded.
struct Follows {
    decision: Decision,
    /// Not from this call: the jobs of what is ready may have been published before.
    again: bool,
}

fn given_up(redeliveries: u32) -> String {
    format!(
        "the step was delivered {} times and was never recorded: it ended its worker each time, or its result cannot be stored",
        redeliveries + 1
    )
}
