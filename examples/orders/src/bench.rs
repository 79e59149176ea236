//! Measures orders end to end: placed, charged over HTTP, stocked, completed.

mod outbox;

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use leveret::service::Of;
use serde_json::json;
use tokio::{sync::watch, task::JoinSet};
use uuid::Uuid;

use crate::{
    inventory::{Inventory, StockMessage},
    order::{Item, Order, OrderMessage, OrderStatus, Place},
    settings::{BenchArgs, Work, WorkArgs},
    stack::{Places, Role, Stack, Store, embedded, open},
    watch::end_of,
};

/// More than any bench takes.
const STOCK: i64 = 1_000_000_000_000;

/// Runs the measurement and prints it.
pub(crate) async fn run(args: &BenchArgs) -> anyhow::Result<()> {
    let data = std::env::temp_dir().join(format!("orders-bench-{}", Uuid::now_v7()));
    let measured = measure(args, &data).await;
    // What is left of a directory in the place for temporary files does no harm.
    drop(std::fs::remove_dir_all(&data));
    let Measured {
        elapsed,
        mut latencies,
        rates,
    } = measured?;
    latencies.sort_unstable();
    let at = |share: f64| {
        let index = (latencies.len() as f64 * share) as usize;
        latencies[index.min(latencies.len() - 1)].as_secs_f64() * 1e3
    };
    let orders_per_s = f64::from(args.orders) / elapsed.as_secs_f64();
    if args.json {
        let report = json!({
            "orders": args.orders,
            "concurrency": args.concurrency,
            "items": args.items,
            "orders_per_s": orders_per_s,
            "p50_ms": at(0.5),
            "p99_ms": at(0.99),
            "elapsed_ms": elapsed.as_secs_f64() * 1e3,
            "publish_per_s": rates.publish,
            "relay_per_s": rates.relay,
        });
        println!("{report}");
    } else {
        println!(
            "{} orders, {} at once: {orders_per_s:.0}/s, p50 {:.1} ms, p99 {:.1} ms",
            args.orders,
            args.concurrency,
            at(0.5),
            at(0.99)
        );
        println!(
            "the relay of an outbox: {:.0} messages/s; a bare loop over the same client: {:.0}/s",
            rates.relay, rates.publish
        );
    }
    Ok(())
}

struct Measured {
    elapsed: Duration,
    latencies: Vec<Duration>,
    rates: outbox::Rates,
}

async fn measure(args: &BenchArgs, data: &std::path::Path) -> anyhow::Result<Measured> {
    let (_stop, stopped) = watch::channel(false);
    let places = Places {
        broker: args.broker.clone().unwrap_or_else(|| embedded(data)),
        store: args
            .store
            .clone()
            .map_or_else(|| Store::Files(data.to_owned()), Store::Url),
        gateway: crate::simulate(stopped).await?,
        currency: "EUR".to_owned(),
    };
    let work = Work::new(&WorkArgs {
        retry_delays: vec![Duration::from_secs(1)],
        concurrency: 256,
        currency: "EUR".to_owned(),
    });
    let stack = Stack::start(&Role::ALL, &places, &work).await?;
    for item in 0..args.items {
        let set = StockMessage::Set {
            item: format!("sku-{item}"),
            quantity: STOCK,
        };
        stack
            .service(Role::Inventory)
            .call(&Inventory, &set)
            .await?;
    }
    let warm_up = (args.orders / 10).clamp(1, 2000);
    load(&stack, args, warm_up).await?;
    let begun = Instant::now();
    let latencies = load(&stack, args, args.orders).await?;
    let elapsed = begun.elapsed();
    let documents = open("bench", &[], &places.store).await?;
    let rates = outbox::measure(stack.broker.clone(), documents.clone(), &work).await;
    documents.close().await;
    stack.stop().await;
    Ok(Measured {
        elapsed,
        latencies,
        rates: rates?,
    })
}

async fn load(stack: &Stack, args: &BenchArgs, orders: u32) -> anyhow::Result<Vec<Duration>> {
    let left = Arc::new(AtomicUsize::new(orders as usize));
    let mut clients = JoinSet::new();
    for client in 0..args.concurrency.min(orders) {
        let (service, left) = (stack.service(Role::Order).clone(), left.clone());
        let items = args.items;
        clients.spawn(async move {
            let mut latencies = Vec::new();
            let mut turn = client;
            while left
                .fetch_update(Relaxed, Relaxed, |left| left.checked_sub(1))
                .is_ok()
            {
                turn = turn.wrapping_add(1);
                let begun = Instant::now();
                let order_id = Uuid::now_v7().to_string();
                let place = Place {
                    order_id: order_id.clone(),
                    user_id: "bench".to_owned(),
                    currency: "EUR".to_owned(),
                    items: vec![Item {
                        id: format!("sku-{}", turn % items),
                        quantity: 1,
                        unit_price: 1250,
                    }],
                    total: 1250,
                };
                let decider = Of::<Order>::default();
                let key = Of::<Order>::key(&order_id);
                let watch = service.watch(&key);
                let state = service.call(&decider, &OrderMessage::Place(place)).await?;
                let state = end_of(&service, &key, watch, state).await?;
                anyhow::ensure!(
                    state.status == OrderStatus::Completed,
                    "an order ended {}",
                    state.status.as_str()
                );
                latencies.push(begun.elapsed());
            }
            Ok(latencies)
        });
    }
    let mut all = Vec::with_capacity(orders as usize);
    while let Some(client) = clients.join_next().await {
        all.extend(client??);
    }
    Ok(all)
}
