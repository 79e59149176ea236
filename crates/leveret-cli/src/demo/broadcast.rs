//! `leveret demo broadcast`: three nodes under load, one stopped and back, a fourth added; in the end all contents are equal.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::Context;
use leveret::{
    broadcast::{
        heart::{Ack, Heart, Verified, WriteRequest},
        wire::Names,
    },
    broker::memory::MemoryBroker,
    core::broadcast::{Outcome, Statement, Value},
};
use serde::Serialize;
use tokio::task::JoinSet;

use crate::directory::PrivateDirectory;
use crate::{
    broadcast::embedded::Cluster,
    exit::Exit,
    output::{self, Output, Table},
};

/// Clients that write at the same time.
const CLIENTS: u64 = 8;
/// How many writes are acknowledged before the next thing happens.
const STAGE: u64 = 600;
/// How long nodes may take to apply the last write.
const PATIENCE: Duration = Duration::from_secs(20);

const TABLES: [&str; 2] = [
    "CREATE TABLE accounts (id INTEGER PRIMARY KEY, balance INTEGER NOT NULL CHECK (balance >= 0), changed TEXT NOT NULL DEFAULT CURRENT_TIMESTAMP)",
    "CREATE TABLE transfers (id INTEGER PRIMARY KEY, source INTEGER NOT NULL, target INTEGER NOT NULL, amount INTEGER NOT NULL, luck INTEGER NOT NULL DEFAULT (random()))",
];

#[derive(Debug, Serialize)]
struct Told {
    writes: u64,
    refused_by_rule: u64,
    elapsed_ms: u64,
    verified: Verified,
}

/// Runs it.
pub(crate) async fn demo(output: Output) -> anyhow::Result<Exit> {
    let directory = PrivateDirectory::new()?;
    let started = Instant::now();
    let broker = Arc::new(MemoryBroker::new());
    let mut cluster = Cluster::start(directory.path(), broker, Names::default())?;
    let say = |text: &str| {
        if output.json {
            Ok(())
        } else {
            output::line(text)
        }
    };
    for node_id in ["1", "2", "3"] {
        cluster.start_node(node_id).await?;
    }
    say("three nodes are live; eight clients transfer money between accounts")?;
    let load = Load::start(cluster.heart.clone()).await?;
    load.until(STAGE).await?;
    cluster.stop_node("2").await?;
    say("node 2 is stopped; the others are a quorum, and the writes go on")?;
    load.until(2 * STAGE).await?;
    cluster.start_node("2").await?;
    say("node 2 is back, with what it missed")?;
    cluster.start_node("4").await?;
    say("node 4 is new, under load")?;
    load.until(3 * STAGE).await?;
    let (writes, refused_by_rule) = load.stop().await?;
    let last = cluster.heart.status().await.last_seq;
    cluster.until_applied(last, PATIENCE).await?;
    let verified = cluster.heart.verify().await?;
    let told = Told {
        writes,
        refused_by_rule,
        elapsed_ms: started.elapsed().as_millis() as u64,
        verified,
    };
    tell(&told, &cluster, output)?;
    cluster.stop().await?;
    Ok(Exit::ok_if(told.verified.equal))
}

fn tell(told: &Told, cluster: &Cluster, output: Output) -> anyhow::Result<()> {
    if output.json {
        return output::json(told);
    }
    let mut table = Table::new(["node", "applied", "state", "contents", "equal"]).number(1);
    for node in &told.verified.nodes {
        let running = cluster
            .nodes()
            .find(|(node_id, _)| *node_id == node.node_id);
        let status = running.map(|(_, node)| node.status());
        table.row([
            node.node_id.clone(),
            status
                .as_ref()
                .map_or_else(String::new, |status| status.position.seq.to_string()),
            status.map_or_else(String::new, |status| status.state.as_str().to_owned()),
            node.digest
                .as_deref()
                .map_or_else(String::new, |digest| digest.chars().take(16).collect()),
            if node.diverged || node.digest.is_none() {
                "no"
            } else {
                "yes"
            }
            .to_owned(),
        ]);
    }
    table.print()?;
    let equal = if told.verified.equal {
        "all contents are equal"
    } else {
        "THE CONTENTS DIFFER"
    };
    output::line(format!(
        "{} writes acknowledged by a quorum, {} of them refused by the table's CHECK on every node, in {}: {equal}",
        told.writes,
        told.refused_by_rule,
        output::duration(told.elapsed_ms),
    ))?;
    Ok(())
}

