//! A log that is lost, put back from an older copy, or truncated.

use std::path::Path;

use reqwest::StatusCode;
use serde_json::{Value, json};

use super::{
    load::{Load, post, write},
    rig::{Cluster, LOG, client, shared_broker},
};
use crate::support::Server;

/// The files of the heart's log.
const FILES: [&str; 3] = ["heart.db", "heart.db-wal", "heart.db-shm"];

fn insert(key: &str) -> Value {
    json!({
        "sql": "INSERT INTO journal (key, client) VALUES (?, 99)",
        "args": [key],
        "ack": "all",
    })
}

async fn epoch(cluster: &Cluster) -> u64 {
    let status = cluster.status().await.expect("the heart answers");
    status["epoch"].as_u64().expect("a number")
}

/// The heart says what is to be done, an operator does it, and all go on. A node that is started meanwhile waits.
async fn recover(cluster: &mut Cluster, epoch_before: u64) {
    let http = client();
    cluster.kill_node(3);
    cluster.start_heart();
    let (status, body) = loop {
        let refused = post(&http, &cluster.heart_url, "write", None, &insert("refused")).await;
        let (status, body) = refused.expect("the heart answers");
        if body["detail"] != "the heart starts" {
            break (status, body);
        }
    };
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE, "{body}");
    let detail = body["detail"].as_str().unwrap_or_default();
    assert!(detail.contains("leveret cluster recover"), "{body}");
    cluster.start_node(3);
    cluster
        .until("the log is behind", |status| status["state"] == "behind")
        .await;
    let recovered = cluster.operator(&["recover"]);
    assert_eq!(recovered.code, Some(0), "{recovered:?}");
    let epoch = recovered.json()["epoch"].as_u64().expect("a number");
    assert!(
        epoch > epoch_before,
        "{recovered:?}, before: {epoch_before}"
    );
    cluster.until_settled(3).await;
    write(&http, &cluster.heart_url, "after", &insert("after")).await;
    let again = cluster.operator(&["recover"]);
    assert_eq!(again.code, Some(1), "nothing is left to recover: {again:?}");
}

fn assert_after(dump: &super::rig::Dump) {
    let last = dump["journal"].1.last().expect("a row");
    assert!(last.contains(&"after".to_owned().into()), "{last:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_log_is_recovered() {
    let Some(amqp) = shared_broker() else { return };
    let mut cluster = Cluster::start(amqp, 3).await;
    let load = Load::start(&cluster.heart_url, "quorum", 60).await;
    let history = load.finish().await;
    cluster.until_settled(3).await;
    let before = epoch(&cluster).await;
    cluster.kill_heart();
    for file in FILES {
        // The log beside it may have been taken in.
        drop(std::fs::remove_file(cluster.beside(file)));
    }
    assert!(!Path::new(&cluster.beside(FILES[0])).exists());
    recover(&mut cluster, before).await;
    let dump = cluster.assert_equal().await;
    history.assert_holds(&dump);
    assert_after(&dump);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_older_copy_of_the_log_is_recovered() {
    let Some(amqp) = shared_broker() else { return };
    let mut cluster = Cluster::start(amqp, 3).await;
    let load = Load::start(&cluster.heart_url, "quorum", 40).await;
    let history = load.finish().await;
    cluster.stop_heart();
    let copy = cluster.beside("copy.db");
    std::fs::copy(cluster.beside(FILES[0]), &copy).unwrap();
    cluster.start_heart();
    let http = client();
    for at in 0..20 {
        let key = format!("newer-{at}");
        write(&http, &cluster.heart_url, &key, &insert(&key)).await;
    }
    let before = epoch(&cluster).await;
    cluster.kill_heart();
    for file in FILES {
        drop(std::fs::remove_file(cluster.beside(file)));
    }
    std::fs::copy(&copy, cluster.beside(FILES[0])).unwrap();
    recover(&mut cluster, before).await;
    let dump = cluster.assert_equal().await;
    history.assert_holds(&dump);
    assert_after(&dump);
    let newer = |row: &&Vec<rusqlite::types::Value>| row.contains(&99_i64.into());
    assert_eq!(dump["journal"].1.iter().filter(newer).count(), 21);
}

/// A node that is behind what is left of the log restores a snapshot.
async fn truncated(bound: &str) {
    let Some(amqp) = shared_broker() else { return };
    let mut cluster = Cluster::new(amqp);
    let config = cluster.beside("heart.yaml");
    let text = format!(
        "broker: {}\nexchange: {}\nqueue_name: {}\nwrite_log: sqlite:{}\n{bound}\n",
        cluster.amqp,
        cluster.exchange(),
        cluster.name,
        cluster.beside(FILES[0]),
    );
    std::fs::write(&config, text).unwrap();
    let listen = cluster.heart_url.trim_start_matches("http://").to_owned();
    let args = [
        "heart", "--config", &config, "--listen", &listen, "--log", LOG,
    ];
    cluster.put_heart(Server::start(&args));
    for node in 1..=3 {
        cluster.start_node(node);
    }
    cluster.until_settled(3).await;
    let load = Load::start(&cluster.heart_url, "quorum", 30).await;
    load.finish().await;
    cluster.kill_node(3);
    let broker = leveret::broker::connect(&cluster.amqp).await.unwrap();
    broker.delete_queue(&cluster.queue(3)).await.unwrap();
    broker.close().await;
    let http = client();
    let mut seq = 0;
    for at in 0..30 {
        let key = format!("late-{at}");
        let body = json!({
            "sql": "INSERT INTO journal (key, client) VALUES (?, 99)",
            "args": [key],
        });
        seq = write(&http, &cluster.heart_url, &key, &body).await;
    }
    cluster
        .until("the log begins later", |status| {
            status["oldest_seq"].as_u64() > Some(seq - 5)
        })
        .await;
    cluster.start_node(3);
    cluster.until_settled(3).await;
    let dump = cluster.assert_equal().await;
    assert_eq!(dump["journal"].1.len(), 60);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_behind_a_log_bounded_by_bytes_restores() {
    truncated("log_bytes_max: 1KiB").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_behind_a_log_bounded_by_age_restores() {
    truncated("log_age_max: 1s").await;
}
