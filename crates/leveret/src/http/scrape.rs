//! `/metrics`: what this process counted, and what the broker says of the queues.

use std::{sync::Arc, time::Duration};

use axum::{
    extract::State,
    http::{HeaderValue, header},
    response::{IntoResponse, Response},
};
use tokio::{sync::Mutex, time::Instant};

use super::{
    Api, Shared,
    extract::NoQuery,
    health::{self, PartState},
    problem::ProblemBody,
};
use crate::{
    broker::{BrokerError, QueueStats},
    metrics::{
        ConsumerGauge, Metrics,
        text::{CONTENT_TYPE, Kind, TextWriter},
    },
    runtime::Engine,
};

/// For how long the broker's answer is good, however often somebody scrapes.
const FRESH: Duration = Duration::from_secs(1);
/// How long the broker may take for all queues together.
const ASK_TIMEOUT: Duration = Duration::from_secs(2);

type Queues = Vec<(Arc<str>, QueueStats)>;

/// The newest answer of the broker.
#[derive(Default)]
pub(super) struct QueueStatsCache(Mutex<Option<(Instant, Arc<Queues>)>>);

impl QueueStatsCache {
    /// The queues that the engine declared. One asks, the others wait for that answer; empty when there is none.
    async fn get(&self, engine: &Engine) -> Arc<Queues> {
        let mut cached = self.0.lock().await;
        if let Some((at, queues)) = &*cached
            && at.elapsed() < FRESH
        {
            return queues.clone();
        }
        let queues = match tokio::time::timeout(ASK_TIMEOUT, ask(engine)).await {
            Ok(Ok(queues)) => queues,
            Ok(Err(error)) => {
                tracing::debug!(%error, "the broker says nothing of its queues");
                Queues::new()
            }
            Err(_) => Queues::new(),
        };
        let queues = Arc::new(queues);
        *cached = Some((Instant::now(), queues.clone()));
        queues
    }
}

