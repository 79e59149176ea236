//! Status messages: what happens to steps, published for others to observe, in the order in which it happened.
//!
//! One task publishes for the whole process, so that batches form and order holds. A run's completion is published only after its status messages
//! were confirmed.
//!
//! Status messages that wait for a broker that is away are kept, and those who report more wait with them: memory is bounded by [`UNITS`]. One
//! that the broker refuses, for its queue is full for example, is lost and counted: status messages are not worth a run.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use leveret_core::{graph::Place, ids::RunId, time::Timestamp};
use serde_json::Value;
use tokio::{
    sync::{Semaphore, mpsc, oneshot},
    time::sleep,
};

use super::{
    health::{Health, What},
    hub::Hub,
    plan::Plan,
    wire::{Names, NodeStatus, StatusMessages, StatusWord, WireError},
};
use crate::{
    broker::{Broker, BrokerError, Publication, Topology},
    metrics::Metrics,
    store::{Finished, Outcome},
};

/// How much may wait to be published, in units of [`UNIT_BYTES`]: 8192 status messages, or 64 MiB of large ones.
const UNITS: usize = 8192;
/// What counts as one.
const UNIT_BYTES: usize = 8 << 10;
/// How many go into one publish.
const BATCH_MAX: usize = 256;
/// Pause before what could not be published is tried again.
const PAUSE: Duration = Duration::from_millis(200);
/// How often in a row the topology is declared for what no queue takes.
const DECLARED_MAX: u32 = 3;

enum Item {
    /// With the units that it takes until it is published.
    Status(Publication, usize),
    Flush(oneshot::Sender<()>),
}

/// Where the runtime reports steps.
pub(crate) struct Observer {
    mode: StatusMessages,
    names: Arc<Names>,
    hub: Arc<Hub>,
    queue: mpsc::UnboundedSender<Item>,
    units: Arc<Semaphore>,
    losing: Losing,
}

/// Why status messages were lost, if the last ones were.
type Losing = Arc<Mutex<Option<String>>>;

impl Observer {
    /// An observer and the task that publishes for it.
    pub(crate) fn new(
        mode: StatusMessages,
        names: Arc<Names>,
        hub: Arc<Hub>,
        publisher: Publisher,
    ) -> (Observer, impl Future<Output = ()> + Send + 'static) {
        let (queue, items) = mpsc::unbounded_channel();
        let units = Arc::new(Semaphore::new(UNITS));
        let losing = publisher.losing.clone();
        let task = publish_all(items, publisher, units.clone());
        (
            Observer {
                mode,
                names,
                hub,
                queue,
                units,
                losing,
            },
            task,
        )
    }

    /// Waits until there is room for more status messages: before a run or a job is begun.
    pub(crate) async fn room(&self) {
        if self.is_on() {
            drop(self.units.acquire().await);
        }
    }

    /// Why status messages are lost, if they are.
    pub(crate) fn losing(&self) -> Option<String> {
        lock(&self.losing).clone()
    }

    /// Whether any status messages are published.
    pub(crate) fn is_on(&self) -> bool {
        self.mode != StatusMessages::Off
    }

    /// Whether it is published that steps begin.
    pub(crate) fn tells_running(&self) -> bool {
        self.mode == StatusMessages::All
    }

    /// A step begins. Waits for room.
    pub(crate) async fn running(
        &self,
        plan: &Plan,
        run_id: &RunId,
        place: &Place,
        params: Option<&Value>,
        now: Timestamp,
    ) {
        if self.tells_running() {
            let status = self.names.status(&NodeStatus {
                executed_at: now.to_string(),
                ..blank(plan, run_id, place, params)
            });
            self.send(status).await;
        }
    }

    /// A step was recorded. Waits for room.
    pub(crate) async fn recorded(&self, plan: &Plan, finished: &Finished, params: Option<&Value>) {
        self.hub.step(finished);
        if let Some(status) = self.told(plan, finished, params) {
            self.send(status).await;
        }
    }

    /// What is published of a step that was recorded.
    fn told(
        &self,
        plan: &Plan,
        finished: &Finished,
        params: Option<&Value>,
    ) -> Option<Publication> {
        if !self.is_on() {
            return None;
        }
        let place = finished.place();
        let blank = NodeStatus {
            executed_at: finished.finished_at.to_string(),
            duration_ms: finished.finished_at.ms_since(finished.started_at),
            ..blank(plan, &finished.run_id, &place, params)
        };
        let status = match &finished.outcome {
            Outcome::Completed { output, .. } => NodeStatus {
                status: StatusWord::Success,
                output: Some(output),
                ..blank
            },
            Outcome::Failed { error, .. } => NodeStatus {
                status: StatusWord::Failed,
                error: Some(WireError::of(error)),
                ..blank
            },
            Outcome::Waiting { .. } if self.tells_running() => NodeStatus {
                status: StatusWord::Waiting,
                ..blank
            },
            Outcome::Waiting { .. } => return None,
        };
        Some(self.names.status(&status))
    }

