//! Nodes come, go, and take another's name.

use std::time::Duration;

use serde_json::json;

use super::{
    load::{Load, write},
    rig::{Cluster, client, dump, ends_within, shared_broker},
};
use crate::support::Server;

#[tokio::test(flavor = "multi_thread")]
async fn a_fourth_node_joins_under_load() {
    let Some(amqp) = shared_broker() else { return };
    let mut cluster = Cluster::start(amqp, 3).await;
    let load = Load::start(&cluster.heart_url, "quorum", usize::MAX).await;
    load.until_more(200).await;
    cluster.start_node(4);
    cluster.until_state(4, "live").await;
    load.until_more(100).await;
    let history = load.stop().await;
    history.assert_holds(&cluster.assert_equal().await);
}

/// Another database under a name that is taken ends with the name; the same database after a kill is back at once.
#[tokio::test(flavor = "multi_thread")]
async fn two_nodes_with_one_id() {
    let Some(amqp) = shared_broker() else { return };
    let mut cluster = Cluster::start(amqp, 2).await;
    let stranger = cluster.node_args(1, &cluster.file(9));
    let ended = ends_within(&stranger, Duration::from_secs(30));
    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert!(ended.stderr.contains("node '1'"), "{ended:?}");
    cluster.kill_node(1);
    cluster.start_node(1);
    cluster.until_settled(2).await;
    let load = Load::start(&cluster.heart_url, "all", 50).await;
    let history = load.finish().await;
    history.assert_holds(&cluster.assert_equal().await);
}

/// A running node is told and ends well; a stopped one ends when it is started again. Their queues are gone, and the others are a quorum.
#[tokio::test(flavor = "multi_thread")]
async fn nodes_are_removed() {
    let Some(amqp) = shared_broker() else { return };
    let mut cluster = Cluster::start(amqp, 3).await;
    let running = cluster.take(2);
    let removed = cluster.operator(&["remove", "2"]);
    assert_eq!(removed.code, Some(0), "{removed:?}");
    assert_eq!(running.wait().0, Some(0));
    cluster.stop_node(3);
    assert_eq!(cluster.operator(&["remove", "3"]).code, Some(0));
    let again = cluster.node_args(3, &cluster.file(3));
    assert_eq!(ends_within(&again, Duration::from_secs(30)).code, Some(0));
    assert_eq!(
        cluster.operator(&["remove", "7"]).code,
        Some(2),
        "there is none"
    );
    let broker = leveret::broker::connect(&cluster.amqp).await.unwrap();
    for node in [2, 3] {
        let stats = broker.queue_stats(&cluster.queue(node)).await;
        assert!(
            stats.is_err(),
            "the queue of node {node} is deleted: {stats:?}"
        );
    }
    broker.close().await;
    let load = Load::start(&cluster.heart_url, "quorum", 20).await;
    let history = load.finish().await;
    history.assert_holds(&cluster.assert_equal().await);
}

/// Tables that are there are refused, unless they are meant; then the others begin with them.
#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_begins_with_a_database() {
    let Some(amqp) = shared_broker() else { return };
    let mut cluster = Cluster::new(amqp);
    let import = rusqlite::Connection::open(cluster.file(1)).unwrap();
    import.execute_batch("CREATE TABLE old (id INTEGER PRIMARY KEY, x); INSERT INTO old VALUES (7, 'kept'), (9, x'00ff')").unwrap();
    drop(import);
    cluster.start_heart();
    let mut args = cluster.node_args(1, &cluster.file(1));
    let refused = ends_within(&args, Duration::from_secs(30));
    assert_eq!(refused.code, Some(1), "{refused:?}");
    assert!(refused.stderr.contains("--seed"), "{refused:?}");
    args.push("--seed".to_owned());
    let seeded = Server::start(&super::rig::as_strs(&args));
    cluster.add(1, seeded);
    cluster.until_settled(1).await;
    cluster.start_node(2);
    cluster.until_settled(2).await;
    let body = json!({ "sql": "INSERT INTO old (x) VALUES ('new')", "ack": "all" });
    write(&client(), &cluster.heart_url, "new", &body).await;
    let dump = cluster.assert_equal().await;
    assert_eq!(dump["old"].1.len(), 3);
}

/// A node that is long away, with its queue gone, is back with all it missed; a snapshot is a database of its own.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_is_long_away() {
    let Some(amqp) = shared_broker() else { return };
    let mut cluster = Cluster::start(amqp, 3).await;
    let load = Load::start(&cluster.heart_url, "quorum", usize::MAX).await;
    load.until_more(50).await;
    cluster.stop_node(3);
    let broker = leveret::broker::connect(&cluster.amqp).await.unwrap();
    broker.delete_queue(&cluster.queue(3)).await.unwrap();
    broker.close().await;
    load.until_more(100).await;
    let copy = cluster.file(100);
    let snapshot = cluster.operator(&["snapshot", "--to", &copy]);
    assert_eq!(snapshot.code, Some(0), "{snapshot:?}");
    assert!(dump(&copy)["journal"].1.len() >= 150);
    cluster.start_node(3);
    cluster.until_state(3, "live").await;
    let history = load.stop().await;
    history.assert_holds(&cluster.assert_equal().await);
}
