//! The lease on the node's name: taken first, renewed as long as the node runs.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::watch,
    task::JoinHandle,
    time::{Instant, timeout},
};

use super::shared::Shared;
use crate::broadcast::{Joined, LinkError, Order};

/// How long registering may take.
const REGISTER_TIMEOUT: Duration = Duration::from_secs(10);
/// The pause after a failed attempt doubles from the first of these to the second.
const RETRY_PAUSES: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));
/// The lease is renewed after this part of it.
const RENEWALS_PER_LEASE: u32 = 3;
/// The longest time between renewals: what no queue brings is missed by no more.
const RENEWAL_MAX: Duration = Duration::from_secs(3);

/// What the heart last said.
#[derive(Clone, Debug)]
pub(super) enum Said {
    /// Nothing yet.
    Nothing,
    /// This.
    Joined(Joined),
    /// The name is not, or no more, this node's.
    Refused(LinkError),
}

/// The task that keeps the lease.
pub(super) struct Lease {
    shared: Arc<Shared>,
    said: watch::Receiver<Said>,
    task: JoinHandle<()>,
}

impl Lease {
    pub(super) fn start(shared: Arc<Shared>) -> Lease {
        let (tell, said) = watch::channel(Said::Nothing);
        let task = tokio::spawn(keep(shared.clone(), tell));
        Lease { shared, said, task }
    }

    /// The heart's first answer. Waits as long as there is none.
    pub(super) async fn joined(&mut self) -> Result<Joined, LinkError> {
        let said = self.said.wait_for(|said| !matches!(said, Said::Nothing));
        match said.await.as_deref() {
            Ok(Said::Joined(joined)) => Ok(joined.clone()),
            Ok(Said::Refused(error)) => Err(error.clone()),
            Ok(Said::Nothing) | Err(_) => Err(LinkError::Refused {
                detail: "the lease is kept no more".to_owned(),
            }),
        }
    }

    pub(super) fn said(&self) -> watch::Receiver<Said> {
        self.said.clone()
    }

    /// Renews it now.
    pub(super) fn renew(&self) {
        self.shared.renew.notify_one();
    }

    pub(super) async fn stop(mut self) {
        self.task.abort();
        // An error says that it was aborted.
        drop((&mut self.task).await);
    }
}

/// A node that is dropped in the middle keeps its name no longer than its lease.
impl Drop for Lease {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn keep(shared: Arc<Shared>, tell: watch::Sender<Said>) {
    let mut pause = RETRY_PAUSES.0;
    let mut is_member = false;
    let mut told_at: Option<Instant> = None;
    loop {
        let registering = shared.heart.register(shared.registration());
        let answer = timeout(REGISTER_TIMEOUT, registering).await;
        let answer = answer.unwrap_or_else(|_| {
            Err(LinkError::Unavailable {
                detail: format!("no answer within {REGISTER_TIMEOUT:?}"),
            })
        });
        let wait = match answer {
            Ok(joined) => {
                (pause, told_at) = (RETRY_PAUSES.0, None);
                is_member = true;
                let renewal = Duration::from_millis(joined.lease_ms) / RENEWALS_PER_LEASE;
                shared.heard_of(joined.last.seq);
                shared.status.send_if_modified(|status| {
                    let quarantined = joined.order == Order::Quarantined;
                    std::mem::replace(&mut status.quarantined, quarantined) != quarantined
                });
                tell.send_replace(Said::Joined(joined));
                renewal.min(RENEWAL_MAX)
            }
            Err(error @ LinkError::NameTaken { .. }) => {
                tell.send_replace(Said::Refused(error));
                return;
            }
            Err(error) if !error.is_retryable() && !is_member => {
                tell.send_replace(Said::Refused(error));
                return;
            }
            Err(error) => {
                // Once in a while, not at each attempt.
                if told_at.is_none_or(|at| at.elapsed() > Duration::from_secs(30)) {
                    tracing::warn!(%error, "the heart gives no lease; trying on");
                    told_at = Some(Instant::now());
                }
                pause = (pause * 2).min(RETRY_PAUSES.1);
                pause
            }
        };
        // Cancel-safe: a notification that comes meanwhile is kept for the next turn.
        drop(timeout(wait, shared.renew.notified()).await);
    }
}
