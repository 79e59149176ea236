//! `leveret heart` and `leveret node`: the long-running processes.

use std::{net::SocketAddr, path::Path, sync::Arc};

use anyhow::Context;
use leveret::{
    broadcast::{
        PostgresReplica, PostgresReplicaOptions, Replica, SqliteReplica, SqliteReplicaOptions,
        heart::{Heart, HeartOptions, HeartParts, router},
        node::{self, Node, NodeEnd, NodeOptions, NodeParts},
        wire::{HttpHeart, HttpNode, Names},
    },
    broker::{Broker, connect_late, memory::MemoryBroker},
    http::serve,
    redact_url,
    runtime::SystemClock,
};
use tokio::{sync::watch, task::JoinHandle};

use super::{
    args::{HeartArgs, NodeArgs},
    config::{Access, HEART_LISTEN, HeartConfig, NodeConfig, is_postgres, sqlite_path},
    embedded::Cluster,
    file::SettingsFile,
    log,
};
use crate::{
    api,
    exit::{BadInput, Exit},
    output,
    settings::Settings,
    shutdown,
};

/// Runs a node until a signal asks it to stop or it is removed from its cluster.
pub(crate) async fn node(args: &NodeArgs, settings: &Settings) -> anyhow::Result<Exit> {
    let config = NodeConfig::load(args, settings)?;
    let stopped = shutdown::on_signal()?;
    let listener = api::bind(&config.listen).await?;
    let address = listener
        .local_addr()
        .context("the listener has no address")?;
    let access = &config.access;
    api::refuse_open(&listener, &access.guard, settings.insecure == Some(true))?;
    make_directory(&config.directory)?;
    let replica = open_replica(&config.database).await?;
    let broker = open_broker(&config.broker).await?;
    let heart = HttpHeart::new(&config.hearts, access.bearer())
        .map_err(|error| BadInput::new(error.to_string()))?;
    let parts = NodeParts {
        replica: replica.clone(),
        broker: broker.clone(),
        heart: Arc::new(heart),
        clock: Arc::new(SystemClock),
    };
    let options = NodeOptions {
        names: config.names.clone(),
        advertise: advertised(config.advertise.as_deref(), address)?,
        seed: config.seed,
        ..NodeOptions::new(config.node_id.as_str(), &config.directory)
    };
    let node = Node::open(parts, options).await?;
    let routes = node::router(&node, access.guard.clone());
    let serving = tokio::spawn(serve(listener, routes, stopped.clone()));
    output::line(format!(
        "leveret node {} is at http://{address} (database {}, broker {})",
        config.node_id,
        redact_url(&config.database),
        redact_url(&config.broker),
    ))?;
    let ended = node.run(stopped.clone()).await;
    finish(serving, &stopped).await?;
    broker.close().await;
    replica.close().await;
    match ended? {
        NodeEnd::Stopped => tracing::info!("stopped"),
        NodeEnd::Removed => output::line(format!(
            "node {} was removed from the cluster",
            config.node_id
        ))?,
    }
    Ok(Exit::Ok)
}

/// Runs a heart, alone or with all its cluster, until a signal asks it to stop.
pub(crate) async fn heart(args: &HeartArgs, settings: &Settings) -> anyhow::Result<Exit> {
    if args.embedded {
        return embedded(args, settings).await;
    }
    let config = HeartConfig::load(args, settings)?;
    let stopped = shutdown::on_signal()?;
    let listener = api::bind(&config.listen).await?;
    let address = listener
        .local_addr()
        .context("the listener has no address")?;
    let access = &config.access;
    api::refuse_open(&listener, &access.guard, settings.insecure == Some(true))?;
    make_directory(&config.directory)?;
    let Some(log) = log::open(&config.write_log, &stopped).await? else {
        return Ok(Exit::Ok);
    };
    let broker = open_broker(&config.broker).await?;
    let bearer = access.bearer();
    let parts = HeartParts {
        log: log.clone(),
        broker: broker.clone(),
        links: Arc::new(move |url, database_id| {
            Ok(Arc::new(HttpNode::new(url, database_id, bearer.clone())?) as _)
        }),
        clock: Arc::new(SystemClock),
    };
    let owner = log::owner(&config.write_log, address, &config.directory)?;
    let mut options = HeartOptions {
        names: config.names.clone(),
        ..HeartOptions::new(owner, &config.directory)
    };
    options.log_bytes_max = config.log_bytes_max.unwrap_or(options.log_bytes_max);
    options.queue_messages_max = config
        .queue_messages_max
        .unwrap_or(options.queue_messages_max);
    options.log_age_max = config
        .log_age_max
        .map_or(options.log_age_max, |span| span.0);
    let heart = Heart::new(parts, options);
    let routes = router(&heart, access.guard.clone());
    let serving = tokio::spawn(serve(listener, routes, stopped.clone()));
    output::line(format!(
        "leveret heart is at http://{address} (log {}, broker {})",
        redact_url(&config.write_log),
        redact_url(&config.broker),
    ))?;
    let served = heart.serve(stopped.clone()).await;
    finish(serving, &stopped).await?;
    broker.close().await;
    log.close().await;
    served?;
    tracing::info!("stopped");
    Ok(Exit::Ok)
}

