//! A node's disk is full, its contents are changed behind its back, its queue takes what is no write.

use leveret::broker::{ConsumeOptions, Header, Message, Publication};
use serde_json::json;

use super::{
    load::{Load, write},
    rig::{Cluster, POLL, client, shared_broker},
};

/// A full disk stops the node and nothing else: it skips nothing, leaves the reads, and with room again it catches up.
#[tokio::test(flavor = "multi_thread")]
async fn the_disk_is_full() {
    let Some(amqp) = shared_broker() else { return };
    let mut cluster = Cluster::start(amqp, 3).await;
    let http = client();
    let table =
        json!({ "sql": "CREATE TABLE big (id INTEGER PRIMARY KEY, bytes BLOB)", "ack": "all" });
    write(&http, &cluster.heart_url, "big", &table).await;
    cluster.stop_node(3);
    cluster.start_node_on_full_disk(3, 2048);
    cluster.until_state(3, "live").await;
    for at in 0..12 {
        let body = json!({ "sql": "INSERT INTO big (bytes) VALUES (randomblob(500000))" });
        write(&http, &cluster.heart_url, &format!("big-{at}"), &body).await;
    }
    cluster.until_state(3, "faulted").await;
    let load = Load::start(&cluster.heart_url, "quorum", 50).await;
    let history = load.finish().await;
    cluster.stop_node(3);
    cluster.start_node(3);
    cluster.until_settled(3).await;
    history.assert_holds(&cluster.assert_equal().await);
}

/// `verify` finds contents that differ, names and quarantines the node; `rebuild` heals it.
#[tokio::test(flavor = "multi_thread")]
async fn contents_that_differ_are_found_and_healed() {
    let Some(amqp) = shared_broker() else { return };
    let mut cluster = Cluster::start(amqp, 3).await;
    let load = Load::start(&cluster.heart_url, "all", 40).await;
    let history = load.finish().await;
    cluster.stop_node(2);
    let meddled = rusqlite::Connection::open(cluster.file(2)).unwrap();
    meddled
        .execute("UPDATE cells SET value = value + 1 WHERE id = 3", [])
        .unwrap();
    drop(meddled);
    cluster.start_node(2);
    cluster.until_settled(3).await;
    // Until the heart has the new address of node 2, the comparison lacks its contents.
    let (verified, nodes) = loop {
        let verified = cluster.operator(&["verify"]);
        let nodes = verified.json()["nodes"].as_array().unwrap().clone();
        if nodes.iter().all(|node| node["error"].is_null()) {
            break (verified, nodes);
        }
        tokio::time::sleep(POLL).await;
    };
    assert_eq!(verified.code, Some(1), "{verified:?}");
    let diverged: Vec<_> = nodes
        .iter()
        .filter(|node| node["diverged"] == true)
        .collect();
    assert_eq!(diverged.len(), 1, "{verified:?}");
    assert_eq!(diverged[0]["node_id"], "2");
    cluster.until_state(2, "quarantined").await;
    let rebuilt = cluster.operator(&["rebuild", "2"]);
    assert_eq!(rebuilt.code, Some(0), "{rebuilt:?}");
    // A healthy one, too.
    assert_eq!(cluster.operator(&["rebuild", "1"]).code, Some(0));
    history.assert_holds(&cluster.assert_equal().await);
}

/// What is no write of the cluster is dead-lettered with the reason, and the node goes on.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_write_is_dead_lettered() {
    let Some(amqp) = shared_broker() else { return };
    let cluster = Cluster::start(amqp, 1).await;
    let broker = leveret::broker::connect(&cluster.amqp).await.unwrap();
    let bodies = [
        r#"{"write_request": true, "sql": "DELETE FROM cells", "args": [], "timestamp": "2026-01-01T00:00:00Z"}"#,
        "no JSON",
        r#"{"cluster": "another", "entries": [{"epoch": 1, "seq": 1, "statements": [{"sql": "DELETE FROM cells"}], "at": 0, "seed": 0}]}"#,
    ];
    for body in bodies {
        let publication = Publication {
            exchange: cluster.exchange().into(),
            routing_key: "".into(),
            message: Message::json(body),
            copied: false,
        };
        for result in broker.publish(vec![publication]).await {
            result.unwrap();
        }
    }
    let letters = format!("{}.dlq", cluster.queue(1));
    let mut consumer = broker
        .consume(ConsumeOptions::queue(letters))
        .await
        .unwrap();
    for (body, reason) in bodies.iter().zip([
        "unknown field",
        "not what is expected",
        "of cluster another",
    ]) {
        let letter = consumer.next().await.expect("a letter");
        assert_eq!(letter.message.body, body.as_bytes());
        let Some(Header::Text(told)) = letter.message.headers.get("x-leveret-reason") else {
            panic!("no reason: {letter:?}");
        };
        assert!(told.contains(reason), "{told}");
        letter.receipt.ack();
    }
    drop(consumer);
    broker.close().await;
    let load = Load::start(&cluster.heart_url, "all", 20).await;
    let history = load.finish().await;
    history.assert_holds(&cluster.assert_equal().await);
}
