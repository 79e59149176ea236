//! `leveret demo`: the embedded server, a payment service that fails, and a few hundred orders through a workflow.

use std::time::Instant;

use anyhow::Context;
use serde_json::{Value, json};
use tokio::{net::TcpListener, sync::watch, task::JoinHandle};

use super::each::run_all;
use crate::{
    api::{self, Api},
    cli::DemoArgs,
    demo::{
        files,
        payments::{self, PaymentOptions},
        report::{Report, Tally},
    },
    engine::Running,
    exit::{BadInput, Exit},
    input::{self, Line, Sets},
    output::{self, Output, Table},
    settings::Settings,
    shutdown,
};

/// How many orders are under way at once.
const CONCURRENCY: u16 = 64;

pub(crate) async fn demo(
    args: &DemoArgs,
    settings: &Settings,
    output: Output,
) -> anyhow::Result<Exit> {
    let mut stopped = shutdown::on_signal()?;
    let address = settings.listen.as_deref().unwrap_or("127.0.0.1:0");
    let listener = api::bind(address).await?;
    let guard = settings.guard()?;
    api::refuse_open(&listener, &guard, settings.insecure.unwrap_or(false))?;
    let running = Running::start(settings).await?;
    let (stop, stopping) = watch::channel(false);
    let api = Api::start(
        listener,
        running.engine.clone(),
        true,
        guard,
        Vec::new(),
        stopping,
    )?;
    let payments = Payments::start("127.0.0.1:0", args.seed).await?;
    let demonstrated = demonstrate(args, &running, &payments, &api, &mut stopped).await;
    let report = match demonstrated {
        Ok(Ok(report)) => report,
        Ok(Err(exit)) => return Ok(exit),
        Err(error) => {
            running.stop().await?;
            return Err(error);
        }
    };
    if output.json {
        output::json(&report)?;
    } else {
        print(&report, args.keep)?;
    }
    if args.keep {
        shutdown::asked(&mut stopped).await;
    }
    stop.send_replace(true);
    api.stopped().await;
    running.stop().await?;
    Ok(Exit::ok_if(report.ok))
}

async fn demonstrate(
    args: &DemoArgs,
    running: &Running,
    payments: &Payments,
    api: &Api,
    stopped: &mut watch::Receiver<bool>,
) -> anyhow::Result<Result<Report, Exit>> {
    let file = files::workflow();
    let workflow = match input::workflow_of(file.name, &file.text) {
        Ok(workflow) => workflow,
        Err(exit) => return Ok(Err(exit)),
    };
    running
        .engine
        .store()
        .put_workflow(&workflow, now())
        .await
        .context("cannot store the workflow")?;
    let orders = orders(args, payments)?;
    let mut tally = Tally::default();
    let begun = Instant::now();
    run_all(
        &running.engine,
        &workflow,
        orders,
        CONCURRENCY,
        stopped,
        |line, result| {
            tally.add(line, &result);
            Ok(())
        },
    )
    .await?;
    let duration_ms = begun.elapsed().as_millis() as u64;
    let ledger = payments.ledger().await?;
    Ok(Ok(tally.report(
        &ledger,
        duration_ms,
        format!("http://{}", api.address),
    )))
}

fn now() -> leveret_core::time::Timestamp {
    use leveret::runtime::{Clock, SystemClock};
    SystemClock.now()
}

/// The orders to run, each with the address of the payment service.
fn orders(args: &DemoArgs, payments: &Payments) -> anyhow::Result<Vec<Line>> {
    let file = files::orders();
    let mut lines = input::lines_of(file.name, &file.text)?;
    let wanted = args.orders.map_or(lines.len(), |orders| orders as usize);
    if wanted > lines.len() {
        let message = format!(
            "--orders {wanted}: there are only {} orders in {}",
            lines.len(),
            file.name
        );
        return Err(BadInput::new(message).into());
    }
    lines.truncate(wanted);
    let sets = Sets::one("payments_url", json!(payments.url()));
    for line in &mut lines {
        line.input = sets.apply(
            line.input.clone(),
            &format!("{}:{}", file.name, line.number),
        )?;
    }
    Ok(lines)
}

