//! The store seam: runs, steps, joins, timers and workflow definitions.
//!
//! Every adapter keeps these promises, and [`conformance`] checks them:
//!
//! - **What a method returned is durable**, and nothing of a batch is visible before all of its item is.
//! - **A step is recorded once.** The first writer of `(run_id, node_id, scope)` wins; the others learn of it
//!   ([`Committed::Repeated`]) and change nothing.
//! - **What follows from a step is recorded with it**, in one transaction: joins, skipped nodes, timers, the end of the run.
//! - **A run ends once**, and its end is final.
//!
//! A crash during a call leaves each item of the batch entirely done or not begun.

use std::{fmt, str::FromStr, sync::Arc, time::Duration};

use async_trait::async_trait;
use leveret_core::{
    decide::{Decision, Joins, Mark, Marks},
    graph::{EdgeIx, NodeIx, Place},
    ids::{NodeId, RunId, Scope, StepKey, WorkflowId},
    json::Json,
    time::Timestamp,
    workflow::{Workflow, WorkflowHash},
};
use serde::{Deserialize, Serialize};

mod batch;
pub(crate) mod commit;
pub mod conformance;
pub(crate) mod connect;
pub(crate) mod follow;
pub mod memory;
#[cfg(feature = "postgres")]
pub mod postgres;
mod signals;
pub mod sqlite;

pub(crate) use self::batch::{load_each, signal_each, start_each};
pub use self::{
    batch::commit_each,
    connect::connect,
    signals::{
        Addressee, LOOK_PAUSE_MAX, NewSignal, Signalled, WOKEN_MAX, Wait, WaitFilter, WaitKind,
        WaitRecord, Waited, Woken,
    },
};
use crate::schedules::Schedules;

/// Where a run stands. The texts are persisted and part of the API.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[cfg_attr(feature = "http", derive(utoipa::ToSchema))]
pub enum RunStatus {
    /// Has steps to come.
    Running,
    /// Ended; every step that failed was handled by a fallback.
    Completed,
    /// Ended with a failed step.
    Failed,
    /// Ended from outside.
    Cancelled,
}

/// Where a step stands. The texts are persisted and part of the API.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[cfg_attr(feature = "http", derive(utoipa::ToSchema))]
pub enum StepStatus {
    /// Waits for a timer, a signal, or both: asleep, between two attempts, or for an event.
    Waiting,
    /// Has an output.
    Completed,
    /// Failed for good.
    Failed,
    /// No edge led to it.
    Skipped,
    /// A failure before it kept it from running.
    Cancelled,
}

macro_rules! persisted {
    ($type:ident { $($variant:ident = $text:literal),+ $(,)? }) => {
        impl $type {
            /// The persisted text.
            pub const fn as_str(self) -> &'static str {
                match self { $($type::$variant => $text),+ }
            }
        }

        impl FromStr for $type {
            type Err = StoreError;
            fn from_str(text: &str) -> Result<Self, StoreError> {
                match text {
                    $($text => Ok($type::$variant),)+
                    _ => Err(StoreError::corrupt(format!(concat!("'{}' is no ", stringify!($type)), text))),
                }
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }
    };
}

persisted!(RunStatus {
    Running = "running",
    Completed = "completed",
    Failed = "failed",
    Cancelled = "cancelled",
});
persisted!(StepStatus {
    Waiting = "waiting",
    Completed = "completed",
    Failed = "failed",
    Skipped = "skipped",
    Cancelled = "cancelled",
});

impl StepStatus {
    /// Whether the step was executed and has ended.
    pub fn has_ended(self) -> bool {
        matches!(self, StepStatus::Completed | StepStatus::Failed)
    }
}

/// Why a step failed. Stored as JSON.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "http", derive(utoipa::ToSchema))]
pub struct StepError {
    /// What went wrong, for people.
    pub message: String,
    /// What kind of failure it is, for programs.
    pub code: ErrorCode,
    /// The node that failed.
    #[cfg_attr(feature = "http", schema(value_type = String))]
    pub node_id: NodeId,
    /// The status of the response that was no result, if it was one that made the failure.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
}

