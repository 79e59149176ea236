//! Status messages: what happens to steps, published for others to observe, in the order in which it happened.
//!
//! One task publishes for the whole process, so that batches form and order holds. A run's completion is published only after its status messages
//! were confirmed.

use std::sync::Arc;

use leveret_core::{graph::NodeIx, ids::RunId, time::Timestamp};
use serde_json::Value;
use tokio::sync::{mpsc, oneshot};

use super::{
    hub::Hub,
    plan::Plan,
    wire::{Names, NodeStatus, StatusMessages, StatusWord, WireError},
};
use crate::{
    broker::{Broker, Publication},
    metrics::Metrics,
    store::{Finished, Outcome},
};

/// How many status messages may wait to be published; more wait in their runs.
const QUEUE_MAX: usize = 8192;
/// How many go into one publish.
const BATCH_MAX: usize = 256;

enum Item {
    Status(Publication),
    Flush(oneshot::Sender<()>),
}

/// Where the runtime reports steps.
pub(crate) struct Observer {
    mode: StatusMessages,
    names: Arc<Names>,
    hub: Arc<Hub>,
    queue: mpsc::UnboundedSender<Item>,
    permits: Arc<tokio::sync::Semaphore>,
}

impl Observer {
    /// An observer and the task that publishes for it.
    pub(crate) fn new(
        mode: StatusMessages,
        names: Arc<Names>,
        hub: Arc<Hub>,
        broker: Arc<dyn Broker>,
        metrics: Arc<Metrics>,
    ) -> (Observer, impl Future<Output = ()> + Send + 'static) {
        let (queue, items) = mpsc::unbounded_channel();
        let permits = Arc::new(tokio::sync::Semaphore::new(QUEUE_MAX));
        let task = publish_all(items, broker, metrics, permits.clone());
        (
            Observer {
                mode,
                names,
                hub,
                queue,
                permits,
            },
            task,
        )
    }

    /// Waits until there is room for more status messages.
    pub(crate) async fn room(&self) {
        if self.is_on() {
            drop(self.permits.acquire().await);
        }
    }

    /// Whether any status messages are published.
    pub(crate) fn is_on(&self) -> bool {
        self.mode != StatusMessages::Off
    }

    /// Whether it is published that steps begin.
    pub(crate) fn tells_running(&self) -> bool {
        self.mode == StatusMessages::All
    }

    /// A step begins.
    pub(crate) fn running(
        &self,
        plan: &Plan,
        run_id: &RunId,
        node: NodeIx,
        params: Option<&Value>,
        now: Timestamp,
    ) {
        if self.tells_running() {
            self.send(&NodeStatus {
                executed_at: now.to_string(),
                ..blank(plan, run_id, node, params)
            });
        }
    }

    /// A step was recorded.
    pub(crate) fn recorded(&self, plan: &Plan, finished: &Finished, params: Option<&Value>) {
        self.hub.step(finished);
        if !self.is_on() {
            return;
        }
        let blank = NodeStatus {
            executed_at: finished.finished_at.to_string(),
            duration_ms: finished.finished_at.ms_since(finished.started_at),
            ..blank(plan, &finished.run_id, finished.node, params)
        };
        match &finished.outcome {
            Outcome::Completed { output, .. } => {
                self.send(&NodeStatus {
                    status: StatusWord::Success,
                    output: Some(output),
                    ..blank
                });
            }
            Outcome::Failed { error, .. } => {
                self.send(&NodeStatus {
                    status: StatusWord::Failed,
                    error: Some(WireError::of(error)),
                    ..blank
                });
            }
            Outcome::Waiting { .. } if self.tells_running() => {
                self.send(&NodeStatus {
                    status: StatusWord::Waiting,
                    ..blank
                });
            }
            Outcome::Waiting { .. } => {}
        }
    }

    fn send(&self, status: &NodeStatus<'_>) {
        if let Ok(permit) = self.permits.try_acquire() {
            permit.forget();
        }
        // The task ends with the runtime only.
        drop(self.queue.send(Item::Status(self.names.status(status))));
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
    node: NodeIx,
    params: Option<&'a Value>,
) -> NodeStatus<'a> {
    let node = &plan.workflow.nodes[node];
    NodeStatus {
        workflow_id: plan.workflow.id.as_str(),
        execution_id: run_id.as_str(),
        node_id: node.id.as_str(),
        node_name: node.name.as_deref().unwrap_or(node.id.as_str()),
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
    broker: Arc<dyn Broker>,
    metrics: Arc<Metrics>,
    permits: Arc<tokio::sync::Semaphore>,
) {
    let mut items_taken = Vec::with_capacity(BATCH_MAX);
    while items.recv_many(&mut items_taken, BATCH_MAX).await > 0 {
        let (mut batch, mut waiters) = (Vec::new(), Vec::new());
        for item in items_taken.drain(..) {
            match item {
                Item::Status(publication) => batch.push(publication),
                Item::Flush(waiter) => waiters.push(waiter),
            }
        }
        let count = batch.len();
        if count > 0 {
            publish(&*broker, &metrics, batch).await;
            permits.add_permits(count.min(QUEUE_MAX.saturating_sub(permits.available_permits())));
        }
        for waiter in waiters {
            // Whoever waited may have gone.
            let _gone = waiter.send(());
        }
    }
}

async fn publish(broker: &dyn Broker, metrics: &Metrics, batch: Vec<Publication>) {
    let count = batch.len();
    let results = broker.publish(batch).await;
    let lost: Vec<_> = results.into_iter().filter_map(Result::err).collect();
    metrics.published.add((count - lost.len()) as u64);
    metrics.status_messages_lost.add(lost.len() as u64);
    if let Some(error) = lost.first() {
        metrics.broker_errors.inc();
        tracing::warn!(count = lost.len(), %error, "status messages were not published");
    }
}
