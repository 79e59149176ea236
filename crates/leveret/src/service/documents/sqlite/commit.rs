//! What a batch writes, as a part of a job of the file's writer.
//!
//! Whether a commit can be done is settled before it writes anything but its inbox entries, which it takes back if it cannot.

use leveret_core::time::Timestamp;
use rusqlite::params;

use super::super::{
    Commit, DeadlineChange, DocumentsError, Fields, Handled, Key, NewState, Outgoing, Parked, Put,
    lists::{entries, fields_text, parse_fields},
};
use super::outbox::{Left, left};
use crate::{broker::properties, sqlite::Session};

/// What a batch came to.
#[derive(Debug)]
pub(super) struct Ran {
    pub(super) outcomes: Vec<Outcome>,
    /// What others wrote into the outbox before it, as far as memory did not know.
    pub(super) left: Vec<Left>,
}

/// What became of a commit.
#[derive(Debug)]
pub(super) enum Outcome {
    /// It is written; these are the numbers of its messages.
    Done(Vec<u64>),
    Repeated(Vec<Handled>),
    Conflict(Key),
}

/// Runs a batch. `known` is the last message in the outbox that memory knows.
pub(super) fn run(
    session: &Session<'_>,
    batch: &[Commit],
    known: u64,
    now: Timestamp,
) -> Result<Ran, DocumentsError> {
    let outcomes = batch.iter().map(|commit| run_one(session, commit, now));
    let outcomes: Vec<Outcome> = outcomes.collect::<Result<_, _>>()?;
    let first = outcomes.iter().find_map(|outcome| match outcome {
        Outcome::Done(numbers) => numbers.first().copied(),
        _ => None,
    });
    let mut before = Vec::new();
    if let Some(first) = first.filter(|first| *first > known + 1) {
        before = left(session, known)?;
        before.retain(|left| left.number < first);
    }
    Ok(Ran {
        outcomes,
        left: before,
    })
}

fn run_one(
    session: &Session<'_>,
    commit: &Commit,
    now: Timestamp,
) -> Result<Outcome, DocumentsError> {
    let mut repeated = Vec::new();
    for handled in &commit.handled {
        if !insert_handled(session, handled, now)? {
            repeated.push(handled.clone());
        }
    }
    if !repeated.is_empty() {
        take_back(session, commit, &repeated)?;
        return Ok(Outcome::Repeated(repeated));
    }
    let mut found = Vec::with_capacity(commit.put.len());
    for put in &commit.put {
        let stored = stored(session, &put.key)?;
        if stored.as_ref().map_or(0, |stored| stored.version) != put.expected {
            take_back(session, commit, &[])?;
            return Ok(Outcome::Conflict(put.key.clone()));
        }
        found.push(stored);
    }
    for (put, stored) in commit.put.iter().zip(found) {
        write(session, put, stored, now)?;
    }
    for change in &commit.deadlines {
        change_deadline(session, change)?;
    }
    for (key, handled) in &commit.unpark {
        unpark(session, key, handled)?;
    }
    for parked in &commit.park {
        park(session, parked)?;
    }
    let publish = commit.publish.iter();
    let numbers = publish.map(|outgoing| insert_outgoing(session, outgoing, now));
    Ok(Outcome::Done(numbers.collect::<Result<_, _>>()?))
}

/// Whether it is new.
pub(in crate::service) fn insert_handled(
    session: &Session<'_>,
    handled: &Handled,
    now: Timestamp,
) -> Result<bool, DocumentsError> {
    let inserted = session.execute(
        "INSERT INTO inbox (consumer, message_id, handled_at_ms) VALUES (?1, ?2, ?3)
         ON CONFLICT (consumer, message_id) DO NOTHING",
        params![&*handled.consumer, &*handled.message_id, now.0],
    )?;
    Ok(inserted == 1)
}

/// Removes the inbox entries of a commit but those that were there before.
fn take_back(
    session: &Session<'_>,
    commit: &Commit,
    before: &[Handled],
) -> Result<(), DocumentsError> {
    for handled in commit.handled.iter().filter(|one| !before.contains(one)) {
        session.execute(
            "DELETE FROM inbox WHERE consumer = ?1 AND message_id = ?2",
            params![&*handled.consumer, &*handled.message_id],
        )?;
    }
    Ok(())
}

/// Puts a message into the outbox; returns its number.
pub(in crate::service) fn insert_outgoing(
    session: &Session<'_>,
    outgoing: &Outgoing,
    now: Timestamp,
) -> Result<u64, DocumentsError> {
    let publication = &outgoing.publication;
    session.execute(
        "INSERT INTO outgoing (lane, created_at_ms, must_route, copied, exchange, routing_key, properties, body)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
        params![
            &*outgoing.lane,
            now.0,
            outgoing.must_route,
            publication.copied,
            &*publication.exchange,
            &*publication.routing_key,
            properties::to_text(&publication.message),
            &*publication.message.body,
        ],
    )?;
    Ok(session.last_insert_rowid() as u64)
}

/// Removes messages, those with numbers in a row at once.
pub(super) fn forget(session: &Session<'_>, numbers: &[u64]) -> Result<(), DocumentsError> {
    let mut numbers = numbers.to_vec();
    numbers.sort_unstable();
    for row in numbers.chunk_by(|one, next| one + 1 == *next) {
        if let (Some(first), Some(last)) = (row.first(), row.last()) {
            session.execute(
                "DELETE FROM outgoing WHERE number BETWEEN ?1 AND ?2",
                (*first as i64, *last as i64),
            )?;
        }
    }
    Ok(())
}

