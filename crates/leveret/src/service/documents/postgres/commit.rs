//! Commits a batch in one transaction of two round trips.
//!
//! 1. Lock the documents, read their versions; enter the messages into the inbox, which tells those that were there; look whether the lanes
//!    are free. What each commit came to is settled here then.
//! 2. Write what the good ones say, take back the inbox entries of the others, and commit.
//!
//! All transactions touch documents before inbox before lanes, each sorted by key, so that none waits for another in a circle. Two that make the
//! same document meet at its key in the second round trip: the later one is undone and done again, and sees it.

use std::collections::{HashMap, HashSet};

use leveret_core::time::Timestamp;
use tokio_postgres::Row;

use super::{
    error::Failure,
    outbox::{LAST_OF_LANES, Term, occupied},
    write::{Statements, write},
};
use crate::{
    postgres::{Lease, Pool},
    service::documents::{Commit, Committed, Fields, Handled, Key, lists::parse_fields},
};

/// How often a transaction is begun again after another one got in its way.
const CONFLICTS_MAX: u32 = 10;

/// The setting ends with the transaction.
const BEGIN: &str = "BEGIN; SET LOCAL leveret.batch = 'open'";

const LOCK: &str = "
    SELECT d.kind, d.id, d.version, d.created_at_ms, d.fields
    FROM unnest($1::text[], $2::text[]) AS n (kind, id)
    JOIN documents AS d ON d.kind = n.kind AND d.id = n.id
    ORDER BY d.kind, d.id FOR NO KEY UPDATE OF d";

/// Answers with the messages that are new, in one row, or with none if all are. Enters nothing outside of the transaction of [`BEGIN`], which
/// may have failed before it.
const ENTER: &str = "
    WITH entered AS (
        INSERT INTO inbox (consumer, message_id, handled_at_ms)
        SELECT n.consumer, n.message_id, $3 FROM unnest($1::text[], $2::text[]) AS n (consumer, message_id)
        WHERE (SELECT current_setting('leveret.batch', true)) = 'open'
        ON CONFLICT (consumer, message_id) DO NOTHING
        RETURNING consumer, message_id
    )
    SELECT coalesce(array_agg(consumer), '{}'), coalesce(array_agg(message_id), '{}') FROM entered
    HAVING count(*) < cardinality($1)";

/// A document as it is before.
#[derive(Debug)]
pub(super) struct Stored {
    version: u64,
    pub(super) created_at: Option<i64>,
    pub(super) fields: Option<Fields>,
}

/// What the first round trip says.
pub(super) struct Found<'a> {
    pub(super) documents: HashMap<&'a Key, Stored>,
    /// Messages that were handled before.
    pub(super) repeated: HashSet<&'a Handled>,
    /// Lanes that have messages.
    pub(super) occupied: HashSet<String>,
}

/// Answers in the order of the batch.
pub(super) async fn commit(
    pool: &Pool,
    batch: &[Commit],
    now: Timestamp,
    term: Term,
) -> Result<Vec<Committed>, Failure> {
    if batch.is_empty() {
        return Ok(Vec::new());
    }
    let mut conflicts = 0;
    loop {
        let mut lease = pool.lease().await?;
        match commit_once(&mut lease, batch, now, term).await {
            Err(failure) => {
                lease.roll_back().await;
                conflicts += 1;
                if !failure.is_conflict() || conflicts == CONFLICTS_MAX {
                    return Err(failure);
                }
            }
            committed => return committed,
        }
    }
}

async fn commit_once(
    lease: &mut Lease,
    batch: &[Commit],
    now: Timestamp,
    term: Term,
) -> Result<Vec<Committed>, Failure> {
    let statements = Statements::prepare(lease).await?;
    let found = find(lease, batch, now).await?;
    let mut committed: Vec<Option<Committed>> =
        batch.iter().map(|commit| refusal(commit, &found)).collect();
    let claimed = write(lease, &statements, batch, &committed, found, now, term).await?;
    let mut claimed = claimed.into_iter();
    for answer in committed.iter_mut().filter(|answer| answer.is_none()) {
        *answer = claimed.next().map(Committed::Done);
    }
    Ok(committed.into_iter().flatten().collect())
}

