//! The figures of services, as Prometheus metrics. `docs/SERVICES.md` has the table.

use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::timeout;

use super::{Service, counts::QueueCounts, documents::Backlog};
use crate::{
    broker::QueueStats,
    metrics::{
        Counter, queues,
        text::{Kind, TextWriter},
    },
};

/// How long broker and database may take to say how much waits.
const LOOK_TIMEOUT: Duration = Duration::from_secs(2);

/// One count of a queue.
type Count = fn(&QueueCounts) -> &Counter;

/// What becomes of messages, by the word of the label `result`.
const RESULTS: [(&str, Count); 2] = [
    ("parked", |counts| &counts.parked),
    ("stale", |counts| &counts.stale),
];

/// What one service says.
struct Look<'a> {
    service: &'a Service,
    backlog: Option<Backlog>,
    queues: Vec<(&'a str, Option<QueueStats>)>,
}

/// Writes the figures of services that share a process. What does not answer in time is left out.
pub async fn scrape(services: &[&Service], text: &mut TextWriter) {
    let looks = join_all(services.iter().map(|service| look(service))).await;
    let work = services.iter().flat_map(|service| &service.0.work);
    let work: Vec<_> = work
        .map(|(queue, metrics)| (&**queue, &**metrics))
        .collect();
    queues::write(text, &work);
    let mut messages = text.family(
        "leveret_service_messages_total",
        Kind::Counter,
        "Messages that changed no document, by what became of them.",
    );
    for Look { service, .. } in &looks {
        for (queue, counts) in &service.0.counts {
            for (result, count) in RESULTS {
                let labels = [
                    ("service", service.name()),
                    ("queue", queue),
                    ("result", result),
                ];
                messages.sample(&labels, count(counts).get());
            }
        }
    }
    let mut sent = text.family(
        "leveret_service_outbox_sent_total",
        Kind::Counter,
        "Messages that left a service's outbox, confirmed by the broker.",
    );
    for Look { service, .. } in &looks {
        let count = &service.0.relay.counts().sent;
        sent.sample(&[("service", service.name())], count.get());
    }
    let mut unrouted = text.family(
        "leveret_service_outbox_unrouted_total",
        Kind::Counter,
        "Of these, events that no queue takes.",
    );
    for Look { service, .. } in &looks {
        let count = &service.0.relay.counts().unrouted;
        unrouted.sample(&[("service", service.name())], count.get());
    }
    let mut failures = text.family(
        "leveret_service_outbox_failures_total",
        Kind::Counter,
        "Tries to publish that failed; the message stays in the outbox.",
    );
    for Look { service, .. } in &looks {
        let count = &service.0.relay.counts().failures;
        failures.sample(&[("service", service.name())], count.get());
    }
    backlogs(&looks, text);
    lengths(&looks, text);
}

fn backlogs(looks: &[Look<'_>], text: &mut TextWriter) {
    type Value = fn(&Backlog, &Service) -> u64;
    let families: [(&'static str, &str, Value); 5] = [
        (
            "leveret_service_outbox_messages",
            "Messages in a service's outbox.",
            |backlog, _| backlog.outgoing,
        ),
        (
            "leveret_service_outbox_age_seconds",
            "Age of the oldest of them.",
            |backlog, service| {
                let oldest = backlog.outgoing_oldest;
                oldest.map_or(0, |at| service.now().ms_since(at) / 1000)
            },
        ),
        (
            "leveret_service_parked_messages",
            "Messages that came too early and wait for their documents.",
            |backlog, _| backlog.parked,
        ),
        (
            "leveret_service_parked_age_seconds",
            "Age of the oldest of them.",
            |backlog, service| {
                let oldest = backlog.parked_oldest;
                oldest.map_or(0, |at| service.now().ms_since(at) / 1000)
            },
        ),
        (
            "leveret_service_deadlines",
            "Deadlines that are set.",
            |backlog, _| backlog.deadlines,
        ),
    ];
    for (name, help, value) in families {
        let mut family = text.family(name, Kind::Gauge, help);
        for look in looks {
            if let Some(backlog) = &look.backlog {
                let labels = [("service", look.service.name())];
                family.sample(&labels, value(backlog, look.service));
            }
        }
    }
}

fn lengths(looks: &[Look<'_>], text: &mut TextWriter) {
    type Value = fn(&QueueStats) -> u64;
    let families: [(&'static str, &str, Value); 2] = [
        (
            "leveret_service_queue_messages",
            "Messages that wait in a queue of a service.",
            |stats| stats.ready,
        ),
        (
            "leveret_service_queue_consumers",
            "Consumers of a queue of a service, of all processes.",
            |stats| stats.consumers.into(),
        ),
    ];
    for (name, help, value) in families {
        let mut family = text.family(name, Kind::Gauge, help);
        for look in looks {
            for (queue, stats) in &look.queues {
                if let Some(stats) = stats {
                    let labels = [("service", look.service.name()), ("queue", queue)];
                    family.sample(&labels, value(stats));
                }
            }
        }
    }
}

async fn look(service: &Service) -> Look<'_> {
    let backlog = timeout(LOOK_TIMEOUT, service.0.documents.backlog()).await;
    let queues = service.0.options.topology.queues.iter().map(|queue| async {
        let stats = timeout(LOOK_TIMEOUT, service.0.broker.queue_stats(&queue.name)).await;
        (&*queue.name, stats.ok().and_then(Result::ok))
    });
    Look {
        service,
        backlog: backlog.ok().and_then(Result::ok),
        queues: join_all(queues).await,
    }
}
