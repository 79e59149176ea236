//! The relay that empties an outbox, beside a bare loop that publishes with confirms over the same client.

use std::{sync::Arc, time::Instant};

use leveret::{
    broker::{Broker, Message, Publication, Queue, Topology},
    service::{
        Documents, Service, ServiceOptions,
        documents::{Commit, Committed, Outgoing},
    },
};

use crate::settings::Work;

/// How many messages each of them publishes.
const MESSAGES: usize = 20_000;
/// How many go out in one call of the bare loop.
const BATCH: usize = 512;
/// How many commits are made in one call.
const COMMITS: usize = 256;
const QUEUE: &str = "orders.bench";

/// Messages per second.
pub(super) struct Rates {
    pub(super) publish: f64,
    pub(super) relay: f64,
}

/// Measures both, with a queue of their own.
pub(super) async fn measure(
    broker: Arc<dyn Broker>,
    documents: Arc<dyn Documents>,
    work: &Work,
) -> anyhow::Result<Rates> {
    let topology = Topology {
        queues: vec![Queue::plain(QUEUE)],
        ..Topology::default()
    };
    broker.declare(&topology).await?;
    let publish = publish(&*broker).await?;
    broker.purge(QUEUE).await?;
    fill(&*documents, work).await?;
    let options = ServiceOptions::new("bench", work.now.clone());
    let service = Service::builder(options, documents, broker.clone()).build();
    let began = Instant::now();
    let mut sent = 0;
    while sent < MESSAGES {
        let now = service.relay_once().await?;
        anyhow::ensure!(now > 0, "{sent} of {MESSAGES} messages were in the outbox");
        sent += now;
    }
    let relay = MESSAGES as f64 / began.elapsed().as_secs_f64();
    let arrived = broker.queue_stats(QUEUE).await?.ready;
    anyhow::ensure!(arrived == MESSAGES as u64, "{arrived} messages arrived");
    broker.delete_queue(QUEUE).await?;
    Ok(Rates { publish, relay })
}

fn message(number: usize) -> Publication {
    let body = format!(r#"{{"order_id":"bench-{number}","amount":1250,"user_id":"bench"}}"#);
    let mut message = Message::json(body);
    message.message_id = Some(format!("bench-{number}").into());
    Publication::to_queue(QUEUE, message)
}

async fn publish(broker: &dyn Broker) -> anyhow::Result<f64> {
    let began = Instant::now();
    for first in (0..MESSAGES).step_by(BATCH) {
        let batch = first..(first + BATCH).min(MESSAGES);
        for result in broker.publish(batch.map(message).collect()).await {
            result?;
        }
    }
    Ok(MESSAGES as f64 / began.elapsed().as_secs_f64())
}

/// Commits the messages, each in a lane of its own as that of an order, and holds none of them.
async fn fill(documents: &dyn Documents, work: &Work) -> anyhow::Result<()> {
    for first in (0..MESSAGES).step_by(COMMITS) {
        let commit = |number| Commit {
            publish: vec![Outgoing {
                lane: format!("bench/{number}").into(),
                publication: message(number),
                must_route: true,
            }],
            ..Commit::default()
        };
        let batch = first..(first + COMMITS).min(MESSAGES);
        let batch: Vec<_> = batch.map(commit).collect();
        let mut held = Vec::new();
        for committed in documents.commit(&batch, (work.now)()).await? {
            if let Committed::Done(claimed) = committed {
                held.extend(claimed.into_iter().map(|claimed| claimed.id));
            }
        }
        documents.release(&held).await?;
    }
    Ok(())
}
