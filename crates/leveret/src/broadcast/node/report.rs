//! Reports and dead letters on their way: published, confirmed, and only then the deliveries are acknowledged, while the next ones are applied.

use std::{sync::Arc, time::Duration};

use tokio::{sync::mpsc, task::JoinHandle, time::timeout};

use super::shared::Shared;
use crate::{
    broadcast::wire::Report,
    broker::{
        BrokerError, Publication, Receipt,
        publish::{Persist, all_then_ack},
    },
    crash::{self, Point},
};

/// Reports that may wait for the broker; then nothing more is applied.
const WAITING_MAX: usize = 64;
/// How long what is still to be reported may take when the node ends. The rest comes again.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);

/// What follows from deliveries.
#[derive(Debug)]
pub(super) struct Outgoing {
    pub(super) report: Option<Report>,
    pub(super) letters: Vec<Publication>,
    pub(super) receipts: Vec<Receipt>,
}

impl Outgoing {
    pub(super) fn only(report: Report) -> Outgoing {
        Outgoing {
            report: Some(report),
            letters: Vec::new(),
            receipts: Vec::new(),
        }
    }
}

/// The task that reports.
pub(super) struct Reports {
    waiting: mpsc::Sender<Outgoing>,
    task: JoinHandle<()>,
}

impl Reports {
    pub(super) fn start(shared: Arc<Shared>) -> Reports {
        let (waiting, taken) = mpsc::channel(WAITING_MAX);
        let task = tokio::spawn(report(shared, taken));
        Reports { waiting, task }
    }

    /// Queues it. Waits when many wait.
    pub(super) async fn send(&self, outgoing: Outgoing) {
        // The task lives as long as this sender.
        drop(self.waiting.send(outgoing).await);
    }

    /// Reports what waits, within a bound.
    pub(super) async fn end(mut self) {
        drop(self.waiting);
        if timeout(DRAIN_TIMEOUT, &mut self.task).await.is_err() {
            self.task.abort();
        }
    }
}

async fn report(shared: Arc<Shared>, mut taken: mpsc::Receiver<Outgoing>) {
    while let Some(first) = taken.recv().await {
        let mut all = vec![first];
        while let Ok(next) = taken.try_recv() {
            all.push(next);
        }
        publish(&shared, all).await;
    }
}

/// Publishes until it is confirmed, then acks. Reports without their outcomes if these are too large: the heart asks for them. Deliveries whose
/// connection is gone come again, and are reported again.
async fn publish(shared: &Shared, all: Vec<Outgoing>) {
    let (mut reports, mut batch, mut receipts) = (Vec::new(), Vec::new(), Vec::new());
    for outgoing in all {
        reports.extend(outgoing.report);
        batch.extend(outgoing.letters);
        receipts.extend(outgoing.receipts);
    }
    batch.extend(reports.iter().map(|report| to_heart(shared, report)));
    let topology = shared.options.names.node_topology(&shared.options.node_id);
    let persist = Persist::new(&topology);
    crash::reached(Point::NodeBeforeReport);
    let told = all_then_ack(&*shared.broker, batch, receipts, &persist).await;
    let Err(unfinished) = told else { return };
    if let (BrokerError::TooLarge { .. }, Some(mut bare)) = (&unfinished.error, reports.pop()) {
        bare.outcomes.clear();
        let batch = vec![to_heart(shared, &bare)];
        let told = all_then_ack(&*shared.broker, batch, unfinished.receipts, &persist).await;
        if let Err(error) = told {
            tracing::warn!(%error, "a report was not taken");
        }
        return;
    }
    tracing::debug!(error = %unfinished, "reports were not taken");
}

fn to_heart(shared: &Shared, report: &Report) -> Publication {
    let message = report.to_message(shared.clock.now());
    Publication::to_queue(shared.options.names.heart_queue(), message)
}
