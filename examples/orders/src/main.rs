//! `orders`: order, payment and inventory on `leveret::service`. The README beside it tells what each of them promises.

mod bench;
mod demo;
mod inventory;
mod openapi;
mod order;
mod payment;
mod problem;
mod settings;
mod simulator;
mod stack;
mod watch;
mod wire;

use std::{net::SocketAddr, process::ExitCode};

use anyhow::Context;
use clap::Parser;
use tokio::{net::TcpListener, sync::watch as signal};

use self::{
    settings::{Cli, Command, RoleArgs, UpArgs, Work},
    stack::{Places, Role, Stack, Store, embedded},
};

/// Many small values are made in one thread and dropped in another.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let cli = Cli::parse();
    if let Err(error) = arm_crash_point() {
        eprintln!("error: {error}");
        return ExitCode::FAILURE;
    }
    let filter = std::env::var("ORDERS_LOG");
    let filter = filter.as_deref().unwrap_or("warn,lapin=off");
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .init();
    // An error only says that a provider of cryptography is installed already.
    drop(rustls::crypto::ring::default_provider().install_default());
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build();
    let executed = runtime
        .context("cannot start")
        .and_then(|runtime| runtime.block_on(execute(cli.command)));
    match executed {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// The variable that tests name a [crash point](leveret::crash) in; it means nothing where none are compiled in.
fn arm_crash_point() -> Result<(), leveret::crash::ArmError> {
    if !leveret::crash::COMPILED {
        return Ok(());
    }
    let at = std::env::var("LEVERET_CRASH_AT");
    at.map_or(Ok(()), |at| leveret::crash::arm(&at))
}

async fn execute(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Demo(args) => demo::run(&args).await,
        Command::Up(args) => up(args).await,
        Command::Order(args) => role(Role::Order, args).await,
        Command::Payment(args) => role(Role::Payment, args).await,
        Command::Inventory(args) => role(Role::Inventory, args).await,
        Command::Gateway { listen } => {
            let listener = bind(listen).await?;
            let address = listener.local_addr()?;
            println!("the gateway listens at http://{address}");
            leveret::http::serve(listener, simulator::router(), on_signal()?).await?;
            Ok(())
        }
        Command::Bench(args) => bench::run(&args).await,
    }
}

async fn up(args: UpArgs) -> anyhow::Result<()> {
    let stopped = on_signal()?;
    let listener = bind(args.listen).await?;
    let gateway = match args.gateway {
        Some(gateway) => gateway,
        None => simulate(stopped.clone()).await?,
    };
    let places = Places {
        broker: args.broker.unwrap_or_else(|| embedded(&args.data)),
        store: args.store.map_or(Store::Files(args.data), Store::Url),
        gateway,
        currency: args.work.currency.clone(),
    };
    run(
        &Role::ALL,
        &places,
        &Work::new(&args.work),
        listener,
        stopped,
    )
    .await
}

async fn role(role: Role, args: RoleArgs) -> anyhow::Result<()> {
    let stopped = on_signal()?;
    let listener = bind(args.listen).await?;
    let places = Places {
        broker: args.broker,
        store: Store::Url(args.store),
        gateway: args.gateway,
        currency: args.work.currency.clone(),
    };
    run(&[role], &places, &Work::new(&args.work), listener, stopped).await
}

async fn run(
    roles: &[Role],
    places: &Places,
    work: &Work,
    listener: TcpListener,
    mut stopped: signal::Receiver<bool>,
) -> anyhow::Result<()> {
    let address = listener.local_addr()?;
    let stack = tokio::select! {
        stack = Stack::start(roles, places, work) => stack?,
        _ = stopped.wait_for(|stop| *stop) => return Ok(()),
    };
    println!("listening at http://{address}");
    stack.serve(listener, stopped).await
}

async fn bind(address: SocketAddr) -> anyhow::Result<TcpListener> {
    let listener = TcpListener::bind(address).await;
    listener.with_context(|| format!("cannot listen at {address}"))
}

/// A gateway of this process; its URL.
async fn simulate(stopped: signal::Receiver<bool>) -> anyhow::Result<String> {
    let listener = bind(SocketAddr::from(([127, 0, 0, 1], 0))).await?;
    let url = format!("http://{}", listener.local_addr()?);
    println!("a simulated gateway listens at {url}");
    tokio::spawn(leveret::http::serve(listener, simulator::router(), stopped));
    Ok(url)
}

/// Turns true at the first SIGTERM or SIGINT.
fn on_signal() -> anyhow::Result<signal::Receiver<bool>> {
    use tokio::signal::unix::{SignalKind, signal as listen};
    let (stop, stopped) = signal::channel(false);
    let mut terminate = listen(SignalKind::terminate())?;
    let mut interrupt = listen(SignalKind::interrupt())?;
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        stop.send_replace(true);
    });
    Ok(stopped)
}
