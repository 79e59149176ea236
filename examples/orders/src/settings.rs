//! What can be said on the command line.

use std::{
    net::SocketAddr,
    path::PathBuf,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use clap::{Args, Parser, Subcommand};
use leveret::{
    broker::work::{RetryPolicy, WorkOptions},
    core::time::{Timestamp, parse_duration},
    service::{Decider, Now, Subscription},
};

/// Order, payment and inventory: three services over work queues.
#[derive(Debug, Parser)]
#[command(
    version,
    about,
    after_help = "Examples:\n  orders demo\n  orders up --listen 127.0.0.1:7080\n  \
        orders payment --listen 127.0.0.1:7082 --broker amqp://localhost --store postgres://localhost/orders --gateway http://localhost:7090"
)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What is to be done.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Plays orders with every outcome, and does the books
    Demo(DemoArgs),
    /// Runs all three services in one process
    Up(UpArgs),
    /// Runs the order service
    Order(RoleArgs),
    /// Runs the payment service; as many as you like share the work
    Payment(RoleArgs),
    /// Runs the inventory service
    Inventory(RoleArgs),
    /// Runs a payment gateway that decides by the amount's last two digits: 01 declines, 02 fails twice, 03 always fails, 04 stalls
    Gateway {
        /// Where it listens
        #[arg(long, default_value = "127.0.0.1:7090", value_name = "ADDR")]
        listen: SocketAddr,
    },
    /// Measures orders end to end, the gateway called over HTTP
    Bench(BenchArgs),
}

/// How queues are worked.
#[derive(Args, Clone, Debug)]
pub(crate) struct WorkArgs {
    /// Delays between attempts; one attempt more than delays
    #[arg(long, default_value = "1s,5s,25s", value_delimiter = ',', value_parser = delay, value_name = "DELAYS", env = "ORDERS_RETRY_DELAYS")]
    pub(crate) retry_delays: Vec<Duration>,
    /// Messages of one queue that are handled at once
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u16).range(1..=4096), value_name = "N", env = "ORDERS_CONCURRENCY")]
    pub(crate) concurrency: u16,
    /// Currency of payment requests that name none
    #[arg(long, default_value = "EUR", value_parser = currency, value_name = "CODE", env = "ORDERS_CURRENCY")]
    pub(crate) currency: String,
}

/// The arguments of `demo`.
#[derive(Args, Debug)]
pub(crate) struct DemoArgs {
    /// How many orders
    #[arg(long, default_value_t = 500, value_parser = clap::value_parser!(u32).range(1..=100_000), value_name = "N")]
    pub(crate) orders: u32,
    /// Stays when it is done, so that you can look around
    #[arg(long)]
    pub(crate) keep: bool,
    /// Where the API listens
    #[arg(long, default_value = "127.0.0.1:0", value_name = "ADDR")]
    pub(crate) listen: SocketAddr,
}

/// The arguments of `up`.
#[derive(Args, Debug)]
pub(crate) struct UpArgs {
    /// Where the API listens
    #[arg(
        long,
        default_value = "127.0.0.1:7080",
        value_name = "ADDR",
        env = "ORDERS_LISTEN"
    )]
    pub(crate) listen: SocketAddr,
    /// Where the embedded broker and the databases are
    #[arg(
        long,
        default_value = ".leveret/orders",
        value_name = "DIR",
        env = "ORDERS_DATA"
    )]
    pub(crate) data: PathBuf,
    /// The payment gateway; without one, a simulator runs along
    #[arg(long, value_name = "URL", env = "ORDERS_GATEWAY")]
    pub(crate) gateway: Option<String>,
    /// A broker instead of the embedded one
    #[arg(long, value_name = "URL", env = "ORDERS_BROKER")]
    pub(crate) broker: Option<String>,
    /// A database instead of SQLite files: each service has a schema of its own
    #[arg(long, value_name = "URL", env = "ORDERS_STORE")]
    pub(crate) store: Option<String>,
    #[command(flatten)]
    pub(crate) work: WorkArgs,
}

