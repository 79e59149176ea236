//! Developer tasks, run as `cargo xtask …`.
//!
//! `cargo xtask test` passes every test on a fresh machine: it finds or installs the servers, starts private
//! ones, runs the tests and leaves nothing behind.

mod fuzz;
mod install;
mod orders;
mod paths;
mod ports;
mod process;
#[cfg(test)]
mod rules;
mod servers;
mod test;
mod validators;
mod watchdog;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

const EXAMPLES: &str = "\
Examples:
  cargo xtask test                          all tests, with private servers, stopped at the end
  cargo xtask test -- -p leveret broker::   only some of them
  cargo xtask chaos --rounds 20             processes end at every boundary, 20 times each
  cargo xtask fuzz --seconds 60             ask the API whatever its document allows, with schemathesis
  eval \"$(cargo xtask servers up)\"          servers for `cargo test` and `leveret`, until `down`
  cargo xtask servers restart rabbitmq      as an operator would, data kept
  cargo xtask servers kill postgres         as a power failure would (SIGKILL), data kept
  cargo xtask servers ctl list_queues       as `rabbitmqctl` does, at the RabbitMQ in use
  cargo xtask servers down                  stop them and remove their data
  cargo xtask orders                        write examples/data/orders.jsonl again";

#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", about, after_help = EXAMPLES)]
#[command(about = "Developer tasks of Leveret")]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Build everything and run all tests against private RabbitMQ, PostgreSQL, Redis and MongoDB servers
    ///
    /// Missing servers are installed with apt-get, or run by docker compose where there is no apt-get.
    /// A server whose LEVERET_TEST_AMQP_URL, LEVERET_TEST_POSTGRES_URL, LEVERET_TEST_REDIS_URL or
    /// LEVERET_TEST_MONGODB_URL is set is used as it is and not started. MongoDB's part is played by SecantusDB.
    Test {
        /// Arguments for `cargo nextest run`, or `cargo test` where nextest is not installed
        #[arg(last = true)]
        args: Vec<String>,
    },
    /// Run the tests that end processes at named boundaries, again and again, under load
    ///
    /// `cargo xtask test` runs them too, three rounds each.
    Chaos {
        /// How often a process ends at each boundary
        #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=1000), value_name = "N")]
        rounds: u32,
    },
    /// Ask the API whatever its OpenAPI document allows, and hold the answers to it; call every operation by a generated client
    ///
    /// With schemathesis and openapi-python-client, which pip installs; where it cannot, this is skipped.
    Fuzz {
        /// How long, at most
        #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u32).range(1..=3600), value_name = "N")]
        seconds: u32,
        /// What it begins with: the same asks the same
        #[arg(long, default_value_t = 1, value_name = "N")]
        seed: u64,
    },
    /// Start, stop and break the servers that tests and developers use
    ///
    /// Acts on the servers described by the file in LEVERET_TEST_SERVERS, else on those that `up` started.
    Servers {
        #[command(subcommand)]
        action: servers::Action,
    },
    /// Write examples/data/orders.jsonl from its generator
    Orders {
        /// Only say whether the committed file is what the generator makes
        #[arg(long)]
        check: bool,
    },
    /// Stop the servers under DIR, and the process groups named on standard input, when standard input ends
    #[command(hide = true)]
    Watchdog { dir: PathBuf },
}

fn main() -> ExitCode {
    match run(Cli::parse().task) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(task: Task) -> Result<ExitCode> {
    match task {
        Task::Test { args } => return test::run(&args),
        Task::Chaos { rounds } => return test::chaos(rounds),
        Task::Fuzz { seconds, seed } => return fuzz::run(seconds, seed),
        Task::Servers { action } => servers::act(action)?,
        Task::Orders { check: true } => orders::check()?,
        Task::Orders { check: false } => orders::write()?,
        Task::Watchdog { dir } => watchdog::watch(&dir)?,
    }
    Ok(ExitCode::SUCCESS)
}

/// One progress line, on standard error: standard output belongs to `export …` lines and to the tests.
fn say(line: impl std::fmt::Display) {
    eprintln!("xtask: {line}");
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_is_well_formed() {
        super::Cli::command().debug_assert();
    }
}