/// Kinds of failures. The texts are persisted and part of the API.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[cfg_attr(feature = "http", derive(utoipa::ToSchema))]
#[non_exhaustive]
pub enum ErrorCode {
    /// The node said so.
    NodeFailed,
    /// The node took longer than its timeout.
    Timeout,
    /// An expression could not be evaluated.
    Expression,
    /// No node type of this name is registered.
    UnknownNodeType,
    /// The node panicked.
    Panicked,
    /// The step ended the worker's process repeatedly.
    Crashed,
}

impl fmt::Display for StepError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

/// A run to begin.
#[derive(Clone, Debug)]
pub struct NewRun {
    /// Its identity.
    pub run_id: RunId,
    /// What it executes; the definition is stored by its hash if it is not yet.
    pub workflow: Arc<Workflow>,
    /// The input of its start nodes.
    pub input: Json,
    /// When it was asked for.
    pub created_at: Timestamp,
    /// When the reconciler first looks at it; [`UNBEGUN`](Self::UNBEGUN): the broker is away, and whoever sees it come back publishes the
    /// first jobs.
    pub reconcile_at: Timestamp,
}

impl NewRun {
    /// The time that marks a run as *unbegun*: its first jobs are not published, and [`Store::claim_unbegun`] finds it. Persisted.
    pub const UNBEGUN: Timestamp = Timestamp(-1);
}

/// What became of a [`NewRun`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Started {
    /// It is recorded now. A run of an empty workflow is at its end already.
    New,
    /// A run of this id was recorded before; nothing changed.
    Exists(RunStatus),
}

/// A step that ended, or began to wait.
#[derive(Clone, Debug)]
pub struct Finished {
    /// The run.
    pub run_id: RunId,
    /// Its workflow, by the definition that it began with.
    pub workflow: Arc<Workflow>,
    /// The node.
    pub node: NodeIx,
    /// Where in loops and batches.
    pub scope: Scope,
    /// The edge that handed over the step's input.
    pub via: Option<EdgeIx>,
    /// How often the node's body has been executed, this time included.
    pub attempts: u32,
    /// When this attempt began.
    pub started_at: Timestamp,
    /// When it ended.
    pub finished_at: Timestamp,
    /// What it knows of the signal that its step waited for.
    pub woken: Woken,
    /// How.
    pub outcome: Outcome,
}

impl Finished {
    /// Where the step stands.
    pub fn place(&self) -> Place {
        Place {
            node: self.node,
            scope: self.scope.clone(),
        }
    }

    /// The step's identity.
    pub fn key(&self) -> StepKey {
        StepKey {
            run_id: self.run_id.clone(),
            node_id: self.workflow.nodes[self.node].id.clone(),
            scope: self.scope.clone(),
        }
    }
}

/// How an attempt ended.
#[derive(Clone, Debug)]
pub enum Outcome {
    /// With a result.
    Completed {
        /// The output.
        output: Json,
        /// The action that the node named, which routes.
        action: Option<Arc<str>>,
        /// The [routed](leveret_core::graph::Graph::routed) edges that are taken.
        taken: Vec<EdgeIx>,
        /// Values that the node set in the run's context.
        context: Vec<(Arc<str>, Json)>,
        /// The items of a scatter, each with its scope.
        items: Option<Vec<(Scope, Json)>>,
    },
    /// It goes on when a timer is due, or a signal has come.
    Waiting {
        /// When; `None`: by a signal only.
        until: Option<Timestamp>,
        /// For which signal, in the place of the one it waited for before; `None`: for no other than that, if it waited for one.
        wait: Option<Wait>,
        /// What the attempt failed with; `None` for a node that waits by itself.
        error: Option<StepError>,
    },
    /// It failed for good.
    Failed {
        /// Why.
        error: StepError,
        /// Whether the node's fallback, if any, takes over.
        fall_back: bool,
    },
}

/// What became of a [`Finished`].
#[derive(Clone, Debug)]
pub enum Committed {
    /// Recorded, with what follows from it.
    Recorded {
        /// What follows.
        decision: Decision,
        /// The run's end, if this was it.
        end: Option<RunEnd>,
        /// The signal that the step waits for was there already: its timer is due.
        signalled: bool,
    },
    /// The step was recorded before, or has got a signal that this attempt [knows nothing of](Woken::ByTime); nothing changed.
    Repeated,
    /// The run is over or unknown; nothing changed.
    Over(Option<RunStatus>),
}

/// The end of a run.
#[derive(Clone, Debug, PartialEq)]
pub struct RunEnd {
    /// How it ended.
    pub status: RunStatus,
    /// The first failure that nothing handled.
    pub error: Option<StepError>,
    /// When the run was asked for.
    pub created_at: Timestamp,
    /// When it ended.
    pub ended_at: Timestamp,
}

