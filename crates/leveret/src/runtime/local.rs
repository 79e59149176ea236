//! Runs that the process which starts them drives itself, at once, while their start is on its way to the disk.
//!
//! Only where store and broker share a file, and somebody waits for the run: the start and the run's first job are written in the same
//! transaction as the first step, or before it, and nothing is answered before that. The job is in the queue all the same; the drive holds it
//! from the start, or if others are in front of it gets its delivery from the worker, and acks it at the end. So a crash leaves no run, or one
//! whose job comes again.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use leveret_core::{graph::NodeIx, ids::RunId};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, oneshot},
    time::Instant,
};

use super::{Inner, drive::drive_new, plan::Plan, worker};
use crate::{
    broker::Delivery,
    store::{NewRun, Started, StoreError},
};

/// The runs that are driven here.
#[derive(Debug)]
pub(crate) struct LocalRuns {
    waiting: Mutex<HashMap<RunId, oneshot::Sender<Delivery>>>,
    /// As many as the worker, while it is live, executes jobs.
    permits: Arc<Semaphore>,
}

impl Default for LocalRuns {
    fn default() -> LocalRuns {
        LocalRuns {
            waiting: Mutex::default(),
            permits: Arc::new(Semaphore::new(0)),
        }
    }
}

/// The right to drive a run here.
#[derive(Debug)]
pub(crate) struct Place {
    delivery: oneshot::Receiver<Delivery>,
    _permit: OwnedSemaphorePermit,
}

impl LocalRuns {
    /// The worker is live: so many runs may be driven here at once.
    pub(crate) fn open(&self, places: usize) {
        self.permits.add_permits(places);
    }

    /// The worker drains: no new ones, and those that are driven have until then to end.
    pub(crate) async fn drain(&self, places: usize, deadline: Instant) {
        let places = u32::try_from(places).unwrap_or(u32::MAX);
        let all = self.permits.acquire_many(places);
        if let Ok(Ok(all)) = tokio::time::timeout_at(deadline, all).await {
            all.forget();
        } else {
            tracing::warn!(
                "runs did not come to a rest within the drain timeout; their jobs return to the queue"
            );
        }
    }

    /// A place for a run, if there is one and the run may be driven before its start is visible: it begins at one node, which loads nothing.
    pub(crate) fn place(&self, plan: &Plan, run_id: &RunId) -> Option<(Place, NodeIx)> {
        let [start] = *plan.workflow.graph.starts() else {
            return None;
        };
        let needs = plan.needs(start);
        if !needs.context.is_empty() || !needs.nodes.is_empty() {
            return None;
        }
        let permit = self.permits.clone().try_acquire_owned().ok()?;
        let (sender, delivery) = oneshot::channel();
        self.waiting
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(run_id.clone(), sender);
        Some((
            Place {
                delivery,
                _permit: permit,
            },
            start,
        ))
    }

    /// Where the delivery of a run's first job goes, if the run is driven here. Sending fails if it is driven no more.
    pub(crate) fn claim(&self, run_id: &RunId) -> Option<oneshot::Sender<Delivery>> {
        self.waiting
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(run_id)
    }

    fn forget(&self, run_id: &RunId) {
        self.waiting
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(run_id);
    }
}

/// Drives a run from its start node while its start is being `written`, tells `answer` when it is, and settles its first job's delivery.
pub(crate) async fn drive_here(
    inner: Arc<Inner>,
    plan: Arc<Plan>,
    (new, node): (NewRun, NodeIx),
    place: Place,
    written: impl Future<Output = Result<(Started, Vec<Delivery>), StoreError>>,
    answer: oneshot::Sender<Result<Started, StoreError>>,
) {
    let run_id = new.run_id.clone();
    let start = async {
        let (result, held) = match written.await {
            Ok((started, deliveries)) => (Ok(started), deliveries),
            Err(error) => (Err(error), Vec::new()),
        };
        let is_new = matches!(result, Ok(Started::New));
        // Whoever asked may have gone.
        drop(answer.send(result));
        (is_new, held)
    };
    let drive = async {
        inner.observer.room().await;
        drive_new(&inner, plan, new, node).await
    };
    let (driven, (is_new, mut held)) = tokio::join!(drive, start);
    let delivery = if let Some(delivery) = held.pop() {
        inner.local.forget(&run_id);
        inner.metrics.consumed.inc();
        Some(delivery)
    } else if is_new {
        place.delivery.await.ok()
    } else {
        // There is no run, and no job: nothing of what was executed was recorded.
        inner.local.forget(&run_id);
        None
    };
    if let Some(delivery) = delivery {
        worker::finish(&inner, delivery, driven, None).await;
    }
}
