//! Heart and nodes are killed, the broker is restarted, a queue is deleted: under load, and again and again.

use super::{
    load::Load,
    rig::{Cluster, shared_broker},
};
use crate::kill::servers::Place;

/// Writes between one blow and the next.
const BETWEEN: usize = 60;

async fn settle(cluster: Cluster, load: Load) {
    let history = load.stop().await;
    history.assert_holds(&cluster.assert_equal().await);
}

/// Mixed writes of eight clients: the dumps of three nodes are identical.
async fn mixed(writes: usize, ack: &'static str) {
    let Some(amqp) = shared_broker() else { return };
    let cluster = Cluster::start(amqp, 3).await;
    let load = Load::start(&cluster.heart_url, ack, writes).await;
    let history = load.finish().await;
    assert_eq!(history.writes(), writes);
    history.assert_holds(&cluster.assert_equal().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn mixed_writes_to_a_quorum() {
    mixed(3_000, "quorum").await;
}

/// `LEVERET_TEST_BROADCAST_WRITES` says another number; 100,000 take minutes without optimisation.
#[tokio::test(flavor = "multi_thread")]
async fn many_mixed_writes() {
    let writes = std::env::var("LEVERET_TEST_BROADCAST_WRITES");
    let writes = writes.ok().and_then(|text| text.parse().ok());
    mixed(writes.unwrap_or(20_000), "accepted").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_heart_is_killed() {
    let Some(amqp) = shared_broker() else { return };
    let mut cluster = Cluster::start(amqp, 3).await;
    let load = Load::start(&cluster.heart_url, "quorum", usize::MAX).await;
    for _ in 0..4 {
        load.until_more(BETWEEN).await;
        cluster.kill_heart();
        cluster.start_heart();
    }
    load.until_more(BETWEEN).await;
    settle(cluster, load).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_are_killed() {
    let Some(amqp) = shared_broker() else { return };
    let mut cluster = Cluster::start(amqp, 3).await;
    let load = Load::start(&cluster.heart_url, "quorum", usize::MAX).await;
    for node in [1, 2, 3, 1] {
        load.until_more(BETWEEN).await;
        cluster.kill_node(node);
        load.until_more(BETWEEN).await;
        cluster.start_node(node);
    }
    load.until_more(BETWEEN).await;
    settle(cluster, load).await;
}

/// All at once: what was acknowledged is in the log and in the databases.
#[tokio::test(flavor = "multi_thread")]
async fn everything_is_killed() {
    let Some(amqp) = shared_broker() else { return };
    let mut cluster = Cluster::start(amqp, 3).await;
    let load = Load::start(&cluster.heart_url, "accepted", usize::MAX).await;
    load.until_more(4 * BETWEEN).await;
    cluster.kill_heart();
    for node in [1, 2, 3] {
        cluster.kill_node(node);
    }
    for node in [3, 2, 1] {
        cluster.start_node(node);
    }
    cluster.start_heart();
    load.until_more(BETWEEN).await;
    settle(cluster, load).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_queue_is_deleted() {
    let Some(amqp) = shared_broker() else { return };
    let cluster = Cluster::start(amqp, 3).await;
    let load = Load::start(&cluster.heart_url, "quorum", usize::MAX).await;
    let broker = leveret::broker::connect(&cluster.amqp).await.unwrap();
    for node in [1, 2] {
        load.until_more(BETWEEN).await;
        broker.delete_queue(&cluster.queue(node)).await.unwrap();
    }
    load.until_more(BETWEEN).await;
    broker.close().await;
    settle(cluster, load).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_broker_restarts() {
    let Some((place, servers)) = Place::private("broadcast", &["rabbitmq"]).await else {
        return;
    };
    let cluster = Cluster::start(place.amqp.clone(), 3).await;
    let load = Load::start(&cluster.heart_url, "quorum", usize::MAX).await;
    load.until_more(BETWEEN).await;
    servers.order("restart", "rabbitmq").await;
    load.until_more(BETWEEN).await;
    servers.order("kill", "rabbitmq").await;
    servers.order("start", "rabbitmq").await;
    load.until_more(BETWEEN).await;
    settle(cluster, load).await;
    place.remove().await;
}

/// Heart and nodes wait for the broker.
#[tokio::test(flavor = "multi_thread")]
async fn the_broker_comes_last() {
    let Some((place, servers)) = Place::private("broadcast-late", &["rabbitmq"]).await else {
        return;
    };
    servers.order("stop", "rabbitmq").await;
    let mut cluster = Cluster::new(place.amqp.clone());
    cluster.start_node(1);
    cluster.start_heart();
    servers.order("start", "rabbitmq").await;
    cluster.until_settled(1).await;
    let load = Load::start(&cluster.heart_url, "quorum", BETWEEN).await;
    let history = load.finish().await;
    history.assert_holds(&cluster.assert_equal().await);
    place.remove().await;
}
