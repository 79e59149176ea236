//! Which messages were handled.

use std::collections::{HashMap, HashSet};

use futures_util::TryStreamExt;
use mongodb::bson::{Bson, Document as Doc, doc};

use super::{
    Inner, all,
    error::Failure,
    expressions::{array, filter, is_one_of, literal, not, settled},
    layout::{Stored, as_document, handled_id},
};
use crate::service::documents::Handled;

/// Those of these messages that were handled, in their order.
pub(super) async fn handled_before(
    inner: &Inner,
    handled: &[Handled],
) -> Result<Vec<Handled>, Failure> {
    if handled.is_empty() {
        return Ok(Vec::new());
    }
    let ids: Vec<String> = handled.iter().map(handled_id).collect();
    let found = inner
        .durable
        .find(doc! { "inbox.id": { "$in": &ids } })
        .projection(doc! { "inbox.id": 1 });
    let found: Vec<Doc> = inner
        .exchange(async { found.await?.try_collect().await })
        .await?;
    let mut before = HashSet::new();
    for document in &found {
        for entry in Stored(document).array("inbox")? {
            before.insert(Stored(as_document(entry)?).text("id")?);
        }
    }
    let handled = handled.iter().zip(&ids);
    let handled = handled.filter(|(_, id)| before.contains(&***id));
    Ok(handled.map(|(handled, _)| handled.clone()).collect())
}

/// Removes entries from before that moment, the oldest ones, and carriers that hold nothing else.
pub(super) async fn prune(inner: &Inner, before_ms: i64, limit: usize) -> Result<u64, Failure> {
    if limit == 0 {
        return Ok(0);
    }
    let old = inner
        .durable
        .find(doc! { "inbox_since": { "$lt": before_ms } })
        .sort(doc! { "inbox_since": 1 })
        .limit(limit as i64)
        .projection(doc! { "inbox": 1 });
    let old: Vec<Doc> = inner
        .exchange(async { old.await?.try_collect().await })
        .await?;
    let chosen = oldest(&old, before_ms, limit)?;
    let pruned = chosen.iter().map(|(home, ids)| async move {
        let left = filter(array("inbox"), not(is_one_of("id", literal(ids.clone()))));
        let update = vec![doc! { "$set": { "inbox": left } }, settled()];
        // One of two that forget at the same time counts.
        let there = doc! { "_id": home, "inbox.id": ids[0] };
        let updated = inner
            .exchange(inner.light.update_one(there, update))
            .await?;
        remove_empty(inner, home).await?;
        Ok(if updated.matched_count > 0 {
            ids.len() as u64
        } else {
            0
        })
    });
    let pruned: Vec<u64> = all(pruned.collect()).await?;
    Ok(pruned.into_iter().sum())
}

/// The oldest entries of all, by where they lie.
fn oldest(
    documents: &[Doc],
    before_ms: i64,
    limit: usize,
) -> Result<HashMap<&str, Vec<&str>>, Failure> {
    let mut entries = Vec::new();
    for document in documents {
        let home = Stored(document).text("_id")?;
        for entry in Stored(document).array("inbox")? {
            let entry = Stored(as_document(entry)?);
            let at = entry.number("at")?;
            if at < before_ms {
                entries.push((at, home, entry.text("id")?));
            }
        }
    }
    entries.sort_unstable();
    let mut chosen: HashMap<&str, Vec<&str>> = HashMap::new();
    for (_, home, id) in entries.into_iter().take(limit) {
        chosen.entry(home).or_default().push(id);
    }
    Ok(chosen)
}

/// Removes a carrier in which nothing is left. Not a document of the service: its version goes on.
pub(super) async fn remove_empty(inner: &Inner, home: &str) -> Result<(), Failure> {
    if !home.starts_with('/') {
        return Ok(());
    }
    let none = Bson::from(doc! { "$exists": false });
    let empty = doc! { "_id": home, "out": none.clone(), "inbox": none };
    inner.exchange(inner.light.delete_one(empty)).await?;
    Ok(())
}
