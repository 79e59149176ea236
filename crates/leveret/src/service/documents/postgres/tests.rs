//! Documents in PostgreSQL: the suite, and what only several processes and own transactions can show. Against the server of
//! `LEVERET_TEST_POSTGRES_URL`, in schemas that are dropped at the end.

use leveret_core::json::Json;
use tokio_postgres::{Client, NoTls};

use super::*;
use crate::{
    broker::{Message, Publication},
    postgres::quoted,
    service::{
        documents::{Fields, Handled, NewState, Outgoing, Put, conformance},
        inbox, outbox,
    },
};

const NOW: Timestamp = Timestamp(1_000_000_000_000);

/// A schema that is dropped when it is.
pub(in super::super) struct Schema {
    url: String,
    name: String,
}

impl Schema {
    pub(in super::super) fn new() -> Option<Schema> {
        let Ok(url) = std::env::var("LEVERET_TEST_POSTGRES_URL") else {
            println!("skipped: LEVERET_TEST_POSTGRES_URL is not set");
            return None;
        };
        let name = format!("leveret test \"{:016x}", fastrand::u64(..));
        Some(Schema { url, name })
    }

    pub(in super::super) async fn open(&self) -> PostgresDocuments {
        let options = PostgresDocumentsOptions {
            lease: Duration::from_millis(1500),
            ..PostgresDocumentsOptions::new(&*self.url, &*self.name, &conformance::kinds())
        };
        PostgresDocuments::connect(options).await.unwrap()
    }

    async fn client(&self) -> Client {
        let (client, connection) = tokio_postgres::connect(&self.url, NoTls).await.unwrap();
        tokio::spawn(connection);
        client
    }
}

