//! Services, connected and running, each behind an address of its own.

use std::{net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use anyhow::Context;
use axum::{Router, routing::get};
use leveret::{
    broker::{Broker, connect_late, dead_letter_queue_name},
    service::{Documents, Kind, Service, documents, http::operations},
};
use tokio::{net::TcpListener, sync::watch, task::JoinSet};

use crate::{
    auth, billing, execution, failure,
    front::Front,
    health, openapi, operators, os,
    settings::{ServerArgs, Settings},
};

/// Which service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    Os,
    Billing,
    Execution,
}

impl Role {
    /// All of them.
    pub(crate) const ALL: [Role; 3] = [Role::Os, Role::Billing, Role::Execution];

    /// As queues, paths and commands name it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Role::Os => "os",
            Role::Billing => "billing",
            Role::Execution => "execution",
        }
    }

    /// Where it listens unless it is said.
    pub(crate) fn port(self) -> u16 {
        match self {
            Role::Os => 3001,
            Role::Billing => 3002,
            Role::Execution => 3003,
        }
    }

    fn kinds(self) -> Vec<Kind> {
        match self {
            Role::Os => os::kinds(),
            Role::Billing => billing::kinds(),
            Role::Execution => execution::kinds(),
        }
    }

    fn service(
        self,
        documents: Arc<dyn Documents>,
        broker: Arc<dyn Broker>,
        settings: &Settings,
    ) -> anyhow::Result<Service> {
        match self {
            Role::Os => os::service(documents, broker, settings),
            Role::Billing => billing::service(documents, broker, settings),
            Role::Execution => execution::service(documents, broker, settings),
        }
    }
}

/// A service that is to be: where it listens, and where its documents are.
#[derive(Debug)]
pub(crate) struct Place {
    pub(crate) role: Role,
    pub(crate) listener: TcpListener,
    pub(crate) store: String,
}

/// Where the documents of a service are when all are on this machine or servers are named.
pub(crate) fn store(role: Role, data: &std::path::Path, servers: &ServerArgs) -> String {
    let named = match role {
        Role::Os => &servers.os_store,
        Role::Billing => &servers.billing_store,
        Role::Execution => &servers.execution_store,
    };
    let file = || {
        format!(
            "sqlite:{}",
            data.join(format!("{}.db", role.name())).display()
        )
    };
    named.clone().unwrap_or_else(file)
}

/// The broker in a directory, or the one that is named.
pub(crate) fn broker(data: &std::path::Path, servers: &ServerArgs) -> String {
    let file = || format!("embedded:{}", data.join("broker.db").display());
    servers.broker.clone().unwrap_or_else(file)
}

/// Services that run.
pub(crate) struct Stack {
    services: Vec<(Role, Service, SocketAddr)>,
    broker: Arc<dyn Broker>,
    running: JoinSet<anyhow::Result<()>>,
    stop: watch::Sender<bool>,
}

/// How long a database that is away at start is waited for between tries.
const PAUSE: Duration = Duration::from_millis(500);

impl Stack {
    /// Listens, connects, waiting for databases that are away, and begins to work. A broker may come later.
    pub(crate) async fn start(
        places: Vec<Place>,
        broker: &str,
        settings: &Settings,
    ) -> anyhow::Result<Stack> {
        let broker = connect_late(broker)
            .await
            .context("cannot use the broker")?;
        let (stop, stopped) = watch::channel(false);
        let mut running = JoinSet::new();
        let mut listening = Vec::new();
        for Place {
            role,
            listener,
            store,
        } in places
        {
            let address = listener.local_addr()?;
            let front = Front::new(role, &broker, settings);
            let (router, stopped) = (front.router(), stopped.clone());
            running
                .spawn(async move { Ok(leveret::http::serve(listener, router, stopped).await?) });
            listening.push((role, address, store, front));
        }
        let mut services = Vec::new();
        for (role, address, store, front) in listening {
            let documents = open(role, &store).await?;
            let service = role.service(documents, broker.clone(), settings)?;
            front.open(router(role, &service, &broker, settings));
            running.spawn({
                let (service, stopped) = (service.clone(), stopped.clone());
                async move {
                    let ran = service.run(stopped).await;
                    ran.with_context(|| format!("the {} service cannot run", role.name()))
                }
            });
            services.push((role, service, address));
        }
        Ok(Stack {
            services,
            broker,
            running,
            stop,
        })
    }