/// The heart, its nodes and a broker in memory: what the broker loses with the process, the log has.
async fn embedded(args: &HeartArgs, settings: &Settings) -> anyhow::Result<Exit> {
    let directory = settings
        .data
        .clone()
        .unwrap_or_else(|| ".leveret/broadcast".into());
    let stopped = shutdown::on_signal()?;
    let listener = api::bind(settings.listen.as_deref().unwrap_or(HEART_LISTEN)).await?;
    let address = listener
        .local_addr()
        .context("the listener has no address")?;
    let access = Access::load(settings, &mut SettingsFile::default())?;
    api::refuse_open(&listener, &access.guard, settings.insecure == Some(true))?;
    make_directory(&directory)?;
    let broker = Arc::new(MemoryBroker::new());
    let mut cluster = Cluster::start(&directory, broker, Names::default())?;
    for node in 1..=args.nodes {
        cluster.start_node(&node.to_string()).await?;
    }
    let routes = router(&cluster.heart, access.guard);
    let serving = tokio::spawn(serve(listener, routes, stopped.clone()));
    output::line(format!(
        "leveret heart with {} nodes is at http://{address} (in {})",
        args.nodes,
        directory.display(),
    ))?;
    shutdown::asked(&mut stopped.clone()).await;
    finish(serving, &stopped).await?;
    cluster.stop().await?;
    tracing::info!("stopped");
    Ok(Exit::Ok)
}

/// Lets requests end that had begun. A process that ends by itself answers nothing more.
async fn finish(
    serving: JoinHandle<std::io::Result<()>>,
    stopped: &watch::Receiver<bool>,
) -> anyhow::Result<()> {
    if *stopped.borrow() {
        serving
            .await
            .context("the API panicked")?
            .context("the API failed")?;
    } else {
        serving.abort();
    }
    Ok(())
}

/// Where others reach what listens here.
fn advertised(given: Option<&str>, address: SocketAddr) -> anyhow::Result<String> {
    match given {
        Some(url) => Ok(url.to_owned()),
        None if address.ip().is_unspecified() => {
            let message = format!(
                "listening at {address}, a node must be told where others reach it: give --advertise http://HOST:{}",
                address.port()
            );
            Err(BadInput::new(message).into())
        }
        None => Ok(format!("http://{address}")),
    }
}

pub(super) fn make_directory(directory: &Path) -> anyhow::Result<()> {
    let made = std::fs::create_dir_all(directory);
    made.with_context(|| format!("cannot make the directory {}", directory.display()))
}

/// The broker. RabbitMQ may be away: it is connected when it comes.
pub(crate) async fn open_broker(url: &str) -> anyhow::Result<Arc<dyn Broker>> {
    let opened = connect_late(url).await;
    opened.with_context(|| format!("broker {}", redact_url(url)))
}

pub(super) async fn open_replica(url: &str) -> anyhow::Result<Arc<dyn Replica>> {
    let shown = || format!("database {}", redact_url(url));
    if is_postgres(url) {
        let replica = PostgresReplica::connect(PostgresReplicaOptions::new(url)).await;
        return Ok(Arc::new(replica.with_context(shown)?));
    }
    let path = sqlite_path(url)
        .context("a node's database is sqlite:PATH or postgres://…")?
        .to_owned();
    if let Some(parent) = path.parent() {
        make_directory(parent)?;
    }
    let opened = tokio::task::spawn_blocking(move || {
        SqliteReplica::open(&path, &SqliteReplicaOptions::default())
    });
    let opened = opened.await.context("opening the database panicked")?;
    Ok(Arc::new(opened.with_context(shown)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_says_where_it_is() {
        let at = |text: &str| text.parse::<SocketAddr>().unwrap();
        assert_eq!(
            advertised(None, at("127.0.0.1:7")).unwrap(),
            "http://127.0.0.1:7"
        );
        assert_eq!(
            advertised(Some("http://h"), at("0.0.0.0:7")).unwrap(),
            "http://h"
        );
        assert!(advertised(None, at("0.0.0.0:7")).is_err());
    }
}
