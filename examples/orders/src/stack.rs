//! Services, connected and running, behind one address.

use std::{path::Path, sync::Arc, time::Duration};

use anyhow::Context;
use axum::Router;
use leveret::{
    broker::{Broker, connect_late},
    http::{DeadLetterQueues, Guard, Scope, dead_letters, guarded},
    service::{Documents, Kind, Service, documents, http::operations},
};
use tokio::{net::TcpListener, sync::watch, task::JoinSet};

use crate::{
    inventory, openapi, order, payment, problem, settings::Work, watch::pending_age, wire,
};

/// Which service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    Order,
    Payment,
    Inventory,
}

impl Role {
    /// All of them.
    pub(crate) const ALL: [Role; 3] = [Role::Order, Role::Payment, Role::Inventory];

    fn name(self) -> &'static str {
        match self {
            Role::Order => "order",
            Role::Payment => "payment",
            Role::Inventory => "inventory",
        }
    }

    /// The queues that it reads.
    fn queues(self) -> &'static [&'static str] {
        match self {
            Role::Order => &[wire::ORDER_QUEUE],
            Role::Payment => &[
                wire::PAYMENT_QUEUE,
                wire::REFUND_QUEUE,
                payment::GATEWAY_QUEUE,
            ],
            Role::Inventory => &[wire::INVENTORY_QUEUE],
        }
    }

    fn kinds(self) -> Vec<Kind> {
        match self {
            Role::Order => order::kinds(),
            Role::Payment => payment::kinds(),
            Role::Inventory => inventory::kinds(),
        }
    }
}

/// Where things are.
#[derive(Clone, Debug)]
pub(crate) struct Places {
    pub(crate) broker: String,
    /// One database for all, or a directory of files.
    pub(crate) store: Store,
    pub(crate) gateway: String,
    pub(crate) currency: String,
}

/// Where the documents are.
#[derive(Clone, Debug)]
pub(crate) enum Store {
    /// A database; each service has a schema.
    Url(String),
    /// A directory; each service has a file.
    Files(std::path::PathBuf),
}

/// Services that run.
pub(crate) struct Stack {
    pub(crate) services: Vec<(Role, Service)>,
    pub(crate) broker: Arc<dyn Broker>,
    running: JoinSet<anyhow::Result<()>>,
    stop: watch::Sender<bool>,
}

/// The broker in a directory.
pub(crate) fn embedded(data: &Path) -> String {
    format!("embedded:{}", data.join("broker.db").display())
}

/// How long a database that is away at start is waited for between tries.
const PAUSE: Duration = Duration::from_millis(500);

impl Stack {
    /// Connects, waiting for a database that is away, and begins to work. A broker may come later.
    pub(crate) async fn start(
        roles: &[Role],
        places: &Places,
        work: &Work,
    ) -> anyhow::Result<Stack> {
        let broker = connect_late(&places.broker)
            .await
            .context("cannot use the broker")?;
        let mut services = Vec::new();
        for &role in roles {
            let documents = open(role.name(), &role.kinds(), &places.store).await?;
            services.push((role, service(role, documents, &broker, places, work)?));
        }
        let (stop, stopped) = watch::channel(false);
        let mut running = JoinSet::new();
        for (role, service) in &services {
            let (service, stopped, name) = (service.clone(), stopped.clone(), role.name());
            running.spawn(async move {
                let ran = service.run(stopped).await;
                ran.with_context(|| format!("the {name} service cannot run"))
            });
        }
        Ok(Stack {
            services,
            broker,
            running,
            stop,
        })
    }

    /// A service of the stack.
    pub(crate) fn service(&self, role: Role) -> &Service {
        let found = self.services.iter().find(|(known, _)| *known == role);
        &found.expect("the stack has the role").1
    }

    /// The routes of all its services.
    pub(crate) fn router(&self) -> Router {
        let mut router = Router::new();
        let roles: Vec<Role> = self.services.iter().map(|(role, _)| *role).collect();
        for (role, service) in &self.services {
            let service = service.clone();
            router = router.merge(match role {
                Role::Order => order::router(service),
                Role::Payment => payment::router(service),
                Role::Inventory => inventory::router(service),
            });
        }
        let services = self.services.iter().map(|(_, service)| service.clone());
        let orders = self.services.iter().find(|(role, _)| *role == Role::Order);
        let operations = operations(
            services.collect(),
            pending_age(orders.map(|(_, s)| s.clone())),
        );
        router
            .merge(openapi::router(&roles))
            .merge(operations)
            .merge(self.dead_letters(&roles))
            .fallback(problem::no_route)
            .method_not_allowed_fallback(problem::no_method)
    }

    /// What `leveret dlq` asks for: an embedded broker's file belongs to this process. No web page of somebody else may discard them.
    fn dead_letters(&self, roles: &[Role]) -> Router {
        let names = roles.iter().flat_map(|role| role.queues());
        let queues = DeadLetterQueues {
            names: names.map(|&name| name.into()).collect(),
            prefix: None,
        };
        let routes = dead_letters(self.broker.clone(), queues);
        guarded(routes, Guard::default(), |_, _| Some(Scope::Admin))
    }

    /// Serves its routes until `stopped` turns true, or a service cannot go on.
    pub(crate) async fn serve(
        mut self,
        listener: TcpListener,
        stopped: watch::Receiver<bool>,
    ) -> anyhow::Result<()> {
        let router = self.router();
        let serving = tokio::spawn(leveret::http::serve(listener, router, stopped.clone()));
        let mut asked = stopped;
        let ended = tokio::select! {
            _ = asked.wait_for(|stop| *stop) => Ok(()),
            Some(ended) = self.running.join_next() => match ended {
                Ok(Ok(())) => Err(anyhow::anyhow!("a service ended by itself")),
                Ok(Err(error)) => Err(error),
                Err(error) => Err(error.into()),
            },
        };
        if ended.is_err() {
            serving.abort();
            self.stop().await;
            return ended;
        }
        serving.await??;
        self.stop().await;
        Ok(())
    }

    /// Drains and closes.
    pub(crate) async fn stop(mut self) {
        self.stop.send_replace(true);
        while self.running.join_next().await.is_some() {}
        self.broker.close().await;
        for (_, service) in &self.services {
            service.documents().close().await;
        }
    }
}

/// The documents of a service, once the database is there.
pub(crate) async fn open(
    name: &str,
    kinds: &[Kind],
    store: &Store,
) -> anyhow::Result<Arc<dyn Documents>> {
    let url = match store {
        Store::Url(url) => url.clone(),
        Store::Files(data) => {
            format!("sqlite:{}", data.join(format!("{name}.db")).display())
        }
    };
    loop {
        match documents::connect(&url, name, kinds).await {
            Ok(documents) => return Ok(documents),
            Err(error) if error.is_retryable() => {
                tracing::warn!(service = name, %error, "the database is not there yet; trying again");
                tokio::time::sleep(PAUSE).await;
            }
            Err(error) => {
                return Err(error)
                    .with_context(|| format!("cannot use the database of the {name} service"));
            }
        }
    }
}

fn service(
    role: Role,
    documents: Arc<dyn Documents>,
    broker: &Arc<dyn Broker>,
    places: &Places,
    work: &Work,
) -> anyhow::Result<Service> {
    let broker = broker.clone();
    Ok(match role {
        Role::Order => order::service(documents, broker, work),
        Role::Inventory => inventory::service(documents, broker, work),
        Role::Payment => {
            let gateway = payment::Gateway::new(&places.gateway, work.attempts_max())?;
            payment::service(documents, broker, work, gateway, &places.currency)
        }
    })
}
