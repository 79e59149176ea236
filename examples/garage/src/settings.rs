//! What can be said on the command line and in variables.

use std::{
    net::SocketAddr,
    path::PathBuf,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use clap::{Args, Parser, Subcommand, ValueEnum};
use leveret::{
    broker::work::{RetryPolicy, WorkOptions},
    core::time::{Timestamp, parse_duration},
    service::Now,
};

use crate::auth::{self, Keys};

/// A garage: work orders, quotes and payments, repairs.
#[derive(Debug, Parser)]
#[command(
    version,
    about,
    after_help = "Examples:\n  garage demo\n  garage up --dev\n  \
        JWT_SECRET=… garage billing --listen 127.0.0.1:3002 --broker amqp://localhost --store mongodb://localhost/billing --gateway http://localhost:3010"
)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What is to be done.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Plays every course that a work order can take, and shows what came of each
    Demo(DemoArgs),
    /// Runs all three services and a gateway in one process
    Up(UpArgs),
    /// Runs the OS service: customers, vehicles, work orders, sagas
    Os(RoleArgs),
    /// Runs the billing service: quotes, payments, parts, services
    Billing(RoleArgs),
    /// Runs the execution service: diagnosis and repair
    Execution(RoleArgs),
    /// Runs a simulated Mercado Pago that decides by the amount's last two digits: 01 rejected, 02 in process then approved, 03 always fails, 04 charges and stalls, 05 refund fails twice, 06 refund always fails
    Gateway(GatewayArgs),
    /// Shows the course of a work order across the services
    Timeline(TimelineArgs),
    /// Prints a token for the APIs
    Token(TokenArgs),
    /// Prints the AsyncAPI document of the events
    Asyncapi,
    /// Measures happy sagas end to end
    Bench(BenchArgs),
}

/// How long things may take.
#[derive(Args, Clone, Debug)]
pub(crate) struct PatienceArgs {
    /// How long a quote is valid that says nothing else; then its work order is cancelled
    #[arg(long, default_value = "7d", value_parser = duration, value_name = "DURATION", env = "GARAGE_QUOTE_VALID_FOR")]
    pub(crate) quote_valid_for: Duration,
    /// How long after its approval a quote may be unpaid before its saga is reported as stuck
    #[arg(long, default_value = "2d", value_parser = duration, value_name = "DURATION", env = "GARAGE_PAYMENT_WITHIN")]
    pub(crate) payment_within: Duration,
    /// How long an execution may stand still before its saga is reported as stuck
    #[arg(long, default_value = "7d", value_parser = duration, value_name = "DURATION", env = "GARAGE_EXECUTION_IDLE")]
    pub(crate) execution_idle: Duration,
}

/// How queues are worked.
#[derive(Args, Clone, Debug)]
pub(crate) struct WorkArgs {
    /// Delays between attempts; one attempt more than delays
    #[arg(long, default_value = "1s,5s,25s", value_delimiter = ',', value_parser = duration, value_name = "DELAYS", env = "GARAGE_RETRY_DELAYS")]
    pub(crate) retry_delays: Vec<Duration>,
    /// Messages of one queue that are handled at once
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u16).range(1..=4096), value_name = "N", env = "GARAGE_CONCURRENCY")]
    pub(crate) concurrency: u16,
}

/// Who may ask.
#[derive(Args, Clone)]
pub(crate) struct AuthArgs {
    /// What tokens are signed with: 32 bytes at least, the same for all services
    #[arg(
        long,
        value_name = "SECRET",
        env = "JWT_SECRET",
        hide_env_values = true
    )]
    pub(crate) jwt_secret: Option<String>,
    /// Makes a secret of its own when there is none, and prints a token; on loopback only
    #[arg(long)]
    pub(crate) dev: bool,
}

impl std::fmt::Debug for AuthArgs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AuthArgs")
            .field("dev", &self.dev)
            .finish_non_exhaustive()
    }
}

impl AuthArgs {
    /// The keys for services that listen there.
    pub(crate) fn keys(&self, listen: &[SocketAddr]) -> anyhow::Result<Keys> {
        if let Some(secret) = &self.jwt_secret {
            return Keys::new(secret).map_err(anyhow::Error::msg);
        }
        anyhow::ensure!(
            self.dev,
            "JWT_SECRET is not set: say the secret that tokens are signed with, or --dev to try it out on this machine"
        );
        if let Some(open) = listen.iter().find(|address| !address.ip().is_loopback()) {
            anyhow::bail!(
                "--dev without JWT_SECRET listens on loopback only, not at {open}: set JWT_SECRET"
            );
        }
        let keys = Keys::random();
        let now = system_time().0.unsigned_abs() / 1000;
        println!(
            "a token for the next 8 hours: {}",
            keys.token("1", auth::Role::Admin, now)
        );
        Ok(keys)
    }
}

