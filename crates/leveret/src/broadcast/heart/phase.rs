//! Whether a heart has the log, and what it may do with it.

use tokio::time::Instant;

/// Whether this heart has the log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) enum Phase {
    /// It has not looked yet.
    #[default]
    Starting,
    /// Another heart has it.
    Standby {
        /// Which, as far as it is known.
        owner: String,
    },
    /// This one has it.
    Active {
        epoch: u64,
        /// Nobody else can have it before.
        until: Instant,
    },
    /// This one has it, but nodes have applied more than is in it, or belong to another cluster: it takes no writes.
    Behind {
        epoch: u64,
        until: Instant,
        detail: String,
    },
    /// This one has it, and gives it up when those who wait are answered: it takes no writes.
    Stopping { epoch: u64, until: Instant },
    /// It has ended.
    Stopped,
}

impl Phase {
    /// The epoch under which it may append.
    pub(super) fn epoch(&self) -> Option<u64> {
        match self {
            Phase::Active { epoch, .. } => Some(*epoch),
            _ => None,
        }
    }

    /// The epoch while it has the log.
    pub(super) fn held(&self) -> Option<u64> {
        match self {
            Phase::Active { epoch, .. }
            | Phase::Behind { epoch, .. }
            | Phase::Stopping { epoch, .. } => Some(*epoch),
            Phase::Starting | Phase::Standby { .. } | Phase::Stopped => None,
        }
    }

    /// Until when nobody else can have the log.
    pub(super) fn until(&self) -> Option<Instant> {
        match self {
            Phase::Active { until, .. }
            | Phase::Behind { until, .. }
            | Phase::Stopping { until, .. } => Some(*until),
            Phase::Starting | Phase::Standby { .. } | Phase::Stopped => None,
        }
    }

    /// Whether it has the log, and nobody else can.
    pub(super) fn has_lease(&self, now: Instant) -> bool {
        self.until().is_some_and(|until| now < until)
    }

    /// The lease of an epoch lasts until then, at least.
    pub(super) fn keep(&mut self, kept: u64, to: Instant) {
        if let Phase::Active { epoch, until }
        | Phase::Behind { epoch, until, .. }
        | Phase::Stopping { epoch, until } = self
            && *epoch == kept
        {
            *until = to.max(*until);
        }
    }

    /// The log does not have what nodes have.
    pub(super) fn fall_behind(&mut self, detail: String) {
        if let Phase::Active { epoch, until } = *self {
            tracing::error!("{detail}: see `leveret cluster recover`");
            *self = Phase::Behind {
                epoch,
                until,
                detail,
            };
        }
    }

    /// It takes no more writes. Returns the epoch to be given up, if it has one.
    pub(super) fn stop(&mut self) -> Option<u64> {
        let held = self.held();
        *self = match (held, self.until()) {
            (Some(epoch), Some(until)) => Phase::Stopping { epoch, until },
            _ => Phase::Stopped,
        };
        held
    }

    /// Why no writes are taken.
    pub(super) fn refusal(&self) -> String {
        match self {
            Phase::Starting => "the heart starts".to_owned(),
            Phase::Standby { owner } => {
                format!("this heart stands by while heart '{owner}' has the log")
            }
            Phase::Active { .. } => "the heart is active".to_owned(),
            Phase::Behind { detail, .. } => {
                format!("{detail}: no writes are taken; see `leveret cluster recover`")
            }
            Phase::Stopping { .. } | Phase::Stopped => "the heart stops".to_owned(),
        }
    }
}
