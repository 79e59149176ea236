//! `leveret bench broadcast`: writes through heart, broker and nodes, beside the same statements in bare files.
//!
//! A write counts once, when the last of the nodes has applied it; that all of them have all rows is looked at in the end. Bare, one thread
//! writes the same rows into a log and into as many files, one after the other, 64 a commit. Nodes take what has arrived in one transaction, at
//! the same time: under load these are larger, so that there may be fewer fsyncs a write than bare.

use std::{
    fs::File,
    io::Write as _,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use anyhow::Context;
use leveret::{
    broadcast::{
        Query, ReadLimits,
        heart::{Ack, Heart, WriteRequest},
        wire::Names,
    },
    broker::{Broker, ConsumeOptions, Message, Publication, Queue, Topology, memory::MemoryBroker},
    core::broadcast::{Statement, Value},
    redact_url,
};
use rusqlite::{Connection, params};
use serde::Serialize;
use tokio::task::JoinSet;

use crate::{
    broadcast::{args::BroadcastArgs, embedded::Cluster, process::open_broker},
    directory::PrivateDirectory,
    exit::Exit,
    output::{self, Output, Table},
    settings::Settings,
};

/// Writes in a commit of the bare files.
const BARE_BATCH: usize = 64;
/// Writes of the one client that waits for a quorum, after a tenth as many as a warm-up.
const QUORUM_WRITES: u32 = 500;
/// Deliveries there and back.
const DELIVERIES: u32 = 500;
/// Times that a file is synchronised.
const SYNCS: u32 = 200;
/// How long nodes may take to apply the last write.
const PATIENCE: Duration = Duration::from_secs(120);

const TABLE: &str =
    "CREATE TABLE bench (id INTEGER PRIMARY KEY, client INTEGER NOT NULL, text TEXT NOT NULL)";
const INSERT: &str = "INSERT INTO bench (client, text) VALUES (?, ?)";

/// What was measured, and with what.
#[derive(Debug, Serialize)]
struct Report {
    nodes: u16,
    writes: u32,
    clients: u32,
    broker: String,
    /// Writes a second of all clients at level `accepted`, until every node has applied the last one. A write counts once, not once a node.
    applied_per_s: f64,
    /// Writes in a transaction of a node meanwhile, on average.
    applied_per_commit: f64,
    /// The same statements into as many bare SQLite files and a log, one after the other, 64 a commit. A write counts once, not once a file.
    bare_per_s: f64,
    /// One client at level `quorum`.
    quorum_p50_ms: f64,
    /// A message through the broker to another consumer, and its answer.
    delivery_p50_ms: f64,
    /// Writing 4 KiB and synchronising them.
    fdatasync_p50_ms: f64,
}

/// Measures.
pub(crate) async fn bench(
    args: &BroadcastArgs,
    settings: &Settings,
    output: Output,
) -> anyhow::Result<Exit> {
    let report = measure(args, settings).await?;
    if output.json {
        output::json(&report)?;
        return Ok(Exit::Ok);
    }
    let mut table = Table::new(["figure", "value"]).number(1);
    for (name, value) in [
        ("applied/s", format!("{:.0}", report.applied_per_s)),
        (
            "applied/commit",
            format!("{:.0}", report.applied_per_commit),
        ),
        ("bare/s", format!("{:.0}", report.bare_per_s)),
        ("quorum p50", format!("{:.3} ms", report.quorum_p50_ms)),
        ("delivery p50", format!("{:.3} ms", report.delivery_p50_ms)),
        (
            "fdatasync p50",
            format!("{:.3} ms", report.fdatasync_p50_ms),
        ),
    ] {
        table.row([name.to_owned(), value]);
    }
    table.print()?;
    output::line(format!(
        "{} writes of {} clients, each applied by {} nodes and counted once, on {}; bare: into {} files, {BARE_BATCH} a commit",
        report.writes, report.clients, report.nodes, report.broker, report.nodes
    ))?;
    Ok(Exit::Ok)
}

async fn measure(args: &BroadcastArgs, settings: &Settings) -> anyhow::Result<Report> {
    let directory = PrivateDirectory::new()?;
    let prefix = format!("leveret-bench-{}", std::process::id());
    let names = Names {
        exchange: format!("{prefix}-fanout").into(),
        queue_name: prefix.as_str().into(),
    };
    let (broker, shown): (Arc<dyn Broker>, String) = match &settings.broker {
        Some(url) => (open_broker(url).await?, redact_url(url)),
        None => (
            Arc::new(MemoryBroker::new()),
            "a broker in memory".to_owned(),
        ),
    };
    let delivery_p50_ms = deliveries(&broker, &prefix).await?;
    let mut cluster = Cluster::start(directory.path(), broker.clone(), names.clone())?;
    for node in 1..=args.nodes {
        cluster.start_node(&node.to_string()).await?;
    }
    let measured = through(&cluster, args).await;
    let queues = (1..=args.nodes).map(|node| names.node_queue(&node.to_string()));
    let queues: Vec<_> = queues.chain([names.heart_queue()]).collect();
    cluster.stop().await?;
    for queue in queues {
        broker.delete_queue(&queue).await?;
        broker.delete_queue(&format!("{queue}.dlq")).await?;
    }
    broker.delete_exchange(&names.exchange).await?;
    broker.close().await;
    let through = measured?;
    let (path, writes, nodes) = (directory.path().to_owned(), args.writes, args.nodes);
    let bare = tokio::task::spawn_blocking(move || -> anyhow::Result<_> {
        Ok((bare(&path, writes, nodes)?, syncs(&path)?))
    });
    let (bare_per_s, fdatasync_p50_ms) = bare.await.context("the bare files panicked")??;
    Ok(Report {
        nodes: args.nodes,
        writes: args.writes,
        clients: args.clients,
        broker: shown,
        applied_per_s: through.applied_per_s,
        applied_per_commit: through.applied_per_commit,
        bare_per_s,
        quorum_p50_ms: through.quorum_p50_ms,
        delivery_p50_ms,
        fdatasync_p50_ms,
    })
}

/// What was measured of the cluster.
struct Through {
    applied_per_s: f64,
    applied_per_commit: f64,
    quorum_p50_ms: f64,
}

async fn through(cluster: &Cluster, args: &BroadcastArgs) -> anyhow::Result<Through> {
    let heart = &cluster.heart;
    write(heart, TABLE, Vec::new(), Ack::All).await?;
    accepted(cluster, args.clients, args.writes / 10).await?;
    let (applied, commits) = applied_by_all(cluster);
    let started = Instant::now();
    accepted(cluster, args.clients, args.writes).await?;
    let applied_per_s = f64::from(args.writes) / started.elapsed().as_secs_f64();
    let (applied_since, commits_since) = applied_by_all(cluster);
    let applied_per_commit =
        (applied_since - applied) as f64 / (commits_since - commits).max(1) as f64;
    check_rows(cluster, args.writes / 10 + args.writes).await?;
    let mut times = Vec::new();
    for at in 0..QUORUM_WRITES + QUORUM_WRITES / 10 {
        let started = Instant::now();
        write(heart, INSERT, row(0, at), Ack::Quorum).await?;
        times.push(started.elapsed());
    }
    times.drain(..QUORUM_WRITES as usize / 10);
    Ok(Through {
        applied_per_s,
        applied_per_commit,
        quorum_p50_ms: median_ms(times),
    })
}

/// How many writes the nodes have applied together, and in how many transactions.
fn applied_by_all(cluster: &Cluster) -> (u64, u64) {
    let nodes = cluster.nodes().map(|(_, node)| node.metrics());
    nodes.fold((0, 0), |(applied, commits), metrics| {
        (
            applied + metrics.applied.get(),
            commits + metrics.batch_writes.count(),
        )
    })
}

/// Every node has so many rows, or nothing was measured.
async fn check_rows(cluster: &Cluster, rows: u32) -> anyhow::Result<()> {
    for (node_id, node) in cluster.nodes() {
        let query = Query {
            statement: Statement {
                sql: "SELECT count(*) FROM bench".to_owned(),
                args: Vec::new(),
            },
            min_seq: 0,
            limits: ReadLimits::default(),
        };
        let found = node.link().query(query).await??.rows;
        anyhow::ensure!(
            found == [[Value::Integer(rows.into())]],
            "node {node_id} has {found:?} rows, not {rows}"
        );
    }
    Ok(())
}

/// So many writes of so many clients, until every node has applied them.
async fn accepted(cluster: &Cluster, clients: u32, writes: u32) -> anyhow::Result<()> {
    let next = Arc::new(AtomicU32::new(0));
    let mut all = JoinSet::new();
    for client in 0..clients {
        let (heart, next) = (cluster.heart.clone(), next.clone());
        all.spawn(async move {
            loop {
                let at = next.fetch_add(1, Relaxed);
                if at >= writes {
                    return anyhow::Ok(());
                }
                write(&heart, INSERT, row(client, at), Ack::Accepted).await?;
            }
        });
    }
    while let Some(ended) = all.join_next().await {
        ended.context("a client panicked")??;
    }
    let last = cluster.heart.status().await.last_seq;
    cluster.until_applied(last, PATIENCE).await
}

fn text(at: u32) -> String {
    format!("{at:0>100}")
}

fn row(client: u32, at: u32) -> Vec<Value> {
    vec![Value::Integer(client.into()), Value::Text(text(at))]
}

async fn write(heart: &Heart, sql: &str, args: Vec<Value>, ack: Ack) -> anyhow::Result<()> {
    let sql = sql.to_owned();
    let request = WriteRequest {
        statements: vec![Statement { sql, args }],
        ack,
        timeout: PATIENCE,
        key: None,
    };
    heart.write(request).await?;
    Ok(())
}

/// Writes a second of one thread into as many files as there are nodes, and a log.
fn bare(directory: &Path, writes: u32, nodes: u16) -> anyhow::Result<f64> {
    let open = |name: String| -> anyhow::Result<Connection> {
        let connection = Connection::open(directory.join(name))?;
        connection.pragma_update(None, "journal_mode", "wal")?;
        connection.pragma_update(None, "synchronous", "full")?;
        Ok(connection)
    };
    let mut log = open("bare-log.db".to_owned())?;
    log.execute_batch("CREATE TABLE log (seq INTEGER PRIMARY KEY, entry TEXT NOT NULL)")?;
    let mut files = Vec::new();
    for node in 0..nodes {
        let file = open(format!("bare-{node}.db"))?;
        file.execute_batch(TABLE)?;
        files.push(file);
    }
    let numbers: Vec<u32> = (0..writes).collect();
    let started = Instant::now();
    for batch in numbers.chunks(BARE_BATCH) {
        let commit = log.transaction()?;
        for at in batch {
            let entry = serde_json::json!({ "sql": INSERT, "args": [0, text(*at)] });
            let mut insert = commit.prepare_cached("INSERT INTO log (entry) VALUES (?)")?;
            insert.execute(params![entry.to_string()])?;
        }
        commit.commit()?;
        for file in &mut files {
            let commit = file.transaction()?;
            for at in batch {
                commit
                    .prepare_cached(INSERT)?
                    .execute(params![0, text(*at)])?;
            }
            commit.commit()?;
        }
    }
    Ok(f64::from(writes) / started.elapsed().as_secs_f64())
}

/// The median of making 4 KiB durable, in milliseconds.
fn syncs(directory: &Path) -> anyhow::Result<f64> {
    let mut file = File::create(directory.join("sync"))?;
    let mut times = Vec::new();
    for _ in 0..SYNCS {
        let started = Instant::now();
        file.write_all(&[7; 4096])?;
        file.sync_data()?;
        times.push(started.elapsed());
    }
    Ok(median_ms(times))
}

/// The median of a message to a consumer and its answer, in milliseconds.
async fn deliveries(broker: &Arc<dyn Broker>, prefix: &str) -> anyhow::Result<f64> {
    let queues = [format!("{prefix}-there"), format!("{prefix}-back")];
    let topology = Topology {
        queues: queues
            .iter()
            .map(|queue| Queue::plain(queue.as_str()))
            .collect(),
        ..Topology::default()
    };
    broker.declare(&topology).await?;
    let mut there = broker
        .consume(ConsumeOptions::queue(queues[0].as_str()))
        .await?;
    let mut back = broker
        .consume(ConsumeOptions::queue(queues[1].as_str()))
        .await?;
    let answering = tokio::spawn({
        let (broker, back) = (broker.clone(), queues[1].clone());
        async move {
            while let Some(delivery) = there.next().await {
                let answer = Publication::to_queue(back.as_str(), delivery.message.clone());
                for result in broker.publish(vec![answer]).await {
                    result?;
                }
                delivery.receipt.ack();
            }
            anyhow::Ok(())
        }
    });
    let mut times = Vec::new();
    for _ in 0..DELIVERIES {
        let started = Instant::now();
        let message = Publication::to_queue(queues[0].as_str(), Message::json("{}"));
        for result in broker.publish(vec![message]).await {
            result?;
        }
        let answer = tokio::time::timeout(PATIENCE, back.next()).await;
        let answer = answer.ok().flatten().context("a message got no answer")?;
        times.push(started.elapsed());
        answer.receipt.ack();
    }
    answering.abort();
    for queue in &queues {
        broker.delete_queue(queue).await?;
    }
    Ok(median_ms(times))
}

fn median_ms(mut times: Vec<Duration>) -> f64 {
    times.sort_unstable();
    let median = times.get(times.len() / 2).copied().unwrap_or_default();
    median.as_secs_f64() * 1000.0
}
