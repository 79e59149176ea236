//! One module for each command, or family of commands.

pub(crate) mod bench;
mod check;
mod demo;
mod dlq;
pub(crate) mod each;
mod graph;
mod migrate;
mod prune;
mod run;
mod runs;
mod schedules;
mod show;
mod up;
mod workflows;

use std::future::Future;

use anyhow::Context;

use crate::{
    broadcast::{cluster, process},
    cli::{Cli, Command, DemoCommand},
    exit::Exit,
    logging::{self, Chatter},
    output::Output,
    settings::Settings,
};

/// Does what the command line says.
pub(crate) fn execute(cli: Cli) -> anyhow::Result<Exit> {
    let output = Output { json: cli.json };
    let settings = match &cli.command {
        // What reads no file but its own does not fail because of one.
        Command::Check(_)
        | Command::Graph(_)
        | Command::Version
        | Command::Completions { .. }
        | Command::Heart(_)
        | Command::Node(_)
        | Command::Cluster(_) => cli.settings,
        _ => cli.settings.load()?,
    };
    logging::init(&settings, chatter(&cli.command))?;
    match cli.command {
        Command::Check(args) => check::check(&args, output),
        Command::Graph(args) => graph::graph(&args, output),
        Command::Config => show::config(&settings, output),
        Command::Version => show::version(output),
        Command::Completions { shell } => show::completions(shell),
        Command::Run(args) => block_on(run::run(args, &settings, output)),
        Command::Up => block_on(up::up(&settings, up::Role::Everything)),
        Command::Serve => block_on(up::up(&settings, up::Role::Server)),
        Command::Worker => block_on(up::up(&settings, up::Role::Worker)),
        Command::Heart(args) => block_on(process::heart(&args, &settings)),
        Command::Node(args) => block_on(process::node(&args, &settings)),
        Command::Cluster(args) => block_on(cluster::cluster(args, &settings, output)),
        Command::Workflows(command) => block_on(workflows::workflows(command, &settings, output)),
        Command::Runs(command) => block_on(runs::runs(command, &settings, output)),
        Command::Schedules(command) => block_on(schedules::schedules(command, &settings, output)),
        Command::Dlq(command) => block_on(dlq::dlq(command, &settings, output)),
        Command::Demo(args) => block_on(demo(args, &settings, output)),
        Command::Bench(command) => block_on(bench::bench(command, &settings, output)),
        Command::Migrate => block_on(migrate::migrate(&settings, output)),
        Command::Prune { older_than } => block_on(prune::prune(older_than, &settings, output)),
    }
}

async fn demo(
    args: crate::cli::DemoArgs,
    settings: &Settings,
    output: Output,
) -> anyhow::Result<Exit> {
    match args.command {
        Some(DemoCommand::Payments { seed }) => demo::payments(seed, settings).await,
        Some(DemoCommand::Broadcast) => crate::demo::broadcast::demo(output).await,
        None => demo::demo(&args, settings, output).await,
    }
}

fn chatter(command: &Command) -> Chatter {
    match command {
        Command::Run(args) if args.each.is_none() => Chatter::NodesAndWarnings,
        Command::Up | Command::Serve | Command::Worker | Command::Heart(_) | Command::Node(_) => {
            Chatter::Everything
        }
        _ => Chatter::Warnings,
    }
}

fn block_on<T>(command: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build();
    runtime
        .context("cannot start the runtime")?
        .block_on(command)
}
