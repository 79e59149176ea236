//! How many commits a second: one document with a field that changes, an inbox entry and a message that is sent, in batches.
//!
//! ```text
//! cargo test --release -p leveret --lib documents::measure -- --ignored --nocapture
//! ```

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use leveret_core::{json::Json, time::Timestamp};
use serde_json::json;

use super::{Commit, Committed, Documents, Handled, Key, NewState, Outgoing, Put, conformance};
use crate::broker::{Message, Publication};

/// How long one size of a batch is measured.
const EACH: Duration = Duration::from_secs(3);

/// How many documents take turns.
const DOCUMENTS: usize = 5000;

/// The `turn`-th change of a document, which has version `turn`.
fn change(number: usize, turn: u64) -> Commit {
    let id: Arc<str> = format!("order-{number:08}").into();
    let message: Arc<str> = format!("{id}.{turn}").into();
    let status = ["PENDING", "PAID", "COMPLETED"][turn as usize % 3];
    let state = json!({ "order_id": &*id, "status": status, "note": "x".repeat(300) });
    Commit {
        handled: vec![Handled {
            consumer: "orders".into(),
            message_id: message.clone(),
        }],
        put: vec![Put {
            key: Key::new("order", id.clone()),
            expected: turn,
            version: turn + 1,
            state: NewState::Set(
                Json::from(state.clone()),
                [("status".into(), status.into())].into(),
            ),
        }],
        publish: vec![Outgoing {
            lane: id,
            publication: Publication::to_queue(
                "order_queue",
                Message {
                    message_id: Some(message),
                    ..Message::json(state.to_string())
                },
            ),
            must_route: false,
        }],
        ..Commit::default()
    }
}

async fn measure(name: &str, documents: &dyn Documents) {
    let now = Timestamp(1_700_000_000_000);
    let mut changes = (0..).flat_map(|turn| (0..DOCUMENTS).map(move |number| (number, turn)));
    for size in [1, 8, 64, 256] {
        let (mut count, mut committing, mut sending) = (0, Duration::ZERO, Duration::ZERO);
        while committing + sending < EACH {
            let batch: Vec<Commit> = changes
                .by_ref()
                .take(size)
                .map(|(number, turn)| change(number, turn))
                .collect();
            let begun = Instant::now();
            let committed = documents.commit(&batch, now).await.unwrap();
            committing += begun.elapsed();
            let mut ids = Vec::new();
            for one in committed {
                let Committed::Done(claimed) = one else {
                    panic!("not done: {one:?}");
                };
                ids.extend(claimed.into_iter().map(|claimed| claimed.id));
            }
            assert_eq!(ids.len(), batch.len(), "no lane waits");
            let begun = Instant::now();
            documents.sent(&ids, now).await.unwrap();
            sending += begun.elapsed();
            count += batch.len();
        }
        let rate = |time: Duration| count as f64 / time.as_secs_f64();
        println!(
            "{name}, {size} a batch: {:.0} commits/s, {:.0} with what is sent",
            rate(committing),
            rate(committing + sending)
        );
    }
    documents.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement"]
async fn sqlite() {
    let path = crate::sqlite::tests::TempPath::new();
    let documents = super::sqlite::SqliteDocuments::open(path.open(), &conformance::kinds());
    measure("SQLite", &documents.unwrap()).await;
}

#[cfg(feature = "postgres")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement"]
async fn postgres() {
    let Some(schema) = super::postgres::tests::Schema::new() else {
        return;
    };
    measure("PostgreSQL", &schema.open().await).await;
}
