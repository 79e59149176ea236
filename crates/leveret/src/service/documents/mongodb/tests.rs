//! Documents in MongoDB: the suite, and what only this adapter promises. Against the server of `LEVERET_TEST_MONGODB_URL`, in collections that are
//! dropped at the end.

mod restarts;

use std::sync::{Mutex, PoisonError};

use leveret_core::json::Json;
use mongodb::event::{EventHandler, command::CommandEvent};
use serde_json::json;

use super::*;
use crate::{
    broker::{Message, Publication},
    service::documents::{
        DeadlineChange, Fields, Handled, NewState, Outgoing, Parked, Put, conformance,
    },
};

const NOW: Timestamp = Timestamp(1_000_000_000_000);

/// Collections that are dropped when it is.
pub(in super::super) struct Schema {
    url: String,
    name: String,
}

impl Schema {
    pub(in super::super) fn new() -> Option<Schema> {
        let Ok(url) = std::env::var("LEVERET_TEST_MONGODB_URL") else {
            println!("skipped: LEVERET_TEST_MONGODB_URL is not set");
            return None;
        };
        let name = format!("test-{:016x}", fastrand::u64(..));
        Some(Schema { url, name })
    }

    fn options(&self) -> MongoDocumentsOptions {
        MongoDocumentsOptions {
            lease: Duration::from_secs(4),
            ..MongoDocumentsOptions::new(&*self.url, &*self.name, &conformance::kinds())
        }
    }

    pub(in super::super) async fn open(&self) -> MongoDocuments {
        MongoDocuments::connect(self.options()).await.unwrap()
    }
}

