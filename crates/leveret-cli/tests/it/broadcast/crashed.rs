//! Heart and node end as by `kill -9` at each boundary, under load: the history holds, and the contents are equal.
//!
//! `LEVERET_TEST_CRASH_ROUNDS` says how often at each boundary; 3.

use leveret::crash::Point;

use super::{
    load::Load,
    rig::{Cluster, shared_broker},
};

/// Where a heart can end.
const OF_HEARTS: [Point; 5] = [
    Point::HeartBeforeCommit,
    Point::HeartAfterCommit,
    Point::HeartBeforePublish,
    Point::HeartAfterPublish,
    Point::BrokerBeforeAck,
];

/// Where a node can end.
const OF_NODES: [Point; 4] = [
    Point::NodeBeforeCommit,
    Point::NodeAfterCommit,
    Point::NodeBeforeReport,
    Point::BrokerBeforeAck,
];

/// Writes between one crash and the next.
const BETWEEN: usize = 20;

/// Each point as often as is to be, not always the first time that it is reached.
fn crashes(points: &[Point]) -> impl Iterator<Item = String> {
    let given = std::env::var("LEVERET_TEST_CRASH_ROUNDS");
    let rounds: u32 = given.map_or(3, |rounds| rounds.parse().expect("a count"));
    let rounds = (0..rounds).flat_map(move |round| points.iter().map(move |point| (point, round)));
    rounds.map(|(point, round)| format!("{point}:{}", 1 + (round * 3) % 7))
}

#[tokio::test(flavor = "multi_thread")]
async fn the_heart_crashes_at_each_boundary() {
    let Some(amqp) = shared_broker() else { return };
    let mut cluster = Cluster::start(amqp, 3).await;
    let load = Load::start(&cluster.heart_url, "quorum", usize::MAX).await;
    for at in crashes(&OF_HEARTS) {
        cluster.kill_heart();
        cluster.crash_heart(&at).await;
        cluster.start_heart();
        load.until_more(BETWEEN).await;
    }
    let history = load.stop().await;
    history.assert_holds(&cluster.assert_equal().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_crashes_at_each_boundary() {
    let Some(amqp) = shared_broker() else { return };
    let mut cluster = Cluster::start(amqp, 3).await;
    let load = Load::start(&cluster.heart_url, "quorum", usize::MAX).await;
    for at in crashes(&OF_NODES) {
        cluster.kill_node(2);
        cluster.crash_node(2, &at).await;
        cluster.start_node(2);
        load.until_more(BETWEEN).await;
    }
    let history = load.stop().await;
    history.assert_holds(&cluster.assert_equal().await);
}
