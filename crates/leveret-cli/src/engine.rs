//! From settings to an engine that runs.

use std::sync::Arc;

use anyhow::Context;
use leveret::{
    ConnectError,
    broker::BrokerError,
    connect_prefixed,
    nodes::{HttpOptions, Registry},
    redact_url,
    runtime::{Engine, EngineParts, Names, Roles, Secrets, ServeError},
    store::StoreError,
};
use tokio::{sync::watch, task::JoinHandle};

use crate::{
    directory::PrivateDirectory,
    exit::BadInput,
    proxies,
    settings::{Settings, refuse_memory},
    variables::given_by,
};

/// Secrets of the environment: `secret("NAME")` is `LEVERET_SECRET_NAME`.
#[derive(Debug)]
struct EnvSecrets;

impl Secrets for EnvSecrets {
    fn secret(&self, name: &str) -> Option<String> {
        std::env::var(format!("LEVERET_SECRET_{name}")).ok()
    }
}

/// The built-in node types, as the settings and the proxies of the environment say.
pub(crate) fn registry(settings: &Settings) -> anyhow::Result<Registry> {
    let http = HttpOptions {
        reach: settings.reach()?,
        proxies: proxies::of_environment(),
    };
    let mut registry =
        Registry::builtin_with(http).map_err(|error| BadInput::new(error.to_string()))?;
    registry.set_public_url(&settings.public_url()?);
    Ok(registry)
}

/// Connects to the store and the broker of the settings and declares the topology.
pub(crate) async fn open(settings: &Settings) -> anyhow::Result<Engine> {
    open_at(
        settings,
        registry(settings)?,
        &settings.store(),
        &settings.broker()?,
    )
    .await
}

async fn open_at(
    settings: &Settings,
    registry: Registry,
    store: &str,
    broker: &str,
) -> anyhow::Result<Engine> {
    refuse_memory("store", store, "sqlite:leveret.db")?;
    refuse_memory("broker", broker, "embedded:broker.db")?;
    let prefix = settings.prefix.as_deref().unwrap_or_default();
    let connected = connect_prefixed(store, broker, prefix).await;
    let connected = connected.map_err(of_connect);
    let connected = connected.with_context(|| {
        let said = |flag, variable, url| match given_by(flag, variable, url) {
            given if given == variable => format!("{} of {variable}", redact_url(url)),
            _ => redact_url(url),
        };
        format!(
            "cannot connect (store {}, broker {})",
            said("--store", "LEVERET_STORE", store),
            said("--broker", "LEVERET_BROKER", broker)
        )
    })?;
    let mut parts = EngineParts::new(connected.store, connected.broker);
    parts.one_file = connected.one_file;
    parts.registry = registry;
    parts.secrets = Arc::new(EnvSecrets);
    parts.options = settings.engine();
    parts.names = Names::with_prefix(prefix);
    if let Some(status) = settings.status {
        parts.publish.status = status.into();
    }
    if let Some(completion) = settings.completion {
        parts.publish.completion = completion;
    }
    Engine::new(parts)
        .await
        .context("cannot declare the exchange and the queues")
}

/// A URL that cannot be used is the caller's error.
pub(crate) fn of_connect(error: ConnectError) -> anyhow::Error {
    match error {
        ConnectError::Store(StoreError::Url { .. })
        | ConnectError::Broker(BrokerError::Url { .. }) => BadInput::new(error.to_string()).into(),
        _ => error.into(),
    }
}

/// An engine that plays its roles in this process.
pub(crate) struct Running {
    pub(crate) engine: Engine,
    stop: watch::Sender<bool>,
    serving: JoinHandle<Result<(), ServeError>>,
    _directory: Option<PrivateDirectory>,
}

impl Running {
    /// Starts all roles: where the settings say, else in a temporary directory that goes with this.
    pub(crate) async fn start(settings: &Settings) -> anyhow::Result<Running> {
        Running::start_with(settings, registry(settings)?).await
    }

    /// As [`start`](Self::start), with other node types.
    pub(crate) async fn start_with(
        settings: &Settings,
        registry: Registry,
    ) -> anyhow::Result<Running> {
        let directory = if settings.says_where() {
            None
        } else {
            Some(PrivateDirectory::new()?)
        };
        let engine = match &directory {
            None => open_at(settings, registry, &settings.store(), &settings.broker()?).await?,
            Some(directory) => {
                let store = format!("sqlite:{}", directory.path().join("leveret.db").display());
                open_at(settings, registry, &store, "embedded:").await?
            }
        };
        let (stop, stopped) = watch::channel(false);
        let roles = Roles {
            worker: Some(settings.worker()),
            ..Roles::all()
        };
        let serving = tokio::spawn({
            let engine = engine.clone();
            async move { engine.serve(roles, stopped).await }
        });
        Ok(Running {
            engine,
            stop,
            serving,
            _directory: directory,
        })
    }

    /// Drains and closes.
    pub(crate) async fn stop(self) -> anyhow::Result<()> {
        self.stop_after(async |_| ()).await
    }

    /// Drains, does something with the engine at rest, and closes.
    pub(crate) async fn stop_after(self, last: impl AsyncFnOnce(&Engine)) -> anyhow::Result<()> {
        self.stop.send_replace(true);
        let served = self.serving.await.context("the engine panicked")?;
        last(&self.engine).await;
        self.engine.close().await;
        served.context("the engine could not work")
    }

    /// Resolves when the engine ended by itself, which is an error. Cancel-safe.
    pub(crate) async fn failed(&mut self) -> anyhow::Error {
        match (&mut self.serving).await {
            Ok(Ok(())) => anyhow::anyhow!("the engine stopped by itself"),
            Ok(Err(error)) => anyhow::Error::from(error).context("the engine could not work"),
            Err(error) => anyhow::Error::from(error).context("the engine panicked"),
        }
    }
}
