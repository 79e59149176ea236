//! The HTTP API, or the part of it that a worker has, as a task of this process.

use std::{io, net::SocketAddr};

use anyhow::Context;
use leveret::{
    http::{ApiOptions, Guard, Router, operations, router, serve},
    runtime::Engine,
};
use tokio::{net::TcpListener, sync::watch, task::JoinHandle};

use crate::{exit::BadInput, variables::given_by};

/// A listening API.
pub(crate) struct Api {
    /// Where it listens.
    pub(crate) address: SocketAddr,
    serving: JoinHandle<io::Result<()>>,
}

/// Binds an address, such as `127.0.0.1:7070`; port 0 takes a free one.
pub(crate) async fn bind(address: &str) -> anyhow::Result<TcpListener> {
    let given = given_by("--listen", "LEVERET_LISTEN", address);
    if let Some(port) = address.strip_prefix(':') {
        let help = format!("say 127.0.0.1:{port}, or 0.0.0.0:{port} for every network");
        return Err(
            BadInput::new(format!("{given} {address}: the host is missing; {help}")).into(),
        );
    }
    TcpListener::bind(address).await.map_err(|error| match error.kind() {
        io::ErrorKind::AddrInUse => {
            anyhow::anyhow!("{address} is in use: stop what listens there, or give another --listen (port 0 takes a free one)")
        }
        io::ErrorKind::InvalidInput => BadInput::new(format!("{given} {address}: {error}; say 127.0.0.1:7070")).into(),
        _ => anyhow::Error::from(error).context(format!("cannot listen on {address}")),
    })
}

/// Refuses to serve an API without tokens where others can reach it, unless that is meant.
pub(crate) fn refuse_open(
    listener: &TcpListener,
    guard: &Guard,
    insecure: bool,
) -> anyhow::Result<()> {
    let address = listener.local_addr();
    let address = address.context("the listener has no address")?;
    if address.ip().is_loopback() || !guard.tokens.is_empty() || insecure {
        return Ok(());
    }
    Err(BadInput::new(format!(
        "others can reach {address}: set LEVERET_API_TOKENS=NAME:TOKEN, or say --insecure"
    ))
    .into())
}

impl Api {
    /// Serves the API on a listener until `shutdown` turns true. `works`: this process has a worker, and is ready only while that
    /// consumes. `node_types`: those that workers elsewhere have.
    pub(crate) fn start(
        listener: TcpListener,
        engine: Engine,
        works: bool,
        guard: Guard,
        node_types: Vec<String>,
        shutdown: watch::Receiver<bool>,
    ) -> anyhow::Result<Api> {
        let options = ApiOptions {
            needs_consumer: works,
            guard,
            node_types,
            ..ApiOptions::default()
        };
        Api::serve(listener, engine, router, options, shutdown)
    }

    /// As `start`, with health and metrics alone, for a worker.
    pub(crate) fn start_operations(
        listener: TcpListener,
        engine: Engine,
        guard: Guard,
        shutdown: watch::Receiver<bool>,
    ) -> anyhow::Result<Api> {
        let options = ApiOptions {
            needs_consumer: true,
            guard,
            ..ApiOptions::default()
        };
        Api::serve(listener, engine, operations, options, shutdown)
    }

    fn serve(
        listener: TcpListener,
        engine: Engine,
        routes: fn(Engine, ApiOptions) -> Router,
        options: ApiOptions,
        shutdown: watch::Receiver<bool>,
    ) -> anyhow::Result<Api> {
        let address = listener
            .local_addr()
            .context("the listener has no address")?;
        let options = ApiOptions {
            shutdown: Some(shutdown.clone()),
            ..options
        };
        let serving = tokio::spawn(serve(listener, routes(engine, options), shutdown));
        Ok(Api { address, serving })
    }

    /// Resolves when the requests that had begun before the shutdown have been answered, within a bound.
    pub(crate) async fn stopped(self) {
        match self.serving.await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::error!(%error, "the API failed"),
            Err(error) => tracing::error!(%error, "the API panicked"),
        }
    }
}
