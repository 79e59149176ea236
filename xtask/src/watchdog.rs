//! Nothing survives us: the servers and the test processes end when we do, however that happens.
//!
//! The watchdog is a second process of this binary, in a group of its own. It reads from a pipe whose other end
//! only we hold. When we end, by return, by error or by SIGKILL, the system closes the pipe, and the watchdog
//! ends what we named on it and every server under our directory. That is the only way of cleaning up, so it
//! works in the worst case as it does daily.

use std::io::{self, BufRead as _, Write as _};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use std::{process as this, thread};

use anyhow::{Context as _, Result};
use rustix::process::Signal;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::servers::fleet;
use crate::{paths, process};

/// How long test processes may take to end when asked, before they are killed.
const GRACE: Duration = Duration::from_secs(15);

/// The watched end: while it lives, what it names may run.
#[derive(Clone, Debug)]
pub(crate) struct Watchdog {
    child: Arc<Mutex<Option<Child>>>,
    interrupted: Arc<AtomicBool>,
}

impl Watchdog {
    /// Starts to watch over a directory, and takes over SIGINT, SIGTERM and SIGHUP: they end this process after
    /// everything else has ended.
    pub(crate) fn start(dir: &Path) -> Result<Self> {
        let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP])?;
        let mut command = Command::new(paths::this_binary()?);
        command
            .arg("watchdog")
            .arg(dir)
            .stdin(Stdio::piped())
            .process_group(0);
        let child = command.spawn().context("cannot start the watchdog")?;
        let watchdog = Self {
            child: Arc::new(Mutex::new(Some(child))),
            interrupted: Arc::default(),
        };
        let handle = watchdog.clone();
        thread::spawn(move || {
            if let Some(signal) = signals.forever().next() {
                handle.interrupted.store(true, Ordering::SeqCst);
                crate::say("interrupted; stopping tests and servers");
                handle.stop();
                this::exit(128 + signal);
            }
        });
        Ok(watchdog)
    }

    /// Runs a command in a group of its own, which ends with us, and waits for it.
    pub(crate) fn run(&self, command: &mut Command) -> Result<ExitStatus> {
        // Not in the foreground of the terminal, it must not read from it.
        command.stdin(Stdio::null()).process_group(0);
        let mut child = command
            .spawn()
            .with_context(|| format!("cannot run {command:?}"))?;
        self.name(&format!("group {}", child.id()));
        let status = child.wait()?;
        self.name(&format!("ended {}", child.id()));
        self.leave_interrupted();
        Ok(status)
    }

    /// After a signal, leaves the end of this process to the thread that was told of it: does not return then.
    pub(crate) fn leave_interrupted(&self) {
        while self.interrupted.load(Ordering::SeqCst) {
            thread::park();
        }
    }

    /// Ends everything and waits until it has ended. Idempotent; a second caller waits for the first.
    pub(crate) fn stop(&self) {
        let mut child = self.child.lock().unwrap_or_else(PoisonError::into_inner);
        // Waiting closes our end of the pipe first.
        if let Some(mut child) = child.take()
            && let Err(error) = child.wait()
        {
            crate::say(format_args!("cannot wait for the watchdog: {error}"));
        }
    }

    fn name(&self, line: &str) {
        let mut child = self.child.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(stdin) = child.as_mut().and_then(|child| child.stdin.as_mut())
            && let Err(error) = writeln!(stdin, "{line}")
        {
            crate::say(format_args!("the watchdog is gone: {error}"));
        }
    }
}

/// The watching end: waits for the end of standard input, then ends everything.
pub(crate) fn watch(dir: &Path) -> Result<()> {
    let mut groups: Vec<u32> = Vec::new();
    for line in io::stdin().lock().lines() {
        match line?.split_once(' ') {
            Some(("group", pid)) => groups.push(pid.parse()?),
            Some(("ended", pid)) => groups.retain(|group| group.to_string() != pid),
            _ => {}
        }
    }
    groups.into_iter().for_each(end_group);
    fleet::remove(dir);
    Ok(())
}

/// Asks a group to end, and kills what remains of it and of its descendants.
fn end_group(leader: u32) {
    let family = process::descendants(leader);
    process::signal_group(leader, Signal::TERM);
    process::wait_gone(leader, GRACE);
    process::signal_group(leader, Signal::KILL);
    // A test runner puts each test into a group of its own.
    for member in family {
        process::kill_tree(member);
    }
}
