//! The embedded broker's tables, and how messages lie in them. All that is stored is spelled out here.
//!
//! A message's key is its queue's number and its number in the queue: one tree holds all queues, each in one piece and
//! in order, and appending, reading ahead and removing need no further index.

use std::{sync::Arc, time::Duration};

use leveret_core::time::Timestamp;
use rusqlite::Row;

use crate::{
    broker::{
        Binding, Delay, Exchange, ExchangeKind, Queue, properties,
        queues::{Stored, Waiting},
        routes::QueueId,
    },
    sqlite::{DatabaseError, Session},
};

type Result<T> = std::result::Result<T, DatabaseError>;

/// Tables by version. What is released never changes.
pub(super) const MIGRATIONS: &[&str] = &[
    "
    CREATE TABLE broker_exchanges (
        name TEXT PRIMARY KEY,
        kind TEXT NOT NULL
    ) WITHOUT ROWID;
    CREATE TABLE broker_queues (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        name TEXT NOT NULL UNIQUE,
        delay_ms INTEGER,
        delay_to TEXT,
        delivered_up_to INTEGER NOT NULL DEFAULT 0
    );
    CREATE TABLE broker_bindings (
        exchange TEXT NOT NULL,
        queue TEXT NOT NULL,
        routing_key TEXT NOT NULL,
        PRIMARY KEY (exchange, queue, routing_key)
    ) WITHOUT ROWID;
    CREATE TABLE broker_messages (
        id INTEGER PRIMARY KEY,
        due_ms INTEGER,
        exchange TEXT NOT NULL,
        routing_key TEXT NOT NULL,
        properties TEXT,
        body BLOB NOT NULL
    );
",
    "
    ALTER TABLE broker_queues ADD COLUMN single_active INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE broker_queues ADD COLUMN expires_after_ms INTEGER;
    ALTER TABLE broker_queues ADD COLUMN length_max INTEGER;
",
];

/// The low bits of a key: numbers within a queue, enough for a year at 100,000 messages a second. They begin anew when the
/// broker is opened with the queue empty.
const SEQ_BITS: u32 = 42;

/// The highest number of a queue.
const QUEUE_MAX: u32 = (1 << (63 - SEQ_BITS)) - 1;

/// A message's key. `seq` may be one past the last, for ranges.
pub(super) fn key(queue: QueueId, seq: u64) -> i64 {
    (i64::from(queue.0) << SEQ_BITS) + seq as i64
}

fn seq_of(key: i64) -> u64 {
    key as u64 & ((1 << SEQ_BITS) - 1)
}

/// The most bytes of bodies and the most messages read ahead at once.
#[derive(Clone, Copy)]
pub(super) struct PageBounds {
    pub(super) messages: usize,
    pub(super) bytes: usize,
}

pub(super) fn insert(
    session: &Session<'_>,
    queue: QueueId,
    waiting: &Waiting,
    properties: Option<&str>,
) -> Result<()> {
    check_seq(waiting.seq)?;
    let stored = &waiting.stored;
    session.execute(
        "INSERT INTO broker_messages (id, due_ms, exchange, routing_key, properties, body)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
        (
            key(queue, waiting.seq),
            due_column(waiting.due),
            &*stored.exchange,
            &*stored.routing_key,
            properties,
            &stored.message.body[..],
        ),
    )?;
    Ok(())
}

/// Moves a message to the end of another queue; false if it is gone, together with its own queue.
pub(super) fn move_to(
    session: &Session<'_>,
    from: i64,
    queue: QueueId,
    waiting: &Waiting,
) -> Result<bool> {
    check_seq(waiting.seq)?;
    let moved = session.execute(
        "UPDATE broker_messages SET id = ?2, due_ms = ?3, exchange = ?4, routing_key = ?5
         WHERE id = ?1",
        (
            from,
            key(queue, waiting.seq),
            due_column(waiting.due),
            &*waiting.stored.exchange,
            &*waiting.stored.routing_key,
        ),
    )?;
    Ok(moved == 1)
}

fn check_seq(seq: u64) -> Result<()> {
    if seq >> SEQ_BITS == 0 {
        return Ok(());
    }
    Err(DatabaseError::refused(
        "the queue ran out of numbers: drain it and open the broker again",
    ))
}

fn due_column(due: Timestamp) -> Option<i64> {
    (due != Timestamp(0)).then_some(due.0)
}

pub(super) fn delete(session: &Session<'_>, keys: impl IntoIterator<Item = i64>) -> Result<()> {
    for key in keys {
        session.execute("DELETE FROM broker_messages WHERE id = ?1", [key])?;
    }
    Ok(())
}