/// A node of the run's workflow: stores look for it by its id, or by its place in the definition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeRef {
    /// Its id.
    pub id: NodeId,
    /// Its place.
    pub ix: NodeIx,
}

impl NodeRef {
    /// A node of a workflow.
    ///
    /// # Panics
    /// If the workflow has no node at that place.
    pub fn new(workflow: &Workflow, ix: NodeIx) -> NodeRef {
        let id = workflow.nodes[ix].id.clone();
        NodeRef { id, ix }
    }
}

/// What a worker needs of a run to execute a step.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Load {
    /// The step's node and scope.
    pub step: Option<(NodeRef, Scope)>,
    /// Whether the run's input is wanted.
    pub input: bool,
    /// Nodes whose outputs and errors are wanted.
    pub nodes: Vec<Wanted>,
    /// Context keys that are wanted.
    pub context: Vec<Arc<str>>,
    /// Whether the count of the step's redeliveries is wanted.
    pub redeliveries: bool,
    /// Whether it is wanted what signal the step waits for, and has got.
    pub wait: bool,
}

/// A step whose output and error are wanted: the one in a scope if it has ended, else the latest one of its node within another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// The node.
    pub node: NodeRef,
    /// Where it stands.
    pub scope: Option<Scope>,
    /// Within which passes of loops the latest counts.
    pub latest: Option<Scope>,
}

impl Wanted {
    /// The step in a scope, and no other.
    pub fn exactly(node: NodeRef, scope: Scope) -> Wanted {
        Wanted {
            node,
            scope: Some(scope),
            latest: None,
        }
    }
}

impl Load {
    /// Whether nothing of the run but where it stands is wanted.
    pub(crate) fn is_empty(&self) -> bool {
        *self == Load::default()
    }
}

/// The answer to a [`Load`].
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The run's workflow.
    pub workflow_hash: WorkflowHash,
    /// Where the run stands.
    pub status: RunStatus,
    /// When it was asked for.
    pub created_at: Timestamp,
    /// Its input, if wanted.
    pub input: Option<Json>,
    /// The step as recorded: status and attempts.
    pub step: Option<(StepStatus, u32)>,
    /// Per wanted node what is recorded.
    pub nodes: Vec<Option<NodeValue>>,
    /// Per wanted context key its value.
    pub context: Vec<Option<Json>>,
    /// The step's [redeliveries](Store::set_redeliveries) so far, if wanted.
    pub redeliveries: u32,
    /// How the step's wait for a signal stands, if wanted, and if it waits for one.
    pub wait: Option<Waited>,
}

/// What a step left behind.
#[derive(Clone, Debug, PartialEq)]
pub struct NodeValue {
    /// Where it stands.
    pub scope: Scope,
    /// How it stands.
    pub status: StepStatus,
    /// Its output; null when it has none.
    pub output: Json,
    /// The action it named.
    pub action: Option<Arc<str>>,
    /// Its error.
    pub error: Option<StepError>,
    /// The edge that handed over its input.
    pub via: Option<EdgeIx>,
}

/// A wake-up call to set, for a step of a run that is recorded.
#[derive(Clone, Debug, PartialEq)]
pub struct NewTimer {
    /// The step.
    pub key: StepKey,
    /// When it is due.
    pub due: Timestamp,
    /// How often it was due before.
    pub attempts: u32,
}

/// A wake-up call that is due.
#[derive(Clone, Debug, PartialEq)]
pub struct Timer {
    /// The step to go on with.
    pub key: StepKey,
    /// The run's workflow.
    pub workflow_id: WorkflowId,
    /// The run's workflow.
    pub workflow_hash: WorkflowHash,
    /// The edge that handed over the step's input.
    pub via: Option<EdgeIx>,
    /// Attempts already made.
    pub attempts: u32,
    /// When the claim on it ends and it is due again; names this claim in [`Store::remove_timers`].
    pub claimed_until: Timestamp,
}