    /// Returns when the message has its place among those that wait.
    async fn send(&self, status: Publication) {
        let units = status
            .message
            .body
            .len()
            .div_ceil(UNIT_BYTES)
            .clamp(1, UNITS);
        // Never closed; the task ends with the runtime only.
        if let Ok(permit) = self.units.acquire_many(units as u32).await {
            permit.forget();
        }
        drop(self.queue.send(Item::Status(status, units)));
    }

    /// Returns when everything reported so far was published (or could not be: status messages are not worth a run).
    pub(crate) async fn flush(&self) {
        if !self.is_on() {
            return;
        }
        let (done, flushed) = oneshot::channel();
        drop(self.queue.send(Item::Flush(done)));
        drop(flushed.await);
    }
}

fn blank<'a>(
    plan: &'a Plan,
    run_id: &'a RunId,
    place: &'a Place,
    params: Option<&'a Value>,
) -> NodeStatus<'a> {
    let node = &plan.workflow.nodes[place.node];
    NodeStatus {
        workflow_id: plan.workflow.id.as_str(),
        execution_id: run_id.as_str(),
        node_id: node.id.as_str(),
        node_name: node.name.as_deref().unwrap_or(node.id.as_str()),
        scope: place.scope.as_str(),
        status: StatusWord::Running,
        parameters: params
            .and_then(Value::as_object)
            .filter(|params| !params.is_empty()),
        output: None,
        error: None,
        executed_at: String::new(),
        duration_ms: 0,
    }
}

/// One publish at a time: that is what keeps the order.
async fn publish_all(
    mut items: mpsc::UnboundedReceiver<Item>,
    publisher: Publisher,
    units: Arc<Semaphore>,
) {
    let mut items_taken = Vec::with_capacity(BATCH_MAX);
    while items.recv_many(&mut items_taken, BATCH_MAX).await > 0 {
        let (mut batch, mut taken, mut waiters) = (Vec::new(), 0, Vec::new());
        for item in items_taken.drain(..) {
            match item {
                Item::Status(publication, units) => {
                    batch.push(publication);
                    taken += units;
                }
                Item::Flush(waiter) => waiters.push(waiter),
            }
        }
        if !batch.is_empty() {
            publisher.publish(batch).await;
            units.add_permits(taken);
        }
        for waiter in waiters {
            // Whoever waited may have gone.
            let _gone = waiter.send(());
        }
    }
}

/// What publishes status messages.
pub(crate) struct Publisher {
    pub(crate) broker: Arc<dyn Broker>,
    /// Declared again if somebody deletes a part of it.
    pub(crate) topology: Topology,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) health: Arc<Health>,
    pub(crate) losing: Losing,
}

/// What may be done about a status message that was not published.
enum Remedy {
    Wait,
    Declare,
    Nothing,
}

impl Remedy {
    fn of(error: &BrokerError, declared: u32) -> Remedy {
        match error {
            BrokerError::Unavailable { .. } => Remedy::Wait,
            BrokerError::Unroutable { .. } | BrokerError::NotFound { .. }
                if declared < DECLARED_MAX =>
            {
                Remedy::Declare
            }
            _ => Remedy::Nothing,
        }
    }
}

impl Publisher {
    /// Publishes a batch. What is not confirmed goes again as long as the broker is away, and after the topology was declared again.
    async fn publish(&self, batch: Vec<Publication>) {
        let (mut left, mut held, mut declared) = (batch, None, 0);
        let mut lost = None;
        while !left.is_empty() {
            let results = self.broker.publish(left.clone()).await;
            let (mut again, mut reason, mut missing) = (Vec::new(), None, false);
            for (publication, result) in left.into_iter().zip(results) {
                let Err(error) = result else {
                    self.metrics.published.inc();
                    continue;
                };
                match Remedy::of(&error, declared) {
                    Remedy::Nothing => {
                        self.metrics.status_messages_lost.inc();
                        lost = Some(error);
                        continue;
                    }
                    Remedy::Declare => missing = true,
                    Remedy::Wait => {}
                }
                again.push(publication.again());
                reason = Some(error);
            }
            left = again;
            if let Some(reason) = reason {
                self.metrics.broker_errors.inc();
                let held = held
                    .get_or_insert_with(|| self.health.hold_back(What::StatusMessages, &reason));
                held.because(&reason);
                if missing {
                    declared += 1;
                    self.declare().await;
                } else {
                    sleep(PAUSE).await;
                }
            }
        }
        self.tell(lost);
    }

    async fn declare(&self) {
        if let Err(error) = self.broker.declare(&self.topology).await {
            tracing::warn!(%error, "the queue of status messages cannot be declared");
            sleep(PAUSE).await;
        }
    }

    /// Tells once that status messages are lost, and why.
    fn tell(&self, lost: Option<BrokerError>) {
        let mut losing = lock(&self.losing);
        if lost.is_some() {
            self.metrics.broker_errors.inc();
        }
        if let (None, Some(error)) = (&*losing, &lost) {
            tracing::warn!(%error, "status messages are lost");
        }
        *losing = lost.map(|error| error.to_string());
    }
}

fn lock(losing: &Losing) -> std::sync::MutexGuard<'_, Option<String>> {
    losing.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