impl Drop for Schema {
    fn drop(&mut self) {
        let (url, name) = (self.url.clone(), self.name.clone());
        let dropped = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build();
            runtime.unwrap().block_on(async {
                let client = Client::with_uri_str(&url).await.unwrap();
                let database = client.default_database().unwrap();
                for part in ["documents", "versions"] {
                    let collection = database.collection::<Doc>(&format!("{name}.{part}"));
                    collection.drop().await.unwrap();
                }
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
        // The first handle makes the indexes.
        schema.open().await.close().await;
        conformance::Fresh::new(move || {
            let schema = schema.clone();
            async move { Arc::new(schema.open().await) as Arc<dyn Documents> }
        })
    })
    .await;
}

fn handled(id: &str) -> Handled {
    Handled {
        consumer: "c".into(),
        message_id: id.into(),
    }
}

fn put(id: &str, expected: u64) -> Commit {
    Commit {
        put: vec![Put {
            key: Key::new("order", id),
            expected,
            version: expected + 1,
            state: NewState::Set(
                Json::from(json!({ "version": expected + 1 })),
                Fields::new(),
            ),
        }],
        ..Commit::default()
    }
}

fn outgoing(lane: &str, body: &str) -> Outgoing {
    Outgoing {
        lane: lane.into(),
        publication: Publication::to_queue("q", Message::json(body.to_owned())),
        must_route: false,
    }
}

/// A commit of each thing that a commit can say.
fn everything(id: &str) -> Commit {
    let key = Key::new("order", id);
    Commit {
        handled: vec![handled(id)],
        publish: vec![outgoing(&format!("order/{id}"), "x")],
        deadlines: vec![DeadlineChange::Set {
            key: key.clone(),
            name: "d".into(),
            at: NOW,
        }],
        park: vec![Parked {
            key,
            handled: handled("early"),
            order: 7,
            at: NOW,
            message: Message::json("p"),
            queue: "q".into(),
        }],
        ..put(id, 0)
    }
}

async fn done(documents: &MongoDocuments, commit: Commit) -> Vec<Claimed> {
    match documents.commit(&[commit], NOW).await.unwrap().remove(0) {
        Committed::Done(claimed) => claimed,
        other => panic!("not done: {other:?}"),
    }
}

fn ids(claimed: &[Claimed]) -> Vec<OutgoingId> {
    claimed.iter().map(|claimed| claimed.id.clone()).collect()
}

/// The commands that the driver sends while every method is called: none of a transaction, none that the server could repeat, and of what a
/// commit says one write. Drivers name an implicit session, `lsid`, in each command to a server that has them; nothing is begun in it.
#[tokio::test]
async fn no_transaction_is_used() {
    let Some(schema) = Schema::new() else { return };
    let commands: Arc<Mutex<Vec<Doc>>> = Arc::default();
    let seen = commands.clone();
    let inner = open::open(schema.options(), |options| {
        options.command_event_handler = Some(EventHandler::callback(move |event| {
            if let CommandEvent::Started(started) = event {
                let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
                seen.push(started.command);
            }
        }));
    });
    let documents = MongoDocuments(Arc::new(inner.await.unwrap()));
    let take = || std::mem::take(&mut *commands.lock().unwrap());
    take();
    let held = done(&documents, everything("a")).await;
    let names: Vec<String> = take().iter().flat_map(Doc::keys).take(1).cloned().collect();
    assert_eq!(names, ["findAndModify"]);
    let repeated = documents.commit(&[everything("a")], NOW).await.unwrap();
    assert_eq!(repeated, [Committed::Repeated(vec![handled("a")])]);
    documents.release(&ids(&held)).await.unwrap();
    let held = documents.claim_outgoing(10, NOW).await.unwrap();
    assert_eq!(documents.claim_deadlines(10, NOW).await.unwrap().len(), 1);
    documents.sent(&ids(&held), NOW).await.unwrap();
    let alone = Commit {
        handled: vec![handled("alone")],
        publish: vec![outgoing("lane", "y")],
        ..Commit::default()
    };
    done(&documents, alone).await;
    documents.load(&[Key::new("order", "a")]).await.unwrap();
    documents.backlog().await.unwrap();
    let pruned = documents.prune(Timestamp(NOW.0 + 2), Duration::ZERO, 10);
    assert_eq!(pruned.await.unwrap(), 2);

    let commands = take();
    assert!(commands.len() > 10, "{commands:?}");
    for command in &commands {
        for of_transactions in ["txnNumber", "startTransaction", "autocommit", "stmtId"] {
            assert!(!command.contains_key(of_transactions), "{command}");
        }
        let name = command.keys().next().map(String::as_str);
        let known = ["findAndModify", "find", "aggregate", "update", "delete"];
        assert!(name.is_some_and(|name| known.contains(&name)), "{command}");
    }
    documents.close().await;
}

/// What a commit says lies in the document that it puts, and in no other.
#[tokio::test]
async fn a_commit_is_one_document() {
    let Some(schema) = Schema::new() else { return };
    let documents = schema.open().await;
    done(&documents, everything("a")).await;
    let all = documents.0.durable.count_documents(Doc::new()).await;
    assert_eq!(all.unwrap(), 1);
    let stored = documents.0.durable.find_one(Doc::new()).await;
    let stored = stored.unwrap().unwrap();
    for name in ["state", "inbox", "out", "deadlines", "parked"] {
        assert!(stored.contains_key(name), "{name}");
    }
    // A commit that puts none goes to the document that its lane is named after, which keeps its version.
    let bare = Commit {
        handled: vec![handled("bare")],
        publish: vec![outgoing("order/a", "behind")],
        ..Commit::default()
    };
    assert!(done(&documents, bare).await.is_empty());
    let all = documents.0.durable.count_documents(Doc::new()).await;
    assert_eq!(all.unwrap(), 1);
    let found = documents.load(&[Key::new("order", "a")]).await.unwrap();
    assert_eq!(found[0].version, 1);
    documents.close().await;
}

/// What carried a commit without a document goes when nothing is left in it; documents stay.
#[tokio::test]
async fn carriers_go_when_they_are_empty() {
    let Some(schema) = Schema::new() else { return };
    let documents = schema.open().await;
    let alone = |lane: &str, id: &str| Commit {
        handled: vec![handled(id)],
        publish: vec![outgoing(lane, "x")],
        ..Commit::default()
    };
    let mut held = done(&documents, alone("lane", "m1")).await;
    held.extend(done(&documents, alone("order/none", "m2")).await);
    let only = Commit {
        handled: vec![handled("m3"), handled("m4")],
        ..Commit::default()
    };
    done(&documents, only).await;
    assert!(documents.sent(&ids(&held), NOW).await.unwrap().is_empty());
    let pruned = documents.prune(Timestamp(NOW.0 + 2), Duration::ZERO, 10);
    assert_eq!(pruned.await.unwrap(), 4);
    let left = documents.0.durable.find_one(Doc::new()).await.unwrap();
    let left = left.expect("the document");
    assert_eq!(left.get_str("_id").unwrap(), "order/none");
    let all = documents.0.durable.count_documents(Doc::new()).await;
    assert_eq!(all.unwrap(), 1);
    documents.close().await;
}

/// A document recognises the last messages, as many as the option says, and all of one commit.
#[tokio::test]
async fn the_inbox_of_a_document_is_bounded() {
    let Some(schema) = Schema::new() else { return };
    let options = MongoDocumentsOptions {
        inbox_max: 3,
        ..schema.options()
    };
    let documents = MongoDocuments::connect(options).await.unwrap();
    for (version, id) in ["m0", "m1", "m2", "m3"].into_iter().enumerate() {
        let commit = Commit {
            handled: vec![handled(id)],
            ..put("a", version as u64)
        };
        done(&documents, commit).await;
    }
    let again = |id: &str| Commit {
        handled: vec![handled(id)],
        ..Commit::default()
    };
    for id in ["m1", "m2", "m3"] {
        let committed = documents.commit(&[again(id)], NOW).await.unwrap();
        assert_eq!(committed, [Committed::Repeated(vec![handled(id)])], "{id}");
    }
    done(&documents, again("m0")).await;
    let many: Vec<Handled> = (0..5)
        .map(|number| handled(&format!("n{number}")))
        .collect();
    let commit = Commit {
        handled: many.clone(),
        ..put("a", 4)
    };
    done(&documents, commit.clone()).await;
    let committed = documents.commit(&[commit], NOW).await.unwrap();
    assert_eq!(committed, [Committed::Repeated(many)]);
    documents.close().await;
}

/// What a newer program made is left alone; URLs that cannot be are told without their passwords.
#[tokio::test]
async fn refused_at_the_door() {
    let Some(schema) = Schema::new() else { return };
    let documents = schema.open().await;
    let versions = format!("{}.versions", schema.name);
    let database = documents.0.client.default_database().unwrap();
    let newer = mongodb::bson::doc! { "$set": { "version": 1000 } };
    let set = database.collection::<Doc>(&versions);
    set.update_one(Doc::new(), newer).await.unwrap();
    documents.close().await;
    let error = MongoDocuments::connect(schema.options()).await.unwrap_err();
    assert!(matches!(&error, DocumentsError::Refused { detail } if detail.contains("newer")));

    for url in [
        "mongodb://u:secret@127.0.0.1:1:2/x",
        "mongodb://u:secret@127.0.0.1:1/",
        "mongodb://u:sec/ret@127.0.0.1/x",
    ] {
        let options = MongoDocumentsOptions::new(url, "s", &conformance::kinds());
        let error = MongoDocuments::connect(options).await.unwrap_err();
        assert!(
            matches!(error, DocumentsError::Url { .. }),
            "{url}: {error:?}"
        );
        assert!(!error.to_string().contains("sec"), "{error}");
    }
    let url = "mongodb://127.0.0.1:1/x?serverSelectionTimeoutMS=200";
    let options = MongoDocumentsOptions::new(url, "s", &conformance::kinds());
    let error = MongoDocuments::connect(options).await.unwrap_err();
    assert!(error.is_retryable(), "{error:?}");
}