/// How the gateway is reached, and reaches back.
#[derive(Args, Clone)]
pub(crate) struct MercadoPagoArgs {
    /// The token that the gateway knows the garage by
    #[arg(
        long,
        value_name = "TOKEN",
        env = "MERCADO_PAGO_ACCESS_TOKEN",
        hide_env_values = true
    )]
    pub(crate) access_token: Option<String>,
    /// What the gateway signs its webhooks with; without one no webhook is believed
    #[arg(
        long,
        value_name = "SECRET",
        env = "MERCADO_PAGO_WEBHOOK_SECRET",
        hide_env_values = true
    )]
    pub(crate) webhook_secret: Option<String>,
    /// Where the gateway finds the billing service
    #[arg(long, value_name = "URL", env = "GARAGE_PUBLIC_URL")]
    pub(crate) public_url: Option<String>,
}

impl std::fmt::Debug for MercadoPagoArgs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MercadoPagoArgs")
            .field("public_url", &self.public_url)
            .finish_non_exhaustive()
    }
}

/// The arguments of `demo`.
#[derive(Args, Debug)]
pub(crate) struct DemoArgs {
    /// Stays when it is done, so that you can look around
    #[arg(long)]
    pub(crate) keep: bool,
}

/// The arguments of `up`.
#[derive(Args, Debug)]
pub(crate) struct UpArgs {
    /// Where the OS service listens
    #[arg(
        long,
        default_value = "127.0.0.1:3001",
        value_name = "ADDR",
        env = "GARAGE_OS_LISTEN"
    )]
    pub(crate) os_listen: SocketAddr,
    /// Where the billing service listens
    #[arg(
        long,
        default_value = "127.0.0.1:3002",
        value_name = "ADDR",
        env = "GARAGE_BILLING_LISTEN"
    )]
    pub(crate) billing_listen: SocketAddr,
    /// Where the execution service listens
    #[arg(
        long,
        default_value = "127.0.0.1:3003",
        value_name = "ADDR",
        env = "GARAGE_EXECUTION_LISTEN"
    )]
    pub(crate) execution_listen: SocketAddr,
    /// Where the embedded broker and the databases are
    #[arg(
        long,
        default_value = ".leveret/garage",
        value_name = "DIR",
        env = "GARAGE_DATA"
    )]
    pub(crate) data: PathBuf,
    /// The gateway; without one, a simulator runs along
    #[arg(long, value_name = "URL", env = "GARAGE_GATEWAY")]
    pub(crate) gateway: Option<String>,
    #[command(flatten)]
    pub(crate) servers: ServerArgs,
    #[command(flatten)]
    pub(crate) common: CommonArgs,
}

/// Servers in place of what is embedded.
#[derive(Args, Clone, Debug, Default)]
pub(crate) struct ServerArgs {
    /// A broker instead of the embedded one
    #[arg(long, value_name = "URL", env = "GARAGE_BROKER")]
    pub(crate) broker: Option<String>,
    /// A database of the OS service instead of a SQLite file
    #[arg(long, value_name = "URL", env = "GARAGE_OS_STORE")]
    pub(crate) os_store: Option<String>,
    /// A database of the billing service instead of a SQLite file
    #[arg(long, value_name = "URL", env = "GARAGE_BILLING_STORE")]
    pub(crate) billing_store: Option<String>,
    /// A database of the execution service instead of a SQLite file
    #[arg(long, value_name = "URL", env = "GARAGE_EXECUTION_STORE")]
    pub(crate) execution_store: Option<String>,
}

/// What every service can be told.
#[derive(Args, Clone, Debug)]
pub(crate) struct CommonArgs {
    #[command(flatten)]
    pub(crate) auth: AuthArgs,
    #[command(flatten)]
    pub(crate) mercado_pago: MercadoPagoArgs,
    #[command(flatten)]
    pub(crate) patience: PatienceArgs,
    #[command(flatten)]
    pub(crate) work: WorkArgs,
}

/// The arguments of one service.
#[derive(Args, Debug)]
pub(crate) struct RoleArgs {
    /// Where its API listens; without one: 127.0.0.1 and 3001 for os, 3002 for billing, 3003 for execution
    #[arg(long, value_name = "ADDR", env = "GARAGE_LISTEN")]
    pub(crate) listen: Option<SocketAddr>,
    /// The broker
    #[arg(
        long,
        value_name = "URL",
        env = "GARAGE_BROKER",
        hide_env_values = true
    )]
    pub(crate) broker: String,
    /// The service's own database: postgres://…, mongodb://… or sqlite:PATH
    #[arg(long, value_name = "URL", env = "GARAGE_STORE", hide_env_values = true)]
    pub(crate) store: String,
    /// The gateway, for the billing service
    #[arg(
        long,
        default_value = "https://api.mercadopago.com",
        value_name = "URL",
        env = "GARAGE_GATEWAY"
    )]
    pub(crate) gateway: String,
    #[command(flatten)]
    pub(crate) common: CommonArgs,
}

