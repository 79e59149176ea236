//! `garage bench`: happy sagas end to end, by the three APIs of one process: opened, quoted, approved, charged, diagnosed, repaired, completed.

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use tokio::{sync::watch, task::JoinSet};
use uuid::Uuid;

use crate::{
    bind,
    client::Client,
    gateway,
    settings::{BenchArgs, Settings},
    stack::{self, Place, Role, Stack},
};

/// Runs the measurement and prints it.
pub(crate) async fn run(args: &BenchArgs) -> anyhow::Result<()> {
    let data = std::env::temp_dir().join(format!("garage-bench-{}", Uuid::now_v7()));
    let measured = measure(args, &data).await;
    // What is left of a directory in the place for temporary files does no harm.
    drop(std::fs::remove_dir_all(&data));
    let (elapsed, mut latencies) = measured?;
    latencies.sort_unstable();
    let at = |share: f64| {
        let index = (latencies.len() as f64 * share) as usize;
        latencies[index.min(latencies.len() - 1)].as_secs_f64() * 1e3
    };
    let sagas_per_s = f64::from(args.work_orders) / elapsed.as_secs_f64();
    if args.json {
        let report = json!({
            "work_orders": args.work_orders,
            "concurrency": args.concurrency,
            "sagas_per_s": sagas_per_s,
            "p50_ms": at(0.5),
            "p99_ms": at(0.99),
            "elapsed_ms": elapsed.as_secs_f64() * 1e3,
        });
        println!("{report}");
    } else {
        println!(
            "{} work orders, {} at once: {sagas_per_s:.0} sagas/s, p50 {:.1} ms, p99 {:.1} ms",
            args.work_orders,
            args.concurrency,
            at(0.5),
            at(0.99)
        );
    }
    Ok(())
}

async fn measure(args: &BenchArgs, data: &Path) -> anyhow::Result<(Duration, Vec<Duration>)> {
    let (_stop, stopped) = watch::channel(false);
    stack::data(&data.to_owned())?;
    let mut places = Vec::new();
    for role in Role::ALL {
        places.push(Place {
            role,
            listener: bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).await?,
            store: stack::store(role, data, &args.servers),
        });
    }
    let mut settings = Settings::local();
    settings.gateway = gateway::simulate(&mut settings, &places, stopped).await?;
    let broker = stack::broker(data, &args.servers);
    let stack = Stack::start(places, &broker, &settings).await?;
    let client = Client::new(stack.apis(), &settings).await?;
    let warm_up = (args.work_orders / 10).clamp(1, 200);
    load(&client, args.concurrency, warm_up).await?;
    let begun = Instant::now();
    let latencies = load(&client, args.concurrency, args.work_orders).await?;
    let elapsed = begun.elapsed();
    let books = client.books(&settings.gateway).await?;
    anyhow::ensure!(
        books["charged_twice"] == json!([]),
        "charged twice: {books}"
    );
    stack.stop().await;
    Ok((elapsed, latencies))
}

async fn load(client: &Client, concurrency: u32, orders: u32) -> anyhow::Result<Vec<Duration>> {
    let left = Arc::new(AtomicU32::new(orders));
    let mut clients = JoinSet::new();
    for _ in 0..concurrency.min(orders) {
        let (client, left) = (client.clone(), left.clone());
        clients.spawn(async move {
            let mut latencies = Vec::new();
            let next = || left.fetch_update(Relaxed, Relaxed, |left| left.checked_sub(1));
            while next().is_ok() {
                let begun = Instant::now();
                saga(&client).await?;
                latencies.push(begun.elapsed());
            }
            anyhow::Ok(latencies)
        });
    }
    let mut all = Vec::with_capacity(orders as usize);
    while let Some(latencies) = clients.join_next().await {
        all.extend(latencies??);
    }
    Ok(all)
}

/// A work order from its opening to its end.
async fn saga(client: &Client) -> anyhow::Result<()> {
    let order = client.open("150.00").await?;
    let quote = client.quote(&order).await?;
    client.answer(&quote, "approve").await?;
    let status = client.pay(&order, &quote, "150.00").await?;
    // 202: it is not settled yet, and the execution waits for it.
    anyhow::ensure!([200, 201, 202].contains(&status), "the payment: {status}");
    let execution = client.workable(&order).await?;
    for verb in [
        "start-diagnosis",
        "complete-diagnosis",
        "start-repair",
        "complete-repair",
        "complete",
    ] {
        client.work(&execution, verb, Value::Null).await?;
    }
    client.ends(&order, "COMPLETED").await
}
