//! Documents in a file: the suite, and what only a file can show.

use std::{sync::Arc, time::Duration};

use leveret_core::{json::Json, time::Timestamp};

use super::*;
use crate::{
    broker::{Message, Publication},
    service::{
        documents::{Fields, Handled, NewState, Outgoing, Put, conformance},
        inbox, outbox,
    },
    sqlite::tests::TempPath,
};

const NOW: Timestamp = Timestamp(1_000_000_000_000);

fn open(path: &TempPath) -> SqliteDocuments {
    SqliteDocuments::open(path.open(), &conformance::kinds()).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn conforms() {
    conformance::exercise(|| async {
        let path = Arc::new(TempPath::new());
        let documents: Arc<dyn Documents> = Arc::new(open(&path));
        conformance::Fresh::new(move || {
            let (documents, path) = (documents.clone(), path.clone());
            async move {
                let _ = path;
                documents
            }
        })
    })
    .await;
}

fn outgoing(lane: &str, body: &str) -> Outgoing {
    Outgoing {
        lane: lane.into(),
        publication: Publication::to_queue("q", Message::json(body.to_owned())),
        must_route: false,
    }
}

fn commit(id: &str, publish: &[(&str, &str)]) -> Commit {
    let publish = publish.iter().map(|(lane, body)| outgoing(lane, body));
    Commit {
        handled: vec![Handled {
            consumer: "c".into(),
            message_id: id.into(),
        }],
        put: vec![Put {
            key: Key::new("order", id),
            expected: 0,
            version: 1,
            state: NewState::Set(Json::null(), Fields::new()),
        }],
        publish: publish.collect(),
        ..Commit::default()
    }
}

fn bodies(claimed: &[Claimed]) -> Vec<&[u8]> {
    claimed
        .iter()
        .map(|claimed| &*claimed.outgoing.publication.message.body)
        .collect()
}

fn ids(claimed: &[Claimed]) -> Vec<OutgoingId> {
    claimed.iter().map(|claimed| claimed.id.clone()).collect()
}

/// What a process left in the outbox, the next one finds, in order; what it had sent is gone, and numbers are not used again.
#[tokio::test]
async fn opened_again() {
    let path = TempPath::new();
    let documents = open(&path);
    let batch = [
        commit("a", &[("l", "1"), ("k", "2")]),
        commit("b", &[("l", "3")]),
        commit("c", &[("l", "4")]),
    ];
    let committed = documents.commit(&batch, NOW).await.unwrap();
    let Committed::Done(held) = &committed[0] else {
        panic!("not done: {committed:?}");
    };
    let next = documents.sent(&ids(&held[..1]), NOW).await.unwrap();
    assert_eq!(bodies(&next), [b"3", b"4"]);
    documents.sent(&ids(&next[..1]), NOW).await.unwrap();
    documents.close().await;

    let documents = open(&path);
    assert_eq!(documents.backlog().await.unwrap().outgoing, 2);
    let claimed = documents.claim_outgoing(10, NOW).await.unwrap();
    assert_eq!(bodies(&claimed), [b"2", b"4"]);
    documents.sent(&ids(&claimed), NOW).await.unwrap();
    documents.close().await;

    let documents = open(&path);
    let more = [commit("d", &[("l", "5")])];
    let committed = documents.commit(&more, NOW).await.unwrap();
    let Committed::Done(held) = &committed[0] else {
        panic!("not done: {committed:?}");
    };
    assert!(!ids(&claimed).contains(&held[0].id));
    assert!(
        documents
            .sent(&ids(&claimed), NOW)
            .await
            .unwrap()
            .is_empty()
    );
    assert_eq!(documents.backlog().await.unwrap().outgoing, 1);
    documents.close().await;
}

/// A transaction of the user's own puts messages between those of commits; all of a lane keep the order of the file.
#[tokio::test]
async fn users_put_between_commits() {
    let path = TempPath::new();
    let documents = open(&path);
    let put = async |body: &'static str| {
        let outgoing = outgoing("l", body);
        let written = documents.database.write(move |session| {
            outbox::sqlite::put(session, std::slice::from_ref(&outgoing), NOW)
        });
        written.await.unwrap();
    };
    put("1").await;
    let batch = [commit("a", &[("l", "2"), ("k", "x")])];
    let committed = documents.commit(&batch, NOW).await.unwrap();
    let Committed::Done(held) = &committed[0] else {
        panic!("not done: {committed:?}");
    };
    assert_eq!(bodies(held), [b"x"], "the lane is not free");
    put("3").await;
    let claimed = documents.claim_outgoing(10, NOW).await.unwrap();
    assert_eq!(bodies(&claimed), [b"1", b"2", b"3"]);
    put("4").await;
    assert!(documents.claim_outgoing(10, NOW).await.unwrap().is_empty());
    let next = documents.sent(&ids(&claimed), NOW).await.unwrap();
    assert_eq!(bodies(&next), [b"4"]);
    documents.close().await;
}

/// A message is told to be the first by one transaction, the documents' own commits included; one that is undone did not ask.
#[tokio::test]
async fn users_ask_the_inbox() {
    let path = TempPath::new();
    let documents = open(&path);
    let first = async |message: &'static str, fails: bool| {
        let written = documents.database.write(move |session| {
            let first = inbox::sqlite::first(session, "c", message, NOW)?;
            if fails {
                return Err(DatabaseError::refused("fails"));
            }
            Ok(first)
        });
        written.await
    };
    assert!(first("m", true).await.is_err());
    assert!(first("m", false).await.unwrap());
    assert!(!first("m", false).await.unwrap());
    documents.commit(&[commit("n", &[])], NOW).await.unwrap();
    assert!(!first("n", false).await.unwrap());
    let committed = documents.commit(&[commit("m", &[])], NOW).await.unwrap();
    assert!(matches!(committed[..], [Committed::Repeated(_)]));
    assert!(first("", false).await.is_err());
    documents.close().await;
}

/// A claim that was in vain comes behind those that nobody had, however early it was due.
#[tokio::test]
async fn vain_claims_go_behind() {
    let path = TempPath::new();
    let documents = open(&path);
    let set = |id: &str, at| {
        let mut commit = commit(id, &[]);
        commit.deadlines = vec![super::super::DeadlineChange::Set {
            key: Key::new("order", id),
            name: "d".into(),
            at: Timestamp(at),
        }];
        commit
    };
    let batch = [set("a", 1), set("b", 2), set("c", 3)];
    documents.commit(&batch, NOW).await.unwrap();
    let mut now = NOW;
    let mut seen = Vec::new();
    for _ in 0..6 {
        let due = documents.claim_deadlines(1, now).await.unwrap();
        seen.push(due[0].key.id.to_string());
        now = now + LEASE + Duration::from_millis(1);
    }
    assert_eq!(seen.concat(), "abcabc");
    documents.close().await;
}
