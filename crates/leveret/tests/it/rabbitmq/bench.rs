//! Throughput, printed with its parameters. One round of it always runs; `cargo test --release … -- --ignored` measures.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Instant,
};

use leveret::broker::{Broker, ConsumeOptions};
use tokio::time::timeout;

use super::{PATIENCE, connect, declare_queue, to, url};

const BATCH: usize = 64;
const TASKS: usize = 4;
const BODY_BYTES: usize = 300;
const PREFETCH: u16 = 512;

async fn measure(url: &str, batches: usize) {
    let broker = Arc::new(connect(url).await);
    let queue = declare_queue(&*broker, "bench").await;
    let total = BATCH * TASKS * batches;

    let (start, cpu) = (Instant::now(), cpu_seconds());
    let publishers = (0..TASKS).map(|_| {
        let (broker, queue) = (broker.clone(), queue.clone());
        tokio::spawn(async move {
            let body = "x".repeat(BODY_BYTES);
            for _ in 0..batches {
                let batch = (0..BATCH).map(|_| to(&queue, body.clone()));
                for result in broker.publish(batch.collect()).await {
                    result.unwrap();
                }
            }
        })
    });
    for publisher in publishers.collect::<Vec<_>>() {
        publisher.await.unwrap();
    }
    report("publish", total, start, cpu);

    let (start, cpu) = (Instant::now(), cpu_seconds());
    let options = ConsumeOptions {
        prefetch: PREFETCH,
        ..ConsumeOptions::queue(queue.clone())
    };
    let mut consumer = broker.consume(options).await.unwrap();
    for _ in 0..total {
        let delivery = timeout(PATIENCE, consumer.next()).await.unwrap().unwrap();
        delivery.receipt.ack();
    }
    report("consume and ack", total, start, cpu);

    let (start, cpu) = (Instant::now(), cpu_seconds());
    let left = AtomicUsize::new(200);
    while left.fetch_sub(1, Ordering::Relaxed) > 0 {
        broker
            .publish(vec![to(&queue, "1")])
            .await
            .remove(0)
            .unwrap();
    }
    report("publish one at a time", 200, start, cpu);
    broker.delete_queue(&queue).await.unwrap();
    broker.close().await;
}

fn report(what: &str, count: usize, start: Instant, cpu: f64) {
    let (seconds, cpu) = (start.elapsed().as_secs_f64(), cpu_seconds() - cpu);
    println!(
        "{what}: {:.0}/s, {count} in {seconds:.2} s; own CPU {:.1} us each ({:.0} % of one core)",
        count as f64 / seconds,
        cpu * 1e6 / count as f64,
        cpu * 100.0 / seconds,
    );
}

/// CPU time of this process; zero where the system does not tell.
fn cpu_seconds() -> f64 {
    const TICKS_PER_SECOND: f64 = 100.0;
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let after_name = stat.rsplit(')').next().unwrap_or_default();
    let ticks = after_name.split_whitespace().skip(11).take(2);
    ticks
        .filter_map(|ticks| ticks.parse::<f64>().ok())
        .sum::<f64>()
        / TICKS_PER_SECOND
}

#[tokio::test(flavor = "multi_thread")]
async fn one_round() {
    let Some(url) = url() else { return };
    measure(&url, 2).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement"]
async fn throughput() {
    let Some(url) = url() else { return };
    let batches = std::env::var("LEVERET_BENCH_BATCHES").ok();
    let batches = batches.and_then(|batches| batches.parse().ok());
    measure(&url, batches.unwrap_or(400)).await;
}
