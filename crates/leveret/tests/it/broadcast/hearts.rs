//! Hearts that follow each other, and hearts whose log is not what their nodes know. Time is paused, and passes where nothing else does.

use std::{sync::Arc, time::Duration};

use leveret::{
    broadcast::{
        NodeState,
        heart::{Ack, Heart, HeartState, QuestionError, WriteError},
        log::memory::MemoryWriteLog,
    },
    broker::memory::MemoryBroker,
};
use tokio::{sync::watch, time::Instant};

use super::cluster::{Cluster, question, write};

async fn cluster(ids: &[&str]) -> Cluster {
    Cluster::start(Arc::new(MemoryBroker::new()), ids).await
}

/// Returns as soon as it has, before its nodes can have told it anything.
async fn until_it_has_the_log(cluster: &Cluster) {
    while cluster.heart().status().await.state == HeartState::Starting {
        tokio::task::yield_now().await;
    }
}

/// A heart that is asked to stop answers those who wait, and gives the log up: the other one has it long before a lease would end.
#[tokio::test(start_paused = true)]
async fn a_heart_that_stops_is_followed_at_once() {
    let mut cluster = cluster(&["a", "b"]).await;
    let second = Heart::new(cluster.parts(), cluster.options("second"));
    let (stop, stopped) = watch::channel(false);
    let serving = tokio::spawn({
        let second = second.clone();
        async move { second.serve(stopped).await.unwrap() }
    });
    while second.status().await.state != HeartState::Standby {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let first = cluster.heart();
    let waits = tokio::spawn({
        let first = first.clone();
        async move { first.write(write("put x", 1, Ack::All, None)).await }
    });
    cluster.until_equal().await;
    let began = Instant::now();
    cluster.stop_heart().await;
    while second.status().await.state != HeartState::Active {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(
        began.elapsed() < Duration::from_secs(1),
        "{:?}",
        began.elapsed()
    );
    waits.await.unwrap().unwrap();
    for level in [
        r#","level":"latest""#,
        r#","level":"bounded","max_lag_ms":0"#,
    ] {
        let stale = first.read(question("get x", level)).await;
        assert!(
            matches!(stale, Err(QuestionError::NotLatest { .. })),
            "{stale:?}"
        );
    }
    stop.send_replace(true);
    serving.await.unwrap();
}

/// With a log that is lost, also the first write waits until nodes have told where they are, and is refused then. Nobody can say what is latest.
#[tokio::test(start_paused = true)]
async fn a_lost_log_takes_no_write_before_its_nodes_come() {
    let mut cluster = cluster(&["a", "b"]).await;
    cluster.write("put x", 1, Ack::All).await.unwrap();
    cluster.kill_heart();
    cluster.log = Arc::new(MemoryWriteLog::new("c2"));
    cluster.start_heart();
    until_it_has_the_log(&cluster).await;
    let refused = cluster.write("add x", 1, Ack::Accepted).await;
    assert!(
        matches!(&refused, Err(WriteError::Unavailable { detail }) if detail.contains("leveret cluster recover")),
        "{refused:?}"
    );
    assert_eq!(cluster.log.last().await.unwrap().seq, 0);
    let latest = cluster.read("get x", r#","level":"latest""#).await;
    assert!(
        matches!(latest, Err(QuestionError::NotLatest { .. })),
        "{latest:?}"
    );
    let recovered = cluster.heart().recover().await.unwrap();
    assert_eq!(recovered.seq, 1);
    cluster.until_state("a", NodeState::Live).await;
    cluster.until_state("b", NodeState::Live).await;
    let next = cluster.write("add x", 1, Ack::All).await.unwrap();
    assert_eq!(next.position.seq, 2);
    cluster.until_equal().await;
    cluster.stop().await;
}

/// The same with a log that is older than its nodes, and knows them: a write would get a seq that another write has.
#[tokio::test(start_paused = true)]
async fn an_older_log_takes_no_write_before_its_nodes_come() {
    let mut cluster = cluster(&["a", "b", "c"]).await;
    cluster.write("put x", 1, Ack::All).await.unwrap();
    let copy = cluster.copy_of_log().await;
    cluster.write("add x", 1, Ack::All).await.unwrap();
    let epoch = cluster.heart().status().await.epoch;
    cluster.kill_heart();
    cluster.log = copy;
    cluster.start_heart();
    until_it_has_the_log(&cluster).await;
    let refused = cluster.write("add x", 1, Ack::Accepted).await;
    assert!(
        matches!(&refused, Err(WriteError::Unavailable { detail }) if detail.contains("leveret cluster recover")),
        "{refused:?}"
    );
    let recovered = cluster.heart().recover().await.unwrap();
    assert_eq!(recovered.seq, 2);
    assert!(recovered.epoch > epoch);
    let next = cluster.write("add x", 1, Ack::All).await.unwrap();
    assert_eq!(next.position.seq, 3);
    cluster.until_equal().await;
    assert_eq!(cluster.heart().metrics().divergences.get(), 0);
    cluster.stop().await;
}

/// Where most members are away, a heart that starts waits for them no longer than a while.
#[tokio::test(start_paused = true)]
async fn members_that_are_away_are_waited_for_a_while() {
    let mut cluster = cluster(&["a", "b", "c"]).await;
    for id in ["a", "b", "c"] {
        cluster.kill_node(id);
    }
    cluster.kill_heart();
    cluster.start_heart();
    cluster.until_active().await;
    let began = Instant::now();
    cluster.write("put x", 1, Ack::Accepted).await.unwrap();
    assert!(began.elapsed() <= Duration::from_secs(6));
    let began = Instant::now();
    cluster.write("put x", 2, Ack::Accepted).await.unwrap();
    assert!(began.elapsed() < Duration::from_secs(1));
    for id in ["a", "b", "c"] {
        cluster.start_node(id).await;
    }
    cluster.until_equal().await;
    cluster.stop().await;
}
