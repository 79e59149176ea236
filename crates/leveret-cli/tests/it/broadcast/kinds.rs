//! Nodes of two kinds in one cluster: SQLite files and a PostgreSQL database, under portable writes.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use reqwest::{Client, StatusCode};
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio_postgres::NoTls;

use super::{
    load::post,
    rig::{Cluster, LOG, PATIENCE, POLL, as_strs, client},
};
use crate::{kill::servers::Place, support::Server};

/// Clients at the same time.
const CLIENTS: i64 = 4;
/// The rows that all of them change.
const CELLS: i64 = 8;
/// Every so many writes of a client is a mistake.
const MISTAKE_EVERY: i64 = 5;

/// A heart, SQLite nodes 1 and 2, and the PostgreSQL node 3.
async fn start(place: &Place) -> Cluster {
    let mut cluster = Cluster::new(place.amqp.clone());
    cluster.start_heart();
    cluster.start_node(1);
    cluster.start_node(2);
    start_postgres(&mut cluster, place);
    cluster.until_settled(3).await;
    let http = client();
    let cells: Vec<Value> = (0..CELLS)
        .map(|id| json!({ "sql": "INSERT INTO cells (id, value) VALUES (?, 1)", "args": [id] }))
        .collect();
    for (key, body) in [
        (
            "cells",
            json!({ "sql": "CREATE TABLE cells (id INTEGER PRIMARY KEY, value INTEGER NOT NULL)" }),
        ),
        (
            "journal",
            json!({ "sql": "CREATE TABLE Journal (id INTEGER PRIMARY KEY, key TEXT NOT NULL UNIQUE, share REAL, raw BLOB, at TEXT NOT NULL DEFAULT CURRENT_TIMESTAMP)" }),
        ),
        ("rows", json!({ "statements": cells })),
    ] {
        let mistake = write(&http, &cluster.heart_url, key, &body).await;
        assert_eq!(mistake, None, "{body}");
    }
    cluster
}

fn start_postgres(cluster: &mut Cluster, place: &Place) {
    let args = cluster.node_args_on(3, &place.postgres);
    cluster.add(3, Server::start(&as_strs(&args)));
}

