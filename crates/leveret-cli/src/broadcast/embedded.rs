//! A heart and its nodes in this process, over any broker: `leveret heart --embedded`, the demo, the benchmark.

use std::{
    collections::{BTreeMap, HashMap},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::Context;
use leveret::{
    broadcast::{
        LinkError, NodeLink, NodeState, Replica, WriteLog,
        heart::{Heart, HeartOptions, HeartParts},
        log::sqlite::SqliteWriteLog,
        node::{Node, NodeEnd, NodeError, NodeOptions, NodeParts},
        wire::Names,
    },
    broker::Broker,
    runtime::SystemClock,
    sqlite::{Database, DatabaseOptions},
};
use tokio::{sync::watch, task::JoinHandle, time::timeout};

use super::process::{make_directory, open_replica};

/// How long heart and nodes may take until they are live.
const START_TIMEOUT: Duration = Duration::from_secs(30);

type Linked = Arc<Mutex<HashMap<String, Arc<dyn NodeLink>>>>;

/// A cluster in this process.
pub(crate) struct Cluster {
    pub(crate) heart: Heart,
    pub(crate) broker: Arc<dyn Broker>,
    pub(crate) names: Names,
    directory: PathBuf,
    log: Arc<dyn WriteLog>,
    links: Linked,
    nodes: BTreeMap<String, Running>,
    stop: watch::Sender<bool>,
    serving: JoinHandle<anyhow::Result<()>>,
}

struct Running {
    node: Node,
    replica: Arc<dyn Replica>,
    stop: watch::Sender<bool>,
    task: JoinHandle<Result<NodeEnd, NodeError>>,
}

impl Cluster {
    /// A heart with its log in the directory; no nodes yet.
    pub(crate) fn start(
        directory: &Path,
        broker: Arc<dyn Broker>,
        names: Names,
    ) -> anyhow::Result<Cluster> {
        let snapshots = directory.join("heart.snapshots");
        make_directory(&snapshots)?;
        let database = Database::open(DatabaseOptions::new(directory.join("heart.db")))?;
        let log: Arc<dyn WriteLog> = Arc::new(SqliteWriteLog::open(database, &new_cluster_id())?);
        let links = Linked::default();
        let parts = HeartParts {
            log: log.clone(),
            broker: broker.clone(),
            links: Arc::new(linking(links.clone())),
            clock: Arc::new(SystemClock),
        };
        let options = HeartOptions {
            names: names.clone(),
            ..HeartOptions::new("embedded", snapshots)
        };
        let heart = Heart::new(parts, options);
        let (stop, stopped) = watch::channel(false);
        let serving = tokio::spawn({
            let heart = heart.clone();
            async move { heart.serve(stopped).await.context("the heart ended") }
        });
        Ok(Cluster {
            heart,
            broker,
            names,
            directory: directory.to_owned(),
            log,
            links,
            nodes: BTreeMap::new(),
            stop,
            serving,
        })
    }

    /// Starts a node, new or stopped before; returns when it is live.
    pub(crate) async fn start_node(&mut self, node_id: &str) -> anyhow::Result<()> {
        let snapshots = self.directory.join(format!("node-{node_id}.snapshots"));
        make_directory(&snapshots)?;
        let path = self.directory.join(format!("node-{node_id}.db"));
        let replica = open_replica(&format!("sqlite:{}", path.display())).await?;
        let parts = NodeParts {
            replica: replica.clone(),
            broker: self.broker.clone(),
            heart: Arc::new(self.heart.clone()),
            clock: Arc::new(SystemClock),
        };
        let advertise = format!("local:{node_id}");
        let options = NodeOptions {
            names: self.names.clone(),
            advertise: advertise.clone(),
            ..NodeOptions::new(node_id, snapshots)
        };
        let node = Node::open(parts, options).await?;
        self.link(advertise, &node);
        let (stop, stopped) = watch::channel(false);
        let task = tokio::spawn({
            let node = node.clone();
            async move { node.run(stopped).await }
        });
        let mut status = node.watch();
        let live = status.wait_for(|status| status.state == NodeState::Live);
        let is_live = timeout(START_TIMEOUT, live)
            .await
            .is_ok_and(|live| live.is_ok());
        let running = Running {
            node,
            replica,
            stop,
            task,
        };
        self.nodes.insert(node_id.to_owned(), running);
        anyhow::ensure!(
            is_live,
            "node {node_id} is not live after {START_TIMEOUT:?}"
        );
        Ok(())
    }

    /// Lets the heart reach a node at an address.
    fn link(&self, advertise: String, node: &Node) {
        let mut links = self.links.lock().unwrap_or_else(PoisonError::into_inner);
        links.insert(advertise, node.link());
    }

    /// Stops a node; its queue stays.
    pub(crate) async fn stop_node(&mut self, node_id: &str) -> anyhow::Result<()> {
        let running = self.nodes.remove(node_id);
        let running = running.with_context(|| format!("there is no node {node_id}"))?;
        running.stop.send_replace(true);
        running.task.await.context("the node panicked")??;
        running.replica.close().await;
        Ok(())
    }

    /// Its nodes that run.
    pub(crate) fn nodes(&self) -> impl Iterator<Item = (&str, &Node)> {
        self.nodes
            .iter()
            .map(|(node_id, running)| (&**node_id, &running.node))
    }

    /// Waits until every node that runs has applied this write.
    pub(crate) async fn until_applied(&self, seq: u64, patience: Duration) -> anyhow::Result<()> {
        for (node_id, node) in self.nodes() {
            let mut status = node.watch();
            let there = status.wait_for(|status| status.position.seq >= seq);
            let there = timeout(patience, there).await;
            anyhow::ensure!(
                there.is_ok(),
                "node {node_id} has not applied seq {seq} after {patience:?}"
            );
        }
        Ok(())
    }

    /// Stops the nodes, then the heart, and closes their files.
    pub(crate) async fn stop(mut self) -> anyhow::Result<()> {
        let all: Vec<String> = self.nodes.keys().cloned().collect();
        for node_id in all {
            self.stop_node(&node_id).await?;
        }
        self.stop.send_replace(true);
        self.serving.await.context("the heart panicked")??;
        self.log.close().await;
        Ok(())
    }
}

/// How the heart reaches nodes in its process.
fn linking(
    links: Linked,
) -> impl Fn(&str, &str) -> Result<Arc<dyn NodeLink>, LinkError> + Send + Sync + 'static {
    move |advertise, _database_id| {
        let links = links.lock().unwrap_or_else(PoisonError::into_inner);
        let link = links.get(advertise).cloned();
        link.ok_or_else(|| LinkError::Refused {
            detail: format!("there is no node at {advertise} in this process"),
        })
    }
}

/// The id that a log gets when it is made.
pub(super) fn new_cluster_id() -> String {
    format!("{:016x}", fastrand::u64(..))
}
