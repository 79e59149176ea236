//! `garage`: three services, three databases, one choreographed saga. The README beside it tells what each of them promises.

mod auth;
mod bench;
mod billing;
mod client;
mod demo;
mod events;
mod execution;
mod failure;
mod front;
mod gateway;
mod health;
mod ids;
mod money;
mod openapi;
mod operators;
mod os;
mod request;
mod settings;
#[cfg(test)]
mod simulated;
mod stack;
mod statuses;
mod timeline;

use std::{net::SocketAddr, process::ExitCode};

use anyhow::Context;
use clap::Parser;
use tokio::{net::TcpListener, sync::watch as signal};

use self::{
    settings::{
        Cli, Command, CommonArgs, GatewayArgs, RoleArg, RoleArgs, Settings, TokenArgs, UpArgs, Work,
    },
    stack::{Place, Role, Stack},
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
    let filter = std::env::var("GARAGE_LOG");
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
        Command::Os(args) => role(Role::Os, args).await,
        Command::Billing(args) => role(Role::Billing, args).await,
        Command::Execution(args) => role(Role::Execution, args).await,
        Command::Gateway(args) => gateway(args).await,
        Command::Timeline(args) => timeline::show(&args).await,
        Command::Token(args) => token(&args),
        Command::Asyncapi => asyncapi(),
        Command::Bench(args) => bench::run(&args).await,
    }
}

async fn up(args: UpArgs) -> anyhow::Result<()> {
    let stopped = on_signal()?;
    let listens = [args.os_listen, args.billing_listen, args.execution_listen];
    let keys = args.common.auth.keys(&listens)?;
    stack::data(&args.data)?;
    let mut places = Vec::new();
    for (role, listen) in Role::ALL.into_iter().zip(listens) {
        places.push(Place {
            role,
            listener: bind(listen).await?,
            store: stack::store(role, &args.data, &args.servers),
        });
    }
    let mut settings = settings(&args.common, keys, String::new());
    settings.gateway = match args.gateway {
        Some(gateway) => gateway,
        None => gateway::simulate(&mut settings, &places, stopped.clone()).await?,
    };
    let broker = stack::broker(&args.data, &args.servers);
    run(places, &broker, &settings, stopped).await
}

async fn role(role: Role, args: RoleArgs) -> anyhow::Result<()> {
    let stopped = on_signal()?;
    let default = SocketAddr::from(([127, 0, 0, 1], role.port()));
    let listen = args.listen.unwrap_or(default);
    let keys = args.common.auth.keys(&[listen])?;
    let settings = settings(&args.common, keys, args.gateway);
    let place = Place {
        role,
        listener: bind(listen).await?,
        store: args.store,
    };
    run(vec![place], &args.broker, &settings, stopped).await
}

fn settings(common: &CommonArgs, keys: auth::Keys, gateway: String) -> Settings {
    Settings {
        work: Work::new(&common.work, settings::system_clock()),
        keys,
        patience: common.patience.clone(),
        gateway,
        mercado_pago: common.mercado_pago.clone(),
    }
}

async fn run(
    places: Vec<Place>,
    broker: &str,
    settings: &Settings,
    mut stopped: signal::Receiver<bool>,
) -> anyhow::Result<()> {
    for Place { role, listener, .. } in &places {
        println!(
            "{} listens at http://{}",
            role.name(),
            listener.local_addr()?
        );
    }
    let stack = tokio::select! {
        stack = Stack::start(places, broker, settings) => stack?,
        _ = stopped.wait_for(|stop| *stop) => return Ok(()),
    };
    stack.serve(stopped).await
}

async fn gateway(args: GatewayArgs) -> anyhow::Result<()> {
    let listener = bind(args.listen).await?;
    println!("the gateway listens at http://{}", listener.local_addr()?);
    let router = gateway::router(args.webhook_secret);
    leveret::http::serve(listener, router, on_signal()?).await?;
    Ok(())
}

fn token(args: &TokenArgs) -> anyhow::Result<()> {
    let keys = auth::Keys::new(&args.jwt_secret).map_err(anyhow::Error::msg)?;
    let role = match args.role {
        RoleArg::Customer => auth::Role::Customer,
        RoleArg::Staff => auth::Role::Staff,
        RoleArg::Admin => auth::Role::Admin,
    };
    let now = settings::system_time().0.unsigned_abs() / 1000;
    println!("{}", keys.token(&args.sub, role, now));
    Ok(())
}

fn asyncapi() -> anyhow::Result<()> {
    let document = events::CATALOGUE.asyncapi(env!("CARGO_PKG_VERSION"));
    println!("{}", serde_json::to_string_pretty(&document)?);
    Ok(())
}

pub(crate) async fn bind(address: SocketAddr) -> anyhow::Result<TcpListener> {
    let listener = TcpListener::bind(address).await;
    listener.with_context(|| format!("cannot listen at {address}"))
}

/// Turns true at the first SIGTERM or SIGINT.
pub(crate) fn on_signal() -> anyhow::Result<signal::Receiver<bool>> {
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