/// The first round trip.
async fn find<'a>(
    lease: &mut Lease,
    batch: &'a [Commit],
    now: Timestamp,
) -> Result<Found<'a>, Failure> {
    let mut keys: Vec<&Key> = batch
        .iter()
        .flat_map(|c| &c.put)
        .map(|put| &put.key)
        .collect();
    keys.sort_unstable();
    let mut handled: Vec<&Handled> = batch.iter().flat_map(|commit| &commit.handled).collect();
    handled.sort_unstable_by_key(|handled| (&handled.consumer, &handled.message_id));
    let mut lanes: Vec<&str> = batch
        .iter()
        .flat_map(|commit| &commit.publish)
        .map(|outgoing| &*outgoing.lane)
        .collect();
    lanes.sort_unstable();
    lanes.dedup();
    let (kinds, ids): (Vec<&str>, Vec<&str>) =
        keys.iter().map(|key| (&*key.kind, &*key.id)).unzip();
    let (consumers, messages): (Vec<&str>, Vec<&str>) = handled
        .iter()
        .map(|handled| (&*handled.consumer, &*handled.message_id))
        .unzip();

    let (lock, enter) = (lease.statement(LOCK).await?, lease.statement(ENTER).await?);
    let last = lease.statement(LAST_OF_LANES).await?;
    lease.set_in_transaction(true);
    let client = lease.client();
    // Sent at once, in this order, and executed one after the other.
    let ((), documents, entered, lanes) = tokio::try_join!(
        biased;
        client.batch_execute(BEGIN),
        async {
            if kinds.is_empty() { Ok(Vec::new()) } else { client.query(&lock, &[&kinds, &ids]).await }
        },
        async {
            if handled.is_empty() {
                Ok(Vec::new())
            } else {
                client.query(&enter, &[&consumers, &messages, &now.0]).await
            }
        },
        async {
            if lanes.is_empty() { Ok(Vec::new()) } else { client.query(&last, &[&lanes]).await }
        },
    )?;
    Ok(Found {
        documents: stored(&keys, &documents)?,
        repeated: repeated(handled, &entered)?,
        occupied: occupied(&lanes)?,
    })
}

fn stored<'a>(keys: &[&'a Key], rows: &[Row]) -> Result<HashMap<&'a Key, Stored>, Failure> {
    let mut stored = HashMap::with_capacity(rows.len());
    for row in rows {
        let (kind, id): (&str, &str) = (row.try_get(0)?, row.try_get(1)?);
        let at = keys.binary_search_by(|key| (&*key.kind, &*key.id).cmp(&(kind, id)));
        let key = keys[at.map_err(|_| Failure::corrupt("key", &"nobody asked for it"))?];
        let fields: Option<&str> = row.try_get(4)?;
        let found = Stored {
            version: row.try_get::<_, i64>(2)? as u64,
            created_at: row.try_get(3)?,
            fields: fields.map(parse_fields).transpose()?,
        };
        stored.insert(key, found);
    }
    Ok(stored)
}

fn repeated<'a>(handled: Vec<&'a Handled>, rows: &[Row]) -> Result<HashSet<&'a Handled>, Failure> {
    let Some(row) = rows.first() else {
        return Ok(HashSet::new());
    };
    let (consumers, messages): (Vec<&str>, Vec<&str>) = (row.try_get(0)?, row.try_get(1)?);
    let new: HashSet<(&str, &str)> = consumers.into_iter().zip(messages).collect();
    let is_new = |one: &Handled| new.contains(&(&*one.consumer, &*one.message_id));
    Ok(handled.into_iter().filter(|one| !is_new(one)).collect())
}

/// Why a commit cannot be done, if so.
fn refusal(commit: &Commit, found: &Found<'_>) -> Option<Committed> {
    let repeated = commit.handled.iter();
    let repeated: Vec<Handled> = repeated
        .filter(|handled| found.repeated.contains(handled))
        .cloned()
        .collect();
    if !repeated.is_empty() {
        return Some(Committed::Repeated(repeated));
    }
    let stored = |key| found.documents.get(key).map_or(0, |stored| stored.version);
    let mut put = commit.put.iter();
    let other = put.find(|put| stored(&put.key) != put.expected);
    other.map(|put| Committed::Conflict(put.key.clone()))
}
