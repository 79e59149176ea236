//! What a heart promises, one by one. Time is paused, and passes where nothing else does.

use std::{sync::Arc, time::Duration};

use leveret::{
    broadcast::{
        HeartLink, LinkError, NodeState, ReadError, Registration,
        heart::{Ack, AdminError, HeartOptions, HeartState, QuestionError, WriteError},
        log::memory::MemoryWriteLog,
        node::NodeEnd,
        wire::Names,
    },
    broker::memory::MemoryBroker,
    core::broadcast::{Outcome, Position},
};

use super::cluster::{Cluster, number, question, write};

async fn cluster(ids: &[&str]) -> Cluster {
    Cluster::start(Arc::new(MemoryBroker::new()), ids).await
}

fn sum(outcome: Option<Outcome>) -> i64 {
    match outcome {
        Some(Outcome::Done(results)) => number(results[0].rows.as_ref().unwrap()).unwrap(),
        other => panic!("{other:?}"),
    }
}

/// Each level answers with the outcome, and all nodes come to the same contents.
#[tokio::test(start_paused = true)]
async fn acknowledges_as_asked() {
    let cluster = cluster(&["a", "b", "c"]).await;
    for (at, ack) in [Ack::One, Ack::Quorum, Ack::All].into_iter().enumerate() {
        let written = cluster.write("put x", at as i64, ack).await.unwrap();
        assert_eq!(written.position.seq, at as u64 + 1);
        assert_eq!(sum(written.outcome), at as i64);
    }
    let accepted = cluster.write("add x", 5, Ack::Accepted).await.unwrap();
    assert_eq!(accepted.outcome, None);
    let failed = cluster.write("fail", 0, Ack::All).await.unwrap();
    assert!(matches!(failed.outcome, Some(Outcome::Failed(error)) if error.code == "MODEL"));
    cluster.until_equal().await;
    assert_eq!(cluster.models["a"].disk().values["x"], 11);
    cluster.stop().await;
}

/// A level that is not reached in time leaves the write, and the same key waits again and gets the same outcome, also from a new heart.
#[tokio::test(start_paused = true)]
async fn a_key_is_one_write() {
    let mut cluster = cluster(&["a"]).await;
    cluster.kill_node("a");
    let request = |sql, ack| write(sql, 7, ack, Some("k"));
    let late = cluster.heart().write(request("add x", Ack::Quorum)).await;
    let Err(WriteError::NotYet { position }) = late else {
        panic!("{late:?}");
    };
    cluster.start_node("a").await;
    let again = cluster
        .heart()
        .write(request("add x", Ack::Quorum))
        .await
        .unwrap();
    assert_eq!((again.position, sum(again.outcome)), (position, 7));
    let other = cluster.heart().write(request("add y", Ack::Quorum)).await;
    assert!(matches!(other, Err(WriteError::KeyTaken)));
    cluster.write("add x", 1, Ack::All).await.unwrap();

    cluster.kill_heart();
    cluster.start_heart();
    cluster.until_active().await;
    let again = cluster
        .heart()
        .write(request("add x", Ack::One))
        .await
        .unwrap();
    assert_eq!((again.position, sum(again.outcome)), (position, 7));
    assert_eq!(cluster.models["a"].disk().values["x"], 22);
    cluster.stop().await;
}