/// A run as recorded.
#[derive(Clone, Debug, PartialEq)]
pub struct RunRecord {
    /// Its identity.
    pub run_id: RunId,
    /// Its workflow.
    pub workflow_id: WorkflowId,
    /// The exact definition.
    pub workflow_hash: WorkflowHash,
    /// Where it stands.
    pub status: RunStatus,
    /// Its input.
    pub input: Json,
    /// The first failure that nothing handled.
    pub error: Option<StepError>,
    /// When it was asked for.
    pub created_at: Timestamp,
    /// When it ended.
    pub ended_at: Option<Timestamp>,
}

/// A step as recorded.
#[derive(Clone, Debug, PartialEq)]
pub struct StepRecord {
    /// The node.
    pub node_id: NodeId,
    /// Where in loops and batches.
    pub scope: Scope,
    /// Where it stands.
    pub status: StepStatus,
    /// How often the body was executed.
    pub attempts: u32,
    /// Its output; null when it has none.
    pub output: Json,
    /// The action it named.
    pub action: Option<Arc<str>>,
    /// The edge that handed over its input.
    pub via: Option<EdgeIx>,
    /// Its last error.
    pub error: Option<StepError>,
    /// When its first attempt began.
    pub started_at: Timestamp,
    /// When it ended or began to wait.
    pub finished_at: Timestamp,
}

/// What is recorded of a step, without what it left behind: small, and enough to tell whether there is news.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StepHead {
    /// The node.
    pub node_id: NodeId,
    /// Where in loops and batches.
    pub scope: Scope,
    /// Where it stands.
    pub status: StepStatus,
    /// How often the body was executed.
    pub attempts: u32,
    /// When its first attempt began.
    pub started_at: Timestamp,
    /// When it ended or began to wait.
    pub finished_at: Timestamp,
}

/// What is recorded of a run's course, for going on after a crash.
#[derive(Clone, Debug, PartialEq)]
pub struct Progress {
    /// The run's workflow.
    pub workflow_hash: WorkflowHash,
    /// Where it stands.
    pub status: RunStatus,
    /// Its recorded steps, and what stands for items.
    pub marks: Vec<(NodeId, Scope, Mark)>,
    /// Its joins, by the text of their keys.
    pub joins: Vec<(JoinKey, String)>,
}

/// A join's key as stored.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct JoinKey {
    /// A node id, or empty for the run's end.
    pub node: Arc<str>,
    /// Where the node stands.
    pub scope: Scope,
}

/// A stored version of a workflow.
#[derive(Clone, Debug, PartialEq)]
pub struct WorkflowRecord {
    /// Its name.
    pub workflow_id: WorkflowId,
    /// 1 for the first definition of this name, one more for each that differs from the one before.
    pub version: u32,
    /// The definition's hash.
    pub hash: WorkflowHash,
    /// The definition.
    pub definition: Json,
    /// When it was put.
    pub created_at: Timestamp,
}

/// Which runs to list, newest first.
#[derive(Clone, Debug, Default)]
pub struct RunFilter {
    /// Only runs of this workflow.
    pub workflow_id: Option<WorkflowId>,
    /// Only runs in this state.
    pub status: Option<RunStatus>,
    /// Only runs older than this one: the last of the page before.
    pub after: Option<(Timestamp, RunId)>,
    /// At most so many.
    pub limit: u32,
}

/// Where a [pass](Store::prune) over the runs that ended stands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pass {
    /// The workflow whose runs are looked at; empty before the first.
    workflow_id: String,
    /// The last of them that was looked at: when it was asked for, and its id.
    after: (i64, String),
}

impl Pass {
    /// The beginning of a workflow's runs.
    fn at(workflow_id: String) -> Pass {
        Pass {
            workflow_id,
            after: (i64::MIN, String::new()),
        }
    }

    /// Behind the page of a workflow's runs that was looked at, if there may be more of them.
    fn behind(self, page: &[(i64, String)], limit: u32) -> Option<Pass> {
        let last = page.last().filter(|_| page.len() >= limit as usize)?;
        Some(Pass {
            after: last.clone(),
            ..self
        })
    }
}

/// How the steps of many runs are best recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Batching {
    /// Steps in one call.
    pub steps_max: usize,
    /// Calls at the same time.
    pub calls_max: usize,
}