/// The arguments of one service.
#[derive(Args, Debug)]
pub(crate) struct RoleArgs {
    /// Where its API listens
    #[arg(
        long,
        default_value = "127.0.0.1:7080",
        value_name = "ADDR",
        env = "ORDERS_LISTEN"
    )]
    pub(crate) listen: SocketAddr,
    /// The broker
    #[arg(long, value_name = "URL", env = "ORDERS_BROKER")]
    pub(crate) broker: String,
    /// The database: the service has a schema of its own
    #[arg(long, value_name = "URL", env = "ORDERS_STORE")]
    pub(crate) store: String,
    /// The payment gateway, for the payment service
    #[arg(
        long,
        default_value = "http://127.0.0.1:7090",
        value_name = "URL",
        env = "ORDERS_GATEWAY"
    )]
    pub(crate) gateway: String,
    #[command(flatten)]
    pub(crate) work: WorkArgs,
}

/// The arguments of `bench`.
#[derive(Args, Debug)]
pub(crate) struct BenchArgs {
    /// How many orders
    #[arg(long, default_value_t = 20_000, value_parser = clap::value_parser!(u32).range(1..=10_000_000), value_name = "N")]
    pub(crate) orders: u32,
    /// Orders under way at once
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u32).range(1..=65_536), value_name = "N")]
    pub(crate) concurrency: u32,
    /// Different items
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=100_000), value_name = "N")]
    pub(crate) items: u32,
    /// A broker instead of the embedded one
    #[arg(long, value_name = "URL", env = "ORDERS_BROKER")]
    pub(crate) broker: Option<String>,
    /// A database instead of SQLite files
    #[arg(long, value_name = "URL", env = "ORDERS_STORE")]
    pub(crate) store: Option<String>,
    /// Prints one JSON object
    #[arg(long)]
    pub(crate) json: bool,
}

fn delay(text: &str) -> Result<Duration, String> {
    parse_duration(text)
        .filter(|delay| *delay > Duration::ZERO && *delay <= Duration::from_secs(24 * 3600))
        .ok_or_else(|| format!("'{text}' is no delay; say 1s, 500ms or 5m, a day at most"))
}

fn currency(code: &str) -> Result<String, String> {
    if crate::order::is_currency(code) {
        Ok(code.to_owned())
    } else {
        Err(format!("'{code}' is no currency of ISO 4217"))
    }
}

/// A database that is away is asked again after so long at most.
const OUTAGE_PAUSE: Duration = Duration::from_secs(4);

/// How the services work their queues.
#[derive(Clone)]
pub(crate) struct Work {
    /// What time it is.
    pub(crate) now: Now,
    retry: RetryPolicy,
    concurrency: u16,
}

impl Work {
    /// As the arguments say, with the system's clock.
    pub(crate) fn new(args: &WorkArgs) -> Work {
        Work {
            now: Arc::new(system_time),
            retry: RetryPolicy {
                delays: args.retry_delays.clone(),
            },
            concurrency: args.concurrency,
        }
    }

    /// How often a message is tried.
    pub(crate) fn attempts_max(&self) -> u32 {
        u32::try_from(self.retry.delays.len()).map_or(u32::MAX, |delays| delays.saturating_add(1))
    }

    /// Applies to a queue.
    pub(crate) fn apply(&self, options: &mut WorkOptions) {
        options.retry = self.retry.clone();
        options.concurrency = self.concurrency;
        options.prefetch = self.concurrency.saturating_mul(2);
        options.requeue_pauses.longest = OUTAGE_PAUSE;
    }

    /// Applies to a subscription.
    pub(crate) fn on<D: Decider>(&self, mut subscription: Subscription<D>) -> Subscription<D> {
        self.apply(&mut subscription.options);
        subscription
    }
}

fn system_time() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    let ms = since.map_or(0, |since| since.as_millis());
    Timestamp(i64::try_from(ms).unwrap_or(i64::MAX))
}