/// Deletes a range of a queue, both ends included.
pub(super) fn delete_range(
    session: &Session<'_>,
    queue: QueueId,
    (first, last): (u64, u64),
) -> Result<()> {
    session.execute(
        "DELETE FROM broker_messages WHERE id BETWEEN ?1 AND ?2",
        (key(queue, first), key(queue, last)),
    )?;
    Ok(())
}

/// The messages behind `after`, in order. Those up to `delivered` may have been delivered before.
pub(super) fn page(
    session: &Session<'_>,
    queue: QueueId,
    after: u64,
    delivered: u64,
    bounds: PageBounds,
) -> Result<Vec<Waiting>> {
    let mut statement = session.prepare_cached(
        "SELECT id, due_ms, exchange, routing_key, properties, body FROM broker_messages
         WHERE id > ?1 AND id < ?2 ORDER BY id LIMIT ?3",
    )?;
    let end = key(QueueId(queue.0 + 1), 0);
    let mut found = statement.query((key(queue, after), end, bounds.messages as i64))?;
    let (mut page, mut bytes) = (Vec::new(), 0);
    while bytes < bounds.bytes
        && let Some(row) = found.next()?
    {
        let waiting = decode(row, delivered)?;
        bytes += waiting.stored.message.body.len();
        page.push(waiting);
    }
    Ok(page)
}

fn decode(row: &Row<'_>, delivered: u64) -> Result<Waiting> {
    let text = |column| -> Result<Arc<str>> { Ok(row.get_ref(column)?.as_str()?.into()) };
    let seq = seq_of(row.get(0)?);
    let mut message =
        properties::from_text(row.get_ref(4)?.as_str_or_null()?).map_err(DatabaseError::refused)?;
    message.body = row.get::<_, Vec<u8>>(5)?.into();
    Ok(Waiting {
        seq,
        due: Timestamp(row.get::<_, Option<i64>>(1)?.unwrap_or(0)),
        redelivered: seq <= delivered,
        stored: Arc::new(Stored {
            message,
            exchange: text(2)?,
            routing_key: text(3)?,
        }),
    })
}

/// Persisted.
const KINDS: [(ExchangeKind, &str); 3] = [
    (ExchangeKind::Direct, "direct"),
    (ExchangeKind::Topic, "topic"),
    (ExchangeKind::Fanout, "fanout"),
];

pub(super) fn add_exchange(session: &Session<'_>, exchange: &Exchange) -> Result<()> {
    let kind = KINDS.iter().find(|(kind, _)| *kind == exchange.kind);
    session.execute(
        "INSERT INTO broker_exchanges (name, kind) VALUES (?1, ?2)",
        (&*exchange.name, kind.map(|(_, name)| *name)),
    )?;
    Ok(())
}

pub(super) fn add_queue(session: &Session<'_>, queue: &Queue) -> Result<QueueId> {
    let delay = queue.delay.as_ref();
    session.execute(
        "INSERT INTO broker_queues (name, delay_ms, delay_to, single_active, expires_after_ms, length_max)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
        (
            &*queue.name,
            delay.map(|delay| delay.after.as_millis() as i64),
            delay.map(|delay| &*delay.to),
            queue.single_active,
            queue.expires_after.map(|after| after.as_millis() as i64),
            queue.length_max.map(|length| i64::try_from(length).unwrap_or(i64::MAX)),
        ),
    )?;
    let id = session.last_insert_rowid();
    match u32::try_from(id) {
        Ok(id) if id < QUEUE_MAX => Ok(QueueId(id)),
        _ => Err(DatabaseError::refused(
            "the broker ran out of numbers for queues",
        )),
    }
}

pub(super) fn add_binding(session: &Session<'_>, binding: &Binding) -> Result<()> {
    session.execute(
        "INSERT INTO broker_bindings (exchange, queue, routing_key) VALUES (?1, ?2, ?3)",
        (&*binding.exchange, &*binding.queue, &*binding.routing_key),
    )?;
    Ok(())
}

pub(super) fn remove_binding(session: &Session<'_>, binding: &Binding) -> Result<()> {
    session.execute(
        "DELETE FROM broker_bindings WHERE exchange = ?1 AND queue = ?2 AND routing_key = ?3",
        (&*binding.exchange, &*binding.queue, &*binding.routing_key),
    )?;
    Ok(())
}