/// A store. Cheap to share behind an `Arc`.
#[async_trait]
pub trait Store: Send + Sync + 'static {
    /// How calls of [`commit`](Self::commit) are best made.
    fn batching(&self) -> Batching {
        Batching {
            steps_max: 512,
            calls_max: 1,
        }
    }

    /// The prefix of the installation whose runs it holds, where installations share a database. `None`: the store has no other user.
    fn prefix(&self) -> Option<&str> {
        None
    }

    /// Stores a definition as the newest version of its workflow, unless it is that already. Returns the record and whether it is new.
    ///
    /// When it returns, the version is durable, and the newest until another is put. A crash before leaves it stored or not begun; if it is
    /// put again and was stored, it is the newest already. Different definitions that are put at once get versions of their own.
    async fn put_workflow(
        &self,
        workflow: &Workflow,
        now: Timestamp,
    ) -> Result<(WorkflowRecord, bool), StoreError>;

    /// The newest version of a workflow.
    async fn workflow(&self, id: &WorkflowId) -> Result<Option<WorkflowRecord>, StoreError>;

    /// A version of a workflow.
    async fn workflow_version(
        &self,
        id: &WorkflowId,
        version: u32,
    ) -> Result<Option<WorkflowRecord>, StoreError>;

    /// A definition by its hash.
    async fn definition(&self, hash: &WorkflowHash) -> Result<Option<Json>, StoreError>;

    /// The newest version of each workflow, by name, after `after`.
    async fn workflows(
        &self,
        after: Option<&WorkflowId>,
        limit: u32,
    ) -> Result<Vec<WorkflowRecord>, StoreError>;

    /// Begins runs; answers in the order of the batch. A run of an empty workflow is recorded as completed.
    ///
    /// When it returns, each run is durable, with its definition. Nothing is published: that is for the caller. A crash before leaves
    /// each run recorded or not begun; the same call then answers [`Started::Exists`] for what was recorded, by whomever. A crash after
    /// it, before the first jobs are published, leaves a run that the reconciler takes up at `reconcile_at`, or one that
    /// [`claim_unbegun`](Self::claim_unbegun) finds.
    async fn start(&self, batch: &[NewRun]) -> Result<Vec<Started>, StoreError>;

    /// Records steps with what follows from them, in one transaction; answers in the order of the batch. Several steps of one run are decided
    /// in that order. A step is shared, as it stays with the worker, and a store may take it to another thread.
    ///
    /// After an error nothing of the batch is recorded, except that [`StoreError::Unavailable`] leaves open whether all of it is. A batch
    /// that is refused for the data of one of its steps is refused as a whole: [`commit_each`] then finds the guilty one.
    async fn commit(&self, batch: &[Arc<Finished>]) -> Result<Vec<Committed>, StoreError>;

    /// Loads what workers need; `None` for a run that is not recorded. Changes nothing. [`StoreError::Corrupt`] if what is stored of one of the
    /// runs cannot be read: the others can be loaded without it.
    async fn load(&self, batch: &[(RunId, Load)]) -> Result<Vec<Option<Loaded>>, StoreError>;

    /// Sets how many redeliveries of a step may have ended their worker's process, durably. To be called with one more before the step is
    /// executed again. A count rather than a step of it, so that a call whose answer was lost counts once.
    async fn set_redeliveries(&self, key: &StepKey, count: u32) -> Result<(), StoreError>;

    /// Claims up to `limit` timers that are due, the earliest, until `now + claim`. A claim that ends makes them due again.
    ///
    /// When it returns, the claims are durable: no other call gets these timers before the claim ends, unless a step sets one anew. A crash
    /// before or after loses none: what was claimed and not removed is due again when the claim ends. So a timer fires at least once, and
    /// may fire twice. One that cannot be read is claimed, logged and left out.
    async fn claim_timers(
        &self,
        now: Timestamp,
        claim: Duration,
        limit: u32,
    ) -> Result<Vec<Timer>, StoreError>;

    /// Sets timers, each in the place of the one that its step has. When it returns, this is durable; a crash before may leave some of them.
    async fn set_timers(&self, timers: &[NewTimer]) -> Result<(), StoreError>;

    /// Removes claimed timers, each only if nobody claimed it or set it anew since. To be called when what they call for is published.
    ///
    /// When it returns, this is durable. A crash before may leave timers, which are due again when their claim ends. Calling again is
    /// safe, for timers that are gone, too.
    async fn remove_timers(&self, timers: &[Timer]) -> Result<(), StoreError>;

    /// When the next timer is due.
    async fn next_timer(&self) -> Result<Option<Timestamp>, StoreError>;

    /// Marks runs as [unbegun](NewRun::UNBEGUN): their first jobs are not confirmed. Also those that have ended: their jobs may have been
    /// delivered all the same, and what tells of the end lost. When it returns, this is durable.
    async fn mark_unbegun(&self, runs: &[RunId]) -> Result<(), StoreError>;

    /// Claims up to `limit` unbegun runs, by their ids: the oldest first, as ids are ordered by time. Each is due for the reconciler at
    /// `until` then.
    ///
    /// When it returns, the claims are durable: no other call gets these runs, unless they are [marked](Self::mark_unbegun) again. A crash
    /// after it, before their first jobs are published, leaves them to the reconciler.
    async fn claim_unbegun(
        &self,
        until: Timestamp,
        limit: u32,
    ) -> Result<Vec<(RunId, WorkflowHash)>, StoreError>;

    /// Records signals, each with the wait that it ends; answers in the order of the batch.
    ///
    /// A signal to a run ends the oldest wait of its event there, one to a node the oldest wait of that node, one by a key the oldest wait of its
    /// event and key in each run. The timers of their steps are claimed until `now + claim` then, as by [`claim_timers`](Self::claim_timers), and
    /// the caller fires them. A signal that nothing waits for is kept, and ends the next wait that is recorded; but one to a node is refused.
    ///
    /// When it returns, what is recorded is durable: no crash loses a signal, or what it brought, and each ends one wait. One of the same id, event and
    /// addressee as one that is recorded changes nothing. A crash before leaves each recorded, with the end of its wait, or not begun.
    async fn signal(
        &self,
        batch: &[NewSignal],
        now: Timestamp,
        claim: Duration,
    ) -> Result<Vec<Signalled>, StoreError>;

    /// What running runs wait for, the longest first.
    async fn waits(&self, filter: &WaitFilter) -> Result<Vec<WaitRecord>, StoreError>;

    /// Claims up to `limit` running runs that are due for a look, and returns those without a step recorded in the last `quiet` and
    /// without a timer; none that is unbegun. All that were looked at are due again after `quiet`, or `quiet` after their last timer; but those that
    /// wait for a signal after as long as nothing was recorded of them, up to [`LOOK_PAUSE_MAX`]. The second number is how many
    /// were looked at.
    async fn claim_stalled(
        &self,
        now: Timestamp,
        quiet: Duration,
        limit: u32,
    ) -> Result<(Vec<RunId>, u32), StoreError>;

    /// Keeps running runs from [`claim_stalled`](Self::claim_stalled) until then: a worker has a job of theirs. Nothing is brought forward, and
    /// what is unbegun stays so.
    async fn put_off(&self, runs: &[RunId], until: Timestamp) -> Result<(), StoreError>;

    /// What is recorded of a run's course at some places: the steps that stand there, and what meets there. Costs nothing for what is recorded
    /// elsewhere.
    async fn progress_at(
        &self,
        run_id: &RunId,
        places: &[(NodeRef, Scope)],
    ) -> Result<Option<Progress>, StoreError>;

    /// Up to `limit` steps of a run that wait, and where they stand.
    async fn waiting_steps(
        &self,
        run_id: &RunId,
        limit: u32,
    ) -> Result<Vec<(NodeId, Scope)>, StoreError>;

    /// What is recorded of a run's course, all of it.
    async fn progress(&self, run_id: &RunId) -> Result<Option<Progress>, StoreError>;

    /// Ends a running run as cancelled. `None`: there is no such run; else its end, and whether it is this call's doing.
    ///
    /// When it returns, the run's end is durable and final: no step of it is recorded any more. A crash before leaves it running or
    /// cancelled; calling again is safe, and says in the latter case that it is not this call's doing. Nothing is published: the
    /// completion is for the caller.
    async fn cancel(
        &self,
        run_id: &RunId,
        now: Timestamp,
    ) -> Result<Option<(RunEnd, bool)>, StoreError>;

    /// A run.
    async fn run(&self, run_id: &RunId) -> Result<Option<RunRecord>, StoreError>;

    /// A run's recorded steps, by start time and node id.
    async fn steps(&self, run_id: &RunId) -> Result<Vec<StepRecord>, StoreError>;

    /// All steps of a run that are recorded, without their outputs and errors, in no order; none if there is no such run.
    async fn step_heads(&self, run_id: &RunId) -> Result<Vec<StepHead>, StoreError>;

    /// Some steps of a run, each as recorded, in the order asked for; `None` for one that is not.
    async fn steps_at(
        &self,
        run_id: &RunId,
        steps: &[(NodeRef, Scope)],
    ) -> Result<Vec<Option<StepRecord>>, StoreError>;

    /// The timers of a run: which step each wakes, and when.
    async fn timers_of(
        &self,
        run_id: &RunId,
    ) -> Result<Vec<(NodeId, Scope, Timestamp)>, StoreError>;

    /// Runs, newest first.
    async fn runs(&self, filter: &RunFilter) -> Result<Vec<RunRecord>, StoreError>;

    /// The store's own time, for what processes on several machines compare: when timers are due, and how long claims hold. `None`: it has none,
    /// as it is on this machine.
    async fn now(&self) -> Result<Option<Timestamp>, StoreError> {
        Ok(None)
    }

    /// Removes runs that ended before that time, with their steps and all else that is recorded of them; definitions stay. Looks at up to `limit`
    /// runs from where the pass stands, and returns how many were removed, and where the pass goes on, if it does.
    ///
    /// A run that has a timer, or is [unbegun](NewRun::UNBEGUN), stays: what tells of its end is still to be published. Of signals by a key, up to
    /// `limit` that came before that time go, too, but those whose data a step is still to read. When it returns, this is
    /// durable; a crash before removes all of these runs or none. Calling again is safe.
    async fn prune(
        &self,
        before: Timestamp,
        pass: Pass,
        limit: u32,
    ) -> Result<(u32, Option<Pass>), StoreError>;

    /// Where schedules are kept: beside the runs.
    fn schedules(&self) -> Arc<dyn Schedules>;

    /// Whether the store answers now.
    async fn ping(&self) -> Result<(), StoreError>;

    /// Finishes what was begun and closes. Idempotent.
    async fn close(&self);
}

