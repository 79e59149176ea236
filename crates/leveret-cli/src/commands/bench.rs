//! `leveret bench`: load on a real engine, in this process. Prints its parameters with its figures.

use std::{sync::Arc, time::Duration};

use anyhow::{Context, Result};
use clap::{Args, Subcommand};
use leveret::{
    Connected, connect,
    core::{json::Json, parse::workflow_from_json, workflow::Workflow},
    nodes::{NodeContext, Registry},
    runtime::{Engine, EngineParts, Names, Publish, Roles, StartRequest, StatusMessages, WorkerOptions},
    store::RunStatus,
};
use serde::Serialize;
use serde_json::json;
use tokio::{sync::watch, time::Instant};

/// What to measure.
#[derive(Debug, Subcommand)]
pub enum Bench {
    /// Runs of a chain of nodes that are not pure: each step is committed before the next starts.
    Chain(Chain),
}

/// A chain.
#[derive(Debug, Clone, Args)]
pub struct Chain {
    /// Nodes of the chain.
    #[arg(long, default_value_t = 5)]
    pub nodes: usize,
    /// Runs that are measured.
    #[arg(long, default_value_t = 20_000)]
    pub runs: usize,
    /// Runs in flight at once.
    #[arg(long, default_value_t = 256)]
    pub concurrency: usize,
    /// Bytes of input that each run carries; its nodes do not read them.
    #[arg(long, default_value_t = 16)]
    pub input_bytes: usize,
}

/// What was measured, and with what.
#[derive(Debug, Serialize)]
pub struct Report {
    pub nodes: usize,
    pub runs: usize,
    pub concurrency: usize,
    pub input_bytes: usize,
    pub store: String,
    pub broker: String,
    pub status: StatusMessages,
    pub runs_per_s: f64,
    pub steps_per_s: f64,
    pub p50_ms: f64,
    pub p99_ms: f64,
    pub max_ms: f64,
    pub step_us: f64,
    pub elapsed_ms: f64,
}

/// Where to measure.
#[derive(Debug, Clone)]
pub struct Target {
    /// The store's URL.
    pub store: String,
    /// The broker's URL.
    pub broker: String,
    /// Which status messages are published; none are to an embedded broker.
    pub status: StatusMessages,
}

/// The node type of the chain: no effect, and not pure.
const STEP: &str = "bench.step";

/// Measures a chain. Exchange and queues have names of their own and are removed at the end.
pub async fn chain(options: &Chain, target: &Target, progress: &(dyn Fn(u64) + Sync)) -> Result<Report> {
    let Connected { store, broker, one_file } = connect(&target.store, &target.broker).await?;
    let shared = broker.capabilities().shared;
    let status = if shared { target.status } else { StatusMessages::Off };
    let prefix = format!("leveret-bench-{}.", std::process::id());
    let mut registry = Registry::builtin();
    registry.register_fn(STEP, |ctx: NodeContext| async move { Ok(ctx.params["output"].clone()) });
    let engine = Engine::new(EngineParts {
        one_file,
        registry,
        names: Names::with_prefix(&prefix),
        publish: Publish { status, completion: shared },
        ..EngineParts::new(store, broker)
    })
    .await?;
    let (stop, stopped) = watch::channel(false);
    let roles = Roles {
        worker: Some(WorkerOptions { concurrency: 256, prefetch: 512, drain_timeout: Duration::from_secs(10) }),
        timers: false,
        reconciler: false,
    };
    let serving = tokio::spawn({
        let engine = engine.clone();
        async move { engine.serve(roles, stopped).await }
    });
    let workflow = Arc::new(workflow(options.nodes)?);
    let input = Json::from(json!({ "payload": "x".repeat(options.input_bytes) }));
    let warm_up = (options.runs / 10).clamp(1, 2000);
    load(&engine, &workflow, &input, warm_up, options.concurrency, &|_| ()).await?;
    let begun = Instant::now();
    let mut latencies = load(&engine, &workflow, &input, options.runs, options.concurrency, progress).await?;
    let elapsed = begun.elapsed();
    stop.send(true).context("the engine stopped early")?;
    serving.await??;
    clean_up(&engine).await;
    engine.close().await;
    latencies.sort_unstable();
    let at = |share: f64| {
        let index = ((latencies.len() as f64 * share) as usize).min(latencies.len() - 1);
        latencies[index].as_secs_f64() * 1e3
    };
    let runs_per_s = options.runs as f64 / elapsed.as_secs_f64();
    let steps_per_s = runs_per_s * options.nodes as f64;
    Ok(Report {
        nodes: options.nodes,
        runs: options.runs,
        concurrency: options.concurrency,
        input_bytes: options.input_bytes,
        store: target.store.clone(),
        broker: target.broker.clone(),
        status,
        runs_per_s,
        steps_per_s,
        p50_ms: at(0.5),
        p99_ms: at(0.99),
        max_ms: at(1.0),
        step_us: 1e6 / steps_per_s,
        elapsed_ms: elapsed.as_secs_f64() * 1e3,
    })
}

fn workflow(nodes: usize) -> Result<Workflow> {
    let node = |n: usize| json!({ "id": format!("n{n}"), "uses": STEP, "params": { "output": { "n": n } } });
    let edge = |n: usize| json!({ "source": format!("n{}", n - 1), "target": format!("n{n}") });
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
    progress: &(dyn Fn(u64) + Sync),
) -> Result<Vec<Duration>> {
    let mut clients = tokio::task::JoinSet::new();
    let left = Arc::new(std::sync::atomic::AtomicUsize::new(runs));
    for _ in 0..concurrency.min(runs) {
        let (engine, workflow, input, left) = (engine.clone(), workflow.clone(), input.clone(), left.clone());
        clients.spawn(async move {
            use std::sync::atomic::Ordering::Relaxed;
            let mut latencies = Vec::new();
            while left.fetch_update(Relaxed, Relaxed, |n| n.checked_sub(1)).is_ok() {
                let begun = Instant::now();
                let request = StartRequest { workflow: workflow.clone(), input: input.clone(), run_id: None };
                let result = engine.start_and_wait(request).await?;
                anyhow::ensure!(result.status == RunStatus::Completed, "run {} {}", result.run_id, result.status);
                latencies.push(begun.elapsed());
            }
            Ok(latencies)
        });
    }
    let mut all = Vec::with_capacity(runs);
    while let Some(client) = clients.join_next().await {
        all.extend(client??);
        progress(all.len() as u64);
    }
    Ok(all)
}

async fn clean_up(engine: &Engine) {
    if !engine.broker().capabilities().shared {
        return;
    }
    let Names { exchange, execution, status, completion, dead_letters } = engine.names();
    for queue in [execution, status, completion, dead_letters] {
        if let Err(error) = engine.broker().delete_queue(queue).await {
            tracing::warn!(%error, "queue {queue} was not removed");
        }
    }
    if let Err(error) = engine.broker().delete_exchange(exchange).await {
        tracing::warn!(%error, "exchange {exchange} was not removed");
    }
}
