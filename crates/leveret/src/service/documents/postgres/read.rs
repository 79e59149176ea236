//! What is read.

use std::{collections::HashMap, sync::Arc};

use leveret_core::{json::Json, time::Timestamp};
use tokio_postgres::{Row, types::ToSql};

use super::error::Failure;
use crate::{
    broker::{Message, Publication, properties},
    postgres::Pool,
    service::documents::{
        Backlog, Claimed, Document, Handled, Key, Outgoing, OutgoingId, Page, Parked, Query,
        cursor::Cursor, lists,
    },
};

const LOAD: &str = "
    SELECT d.kind, d.id, d.version, d.created_at_ms, d.state FROM unnest($1::text[], $2::text[]) AS n (kind, id)
    JOIN documents AS d ON d.kind = n.kind AND d.id = n.id";

const LOAD_PARKED: &str = "
    SELECT p.kind, p.id, p.consumer, p.message_id, p.position, p.at_ms, p.queue, p.properties, p.body
    FROM unnest($1::text[], $2::text[]) AS n (kind, id)
    JOIN parked AS p ON p.kind = n.kind AND p.id = n.id
    ORDER BY p.position, p.entry";

/// Documents, and then what is parked for them: nothing that was parked before is left out.
pub(super) async fn load(pool: &Pool, keys: &[Key]) -> Result<Vec<Document>, Failure> {
    if keys.is_empty() {
        return Ok(Vec::new());
    }
    let mut sorted: Vec<&Key> = keys.iter().collect();
    sorted.sort_unstable();
    sorted.dedup();
    let (kinds, ids): (Vec<&str>, Vec<&str>) =
        sorted.iter().map(|key| (&*key.kind, &*key.id)).unzip();
    let mut lease = pool.lease().await?;
    let (load, load_parked) = (
        lease.statement(LOAD).await?,
        lease.statement(LOAD_PARKED).await?,
    );
    let client = lease.client();
    let params: [&(dyn ToSql + Sync); 2] = [&kinds, &ids];
    let (documents, all_parked) = tokio::try_join!(
        biased;
        client.query(&load, &params),
        client.query(&load_parked, &params),
    )?;
    let mut found: HashMap<Key, Document> = HashMap::with_capacity(documents.len());
    for row in &documents {
        let key = Key::new(row.try_get::<_, &str>(0)?, row.try_get::<_, &str>(1)?);
        let document = document(row, key.clone(), 2)?;
        found.insert(key, document);
    }
    for row in &all_parked {
        let parked = parked(row)?;
        if let Some(document) = found.get_mut(&parked.key) {
            document.parked.push(parked);
        }
    }
    let load = |key: &Key| found.get(key).cloned().unwrap_or_else(|| none(key));
    Ok(keys.iter().map(load).collect())
}

fn none(key: &Key) -> Document {
    Document {
        key: key.clone(),
        version: 0,
        state: None,
        created_at: Timestamp(0),
        parked: Vec::new(),
    }
}

/// A document of the columns version, time, state.
fn document(row: &Row, key: Key, column: usize) -> Result<Document, Failure> {
    let state: Option<String> = row.try_get(column + 2)?;
    let state = state.map(Json::from_text).transpose();
    let created_at: Option<i64> = row.try_get(column + 1)?;
    Ok(Document {
        key,
        version: row.try_get::<_, i64>(column)? as u64,
        created_at: Timestamp(created_at.unwrap_or(0)),
        state: state.map_err(|error| Failure::corrupt("state", &error))?,
        parked: Vec::new(),
    })
}

fn parked(row: &Row) -> Result<Parked, Failure> {
    Ok(Parked {
        key: Key::new(row.try_get::<_, &str>(0)?, row.try_get::<_, &str>(1)?),
        handled: Handled {
            consumer: text(row, 2)?,
            message_id: text(row, 3)?,
        },
        order: row.try_get::<_, i64>(4)? as u64,
        at: Timestamp(row.try_get(5)?),
        queue: text(row, 6)?,
        message: message(row, 7)?,
    })
}

fn text(row: &Row, column: usize) -> Result<Arc<str>, Failure> {
    Ok(row.try_get::<_, &str>(column)?.into())
}