impl Progress {
    /// The marks and joins by index, for [`leveret_core::decide::unfinished`].
    pub fn resolve(&self, workflow: &Workflow) -> Result<(Marks, Joins), StoreError> {
        let node = |id: &str| {
            workflow.node_ix(id).ok_or_else(|| {
                StoreError::corrupt(format!("node '{id}' is not in the run's workflow"))
            })
        };
        let marks = self
            .marks
            .iter()
            .map(|(id, scope, mark)| {
                let (node, scope) = (node(id.as_str())?, scope.clone());
                Ok((Place { node, scope }, *mark))
            })
            .collect::<Result<_, StoreError>>()?;
        let joins = self
            .joins
            .iter()
            .map(|(key, state)| Ok((commit::join_of(workflow, key)?, commit::parse_join(state)?)))
            .collect::<Result<_, StoreError>>()?;
        Ok((marks, joins))
    }
}

/// Why a store operation failed.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The store cannot be reached now, or went away in the middle: the call may or may not have happened.
    #[error("the store is not available: {detail}")]
    Unavailable {
        /// What happened, without secrets.
        detail: String,
    },
    /// The store refuses, and will again.
    #[error("the store refused: {detail}")]
    Refused {
        /// What it said.
        detail: String,
    },
    /// The URL cannot be used.
    #[error("store URL: {detail}")]
    Url {
        /// What is wrong, without secrets.
        detail: String,
    },
    /// The schema is of another version.
    #[error("the store's schema has version {found}, this program needs {needed}: {help}")]
    Schema {
        /// What is there.
        found: u32,
        /// What is needed.
        needed: u32,
        /// What to do.
        help: &'static str,
    },
    /// What is stored cannot be read.
    #[error("the store holds what cannot be read: {detail}")]
    Corrupt {
        /// What and where.
        detail: String,
    },
    /// A commit failed such that nobody knows whether it is on disk. The store takes nothing more until it is opened again.
    #[error("the outcome of a commit is not known, and the store must be opened again: {detail}")]
    Uncertain {
        /// What happened.
        detail: String,
    },
    /// [`Store::close`] was called.
    #[error("the store was closed")]
    Closed,
}

impl StoreError {
    /// Whether the same call may succeed later without a change. All calls may be repeated.
    pub fn is_retryable(&self) -> bool {
        matches!(self, StoreError::Unavailable { .. })
    }

    pub(crate) fn corrupt(detail: impl Into<String>) -> StoreError {
        StoreError::Corrupt {
            detail: detail.into(),
        }
    }
}