/// Clients that write until they are stopped.
struct Load {
    counts: Arc<Counts>,
    clients: JoinSet<anyhow::Result<()>>,
}

#[derive(Default)]
struct Counts {
    acknowledged: AtomicU64,
    refused: AtomicU64,
    stop: AtomicBool,
}

impl Load {
    async fn start(heart: Heart) -> anyhow::Result<Load> {
        for table in TABLES {
            write(&heart, vec![statement(table, &[])]).await?;
        }
        let accounts = (0..50)
            .map(|id| statement("INSERT INTO accounts (id, balance) VALUES (?, 1000)", &[id]));
        write(&heart, accounts.collect()).await?;
        let counts = Arc::new(Counts::default());
        let mut clients = JoinSet::new();
        for client in 0..CLIENTS {
            clients.spawn(client_writes(heart.clone(), client, counts.clone()));
        }
        Ok(Load { counts, clients })
    }

    /// Waits until so many writes are acknowledged.
    async fn until(&self, writes: u64) -> anyhow::Result<()> {
        let patience = Instant::now() + PATIENCE;
        while self.counts.acknowledged.load(Ordering::Relaxed) < writes {
            anyhow::ensure!(Instant::now() < patience, "the writes do not go on");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        Ok(())
    }

    async fn stop(mut self) -> anyhow::Result<(u64, u64)> {
        self.counts.stop.store(true, Ordering::Relaxed);
        while let Some(ended) = self.clients.join_next().await {
            ended.context("a client panicked")??;
        }
        let count = |count: &AtomicU64| count.load(Ordering::Relaxed);
        Ok((
            count(&self.counts.acknowledged),
            count(&self.counts.refused),
        ))
    }
}

async fn client_writes(heart: Heart, client: u64, counts: Arc<Counts>) -> anyhow::Result<()> {
    let mut random = fastrand::Rng::with_seed(client);
    while !counts.stop.load(Ordering::Relaxed) {
        let (source, target) = (random.i64(0..50), random.i64(0..50));
        let amount = random.i64(1..400);
        let outcome = write(&heart, transfer(source, target, amount)).await?;
        counts.acknowledged.fetch_add(1, Ordering::Relaxed);
        if matches!(outcome, Some(Outcome::Failed(_))) {
            counts.refused.fetch_add(1, Ordering::Relaxed);
        }
    }
    Ok(())
}

/// Happens as a whole or, where the source has too little, not at all.
fn transfer(source: i64, target: i64, amount: i64) -> Vec<Statement> {
    vec![
        statement(
            "UPDATE accounts SET balance = balance - ?2, changed = CURRENT_TIMESTAMP WHERE id = ?1",
            &[source, amount],
        ),
        statement(
            "UPDATE accounts SET balance = balance + ?2, changed = CURRENT_TIMESTAMP WHERE id = ?1",
            &[target, amount],
        ),
        statement(
            "INSERT INTO transfers (source, target, amount) VALUES (?, ?, ?)",
            &[source, target, amount],
        ),
    ]
}

fn statement(sql: &str, args: &[i64]) -> Statement {
    Statement {
        sql: sql.to_owned(),
        args: args.iter().map(|arg| Value::Integer(*arg)).collect(),
    }
}

async fn write(heart: &Heart, statements: Vec<Statement>) -> anyhow::Result<Option<Outcome>> {
    let request = WriteRequest {
        statements,
        ack: Ack::Quorum,
        timeout: PATIENCE,
        key: None,
    };
    Ok(heart.write(request).await?.outcome)
}