/// Without nodes a write is accepted; who comes later has it.
#[tokio::test(start_paused = true)]
async fn accepts_without_nodes() {
    let mut cluster = cluster(&[]).await;
    cluster.until_active().await;
    let written = cluster.write("add x", 1, Ack::Accepted).await.unwrap();
    let alone = cluster.write("add x", 1, Ack::One).await;
    assert!(matches!(alone, Err(WriteError::NotYet { .. })));
    for id in ["a", "b"] {
        cluster.start_node(id).await;
    }
    cluster.until_equal().await;
    let answer = cluster.read("get x", r#","level":"latest""#).await.unwrap();
    assert_eq!(number(&answer.rows.rows), Some(4));
    assert!(answer.rows.seq > written.position.seq);
    cluster.stop().await;
}

/// A question gets no older rows than it asks for; without a node that has them it gets none.
#[tokio::test(start_paused = true)]
async fn reads_as_fresh_as_asked() {
    let mut cluster = cluster(&["a", "b"]).await;
    cluster.write("put x", 1, Ack::All).await.unwrap();
    let accepted = cluster.write("put x", 2, Ack::Accepted).await.unwrap();
    let latest = cluster.read("get x", r#","level":"latest""#).await.unwrap();
    assert_eq!(number(&latest.rows.rows), Some(2));
    let session = format!(r#","level":"session","min_seq":{}"#, accepted.position.seq);
    let session = cluster.read("get x", &session).await.unwrap();
    assert_eq!(number(&session.rows.rows), Some(2));
    let bounded = cluster
        .read("get x", r#","level":"bounded","max_lag_ms":0"#)
        .await
        .unwrap();
    assert!(bounded.rows.seq >= 1);
    let ahead = cluster
        .read("get x", r#","min_seq":99,"timeout_ms":300"#)
        .await;
    assert!(
        matches!(ahead, Err(QuestionError::NotYet { min_seq: 99 })),
        "{ahead:?}"
    );
    let no_question = cluster.read("put x", "").await;
    assert!(matches!(no_question, Err(QuestionError::Read(_))));

    cluster.kill_node("a");
    let failed_over = cluster.read("get x", r#","level":"latest""#).await.unwrap();
    assert_eq!(&*failed_over.node_id, "b");
    cluster.kill_node("b");
    let nobody = cluster.read("get x", r#","timeout_ms":500"#).await;
    assert!(
        matches!(nobody, Err(QuestionError::NoNode { .. })),
        "{nobody:?}"
    );
    cluster.stop().await;
}

/// A node whose outcomes differ is quarantined: no reads, no quorum. Rebuilt, it is equal again.
#[tokio::test(start_paused = true)]
async fn a_node_that_differs_is_quarantined_and_rebuilt() {
    let cluster = cluster(&["a", "b", "c"]).await;
    cluster.write("put x", 1, Ack::All).await.unwrap();
    cluster.models["b"].disk().values.insert("x".to_owned(), 5);
    cluster.write("add x", 1, Ack::All).await.unwrap();
    cluster.until_state("b", NodeState::Quarantined).await;
    assert_eq!(cluster.heart().metrics().divergences.get(), 1);
    // Two members are left, and two are all.
    cluster.write("add x", 1, Ack::All).await.unwrap();
    let verified = cluster.heart().verify().await.unwrap();
    assert!(!verified.equal);
    let diverged = verified.nodes.iter().filter(|node| node.diverged);
    assert_eq!(
        diverged.map(|node| &*node.node_id).collect::<Vec<_>>(),
        ["b"]
    );

    cluster.heart().rebuild("b").await.unwrap();
    cluster.until_equal().await;
    let verified = cluster.heart().verify().await.unwrap();
    assert!(verified.equal, "{verified:?}");
    cluster.write("add x", 1, Ack::All).await.unwrap();
    cluster.stop().await;
}

/// Contents that differ without a different outcome are found by comparing them. A healthy node can be rebuilt, too.
#[tokio::test(start_paused = true)]
async fn verification_compares_contents() {
    let cluster = cluster(&["a", "b", "c"]).await;
    cluster.write("put x", 1, Ack::All).await.unwrap();
    assert!(cluster.heart().verify().await.unwrap().equal);
    cluster.heart().rebuild("a").await.unwrap();
    cluster.models["c"].disk().values.insert("y".to_owned(), 5);
    let verified = cluster.heart().verify().await.unwrap();
    assert!(!verified.equal);
    cluster.until_state("c", NodeState::Quarantined).await;
    cluster.stop().await;
}

/// A removed node is told and ends, and its queue goes with it; it counts no more.
#[tokio::test(start_paused = true)]
async fn a_removed_node_ends() {
    let mut cluster = cluster(&["a", "b"]).await;
    let queue = Names::default().node_queue("b");
    assert!(cluster.broker.queue_stats(&queue).await.is_ok());
    cluster.heart().remove("b").await.unwrap();
    assert_eq!(cluster.ended("b").await.unwrap(), NodeEnd::Removed);
    cluster
        .until("the queue is gone", async |_| {
            cluster.broker.queue_stats(&queue).await.is_err()
        })
        .await;
    cluster.write("put x", 1, Ack::All).await.unwrap();
    let missing = cluster.heart().remove("b").await;
    assert!(matches!(missing, Err(AdminError::NoNode(_))));
    // It stays removed, whoever is the heart.
    cluster.kill_heart();
    cluster.start_heart();
    cluster.start_node("b").await;
    assert_eq!(cluster.ended("b").await.unwrap(), NodeEnd::Removed);
    cluster.stop().await;
}

fn registration(id: &str, database: &str) -> Registration {
    Registration {
        node_id: id.to_owned(),
        database_id: database.to_owned(),
        incarnation: 1,
        cluster: None,
        position: Position::default(),
        hash: 0,
        kind: "sqlite".to_owned(),
        advertise: "elsewhere".to_owned(),
        seed: false,
        state: NodeState::Live,
        fault: None,
        restored: None,
    }
}

/// A name belongs to its database while that is heard of; then another may have it.
#[tokio::test(start_paused = true)]
async fn a_name_is_leased() {
    let mut cluster = cluster(&["a"]).await;
    let taken = cluster.heart().register(registration("a", "other")).await;
    assert!(matches!(taken, Err(LinkError::NameTaken { advertise, .. }) if advertise == "a"));
    cluster.kill_node("a");
    cluster.until_state("a", NodeState::Lost).await;
    cluster
        .heart()
        .register(registration("a", "other"))
        .await
        .unwrap();

    let mut foreign = registration("z", "z");
    foreign.cluster = Some("c9".into());
    let refused = cluster.heart().register(foreign).await;
    assert!(matches!(refused, Err(LinkError::Refused { .. })));
    let refused = cluster.heart().register(registration("a b", "z")).await;
    assert!(matches!(refused, Err(LinkError::Refused { .. })));
    cluster.stop().await;
}

/// A second heart takes the log over when the first is gone, and not before; the first can do no harm then.
#[tokio::test(start_paused = true)]
async fn a_standby_takes_over() {
    let mut cluster = cluster(&["a", "b"]).await;
    cluster.write("put x", 1, Ack::All).await.unwrap();
    let first = cluster.heart();
    let epoch = first.status().await.epoch;
    // The first goes on in the book's eyes no more, but it still lives.
    let old = cluster.start_beside("standby");
    cluster
        .until("it stands by", async |heart| {
            heart.status().await.state == HeartState::Standby
        })
        .await;
    let refused = cluster.write("put x", 2, Ack::Accepted).await;
    assert!(matches!(refused, Err(WriteError::Unavailable { .. })));
    old.abort();
    cluster.until_active().await;
    assert!(cluster.heart().status().await.epoch > epoch);
    cluster.write("add x", 2, Ack::All).await.unwrap();
    let fenced = first.write(write("put x", 9, Ack::Accepted, None)).await;
    assert!(
        matches!(fenced, Err(WriteError::Unavailable { .. })),
        "{fenced:?}"
    );
    let stale = first.read(question("get x", r#","level":"latest""#)).await;
    assert!(
        matches!(stale, Err(QuestionError::NotLatest { .. })),
        "{stale:?}"
    );
    cluster.until_equal().await;
    assert_eq!(cluster.models["a"].disk().values["x"], 5);
    cluster.stop().await;
}

/// A log that is lost takes no writes; recovered, it goes on behind the furthest node, and those that are not as far restore.
#[tokio::test(start_paused = true)]
async fn a_lost_log_is_recovered() {
    let mut cluster = cluster(&["a", "b"]).await;
    cluster.write("put x", 1, Ack::All).await.unwrap();
    cluster.kill_node("b");
    cluster.write("add x", 1, Ack::One).await.unwrap();
    cluster.kill_heart();
    cluster.log = Arc::new(MemoryWriteLog::new("c2"));
    cluster.start_heart();
    cluster
        .until("it is behind", async |heart| {
            heart.status().await.state == HeartState::Behind
        })
        .await;
    let refused = cluster.write("add x", 1, Ack::Accepted).await;
    assert!(
        matches!(&refused, Err(WriteError::Unavailable { detail }) if detail.contains("leveret cluster recover")),
        "{refused:?}"
    );
    let recovered = cluster.heart().recover().await.unwrap();
    assert_eq!(recovered.seq, 2);
    cluster.until_state("a", NodeState::Live).await;
    let next = cluster.write("add x", 1, Ack::One).await.unwrap();
    assert_eq!(
        next.position,
        Position {
            epoch: recovered.epoch,
            seq: 3
        }
    );
    cluster.start_node("b").await;
    cluster.until_equal().await;
    assert_eq!(&*cluster.log.cluster().await.unwrap(), "c1");
    let nothing = cluster.heart().recover().await;
    assert!(matches!(nothing, Err(AdminError::Refused(_))));
    cluster.stop().await;
}

/// A log past its bound is truncated behind a snapshot, and a node from before restores one.
#[tokio::test(start_paused = true)]
async fn a_log_is_truncated_behind_a_snapshot() {
    let mut cluster = cluster(&["a", "b"]).await;
    cluster.kill_node("b");
    for number in 0..50 {
        cluster.write("add x", number, Ack::One).await.unwrap();
    }
    cluster.until_state("b", NodeState::Lost).await;
    cluster.kill_heart();
    cluster.start_heart_with(HeartOptions {
        log_bytes_max: 10,
        ..cluster.options("heart")
    });
    cluster
        .until("the log is truncated", async |heart| {
            heart.status().await.oldest_seq == 51
        })
        .await;
    cluster.start_node("b").await;
    cluster.until_equal().await;
    // A new node, too; and with nobody else the snapshot that the heart keeps is left.
    cluster.start_node("c").await;
    cluster.until_equal().await;
    for id in ["a", "b", "c"] {
        cluster.kill_node(id);
    }
    cluster.until_state("a", NodeState::Lost).await;
    cluster.until_state("b", NodeState::Lost).await;
    cluster.until_state("c", NodeState::Lost).await;
    cluster.start_node("d").await;
    cluster.until_equal().await;
    cluster.stop().await;
}

/// The queue of a node that is away does not grow without end: past its bound it is deleted, and the node comes back by the log.
#[tokio::test(start_paused = true)]
async fn the_queue_of_a_node_that_is_away_is_bounded() {
    let mut cluster = cluster(&["a", "b"]).await;
    cluster.kill_heart();
    cluster.start_heart_with(HeartOptions {
        queue_messages_max: 20,
        ..cluster.options("heart")
    });
    cluster.until_active().await;
    cluster.write("add x", 1, Ack::All).await.unwrap();
    cluster.kill_node("b");
    let queue = cluster.options("heart").names.node_queue("b");
    for number in 0..50 {
        cluster.write("add x", number, Ack::One).await.unwrap();
    }
    cluster
        .until("the queue is deleted", async |_| {
            cluster.broker.queue_stats(&queue).await.is_err()
        })
        .await;
    cluster.start_node("b").await;
    cluster.until_equal().await;
    let waiting = cluster.broker.queue_stats(&queue).await.unwrap();
    assert_eq!(waiting.ready, 0, "it is declared again, and consumed");
    cluster.stop().await;
}

/// While the broker takes nothing, writes are accepted, and nodes fetch them.
#[tokio::test(start_paused = true)]
async fn goes_on_without_the_broker() {
    let broker = Arc::new(super::sim::Faulty::new(1, super::cluster::Trace::new()));
    let cluster = Cluster::start(broker.clone(), &["a", "b"]).await;
    broker.block(true);
    let written = cluster.write("add x", 1, Ack::Accepted).await.unwrap();
    let quorum = cluster.write("add x", 1, Ack::Quorum).await.unwrap();
    assert!(quorum.position > written.position);
    cluster.until_equal().await;
    broker.block(false);
    cluster.write("add x", 1, Ack::All).await.unwrap();
    cluster.until_equal().await;
    let status = cluster.heart().status().await;
    assert_eq!((status.unpublished, status.broker_fault), (0, None));
    cluster.stop().await;
}

/// A node that hangs costs two seconds at most; when all hang, the time that a question has ends it.
#[tokio::test(start_paused = true)]
async fn a_node_that_hangs_costs_little() {
    let ids = ["a", "b", "c", "d"];
    let cluster = cluster(&ids).await;
    cluster.write("put x", 1, Ack::All).await.unwrap();
    cluster.models["a"].hang(true);
    for _ in 0..8 {
        let began = tokio::time::Instant::now();
        let answer = cluster.read("get x", "").await.unwrap();
        assert_eq!(number(&answer.rows.rows), Some(1));
        assert!(began.elapsed() <= Duration::from_secs(2));
    }
    for id in ids {
        cluster.models[id].hang(true);
    }
    let began = tokio::time::Instant::now();
    let nobody = cluster.read("get x", r#","timeout_ms":9000"#).await;
    assert!(
        matches!(nobody, Err(QuestionError::NoNode { .. })),
        "{nobody:?}"
    );
    assert!(began.elapsed() <= Duration::from_secs(10));
    cluster.stop().await;
}

/// A question that takes too long is told so, in its own time and in that which any has; nobody is said not to be healthy.
#[tokio::test(start_paused = true)]
async fn a_question_takes_too_long() {
    let ids = ["a", "b", "c"];
    let cluster = cluster(&ids).await;
    cluster.write("put x", 1, Ack::All).await.unwrap();
    for id in ids {
        cluster.models[id].think(true);
    }
    for (timeout_ms, seconds) in [(1000, 1), (5000, 5), (600_000, 5)] {
        let began = tokio::time::Instant::now();
        let more = format!(r#","timeout_ms":{timeout_ms}"#);
        let answer = cluster.read("get x", &more).await;
        assert!(
            matches!(
                answer,
                Err(QuestionError::Read(ReadError::Limit { what: "time" }))
            ),
            "{answer:?}"
        );
        assert!(began.elapsed() <= Duration::from_secs(seconds));
    }
    cluster.stop().await;
}
