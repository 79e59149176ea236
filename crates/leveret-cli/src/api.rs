//! The HTTP API as a task of this process.

use std::{net::SocketAddr, time::Duration};

use anyhow::Context;
use leveret::runtime::Engine;
use tokio::{net::TcpListener, sync::watch, task::JoinHandle};

use crate::exit::BadInput;

/// How long connections may take to end on shutdown. Event streams never would by themselves.
const GRACE: Duration = Duration::from_secs(1);

/// A listening API.
pub(crate) struct Api {
    /// Where it listens.
    pub(crate) address: SocketAddr,
    stop: watch::Sender<bool>,
    serving: JoinHandle<std::io::Result<()>>,
}

/// Binds an address, such as `127.0.0.1:7070`; port 0 takes a free one.
pub(crate) async fn bind(address: &str) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address).await.map_err(|error| match error.kind() {
        std::io::ErrorKind::AddrInUse => {
            anyhow::anyhow!("{address} is in use: stop what listens there, or give another --listen (port 0 takes a free one)")
        }
        std::io::ErrorKind::InvalidInput => BadInput::new(format!("--listen {address}: {error}; say 127.0.0.1:7070")).into(),
        _ => anyhow::Error::from(error).context(format!("cannot listen on {address}")),
    })
}

impl Api {
    /// Serves the API on a listener.
    pub(crate) fn start(listener: TcpListener, engine: Engine, works: bool) -> anyhow::Result<Api> {
        let address = listener
            .local_addr()
            .context("the listener has no address")?;
        let _ = (engine, works);
        let router = axum::Router::new();
        let (stop, mut stopped) = watch::channel(false);
        let shutdown = async move {
            // A sender that is gone stops too.
            drop(stopped.wait_for(|stop| *stop).await);
        };
        let serving = tokio::spawn(async move {
            axum::serve(listener, router)
                .with_graceful_shutdown(shutdown)
                .await
        });
        Ok(Api {
            address,
            stop,
            serving,
        })
    }

    /// Takes no more connections. Requests that have begun go on.
    pub(crate) fn close(&self) {
        self.stop.send_replace(true);
    }

    /// Ends, within a short grace for requests that have begun.
    pub(crate) async fn stop(mut self) {
        self.close();
        if tokio::time::timeout(GRACE, &mut self.serving)
            .await
            .is_err()
        {
            self.serving.abort();
        }
    }
}