/// A message, of a column of properties and one of the body.
fn message(row: &Row, column: usize) -> Result<Message, Failure> {
    let message = properties::from_text(row.try_get(column)?);
    let message = message.map_err(|error| Failure::corrupt("message", &error))?;
    Ok(Message {
        body: row.try_get::<_, Vec<u8>>(column + 1)?.into(),
        ..message
    })
}

/// Outgoing messages that were claimed, in the order of their places.
pub(super) fn claimed(rows: &[Row]) -> Result<Vec<Claimed>, Failure> {
    let mut all = Vec::with_capacity(rows.len());
    for row in rows {
        let lane = text(row, 1)?;
        let publication = Publication {
            copied: row.try_get(5)?,
            exchange: text(row, 6)?,
            routing_key: text(row, 7)?,
            message: message(row, 8)?,
        };
        let claimed = Claimed {
            id: OutgoingId::new(row.try_get::<_, i64>(2)? as u64, &lane),
            created_at: Timestamp(row.try_get(3)?),
            outgoing: Outgoing {
                lane,
                publication,
                must_route: row.try_get(4)?,
            },
        };
        all.push((row.try_get::<_, i64>(0)?, claimed));
    }
    all.sort_unstable_by_key(|(place, _)| *place);
    Ok(all.into_iter().map(|(_, claimed)| claimed).collect())
}

pub(super) async fn page(
    pool: &Pool,
    query: &Query,
    after: Option<&Cursor>,
) -> Result<Page, Failure> {
    let list = lists::page(query, after, '$');
    let texts = list.texts.iter().map(|text| text as &(dyn ToSql + Sync));
    let numbers = list.numbers.iter();
    let params: Vec<_> = texts
        .chain(numbers.map(|number| number as &(dyn ToSql + Sync)))
        .collect();
    let rows = pool.lease().await?.query(list.sql, &params).await?;
    let mut documents = Vec::with_capacity(rows.len());
    for row in &rows {
        let key = Key::new(query.kind.clone(), text(row, 0)?);
        documents.push(document(row, key, 1)?);
    }
    Ok(Page::cut(documents, query.limit))
}

pub(super) async fn count(
    pool: &Pool,
    kind: &str,
    filter: &[(Arc<str>, Arc<str>)],
) -> Result<u64, Failure> {
    let list = lists::count(kind, filter, '$');
    let texts = list.texts.iter().map(|text| text as &(dyn ToSql + Sync));
    let params: Vec<_> = texts.collect();
    let rows = pool.lease().await?.query(list.sql, &params).await?;
    let count: Option<i64> = rows.first().map(|row| row.try_get(0)).transpose()?;
    Ok(count.unwrap_or(0) as u64)
}

pub(super) async fn next_deadline(pool: &Pool) -> Result<Option<Timestamp>, Failure> {
    let sql = "SELECT min(claimable_at_ms) FROM deadlines";
    let rows = pool.lease().await?.query(sql, &[]).await?;
    let first: Option<Option<i64>> = rows.first().map(|row| row.try_get(0)).transpose()?;
    Ok(first.flatten().map(Timestamp))
}

pub(super) async fn backlog(pool: &Pool) -> Result<Backlog, Failure> {
    let sql = "
        SELECT o.count, o.oldest, p.count, p.oldest, (SELECT count(*) FROM deadlines)
        FROM (SELECT count(*) AS count, min(created_at_ms) AS oldest FROM outgoing) AS o,
             (SELECT count(*) AS count, min(at_ms) AS oldest FROM parked) AS p";
    let rows = pool.lease().await?.query(sql, &[]).await?;
    let Some(row) = rows.first() else {
        return Ok(Backlog::default());
    };
    let count = |column| row.try_get::<_, i64>(column).map(|count| count as u64);
    let oldest = |column| {
        let oldest = row.try_get::<_, Option<i64>>(column);
        oldest.map(|oldest| oldest.map(Timestamp))
    };
    Ok(Backlog {
        outgoing: count(0)?,
        outgoing_oldest: oldest(1)?,
        parked: count(2)?,
        parked_oldest: oldest(3)?,
        deadlines: count(4)?,
    })
}
