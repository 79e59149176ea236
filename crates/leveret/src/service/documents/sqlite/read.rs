//! What is read from the file.

use leveret_core::{json::Json, time::Timestamp};
use rusqlite::{Row, ToSql, params_from_iter};

use super::super::{
    Backlog, Claimed, Document, DocumentsError, Due, Handled, Key, Outgoing, OutgoingId, Page,
    Parked, Query, cursor::Cursor, lanes::Held, lists,
};
use crate::{
    broker::{Message, Publication, properties},
    sqlite::Session,
};

fn corrupt(what: &str, error: &dyn std::fmt::Display) -> DocumentsError {
    DocumentsError::Refused {
        detail: format!("stored {what} cannot be read: {error}"),
    }
}

/// A document, and then what is parked for it: nothing that was parked before is left out.
pub(super) fn document(session: &Session<'_>, key: Key) -> Result<Document, DocumentsError> {
    let found = session.row(
        "SELECT version, created_at_ms, state FROM documents WHERE kind = ?1 AND id = ?2",
        (&*key.kind, &*key.id),
        |row| {
            let created_at = row.get::<_, Option<i64>>(1)?;
            Ok::<_, DocumentsError>((row.get::<_, i64>(0)?, created_at, state(row, 2)?))
        },
    )?;
    let Some((version, created_at, state)) = found else {
        return Ok(Document {
            key,
            version: 0,
            state: None,
            created_at: Timestamp(0),
            parked: Vec::new(),
        });
    };
    let parked = session.rows(
        "SELECT consumer, message_id, position, at_ms, queue, properties, body FROM parked
         WHERE kind = ?1 AND id = ?2 ORDER BY position, entry",
        (&*key.kind, &*key.id),
        |row| parked(row, &key),
    )?;
    Ok(Document {
        version: version as u64,
        state,
        created_at: Timestamp(created_at.unwrap_or(0)),
        parked,
        key,
    })
}

fn state(row: &Row<'_>, column: usize) -> Result<Option<Json>, DocumentsError> {
    let text: Option<String> = row.get(column)?;
    let json = text.map(Json::from_text).transpose();
    json.map_err(|error| corrupt("state", &error))
}

fn parked(row: &Row<'_>, key: &Key) -> Result<Parked, DocumentsError> {
    Ok(Parked {
        key: key.clone(),
        handled: Handled {
            consumer: row.get(0)?,
            message_id: row.get(1)?,
        },
        order: row.get::<_, i64>(2)? as u64,
        at: Timestamp(row.get(3)?),
        queue: row.get(4)?,
        message: message(row, 5)?,
    })
}

/// A message, of a column of properties and one of the body.
fn message(row: &Row<'_>, column: usize) -> Result<Message, DocumentsError> {
    let properties = row.get_ref(column)?.as_str_or_null();
    let properties = properties.map_err(|error| corrupt("message", &error))?;
    let message = properties::from_text(properties).map_err(|error| corrupt("message", &error))?;
    Ok(Message {
        body: row.get::<_, Vec<u8>>(column + 1)?.into(),
        ..message
    })
}

/// Outgoing messages, in the order of the numbers given.
pub(super) fn outgoing(
    session: &Session<'_>,
    held: &[Held],
) -> Result<Vec<Claimed>, DocumentsError> {
    let mut found = Vec::with_capacity(held.len());
    for (number, lane) in held {
        let claimed = session.row(
            "SELECT created_at_ms, must_route, copied, exchange, routing_key, properties, body FROM outgoing
             WHERE number = ?1",
            [*number as i64],
            |row| {
                let outgoing = Outgoing {
                    lane: lane.clone(),
                    publication: Publication {
                        exchange: row.get(3)?,
                        routing_key: row.get(4)?,
                        message: message(row, 5)?,
                        copied: row.get(2)?,
                    },
                    must_route: row.get(1)?,
                };
                Ok::<_, DocumentsError>(Claimed {
                    id: OutgoingId::new(*number, lane),
                    outgoing,
                    created_at: Timestamp(row.get(0)?),
                })
            },
        )?;
        found.extend(claimed);
    }
    Ok(found)
}

/// The first deadlines, in the order of time, that are due.
pub(super) fn due(
    session: &Session<'_>,
    now: Timestamp,
    limit: usize,
) -> Result<Vec<Due>, DocumentsError> {
    session.rows(
        "SELECT kind, id, name, at_ms FROM deadlines WHERE at_ms <= ?1 ORDER BY at_ms LIMIT ?2",
        (now.0, limit as i64),
        |row| {
            Ok(Due {
                key: Key {
                    kind: row.get(0)?,
                    id: row.get(1)?,
                },
                name: row.get(2)?,
                at: Timestamp(row.get(3)?),
            })
        },
    )
}

pub(super) fn page(
    session: &Session<'_>,
    query: &Query,
    after: Option<&Cursor>,
) -> Result<Page, DocumentsError> {
    let list = lists::page(query, after, '?');
    let texts = list.texts.iter().map(|text| text as &dyn ToSql);
    let numbers = list.numbers.iter().map(|number| number as &dyn ToSql);
    let mut statement = session.prepare_cached(&list.sql)?;
    let mut rows = statement.query(params_from_iter(texts.chain(numbers)))?;
    let mut documents = Vec::new();
    while let Some(row) = rows.next()? {
        documents.push(Document {
            key: Key {
                kind: query.kind.clone(),
                id: row.get(0)?,
            },
            version: row.get::<_, i64>(1)? as u64,
            created_at: Timestamp(row.get(2)?),
            state: state(row, 3)?,
            parked: Vec::new(),
        });
    }
    Ok(Page::cut(documents, query.limit))
}

pub(super) fn count(
    session: &Session<'_>,
    kind: &str,
    filter: &[(std::sync::Arc<str>, std::sync::Arc<str>)],
) -> Result<u64, DocumentsError> {
    let list = lists::count(kind, filter, '?');
    let mut statement = session.prepare_cached(&list.sql)?;
    let count: i64 = statement.query_row(params_from_iter(list.texts), |row| row.get(0))?;
    Ok(count as u64)
}

/// What waits, but for the outbox.
pub(super) fn backlog(session: &Session<'_>) -> Result<Backlog, DocumentsError> {
    let found = session.row(
        "SELECT (SELECT count(*) FROM parked), (SELECT min(at_ms) FROM parked), (SELECT count(*) FROM deadlines)",
        [],
        |row| {
            Ok::<_, DocumentsError>(Backlog {
                parked: row.get::<_, i64>(0)? as u64,
                parked_oldest: row.get::<_, Option<i64>>(1)?.map(Timestamp),
                deadlines: row.get::<_, i64>(2)? as u64,
                ..Backlog::default()
            })
        },
    )?;
    Ok(found.unwrap_or_default())
}