    /// Its services and their URLs, for clients in this process.
    pub(crate) fn apis(&self) -> Vec<(Role, String, Service)> {
        let apis = self.services.iter();
        apis.map(|(role, service, address)| (*role, format!("http://{address}"), service.clone()))
            .collect()
    }

    /// Goes on until `stopped` turns true, or a service cannot.
    pub(crate) async fn serve(mut self, mut stopped: watch::Receiver<bool>) -> anyhow::Result<()> {
        let ended = tokio::select! {
            _ = stopped.wait_for(|stop| *stop) => Ok(()),
            Some(ended) = self.running.join_next() => match ended {
                Ok(Ok(())) => Err(anyhow::anyhow!("a service ended by itself")),
                Ok(Err(error)) => Err(error),
                Err(error) => Err(error.into()),
            },
        };
        self.stop().await;
        ended
    }

    /// Drains and closes.
    pub(crate) async fn stop(mut self) {
        self.stop.send_replace(true);
        while self.running.join_next().await.is_some() {}
        self.broker.close().await;
        for (_, service, _) in &self.services {
            service.documents().close().await;
        }
    }
}

/// The documents of a service, once the database is there.
async fn open(role: Role, url: &str) -> anyhow::Result<Arc<dyn Documents>> {
    loop {
        match documents::connect(url, role.name(), &role.kinds()).await {
            Ok(documents) => return Ok(documents),
            Err(error) if error.is_retryable() => {
                tracing::warn!(service = role.name(), %error, "the database is not there yet; trying again");
                tokio::time::sleep(PAUSE).await;
            }
            Err(error) => {
                let name = role.name();
                return Err(error)
                    .with_context(|| format!("cannot use the database of the {name} service"));
            }
        }
    }
}

/// All routes of a service: its own by both spellings, with and without its name before them.
pub(crate) fn router(
    role: Role,
    service: &Service,
    broker: &Arc<dyn Broker>,
    settings: &Settings,
) -> Router {
    let (public, guarded) = match role {
        Role::Os => (os::public(service, settings), os::router(service, settings)),
        Role::Billing => (
            billing::public(service, settings),
            billing::router(service, settings),
        ),
        Role::Execution => (Router::new(), execution::router(service, settings)),
    };
    let guard = axum::middleware::from_fn_with_state(settings.keys.clone(), auth::guard);
    let health = health::router(role, service, broker);
    let routes = public
        .merge(guarded.route_layer(guard.clone()))
        .merge(health)
        .merge(openapi::router(role));
    let dead_letters = operators::dead_letters(broker, dead_letter_queues(role));
    Router::new()
        .nest(&format!("/{}", role.name()), routes.clone())
        .merge(routes)
        .merge(operations(vec![service.clone()], None))
        .merge(dead_letters.route_layer(guard))
        .route(
            "/",
            get(async || axum::response::Redirect::temporary("/api")),
        )
        .fallback(failure::no_route)
        .method_not_allowed_fallback(failure::no_method)
}

/// The queues of a service whose dead letters operators may look at.
fn dead_letter_queues(role: Role) -> Vec<String> {
    let queues = match role {
        Role::Os => os::queues(),
        Role::Billing => billing::queues(),
        Role::Execution => execution::queues(),
    };
    debug_assert!(
        queues
            .iter()
            .all(|queue| queue != &dead_letter_queue_name(queue))
    );
    queues
}

/// Where everything is that is embedded.
pub(crate) fn data(directory: &PathBuf) -> anyhow::Result<()> {
    std::fs::create_dir_all(directory)
        .with_context(|| format!("cannot make the directory {}", directory.display()))
}
