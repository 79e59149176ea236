//! What steps wait for besides a time, and what ends their waits.
//!
//! A wait and a signal are rows. Whichever is recorded second finds the other in the same transaction, so that nothing is lost between them.

use std::time::Duration;

use leveret_core::{
    ids::{EventName, NodeId, RunId, SignalId, SignalKey, StepKey, WorkflowId},
    json::Json,
    time::Timestamp,
};

use super::{RunStatus, StoreError, Timer};

/// The longest pause between two looks of the reconciler at a run that waits for a signal: a million of them cost twelve looks a second.
pub const LOOK_PAUSE_MAX: Duration = Duration::from_secs(24 * 60 * 60);

/// When the reconciler looks at a run whose step a signal has woken, at the latest: its last look may have put it off for long.
pub(crate) const LOOK_AFTER: Duration = Duration::from_secs(60);

/// For how long a run is not looked at that waits for a signal, and of which nothing was recorded for so long.
pub(crate) fn look_pause(since: Duration, quiet: Duration) -> Duration {
    since.clamp(quiet, LOOK_PAUSE_MAX.max(quiet))
}

/// The most timers that one signal claims for its caller; if it wakes more steps, their timers are due at once for whoever fires timers.
pub const WOKEN_MAX: usize = 512;

/// What a step waits for.
#[derive(Clone, Debug, PartialEq)]
pub struct Wait {
    /// The event.
    pub event: EventName,
    /// By which it is found without the run's id.
    pub key: Option<SignalKey>,
    /// Who may end it.
    pub kind: WaitKind,
    /// What is told to those who are to end it; null if there is nothing to tell.
    pub about: Json,
}

/// Who may end a wait. The texts are persisted and part of the API.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize,
)]
#[serde(rename_all = "snake_case")]
#[cfg_attr(feature = "http", derive(utoipa::ToSchema))]
pub enum WaitKind {
    /// A signal to its run, or by its key.
    Signal,
    /// A call of its webhook.
    Webhook,
    /// Somebody's decision.
    Approval,
}

impl WaitKind {
    /// The persisted text.
    pub const fn as_str(self) -> &'static str {
        match self {
            WaitKind::Signal => "signal",
            WaitKind::Webhook => "webhook",
            WaitKind::Approval => "approval",
        }
    }
}

impl std::str::FromStr for WaitKind {
    type Err = StoreError;

    fn from_str(text: &str) -> Result<WaitKind, StoreError> {
        match text {
            "signal" => Ok(WaitKind::Signal),
            "webhook" => Ok(WaitKind::Webhook),
            "approval" => Ok(WaitKind::Approval),
            _ => Err(StoreError::corrupt(format!("'{text}' is no WaitKind"))),
        }
    }
}

/// What an attempt knows of the signal that its step waited for when it began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Woken {
    /// The step waited for none.
    #[default]
    No,
    /// None had come. If one has come by the time the attempt is recorded, the attempt is not: the signal has woken the step again.
    ByTime,
    /// It had come, and the attempt has what it brought.
    BySignal,
}

/// How a wait for a signal stands.
#[derive(Clone, Debug, PartialEq)]
pub enum Waited {
    /// None has come.
    Open,
    /// One has come, and brought this.
    Ended(Json),
}

/// Whom a signal is for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Addressee {
    /// A run, in which a wait of kind [`WaitKind::Signal`] has the event.
    Run(RunId),
    /// The runs in which such a wait has the event and this key.
    Key(SignalKey),
    /// A node of a run, which waits now, in whatever scope, for a signal of this kind.
    Node(RunId, NodeId, WaitKind),
}

impl Addressee {
    /// The run, if it is one.
    pub fn run_id(&self) -> Option<&RunId> {
        match self {
            Addressee::Run(run_id) | Addressee::Node(run_id, ..) => Some(run_id),
            Addressee::Key(_) => None,
        }
    }
}

/// A signal to record.
#[derive(Clone, Debug, PartialEq)]
pub struct NewSignal {
    /// Whom it is for.
    pub to: Addressee,
    /// The event that it brings; to a node it is only written down.
    pub event: EventName,
    /// The client's own name of it, by which it counts once.
    pub id: Option<SignalId>,
    /// What it brings: the output of the step that it wakes.
    pub data: Json,
}

/// What became of a [`NewSignal`].
#[derive(Clone, Debug, PartialEq)]
pub enum Signalled {
    /// It is recorded.
    Recorded {
        /// How many waits it ended. None: it is kept.
        woken: u64,
        /// The timers of their steps, claimed, if they are [few](WOKEN_MAX).
        timers: Vec<Timer>,
    },
    /// One of this id was recorded before; nothing changed.
    Repeated,
    /// The run has ended; nothing changed.
    Ended(RunStatus),
    /// There is no such run; nothing changed.
    NoRun,
    /// The node does not wait yet, or for something else; nothing changed.
    NotWaiting,
    /// The node has waited, and its wait is over; nothing changed.
    Over,
}

/// Which waits to list.
#[derive(Clone, Debug, Default)]
pub struct WaitFilter {
    /// Only those of this run.
    pub run_id: Option<RunId>,
    /// Only those of this kind.
    pub kind: Option<WaitKind>,
    /// Only those after this one: the last of the page before.
    pub after: Option<u64>,
    /// At most so many.
    pub limit: u32,
}

/// A wait that no signal has ended.
#[derive(Clone, Debug, PartialEq)]
pub struct WaitRecord {
    /// Its place among all waits: what began to wait later has a higher one.
    pub number: u64,
    /// The step.
    pub key: StepKey,
    /// The run's workflow.
    pub workflow_id: WorkflowId,
    /// What it waits for.
    pub wait: Wait,
    /// Since when.
    pub since: Timestamp,
    /// Until when, at most.
    pub until: Option<Timestamp>,
}