/// The arguments of `gateway`.
#[derive(Args)]
pub(crate) struct GatewayArgs {
    /// Where it listens
    #[arg(long, default_value = "127.0.0.1:3010", value_name = "ADDR")]
    pub(crate) listen: SocketAddr,
    /// What it signs its webhooks with
    #[arg(
        long,
        value_name = "SECRET",
        env = "MERCADO_PAGO_WEBHOOK_SECRET",
        hide_env_values = true
    )]
    pub(crate) webhook_secret: Option<String>,
}

impl std::fmt::Debug for GatewayArgs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("GatewayArgs")
            .field("listen", &self.listen)
            .finish_non_exhaustive()
    }
}

/// The arguments of `timeline`.
#[derive(Args)]
pub(crate) struct TimelineArgs {
    /// The work order
    pub(crate) id: String,
    /// The OS service
    #[arg(
        long,
        default_value = "http://127.0.0.1:3001",
        value_name = "URL",
        env = "GARAGE_OS_URL"
    )]
    pub(crate) os: String,
    /// An administrator's token
    #[arg(
        long,
        value_name = "TOKEN",
        env = "GARAGE_TOKEN",
        hide_env_values = true
    )]
    pub(crate) token: String,
    /// Prints the JSON of the API
    #[arg(long)]
    pub(crate) json: bool,
}

impl std::fmt::Debug for TimelineArgs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TimelineArgs")
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

/// The arguments of `token`.
#[derive(Args)]
pub(crate) struct TokenArgs {
    /// Whose; of a customer: the customer's id
    #[arg(long, default_value = "1")]
    pub(crate) sub: String,
    /// What they may do
    #[arg(long, value_enum, default_value = "staff")]
    pub(crate) role: RoleArg,
    /// What tokens are signed with
    #[arg(
        long,
        value_name = "SECRET",
        env = "JWT_SECRET",
        hide_env_values = true
    )]
    pub(crate) jwt_secret: String,
}

impl std::fmt::Debug for TokenArgs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TokenArgs")
            .field("sub", &self.sub)
            .finish_non_exhaustive()
    }
}

/// A role on the command line.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum RoleArg {
    Customer,
    Staff,
    Admin,
}

/// The arguments of `bench`.
#[derive(Args, Debug)]
pub(crate) struct BenchArgs {
    /// How many work orders
    #[arg(long, default_value_t = 2_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000), value_name = "N")]
    pub(crate) work_orders: u32,
    /// Work orders under way at once
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=4096), value_name = "N")]
    pub(crate) concurrency: u32,
    #[command(flatten)]
    pub(crate) servers: ServerArgs,
    /// Prints one JSON object
    #[arg(long)]
    pub(crate) json: bool,
}

fn duration(text: &str) -> Result<Duration, String> {
    parse_duration(text)
        .filter(|length| {
            *length > Duration::ZERO && *length <= Duration::from_secs(366 * 24 * 3600)
        })
        .ok_or_else(|| format!("'{text}' is no duration; say 500ms, 5s, 5m or 7d, a year at most"))
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
    /// As the arguments say, in this time.
    pub(crate) fn new(args: &WorkArgs, now: Now) -> Work {
        Work {
            now,
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
}

/// The clock of a process.
pub(crate) fn system_clock() -> Now {
    Arc::new(system_time)
}

/// What time it is on this machine.
pub(crate) fn system_time() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    let ms = since.map_or(0, |since| since.as_millis());
    Timestamp(i64::try_from(ms).unwrap_or(i64::MAX))
}

/// What a service is made with.
#[derive(Clone)]
pub(crate) struct Settings {
    pub(crate) work: Work,
    pub(crate) keys: Keys,
    pub(crate) patience: PatienceArgs,
    /// The gateway, for the billing service.
    pub(crate) gateway: String,
    pub(crate) mercado_pago: MercadoPagoArgs,
}

impl Settings {
    /// Of a garage that is tried out in one process: a secret that nobody knows, short delays, and a gateway yet to be named.
    pub(crate) fn local() -> Settings {
        Settings::of([250, 1000, 2000].map(Duration::from_millis), system_clock())
    }

    /// Of services that are tested, in this time.
    #[cfg(test)]
    pub(crate) fn test(now: Now) -> Settings {
        Settings::of([1, 5, 25].map(Duration::from_secs), now)
    }

    fn of(retry_delays: [Duration; 3], now: Now) -> Settings {
        let day = Duration::from_secs(24 * 3600);
        let work = WorkArgs {
            retry_delays: retry_delays.to_vec(),
            concurrency: 64,
        };
        Settings {
            work: Work::new(&work, now),
            keys: Keys::random(),
            patience: PatienceArgs {
                quote_valid_for: 7 * day,
                payment_within: 2 * day,
                execution_idle: 7 * day,
            },
            gateway: String::new(),
            mercado_pago: MercadoPagoArgs {
                access_token: None,
                webhook_secret: None,
                public_url: None,
            },
        }
    }
}
