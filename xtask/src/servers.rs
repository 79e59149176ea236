//! Private RabbitMQ, PostgreSQL, Redis and MongoDB servers: on free ports, with data directories of their own.
//!
//! A [`Fleet`] is the set of servers in one directory, described by its `servers.json`, so that any later
//! process (a kill test, a developer, the watchdog) can stop, break and restart them.

pub(crate) mod compose;
pub(crate) mod fleet;
mod instance;
pub(crate) mod mongodb;
mod postgres;
mod rabbitmq;
mod ready;
mod redis;

use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};
use clap::{Subcommand, ValueEnum};
use serde::{Deserialize, Serialize};

pub(crate) use self::fleet::Fleet;
use crate::{install, paths};

/// Names the file that describes the servers in use.
pub(crate) const SERVERS_ENV: &str = "LEVERET_TEST_SERVERS";

/// A kind of server; each fleet has at most one of each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Kind {
    #[value(name = "rabbitmq")]
    RabbitMq,
    Postgres,
    Redis,
    #[value(name = "mongodb")]
    MongoDb,
}

impl Kind {
    pub(crate) const ALL: [Self; 4] = [Self::RabbitMq, Self::Postgres, Self::Redis, Self::MongoDb];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::RabbitMq => "rabbitmq",
            Self::Postgres => "postgres",
            Self::Redis => "redis",
            Self::MongoDb => "mongodb",
        }
    }

    /// The variable in which tests look for the server.
    pub(crate) fn url_env(self) -> &'static str {
        match self {
            Self::RabbitMq => "LEVERET_TEST_AMQP_URL",
            Self::Postgres => "LEVERET_TEST_POSTGRES_URL",
            Self::Redis => "LEVERET_TEST_REDIS_URL",
            Self::MongoDb => "LEVERET_TEST_MONGODB_URL",
        }
    }

    fn url(self, port: u16) -> String {
        match self {
            Self::RabbitMq => format!("amqp://guest:guest@127.0.0.1:{port}/%2f"),
            Self::Postgres => format!("postgres://postgres@127.0.0.1:{port}/postgres"),
            Self::Redis => format!("redis://127.0.0.1:{port}"),
            Self::MongoDb => format!("mongodb://127.0.0.1:{port}/leveret_test"),
        }
    }

    /// Whether the server's programs are on this machine.
    pub(crate) fn installed(self) -> bool {
        match self {
            Self::RabbitMq => rabbitmq::programs().is_some(),
            Self::Postgres => postgres::programs().is_some(),
            Self::Redis => redis::program().is_some(),
            Self::MongoDb => mongodb::program().is_some(),
        }
    }
}

#[derive(Subcommand)]
pub(crate) enum Action {
    /// Start servers and print `export …` lines; they run until `down`
    Up {
        /// Which; all when none is named
        names: Vec<Kind>,
        /// Start servers of one's own beside those in use, for a test that breaks them
        ///
        /// The printed LEVERET_TEST_SERVERS names them to the other subcommands. They are stopped with the
        /// servers in use, or by their own `down`.
        #[arg(long)]
        private: bool,
    },
    /// Stop the servers and remove their data
    Down,
    /// Stop a server in its own orderly way; its data stay
    Stop { name: Kind },
    /// Kill a server and all its processes with SIGKILL; its data stay as they are on the disk
    Kill { name: Kind },
    /// Start a stopped or killed server on the same port and data, and wait until it answers
    Start { name: Kind },
    /// Stop, then start
    Restart { name: Kind },
    /// Give RabbitMQ an order of an operator, as `rabbitmqctl` takes it, and print what it says
    Ctl {
        /// The order and its arguments
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true)]
        args: Vec<String>,
    },
    /// Print the `export …` lines
    Env,
}

/// Performs one `cargo xtask servers …`.
pub(crate) fn act(action: Action) -> Result<()> {
    match action {
        Action::Up { names, private } => up(&names, private)?,
        Action::Down => fleet::remove(&current_dir()?),
        Action::Stop { name } => current()?.get(name)?.stop()?,
        Action::Kill { name } => current()?.get(name)?.kill()?,
        Action::Start { name } => current()?.get(name)?.start()?,
        Action::Restart { name } => {
            let fleet = current()?;
            fleet.get(name)?.stop()?;
            fleet.get(name)?.start()?;
        }
        Action::Ctl { args } => rabbitmq::order(current()?.get(Kind::RabbitMq)?, &args)?,
        Action::Env => print!("{}", current()?.exports()?),
    }
    Ok(())
}

fn up(names: &[Kind], private: bool) -> Result<()> {
    let kinds = if names.is_empty() {
        &Kind::ALL[..]
    } else {
        names
    };
    let dir = if private {
        private_dir()?
    } else {
        paths::data()?.join("up")
    };
    if Fleet::file_in(&dir).exists() {
        // Their machine may have been restarted since.
        let fleet = Fleet::load(&Fleet::file_in(&dir))?;
        let missing: Vec<_> = kinds
            .iter()
            .filter(|kind| fleet.get(**kind).is_err())
            .map(|kind| kind.name())
            .collect();
        if !missing.is_empty() {
            bail!(
                "servers are up without {}; run `cargo xtask servers down` first",
                missing.join(" and ")
            );
        }
        fleet.start()?;
        print!("{}", fleet.exports()?);
        return Ok(());
    }
    let fleet = Fleet::plan(&dir, kinds, &install::ensure(kinds)?)?;
    if let Err(error) = fleet.start() {
        fleet::remove(&dir);
        return Err(error);
    }
    print!("{}", fleet.exports()?);
    Ok(())
}

/// A directory below that of the servers in use, so that their end is also its end.
fn private_dir() -> Result<PathBuf> {
    Ok(current_dir()?.join(format!("private-{}", std::process::id())))
}

/// The directory of the servers in use: those that tests are given, else those that `up` starts.
fn current_dir() -> Result<PathBuf> {
    match std::env::var_os(SERVERS_ENV).map(PathBuf::from) {
        Some(file) => Ok(file
            .parent()
            .context("LEVERET_TEST_SERVERS names no file")?
            .to_owned()),
        None => Ok(paths::data()?.join("up")),
    }
}

/// The servers that the subcommands act on.
fn current() -> Result<Fleet> {
    let file = Fleet::file_in(&current_dir()?);
    if !file.exists() {
        bail!(
            "no servers are up ({} is not there); run `cargo xtask servers up`",
            file.display()
        );
    }
    Fleet::load(&file)
}
