//! `leveret bench`: load on a real engine, in this process. Prints its parameters with its figures.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use leveret::{
    broker::{BrokerError, ConsumeOptions, work::WorkOptions},
    core::{json::Json, parse::workflow_from_json, workflow::Workflow},
    nodes::{NodeContext, Registry},
    redact_url, remove_prefixed,
    runtime::{Engine, Names, StartRequest},
    store::{RunStatus, StepError},
};
use serde::Serialize;
use serde_json::json;
use tokio::time::Instant;

use crate::{
    cli::{BatchArgs, BenchCommand, ChainArgs},
    engine::Running,
    exit::Exit,
    output::{self, Output, Table},
    progress::Progress,
    settings::{Settings, Status},
    shutdown,
};

/// What was measured, and with what.
#[derive(Debug, Serialize)]
struct Report {
    nodes: u32,
    runs: u32,
    concurrency: u32,
    input_bytes: usize,
    store: String,
    broker: String,
    /// The mode in force.
    status: Status,
    runs_per_s: f64,
    steps_per_s: f64,
    p50_ms: f64,
    p99_ms: f64,
    max_ms: f64,
    step_us: f64,
    elapsed_ms: f64,
    /// Status and completion messages that were consumed, of the warm-up too.
    messages: u64,
}

/// The node type of the chain: no effect, and not pure.
const STEP: &str = "bench.step";

pub(crate) async fn bench(
    command: BenchCommand,
    settings: &Settings,
    output: Output,
) -> anyhow::Result<Exit> {
    let args = match command {
        BenchCommand::Chain(args) => args,
        BenchCommand::Batch(args) => return batch(&args, settings, output).await,
        BenchCommand::Broadcast(args) => {
            return crate::bench::broadcast::bench(&args, settings, output).await;
        }
    };
    let report = chain(&args, settings).await?;
    if output.json {
        output::json(&report)?;
        return Ok(Exit::Ok);
    }
    let mut table = Table::new(["figure", "value"]).number(1);
    let ms = |ms: f64| format!("{ms:.3} ms");
    for (name, value) in [
        ("runs/s", format!("{:.0}", report.runs_per_s)),
        ("steps/s", format!("{:.0}", report.steps_per_s)),
        ("p50", ms(report.p50_ms)),
        ("p99", ms(report.p99_ms)),
        ("max", ms(report.max_ms)),
        ("a step", format!("{:.1} µs", report.step_us)),
    ] {
        table.row([name.to_owned(), value]);
    }
    table.print()?;
    let Report {
        nodes,
        runs,
        concurrency,
        input_bytes,
        store,
        broker,
        status,
        ..
    } = &report;
    output::line(format!(
        "{runs} runs of {nodes} nodes, {concurrency} at once, {input_bytes} bytes of input, on {store} and {broker}, status messages {status}"
    ))?;
    Ok(Exit::Ok)
}

/// Measures a chain.
async fn chain(args: &ChainArgs, settings: &Settings) -> anyhow::Result<Report> {
    let of_a_step = match settings.status() {
        Status::All => 2,
        Status::Final => 1,
        Status::Off => 0,
    };
    let load = Load {
        workflow: workflow(args.nodes)?,
        input: Json::from(json!({ "payload": "x".repeat(args.input_bytes) })),
        runs: args.runs as usize,
        warm_up: (args.runs as usize / 10).clamp(1, 2000),
        concurrency: args.concurrency as usize,
        messages_of_a_run: u64::from(args.nodes) * of_a_step,
    };
    let Measured {
        store,
        broker,
        mut latencies,
        elapsed,
        messages,
    } = measure(load, settings).await?;
    latencies.sort_unstable();
    let at = |share: f64| {
        let index = ((latencies.len() as f64 * share) as usize).min(latencies.len() - 1);
        latencies[index].as_secs_f64() * 1e3
    };
    let runs_per_s = f64::from(args.runs) / elapsed.as_secs_f64();
    let steps_per_s = runs_per_s * f64::from(args.nodes);
    Ok(Report {
        nodes: args.nodes,
        runs: args.runs,
        concurrency: args.concurrency,
        input_bytes: args.input_bytes,
        store,
        broker,
        status: settings.status(),
        runs_per_s,
        steps_per_s,
        p50_ms: at(0.5),
        p99_ms: at(0.99),
        max_ms: at(1.0),
        step_us: 1e6 / steps_per_s,
        elapsed_ms: elapsed.as_secs_f64() * 1e3,
        messages,
    })
}

/// What was measured of batches, and with what.
#[derive(Debug, Serialize)]
struct BatchReport {
    items: u32,
    runs: u32,
    concurrency: Option<u32>,
    store: String,
    broker: String,
    /// The mode in force.
    status: Status,
    items_per_s: f64,
    item_us: f64,
    elapsed_ms: f64,
}

