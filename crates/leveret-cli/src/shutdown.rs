//! SIGTERM and SIGINT: the first asks to stop, the second exits at once.

use std::process;

use tokio::sync::watch;

use crate::progress;

/// The exit code after a second signal: killed.
const KILLED: i32 = 1;

/// Turns true at the first signal. Call it once, within the runtime.
pub(crate) fn on_signal() -> anyhow::Result<watch::Receiver<bool>> {
    let (stop, stopped) = watch::channel(false);
    let mut signals = Signals::new()?;
    tokio::spawn(async move {
        signals.next().await;
        stop.send_replace(true);
        signals.next().await;
        progress::to_stderr(b"second signal: exiting at once\n");
        process::exit(KILLED);
    });
    Ok(stopped)
}

#[cfg(unix)]
struct Signals {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
}

#[cfg(unix)]
impl Signals {
    fn new() -> anyhow::Result<Signals> {
        use anyhow::Context;
        use tokio::signal::unix::{SignalKind, signal};
        let listen = |kind| signal(kind).context("cannot listen for signals");
        Ok(Signals {
            terminate: listen(SignalKind::terminate())?,
            interrupt: listen(SignalKind::interrupt())?,
        })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

#[cfg(not(unix))]
struct Signals;

#[cfg(not(unix))]
impl Signals {
    fn new() -> anyhow::Result<Signals> {
        Ok(Signals)
    }

    async fn next(&mut self) {
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

/// Resolves at the first signal.
pub(crate) async fn asked(stopped: &mut watch::Receiver<bool>) {
    // The sender lives as long as the process.
    drop(stopped.wait_for(|stop| *stop).await);
}