/// The report for people.
fn print(report: &Report, keep: bool) -> anyhow::Result<()> {
    let mut table = Table::new(["outcome", "orders"]).number(1);
    for (outcome, count) in &report.outcomes {
        table.row([outcome.label().to_owned(), count.to_string()]);
    }
    table.row(["all".to_owned(), report.orders.to_string()]);
    table.print()?;
    output::line(format!(
        "\n{} runs in {:.1} s ({:.0}/s), every step on disk; {} retries; duration p50 {} ms, p99 {} ms",
        report.orders,
        report.duration_ms as f64 / 1000.0,
        report.runs_per_s,
        report.retries,
        report.p50_ms,
        report.p99_ms,
    ))?;
    output::line(
        match (&report.charged_twice[..], &report.charged_wrongly[..]) {
            ([], []) => format!(
                "the payment service says: {} charges, no order charged twice",
                report.charges
            ),
            ([], wrongly) => format!("CHARGES AND ORDERS DIFFER: {}", wrongly.join(", ")),
            (twice, _) => format!("CHARGED TWICE: {}", twice.join(", ")),
        },
    )?;
    for unexpected in &report.unexpected {
        output::line(unexpected)?;
    }
    output::line(if keep {
        format!(
            "the API listens at {0} (try {0}/api/v1/runs); Ctrl-C ends it",
            report.api
        )
    } else {
        format!("the API listened at {}; with --keep it stays", report.api)
    })?;
    Ok(())
}

/// The payment service as a task of this process.
struct Payments {
    address: std::net::SocketAddr,
    serving: JoinHandle<std::io::Result<()>>,
}

impl Payments {
    async fn start(address: &str, seed: u64) -> anyhow::Result<Payments> {
        let listener = TcpListener::bind(address)
            .await
            .context("the payment service cannot listen")?;
        let address = listener
            .local_addr()
            .context("the payment service has no address")?;
        let options = PaymentOptions {
            seed,
            ..PaymentOptions::default()
        };
        Ok(Payments {
            address,
            serving: tokio::spawn(payments::serve(listener, options, std::future::pending())),
        })
    }

    fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// What was charged.
    async fn ledger(&self) -> anyhow::Result<Value> {
        drop(rustls::crypto::ring::default_provider().install_default());
        let answer = reqwest::get(format!("{}/charges", self.url()))
            .await
            .context("the payment service does not answer")?;
        answer
            .json()
            .await
            .context("the payment service's ledger is no JSON")
    }
}

impl Drop for Payments {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

/// Only the payment service.
pub(crate) async fn payments(seed: u64, settings: &Settings) -> anyhow::Result<Exit> {
    let mut stopped = shutdown::on_signal()?;
    let listener = api::bind(settings.listen.as_deref().unwrap_or("127.0.0.1:7171")).await?;
    output::line(format!(
        "the payment service is ready at http://{}",
        listener.local_addr()?
    ))?;
    let options = PaymentOptions {
        seed,
        ..PaymentOptions::default()
    };
    let shutdown = async move { shutdown::asked(&mut stopped).await };
    payments::serve(listener, options, shutdown)
        .await
        .context("the payment service failed")?;
    Ok(Exit::Ok)
}

#[cfg(test)]
mod tests {
    use leveret::http::Guard;

    use super::*;
    use crate::demo::report::Outcome;

    /// All orders at the default seed, embedded: the outcomes that the payment service's seed decides, each card charged once.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn all_orders_end_as_the_seed_says() {
        let args = DemoArgs {
            command: None,
            orders: None,
            seed: 7,
            keep: false,
        };
        let (_stop, mut stopped) = watch::channel(false);
        let running = Running::start(&Settings::default()).await.unwrap();
        let payments = Payments::start("127.0.0.1:0", args.seed).await.unwrap();
        let listener = api::bind("127.0.0.1:0").await.unwrap();
        let api = Api::start(
            listener,
            running.engine.clone(),
            true,
            Guard::default(),
            Vec::new(),
            stopped.clone(),
        )
        .unwrap();
        let report = demonstrate(&args, &running, &payments, &api, &mut stopped)
            .await
            .unwrap()
            .unwrap();
        running.stop().await.unwrap();
        assert!(report.ok, "{report:#?}");
        let count = |outcome| report.outcomes.get(&outcome).copied().unwrap_or(0);
        let named = [
            Outcome::Invoice,
            Outcome::Declined,
            Outcome::Invalid,
            Outcome::ViaBackupProvider,
        ];
        assert_eq!(named.map(count), [24, 25, 12, 7]);
        // On a machine under load more tries than those of the seed may time out.
        assert!(count(Outcome::ApprovedAfterRetries) >= 41, "{report:#?}");
        let approved = count(Outcome::Approved) + count(Outcome::ApprovedAfterRetries);
        assert_eq!((approved, report.charges), (232, 239));
    }
}
