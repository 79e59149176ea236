//! Claims of deadlines, by the server's clock.

use std::collections::BTreeMap;

use futures_util::TryStreamExt;
use leveret_core::time::Timestamp;
use mongodb::{
    bson::{Document as Doc, doc},
    options::ReturnDocument,
};
use uuid::Uuid;

use super::{
    Inner, all,
    error::Failure,
    expressions::{after, array, filter, is_one_of, literal, map, merged_if, now, settled},
    layout::{Stored, as_document},
};
use crate::service::documents::{Due, Key};

/// How often it is looked again when others were quicker everywhere.
const LOOKS_MAX: u32 = 3;

/// The earliest that are due.
pub(super) async fn claim(inner: &Inner, limit: usize) -> Result<Vec<Due>, Failure> {
    for _ in 0..LOOKS_MAX {
        let due = due(inner, limit).await?;
        if due.is_empty() {
            return Ok(Vec::new());
        }
        let claims = due
            .iter()
            .map(|(home, names)| claim_of(inner, home, names.clone()));
        let mut claimed = all(claims.collect()).await?.concat();
        if !claimed.is_empty() {
            claimed.sort_by(|(a, one), (b, other)| {
                (a, one.at, &one.key).cmp(&(b, other.at, &other.key))
            });
            return Ok(claimed.into_iter().map(|(_, due)| due).collect());
        }
    }
    Ok(Vec::new())
}

/// The names of the earliest, by where they lie: they are among those of the documents that have an early one.
async fn due(inner: &Inner, limit: usize) -> Result<BTreeMap<String, Vec<String>>, Failure> {
    if limit == 0 {
        return Ok(BTreeMap::new());
    }
    let is_due = doc! { "$lte": ["$$e.claimable", now()] };
    let stages = [
        doc! { "$match": { "deadline": { "$gte": i64::MIN } } },
        doc! { "$sort": { "deadline": 1 } },
        doc! { "$limit": limit as i64 },
        doc! { "$project": { "deadlines": filter(array("deadlines"), is_due) } },
    ];
    let found: Vec<Doc> = inner
        .exchange(async { inner.durable.aggregate(stages).await?.try_collect().await })
        .await?;
    let mut all = Vec::new();
    for document in found.iter().map(Stored) {
        for entry in document.array("deadlines")? {
            let entry = Stored(as_document(entry)?);
            let order = (entry.number("claimable")?, entry.number("at")?);
            all.push((order, document.text("_id")?, entry.text("name")?));
        }
    }
    all.sort_unstable();
    let mut due: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (_, home, name) in all.into_iter().take(limit) {
        due.entry(home.to_owned())
            .or_default()
            .push(name.to_owned());
    }
    Ok(due)
}

/// Claims those that are still due; with each the time that it could be claimed at.
async fn claim_of(
    inner: &Inner,
    home: &str,
    names: Vec<String>,
) -> Result<Vec<(i64, Due)>, Failure> {
    let by = Uuid::now_v7().simple().to_string();
    let is_due = doc! { "$and": [
        is_one_of("name", literal(names)),
        { "$lte": ["$$e.claimable", now()] },
    ] };
    let claim = doc! { "was": "$$e.claimable", "claimable": after(inner.lease_ms), "by": &*by };
    let update = vec![
        doc! { "$set": { "deadlines": map(array("deadlines"), merged_if(is_due, claim)) } },
        settled(),
    ];
    let claimed = filter(array("deadlines"), doc! { "$eq": ["$$e.by", &*by] });
    let updated = inner
        .light
        .find_one_and_update(doc! { "_id": home }, update)
        .return_document(ReturnDocument::After)
        .projection(doc! { "kind": 1, "id": 1, "claimed": claimed });
    let Some(updated) = inner.exchange(updated).await? else {
        return Ok(Vec::new());
    };
    let stored = Stored(&updated);
    let key = Key::new(stored.text("kind")?, stored.text("id")?);
    let mut all = Vec::new();
    for entry in stored.array("claimed")? {
        let entry = Stored(as_document(entry)?);
        let due = Due {
            key: key.clone(),
            name: entry.text("name")?.into(),
            at: Timestamp(entry.number("at")?),
        };
        all.push((entry.number("was")?, due));
    }
    Ok(all)
}

/// When the next one can be claimed.
pub(super) async fn next(inner: &Inner) -> Result<Option<Timestamp>, Failure> {
    let first = inner
        .durable
        .find_one(doc! { "deadline": { "$gte": i64::MIN } })
        .sort(doc! { "deadline": 1 })
        .projection(doc! { "deadline": 1 });
    let first = inner.exchange(first).await?;
    let first = first.and_then(|first| Stored(&first).optional_number("deadline"));
    Ok(first.map(Timestamp))
}
