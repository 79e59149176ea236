//! What is logged goes to the exchange: one batch in flight, in the log's order, each message confirmed.

use std::{sync::Arc, time::Duration};

use leveret_core::{broadcast::Logged, time::Timestamp};
use tokio::{
    sync::watch,
    time::{sleep, timeout},
};

use super::{Shared, state::Outgoing};
use crate::{
    broadcast::wire::{Broadcast, MESSAGE_BYTES_MAX, MESSAGE_WRITES_MAX},
    broker::{BrokerError, Publication},
    crash::{self, Point},
};

/// The most writes in one batch.
const BATCH_WRITES_MAX: usize = 2048;

/// The most bytes in one batch, about.
const BATCH_BYTES_MAX: usize = 8 << 20;

/// How long the broker may take for a batch. A blocked one takes none.
const PUBLISH_TIMEOUT: Duration = Duration::from_secs(5);

/// The pause after a batch that was not taken.
const PAUSE: Duration = Duration::from_millis(500);

/// Publishes until `stop`. A batch that is not taken is published again; nodes are told to fetch meanwhile, and skip what they have.
pub(super) async fn run(shared: Arc<Shared>, mut stop: watch::Receiver<bool>) {
    loop {
        let outgoing = shared.outgoing.notified();
        while publish_some(&shared).await {}
        let has_failed = shared.state().unpublished.is_some();
        // Without the borrow of the flag, which must not live across an await.
        let stopped = async { drop(stop.wait_for(|stop| *stop).await) };
        tokio::select! {
            biased;
            () = stopped => {
                // What is logged goes out, as far as the broker takes it now.
                while publish_some(&shared).await {}
                return;
            }
            () = outgoing => {}
            () = sleep(PAUSE), if has_failed => {}
        }
    }
}

/// Publishes what waits, at most a batch. Returns whether it is published.
async fn publish_some(shared: &Shared) -> bool {
    let (batch, cluster) = {
        let state = shared.state();
        let batch = state.outbox.first(BATCH_WRITES_MAX, BATCH_BYTES_MAX);
        (batch, state.cluster.clone())
    };
    let Some(last) = batch.last().map(|one| one.logged.position.seq) else {
        return false;
    };
    let count = batch.len() as u64;
    let messages = publications(shared, &cluster, batch);
    let messages_count = messages.len() as u64;
    crash::reached(Point::HeartBeforePublish);
    match publish(shared, messages).await {
        Ok(()) => {
            crash::reached(Point::HeartAfterPublish);
            shared.metrics.published.add(count);
            shared.metrics.messages.add(messages_count);
            let mut state = shared.state();
            state.outbox.published(last);
            if state.unpublished.take().is_some() {
                tracing::info!("the broker takes writes again");
            }
            true
        }
        Err(error) => {
            shared.metrics.publish_failures.inc();
            let was_well = {
                let mut state = shared.state();
                state.unpublished.replace(error.to_string()).is_none()
            };
            if was_well {
                tracing::warn!(%error, "the broker takes no writes: nodes fetch them from the log");
            }
            shared.nudge_all();
            false
        }
    }
}

/// One that no queue takes is not for anybody: the log has it.
async fn publish(shared: &Shared, messages: Vec<Publication>) -> Result<(), BrokerError> {
    let published = timeout(PUBLISH_TIMEOUT, shared.parts.broker.publish(messages)).await;
    let published = published.map_err(|_| BrokerError::Unavailable {
        detail: "it does not confirm in time".to_owned(),
    })?;
    for result in published {
        match result {
            Ok(()) | Err(BrokerError::Unroutable { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn publications(shared: &Shared, cluster: &Arc<str>, batch: Vec<Outgoing>) -> Vec<Publication> {
    let now = shared.now();
    let mut messages = Vec::new();
    let (mut entries, mut wanted, mut bytes) = (Vec::new(), Vec::new(), 0);
    for one in batch {
        let is_full = entries.len() >= MESSAGE_WRITES_MAX || bytes >= MESSAGE_BYTES_MAX;
        // What overflowed in between leaves a gap, and a message has none.
        let follows = entries
            .last()
            .is_none_or(|last: &Logged| last.position.seq + 1 == one.logged.position.seq);
        if is_full || !follows {
            messages.push(publication(shared, cluster, &mut wanted, &mut entries, now));
            bytes = 0;
        }
        bytes += one.bytes;
        if one.is_wanted {
            wanted.push(one.logged.position.seq);
        }
        entries.push(one.logged);
    }
    messages.push(publication(shared, cluster, &mut wanted, &mut entries, now));
    messages
}

fn publication(
    shared: &Shared,
    cluster: &Arc<str>,
    wanted: &mut Vec<u64>,
    entries: &mut Vec<Logged>,
    now: Timestamp,
) -> Publication {
    let broadcast = Broadcast {
        cluster: cluster.clone(),
        wanted: std::mem::take(wanted),
        entries: std::mem::take(entries),
    };
    Publication {
        exchange: shared.options.names.exchange.clone(),
        routing_key: "".into(),
        message: broadcast.to_message(now),
        copied: false,
    }
}

impl Shared {
    /// Tells all nodes to look at the log, and does not wait for them.
    pub(super) fn nudge_all(&self) {
        let links: Vec<_> = {
            let state = self.state();
            let members = state.members.by_id.values();
            members.filter_map(|member| member.link.clone()).collect()
        };
        for link in links {
            tokio::spawn(async move { drop(link.nudge().await) });
        }
    }
}