/// Measures runs of one batch, one after the other.
async fn batch(args: &BatchArgs, settings: &Settings, output: Output) -> anyhow::Result<Exit> {
    let mut of_scatter = json!({ "gatherNodeId": "gather" });
    if let Some(most) = args.concurrency {
        of_scatter["concurrency"] = json!(most);
    }
    let definition = json!({
        "id": "bench-batch",
        "nodes": [
            { "id": "scatter", "uses": "batch-scatter", "params": of_scatter },
            { "id": "item", "uses": STEP, "params": { "output": "{{ item }}" } },
            { "id": "gather", "uses": "batch-gather" },
        ],
        "edges": [
            { "source": "scatter", "target": "item" },
            { "source": "item", "target": "gather" },
        ],
    });
    let workflow = workflow_from_json(&definition, None);
    let items: Vec<u32> = (0..args.items).collect();
    let of_a_step = match settings.status() {
        Status::All => 2,
        Status::Final => 1,
        Status::Off => 0,
    };
    let load = Load {
        workflow: workflow.map_err(|diagnostics| anyhow::anyhow!("{diagnostics}"))?,
        input: Json::from(json!(items)),
        runs: args.runs as usize,
        warm_up: 1,
        concurrency: 1,
        messages_of_a_run: (u64::from(args.items) + 2) * of_a_step,
    };
    let Measured {
        store,
        broker,
        elapsed,
        ..
    } = measure(load, settings).await?;
    let items_per_s = f64::from(args.items) * f64::from(args.runs) / elapsed.as_secs_f64();
    let report = BatchReport {
        items: args.items,
        runs: args.runs,
        concurrency: args.concurrency,
        store,
        broker,
        status: settings.status(),
        items_per_s,
        item_us: 1e6 / items_per_s,
        elapsed_ms: elapsed.as_secs_f64() * 1e3,
    };
    if output.json {
        output::json(&report)?;
        return Ok(Exit::Ok);
    }
    let mut table = Table::new(["figure", "value"]).number(1);
    table.row(["items/s".to_owned(), format!("{:.0}", report.items_per_s)]);
    table.row(["an item".to_owned(), format!("{:.1} µs", report.item_us)]);
    table.print()?;
    let BatchReport {
        items,
        runs,
        store,
        broker,
        status,
        ..
    } = &report;
    output::line(format!(
        "{runs} runs of {items} items, one after the other, on {store} and {broker}, status messages {status}"
    ))?;
    Ok(Exit::Ok)
}

/// What is measured.
struct Load {
    workflow: Workflow,
    input: Json,
    runs: usize,
    /// Runs before those that are measured.
    warm_up: usize,
    /// Runs at once.
    concurrency: usize,
    /// Status messages.
    messages_of_a_run: u64,
}

/// What came of it.
struct Measured {
    store: String,
    broker: String,
    latencies: Vec<Duration>,
    elapsed: Duration,
    /// Status and completion messages that were consumed, of the warm-up too.
    messages: u64,
}

/// Runs a load. On a shared broker, exchange and queues have names of their own and are removed at the end.
async fn measure(of: Load, settings: &Settings) -> anyhow::Result<Measured> {
    let mut settings = settings.clone();
    // Behind the prefix of the settings: with that alone, the queues of others would be used, and removed.
    let prefix = settings.prefix.unwrap_or_default();
    settings.prefix = Some(format!("{prefix}leveret-bench-{}.", std::process::id()));
    let (store, broker) = if settings.says_where() {
        (
            redact_url(&settings.store()),
            redact_url(&settings.broker()?),
        )
    } else {
        (
            "a temporary SQLite file".to_owned(),
            "the embedded broker".to_owned(),
        )
    };
    let mut registry = Registry::builtin();
    registry.register_fn(STEP, |ctx: NodeContext| async move {
        Ok(ctx.params["output"].clone())
    });
    let mut stopped = shutdown::on_signal()?;
    let mut running = Running::start_with(&settings, registry).await?;
    let engine = running.engine.clone();
    let Load {
        input,
        runs,
        warm_up,
        concurrency,
        ..
    } = of;
    let workflow = Arc::new(of.workflow);
    let messages = Arc::<AtomicU64>::default();
    let measured = async {
        let completes = observe(&engine, &messages).await?;
        let warming = Arc::new(Progress::new(warm_up as u64, "warm-up"));
        load(&engine, &workflow, &input, warm_up, concurrency, warming).await?;
        let progress = Arc::new(Progress::new(runs as u64, "runs"));
        let begun = Instant::now();
        let latencies = load(&engine, &workflow, &input, runs, concurrency, progress).await?;
        // What was done is not told before it is published.
        engine.flush().await;
        let elapsed = begun.elapsed();
        let of_a_run = of.messages_of_a_run + u64::from(completes);
        observed(&messages, (warm_up + runs) as u64 * of_a_run).await;
        Ok((latencies, elapsed))
    };
    let measured = tokio::select! {
        measured = measured => measured,
        () = shutdown::asked(&mut stopped) => Err(anyhow::anyhow!("interrupted before all runs ended")),
        error = running.failed() => return Err(error),
    };
    let cleaned = running.stop_after(clean_up).await;
    if settings.says_where() {
        let prefix = settings.prefix.as_deref().unwrap_or_default();
        remove_prefixed(&settings.store(), prefix).await?;
    }
    let (latencies, elapsed) = measured?;
    cleaned?;
    Ok(Measured {
        store,
        broker,
        latencies,
        elapsed,
        messages: messages.load(Relaxed),
    })
}

