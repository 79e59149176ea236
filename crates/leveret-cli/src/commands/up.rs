//! `leveret up`, `leveret serve`, `leveret worker`: the long-running processes. They differ in their roles only.

use std::time::Duration;

use anyhow::Context;
use leveret::{
    http::Guard,
    redact_url,
    runtime::{Engine, Roles},
};
use tokio::{net::TcpListener, sync::watch};

use crate::{
    api::{self, Api},
    engine,
    exit::Exit,
    output,
    settings::Settings,
    shutdown,
};

/// What a process does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// API, worker, timers, reconciler.
    Everything,
    /// API, timers, reconciler.
    Server,
    /// Worker.
    Worker,
}

impl Role {
    fn roles(self, settings: &Settings) -> Roles {
        let worker = (self != Role::Server).then(|| settings.worker());
        let keeps_time = self != Role::Worker;
        Roles {
            worker,
            timers: keeps_time,
            reconciler: keeps_time,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Role::Everything => "leveret",
            Role::Server => "leveret server",
            Role::Worker => "leveret worker",
        }
    }
}

/// Runs until a signal asks it to stop, then drains.
pub(crate) async fn up(settings: &Settings, role: Role) -> anyhow::Result<Exit> {
    let mut stopped = shutdown::on_signal()?;
    let listener = match (role, &settings.listen) {
        (Role::Worker, None) => None,
        _ => Some(api::bind(settings.listen()).await?),
    };
    let guard = settings.guard()?;
    if let Some(listener) = listener.as_ref().filter(|_| role != Role::Worker) {
        api::refuse_open(listener, &guard, settings.insecure.unwrap_or(false))?;
    }
    // Store and broker may take long to say anything.
    let engine = tokio::select! {
        biased;
        () = shutdown::asked(&mut stopped) => return Ok(Exit::Ok),
        engine = engine::open(settings) => engine?,
    };
    if let Some(warning) = alone(role, &settings.store(), &settings.broker()?) {
        tracing::warn!("{warning}");
    }
    let served = serve(&engine, role, settings, listener, guard, stopped).await;
    engine.close().await;
    served?;
    tracing::info!("stopped");
    Ok(Exit::Ok)
}

/// What to say to a process with a part of the roles whose file keeps those with the others away.
fn alone(role: Role, store: &str, broker: &str) -> Option<String> {
    let (other, so) = match role {
        Role::Everything => return None,
        Role::Server => ("worker", "no run goes on here"),
        Role::Worker => ("server", "nothing starts runs here, and no timer fires"),
    };
    let is_file = store.starts_with("sqlite:") || broker.starts_with("embedded:");
    is_file.then(|| {
        format!(
            "a SQLite file belongs to one process: no {other} can join this one, and {so}; use `leveret up`, or --store postgres://… \
             with --broker amqp://…"
        )
    })
}

async fn serve(
    engine: &Engine,
    role: Role,
    settings: &Settings,
    listener: Option<TcpListener>,
    guard: Guard,
    mut stopped: watch::Receiver<bool>,
) -> anyhow::Result<()> {
    let roles = role.roles(settings);
    let works = roles.worker.is_some();
    let start = |listener| match role {
        Role::Worker => {
            Api::start_operations(listener, engine.clone(), guard.clone(), stopped.clone())
        }
        Role::Everything | Role::Server => Api::start(
            listener,
            engine.clone(),
            works,
            guard.clone(),
            settings.nodes.keys().cloned().collect(),
            stopped.clone(),
        ),
    };
    let api = listener.map(start).transpose()?;
    // A server has nothing that would keep it: it waits for the signal like the others.
    let serving = async {
        let served = engine
            .serve(roles, stopped.clone())
            .await
            .context("cannot work on the queue of jobs");
        if served.is_ok() {
            shutdown::asked(&mut stopped).await;
        }
        served
    };
    tokio::pin!(serving);
    let ended_early = tokio::select! {
        served = &mut serving => Some(served),
        () = ready(engine, works) => None,
    };
    let served = if let Some(served) = ended_early {
        served
    } else {
        output::line(ready_line(role, settings, api.as_ref())?)?;
        serving.await
    };
    if let Some(api) = api {
        api.stopped().await;
    }
    served
}

fn ready_line(role: Role, settings: &Settings, api: Option<&Api>) -> anyhow::Result<String> {
    let at = api.map_or_else(String::new, |api| format!(" at http://{}", api.address));
    let (store, broker) = (
        redact_url(&settings.store()),
        redact_url(&settings.broker()?),
    );
    Ok(format!(
        "{} is ready{at} (store {store}, broker {broker})",
        role.name()
    ))
}

/// How often readiness is looked at: there is no event for it.
const READY_POLL: Duration = Duration::from_millis(2);

/// Resolves when everything that the process needs is there.
async fn ready(engine: &Engine, works: bool) {
    while !engine.not_ready(works).await.is_empty() {
        tokio::time::sleep(READY_POLL).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_on_a_file_is_warned() {
        let check = |role, store: &str, broker: &str, is_alone: bool| {
            let warning = alone(role, store, broker);
            assert_eq!(warning.is_some(), is_alone, "{role:?} {store} {broker}");
        };
        check(Role::Everything, "sqlite:a.db", "embedded:", false);
        check(Role::Server, "sqlite:a.db", "embedded:", true);
        check(Role::Worker, "sqlite:a.db", "amqp://h", true);
        check(Role::Worker, "postgres://h/d", "embedded:b.db", true);
        check(Role::Worker, "postgres://h/d", "amqp://h", false);
    }
}
