//! Plays orders with every outcome, and does the books.

use std::{
    collections::BTreeMap,
    io::IsTerminal,
    time::{Duration, Instant},
};

use anyhow::Context;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::{Value, json};
use tokio::{net::TcpListener, task::JoinSet};
use uuid::Uuid;

use crate::{
    bind, on_signal,
    order::{OrderState, OrderStatus},
    settings::{DemoArgs, Work, WorkArgs},
    simulate,
    stack::{Places, Role, Stack, Store, embedded},
    watch::ended,
};

/// How long all orders may take to end.
const TIME_MAX: Duration = Duration::from_secs(55);
/// Between attempts: a demo shall not take as long as a real outage.
const RETRY_DELAYS_MS: [u64; 3] = [250, 1000, 2000];

/// Runs the demo: exit code 0 only if all orders end and the books add up.
pub(crate) async fn run(args: &DemoArgs) -> anyhow::Result<()> {
    let data = std::env::temp_dir().join(format!("orders-demo-{}", Uuid::now_v7()));
    let played = play(args, &data).await;
    // What is left of a directory in the place for temporary files does no harm.
    drop(std::fs::remove_dir_all(&data));
    played
}

async fn play(args: &DemoArgs, data: &std::path::Path) -> anyhow::Result<()> {
    let mut stopped = on_signal()?;
    let listener: TcpListener = bind(args.listen).await?;
    let address = listener.local_addr()?;
    let gateway = simulate(stopped.clone()).await?;
    let places = Places {
        broker: embedded(data),
        store: Store::Files(data.to_owned()),
        gateway: gateway.clone(),
        currency: "EUR".to_owned(),
    };
    let work = Work::new(&WorkArgs {
        retry_delays: RETRY_DELAYS_MS.map(Duration::from_millis).to_vec(),
        concurrency: 256,
        currency: "EUR".to_owned(),
    });
    let stack = Stack::start(&Role::ALL, &places, &work).await?;
    let orders = stack.service(Role::Order).clone();
    let serving = tokio::spawn(stack.serve(listener, stopped.clone()));
    let api = format!("http://{address}");
    println!("the API listens at {api}");

    let begun = Instant::now();
    let client = reqwest::Client::builder().no_proxy().build()?;
    for (item, quantity) in [("sku-plenty", 1_000_000), ("sku-rare", 10)] {
        let set = client
            .put(format!("{api}/stock/{item}"))
            .json(&json!({ "quantity": quantity }));
        set.send().await?.error_for_status()?;
    }
    let bar = progress(args.orders);
    let mut playing: JoinSet<anyhow::Result<OrderState>> = JoinSet::new();
    for number in 0..args.orders {
        let (client, api, orders) = (client.clone(), api.clone(), orders.clone());
        playing.spawn(async move {
            let answer = client
                .post(format!("{api}/orders"))
                .header("idempotency-key", format!("demo-{number}"))
                .json(&order(number))
                .send()
                .await?;
            let answer: Value = answer.error_for_status()?.json().await?;
            let order_id = answer["order_id"].as_str().context("an order has an id")?;
            ended(&orders, order_id).await
        });
    }
    let all = async {
        let mut ended = Vec::new();
        while let Some(played) = playing.join_next().await {
            ended.push(played??);
            bar.inc(1);
        }
        anyhow::Ok(ended)
    };
    let ended = tokio::select! {
        ended = tokio::time::timeout(TIME_MAX, all) => ended
            .with_context(|| format!("not all orders ended within {TIME_MAX:?}"))??,
        _ = stopped.wait_for(|stop| *stop) => anyhow::bail!("interrupted before all orders ended"),
    };
    bar.finish_and_clear();
    let books = books(&client, &gateway).await?;
    report(&ended, &books, begun.elapsed())?;
    if args.keep {
        println!("\nit stays at {api}; Ctrl-C ends it");
        return serving.await?;
    }
    serving.abort();
    Ok(())
}

/// An order whose outcome follows from its number: the amount's last digits and the stock decide.
fn order(number: u32) -> Value {
    let (item, ending) = match number % 20 {
        0 => ("sku-plenty", 1),
        1 => ("sku-plenty", 2),
        2 => ("sku-plenty", 3),
        3 => ("sku-plenty", 4),
        4 => ("sku-rare", 50),
        5 => ("sku-nobody-has", 60),
        _ => ("sku-plenty", 50),
    };
    json!({
        "user_id": format!("user-{}", number % 7),
        "currency": "EUR",
        "items": [{ "id": item, "quantity": 1, "unit_price": 1000 + i64::from(number % 90) * 100 + ending }],
    })
}

fn progress(orders: u32) -> ProgressBar {
    let target = if std::io::stderr().is_terminal() {
        ProgressDrawTarget::stderr()
    } else {
        ProgressDrawTarget::hidden()
    };
    let style = ProgressStyle::with_template("{bar:40} {pos}/{len} orders ended, {elapsed}");
    let bar = ProgressBar::with_draw_target(Some(orders.into()), target);
    bar.with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}

/// What the gateway says.
struct Books {
    charged: i64,
    refunded: i64,
    twice: usize,
}

async fn books(client: &reqwest::Client, gateway: &str) -> anyhow::Result<Books> {
    let report: Value = client
        .get(format!("{gateway}/charges"))
        .send()
        .await?
        .json()
        .await?;
    let sum = |list: &Value, counts: fn(&Value) -> bool| -> i64 {
        let entries = list.as_array().into_iter().flatten();
        let counted = entries.filter(|entry| counts(entry));
        counted.filter_map(|entry| entry["amount"].as_i64()).sum()
    };
    Ok(Books {
        charged: sum(&report["charges"], |charge| charge["status"] != "declined"),
        refunded: sum(&report["refunds"], |_| true),
        twice: report["charged_twice"].as_array().map_or(0, Vec::len),
    })
}

fn report(ended: &[OrderState], books: &Books, elapsed: Duration) -> anyhow::Result<()> {
    let mut counts: BTreeMap<&str, u32> = BTreeMap::new();
    for status in OrderStatus::ALL {
        if status.is_final() {
            counts.insert(status.as_str(), 0);
        }
    }
    for state in ended {
        *counts.entry(state.status.as_str()).or_default() += 1;
    }
    println!("{:<16} {:>6}", "status", "orders");
    for (status, count) in &counts {
        println!("{status:<16} {count:>6}");
    }
    println!("{:<16} {:>6}", "all", ended.len());
    let completed = ended
        .iter()
        .filter(|state| state.status == OrderStatus::Completed);
    let paid: i64 = completed.map(|state| state.total).sum();
    let Books {
        charged,
        refunded,
        twice,
    } = books;
    println!(
        "charged {}, paid {}, refunded {}",
        money(*charged),
        money(paid),
        money(*refunded)
    );
    let per_s = ended.len() as f64 / elapsed.as_secs_f64();
    println!(
        "{} orders in {:.1} s ({per_s:.0}/s), each step on disk; no order charged twice: {}",
        ended.len(),
        elapsed.as_secs_f64(),
        if *twice == 0 { "true" } else { "FALSE" }
    );
    anyhow::ensure!(*twice == 0, "{twice} orders were charged twice");
    anyhow::ensure!(
        *charged == paid + refunded,
        "the books do not add up: charged {charged}, paid {paid}, refunded {refunded}"
    );
    Ok(())
}

/// Minor units of euro, as money.
fn money(minor: i64) -> String {
    format!("{}.{:02}", minor / 100, minor % 100)
}