fn workflow(nodes: u32) -> anyhow::Result<Workflow> {
    let node =
        |n: u32| json!({ "id": format!("n{n}"), "uses": STEP, "params": { "output": { "n": n } } });
    let edge = |n: u32| json!({ "source": format!("n{}", n - 1), "target": format!("n{n}") });
    let definition = json!({
        "id": format!("bench-chain-{nodes}"),
        "nodes": (0..nodes).map(node).collect::<Vec<_>>(),
        "edges": (1..nodes).map(edge).collect::<Vec<_>>(),
    });
    workflow_from_json(&definition, None).map_err(|diagnostics| anyhow::anyhow!("{diagnostics}"))
}

/// Starts runs and waits for each, `concurrency` at once. Returns how long each took.
async fn load(
    engine: &Engine,
    workflow: &Arc<Workflow>,
    input: &Json,
    runs: usize,
    concurrency: usize,
    progress: Arc<Progress>,
) -> anyhow::Result<Vec<Duration>> {
    let mut clients = tokio::task::JoinSet::new();
    let left = Arc::new(AtomicUsize::new(runs));
    for _ in 0..concurrency.min(runs) {
        let (engine, workflow, input, left) = (
            engine.clone(),
            workflow.clone(),
            input.clone(),
            left.clone(),
        );
        let progress = progress.clone();
        clients.spawn(async move {
            let mut latencies = Vec::new();
            while left
                .fetch_update(Relaxed, Relaxed, |n| n.checked_sub(1))
                .is_ok()
            {
                let begun = Instant::now();
                let request = StartRequest {
                    workflow: workflow.clone(),
                    input: input.clone(),
                    run_id: None,
                };
                let result = engine.start_and_wait(request).await?;
                anyhow::ensure!(
                    result.status == RunStatus::Completed,
                    "run {} {}{}",
                    result.run_id,
                    result.status,
                    reason(result.error.as_ref())
                );
                latencies.push(begun.elapsed());
                progress.inc();
            }
            Ok(latencies)
        });
    }
    let mut all = Vec::with_capacity(runs);
    while let Some(client) = clients.join_next().await {
        all.extend(client??);
    }
    Ok(all)
}

/// Why a run failed, to be put behind that.
fn reason(error: Option<&StepError>) -> String {
    error.map_or_else(String::new, |error| {
        format!(" at '{}': {}", error.node_id, error.message)
    })
}

/// How many messages an observer is handed at once.
const OBSERVED_AT_ONCE: u16 = 1000;

/// Consumes the status and completion messages, as somebody would for whom they are published, and counts them. Answers whether there are
/// completion messages.
async fn observe(engine: &Engine, messages: &Arc<AtomicU64>) -> anyhow::Result<bool> {
    let names = engine.names();
    let mut completes = false;
    for queue in [&names.status, &names.completion] {
        let options = ConsumeOptions {
            prefetch: OBSERVED_AT_ONCE,
            ..ConsumeOptions::queue(queue.clone())
        };
        let mut consumer = match engine.broker().consume(options).await {
            Ok(consumer) => consumer,
            // None are published.
            Err(BrokerError::NotFound { .. }) => continue,
            Err(error) => return Err(error.into()),
        };
        completes |= *queue == names.completion;
        let messages = messages.clone();
        // It ends with the broker.
        tokio::spawn(async move {
            while let Some(delivery) = consumer.next().await {
                messages.fetch_add(1, Relaxed);
                delivery.receipt.ack();
            }
        });
    }
    Ok(completes)
}

/// How long observers may take for what was published last.
const OBSERVED_WITHIN: Duration = Duration::from_secs(10);
/// How often they are looked at.
const LOOK: Duration = Duration::from_millis(5);

/// Waits until so many messages were consumed.
async fn observed(messages: &AtomicU64, expected: u64) {
    let all = async {
        while messages.load(Relaxed) < expected {
            tokio::time::sleep(LOOK).await;
        }
    };
    if tokio::time::timeout(OBSERVED_WITHIN, all).await.is_err() {
        let consumed = messages.load(Relaxed);
        tracing::warn!("{consumed} status and completion messages of {expected} were consumed");
    }
}

async fn clean_up(engine: &Engine) {
    engine.flush().await;
    if !engine.broker().capabilities().shared {
        return;
    }
    let Names {
        exchange,
        execution,
        status,
        completion,
        dead_letters,
        signal,
        events,
    } = engine.names();
    let signals = WorkOptions::queue(signal.clone()).topology().queues;
    let signals = signals.iter().map(|queue| &queue.name);
    let queues = [execution, status, completion, dead_letters];
    for queue in queues.into_iter().chain(signals) {
        if let Err(error) = engine.broker().delete_queue(queue).await {
            tracing::warn!(%error, "queue {queue} was not removed");
        }
    }
    for exchange in [exchange, events] {
        if let Err(error) = engine.broker().delete_exchange(exchange).await {
            tracing::warn!(%error, "exchange {exchange} was not removed");
        }
    }
}