struct Stored {
    row: i64,
    version: u64,
    created_at: Option<i64>,
    fields: Option<String>,
}

fn stored(session: &Session<'_>, key: &Key) -> Result<Option<Stored>, DocumentsError> {
    session.row(
        "SELECT rowid, version, created_at_ms, fields FROM documents WHERE kind = ?1 AND id = ?2",
        (&*key.kind, &*key.id),
        |row| {
            Ok(Stored {
                row: row.get(0)?,
                version: row.get::<_, i64>(1)? as u64,
                created_at: row.get(2)?,
                fields: row.get(3)?,
            })
        },
    )
}

fn write(
    session: &Session<'_>,
    put: &Put,
    stored: Option<Stored>,
    now: Timestamp,
) -> Result<(), DocumentsError> {
    let version = put.version as i64;
    let (state, fields) = match &put.state {
        NewState::Keep if stored.is_some() => {
            let row = stored.map(|stored| stored.row);
            session.execute(
                "UPDATE documents SET version = ?2 WHERE rowid = ?1",
                (row, version),
            )?;
            return Ok(());
        }
        NewState::Keep | NewState::Remove => (None, None),
        NewState::Set(state, fields) => (Some(state.text()), Some(fields)),
    };
    let before = stored.as_ref().and_then(|stored| stored.created_at);
    let created_at = before.or(state.map(|_| now.0));
    let text = fields.map(fields_text);
    match &stored {
        Some(stored) => session.execute(
            "UPDATE documents SET version = ?2, created_at_ms = ?3, state = ?4, fields = ?5 WHERE rowid = ?1",
            params![stored.row, version, created_at, state, text],
        )?,
        None => session.execute(
            "INSERT INTO documents (kind, id, version, created_at_ms, state, fields) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
            params![&*put.key.kind, &*put.key.id, version, created_at, state, text],
        )?,
    };
    let old = stored.and_then(|stored| stored.fields);
    if let Some(created_at) = created_at.filter(|_| old != text) {
        let old = old.as_deref().map(parse_fields).transpose()?;
        list_anew(session, &put.key, created_at, old.as_ref(), fields)?;
    }
    Ok(())
}

/// Moves a document in the lists from its old fields to its new ones.
fn list_anew(
    session: &Session<'_>,
    key: &Key,
    created_at: i64,
    old: Option<&Fields>,
    new: Option<&Fields>,
) -> Result<(), DocumentsError> {
    for (field, value) in entries(old) {
        if !entries(new).any(|entry| entry == (field, value)) {
            session.execute(
                "DELETE FROM listed WHERE kind = ?1 AND field = ?2 AND value = ?3 AND created_at_ms = ?4 AND id = ?5",
                (&*key.kind, field, value, created_at, &*key.id),
            )?;
        }
    }
    for (field, value) in entries(new) {
        if !entries(old).any(|entry| entry == (field, value)) {
            session.execute(
                "INSERT INTO listed (kind, field, value, created_at_ms, id) VALUES (?1, ?2, ?3, ?4, ?5)",
                (&*key.kind, field, value, created_at, &*key.id),
            )?;
        }
    }
    Ok(())
}

fn change_deadline(session: &Session<'_>, change: &DeadlineChange) -> Result<(), DocumentsError> {
    match change {
        DeadlineChange::Set { key, name, at } => session.execute(
            "INSERT INTO deadlines (kind, id, name, at_ms) VALUES (?1, ?2, ?3, ?4)
             ON CONFLICT (kind, id, name) DO UPDATE SET at_ms = excluded.at_ms",
            (&*key.kind, &*key.id, &**name, at.0),
        )?,
        DeadlineChange::Cancel { key, name } => session.execute(
            "DELETE FROM deadlines WHERE kind = ?1 AND id = ?2 AND name = ?3",
            (&*key.kind, &*key.id, &**name),
        )?,
    };
    Ok(())
}

fn park(session: &Session<'_>, parked: &Parked) -> Result<(), DocumentsError> {
    session.execute(
        "INSERT INTO parked (kind, id, consumer, message_id, position, at_ms, queue, properties, body)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)
         ON CONFLICT (kind, id, consumer, message_id) DO NOTHING",
        params![
            &*parked.key.kind,
            &*parked.key.id,
            &*parked.handled.consumer,
            &*parked.handled.message_id,
            parked.order as i64,
            parked.at.0,
            &*parked.queue,
            properties::to_text(&parked.message),
            &*parked.message.body,
        ],
    )?;
    Ok(())
}

fn unpark(session: &Session<'_>, key: &Key, handled: &Handled) -> Result<(), DocumentsError> {
    session.execute(
        "DELETE FROM parked WHERE kind = ?1 AND id = ?2 AND consumer = ?3 AND message_id = ?4",
        (
            &*key.kind,
            &*key.id,
            &*handled.consumer,
            &*handled.message_id,
        ),
    )?;
    Ok(())
}

/// Removes inbox entries from before that moment, the oldest ones.
pub(super) fn prune(
    session: &Session<'_>,
    before_ms: i64,
    limit: u32,
) -> Result<u64, DocumentsError> {
    let removed = session.execute(
        "DELETE FROM inbox WHERE handled_at_ms < ?1
           AND entry IN (SELECT entry FROM inbox ORDER BY entry LIMIT ?2)",
        (before_ms, limit),
    )?;
    Ok(removed as u64)
}