/// Writes, again with the same key until that is answered; the mistake, if it was one.
async fn write(http: &Client, heart: &str, key: &str, body: &Value) -> Option<Value> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let answered = post(http, heart, "write", Some(key), body).await;
        if let Some((StatusCode::OK, answer)) = &answered {
            return answer.get("error").cloned();
        }
        let passes = answered
            .as_ref()
            .is_none_or(|(status, _)| status.is_server_error());
        assert!(passes, "{body}: {answered:?}");
        assert!(Instant::now() < deadline, "not acknowledged: {answered:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Clients at work: statements that must not change places, a row with values of all types, and now and then a mistake.
struct Work {
    done: Arc<AtomicUsize>,
    clients: JoinSet<()>,
}

impl Work {
    fn start(cluster: &Cluster, writes_each: i64) -> Work {
        let (http, done) = (client(), Arc::new(AtomicUsize::new(0)));
        let mut clients = JoinSet::new();
        for client in 0..CLIENTS {
            let (http, heart, done) = (http.clone(), cluster.heart_url.clone(), done.clone());
            clients.spawn(async move {
                for at in 0..writes_each {
                    let is_mistake = at % MISTAKE_EVERY == MISTAKE_EVERY - 1;
                    // The id of a mistake is that of the row before.
                    let id = client * 100_000 + if is_mistake { at - 1 } else { at };
                    let key = format!("{client}-{at}");
                    let (cell, share) = ((client + at * 3) % CELLS, at as f64 / 7.0);
                    let body = json!({ "statements": [
                        { "sql": "UPDATE cells SET value = (value * 31 + ?) % 1000003 WHERE id = ?", "args": [at, cell] },
                        { "sql": "INSERT INTO journal (id, key, share, raw) VALUES (?, ?, ?, ?)", "args": [id, key, share, { "$blob": "AP8=" }] },
                    ]});
                    let mistake = write(&http, &heart, &key, &body).await;
                    assert_eq!(mistake.is_some(), is_mistake, "{key}: {mistake:?}");
                    done.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        Work { done, clients }
    }

    async fn until_more(&self, writes: usize) {
        let goal = self.done.load(Ordering::Relaxed) + writes;
        let deadline = Instant::now() + PATIENCE;
        while self.done.load(Ordering::Relaxed) < goal {
            assert!(Instant::now() < deadline, "the writes do not go on");
            tokio::time::sleep(POLL).await;
        }
    }

    async fn finish(mut self) {
        while let Some(ended) = self.clients.join_next().await {
            ended.expect("a client does not panic");
        }
    }
}

async fn database(place: &Place) -> tokio_postgres::Client {
    let (client, connection) = tokio_postgres::connect(&place.postgres, NoTls)
        .await
        .expect("PostgreSQL answers");
    tokio::spawn(connection);
    client
}

/// What `verify` says, once all nodes answer it.
async fn verified(cluster: &Cluster) -> (Option<i32>, Value) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let verified = cluster.operator(&["verify"]);
        let said = verified.json();
        let nodes = said["nodes"].as_array().expect("nodes");
        if nodes.iter().all(|node| node["error"].is_null()) {
            return (verified.code, said);
        }
        assert!(Instant::now() < deadline, "{verified:?}");
        tokio::time::sleep(POLL).await;
    }
}

fn diverged(said: &Value) -> Vec<&str> {
    let nodes = said["nodes"].as_array().expect("nodes").iter();
    let diverged = nodes.filter(|node| node["diverged"] == true);
    diverged
        .filter_map(|node| node["node_id"].as_str())
        .collect()
}

/// The PostgreSQL node is killed in between: nothing is lost or doubled, and all contents are equal. What is changed behind its back is found,
/// and healed by replay.
#[tokio::test(flavor = "multi_thread")]
async fn two_kinds_of_nodes_are_equal() {
    let Some(place) = Place::shared("kinds").await else {
        return;
    };
    let mut cluster = start(&place).await;
    let before = cluster.status().await.expect("a status");
    let random = json!({ "sql": "UPDATE cells SET value = random()" });
    let (status, refused) = post(&client(), &cluster.heart_url, "write", None, &random)
        .await
        .expect("the heart answers");
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY, "{refused}");
    let after = cluster.status().await.expect("a status");
    assert_eq!(after["last_seq"], before["last_seq"], "nothing is logged");
    let work = Work::start(&cluster, 60);
    work.until_more(60).await;
    cluster.kill_node(3);
    work.until_more(40).await;
    start_postgres(&mut cluster, &place);
    work.finish().await;
    cluster.until_settled(3).await;
    let (code, said) = verified(&cluster).await;
    assert_eq!((code, &said["equal"]), (Some(0), &json!(true)), "{said}");
    let digests: BTreeMap<&str, &str> = said["nodes"]
        .as_array()
        .unwrap()
        .iter()
        .map(|node| {
            let [digest, id] = [&node["digest"], &node["node_id"]].map(|text| text.as_str());
            (digest.unwrap(), id.unwrap())
        })
        .collect();
    assert_eq!(digests.len(), 1, "one digest for all: {said}");

    let database = database(&place).await;
    let rows = database
        .query("SELECT id FROM journal ORDER BY id", &[])
        .await;
    let ids: Vec<i64> = rows.unwrap().iter().map(|row| row.get(0)).collect();
    let right = (0..CLIENTS).flat_map(|client| {
        let good = (0..60).filter(|at| at % MISTAKE_EVERY != MISTAKE_EVERY - 1);
        good.map(move |at| client * 100_000 + at)
    });
    assert_eq!(ids, right.collect::<Vec<_>>(), "each write once");

    let meddle = "UPDATE cells SET value = value + 1 WHERE id = 3";
    database.execute(meddle, &[]).await.unwrap();
    let (code, said) = verified(&cluster).await;
    assert_eq!((code, diverged(&said)), (Some(1), vec!["3"]), "{said}");
    cluster.until_state(3, "quarantined").await;
    let rebuilt = cluster.operator(&["rebuild", "3"]);
    assert_eq!(rebuilt.code, Some(0), "{rebuilt:?}");
    let (code, said) = verified(&cluster).await;
    assert_eq!(code, Some(0), "{said}");

    cluster.stop_node(3);
    assert_eq!(cluster.operator(&["remove", "3"]).code, Some(0));
    drop(database);
    cluster.assert_equal().await;
    place.remove().await;
}

/// The node waits for its server, and goes on where it was.
#[tokio::test(flavor = "multi_thread")]
async fn the_server_of_a_node_restarts() {
    let Some((place, servers)) = Place::private("kinds-restart", &["postgres"]).await else {
        return;
    };
    let mut cluster = start(&place).await;
    let work = Work::start(&cluster, 60);
    work.until_more(40).await;
    servers.order("kill", "postgres").await;
    cluster.until_state(3, "faulted").await;
    work.until_more(40).await;
    servers.order("start", "postgres").await;
    work.finish().await;
    cluster.until_settled(3).await;
    let (code, said) = verified(&cluster).await;
    assert_eq!((code, &said["equal"]), (Some(0), &json!(true)), "{said}");
    cluster.stop_node(3);
    assert_eq!(cluster.operator(&["remove", "3"]).code, Some(0));
    cluster.assert_equal().await;
    place.remove().await;
}

/// A node that lacks what the log no more has keeps what it has, says so, and is not rebuilt.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_behind_the_log_keeps_what_it_has() {
    let Some(place) = Place::shared("kinds-behind").await else {
        return;
    };
    let mut cluster = Cluster::new(place.amqp.clone());
    let config = cluster.beside("heart.yaml");
    let text = format!(
        "broker: {}\nexchange: {}\nqueue_name: {}\nwrite_log: sqlite:{}\nlog_bytes_max: 1KiB\n",
        cluster.amqp,
        cluster.exchange(),
        cluster.name,
        cluster.beside("heart.db"),
    );
    std::fs::write(&config, text).unwrap();
    let listen = cluster.heart_url.trim_start_matches("http://").to_owned();
    let args = [
        "heart", "--config", &config, "--listen", &listen, "--log", LOG,
    ];
    cluster.put_heart(Server::start(&args));
    cluster.start_node(1);
    start_postgres(&mut cluster, &place);
    cluster.until_settled(2).await;
    let http = client();
    let url = cluster.heart_url.clone();
    let insert = |id: i64| json!({ "sql": "INSERT INTO t (id, text) VALUES (?, ?)", "args": [id, "x".repeat(100)], "ack": "one" });
    let table =
        json!({ "sql": "CREATE TABLE t (id INTEGER PRIMARY KEY, text TEXT)", "ack": "all" });
    write(&http, &url, "table", &table).await;
    write(&http, &url, "first", &insert(0)).await;
    cluster.until_settled(2).await;
    cluster.stop_node(3);
    let broker = leveret::broker::connect(&cluster.amqp).await.unwrap();
    broker.delete_queue(&cluster.queue(3)).await.unwrap();
    broker.close().await;
    for id in 1..30 {
        write(&http, &url, &id.to_string(), &insert(id)).await;
    }
    cluster
        .until("the log begins later", |status| {
            status["oldest_seq"].as_u64() > Some(20)
        })
        .await;
    start_postgres(&mut cluster, &place);
    cluster.until_state(3, "faulted").await;
    let status = cluster.status().await.expect("a status");
    assert!(status.to_string().contains("replay"), "{status}");
    let refused = cluster.operator(&["rebuild", "3"]);
    assert_ne!(refused.code, Some(0), "{refused:?}");
    let rows = database(&place).await.query("SELECT id FROM t", &[]).await;
    assert_eq!(rows.unwrap().len(), 1, "what it has is kept");
    cluster.stop_node(3);
    assert_eq!(cluster.operator(&["remove", "3"]).code, Some(0));
    cluster.assert_equal().await;
    place.remove().await;
}