pub(super) fn remove_queue(session: &Session<'_>, queue: QueueId, name: &str) -> Result<()> {
    delete_range(session, queue, (0, (1 << SEQ_BITS) - 1))?;
    session.execute("DELETE FROM broker_bindings WHERE queue = ?1", [name])?;
    session.execute("DELETE FROM broker_queues WHERE id = ?1", [queue.0])?;
    Ok(())
}

pub(super) fn remove_exchange(session: &Session<'_>, name: &str) -> Result<()> {
    session.execute("DELETE FROM broker_bindings WHERE exchange = ?1", [name])?;
    session.execute("DELETE FROM broker_exchanges WHERE name = ?1", [name])?;
    Ok(())
}

/// Records which messages of a queue may have been delivered.
pub(super) fn set_delivered(session: &Session<'_>, queue: QueueId, upto: u64) -> Result<()> {
    session.execute(
        "UPDATE broker_queues SET delivered_up_to = ?2 WHERE id = ?1 AND delivered_up_to <> ?2",
        (queue.0, upto as i64),
    )?;
    Ok(())
}

/// A queue as it lies in the file.
pub(super) struct QueueRow {
    pub(super) id: QueueId,
    pub(super) queue: Queue,
    pub(super) count: u64,
    pub(super) tail: u64,
    pub(super) delivered: u64,
}

pub(super) struct Loaded {
    pub(super) exchanges: Vec<Exchange>,
    pub(super) queues: Vec<QueueRow>,
    pub(super) bindings: Vec<Binding>,
}

/// Reads topology and counts. The numbers of empty queues begin anew.
pub(super) fn load(session: &Session<'_>) -> Result<Loaded> {
    let mut statement = session.prepare("SELECT name, kind FROM broker_exchanges")?;
    let exchanges = statement
        .query_map((), |row| {
            let stored = row.get_ref(1)?.as_str()?;
            let kind = KINDS.iter().find(|(_, name)| *name == stored);
            let (kind, _) = kind.ok_or(rusqlite::Error::InvalidQuery)?;
            Ok(Exchange {
                name: row.get(0)?,
                kind: *kind,
            })
        })?
        .collect::<rusqlite::Result<_>>()?;
    let mut statement =
        session.prepare("SELECT exchange, queue, routing_key FROM broker_bindings")?;
    let bindings = statement
        .query_map((), |row| {
            Ok(Binding {
                exchange: row.get(0)?,
                queue: row.get(1)?,
                routing_key: row.get(2)?,
            })
        })?
        .collect::<rusqlite::Result<_>>()?;
    session.execute(
        "UPDATE broker_queues SET delivered_up_to = 0 WHERE NOT EXISTS (
             SELECT 1 FROM broker_messages m WHERE m.id BETWEEN (broker_queues.id << ?1)
             AND (broker_queues.id << ?1) + (1 << ?1) - 1)",
        [SEQ_BITS],
    )?;
    Ok(Loaded {
        exchanges,
        queues: load_queues(session)?,
        bindings,
    })
}

fn load_queues(session: &Session<'_>) -> Result<Vec<QueueRow>> {
    let mut statement = session
        .prepare(
        "SELECT id, name, delay_ms, delay_to, delivered_up_to, single_active, expires_after_ms, length_max
         FROM broker_queues",
    )?;
    let mut queues = statement
        .query_map((), |row| {
            let after: Option<i64> = row.get(2)?;
            let to: Option<Arc<str>> = row.get(3)?;
            let expires_after: Option<i64> = row.get(6)?;
            let length_max: Option<i64> = row.get(7)?;
            Ok(QueueRow {
                id: QueueId(row.get(0)?),
                queue: Queue {
                    name: row.get(1)?,
                    delay: after.zip(to).map(|(after, to)| Delay {
                        after: Duration::from_millis(after as u64),
                        to,
                    }),
                    single_active: row.get(5)?,
                    expires_after: expires_after.map(|ms| Duration::from_millis(ms as u64)),
                    length_max: length_max.map(|length| length as u64),
                },
                count: 0,
                tail: 0,
                delivered: row.get::<_, i64>(4)? as u64,
            })
        })?
        .collect::<rusqlite::Result<Vec<_>>>()?;
    let mut count = session.prepare(
        "SELECT COUNT(*), COALESCE(MAX(id), 0) FROM broker_messages WHERE id BETWEEN ?1 AND ?2",
    )?;
    for queue in &mut queues {
        let range = (key(queue.id, 0), key(QueueId(queue.id.0 + 1), 0) - 1);
        (queue.count, queue.tail) = count.query_row(range, |row| {
            Ok((row.get::<_, i64>(0)? as u64, seq_of(row.get(1)?)))
        })?;
    }
    Ok(queues)
}
