//! One server: how it is started, stopped, broken and discarded, by any process at any time.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use rustix::process::Signal;
use serde::{Deserialize, Serialize};

use super::compose::Container;
use super::{Kind, postgres, rabbitmq, ready};
use crate::{process, say};

/// A file of this name in a fleet's directory says that its servers are being ended: none may start any more.
pub(crate) const CLOSING: &str = "closing";
/// How long a server may take to answer, on a slow machine.
const START_LIMIT: Duration = Duration::from_mins(2);
/// How long an orderly stop may take before it is an error.
const STOP_LIMIT: Duration = Duration::from_mins(1);
/// How long a server may take to end when its data are thrown away.
const DISCARD_LIMIT: Duration = Duration::from_secs(5);
/// Lines of its log shown for a server that did not start.
const TAIL_LINES: usize = 30;

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Instance {
    pub(crate) name: Kind,
    pub(crate) port: u16,
    pub(crate) url: String,
    #[serde(flatten)]
    pub(crate) backing: Backing,
}

/// What runs the server.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "backing", rename_all = "lowercase")]
pub(crate) enum Backing {
    Program(Box<Program>),
    Container(Container),
}

/// A server that is a program of this machine.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Program {
    pub(crate) data_dir: PathBuf,
    #[serde(flatten)]
    pub(crate) daemon: Daemon,
    /// A process that the server needs beside it, and that outlives its stops (Erlang's port mapper).
    pub(crate) helper: Option<Daemon>,
}

