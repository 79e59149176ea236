//! Who holds claims, and whether they live: the messages that a process held when it ended are free within [`GONE_AFTER`] and a [`BEAT`], and not
//! only when its lease is over. Its deadlines wait for the lease.
//!
//! Each process that has the documents open is a *holder*: `{ _id, seen }` in a collection of their own, where it writes the server's time every
//! [`BEAT`]; and each looks for others that were not seen for too long. One that lives and was only slow may publish what others publish then:
//! twice, with the same `message_id`, as after the end of a lease.

use std::{sync::OnceLock, time::Duration};

use futures_util::TryStreamExt;
use mongodb::{
    Collection,
    bson::{Document as Doc, doc},
    error::Error,
};
use tokio::{
    task::JoinHandle,
    time::{sleep, timeout},
};
use uuid::Uuid;

use super::{
    expressions::{after, array, is_one_of, literal, map, merged_if, now, settled},
    layout::Stored,
};

/// How often a holder says that it lives, and looks who does not.
const BEAT: Duration = Duration::from_secs(1);
/// After so long without a word, a holder is gone.
const GONE_AFTER: Duration = Duration::from_secs(5);
/// After so long it is forgotten: until then, what its last calls still wrote is found.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(120);
/// How long one look may take.
const LOOK_TIME_MAX: Duration = Duration::from_secs(30);
/// How long it may take to leave.
const LEAVE_TIME_MAX: Duration = Duration::from_secs(2);

/// This process among the holders, until it is dropped.
#[derive(Debug)]
pub(super) struct Holder {
    id: String,
    holders: Collection<Doc>,
    keeping: OnceLock<JoinHandle<()>>,
}

impl Holder {
    /// One that has not entered yet.
    pub(super) fn new(holders: Collection<Doc>) -> Holder {
        Holder {
            id: Uuid::now_v7().simple().to_string(),
            holders,
            keeping: OnceLock::new(),
        }
    }

    /// Enters, and begins to look after the others.
    pub(super) async fn enter(&self, documents: Collection<Doc>) -> Result<(), Error> {
        seen(&self.holders, &self.id).await?;
        let (holders, id) = (self.holders.clone(), self.id.clone());
        self.keeping
            .get_or_init(|| tokio::spawn(keep(holders, documents, id)));
        Ok(())
    }

    /// What its claims say.
    pub(super) fn id(&self) -> &str {
        &self.id
    }

    /// Leaves: what it still holds is free at the next look of another one.
    pub(super) async fn leave(&self) {
        self.end();
        let never = doc! { "$set": { "seen": 0_i64 } };
        let leaving = self.holders.update_one(doc! { "_id": &*self.id }, never);
        // Without it, the others notice by themselves.
        drop(timeout(LEAVE_TIME_MAX, leaving.into_future()).await);
    }

    fn end(&self) {
        if let Some(keeping) = self.keeping.get() {
            keeping.abort();
        }
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        self.end();
    }
}

async fn keep(holders: Collection<Doc>, documents: Collection<Doc>, id: String) {
    loop {
        sleep(BEAT).await;
        let look = async {
            seen(&holders, &id).await?;
            look_after_others(&holders, &documents, &id).await
        };
        match timeout(LOOK_TIME_MAX, look).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::debug!(%error, "it cannot be seen that this process lives"),
            Err(_) => tracing::debug!("the server does not say who lives"),
        }
    }
}

async fn seen(holders: &Collection<Doc>, id: &str) -> Result<(), Error> {
    let update = vec![doc! { "$set": { "seen": now() } }];
    let update = holders
        .update_one(doc! { "_id": id }, update)
        .upsert(true)
        .await;
    update.map(drop)
}

/// Frees what those hold that are gone.
async fn look_after_others(
    holders: &Collection<Doc>,
    documents: &Collection<Doc>,
    id: &str,
) -> Result<(), Error> {
    let others = [
        doc! { "$match": { "_id": { "$ne": id } } },
        doc! { "$project": { "unseen": { "$subtract": [now(), "$seen"] } } },
    ];
    let others: Vec<Doc> = holders.aggregate(others).await?.try_collect().await?;
    let unseen = |least: Duration| -> Vec<&str> {
        let those = others.iter().map(Stored).filter(|other| {
            let unseen = other.optional_number("unseen").unwrap_or(0);
            u128::try_from(unseen).is_ok_and(|unseen| unseen >= least.as_millis())
        });
        those.filter_map(|other| other.text("_id").ok()).collect()
    };
    let gone = unseen(GONE_AFTER);
    if gone.is_empty() {
        return Ok(());
    }
    let is_held = doc! { "$and": [
        is_one_of("of", literal(gone.clone())),
        { "$gt": ["$$e.until", now()] },
    ] };
    let free = merged_if(is_held, doc! { "until": after(-1), "by": "", "of": "" });
    let update = vec![
        doc! { "$set": { "out": map(array("out"), free) } },
        settled(),
    ];
    let theirs = doc! { "due": { "$gte": 0_i64 }, "out.of": { "$in": gone } };
    documents.update_many(theirs, update).await?;
    let forgotten = unseen(FORGOTTEN_AFTER);
    if !forgotten.is_empty() {
        let forgotten = doc! { "_id": { "$in": forgotten } };
        holders.delete_many(forgotten).await?;
    }
    Ok(())
}