async fn ask(engine: &Engine) -> Result<Queues, BrokerError> {
    let mut queues = Queues::new();
    for name in engine.queues() {
        match engine.broker().queue_stats(&name).await {
            Ok(stats) => queues.push((name, stats)),
            // Deleted by somebody.
            Err(BrokerError::NotFound { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(queues)
}

/// Metrics in the Prometheus text format.
#[utoipa::path(get, path = "/metrics", operation_id = "metrics", tag = "operations", responses(
    (status = 200, description = "The metrics of this process", body = String, content_type = "text/plain"),
    (status = 400, description = "Not a query", body = ProblemBody, content_type = "application/problem+json"),
))]
pub(super) async fn metrics(State(api): State<Api>, _: NoQuery) -> Response {
    let queues = api.queue_stats.get(&api.engine).await;
    let mut writer = TextWriter::default();
    counted(&mut writer, api.engine.metrics());
    workflows(&mut writer, api.engine.metrics());
    steps(&mut writer, api.engine.metrics());
    asked(&mut writer, &queues);
    unread(&mut writer, &api.engine);
    state(&mut writer, &api).await;
    (
        [(header::CONTENT_TYPE, HeaderValue::from_static(CONTENT_TYPE))],
        writer.finish(),
    )
        .into_response()
}

fn counted(writer: &mut TextWriter, metrics: &Metrics) {
    let m = metrics;
    let singles = [
        (
            "leveret_runs_started_total",
            "Runs begun by this process.",
            &m.runs_started,
        ),
        (
            "leveret_messages_published_total",
            "Messages that the broker confirmed.",
            &m.published,
        ),
        (
            "leveret_status_messages_lost_total",
            "Status messages that the broker did not take.",
            &m.status_messages_lost,
        ),
        (
            "leveret_messages_consumed_total",
            "Deliveries of jobs taken.",
            &m.consumed,
        ),
        (
            "leveret_messages_acked_total",
            "Deliveries acknowledged.",
            &m.acked,
        ),
        (
            "leveret_messages_requeued_total",
            "Deliveries returned to their queue.",
            &m.requeued,
        ),
        (
            "leveret_duplicates_total",
            "Jobs that were copies of others and changed nothing.",
            &m.duplicates,
        ),
        (
            "leveret_dead_letters_total",
            "Jobs that went to the dead-letter queue.",
            &m.dead_letters,
        ),
        (
            "leveret_timers_fired_total",
            "Timers fired: sleeps and retries that came due.",
            &m.timers_fired,
        ),
        (
            "leveret_signals_total",
            "Signals recorded, each once.",
            &m.signals,
        ),
        (
            "leveret_reconciled_total",
            "Stalled runs taken up again.",
            &m.reconciled,
        ),
        (
            "leveret_runs_pruned_total",
            "Runs removed, as they had ended long ago.",
            &m.runs_pruned,
        ),
    ];
    for (name, help, counter) in singles {
        writer.single(name, Kind::Counter, help, counter.get());
    }
    writer
        .family(
            "leveret_runs_ended_total",
            Kind::Counter,
            "Runs that ended in this process, by how.",
        )
        .sample(&[("status", "completed")], m.runs_completed.get())
        .sample(&[("status", "failed")], m.runs_failed.get())
        .sample(&[("status", "cancelled")], m.runs_cancelled.get());
    writer
        .family(
            "leveret_errors_total",
            Kind::Counter,
            "Calls of the store that failed and were repeated, and publishes that failed, by part.",
        )
        .sample(&[("part", "store")], m.store_errors.get())
        .sample(&[("part", "broker")], m.broker_errors.get());
    writer
        .family(
            "leveret_commit_steps",
            Kind::Histogram,
            "Steps per commit; the count is the number of commits.",
        )
        .histogram(&[], 1.0, &m.commit_steps);
}

fn workflows(writer: &mut TextWriter, metrics: &Metrics) {
    let workflows = metrics.workflows();
    let mut started = writer.family(
        "leveret_workflow_runs_started_total",
        Kind::Counter,
        "Runs begun by this process, by workflow.",
    );
    for (name, counted) in &workflows {
        started.sample(&[("workflow", name)], counted.started.get());
    }
    let mut ended = writer.family(
        "leveret_workflow_runs_ended_total",
        Kind::Counter,
        "Runs that ended in this process, by workflow and how.",
    );
    for (name, counted) in &workflows {
        ended
            .sample(
                &[("workflow", name), ("status", "completed")],
                counted.completed.get(),
            )
            .sample(
                &[("workflow", name), ("status", "failed")],
                counted.failed.get(),
            )
            .sample(
                &[("workflow", name), ("status", "cancelled")],
                counted.cancelled.get(),
            );
    }
    let mut durations = writer.family(
        "leveret_workflow_run_duration_seconds",
        Kind::Histogram,
        "How long runs took that ended in this process, by workflow.",
    );
    for (name, counted) in &workflows {
        durations.histogram(&[("workflow", name)], 1e3, &counted.duration_ms);
    }
}

fn steps(writer: &mut TextWriter, metrics: &Metrics) {
    let node_types = metrics.node_types();
    let mut attempts = writer.family(
        "leveret_step_attempts_total",
        Kind::Counter,
        "Attempts at steps executed by this process, by node type and outcome.",
    );
    for (name, counted) in &node_types {
        attempts
            .sample(
                &[("node_type", name), ("outcome", "completed")],
                counted.completed.get(),
            )
            .sample(
                &[("node_type", name), ("outcome", "failed")],
                counted.failed.get(),
            )
            .sample(
                &[("node_type", name), ("outcome", "retried")],
                counted.retried.get(),
            )
            .sample(
                &[("node_type", name), ("outcome", "waiting")],
                counted.waiting.get(),
            );
    }
    let mut durations = writer.family(
        "leveret_step_duration_seconds",
        Kind::Histogram,
        "How long attempts at steps took, by node type.",
    );
    for (name, counted) in &node_types {
        durations.histogram(&[("node_type", name)], 1e6, &counted.duration_us);
    }
}

fn asked(writer: &mut TextWriter, queues: &Queues) {
    let mut ready = writer.family(
        "leveret_queue_messages",
        Kind::Gauge,
        "Messages that wait in a queue.",
    );
    for (queue, stats) in queues {
        ready.sample(&[("queue", queue)], stats.ready);
    }
    let mut consumers = writer.family(
        "leveret_queue_consumers",
        Kind::Gauge,
        "Consumers that the broker counts.",
    );
    for (queue, stats) in queues {
        consumers.sample(&[("queue", queue)], stats.consumers);
    }
}

fn unread(writer: &mut TextWriter, engine: &Engine) {
    let unread = engine.unread();
    let mut family = writer.family(
        "leveret_queue_unread",
        Kind::Gauge,
        "Whether a queue grows as nobody consumes it.",
    );
    for queue in engine.for_others() {
        family.sample(&[("queue", &queue)], u8::from(unread.contains(&queue)));
    }
}

async fn state(writer: &mut TextWriter, api: &Shared) {
    let consumer = api.engine.metrics().consumer.get();
    let queue = &*api.engine.names().execution;
    let mut states = writer.family(
        "leveret_consumer_state",
        Kind::Gauge,
        "Where the worker's consumer stands: 1 at its state, 0 at all others.",
    );
    for (state, name) in ConsumerGauge::STATES {
        states.sample(
            &[("queue", queue), ("state", name)],
            u8::from(consumer == Some(state)),
        );
    }
    let parts = health::look(api).await.parts;
    let all = [
        ("store", Some(parts.store)),
        ("broker", Some(parts.broker)),
        ("consumer", parts.consumer),
        ("publishing", Some(parts.publishing)),
    ];
    let mut ready = writer.family(
        "leveret_ready",
        Kind::Gauge,
        "Whether a part of the process is ready.",
    );
    for (part, state) in all
        .into_iter()
        .filter_map(|(part, state)| Some((part, state?)))
    {
        ready.sample(&[("part", part)], u8::from(state == PartState::Ready));
    }
    writer
        .family(
            "leveret_build_info",
            Kind::Gauge,
            "The version of this program; always 1.",
        )
        .sample(&[("version", env!("CARGO_PKG_VERSION"))], 1);
}