/// A process in the background: all that is needed to start it again.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Daemon {
    pub(crate) argv: Vec<String>,
    /// The whole environment; nothing is inherited.
    pub(crate) env: BTreeMap<String, String>,
    /// The account it runs as, where that is not the caller's.
    pub(crate) user: Option<User>,
    pub(crate) pid_file: PathBuf,
    pub(crate) log_file: PathBuf,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct User {
    pub(crate) name: String,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

impl Instance {
    pub(crate) fn program(name: Kind, port: u16, program: Program) -> Self {
        Self {
            name,
            port,
            url: name.url(port),
            backing: Backing::Program(Box::new(program)),
        }
    }

    /// Starts the server and waits until it answers. One that runs already is left alone.
    pub(crate) fn start(&self) -> Result<()> {
        let name = self.name.name();
        match &self.backing {
            Backing::Container(container) => container.start()?,
            Backing::Program(program) => {
                if program.daemon.pid().is_some() {
                    return Ok(());
                }
                match self.name {
                    Kind::RabbitMq => rabbitmq::initialise(program)?,
                    Kind::Postgres => postgres::initialise(program)?,
                    Kind::Redis | Kind::MongoDb => fs::create_dir_all(&program.data_dir)?,
                }
                if let Some(helper) = program
                    .helper
                    .as_ref()
                    .filter(|helper| helper.pid().is_none())
                {
                    helper.spawn()?;
                }
                program
                    .daemon
                    .spawn()
                    .with_context(|| format!("cannot start {name}"))?;
            }
        }
        self.wait_ready()?;
        say(format_args!("{name} answers on port {}", self.port));
        Ok(())
    }

    fn wait_ready(&self) -> Result<()> {
        let name = self.name.name();
        let ended =
            || matches!(&self.backing, Backing::Program(program) if program.daemon.pid().is_none());
        let mut ready = false;
        process::wait_until(START_LIMIT, || {
            ready = ready::answers(self.name, self.port);
            ready || ended()
        });
        if ready {
            return Ok(());
        }
        let how = if ended() {
            "ended at once".into()
        } else {
            format!("does not answer after {START_LIMIT:?}")
        };
        match &self.backing {
            Backing::Program(program) => {
                let log = &program.daemon.log_file;
                bail!(
                    "{name} {how}; the end of its log ({}):\n{}",
                    log.display(),
                    tail(log)
                )
            }
            Backing::Container(_) => bail!("{name} in docker {how}"),
        }
    }

    /// Stops the server in its own orderly way and waits until it has ended. Its data stay.
    pub(crate) fn stop(&self) -> Result<()> {
        match &self.backing {
            Backing::Container(container) => container.stop()?,
            Backing::Program(program) => {
                let Some(pid) = program.daemon.pid() else {
                    return Ok(());
                };
                process::signal(pid, self.orderly());
                if !process::wait_gone(pid, STOP_LIMIT) {
                    bail!(
                        "{} still runs {STOP_LIMIT:?} after it was asked to stop",
                        self.name.name()
                    );
                }
            }
        }
        say(format_args!("{} is stopped", self.name.name()));
        Ok(())
    }

    /// Kills the server with SIGKILL, and with it all its processes. Its data stay as they are.
    pub(crate) fn kill(&self) -> Result<()> {
        match &self.backing {
            Backing::Container(container) => container.kill()?,
            Backing::Program(program) => {
                let Some(pid) = program.daemon.pid() else {
                    return Ok(());
                };
                process::kill_tree(pid);
                if self.name == Kind::Postgres {
                    postgres::forget_process(program)?;
                }
            }
        }
        say(format_args!("{} is killed", self.name.name()));
        Ok(())
    }

    /// Ends the server as fast as it can be done without leaving anything of it behind. Idempotent.
    pub(crate) fn discard(&self) {
        match &self.backing {
            Backing::Container(container) => container.discard(),
            Backing::Program(program) => {
                if let Some(pid) = program.daemon.pid() {
                    self.discard_process(pid);
                }
                let helper = program.helper.as_ref().and_then(Daemon::pid);
                helper.into_iter().for_each(process::kill_tree);
            }
        }
    }

    fn discard_process(&self, pid: u32) {
        if self.name == Kind::Postgres {
            // Its immediate shutdown gives the shared memory back, which SIGKILL would leave behind.
            process::signal(pid, Signal::QUIT);
            if process::wait_gone(pid, DISCARD_LIMIT) {
                return;
            }
        }
        process::kill_tree(pid);
    }

    /// The signal that stops this server in order.
    fn orderly(&self) -> Signal {
        match self.name {
            // "Fast": PostgreSQL would otherwise wait for its clients to leave.
            Kind::Postgres => Signal::INT,
            Kind::RabbitMq | Kind::Redis | Kind::MongoDb => Signal::TERM,
        }
    }
}

impl Daemon {
    /// The id of the process while it runs.
    pub(crate) fn pid(&self) -> Option<u32> {
        let pid = fs::read_to_string(&self.pid_file)
            .ok()?
            .trim()
            .parse()
            .ok()?;
        let birth = fs::read_to_string(self.birth_file()).ok()?;
        (process::birth(pid)? == birth).then_some(pid)
    }

    /// Starts the process in a group of its own, so that Ctrl-C in a terminal does not reach it.
    fn spawn(&self) -> Result<()> {
        let log = File::options()
            .create(true)
            .append(true)
            .open(&self.log_file)?;
        let mut command = self.command(&self.argv);
        command
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .process_group(0);
        let mut child = command
            .spawn()
            .with_context(|| format!("cannot run {}", self.argv[0]))?;
        let birth = process::birth(child.id()).unwrap_or_default();
        fs::write(self.birth_file(), birth)?;
        fs::write(&self.pid_file, child.id().to_string())?;
        if self.pid_file.with_file_name(CLOSING).exists() {
            // Either the one who ends the fleet sees our pid file, or we see his mark.
            process::kill_tree(child.id());
            bail!("the servers are being stopped");
        }
        // Whoever stops it may be another process: it must not stay a zombie of ours.
        thread::spawn(move || child.wait());
        Ok(())
    }

    /// A command with the environment and the account of this daemon.
    pub(crate) fn command(&self, argv: &[String]) -> Command {
        let mut command = Command::new(&argv[0]);
        command
            .args(&argv[1..])
            .env_clear()
            .envs(&self.env)
            .current_dir("/");
        if let Some(user) = &self.user {
            command.uid(user.uid).gid(user.gid);
        }
        command
    }

    /// Beside the process id, when it started: an id alone may have passed to a stranger.
    fn birth_file(&self) -> PathBuf {
        self.pid_file.with_extension("birth")
    }
}

/// An environment with the caller's `PATH`, a fixed locale, and what is given.
pub(crate) fn environment(variables: &[(&str, String)]) -> BTreeMap<String, String> {
    let path = std::env::var("PATH").unwrap_or_else(|_| "/usr/local/bin:/usr/bin:/bin".into());
    let fixed = [("PATH", path), ("LANG", "C.UTF-8".into())];
    fixed
        .into_iter()
        .chain(variables.iter().cloned())
        .map(|(name, value)| (name.to_owned(), value))
        .collect()
}

fn tail(log: &Path) -> String {
    let text = fs::read(log)
        .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
        .unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n")
}