impl Drop for Schema {
    fn drop(&mut self) {
        let drop = format!("DROP SCHEMA IF EXISTS {} CASCADE", quoted(&self.name));
        let url = self.url.clone();
        let dropped = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build();
            runtime.unwrap().block_on(async {
                let (client, connection) = tokio_postgres::connect(&url, NoTls).await.unwrap();
                tokio::spawn(connection);
                client.batch_execute(&drop).await.unwrap();
            });
        });
        dropped.join().unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn conforms() {
    if Schema::new().is_none() {
        return;
    }
    conformance::exercise(|| async {
        let schema = Arc::new(Schema::new().unwrap());
        // The first handle makes the tables.
        schema.open().await.close().await;
        conformance::Fresh::new(move || {
            let schema = schema.clone();
            async move { Arc::new(schema.open().await) as Arc<dyn Documents> }
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
    let bodies = claimed.iter();
    bodies
        .map(|claimed| &*claimed.outgoing.publication.message.body)
        .collect()
}

fn ids(claimed: &[Claimed]) -> Vec<OutgoingId> {
    claimed.iter().map(|claimed| claimed.id.clone()).collect()
}

/// Own transactions put messages between those of commits; all of a lane keep their order, and what is undone is not there.
#[tokio::test]
async fn users_put_between_commits() {
    let Some(schema) = Schema::new() else { return };
    let documents = schema.open().await;
    let mut client = schema.client().await;
    let mut put = async |bodies: &[&str], undone: bool| {
        let messages: Vec<Outgoing> = bodies.iter().map(|body| outgoing("l", body)).collect();
        let transaction = client.transaction().await.unwrap();
        outbox::postgres::put(&transaction, &schema.name, &messages, NOW)
            .await
            .unwrap();
        if undone {
            transaction.rollback().await.unwrap();
        } else {
            transaction.commit().await.unwrap();
        }
    };
    put(&["never"], true).await;
    put(&["1", "2"], false).await;
    let batch = [commit("a", &[("l", "3"), ("k", "x")])];
    let committed = documents.commit(&batch, NOW).await.unwrap();
    let Committed::Done(held) = &committed[0] else {
        panic!("not done: {committed:?}");
    };
    assert_eq!(bodies(held), [b"x"], "the lane is not free");
    put(&["4"], false).await;
    let claimed = documents.claim_outgoing(10, NOW).await.unwrap();
    assert_eq!(bodies(&claimed), [b"1", b"2", b"3", b"4"]);
    put(&["5"], false).await;
    assert!(documents.claim_outgoing(10, NOW).await.unwrap().is_empty());
    let next = documents.sent(&ids(&claimed), NOW).await.unwrap();
    assert_eq!(bodies(&next), [b"5"]);
    documents.close().await;
}

/// Two transactions that ask about one message at the same time: the one that commits was the first.
#[tokio::test]
async fn users_ask_the_inbox() {
    let Some(schema) = Schema::new() else { return };
    let documents = schema.open().await;
    let (mut one, mut other) = (schema.client().await, schema.client().await);
    let begun = one.transaction().await.unwrap();
    assert!(
        inbox::postgres::first(&begun, &schema.name, "c", "m", NOW)
            .await
            .unwrap()
    );
    let name = schema.name.clone();
    let waiting = tokio::spawn(async move {
        let second = other.transaction().await.unwrap();
        let first = inbox::postgres::first(&second, &name, "c", "m", NOW).await;
        second.commit().await.unwrap();
        first.unwrap()
    });
    begun.commit().await.unwrap();
    assert!(!waiting.await.unwrap());
    let committed = documents.commit(&[commit("m", &[])], NOW).await.unwrap();
    assert!(matches!(committed[..], [Committed::Repeated(_)]));
    documents.close().await;
}

/// A message that waits behind nothing, since two processes overlooked it at the same time, is found.
#[tokio::test]
async fn overlooked_lanes_are_mended() {
    let Some(schema) = Schema::new() else { return };
    let documents = schema.open().await;
    let batch = [commit("a", &[("l", "1")]), commit("b", &[("l", "2")])];
    documents.commit(&batch, NOW).await.unwrap();
    let gone = format!(
        "DELETE FROM {}.outgoing WHERE claimable_at_ms IS NOT NULL",
        quoted(&schema.name)
    );
    schema.client().await.batch_execute(&gone).await.unwrap();
    let claimed = documents.claim_outgoing(10, NOW).await.unwrap();
    assert_eq!(bodies(&claimed), [b"2"]);
    documents.close().await;
}

/// Leases that nothing in a test waits for.
async fn open_long(schema: &Schema) -> PostgresDocuments {
    let options = PostgresDocumentsOptions {
        lease: Duration::from_secs(3600),
        ..PostgresDocumentsOptions::new(&*schema.url, &*schema.name, &conformance::kinds())
    };
    PostgresDocuments::connect(options).await.unwrap()
}

/// Claims until there is something.
async fn claim_soon(documents: &PostgresDocuments) -> Vec<Claimed> {
    let end = Instant::now() + Duration::from_secs(20);
    loop {
        let claimed = documents.claim_outgoing(100, NOW).await.unwrap();
        if !claimed.is_empty() {
            return claimed;
        }
        assert!(Instant::now() < end, "nothing is free");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Of two processes that hold messages and deadlines, one ends without a word, and one loses only the connection that shows that it lives: a third
/// gets what the first one held, long before its lease is over, and nothing of the other's.
#[tokio::test(flavor = "multi_thread")]
async fn what_an_ended_process_held_is_free_and_no_other() {
    let Some(schema) = Schema::new() else {
        return;
    };
    let (lives, ends) = (open_long(&schema).await, open_long(&schema).await);
    let third = open_long(&schema).await;
    let due = |id: &str| {
        let key = Key::new("order", id);
        let deadline = super::super::DeadlineChange::Set {
            key,
            name: "d".into(),
            at: Timestamp(1),
        };
        Commit {
            deadlines: vec![deadline],
            ..commit(id, &[])
        }
    };
    for (documents, id) in [(&lives, "lives"), (&ends, "ends")] {
        let publish = [(id, id), (id, "second")];
        let batch = [commit(&format!("{id}-m"), &publish), due(id)];
        documents.commit(&batch, NOW).await.unwrap();
        let claimed = documents.claim_deadlines(10, NOW).await.unwrap();
        assert_eq!(claimed.len(), 1);
    }
    let client = schema.client().await;
    let schema_of = format!("SET search_path TO {}", quoted(&schema.name));
    client.batch_execute(&schema_of).await.unwrap();
    let held = "SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND granted
                AND classid = 'holders'::regclass::oid AND objid = $1::int4::oid";
    let id = lives.0.holder.id();
    let pid: i32 = client.query_one(held, &[&id]).await.unwrap().get(0);
    let end_session = "SELECT pg_terminate_backend($1)";
    client.query(end_session, &[&pid]).await.unwrap();
    let end = Instant::now() + Duration::from_secs(20);
    loop {
        let rows = client.query(held, &[&id]).await.unwrap();
        if rows.first().is_some_and(|row| row.get::<_, i32>(0) != pid) {
            break;
        }
        assert!(Instant::now() < end, "it shows again that it lives");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }

    drop(ends);
    let began = Instant::now();
    assert_eq!(
        bodies(&claim_soon(&third).await),
        [b"ends".as_slice(), b"second"]
    );
    assert!(began.elapsed() < Duration::from_secs(10));
    let due = third.claim_deadlines(10, NOW).await.unwrap();
    assert_eq!(due.len(), 1);
    assert_eq!(&*due[0].key.id, "ends");
    assert!(third.claim_outgoing(100, NOW).await.unwrap().is_empty());
    lives.close().await;
    third.close().await;
}
