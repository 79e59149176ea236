//! What is read.

use std::{collections::HashMap, sync::Arc};

use futures_util::TryStreamExt;
use leveret_core::time::Timestamp;
use mongodb::bson::{Document as Doc, doc};

use super::{
    Inner,
    error::Failure,
    expressions::{array, each},
    layout::{self, Stored, key_id},
};
use crate::service::documents::{Backlog, Document, Key, Order, Page, Query, cursor::Cursor};

pub(super) async fn load(inner: &Inner, keys: &[Key]) -> Result<Vec<Document>, Failure> {
    let ids: Vec<String> = keys.iter().map(key_id).collect();
    let found = inner
        .durable
        .find(doc! { "_id": { "$in": &ids } })
        .projection(doc! { "version": 1, "state": 1, "created_at": 1, "parked": 1 });
    let found: Vec<Doc> = inner
        .exchange(async { found.await?.try_collect().await })
        .await?;
    let mut by_id = HashMap::with_capacity(found.len());
    for document in &found {
        by_id.insert(Stored(document).text("_id")?, document);
    }
    let keys = keys.iter().zip(&ids);
    keys.map(|(key, id)| match by_id.get(&**id) {
        Some(found) => layout::document(found, key.clone()),
        None => Ok(Document {
            key: key.clone(),
            version: 0,
            state: None,
            created_at: Timestamp(0),
            parked: Vec::new(),
        }),
    })
    .collect()
}

pub(super) async fn page(
    inner: &Inner,
    query: &Query,
    after: Option<&Cursor>,
) -> Result<Page, Failure> {
    let (than, or, direction) = match query.order {
        Order::Newest => ("$lt", "$lte", -1),
        Order::Oldest => ("$gt", "$gte", 1),
    };
    let mut matching = matching(&query.kind, &query.filter);
    if let Some(Cursor { created_at, id }) = after {
        // The first bound is the index's.
        matching.push(doc! { "created_at": { or: created_at.0 } });
        matching.push(doc! { "$or": [
            { "created_at": { than: created_at.0 } },
            { "created_at": created_at.0, "id": { than: &**id } },
        ] });
    }
    let found = inner
        .durable
        .find(doc! { "$and": matching })
        .sort(doc! { "created_at": direction, "id": direction })
        .limit(i64::from(query.limit) + 1)
        .projection(doc! { "id": 1, "version": 1, "state": 1, "created_at": 1 });
    let found: Vec<Doc> = inner
        .exchange(async { found.await?.try_collect().await })
        .await?;
    let mut documents = Vec::with_capacity(found.len());
    for found in &found {
        let key = Key::new(query.kind.clone(), Stored(found).text("id")?);
        documents.push(layout::document(found, key)?);
    }
    Ok(Page::cut(documents, query.limit))
}

pub(super) async fn count(
    inner: &Inner,
    kind: &str,
    filter: &[(Arc<str>, Arc<str>)],
) -> Result<u64, Failure> {
    let matching = doc! { "$and": matching(kind, filter) };
    inner
        .exchange(inner.durable.count_documents(matching))
        .await
}

/// What documents of a list have.
fn matching(kind: &str, filter: &[(Arc<str>, Arc<str>)]) -> Vec<Doc> {
    let mut all = vec![doc! { "kind": kind }, doc! { "state": { "$exists": true } }];
    let fields = filter.iter();
    all.extend(fields.map(|(field, value)| doc! { format!("fields.{field}"): &**value }));
    all
}

pub(super) async fn backlog(inner: &Inner) -> Result<Backlog, Failure> {
    let outgoing = waiting(inner, doc! { "due": { "$gte": 0_i64 } }, "out").await?;
    let parked = waiting(inner, doc! { "parked.at": { "$exists": true } }, "parked").await?;
    let deadlines = waiting(
        inner,
        doc! { "deadline": { "$gte": i64::MIN } },
        "deadlines",
    )
    .await?;
    Ok(Backlog {
        outgoing: outgoing.0,
        outgoing_oldest: outgoing.1,
        parked: parked.0,
        parked_oldest: parked.1,
        deadlines: deadlines.0,
    })
}

/// How many entries the arrays of this name have, and the first time in them.
async fn waiting(
    inner: &Inner,
    there: Doc,
    name: &str,
) -> Result<(u64, Option<Timestamp>), Failure> {
    let stages = [
        doc! { "$match": there },
        doc! { "$project": {
            "count": { "$size": array(name) },
            "oldest": { "$min": each(array(name), "at") },
        } },
        doc! { "$group": { "_id": null, "count": { "$sum": "$count" }, "oldest": { "$min": "$oldest" } } },
    ];
    let found: Vec<Doc> = inner
        .exchange(async { inner.durable.aggregate(stages).await?.try_collect().await })
        .await?;
    let Some(found) = found.first().map(Stored) else {
        return Ok((0, None));
    };
    let oldest = found.optional_number("oldest").map(Timestamp);
    Ok((found.number("count")? as u64, oldest))
}
