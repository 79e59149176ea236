//! Having the log: the lease, giving it up, and what a heart that has just taken it waits for.

use std::{sync::Arc, time::Duration};

use tokio::time::{Instant, sleep_until, timeout};

use super::{Shared, phase::Phase};
use crate::broadcast::log::{LOG_LEASE, LogError};

/// How much earlier than the log's lease ends this heart stops to count on it, for clocks that differ in speed.
pub(super) const LEASE_MARGIN: Duration = Duration::from_secs(1);

/// How long writes wait for members after a heart has taken the log. Those that answer look for their heart more often than this.
pub(super) const SETTLE_MAX: Duration = Duration::from_secs(5);

/// How long a heart that stops waits for nodes to apply what clients wait for.
const DRAIN_MAX: Duration = Duration::from_secs(3);

/// How long the log may take to say who has it.
const CONFIRM_MAX: Duration = Duration::from_secs(1);

/// How long the log may take to end a lease. It ends by itself.
const RELEASE_MAX: Duration = Duration::from_secs(2);

impl Shared {
    pub(super) fn has_lease(&self) -> bool {
        self.state().phase.has_lease(Instant::now())
    }

    /// Keeps the log for another lease. When another heart has it, this one stands by.
    pub(super) async fn renew(&self, epoch: u64) -> Result<(), LogError> {
        let started = Instant::now();
        let kept = self.parts.log.keep(epoch, self.now()).await;
        match &kept {
            Ok(()) => {
                let until = started + LOG_LEASE - LEASE_MARGIN;
                self.state().phase.keep(epoch, until);
            }
            Err(LogError::Fenced { epoch: by }) => self.lose(*by),
            Err(_) => {}
        }
        kept
    }

    /// Where the lease has run out, as it has for a process that was frozen: asks the log whether another heart has it. A log that does not
    /// answer at once says nothing.
    pub(super) async fn confirm(&self) {
        let held = self.state().phase.held();
        if let Some(epoch) = held
            && !self.has_lease()
        {
            // What it says is in the phase.
            drop(timeout(CONFIRM_MAX, self.renew(epoch)).await);
        }
    }

    /// Another heart has the log: what waits here learns nothing more from this one.
    pub(super) fn lose(&self, epoch: u64) {
        let mut state = self.state();
        state.phase = match state.phase {
            Phase::Stopping { .. } | Phase::Stopped => Phase::Stopped,
            _ => {
                tracing::warn!(epoch, "another heart has the log: this one stands by");
                let owner = format!("of epoch {epoch}");
                Phase::Standby { owner }
            }
        };
        state.waiting.clear();
        state.outbox.clear();
        drop(state);
        self.leads.send_replace(false);
        self.changed.notify_waiters();
    }

    /// Waits, within a bound, until most members have told this heart where they are. It is then known whether the log is older than what
    /// was acknowledged by a quorum, as when it was put back from a copy, or lost.
    pub(super) async fn settled(&self) {
        loop {
            let changed = self.changed.notified();
            let until = {
                let mut state = self.state();
                let is_over = state.phase.epoch().is_none() || state.members.most_are_heard();
                if is_over || state.settling.is_some_and(|until| Instant::now() >= until) {
                    state.settling = None;
                }
                state.settling
            };
            let Some(until) = until else { return };
            tokio::select! {
                biased;
                () = changed => {}
                () = sleep_until(until) => {}
            }
        }
    }

    /// Takes no more writes, and answers within a bound those that are under way.
    pub(super) async fn drain(&self) -> Option<u64> {
        let held = self.state().phase.stop();
        self.changed.notify_waiters();
        let answered = async {
            // Behind the appends that had begun.
            drop(self.gate.write().await);
            loop {
                let changed = self.changed.notified();
                if !self.state().waiting.is_anybody_there() {
                    return;
                }
                changed.await;
            }
        };
        if held.is_some() && timeout(DRAIN_MAX, answered).await.is_err() {
            tracing::warn!("writes that are logged were not applied as widely as asked in time");
        }
        held
    }

    /// Gives the log up, so that another heart has it at once.
    pub(super) async fn retire(self: &Arc<Self>, held: Option<u64>) {
        {
            let mut state = self.state();
            state.phase = Phase::Stopped;
            state.waiting.clear();
        }
        self.leads.send_replace(false);
        self.changed.notify_waiters();
        let Some(epoch) = held else { return };
        match timeout(RELEASE_MAX, self.parts.log.release(epoch)).await {
            Ok(Ok(()) | Err(LogError::Fenced { .. })) => {}
            Ok(Err(error)) => {
                tracing::warn!(%error, "the lease of the log is not given up, and ends by itself");
            }
            Err(_) => tracing::warn!("the lease of the log is not given up, and ends by itself"),
        }
    }
}
